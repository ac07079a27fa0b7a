//! Pools that are full to their capacity: the largest commands of hosts find space whatever is
//! live, and a clone that could not be kept is refused before it is made.

use std::rc::Rc;
use std::sync::Arc;

use varve::dma::BLOCK_BYTES;
use varve::log::Recycling;
use varve::volume::{CreateVolume, IoError, Point, Pool, PoolOptions, Request, Sink, Submitted, VolumeError};
use varve_tests::sim::disk::Crash;
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::workload::{Run, Shape};
use varve_tests::sim::world::{self, turn, wait};

/// The largest command of a host, in blocks.
const COMMAND_BLOCKS: u64 = 128;
/// Slots that do not belong to the working set.
const RESERVE_SLOTS: u64 = 4;

fn pool(seed: u64, segment_blocks: u64, working_set: u64, percent: u64, volume_blocks: u64) -> Run {
    let slots = working_set + RESERVE_SLOTS;
    let shape = Shape {
        device_blocks: 257 + slots * segment_blocks,
        segment_blocks,
        volatile_cache: seed.is_multiple_of(2),
        volume_blocks,
    };
    let options = PoolOptions {
        recycling: Recycling::Discard,
        overprovisioning_percent: Some(percent),
        ..PoolOptions::default()
    };
    Run::with_options(seed, shape, options)
}

/// A volume uses the whole capacity of the pool, and is overwritten at random, in small pieces and
/// then with the largest writes. No write waits forever. One did, when every segment held so many
/// live blocks that there was too little space for it.
#[test]
fn a_full_pool_of_small_segments_takes_the_largest_writes() {
    let shapes = [
        (256, 2, 7),
        (256, 2, 100),
        (256, 3, 7),
        (256, 4, 28),
        (256, 10, 7),
        (256, 10, 100),
        (512, 2, 7),
        (512, 6, 7),
        (1024, 4, 7),
    ];
    for (seed, (segment_blocks, working_set, percent)) in (0..).zip(shapes) {
        let capacity = pool(seed, segment_blocks, working_set, percent, 1).pool.stats().capacity_blocks;
        assert!(capacity > COMMAND_BLOCKS);
        let mut run = pool(seed, segment_blocks, working_set, percent, capacity);
        run.write_all();
        let written =
            |run: &Run, segments: u64| run.pool.stats().host_written_blocks + segments * segment_blocks;
        let scattered = written(&run, 3 * working_set);
        while run.pool.stats().host_written_blocks < scattered {
            let len_blocks = 1 + run.rng.below(3);
            run.step_write(len_blocks);
            run.check_working_set();
        }
        run.settle();
        run.check_all();
        run.model.compact();
        let overwritten = written(&run, 3 * working_set);
        while run.pool.stats().host_written_blocks < overwritten {
            // Small writes between them scatter the live blocks again.
            let len_blocks = if run.rng.one_in(3) { 1 } else { COMMAND_BLOCKS };
            run.step_write(len_blocks);
            run.check_working_set();
        }
        run.settle();
        run.check_all();
        run.crash(Crash::Power);
        run.step_write(COMMAND_BLOCKS);
        run.settle();
        run.restart();
        let stats = run.pool.stats();
        println!(
            "{segment_blocks} blocks, W {working_set}, {percent} %: {capacity} blocks, write amplification {:.2}",
            stats.write_amplification
        );
    }
}

