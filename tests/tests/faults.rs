//! The faults of the simulated world work as described, and hosts that compete for a pool all get
//! their answers.

use std::sync::Arc;

use varve::bdev::SharedBdev;
use varve::dma::{BLOCK_BYTES, DmaPool};
use varve::reactor::block_on;
use varve_tests::sim::campaign::{Counts, campaign_with};
use varve_tests::sim::disk::SimDisk;
use varve_tests::sim::endless::endless_campaign_of;
use varve_tests::sim::faults::{FaultCount, Faults, Place, ReadFaults, TRIES_MAX};
use varve_tests::sim::model::fill;
use varve_tests::sim::shortage;
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::workload::{Run, Shape};

/// Blocks of a segment.
const SEGMENT_BLOCKS: u64 = 256;

fn disk_with_block(block: u64) -> SimDisk {
    let disk = SimDisk::new(4096, false, 1);
    let mut bytes = [0; BLOCK_BYTES];
    fill(7, 3, &mut bytes);
    disk.set_block(block, &bytes);
    disk.faults(|faults| *faults = ReadFaults::new(SEGMENT_BLOCKS));
    disk
}

/// Reads or writes through a handle, as a pool does.
fn reads(disk: &SimDisk, block: u64, len_blocks: usize) -> bool {
    let device = SharedBdev::new(disk.open());
    let buffer = DmaPool::new(1 << 20).allocate(len_blocks * BLOCK_BYTES).expect("memory");
    let queue = device.clone();
    block_on(async move { device.read(block, buffer).await.is_ok() }, move || {
        queue.queue().drive();
    })
}

fn write(disk: &SimDisk, block: u64) {
    let device = SharedBdev::new(disk.open());
    let buffer = DmaPool::new(1 << 20).allocate(BLOCK_BYTES).expect("memory").freeze();
    let queue = device.clone();
    let write = async move { device.write(block, smallvec::smallvec![buffer]).await };
    let result = block_on(write, move || {
        queue.queue().drive();
    });
    result.expect("writes do not fail");
}

/// A transient fault fails as often as requested, counted over hosts and the archivist together; a
/// lasting one fails until its block is written, and its neighbours never fail. Both are counted by
/// the kind of block that they hit.
#[test]
fn faults_of_reads_fail_and_heal() {
    let disk = disk_with_block(300);
    disk.fail_block(300, Some(3));
    assert!(!reads(&disk, 290, 20));
    assert!(!disk.read_now(300, &mut [0; BLOCK_BYTES]));
    assert!(!reads(&disk, 300, 1));
    assert!(reads(&disk, 290, 20));
    disk.fail_block(300, None);
    for _ in 0..100 {
        assert!(!reads(&disk, 300, 1));
    }
    assert!(reads(&disk, 290, 10) && reads(&disk, 301, 10));
    write(&disk, 300);
    assert!(reads(&disk, 290, 20));
    let counts = disk.faults(|faults| faults.counts);
    let kind = Place::Data(3, 7).kind();
    assert_eq!((counts.transient[kind].injected, counts.transient[kind].hit), (1, 3));
    assert_eq!((counts.lasting[kind].injected, counts.lasting[kind].hit), (1, 100));
    assert_eq!(counts.of_archivist, 1);
}

/// However long a storm is, it causes no more failed tries than a pool makes, and then reads are
/// right.
#[test]
fn a_storm_ends() {
    let mut failed_most = 0;
    for seed in 0..50 {
        let disk = disk_with_block(300);
        disk.faults(|faults| faults.begin_storm(seed, 1, 1000));
        let failed = (0..100).filter(|_| !reads(&disk, 300, 8)).count();
        failed_most = failed_most.max(failed);
        assert!(failed > 0 && failed <= TRIES_MAX as usize, "{failed}");
    }
    assert_eq!(failed_most, TRIES_MAX as usize);
}

/// A shortage leaves as much memory as specified, and ends by itself.
#[test]
fn a_shortage_of_memory_ends() {
    let dma = DmaPool::new(64 << 20);
    let before = dma.allocate(BLOCK_BYTES).expect("memory");
    shortage::begin(&dma, 5, 10);
    let left: Vec<_> = std::iter::from_fn(|| dma.allocate(BLOCK_BYTES).ok()).collect();
    assert_eq!(left.len(), 5);
    (0..10).for_each(|_| shortage::tick());
    assert!(dma.allocate(4 << 20).is_ok());
    drop((before, left));
    assert_eq!(dma.stats().in_use_bytes, 0);
    assert_eq!(shortage::take_counts(), (1, 1));
}

/// Four hosts with different queues, of which one takes its answers slowly: with and without an
/// archive, between stops of both kinds, every command ends in time.
#[test]
fn hosts_that_compete_all_get_their_answers() {
    for seed in 0..6 {
        let shape = Shape {
            device_blocks: 256 + 12 * SEGMENT_BLOCKS,
            segment_blocks: SEGMENT_BLOCKS,
            volatile_cache: seed % 2 == 0,
            volume_blocks: 200,
        };
        let mut run = if seed % 3 == 0 {
            Run::new(seed, shape)
        } else {
            Run::with_archive(seed, shape, Arc::new(MemoryStore::default()))
        };
        for round in 0..4 {
            for _ in 0..40 {
                run.step();
            }
            run.compete(60, false);
            run.settle();
            run.check_all();
            if round % 2 == 0 {
                run.crash(varve_tests::sim::disk::Crash::Power);
            } else {
                run.restart();
            }
        }
        let counts = run.take_fault_counts();
        assert_eq!(counts.competitions.injected, 4);
        assert!(counts.competitions.hit >= 4 * 3 * 60, "{counts}");
    }
}

fn sum(counts: &[FaultCount]) -> FaultCount {
    let mut sum = FaultCount::default();
    for &count in counts {
        sum += count;
    }
    sum
}

/// Campaigns with all faults at once violate no guarantee, and hit each kind of fault.
#[test]
fn campaigns_with_all_faults_keep_their_promises() {
    let mut total = Counts::default();
    for seed in 0..12 {
        total += if seed % 2 == 0 {
            campaign_with(seed, Faults::ALL)
        } else {
            endless_campaign_of(seed, Faults::ALL)
        };
    }
    let faults = &total.faults;
    let kinds = [
        ("transient", sum(&faults.transient)),
        ("lasting", sum(&faults.lasting)),
        ("memory", faults.memory),
        ("store", faults.store),
        ("damaged starts", sum(&faults.starts)),
        ("unreadable starts", sum(&faults.unreadable_starts)),
        ("competing hosts", faults.competitions),
    ];
    for (name, count) in kinds {
        assert!(count.injected > 0 && count.hit > 0, "{name}: {count:?}: {total}");
    }
    assert!(total.crashes > 20, "{total}");
}
