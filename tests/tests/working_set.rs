//! The working set's length and the number of slots, changed while the pool is used (R12, R13,
//! R30).

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use varve::log::Recycling;
use varve::log::format::Superblock;
use varve::volume::{PoolInfo, PoolOptions, VolumeError};
use varve_tests::sim::damage::problems;
use varve_tests::sim::disk::{Crash, SimDisk};
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::workload::{Run, Shape};
use varve_tests::sim::world::{begin, wait};

const DISCARD: PoolOptions =
    PoolOptions { recycling: Recycling::Discard, overprovisioning_percent: None, read_ahead_blocks: None };

fn shape(slots: u64, volume_blocks: u64) -> Shape {
    Shape { device_blocks: 257 + slots * 256, segment_blocks: 256, volatile_cache: true, volume_blocks }
}

/// Writes a few blocks repeatedly until the log has this many segments.
fn fill(run: &mut Run, segments: u64) {
    while run.pool.stats().head_lsn < segments * 256 {
        run.step_hot_write();
        run.check_working_set();
    }
}

/// Turns the pool, without any command of a host, until a condition holds or the disk has died.
fn turn_until(run: &Run, mut is_so: impl FnMut(&PoolInfo) -> bool) {
    for _ in 0..100_000 {
        if run.disk.is_dead() || is_so(&run.pool.info()) {
            return;
        }
        run.world.clock.advance(100_000);
        run.pool.poll();
    }
    panic!("it does not come about: {:?} {:?}", run.pool.info(), run.pool.segments());
}

/// Runs an operation of the pool, and then the pool, until the operation has ended and `is_so`
/// holds, or the disk has died. Returns whether the operation has ended successfully.
fn run_until(
    run: &Run,
    operation: impl Future<Output = Result<PoolInfo, VolumeError>>,
    is_so: impl Fn(&PoolInfo) -> bool,
) -> bool {
    let mut operation = pin!(operation);
    let ended = Cell::new(false);
    let mut context = Context::from_waker(Waker::noop());
    turn_until(run, |info| {
        if !ended.get()
            && let Poll::Ready(result) = operation.as_mut().poll(&mut context)
        {
            result.expect("it can be done");
            ended.set(true);
        }
        ended.get() && is_so(info)
    });
    ended.get()
}

/// Checks that both superblocks are valid and reach the pool's shape; a change that has just taken
/// effect may not be written yet.
fn check_superblocks(run: &Run) {
    let copies = || {
        [0, 1].map(|block| {
            Superblock::decode(&run.disk.block(block).expect("it was written"))
                .unwrap_or_else(|error| panic!("copy {block}: {error}"))
        })
    };
    let shape_of = |superblock: &Superblock| (superblock.working_set, superblock.slots);
    turn_until(run, |info| {
        copies().iter().all(|copy| shape_of(copy) == (info.working_set_segments, info.slots))
    });
    let info = run.pool.info();
    for (block, superblock) in copies().iter().enumerate() {
        assert_eq!(
            (superblock.working_set, superblock.slots),
            (info.working_set_segments, info.slots),
            "copy {block}"
        );
    }
}

/// The length changes under load, with restarts and crashes in between. Then points of the whole
/// history are rebuilt, each from no more segments than the length in force there allows, and each
/// equals the model.
#[test]
fn points_are_exact_across_changes_within_the_bound_in_force() {
    let mut points = 0;
    for seed in 0..4 {
        let mut run = Run::with_archive(seed, shape(16, 40), Arc::new(MemoryStore::default()));
        let mut changes = 0;
        for (round, segments) in [12, 4, 9, 3, 12, 2, 7, 5, 11].into_iter().enumerate() {
            changes += u64::from(run.set_working_set(segments));
            let until = run.pool.stats().head_lsn + (1 + segments) * 256;
            while run.pool.stats().head_lsn < until {
                run.step_writes_only();
                run.check_working_set();
            }
            match round % 4 {
                1 => run.restart(),
                3 => run.crash(Crash::Power),
                _ => {}
            }
            points += run.check_points(6);
        }
        run.settle();
        points += run.check_points(60);
        run.restart();
        points += run.check_points(40);
        assert!(changes >= 6, "seed {seed}: {changes} changes");
        assert!(run.bounds.len() >= 4 && run.bounds.first() < Some(&5), "seed {seed}: {:?}", run.bounds);
    }
    println!("{points} points equal the model");
}