/// Without an archive a clone keeps its inherited data on the primary device. A point whose blocks
/// have left the working set may make more blocks live than can be copied forward in the next
/// segment. Such a clone is refused with the remedy, and nothing changes.
#[test]
fn a_clone_that_cannot_be_carried_forward_is_refused() {
    let mut run = pool(1, 256, 12, 100, 400);
    run.write_all();
    run.settle();
    let old = run.pool.stats().newest_point_lsn;
    // Everything is written again; the old segments are inactive, and their slots are not used yet.
    run.write_all();
    run.settle();
    for _ in 0..200 {
        run.pool.poll();
    }
    let ask = |run: &Run, lsn: u64, name: &str| {
        let pool = Rc::clone(&run.pool);
        wait(&run.pool, pool.clone_volume("v0".to_owned(), Point::Lsn(lsn), name.to_owned(), false))
    };
    // While everything is within the working set, there is enough time to copy it.
    ask(&run, old, "young").expect("nothing leaves yet");
    wait(&run.pool, Rc::clone(&run.pool).delete_volume("young".to_owned())).expect("it goes");
    let mut refused = None;
    while refused.is_none() && run.pool.stats().head_lsn < 18 * 256 {
        run.step_write(2);
        run.check_working_set();
        match ask(&run, old, "late") {
            Ok(_) => wait(&run.pool, Rc::clone(&run.pool).delete_volume("late".to_owned())).expect("it goes"),
            Err(error) => refused = Some(error),
        }
    }
    let refused = refused.expect("the point leaves the working set");
    let text = refused.to_string();
    assert!(matches!(refused, VolumeError::NoSpace { .. }), "{text}");
    for part in ["volume 'v0'", &format!("lsn:{old}"), "400 blocks", "serve the pool with an archive"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(run.pool.find_volume("late").is_none());
    run.settle();
    run.check_all();
}

/// A clone that exceeds the pool's capacity is refused as well.
#[test]
fn a_clone_that_the_pool_does_not_hold_is_refused() {
    let mut run = pool(2, 256, 8, 100, 600);
    run.write_all();
    run.settle();
    let now = Point::Lsn(run.pool.stats().newest_point_lsn);
    let pool = Rc::clone(&run.pool);
    let refused = wait(&run.pool, pool.clone_volume("v0".to_owned(), now, "second".to_owned(), false))
        .expect_err("two of them do not fit")
        .to_string();
    assert!(refused.contains("600 blocks") && refused.contains("600 are taken"), "{refused}");
    run.check_all();
}

/// Clones of random points of the past, of dense and of scattered volumes: each accepted clone
/// keeps its content for as long as it lives, and the working set stays within its bound.
#[test]
fn clones_without_an_archive_stay_within_the_working_set() {
    let (mut made, mut refused) = (0, 0);
    for seed in 0..12 {
        let working_set = [4, 8, 16][seed as usize % 3];
        let mut run = pool(seed, 256, working_set, 100, 25 * working_set);
        run.write_all();
        let mut cloned_in = 0;
        for _ in 0..60 {
            let steps = run.rng.below(40 * working_set);
            for _ in 0..steps {
                run.step_hot_write();
                // Blocks that became live again are copied forward before the next segment is
                // opened.
                if run.pool.stats().head_lsn / 256 > cloned_in {
                    run.check_working_set();
                }
            }
            cloned_in = run.pool.stats().head_lsn / 256;
            match run.clone_kept() {
                Some(true) => made += 1,
                Some(false) => refused += 1,
                None => {}
            }
        }
        run.settle();
        run.check_all();
        run.crash(Crash::Power);
        run.restart();
    }
    println!("{made} clones, {refused} refused");
    assert!(made > 50 && refused > 5, "{made} made, {refused} refused");
}

/// A pool of 24 segments with an archive, and a clone of a thin volume in it.
fn with_clone(size_blocks: u64, written_blocks: &[u64]) -> Run {
    let shape = Shape {
        device_blocks: 257 + 28 * 256,
        segment_blocks: 256,
        volatile_cache: true,
        volume_blocks: 1000,
    };
    let run = Run::with_archive(7, shape, Arc::new(MemoryStore::default()));
    let pool = &run.pool;
    let size_bytes = size_blocks * BLOCK_BYTES as u64;
    let request = CreateVolume { name: "thin".to_owned(), size_bytes, uuid: None, thin: true };
    wait(pool, Rc::clone(pool).create_volume(request)).expect("a thin volume");
    for &block in written_blocks {
        write(pool, "thin", block, 1).expect("it is written");
    }
    let now = Point::Lsn(pool.stats().newest_point_lsn);
    wait(pool, Rc::clone(pool).clone_volume("thin".to_owned(), now, "clone".to_owned(), false))
        .expect("a clone");
    run
}

fn write(pool: &Pool, name: &str, block: u64, byte: u8) -> Result<(), IoError> {
    let volume = pool.find_volume(name).expect("it exists");
    let data = [byte; BLOCK_BYTES];
    world::run(pool, volume.id, &Request::Write { block, data: &[&data], force_unit_access: false }).result
}

/// Discards single blocks, 256 in each command, until a command is refused. Returns how many blocks
/// were discarded.
fn discard(pool: &Pool, blocks: impl Iterator<Item = u64>) -> (u64, Option<IoError>) {
    let volume = pool.find_volume("clone").expect("it exists");
    let ranges: Vec<(u64, u64)> = blocks.map(|block| (block, 1)).collect();
    let mut done = 0;
    for ranges in ranges.chunks(256) {
        match world::run(pool, volume.id, &Request::Trim { ranges }).result {
            Ok(()) => done += ranges.len() as u64,
            Err(error) => return (done, Some(error)),
        }
    }
    (done, None)
}

/// Writes the whole log three times through a volume that is not related to the clone.
fn others_go_on(run: &Run) {
    let wanted = run.pool.stats().head_lsn + 3 * 28 * 256;
    for block in 0.. {
        write(&run.pool, "v0", block % 1000, 3).expect("its room was set aside");
        if run.pool.stats().head_lsn > wanted {
            return;
        }
    }
}

/// Where a clone inherits nothing, discards leave no masks. They used to fill the working set with
/// masks, so that no write of any host was answered any more.
#[test]
fn discards_of_what_a_clone_does_not_inherit_cost_nothing() {
    let run = with_clone(1 << 30, &[5]);
    let (done, refused) = discard(&run.pool, (0..60_000).map(|block| 1000 + 2 * block));
    assert_eq!((done, refused), (60_000, None));
    assert_eq!(run.pool.stats().masks, 0);
    discard(&run.pool, [5].into_iter());
    assert_eq!(run.pool.stats().masks, 1);
    others_go_on(&run);
    assert_eq!(run.pool.stats().masks, 1, "it is carried on");
}

/// Each mask uses as much of the capacity as a block. When no capacity is left, discards of clones
/// are refused and everybody else continues. The masks disappear with the clone.
#[test]
fn masks_count_as_capacity_and_leave_room_for_others() {
    let blocks: Vec<u64> = (0..1000).map(|block| 3 * block).collect();
    let run = with_clone(1 << 20, &blocks);
    let (done, refused) = discard(&run.pool, blocks.iter().copied());
    let stats = run.pool.stats();
    let taken = stats.reserved_blocks + stats.thin_blocks + stats.masks;
    assert_eq!(refused, Some(IoError::CapacityExceeded));
    assert!(done > 0 && stats.masks == done && taken <= stats.capacity_blocks, "{done} done: {stats:?}");
    assert!(taken + 256 > stats.capacity_blocks, "{stats:?}");
    assert_eq!(write(&run.pool, "clone", 7_000, 1), Ok(()), "there is room for some blocks yet");
    others_go_on(&run);
    assert_eq!(run.pool.stats().masks, done, "each is carried on");
    let clone = run.pool.find_volume("clone").expect("it exists");
    for &block in &blocks {
        let read = world::run(&run.pool, clone.id, &Request::Read { block, len_blocks: 1 });
        let wanted = u8::from(block >= 3 * done);
        assert!(read.data.iter().all(|piece| piece.iter().all(|&byte| byte == wanted)), "block {block}");
    }
    let pool = &run.pool;
    wait(pool, Rc::clone(pool).delete_volume("clone".to_owned())).expect("it goes");
    assert_eq!(pool.stats().masks, 0);
    others_go_on(&run);
}

/// Blocks that a large discard removes leave the accounts piece by piece. A discard of two parts
/// that came while many blocks were still to be removed was executed in part, and until its second
/// part found space no host of any volume could write.
#[test]
fn a_host_that_discards_everything_again_and_again_keeps_nobody_from_writing() {
    const LEAVES: u64 = 8_192;
    const LEAF_BLOCKS: u64 = 512;
    const TURNS_MAX: u32 = 48;
    let run = pool(3, 16_384, 4, 100, 1000);
    let pool = &run.pool;
    let size_bytes = LEAVES * LEAF_BLOCKS * BLOCK_BYTES as u64;
    let request = CreateVolume { name: "thin".to_owned(), size_bytes, uuid: None, thin: true };
    wait(pool, Rc::clone(pool).create_volume(request)).expect("a thin volume");
    for leaf in 0..LEAVES {
        write(pool, "thin", leaf * LEAF_BLOCKS, 1).expect("it is written");
    }
    let [thin, other] = ["thin", "v0"].map(|name| pool.find_volume(name).expect("it exists").id);
    let range_blocks = (LEAVES * LEAF_BLOCKS / 256) as u32;
    let ranges: Vec<(u64, u64)> =
        (0..256).map(|index| (index * u64::from(range_blocks), u64::from(range_blocks))).collect();
    let (discards, writes) = (Sink::new(), Sink::new());
    // One part, and two with each discard that follows: the last room is that of a first part.
    let first = Request::Trim { ranges: &ranges[..1] };
    assert_eq!(pool.submit(thin, &first, 0, &discards), Submitted::Queued);
    let (mut discarded, mut busy) = (0, 0);
    for block in 0..100 {
        for _ in 0..4 {
            match pool.submit(thin, &Request::Trim { ranges: &ranges }, block, &discards) {
                Submitted::Queued => discarded += 1,
                Submitted::Busy => busy += 1,
            }
        }
        let data = [3; BLOCK_BYTES];
        let write = Request::Write { block, data: &[&data], force_unit_access: false };
        let is_queued = |_: &u32| pool.submit(other, &write, block, &writes) == Submitted::Queued;
        let waited = (0..TURNS_MAX).inspect(|_| turn(pool)).find(is_queued);
        assert!(waited.is_some(), "write {block} is not taken after {discarded} discards");
        while writes.pop().is_none() {
            turn(pool);
        }
    }
    assert!(discarded > 32 && busy > 8, "{discarded} discards, {busy} of them had to wait");
}

/// The operator is told while little is left for thin volumes, with what is left, and no longer
/// than that: a volume that is deleted, and blocks that are trimmed, end it.
#[test]
fn the_problem_of_a_pool_that_is_nearly_full_goes_with_its_cause() {
    let run = pool(6, 256, 10, 28, 1);
    let pool = &run.pool;
    let told = || {
        let problems = pool.info().problems.into_iter();
        problems.filter(|problem| problem.starts_with("the pool is nearly full")).collect::<Vec<_>>()
    };
    let capacity = pool.stats().capacity_blocks;
    let thin = |name: &str| {
        let size_bytes = capacity * BLOCK_BYTES as u64;
        let create = CreateVolume { name: name.to_owned(), size_bytes, uuid: None, thin: true };
        wait(pool, Rc::clone(pool).create_volume(create)).expect("thin volumes need no room");
    };
    thin("first");
    thin("second");
    let (half, rest) = (capacity / 2, capacity * 2 / 5);
    (0..half).for_each(|block| write(pool, "first", block, 1).expect("there is room"));
    assert_eq!(told(), Vec::<String>::new(), "half is taken");
    (0..rest).for_each(|block| write(pool, "second", block, 2).expect("there is room"));
    let left = capacity - half - rest - run.pool.find_volume("v0").expect("it exists").size_bytes / 4096;
    assert!(told().len() == 1 && told()[0].contains(&format!("have {left} blocks")), "{:?}", told());
    let first = pool.find_volume("first").expect("it exists").id;
    let trim = Request::Trim { ranges: &[(0, half / 2)] };
    assert_eq!(world::run(pool, first, &trim).result, Ok(()));
    (0..1000).for_each(|_| turn(pool));
    assert_eq!(told(), Vec::<String>::new(), "it was trimmed");
    (0..half / 2).for_each(|block| write(pool, "first", block, 3).expect("there is room again"));
    assert_eq!(told().len(), 1);
    wait(pool, Rc::clone(pool).delete_volume("second".to_owned())).expect("it is deleted");
    (0..1000).for_each(|_| turn(pool));
    assert_eq!(told(), Vec::<String>::new(), "a volume was deleted");
}
