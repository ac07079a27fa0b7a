//! Why the store of an archive cannot be used, and whether the cause may pass by itself.

use std::path::PathBuf;

use crate::archive::store::tape::DriveError;
use crate::archive::store::{Reason, StoreError, StoreErrorKind};

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreOpenError {
    /// The store's own reason.
    #[error("the archive cannot be opened: {0}")]
    Store(#[from] StoreError),
    /// The operating system's refusal.
    #[error("the archive cannot be opened: {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The drive's refusal.
    #[error("the archive cannot be opened: tapes {}: {source}", path.display())]
    Drive {
        /// The library.
        path: PathBuf,
        /// Why not.
        source: DriveError,
    },
    /// The file does not exist, and there is no size to create it with.
    #[error("the archive cannot be opened: {} does not exist; add ,size=SIZE to make it", path.display())]
    NoSuchDevice {
        /// The file.
        path: PathBuf,
    },
    /// The device has other contents.
    #[error("the archive cannot be opened: {} holds something that is no varve archive; it was not touched", path.display())]
    Foreign {
        /// The device.
        path: PathBuf,
    },
    /// The cartridges belong to several stores.
    #[error("the archive cannot be opened: the cartridges in {} belong to {stores} different archives; keep those of one in a directory", path.display())]
    Mixed {
        /// The library.
        path: PathBuf,
        /// How many.
        stores: usize,
    },
    /// The store does not do what it must.
    #[error("the archive cannot be used: {store} failed the probe: {what}")]
    Probe {
        /// The store's label.
        store: String,
        /// What went wrong.
        what: String,
        /// Why a call failed, if one did.
        error: Option<Box<StoreError>>,
    },
}

impl StoreOpenError {
    /// Whether the store may become usable without anybody changing it or the settings.
    pub(in crate::serve) fn may_pass(&self) -> bool {
        match self {
            StoreOpenError::Store(error) => is_away(error),
            StoreOpenError::Probe { error: Some(error), .. } => is_away(error),
            StoreOpenError::Io { source, .. } => source.raw_os_error().is_some_and(is_passing),
            _ => false,
        }
    }
}

/// Whether a store fails because it is away, and not because of its contents or its owner.
pub(in crate::serve) fn is_away(error: &StoreError) -> bool {
    match error.kind {
        StoreErrorKind::Unavailable(Reason::Os(errno)) => is_passing(errno),
        // Another process has it open.
        StoreErrorKind::Unavailable(Reason::Busy(_)) => false,
        _ => error.is_retryable(),
    }
}

/// Whether the operating system's refusal may pass by itself.
fn is_passing(errno: i32) -> bool {
    use rustix::io::Errno;
    let lasting = [
        Errno::ACCESS,
        Errno::PERM,
        Errno::NOTDIR,
        Errno::ISDIR,
        Errno::LOOP,
        Errno::NAMETOOLONG,
        Errno::INVAL,
        Errno::OPNOTSUPP,
        Errno::WOULDBLOCK,
    ];
    !lasting.iter().any(|lasting| lasting.raw_os_error() == errno)
}
