//! The endless log: segments leave the working set, live blocks are copied forward, slots are used
//! again.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use varve::archive::object::ObjectId;
use varve::archive::retention::SegmentRange;
use varve::archive::store::faulty::{Call, Fault, FaultyStore, When};
use varve::archive::store::{Reason, Store, StoreErrorKind};
use varve::dma::BLOCK_BYTES;
use varve::log::{Recycling, SegmentSeq};
use varve::volume::{KnownObjects, Point, Pool, PoolOptions, Request};
use varve_tests::sim::campaign::Counts;
use varve_tests::sim::disk::Crash;
use varve_tests::sim::endless::{endless_campaign, endless_campaign_with};
use varve_tests::sim::faults::Faults;
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::workload::{Run, Shape};
use varve_tests::sim::world;

const DISCARD: PoolOptions =
    PoolOptions { recycling: Recycling::Discard, overprovisioning_percent: None, read_ahead_blocks: None };

/// 20 times the device's size is written. Every block holds its last write, and the log never has
/// more segments than slots.
#[test]
fn a_log_that_discards_goes_on_for_ever() {
    for (seed, slots) in [(1, 8), (2, 12), (3, 40)] {
        let shape = Shape {
            device_blocks: 257 + slots * 256,
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

/// Crashes of both kinds in an endless log lose nothing that was guaranteed.
#[test]
fn crashes_of_an_endless_log_keep_every_promise() {
    for seed in 10..30 {
        let slots = 8 + seed % 5;
        let shape = Shape {
            device_blocks: 257 + slots * 256,
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
        device_blocks: 257 + slots * 256,
        segment_blocks: 256,
        volatile_cache: !seed.is_multiple_of(3),
        volume_blocks: (slots - 4) * 12,
    };
    Run::with_archive(seed, shape, Arc::new(MemoryStore::default()))
}

/// 20 times the device's size is written, with clones, synchs, snapshots and restarts. Then points
/// of the whole history are opened, most of them only in the archive, and each equals the model.
/// The bound of the scan is checked inside.
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

/// 20 times the device's size is written. Then 1000 points of the whole history are opened, most of
/// which are only in the archive, and each equals the model. No generation of any of them is built
/// from more than W+1 segments.
#[test]
fn a_thousand_points_of_twenty_primaries_are_exact() {
    let slots = 10;
    let mut run = archived(4, slots);
    while run.pool.stats().head_lsn < 20 * slots * 256 {
        run.step();
        run.check_working_set();
    }
    run.settle();
    run.check_all();
    let written = run.pool.stats().head_lsn;
    let mut points = 0;
    while points < 1000 {
        points += run.check_points(1000 - points);
        run.settle();
    }
    let bound = run.pool.info().working_set_segments + 1;
    let (archived_only, touched) = (run.archived_only_points, run.segments_touched_max);
    println!(
        "{written} positions over {slots} slots of 256 blocks; {points} points equal the model, {archived_only} of them only in the archive; \
         at most {touched} segments touched of {bound}"
    );
    assert!(archived_only > 800 && touched <= bound, "{archived_only} {touched} {bound}");
    assert!(run.pool.archive_status().is_some_and(|status| status.gaps.is_empty()));
    run.check_working_set();
    run.restart();
}

/// Crashes at any moment, also while segments are archived and discarded.
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

/// Seeds of campaigns that once found an error.
const FOUND: [u64; 9] = [313, 403, 439, 5077, 5695, 8813, 30269, 30965, 31723];

/// Whole campaigns: random shapes, stores that fail, crashes while the pool is opened and while
/// operations are in progress.
#[test]
fn endless_campaigns_keep_every_promise() {
    let mut total = Counts::default();
    for seed in 0..40 {
        total += endless_campaign(seed);
    }
    for seed in FOUND {
        total += endless_campaign_with(seed, false, Faults::NONE);
    }
    println!("{total:?}");
    assert!(total.expired > 0, "{total:?}");
    assert!(total.crashes > 200 && total.points > 300 && total.reshaped > 100, "{total:?}");
}

/// The primary device is lost several times. The archive alone restores every volume, synch,
/// snapshot and point, including those of segments older than the previous loss.
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
            let lost = run.lose_primary(round % 2 == 0).expect("something was archived");
            println!("seed {seed}: {lost} steps lost");
            recoveries += 1;
            points += run.check_points(12);
        }
        run.restart();
        points += run.check_points(12);
    }
    println!("{recoveries} recoveries, {points} points equal the model");
}

/// What a clone trimmed stays trimmed after the trim's segment has left the working set, also after
/// a restart. It used to come back: the trim was lost with its segment, and the block was inherited
/// again.
#[test]
fn a_trim_of_a_clone_outlives_its_segment() {
    let mut run = archived(31, 8);
    let mut pool = by_hand(&mut run);
    for block in 0..8 {
        write(&pool, "v0", block, 1);
    }
    let point = Point::Lsn(pool.stats().newest_point_lsn);
    world::wait(&pool, Rc::clone(&pool).clone_volume("v0".to_owned(), point, "clone".to_owned(), false))
        .expect("a clone");
    trim(&pool, "clone", &[(0, 4)]);
    let trimmed_at = pool.stats().head_lsn;
    for round in 0..6 {
        let wanted = trimmed_at + (round + 1) * 1024;
        let mut block = 0;
        while pool.stats().head_lsn < wanted {
            write(&pool, "v0", block % 40, 2);
            block += 1;
        }
        pool = reopen(&run, pool);
        let clone = pool.find_volume("clone").expect("it is there");
        let read = world::run(&pool, clone.id, &Request::Read { block: 0, len_blocks: 8 });
        assert_eq!(read.result, Ok(()), "round {round}");
        let bytes: Vec<u8> = read.data.iter().flat_map(|piece| piece.iter().copied()).collect();
        assert!(
            bytes[..4 * BLOCK_BYTES].iter().all(|&byte| byte == 0),
            "round {round}: what was trimmed is back"
        );
        assert!(bytes[4 * BLOCK_BYTES..].iter().all(|&byte| byte == 1), "round {round}");
    }
}

/// Many trims of a clone, of which one newer trim hides all but one: after a restart space is
/// reserved for that one alone, and no other is copied forward. All of them used to be, and did not
/// fit into the segment.
#[test]
fn masks_that_a_newer_one_hides_are_not_carried_on() {
    let (slots, blocks) = (12, 420);
    let shape = Shape {
        device_blocks: 257 + slots * 256,
        segment_blocks: 256,
        volatile_cache: true,
        volume_blocks: blocks,
    };
    let mut run = Run::with_archive(32, shape, Arc::new(MemoryStore::default()));
    let mut pool = by_hand(&mut run);
    let mut next = 0;
    let mut fill_to = |pool: &Pool, lsn: u64| {
        while pool.stats().head_lsn < lsn {
            write(pool, "v0", next % blocks, 1);
            next += 1;
        }
    };
    fill_to(&pool, 4 * 256);
    let point = Point::Lsn(pool.stats().newest_point_lsn);
    world::wait(&pool, Rc::clone(&pool).clone_volume("v0".to_owned(), point, "clone".to_owned(), false))
        .expect("a clone");
    for part in 0..2 {
        let ranges: Vec<(u64, u64)> = (0..100).map(|range| (part * 200 + 2 * range, 1)).collect();
        trim(&pool, "clone", &ranges);
    }
    trim(&pool, "clone", &[(410, 1)]);
    fill_to(&pool, 6 * 256);
    trim(&pool, "clone", &[(0, 400)]);
    pool = reopen(&run, pool);
    fill_to(&pool, 20 * 256);
    pool = reopen(&run, pool);
    let clone = pool.find_volume("clone").expect("it is there");
    for block in 0..blocks {
        let read = world::run(&pool, clone.id, &Request::Read { block, len_blocks: 1 });
        assert_eq!(read.result, Ok(()));
        let is_trimmed = block < 400 || block == 410;
        let wanted = u8::from(!is_trimmed);
        assert!(read.data.iter().all(|piece| piece.iter().all(|&byte| byte == wanted)), "block {block}");
    }
}

/// What a deleted clone inherited is remembered only while a point of it exists. It used to be
/// remembered forever, for up to a thousand clones, at the start of every segment.
#[test]
fn a_deleted_clone_is_forgotten_with_its_last_point() {
    let mut run = archived(33, 8);
    let mut pool = by_hand(&mut run);
    let fill_to = |pool: &Pool, lsn: u64| {
        while pool.stats().head_lsn < lsn {
            write(pool, "v0", pool.stats().head_lsn % 40, 3);
        }
    };
    let last_of = |pool: &Pool| SegmentSeq(pool.lineage().oldest_on_primary.0 - 1);
    let forget = |pool: &Pool, last: SegmentSeq| {
        let lineage = pool.lineage();
        let range = SegmentRange { first: SegmentSeq(0), last };
        pool.forget_archived(&[range], lineage.change_lsn).expect("nothing has changed since")
    };
    fill_to(&pool, 3 * 256);
    let point = Point::Lsn(pool.stats().newest_point_lsn);
    world::wait(&pool, Rc::clone(&pool).clone_volume("v0".to_owned(), point, "clone".to_owned(), false))
        .expect("a clone");
    // One that was never written would leave nothing at all.
    write(&pool, "clone", 3, 9);
    fill_to(&pool, 5 * 256);
    world::wait(&pool, Rc::clone(&pool).delete_volume("clone".to_owned())).expect("it goes");
    let gone_at = pool.stats().head_lsn / 256;
    fill_to(&pool, 30 * 256);
    assert!(last_of(&pool).0 > gone_at + 2, "its life is in the archive alone");
    assert_eq!(pool.lineage().births.len(), 1, "{:?}", pool.lineage().births);
    forget(&pool, SegmentSeq(2));
    assert_eq!(pool.lineage().births.len(), 1, "points at which it lived are left");
    let gone_to = gone_at + 1;
    forget(&pool, SegmentSeq(gone_to));
    assert_eq!(pool.lineage().births, []);
    // The next segments record it, and so a restart knows it.
    let next = pool.stats().head_lsn + 2 * 256;
    fill_to(&pool, next);
    pool = reopen(&run, pool);
    assert_eq!(pool.lineage().births, []);
}

/// Durations were measured with the time of day: a clock that was set back by an hour stopped the
/// archive, and with it the recovery point, for an hour.
#[test]
fn a_clock_that_is_set_back_does_not_stop_the_archive() {
    let mut run = archived(34, 8);
    let pool = by_hand(&mut run);
    for _ in 0..2 {
        for block in 0..20 {
            write(&pool, "v0", block, 5);
        }
        let behind = |pool: &Pool| {
            let status = pool.archive_status().expect("it has one");
            status.archived_to_lsn < status.head_lsn
        };
        assert!(behind(&pool));
        let mut turns = 0;
        while behind(&pool) && turns < 10_000 {
            world::turn(&pool);
            turns += 1;
        }
        assert!(!behind(&pool), "{:?}", pool.archive_status());
        run.world.clock.set_wall(-3_600_000_000_000);
    }
}

/// Takes the pool out of a run, to drive it by hand; a blank pool replaces it.
fn by_hand(run: &mut Run) -> Rc<Pool> {
    run.world.take(&mut run.pool)
}

/// Stops a pool that is driven by hand and opens it again.
fn reopen(run: &Run, pool: Rc<Pool>) -> Rc<Pool> {
    world::wait(&pool, Rc::clone(&pool).close()).expect("it closes");
    drop(pool);
    run.disk.crash(Crash::Process);
    let pool = run.world.open_loading(run.disk.open()).expect("it opens");
    run.world.attach(&pool, &run.disk);
    world::wait(&pool, Rc::clone(&pool).load_inherited());
    pool
}

fn write(pool: &Pool, name: &str, block: u64, byte: u8) {
    let volume = pool.find_volume(name).expect("it exists");
    let data = [byte; BLOCK_BYTES];
    let request = Request::Write { block, data: &[&data], force_unit_access: false };
    assert_eq!(world::run(pool, volume.id, &request).result, Ok(()));
}

fn trim(pool: &Pool, name: &str, ranges: &[(u64, u64)]) {
    let volume = pool.find_volume(name).expect("it exists");
    assert_eq!(world::run(pool, volume.id, &Request::Trim { ranges }).result, Ok(()));
}

/// A store silently changes a byte of an object: this is detected before the primary's copy is
/// discarded, and the object is stored again.
#[test]
fn a_byte_that_the_store_changed_is_found_before_the_slot_is_given_away() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default()), 1));
    for nth in [3, 20, 40, 80, 160] {
        store.add(Call::Write, When::Nth(nth), Fault::WrongByte);
    }
    let mut run = in_store(41, 8, Arc::clone(&store));
    while run.pool.stats().head_lsn < 8 * 8 * 256 {
        run.step();
    }
    run.settle();
    assert!(store.injected() >= 5);
    run.check_all();
    assert!(run.check_points(40) > 0);
}

