//! The log and the volumes compared with a model: random operations, crashes of both kinds,
//! reopening, random points.

use varve::log::format::{EntryKind, EventHead, EventKind, RecordHead, Superblock};
use varve_tests::sim::campaign::{Counts, campaign, campaign_with};
use varve_tests::sim::disk::Crash;
use varve_tests::sim::endless::endless_campaign_of;
use varve_tests::sim::faults::Faults;
use varve_tests::sim::workload::{Run, Shape};

fn shape(volatile_cache: bool) -> Shape {
    Shape { device_blocks: 16 * 1024, segment_blocks: 256, volatile_cache, volume_blocks: 700 }
}

/// Random operations: reads always match the model, also after clean restarts.
#[test]
fn random_operations_equal_the_model() {
    for seed in 0..6 {
        let mut run = Run::new(seed, shape(seed % 2 == 0));
        for round in 0..4 {
            for _ in 0..150 {
                if !run.step() {
                    break;
                }
            }
            run.settle();
            run.check_all();
            if round % 2 == 1 {
                run.restart();
            }
        }
    }
}

/// After random operations a crash of the process never loses acknowledged writes, and a power cut
/// never loses flushed writes.
#[test]
fn crashes_keep_every_promise() {
    let mut crashes = 0;
    for seed in 100..140 {
        let mut run = Run::new(seed, shape(seed % 4 != 0));
        for round in 0..6 {
            let steps = run.rng.below(60);
            for _ in 0..steps {
                if !run.step() {
                    break;
                }
            }
            run.crash(if round % 2 == 0 { Crash::Process } else { Crash::Power });
            crashes += 1;
        }
    }
    println!("{crashes} crashes, no promise broken");
}

/// The device dies after every single write of a run, in one run for each; each time the log is
/// found again and equals the model.
#[test]
fn a_crash_after_every_device_write_is_survived() {
    let run_until = |writes: Option<u64>, crash: Crash| {
        let mut run = Run::new(
            7,
            Shape { device_blocks: 16 * 1024, segment_blocks: 256, volatile_cache: true, volume_blocks: 300 },
        );
        let first = run.disk.writes();
        run.disk.die_after_writes(writes.map(|writes| first + writes));
        for _ in 0..70 {
            if run.disk.is_dead() {
                break;
            }
            run.step_writes_only();
        }
        let count = run.disk.writes() - first;
        run.crash(crash);
        count
    };
    let total = run_until(None, Crash::Process);
    assert!(total > 40, "the run writes enough: {total}");
    for writes in 0..total {
        run_until(Some(writes), Crash::Process);
        run_until(Some(writes), Crash::Power);
    }
    println!("{} crashes at {total} device writes", 2 * total);
}

/// A large segment's trailer is written to the device in pieces. A crash before, between and after
/// them loses nothing.
#[test]
fn a_crash_between_the_pieces_of_a_trailer_is_survived() {
    let run_until = |writes: Option<u64>, crash: Crash| {
        let shape = Shape {
            device_blocks: 32 * 1024,
            segment_blocks: 4096,
            volatile_cache: true,
            volume_blocks: 2000,
        };
        let mut run = Run::new(11, shape);
        let first = run.disk.writes();
        run.disk.die_after_writes(writes.map(|writes| first + writes));
        run.write_all();
        run.write_all();
        let before = run.disk.writes() - first;
        // The rest of the segment, and the first blocks of the next, whose flush permits the
        // trailer's writes.
        for _ in 0..80 {
            run.step_writes_only();
        }
        let count = run.disk.writes() - first;
        let trailers = run.pool.stats().trailer_blocks;
        run.crash(crash);
        (before, count, trailers)
    };
    let (before, count, trailers) = run_until(None, Crash::Process);
    assert!(trailers > 2 * 8, "a trailer of more than two pieces was written: {trailers} blocks");
    for writes in (before..count).step_by(2) {
        run_until(Some(writes), Crash::Process);
        run_until(Some(writes + 1), Crash::Power);
    }
}

/// 1000 random points of random runs, each opened and compared in full (R28 to R30).
#[test]
fn a_thousand_random_points_equal_the_model() {
    let mut checked = 0;
    let mut seed = 500;
    while checked < 1000 {
        let mut run = Run::new(
            seed,
            Shape {
                device_blocks: 64 * 1024,
                segment_blocks: 1024,
                volatile_cache: false,
                volume_blocks: 400,
            },
        );
        for _ in 0..600 {
            if !run.step() {
                break;
            }
        }
        run.settle();
        run.check_times(50);
        checked += run.check_points(250);
        run.restart();
        checked += run.check_points(250);
        seed += 1;
    }
    println!("{checked} points equal the model");
}

