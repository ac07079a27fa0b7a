//! Records in a pool's log which claim on its archive the pool has.

use crate::archive::object::ClaimId;
use crate::archive::owner::HistoryId;
use crate::log::Lsn;
use crate::volume::catalog::Ownership;
use crate::volume::error::VolumeError;
use crate::volume::pool::Pool;

impl Pool {
    /// The pool's claim on its archive, from the log.
    pub fn ownership(&self) -> Ownership {
        self.state.borrow().catalog.ownership
    }

    /// The position up to which the log is known to be archived and verified: the start of a
    /// segment.
    pub fn archived_below(&self) -> Lsn {
        let below = self.state.borrow().catalog.archived_below;
        self.log.borrow().geometry().first_lsn(below)
    }

    /// Records in the log the claim that the pool is about to take, and the claim that it has
    /// according to the archive (a crash may have lost that record). The record is stable when this
    /// returns. The caller need not run the pool's turns.
    ///
    /// # Errors
    /// A pool that failed, or has no room for writes: no claim can be taken.
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
                let mut ownership = catalog.ownership;
                if let Some((history, claim)) = held {
                    (ownership.history, ownership.claim) = (Some(history), claim);
                }
                ownership.next_claim = next;
                catalog.set_ownership(ownership);
                Ok(())
            })
            .await?;
        self.drive_until_stable_or_starved(lsn.plus(1)).await
    }

    /// Stops all writes until a restart, because another appliance goes on with this history; reads
    /// continue. The operator reads the reason as the failure of the log.
    pub fn give_up_to_owner(&self, reason: &str) {
        self.log.borrow_mut().give_up_to_owner(reason);
    }

    /// Records in the log that the pool has its claim. This does not wait until the record is
    /// stable, because the announced claim says the same.
    ///
    /// # Errors
    /// A pool that failed.
    pub async fn note_claim(&self, history: HistoryId, claim: ClaimId) -> Result<(), VolumeError> {
        let ownership = Ownership::of(history, claim);
        self.change(|catalog, _| {
            let rehearsal_lsn = catalog.ownership.rehearsal_lsn;
            catalog.set_ownership(Ownership { rehearsal_lsn, ..ownership });
            Ok(())
        })
        .await
        .map(|_| ())
    }
}
