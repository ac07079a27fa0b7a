//! The pool and its I/O path: requests of hosts become entries of the log and reads of it.
//!
//! **A write** gets its LSN, its place in the index and its checksum when it is submitted, and is acknowledged when the log has written it (with force unit access, or as a
//! flush: when it is stable). Acknowledgements wait in order of LSN, so they cannot overtake (DESIGN section 6.3).
//!
//! **A read** is put together from what the index says: runs without contents come from a page of zeroes, blocks that are not written yet from the log's
//! memory, the rest in as few device reads as the log's order allows. Every block read from the device is checked against the
//! 16 bits of CRC32C in the index; a block that fails becomes a media error, never data.
//!
//! **Uncertain blocks.** When recovery found that entries were lost which had been stable, what is older than the loss may have been replaced by what was lost.
//! Such blocks read as media errors, and the volume shows as degraded, until they are written again; points before the loss are exact.

mod latency;
mod read;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::dma::{BLOCK_BYTES, DmaBuf, DmaBufMut};
use crate::log::format::ENTRIES_PER_RECORD;
use crate::log::table::Phase;
use crate::log::{AppendClass, AppendError, BlockNumber, Geometry, ImageId, Log, Lsn, ReadDone, SharedLog};
use crate::volume::archive::{Archive, ArchivedBlocks};
use crate::volume::capacity::{Buried, Capacity};
use crate::volume::catalog::Catalog;
use crate::volume::cleaner::Cleaner;
use crate::volume::error::VolumeError;
use crate::volume::index::{Index, IndexBuilder, Mapping, RangeSet, index_bytes};
use crate::volume::info::{
    PoolInfo, PoolStats, SegmentInfo, SegmentState, SynchInfo, VolumeEvent, VolumeInfo, VolumeState,
    VolumeStats,
};
use crate::volume::request::{
    IoCompletion, IoError, MAX_IO_BLOCKS, MAX_TRIM_RANGES, Request, Sink, Submitted, VolumeId,
};
use crate::volume::working_set::{Reshaping, device_slots};

pub use latency::Operation;
use latency::{Began, Latencies};

/// The most reads of one pool that wait for its device; beyond it submissions are [`Submitted::Busy`].
const READS_MAX: usize = 4096;

/// A pool: one log and the volumes in it. Used as `Rc<Pool>` on the reactor that owns it.
pub struct Pool {
    pub(super) log: SharedLog,
    pub(super) state: RefCell<State>,
}

pub(super) struct State {
    pub(super) catalog: Catalog,
    /// Indexed by [`VolumeId`]; ids are not reused.
    pub(super) volumes: Vec<Option<Volume>>,
    pub(super) synchs: Vec<SynchInfo>,
    pub(super) problems: Vec<String>,
    pub(super) events: VecDeque<VolumeEvent>,
    zeroes: DmaBuf,
    acks: VecDeque<PendingAck>,
    stable_acks: VecDeque<PendingAck>,
    rest_of_trim: Option<RestOfTrim>,
    reads: Vec<Option<PendingRead>>,
    free_reads: Vec<usize>,
    read_done: Vec<ReadDone>,
    stats: IoStats,
    latencies: Latencies,
    cleaner: Cleaner,
    pub(super) reshaping: Reshaping,
    pub(super) archive: Option<Box<Archive>>,
    /// The shape of the device, once a read has gone to the archive.
    geometry: Option<Geometry>,
    pub(super) capacity: Capacity,
    pub(super) buried: VecDeque<Buried>,
    /// The position of the newest change of the catalog since start.
    pub(super) change_lsn: Lsn,
    /// How often segments of the archive were forgotten since start.
    pub(super) expiries: u64,
    /// Whether clones keep on the primary device what they inherited: the pool has no archive and gives segments away.
    pub(super) keeps_inherited: bool,
}

#[derive(Default, Clone, Copy)]
struct IoStats {
    host_written_blocks: u64,
    host_read_blocks: u64,
    checksum_errors: u64,
}

