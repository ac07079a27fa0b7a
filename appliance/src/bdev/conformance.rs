//! The rules of [`Bdev`], as tests that every kind passes.
//!
//! Each rule is a function over a [`Subject`]: contents that can be opened as often as needed. If
//! the kernel refuses `io_uring`, its subject checks that the automatic choice falls back, runs on
//! the fallback, and reports it. If the file system refuses direct I/O, the subject reports that
//! too (`crate::missing`).

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use smallvec::{SmallVec, smallvec};

use super::{
    BLOCK_BYTES, Bdev, BdevErrorKind, Command, Completion, Engine, FileDevice, FileOptions, MemoryDisk,
    OpenError, Operation, SharedBdev, Submit, open_file,
};
use crate::dma::{DmaBufMut, DmaPool};
use crate::reactor::{IdlePolicy, Interest, Reactor, ReactorConfig, block_on};

const LEN_BLOCKS: u64 = 256;
const PATIENCE: Duration = Duration::from_secs(20);

/// The contents and a function that opens a device on them with a queue depth.
struct Subject {
    open: Box<dyn Fn(usize) -> Box<dyn Bdev>>,
}

impl Subject {
    fn memory() -> Self {
        let disk = MemoryDisk::new(LEN_BLOCKS);
        Subject {
            open: Box::new(move |queue_depth| Box::new(disk.open("memory").with_queue_depth(queue_depth))),
        }
    }

    fn file(engine: Engine, direct: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let options = FileOptions { direct, create_len_blocks: Some(LEN_BLOCKS), ..FileOptions::default() };
        let device = FileDevice::open(directory.path().join("disk"), &options).expect("the file is made");
        if direct && !device.is_direct() {
            crate::missing::say("bdev conformance", "direct I/O is refused for temporary files");
        }
        drop(device);
        Subject {
            open: Box::new(move |queue_depth| {
                let options = FileOptions {
                    engine,
                    direct,
                    queue_depth,
                    create_len_blocks: Some(LEN_BLOCKS),
                    ..FileOptions::default()
                };
                let path = directory.path().join("disk");
                match open_file(&path, &options) {
                    Err(OpenError::Engine { .. }) if engine == Engine::Uring => {
                        let device = open_file(&path, &FileOptions { engine: Engine::Auto, ..options })
                            .expect("the automatic choice falls back");
                        assert_eq!(device.info().kind, "threads");
                        crate::missing::say("bdev conformance", "the kernel refuses io_uring");
                        device
                    }
                    result => result.expect("the file opens"),
                }
            }),
        }
    }

    fn open(&self) -> Box<dyn Bdev> {
        (self.open)(64)
    }
}

fn pool() -> DmaPool {
    DmaPool::new(64 << 20)
}

fn filled(pool: &DmaPool, len_blocks: usize, byte: u8) -> DmaBufMut {
    let mut buffer = pool.allocate(len_blocks * BLOCK_BYTES).expect("within the budget");
    buffer.as_mut_slice().fill(byte);
    buffer
}

fn write(tag: u64, block: u64, buffer: DmaBufMut) -> Command {
    Command { tag, operation: Operation::Write { block, buffers: smallvec![buffer.freeze()] } }
}

fn read(tag: u64, block: u64, buffer: DmaBufMut) -> Command {
    Command { tag, operation: Operation::Read { block, buffers: smallvec![buffer] } }
}

fn submit(device: &mut dyn Bdev, command: Command) {
    assert!(matches!(device.submit(command), Submit::Queued), "the queue has room");
}

/// Polls until `count` completions are there.
fn reap(device: &mut dyn Bdev, count: usize) -> Vec<Completion> {
    let mut completions = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while completions.len() < count {
        let before = completions.len();
        let polled = device.poll(&mut completions);
        assert_eq!(polled, completions.len() - before, "poll returns what it appended");
        assert!(Instant::now() < deadline, "{} of {count} completions", completions.len());
    }
    assert_eq!(completions.len(), count);
    completions
}

fn run(device: &mut dyn Bdev, command: Command) -> Completion {
    submit(device, command);
    reap(device, 1).remove(0)
}

