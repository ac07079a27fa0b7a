//! Attaches an archive to a pool, or a stand-in for one that cannot be reached.

use std::collections::HashSet;
use std::rc::Rc;

use super::slot::no_archive;
use super::state::Archive;
use super::{ArchivePolicy, KnownObjects};
use crate::archive::service::{ArchiveService, VerifyPolicy};
use crate::log::format::EventKind;
use crate::log::table::Phase;
use crate::log::{Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::error::VolumeError;
use crate::volume::history::event::EventCollector;
use crate::volume::history::synch_table::{SynchRef, SynchTable};
use crate::volume::info::SynchInfo;
use crate::volume::pool::Pool;
use crate::volume::pool::state::State;

impl State {
    /// Adds a synch from the archive.
    fn learn_synch(&mut self, synch: &SynchInfo) {
        self.catalog.learn_synch_id(synch.id);
        if let Some(healed) = self.synchs.learn(synch) {
            self.problems.withdraw(&healed);
        }
    }

    /// Adds the synchs of the archive.
    fn learn_synchs(&mut self, synchs: &SynchTable) {
        if let Some(newest_id) = synchs.iter().map(|synch| synch.id).max() {
            self.catalog.learn_synch_id(newest_id);
        }
        for healed in self.synchs.learn_all(synchs) {
            self.problems.withdraw(&healed);
        }
    }

    /// Drops the synchs that an operator deleted: their events are still in the log.
    pub(in crate::volume) fn drop_deleted_synchs(&mut self) {
        let mut deleted: Vec<Lsn> = self.catalog.deleted_synchs.iter().copied().map(Lsn).collect();
        if deleted.is_empty() {
            return;
        }
        deleted.sort_unstable();
        let from = |lsn: Lsn| deleted.partition_point(|known| *known < lsn);
        let may_drop = |first, last: Lsn| deleted.get(from(first)).is_some_and(|lsn| *lsn <= last);
        self.synchs.retain(may_drop, |lsn| deleted.binary_search(&lsn).is_err());
    }
}

impl Pool {
    /// Attaches the archive to the pool. From now on sealed segments are archived, the slots of
    /// archived segments are reassigned, and the history is read from the archive.
    ///
    /// # Errors
    /// The pool already has an archive that is not one that it [waits for](Self::await_archive).
    pub fn attach_archive(
        &self,
        mut service: Box<dyn ArchiveService>,
        policy: ArchivePolicy,
        mut known: KnownObjects,
        synchs: SynchTable,
    ) -> Result<(), VolumeError> {
        let state = &mut *self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        if state.archive.get().is_some_and(|archive| !archive.is_away()) {
            return Err(VolumeError::Busy { reason: "the pool has an archive already".to_owned() });
        }
        let mut lost_on_device = Vec::new();
        if let Some(mut stand_in) = state.archive.detach() {
            let (_, side) = state.with_archive();
            stand_in.reported.tell_no_more(side.problems);
            stand_in.alarm.end(side.problems);
            lost_on_device = stand_in.take_lost_on_device();
            service.set_verify(stand_in.requests.service().verify());
        }
        known.apply(&state.catalog.cuts);
        known.drop_headless(&log.geometry());
        let mut archive = Archive::new(service, Rc::clone(&self.log), policy, known);
        archive.find_losses(&mut state.with_archive().1, &mut log, &lost_on_device);
        state.learn_synchs(&synchs);
        state.drop_deleted_synchs();
        archive.tell_lost(&mut state.with_archive().1, &log);
        state.archive.attach(archive);
        drop(log);
        self.drop_lost_synchs(state);
        self.drop_useless_anchors(state);
        Ok(())
    }

    /// Detaches the archive.
    pub(in crate::volume) fn detach_archive(&self) -> Option<(Box<dyn ArchiveService>, KnownObjects)> {
        let archive = self.state.borrow_mut().archive.detach()?;
        Some(archive.into_parts())
    }

    /// Looks up the synchs that are only in the archive, in segments from `from` on, and those
    /// whose text is damaged on the primary device. It reads the entries of all these segments. A
    /// segment whose objects cannot be read does not stop the lookup of the others.
    ///
    /// # Errors
    /// The store's first error; everything that can be found has been found.
    pub async fn load_archived_synchs(self: Rc<Self>, from: SegmentSeq) -> Result<(), VolumeError> {
        let sequences: Vec<SegmentSeq> = {
            let (state, log) = (self.state.borrow(), self.log.borrow());
            let Some(archive) = state.archive.get() else { return Ok(()) };
            let damaged = state.synchs.iter().filter(SynchRef::is_damaged);
            let damaged: HashSet<SegmentSeq> =
                damaged.map(|synch| log.geometry().sequence_of(synch.lsn)).collect();
            let there =
                |sequence: SegmentSeq| log.table().slot(sequence).is_some() && !damaged.contains(&sequence);
            let all = archive.objects.iter().map(|(sequence, _)| sequence);
            all.filter(|&sequence| sequence >= from && !there(sequence)).collect()
        };
        let mut result = Ok(());
        for sequence in sequences {
            let looked_up = self.load_synchs_of(sequence).await;
            result = result.and(looked_up);
            yield_now().await;
        }
        self.drop_lost_synchs(&mut self.state.borrow_mut());
        result
    }

    async fn load_synchs_of(&self, sequence: SegmentSeq) -> Result<(), VolumeError> {
        let Some(entries) = self.entries_of(sequence).await? else { return Ok(()) };
        let events = EventCollector::events(&entries, Lsn::MAX).into_iter();
        for event in events.filter(|event| event.kind == EventKind::Synch) {
            let synch = self.read_synch(&event).await?;
            if self.state.borrow().catalog.deleted_synchs.iter().any(|&lsn| lsn == synch.lsn) {
                continue;
            }
            self.state.borrow_mut().learn_synch(&synch);
        }
        Ok(())
    }

    /// How objects of the archive are verified; `None` if there is no archive.
    pub fn archive_verify(&self) -> Option<VerifyPolicy> {
        self.state.borrow().archive.get().map(|archive| archive.requests.service().verify())
    }

    /// Sets how objects of the archive are verified, from the next one on.
    ///
    /// # Errors
    /// The pool has no archive.
    pub fn set_archive_verify(&self, verify: VerifyPolicy) -> Result<(), VolumeError> {
        let mut state = self.state.borrow_mut();
        state.archive.get_mut().ok_or_else(no_archive)?.requests.service_mut().set_verify(verify);
        Ok(())
    }

    /// Whether the pool has an archive.
    pub fn has_archive(&self) -> bool {
        self.state.borrow().archive.is_attached()
    }
}

impl Pool {
    /// Records that the pool has an archive at `store` that cannot be reached now, and why. Nothing
    /// is archived until [`attach_archive`](Self::attach_archive).
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
        if state.archive.is_attached() {
            return Err(VolumeError::Busy { reason: "the pool has an archive already".to_owned() });
        }
        let lost_on_device = log.table().iter().filter(|(_, segment)| {
            segment.slot.is_none() && segment.phase != Phase::Released && !segment.archived
        });
        let lost_on_device = lost_on_device.map(|(sequence, _)| sequence).collect();
        let mut archive = Archive::stand_in(store, verify, Rc::clone(&self.log), policy, lost_on_device);
        // The catalog knows which segments were verified there; their slots are reassigned as
        // usual.
        let verified: Vec<SegmentSeq> =
            log.table().on_device().filter(|&sequence| sequence < state.catalog.archived_below).collect();
        for sequence in verified {
            log.note_archived(sequence);
        }
        archive.tell_away(why, &mut state.with_archive().1, &log);
        state.archive.attach(archive);
        Ok(())
    }

    /// Reports a new reason why the archive cannot be reached.
    pub fn tell_archive_away(&self, why: String) {
        let mut state = self.state.borrow_mut();
        let log = self.log.borrow();
        if let (Some(archive), mut side) = state.with_archive() {
            archive.tell_away(why, &mut side, &log);
        }
    }

    /// Whether the pool has an archive that has not been reached since the start.
    pub fn awaits_archive(&self) -> bool {
        self.state.borrow().archive.get().is_some_and(Archive::is_away)
    }

    /// Checks that the content of the pool's archive is known, if it has one.
    ///
    /// # Errors
    /// It has an archive that has not been reached since the start.
    pub(in crate::volume) fn check_reached(&self) -> Result<(), VolumeError> {
        self.state.borrow().archive.get().map_or(Ok(()), Archive::check_reached)
    }
}
