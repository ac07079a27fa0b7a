//! The log while it runs: appends, group commit, ordered completion, flush, sealing, poisoning.
//!
//! **States of a block:** appended (in the open record's memory, LSN assigned) → written (its record and every record before it
//! completed: [`Log::written_lsn`] is past it) → stable (a device flush that began after that completed, or the device has no volatile
//! cache: [`Log::stable_lsn`] is past it). Reads of blocks that are not written yet are served from memory ([`Log::buffered`]).
//!
//! **Group commit without a timer.** [`Log::poll`] closes and submits the open record as soon as fewer than
//! [`RECORDS_IN_FLIGHT_MAX`] record writes are in flight. An idle device gets a lone write at once; behind a busy one the
//! record grows until there is room, or until it is full.
//!
//! **Order.** Records complete in any order, but `written_lsn` only moves over a prefix, and only that is ever acknowledged. A segment header is
//! one more link of that chain. The trailer of a segment is written when all its records are stable; the segment after the next is not opened before it
//! is on the device, so at most two segments ever need to be read record by record.
//!
//! **Poison.** When a record, header, trailer or flush fails, the log stops: nothing more is submitted, what was not written never becomes
//! written, appends are refused with the reason, and the unwritten blocks stay readable from memory.
//!
//! **No room.** A record, header or trailer that the device has no room for is not a failure: see `starved`.
//!
//! **Cost of a 4 KiB append:** one copy into DMA memory (none when the block was received into such memory) with one CRC32C, 24 bytes of entry, and a share of one 4 KiB header, one device command and
//! one system call, which the record's commands split.
//!
//! **The way out** of the working set is described in `recycle`.
//!
//! **Bounds:** [`CLOSED_RECORDS_MAX`] closed records, then [`AppendError::Busy`]; the DMA pool's budget, then the same.

mod append;
mod beginning;
mod demand;
mod recycle;
mod room;
mod starved;
mod trailer;
mod turn;
mod waiting;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use smallvec::smallvec;
use uuid::Uuid;

use crate::bdev::{Command, Completion, Operation, SharedBdev};
use crate::dma::{DmaBuf, DmaBufMut};
use crate::log::environment::Environment;
use crate::log::format::{Entry, RecordLine, TrailerUnit};
use crate::log::geometry::Geometry;
use crate::log::read::DeviceReader;
use crate::log::reader::SegmentReader;
use crate::log::record::{ClosedRecord, OpenRecord, block_of};
use crate::log::table::SegmentTable;
use crate::log::time::{ClockStatus, SpanBy, TrustedTime};
use crate::log::types::{Lsn, SegmentSeq, Slot};
pub(super) use beginning::{Beginning, Opening};
use demand::Demand;
pub use starved::Starved;
use trailer::Sealing;
pub use waiting::WhyBusy;

/// What every segment begins with. It is asked for its text when a segment is opened.
pub trait SegmentCatalog {
    /// The text.
    fn text(&self) -> Vec<u8>;

    /// How long the text is at most, in bytes.
    fn text_bytes_max(&self) -> usize;

    /// The text stands in the log now, at the start of its newest segment.
    fn note_written(&self);

    /// The newest segment begins without it, because what must be copied there comes first, or
    /// there was no memory. It is to be appended as soon as it fits.
    fn note_missing(&self);
}

/// The most record writes on their way to the device at once.
pub const RECORDS_IN_FLIGHT_MAX: usize = 8;
/// The most closed records, submitted or not; beyond it appends must wait.
pub const CLOSED_RECORDS_MAX: usize = 32;
/// Size of the memory chunks from which records are cut.
const CHUNK_BYTES: usize = 1 << 20;

const TAG_KIND_SHIFT: u32 = 56;
const TAG_RECORD: u64 = 1;
const TAG_READ: u64 = 2;
const TAG_TRAILER: u64 = 3;
const TAG_FLUSH: u64 = 4;

/// A log that the I/O path and tasks of one reactor share.
pub type SharedLog = Rc<RefCell<Log>>;

/// Who appends: hosts are refused while some room is left for the pool itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendClass {
    /// A host's write or trim.
    Host,
    /// The pool's own events.
    Pool,
    /// A live block of the segment that must leave the working set before the next one is opened.
    Copy,
    /// A live block of a segment that leaves later.
    CopyAhead,
    /// A live block of a segment that leaves because the working set is to become shorter. It may open the next segment, but waits for nothing in anybody's way.
    Drain,
}

