//! Why a job on the archive failed.

use crate::reactor::CallError;
use crate::volume::VolumeError;

/// Why a job on the archive failed.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    /// The state of the appliance does not allow it.
    #[error("{reason}")]
    NotReady {
        /// Why, and what the operator can do.
        reason: &'static str,
    },
    /// The pool, its archive or the store refused or failed.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// No verification of this number is remembered.
    #[error("there is no verification '{id}'")]
    NoSuchVerification {
        /// The number.
        id: u64,
    },
    /// The operating system cannot start a thread.
    #[error("no thread: {0}")]
    Thread(std::io::Error),
    /// The reactor that owns the pool did not accept or did not answer a call.
    #[error("{job}: {source}")]
    NoAnswer {
        /// The purpose of the call.
        job: &'static str,
        /// Why not.
        source: CallError,
    },
}

/// Converts an error of the catalog or of the store.
pub(super) fn failed(error: impl std::fmt::Display) -> ManageError {
    VolumeError::Archive { reason: error.to_string() }.into()
}