/// The store is empty after a restart, because its disk was lost or another was attached. What the
/// primary device still holds is archived there again, the operator is informed, and the pool can
/// be recovered from it.
#[test]
fn what_the_store_lost_is_archived_again_from_the_primary_device() {
    let mut run = archived(35, 8);
    let mut pool = by_hand(&mut run);
    let is_archived = |pool: &Pool| {
        let status = pool.archive_status().expect("it has one");
        status.archived_to_lsn >= status.head_lsn
    };
    while pool.stats().head_lsn < 12 * 256 {
        write(&pool, "v0", pool.stats().head_lsn % 40, 3);
    }
    let settle = |pool: &Pool| {
        for _ in 0..10_000 {
            world::turn(pool);
        }
        assert!(is_archived(pool), "{:?}", pool.archive_status());
    };
    settle(&pool);
    run.world.store = Some(Arc::new(MemoryStore::default()));
    for restart in 0..2 {
        pool = reopen(&run, pool);
        let told =
            pool.info().problems.iter().any(|problem| problem.starts_with("the archive has lost segments"));
        assert_eq!(told, restart == 0, "{:?}", pool.info().problems);
        settle(&pool);
    }
    let on_primary = pool.lineage().on_primary;
    let store = run.world.store.clone().expect("it was set");
    let mut whole = HashSet::new();
    for object in store.list("", None, 1000).expect("it can be listed").objects {
        let id = ObjectId::parse(object.name.as_str()).expect("an object");
        if id.whole {
            whole.insert(id.sequence);
        }
    }
    let current = pool.stats().head_lsn / 256;
    let sealed = on_primary.iter().flat_map(|range| range.first.0..=range.last.0).filter(|&s| s < current);
    assert!(sealed.clone().count() > 4);
    for sequence in sealed {
        assert!(whole.contains(&SegmentSeq(sequence)), "segment {sequence}: {whole:?}");
    }
}

