//! Devices that fail to read: temporarily, permanently, slowly, in any structure. Hosts get all
//! readable data and an error for the rest, never other data; writes continue; the pool starts; the
//! operator is informed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;

use varve::bdev::{Bdev, BdevInfo, Command, Completion, Operation, Submit};
use varve::dma::BLOCK_BYTES;
use varve::log::Recycling;
use varve::volume::{
    CreateVolume, IoCompletion, IoError, Point, Pool, PoolOptions, Request, Sink, Submitted, VolumeId,
    VolumeState,
};
use varve_tests::sim::disk::SimDisk;
use varve_tests::sim::model::{fill, is_filled};
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::world::{World, wait};

const SEGMENT_BLOCKS: u64 = 256;
const SLOTS: u64 = 12;
const BLOCKS: u64 = 200;

struct Setup {
    world: World,
    disk: SimDisk,
    pool: Rc<Pool>,
    id: VolumeId,
    /// The stamp of each block.
    stamps: HashMap<u64, u64>,
    next_stamp: u64,
}

/// How the completion of a block's read compares with what was written.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Right,
    Error,
}

impl Setup {
    fn new(seed: u64, recycling: Recycling, wrap: impl FnOnce(Box<dyn Bdev>) -> Box<dyn Bdev>) -> Self {
        let mut world = World::new(seed);
        world.options = PoolOptions { recycling, read_ahead_blocks: Some(0), ..PoolOptions::default() };
        if recycling == Recycling::Archived {
            world.store = Some(Arc::new(MemoryStore::default()));
        }
        let disk = SimDisk::new(256 + SLOTS * SEGMENT_BLOCKS, false, seed);
        let pool = world.create(wrap(disk.open()), SEGMENT_BLOCKS).expect("a pool");
        world.attach(&pool, &disk);
        let size_bytes = BLOCKS * BLOCK_BYTES as u64;
        let request = CreateVolume { name: "v".to_owned(), size_bytes, uuid: None, thin: true };
        let id = wait(&pool, Rc::clone(&pool).create_volume(request)).expect("a volume").id;
        Setup { world, disk, pool, id, stamps: HashMap::new(), next_stamp: 1 }
    }

    fn turn(&self) {
        self.world.clock.advance(1_000_000);
        self.pool.poll();
    }

    /// Submits a request, which must end within 60,000 turns of 1 ms each.
    fn run(&self, id: VolumeId, request: &Request<'_>) -> IoCompletion {
        let sink = Sink::new();
        let mut is_queued = false;
        for _ in 0..60_000 {
            is_queued = is_queued || self.pool.submit(id, request, 0, &sink) == Submitted::Queued;
            if let Some(completion) = sink.pop() {
                return completion;
            }
            self.turn();
        }
        panic!("a request does not end: {} {:?}", self.problems(), self.pool.segments());
    }

    fn write(&mut self, block: u64) {
        let (stamp, mut bytes) = (self.next_stamp, [0; BLOCK_BYTES]);
        self.next_stamp += 1;
        fill(stamp, block, &mut bytes);
        let request = Request::Write { block, data: &[&bytes], force_unit_access: false };
        assert_eq!(self.run(self.id, &request).result, Ok(()));
        self.stamps.insert(block, stamp);
    }

    /// Reads a block; panics on data that is not the last write.
    fn see(&self, id: VolumeId, block: u64) -> Seen {
        let done = self.run(id, &Request::Read { block, len_blocks: 1 });
        match done.result {
            Ok(()) => {
                let stamp = self.stamps.get(&block).copied().unwrap_or(0);
                assert!(is_filled(stamp, block, &done.data[0]), "block {block} has other data");
                Seen::Right
            }
            Err(error) => {
                assert_eq!(error, IoError::ReadFault);
                Seen::Error
            }
        }
    }

    /// The blocks that read as errors.
    fn errors(&self, id: VolumeId) -> Vec<u64> {
        (0..BLOCKS).filter(|&block| self.see(id, block) == Seen::Error).collect()
    }

