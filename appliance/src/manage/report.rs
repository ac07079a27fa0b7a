//! The answers of calls about the archive.

use serde::{Deserialize, Serialize};

use super::scrub_progress::ScrubStatus;
use crate::archive::retention::Explanation;
use crate::log::reader::LsnRange;
use crate::volume::{ArchiveStatus, ResolvedPoint};

/// The answer of `archive_get_status`: the pool's status, and the space in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArchiveReport {
    /// The pool's status.
    #[serde(flatten)]
    pub status: ArchiveStatus,
    /// Bytes in use in the store, if it can report them.
    pub store_used_bytes: Option<u64>,
    /// Total bytes of the store, if it knows them.
    pub store_total_bytes: Option<u64>,
    /// Ranges of the log that should be in the store but are not.
    #[serde(default)]
    pub lost: Vec<LsnRange>,
    /// Ranges whose entries could not be read when they were archived: older data there is not
    /// certain.
    #[serde(default)]
    pub holes: Vec<LsnRange>,
    /// The progress of the scrub.
    #[serde(default)]
    pub scrub: ScrubStatus,
    /// Why nothing expires although the retention rules may release something.
    #[serde(default)]
    pub expiry_held: Option<String>,
}

/// The answer of `archive_seal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Everything before this position is in the archive, or will be.
    pub lsn: u64,
    /// Whether it is in the archive already.
    pub done: bool,
}

/// The answer of `archive_explain`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explained {
    /// The point.
    pub point: ResolvedPoint,
    /// Its explanation.
    pub explanation: Explanation,
}
