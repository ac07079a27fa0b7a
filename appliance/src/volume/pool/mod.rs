//! The pool and its I/O path: requests of hosts become entries of the log and reads of it.
//!
//! **A write** gets its LSN, its place in the index and its checksum when it is submitted, and is acknowledged when the log has written it (with force unit access, or as a
//! flush: when it is stable). Acknowledgements wait in order of LSN, so they cannot overtake.
//!
//! **A read** is put together from what the index says: runs without contents come from a page of zeroes, blocks that are not written yet from the log's
//! memory, the rest in as few device reads as the log's order allows. Every block read from the device is checked against the
//! 16 bits of CRC32C in the index; a block that fails becomes a media error, never data. What a host that reads in order asks for next is read before it asks. What the device does not
//! give is tried again, and then taken from the archive (`rescue`). A read keeps its segment's slot from being used again for as long as the device may still read it.
//!
//! **Uncertain blocks.** When recovery found that entries were lost which had been stable, what is older than the loss may have been replaced by what was lost.
//! Such blocks read as media errors, and the volume shows as degraded, until they are written again; points before the loss are exact.

mod latency;
mod read;
mod read_ahead;
mod rescue;
mod starved;
mod trouble;
mod view;
mod write;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::dma::{BLOCK_BYTES, DmaBuf, DmaBufMut};
use crate::log::reader::LsnRange;
use crate::log::{AppendError, Geometry, ImageId, Log, Lsn, ReadDone, SharedLog};
use crate::volume::archive::{Archive, ArchivedBlocks};
use crate::volume::capacity::{Buried, Capacity};
use crate::volume::catalog::{Catalog, CatalogWriter};
use crate::volume::cleaner::Cleaner;
use crate::volume::error::VolumeError;
use crate::volume::index::{Index, IndexBuilder, Mapping, RangeSet};
use crate::volume::info::{SynchInfo, VolumeEvent, VolumeStats};
use crate::volume::request::{IoCompletion, IoError, Request, Sink, Submitted, VolumeId};
use crate::volume::scrub::PrimaryScrub;
use crate::volume::working_set::Reshaping;

pub use latency::Operation;
use latency::{Began, Latencies};
use read_ahead::ReadAhead;
pub use read_ahead::{READ_AHEAD_BLOCKS_DEFAULT, READ_AHEAD_BLOCKS_MAX};
use rescue::Rescues;
use starved::Starving;
pub(super) use trouble::Trouble;
use write::{PendingAck, RestOfTrim, WriteData};

/// The most reads of one pool that wait for its device; beyond it submissions are [`Submitted::Busy`].
const READS_MAX: usize = 4096;

/// A pool: one log and the volumes in it. Used as `Rc<Pool>` on the reactor that owns it.
pub struct Pool {
    pub(super) log: SharedLog,
    pub(super) state: RefCell<State>,
}

pub(super) struct State {
    pub(super) catalog: Catalog,
    pub(super) catalog_writer: CatalogWriter,
    /// Indexed by [`VolumeId`]; ids are not reused.
    pub(super) volumes: Vec<Option<Volume>>,
    pub(super) synchs: Vec<SynchInfo>,
    pub(super) problems: Vec<String>,
    /// Gaps of history that are told among them, and in which words.
    pub(super) told_gaps: Vec<(LsnRange, String)>,
    pub(super) events: VecDeque<VolumeEvent>,
    zeroes: DmaBuf,
    acks: VecDeque<PendingAck>,
    stable_acks: VecDeque<PendingAck>,
    rest_of_trim: Option<RestOfTrim>,
    starving: Starving,
    reads: Vec<Option<PendingRead>>,
    free_reads: Vec<usize>,
    read_done: Vec<ReadDone>,
    read_ahead: ReadAhead,
    rescues: Rescues,
    /// Reads that the device has not ended.
    reads_at_device: usize,
    stats: IoStats,
    latencies: Latencies,
    cleaner: Cleaner,
    pub(super) reshaping: Reshaping,
    pub(super) archive: Option<Box<Archive>>,
    /// The shape of the device, once a read has gone to the archive.
    geometry: Option<Geometry>,
    pub(super) capacity: Capacity,
    /// When a command last ended because the pool was busy for too long, in monotonic ns, and of
    /// which volume.
    ended_busy: Option<(u64, VolumeId)>,
    pub(super) buried: VecDeque<Buried>,
    /// The position of the newest change of the catalog since start.
    pub(super) change_lsn: Lsn,
    /// How often segments of the archive were forgotten since start.
    pub(super) expiries: u64,
    pub(super) primary_scrub: PrimaryScrub,
    /// Whether clones keep on the primary device what they inherited: the pool has no archive and gives segments away.
    pub(super) keeps_inherited: bool,
}

