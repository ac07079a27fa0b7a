//! Faults of the device and of memory in a run, and what they may refuse.
//!
//! **What may be refused.** A transient fault and a shortage of memory refuse nothing. A lasting
//! fault in a block of data refuses what was written there, wherever that data is copied, and
//! nothing else: the numbers of writes are known, so each refused block is checked. A lasting fault
//! in a header, a trailer or an event refuses nothing, because all of this is stored twice. So a
//! run puts at most one of these into a segment, and none into a segment whose trailer is not
//! stable yet.
//!
//! These faults have their own random numbers, so a seed's other choices are the same as without
//! faults.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;
use varve::dma::BLOCK_BYTES;
use varve::log::format::{TrailerHead, trailer_blocks};
use varve::log::geometry::FIRST_SLOT_BLOCK;
use varve::volume::{SegmentInfo, SegmentState};

use super::disk::SimDisk;
use super::faults::{FaultCounts, Faults, Place, ReadFaults, TRIES_MAX};
use super::model::{Change, Stamp};
use super::rng::Rng;
use super::shortage;
use super::store::MemoryStore;
use super::workload::Run;
use super::world::take_most_turns;

/// Each reading of a clock advances it by this much, so that every wait for a time ends.
const NS_PER_LOOK: u64 = 1_000_000;
/// The maximum length of a memory shortage in turns; the pool waits longer than that.
const SHORTAGE_TURNS_MAX: u64 = 400;
/// The maximum number of blocks that a shortage leaves.
const LEFT_BLOCKS_MAX: u64 = 300;

/// The number of commands of each host when hosts compete.
const COMMANDS_OF_HOSTS: u64 = 40;

/// Blocks that may be refused.
#[derive(Debug, Default, Clone)]
pub struct Excused {
    stamps: HashSet<(u64, Stamp)>,
    /// Whether blocks that nobody wrote are among them: a write to them may be lost.
    blanks: bool,
    refused: RefCell<HashSet<(u64, Stamp)>>,
}

impl Excused {
    /// Excuses the content that a write wrote in a block.
    pub fn add(&mut self, block: u64, stamp: Stamp) {
        self.stamps.insert((block, stamp));
    }

    /// Excuses blocks that nobody wrote.
    pub fn add_blanks(&mut self) {
        self.blanks = true;
    }

    /// Whether nothing may be refused.
    pub fn is_empty(&self) -> bool {
        self.stamps.is_empty() && !self.blanks
    }

    /// Whether a block with this content may be refused.
    pub fn allows(&self, block: u64, stamp: Stamp) -> bool {
        self.stamps.contains(&(block, stamp)) || (self.blanks && stamp == 0)
    }

    /// Records that a block was refused.
    pub fn note(&self, block: u64, stamp: Stamp) {
        self.refused.borrow_mut().insert((block, stamp));
    }

    /// How many different blocks were refused.
    pub fn refused(&self) -> u64 {
        self.refused.borrow().len() as u64
    }
}

/// Which faults a run has.
#[derive(Debug, Clone)]
struct Plan {
    rng: Rng,
    faults: Faults,
}

/// The faults of a run.
#[derive(Default)]
pub struct Trouble {
    plan: Option<Plan>,
    /// Whether a lasting fault was injected: then the pool reports problems.
    pub(super) had_lasting: bool,
    /// The number of lasting faults in blocks of segment headers.
    bad_headers: u64,
    /// What may be refused.
    pub excused: Excused,
    /// Segments that had a whole trailer when the device died: a trailer that a start writes proves
    /// nothing.
    sealed: HashSet<u64>,
    /// Whether the last crash cut off writes over blocks that cannot be read.
    pub(super) has_cut_off: bool,
    /// Stretches where it is unknown whether a record was written: none was.
    unwritten: Vec<(u64, u64)>,
    /// Entries from here on are lost: a later point may be refused.
    pub(super) lost_from: Option<u64>,
    /// The archive's store, if starts on copies of the device may have a copy of it.
    pub memory_store: Option<Arc<MemoryStore>>,
    /// The counts that the disk does not keep.
    pub(super) counts: FaultCounts,
}

/// The stretch of records that a problem reports as lost.
fn lost_stretch(problem: &str) -> Option<(u64, u64)> {
    let rest = problem.strip_prefix("the records at LSN ")?;
    let (stretch, _) = rest.split_once(" are lost")?;
    let (start, end) = stretch.split_once(" to ")?;
    Some((start.parse().ok()?, end.parse().ok()?))
}

