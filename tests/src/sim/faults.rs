//! Reads of the simulated disk that fail, and counts of every fault: how many were injected, and
//! how many were hit.
//!
//! A block fails a few times and then recovers (**transient**), or fails until it is written again
//! (**lasting**). A **storm** makes blocks transient as they are read, at any place, so the first
//! reads of a start can fail too. The bytes of the block decide which kind of block was hit, not
//! the pool's view of it.

use std::collections::BTreeMap;

use varve::dma::BLOCK_BYTES;
use varve::log::format::trailer_blocks;
use varve::log::geometry::FIRST_SLOT_BLOCK;

use super::model::Stamp;
use super::rng::Rng;

/// The maximum number of failed tries of a transient fault, and of a storm as a whole. The pool
/// retries for 1 s, which is more.
pub const TRIES_MAX: u32 = 4;

/// Which faults a campaign has, besides crashes and store faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// Device reads that fail and then recover.
    pub transient: bool,
    /// Device reads that fail until the block is written.
    pub lasting: bool,
    /// Temporary shortages of memory.
    pub memory: bool,
    /// Starts on copies of the device that are damaged or partly unreadable.
    pub starts: bool,
}

impl Faults {
    /// None of them.
    pub const NONE: Faults = Faults { transient: false, lasting: false, memory: false, starts: false };
    /// All of them.
    pub const ALL: Faults = Faults { transient: true, lasting: true, memory: true, starts: true };

    /// The faults that a list names; `None` when it names something else.
    pub fn parse(list: &str) -> Option<Faults> {
        let mut faults = Faults::NONE;
        for name in list.split(',') {
            match name {
                "transient" => faults.transient = true,
                "lasting" => faults.lasting = true,
                "memory" => faults.memory = true,
                "starts" => faults.starts = true,
                _ => return None,
            }
        }
        Some(faults)
    }
}

/// What a block of the device is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A copy of the superblock.
    Superblock,
    /// The first block of a slot.
    SegmentHeader,
    /// The first block of a trailer.
    TrailerHead,
    /// Another block of a trailer.
    TrailerBody,
    /// The header of a record.
    RecordHeader,
    /// A part of an event: of a catalog, of a synch.
    Event,
    /// A block that a host wrote, with the number of its write.
    Data(u64, Stamp),
    /// Never written.
    Blank,
}

impl Place {
    /// The kind of a block, from its position and its content.
    ///
    /// # Panics
    /// When it is shorter than a block.
    pub fn of(device_block: u64, segment_blocks: u64, bytes: &[u8]) -> Self {
        if device_block < FIRST_SLOT_BLOCK || bytes.starts_with(b"VARVE-SB") {
            return Place::Superblock;
        }
        let offset = (device_block - FIRST_SLOT_BLOCK) % segment_blocks;
        let word = |index: usize| {
            let bytes = bytes[8 * index..].first_chunk().expect("a block has more words");
            u64::from_le_bytes(*bytes)
        };
        match offset.checked_sub(segment_blocks - trailer_blocks(segment_blocks)) {
            _ if offset == 0 => Place::SegmentHeader,
            Some(0) => Place::TrailerHead,
            Some(_) => Place::TrailerBody,
            None if bytes.starts_with(b"VREC") => Place::RecordHeader,
            // As the model fills it: the words differ by their index.
            None if word(0) ^ word(1) == 1 << 48 => {
                let (block, stamp) = (word(0) >> 32, word(0) & u64::from(u32::MAX));
                Place::Data(block, stamp)
            }
            None if bytes.iter().all(|&byte| byte == 0) => Place::Blank,
            None => Place::Event,
        }
    }

    /// One number for each kind.
    pub fn kind(self) -> usize {
        match self {
            Place::Superblock => 0,
            Place::SegmentHeader => 1,
            Place::TrailerHead => 2,
            Place::TrailerBody => 3,
            Place::RecordHeader => 4,
            Place::Event => 5,
            Place::Data(..) => 6,
            Place::Blank => 7,
        }
    }
}

/// Kinds of places.
pub const PLACES: usize = 8;
/// Their names, by [`Place::kind`].
pub const PLACE_NAMES: [&str; PLACES] =
    ["superblock", "header", "trailer head", "trailer body", "record header", "event", "data", "blank"];

/// Faults of one sort: how many were injected, and how often one was hit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCount {
    /// Injected.
    pub injected: u64,
    /// Hit.
    pub hit: u64,
}

impl std::ops::AddAssign for FaultCount {
    fn add_assign(&mut self, other: FaultCount) {
        self.injected += other.injected;
        self.hit += other.hit;
    }
}

