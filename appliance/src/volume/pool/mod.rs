//! The pool and its I/O path: turns hosts' requests into entries of the log and reads of it.
//!
//! **A write** gets its LSN, its place in the index and its checksum when it is submitted. It is
//! acknowledged when the log has written it (with force unit access, or for a flush: when it is
//! stable). Acknowledgements wait in order of LSN, so they cannot overtake each other.
//!
//! **A read** is assembled according to the index: blocks without contents come from a page of
//! zeroes, blocks that are not written yet from the log's memory, the rest in as few device reads
//! as the order in the log allows. Every block read from the device is checked against the 16 bits
//! of CRC32C in the index; a block that fails becomes a media error, never data. For a sequential
//! reader the next blocks are read before it asks for them. Blocks that the device cannot read are
//! retried, and then read from the archive (`rescue`). A read protects its segment's slot from
//! being reused while the device may still read it.
//!
//! **Uncertain blocks.** If recovery found that stable entries were lost, blocks older than the
//! loss may have been replaced by the lost entries. Such blocks read as media errors, and the
//! volume is shown as degraded, until they are written again; points before the loss are exact.

mod acknowledgements;
mod ended_busy;
mod faults;
mod histograms;
mod io_stats;
mod latency;
mod read;
mod read_ahead;
mod read_plan;
mod reads;
mod rescue;
mod rescues;
mod starving;
pub(in crate::volume) mod state;
mod ticket;
mod trims;
mod trouble;
mod view;
mod write;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::{Log, SharedLog};
use crate::volume::error::VolumeError;
use crate::volume::image::volume::Volume;
use crate::volume::info::VolumeEvent;
use crate::volume::request::{IoCompletion, IoError, Refusal, Request, Sink, Submitted, VolumeId};

use latency::Latencies;
pub use latency::RequestKind;
pub use read_ahead::{READ_AHEAD_BLOCKS_DEFAULT, READ_AHEAD_BLOCKS_MAX};
use state::State;
use ticket::Ticket;
use write::WriteData;

/// A pool: one log and the volumes in it. Used as `Rc<Pool>` on the reactor that owns it.
pub struct Pool {
    pub(super) log: SharedLog,
    pub(super) state: RefCell<State>,
}

impl Pool {
    pub(super) fn new(log: Log, zeroes: DmaBuf) -> Rc<Self> {
        let latencies = Latencies::new(Rc::clone(&log.environment().clock));
        let state = State::new(zeroes, latencies);
        Rc::new(Pool { log: Rc::new(RefCell::new(log)), state: RefCell::new(state) })
    }

    /// One turn of the pool: starts submitted requests, processes completions of the device,
    /// completes requests. Returns how much was done.
    pub fn poll(&self) -> usize {
        self.state.borrow_mut().turn(&self.log)
    }

    /// Sets the read-ahead window for sequential readers, in blocks, at most
    /// [`READ_AHEAD_BLOCKS_MAX`]; 0: no read-ahead.
    pub fn set_read_ahead(&self, blocks: u64) {
        self.state.borrow_mut().read_ahead.set_window(blocks);
    }

    /// Announces a request for `block`, so that the index entries that it needs are prefetched.
    pub fn prefetch(&self, volume: VolumeId, block: u64) {
        if let Some(index) = self.state.borrow().volumes.get(volume).and_then(Volume::ready_index) {
            index.prefetch(block);
        }
    }

    /// Submits a request of a volume. Unless the result is [`Submitted::Busy`], exactly one
    /// completion with `tag` is put into `sink`, now or in [`poll`](Self::poll).
    pub fn submit(&self, volume: VolumeId, request: &Request<'_>, tag: u64, sink: &Rc<Sink>) -> Submitted {
        let state = &mut *self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        let began = state.latencies.begin(volume, request, sink);
        let ticket = Ticket { volume, tag, sink, began };
        let must_wait = (state.trims.is_in_the_middle() && !matches!(request, Request::Read { .. }))
            || (is_write(request)
                && state
                    .archive
                    .get_mut()
                    .is_some_and(|archive| archive.holds_back(&log, (volume, sink.client()))));
        if must_wait {
            if log.starved().is_some() {
                state.starving.hold(&log, request, &ticket);
                Latencies::note_taken(began, true, sink);
                return Submitted::Queued;
            }
            Latencies::note_taken(began, false, sink);
            return Submitted::Busy;
        }
        let submitted = match state.start(&mut log, request, &ticket) {
            Ok(()) => {
                if let Some(archive) = state.archive.get_mut().filter(|_| is_write(request)) {
                    archive.note_appended(&log, (volume, sink.client()), appended_blocks(request));
                }
                Submitted::Queued
            }
            Err(Refusal::Busy) if is_write(request) && state.refuses_writes(&log) => {
                sink.begin();
                sink.push(IoCompletion {
                    tag,
                    // There may be room again when the archive answers, so the host may try again.
                    result: Err(IoError::NoRoom),
                    data: SmallVec::new(),
                });
                Submitted::Queued
            }
            Err(Refusal::Busy) if is_write(request) && log.starved().is_some() => {
                state.starving.hold(&log, request, &ticket);
                Submitted::Queued
            }
            Err(Refusal::Busy) => Submitted::Busy,
            Err(Refusal::Error(error)) => {
                if let Some(volume) = state.volumes.get_mut(volume) {
                    volume.note_error();
                }
                sink.begin();
                sink.push(IoCompletion { tag, result: Err(error), data: SmallVec::new() });
                Submitted::Queued
            }
        };
        Latencies::note_taken(began, submitted == Submitted::Queued, sink);
        submitted
    }

    /// Whether an accepted command is only partly in the log.
    pub fn is_in_the_middle(&self) -> bool {
        self.state.borrow().trims.is_in_the_middle()
    }

    /// Whether completed writes may be lost in a power cut before a flush (the VWC bit of the
    /// controller).
    pub fn volatile_cache(&self) -> bool {
        self.log.borrow().volatile_cache()
    }

    /// Appends the changes of the set of volumes since the last call to `events`, in order. There
    /// is one consumer: the target.
    pub fn take_events(&self, events: &mut VecDeque<VolumeEvent>) {
        self.state.borrow_mut().events.take_all(events);
    }
}

fn is_write(request: &Request<'_>) -> bool {
    !matches!(request, Request::Read { .. } | Request::Flush)
}

/// How much of its segment a command uses, approximately, in blocks. A trim has no data, but each
/// of its ranges takes an entry of the trailer, and a segment has as many of these as it has
/// blocks.
fn appended_blocks(request: &Request<'_>) -> u64 {
    match request {
        Request::Trim { ranges } => ranges.len() as u64,
        Request::Write { data, .. } => data.iter().map(|part| part.len() / BLOCK_BYTES).sum::<usize>() as u64,
        Request::WriteReceived { data, .. } => (data.len() / BLOCK_BYTES) as u64,
        _ => 1,
    }
}

impl State {
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
                let volume = self.volumes.get_mut(ticket.volume).ok_or(IoError::Gone)?;
                volume.note_flush();
                if log.poisoned().is_some() {
                    return Err(IoError::WriteFault.into());
                }
                if log.starved().is_some() {
                    self.starving.hold(log, request, ticket);
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
        self.archive.get().is_some_and(|archive| archive.refuses_writes(now_ns()))
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
}