/// The segment whose whole trailer begins at a block of the device.
fn sealed_at(disk: &SimDisk, pool: Uuid, segment_blocks: u64, trailer_block: u64) -> Option<u64> {
    let mut area = vec![0; trailer_blocks(segment_blocks) as usize * BLOCK_BYTES];
    for (block, bytes) in (trailer_block..).zip(area.chunks_exact_mut(BLOCK_BYTES)) {
        disk.peek(block, bytes);
    }
    let head = TrailerHead::decode(&area, pool, segment_blocks).ok()?;
    (!head.partial && head.body(&area).is_ok()).then_some(head.sequence.0)
}

/// Whether a segment's trailer is on the device and stays there: what is stored twice with it is
/// stored twice after every crash.
fn has_stable_trailer(
    disk: &SimDisk,
    pool: Uuid,
    segment_blocks: u64,
    trailer_block: u64,
    segment: &SegmentInfo,
) -> bool {
    let mut blocks = trailer_block..trailer_block + trailer_blocks(segment_blocks);
    let sealed = segment.sequence.filter(|_| blocks.all(|block| disk.is_stable(block)));
    sealed.is_some() && sealed_at(disk, pool, segment_blocks, trailer_block) == sealed
}

impl Trouble {
    /// For a run on a copy of the device: no more faults, but the losses so far remain.
    pub(super) fn of_copy(&self) -> Trouble {
        Trouble { had_lasting: true, excused: self.excused.clone(), ..Trouble::default() }
    }

    /// Whether starts on copies are tried.
    pub(super) fn has_starts(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.faults.starts)
    }

    /// Whether a step was never written although the log extends past its position.
    pub(super) fn is_unwritten(&self, lsn: u64) -> bool {
        self.unwritten.iter().any(|&(start, end)| (start..end).contains(&lsn))
    }

    /// Whether faults are injected now.
    pub(super) fn has_plan(&self) -> bool {
        self.plan.is_some()
    }

    /// Random numbers for faults, while there are any.
    pub(super) fn rng(&mut self) -> Option<&mut Rng> {
        self.plan.as_mut().map(|plan| &mut plan.rng)
    }
}

impl Run {
    /// The run has faults from here on.
    pub fn begin_trouble(&mut self, faults: Faults) {
        if faults == Faults::NONE {
            return;
        }
        let mut rng = Rng::new(self.seed ^ 0xfa17_0000);
        // Not all kinds in every run: otherwise a fault that may refuse something would hide one
        // that must not.
        let (transient, lasting) = [(true, false), (false, true), (true, true)][rng.below(3) as usize];
        let memory = rng.one_in(2);
        let faults = Faults {
            transient: faults.transient && (transient || !faults.lasting),
            lasting: faults.lasting && (lasting || !faults.transient),
            memory: faults.memory && (memory || !(faults.lasting || faults.transient)),
            starts: faults.starts,
        };
        self.trouble.plan = Some(Plan { rng, faults });
        self.world.clock.move_with_looks(NS_PER_LOOK);
        let segment_blocks = self.shape.segment_blocks;
        self.disk.faults(|faults| *faults = ReadFaults::new(segment_blocks));
        take_most_turns();
        shortage::take_counts();
    }

    /// Injects faults at random while the pool runs. Called once for each step.
    pub fn make_trouble(&mut self) {
        let Some(plan) = &mut self.trouble.plan else { return };
        let faults = plan.faults;
        let rng = &mut plan.rng;
        match rng.below(300) {
            0..8 if faults.transient => {
                let (seed, odds, reads) = (rng.next_u64(), 1 + rng.below(6), 1 + rng.below(60));
                self.disk.faults(|faults| faults.begin_storm(seed, odds, reads));
            }
            8..14 if faults.transient => {
                let tries = 1 + rng.below(u64::from(TRIES_MAX)) as u32;
                if let Some((block, _)) = self.pick_block(false) {
                    self.disk.fail_block(block, Some(tries));
                }
            }
            14..18 if faults.memory => self.run_short_of_memory(),
            18..21 if faults.lasting => self.put_lasting(),
            _ => {}
        }
    }

    /// Injects faults before a start.
    pub(super) fn make_trouble_at_start(&mut self) {
        let Some(plan) = &mut self.trouble.plan else { return };
        let faults = plan.faults;
        let rng = &mut plan.rng;
        if rng.one_in(2) && faults.transient {
            let (seed, odds, reads) = (rng.next_u64(), 1 + rng.below(8), 1 + rng.below(80));
            self.disk.faults(|faults| faults.begin_storm(seed, odds, reads));
        }
        if plan.rng.one_in(3) && faults.memory {
            self.run_short_of_memory();
        }
    }

