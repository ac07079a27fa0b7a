//! The log while it runs: appends, group commit, ordered completion, flush, sealing.
//!
//! **States of a block:** appended (in the open record's memory, LSN assigned) → written (its
//! record and every record before it completed: [`Log::written_lsn`] is past it) → stable (a device
//! flush that began after that completed, or the device has no volatile cache: [`Log::stable_lsn`]
//! is past it). Reads of blocks that are not written yet are served from memory
//! ([`Log::buffered`]).
//!
//! **Group commit without a timer.** [`Log::poll`] closes and submits the open record as soon as
//! fewer than [`RECORDS_IN_FLIGHT_MAX`] record writes are in flight. An idle device gets a lone
//! write at once. While the device is busy the record grows until there is room, or until it is
//! full.
//!
//! **Order.** Records complete in any order, but `written_lsn` only advances over a completed
//! prefix, and only that prefix is acknowledged. Segment headers are part of this order. The
//! trailer of a segment is written after all its records are stable. A segment is not opened while
//! two segments have no complete trailer, so a start after a crash reads at most three segments
//! record by record: those two and the current one.
//!
//! **Parts.** [`Log`] has no mutable fields of its own: each belongs to a part in [`state`], whose
//! file documents its invariants. The files beside that folder contain the methods of `Log` that
//! need several parts.
//!
//! | file | what it does |
//! |---|---|
//! | `append` | entries into the open record, records opened and closed |
//! | `events` | events, in both their copies |
//! | `segments` | opens the next segment: seals the old one, writes header and catalog |
//! | `room` | which segment an append goes to, and how much stays free for others |
//! | `copies` | what must be copied forward, and whether it fits |
//! | `recycle` | which blocks are live, which segments are inactive, which slots are reused |
//! | `turn` | [`Log::poll`]: takes completions, submits writes and flushes |
//! | `in_memory` | what readers find in memory: blocks, and entries of segments |
//! | `closing` | the partial trailer of a clean stop |
//!
//! **Failures:** see [`state::health`].
//!
//! **Cost of a 4 KiB append:** one copy into DMA memory (none when the block was received into such
//! memory) with one CRC32C, 24 bytes of entry, and a share of one 4 KiB header, one device command
//! and one system call, which the commands of a record split.
//!
//! **Bounds:** [`CLOSED_RECORDS_MAX`] closed records, then [`AppendError::Busy`]; the DMA pool's
//! budget, then the same.

mod append;
mod closing;
mod copies;
mod events;
mod in_memory;
mod recycle;
mod room;
mod segments;
mod state;
mod turn;

pub(in crate::log) mod interface;

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Waker;

use uuid::Uuid;

use crate::bdev::SharedBdev;
use crate::dma::DmaBufMut;
use crate::log::environment::Environment;
use crate::log::failure::{FailureCause, LogFailure};
use crate::log::format::TrailerUnit;
use crate::log::geometry::Geometry;
use crate::log::read::DeviceReader;
use crate::log::reader::SegmentReader;
use crate::log::record::OpenRecord;
use crate::log::table::SegmentTable;
use crate::log::time::{ClockStatus, SpanBy};
use crate::log::types::{Lsn, SegmentSeq};

use state::catalog::CatalogText;
use state::current::CurrentSegment;
use state::damage::DamageNotes;
use state::demand::Demand;
use state::health::LogHealth;
use state::identity::LogIdentity;
use state::memory::RecordMemory;
use state::orders::Orders;
use state::port::DevicePort;
use state::positions::Positions;
use state::record_clock::RecordClock;
use state::records::Records;
use state::trailers::{PendingTrailer, Trailers};
use state::waiters::Waiters;

pub use interface::{
    AppendClass, AppendError, CLOSED_RECORDS_MAX, RECORDS_IN_FLIGHT_MAX, ReadDone, Recycling, SegmentCatalog,
};
pub(in crate::log) use state::beginning::{Beginning, FirstWrites};
pub use state::starved::Starved;
pub use state::stats::LogStats;
pub use state::why_busy::WhyBusy;

/// A log that the I/O path and the tasks of one reactor share.
pub type SharedLog = Rc<RefCell<Log>>;

/// The initial state of a log, from `create` or from recovery.
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
    /// Segments before it that have all their records but no trailer: they are sealed now.
    pub(super) unsealed: Vec<(SegmentSeq, Vec<TrailerUnit>)>,
    /// Where the records end. Everything before it is written and, if the start flushed, stable.
    pub(super) end_lsn: Lsn,
    pub(super) last_time_ns: u64,
    /// The progress of the writes that a start must do first.
    pub(super) beginning: Beginning,
}

/// The log of a pool. See the module's documentation.
pub struct Log {
    environment: Environment,
    identity: LogIdentity,
    port: DevicePort,
    /// The reader for tasks.
    reads: DeviceReader,
    table: SegmentTable,
    current: Option<CurrentSegment>,
    records: Records,
    memory: RecordMemory,
    trailers: Trailers,
    positions: Positions,
    clock: RecordClock,
    catalog: CatalogText,
    health: LogHealth,
    damage: DamageNotes,
    waiters: Waiters,
    why_busy: WhyBusy,
    demand: Demand,
    orders: Orders,
    stats: LogStats,
}