/// A segment expired, and its slot came back after a crash because it was not used again yet. The
/// segment was archived once more, and damaged on the way; after another start the damaged object
/// counted as verified (seed 405993).
#[test]
fn what_expired_is_not_archived_again_when_its_slot_comes_back() {
    let mut came_back = 0;
    for seed in 100..130 {
        let mut run = archived(seed, 8);
        let store = run.world.store.clone().expect("it has one");
        let pool = by_hand(&mut run);
        let write_on = |pool: &Pool, blocks: u64| {
            let until = pool.stats().head_lsn + blocks;
            while pool.stats().head_lsn < until {
                write(pool, "v0", pool.stats().head_lsn % 40, 3);
            }
        };
        write_on(&pool, 12 * 256 + seed % 7 * 100);
        let lineage = pool.lineage();
        let last = lineage.oldest_on_primary.0 - 1;
        let range = SegmentRange { first: SegmentSeq(0), last: SegmentSeq(last) };
        pool.forget_archived(&[range], lineage.change_lsn).expect("nothing has changed since");
        for object in store.list("", None, 1000).expect("it can be listed").objects {
            if ObjectId::parse(object.name.as_str()).is_ok_and(|id| id.sequence.0 <= last) {
                store.delete(&object.name).expect("it goes");
            }
        }
        drop(pool);
        run.disk.crash(Crash::Power);
        let faulty = Arc::new(FaultyStore::new(Arc::clone(&store), seed));
        faulty.add(Call::Write, When::PerMille(1000), Fault::WrongByte);
        for store in [faulty as Arc<dyn Store>, store] {
            run.world.store = Some(store);
            let pool = run.world.open_loading(run.disk.open()).expect("it opens");
            run.world.attach(&pool, &run.disk);
            came_back += u64::from(pool.lineage().oldest_on_primary.0 <= last);
            for _ in 0..2000 {
                world::turn(&pool);
            }
            if pool.archive_status().is_some_and(|status| status.problem.is_none()) {
                write_on(&pool, 3 * 256);
            }
            world::wait(&pool, Rc::clone(&pool).load_archived_synchs(SegmentSeq(0)))
                .expect("no object is damaged");
            drop(pool);
            run.disk.crash(Crash::Process);
        }
    }
    assert!(came_back > 0);
}