fn run_well(device: &mut dyn Bdev, command: Command) -> SmallVec<[DmaBufMut; 1]> {
    let completion = run(device, command);
    completion.result.expect("the command succeeds");
    completion.buffers
}

fn what_was_written_is_read(subject: &Subject) {
    let (pool, mut device) = (pool(), subject.open());
    assert_eq!(device.info().len_blocks, LEN_BLOCKS);
    let buffers = smallvec![
        filled(&pool, 1, 1).freeze(),
        filled(&pool, 3, 2).freeze(),
        filled(&pool, 1, 3).freeze(),
        filled(&pool, 2, 4).freeze(),
        filled(&pool, 2, 5).freeze()
    ];
    run_well(&mut *device, Command { tag: 7, operation: Operation::Write { block: 100, buffers } });
    // Cut differently, with a gap in memory and with neighbours.
    let mut neighbours = filled(&pool, 8, 0);
    let first = neighbours.split_to(2 * BLOCK_BYTES);
    let buffers = smallvec![first, neighbours, filled(&pool, 1, 0)];
    let operation = Operation::Read { block: 100, buffers };
    let completion = run(&mut *device, Command { tag: u64::MAX >> 1, operation });
    completion.result.expect("the read succeeds");
    assert_eq!(completion.tag, u64::MAX >> 1);
    let bytes: Vec<u8> = completion.buffers.iter().flat_map(|buffer| buffer.as_slice().to_vec()).collect();
    let blocks: Vec<u8> = bytes.chunks(BLOCK_BYTES).map(|block| block[0]).collect();
    assert_eq!(blocks, [1, 2, 2, 2, 3, 4, 4, 5, 5]);
    assert!(bytes.chunks(BLOCK_BYTES).all(|block| block.iter().all(|byte| *byte == block[0])));
    // Blocks that were never written are zero. The last block is like any other.
    run_well(&mut *device, write(1, LEN_BLOCKS - 1, filled(&pool, 1, 6)));
    let buffers = run_well(&mut *device, read(2, LEN_BLOCKS - 2, filled(&pool, 2, 9)));
    assert_eq!((buffers[0].as_slice()[0], buffers[0].as_slice()[BLOCK_BYTES]), (0, 6));
}

fn the_largest_commands_work(subject: &Subject) {
    let (pool, mut device) = (pool(), subject.open());
    // 256 buffers, every second of a pair of allocations, so that hardly any are neighbours.
    let mut buffers = SmallVec::new();
    for index in 0..LEN_BLOCKS {
        let mut pair = filled(&pool, 2, index as u8);
        buffers.push(pair.split_to(BLOCK_BYTES).freeze());
    }
    run_well(&mut *device, Command { tag: 1, operation: Operation::Write { block: 0, buffers } });
    let buffers = run_well(&mut *device, read(2, 0, filled(&pool, LEN_BLOCKS as usize, 0)));
    for (index, block) in buffers[0].as_slice().chunks(BLOCK_BYTES).enumerate() {
        assert!(block.iter().all(|byte| *byte == index as u8), "block {index}");
    }
}

fn bad_commands_fail_and_touch_nothing(subject: &Subject) {
    let (pool, mut device) = (pool(), subject.open());
    let short = || pool.allocate(100).expect("within the budget");
    let bad = [
        (write(1, LEN_BLOCKS - 1, filled(&pool, 2, 1)), BdevErrorKind::OutOfRange),
        (read(2, LEN_BLOCKS, filled(&pool, 1, 7)), BdevErrorKind::OutOfRange),
        (read(3, u64::MAX, filled(&pool, 1, 7)), BdevErrorKind::OutOfRange),
        (
            Command { tag: 4, operation: Operation::Discard { block: 1, len_blocks: u64::MAX } },
            BdevErrorKind::OutOfRange,
        ),
        (write(5, 0, short()), BdevErrorKind::Misaligned),
        (read(6, 0, short()), BdevErrorKind::Misaligned),
        (
            Command { tag: 7, operation: Operation::Write { block: 0, buffers: smallvec![] } },
            BdevErrorKind::Misaligned,
        ),
    ];
    for (command, kind) in bad {
        let (tag, reads) = (command.tag, matches!(command.operation, Operation::Read { .. }));
        let completion = run(&mut *device, command);
        assert_eq!(completion.tag, tag);
        assert_eq!(completion.result.expect_err("refused").kind, kind);
        assert_eq!(completion.buffers.len(), usize::from(reads), "a failed read gives its buffers back");
    }
    let buffers = run_well(&mut *device, read(8, LEN_BLOCKS - 1, filled(&pool, 1, 9)));
    assert!(buffers[0].as_slice().iter().all(|byte| *byte == 0));
    let error = run(&mut *device, read(9, 300, filled(&pool, 2, 1))).result.expect_err("refused");
    assert!(error.to_string().contains("read of 2 blocks at block 300"), "{error}");
}

