//! A simulated disk with a volatile cache, and the states in which a crash leaves it.
//!
//! Writes become visible when they complete, and stable when a flush that began after that
//! completes. Completions come in random order. At a crash, each write that is not stable is
//! independently kept, lost, or torn at a 512-byte boundary.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use smallvec::SmallVec;
use varve::bdev::{Bdev, BdevError, BdevErrorKind, BdevInfo, Command, Completion, Operation, Submit};
use varve::dma::BLOCK_BYTES;

use super::faults::ReadFaults;
use super::rng::Rng;

/// What a crash does to writes that are not stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process dies: completed writes stay, those in flight are kept, lost or torn.
    Process,
    /// Power is lost: what was not flushed is kept, lost or torn.
    Power,
}

type Block = Box<[u8; BLOCK_BYTES]>;

/// The content of a simulated disk; it outlives the device handles.
#[derive(Clone)]
pub struct SimDisk(Rc<RefCell<Content>>);

struct Content {
    len_blocks: u64,
    volatile_cache: bool,
    stable: HashMap<u64, Block>,
    /// Completed writes that are not stable, oldest first.
    cached: VecDeque<(u64, Block)>,
    /// How many writes have left `cached`.
    settled: u64,
    rng: Rng,
    reads: u64,
    writes: u64,
    dies_after_writes: Option<u64>,
    fail_write_after: Option<u64>,
    fail_flushes: bool,
    fail_reads_of: Vec<u64>,
    faults: ReadFaults,
}

impl SimDisk {
    /// A blank disk.
    pub fn new(len_blocks: u64, volatile_cache: bool, seed: u64) -> Self {
        SimDisk(Rc::new(RefCell::new(Content {
            len_blocks,
            volatile_cache,
            stable: HashMap::new(),
            cached: VecDeque::new(),
            settled: 0,
            rng: Rng::new(seed),
            reads: 0,
            writes: 0,
            dies_after_writes: None,
            fail_write_after: None,
            fail_flushes: false,
            fail_reads_of: Vec::new(),
            faults: ReadFaults::default(),
        })))
    }

    /// A handle to the disk.
    pub fn open(&self) -> Box<dyn Bdev> {
        let content = self.0.borrow();
        Box::new(SimBdev {
            disk: self.clone(),
            info: BdevInfo {
                name: "simulated".to_owned(),
                kind: "simulated",
                len_blocks: content.len_blocks,
                volatile_cache: content.volatile_cache,
                queue_depth: 32,
            },
            queue: Vec::new(),
        })
    }

    /// Its size in blocks.
    pub fn len_blocks(&self) -> u64 {
        self.0.borrow().len_blocks
    }

    /// Makes it larger, for handles that are opened later.
    pub fn grow(&self, more_blocks: u64) {
        self.0.borrow_mut().len_blocks += more_blocks;
    }

    /// The number of reads so far, including failed ones.
    pub fn reads(&self) -> u64 {
        self.0.borrow().reads
    }

    /// The number of write commands completed so far.
    pub fn writes(&self) -> u64 {
        self.0.borrow().writes
    }

    /// The disk stops answering after this many write commands in total.
    pub fn die_after_writes(&self, writes: Option<u64>) {
        self.0.borrow_mut().dies_after_writes = writes;
    }

    /// Whether it has stopped answering.
    pub fn is_dead(&self) -> bool {
        let content = self.0.borrow();
        content.dies_after_writes.is_some_and(|limit| content.writes >= limit)
    }

    /// Write commands fail after this many have completed in total.
    pub fn fail_writes_after(&self, writes: Option<u64>) {
        self.0.borrow_mut().fail_write_after = writes;
    }

    /// Sets whether flushes fail.
    pub fn fail_flushes(&self, fail: bool) {
        self.0.borrow_mut().fail_flushes = fail;
    }

    /// Makes reads of these blocks fail.
    pub fn fail_reads_of(&self, blocks: &[u64]) {
        self.0.borrow_mut().fail_reads_of = blocks.to_vec();
    }

