//! Reads the blocks of a stretch from a block device, through the archivist's own queue.
//!
//! Reads of 1 MiB, several in flight, are passed on in order and directly from the buffer that the
//! device filled. Memory: one buffer of 1 MiB for each read in flight, in a separate pool. While
//! nothing is complete the thread sleeps on the device's wake descriptor.
//!
//! **Reads that fail.** A transient error is retried: the same read, for 1.3 seconds in all, with
//! doubling waits. If the read still fails, its blocks are read one by one; those that fail alone
//! are [`lost`](BlockSource::lost), and a text of 64 bytes, repeated, fills their places. It is an
//! error only if no block of the stretch can be read.
//!
//! A read may end early (the receiver failed, or panicked) with commands in flight. These finish
//! later. Tags are never reused, so completions of an earlier call are recognised and dropped, and
//! only then is their buffer free again.

use std::collections::VecDeque;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use smallvec::smallvec;

use super::worker::{BlockSource, SourceError};
use crate::archive::object::ObjectError;
use crate::bdev::{Bdev, Command, Completion, Operation, Submit};
use crate::dma::{BLOCK_BYTES, DmaBufMut, DmaPool};

/// The default number of reads in flight.
pub const READS_IN_FLIGHT_DEFAULT: usize = 4;
/// The most reads in flight.
const READS_IN_FLIGHT_MAX: usize = 64;
/// Blocks of one read: the largest frame size, so that every read consists of whole frames.
const READ_BLOCKS: u64 = 256;
const READ_BYTES: usize = READ_BLOCKS as usize * BLOCK_BYTES;
/// How often a failed read is retried.
const RETRIES_MAX: u32 = 8;
/// The wait before the first retry. It doubles each time: 1.3 seconds in all.
const RETRY_WAIT: Duration = Duration::from_millis(5);
/// The text that fills the place of a block that could not be read.
const LOST_TEXT: &[u8; 64] = b"varve: this block could not be read when it was archived; lost.\n";

/// A [`BlockSource`] over a device.
pub struct BdevSource {
    device: Box<dyn Bdev>,
    dma: DmaPool,
    reads_in_flight: usize,
    /// Never decreases, so that completions of an earlier call are recognised.
    next_tag: u64,
    completions: Vec<Completion>,
    pub(super) retry_wait: Duration,
    /// Lost blocks of the last call, counted from its first block.
    lost: Vec<u64>,
}

/// A read of a stretch.
struct Read {
    tag: u64,
    len_blocks: u64,
    slot: Slot,
}

/// The state of a read.
enum Slot {
    UnderWay,
    There(DmaBufMut),
    Failed(String),
}

/// The result of retrying a read.
enum Again {
    Whole(DmaBufMut),
    /// Read one by one; the lost blocks are recorded in `lost`.
    Pieces(Vec<u8>),
}

/// One call of [`BlockSource::read`].
struct Stretch {
    /// The first block that was not requested yet.
    block: u64,
    left_blocks: u64,
    /// The reads that were submitted and not passed on yet, in order.
    reads: VecDeque<Read>,
    /// The device's error for the last lost block.
    reason: String,
    /// No block of the last failed read could be read: the next failure is retried only once before
    /// its blocks are read one by one.
    is_dead: bool,
}

impl Stretch {
    fn new(block: u64, left_blocks: u64) -> Self {
        Stretch { block, left_blocks, reads: VecDeque::new(), reason: String::new(), is_dead: false }
    }
}

impl BdevSource {
    /// Takes a device handle. `reads_in_flight` is limited to the range from 1 to 64 and to the
    /// device's queue depth.
    pub fn new(device: Box<dyn Bdev>, reads_in_flight: usize) -> Self {
        let reads_in_flight =
            reads_in_flight.clamp(1, READS_IN_FLIGHT_MAX).min(device.info().queue_depth.max(1));
        BdevSource {
            device,
            dma: DmaPool::new(reads_in_flight * READ_BYTES + BLOCK_BYTES),
            reads_in_flight,
            next_tag: 0,
            completions: Vec::new(),
            retry_wait: RETRY_WAIT,
            lost: Vec::new(),
        }
    }

    /// Submits more reads as far as there is room; returns whether a read is under way.
    fn submit(&mut self, stretch: &mut Stretch) -> bool {
        while stretch.left_blocks > 0 && stretch.reads.len() < self.reads_in_flight {
            let len_blocks = stretch.left_blocks.min(READ_BLOCKS);
            // No memory or no room: reads of an earlier call still use it.
            let Ok(buffer) = self.dma.allocate(len_blocks as usize * BLOCK_BYTES) else { break };
            let operation = Operation::Read { block: stretch.block, buffers: smallvec![buffer] };
            let Submit::Queued = self.device.submit(Command { tag: self.next_tag, operation }) else { break };
            stretch.reads.push_back(Read { tag: self.next_tag, len_blocks, slot: Slot::UnderWay });
            self.next_tag += 1;
            stretch.block += len_blocks;
            stretch.left_blocks -= len_blocks;
        }
        !stretch.reads.is_empty()
    }

    /// Starts what was submitted and takes what is complete; returns whether anything was.
    fn reap(&mut self, stretch: &mut Stretch) -> bool {
        let count = self.device.poll(&mut self.completions);
        for mut completion in self.completions.drain(..) {
            // A completion of an earlier call is dropped.
            let Some(read) = stretch.reads.iter_mut().find(|read| read.tag == completion.tag) else {
                continue;
            };
            read.slot = match (completion.result, completion.buffers.pop()) {
                (Ok(()), Some(buffer)) => Slot::There(buffer),
                (Ok(()), None) => Slot::Failed("a read came back without its buffer".to_owned()),
                (Err(error), _) => Slot::Failed(error.to_string()),
            };
        }
        count > 0
    }

