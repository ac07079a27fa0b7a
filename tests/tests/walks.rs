//! Moving along the log: at every stop, in both directions, a volume has the content that a scan
//! gives there.

use std::sync::Arc;

use varve_tests::sim::disk::Crash;
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::walks::Walked;
use varve_tests::sim::workload::{Run, Shape};

const SHAPE: Shape =
    Shape { device_blocks: 257 + 10 * 256, segment_blocks: 256, volatile_cache: true, volume_blocks: 60 };

fn walk(run: &mut Run, rounds: usize, sum: &mut Walked) {
    for _ in 0..rounds {
        for _ in 0..150 {
            if !run.step() {
                break;
            }
        }
        let walked = run.check_walks(30);
        sum.stops += walked.stops;
        sum.copies += walked.copies;
        sum.ranges_rebuilt += walked.ranges_rebuilt;
        sum.entries += walked.entries;
    }
}

/// Volumes, clones of clones, trims, resizes, hydrations and copies, in a pool whose old segments
/// are only in the archive, across restarts and crashes.
#[test]
fn a_walk_is_a_scan_at_every_stop_in_a_pool_with_an_archive() {
    let mut sum = Walked::default();
    for seed in 700..708 {
        let mut run = Run::with_archive(seed, SHAPE, Arc::new(MemoryStore::default()));
        walk(&mut run, 6, &mut sum);
        run.settle();
        run.crash(if seed % 2 == 0 { Crash::Power } else { Crash::Process });
        walk(&mut run, 4, &mut sum);
    }
    println!("{sum:?}");
    assert!(sum.stops > 1500 && sum.copies > 100 && sum.ranges_rebuilt > 500, "{sum:?}");
}

/// The same without an archive: clones keep what they inherited on the primary device.
#[test]
fn a_walk_is_a_scan_at_every_stop_in_a_pool_without_an_archive() {
    let mut sum = Walked::default();
    for seed in 720..724 {
        let mut run = Run::new(seed, SHAPE);
        walk(&mut run, 4, &mut sum);
    }
    println!("{sum:?}");
    assert!(sum.stops > 200, "{sum:?}");
}

/// The same for a pool that was recovered from its archive: its volumes inherit everything.
#[test]
fn a_walk_is_a_scan_at_every_stop_in_a_recovered_pool() {
    let mut sum = Walked::default();
    for seed in 740..743 {
        let mut run = Run::with_archive(seed, SHAPE, Arc::new(MemoryStore::default()));
        walk(&mut run, 3, &mut sum);
        run.lose_primary(true);
        walk(&mut run, 3, &mut sum);
        run.finish_hydrations();
        walk(&mut run, 1, &mut sum);
    }
    println!("{sum:?}");
    assert!(sum.stops > 300, "{sum:?}");
}