    /// The number of slots whose segment header cannot be read, or could not: the pool may know of
    /// them since its start.
    pub(super) fn unreadable_headers(&self) -> u64 {
        self.trouble.bad_headers
    }

    fn run_short_of_memory(&mut self) {
        let Some(plan) = &mut self.trouble.plan else { return };
        let left = plan.rng.below(LEFT_BLOCKS_MAX + 1);
        let left = if plan.rng.one_in(3) { 0 } else { left };
        let turns = 1 + plan.rng.below(SHORTAGE_TURNS_MAX);
        shortage::begin(&self.world.environment.dma, left as usize, turns);
    }

    /// Injects a block that cannot be read until it is written again.
    fn put_lasting(&mut self) {
        let Some((block, place)) = self.pick_block(true) else { return };
        self.disk.fail_block(block, None);
        self.trouble.had_lasting = true;
        // This includes the place of the superblock at the end of a smaller device: a slot begins
        // there now, or will.
        let in_slot = block.checked_sub(FIRST_SLOT_BLOCK).map(|offset| offset % self.shape.segment_blocks);
        self.trouble.bad_headers += u64::from(in_slot == Some(0));
        if let Place::Data(block, stamp) = place {
            self.trouble.excused.add(block, stamp);
        }
    }

    /// Records which segments of a pool have their trailers, after the device has died.
    pub(super) fn note_sealed(&mut self, pool: Uuid) {
        let segment_blocks = self.shape.segment_blocks;
        let slots = self.disk.len_blocks().saturating_sub(FIRST_SLOT_BLOCK) / segment_blocks;
        let trailers = (1..=slots)
            .map(|end| FIRST_SLOT_BLOCK + end * segment_blocks - trailer_blocks(segment_blocks))
            .filter_map(|block| sealed_at(&self.disk, pool, segment_blocks, block));
        self.trouble.sealed = trailers.collect();
    }

    /// A sector that was bad in the previous use of its slot, and was not written since, may be
    /// where the log ends. Then it is unknown whether a record was written there: the pool reports
    /// that one may have been, and refuses what it may have replaced. A write that the crash tore
    /// leaves such a sector too. Each crash check verifies that nothing guaranteed was there.
    pub(super) fn excuse_unwritten(&mut self) {
        let bad: HashSet<u64> = self.disk.faults(|faults| faults.lasting().collect());
        // Writes in flight were never guaranteed.
        let cut_off = self.disk.faults(ReadFaults::take_cut_off);
        self.trouble.has_cut_off = !cut_off.is_empty();
        for place in cut_off {
            if let Place::Data(block, stamp) = place {
                self.trouble.excused.add(block, stamp);
            }
        }
        let segment_blocks = self.shape.segment_blocks;
        for (start, end) in self.pool.info().problems.iter().filter_map(|problem| lost_stretch(problem)) {
            let segments = self.pool.segments();
            let segment = segments.iter().find(|segment| segment.sequence == Some(start / segment_blocks));
            let Some(segment) = segment.filter(|segment| segment.slot != u64::MAX) else { continue };
            let block = FIRST_SLOT_BLOCK + segment.slot * segment_blocks + start % segment_blocks;
            // What is sealed is also in the trailer.
            if bad.contains(&block) && !self.trouble.sealed.contains(&(start / segment_blocks)) {
                self.trouble.unwritten.push((start, end));
                self.excuse_entries(start, end);
            }
        }
    }

    /// The entries of a stretch may be lost: everything older may be refused, and so may later
    /// points.
    pub(super) fn excuse_entries(&mut self, first_lsn: u64, end_lsn: u64) {
        let excused = &mut self.trouble.excused;
        excused.add_blanks();
        for step in self.model.steps.iter().filter(|step| step.written_lsn < end_lsn) {
            if let Change::Write { block, stamps, .. } = &step.change {
                (*block..).zip(stamps).for_each(|(block, &stamp)| excused.add(block, stamp));
            }
        }
        self.trouble.lost_from = Some(self.trouble.lost_from.map_or(first_lsn, |known| known.min(first_lsn)));
    }

    fn place_at(&self, block: u64) -> Place {
        let mut bytes = [0; BLOCK_BYTES];
        self.disk.peek(block, &mut bytes);
        Place::of(block, self.shape.segment_blocks, &bytes)
    }

