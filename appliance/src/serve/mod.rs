//! The assembled appliance: one pool, its reactor, the NVMe/TCP target and the command plane. This
//! is the only place that knows all layers.
//!
//! [`Appliance::start`] opens or creates the pool and serves it; it returns when hosts can connect,
//! or with the reason why not. Each turn of the reactor polls, in this order: the target's input,
//! the pool, the target's output. So a single write goes from socket to log to answer in one turn.
//!
//! Start order, so that a failure harms nothing: the listen addresses and the socket of the command
//! plane are tried, the device is locked, the socket is bound, the archive's store is opened and
//! probed, and only then is a pool created or opened. Clients of the command plane wait until then.

mod abort;
mod addresses;
mod appliance;
mod attach;
mod begin;
mod claim;
mod command;
mod heap;
mod identity;
mod identity_note;
mod inherit;
mod new_pool;
mod notify;
mod owner;
mod progress;
mod reactors;
mod record;
mod recover;
mod scrub;
mod signals;
mod store;
mod thread;
mod view;
mod watchdog;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::options::{AHEAD_MEMORY_BYTES, DMA_BUDGET_BYTES, HOST_MEMORY_BYTES, HOST_MEMORY_BYTES_MIN};
pub use appliance::Appliance;
pub use attach::{ARCHIVE_DIRECTORY_NAME, ArchiveConfig, ArchiveStarted, CATALOG_FILE_NAME, KEEP_FILE_NAME};
pub use command::serve;
pub use owner::OwnerError;
pub use recover::{RecoverError, recover};
pub use store::{OpenedStore, SpecError, StoreOpenError, StoreSpec, TapeSpec, open_store, pools_in};

use crate::archive::catalog::CatalogError;
use crate::archive::service::StartError;
use crate::bdev::{Engine, OpenError};
use crate::log::geometry::{SEGMENT_BLOCKS_DEFAULT, SEGMENT_BLOCKS_MIN};
use crate::log::time::ClockBounds;
use crate::manage::KeepFileError;
use crate::nvmf::server::{ListenError, TargetConfig};
use crate::reactor::{CoresError, ReactorConfig};
use crate::rpc::SocketError;
use crate::text::units::SizeBytes;
use crate::volume::{PoolInfo, VolumeError, VolumeInfo};

/// Size of the volume that a new pool begins with, in bytes.
pub const FIRST_VOLUME_BYTES: u64 = 1 << 30;
/// Its name.
pub const FIRST_VOLUME_NAME: &str = "vol0";
/// The default size of a new pool, as a multiple of the first volume's size.
pub const POOL_PER_VOLUME: u64 = 4;
/// The name of the pool's file in its directory.
pub const POOL_FILE_NAME: &str = "pool.varve";

/// Where a pool's log is stored.
#[derive(Debug, Clone)]
pub enum Backing {
    /// A file or block device.
    File {
        /// Its path.
        path: PathBuf,
        /// Size of a new file, in bytes, a multiple of 4096.
        create_bytes: u64,
        /// The I/O engine.
        engine: Engine,
    },
    /// Memory: nothing persists. For trials and measurements.
    Memory {
        /// Its size in bytes, a multiple of 4096.
        len_bytes: u64,
    },
}

/// What to serve and how.
#[derive(Debug, Clone)]
pub struct ApplianceConfig {
    /// Where the log is stored.
    pub backing: Backing,
    /// Size of a segment of a new pool in blocks; `None`: derived from the size of the device.
    pub segment_blocks: Option<u64>,
    /// Size in bytes of the volume `vol0` of a new pool; `None`: the pool starts without a volume.
    pub first_volume_bytes: Option<u64>,
    /// Whether that volume uses capacity only as it is written.
    pub first_volume_thin: bool,
    /// Spare blocks for each hundred live ones of a new pool; `None`: the default.
    pub overprovisioning_percent: Option<u64>,
    /// How many blocks to read ahead of hosts that read in order; 0: none; `None`: the default,
    /// which is 0 in memory.
    pub read_ahead_blocks: Option<u64>,
    /// The archive; `None`: the past is kept only as far as the primary device reaches. Only for
    /// [`Backing::File`].
    pub archive: Option<ArchiveConfig>,
    /// The addresses that hosts connect to.
    pub listen: Vec<SocketAddr>,
    /// The directory of the pool's files, made if it is missing; `None`: whatever is named here
    /// has its directory already.
    pub directory: Option<PathBuf>,
    /// The socket of the command plane; `None`: there is none.
    pub rpc_socket: Option<PathBuf>,
    /// How the reactor that owns the pool runs.
    pub reactor: ReactorConfig,
    /// The cores of further reactors, which have no work yet.
    pub idle_cores: Vec<usize>,
    /// How the target behaves.
    pub target: TargetConfig,
    /// How far the machine's clock is trusted.
    pub clock_bounds: ClockBounds,
    /// The time in which the archive and the primary device are read back once; zero: never.
    pub scrub_pass: Duration,
    /// Bound of DMA memory of the pool itself, in bytes.
    pub dma_budget_bytes: usize,
    /// Bound of DMA memory for data of hosts, in bytes.
    pub host_memory_bytes: usize,
    /// Whether the file system allocates the blocks of a new pool's file at once; otherwise the
    /// file is sparse.
    pub allocate: bool,
    /// Begins a new pool even if something shows that there was one. Existing contents are never
    /// overwritten.
    pub new_pool: bool,
    /// Uses the archive at the given place even if the pool had another archive.
    pub new_archive: bool,
    /// For [`Backing::Memory`]: allocates all of its memory at the start instead of as it is
    /// written.
    pub memory_resident: bool,
}