/// A volume while the pool is open.
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) size_blocks: u64,
    pub(super) read_only: bool,
    pub(super) image: ImageId,
    pub(super) index: VolumeIndex,
    /// Mappings below this LSN are not certain; 0 when all are.
    pub(super) uncertain_below: Lsn,
    /// Mappings above this LSN are resident: the log keeps their blocks in the working set. What lies at or below it was inherited.
    pub(super) resident_above: Lsn,
    /// Whether what it inherited is resident too, because there is no archive to read it from.
    pub(super) keeps_inherited: bool,
    /// Whether something in it may be inherited: then its trims must be remembered as long as it lives.
    pub(super) inherits: bool,
    /// Whether what it inherited is being made its own.
    pub(super) hydrating: bool,
    /// The position of its newest write or trim, or a later one: since then its state is what it is.
    pub(super) changed_lsn: Lsn,
    /// The ranges of which it inherits nothing any more.
    pub(super) masked: RangeSet,
    /// Resident blocks.
    pub(super) resident: u64,
    /// Whether it was created without its capacity being set aside.
    pub(super) thin: bool,
    pub(super) stats: VolumeStats,
}

/// The index of a volume, or the way to it.
pub(super) enum VolumeIndex {
    Ready(Index),
    /// A clone after a restart: its own entries are known, what it inherited is still to be looked up.
    Inherits(IndexBuilder),
    /// The inherited index could not be built. Its own entries are kept, and copied forward.
    Failed(IndexBuilder),
}

struct PendingAck {
    /// Acknowledged once the log is written, or stable, past this.
    past: Lsn,
    tag: u64,
    sink: Rc<Sink>,
    began: Began,
}

/// A trim whose second part waits for room.
struct RestOfTrim {
    volume: VolumeId,
    ranges: SmallVec<[(u64, u64); 8]>,
    force_unit_access: bool,
    tag: u64,
    sink: Rc<Sink>,
    began: Began,
}

struct PendingRead {
    volume: VolumeId,
    block: u64,
    tag: u64,
    sink: Rc<Sink>,
    began: Began,
    pieces: SmallVec<[Piece; 1]>,
    /// Replies of the device and of the archive that are still to come.
    waiting: usize,
    failed: bool,
}

enum Piece {
    Ready(DmaBuf),
    /// On its way from the device.
    Waiting {
        block: u64,
        first_lsn: Lsn,
        checksums: SmallVec<[u16; 8]>,
    },
    /// Will come from the archive.
    Reserved,
    /// On its way from the archive.
    Archived(Box<ArchivedBlocks>),
}

/// A device read that is about to be submitted.
struct Extent {
    piece: usize,
    first_lsn: Lsn,
    device_block: u64,
    len_blocks: usize,
    buffer: Option<DmaBufMut>,
}

impl Pool {
    pub(super) fn new(log: Log, zeroes: DmaBuf) -> Rc<Self> {
        let latencies = Latencies::new(Rc::clone(&log.environment().clock));
        Rc::new(Pool {
            log: Rc::new(RefCell::new(log)),
            state: RefCell::new(State {
                catalog: Catalog::default(),
                volumes: Vec::new(),
                synchs: Vec::new(),
                problems: Vec::new(),
                events: VecDeque::new(),
                zeroes,
                acks: VecDeque::new(),
                stable_acks: VecDeque::new(),
                rest_of_trim: None,
                reads: Vec::new(),
                free_reads: Vec::new(),
                read_done: Vec::new(),
                stats: IoStats::default(),
                latencies,
                cleaner: Cleaner::default(),
                reshaping: Reshaping::default(),
                archive: None,
                geometry: None,
                capacity: Capacity::default(),
                buried: VecDeque::new(),
                change_lsn: Lsn(0),
                expiries: 0,
                keeps_inherited: false,
            }),
        })
    }