/// While the working set becomes shorter, hosts' writes continue and none is refused; the smaller
/// capacity applies at once.
#[test]
fn a_pool_drains_under_load() {
    let mut run = Run::with_options(7, shape(24, 700), DISCARD);
    run.write_all();
    fill(&mut run, 40);
    let (before, capacity) = (run.pool.stats(), run.pool.stats().capacity_blocks);
    assert!(run.set_working_set(8));
    assert!(run.pool.stats().capacity_blocks < capacity / 2);
    assert_eq!(run.pool.info().working_set_segments, 20, "what is live lies in more than eight segments");
    while run.pool.info().working_set_target_segments.is_some() {
        run.step_hot_write();
        run.check_working_set();
        let used = (run.pool.stats().head_lsn - before.head_lsn) / 256;
        assert!(used < 100, "it drains within five times the working set: {:?}", run.pool.segments());
    }
    let after = run.pool.stats();
    assert_eq!(run.pool.info().working_set_segments, 8);
    let host = after.host_written_blocks - before.host_written_blocks;
    let copied = after.copied_blocks - before.copied_blocks;
    println!("{host} blocks of hosts and {copied} copies on the way");
    assert!(host * 3 > copied, "hosts had their share: {host} of {copied}");
    run.settle();
    run.check_all();
    fill(&mut run, 120);
    run.check_all();
    check_superblocks(&run);
}

/// The pool drains without any command. A crash in between does not end this; a request for the
/// present length does.
#[test]
fn a_pool_drains_by_itself_also_after_a_crash() {
    let mut run = Run::with_options(8, shape(24, 700), DISCARD);
    run.write_all();
    fill(&mut run, 40);
    run.settle();
    assert!(run.set_working_set(9));
    let copied = run.pool.stats().copied_blocks;
    turn_until(&run, |_| run.pool.stats().copied_blocks > copied + 64);
    let info = run.pool.info();
    assert_eq!((info.working_set_segments, info.working_set_target_segments), (20, Some(9)));
    for crash in [Crash::Process, Crash::Power] {
        run.crash(crash);
        assert_eq!(run.pool.info().working_set_target_segments, Some(9));
    }
    assert!(run.set_working_set(20));
    assert_eq!(run.pool.info().working_set_target_segments, None);
    assert!(run.set_working_set(9));
    turn_until(&run, |info| info.working_set_target_segments.is_none());
    assert_eq!(run.pool.info().working_set_segments, 9);
    run.check_working_set();
    run.check_all();
    run.restart();
    assert_eq!(run.pool.info().working_set_segments, 9);
    run.check_working_set();
    check_superblocks(&run);
}

/// The initial state and the change of each of the enumerated power cuts.
#[derive(Debug, Clone, Copy)]
struct Case {
    /// The length before; the pool is made with six.
    from: u64,
    /// The new length.
    to: u64,
    /// The slots that the disk gains, and that are to be used.
    slots: u64,
}