impl Log {
    pub(super) fn start(start: LogStart) -> Self {
        let LogStart { device, environment, geometry, table, end_lsn, .. } = start;
        let current = start.current.map(|(sequence, units)| {
            let segment = table.get(sequence).expect("the current segment is in the table");
            let slot = segment.slot.expect("the current segment has a slot");
            let previous_end_lsn = match sequence.0.checked_sub(1) {
                Some(previous) => table.get(SegmentSeq(previous)).map(|segment| segment.end_lsn),
                None => Some(Lsn(0)),
            };
            let next_offset = geometry.offset_of(end_lsn);
            CurrentSegment::new(sequence, slot, segment.epoch, previous_end_lsn, next_offset, units)
        });
        let unsealed = start.unsealed.into_iter().filter_map(|(sequence, units)| {
            let segment = table.get(sequence)?;
            Some(PendingTrailer::new(sequence, segment.slot?, segment.epoch, segment.end_lsn, units))
        });
        let trailers = Trailers::new(unsealed.collect());
        let mut log = Log {
            identity: LogIdentity::new(start.version, start.pool, start.created_ns, start.epoch, geometry),
            reads: DeviceReader::new(device.clone(), &environment),
            positions: Positions::new(end_lsn, device.info().volatile_cache),
            port: DevicePort::new(device),
            clock: RecordClock::new(start.last_time_ns, &*environment.clock),
            health: LogHealth::new(start.pool),
            environment,
            table,
            current,
            trailers,
            records: Records::default(),
            memory: RecordMemory::default(),
            catalog: CatalogText::default(),
            damage: DamageNotes::default(),
            waiters: Waiters::default(),
            why_busy: WhyBusy::default(),
            demand: Demand::default(),
            orders: Orders::default(),
            stats: LogStats::default(),
        };
        match start.beginning {
            Beginning::Begun => {}
            Beginning::NoRoom(error, first) => {
                let now_ns = log.environment.clock.monotonic_ns();
                log.health.begin_without_room(&error, first, now_ns);
            }
            Beginning::Failed(reason) => log.health.poison(FailureCause::Device, &reason),
        }
        log
    }

    /// The format version of the pool.
    pub fn format_version(&self) -> u32 {
        self.identity.version()
    }

    /// The pool's UUID.
    pub fn pool(&self) -> Uuid {
        self.identity.pool()
    }

    /// When the pool was created, ns since the Unix epoch.
    pub fn created_ns(&self) -> u64 {
        self.identity.created_ns()
    }

    /// The geometry of the device.
    pub fn geometry(&self) -> Geometry {
        *self.identity.geometry()
    }

    /// The epoch of new records.
    pub fn epoch(&self) -> u32 {
        self.identity.epoch()
    }

    /// The environment of the log.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The device.
    pub fn device(&self) -> &SharedBdev {
        self.port.device()
    }

    /// The segment table.
    pub fn table(&self) -> &SegmentTable {
        &self.table
    }

    /// Counters.
    pub fn stats(&self) -> LogStats {
        self.stats
    }

    /// A reader of this log's segments.
    pub fn reader(&self) -> SegmentReader {
        SegmentReader::of(self.reads.clone(), self.geometry(), self.pool())
    }

    // ---- the current segment
    // ---------------------------------------------------------------------

    /// The segment that is being written, if one is open.
    pub fn current_sequence(&self) -> Option<SegmentSeq> {
        self.current.as_ref().map(CurrentSegment::sequence)
    }

    /// Makes `next` the current segment, and returns the previous one.
    fn replace_current(&mut self, next: CurrentSegment) -> Option<CurrentSegment> {
        self.current.replace(next)
    }

    // ---- positions
    // -------------------------------------------------------------------------------

    /// The position after everything appended so far.
    pub fn head_lsn(&self) -> Lsn {
        self.records.open().map_or(self.positions.end_lsn(), OpenRecord::next_lsn)
    }

    /// The position after everything that a caller waits for. Only copies follow it, in a record
    /// that is still open. Waiting for these would close their record early, and cost a header.
    pub fn commit_lsn(&self) -> Lsn {
        let lazy = self.records.open().filter(|open| open.is_lazy());
        lazy.map_or_else(|| self.head_lsn(), OpenRecord::lsn)
    }

    /// The newest point: the position of the last entry of the newest command or event. Only copies
    /// follow it.
    pub fn point_lsn(&self) -> Lsn {
        self.positions.point_lsn()
    }

    /// Everything before this position has been written.
    pub fn written_lsn(&self) -> Lsn {
        self.positions.written_lsn()
    }

    /// Everything before this position survives loss of power.
    pub fn stable_lsn(&self) -> Lsn {
        self.positions.stable_lsn()
    }

