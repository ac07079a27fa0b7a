//! Segment headers that are damaged or unreadable at a start: the first record of a segment repeats
//! what its header contains, and the superblock records where the log ended when the pool was last
//! opened. So nothing is missing, and nothing comes back.

use std::rc::Rc;
use std::sync::Arc;

use varve::archive::store::faulty::{Call, Fault, FaultyStore, When};
use varve::archive::store::{Reason, Store, StoreErrorKind};
use varve::dma::BLOCK_BYTES;
use varve::log::format::SegmentHeader;
use varve::log::{Lsn, SegmentSeq};
use varve::volume::{IoError, Point, Pool, Request};
use varve_tests::sim::damage::{Stopped, problems};
use varve_tests::sim::disk::{Crash, SimDisk};
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::workload::{Run, Shape};
use varve_tests::sim::world::{run, wait};

const SEGMENT: u64 = 256;

fn shape(slots: u64) -> Shape {
    Shape {
        device_blocks: 257 + slots * SEGMENT,
        segment_blocks: SEGMENT,
        volatile_cache: true,
        volume_blocks: 120,
    }
}

fn newest(pool: &Pool) -> Option<u64> {
    pool.segments().into_iter().filter_map(|segment| segment.sequence).max()
}

/// A pool that crashed soon after it had opened a segment, so that the segment before has no
/// trailer yet, and that was then opened and crashed `times` times.
fn opened_again(seed: u64, times: u32) -> Stopped {
    let mut run = Run::new(seed, shape(20));
    while newest(&run.pool) < Some(1 + seed % 3) {
        run.step_lone_write();
    }
    for _ in 0..seed % 4 {
        run.step_lone_write();
    }
    let stopped = run.abandon(Crash::Process);
    for _ in 0..times {
        drop(stopped.open(&stopped.disk).expect("nothing is wrong with it"));
    }
    stopped
}

/// The first blocks of the slots that hold a segment.
fn headers(pool: &Pool) -> Vec<u64> {
    let kept = pool.segments().into_iter().filter(|segment| segment.sequence.is_some());
    kept.map(|segment| 256 + segment.slot * SEGMENT).collect()
}

fn head(pool: &Pool) -> u64 {
    pool.stats().head_lsn - 1
}

/// The important case is the header of the newest segment: no trailer replaces it (and perhaps none
/// replaces the one before it), and starts that wrote nothing have passed since. Such a segment was
/// once taken for one that a stop had cut off, and acknowledged writes were lost without a report.
#[test]
fn no_header_takes_anything_with_it() {
    let mut newest = 0;
    for seed in 0..10 {
        for times in 0..3 {
            let stopped = opened_again(seed, times);
            let whole = stopped.open(&stopped.disk.fork()).expect("nothing is wrong with it");
            let (expected, blocks) = (head(&whole), headers(&whole));
            for (index, &block) in blocks.iter().enumerate() {
                for harm in 0..3 {
                    let disk = stopped.disk.fork();
                    match harm {
                        0 => disk.set_block(block, &[0; BLOCK_BYTES]),
                        1 => drop(disk.flip_bit(block, 77)),
                        _ => disk.fail_reads_of(&[block]),
                    }
                    let context =
                        format!("seed {seed}, opened {times} times, header {index} of {}", blocks.len());
                    let pool = stopped.open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
                    assert!(stopped.compare(&pool, expected).is_empty(), "{context}");
                    // A header without a record after it may be missing.
                    let is_empty = index + 1 == blocks.len() && expected.is_multiple_of(SEGMENT);
                    assert!(is_empty || head(&pool) == expected, "{context}: lsn:{}", head(&pool));
                    assert!(is_empty || !problems(&pool).is_empty(), "{context}: nobody was told");
                    newest += u32::from(index + 1 == blocks.len());
                }
            }
        }
    }
    assert!(newest > 80, "{newest}");
}

