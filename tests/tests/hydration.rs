//! Hydration: an image copies its inherited data; then it needs neither its origin nor the archive,
//! and the history is unchanged.

use std::rc::Rc;
use std::sync::Arc;

use varve::archive::store::faulty::{Call, Fault, FaultyStore, When};
use varve::archive::store::{Reason, StoreErrorKind};
use varve::volume::VolumeError;
use varve_tests::sim::disk::Crash;
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::workload::{Run, Shape};
use varve_tests::sim::world::wait;

const DOWN: Fault = Fault::Error(StoreErrorKind::Unavailable(Reason::Busy("a fault")));

fn archived(seed: u64) -> (Run, Arc<FaultyStore>) {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default()), seed));
    let shape =
        Shape { device_blocks: 257 + 10 * 256, segment_blocks: 256, volatile_cache: true, volume_blocks: 60 };
    let mut run = Run::with_archive(seed, shape, Arc::clone(&store) as _);
    // So small that reads come from the store.
    run.world.policy.blocks_cache_bytes = 64 << 10;
    (run, store)
}

fn inherited_blocks(run: &Run) -> u64 {
    run.pool.volumes().iter().map(|volume| volume.inherited_blocks).sum()
}

/// A recovered pool can be used at once. After it is hydrated, every volume can be read without the
/// archive, also after a crash.
#[test]
fn a_recovered_pool_needs_its_archive_no_more_once_it_is_hydrated() {
    let (mut read_from_archive, mut points) = (0, 0);
    for seed in 300..306 {
        let (mut run, store) = archived(seed);
        for round in 0..2 {
            for _ in 0..500 {
                run.step();
            }
            run.lose_primary(true);
            read_from_archive += inherited_blocks(&run);
            // Hosts continue while it hydrates.
            for _ in 0..100 {
                run.step();
                run.check_working_set();
            }
            if round == 0 {
                run.crash(Crash::Power);
            }
        }
        run.settle();
        run.finish_hydrations();
        // Clones of the run may still inherit.
        for volume in run.pool.volumes().iter().filter(|volume| volume.inherited_blocks > 0) {
            match wait(&run.pool, Rc::clone(&run.pool).begin_hydration(volume.name.clone())) {
                Ok(volume) => wait(&run.pool, Rc::clone(&run.pool).hydrate(volume.id)),
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        let problems = run.pool.info().problems;
        assert!(!problems.iter().any(|problem| problem.contains("hydrated")), "seed {seed}: {problems:?}");
        assert_eq!(inherited_blocks(&run), 0, "seed {seed}");
        store.add(Call::Get, When::Always, DOWN);
        run.check_all();
        store.heal();
        run.restart();
        assert_eq!(inherited_blocks(&run), 0, "seed {seed}");
        points += run.check_points(20);
        run.crash(Crash::Process);
    }
    assert!(read_from_archive > 500, "{read_from_archive}");
    println!("{points} points equal the model");
}

/// Data that a store does not return stays inherited; nothing is lost, and the next try completes.
#[test]
fn a_hydration_that_fails_is_told_and_tried_again() {
    let (mut run, store) = archived(310);
    for _ in 0..400 {
        run.step();
    }
    run.lose_primary(true);
    let before = inherited_blocks(&run);
    assert!(before > 0);
    store.add(Call::Get, When::Always, DOWN);
    run.finish_hydrations();
    let problems = run.pool.info().problems;
    assert!(problems.iter().any(|problem| problem.contains("was not hydrated to its end")), "{problems:?}");
    assert!(inherited_blocks(&run) > 0);
    store.heal();
    wait(&run.pool, Rc::clone(&run.pool).hydrate_all());
    // The inherited data of clones of the past stays where it is.
    let volumes = run.pool.volumes();
    let of_lost = volumes.iter().filter(|volume| !volume.thin);
    assert!(of_lost.map(|volume| volume.inherited_blocks).all(|blocks| blocks == 0), "{volumes:?}");
    run.check_all();
}

/// A volume that is not a clone has nothing to hydrate; an unknown name is refused.
#[test]
fn what_inherits_nothing_is_refused() {
    let (mut run, _store) = archived(311);
    let refused = |run: &mut Run, name: &str| {
        wait(&run.pool, Rc::clone(&run.pool).begin_hydration(name.to_owned())).expect_err("refused")
    };
    assert!(matches!(refused(&mut run, "v0"), VolumeError::Invalid { .. }));
    assert!(matches!(refused(&mut run, "nobody"), VolumeError::NoSuchVolume { .. }));
}
