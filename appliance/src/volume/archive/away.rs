//! An archive that the pool is known to have, and that has not been reached since the start.
//!
//! **States:** none → awaited (this: a stand-in that knows no objects) → attached. From the
//! stand-in on the pool behaves as with an archive that does not answer: what the primary holds is
//! served, what needs the archive is refused so that it is tried again, back-pressure is the
//! policy's.
//!
//! **Invariants.** Nothing is archived and nothing is deleted before the archive itself is
//! attached. A slot is given away only if the catalog says that its segment was verified in the
//! archive, or, where the policy gives history up, as a recorded gap. "Not in the archive" is never
//! concluded from the stand-in's empty list: whoever asks it is informed that the archive does not
//! answer.

use std::sync::Arc;

use super::{Archive, ArchivePolicy, KnownObjects, PoolSide};
use crate::archive::service::{ArchiveService, Reply, Request, VerifyPolicy};
use crate::archive::store::{AwayStore, Store};
use crate::log::{Log, SegmentSeq, SharedLog};
use crate::volume::error::VolumeError;

/// What is known of an archive that was not reached.
pub(super) struct Away {
    /// Segments that the device had lost at the start: whether the archive has them is found out
    /// when it is there.
    lost_on_device: Vec<SegmentSeq>,
}

/// Takes no requests: there is nobody to carry them out.
struct AwayService {
    store: Arc<dyn Store>,
    verify: VerifyPolicy,
}

impl ArchiveService for AwayService {
    fn submit(&mut self, request: Request) -> Result<(), Request> {
        Err(request)
    }

    fn poll(&mut self, _: &mut Vec<Reply>) -> usize {
        0
    }

    fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    fn verify(&self) -> VerifyPolicy {
        self.verify
    }

    fn set_verify(&mut self, verify: VerifyPolicy) {
        self.verify = verify;
    }
}

impl Archive {
    /// A stand-in for the archive at `store`. `lost_on_device`: segments that the device had lost
    /// at the start.
    pub(super) fn stand_in(
        store: &str,
        verify: VerifyPolicy,
        log: SharedLog,
        policy: ArchivePolicy,
        lost_on_device: Vec<SegmentSeq>,
    ) -> Self {
        let service = AwayService { store: Arc::new(AwayStore::new(store)), verify };
        let mut archive = Archive::new(Box::new(service), log, policy, KnownObjects::default());
        archive.away = Some(Away { lost_on_device });
        archive
    }

    /// Whether it has not been reached since the start.
    pub(super) fn is_away(&self) -> bool {
        self.away.is_some()
    }

    /// That it is known what is in the archive.
    ///
    /// # Errors
    /// It has not been reached since the start.
    pub(super) fn check_reached(&self) -> Result<(), VolumeError> {
        if !self.is_away() {
            return Ok(());
        }
        // The problem that is reported of it says why.
        let reason = format!("{} was not reached since the start", self.service.store().label());
        Err(VolumeError::ArchiveAway { reason })
    }

    /// Reports why it is away, in place of what was reported before.
    pub(super) fn tell_away(&mut self, why: String, side: &mut PoolSide<'_>, log: &Log) {
        if !self.is_away() {
            return;
        }
        self.cause = Some(why);
        self.tell_failure(log.environment().clock.monotonic_ns(), side);
    }

    /// The segments that the primary device had lost when the pool was opened.
    pub(super) fn take_lost_on_device(&mut self) -> Vec<SegmentSeq> {
        self.away.as_mut().map(|away| std::mem::take(&mut away.lost_on_device)).unwrap_or_default()
    }
}
