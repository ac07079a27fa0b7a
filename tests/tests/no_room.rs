//! A device without space, like a sparse file on a full file system: blocks that were never written
//! cannot be written. Nothing is lost or broken: writes wait and then end with a status that
//! permits a retry, reads continue, and everything continues by itself when there is space.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use varve::bdev::{Bdev, BdevError, BdevErrorKind, BdevInfo, Command, Completion, Operation, Submit};
use varve::dma::BLOCK_BYTES;
use varve::log::Recycling;
use varve::volume::{CreateVolume, IoCompletion, IoError, Pool, Request, Sink, Submitted, VolumeId};
use varve_tests::sim::disk::{Crash, SimDisk};
use varve_tests::sim::model::{fill, is_filled};
use varve_tests::sim::rng::Rng;
use varve_tests::sim::world::{World, run, submit, wait};

const SECOND_NS: i64 = 1_000_000_000;

/// A disk whose file system may be full.
#[derive(Clone)]
struct Narrow {
    disk: SimDisk,
    full: Rc<Cell<bool>>,
    refused: Rc<Cell<u64>>,
    allocated: Rc<RefCell<HashSet<u64>>>,
}

struct NarrowBdev {
    place: Narrow,
    inner: Box<dyn Bdev>,
    refused: Vec<Completion>,
}

impl Narrow {
    fn new(len_blocks: u64, volatile_cache: bool, seed: u64) -> Self {
        Narrow {
            disk: SimDisk::new(len_blocks, volatile_cache, seed),
            full: Rc::default(),
            refused: Rc::default(),
            allocated: Rc::default(),
        }
    }

    fn open(&self) -> Box<dyn Bdev> {
        Box::new(NarrowBdev { place: self.clone(), inner: self.disk.open(), refused: Vec::new() })
    }
}

impl Bdev for NarrowBdev {
    fn info(&self) -> &BdevInfo {
        self.inner.info()
    }