    /// One turn of the pool: starts what was submitted, reaps the device, completes requests. Returns how much was done.
    pub fn poll(&self) -> usize {
        let mut state = self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        let mut done = std::mem::take(&mut state.read_done);
        let mut work = log.poll(&mut done);
        for read in done.drain(..) {
            state.finish_read(&log, read);
        }
        state.read_done = done;
        drop(log);
        let mut reshaping = std::mem::take(&mut state.reshaping);
        work += reshaping.poll(&mut state, &self.log);
        state.reshaping = reshaping;
        let mut log = self.log.borrow_mut();
        work += state.go_on_trimming(&mut log);
        work += state.acknowledge(&log);
        work += state.dig(&mut log);
        let mut archive = state.archive.take();
        if let Some(archive) = &mut archive {
            work += archive.poll(&mut state, &mut log);
        }
        drop(log);
        if let Some(archive) = &mut archive {
            work += archive.poll_loading();
        }
        state.archive = archive;
        let mut cleaner = std::mem::take(&mut state.cleaner);
        work += cleaner.poll(&mut state, &self.log);
        state.cleaner = cleaner;
        work
    }

    /// Hands in a request of a volume. Unless the answer is [`Submitted::Busy`], exactly one completion with `tag` comes to `sink`, now or from [`poll`](Self::poll).
    pub fn submit(&self, volume: VolumeId, request: &Request<'_>, tag: u64, sink: &Rc<Sink>) -> Submitted {
        let mut state = self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        let began = state.latencies.begin(volume, request, sink);
        let ticket = Ticket { volume, tag, sink, began };
        let must_wait = (state.rest_of_trim.is_some() && !matches!(request, Request::Read { .. }))
            || (is_write(request) && state.archive.as_mut().is_some_and(|archive| archive.holds_back(&log)));
        if must_wait {
            Latencies::note_taken(began, false, sink);
            return Submitted::Busy;
        }
        let submitted = match state.start(&mut log, request, &ticket) {
            Ok(()) => {
                if let Some(archive) = state.archive.as_mut().filter(|_| is_write(request)) {
                    archive.note_appended(&log, appended_blocks(request));
                }
                Submitted::Queued
            }
            Err(Refusal::Busy) if is_write(request) && state.refuses_writes(&log) => {
                sink.begin();
                sink.push(IoCompletion {
                    tag,
                    result: Err(IoError::CapacityExceeded),
                    data: SmallVec::new(),
                });
                Submitted::Queued
            }
            Err(Refusal::Busy) => Submitted::Busy,
            Err(Refusal::Error(error)) => {
                if let Some(volume) = state.volume_mut(volume) {
                    volume.stats.errors += 1;
                }
                sink.begin();
                sink.push(IoCompletion { tag, result: Err(error), data: SmallVec::new() });
                Submitted::Queued
            }
        };
        Latencies::note_taken(began, submitted == Submitted::Queued, sink);
        submitted
    }

    /// Whether a command that was taken is not in the log yet as a whole.
    pub fn is_in_the_middle(&self) -> bool {
        self.state.borrow().is_in_the_middle()
    }

    /// Whether completed writes may be lost with the power before a flush (the VWC bit of the controller).
    pub fn volatile_cache(&self) -> bool {
        self.log.borrow().volatile_cache()
    }

    /// Appends the changes of the set of volumes since the last call to `events`, in order. There is one consumer: the target.
    pub fn take_events(&self, events: &mut VecDeque<VolumeEvent>) {
        events.append(&mut self.state.borrow_mut().events);
    }

