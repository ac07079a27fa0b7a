//! The state of a pool apart from its log: a short list of parts, and their turns.
//!
//! **Invariant:** a part owns its fields, and only its own file writes them. Operations on several
//! parts receive each of them from here, so no part knows this list.
//!
//! The I/O path adds operations on several parts as methods of [`State`] (`read`, `write`,
//! `rescue`); so do `space` and the operations of the management plane.

use super::acknowledgements::Acknowledgements;
use super::ended_busy::EndedBusy;
use super::faults::Faults;
use super::io_stats::IoStats;
use super::latency::Latencies;
use super::read_ahead::ReadAhead;
use super::reads::Reads;
use super::rescues::Rescues;
use super::starving::Starving;
use super::trims::Trims;
use crate::dma::DmaBuf;
use crate::log::{Log, SharedLog};
use crate::volume::archiving::{Archive, ArchiveSlot, PoolSide};
use crate::volume::blocks::differences::Differences;
use crate::volume::blocks::restores::BlockRestores;
use crate::volume::catalog::PresentCatalog;
use crate::volume::history::events::VolumeEvents;
use crate::volume::history::synchs::Synchs;
use crate::volume::image::volumes::Volumes;
use crate::volume::problems::Problems;
use crate::volume::request::VolumeId;
use crate::volume::session::state::Sessions;
use crate::volume::space::capacity::Capacity;
use crate::volume::space::cleaner::{Cleaner, CleanerSide};
use crate::volume::space::reshaping::Reshaping;
use crate::volume::space::scrubbed::Scrubbed;

/// The parts of a pool. See the module's documentation.
pub(in crate::volume) struct State {
    /// The catalog in force.
    pub(in crate::volume) catalog: PresentCatalog,
    /// The volumes.
    pub(in crate::volume) volumes: Volumes,
    /// The synchs that can be restored.
    pub(in crate::volume) synchs: Synchs,
    /// The sessions on points of the past.
    pub(in crate::volume) sessions: Sessions,
    /// Changes of the set of volumes, for the target.
    pub(in crate::volume) events: VolumeEvents,
    /// The problems for the operator.
    pub(in crate::volume) problems: Problems,
    /// The accounts of the space.
    pub(in crate::volume) capacity: Capacity,
    /// The archive, if there is one.
    pub(in crate::volume) archive: ArchiveSlot,
    /// Copy-forward.
    pub(in crate::volume) cleaner: Cleaner,
    /// A change of the pool's geometry.
    pub(in crate::volume) reshaping: Reshaping,
    /// The findings of the primary device's scrub.
    pub(in crate::volume) scrubbed: Scrubbed,
    /// Requests that wait for the log.
    pub(in crate::volume) acknowledgements: Acknowledgements,
    /// A trim that is only partly done.
    pub(in crate::volume) trims: Trims,
    /// Requests that wait for room.
    pub(in crate::volume) starving: Starving,
    /// Waiting reads.
    pub(in crate::volume) reads: Reads,
    /// Read-ahead.
    pub(in crate::volume) read_ahead: ReadAhead,
    /// Reads that are repeated.
    pub(in crate::volume) rescues: Rescues,
    /// Blocks that hosts could not read.
    pub(in crate::volume) faults: Faults,
    /// Counters of hosts' I/O.
    pub(in crate::volume) stats: IoStats,
    /// How long requests take.
    pub(in crate::volume) latencies: Latencies,
    /// Commands that ended because the pool was busy.
    pub(in crate::volume) ended_busy: EndedBusy,
    /// The last difference of two points.
    pub(in crate::volume) differences: Differences,
    /// The last restore of blocks.
    pub(in crate::volume) block_restores: BlockRestores,
}