/// A pool that was recovered from its archive begins with a late segment. Without that segment's
/// header, the log seemed to begin with segment 0, and the pool did not open.
#[test]
fn a_recovered_pool_opens_without_its_only_header() {
    let mut run = Run::with_archive(5, shape(12), Arc::new(MemoryStore::default()));
    for _ in 0..300 {
        run.step();
    }
    run.lose_primary(true).expect("all of it is in the archive");
    let stopped = run.stop();
    let whole = stopped.open(&stopped.disk.fork()).expect("nothing is wrong with it");
    let (expected, blocks) = (head(&whole), headers(&whole));
    let names = |pool: &Pool| pool.volumes().into_iter().map(|volume| volume.name).collect::<Vec<_>>();
    assert_eq!(blocks.len(), 1, "{:?}", whole.segments());
    for is_readable in [true, false] {
        let disk = stopped.disk.fork();
        if is_readable {
            disk.set_block(blocks[0], &[0; BLOCK_BYTES]);
        } else {
            disk.fail_reads_of(&blocks);
        }
        let pool = stopped.open(&disk).expect("the pool opens");
        assert_eq!((head(&pool), names(&pool)), (expected, names(&whole)));
        assert!(!problems(&pool).is_empty());
    }
}

/// A power cut lost the header of a segment and kept its records: the slot holds the header of its
/// previous segment, and the start continues without the records. If that header is damaged later,
/// the records must not come back: hosts have seen the state without them.
#[test]
fn what_a_start_left_out_stays_out() {
    let stopped = opened_again(7, 0);
    let whole = stopped.open(&stopped.disk.fork()).expect("nothing is wrong with it");
    let (all, newest) = (head(&whole), *headers(&whole).last().expect("there is one"));
    drop(whole);
    let disk = stopped.disk.fork();
    let mut block = [0; BLOCK_BYTES];
    let old = SegmentHeader {
        version: 2,
        epoch: 0,
        sequence: SegmentSeq(0),
        first_lsn: Lsn(0),
        opened_ns: 1,
        previous_end_lsn: Lsn(0),
        stable_lsn: Lsn(0),
        oldest: SegmentSeq(0),
        released: Vec::new(),
        ends: Vec::new(),
    };
    old.encode(pool_of(&disk), &mut block);
    disk.set_block(newest, &block);
    let without = head(&stopped.open(&disk).expect("it opens"));
    assert!(without < all, "lsn:{without} < lsn:{all}");
    disk.set_block(newest, &[0; BLOCK_BYTES]);
    let pool = stopped.open(&disk).expect("it opens");
    assert_eq!(head(&pool), without);
    assert!(stopped.compare(&pool, without).is_empty());
}

fn pool_of(disk: &SimDisk) -> uuid::Uuid {
    let superblock = disk.block(0).expect("it was written");
    varve::log::format::Superblock::decode(&superblock).expect("a superblock").pool
}

/// A clone inherits from a segment that the device has lost and the archive never had. The clone
/// refuses the blocks that may have been written there. It used to refuse everything permanently,
/// with a status that requests a retry.
#[test]
fn a_clone_of_what_is_nowhere_serves_the_rest() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default()) as Arc<dyn Store>, 1));
    let busy = StoreErrorKind::Unavailable(Reason::Busy("a fault"));
    store.add(Call::PutStart, When::Always, Fault::Error(busy));
    let mut run_of = Run::with_archive(9, shape(12), store);
    run_of.write_all();
    run_of.settle();
    let point = head(&run_of.pool);
    assert!(point < SEGMENT);
    let clone =
        Rc::clone(&run_of.pool).clone_volume("v0".to_owned(), Point::Lsn(point), "clone".to_owned(), false);
    wait(&run_of.pool, clone).expect("it is all there");
    // The first segment contains no live blocks any more, and is no longer in the working set.
    while newest(&run_of.pool) < Some(10) {
        run_of.write_all();
        run_of.settle();
    }
    let stopped = run_of.abandon(Crash::Process);
    let disk = stopped.disk.fork();
    for block in 256..256 + SEGMENT {
        disk.set_block(block, &[0; BLOCK_BYTES]);
    }
    let pool = stopped.open_with_archive(&disk).expect("it opens");
    assert!(!problems(&pool).is_empty());
    let id = pool.find_volume("clone").expect("it is there").id;
    let write = Request::Write { block: 3, data: &[&[7; BLOCK_BYTES]], force_unit_access: false };
    assert_eq!(run(&pool, id, &write).result, Ok(()));
    for block in 0..120 {
        let expected = if block == 3 { Ok(()) } else { Err(IoError::ReadFault) };
        assert_eq!(run(&pool, id, &Request::Read { block, len_blocks: 1 }).result, expected, "block {block}");
    }
    let source = pool.find_volume("v0").expect("it is there").id;
    assert_eq!(run(&pool, source, &Request::Read { block: 0, len_blocks: 120 }).result, Ok(()));
}
