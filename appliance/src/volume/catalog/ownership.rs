//! The pool's claim on its archive, as its own log records it.
//!
//! Invariant: the generation in force in the archive names `claim` or `next_claim`, unless another
//! instance has taken over the archive. `next_claim` is stable before a generation with it is made.
//! See [`archive::owner`](crate::archive::owner) for the order of a start.

use serde::{Deserialize, Serialize};

use crate::archive::object::ClaimId;
use crate::archive::owner::HistoryId;
use crate::log::Lsn;

/// A pool's claim, as its catalog stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ownership {
    /// The history of this log; `None` before the first claim.
    pub history: Option<HistoryId>,
    /// The claim that the pool has.
    pub claim: ClaimId,
    /// The claim that the pool was about to take.
    pub next_claim: ClaimId,
    /// The pool is a rehearsal of a recovery: it owns no archive, and what it reads from one ends
    /// here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal_lsn: Option<Lsn>,
}

impl Ownership {
    /// An ownership with a claim that is taken.
    pub fn of(history: HistoryId, claim: ClaimId) -> Self {
        Ownership { history: Some(history), claim, ..Ownership::default() }
    }

    /// Whether the pool has, or may have, this claim.
    pub fn has(&self, claim: ClaimId) -> bool {
        claim != ClaimId::NONE && (claim == self.claim || claim == self.next_claim)
    }
}