/// A crash between the put of an object and its verification: after the restart the object exists,
/// and is damaged. It must not count as archived. It once did.
#[test]
fn an_object_counts_only_once_it_was_verified() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default()), 2));
    store.add(Call::Write, When::Always, Fault::WrongByte);
    store.add(Call::Get, When::Always, Fault::Error(StoreErrorKind::Unavailable(Reason::Busy("a fault"))));
    let mut run = in_store(42, 8, Arc::clone(&store));
    while run.pool.archive_status().is_none_or(|status| status.failures == 0) {
        run.step();
    }
    run.crash(Crash::Process);
    store.heal();
    while run.pool.stats().head_lsn < 6 * 8 * 256 {
        run.step();
    }
    run.settle();
    run.check_all();
    assert!(run.check_points(40) > 0);
    run.restart();
}

/// The recovery of a primary that is lost before anything was archived is refused, and the new
/// device stays unchanged. After the archive works, the same pool is recovered completely.
#[test]
fn nothing_is_recovered_from_an_archive_that_holds_nothing() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default()), 3));
    let fault = Fault::Error(StoreErrorKind::Unavailable(Reason::Busy("a fault")));
    store.add(Call::PutStart, When::Always, fault);
    let mut run = in_store(43, 8, Arc::clone(&store));
    for _ in 0..40 {
        run.step();
    }
    assert_eq!(run.lose_primary(true), None);
    run.check_all();
    store.heal();
    for _ in 0..40 {
        run.step();
    }
    assert_eq!(run.lose_primary(true), Some(0));
}