/// What becomes of segments in which nothing is live any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recycling {
    /// They stay; a log that is full refuses writes.
    #[default]
    Never,
    /// Their slots are used again when they are wanted; the past in them is gone then.
    Discard,
    /// The same, but only once they are in the archive.
    Archived,
}

/// Segments whose units are kept in memory after they were sealed.
const SEALED_UNITS_KEPT: usize = 3;
/// The newest problems of segments that are told.
const DAMAGE_KEPT: usize = 16;
/// How many slots are kept free for the next segments.
const FREE_SLOTS_TARGET: usize = 2;

/// Why nothing can be appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too much is on its way; try again after the next poll.
    #[error("the log is busy")]
    Busy,
    /// The working set is full.
    #[error("capacity exceeded: the log has used its {segments} segments")]
    Full {
        /// W.
        segments: u64,
    },
    /// The log failed before.
    #[error("the log failed and takes no more writes: {reason}")]
    Poisoned {
        /// The first failure.
        reason: Rc<str>,
    },
    /// An event's text is too long.
    #[error("an event of {len_bytes} bytes does not fit; the segment size allows {max_bytes}")]
    EventTooLong {
        /// Its length.
        len_bytes: usize,
        /// The bound.
        max_bytes: usize,
    },
}

/// A read that completed.
pub struct ReadDone {
    /// The reader's own number, 48 bits.
    pub token: u64,
    /// The buffer, also after an error, so that trying again needs no memory.
    pub buffer: DmaBufMut,
    /// Whether the buffer is filled; or the device's error.
    pub result: Result<(), crate::bdev::BdevError>,
}

/// Counters since the log was opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogStats {
    /// Blocks written to the device: headers, data, trailers.
    pub device_written_blocks: u64,
    /// Records written.
    pub records: u64,
    /// Device flushes.
    pub flushes: u64,
    /// Data blocks copied forward.
    pub copied_blocks: u64,
    /// Header blocks of records and segments.
    pub header_blocks: u64,
    /// Blocks of trailers.
    pub trailer_blocks: u64,
    /// Segments that became inactive.
    pub retired_segments: u64,
    /// Segments whose slot was given away.
    pub released_segments: u64,
    /// Of these, before their turn.
    pub released_early_segments: u64,
}

/// What a log starts with: made by `create` and by recovery.
pub(super) struct LogStart {
    pub(super) device: SharedBdev,
    pub(super) environment: Environment,
    /// The format version of the pool.
    pub(super) version: u32,
    pub(super) pool: Uuid,
    pub(super) created_ns: u64,
    pub(super) geometry: Geometry,
    pub(super) epoch: u32,
    pub(super) table: SegmentTable,
    /// The open segment with the units of its records so far; `None`: the first append opens one.
    pub(super) current: Option<(SegmentSeq, Vec<TrailerUnit>)>,
    /// Segments before it whose records are all there and whose trailer is not: they are sealed now.
    pub(super) unsealed: Vec<(SegmentSeq, Vec<TrailerUnit>)>,
    /// Where the records end; everything before is written and, if the start flushed, stable.
    pub(super) end_lsn: Lsn,
    pub(super) last_time_ns: u64,
    /// How far the start came with what must be written before anything else.
    pub(super) beginning: Beginning,
}

struct Current {
    sequence: SegmentSeq,
    slot: Slot,
    epoch: u32,
    /// Where the records of the segment before it end; `None`: nobody knows any more.
    previous_end_lsn: Option<Lsn>,
    next_offset: u64,
    units: Vec<TrailerUnit>,
}