    /// Whether completed writes need a flush to survive loss of power.
    pub fn volatile_cache(&self) -> bool {
        self.positions.volatile_cache()
    }

    /// Requests that everything before `lsn` become stable; after that,
    /// [`stable_lsn`](Self::stable_lsn) is past it.
    pub fn request_stable(&mut self, lsn: Lsn) {
        self.positions.request_stable(lsn);
    }

    /// Wakes a task when more of the log is written or stable, or when the log has failed.
    pub(super) fn add_waiter(&mut self, waker: Waker) {
        self.waiters.push(waker);
    }

    /// How many blocks of the log are used, and how many it has, headers and trailers included. If
    /// slots are reused, segments that are not in use any more do not count: they only keep what
    /// they held until their slot is needed.
    pub fn usage_blocks(&self) -> (u64, u64) {
        let geometry = self.identity.geometry();
        let first = match self.orders.recycling() {
            Recycling::Never => self.table.oldest(),
            Recycling::Discard | Recycling::Archived => self.table.first_in_use(),
        };
        let used = self.positions.end_lsn().0.saturating_sub(geometry.first_lsn(first).0);
        (used, geometry.working_set * geometry.segment_blocks)
    }

    // ---- time
    // ------------------------------------------------------------------------------------

    /// The time of the newest record, ns since the Unix epoch.
    pub fn last_time_ns(&self) -> u64 {
        self.clock.newest_ns()
    }

    /// The time that the next record will carry, ns since the Unix epoch: trusted time, which is
    /// never before the newest record's time. See [`time`](crate::log::time).
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns(&*self.environment.clock)
    }

    /// Trusted time and the machine's time, and how they compare.
    pub fn clock_status(&self) -> ClockStatus {
        self.clock.status(&*self.environment.clock)
    }

    /// An operator confirms that the machine's clock is right.
    pub fn confirm_clock(&self) -> ClockStatus {
        self.clock.confirm(&*self.environment.clock)
    }

    /// The trusted time `span_ns` nanoseconds before now, and the clock that measured it.
    pub fn time_ago(&self, span_ns: u64) -> (u64, SpanBy) {
        self.clock.ago(span_ns, &*self.environment.clock)
    }

    // ---- health
    // ----------------------------------------------------------------------------------

    /// The failure that stopped the log, if one did.
    pub fn poisoned(&self) -> Option<&LogFailure> {
        self.health.poisoned()
    }

    /// Since when the log has been waiting for room on the device, if it is.
    pub fn starved(&self) -> Option<&Starved> {
        self.health.starved()
    }

    /// Whether the first writes of a start are not on the device yet.
    pub fn is_beginning(&self) -> bool {
        self.health.is_beginning()
    }

    /// Stops all writes until a restart, because another appliance goes on with this history; reads
    /// continue.
    pub(crate) fn give_up_to_owner(&mut self, reason: &str) {
        self.health.poison(FailureCause::Owner, reason);
    }

    /// Stores a problem that a reader found in a segment, once.
    pub(crate) fn note_problem(&mut self, sequence: SegmentSeq, problem: String) {
        if self.table.note_problem(sequence, &problem) {
            tracing::warn!(segment = sequence.0, problem, "a segment is damaged");
            self.damage.push(format!("segment {sequence}: {problem}"));
        }
    }

    /// The newest problems that readers found in segments since the start.
    pub fn damage(&self) -> impl Iterator<Item = &String> {
        self.damage.iter()
    }

    /// What appends wait for, if anything.
    pub fn why_busy(&self) -> WhyBusy {
        self.why_busy.with_free_slots(self.table.free_len())
    }

    // ---- orders of the log's owner
    // ---------------------------------------------------------------

    /// What happens to segments that contain no live blocks.
    pub fn recycling(&self) -> Recycling {
        self.orders.recycling()
    }

    /// While this is set, the next segment is not opened: drained segments become inactive first,
    /// which takes a flush. Otherwise a shorter working set might come one segment too late again
    /// and again.
    pub fn hold_next_segment(&mut self, held: bool) {
        self.orders.hold_next_segment(held);
    }

    /// Stops accepting appends: they find the log busy. The trailer of a clean stop is valid only
    /// if the log ends there, whatever else is running: copies, hydrations, a working set that has
    /// just been drained.
    pub fn stop_appending(&mut self) {
        self.orders.stop();
    }

    /// Whether everything in memory or in flight has reached the device.
    pub(super) fn is_quiet(&self) -> bool {
        self.records.is_empty() && self.trailers.is_empty() && !self.positions.is_flushing()
    }

    /// Starts a read of `buffer.len()` bytes from `device_block` on; it ends with a [`ReadDone`]
    /// with the same token (48 bits).
    pub fn submit_read(&mut self, device_block: u64, buffer: DmaBufMut, token: u64) {
        debug_assert!(token < 1 << 48);
        self.port.submit_read(device_block, buffer, token);
    }
}