    /// Every volume, by name.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        let state = self.state.borrow();
        let mut volumes: Vec<VolumeInfo> =
            (0..state.volumes.len()).filter_map(|index| state.info(VolumeId(index as u32))).collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        volumes
    }

    /// A volume.
    pub fn volume(&self, id: VolumeId) -> Option<VolumeInfo> {
        self.state.borrow().info(id)
    }

    /// A volume by its name.
    pub fn find_volume(&self, name: &str) -> Option<VolumeInfo> {
        let state = self.state.borrow();
        state.find(name).and_then(|id| state.info(id))
    }

    /// Every synch of the log, oldest first.
    pub fn synchs(&self) -> Vec<SynchInfo> {
        self.state.borrow().synchs.clone()
    }

    /// What the pool is and how it is.
    pub fn info(&self) -> PoolInfo {
        let state = self.state.borrow();
        let log = self.log.borrow();
        let (device, geometry) = (log.device().info(), log.geometry());
        let mut problems = state.problems.clone();
        problems.extend(log.poisoned().map(|reason| format!("the log failed: {reason}")));
        PoolInfo {
            uuid: log.pool(),
            device: device.name,
            device_kind: device.kind.to_owned(),
            device_bytes: device.len_blocks * BLOCK_BYTES as u64,
            segment_bytes: geometry.segment_blocks * BLOCK_BYTES as u64,
            slots: geometry.slots,
            device_slots: device_slots(&log),
            working_set_segments: geometry.working_set,
            working_set_target_segments: state.catalog.working_set_target,
            created_ns: log.created_ns(),
            volumes: state.volumes.iter().flatten().count() as u64,
            state: if log.poisoned().is_some() { "failed" } else { "online" }.to_owned(),
            problems,
        }
    }

    /// Counters and gauges.
    pub fn stats(&self) -> PoolStats {
        let state = self.state.borrow();
        let log = self.log.borrow();
        let (log_stats, dma) = (log.stats(), log.environment().dma.stats());
        let (log_used_blocks, log_capacity_blocks) = log.usage_blocks();
        let phases = |phase| log.table().iter().filter(|(_, segment)| segment.phase == phase).count() as u64;
        PoolStats {
            head_lsn: log.head_lsn().0,
            newest_point_lsn: log.point_lsn().0,
            newest_change_lsn: state.change_lsn.0,
            written_lsn: log.written_lsn().0,
            stable_lsn: log.stable_lsn().0,
            log_used_blocks,
            log_capacity_blocks,
            host_written_blocks: state.stats.host_written_blocks,
            host_read_blocks: state.stats.host_read_blocks,
            device_written_blocks: log_stats.device_written_blocks,
            copied_blocks: log_stats.copied_blocks,
            hydrated_blocks: state.capacity.hydrated_blocks,
            write_amplification: match state.stats.host_written_blocks {
                0 => 0.0,
                host => {
                    (host + log_stats.copied_blocks - state.capacity.hydrated_blocks) as f64 / host as f64
                }
            },
            header_blocks: log_stats.header_blocks,
            trailer_blocks: log_stats.trailer_blocks,
            capacity_blocks: state.capacity_of(&log).unwrap_or(0),
            reserved_blocks: state.reserved_blocks(),
            thin_blocks: state.capacity.thin_blocks,
            segments_in_use: phases(Phase::InUse),
            segments_inactive: phases(Phase::Inactive),
            segments_recycle: log.table().free_len() as u64,
            released_segments: log_stats.released_segments,
            released_early_segments: log_stats.released_early_segments,
            records: log_stats.records,
            flushes: log_stats.flushes,
            checksum_errors: state.stats.checksum_errors,
            index_bytes: index_bytes(),
            dma_in_use_bytes: dma.in_use_bytes as u64,
            dma_budget_bytes: dma.budget_bytes as u64,
            mapped_blocks: state.volumes.iter().flatten().map(Volume::mapped).sum(),
        }
    }

    /// Every segment, oldest first, then the free slots (R3, R4).
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let log = self.log.borrow();
        let geometry = log.geometry();
        let current = log.current_sequence();
        let there = log.table().iter().filter(|(_, segment)| segment.phase != Phase::Released);
        let kept = there.map(|(sequence, segment)| SegmentInfo {
            sequence: Some(sequence.0),
            slot: segment.slot.map_or(u64::MAX, |slot| slot.0),
            state: match segment.phase {
                _ if Some(sequence) == current => SegmentState::Current,
                Phase::InUse => SegmentState::Active,
                Phase::Inactive | Phase::Released => SegmentState::Inactive,
            },
            first_lsn: geometry.first_lsn(sequence).0,
            used_blocks: segment.end_lsn.0 - geometry.first_lsn(sequence).0,
            opened_ns: segment.opened_ns,
            entries: segment.entries,
            live_blocks: segment.live,
            archived: segment.archived,
            problems: segment.problems.clone(),
        });
        let free = log.table().free().map(|slot| SegmentInfo {
            sequence: None,
            slot: slot.0,
            state: SegmentState::Recycle,
            first_lsn: 0,
            used_blocks: 0,
            opened_ns: 0,
            entries: 0,
            live_blocks: 0,
            archived: false,
            problems: Vec::new(),
        });
        kept.chain(free).collect()
    }
}

