//! Entries that cannot be read while a segment is archived: the archivist waits for the device, and
//! the object records what stays unknown. Nothing incomplete is archived as whole.

use std::rc::Rc;
use std::sync::Arc;

use varve::archive::object::{Decompressor, ObjectId, read_front};
use varve::archive::store::faulty::{Call, Fault, FaultyStore, When};
use varve::archive::store::{Reason, Store, StoreErrorKind, StoredObject};
use varve::log::Geometry;
use varve::log::reader::LsnRange;
use varve::volume::KnownObjects;
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::workload::{Run, Shape};
use varve_tests::sim::world;

const SEGMENT_BLOCKS: u64 = 256;
/// The segment whose trailer cannot be read.
const SEQUENCE: u64 = 2;

/// A run whose store accepts nothing, and which has written so much that the entries of its first
/// segments are no longer in memory.
fn behind(seed: u64) -> (Run, Arc<FaultyStore>) {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default()), seed));
    let fault = Fault::Error(StoreErrorKind::Unavailable(Reason::Busy("a fault")));
    store.add(Call::PutStart, When::Always, fault);
    let shape = Shape {
        device_blocks: 256 + 20 * SEGMENT_BLOCKS,
        segment_blocks: SEGMENT_BLOCKS,
        volatile_cache: false,
        volume_blocks: 60,
    };
    let mut run = Run::with_archive(seed, shape, Arc::<FaultyStore>::clone(&store));
    while run.pool.stats().head_lsn < 12 * SEGMENT_BLOCKS {
        run.step_lone_write();
    }
    (run, store)
}

/// The blocks of the trailer of [`SEQUENCE`].
fn trailer_blocks(run: &Run) -> Vec<u64> {
    let segments = run.pool.segments();
    let slot = segments.iter().find(|segment| segment.sequence == Some(SEQUENCE)).expect("it is there").slot;
    let geometry = Geometry::fit(run.disk.len_blocks(), SEGMENT_BLOCKS).expect("it fits");
    let slot = varve::log::Slot(slot);
    (geometry.trailer_block(slot)..geometry.slot_block(slot) + SEGMENT_BLOCKS).collect()
}

/// The missing ranges that each object of the store records. All these objects are accepted as
/// valid.
fn holes(run: &Run, store: &dyn Store) -> Vec<(ObjectId, Vec<LsnRange>)> {
    let known = KnownObjects::list(store, run.pool.info().uuid).expect("it can be listed");
    let mut codec = Decompressor::new().expect("memory");
    let front = |id: ObjectId| {
        let object = StoredObject::open(store, &id.name().expect("a name")).expect("it is there");
        (id, read_front(&object, &mut codec).expect("it lacks nothing silently").holes)
    };
    known.ids().map(front).collect()
}

/// Turns the pool until the archive has everything.
fn drain(run: &Run) {
    world::wait(&run.pool, Rc::clone(&run.pool).seal_archive()).expect("it seals");
    let status = run.pool.archive_status().expect("an archive");
    assert_eq!((status.backlog_segments, status.problem), (0, None));
}

#[test]
fn a_trailer_that_cannot_be_read_for_a_while_costs_nothing() {
    let (mut run, store) = behind(71);
    run.disk.fail_reads_of(&trailer_blocks(&run));
    store.heal();
    let reads = run.disk.reads();
    // The trailer is read several times in these turns, at growing intervals.
    for _ in 0..4000 {
        world::turn(&run.pool);
    }
    assert!(run.disk.reads() > reads, "the entries were asked for");
    run.disk.fail_reads_of(&[]);
    drain(&run);
    let holes = holes(&run, &*store);
    assert!(holes.len() > 10 && holes.iter().all(|(_, holes)| holes.is_empty()), "{holes:?}");
    run.check_all();
    assert!(run.check_points(30) > 0);
}

#[test]
fn a_trailer_that_stays_unreadable_leaves_no_object_that_hides_it() {
    let (run, store) = behind(72);
    run.disk.fail_reads_of(&trailer_blocks(&run));
    store.heal();
    drain(&run);
    let holes = holes(&run, &*store);
    let of_others = holes.iter().filter(|(id, _)| id.sequence.0 != SEQUENCE);
    assert!(of_others.clone().count() > 10);
    assert!(of_others.clone().all(|(_, holes)| holes.is_empty()), "{holes:?}");
    assert!(
        holes.iter().any(|(id, _)| id.whole && id.sequence.0 == SEQUENCE),
        "it is put, and the log goes on"
    );
}
