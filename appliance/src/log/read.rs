//! Reads of the device by tasks: survey, recovery, segments, scans, copies. One policy for all of
//! them.
//!
//! A read that fails is one of three things ([`ReadFault`]):
//! - **transient**: it is tried again, with growing pauses, for [`RETRY_NS`]; the caller notices
//!   only the delay;
//! - **lost**: a block that stays unreadable for that long. Only the block is lost: a longer read
//!   is split until the bad blocks are found, and the rest of it succeeds. "Cannot be read" never
//!   counts as "was never written";
//! - **memory**: no buffer is free now. Commands that end free buffers, so the read waits for one.
//!
//! **Bounds.** A read waits at most [`RETRY_NS`] for all its bad blocks together. Lost blocks are
//! remembered for `REMEMBER_NS`. During that time they are tried once, and not for one second, so
//! that a bad sector with many readers does not keep the reactor busy. At most `LOST_MAX` blocks
//! are remembered; a device with more lost blocks counts as broken as a whole, and nothing on it is
//! retried.
//!
//! **Cost without faults:** one branch for each read, no allocation beside the buffer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::clock::Clock;
use super::environment::Environment;
use super::wait::{pause, wait_for_memory};
use crate::bdev::{BdevError, BdevErrorKind, SharedBdev};
use crate::dma::{BLOCK_BYTES, DmaBufMut, DmaError, DmaPool};

/// How long a failing read is tried again, in ns.
pub const RETRY_NS: u64 = 1_000_000_000;
/// The first pause between two tries, in ns; each pause is twice the previous one.
const FIRST_PAUSE_NS: u64 = 1_000_000;
/// How long a lost block is tried only once, and not for [`RETRY_NS`], in ns.
const REMEMBER_NS: u64 = 30_000_000_000;
/// The maximum number of lost blocks that are remembered. At this number nothing is retried any
/// longer.
const LOST_MAX: usize = 256;

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The device failed.
    #[error("{0}")]
    Device(#[from] BdevError),
    /// No memory for the read.
    #[error("{0}")]
    Memory(#[from] DmaError),
    /// The segment is not on the primary device.
    #[error("segment {0} is not on the primary device")]
    NoSegment(super::types::SegmentSeq),
}

/// The kind of a failed read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFault {
    /// Another try may succeed.
    Transient,
    /// No try will succeed: the device does not have the block.
    Lost,
    /// There is no memory now.
    Memory,
}

impl ReadFault {
    /// Classifies the first failure of a read. A transient fault that outlasts [`RETRY_NS`] is a
    /// loss.
    pub fn of(error: &ReadError) -> Self {
        match error {
            ReadError::Device(BdevError {
                kind: BdevErrorKind::OutOfRange | BdevErrorKind::Misaligned,
                ..
            })
            | ReadError::NoSegment(_)
            | ReadError::Memory(DmaError::TooLarge { .. }) => ReadFault::Lost,
            ReadError::Device(_) => ReadFault::Transient,
            ReadError::Memory(_) => ReadFault::Memory,
        }
    }
}

/// The blocks of a read, without those that are lost.
pub struct BlocksRead {
    /// The blocks; a lost block is zeroes.
    pub buffer: DmaBufMut,
    /// The lost blocks, counted from the first block of the read, in order.
    pub lost: Vec<u64>,
}

impl BlocksRead {
    /// Whether the block at `index` of the read is lost.
    pub fn is_lost(&self, index: u64) -> bool {
        self.lost.binary_search(&index).is_ok()
    }
}

/// Reads of one device, under the policy of this module.
#[derive(Clone)]
pub struct DeviceReader {
    device: SharedBdev,
    dma: DmaPool,
    clock: Rc<dyn Clock>,
    /// Lost blocks, and until when they are remembered, in ns of the monotonic clock.
    lost: Rc<RefCell<BTreeMap<u64, u64>>>,
}

impl DeviceReader {
    /// A reader.
    pub fn new(device: SharedBdev, environment: &Environment) -> Self {
        DeviceReader {
            device,
            dma: environment.dma.clone(),
            clock: Rc::clone(&environment.clock),
            lost: Rc::default(),
        }
    }