impl ApplianceConfig {
    /// A pool on `backing`, reachable at `listen`, with defaults for everything else.
    pub fn new(backing: Backing, listen: SocketAddr) -> Self {
        ApplianceConfig {
            backing,
            segment_blocks: None,
            first_volume_bytes: Some(FIRST_VOLUME_BYTES),
            first_volume_thin: false,
            overprovisioning_percent: None,
            read_ahead_blocks: None,
            archive: None,
            listen: vec![listen],
            directory: None,
            rpc_socket: None,
            reactor: ReactorConfig::default(),
            idle_cores: Vec::new(),
            target: TargetConfig::default(),
            clock_bounds: ClockBounds::default(),
            scrub_pass: Duration::ZERO,
            dma_budget_bytes: DMA_BUDGET_BYTES,
            host_memory_bytes: HOST_MEMORY_BYTES,
            allocate: false,
            new_pool: false,
            new_archive: false,
            memory_resident: false,
        }
    }
}

/// Why an appliance did not start or did not stop well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error("{0}; use --listen ADDRESS:PORT")]
    Listen(#[from] ListenError),
    /// An address cannot be listened on; found before anything was opened.
    #[error("cannot listen on {address}: {source}; {}", listen_advice(source))]
    Address {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A core cannot be used; found before anything was opened.
    #[error("{option}: {source}")]
    Core {
        /// The option that names it.
        option: &'static str,
        /// Which core, and which cores are available.
        source: CoresError,
    },
    /// The device cannot be opened.
    #[error("{0}")]
    Device(#[from] OpenError),
    /// There is no room for the pool's file.
    #[error(
        "{} needs {needed_bytes} bytes for a new pool and its file system has {free_bytes} free; use a smaller --pool-size, or another --dir",
        path.display()
    )]
    TooLittleSpace {
        /// The file.
        path: PathBuf,
        /// Its size.
        needed_bytes: u64,
        /// What is free.
        free_bytes: u64,
    },
    /// A new pool would be too small to work.
    #[error("a pool of {pool_bytes} bytes is too small; it needs at least {needed_bytes} (--pool-size)")]
    PoolTooSmall {
        /// What was asked for.
        pool_bytes: u64,
        /// The least.
        needed_bytes: u64,
    },
    /// A pool was here, and its file is gone or blank.
    #[error(
        "{} {state}, but {evidence}: nothing new was begun. Ways out: put the file back (is its file system mounted?); `varve pool recover --from ARCHIVE --dir {}` makes it again from the archive{}; --new-pool begins an empty pool under the old name",
        path.display(),
        path.parent().unwrap_or(std::path::Path::new(".")).display(),
        if *.is_file { ", after the file was moved away" } else { "" }
    )]
    PoolGone {
        /// Where it was.
        path: PathBuf,
        /// `does not exist`, `is empty`, `is blank`.
        state: &'static str,
        /// Whether a file is there.
        is_file: bool,
        /// The evidence for the pool.
        evidence: String,
    },
    /// The file holds something that cannot be opened as a pool.
    #[error(
        "{}: {source}{} Ways out: put a good copy of the file back; or move it away and make the pool again from its archive (`varve pool recover --from ARCHIVE --dir {}`); or move it away and begin an empty pool with --new-pool",
        path.display(),
        nothing_was_changed(source),
        path.parent().unwrap_or(std::path::Path::new(".")).display()
    )]
    PoolUnreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: VolumeError,
    },
    /// The volume that a new pool begins with cannot be made.
    #[error(
        "the new pool of {} does not hold its first volume, {FIRST_VOLUME_NAME} of {}: {source}. {left}. Use a larger --pool-size or a smaller --volume-size; or --thin, which sets no room aside",
        SizeBytes(*pool_bytes), SizeBytes(*volume_bytes)
    )]
    FirstVolume {
        /// The size of the pool's device.
        pool_bytes: u64,
        /// The size of the volume.
        volume_bytes: u64,
        /// Why not.
        source: VolumeError,
        /// What remains of the pool that was begun.
        left: String,
    },
    /// The identity of a pool cannot be read or written.
    #[error("cannot read or write {}, which says which pool is here: {source}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The archive is not where it was.
    #[error(
        "the pool's archive is not in {place}: {what}. Nothing new was begun. Ways out: mount or bring back what belongs there; --archive PLACE where it is now; --new-archive goes on with what is there (what only the old archive holds is gone from history then); --no-archive serves without"
    )]
    ArchiveGone {
        /// Where it was looked for.
        place: String,
        /// What is there instead.
        what: String,
    },
    /// The pool may not use the archive.
    #[error("{0}")]
    Owner(Box<OwnerError>),
    /// A text is not the place of an archive.
    #[error("{0}")]
    Spec(#[from] SpecError),
    /// The archive cannot be opened or used.
    #[error("{0}; another place is --archive, none is --no-archive")]
    Archive(#[from] StoreOpenError),
    /// The contents of the archive cannot be determined.
    #[error("{0}")]
    Catalog(#[from] CatalogError),
    /// The retention rules cannot be read.
    #[error("{0}")]
    Keep(#[from] KeepFileError),
    /// The archivist cannot start.
    #[error("{0}; look at the limits of this machine and user (ulimit -a)")]
    Archivist(#[from] StartError),
    /// The memory for a pool cannot be allocated.
    #[error("{0}")]
    Memory(#[from] crate::bdev::memory::MemoryError),
    /// The pool cannot be created, opened or closed.
    #[error("{0}")]
    Pool(#[from] VolumeError),
    /// The command plane cannot be served.
    #[error("{0}")]
    Rpc(#[from] SocketError),
    /// A file beside the pool cannot be written.
    #[error("cannot write {}: {source}; make room or change its permissions, and run this again", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A directory cannot be made.
    #[error("cannot make the directory {}: {source}; name another with --dir", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The configuration file cannot be applied.
    #[error("{0}")]
    Config(#[from] crate::rpc::config::ConfigFileError),
    /// The system provides no threads or descriptors.
    #[error("the reactor does not start: {0}; look at the limits of this machine and user (ulimit -a)")]
    Reactor(std::io::Error),
    /// The reactor ended without an error, which is a bug.
    #[error(
        "the reactor's thread ended unexpectedly; the lines above say more. Start it again, and report this"
    )]
    ThreadEnded,
}

/// What to do when an address cannot be listened on.
fn listen_advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another program listens there (`ss -tlnp` lists them): stop it, or choose another address with --listen ADDRESS:PORT"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has that address (`ip address` lists them): choose one that is there, with --listen ADDRESS:PORT"
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 are for root: choose a higher one with --listen ADDRESS:PORT"
        }
        _ => "choose another address with --listen ADDRESS:PORT",
    }
}

/// States that nothing was changed, unless the reason already says so.
fn nothing_was_changed(source: &VolumeError) -> &'static str {
    if source.to_string().to_lowercase().contains("nothing was changed") {
        "."
    } else {
        ". Nothing was changed."
    }
}

/// What a started appliance reports.
#[derive(Debug, Clone)]
pub struct Started {
    /// The addresses that hosts connect to, with the ports that were bound.
    pub listen: Vec<SocketAddr>,
    /// The pool.
    pub pool: PoolInfo,
    /// The volumes.
    pub volumes: Vec<VolumeInfo>,
    /// Whether the pool is new.
    pub is_new: bool,
    /// The archive, if there is one.
    pub archive: Option<ArchiveStarted>,
}

/// The segment size for a device: 64 MiB, or less on a small device, so that it has about 64
/// segments.
pub fn segment_blocks_for(device_blocks: u64) -> u64 {
    let sixty_fourth = (device_blocks / 64).max(1);
    let power = 1 << sixty_fourth.ilog2();
    power.clamp(SEGMENT_BLOCKS_MIN, SEGMENT_BLOCKS_DEFAULT)
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn an_address_that_cannot_be_used_has_advice_that_fits() {
        let address = SocketAddr::from(([192, 0, 2, 1], 4420));
        for (kind, words) in [
            (ErrorKind::AddrInUse, "another program listens there"),
            (ErrorKind::AddrNotAvailable, "no interface of this machine"),
            (ErrorKind::PermissionDenied, "for root"),
            (ErrorKind::Other, "another address"),
        ] {
            let text = ServeError::Address { address, source: Error::from(kind) }.to_string();
            assert!(text.contains(words) && text.contains("--listen"), "{text}");
            assert_eq!(text.contains("stop it"), kind == ErrorKind::AddrInUse, "{text}");
        }
    }

    #[test]
    fn that_nothing_was_changed_is_said_once() {
        for reason in ["p has shrunk; nothing was changed", "p is torn"] {
            let source = VolumeError::Failed { reason: reason.to_owned() };
            let text = ServeError::PoolUnreadable { path: "p".into(), source }.to_string();
            assert_eq!(text.to_lowercase().matches("nothing was changed").count(), 1, "{text}");
            assert!(text.contains(". Ways out"), "{text}");
        }
    }
}
