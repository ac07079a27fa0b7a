//! The endless log: segments leave the working set, live blocks are copied forward, slots are used again.

use std::sync::Arc;

use varve::log::Recycling;
use varve::volume::PoolOptions;
use varve_tests::sim::campaign::Counts;
use varve_tests::sim::disk::Crash;
use varve_tests::sim::endless::endless_campaign;
use varve_tests::sim::store::MemoryStore;
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
                run.check_working_set();
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
                run.check_working_set();
            }
            run.crash(if round % 2 == 0 { Crash::Process } else { Crash::Power });
            run.model.compact();
        }
    }
}

fn archived(seed: u64, slots: u64) -> Run {
    let shape = Shape {
        device_blocks: 256 + slots * 256,
        segment_blocks: 256,
        volatile_cache: !seed.is_multiple_of(3),
        volume_blocks: (slots - 4) * 12,
    };
    Run::with_archive(seed, shape, Arc::new(MemoryStore::default()))
}

/// Many times the device's size is written, with clones, synchs, snapshots and restarts on the way; then points of the whole history are opened, most of them only in the archive,
/// and each is what the model says. The scan's bound is asserted within.
#[test]
fn the_whole_history_is_in_the_archive() {
    let mut points = 0;
    for (seed, slots) in [(1, 8), (2, 10), (3, 16)] {
        let mut run = archived(seed, slots);
        let mut rounds = 0;
        while run.pool.stats().head_lsn < 20 * slots * 256 {
            for _ in 0..60 {
                run.step();
                run.check_working_set();
            }
            rounds += 1;
            if rounds % 10 == 0 {
                points += run.check_points(4);
            }
            if rounds % 40 == 0 {
                run.restart();
            }
        }
        run.settle();
        run.check_all();
        points += run.check_points(60);
        run.check_times(20);
        run.restart();
        points += run.check_points(20);
        let status = run.pool.archive_status().expect("an archive");
        assert!(status.segments > 4 * slots && status.gaps.is_empty(), "{status:?}");
    }
    println!("{points} points equal the model");
}

/// Crashes at any moment, also while segments are archived and given away.
#[test]
fn crashes_with_an_archive_keep_every_promise() {
    let mut points = 0;
    for seed in 100..116 {
        let mut run = archived(seed, 8 + seed % 4);
        for round in 0..12 {
            for _ in 0..run.rng.below(150) {
                run.step();
                run.check_working_set();
            }
            run.crash(if round % 2 == 0 { Crash::Process } else { Crash::Power });
            points += run.check_points(2);
        }
    }
    println!("{points} points equal the model");
}

/// Whole campaigns: random shapes, stores that fail, crashes while the pool is opened and while operations are under way.
#[test]
fn endless_campaigns_keep_every_promise() {
    let mut total = Counts::default();
    for seed in 0..40 {
        total += endless_campaign(seed);
    }
    println!("{total:?}");
    assert!(total.crashes > 200 && total.points > 300, "{total:?}");
}

/// The primary device is lost, again and again; the archive alone brings back every volume, synch, snapshot and point, also of segments older than the loss before.
#[test]
fn a_lost_primary_comes_back_from_the_archive() {
    let (mut recoveries, mut points) = (0, 0);
    for seed in 200..206 {
        let mut run = archived(seed, 10);
        for round in 0..5 {
            for _ in 0..400 {
                run.step();
                run.check_working_set();
            }
            let lost = run.lose_primary(round % 2 == 0);
            println!("seed {seed}: {lost} steps lost");
            recoveries += 1;
            points += run.check_points(12);
        }
        run.restart();
        points += run.check_points(12);
    }
    println!("{recoveries} recoveries, {points} points equal the model");
}
