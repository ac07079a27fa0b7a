//! Blocks of a stretch from a block device, through a queue of the archivist's own.
//!
//! Reads of 1 MiB, several in flight, are given on in order and straight from the buffer that the device filled. Memory: as many buffers of 1 MiB as reads in flight,
//! in a pool of its own. While nothing is complete the thread sleeps on the device's wake descriptor.
//!
//! A read may end early (the taker failed, or panicked) with commands in flight. They end by themselves later: tags are never used twice, so what belongs to an
//! earlier call is recognised and dropped, and only then is its buffer free again.

use std::collections::VecDeque;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use smallvec::smallvec;

use super::worker::{BlockSource, SourceError};
use crate::archive::object::ObjectError;
use crate::bdev::{Bdev, Command, Completion, Operation, Submit};
use crate::dma::{BLOCK_BYTES, DmaBufMut, DmaPool};

/// The usual count of reads in flight.
pub const READS_IN_FLIGHT_DEFAULT: usize = 4;
/// The most reads in flight.
const READS_IN_FLIGHT_MAX: usize = 64;
/// Blocks of one read: the largest frame, so that every read is whole frames.
const READ_BLOCKS: u64 = 256;
const READ_BYTES: usize = READ_BLOCKS as usize * BLOCK_BYTES;

/// A [`BlockSource`] over a device.
pub struct BdevSource {
    device: Box<dyn Bdev>,
    dma: DmaPool,
    reads_in_flight: usize,
    /// Never falls, so that completions of an earlier call are known.
    next_tag: u64,
    completions: Vec<Completion>,
}

/// One call of [`BlockSource::read`].
struct Stretch {
    /// The first block that was not asked for yet.
    block: u64,
    left_blocks: u64,
    /// The tag of the first slot.
    front_tag: u64,
    /// For each read under way, in order: its buffer when it is complete.
    slots: VecDeque<Option<DmaBufMut>>,
}

impl BdevSource {
    /// Takes a device handle. `reads_in_flight` is brought into the range from 1 to 64 and to the device's queue depth.
    pub fn new(device: Box<dyn Bdev>, reads_in_flight: usize) -> Self {
        let reads_in_flight =
            reads_in_flight.clamp(1, READS_IN_FLIGHT_MAX).min(device.info().queue_depth.max(1));
        BdevSource {
            device,
            dma: DmaPool::new(reads_in_flight * READ_BYTES),
            reads_in_flight,
            next_tag: 0,
            completions: Vec::new(),
        }
    }

    /// Asks for more, as far as there is room; whether a read is under way then.
    fn submit(&mut self, stretch: &mut Stretch) -> bool {
        while stretch.left_blocks > 0 && stretch.slots.len() < self.reads_in_flight {
            let len_blocks = stretch.left_blocks.min(READ_BLOCKS);
            // No memory or no room: reads of an earlier call still have it.
            let Ok(buffer) = self.dma.allocate(len_blocks as usize * BLOCK_BYTES) else { break };
            let operation = Operation::Read { block: stretch.block, buffers: smallvec![buffer] };
            let Submit::Queued = self.device.submit(Command { tag: self.next_tag, operation }) else { break };
            self.next_tag += 1;
            stretch.slots.push_back(None);
            stretch.block += len_blocks;
            stretch.left_blocks -= len_blocks;
        }
        !stretch.slots.is_empty()
    }

    /// Starts what was submitted and takes what is complete; returns whether anything was.
    fn reap(&mut self, stretch: &mut Stretch) -> Result<bool, SourceError> {
        let count = self.device.poll(&mut self.completions);
        let mut outcome = Ok(count > 0);
        for mut completion in self.completions.drain(..) {
            let Some(index) = completion.tag.checked_sub(stretch.front_tag) else { continue };
            let Some(slot) = stretch.slots.get_mut(index as usize) else { continue };
            *slot = completion.buffers.pop();
            if let Err(error) = completion.result {
                outcome = Err(SourceError::Device(error.to_string()));
            } else if slot.is_none() {
                outcome = Err(SourceError::Device("a read came back without its buffer".to_owned()));
            }
        }
        outcome
    }

    fn sleep(&self) -> Result<(), SourceError> {
        let Some(fd) = self.device.wake_fd() else {
            // Such a device completes everything in its poll.
            std::thread::yield_now();
            return Ok(());
        };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {
            // An interrupted wait is an empty one.
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
        let mut stretch = Stretch {
            block,
            left_blocks: len_blocks,
            front_tag: self.next_tag,
            slots: VecDeque::with_capacity(self.reads_in_flight),
        };
        loop {
            let under_way = self.submit(&mut stretch);
            if !under_way && stretch.left_blocks == 0 {
                return Ok(());
            }
            if !under_way && self.device.in_flight() == 0 {
                return Err(SourceError::Device("no memory for a read of 1 MiB".to_owned()));
            }
            // Also when the front is there already: the next reads shall run while it is taken.
            let any = self.reap(&mut stretch)?;
            match stretch.slots.pop_front_if(|slot| slot.is_some()).flatten() {
                Some(buffer) => {
                    stretch.front_tag += 1;
                    take(buffer.as_slice())?;
                }
                None if !any => self.sleep()?,
                None => {}
            }
        }
    }
}