fn a_full_queue_gives_the_command_back(subject: &Subject) {
    let (pool, mut device) = (pool(), (subject.open)(4));
    assert_eq!(device.info().queue_depth, 4);
    for tag in 0..3 {
        submit(&mut *device, write(tag, tag, filled(&pool, 1, tag as u8 + 1)));
    }
    // A refused command takes a slot too.
    submit(&mut *device, read(3, LEN_BLOCKS, filled(&pool, 1, 0)));
    assert_eq!(device.in_flight(), 4);
    let Submit::Full(command) = device.submit(write(4, 4, filled(&pool, 1, 5))) else {
        panic!("the queue is full");
    };
    assert_eq!(command.tag, 4);
    let mut tags: Vec<u64> = reap(&mut *device, 4).iter().map(|completion| completion.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, [0, 1, 2, 3]);
    assert_eq!(device.in_flight(), 0);
    assert!(run(&mut *device, command).result.is_ok());
    drop(device);
    assert_eq!(pool.stats().in_use_bytes, 0, "every buffer came back");
}

/// Pseudo-random numbers, always the same for the same seed (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn stamp(buffer: &mut [u8], first_block: u64, version: u64) {
    for (index, block) in buffer.chunks_mut(BLOCK_BYTES).enumerate() {
        let value = (first_block + index as u64) << 32 | version;
        for word in block.chunks_mut(8) {
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
}

fn many_in_flight_agree_with_a_model(subject: &Subject) {
    let (pool, mut device) = (pool(), subject.open());
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    // Versions of the blocks (0 means zeroes), and which blocks a command in flight uses.
    let (mut versions, mut busy) = (vec![0_u64; LEN_BLOCKS as usize], vec![false; LEN_BLOCKS as usize]);
    let mut flying: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut completions = Vec::new();
    let (mut submitted, deadline) = (0_u64, Instant::now() + PATIENCE);
    while submitted < 3000 || !flying.is_empty() {
        assert!(Instant::now() < deadline, "{submitted} submitted, {} in flight", flying.len());
        for _ in 0..numbers.below(24) {
            let (block, len_blocks) = (numbers.below(LEN_BLOCKS - 12), 1 + numbers.below(12));
            let range = block as usize..(block + len_blocks) as usize;
            if submitted >= 3000 || flying.len() >= 64 || busy[range.clone()].contains(&true) {
                continue;
            }
            submitted += 1;
            // Cut into buffers of random length.
            let mut cuts = Vec::new();
            while cuts.iter().sum::<u64>() < len_blocks {
                cuts.push((1 + numbers.below(4)).min(len_blocks - cuts.iter().sum::<u64>()));
            }
            let operation = match numbers.below(20) {
                0 => Operation::Flush,
                1..=2 => {
                    versions[range.clone()].fill(0);
                    Operation::Discard { block, len_blocks }
                }
                3..=11 => {
                    versions[range.clone()].fill(submitted);
                    let mut at = block;
                    let buffers = cuts.iter().map(|&cut| {
                        let mut buffer = filled(&pool, cut as usize, 0);
                        stamp(buffer.as_mut_slice(), at, submitted);
                        at += cut;
                        buffer.freeze()
                    });
                    Operation::Write { block, buffers: buffers.collect() }
                }
                _ => {
                    let buffers = cuts.iter().map(|&cut| filled(&pool, cut as usize, 0xee)).collect();
                    Operation::Read { block, buffers }
                }
            };
            let command = Command { tag: submitted, operation };
            submit(&mut *device, command);
            busy[range].fill(true);
            flying.insert(submitted, (block, len_blocks));
        }
        device.poll(&mut completions);
        for completion in completions.drain(..) {
            completion.result.expect("all commands are good");
            let (block, len_blocks) = flying.remove(&completion.tag).expect("a command completes once");
            let mut at = block;
            for buffer in &completion.buffers {
                for found in buffer.as_slice().chunks(BLOCK_BYTES) {
                    let version = versions[at as usize];
                    let mut wanted = vec![0; BLOCK_BYTES];
                    if version > 0 {
                        stamp(&mut wanted, at, version);
                    }
                    assert_eq!(found[..8], wanted[..8], "block {at} by command {}", completion.tag);
                    assert!(found == wanted, "block {at} is torn");
                    at += 1;
                }
            }
            busy[block as usize..(block + len_blocks) as usize].fill(false);
        }
    }
    drop(device);
    assert_eq!(pool.stats().in_use_bytes, 0, "every buffer came back");
}

fn discarded_blocks_read_as_zeroes(subject: &Subject) {
    let (pool, mut device) = (pool(), subject.open());
    run_well(&mut *device, write(1, 10, filled(&pool, 8, 0xaa)));
    let discard = |block, len_blocks| Command { tag: 2, operation: Operation::Discard { block, len_blocks } };
    run_well(&mut *device, discard(12, 4));
    run_well(&mut *device, discard(10, 0));
    run_well(&mut *device, Command { tag: 3, operation: Operation::Flush });
    let buffers = run_well(&mut *device, read(4, 10, filled(&pool, 8, 1)));
    let blocks: Vec<u8> = buffers[0].as_slice().chunks(BLOCK_BYTES).map(|block| block[77]).collect();
    assert_eq!(blocks, [0xaa, 0xaa, 0, 0, 0, 0, 0xaa, 0xaa]);
    run_well(&mut *device, discard(0, LEN_BLOCKS));
    let buffers = run_well(&mut *device, read(5, 0, filled(&pool, LEN_BLOCKS as usize, 1)));
    assert!(buffers[0].as_slice().iter().all(|byte| *byte == 0));
}

/// Waits at most `patience` for the wake descriptor, and does nothing else.
fn is_readable(device: &dyn Bdev, patience: Duration) -> bool {
    let Some(fd) = device.wake_fd() else { return true };
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            // Task work of io_uring ends a wait this way.
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn the_wake_descriptor_tells_of_completions(subject: &Subject) {
    let (pool, mut device) = (pool(), subject.open());
    let mut completions = Vec::new();
    for round in 0..300_u64 {
        let count = 1 + round % 5;
        for tag in 0..count {
            let buffer = filled(&pool, 1 + (round % 3) as usize, round as u8);
            let command =
                if round % 2 == 0 { write(tag, tag * 8, buffer) } else { read(tag, tag * 8, buffer) };
            submit(&mut *device, command);
        }
        device.poll(&mut completions);
        while completions.len() < count as usize {
            assert!(is_readable(&*device, PATIENCE), "nobody woke us in round {round}");
            device.poll(&mut completions);
        }
        completions.drain(..).for_each(|completion| completion.result.expect("all commands are good"));
    }
    // The descriptor becomes quiet when there is nothing to report, at the latest after another
    // poll.
    if device.wake_fd().is_some() {
        let deadline = Instant::now() + PATIENCE;
        while is_readable(&*device, Duration::from_millis(20)) {
            device.poll(&mut completions);
            assert!(Instant::now() < deadline, "the descriptor stays readable");
        }
    }
}

fn what_was_submitted_survives_the_drop(subject: &Subject) {
    let pool = pool();
    for byte in 1..=5 {
        let mut device = subject.open();
        for tag in 0..32 {
            submit(&mut *device, write(tag, tag * 4, filled(&pool, 4, byte)));
        }
        if byte % 2 == 0 {
            device.poll(&mut Vec::new());
        }
        // Reads too: their buffers must not be freed before the device is done with them.
        for tag in 0..16 {
            submit(&mut *device, read(tag, 200, filled(&pool, 4, 0)));
        }
        drop(device);
        assert_eq!(pool.stats().in_use_bytes, 0, "every buffer came back");
        let mut device = subject.open();
        let buffers = run_well(&mut *device, read(1, 0, filled(&pool, 128, 0)));
        assert!(buffers[0].as_slice().iter().all(|found| *found == byte));
    }
}

fn tasks_await_commands(subject: &Subject) {
    let shared = SharedBdev::new((subject.open)(3));
    let (driven, pool) = (shared.clone(), pool());
    let work = async move {
        // More than the queue accepts at once, so some wait in the wait list.
        let mut writes = Vec::new();
        for block in 0..10_u64 {
            writes.push(shared.write(block, smallvec![filled(&pool, 1, block as u8 + 1).freeze()]));
        }
        let started = Instant::now();
        for write in writes {
            write.await.expect("the write succeeds");
        }
        shared.flush().await.expect("the flush succeeds");
        let buffer = shared.read(0, filled(&pool, 10, 0)).await.expect("the read succeeds");
        assert!(started.elapsed() < PATIENCE);
        let error = shared.read(LEN_BLOCKS, filled(&pool, 1, 0)).await.expect_err("beyond the end");
        assert_eq!(error.kind, BdevErrorKind::OutOfRange);
        // Dropped early: it runs to its end without an owner.
        drop(shared.write(0, smallvec![filled(&pool, 1, 0xff).freeze()]));
        buffer.as_slice().chunks(BLOCK_BYTES).map(|block| block[9]).collect::<Vec<u8>>()
    };
    let mut completions = Vec::new();
    let blocks = block_on(work, move || {
        driven.queue().poll(&mut completions);
    });
    assert_eq!(blocks, (1..=10).collect::<Vec<u8>>());
}

fn a_reactor_sleeps_until_completions(subject: &Subject) {
    let idle = IdlePolicy::Adaptive { spin: Duration::ZERO };
    let mut reactor: Reactor<()> =
        Reactor::new(ReactorConfig { idle, ..ReactorConfig::default() }).expect("a reactor");
    let (local, shared) = (reactor.local(), SharedBdev::new(subject.open()));
    let source =
        shared.queue().device().wake_fd().map(|fd| local.register(fd, Interest::Read).expect("registers"));
    let (driven, mut completions) = (shared.clone(), Vec::new());
    let poller = local.add_poller(move || driven.queue().poll(&mut completions));
    let (late, ticking) = (Rc::new(std::cell::Cell::new(false)), local.clone());
    let seen = Rc::clone(&late);
    // The test's own limit. A timer also wakes the reactor, so a lost wake shows as a delay.
    let limit = local.spawn(async move {
        ticking.sleep(PATIENCE).await;
        seen.set(true);
    });
    let pool = pool();
    // A poller works from the turn after it was added.
    reactor.turn(&());
    reactor.run_until(&(), async move {
        for round in 0..200_u64 {
            let buffer = filled(&pool, 1, round as u8);
            shared.write(round, smallvec![buffer.freeze()]).await.expect("the write succeeds");
            let buffer = shared.read(round, filled(&pool, 1, 0)).await.expect("the read succeeds");
            assert_eq!(buffer.as_slice()[5], round as u8);
            assert!(!late.get(), "a completion did not wake the reactor");
        }
    });
    drop((limit, source));
    local.remove_poller(poller);
}

macro_rules! conforms {
    ($name:ident, $subject:expr) => {
        mod $name {
            use super::*;

            conforms!(
                @rules $subject;
                what_was_written_is_read,
                the_largest_commands_work,
                bad_commands_fail_and_touch_nothing,
                a_full_queue_gives_the_command_back,
                many_in_flight_agree_with_a_model,
                discarded_blocks_read_as_zeroes,
                the_wake_descriptor_tells_of_completions,
                what_was_submitted_survives_the_drop,
                tasks_await_commands,
                a_reactor_sleeps_until_completions
            );
        }
    };
    (@rules $subject:expr; $($rule:ident),*) => {
        $(
            #[test]
            fn $rule() {
                super::$rule(&$subject);
            }
        )*
    };
}

conforms!(memory, Subject::memory());
conforms!(uring, Subject::file(Engine::Uring, true));
conforms!(uring_through_the_cache, Subject::file(Engine::Uring, false));
conforms!(threads, Subject::file(Engine::Threads, true));
conforms!(threads_through_the_cache, Subject::file(Engine::Threads, false));
