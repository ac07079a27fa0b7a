//! The status of an archive matches the result of a recovery: while copies wait for their record,
//! after gaps, and while the store fails.

use std::rc::Rc;
use std::sync::Arc;

use varve::archive::store::faulty::{Call, Fault, FaultyStore, When};
use varve::archive::store::{Reason, StoreErrorKind};
use varve::dma::BLOCK_BYTES;
use varve::volume::{ArchivePolicy, ArchiveStatus, BackPressure, Pool, Request};
use varve_tests::sim::disk::{Crash, SimDisk};
use varve_tests::sim::rng::Rng;
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::workload::{Run, Shape};
use varve_tests::sim::world;

const DENIED: Fault = Fault::Error(StoreErrorKind::Unavailable(Reason::Busy("the token has expired")));
const SEGMENT_BLOCKS: u64 = 256;
const SLOTS: u64 = 8;

/// A run with this archive policy, and its pool, driven by hand.
fn with_policy(seed: u64, store: &Arc<FaultyStore>, policy: ArchivePolicy) -> (Run, Rc<Pool>) {
    let shape = Shape {
        device_blocks: SEGMENT_BLOCKS + SLOTS * SEGMENT_BLOCKS,
        segment_blocks: SEGMENT_BLOCKS,
        volatile_cache: true,
        volume_blocks: 300,
    };
    let mut run = Run::with_archive(seed, shape, Arc::<FaultyStore>::clone(store));
    let pool = run.world.take(&mut run.pool);
    world::wait(&pool, Rc::clone(&pool).close()).expect("it closes");
    drop(pool);
    run.disk.crash(Crash::Process);
    run.world.policy = policy;
    let pool = run.world.open_loading(run.disk.open()).expect("it opens");
    run.world.attach(&pool, &run.disk);
    (run, pool)
}

fn faulty() -> Arc<FaultyStore> {
    Arc::new(FaultyStore::new(Arc::new(MemoryStore::default()), 1))
}

fn status(pool: &Pool) -> ArchiveStatus {
    pool.archive_status().expect("it has an archive")
}

/// Writes a block; returns whether the write succeeded.
fn write(pool: &Pool, block: u64) -> bool {
    let volume = pool.find_volume("v0").expect("it exists");
    let data = vec![block as u8 | 1; BLOCK_BYTES];
    let request = Request::Write { block, data: &[&data], force_unit_access: false };
    world::run(pool, volume.id, &request).result.is_ok()
}

/// Turns the pool until a condition holds.
fn turn_until(pool: &Pool, what: &str, mut is_so: impl FnMut(&ArchiveStatus) -> bool) {
    for _ in 0..50_000 {
        if is_so(&status(pool)) {
            return;
        }
        world::turn(pool);
    }
    panic!("{what} does not come: {:?}", status(pool));
}

#[test]
fn a_seal_ends_and_nothing_is_behind_while_copies_wait_for_their_record() {
    let (_run, pool) = with_policy(61, &faulty(), ArchivePolicy::default());
    let mut rng = Rng::new(61);
    let mut waiting = 0;
    for _ in 0..300 {
        for _ in 0..=rng.below(12) {
            assert!(write(&pool, rng.below(300)));
        }
        for _ in 0..rng.below(20) {
            world::turn(&pool);
        }
        let lsn = pool.begin_seal().expect("it has an archive");
        waiting += u32::from(pool.stats().head_lsn > lsn.0);
        turn_until(&pool, "the end of the seal", |status| status.archived_to_lsn >= lsn.0);
        turn_until(&pool, "an archive with nothing behind", |status| status.backlog_bytes == 0);
        assert!(status(&pool).recovery_point_age_s < 1e-9);
    }
    assert!(waiting > 0, "no copies waited for their record");
}

#[test]
fn the_age_is_that_of_the_oldest_write_that_is_not_archived() {
    let policy = ArchivePolicy { seal_interval_ns: 3_600_000_000_000, ..ArchivePolicy::default() };
    let (run, pool) = with_policy(62, &faulty(), policy);
    assert!(write(&pool, 1));
    let lsn = pool.begin_seal().expect("it has an archive");
    turn_until(&pool, "the end of the seal", |status| status.archived_to_lsn >= lsn.0);
    run.world.clock.advance(900_000_000_000);
    world::turn(&pool);
    assert!(write(&pool, 2));
    let age_s = status(&pool).recovery_point_age_s;
    assert!(age_s < 5.0, "what was written just now is {age_s} s old");
    run.world.clock.advance(60_000_000_000);
    assert!(write(&pool, 3));
    let age_s = status(&pool).recovery_point_age_s;
    assert!((60.0..65.0).contains(&age_s), "{age_s}");
}

