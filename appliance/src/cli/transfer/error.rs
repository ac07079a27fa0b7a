//! Why a transfer of a volume's contents failed.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cli::cells::size;
use crate::cli::output::one_line;
use crate::increment::IncrementError;
use crate::nvmf::host::HostError;

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransferError {
    /// The file cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What the command tried to do.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file with an increment cannot be read or written.
    #[error("{}: {source}", path.display())]
    Increment {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: IncrementError,
    },
    /// There is nothing to import.
    #[error("{} is empty; name a file or block device with contents", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It is neither a file nor a block device.
    #[error("{} is neither a file nor a block device; name one of these", path.display())]
    NoFile {
        /// What was named.
        path: PathBuf,
    },
    /// The volume is too small.
    #[error(
        "{} has {} and volume '{volume}' only {}; make it larger first (varve volume resize {volume} {file_bytes}), or name another volume",
        path.display(), size(*file_bytes), size(*volume_bytes)
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        file_bytes: u64,
        /// The volume.
        volume: String,
        /// Its size.
        volume_bytes: u64,
    },
    /// The volume takes no writes.
    #[error("volume '{volume}' is read-only; name another volume")]
    ReadOnly {
        /// The volume.
        volume: String,
    },
    /// Hosts use the volume.
    #[error(
        "volume '{volume}' is in use by {hosts}; disconnect them first (nvme disconnect), or write to it anyway with --force"
    )]
    InUse {
        /// The volume.
        volume: String,
        /// Who.
        hosts: String,
    },
    /// The file to be made exists.
    #[error("{} exists; name another file, or replace it with --force", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Hosts cannot connect.
    #[error(
        "the appliance listens nowhere, so hosts cannot connect; add a listener first (varve nvmf subsystem-add-listener 127.0.0.1:4420)"
    )]
    NoListener,
    /// The connection failed.
    #[error(
        "cannot connect to volume '{volume}' at {address}: {}; is a firewall in the way?",
        one_line(source)
    )]
    Connect {
        /// The volume.
        volume: String,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: HostError,
    },
    /// The connection was lost.
    #[error(
        "the connection to the appliance was lost: {}; look whether it runs (varve pool list), and run this again",
        one_line(.0)
    )]
    Lost(#[from] HostError),
    /// A command failed.
    #[error(
        "the appliance could not {action} byte {offset_bytes} of the volume: {status}; `varve pool list` and `varve volume list` say what is wrong"
    )]
    Failed {
        /// `read`, `write`, `clear`.
        action: &'static str,
        /// Where.
        offset_bytes: u64,
        /// Its status.
        status: String,
    },
    /// No command completes any more.
    #[error(
        "nothing was completed for {} s; `varve pool list` and `varve archive status` say what the appliance waits for",
        seconds
    )]
    Stalled {
        /// For how long.
        seconds: u64,
    },
    /// A signal.
    #[error("stopped by a signal")]
    Stopped,
}