    /// The places on the device with the newest content of a block: where it was written, and where
    /// it was copied.
    fn device_blocks(&self, block: u64) -> Vec<u64> {
        let stamp = self.stamps[&block];
        let holds = |at: &u64| self.disk.block(*at).is_some_and(|bytes| is_filled(stamp, block, &bytes));
        let found: Vec<u64> = self.disk.written_blocks().into_iter().filter(holds).collect();
        assert!(!found.is_empty(), "it was written");
        found
    }

    fn slot_of_segment(&self, sequence: u64) -> u64 {
        let segments = self.pool.segments();
        segments.iter().find(|segment| segment.sequence == Some(sequence)).expect("it is there").slot
    }

    /// Damages both places that describe the entries of a segment: the trailer, and the header of
    /// the record that holds a device block.
    fn damage_entries(&self, held: u64) {
        let first = 256 + (held - 256) / SEGMENT_BLOCKS * SEGMENT_BLOCKS;
        let is_header = |at: &u64| self.disk.block(*at).is_some_and(|bytes| bytes.starts_with(b"VREC"));
        let header = (first..held).rev().find(is_header).expect("a record holds it");
        assert!(self.disk.flip_bit(header, 77));
        assert!(self.disk.flip_bit(first + SEGMENT_BLOCKS - 2, 77));
    }

    fn problems(&self) -> String {
        let segments = self.pool.segments();
        let of_segments = segments.iter().flat_map(|segment| segment.problems.clone());
        self.pool.info().problems.into_iter().chain(of_segments).collect::<Vec<_>>().join("\n")
    }

    fn reopen(&mut self) {
        wait(&self.pool, Rc::clone(&self.pool).close()).expect("it closes");
        self.open();
    }

    fn open(&mut self) {
        let nothing = World::new(99);
        let disk = SimDisk::new(256 + SLOTS * SEGMENT_BLOCKS, false, 1);
        self.pool = nothing.create(disk.open(), SEGMENT_BLOCKS).expect("another, so that this one goes");
        self.pool = self.world.open(self.disk.open()).expect("it opens");
        self.world.attach(&self.pool, &self.disk);
        self.id = self.pool.find_volume("v").expect("it was made").id;
    }
}

#[test]
fn an_error_that_goes_away_is_never_seen() {
    let mut setup = Setup::new(1, Recycling::Discard, |device| device);
    for block in 0..BLOCKS {
        setup.write(block);
    }
    let bad: Vec<u64> = [3, 4, 90].iter().flat_map(|&block| setup.device_blocks(block)).collect();
    for turns in [1, 5, 20, 300, 900] {
        setup.disk.fail_reads_of(&bad);
        let sink = Sink::new();
        let requests = [(0, 64), (64, 64), (3, 1), (100, 10)];
        for (block, len_blocks) in requests {
            let request = Request::Read { block, len_blocks };
            assert_eq!(setup.pool.submit(setup.id, &request, block, &sink), Submitted::Queued);
        }
        for _ in 0..turns {
            setup.turn();
        }
        setup.disk.fail_reads_of(&[]);
        for _ in 0..2000 {
            setup.turn();
        }
        let done: Vec<IoCompletion> = std::iter::from_fn(|| sink.pop()).collect();
        assert_eq!(done.len(), requests.len());
        for completion in done {
            assert_eq!(completion.result, Ok(()), "{turns} turns");
            let bytes: Vec<u8> = completion.data.iter().flat_map(|piece| piece.to_vec()).collect();
            for (block, bytes) in (completion.tag..).zip(bytes.chunks(BLOCK_BYTES)) {
                assert!(is_filled(setup.stamps[&block], block, bytes));
            }
        }
    }
    let stats = setup.pool.stats();
    assert!(stats.retried_reads >= 3 && stats.rescued_reads == stats.retried_reads, "{stats:?}");
    assert_eq!(stats.unreadable_blocks, 0);
}

