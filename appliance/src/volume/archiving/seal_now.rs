//! Archiving by command: everything up to now.

use std::rc::Rc;
use std::task::Poll;

use super::slot::no_archive;
use crate::log::Lsn;
use crate::volume::error::VolumeError;
use crate::volume::pool::Pool;

/// After this many failures a command that waits for the archive gets the error.
const FAILURES_TOLD: u64 = 3;

impl Pool {
    /// Starts to archive everything up to now, even if a pause after a failure has not ended, and
    /// returns the position. Copies that nobody waits for are left out.
    ///
    /// # Errors
    /// The pool has no archive, or is a rehearsal, which archives nothing.
    pub fn begin_seal(&self) -> Result<Lsn, VolumeError> {
        let mut state = self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        let is_rehearsal = state.catalog.ownership.rehearsal_lsn.is_some();
        let archive = state.archive.get_mut().ok_or_else(no_archive)?;
        archive.check_reached()?;
        if is_rehearsal {
            let reason = "this pool is a rehearsal of a recovery: nothing of it is archived; to take the archive over, recover it without --rehearse".to_owned();
            return Err(VolumeError::Busy { reason });
        }
        let head = log.commit_lsn();
        log.close_up_to(head);
        log.request_stable(head);
        archive.seal_up_to(head);
        Ok(head)
    }

    /// Archives everything up to now. Returns the position when it is in the store.
    ///
    /// # Errors
    /// The pool has no archive, or failed; the store failed a few times; history got a gap in the
    /// meantime.
    pub async fn seal_archive(self: Rc<Self>) -> Result<Lsn, VolumeError> {
        let target = self.begin_seal()?;
        let (failures, gaps) = {
            let state = self.state.borrow();
            let archive = state.archive.get().ok_or_else(no_archive)?;
            (archive.requests.service().stats().failures, state.catalog.gaps.last().copied())
        };
        std::future::poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            let log = self.log.borrow();
            if let Some(reason) = log.poisoned() {
                return Poll::Ready(Err(VolumeError::Failed { reason: reason.to_string() }));
            }
            if let Some(gap) = state.catalog.gaps.last().filter(|gap| Some(**gap) != gaps && gap.start < target) {
                let reason = format!(
                    "history has got a gap at LSN {} to {}: what was to be archived left the primary device before that",
                    gap.start, gap.end
                );
                return Poll::Ready(Err(VolumeError::Busy { reason }));
            }
            let Some(archive) = state.archive.get_mut() else { return Poll::Ready(Err(no_archive())) };
            if archive.archived_to(&log) >= target {
                return Poll::Ready(Ok(target));
            }
            if archive.requests.service().stats().failures >= failures + FAILURES_TOLD
                && let Some(problem) = archive.reported.problem()
            {
                return Poll::Ready(Err(VolumeError::Busy { reason: problem.to_owned() }));
            }
            archive.seal.wake_when_sealed(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}
