//! One seed's campaign over an endless log with an archive: store faults, crashes of both kinds,
//! restarts, points of the whole history, and the loss of the primary device.

use std::rc::Rc;
use std::sync::Arc;

use varve::archive::store::faulty::{Call, Fault, FaultyStore, When};
use varve::archive::store::{Reason, Store, StoreErrorKind};
use varve::log::Recycling;
use varve::log::geometry::RESERVE_SLOTS;
use varve::volume::{
    AnchorPolicy, CloneInfo, PoolOptions, SegmentInfo, SegmentState, VolumeError, WORKING_SET_MIN,
};

use super::campaign::Counts;
use super::disk::Crash;
use super::faults::Faults;
use super::rng::Rng;
use super::store::MemoryStore;
use super::workload::{Run, Shape};
use super::world::{begin, turn, wait};

/// The number of turns after which an unneeded segment must be inactive.
const TURNS_TO_RETIRE_MAX: u64 = 10_000;

/// The first and the last segment in use.
fn in_use(segments: &[SegmentInfo]) -> Option<(u64, u64)> {
    // A segment whose trailer is lost stays active until it has a new one, even if it contains no
    // live blocks, and so do the segments after it.
    let waits =
        |segment: &SegmentInfo| segment.problems.iter().any(|problem| problem.starts_with("its trailer"));
    let waits = segments.iter().any(waits);
    let mut in_use = segments
        .iter()
        .filter(|segment| matches!(segment.state, SegmentState::Current | SegmentState::Active))
        .skip_while(|segment| waits && segment.state == SegmentState::Active && segment.live_blocks == 0)
        .filter_map(|segment| segment.sequence);
    let first = in_use.next()?;
    Some((first, in_use.last().unwrap_or(first)))
}

impl Run {
    /// R4, R13, R14: the segments in use span at most W+1 segments; the others are inactive or
    /// free; every slot is in one place. Records which W was in force in which segment.
    ///
    /// # Panics
    /// When one of these does not hold.
    pub fn check_working_set(&mut self) {
        let info = self.pool.info();
        let segments = self.pool.segments();
        let slots = segments.iter().filter(|segment| segment.slot != u64::MAX).count() as u64;
        // A slot whose header cannot be read is not free, and its segment may be unknown.
        let withheld = self.unreadable_headers();
        assert!(
            slots <= info.slots && slots + withheld >= info.slots,
            "seed {}: {slots} of {} slots, {withheld} withheld: {:?} {segments:?}",
            self.seed,
            info.slots,
            info.problems
        );
        let Some((mut first, mut last)) = in_use(&segments) else { return };
        // A segment that a clone of the past brought back into use and that is then not needed
        // becomes inactive only after a flush.
        let mut turns = 0;
        while last - first > info.working_set_segments && turns < TURNS_TO_RETIRE_MAX {
            turn(&self.pool);
            turns += 1;
            (first, last) = in_use(&self.pool.segments()).unwrap_or((last, last));
        }
        assert!(
            last - first <= info.working_set_segments,
            "seed {}: {first} to {last}: {segments:?}",
            self.seed
        );
        // A crash may have cut off segments.
        self.lengths.retain(|&sequence, _| sequence <= last);
        let (known, before) =
            self.lengths.last_key_value().map_or((last, 0), |(known, before)| (*known, *before));
        for opened in known + u64::from(before > 0)..=last {
            // A change between two checks may have come before or after the segment.
            self.lengths.insert(opened, info.working_set_segments.max(self.last_length));
        }
        self.last_length = info.working_set_segments;
    }

    /// R30 with the W that was in force: how many segments a point was rebuilt from, and how many
    /// it could need.
    pub(super) fn check_bound(&mut self, source: usize, clone: &CloneInfo) {
        assert!(clone.scan.segments_touched <= clone.scan.segments_bound, "seed {}", self.seed);
        let sequence = clone.point.lsn / self.shape.segment_blocks;
        // An image with a parent is rebuilt from several points, each with its own bound.
        let Some(&length) = self.lengths.get(&sequence).filter(|_| !self.lost_primary) else { return };
        if !self.model.may_inherit(source) {
            assert!(
                clone.scan.segments_bound <= length + 1,
                "seed {}: a point in segment {sequence} may need {} segments, and {length} were in force: {:?}",
                self.seed,
                clone.scan.segments_bound,
                self.lengths
            );
            // Points in the first segments need no more segments than exist.
            if sequence > 2 * length {
                self.bounds.insert(clone.scan.segments_bound);
            }
        }
    }
}