    /// A random block of a random kind in the log. With `lasting`, one that may fail permanently.
    fn pick_block(&mut self, lasting: bool) -> Option<(u64, Place)> {
        let segment_blocks = self.shape.segment_blocks;
        let data_end = segment_blocks - trailer_blocks(segment_blocks);
        let stable_lsn = self.pool.stats().stable_lsn;
        let segments = self.pool.segments();
        let current = segments.iter().find(|segment| segment.state == SegmentState::Current);
        let current_lsn = current.map_or(u64::MAX, |segment| segment.first_lsn);
        let pool = self.pool.info().uuid;
        // By slot: how many blocks count, and whether the trailer is stable.
        let slots: BTreeMap<u64, (u64, bool)> = segments
            .iter()
            .filter(|segment| segment.sequence.is_some())
            .map(|segment| {
                let first_block =
                    FIRST_SLOT_BLOCK + segment.slot.min(self.disk.len_blocks()) * segment_blocks;
                let is_sealed = segment.first_lsn < current_lsn
                    && stable_lsn > current_lsn
                    && has_stable_trailer(&self.disk, pool, segment_blocks, first_block + data_end, segment);
                (segment.slot, (segment.used_blocks, is_sealed))
            })
            .collect();
        let slot_of = |block: u64| (block - FIRST_SLOT_BLOCK) / segment_blocks;
        let bad: Vec<u64> = self.disk.faults(|faults| faults.lasting().collect());
        let is_metadata = |block: u64| !matches!(self.place_at(block), Place::Data(..));
        let taken: HashSet<u64> = bad
            .iter()
            .filter(|&&block| block >= FIRST_SLOT_BLOCK && is_metadata(block))
            .map(|&block| slot_of(block))
            .collect();
        let superblock_taken = bad.iter().any(|&block| self.place_at(block) == Place::Superblock);
        let mut by_kind: BTreeMap<usize, Vec<(u64, Place)>> = BTreeMap::new();
        self.disk.visit(|block, bytes| {
            let place = Place::of(block, segment_blocks, bytes);
            let counts = if let Place::Superblock = place {
                !(lasting && superblock_taken)
            } else {
                let offset = (block - FIRST_SLOT_BLOCK) % segment_blocks;
                let slot = slots.get(&slot_of(block));
                let is_data = matches!(place, Place::Data(..));
                slot.is_some_and(|&(used, is_sealed)| {
                    (offset < used || (offset >= data_end && is_sealed))
                        && (!lasting || is_data || (is_sealed && !taken.contains(&slot_of(block))))
                })
            };
            if counts && place != Place::Blank && !bad.contains(&block) {
                by_kind.entry(place.kind()).or_default().push((block, place));
            }
        });
        let rng = self.trouble.rng()?;
        let kinds: Vec<_> = by_kind.values().collect();
        // In half of the cases, a block of data.
        let data = by_kind.get(&Place::Data(0, 0).kind()).filter(|_| rng.one_in(2));
        let from = match data {
            Some(data) => data,
            None if kinds.is_empty() => return None,
            None => kinds[rng.below(kinds.len() as u64) as usize],
        };
        Some(from[rng.below(from.len() as u64) as usize])
    }

    /// Ends the transient faults and the shortage of memory; bad sectors remain. Then hosts
    /// compete, and all of their commands must end.
    pub fn end_trouble(&mut self) {
        let Some(plan) = self.trouble.plan.take() else { return };
        self.disk.faults(ReadFaults::calm);
        shortage::end();
        self.compete(COMMANDS_OF_HOSTS, plan.faults.memory);
    }

    /// The same in one call of four, between two rounds; the faults then resume.
    pub fn pause_trouble(&mut self) {
        let Some(mut plan) = self.trouble.plan.take() else { return };
        if plan.rng.one_in(4) {
            self.disk.faults(ReadFaults::calm);
            shortage::end();
            self.compete(COMMANDS_OF_HOSTS, plan.faults.memory && plan.rng.one_in(2));
        }
        self.trouble.plan = Some(plan);
    }

    /// The counts so far, of this disk and of the ones before.
    pub fn take_fault_counts(&mut self) -> FaultCounts {
        let mut counts = std::mem::take(&mut self.trouble.counts);
        counts += self.disk.faults(|faults| std::mem::take(&mut faults.counts));
        let (short, felt) = shortage::take_counts();
        counts.memory.injected += short;
        counts.memory.hit += felt;
        counts.refused_blocks += self.trouble.excused.refused();
        counts.turns_max = counts.turns_max.max(take_most_turns());
        counts
    }
}