#[test]
fn an_error_that_stays_fails_what_holds_it_and_is_told_unless_the_archive_has_it() {
    for recycling in [Recycling::Discard, Recycling::Archived] {
        let mut setup = Setup::new(2, recycling, |device| device);
        for block in 0..BLOCKS {
            setup.write(block);
        }
        // So that its segment is sealed and archived.
        for _ in 0..2 * SEGMENT_BLOCKS {
            setup.write(199);
        }
        for _ in 0..2000 {
            setup.turn();
        }
        setup.disk.fail_reads_of(&setup.device_blocks(7));
        let before = setup.disk.reads();
        let archived = recycling == Recycling::Archived;
        assert_eq!(setup.errors(setup.id), if archived { vec![] } else { vec![7] });
        assert!(setup.disk.reads() - before < BLOCKS + 20, "{}", setup.disk.reads() - before);
        let stats = setup.pool.stats();
        assert_eq!(stats.unreadable_blocks, u64::from(!archived));
        let problems = setup.problems();
        assert_eq!(problems.contains("volume 'v', block 7"), !archived, "{problems}");
        assert!(problems.contains("cannot be read on the device"), "{problems}");
        setup.disk.fail_reads_of(&[]);
        assert!(setup.errors(setup.id).is_empty());
    }
}

/// A device that holds back reads of some blocks on request.
struct Slow {
    device: Box<dyn Bdev>,
    held: Rc<RefCell<Held>>,
}

#[derive(Default)]
struct Held {
    holds: Option<Range<u64>>,
    /// Whether it takes more reads: it takes the host's, and not those of later copies.
    is_taking: bool,
    reads: Vec<Command>,
}

impl Bdev for Slow {
    fn info(&self) -> &BdevInfo {
        self.device.info()
    }

    fn submit(&mut self, command: Command) -> Submit {
        let mut held = self.held.borrow_mut();
        let holds = held.holds.as_ref().is_some_and(|range| range.contains(&command.operation.block()));
        if holds && held.is_taking && matches!(command.operation, Operation::Read { .. }) {
            held.reads.push(command);
            return Submit::Queued;
        }
        self.device.submit(command)
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) -> usize {
        let mut held = self.held.borrow_mut();
        if held.holds.is_none() {
            while let Some(command) = held.reads.pop() {
                if let Submit::Full(command) = self.device.submit(command) {
                    held.reads.push(command);
                    break;
                }
            }
        }
        self.device.poll(completions)
    }

