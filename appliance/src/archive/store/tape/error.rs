//! What failures of the drive and of writes are for the store's caller.

use super::super::error::Reason;
use super::super::{StoreError, StoreErrorKind};
use super::drive::DriveError;

/// Why a write failed: the drive failed, or no cartridge is left.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error(transparent)]
    Drive(#[from] DriveError),
    #[error("no cartridge has room")]
    NoCartridge,
    #[error("cartridge {0} is damaged, and no other has room")]
    Damaged(String),
}

impl FileError {
    /// The kind for the store's caller; `None` for errors of the operating system.
    pub(super) fn kind(&self) -> Option<StoreErrorKind> {
        match self {
            FileError::NoCartridge => Some(StoreErrorKind::NoSpace),
            FileError::Damaged(_) => Some(StoreErrorKind::Refused(
                "it is damaged, so that nothing is written to it any more, and no other cartridge has room: put a blank one in",
            )),
            FileError::Drive(error) => drive_kind(error),
        }
    }
}

/// The kind of a drive's error for the store's caller; `None` for an error of the operating system.
fn drive_kind(error: &DriveError) -> Option<StoreErrorKind> {
    Some(match error {
        DriveError::EndOfMedium => StoreErrorKind::NoSpace,
        DriveError::BlockTooLarge(_) => StoreErrorKind::Corrupt("a block is larger than any drive writes"),
        DriveError::Medium(_) => StoreErrorKind::Corrupt("the tape cannot be read there"),
        DriveError::NoSuchPosition(_) => StoreErrorKind::Corrupt("the tape ends before the object"),
        DriveError::NoSuchCartridge => StoreErrorKind::Unavailable(Reason::Away),
        DriveError::Changed => StoreErrorKind::Unavailable(Reason::Busy(
            "the cartridge is not as it was left: nothing is written to it any more",
        )),
        DriveError::Protected(_) => {
            StoreErrorKind::Refused("what stands on the cartridge must not be overwritten")
        }
        DriveError::Io(_) => return None,
    })
}

/// A drive's error as the store's.
pub(super) fn drive_error(label: &str, operation: &'static str, error: &DriveError) -> StoreError {
    match (drive_kind(error), error) {
        (Some(kind), _) => StoreError::new(label, operation, kind),
        (None, DriveError::Io(error)) => StoreError::io(label, operation, error),
        (None, _) => StoreError::new(label, operation, StoreErrorKind::Unsupported("unknown failure")),
    }
}

/// A failed write as the store's error.
pub(super) fn file_error(label: &str, operation: &'static str, error: &FileError) -> StoreError {
    match (error.kind(), error) {
        (Some(kind), FileError::Damaged(barcode)) => {
            StoreError::new(&format!("{label}, cartridge {barcode}"), operation, kind)
        }
        (Some(kind), _) => StoreError::new(label, operation, kind),
        (None, FileError::Drive(error)) => drive_error(label, operation, error),
        (None, _) => StoreError::new(label, operation, StoreErrorKind::NoSpace),
    }
}