    /// Gives access to the faults of its reads.
    pub fn faults<T>(&self, look: impl FnOnce(&mut ReadFaults) -> T) -> T {
        look(&mut self.0.borrow_mut().faults)
    }

    /// Makes reads of a block fail `tries` times, or until it is written.
    pub fn fail_block(&self, block: u64, tries: Option<u32>) {
        let mut bytes = [0; BLOCK_BYTES];
        let mut content = self.0.borrow_mut();
        content.read(block, &mut bytes);
        content.faults.put(block, tries, &bytes);
    }

    /// What a read of a block would return now, without any fault.
    pub fn peek(&self, block: u64, into: &mut [u8]) {
        self.0.borrow().read(block, into);
    }

    /// Whether a crash leaves a block as it is now: no write to it waits for a flush.
    pub fn is_stable(&self, block: u64) -> bool {
        !self.0.borrow().cached.iter().any(|(cached, _)| *cached == block)
    }

    /// Calls `see` for every written block, in order, with the data that a read would return now.
    pub fn visit(&self, mut see: impl FnMut(u64, &[u8; BLOCK_BYTES])) {
        let content = self.0.borrow();
        let mut blocks: BTreeMap<u64, &Block> =
            content.stable.iter().map(|(&block, bytes)| (block, bytes)).collect();
        blocks.extend(content.cached.iter().map(|(block, bytes)| (*block, bytes)));
        for (block, bytes) in blocks {
            see(block, bytes);
        }
    }

    /// A digest of every written block, and of where it is.
    pub fn digest(&self) -> u64 {
        let mut digest = 0xcbf2_9ce4_8422_2325_u64;
        let mut mix = |word: u64| digest = (digest ^ word).wrapping_mul(0x100_0000_01b3).rotate_left(23);
        self.visit(|block, bytes| {
            mix(block);
            bytes.as_chunks::<8>().0.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
        });
        digest
    }

    /// The content of a block, if it was ever written.
    pub fn block(&self, block: u64) -> Option<Vec<u8>> {
        let mut content = self.0.borrow_mut();
        content.settle();
        content.stable.get(&block).map(|bytes| bytes.to_vec())
    }

    /// Reads a block, flushed or not; `false` when the read fails.
    pub fn read_now(&self, block: u64, into: &mut [u8]) -> bool {
        let mut content = self.0.borrow_mut();
        if content.fails(block..block + 1, true) {
            return false;
        }
        content.read(block, into);
        true
    }

    /// Writes a block directly, without any cache.
    pub fn set_block(&self, block: u64, bytes: &[u8; BLOCK_BYTES]) {
        let mut content = self.0.borrow_mut();
        content.settle();
        content.stable.insert(block, Box::new(*bytes));
    }

    /// Settles the state after a crash. The handles must be dropped before, which settles what was
    /// in flight.
    pub fn crash(&self, crash: Crash) {
        let mut content = self.0.borrow_mut();
        content.dies_after_writes = None;
        let cached = std::mem::take(&mut content.cached);
        content.settled += cached.len() as u64;
        for (block, bytes) in cached {
            if crash == Crash::Process || !content.volatile_cache {
                content.stable.insert(block, bytes);
            } else {
                content.keep_lose_or_tear(block, &bytes);
            }
        }
    }

    /// Flips one bit of a block, if the block was ever written. Returns whether it was.
    pub fn flip_bit(&self, block: u64, bit: u64) -> bool {
        let mut content = self.0.borrow_mut();
        content.settle();
        let Some(bytes) = content.stable.get_mut(&block) else { return false };
        bytes[(bit / 8) as usize % BLOCK_BYTES] ^= 1 << (bit % 8);
        true
    }

    /// The blocks that were ever written, in order.
    pub fn written_blocks(&self) -> Vec<u64> {
        let mut content = self.0.borrow_mut();
        content.settle();
        let mut blocks: Vec<u64> = content.stable.keys().copied().collect();
        blocks.sort_unstable();
        blocks
    }