#[derive(Default, Clone, Copy)]
struct IoStats {
    host_written_blocks: u64,
    host_read_blocks: u64,
    checksum_errors: u64,
    /// Device reads of hosts that failed and were tried again.
    retried_reads: u64,
    /// Of these, reads that a later try cured.
    rescued_reads: u64,
    /// Media errors that hosts got because of a block.
    unreadable_blocks: u64,
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
    /// How many of its blocks had such mappings when that was found out.
    pub(super) uncertain_blocks: u64,
    /// Mappings above this LSN are resident: the log keeps their blocks in the working set. What lies at or below it was inherited.
    pub(super) resident_above: Lsn,
    /// Whether what it inherited is resident too, because there is no archive to read it from.
    pub(super) keeps_inherited: bool,
    /// Whether something in it may be inherited: then its trims must be remembered as long as it lives.
    pub(super) inherits: bool,
    /// Whether what it inherited is being made its own.
    pub(super) hydrating: bool,
    /// What is in the way of looking up what it inherited, or of making it its own.
    pub(super) trouble: Option<Trouble>,
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

struct PendingRead {
    volume: VolumeId,
    block: u64,
    len_blocks: u32,
    tag: u64,
    sink: Rc<Sink>,
    began: Began,
    pieces: SmallVec<[Piece; 1]>,
    /// Replies of the device and of the archive that are still to come.
    waiting: usize,
    failure: Option<IoError>,
}

enum Piece {
    Ready(DmaBuf),
    /// On its way from the device.
    Waiting {
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
                catalog_writer: CatalogWriter::default(),
                volumes: Vec::new(),
                synchs: Vec::new(),
                problems: Vec::new(),
                told_gaps: Vec::new(),
                events: VecDeque::new(),
                zeroes,
                acks: VecDeque::new(),
                stable_acks: VecDeque::new(),
                rest_of_trim: None,
                starving: Starving::default(),
                reads: Vec::new(),
                free_reads: Vec::new(),
                read_done: Vec::new(),
                read_ahead: ReadAhead::default(),
                rescues: Rescues::default(),
                reads_at_device: 0,
                stats: IoStats::default(),
                latencies,
                cleaner: Cleaner::default(),
                reshaping: Reshaping::default(),
                archive: None,
                geometry: None,
                capacity: Capacity::default(),
                ended_busy: None,
                buried: VecDeque::new(),
                change_lsn: Lsn(0),
                expiries: 0,
                primary_scrub: PrimaryScrub::default(),
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
            state.finish_read(&mut log, read);
        }
        state.read_done = done;
        work += state.go_on_rescuing(&mut log);
        drop(log);
        let mut reshaping = std::mem::take(&mut state.reshaping);
        work += reshaping.poll(&mut state, &self.log);
        state.reshaping = reshaping;
        let mut log = self.log.borrow_mut();
        work += state.go_on_trimming(&mut log);
        work += state.acknowledge(&log);
        work += state.look_after_starving(&mut log);
        work += state.dig(&mut log);
        work += state.pay_catalog(&mut log);
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

    /// How far hosts that read in order are read ahead of, in blocks, at most [`READ_AHEAD_BLOCKS_MAX`]; 0: not at all.
    pub fn set_read_ahead(&self, blocks: u64) {
        self.state.borrow_mut().read_ahead.set_window(blocks);
    }

    /// Says that a request for `block` comes next: what it will look up is fetched meanwhile.
    pub fn prefetch(&self, volume: VolumeId, block: u64) {
        if let Some(Volume { index: VolumeIndex::Ready(index), .. }) =
            self.state.borrow_mut().volume_mut(volume)
        {
            index.prefetch(block);
        }
    }