/// Makes one change, cut off after this many device writes. Returns how many writes there were.
fn cut(case: Case, writes: Option<u64>, crash: Crash) -> u64 {
    let mut run = Run::with_options(21, shape(10, 150), DISCARD);
    run.write_all();
    fill(&mut run, 14);
    run.settle();
    assert!(run.set_working_set(case.from));
    turn_until(&run, |info| info.working_set_segments == case.from);
    fill(&mut run, 24);
    run.settle();
    if case.slots > 0 {
        run.grow_disk(case.slots);
    }
    run.restart();
    let before = run.pool.info();
    assert_eq!((before.working_set_segments, before.slots), (case.from, 10));
    let first = run.disk.writes();
    run.disk.die_after_writes(writes.map(|writes| first + writes));
    let pool = Rc::clone(&run.pool);
    let ended = if case.slots > 0 {
        run_until(&run, pool.grow(), |info| info.slots == 10 + case.slots)
    } else {
        run_until(&run, pool.set_working_set(case.to), |info| info.working_set_segments == case.to)
    };
    // Pending writes are completed if the disk lives.
    for _ in 0..100 {
        run.pool.poll();
    }
    let count = run.disk.writes() - first;
    run.crash(crash);
    check_superblocks(&run);
    let after = run.pool.info();
    let told = after.working_set_target_segments.unwrap_or(after.working_set_segments);
    assert!([case.from, case.to].contains(&after.working_set_segments), "{case:?}, {writes:?}: {after:?}");
    assert!(after.slots == 10 || after.slots == 10 + case.slots, "{case:?}, {writes:?}: {after:?}");
    if ended {
        assert_eq!((told, after.slots), (case.to, 10 + case.slots), "{case:?}, {writes:?}");
    }
    run.check_working_set();
    let head = run.pool.stats().head_lsn / 256;
    fill(&mut run, head + 6);
    run.settle();
    run.check_all();
    run.restart();
    run.check_working_set();
    check_superblocks(&run);
    count
}

/// Power cuts and crashes at every device write of every kind of change: the pool has the old or
/// the new shape, loses nothing, and an answer stays valid.
#[test]
fn a_crash_at_any_write_leaves_one_shape_or_the_other() {
    let longer = Case { from: 3, to: 6, slots: 0 };
    let shorter = Case { from: 6, to: 3, slots: 0 };
    let slots = Case { from: 4, to: 4, slots: 3 };
    let mut cuts = 0;
    for case in [longer, shorter, slots] {
        let total = cut(case, None, Crash::Process);
        assert!(total >= 2, "{case:?}: {total} writes");
        for writes in 0..total {
            cut(case, Some(writes), Crash::Process);
            cut(case, Some(writes), Crash::Power);
            cuts += 2;
        }
    }
    println!("{cuts} cuts");
}

/// A larger disk provides more slots, which the working set may then use; what they hold survives.
#[test]
fn new_slots_are_used() {
    let mut run = Run::with_archive(9, shape(8, 40), Arc::new(MemoryStore::default()));
    run.grow_disk(6);
    let refused =
        wait(&run.pool, Rc::clone(&run.pool).grow()).expect_err("the device's handle knows the old size");
    assert!(refused.to_string().contains("room for 8 slots"), "{refused}");
    run.restart();
    let info = run.pool.info();
    assert_eq!((info.slots, info.device_slots, info.working_set_segments), (8, 14, 4));
    wait(&run.pool, Rc::clone(&run.pool).grow()).expect("it is larger now");
    assert!(run.set_working_set(10));
    for _ in 0..4 {
        let until = run.pool.stats().head_lsn + 20 * 256;
        while run.pool.stats().head_lsn < until {
            run.step();
            run.check_working_set();
        }
        run.crash(Crash::Power);
        assert!(run.check_points(10) > 0);
    }
    let used = run.pool.segments().iter().filter_map(|segment| segment.sequence.map(|_| segment.slot)).max();
    assert!(used >= Some(8), "a new slot holds a segment: {used:?}");
    check_superblocks(&run);
}

