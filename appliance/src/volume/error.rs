//! The errors of the management plane's operations.

use crate::log::reader::ReadError;
use crate::log::{AppendError, LogError};

/// Why a management operation failed. Each message names the object and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No volume has that name.
    #[error("there is no volume '{name}'; `varve volume list` shows what there is")]
    NoSuchVolume {
        /// The name.
        name: String,
    },
    /// The name is taken.
    #[error("a volume '{name}' exists already; choose another name")]
    VolumeExists {
        /// The name.
        name: String,
    },
    /// No group has that name.
    #[error("there is no group '{name}'; `varve group list` shows what there is")]
    NoSuchGroup {
        /// The name.
        name: String,
    },
    /// The name is a group's.
    #[error("a group '{name}' exists already; choose another name")]
    GroupExists {
        /// The name.
        name: String,
    },
    /// The point does not exist.
    #[error("there is no point '{point}': {reason}")]
    NoSuchPoint {
        /// The requested point.
        point: String,
        /// Why not, and what exists instead.
        reason: String,
    },
    /// A value is not allowed.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// Which value.
        what: &'static str,
        /// Why not, and what is allowed.
        reason: String,
    },
    /// The pool has no room.
    #[error("the pool has no room: {reason}")]
    NoSpace {
        /// What is used up.
        reason: String,
    },
    /// The operation cannot be done now.
    #[error("busy: {reason}")]
    Busy {
        /// The obstacle.
        reason: String,
    },
    /// Hosts are connected to a volume that is to be changed or deleted.
    #[error(
        "the volume '{name}' is in use by {}; disconnect them first (`nvme disconnect`), or {what} anyway with --force (\"force\": true)",
        in_words(hosts)
    )]
    InUse {
        /// The volume.
        name: String,
        /// The names of the hosts.
        hosts: Vec<String>,
        /// What was asked for, like `delete it`.
        what: &'static str,
    },
    /// The archive did not return the needed data.
    #[error("the archive failed: {reason}")]
    Archive {
        /// The store's message.
        reason: String,
    },
    /// The archive does not answer now; it may later.
    #[error("the archive does not answer: {reason}; try again when it does")]
    ArchiveAway {
        /// The store's message.
        reason: String,
    },
    /// The pool or its device failed.
    #[error("the pool failed: {reason}")]
    Failed {
        /// The failure.
        reason: String,
    },
}

fn in_words(hosts: &[String]) -> String {
    let names: Vec<&str> = hosts
        .iter()
        .map(|host| if host.is_empty() { "a host without a name" } else { host.as_str() })
        .collect();
    names.join(", ")
}

impl From<AppendError> for VolumeError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Busy => VolumeError::Busy { reason: error.to_string() },
            AppendError::Full { .. } | AppendError::EventTooLong { .. } => {
                VolumeError::NoSpace { reason: error.to_string() }
            }
            AppendError::Poisoned { .. } => VolumeError::Failed { reason: error.to_string() },
        }
    }
}

impl From<LogError> for VolumeError {
    fn from(error: LogError) -> Self {
        VolumeError::Failed { reason: error.to_string() }
    }
}

impl From<ReadError> for VolumeError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Memory(_) => VolumeError::Busy { reason: error.to_string() },
            _ => VolumeError::Failed { reason: error.to_string() },
        }
    }
}