/// Occasional faults of a store: 0 to 29 of 1000 calls of each kind. Each is gone at the next try
/// or soon after.
fn store_faults(store: &FaultyStore, rng: &mut Rng) {
    for call in [Call::PutStart, Call::Write, Call::Commit, Call::Stat, Call::Get, Call::List, Call::Delete] {
        let fault = match rng.below(4) {
            0 => Fault::ErrorAfter(StoreErrorKind::Unavailable(Reason::Busy("a fault"))),
            1 if matches!(call, Call::Write | Call::Commit) => Fault::Error(StoreErrorKind::NoSpace),
            2 if call == Call::Write => Fault::WrongByte,
            3 if call == Call::Write => Fault::Short,
            _ => Fault::Error(StoreErrorKind::Unavailable(Reason::Busy("a fault"))),
        };
        store.add(call, When::PerMille(rng.below(30) as u32), fault);
    }
}

/// Another length of the working set: any length that the device has slots for.
fn length(run: &Run, rng: &mut Rng) -> u64 {
    WORKING_SET_MIN + rng.below(run.pool.info().slots - RESERVE_SLOTS - WORKING_SET_MIN + 1)
}

/// Changes the length, or adds slots if the disk is larger. Returns how many changes were made.
fn change(run: &mut Run, rng: &mut Rng) -> u64 {
    let info = run.pool.info();
    if info.device_slots > info.slots && rng.one_in(2) {
        match wait(&run.pool, Rc::clone(&run.pool).grow()) {
            Ok(grown) => assert_eq!(grown.slots, info.device_slots, "seed {}", run.seed),
            Err(VolumeError::Busy { .. }) if run.is_held_up() => return 0,
            Err(error) => panic!("seed {}: the disk is larger, but {error}", run.seed),
        }
        return 1;
    }
    let segments = length(run, rng);
    u64::from(run.set_working_set(segments))
}

/// Starts a change and does not wait for its end.
fn begin_change(run: &Run, rng: &mut Rng) {
    let info = run.pool.info();
    let (turns, pool) = (rng.below(12), Rc::clone(&run.pool));
    if info.device_slots > info.slots && rng.one_in(2) {
        begin(&run.pool, pool.grow(), turns, || {});
    } else {
        begin(&run.pool, pool.set_working_set(length(run, rng)), turns, || {});
    }
}

/// Runs the campaign of a seed.
///
/// # Panics
/// When a guarantee is violated; the message names the seed, which fails again in the same way.
pub fn endless_campaign(seed: u64) -> Counts {
    endless_campaign_of(seed, Faults::NONE)
}

/// The same, with the given faults of the device and of memory.
///
/// # Panics
/// As [`endless_campaign`].
pub fn endless_campaign_of(seed: u64, faults: Faults) -> Counts {
    endless_campaign_with(seed, Rng::new(seed ^ 0x0e85_1e00).one_in(3), faults)
}

/// The same, with the verbs of going back.
///
/// # Panics
/// As [`endless_campaign`].
pub fn endless_campaign_going_back(seed: u64, faults: Faults) -> Counts {
    run_campaign(seed, Rng::new(seed ^ 0x0e85_1e00).one_in(3), faults, true)
}

/// The same, with or without expiry. A seed that failed without expiry fails again only without it.
///
/// # Panics
/// As [`endless_campaign`].
pub fn endless_campaign_with(seed: u64, expires: bool, faults: Faults) -> Counts {
    run_campaign(seed, expires, faults, false)
}