/// The log of a pool. See the module's documentation.
pub struct Log {
    device: SharedBdev,
    environment: Environment,
    /// Reads of tasks.
    reads: DeviceReader,
    version: u32,
    pool: Uuid,
    created_ns: u64,
    geometry: Geometry,
    epoch: u32,
    volatile_cache: bool,
    table: SegmentTable,
    current: Option<Current>,
    open: Option<OpenRecord>,
    entry_buffers: Vec<Vec<Entry>>,
    records: VecDeque<ClosedRecord>,
    first_record: u64,
    next_to_submit: u64,
    submitted: usize,
    sealing: VecDeque<Sealing>,
    /// The units of the segments sealed last, for the archivist.
    sealed_units: VecDeque<(SegmentSeq, Arc<Vec<TrailerUnit>>)>,
    /// Emptied lists of units, for the next segments.
    unit_lists: Vec<Vec<TrailerUnit>>,
    catalog: Option<Rc<dyn SegmentCatalog>>,
    /// How long its text is at most, in bytes.
    catalog_bytes_max: usize,
    spare: Option<DmaBufMut>,
    end_lsn: Lsn,
    /// The end of the newest command.
    point_lsn: Lsn,
    written_lsn: Lsn,
    stable_lsn: Lsn,
    wanted_stable_lsn: Lsn,
    flushing_lsn: Option<Lsn>,
    last_time_ns: u64,
    time: TrustedTime,
    poisoned: Option<Rc<str>>,
    /// The device has no room: see [`Log::starved`].
    starved: Option<Starved>,
    /// What a start must write first, while it waits for room.
    opening: Option<Opening>,
    /// The newest problems of segments, also of those that have left the table since.
    damage: VecDeque<String>,
    waiters: Vec<Waker>,
    completions: Vec<Completion>,
    stats: LogStats,
    recycling: Recycling,
    /// Whether no segment may be opened now: see [`Log::hold_next_segment`].
    held: bool,
    /// Whether nothing may be appended any more: see [`Log::stop_appending`].
    stopped: bool,
    /// What appends wait for.
    why_busy: WhyBusy,
    demand: Demand,
}

impl Log {
    pub(super) fn start(start: LogStart) -> Self {
        let volatile_cache = start.device.info().volatile_cache;
        let time = TrustedTime::new(start.last_time_ns, &*start.environment.clock);
        let current = start.current.map(|(sequence, units)| {
            let segment = start.table.get(sequence).expect("the current segment is in the table");
            Current {
                sequence,
                slot: segment.slot.expect("the current segment has a slot"),
                epoch: segment.epoch,
                previous_end_lsn: match sequence.0.checked_sub(1) {
                    Some(previous) => start.table.get(SegmentSeq(previous)).map(|segment| segment.end_lsn),
                    None => Some(Lsn(0)),
                },
                next_offset: start.geometry.offset_of(start.end_lsn),
                units,
            }
        });
        let sealing = start
            .unsealed
            .into_iter()
            .filter_map(|(sequence, units)| {
                let segment = start.table.get(sequence)?;
                Some(Sealing::new(sequence, segment.slot?, segment.epoch, segment.end_lsn, units))
            })
            .collect();
        let beginning = start.beginning;
        let mut log = Log {
            reads: DeviceReader::new(start.device.clone(), &start.environment),
            device: start.device,
            environment: start.environment,
            version: start.version,
            pool: start.pool,
            created_ns: start.created_ns,
            geometry: start.geometry,
            epoch: start.epoch,
            volatile_cache,
            table: start.table,
            current,
            open: None,
            entry_buffers: Vec::new(),
            records: VecDeque::new(),
            first_record: 0,
            next_to_submit: 0,
            submitted: 0,
            sealing,
            sealed_units: VecDeque::new(),
            unit_lists: Vec::new(),
            catalog: None,
            catalog_bytes_max: 0,
            spare: None,
            end_lsn: start.end_lsn,
            point_lsn: Lsn(start.end_lsn.0.saturating_sub(1)),
            written_lsn: start.end_lsn,
            stable_lsn: start.end_lsn,
            wanted_stable_lsn: Lsn(0),
            flushing_lsn: None,
            last_time_ns: start.last_time_ns,
            time,
            poisoned: None,
            starved: None,
            opening: None,
            damage: VecDeque::new(),
            waiters: Vec::new(),
            completions: Vec::new(),
            stats: LogStats::default(),
            recycling: Recycling::default(),
            why_busy: WhyBusy::default(),
            demand: Demand::default(),
            held: false,
            stopped: false,
        };
        log.begin(beginning);
        log
    }

    /// The format version of the pool.
    pub fn format_version(&self) -> u32 {
        self.version
    }

    /// The pool's UUID.
    pub fn pool(&self) -> Uuid {
        self.pool
    }

    /// When the pool was created, ns since the Unix epoch.
    pub fn created_ns(&self) -> u64 {
        self.created_ns
    }

    /// The shape of the device.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The epoch of the records that are written now.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The world that the log was given.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The device.
    pub fn device(&self) -> &SharedBdev {
        &self.device
    }

    /// The segment table.
    pub fn table(&self) -> &SegmentTable {
        &self.table
    }

    /// Notes what a reader found wrong with a segment, once.
    pub(crate) fn note_problem(&mut self, sequence: SegmentSeq, problem: String) {
        if self.table.note_problem(sequence, &problem) {
            tracing::warn!(segment = sequence.0, problem, "a segment is damaged");
            self.note_damage(format!("segment {sequence}: {problem}"));
        }
    }