/// Faults of every sort.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Reads that fail and then recover, by [`Place::kind`].
    pub transient: [FaultCount; PLACES],
    /// Reads that fail until the block is written, by [`Place::kind`].
    pub lasting: [FaultCount; PLACES],
    /// How many reads that hit one of these were the archivist's.
    pub of_archivist: u64,
    /// Failed calls of a store.
    pub store: FaultCount,
    /// Shortages of memory, and allocations of the pool that were refused during them.
    pub memory: FaultCount,
    /// Starts on a damaged device, by [`Place::kind`], and how many of them the pool reported to
    /// the operator.
    pub starts: [FaultCount; PLACES],
    /// The same, with blocks that cannot be read.
    pub unreadable_starts: [FaultCount; PLACES],
    /// Starts on a device with a whole slot of zeroes, and how many of them the pool reported.
    pub zeroed_slots: FaultCount,
    /// Blocks that were refused, each within what a fault may refuse.
    pub refused_blocks: u64,
    /// Rounds of competing hosts, and their commands, all of which ended.
    pub competitions: FaultCount,
    /// The maximum number of turns that a command of these hosts, or any other wait, took.
    pub turns_max: u64,
}

fn add(into: &mut [FaultCount; PLACES], from: [FaultCount; PLACES]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into += from;
    }
}

impl std::ops::AddAssign for FaultCounts {
    fn add_assign(&mut self, other: FaultCounts) {
        add(&mut self.transient, other.transient);
        add(&mut self.lasting, other.lasting);
        self.of_archivist += other.of_archivist;
        self.store += other.store;
        self.memory += other.memory;
        add(&mut self.starts, other.starts);
        add(&mut self.unreadable_starts, other.unreadable_starts);
        self.zeroed_slots += other.zeroed_slots;
        self.refused_blocks += other.refused_blocks;
        self.competitions += other.competitions;
        self.turns_max = self.turns_max.max(other.turns_max);
    }
}

impl std::fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by_place = |f: &mut std::fmt::Formatter<'_>, what: &str, counts: &[FaultCount; PLACES]| {
            for (name, count) in PLACE_NAMES.iter().zip(counts).filter(|(_, count)| count.injected > 0) {
                writeln!(f, "  {what}, {name}: {} injected, {} hit", count.injected, count.hit)?;
            }
            Ok(())
        };
        by_place(f, "transient read error", &self.transient)?;
        by_place(f, "lasting read error", &self.lasting)?;
        writeln!(f, "  hit by the archivist: {}", self.of_archivist)?;
        writeln!(f, "  store: {} calls failed", self.store.hit)?;
        writeln!(
            f,
            "  memory short: {} times, {} allocations refused",
            self.memory.injected, self.memory.hit
        )?;
        by_place(f, "start, damaged (hit: told)", &self.starts)?;
        by_place(f, "start, unreadable (hit: told)", &self.unreadable_starts)?;
        let (slots, told) = (self.zeroed_slots.injected, self.zeroed_slots.hit);
        writeln!(f, "  start, a slot of zeroes: {slots} injected, {told} told")?;
        writeln!(f, "  blocks refused, all within bounds: {}", self.refused_blocks)?;
        let (rounds, commands) = (self.competitions.injected, self.competitions.hit);
        write!(f, "  hosts that compete: {rounds} rounds, {commands} commands ended; ")?;
        writeln!(f, "at most {} turns for anything", self.turns_max)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bad {
    Tries(u32),
    UntilWritten,
}

/// Makes blocks transient as they are read.
#[derive(Debug, Clone)]
struct Storm {
    rng: Rng,
    /// One read in this many is hit.
    odds: u64,
    /// How many more reads it lasts.
    left: u64,
    /// How many more failed tries it may cause.
    tries_left: u32,
    /// Blocks that have failed in it; they do not fail again.
    seen: std::collections::BTreeSet<u64>,
}

/// The reads that a disk fails.
#[derive(Debug, Clone, Default)]
pub struct ReadFaults {
    bad: BTreeMap<u64, Bad>,
    storm: Option<Storm>,
    /// For the counts; 0 if nobody needs them.
    segment_blocks: u64,
    /// What a crash cut off while it was written over a block that cannot be read.
    cut_off: Vec<Place>,
    /// Counts of transient and lasting faults and of the archivist's hits; the other counts are not
    /// the disk's.
    pub counts: FaultCounts,
}

impl ReadFaults {
    /// Faults of a device with segments of this size.
    pub fn new(segment_blocks: u64) -> Self {
        ReadFaults { segment_blocks, ..ReadFaults::default() }
    }