/// A segment is archived as a whole only when the next one's header is stable. Until then a power
/// cut may remove its trailer, and the log continues in it: the stored object was not the whole
/// segment, parts after it never counted, and sealing waited forever.
#[test]
fn the_whole_of_a_segment_is_archived_when_the_next_one_has_begun_for_good() {
    let store = Arc::new(MemoryStore::default());
    let mut run = Run::with_archive(
        45,
        Shape { device_blocks: 257 + 8 * 256, segment_blocks: 256, volatile_cache: true, volume_blocks: 40 },
        Arc::<MemoryStore>::clone(&store),
    );
    let uuid = run.pool.info().uuid;
    let mut wholes = 0;
    while run.pool.stats().head_lsn < 30 * 256 {
        run.step_lone_write();
        let known = KnownObjects::list(&*store, uuid).expect("a store in memory");
        let newest = known.ids().filter(|id| id.whole).last();
        let begun = newest.map_or(0, |id| (id.sequence.0 + 1) * 256);
        assert!(newest.is_none() || run.pool.stats().stable_lsn > begun);
        wholes = known.ids().filter(|id| id.whole).count();
    }
    assert!(wholes > 20, "{wholes}");
}

/// A crash while a slot is used again may bring back the slot's previous segment, with blocks of
/// the new one over its own. The text of a synch in it is in the archive. It used to read as
/// damaged forever.
#[test]
fn a_synch_whose_text_is_overwritten_on_the_primary_is_read_from_the_archive() {
    let mut run = archived(44, 8);
    while run.pool.synchs().is_empty() {
        run.step();
    }
    let synch = run.pool.synchs().infos()[0].clone();
    let slot = loop {
        let segments = run.pool.segments();
        let segment = segments.iter().find(|segment| segment.sequence == Some(synch.lsn / 256));
        let segment = segment.expect("it is still on the primary device");
        if segment.archived {
            break segment.slot;
        }
        run.step();
    };
    // Both copies of its text.
    for lsn in [synch.lsn - 1, synch.lsn] {
        assert!(run.disk.flip_bit(256 + slot * 256 + lsn % 256, 77));
    }
    run.note_damage();
    run.restart();
    assert!(!run.pool.info().problems.is_empty(), "the damage is told");
    assert_eq!(run.pool.synchs().infos()[0], synch);
}

fn in_store(seed: u64, slots: u64, store: Arc<FaultyStore>) -> Run {
    let shape = Shape {
        device_blocks: 257 + slots * 256,
        segment_blocks: 256,
        volatile_cache: true,
        volume_blocks: 40,
    };
    Run::with_archive(seed, shape, store)
}