#[test]
fn behind_a_gap_the_status_says_what_a_recovery_gives() {
    let policy = ArchivePolicy {
        seal_interval_ns: 20_000_000,
        back_pressure: BackPressure::Degrade,
        ..ArchivePolicy::default()
    };
    let store = faulty();
    let (run, pool) = with_policy(63, &store, policy);
    for block in 0..40 {
        assert!(write(&pool, block));
    }
    let lsn = pool.begin_seal().expect("it has an archive");
    turn_until(&pool, "the end of the seal", |status| status.archived_to_lsn >= lsn.0);
    let before = status(&pool);
    store.add(Call::PutStart, When::Always, DENIED);
    let until = pool.stats().head_lsn + 3 * SLOTS * SEGMENT_BLOCKS;
    let mut block = 0;
    while pool.stats().head_lsn < until {
        assert!(write(&pool, block % 40), "writes go on");
        block += 1;
    }
    let now = status(&pool);
    assert!(!now.gaps.is_empty() && now.archived_to_lsn <= before.head_lsn, "{now:?}");
    assert!(now.backlog_bytes > 0 && now.recovery_point_age_s > 0.0, "{now:?}");
    let sealing = world::wait(&pool, Rc::clone(&pool).seal_archive());
    assert!(sealing.is_err(), "every put is refused: {sealing:?}");

    // The store works again: after a whole working set, everything counts again.
    store.heal();
    turn_until(&pool, "the last of what is left in the store", |status| {
        status.stored_to_lsn >= status.head_lsn
    });
    let point = recover(&run, &pool);
    let said = status(&pool).archived_to_lsn;
    assert!(point < said.max(1), "a recovery gives LSN {point}, the status says {said}");
    let until = pool.stats().head_lsn + 2 * SLOTS * SEGMENT_BLOCKS;
    while pool.stats().head_lsn < until {
        write(&pool, block % 40);
        block += 1;
    }
    turn_until(&pool, "an archive with nothing behind", |status| status.archived_to_lsn >= status.head_lsn);
    assert!(recover(&run, &pool) + SEGMENT_BLOCKS > status(&pool).archived_to_lsn);
}

/// The point that a recovery would reach now.
fn recover(run: &Run, pool: &Pool) -> u64 {
    let disk = SimDisk::new(SEGMENT_BLOCKS + 2 * SLOTS * SEGMENT_BLOCKS, true, 7);
    run.world.recover(pool.info().uuid, &disk, SEGMENT_BLOCKS).expect("it is recovered")
}

#[test]
fn the_cause_stays_in_sight_when_writes_are_refused() {
    let policy = ArchivePolicy { wait_ns: 1_000_000_000, ..ArchivePolicy::default() };
    let store = faulty();
    let (_run, pool) = with_policy(64, &store, policy);
    store.add(Call::PutStart, When::Always, DENIED);
    let mut block = 0;
    while status(&pool).state != "refusing" {
        write(&pool, block % 40);
        world::turn(&pool);
        block += 1;
        assert!(block < 100_000, "{:?}", status(&pool));
    }
    // This holds whatever the store and the writers do.
    for _ in 0..5_000 {
        world::turn(&pool);
        let problem = status(&pool).problem.expect("a problem");
        assert!(problem.contains("the token has expired"), "{problem}");
    }
    assert!(status(&pool).problem.expect("a problem").contains("writes are refused"));
    // A seal that an operator requests does not wait for the end of the back-off.
    store.heal();
    let began = std::cell::Cell::new(0);
    let lsn = pool.begin_seal().expect("it has an archive");
    turn_until(&pool, "the end of the seal", |status| {
        began.set(began.get() + 1);
        status.stored_to_lsn >= lsn.0
    });
    assert!(began.get() < 2_000, "{} turns", began.get());
}