    /// The same faults, counted for a device with segments of this size.
    pub fn count_for(&mut self, segment_blocks: u64) {
        self.segment_blocks = segment_blocks;
    }

    /// Whether no read fails.
    pub fn is_empty(&self) -> bool {
        self.bad.is_empty() && self.storm.is_none()
    }

    /// Makes a block fail `tries` times, or until it is written.
    pub fn put(&mut self, device_block: u64, tries: Option<u32>, bytes: &[u8; BLOCK_BYTES]) {
        let kind = self.kind_of(device_block, bytes);
        let (bad, counts) = match tries {
            Some(tries) => (Bad::Tries(tries), &mut self.counts.transient),
            None => (Bad::UntilWritten, &mut self.counts.lasting),
        };
        self.bad.insert(device_block, bad);
        counts[kind].injected += 1;
    }

    /// In the next `reads` reads, one in `odds` hits a block that fails a few times.
    pub fn begin_storm(&mut self, seed: u64, odds: u64, reads: u64) {
        let rng = Rng::new(seed);
        self.storm = Some(Storm {
            rng,
            odds,
            left: reads,
            tries_left: TRIES_MAX,
            seen: std::collections::BTreeSet::new(),
        });
    }

    fn kind_of(&self, device_block: u64, bytes: &[u8]) -> usize {
        match self.segment_blocks {
            0 => Place::Blank.kind(),
            segment_blocks => Place::of(device_block, segment_blocks, bytes).kind(),
        }
    }

    /// Blocks that fail until they are written.
    pub fn lasting(&self) -> impl Iterator<Item = u64> + '_ {
        self.bad.iter().filter(|(_, bad)| **bad == Bad::UntilWritten).map(|(&block, _)| block)
    }

    /// Removes every fault.
    pub fn heal(&mut self) {
        self.bad.clear();
        self.storm = None;
    }

    /// Removes the transient faults.
    pub fn calm(&mut self) {
        self.bad.retain(|_, bad| *bad == Bad::UntilWritten);
        self.storm = None;
    }

    /// A block was written, so it can be read again.
    pub fn written(&mut self, device_block: u64) {
        if !self.bad.is_empty() {
            self.bad.remove(&device_block);
        }
    }

    /// The write of a block was cut off; a block that could not be read before still cannot be
    /// read.
    pub fn cut_off(&mut self, device_block: u64, bytes: &[u8]) {
        if self.segment_blocks > 0 && self.bad.get(&device_block) == Some(&Bad::UntilWritten) {
            self.cut_off.push(Place::of(device_block, self.segment_blocks, bytes));
        }
    }

    /// What was cut off over unreadable blocks since the last call.
    pub fn take_cut_off(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.cut_off)
    }

    /// Whether a read of these blocks fails now. `read` returns a block's bytes, for the counts.
    pub fn fails(
        &mut self,
        blocks: std::ops::Range<u64>,
        is_archivist: bool,
        read: impl Fn(u64, &mut [u8]),
    ) -> bool {
        self.blow(blocks.clone(), &read);
        let mut fails = false;
        let found: Vec<(u64, Bad)> = self.bad.range(blocks).map(|(&block, &bad)| (block, bad)).collect();
        for (block, bad) in found {
            let mut bytes = [0; BLOCK_BYTES];
            read(block, &mut bytes);
            let kind = self.kind_of(block, &bytes);
            match bad {
                Bad::UntilWritten => self.counts.lasting[kind].hit += 1,
                Bad::Tries(left) => {
                    self.counts.transient[kind].hit += 1;
                    match left {
                        0 | 1 => drop(self.bad.remove(&block)),
                        left => drop(self.bad.insert(block, Bad::Tries(left - 1))),
                    }
                }
            }
            self.counts.of_archivist += u64::from(is_archivist);
            fails = true;
        }
        fails
    }

    fn blow(&mut self, blocks: std::ops::Range<u64>, read: &impl Fn(u64, &mut [u8])) {
        let Some(storm) = &mut self.storm else { return };
        storm.left = storm.left.saturating_sub(1);
        let picked = blocks.start + storm.rng.below((blocks.end - blocks.start).max(1));
        let strikes = storm.rng.one_in(storm.odds) && storm.seen.insert(picked);
        let tries = 1 + storm.rng.below(u64::from(storm.tries_left)) as u32;
        if strikes {
            storm.tries_left -= tries;
        }
        let is_over = storm.left == 0 || storm.tries_left == 0;
        if is_over {
            self.storm = None;
        }
        if strikes && !self.bad.contains_key(&picked) {
            let mut bytes = [0; BLOCK_BYTES];
            read(picked, &mut bytes);
            self.put(picked, Some(tries), &bytes);
        }
    }
}