    /// Hands in a request of a volume. Unless the answer is [`Submitted::Busy`], exactly one completion with `tag` comes to `sink`, now or from [`poll`](Self::poll).
    pub fn submit(&self, volume: VolumeId, request: &Request<'_>, tag: u64, sink: &Rc<Sink>) -> Submitted {
        let mut state = self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        let began = state.latencies.begin(volume, request, sink);
        let ticket = Ticket { volume, tag, sink, began };
        let must_wait = (state.rest_of_trim.is_some() && !matches!(request, Request::Read { .. }))
            || (is_write(request)
                && state
                    .archive
                    .as_mut()
                    .is_some_and(|archive| archive.holds_back(&log, (volume, sink.client()))));
        if must_wait {
            if log.starved().is_some() {
                state.hold(&log, request, &ticket);
                Latencies::note_taken(began, true, sink);
                return Submitted::Queued;
            }
            Latencies::note_taken(began, false, sink);
            return Submitted::Busy;
        }
        let submitted = match state.start(&mut log, request, &ticket) {
            Ok(()) => {
                if let Some(archive) = state.archive.as_mut().filter(|_| is_write(request)) {
                    archive.note_appended(&log, (volume, sink.client()), appended_blocks(request));
                }
                Submitted::Queued
            }
            Err(Refusal::Busy) if is_write(request) && state.refuses_writes(&log) => {
                sink.begin();
                sink.push(IoCompletion {
                    tag,
                    // It may have room again when the archive answers, so the host may try again.
                    result: Err(IoError::NoRoom),
                    data: SmallVec::new(),
                });
                Submitted::Queued
            }
            Err(Refusal::Busy) if is_write(request) && log.starved().is_some() => {
                state.hold(&log, request, &ticket);
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
}

fn is_write(request: &Request<'_>) -> bool {
    !matches!(request, Request::Read { .. } | Request::Flush)
}

/// What a command takes of its segment, roughly, in blocks. A trim has no data, but each range of
/// it takes an entry of the trailer, and a segment has as many of these as it has blocks.
fn appended_blocks(request: &Request<'_>) -> u64 {
    match request {
        Request::Trim { ranges } => ranges.len() as u64,
        Request::Write { data, .. } => data.iter().map(|part| part.len() / BLOCK_BYTES).sum::<usize>() as u64,
        Request::WriteReceived { data, .. } => (data.len() / BLOCK_BYTES) as u64,
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

    /// Mappings below this LSN are not certain from now on. Cost: a look at each mapping if there are such.
    pub(super) fn set_uncertain_below(&mut self, lsn: Lsn) {
        let mut uncertain_blocks = 0;
        if lsn.0 > 0 {
            self.own_index().visit(|_, mapping| uncertain_blocks += u64::from(mapping.lsn() < lsn));
        }
        (self.uncertain_below, self.uncertain_blocks) = (lsn, uncertain_blocks);
    }

    /// What is wrong with it, in words for the operator.
    fn problem(&self) -> Option<String> {
        if matches!(self.index, VolumeIndex::Failed(_)) {
            return Some("what it inherited could not be looked up; `varve pool list` says why".to_owned());
        }
        (self.uncertain_below.0 > 0).then(|| {
            format!(
                "entries of the log before LSN {} are lost: {} of its {} blocks with contents, and those without, were not certain when that was found, and read as media errors until they are written again",
                self.uncertain_below,
                self.uncertain_blocks,
                self.own_index().mapped()
            )
        })
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
            // It is looked up again at the next start, or when the archive answers.
            VolumeIndex::Failed(_) => Err(Refusal::Error(IoError::NotNow)),
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

    fn start(&mut self, log: &mut Log, request: &Request<'_>, ticket: &Ticket<'_>) -> Result<(), Refusal> {
        match *request {
            Request::Read { block, len_blocks } => self.start_read(log, block, len_blocks, ticket),
            Request::Write { block, data, force_unit_access } => {
                self.start_write(log, block, WriteData::Slices(data), force_unit_access, ticket)
            }
            Request::WriteReceived { block, data, force_unit_access } => {
                self.start_write(log, block, WriteData::Received(data), force_unit_access, ticket)
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
                if log.starved().is_some() {
                    self.hold(log, request, ticket);
                    return Ok(());
                }
                self.acknowledge_later(log, log.commit_lsn(), true, ticket);
                Ok(())
            }
        }
    }

    /// Whether writes have waited too long for the archive.
    fn refuses_writes(&self, log: &Log) -> bool {
        let now_ns = || log.environment().clock.monotonic_ns();
        self.archive.as_ref().is_some_and(|archive| archive.refuses_writes(now_ns()))
    }

    /// The same as an error of the management plane.
    pub(super) fn check_not_refusing(&self, log: &Log) -> Result<(), VolumeError> {
        if let Some(starved) = log.starved() {
            let reason = format!(
                "the pool's device has no room, and nothing can be recorded until it has: {}",
                starved.reason
            );
            return Err(VolumeError::NoSpace { reason });
        }
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

    /// Whether what a volume has at a position may have been replaced by something that is lost.
    pub(super) fn is_uncertain(&self, id: VolumeId, lsn: Lsn) -> bool {
        let volume = self.volumes.get(id.0 as usize).and_then(Option::as_ref);
        volume.is_some_and(|volume| lsn < volume.uncertain_below)
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
}