fn is_write(request: &Request<'_>) -> bool {
    matches!(request, Request::Write { .. } | Request::WriteZeroes { .. } | Request::Trim { .. })
}

/// What a command adds to the log, roughly: its blocks, or one for one without data.
fn appended_blocks(request: &Request<'_>) -> u64 {
    match request {
        Request::Write { data, .. } => data.iter().map(|part| part.len() / BLOCK_BYTES).sum::<usize>() as u64,
        _ => 1,
    }
}

/// Who asked, and where the answer goes.
struct Ticket<'a> {
    volume: VolumeId,
    tag: u64,
    sink: &'a Rc<Sink>,
    began: Began,
}

pub(super) enum Refusal {
    Busy,
    Error(IoError),
}

impl From<IoError> for Refusal {
    fn from(error: IoError) -> Self {
        Refusal::Error(error)
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Busy => Refusal::Busy,
            AppendError::Full { .. } | AppendError::EventTooLong { .. } => {
                Refusal::Error(IoError::CapacityExceeded)
            }
            AppendError::Poisoned { .. } => Refusal::Error(IoError::WriteFault),
        }
    }
}

impl Volume {
    pub(super) fn mapped(&self) -> u64 {
        match &self.index {
            VolumeIndex::Ready(index) => index.mapped(),
            VolumeIndex::Inherits(_) | VolumeIndex::Failed(_) => 0,
        }
    }

    /// The index, or as much of it as is known.
    pub(super) fn own_index(&self) -> &Index {
        match &self.index {
            VolumeIndex::Ready(index) => index,
            VolumeIndex::Inherits(builder) | VolumeIndex::Failed(builder) => builder.seen(),
        }
    }

    /// Whether the index points from `block` at exactly this mapping, and the log keeps it.
    fn holds(&self, block: u64, mapping: Mapping) -> bool {
        mapping.lsn() > self.resident_above && self.own_index().get(block) == mapping
    }

    fn check_range(&self, block: u64, len_blocks: u64) -> Result<(), IoError> {
        match block.checked_add(len_blocks) {
            Some(end) if end <= self.size_blocks => Ok(()),
            _ => Err(IoError::OutOfRange),
        }
    }

    fn check_write(&self) -> Result<(), IoError> {
        if self.read_only { Err(IoError::ReadOnly) } else { Ok(()) }
    }

    fn index(&mut self) -> Result<&mut Index, Refusal> {
        match &mut self.index {
            VolumeIndex::Ready(index) => Ok(index),
            VolumeIndex::Inherits(_) => Err(Refusal::Busy),
            VolumeIndex::Failed(_) => Err(Refusal::Error(IoError::ReadFault)),
        }
    }
}

impl State {
    /// See [`Pool::is_in_the_middle`].
    pub(super) fn is_in_the_middle(&self) -> bool {
        self.rest_of_trim.is_some()
    }

    pub(super) fn find(&self, name: &str) -> Option<VolumeId> {
        let found =
            self.volumes.iter().position(|volume| volume.as_ref().is_some_and(|volume| volume.name == name));
        found.map(|index| VolumeId(index as u32))
    }

    pub(super) fn volume_mut(&mut self, id: VolumeId) -> Option<&mut Volume> {
        self.volumes.get_mut(id.0 as usize)?.as_mut()
    }