    fn note_damage(&mut self, damage: String) {
        if self.damage.len() == DAMAGE_KEPT {
            self.damage.pop_front();
        }
        self.damage.push_back(damage);
    }

    /// What readers found wrong with segments since the start, the newest of it: the device is no better when a slot is used
    /// again.
    pub fn damage(&self) -> impl Iterator<Item = &String> {
        self.damage.iter()
    }

    /// The segment that is being written, if one is open.
    pub fn current_sequence(&self) -> Option<SegmentSeq> {
        self.current.as_ref().map(|current| current.sequence)
    }

    /// Counters.
    pub fn stats(&self) -> LogStats {
        self.stats
    }

    /// The position behind everything appended so far.
    pub fn head_lsn(&self) -> Lsn {
        self.open.as_ref().map_or(self.end_lsn, OpenRecord::next_lsn)
    }

    /// The position behind everything that anybody waits for: what is behind it are copies in a record that is still open. Asking for these to be written
    /// would close their record early, and cost a header.
    pub fn commit_lsn(&self) -> Lsn {
        self.open.as_ref().filter(|open| open.is_lazy).map_or_else(|| self.head_lsn(), |open| open.lsn)
    }

    /// The newest point: the position of the last entry of the newest command or event. What is behind it are copies.
    pub fn point_lsn(&self) -> Lsn {
        self.point_lsn
    }

    /// Everything before this position has been written.
    pub fn written_lsn(&self) -> Lsn {
        self.written_lsn
    }

    /// Everything before this position survives loss of power.
    pub fn stable_lsn(&self) -> Lsn {
        self.stable_lsn
    }

    /// Whether completed writes need a flush to survive loss of power.
    pub fn volatile_cache(&self) -> bool {
        self.volatile_cache
    }

    /// The failure that stopped the log, if one did.
    pub fn poisoned(&self) -> Option<&Rc<str>> {
        self.poisoned.as_ref()
    }

    /// The time of the newest record, ns since the Unix epoch.
    pub fn last_time_ns(&self) -> u64 {
        self.last_time_ns
    }

    /// The time that the next record carries, ns since the Unix epoch: trusted time, which is never before the newest record's. See
    /// [`time`](crate::log::time).
    pub fn now_ns(&self) -> u64 {
        self.time.now_ns(&*self.environment.clock).max(self.last_time_ns)
    }

    /// Trusted time and the machine's, and how they stand to each other.
    pub fn clock_status(&self) -> ClockStatus {
        self.time.status(&*self.environment.clock)
    }

    /// An operator says that the machine's clock is right.
    pub fn confirm_clock(&self) -> ClockStatus {
        self.time.confirm(&*self.environment.clock)
    }

    /// The trusted time so many nanoseconds before now, and by what that was counted.
    pub fn time_ago(&self, span_ns: u64) -> (u64, SpanBy) {
        self.time.ago(span_ns, &*self.environment.clock)
    }

    /// Reads segments of this log.
    pub fn reader(&self) -> SegmentReader {
        SegmentReader::of(self.reads.clone(), self.geometry, self.pool)
    }

    /// What every new segment begins with (`docs/FORMAT.md`).
    ///
    /// # Errors
    /// [`AppendError::EventTooLong`].
    pub fn set_catalog(&mut self, catalog: Rc<dyn SegmentCatalog>) -> Result<(), AppendError> {
        let len_bytes = catalog.text_bytes_max();
        self.check_event(len_bytes)?;
        self.catalog_bytes_max = len_bytes;
        self.catalog = Some(catalog);
        Ok(())
    }

    /// How long the text of what new segments begin with is at most, in bytes.
    pub fn catalog_bytes_max(&self) -> usize {
        self.catalog_bytes_max
    }

    /// Blocks of the log that are used and blocks that it has, headers and trailers included.
    pub fn usage_blocks(&self) -> (u64, u64) {
        let used = self.end_lsn.0.saturating_sub(self.geometry.first_lsn(self.table.oldest()).0);
        (used, self.geometry.working_set * self.geometry.segment_blocks)
    }

    /// The block at `lsn` while it is in memory because it is not written yet.
    pub fn buffered(&self, lsn: Lsn) -> Option<DmaBuf> {
        if lsn < self.written_lsn {
            return None;
        }
        if let Some(open) = &self.open
            && lsn > open.lsn
        {
            return block_of(&open.pieces, lsn.0 - open.lsn.0 - 1);
        }
        let behind = self.records.partition_point(|record| record.lsn <= lsn);
        let record = self.records.get(behind.checked_sub(1)?)?;
        if lsn >= record.end_lsn { None } else { block_of(&record.pieces, lsn.0 - record.lsn.0) }
    }