/// Whole campaigns: random shapes, full logs, crashes while the pool is opened, crashes in the
/// middle of a management operation, points, times.
#[test]
fn campaigns_keep_every_promise() {
    let mut total = Counts::default();
    for seed in 0..120 {
        total += campaign(seed);
    }
    println!("{total:?}");
    assert!(total.crashes > 400 && total.full_logs > 50 && total.points > 2000, "{total:?}");
}

/// A power cut tore the trailer of a segment whose successor was lost, so the segment continued.
/// The next power cut lost the head of its new trailer and kept the body. Then the old head was
/// valid again, and the log ended where it had ended before: flushed writes were lost.
/// What fails once must fail again: two runs of a seed do the same, down to the last byte.
#[test]
fn a_seed_gives_the_same_run_every_time() {
    // Maps with random order differ between two threads, and a machine is never as fast twice.
    let on_thread = |run: fn() -> Vec<Counts>| std::thread::spawn(run).join().expect("it ends");
    let run = || -> Vec<Counts> {
        let full = (4..8).step_by(2).map(|seed| campaign_with(seed, Faults::ALL));
        full.chain((5..11).step_by(2).map(|seed| endless_campaign_of(seed, Faults::ALL))).collect()
    };
    let first = on_thread(run);
    assert!(first.iter().all(|counts| counts.device_writes > 0 && counts.digest != 0), "{first:?}");
    assert_eq!(first, on_thread(run));
}

#[test]
fn a_torn_trailer_does_not_come_back_under_the_next_one() {
    campaign(405_184);
}

/// Every segment begins with the pool's catalog, even if a host's write opened it. The record of
/// that write used to overwrite the catalog in memory.
#[test]
fn every_segment_begins_with_a_catalog() {
    let mut run = Run::new(3, shape(false));
    for _ in 0..400 {
        run.step();
    }
    run.restart();
    let (pool, mut segments) = (run.pool.info().uuid, 0);
    for segment in run.pool.segments().iter().filter(|segment| segment.sequence.is_some()) {
        let first_record = run.disk.block(256 + segment.slot * 256 + 1).expect("it was written");
        let (_, entries) = RecordHead::decode_any(&first_record, pool).expect("a record");
        assert_eq!(entries[0].kind(), Some(EntryKind::Event), "segment {segment:?}");
        assert_eq!(EventHead::decode(entries[0].block().0).kind, Some(EventKind::Catalog), "{segment:?}");
        segments += 1;
    }
    assert!(segments > 5, "{segments} segments");
}

/// Records that a crash cut off never come back, even if later sessions put records of the same
/// size before them: neither after another crash nor after a clean stop. After the partial trailer
/// of a clean stop they used to.
#[test]
fn records_that_were_cut_off_stay_dead() {
    for seed in 0..150 {
        let mut run = Run::new(seed, shape(seed % 2 == 0));
        for _ in 0..3 {
            for _ in 0..6 + seed % 6 {
                run.step_lone_write();
            }
            let crash = if run.rng.one_in(2) { Crash::Process } else { Crash::Power };
            run.crash(crash);
            for _ in 0..seed % 4 {
                run.step_lone_write();
                run.settle();
            }
            if run.rng.one_in(2) {
                run.restart();
            } else {
                run.crash(Crash::Process);
            }
        }
    }
}

/// A trailer proves its segment's records, so it must not reach the device before they are stable.
/// A power cut once kept a trailer and lost records that it named, and blocks that nobody had
/// overwritten read as errors.
#[test]
fn a_trailer_outlives_a_loss_of_power_only_with_its_records() {
    for seed in 900..960 {
        let mut run = Run::new(seed, shape(true));
        for _ in 0..4 {
            let steps = run.rng.below(80);
            for _ in 0..steps {
                if !run.step() {
                    break;
                }
            }
            run.crash(Crash::Power);
        }
    }
}

/// An epoch is never used twice, even if the superblock that stored the last one is damaged:
/// otherwise records of that epoch that a crash cut off could come back.
#[test]
fn an_epoch_is_not_used_again_when_a_superblock_is_damaged() {
    let mut run = Run::new(11, shape(false));
    let newest = |run: &Run| {
        let copies =
            (0..2).filter_map(|block| Some((block, Superblock::decode(&run.disk.block(block)?).ok()?)));
        copies.max_by_key(|(_, superblock)| superblock.generation).expect("a superblock")
    };
    for _ in 0..4 {
        run.step_lone_write();
        let (block, before) = newest(&run);
        assert!(run.disk.flip_bit(block, 8 * 100));
        run.crash(Crash::Process);
        let (_, after) = newest(&run);
        assert!(after.epoch > before.epoch, "{} after {}", after.epoch, before.epoch);
        assert!(after.generation > before.generation, "{} after {}", after.generation, before.generation);
    }
}
