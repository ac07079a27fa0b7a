//! Tests of reading a device: all blocks, in order, with bounded reads in flight; and the source is
//! usable after any failure.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::*;
use crate::bdev::{
    Bdev, BdevError, BdevErrorKind, BdevInfo, Command, Completion, Engine, FileDevice, FileOptions,
    MemoryDisk, Submit,
};

const LEN_BLOCKS: u64 = 2500;

/// Every block begins with its number.
fn disk() -> MemoryDisk {
    let disk = MemoryDisk::new(LEN_BLOCKS);
    for block in 0..LEN_BLOCKS {
        disk.write_raw(block * BLOCK_BYTES as u64, &block.to_le_bytes());
    }
    disk
}

/// Reads a range and checks that it returns exactly this range, in order; returns the lengths of
/// the pieces in blocks.
fn read(source: &mut BdevSource, block: u64, len_blocks: u64) -> Vec<u64> {
    let (mut next, mut pieces) = (block, Vec::new());
    source
        .read(block, len_blocks, &mut |piece| {
            pieces.push((piece.len() / BLOCK_BYTES) as u64);
            for bytes in piece.as_chunks::<BLOCK_BYTES>().0 {
                assert_eq!(bytes[..8], next.to_le_bytes());
                next += 1;
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(next, block + len_blocks);
    pieces
}

/// The settings and the observations of a scrambled device.
#[derive(Default)]
struct Script {
    fail_block: Cell<Option<u64>>,
    /// This many commands fail before others are executed.
    fail_next: Cell<u64>,
    in_order: Cell<bool>,
    /// If not 0, any command may complete next.
    random: Cell<u64>,
    in_flight: Cell<usize>,
    in_flight_max: Cell<usize>,
}

/// Completes one command per second poll, the newest first by default.
struct Scrambled {
    info: BdevInfo,
    disk: MemoryDisk,
    script: Rc<Script>,
    queued: Vec<Command>,
    is_idle_poll: bool,
}

impl Bdev for Scrambled {
    fn info(&self) -> &BdevInfo {
        &self.info
    }

    fn submit(&mut self, command: Command) -> Submit {
        if self.queued.len() >= self.info.queue_depth {
            return Submit::Full(command);
        }
        self.queued.push(command);
        self.note();
        Submit::Queued
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) -> usize {
        self.is_idle_poll = !self.is_idle_poll;
        if self.is_idle_poll {
            return 0;
        }
        let Some(last) = self.queued.len().checked_sub(1) else { return 0 };
        let mut random = self.script.random.get();
        let next = match random {
            0 if self.script.in_order.get() => 0,
            0 => last,
            _ => noise(&mut random) as usize % (last + 1),
        };
        self.script.random.set(random);
        let command = self.queued.remove(next);
        self.note();
        let block = command.operation.block();
        let fails = self.script.fail_next.get() > 0;
        self.script.fail_next.set(self.script.fail_next.get().saturating_sub(1));
        if fails || self.script.fail_block.get() == Some(block) {
            let kind = BdevErrorKind::Injected;
            let error =
                BdevError { device: "scrambled".to_owned(), operation: "read", block, len_blocks: 1, kind };
            let crate::bdev::Operation::Read { buffers, .. } = command.operation else { panic!() };
            completions.push(Completion { tag: command.tag, result: Err(error), buffers });
            return 1;
        }
        let mut device = self.disk.open("inner");
        assert!(matches!(device.submit(command), Submit::Queued));
        device.poll(completions)
    }

    fn in_flight(&self) -> usize {
        self.queued.len()
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Scrambled {
    fn note(&self) {
        self.script.in_flight.set(self.queued.len());
        self.script.in_flight_max.set(self.script.in_flight_max.get().max(self.queued.len()));
    }
}

fn scrambled(queue_depth: usize, reads_in_flight: usize) -> (BdevSource, Rc<Script>) {
    let disk = disk();
    let script = Rc::<Script>::default();
    let info = BdevInfo {
        name: "scrambled".to_owned(),
        kind: "memory",
        len_blocks: LEN_BLOCKS,
        volatile_cache: false,
        queue_depth,
    };
    let device =
        Scrambled { info, disk, script: Rc::clone(&script), queued: Vec::new(), is_idle_poll: false };
    let mut source = BdevSource::new(Box::new(device), reads_in_flight);
    source.retry_wait = std::time::Duration::from_micros(1);
    (source, script)
}

#[test]
fn a_range_comes_in_order_and_in_whole_reads() {
    let mut source = BdevSource::new(Box::new(disk().open("memory")), READS_IN_FLIGHT_DEFAULT);
    assert_eq!(read(&mut source, 0, LEN_BLOCKS), [[256; 9].as_slice(), &[196]].concat());
    assert_eq!(read(&mut source, 7, 513), [256, 256, 1]);
    assert_eq!(read(&mut source, LEN_BLOCKS - 1, 1), [1]);
    assert!(read(&mut source, 3, 0).is_empty());
    for (block, len_blocks) in [(LEN_BLOCKS, 1), (0, LEN_BLOCKS + 1), (u64::MAX, 2)] {
        let result = source.read(block, len_blocks, &mut |_| panic!("nothing is there"));
        assert!(matches!(result, Err(SourceError::Device(reason)) if reason.contains("beyond")));
    }
}

#[test]
fn completions_in_any_order_are_sorted_and_the_bound_holds() {
    for (queue_depth, reads_in_flight, bound) in [(64, 3, 3), (2, 10, 2), (1, 1, 1), (64, 0, 1)] {
        let (mut source, script) = scrambled(queue_depth, reads_in_flight);
        assert_eq!(read(&mut source, 5, 2000).len(), 8);
        assert_eq!(script.in_flight_max.get(), bound);
    }
}

#[test]
fn the_next_reads_run_while_a_piece_is_taken() {
    let (mut source, script) = scrambled(64, 3);
    script.in_order.set(true);
    let mut with_others = 0;
    source
        .read(0, 2048, &mut |_| {
            with_others += usize::from(script.in_flight.get() > 0);
            Ok(())
        })
        .unwrap();
    assert_eq!(with_others, 7, "all but the last of 8");
}

#[test]
fn a_block_that_stays_unreadable_is_lost_alone() {
    let (mut source, script) = scrambled(64, 4);
    for fail_block in [0, 256, 1024, 1792] {
        script.fail_block.set(Some(fail_block));
        let mut next = 0_u64;
        let result = source.read(0, 2048, &mut |piece| {
            for bytes in piece.as_chunks::<BLOCK_BYTES>().0 {
                assert_eq!(bytes[..8] == next.to_le_bytes(), next != fail_block, "{next}");
                next += 1;
            }
            Ok(())
        });
        result.unwrap();
        assert_eq!((next, source.lost()), (2048, &[fail_block][..]));
        script.fail_block.set(None);
        read(&mut source, 100, 1500);
        assert!(source.lost().is_empty());
    }
}

#[test]
fn reads_that_fail_for_a_while_cost_nothing_but_time() {
    for fail_next in [1, 2, 5, 9] {
        let (mut source, script) = scrambled(64, 4);
        script.fail_next.set(fail_next);
        assert_eq!(read(&mut source, 7, 2000).len(), 8);
        assert!(source.lost().is_empty(), "{fail_next}");
        assert_eq!(script.fail_next.get(), 0);
    }
}

#[test]
fn a_device_that_gives_nothing_is_an_error_in_bounded_time() {
    let (mut source, script) = scrambled(64, 4);
    script.fail_next.set(u64::MAX);
    let result = source.read(0, 2048, &mut |_| Ok(()));
    let Err(SourceError::Device(reason)) = result else { panic!("nothing can be read") };
    assert!(reason.contains("scrambled"), "{reason}");
    // Every block alone, and the retries of the first read.
    let commands = u64::MAX - script.fail_next.get();
    assert!((2048 + 8..2048 + 8 + 8 + 8).contains(&commands), "{commands}");
    script.fail_next.set(0);
    read(&mut source, 3, 1000);
}

#[test]
fn a_taker_that_gives_up_or_panics_leaves_the_source_usable() {
    let (mut source, script) = scrambled(4, 4);
    script.random.set(9);
    let mut left_in_flight = 0;
    for round in 0..60 {
        let mut count = 0;
        let run = std::panic::AssertUnwindSafe(|| {
            source.read(0, 2048, &mut |_| {
                count += 1;
                match (count, round % 2) {
                    (1, _) => Ok(()),
                    (_, 0) => Err(ObjectError::OutOfMemory),
                    _ => std::panic::resume_unwind(Box::new("taker")),
                }
            })
        });
        match std::panic::catch_unwind(run) {
            Ok(result) => assert!(matches!(result, Err(SourceError::Taker(ObjectError::OutOfMemory)))),
            Err(_) => assert_eq!(round % 2, 1),
        }
        left_in_flight += script.in_flight.get();
        read(&mut source, 31 + round, 1000);
    }
    assert!(left_in_flight > 60, "{left_in_flight}");
}

#[test]
fn files_of_every_engine_are_read() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("device");
    let mut content = vec![0; LEN_BLOCKS as usize * BLOCK_BYTES];
    disk().read_raw(0, &mut content);
    std::fs::write(&path, content).unwrap();
    for engine in [Engine::Threads, Engine::Auto] {
        let file = FileDevice::open(&path, &FileOptions { engine, ..FileOptions::default() }).unwrap();
        let mut source = BdevSource::new(file.handle().unwrap(), READS_IN_FLIGHT_DEFAULT);
        for (block, len_blocks) in [(0, LEN_BLOCKS), (9, 700)] {
            read(&mut source, block, len_blocks);
        }
        let result = source.read(0, 2048, &mut |_| Err(ObjectError::OutOfMemory));
        assert!(matches!(result, Err(SourceError::Taker(_))));
        read(&mut source, 1, 2000);
    }
}

#[test]
fn a_stretch_goes_from_a_device_into_an_object() {
    let root = tempfile::tempdir().unwrap();
    let store = directory(root.path());
    let stretch = stretch(3, 2048, 0, 2048);
    let disk = MemoryDisk::new(LEN_BLOCKS);
    disk.write_raw(DEVICE_BLOCK * BLOCK_BYTES as u64, &stretch.content);
    let mut source = BdevSource::new(Box::new(disk.open("memory")), 2);
    let options = WorkerOptions { verify: VerifyPolicy::Digest, ..WorkerOptions::default() };
    let archived = run(&stretch, &mut source, &*store, &options).unwrap();
    assert_eq!(archived.bad_blocks, 0);
    assert_stored(&*store, &stretch);
    // A device that is too short for the job.
    let mut beyond = stretch.clone();
    beyond.job.device_block = LEN_BLOCKS - 1;
    beyond.job.id.whole = false;
    let error = run(&beyond, &mut source, &*store, &options).unwrap_err();
    assert!(matches!(error, ArchiveError::Source { sequence: 3, .. }), "{error}");
}
