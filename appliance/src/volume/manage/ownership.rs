//! How a pool's log comes to say which claim on its archive the pool has.

use crate::archive::object::ClaimId;
use crate::archive::owner::HistoryId;
use crate::log::Lsn;
use crate::volume::catalog::Ownership;
use crate::volume::error::VolumeError;
use crate::volume::pool::Pool;

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
        let mut log = self.log.borrow_mut();
        if log.poisoned().is_none() {
            log.poison(&reason);
            self.state.borrow_mut().problems.note(reason);
        }
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