    /// Reads `len_blocks` blocks from a device block on.
    ///
    /// # Errors
    /// The device's error for the first lost block; no memory.
    pub async fn read(&self, block: u64, len_blocks: u64) -> Result<DmaBufMut, ReadError> {
        match self.try_once(block, len_blocks).await {
            Err(ReadError::Device(error)) => {
                let read = self.go_around(block, len_blocks, error).await?;
                match read.1 {
                    Some(error) => Err(error.into()),
                    None => Ok(read.0.buffer),
                }
            }
            read => read,
        }
    }

    /// The same, but it continues after lost blocks. Blocks after the end of the device are lost
    /// too.
    ///
    /// # Errors
    /// No memory.
    pub async fn read_around(&self, block: u64, len_blocks: u64) -> Result<BlocksRead, ReadError> {
        match self.try_once(block, len_blocks).await {
            Ok(buffer) => Ok(BlocksRead { buffer, lost: Vec::new() }),
            Err(ReadError::Device(error)) => Ok(self.go_around(block, len_blocks, error).await?.0),
            Err(error) => Err(error),
        }
    }

    /// One try; it waits for memory.
    async fn try_once(&self, block: u64, len_blocks: u64) -> Result<DmaBufMut, ReadError> {
        let buffer = self.memory(len_blocks).await?;
        Ok(self.device.read(block, buffer).await?)
    }

    async fn memory(&self, len_blocks: u64) -> Result<DmaBufMut, ReadError> {
        Ok(wait_for_memory(&self.dma, &*self.clock, len_blocks as usize * BLOCK_BYTES).await?)
    }

    /// Reads the readable blocks of a range whose first try failed; also returns the error of a
    /// lost block.
    async fn go_around(
        &self,
        block: u64,
        len_blocks: u64,
        error: BdevError,
    ) -> Result<(BlocksRead, Option<BdevError>), ReadError> {
        let mut last_error = error.clone();
        let is_transient = ReadFault::of(&error.into()) == ReadFault::Transient;
        let mut whole = self.memory(len_blocks).await?;
        whole.as_mut_slice().fill(0);
        // Halve the range until the bad blocks are found: the good blocks of a long read need no
        // retry.
        let mut suspects = Vec::new();
        let mut stretches = vec![(0, len_blocks)];
        let mut is_first = true;
        while let Some((start, len)) = stretches.pop() {
            let failed_before = std::mem::take(&mut is_first);
            if !failed_before && self.fill(&mut whole, block, start, len).await?.is_ok() {
                continue;
            }
            if len == 1 {
                suspects.push(start);
                continue;
            }
            let half = len / 2;
            stretches.extend([(start, half), (start + half, len - half)]);
        }
        suspects.sort_unstable();
        let mut pause_ns = FIRST_PAUSE_NS;
        let mut paused_ns = 0;
        while is_transient
            && !suspects.is_empty()
            && paused_ns < RETRY_NS
            && self.is_worth_a_pause(block, &suspects)
        {
            pause(&*self.clock, pause_ns).await;
            paused_ns += pause_ns;
            pause_ns = (pause_ns * 2).min(RETRY_NS.saturating_sub(paused_ns).max(FIRST_PAUSE_NS));
            let mut left = Vec::new();
            for &at in &suspects {
                if let Err(error) = self.fill(&mut whole, block, at, 1).await? {
                    last_error = error;
                    left.push(at);
                }
            }
            suspects = left;
        }
        self.remember(block, len_blocks, &suspects);
        for &at in &suspects {
            tracing::warn!(device = last_error.device, block = block + at, error = %last_error, "a block cannot be read");
        }
        let error = (!suspects.is_empty()).then_some(last_error);
        Ok((BlocksRead { buffer: whole, lost: suspects }, error))
    }

    /// Reads a part of a longer range into its place.
    async fn fill(
        &self,
        whole: &mut DmaBufMut,
        block: u64,
        start: u64,
        len: u64,
    ) -> Result<Result<(), BdevError>, ReadError> {
        let part = match self.try_once(block + start, len).await {
            Ok(part) => part,
            Err(ReadError::Device(error)) => return Ok(Err(error)),
            Err(error) => return Err(error),
        };
        let at = start as usize * BLOCK_BYTES;
        whole.as_mut_slice()[at..at + part.len()].copy_from_slice(part.as_slice());
        Ok(Ok(()))
    }