/// An impossible request is refused with what is possible, and nothing is changed.
#[test]
fn what_cannot_be_is_refused() {
    let mut run = Run::with_options(3, shape(16, 900), DISCARD);
    let ask = |run: &Run, segments| {
        wait(&run.pool, Rc::clone(&run.pool).set_working_set(segments)).map_err(|error| error.to_string())
    };
    for segments in [0, 1, 13, u64::MAX] {
        let error = ask(&run, segments).expect_err("it is out of bounds");
        assert!(error.contains("2 to 12") && error.contains("16 slots"), "{error}");
    }
    let error = ask(&run, 4).expect_err("the volume does not fit");
    let least = (5..12).find(|&segments| !error.is_empty() && error.ends_with(&format!("has {segments}")));
    assert!(error.contains("need 4 MiB") && error.contains("100 % over-provisioning"), "{error}");
    let least = least.unwrap_or_else(|| panic!("it says what is possible: {error}"));
    assert!(ask(&run, least - 1).is_err());
    let info = run.pool.info();
    assert_eq!((info.working_set_segments, info.working_set_target_segments), (12, None));
    assert_eq!(ask(&run, least).map(|info| info.slots), Ok(16));
    turn_until(&run, |info| info.working_set_segments == least);
    let refused = run.pool.stats().capacity_blocks;
    run.restart();
    assert_eq!(run.pool.stats().capacity_blocks, refused);

    // A pool that recycles no segment has nothing to drain.
    let mut run = Run::with_options(4, shape(12, 40), PoolOptions::default());
    fill(&mut run, 4);
    let error = ask(&run, 2).expect_err("its log is longer");
    assert!(error.contains("gives no segment away"), "{error}");
    assert_eq!(ask(&run, 6).map(|info| info.slots), Ok(12));
    run.pool.poll();
    run.restart();
    assert_eq!(run.pool.info().working_set_segments, 6);
}

/// The shapes in both superblocks.
fn shapes(disk: &SimDisk) -> [(u64, u64); 2] {
    [0, 1].map(|block| {
        let copy = Superblock::decode(&disk.block(block).expect("it was written"));
        let copy = copy.unwrap_or_else(|error| panic!("copy {block}: {error}"));
        (copy.working_set, copy.slots)
    })
}

/// The next start rewrites a torn superblock, whichever of the two it is, and reports it; the start
/// after that finds nothing. Then either copy may be damaged again.
#[test]
fn a_torn_superblock_is_written_again() {
    for copy in [0, 1] {
        let mut run = Run::with_options(60 + copy, shape(10, 100), DISCARD);
        fill(&mut run, 8);
        assert!(run.set_working_set(4));
        turn_until(&run, |info| info.working_set_target_segments.is_none());
        let stopped = run.stop();
        let disk = stopped.disk.fork();
        assert!(disk.flip_bit(copy, 8 * 57));
        let pool = stopped.open(&disk).expect("the other copy is whole");
        let told = problems(&pool);
        for words in
            [format!("superblock copy {copy}: checksum mismatch"), "all copies were written again".to_owned()]
        {
            assert!(told.iter().any(|problem| problem.contains(&words)), "{words}: {told:?}");
        }
        assert_eq!(shapes(&disk), [(4, 10); 2], "copy {copy}");
        wait(&pool, Rc::clone(&pool).close()).expect("it stops");
        drop(pool);
        for other in [0, 1] {
            let disk = disk.fork();
            assert!(disk.flip_bit(other, 8 * 57));
            let pool = stopped.open(&disk).expect("one copy is whole");
            assert_eq!(pool.info().working_set_segments, 4);
            assert_eq!(shapes(&disk), [(4, 10); 2], "copy {copy}, then {other}");
        }
        let pool = stopped.open(&disk).expect("both are whole");
        assert_eq!(problems(&pool), Vec::<String>::new(), "copy {copy}");
    }
}

/// If the working set finishes draining while the pool stops, the change takes effect at the next
/// start: a stop ends with no pending write to the device. It used to leave a torn superblock.
#[test]
fn a_stop_leaves_no_change_under_way() {
    for turns in 0..60 {
        let mut run = Run::with_options(70 + turns, shape(12, 100), DISCARD);
        fill(&mut run, 9);
        begin(&run.pool, Rc::clone(&run.pool).set_working_set(3), turns, || {});
        // The restart finds no error.
        run.restart();
        turn_until(&run, |info| info.working_set_target_segments.is_none());
        check_superblocks(&run);
    }
}
