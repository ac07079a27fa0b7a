//! The endless log: segments leave the working set, live blocks are copied forward, slots are used again.

use varve::log::Recycling;
use varve::volume::{PoolOptions, SegmentState};
use varve_tests::sim::disk::Crash;
use varve_tests::sim::workload::{Run, Shape};

const DISCARD: PoolOptions = PoolOptions { recycling: Recycling::Discard, overprovisioning_percent: None };

/// Many times the device's size is written; every block is what was written last, and the log never has more than its slots.
#[test]
fn a_log_that_discards_goes_on_for_ever() {
    for (seed, slots) in [(1, 8), (2, 12), (3, 40)] {
        let shape = Shape {
            device_blocks: 256 + slots * 256,
            segment_blocks: 256,
            volatile_cache: seed % 2 == 0,
            volume_blocks: (slots - 4) * 90,
        };
        let mut run = Run::with_options(seed, shape, DISCARD);
        let mut rounds = 0;
        while run.pool.stats().head_lsn < 20 * slots * 256 {
            for _ in 0..200 {
                run.step_writes_only();
                check_working_set(&run);
            }
            rounds += 1;
            if rounds % 8 == 0 {
                run.settle();
                run.check_all();
                run.model.compact();
            }
            if rounds % 16 == 0 {
                run.restart();
                run.model.compact();
            }
        }
        run.settle();
        run.check_all();
        let stats = run.pool.stats();
        assert!(stats.copied_blocks > 0 && stats.released_segments > 0, "{stats:?}");
    }
}

/// Crashes of both kinds in an endless log lose nothing that was promised.
#[test]
fn crashes_of_an_endless_log_keep_every_promise() {
    for seed in 10..30 {
        let slots = 8 + seed % 5;
        let shape = Shape {
            device_blocks: 256 + slots * 256,
            segment_blocks: 256,
            volatile_cache: seed % 3 != 0,
            volume_blocks: (slots - 4) * 80,
        };
        let mut run = Run::with_options(seed, shape, DISCARD);
        for round in 0..30 {
            for _ in 0..run.rng.below(150) {
                run.step_writes_only();
                check_working_set(&run);
            }
            run.crash(if round % 2 == 0 { Crash::Process } else { Crash::Power });
            run.model.compact();
        }
    }
}

/// R4, R13, R14: at most W+1 segments are in use, the others are inactive or free.
fn check_working_set(run: &Run) {
    let info = run.pool.info();
    let segments = run.pool.segments();
    assert_eq!(segments.iter().filter(|segment| segment.slot != u64::MAX).count() as u64, info.slots);
    let in_use: Vec<u64> = segments
        .iter()
        .filter(|segment| matches!(segment.state, SegmentState::Current | SegmentState::Active))
        .filter_map(|segment| segment.sequence)
        .collect();
    let (Some(first), Some(last)) = (in_use.first(), in_use.last()) else { return };
    assert!(last - first <= info.working_set_segments, "seed {}: {first} to {last}", run.seed);
}