    fn submit(&mut self, command: Command) -> Submit {
        if let Operation::Write { block, .. } = &command.operation {
            let range = *block..block + command.operation.len_blocks();
            let mut allocated = self.place.allocated.borrow_mut();
            if self.place.full.get() && range.clone().any(|block| !allocated.contains(&block)) {
                self.place.refused.set(self.place.refused.get() + 1);
                let error = BdevError {
                    device: "narrow".to_owned(),
                    operation: "write",
                    block: *block,
                    len_blocks: command.operation.len_blocks(),
                    kind: BdevErrorKind::NoRoom,
                };
                self.refused.push(Completion {
                    tag: command.tag,
                    result: Err(error),
                    buffers: Vec::new().into(),
                });
                return Submit::Queued;
            }
            allocated.extend(range);
        }
        self.inner.submit(command)
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) -> usize {
        let refused = self.refused.len();
        completions.append(&mut self.refused);
        refused + self.inner.poll(completions)
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.refused.len()
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

struct Setup {
    world: World,
    narrow: Narrow,
    pool: Rc<Pool>,
    id: VolumeId,
}

fn setup(seed: u64, volatile_cache: bool, recycling: Recycling) -> Setup {
    let mut world = World::new(seed);
    world.options.recycling = recycling;
    let narrow = Narrow::new(256 + 12 * 256, volatile_cache, seed);
    let pool = world.create(narrow.open(), 256).expect("a pool");
    let request =
        CreateVolume { name: "v".to_owned(), size_bytes: 512 * BLOCK_BYTES as u64, uuid: None, thin: false };
    let id = wait(&pool, Rc::clone(&pool).create_volume(request)).expect("a volume").id;
    Setup { world, narrow, pool, id }
}

impl Setup {
    fn write(&self, block: u64, stamp: u64, stable: bool, sink: &Rc<Sink>) {
        let mut bytes = [0; BLOCK_BYTES];
        fill(stamp, block, &mut bytes);
        let request = Request::Write { block, data: &[&bytes], force_unit_access: stable };
        assert_eq!(
            self.pool.submit(self.id, &request, stamp, sink),
            Submitted::Queued,
            "hosts need not stall"
        );
    }

    /// Submits one write of `len_blocks` blocks from block 0. Returns whether it can be read back
    /// at once.
    fn write_many(&self, stamp: u64, len_blocks: u64, sink: &Rc<Sink>) -> bool {
        let mut bytes = vec![0; len_blocks as usize * BLOCK_BYTES];
        for (block, bytes) in (0..).zip(bytes.as_chunks_mut::<BLOCK_BYTES>().0) {
            fill(stamp, block, bytes);
        }
        let request = Request::Write { block: 0, data: &[&bytes], force_unit_access: false };
        assert_eq!(
            self.pool.submit(self.id, &request, stamp, sink),
            Submitted::Queued,
            "hosts need not stall"
        );
        self.turn(3);
        self.holds(0, stamp)
    }

    fn turn(&self, turns: u32) {
        (0..turns).for_each(|_| {
            self.pool.poll();
        });
    }

    /// Lets this many seconds pass, with 5 turns each 0.1 s.
    fn pass(&self, seconds: i64) {
        for _ in 0..seconds * 10 {
            self.world.clock.advance(SECOND_NS / 10);
            self.turn(5);
        }
    }

    fn holds(&self, block: u64, stamp: u64) -> bool {
        let done = run(&self.pool, self.id, &Request::Read { block, len_blocks: 1 });
        assert_eq!(done.result, Ok(()), "reads go on");
        is_filled(stamp, block, &done.data[0])
    }

    fn waits_for_room(&self) -> bool {
        let info = self.pool.info();
        assert_eq!(info.state, "online", "{info:?}");
        info.problems.iter().any(|problem| problem.contains("writes wait for room"))
    }

    fn crash(self, crash: Crash) -> Self {
        let Setup { world, narrow, pool, .. } = self;
        drop(pool);
        narrow.disk.crash(crash);
        let pool = world.open(narrow.open()).expect("it opens, full or not");
        let id = pool.find_volume("v").expect("it was made").id;
        Setup { world, narrow, pool, id }
    }
}

fn take(sink: &Sink) -> Vec<IoCompletion> {
    std::iter::from_fn(|| sink.pop()).collect()
}

#[test]
fn writes_wait_for_room_and_go_on_by_themselves() {
    for volatile_cache in [false, true] {
        let setup = setup(1, volatile_cache, Recycling::Never);
        let sink = Sink::new();
        setup.write(0, 1, true, &sink);
        setup.turn(50);
        assert_eq!(take(&sink).len(), 1);
        setup.narrow.full.set(true);
        setup.write(0, 2, false, &sink);
        setup.turn(50);
        setup.write(1, 3, true, &sink);
        assert_eq!(setup.pool.submit(setup.id, &Request::Flush, 4, &sink), Submitted::Queued);
        setup.pass(3);
        assert_eq!(take(&sink).len(), 0, "nothing is acknowledged, nothing fails");
        assert!(setup.waits_for_room());
        assert!(setup.holds(0, 2) && setup.holds(1, 3), "what was taken is read from memory");
        let tries = setup.narrow.refused.get();
        assert!((3..=10).contains(&tries), "{tries} tries in 3 seconds");
        setup.narrow.full.set(false);
        setup.pass(2);
        let done = take(&sink);
        assert_eq!(done.len(), 3);
        assert!(done.iter().all(|done| done.result.is_ok()), "{done:?}");
        assert!(!setup.waits_for_room());
        wait(&setup.pool, Rc::clone(&setup.pool).close()).expect("it closes");
    }
}

#[test]
fn hosts_hear_after_fifteen_seconds_and_their_next_try_succeeds() {
    let setup = setup(2, true, Recycling::Never);
    let sink = Sink::new();
    setup.narrow.full.set(true);
    // More than the log accepts: it opens no third segment while the trailers of two are not
    // written.
    let taken = (1..=20).filter(|&stamp| setup.write_many(stamp, 100, &sink)).count() as u64;
    setup.pass(14);
    assert_eq!(take(&sink).len(), 0, "they wait");
    assert!((1..20).contains(&taken), "{taken} writes are in memory");
    assert!(setup.holds(0, taken) && setup.holds(99, taken), "what the log did not take changed nothing");
    setup.pass(2);
    let done = take(&sink);
    assert_eq!(done.len(), 20);
    assert!(done.iter().all(|done| done.result == Err(IoError::NoRoom)), "{done:?}");
    assert_eq!(sink.outstanding(), 0);
    // The next writes wait just as long, not less.
    setup.write(7, 200, true, &sink);
    setup.pass(14);
    assert_eq!(take(&sink).len(), 0);
    setup.narrow.full.set(false);
    setup.pass(2);
    for done in take(&sink) {
        assert!(matches!(done.result, Ok(()) | Err(IoError::NoRoom)), "{done:?}");
    }
    for stamp in 1..=100 {
        setup.write(stamp, 1000 + stamp, true, &sink);
        setup.turn(20);
    }
    setup.pass(1);
    let done = take(&sink);
    assert_eq!(done.iter().filter(|done| done.result.is_ok()).count(), 100);
    let setup = setup.crash(Crash::Power);
    assert!((1..=100).all(|stamp| setup.holds(stamp, 1000 + stamp)));
}

#[test]
fn a_start_without_room_serves_reads() {
    let setup = setup(3, true, Recycling::Never);
    let sink = Sink::new();
    for block in 0..40 {
        setup.write(block, block + 1, true, &sink);
        setup.turn(10);
    }
    setup.turn(50);
    assert_eq!(take(&sink).len(), 40);
    setup.narrow.full.set(true);
    setup.write(0, 99, false, &sink);
    setup.turn(20);
    let setup = setup.crash(Crash::Power);
    assert!((0..40).all(|block| setup.holds(block, block + 1)), "what was acknowledged is there");
    let sink = Sink::new();
    setup.write(0, 500, true, &sink);
    setup.pass(1);
    assert!(take(&sink).is_empty() && setup.waits_for_room());
    setup.narrow.full.set(false);
    setup.pass(2);
    assert_eq!(take(&sink).len(), 1);
    assert!(!setup.waits_for_room() && setup.holds(0, 500));
}

#[test]
fn a_flush_that_fails_is_a_broken_device_with_or_without_room() {
    let setup = setup(4, true, Recycling::Never);
    let sink = Sink::new();
    setup.narrow.disk.fail_flushes(true);
    setup.write(0, 1, true, &sink);
    setup.turn(50);
    assert_eq!(take(&sink)[0].result, Err(IoError::WriteFault));
    assert_eq!(setup.pool.info().state, "failed");
}

/// The state of a volume as its host knows it.
#[derive(Default)]
struct Possible {
    /// The newest stable write of each block.
    stable: HashMap<u64, u64>,
    /// All later writes, which the block may hold instead.
    later: HashMap<u64, Vec<u64>>,
}

/// Space comes and goes at any time, also while segments are sealed and opened, with crashes in
/// between. Everything acknowledged remains.
#[test]
fn nothing_is_lost_however_room_comes_and_goes() {
    let (mut crashes_while_waiting, mut refused, mut retried) = (0, 0, 0);
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut setup = setup(seed, seed % 2 == 0, Recycling::Discard);
        let mut known = Possible::default();
        let mut stamp = 0;
        for _ in 0..3 {
            let sink = Sink::new();
            let mut under_way: HashMap<u64, u64> = HashMap::new();
            for _ in 0..150 {
                if rng.below(12) == 0 {
                    setup.narrow.full.set(rng.below(2) == 0);
                }
                for _ in 0..=rng.below(12) {
                    stamp += 1;
                    let block = rng.below(200);
                    let mut bytes = [0; BLOCK_BYTES];
                    fill(stamp, block, &mut bytes);
                    let data: &[&[u8]] = &[&bytes];
                    let request = Request::Write { block, data, force_unit_access: true };
                    // Busy has other reasons than space: the cleaner or the next segment.
                    if setup.pool.submit(setup.id, &request, stamp, &sink) == Submitted::Queued {
                        under_way.insert(stamp, block);
                        known.later.entry(block).or_default().push(stamp);
                    }
                }
                setup.world.clock.advance(rng.below(2 * SECOND_NS as u64) as i64);
                setup.turn(rng.below(40) as u32);
                for done in take(&sink) {
                    let block = under_way.remove(&done.tag).expect("it ends once");
                    match done.result {
                        Ok(()) => {
                            let newest = known.stable.entry(block).or_default();
                            *newest = done.tag.max(*newest);
                        }
                        Err(IoError::NoRoom) => retried += 1,
                        Err(error) => panic!("seed {seed}: {error}"),
                    }
                }
            }
            crashes_while_waiting += u32::from(setup.waits_for_room());
            refused += setup.narrow.refused.replace(0);
            setup = setup.crash(if rng.below(2) == 0 { Crash::Power } else { Crash::Process });
            for block in 0..200 {
                let done = run(&setup.pool, setup.id, &Request::Read { block, len_blocks: 1 });
                assert_eq!(done.result, Ok(()), "seed {seed}");
                let stable = known.stable.get(&block).copied().unwrap_or(0);
                let later = known.later.get(&block).into_iter().flatten().filter(|&&later| later > stable);
                let found = std::iter::once(stable)
                    .chain(later.copied())
                    .find(|&stamp| is_filled(stamp, block, &done.data[0]));
                let found = found
                    .unwrap_or_else(|| panic!("seed {seed}: block {block} is neither {stable} nor newer"));
                // From here on the block must keep this content.
                known.stable.insert(block, found);
                known.later.remove(&block);
            }
        }
        setup.narrow.full.set(false);
        setup.pass(20);
        let sink = Sink::new();
        let bytes = [1; BLOCK_BYTES];
        submit(
            &setup.pool,
            setup.id,
            &Request::Write { block: 0, data: &[&bytes], force_unit_access: true },
            1,
            &sink,
        );
        setup.pass(1);
        assert_eq!(take(&sink)[0].result, Ok(()), "seed {seed}: writes go on");
        assert!(!setup.waits_for_room());
    }
    assert!(
        crashes_while_waiting > 20 && refused > 500 && retried > 100,
        "{crashes_while_waiting} crashes while waiting, {refused} refusals, {retried} writes to be tried again"
    );
}