    fn info(&self, id: VolumeId) -> Option<VolumeInfo> {
        let volume = self.volumes.get(id.0 as usize)?.as_ref()?;
        let entry = self.catalog.volume(&volume.name)?;
        let state = match &volume.index {
            VolumeIndex::Ready(_) if volume.uncertain_below.0 == 0 => VolumeState::Online,
            VolumeIndex::Inherits(_) => VolumeState::Loading,
            VolumeIndex::Ready(_) | VolumeIndex::Failed(_) => VolumeState::Degraded,
        };
        Some(VolumeInfo {
            id,
            name: volume.name.clone(),
            uuid: entry.uuid,
            size_bytes: volume.size_blocks * BLOCK_BYTES as u64,
            read_only: volume.read_only,
            state,
            image: volume.image.0,
            parent: self
                .catalog
                .image(volume.image.0)
                .filter(|image| image.inherits())
                .and_then(|image| image.parent),
            created_ns: entry.created_ns,
            mapped_blocks: volume.mapped(),
            inherited_blocks: if volume.inherits {
                volume.mapped().saturating_sub(volume.resident)
            } else {
                0
            },
            hydrating: volume.hydrating,
            thin: volume.thin,
            stats: volume.stats,
            histogram: self.latencies.is_on(id),
        })
    }

    fn start(&mut self, log: &mut Log, request: &Request<'_>, ticket: &Ticket<'_>) -> Result<(), Refusal> {
        match *request {
            Request::Read { block, len_blocks } => self.start_read(log, block, len_blocks, ticket),
            Request::Write { block, data, force_unit_access } => {
                self.start_write(log, block, data, force_unit_access, ticket)
            }
            Request::WriteZeroes { block, len_blocks, force_unit_access } => {
                if len_blocks == 0 {
                    return Err(IoError::InvalidLength.into());
                }
                self.start_trim(log, &[(block, len_blocks)], force_unit_access, ticket)
            }
            Request::Trim { ranges } => self.start_trim(log, ranges, false, ticket),
            Request::Flush => {
                let volume = self.volume_mut(ticket.volume).ok_or(IoError::Gone)?;
                volume.stats.flushes += 1;
                if log.poisoned().is_some() {
                    return Err(IoError::WriteFault.into());
                }
                self.acknowledge_later(log, log.commit_lsn(), true, ticket);
                Ok(())
            }
        }
    }

    fn start_write(
        &mut self,
        log: &mut Log,
        block: u64,
        data: &[&[u8]],
        force_unit_access: bool,
        ticket: &Ticket<'_>,
    ) -> Result<(), Refusal> {
        let len_bytes: usize = data.iter().map(|part| part.len()).sum();
        let whole = data.iter().all(|part| part.len().is_multiple_of(BLOCK_BYTES));
        let len_blocks = len_bytes / BLOCK_BYTES;
        if !whole || len_blocks == 0 || len_blocks > MAX_IO_BLOCKS as usize {
            return Err(IoError::InvalidLength.into());
        }
        let volume = self.volume_mut(ticket.volume).ok_or(IoError::Gone)?;
        volume.check_range(block, len_blocks as u64)?;
        volume.check_write()?;
        let (image, resident_above, thin) = (volume.image, volume.resident_above, volume.thin);
        let index = volume.index()?;
        if thin {
            let range = block..block + len_blocks as u64;
            let new_blocks = range.filter(|&at| index.get(at).lsn() <= resident_above).count() as u64;
            self.check_thin_room(new_blocks, log)?;
        }
        log.reserve(AppendClass::Host, len_blocks, len_blocks, false)?;
        let volume = self.volume_mut(ticket.volume).ok_or(IoError::Gone)?;
        let index = volume.index()?;
        let (mut new_blocks, mut changed_lsn) = (0, Lsn(0));
        let chunks = data.iter().flat_map(|part| part.chunks_exact(BLOCK_BYTES));
        for (at, chunk) in (block..).zip(chunks) {
            let last = at + 1 == block + len_blocks as u64;
            let superseded = index.get(at).lsn();
            let (lsn, crc) = log.append_write(image, BlockNumber(at), chunk, superseded, last);
            index.set(at, Mapping::new(lsn, crc));
            if superseded > resident_above {
                log.note_dead(superseded);
            } else {
                new_blocks += 1;
            }
            log.note_live(lsn);
            changed_lsn = lsn;
        }
        volume.changed_lsn = changed_lsn;
        volume.resident += new_blocks;
        volume.stats.writes += 1;
        volume.stats.written_bytes += len_bytes as u64;
        if thin {
            self.capacity.thin_blocks += new_blocks;
        }
        self.stats.host_written_blocks += len_blocks as u64;
        self.acknowledge_later(log, log.head_lsn(), force_unit_access, ticket);
        Ok(())
    }

