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
//! concluded from the stand-in's empty list: whoever asks it is told that the archive does not
//! answer.

use std::sync::Arc;

use super::{Archive, ArchivePolicy, KnownObjects};
use crate::archive::service::{ArchiveService, Reply, Request, VerifyPolicy};
use crate::archive::store::{AwayStore, Store};
use crate::log::table::Phase;
use crate::log::{Log, SegmentSeq};
use crate::volume::error::VolumeError;
use crate::volume::pool::{Pool, State};

/// What is known of an archive that was not reached.
pub(super) struct Away {
    /// Segments that the device had lost at the start: whether the archive has them is found out
    /// when it is there.
    pub(super) lost_on_device: Vec<SegmentSeq>,
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
        // Why not stands in the problem that is told of it.
        let reason = format!("{} was not reached since the start", self.service.store().label());
        Err(VolumeError::ArchiveAway { reason })
    }

    /// Tells why it is away, in place of what was told before.
    fn tell_away(&mut self, why: String, state: &mut State, log: &Log) {
        if !self.is_away() {
            return;
        }
        self.cause = Some(why);
        self.tell_failure(log.environment().clock.monotonic_ns(), state);
    }

    /// The segments that the primary device had lost when the pool was opened.
    pub(super) fn take_lost_on_device(&mut self) -> Vec<SegmentSeq> {
        self.away.as_mut().map(|away| std::mem::take(&mut away.lost_on_device)).unwrap_or_default()
    }
}

impl Pool {
    /// Says that the pool has an archive, at `store`, that cannot be reached now, and why. Until
    /// [`attach_archive`](Self::attach_archive) nothing is archived.
    ///
    /// # Errors
    /// The pool has an archive already.
    pub fn await_archive(
        &self,
        store: &str,
        policy: ArchivePolicy,
        verify: VerifyPolicy,
        why: String,
    ) -> Result<(), VolumeError> {
        let mut state = self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        if state.archive.is_some() {
            return Err(VolumeError::Busy { reason: "the pool has an archive already".to_owned() });
        }
        let lost_on_device = log.table().iter().filter(|(_, segment)| {
            segment.slot.is_none() && segment.phase != Phase::Released && !segment.archived
        });
        let lost_on_device = lost_on_device.map(|(sequence, _)| sequence).collect();
        let service = AwayService { store: Arc::new(AwayStore::new(store)), verify };
        let mut archive =
            Archive::new(Box::new(service), std::rc::Rc::clone(&self.log), policy, KnownObjects::default());
        archive.away = Some(Away { lost_on_device });
        // The catalog knows which were verified there; those are given away as ever.
        let verified: Vec<SegmentSeq> =
            log.table().on_device().filter(|&sequence| sequence < state.catalog.archived_below).collect();
        for sequence in verified {
            log.note_archived(sequence);
        }
        archive.tell_away(why, &mut state, &log);
        state.archive = Some(Box::new(archive));
        Ok(())
    }

    /// Tells anew why the archive that is waited for is not there.
    pub fn tell_archive_away(&self, why: String) {
        let mut state = self.state.borrow_mut();
        let log = self.log.borrow();
        if let Some(mut archive) = state.archive.take() {
            archive.tell_away(why, &mut state, &log);
            state.archive = Some(archive);
        }
    }

    /// Whether an archive is waited for that has not been reached since the start.
    pub fn awaits_archive(&self) -> bool {
        self.state.borrow().archive.as_ref().is_some_and(|archive| archive.is_away())
    }

    /// That it is known what is in the pool's archive, if it has one.
    ///
    /// # Errors
    /// It has one that has not been reached since the start.
    pub(in crate::volume) fn check_reached(&self) -> Result<(), VolumeError> {
        self.state.borrow().archive.as_ref().map_or(Ok(()), |archive| archive.check_reached())
    }
}