    /// An independent copy of the disk in its present state.
    #[must_use]
    pub fn fork(&self) -> SimDisk {
        let mut content = self.0.borrow_mut();
        content.settle();
        SimDisk(Rc::new(RefCell::new(Content {
            len_blocks: content.len_blocks,
            volatile_cache: content.volatile_cache,
            stable: content.stable.clone(),
            cached: VecDeque::new(),
            settled: 0,
            rng: content.rng.clone(),
            reads: 0,
            writes: 0,
            dies_after_writes: None,
            fail_write_after: None,
            fail_flushes: false,
            fail_reads_of: Vec::new(),
            faults: ReadFaults::default(),
        })))
    }
}

impl Content {
    fn settle(&mut self) {
        self.settle_up_to(u64::MAX);
    }

    /// How many writes were ever cached.
    fn cached_in_all(&self) -> u64 {
        self.settled + self.cached.len() as u64
    }

    /// Makes the first `count` writes that were ever cached stable.
    fn settle_up_to(&mut self, count: u64) {
        while self.settled < count {
            let Some((block, bytes)) = self.cached.pop_front() else { return };
            self.stable.insert(block, bytes);
            self.settled += 1;
        }
    }

    /// Whether a read of these blocks fails.
    fn fails(&mut self, blocks: std::ops::Range<u64>, is_archivist: bool) -> bool {
        if self.faults.is_empty() {
            return false;
        }
        let mut faults = std::mem::take(&mut self.faults);
        let fails = faults.fails(blocks, is_archivist, |block, into| self.read(block, into));
        self.faults = faults;
        fails
    }

    fn read(&self, block: u64, into: &mut [u8]) {
        let cached = self.cached.iter().rev().find(|(known, _)| *known == block).map(|(_, bytes)| bytes);
        match cached.or_else(|| self.stable.get(&block)) {
            Some(bytes) => into.copy_from_slice(&bytes[..]),
            None => into.fill(0),
        }
    }

    fn keep_lose_or_tear(&mut self, block: u64, bytes: &[u8; BLOCK_BYTES]) {
        match self.rng.below(3) {
            0 => {
                self.stable.insert(block, Box::new(*bytes));
            }
            1 => {}
            _ => {
                let mut torn =
                    self.stable.get(&block).map_or_else(|| Box::new([0; BLOCK_BYTES]), Clone::clone);
                let sectors = self.rng.below(8) as usize;
                torn[..sectors * 512].copy_from_slice(&bytes[..sectors * 512]);
                self.stable.insert(block, torn);
            }
        }
    }
}

struct SimBdev {
    disk: SimDisk,
    info: BdevInfo,
    /// Commands with the count of cached writes when each was submitted: a flush covers only writes
    /// that had completed by then.
    queue: Vec<(Command, u64)>,
}

fn blocks_of(buffers: &SmallVec<[varve::dma::DmaBuf; 2]>) -> impl Iterator<Item = &[u8; BLOCK_BYTES]> {
    buffers.iter().flat_map(|buffer| buffer.as_chunks::<BLOCK_BYTES>().0)
}

impl Bdev for SimBdev {
    fn info(&self) -> &BdevInfo {
        &self.info
    }

    fn submit(&mut self, command: Command) -> Submit {
        if self.queue.len() >= self.info.queue_depth {
            return Submit::Full(command);
        }
        let completed = self.disk.0.borrow().cached_in_all();
        self.queue.push((command, completed));
        Submit::Queued
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) -> usize {
        let mut count = 0;
        loop {
            let mut content = self.disk.0.borrow_mut();
            if self.queue.is_empty() || content.dies_after_writes.is_some_and(|limit| content.writes >= limit)
            {
                return count;
            }
            // Some polls return nothing, so that several commands are in flight at once.
            if content.rng.one_in(2) {
                return count;
            }
            let pick = content.rng.below(self.queue.len() as u64) as usize;
            let (command, completed) = self.queue.swap_remove(pick);
            completions.push(content.complete(&self.info, command, completed));
            count += 1;
        }
    }