    fn start_trim(
        &mut self,
        log: &mut Log,
        ranges: &[(u64, u64)],
        force_unit_access: bool,
        ticket: &Ticket<'_>,
    ) -> Result<(), Refusal> {
        if ranges.len() > MAX_TRIM_RANGES {
            return Err(IoError::InvalidLength.into());
        }
        let volume = self.volume_mut(ticket.volume).ok_or(IoError::Gone)?;
        for &(block, len_blocks) in ranges {
            volume.check_range(block, len_blocks)?;
        }
        volume.check_write()?;
        volume.index()?;
        let mut parts: SmallVec<[(u64, u64); 8]> =
            ranges.iter().copied().filter(|&(_, len_blocks)| len_blocks > 0).collect();
        // A trim of more ranges than a record holds is two commands to history; NVMe does not ask that it be atomic. Each part begins a
        // record of its own, so that each has a position of its own. A second part that finds no room yet is done in a later turn; until then nothing else changes a volume.
        let rest = parts.len().min(ENTRIES_PER_RECORD);
        let rest: SmallVec<[(u64, u64); 8]> = parts.drain(rest..).collect();
        self.trim_part(log, ticket.volume, &parts)?;
        if let Some(volume) = self.volume_mut(ticket.volume) {
            volume.stats.trims += 1;
            volume.stats.trimmed_bytes +=
                ranges.iter().map(|&(_, len_blocks)| len_blocks * BLOCK_BYTES as u64).sum::<u64>();
        }
        match self.trim_part(log, ticket.volume, &rest) {
            Ok(()) => self.acknowledge_later(log, log.head_lsn(), force_unit_access, ticket),
            Err(Refusal::Busy) => {
                ticket.sink.begin();
                let (tag, sink) = (ticket.tag, Rc::clone(ticket.sink));
                self.rest_of_trim = Some(RestOfTrim {
                    volume: ticket.volume,
                    ranges: rest,
                    force_unit_access,
                    tag,
                    sink,
                    began: ticket.began,
                });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Appends a part of a trim, if there is something of it.
    fn trim_part(&mut self, log: &mut Log, id: VolumeId, part: &[(u64, u64)]) -> Result<(), Refusal> {
        if part.is_empty() {
            return Ok(());
        }
        let volume = self.volume_mut(id).ok_or(IoError::Gone)?;
        let (image, resident_above, thin) = (volume.image, volume.resident_above, volume.thin);
        volume.index()?;
        log.reserve(AppendClass::Host, part.len(), 0, true)?;
        let mut freed = 0;
        for (done, &(block, len_blocks)) in part.iter().enumerate() {
            let hides = volume.inherits && !volume.masked.covers(block, block + len_blocks);
            if hides {
                volume.masked.insert(block, block + len_blocks);
            }
            volume.changed_lsn =
                log.append_trim(image, BlockNumber(block), len_blocks, hides, done + 1 == part.len());
            let index = volume.index()?;
            index.trim(block, len_blocks, |gone| {
                if gone.lsn() > resident_above {
                    log.note_dead(gone.lsn());
                    freed += 1;
                }
            });
        }
        volume.resident -= freed;
        if thin {
            self.capacity.thin_blocks -= freed;
        }
        Ok(())
    }

    /// Goes on with a trim whose second part found no room. Returns how much was done.
    fn go_on_trimming(&mut self, log: &mut Log) -> usize {
        let Some(rest) = self.rest_of_trim.take() else { return 0 };
        let result = match self.trim_part(log, rest.volume, &rest.ranges) {
            Err(Refusal::Busy) => {
                self.rest_of_trim = Some(rest);
                return 0;
            }
            Err(Refusal::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        let past = log.head_lsn();
        match result {
            Ok(()) => {
                self.add_ack(
                    log,
                    PendingAck { past, tag: rest.tag, sink: rest.sink, began: rest.began },
                    rest.force_unit_access,
                );
            }
            Err(error) => {
                rest.sink.push(IoCompletion { tag: rest.tag, result: Err(error), data: SmallVec::new() });
            }
        }
        1
    }

    /// Whether writes have waited too long for the archive.
    fn refuses_writes(&self, log: &Log) -> bool {
        let now_ns = || log.environment().clock.wall_ns();
        self.archive.as_ref().is_some_and(|archive| archive.refuses_writes(now_ns()))
    }

    /// The same as an error of the management plane.
    pub(super) fn check_not_refusing(&self, log: &Log) -> Result<(), VolumeError> {
        if self.refuses_writes(log) {
            let reason = "the archive cannot keep up, and the primary device is full of what is not archived; `varve archive status` says more";
            return Err(VolumeError::NoSpace { reason: reason.to_owned() });
        }
        Ok(())
    }

    /// The volume whose index still points from `block` at exactly this mapping, as resident.
    pub(super) fn owner_of(&self, image: ImageId, block: u64, mapping: Mapping) -> Option<VolumeId> {
        let place = self.volumes.iter().position(|volume| {
            volume.as_ref().is_some_and(|volume| volume.image == image && volume.holds(block, mapping))
        });
        place.map(|place| VolumeId(place as u32))
    }

    /// The images that hold an entry of `image` as resident: the image itself, and, where clones keep what they inherited on the primary, these.
    pub(super) fn owners_of(&self, image: ImageId, block: u64, mapping: Mapping) -> SmallVec<[ImageId; 1]> {
        let volumes = self.volumes.iter().flatten();
        let owners = volumes
            .filter(|volume| volume.image == image || volume.keeps_inherited)
            .filter(|volume| volume.holds(block, mapping));
        owners.map(|volume| volume.image).collect()
    }

    /// Whether an image is a volume's that may inherit something.
    pub(super) fn inherits(&self, image: ImageId) -> bool {
        self.volumes.iter().flatten().any(|volume| volume.image == image && volume.inherits)
    }

    /// A copied block of a volume is at its new place.
    pub(super) fn move_block(&mut self, id: VolumeId, block: u64, mapping: Mapping) {
        match self.volume_mut(id).map(|volume| &mut volume.index) {
            Some(VolumeIndex::Ready(index)) => {
                index.set(block, mapping);
            }
            Some(VolumeIndex::Inherits(builder) | VolumeIndex::Failed(builder)) => {
                builder.move_block(block, mapping);
            }
            None => {}
        }
    }

    /// One block of zeroes.
    pub(super) fn zero_block(&self) -> DmaBuf {
        self.zeroes.slice(0, BLOCK_BYTES)
    }

    /// Completes the request once everything before `past` is written, or stable.
    fn acknowledge_later(&mut self, log: &mut Log, past: Lsn, stable: bool, ticket: &Ticket<'_>) {
        ticket.sink.begin();
        let ack = PendingAck { past, tag: ticket.tag, sink: Rc::clone(ticket.sink), began: ticket.began };
        self.add_ack(log, ack, stable);
    }

    fn add_ack(&mut self, log: &mut Log, ack: PendingAck, stable: bool) {
        if stable {
            log.request_stable(ack.past);
            self.stable_acks.push_back(ack);
        } else {
            self.acks.push_back(ack);
        }
    }

    fn acknowledge(&mut self, log: &Log) -> usize {
        let failed = log.poisoned().is_some();
        let reached = [(&mut self.acks, log.written_lsn()), (&mut self.stable_acks, log.stable_lsn())];
        let (mut work, mut end_ns) = (0, None);
        for (queue, lsn) in reached {
            while let Some(ack) = queue.front() {
                let result = if ack.past <= lsn {
                    Ok(())
                } else if failed {
                    Err(IoError::WriteFault)
                } else {
                    break;
                };
                if let Some(ack) = queue.pop_front() {
                    self.latencies.end(ack.began, &mut end_ns);
                    ack.sink.push(IoCompletion { tag: ack.tag, result, data: SmallVec::new() });
                }
                work += 1;
            }
        }
        work
    }
}
