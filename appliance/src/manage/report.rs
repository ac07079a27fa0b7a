//! What calls about the archive answer.

use serde::{Deserialize, Serialize};

use super::scrub_progress::ScrubStatus;
use crate::archive::retention::Explanation;
use crate::log::reader::LsnRange;
use crate::volume::{ArchiveStatus, ResolvedPoint};

/// What `archive_get_status` answers: what the pool says, and the room in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArchiveReport {
    /// What the pool says.
    #[serde(flatten)]
    pub status: ArchiveStatus,
    /// Bytes in use in the store, if it can be asked.
    pub store_used_bytes: Option<u64>,
    /// Bytes of the store in all, if it knows.
    pub store_total_bytes: Option<u64>,
    /// Stretches of the log that should be in the store and are not.
    #[serde(default)]
    pub lost: Vec<LsnRange>,
    /// Stretches whose entries could not be read when they were archived: what is older there is not certain.
    #[serde(default)]
    pub holes: Vec<LsnRange>,
    /// How reading the archive back stands.
    #[serde(default)]
    pub scrub: ScrubStatus,
    /// Why nothing expires, although the rules of retention may let something go.
    #[serde(default)]
    pub expiry_held: Option<String>,
}

/// What `archive_seal` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Everything before this position is in the archive, or will be.
    pub lsn: u64,
    /// Whether it is there already.
    pub done: bool,
}

/// What `archive_explain` answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explained {
    /// The point.
    pub point: ResolvedPoint,
    /// What is to say about it.
    pub explanation: Explanation,
}