    fn in_flight(&self) -> usize {
        self.queue.len()
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Content {
    fn complete(&mut self, info: &BdevInfo, command: Command, completed_before: u64) -> Completion {
        let mut buffers = SmallVec::new();
        let fail = |operation: &Operation, kind| BdevError {
            device: info.name.clone(),
            operation: operation.name(),
            block: operation.block(),
            len_blocks: operation.len_blocks(),
            kind,
        };
        let mut result =
            command.operation.check(info.len_blocks).map_err(|kind| fail(&command.operation, kind));
        let is_write = matches!(command.operation, Operation::Write { .. });
        if is_write && self.fail_write_after.is_some_and(|limit| self.writes >= limit) {
            result = Err(fail(&command.operation, BdevErrorKind::Injected));
        }
        if let Operation::Read { block, .. } = &command.operation {
            self.reads += 1;
            let touched = *block..*block + command.operation.len_blocks();
            if self.fail_reads_of.iter().any(|bad| touched.contains(bad)) || self.fails(touched, false) {
                result = Err(fail(&command.operation, BdevErrorKind::Injected));
            }
        }
        match command.operation {
            Operation::Read { block, buffers: mut parts } => {
                if result.is_ok() {
                    let mut at = block;
                    for part in &mut parts {
                        for chunk in part.as_mut_slice().chunks_exact_mut(BLOCK_BYTES) {
                            self.read(at, chunk);
                            at += 1;
                        }
                    }
                }
                buffers = parts;
            }
            Operation::Write { block, buffers: parts } => {
                if result.is_ok() {
                    self.writes += 1;
                    for (index, bytes) in blocks_of(&parts).enumerate() {
                        self.faults.written(block + index as u64);
                        self.cached.push_back((block + index as u64, Box::new(*bytes)));
                    }
                    if !self.volatile_cache {
                        self.settle();
                    }
                }
            }
            Operation::Flush => {
                if self.fail_flushes {
                    result = Err(fail(&Operation::Flush, BdevErrorKind::Injected));
                } else {
                    self.settle_up_to(completed_before);
                }
            }
            Operation::Discard { block, len_blocks } => {
                for at in block..block + len_blocks {
                    self.cached.push_back((at, Box::new([0; BLOCK_BYTES])));
                }
            }
        }
        Completion { tag: command.tag, result, buffers }
    }
}

impl Drop for SimBdev {
    /// What is in flight when the process dies is kept, lost or torn, block by block.
    fn drop(&mut self) {
        let mut content = self.disk.0.borrow_mut();
        content.settle_completed_for_drop();
        for (command, _) in self.queue.drain(..) {
            if let Operation::Write { block, buffers } = command.operation {
                for (index, bytes) in blocks_of(&buffers).enumerate() {
                    content.in_flight_at_drop(block + index as u64, bytes);
                }
            }
        }
    }
}

impl Content {
    fn settle_completed_for_drop(&mut self) {
        if !self.volatile_cache {
            self.settle();
        }
    }

    fn in_flight_at_drop(&mut self, block: u64, bytes: &[u8; BLOCK_BYTES]) {
        match self.rng.below(3) {
            0 => {
                // Like any write, it repairs a bad sector.
                self.faults.written(block);
                self.cached.push_back((block, Box::new(*bytes)));
            }
            1 => self.faults.cut_off(block, bytes),
            _ => {
                self.faults.cut_off(block, bytes);
                let mut torn = Box::new([0; BLOCK_BYTES]);
                self.read(block, &mut torn[..]);
                let sectors = self.rng.below(8) as usize;
                torn[..sectors * 512].copy_from_slice(&bytes[..sectors * 512]);
                self.cached.push_back((block, torn));
            }
        }
    }
}