    /// Whether at least one of these blocks was not recently found lost.
    fn is_worth_a_pause(&self, block: u64, suspects: &[u64]) -> bool {
        let now_ns = self.clock.monotonic_ns();
        let lost = self.lost.borrow();
        let is_known = |at: &u64| lost.get(&(block + at)).is_some_and(|&until_ns| now_ns < until_ns);
        lost.len() < LOST_MAX && !suspects.iter().all(is_known)
    }

    /// Remembers which blocks of a range are lost, and that the others are not.
    fn remember(&self, block: u64, len_blocks: u64, suspects: &[u64]) {
        let now_ns = self.clock.monotonic_ns();
        let mut lost = self.lost.borrow_mut();
        lost.retain(|&known, &mut until_ns| {
            now_ns < until_ns && !(block..block + len_blocks).contains(&known)
        });
        for at in suspects.iter().take(LOST_MAX.saturating_sub(lost.len())) {
            lost.insert(block + at, now_ns + REMEMBER_NS);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::os::fd::BorrowedFd;

    use smallvec::smallvec;
    use uuid::Uuid;

    use super::*;
    use crate::bdev::{Bdev, BdevInfo, Command, Completion, MemoryDisk, Operation, Submit};
    use crate::log::environment::Random;
    use crate::reactor::block_on;

    /// Fails reads of some blocks for a number of times.
    struct Flaky {
        inner: Box<dyn Bdev>,
        failures: Rc<RefCell<HashMap<u64, u32>>>,
        reads: Rc<Cell<u64>>,
        failing: Vec<u64>,
    }

    impl Bdev for Flaky {
        fn info(&self) -> &BdevInfo {
            self.inner.info()
        }

        fn submit(&mut self, command: Command) -> Submit {
            if let Operation::Read { block, .. } = &command.operation {
                self.reads.set(self.reads.get() + 1);
                let range = *block..*block + command.operation.len_blocks();
                let mut failures = self.failures.borrow_mut();
                let mut failing = failures.iter_mut().filter(|(at, left)| range.contains(at) && **left > 0);
                if let Some((_, left)) = failing.next() {
                    *left -= 1;
                    self.failing.push(command.tag);
                }
            }
            self.inner.submit(command)
        }

        fn poll(&mut self, completions: &mut Vec<Completion>) -> usize {
            let count = self.inner.poll(completions);
            for completion in completions.iter_mut() {
                if let Some(at) = self.failing.iter().position(|&tag| tag == completion.tag) {
                    self.failing.swap_remove(at);
                    let (device, kind) = ("flaky".to_owned(), BdevErrorKind::Injected);
                    completion.result =
                        Err(BdevError { device, operation: "read", block: 0, len_blocks: 0, kind });
                }
            }
            count
        }

        fn in_flight(&self) -> usize {
            self.inner.in_flight()
        }

        fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
            self.inner.wake_fd()
        }
    }

    /// Each reading moves it by 10 us.
    #[derive(Default)]
    struct Ticking(Cell<u64>);

    impl Clock for Ticking {
        fn wall_ns(&self) -> u64 {
            self.monotonic_ns()
        }

        fn monotonic_ns(&self) -> u64 {
            self.0.set(self.0.get() + 10_000);
            self.0.get()
        }
    }

    impl Random for Ticking {
        fn uuid(&self) -> Uuid {
            Uuid::nil()
        }
    }

    struct Bed {
        device: SharedBdev,
        reader: DeviceReader,
        failures: Rc<RefCell<HashMap<u64, u32>>>,
        reads: Rc<Cell<u64>>,
        clock: Rc<Ticking>,
    }

    impl Bed {
        /// A device of 64 blocks; each byte of block n is n.
        fn new(budget_bytes: usize) -> Self {
            let disk = MemoryDisk::new(64);
            let (failures, reads) = (Rc::<RefCell<HashMap<u64, u32>>>::default(), Rc::<Cell<u64>>::default());
            let device = SharedBdev::new(Box::new(Flaky {
                inner: Box::new(disk.open("memory")),
                failures: Rc::clone(&failures),
                reads: Rc::clone(&reads),
                failing: Vec::new(),
            }));
            let clock = Rc::new(Ticking::default());
            let dma = DmaPool::new(budget_bytes);
            let random = Rc::<Ticking>::clone(&clock);
            let (host_dma, ahead_dma) = (dma.clone(), dma.clone());
            let clock_of_environment = Rc::<Ticking>::clone(&clock);
            let environment = Environment { dma, host_dma, ahead_dma, clock: clock_of_environment, random };
            let reader = DeviceReader::new(device.clone(), &environment);
            let bed = Bed { device, reader, failures, reads, clock };
            for block in 0..64 {
                let mut buffer = environment.dma.allocate(BLOCK_BYTES).expect("memory");
                buffer.as_mut_slice().fill(block as u8);
                let device = bed.device.clone();
                let write = async move { device.write(block, smallvec![buffer.freeze()]).await };
                bed.wait(write).expect("it writes");
            }
            bed
        }

        fn wait<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
            let device = self.device.clone();
            block_on(future, move || {
                device.queue().drive();
            })
        }

        fn read(&self, block: u64, len_blocks: u64) -> Result<DmaBufMut, ReadError> {
            let reader = self.reader.clone();
            self.wait(async move { reader.read(block, len_blocks).await })
        }

        fn read_around(&self, block: u64, len_blocks: u64) -> Result<BlocksRead, ReadError> {
            let reader = self.reader.clone();
            self.wait(async move { reader.read_around(block, len_blocks).await })
        }
    }