    /// Whether a position is not written to the device yet: then its block is in memory.
    pub fn is_buffered(&self, lsn: Lsn) -> bool {
        lsn >= self.written_lsn
    }

    /// The device block of a position; `None` when its segment is not on the device.
    pub fn device_block(&self, lsn: Lsn) -> Option<u64> {
        let slot = self.table.slot(self.geometry.sequence_of(lsn))?;
        Some(self.geometry.slot_block(slot) + self.geometry.offset_of(lsn))
    }

    /// Starts a read of `buffer.len()` bytes from `device_block` on; it ends with a [`ReadDone`] of the same token (48 bits).
    pub fn submit_read(&mut self, device_block: u64, buffer: DmaBufMut, token: u64) {
        debug_assert!(token < 1 << 48);
        let command = Command {
            tag: TAG_READ << TAG_KIND_SHIFT | token,
            operation: Operation::Read { block: device_block, buffers: smallvec![buffer] },
        };
        self.device.queue().submit(command);
    }

    /// The units of a segment that is still in memory: the current one, without its open record, or one that is being sealed.
    pub fn units_in_memory(&self, sequence: SegmentSeq) -> Option<Arc<Vec<TrailerUnit>>> {
        if let Some(current) = self.current.as_ref().filter(|current| current.sequence == sequence) {
            return Some(Arc::new(current.units.clone()));
        }
        let sealing = self.sealing.iter().find(|sealing| sealing.sequence == sequence);
        let sealed =
            || self.sealed_units.iter().find(|(known, _)| *known == sequence).map(|(_, units)| units);
        sealing.map(|sealing| &sealing.units).or_else(sealed).map(Arc::clone)
    }

    /// The time of a segment's first record at or behind a position, if its records are in memory.
    pub fn first_time_ns(&self, sequence: SegmentSeq, from: Lsn) -> Option<u64> {
        let kept;
        let current = self.current.as_ref().filter(|current| current.sequence == sequence);
        let units: &[TrailerUnit] = if let Some(current) = current {
            &current.units
        } else {
            kept = self.units_in_memory(sequence)?;
            &kept
        };
        let mut at = 0;
        while let Some(unit) = units.get(at) {
            let line: RecordLine = zerocopy::transmute!(*unit);
            if line.lsn() >= from {
                return Some(line.time_ns());
            }
            at += 1 + line.entries();
        }
        None
    }

    /// The units of the current segment's records from `from` on that are written before `to`, and where they end.
    pub fn current_units(&self, from: Lsn, to: Lsn) -> (Vec<TrailerUnit>, Lsn) {
        let mut units = Vec::new();
        let mut end = from;
        let Some(current) = &self.current else { return (units, end) };
        let mut at = 0;
        while let Some(unit) = current.units.get(at) {
            let line: RecordLine = zerocopy::transmute!(*unit);
            let next = at + 1 + line.entries();
            if line.end_lsn() > to {
                break;
            }
            if line.lsn() >= from {
                units.extend_from_slice(&current.units[at..next]);
                end = line.end_lsn();
            }
            at = next;
        }
        (units, end)
    }

    // ---- durability --------------------------------------------------------------------------------------------

    /// Asks that everything before `lsn` become stable; [`stable_lsn`](Self::stable_lsn) tells when it is.
    pub fn request_stable(&mut self, lsn: Lsn) {
        self.wanted_stable_lsn = self.wanted_stable_lsn.max(lsn);
    }

    /// Closes the open record if a position before `lsn` is in it, so that it can be scanned.
    pub fn close_up_to(&mut self, lsn: Lsn) {
        if self.open.as_ref().is_some_and(|open| open.lsn < lsn) {
            self.close_record();
        }
    }

    /// Takes nothing more: whoever appends finds the log busy. What a clean stop leaves behind is true only if the log ends there, whatever goes on beside it: copies, hydrations, a working set that has just been drained.
    pub fn stop_appending(&mut self) {
        self.stopped = true;
    }

    pub(super) fn add_waiter(&mut self, waker: Waker) {
        self.waiters.push(waker);
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.open.is_none()
            && self.records.is_empty()
            && self.sealing.is_empty()
            && self.flushing_lsn.is_none()
    }
}