fn run_campaign(seed: u64, expires: bool, faults: Faults, verbs: bool) -> Counts {
    let mut rng = Rng::new(seed ^ 0xe7d1_e550);
    let slots = 8 + rng.below(8);
    let segment_blocks = [256, 256, 512][rng.below(3) as usize];
    let shape = Shape {
        device_blocks: 257 + slots * segment_blocks,
        segment_blocks,
        volatile_cache: !rng.one_in(3),
        volume_blocks: (slots - 4) * segment_blocks / 22,
    };
    let mut counts = Counts { seeds: 1, ..Counts::default() };
    let archived = !rng.one_in(4);
    let mut run = if archived {
        let store = Arc::new(MemoryStore::default());
        // Every second seed has anchors, more or less often.
        let anchors =
            if seed.is_multiple_of(2) { AnchorPolicy::Every(1 + seed / 2 % 4) } else { AnchorPolicy::Never };
        let mut run = Run::with_anchors(seed, shape, Arc::clone(&store) as Arc<dyn Store>, anchors);
        run.trouble.memory_store = Some(store);
        run
    } else {
        let discard = PoolOptions { recycling: Recycling::Discard, ..PoolOptions::default() };
        Run::with_options(seed, shape, discard)
    };
    let mut faulty_store = None;
    if archived && rng.one_in(2) {
        // The pool is created with a store that works; from here on the store fails sometimes.
        let inner = run.world.store.take().expect("a run with an archive has a store");
        let faulty = Arc::new(FaultyStore::new(inner, seed));
        store_faults(&faulty, &mut rng);
        run.world.store = Some(Arc::clone(&faulty) as Arc<dyn Store>);
        run.restart();
        faulty_store = Some(faulty);
    }
    run.begin_trouble(faults);
    if verbs && archived {
        run.begin_verbs();
    }
    // Separate random numbers, so that a seed's other choices stay the same.
    let mut shapes = Rng::new(seed ^ 0x5ba9_e500);
    let changes = shapes.one_in(2);
    let mut expiries = Rng::new(seed ^ 0x0e85_1e01);
    let expires = expires && archived;
    for _ in 0..4 + rng.below(10) {
        let steps = if rng.one_in(8) { 0 } else { rng.below(250) };
        for _ in 0..steps {
            if archived {
                run.step();
            } else {
                run.step_writes_only();
            }
            if changes && shapes.one_in(40) {
                counts.reshaped += change(&mut run, &mut shapes);
            }
            run.check_working_set();
            if expires && expiries.one_in(150) {
                counts.expired += run.expire(&mut expiries);
            }
        }
        if expires && expiries.one_in(2) {
            run.write_on(expiries.below(slots));
            counts.expired += run.expire(&mut expiries);
        }
        if changes && shapes.one_in(4) {
            run.grow_disk(1 + shapes.below(3));
        }
        if changes && shapes.one_in(3) {
            begin_change(&run, &mut shapes);
        }
        run.pause_trouble();
        if rng.one_in(6) {
            run.restart();
            counts.restarts += 1;
        } else {
            run.crash(if rng.one_in(2) { Crash::Process } else { Crash::Power });
            counts.crashes += 1;
        }
        if archived && rng.one_in(3) {
            counts.points += run.check_points(4);
        }
        // A store that has just damaged an object, followed by the loss of the primary, is more
        // than a pool survives without loss.
        if archived && faulty_store.is_none() && rng.one_in(8) {
            let sealed = rng.one_in(2);
            counts.recoveries += u64::from(run.lose_primary(sealed).is_some());
        }
        if !archived {
            run.model.compact();
        }
    }
    if let Some(store) = faulty_store.as_ref().filter(|_| faults != Faults::NONE) {
        // So that hosts can wait for nothing but the pool.
        store.heal();
    }
    run.end_trouble();
    run.settle();
    run.check_all();
    if archived {
        counts.points += run.check_points(12);
        if !run.expired.is_something() {
            counts.times += run.check_times(10);
        }
    }
    run.restart();
    counts.restarts += 1;
    counts.device_writes = run.disk.writes();
    counts.digest = run.disk.digest();
    counts.faults = run.take_fault_counts();
    counts.verbs = run.take_verb_counts();
    let failed = faulty_store.map_or(0, |store| store.injected());
    counts.faults.store.injected += failed;
    counts.faults.store.hit += failed;
    counts
}