    #[test]
    fn a_transient_error_costs_time_and_nothing_else() {
        let bed = Bed::new(1 << 20);
        bed.failures.borrow_mut().extend([(3, 4), (9, 7)]);
        let buffer = bed.read(0, 16).expect("it is read in the end");
        assert!(buffer.as_slice().chunks(BLOCK_BYTES).enumerate().all(|(at, block)| block[0] == at as u8));
        assert!(bed.reader.lost.borrow().is_empty());
    }

    #[test]
    fn only_what_stays_unreadable_is_lost_and_that_is_not_tried_for_a_second_again() {
        let bed = Bed::new(1 << 20);
        bed.failures.borrow_mut().extend([(5, u32::MAX), (6, 2), (60, u32::MAX)]);
        let read = bed.read_around(0, 64).expect("the rest is there");
        assert_eq!(read.lost, [5, 60]);
        for (at, block) in read.buffer.as_slice().chunks(BLOCK_BYTES).enumerate() {
            let expected = if read.is_lost(at as u64) { 0 } else { at as u8 };
            assert!(block.iter().all(|&byte| byte == expected), "block {at}");
        }
        let (before, since_ns) = (bed.reads.get(), bed.clock.0.get());
        assert!(since_ns > RETRY_NS);
        let error = bed.read(4, 4).map(|_| ()).expect_err("block 5 is lost");
        assert!(matches!(error, ReadError::Device(_)), "{error}");
        assert!(bed.reads.get() - before <= 8, "{} reads", bed.reads.get() - before);
        assert!(bed.clock.0.get() - since_ns < RETRY_NS / 100);
        // A block that becomes readable again is read again.
        bed.failures.borrow_mut().clear();
        assert_eq!(bed.read(5, 1).expect("it healed").as_slice()[0], 5);
    }

    #[test]
    fn memory_is_waited_for_and_what_lies_beyond_the_device_is_not() {
        let bed = Bed::new(1 << 20);
        let mut held = Some(bed.reader.dma.allocate(1 << 20).expect("all of it"));
        let (mut turns, device, reader) = (0, bed.device.clone(), bed.reader.clone());
        let read = block_on(async move { reader.read(7, 1).await }, move || {
            turns += 1;
            if turns == 100 {
                drop(held.take());
            }
            device.queue().drive();
        });
        assert_eq!(read.expect("memory came back").as_slice()[0], 7);
        let since_ns = bed.clock.0.get();
        let read = bed.read_around(60, 8).expect("a part is there");
        assert_eq!(read.lost, [4, 5, 6, 7]);
        assert_eq!(read.buffer.as_slice()[3 * BLOCK_BYTES], 63);
        assert!(bed.read(64, 1).is_err());
        assert!(bed.clock.0.get() - since_ns < RETRY_NS / 100);
    }
}