impl State {
    /// A pool without volumes. `zeroes` is as long as the longest read.
    pub(super) fn new(zeroes: DmaBuf, latencies: Latencies) -> Self {
        State {
            catalog: PresentCatalog::default(),
            volumes: Volumes::default(),
            synchs: Synchs::default(),
            sessions: Sessions::default(),
            events: VolumeEvents::default(),
            problems: Problems::default(),
            capacity: Capacity::default(),
            archive: ArchiveSlot::default(),
            cleaner: Cleaner::default(),
            reshaping: Reshaping::default(),
            scrubbed: Scrubbed::default(),
            acknowledgements: Acknowledgements::default(),
            trims: Trims::default(),
            starving: Starving::default(),
            reads: Reads::new(zeroes),
            read_ahead: ReadAhead::default(),
            rescues: Rescues::default(),
            faults: Faults::default(),
            stats: IoStats::default(),
            latencies,
            ended_busy: EndedBusy::default(),
            differences: Differences::default(),
            block_restores: BlockRestores::default(),
        }
    }

    /// One turn of all parts, in this order. Returns how much was done.
    pub(super) fn turn(&mut self, shared: &SharedLog) -> usize {
        let mut log = shared.borrow_mut();
        let mut work = self.drive_device(&mut log);
        work += self.go_on_rescuing(&mut log);
        drop(log);
        let is_in_the_middle = self.trims.is_in_the_middle();
        work += self.reshaping.poll(&mut self.catalog, &mut self.problems, is_in_the_middle, shared);
        let mut log = shared.borrow_mut();
        work += self.go_on_trimming(&mut log);
        work += self.acknowledgements.acknowledge(&log, &mut self.latencies);
        work +=
            self.starving.turn(&mut log, &mut self.acknowledgements, &mut self.trims, &mut self.latencies);
        work += self.capacity.dig(&mut self.volumes, &mut log);
        work += self.catalog.pay(&mut log);
        work += self.drive_archive(&mut log);
        drop(log);
        work += self.archive.poll_loading();
        let side = CleanerSide {
            volumes: &mut self.volumes,
            catalog: &self.catalog,
            archive: self.archive.get_mut(),
            is_counted: self.capacity.is_counted(),
            zeroes: self.reads.zeroes(),
        };
        work + self.cleaner.poll(side, shared)
    }

    /// Starts what was appended, and processes the completions of the device.
    fn drive_device(&mut self, log: &mut Log) -> usize {
        let mut done = self.reads.take_done();
        let work = log.poll(&mut done);
        for read in done.drain(..) {
            self.finish_read(log, read);
        }
        self.reads.keep_done(done);
        work
    }

    /// Takes the archive's replies, passes them to hosts' reads, and makes new requests.
    fn drive_archive(&mut self, log: &mut Log) -> usize {
        let (Some(archive), mut side) = self.with_archive() else { return 0 };
        let mut work = archive.take_replies(&mut side, log);
        let mut for_reads = archive.take_for_reads();
        for (read, result) in for_reads.drain(..) {
            self.archive_answered(read, result);
        }
        let (Some(archive), mut side) = self.with_archive() else { return work };
        archive.keep_for_reads(for_reads);
        work += archive.poll(&mut side, log);
        let is_rehearsal = self.catalog.ownership.rehearsal_lsn.is_some();
        match self.archive.get_mut() {
            Some(archive) if !is_rehearsal && !archive.is_away() => {
                work + archive.turn_anchors(&self.volumes, &self.catalog, log)
            }
            _ => work,
        }
    }

    /// The archive, if there is one, and the parts of the pool that it changes.
    pub(in crate::volume) fn with_archive(&mut self) -> (Option<&mut Archive>, PoolSide<'_>) {
        let side =
            PoolSide { catalog: &mut self.catalog, problems: &mut self.problems, synchs: &self.synchs };
        (self.archive.get_mut(), side)
    }

    /// After a read: requests the following blocks, if its host reads sequentially.
    #[inline]
    pub(super) fn read_on(&mut self, log: &mut Log, id: VolumeId, block: u64, len_blocks: u32) {
        if let Some(volume) = self.volumes.get(id) {
            let blocks = block..block + u64::from(len_blocks);
            self.read_ahead.read_on(log, &mut self.reads, (id, volume), blocks);
        }
    }
}
