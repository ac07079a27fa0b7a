//! What a pool's own log says of its claim on its archive.
//!
//! Invariant: the generation in force in the archive names `claim` or `next_claim`, unless somebody
//! else has taken the archive over. `next_claim` is stable before a generation with it is made.
//! See [`archive::owner`](crate::archive::owner) for the order of a start.

use serde::{Deserialize, Serialize};

use super::error::VolumeError;
use super::pool::{Pool, State};
use crate::archive::object::ClaimId;
use crate::archive::owner::HistoryId;
use crate::log::{Log, Lsn};

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

impl State {
    /// As [`Pool::take_no_more_writes`].
    pub(super) fn take_no_more_writes(&mut self, log: &mut Log, reason: String) {
        if log.poisoned().is_none() {
            log.poison(&reason);
            self.note_problem(reason);
        }
    }
}

impl Pool {
    /// What the log says of the pool's claim on its archive.
    pub fn ownership(&self) -> Ownership {
        self.state.borrow().catalog.ownership
    }

    /// Up to where the log is known to be archived and verified: a whole segment's begin.
    pub fn archived_below(&self) -> Lsn {
        let below = self.state.borrow().catalog.archived_below;
        self.log.borrow().geometry().first_lsn(below)
    }

    /// Has the log say which claim the pool is about to take, and which it holds if the archive
    /// knows (a crash may have left it unsaid); that is stable when this returns. The caller need
    /// not turn the pool.
    ///
    /// # Errors
    /// A pool that failed, or has no room for writes: then no claim can be taken.
    pub async fn announce_claim(
        &self,
        held: Option<(HistoryId, ClaimId)>,
        next: ClaimId,
    ) -> Result<(), VolumeError> {
        if self.waits_for_room() {
            let reason = "the device has no room".to_owned();
            return Err(VolumeError::NoSpace { reason });
        }
        let lsn = self
            .change(|catalog, _| {
                if let Some((history, claim)) = held {
                    (catalog.ownership.history, catalog.ownership.claim) = (Some(history), claim);
                }
                catalog.ownership.next_claim = next;
                Ok(())
            })
            .await?;
        self.drive_until_stable_or_starved(lsn.plus(1)).await
    }

    /// No write is taken any more until a restart; reads go on.
    pub fn take_no_more_writes(&self, reason: String) {
        self.state.borrow_mut().take_no_more_writes(&mut self.log.borrow_mut(), reason);
    }

    /// Has the log say that the pool has its claim. Nobody waits until that is stable: what was
    /// announced says the same.
    ///
    /// # Errors
    /// A pool that failed.
    pub async fn note_claim(&self, history: HistoryId, claim: ClaimId) -> Result<(), VolumeError> {
        let ownership = Ownership::of(history, claim);
        self.change(|catalog, _| {
            catalog.ownership = Ownership { rehearsal_lsn: catalog.ownership.rehearsal_lsn, ..ownership };
            Ok(())
        })
        .await
        .map(|_| ())
    }
}