    fn in_flight(&self) -> usize {
        self.device.in_flight() + self.held.borrow().reads.len()
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// While a read is at the device, its segment is overwritten and leaves the working set, and its
/// slot is needed for another segment: the read returns the old content of the block.
#[test]
fn a_slot_is_not_used_again_under_a_read() {
    for (seed, recycling) in [(3, Recycling::Discard), (4, Recycling::Archived)] {
        let held = Rc::new(RefCell::new(Held::default()));
        let wrapped = Rc::clone(&held);
        let mut setup =
            Setup::new(seed, recycling, |device| Box::new(Slow { device, held: wrapped }) as Box<dyn Bdev>);
        for block in 0..64 {
            setup.write(block);
        }
        for _ in 0..2 * SEGMENT_BLOCKS {
            setup.write(199);
        }
        for _ in 0..2000 {
            setup.turn();
        }
        let before: Vec<u64> = (0..64).map(|block| setup.stamps[&block]).collect();
        let sink = Sink::new();
        // Where copy-forward has put them in the meantime.
        let holds = setup.pool.segments().into_iter().max_by_key(|segment| segment.live_blocks);
        let first = 256 + holds.expect("a segment holds them").slot * SEGMENT_BLOCKS;
        let request = Request::Read { block: 0, len_blocks: 64 };
        *held.borrow_mut() =
            Held { holds: Some(first..first + SEGMENT_BLOCKS), is_taking: true, ..Held::default() };
        assert_eq!(setup.pool.submit(setup.id, &request, 0, &sink), Submitted::Queued);
        // The device accepts a limited number at once.
        (0..200).for_each(|_| setup.turn());
        held.borrow_mut().is_taking = false;
        assert!(!held.borrow().reads.is_empty());
        // The segment contains no live blocks any more; then every other slot is used several
        // times.
        for block in 0..64 {
            setup.write(block);
        }
        for _ in 0..3 * SLOTS * SEGMENT_BLOCKS {
            setup.write(198);
        }
        assert!(setup.pool.stats().released_segments > SLOTS, "{:?}", setup.pool.stats());
        assert!(sink.is_empty());
        held.borrow_mut().holds = None;
        for _ in 0..3000 {
            setup.turn();
        }
        let done = sink.pop().expect("it ends");
        assert_eq!(done.result, Ok(()));
        let bytes: Vec<u8> = done.data.iter().flat_map(|piece| piece.to_vec()).collect();
        for (block, bytes) in (0_u64..).zip(bytes.chunks(BLOCK_BYTES)) {
            assert!(is_filled(before[block as usize], block, bytes), "block {block}");
        }
        assert_eq!(setup.pool.stats().retried_reads, 0, "the device gave it as it was");
        // The segment's slot becomes free when the read has ended.
        for _ in 0..2 * SLOTS * SEGMENT_BLOCKS {
            setup.write(198);
        }
        let oldest = setup.pool.segments().iter().filter_map(|segment| segment.sequence).min();
        assert!(oldest > Some(SLOTS), "{oldest:?}");
    }
}

/// Cold data in segments whose trailers, or all descriptions of their entries, cannot be read while
/// the pool runs: hosts continue to write, and every readable block keeps its content.
#[test]
fn writes_go_on_over_entries_that_cannot_be_read() {
    for recycling in [Recycling::Discard, Recycling::Archived] {
        for headers_too in [false, true] {
            let mut setup = Setup::new(5, recycling, |device| device);
            for block in 0..BLOCKS {
                setup.write(block);
            }
            for _ in 0..2 * SEGMENT_BLOCKS {
                setup.write(199);
            }
            for _ in 0..2000 {
                setup.turn();
            }
            let first = 256 + setup.slot_of_segment(0) * SEGMENT_BLOCKS;
            let is_header = |at: &u64| setup.disk.block(*at).is_some_and(|bytes| bytes.starts_with(b"VREC"));
            let mut bad: Vec<u64> = (first..first + SEGMENT_BLOCKS - 2).filter(is_header).collect();
            bad.truncate(if headers_too { usize::MAX } else { 0 });
            bad.extend([first + SEGMENT_BLOCKS - 2, first + SEGMENT_BLOCKS - 1]);
            // One block of data too: it stays an error, and nothing else becomes one.
            bad.extend(setup.device_blocks(11));
            // Like bad sectors: until they are written again.
            for &block in &bad {
                setup.disk.fail_block(block, None);
            }
            let before = setup.disk.reads();
            for at in 0..3 * SLOTS * SEGMENT_BLOCKS {
                setup.write(180 + at % 20);
            }
            let reads = setup.disk.reads() - before;
            assert!(reads < 20_000, "{reads} reads");
            let expected = if recycling == Recycling::Archived { vec![] } else { vec![11] };
            assert_eq!(setup.errors(setup.id), expected, "{recycling:?} {headers_too}");
            assert!(setup.problems().len() < 20_000);
            setup.reopen();
            assert_eq!(setup.errors(setup.id), expected, "{recycling:?} {headers_too}");
        }
    }
}

/// Lost entries had replaced older blocks: these read as errors, also after copy-forward moved them
/// to positions after the loss, after restarts, and in clones.
#[test]
fn what_is_not_certain_never_becomes_certain() {
    let mut setup = Setup::new(6, Recycling::Discard, |device| device);
    for block in 0..BLOCKS {
        setup.write(block);
    }
    while setup.pool.segments().iter().filter(|segment| segment.sequence.is_some()).count() < 2 {
        setup.write(199);
    }
    for _ in 0..30 {
        setup.write(199);
    }
    // These replace older ones, and will be lost.
    for block in 20..30 {
        setup.write(block);
    }
    let lost = setup.device_blocks(25)[0];
    for _ in 0..SEGMENT_BLOCKS {
        setup.write(198);
    }
    wait(&setup.pool, Rc::clone(&setup.pool).close()).expect("it closes");
    setup.damage_entries(lost);
    setup.open();
    assert!(setup.problems().contains("are lost"), "{}", setup.problems());
    let before = setup.errors(setup.id);
    // Blocks that were copied to positions after the loss in the meantime are certain.
    assert!(before.contains(&25) && before.len() > 50, "{before:?}");
    let info = setup.pool.find_volume("v").expect("there");
    assert_eq!(info.state, VolumeState::Degraded);
    assert!(info.uncertain_blocks > 0 && info.problem.is_some(), "{info:?}");
    // All old blocks are copied forward several times.
    for at in 0..3 * SLOTS * SEGMENT_BLOCKS {
        setup.write(190 + at % 10);
    }
    let written: Vec<u64> = (190..200).collect();
    let expected: Vec<u64> = before.into_iter().filter(|block| !written.contains(block)).collect();
    assert_eq!(setup.errors(setup.id), expected);
    setup.reopen();
    assert_eq!(setup.errors(setup.id), expected);
    let clone = Rc::clone(&setup.pool).clone_volume("v".to_owned(), Point::Ago(0), "c".to_owned(), false);
    let clone = wait(&setup.pool, clone).expect("it can be made").volume.id;
    assert_eq!(setup.errors(clone), expected);
    // A block that is written again is certain.
    for &block in &expected {
        setup.write(block);
    }
    assert!(setup.errors(setup.id).is_empty());
}

/// A point whose segments have unreadable entries: its clone returns no wrong data, also after a
/// restart.
#[test]
fn a_clone_over_entries_that_cannot_be_read_has_nothing_wrong() {
    for (seed, recycling) in [(7, Recycling::Discard), (8, Recycling::Archived)] {
        let mut setup = Setup::new(seed, recycling, |device| device);
        for block in 0..BLOCKS {
            setup.write(block);
        }
        for _ in 0..SEGMENT_BLOCKS {
            setup.write(199);
        }
        for block in 20..30 {
            setup.write(block);
        }
        let lost = setup.device_blocks(25)[0];
        // By then its entries are no longer in memory.
        for _ in 0..2 * SEGMENT_BLOCKS + 100 {
            setup.write(198);
        }
        for _ in 0..2000 {
            setup.turn();
        }
        let at = setup.pool.stats().newest_point_lsn;
        let expected_stamps = setup.stamps.clone();
        setup.damage_entries(lost);
        setup.write(198);
        setup.write(3);
        setup.stamps = expected_stamps;
        let clone =
            Rc::clone(&setup.pool).clone_volume("v".to_owned(), Point::Lsn(at), "c".to_owned(), false);
        let info = wait(&setup.pool, clone).expect("it can be made").volume;
        let errors = setup.errors(info.id);
        if recycling == Recycling::Archived {
            // The archive has the entries.
            assert_eq!((errors.as_slice(), info.state), (&[][..], VolumeState::Online));
        } else {
            assert!(errors.contains(&25) && !errors.contains(&198), "{errors:?}");
            assert_eq!(info.state, VolumeState::Degraded);
            assert!(info.problem.is_some_and(|problem| problem.contains("lost")));
        }
        setup.reopen();
        let clone = setup.pool.find_volume("c").expect("it was made");
        let again = setup.errors(clone.id);
        if recycling == Recycling::Archived {
            // A start reads only the primary device: what is older than the loss is then uncertain,
            // and reported.
            assert!(again.iter().all(|block| !(26..30).contains(block) && *block != 198), "{again:?}");
            assert!(again.is_empty() || clone.problem.is_some(), "{:?}", clone.problem);
        } else {
            assert_eq!(again, errors);
        }
    }
}

/// The head of a sealed segment's trailer cannot be read at a start: the pool starts.
#[test]
fn one_bad_sector_keeps_no_pool_from_starting() {
    let mut setup = Setup::new(9, Recycling::Discard, |device| device);
    for at in 0..3 * SEGMENT_BLOCKS {
        setup.write(at % BLOCKS);
    }
    wait(&setup.pool, Rc::clone(&setup.pool).close()).expect("it closes");
    let sealed = setup.pool.segments().iter().filter(|segment| segment.sequence.is_some()).count() as u64 - 1;
    for sequence in 0..sealed {
        let first = 256 + setup.slot_of_segment(sequence) * SEGMENT_BLOCKS;
        let disk = setup.disk.fork();
        disk.fail_reads_of(&[first + SEGMENT_BLOCKS - 2]);
        let pool = setup.world.open(disk.open());
        let pool = pool.unwrap_or_else(|error| panic!("segment {sequence}: {error}"));
        assert!(pool.find_volume("v").is_some());
    }
}