    /// Executes a single read; the inner error is the device's.
    fn read_alone(&mut self, block: u64, len_blocks: u64) -> Result<Result<DmaBufMut, String>, SourceError> {
        let mut alone = Stretch::new(block, len_blocks);
        loop {
            let under_way = self.submit(&mut alone);
            if !under_way && self.device.in_flight() == 0 {
                return Err(SourceError::Device("no memory for a read".to_owned()));
            }
            let any = self.reap(&mut alone);
            match alone.reads.pop_front() {
                Some(Read { slot: Slot::There(buffer), .. }) => return Ok(Ok(buffer)),
                Some(Read { slot: Slot::Failed(reason), .. }) => return Ok(Err(reason)),
                Some(read) => alone.reads.push_front(read),
                None => {}
            }
            if !any {
                self.sleep()?;
            }
        }
    }

    /// Retries a failed read: first as a whole, up to 8 times, then block by block. `at` is its
    /// first block, counted from the first block of the stretch.
    fn read_again(
        &mut self,
        block: u64,
        len_blocks: u64,
        at: u64,
        stretch: &mut Stretch,
    ) -> Result<Again, SourceError> {
        let mut wait = self.retry_wait;
        for _ in 0..if stretch.is_dead { 1 } else { RETRIES_MAX } {
            std::thread::sleep(wait);
            wait *= 2;
            match self.read_alone(block, len_blocks)? {
                Ok(buffer) => {
                    stretch.is_dead = false;
                    return Ok(Again::Whole(buffer));
                }
                Err(words) => stretch.reason = words,
            }
        }
        let lost_before = self.lost.len() as u64;
        let mut bytes = Vec::with_capacity(len_blocks as usize * BLOCK_BYTES);
        for index in 0..len_blocks {
            match self.read_alone(block + index, 1)? {
                Ok(buffer) => bytes.extend_from_slice(buffer.as_slice()),
                Err(words) => {
                    stretch.reason = words;
                    self.lost.push(at + index);
                    bytes.extend(LOST_TEXT.iter().cycle().take(BLOCK_BYTES));
                }
            }
        }
        stretch.is_dead = self.lost.len() as u64 - lost_before == len_blocks;
        Ok(Again::Pieces(bytes))
    }

    /// Waits until no read of the stretch is under way, so that a single read gets memory and
    /// nothing else completes in between.
    fn settle(&mut self, stretch: &mut Stretch) -> Result<(), SourceError> {
        while stretch.reads.iter().any(|read| matches!(read.slot, Slot::UnderWay)) {
            if !self.reap(stretch) {
                self.sleep()?;
            }
        }
        Ok(())
    }

    fn sleep(&self) -> Result<(), SourceError> {
        let Some(fd) = self.device.wake_fd() else {
            // Such a device completes everything in `poll`.
            std::thread::yield_now();
            return Ok(());
        };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {
            // An interrupted wait counts as one without an event.
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => {
                Err(SourceError::Device(format!("waiting for {}: {errno}", self.device.info().name)))
            }
        }
    }
}

impl BlockSource for BdevSource {
    fn read(
        &mut self,
        block: u64,
        len_blocks: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>,
    ) -> Result<(), SourceError> {
        if block.checked_add(len_blocks).is_none_or(|end| end > self.device.info().len_blocks) {
            let info = self.device.info();
            return Err(SourceError::Device(format!(
                "blocks {block}+{len_blocks} are beyond the end of {} with {} blocks",
                info.name, info.len_blocks
            )));
        }
        self.completions.clear();
        self.lost.clear();
        let mut stretch = Stretch::new(block, len_blocks);
        let mut at = 0;
        loop {
            let under_way = self.submit(&mut stretch);
            if !under_way && stretch.left_blocks == 0 {
                break;
            }
            if !under_way && self.device.in_flight() == 0 {
                return Err(SourceError::Device("no memory for a read of 1 MiB".to_owned()));
            }
            // Called even if the first read is complete already: the next reads run while it is
            // passed on.
            let any = self.reap(&mut stretch);
            match stretch.reads.pop_front_if(|read| !matches!(read.slot, Slot::UnderWay)) {
                Some(read) => {
                    let len_blocks = read.len_blocks;
                    self.give(&mut stretch, block + at, at, read, take)?;
                    at += len_blocks;
                }
                None if !any => self.sleep()?,
                None => {}
            }
        }
        if len_blocks > 0 && self.lost.len() as u64 == len_blocks {
            self.lost.clear();
            return Err(SourceError::Device(stretch.reason));
        }
        Ok(())
    }

    fn lost(&self) -> &[u64] {
        &self.lost
    }
}

impl BdevSource {
    /// Passes on the data of a read, or the data that retries return.
    fn give(
        &mut self,
        stretch: &mut Stretch,
        block: u64,
        at: u64,
        read: Read,
        take: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>,
    ) -> Result<(), SourceError> {
        let reason = match read.slot {
            Slot::There(buffer) => return Ok(take(buffer.as_slice())?),
            Slot::Failed(reason) => reason,
            Slot::UnderWay => unreachable!("only what has ended is given on"),
        };
        stretch.reason = reason;
        self.settle(stretch)?;
        match self.read_again(block, read.len_blocks, at, stretch)? {
            Again::Whole(buffer) => take(buffer.as_slice())?,
            Again::Pieces(bytes) => take(&bytes)?,
        }
        Ok(())
    }
}
