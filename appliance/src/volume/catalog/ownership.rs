//! What a pool's own log says of its claim on its archive.
//!
//! Invariant: the generation in force in the archive names `claim` or `next_claim`, unless somebody
//! else has taken the archive over. `next_claim` is stable before a generation with it is made.
//! See [`archive::owner`](crate::archive::owner) for the order of a start.

use serde::{Deserialize, Serialize};

use crate::archive::object::ClaimId;
use crate::archive::owner::HistoryId;
use crate::log::Lsn;

/// A pool's claim, as its catalog has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ownership {
    /// The history that the log is; `None` before the first claim.
    pub history: Option<HistoryId>,
    /// The claim that it has.
    pub claim: ClaimId,
    /// The claim that it was about to take.
    pub next_claim: ClaimId,
    /// The pool is a rehearsal of a recovery: it owns no archive, and what it reads from one ends
    /// here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal_lsn: Option<Lsn>,
}

impl Ownership {
    /// With a claim that is taken.
    pub fn of(history: HistoryId, claim: ClaimId) -> Self {
        Ownership { history: Some(history), claim, ..Ownership::default() }
    }

    /// Whether a claim is one that the pool has, or may have.
    pub fn has(&self, claim: ClaimId) -> bool {
        claim != ClaimId::NONE && (claim == self.claim || claim == self.next_claim)
    }
}
