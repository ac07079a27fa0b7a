//! Blocks in the history: their changes, their writers, the difference of two points and the
//! restore of a range equal a model of every command, over segments, copies, trims, clones and the
//! archive.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use varve::dma::BLOCK_BYTES;
use varve::log::Recycling;
use varve::volume::{
    BlockChange, BlockPlace, BlockRestoreRequest, BlockRestoreState, BlockVersion, CreateVolume, DiffKind,
    DiffRequest, HistoryRequest, NamedPoint, Point, Pool, PoolOptions, Request, VolumeError, VolumeId,
};
use varve_tests::sim::disk::{Crash, SimDisk};
use varve_tests::sim::model::{fill, is_filled};
use varve_tests::sim::rng::Rng;
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::world::{World, begin, run, wait};

/// A point by its position.
fn lsn_point(lsn: u64) -> NamedPoint {
    Point::Lsn(lsn).into()
}

const SEGMENT_BLOCKS: u64 = 256;
const VOLUME_BLOCKS: u64 = 60;

/// A host's command, with the position of its end.
#[derive(Debug, Clone)]
struct Done {
    lsn: u64,
    volume: String,
    block: u64,
    /// The stamp of each block; 0: it was discarded.
    stamps: Vec<u64>,
    is_trim: bool,
}

/// The contents of a volume: the stamps of the blocks that have any.
type State = BTreeMap<u64, u64>;

/// A pool, and every command that it got.
struct Bed {
    world: World,
    disk: SimDisk,
    pool: Rc<Pool>,
    rng: Rng,
    done: Vec<Done>,
    /// For each clone its origin and the point.
    clones: BTreeMap<String, (String, u64)>,
    next_stamp: u64,
    /// Blocks that the cleaner copied before the last restart.
    copied_blocks: u64,
    /// Stamps whose contents are those of another: blocks that a restore wrote again.
    same_as: BTreeMap<u64, u64>,
}

impl Bed {
    fn new(seed: u64, is_archived: bool) -> Self {
        let mut world = World::new(seed);
        let mut slots = 60;
        if is_archived {
            world.options = PoolOptions { recycling: Recycling::Archived, ..PoolOptions::default() };
            world.store = Some(Arc::new(MemoryStore::default()));
            slots = 12;
        }
        let disk = SimDisk::new(257 + slots * SEGMENT_BLOCKS, true, seed);
        let pool = world.create(disk.open(), SEGMENT_BLOCKS).expect("a blank disk becomes a pool");
        world.attach(&pool, &disk);
        let rng = Rng::new(seed);
        let mut bed = Bed {
            world,
            disk,
            pool,
            rng,
            done: Vec::new(),
            clones: BTreeMap::new(),
            next_stamp: 1,
            copied_blocks: 0,
            same_as: BTreeMap::new(),
        };
        bed.create("a");
        bed.create("b");
        for block in (0..VOLUME_BLOCKS).step_by(20) {
            bed.write("a", block, 20);
            bed.write("b", block, 20);
        }
        bed
    }

    fn create(&mut self, name: &str) {
        let size_bytes = VOLUME_BLOCKS * BLOCK_BYTES as u64;
        let request = CreateVolume { name: name.to_owned(), size_bytes, uuid: None, thin: true };
        wait(&self.pool, Rc::clone(&self.pool).create_volume(request)).expect("a volume");
    }

    fn clone_at(&mut self, source: &str, lsn: u64, name: &str) {
        let clone =
            Rc::clone(&self.pool).clone_volume(source.to_owned(), lsn_point(lsn), name.to_owned(), false);
        wait(&self.pool, clone).expect("a clone");
        self.clones.insert(name.to_owned(), (source.to_owned(), lsn));
    }

    fn id(&self, name: &str) -> VolumeId {
        self.pool.find_volume(name).expect("a volume").id
    }

    fn head(&self) -> u64 {
        self.pool.stats().newest_point_lsn
    }

    fn write(&mut self, name: &str, block: u64, blocks: u64) {
        let stamps: Vec<u64> = (self.next_stamp..).take(blocks as usize).collect();
        self.next_stamp += blocks;
        let mut bytes = vec![0; blocks as usize * BLOCK_BYTES];
        for (at, (piece, &stamp)) in bytes.chunks_mut(BLOCK_BYTES).zip(&stamps).enumerate() {
            fill(stamp, block + at as u64, piece);
        }
        let request = Request::Write { block, data: &[&bytes], force_unit_access: false };
        assert_eq!(run(&self.pool, self.id(name), &request).result, Ok(()));
        self.note(name, block, stamps, false);
    }

    fn trim(&mut self, name: &str, block: u64, blocks: u64) {
        let request = Request::Trim { ranges: &[(block, blocks)] };
        assert_eq!(run(&self.pool, self.id(name), &request).result, Ok(()));
        self.note(name, block, vec![0; blocks as usize], true);
    }

    fn note(&mut self, name: &str, block: u64, stamps: Vec<u64>, is_trim: bool) {
        self.done.push(Done { lsn: self.head(), volume: name.to_owned(), block, stamps, is_trim });
        self.world.clock.advance(1_000_000);
    }

    fn step(&mut self, names: &[&str]) {
        let name = names[self.rng.below(names.len() as u64) as usize];
        let blocks = 1 + self.rng.below(6);
        // Most blocks are cold, so that the cleaner has to copy them.
        let first = if self.rng.one_in(16) { VOLUME_BLOCKS } else { 14 };
        let block = self.rng.below(first - blocks);
        if self.rng.one_in(6) {
            self.trim(name, block, (blocks * 2).min(first - block));
        } else {
            self.write(name, block, blocks);
        }
    }

    /// A random position at which a command ended.
    fn some_point(&mut self) -> u64 {
        let at = self.rng.below(self.done.len() as u64) as usize;
        self.done[at].lsn
    }

    /// What a volume held at a position.
    fn state(&self, name: &str, lsn: u64) -> State {
        let mut state = match self.clones.get(name) {
            Some((source, at)) => self.state(source, *at),
            None => State::new(),
        };
        for done in self.done.iter().filter(|done| done.volume == name && done.lsn <= lsn) {
            for (block, &stamp) in (done.block..).zip(&done.stamps) {
                if stamp == 0 {
                    state.remove(&block);
                } else {
                    state.insert(block, stamp);
                }
            }
        }
        state
    }

    /// The commands that changed a block of a volume, newest first.
    fn changes(&self, name: &str, block: u64, lsn: u64) -> Vec<Done> {
        let covers = |done: &&Done| {
            done.volume == name
                && done.lsn <= lsn
                && (done.block..done.block + done.stamps.len() as u64).contains(&block)
        };
        let mut changes: Vec<Done> = self.done.iter().filter(covers).cloned().collect();
        changes.reverse();
        if let Some((source, at)) = self.clones.get(name) {
            changes.extend(self.changes(source, block, *at));
        }
        changes
    }

    fn restart(&mut self, crash: Option<Crash>) {
        self.copied_blocks += self.pool.stats().copied_blocks;
        if crash.is_none() {
            wait(&self.pool, Rc::clone(&self.pool).close()).expect("it closes");
        }
        self.disk.crash(crash.unwrap_or(Crash::Process));
        self.pool = self.world.open_loading(self.disk.open()).expect("it opens");
        self.world.attach(&self.pool, &self.disk);
        wait(&self.pool, Rc::clone(&self.pool).load_inherited());
    }

    fn diff(&self, request: DiffRequest) -> Result<(State, u64, u64), VolumeError> {
        let mut found = State::new();
        let (mut first_block, mut totals) = (0, None);
        loop {
            let request = DiffRequest { first_block, ..request.clone() };
            let page = wait(&self.pool, Rc::clone(&self.pool).volume_diff(request))?;
            totals = totals.or(Some((page.written_blocks, page.unmapped_blocks)));
            for range in &page.ranges {
                let kind = u64::from(range.kind == DiffKind::Written);
                for block in range.block..range.block + range.blocks {
                    assert_eq!(found.insert(block, kind), None, "each block once");
                }
            }
            let Some(next) = page.next_block else { break };
            assert!(next > first_block || page.ranges.is_empty());
            first_block = next;
        }
        let (written, unmapped) = totals.unwrap_or_default();
        Ok((found, written, unmapped))
    }

    /// What differs between two states: 1 written, 0 unmapped.
    fn expected_diff(before: &State, after: &State) -> State {
        let mut expected = State::new();
        for block in 0..VOLUME_BLOCKS {
            match (before.get(&block), after.get(&block)) {
                (old, Some(new)) if old != Some(new) => drop(expected.insert(block, 1)),
                (Some(_), None) => drop(expected.insert(block, 0)),
                _ => {}
            }
        }
        expected
    }

    fn check_diff(&self, name: &str, from: Option<u64>, to: u64, limit: usize) {
        let request = DiffRequest {
            volume: name.to_owned(),
            from: from.map(lsn_point),
            to: Some(lsn_point(to)),
            to_volume: None,
            first_block: 0,
            limit: Some(limit),
        };
        let (found, written, unmapped) = self.diff(request).expect("a difference");
        let before = from.map(|from| self.state(name, from)).unwrap_or_default();
        let expected = Bed::expected_diff(&before, &self.state(name, to));
        assert_eq!(found, expected, "{name} {from:?} {to}");
        assert_eq!(written, expected.values().sum::<u64>());
        assert_eq!(written + unmapped, expected.len() as u64);
    }

    /// Every page of a history.
    fn history(
        &self,
        name: &str,
        block: u64,
        blocks: u64,
        at: Option<u64>,
        limit: usize,
    ) -> Vec<BlockVersion> {
        let (mut versions, mut from) = (Vec::new(), None);
        for _ in 0..10_000 {
            let request = HistoryRequest {
                volume: name.to_owned(),
                block,
                blocks,
                at: at.map(lsn_point),
                from,
                limit: Some(limit),
            };
            let page = wait(&self.pool, Rc::clone(&self.pool).block_history(request)).expect("a history");
            versions.extend(page.versions);
            from = page.next;
            if from.is_none() {
                let end = page.end.expect("the reason");
                assert!(end.contains("was made behind lsn:"), "{end}");
                return versions;
            }
        }
        panic!("a history does not end");
    }

    fn check_history(&self, name: &str, block: u64, at: Option<u64>, limit: usize) {
        let mut versions = self.history(name, block, 1, at, limit);
        if self.clones.contains_key(name) {
            let before = versions.len();
            versions.retain(|version| version.kind != BlockChange::Cloned);
            assert_eq!(before - versions.len(), 1);
        }
        let expected = self.changes(name, block, at.unwrap_or(u64::MAX));
        let found: Vec<(u64, bool)> =
            versions.iter().map(|version| (version.point_lsn, version.kind == BlockChange::Trim)).collect();
        let wanted: Vec<(u64, bool)> = expected.iter().map(|done| (done.lsn, done.is_trim)).collect();
        assert_eq!(found, wanted, "block {block} of {name}, {at:?}, pages of {limit}");
        for version in versions {
            assert_eq!((version.block, version.blocks), (block, 1));
            assert!(version.lsn <= version.point_lsn && version.time_ns.is_some());
            assert_eq!(version.place == BlockPlace::None, version.kind == BlockChange::Trim);
        }
    }

    fn check_who(&self, name: &str, block: u64, at: Option<u64>) {
        let point = at.map(lsn_point);
        let who = wait(&self.pool, Rc::clone(&self.pool).block_who(name.to_owned(), block, point));
        let version = who.expect("an answer").version;
        let newest = self.changes(name, block, at.unwrap_or(u64::MAX)).into_iter().next();
        match (newest, version) {
            (Some(done), Some(version)) => {
                assert_eq!((version.point_lsn, version.kind == BlockChange::Trim), (done.lsn, done.is_trim));
            }
            (Some(done), None) => assert!(done.is_trim, "only old trims are forgotten"),
            (None, version) => assert_eq!(version, None),
        }
    }

    fn check_contents(&self, name: &str, expected: &State) {
        let request = Request::Read { block: 0, len_blocks: VOLUME_BLOCKS as u32 };
        let read = run(&self.pool, self.id(name), &request);
        assert_eq!(read.result, Ok(()));
        let bytes: Vec<u8> = read.data.iter().flat_map(|piece| piece.to_vec()).collect();
        for (block, piece) in bytes.chunks(BLOCK_BYTES).enumerate() {
            let stamp = expected.get(&(block as u64)).copied().unwrap_or(0);
            let stamp = self.same_as.get(&stamp).copied().unwrap_or(stamp);
            assert!(is_filled(stamp, block as u64, piece), "block {block} of {name}");
        }
    }

    fn restore(&mut self, name: &str, block: u64, blocks: u64, lsn: u64) {
        let (old, then) = (self.state(name, u64::MAX), self.state(name, lsn));
        let before = self.pool.stats();
        let request = BlockRestoreRequest { volume: name.to_owned(), block, blocks, at: lsn_point(lsn) };
        let begun = wait(&self.pool, Rc::clone(&self.pool).begin_block_restore(request));
        let (info, restore) = begun.expect("it begins");
        assert_eq!((info.lsn, info.before_lsn), (lsn, before.newest_point_lsn));
        wait(&self.pool, Rc::clone(&self.pool).restore_blocks(restore));
        let info = self.pool.block_restore().expect("a restore");
        assert_eq!((info.state, info.problem), (BlockRestoreState::Done, None));
        let mut expected = old.clone();
        for block in block..block + blocks {
            match then.get(&block) {
                Some(&stamp) => drop(expected.insert(block, stamp)),
                None => drop(expected.remove(&block)),
            }
        }
        let differing = Bed::expected_diff(&old, &expected);
        let written: u64 = differing.values().sum();
        assert_eq!((info.differing_blocks, info.written_blocks), (differing.len() as u64, written));
        let host_written = self.pool.stats().host_written_blocks - before.host_written_blocks;
        assert_eq!(host_written, written, "only what differs is written");
        self.check_contents(name, &expected);
    }
}

/// Differences between random points, in both directions and in pages, equal the model: also when
/// most of the history is only in the archive, live blocks were copied, and after restarts.
#[test]
fn a_difference_is_what_the_model_says() {
    for (seed, is_archived) in [(1, true), (2, true), (3, false)] {
        let mut bed = Bed::new(seed, is_archived);
        for round in 0..3 {
            for _ in 0..if is_archived { 700 } else { 250 } {
                bed.step(&["a", "b"]);
            }
            if round == 1 {
                bed.restart(if seed == 1 { None } else { Some(Crash::Process) });
            }
        }
        let head = bed.head();
        for turn in 0..40 {
            let (from, to) = (bed.some_point(), bed.some_point());
            let name = if turn % 2 == 0 { "a" } else { "b" };
            bed.check_diff(name, Some(from), to, 1 + turn % 5);
            bed.check_diff(name, Some(from), from, 1);
            bed.check_diff(name, Some(from), head, 1000);
            bed.check_diff(name, None, to, 3);
        }
        if is_archived {
            let copied_blocks = bed.copied_blocks + bed.pool.stats().copied_blocks;
            assert!(copied_blocks > 30, "the cleaner has copied: {copied_blocks}");
        }
    }
}

/// The history and the writer of each block equal the model, at any point and in pages of any size.
#[test]
fn a_history_has_every_change_of_a_block() {
    for (seed, is_archived) in [(11, true), (12, true), (13, false)] {
        let mut bed = Bed::new(seed, is_archived);
        for _ in 0..if is_archived { 1500 } else { 500 } {
            bed.step(&["a", "b"]);
        }
        for turn in 0..30 {
            let block = bed.rng.below(VOLUME_BLOCKS);
            let at = Some(bed.some_point()).filter(|_| turn % 3 > 0);
            bed.check_history("a", block, at, [1, 2, 7, 1000][turn % 4]);
            bed.check_who("a", block, at);
            bed.check_who("b", block, at);
        }
        let blocks = 1 + bed.rng.below(20);
        let all = bed.history("a", 10, blocks, None, 37);
        let inside = |done: &&Done| {
            let end = done.block + done.stamps.len() as u64;
            done.volume == "a" && done.block < 10 + blocks && end > 10
        };
        let expected: Vec<&Done> = bed.done.iter().filter(inside).rev().collect();
        assert_eq!(all.len(), expected.len());
        for (version, done) in all.iter().zip(expected) {
            let (start, end) = (done.block.max(10), (done.block + done.stamps.len() as u64).min(10 + blocks));
            assert_eq!((version.block, version.blocks), (start, end - start));
            assert_eq!((version.point_lsn, version.kind == BlockChange::Trim), (done.lsn, done.is_trim));
        }
    }
}

/// A clone's past before its birth is its origin's, for histories, writers and differences.
#[test]
fn a_clone_has_the_past_of_its_origin() {
    let mut bed = Bed::new(21, true);
    for _ in 0..400 {
        bed.step(&["a", "b"]);
    }
    let born = bed.some_point();
    bed.clone_at("a", born, "c");
    for _ in 0..300 {
        bed.step(&["a", "b", "c"]);
    }
    let second = bed.head();
    bed.clone_at("c", second, "d");
    for _ in 0..300 {
        bed.step(&["a", "c", "d"]);
    }
    for turn in 0..2 {
        for block in 0..VOLUME_BLOCKS {
            for name in ["c", "d"] {
                bed.check_history_of_clone(name, block);
                bed.check_who(name, block, None);
            }
        }
        bed.check_diff("c", Some(second), bed.head(), 4);
        // Between two volumes: the clone at its first point and its origin there are one content.
        let request = DiffRequest {
            volume: "c".to_owned(),
            from: Some(lsn_point(second)),
            to: None,
            to_volume: Some("d".to_owned()),
            first_block: 0,
            limit: None,
        };
        let (found, ..) = bed.diff(request).expect("a difference");
        let expected = Bed::expected_diff(&bed.state("c", second), &bed.state("d", u64::MAX));
        assert_eq!(found, expected);
        if turn == 0 {
            bed.restart(Some(Crash::Process));
        }
    }
}

impl Bed {
    fn check_history_of_clone(&self, name: &str, block: u64) {
        let versions = self.history(name, block, 1, None, 9);
        let depth = if name == "d" { 2 } else { 1 };
        let births = versions.iter().filter(|version| version.kind == BlockChange::Cloned).count();
        assert_eq!(births, depth);
        let found: Vec<u64> = versions
            .iter()
            .filter(|version| version.kind != BlockChange::Cloned)
            .map(|version| version.point_lsn)
            .collect();
        let wanted: Vec<u64> = self.changes(name, block, u64::MAX).iter().map(|done| done.lsn).collect();
        assert_eq!(found, wanted, "block {block} of {name}");
    }
}

/// A restore writes what differs, and nothing else, from the primary or from the archive.
#[test]
fn a_range_is_restored_by_ordinary_writes() {
    for (seed, is_archived) in [(31, true), (32, false)] {
        let mut bed = Bed::new(seed, is_archived);
        for _ in 0..if is_archived { 900 } else { 300 } {
            bed.step(&["a", "b"]);
        }
        for _ in 0..12 {
            let lsn = bed.some_point();
            let blocks = 1 + bed.rng.below(VOLUME_BLOCKS);
            let block = bed.rng.below(VOLUME_BLOCKS - blocks + 1);
            bed.restore("a", block, blocks, lsn);
            bed.rebase_model("a", block, blocks, lsn);
            bed.check_contents("b", &bed.state("b", u64::MAX));
            for _ in 0..20 {
                bed.step(&["a", "b"]);
            }
        }
        // A restart keeps them, as it keeps every write.
        bed.restart(None);
        bed.check_contents("a", &bed.state("a", u64::MAX));
    }
}

impl Bed {
    /// Notes a restore in the model: what differed was written again.
    fn rebase_model(&mut self, name: &str, block: u64, blocks: u64, lsn: u64) {
        let (old, then) = (self.state(name, u64::MAX), self.state(name, lsn));
        for block in (block..block + blocks).filter(|block| old.get(block) != then.get(block)) {
            let Some(&stamp) = then.get(&block) else {
                self.note(name, block, vec![0], true);
                continue;
            };
            let content = self.same_as.get(&stamp).copied().unwrap_or(stamp);
            self.same_as.insert(self.next_stamp, content);
            self.note(name, block, vec![self.next_stamp], false);
            self.next_stamp += 1;
        }
    }
}

/// A roll-back is a line in the history of a block. The history is that of the volume in the order
/// of time: what was written between the point and the roll-back is in it, and undoing the
/// roll-back is another line.
#[test]
fn a_history_crosses_a_roll_back() {
    let mut bed = Bed::new(61, true);
    let write = |bed: &mut Bed| {
        bed.write("a", 5, 1);
        bed.head()
    };
    let (first, second) = (write(&mut bed), write(&mut bed));
    for _ in 0..600 {
        bed.step(&["b"]);
    }
    let between = write(&mut bed);
    let roll_back = |bed: &Bed, point: NamedPoint| {
        let back = Rc::clone(&bed.pool).roll_back("a".to_owned(), point, false);
        wait(&bed.pool, back).expect("rolled back")
    };
    let info = roll_back(&bed, lsn_point(second));
    let behind = write(&mut bed);
    let lines = |bed: &Bed, at: Option<u64>, limit: usize| -> Vec<(BlockChange, u64)> {
        let versions = bed.history("a", 5, 1, at, limit);
        versions.iter().map(|version| (version.kind, version.point_lsn)).collect()
    };
    let writes = |lines: &[(BlockChange, u64)]| -> Vec<u64> {
        let writes = lines.iter().filter(|(kind, _)| *kind == BlockChange::Write);
        writes.map(|(_, lsn)| *lsn).collect()
    };
    for crash in [None, Some(Crash::Process)] {
        if let Some(crash) = crash {
            bed.restart(Some(crash));
        }
        for limit in [1, 2, 100] {
            let now = lines(&bed, None, limit);
            // Block 5 was written once more when the bed was made.
            assert_eq!(writes(&now)[..4], [behind, between, second, first], "{now:?}");
            assert_eq!(writes(&now).len(), 5);
            let moved: Vec<usize> = now
                .iter()
                .enumerate()
                .filter(|(_, line)| line.0 == BlockChange::Moved)
                .map(|(at, _)| at)
                .collect();
            assert_eq!(moved, [1], "{now:?}");
            let old = lines(&bed, Some(between), limit);
            assert_eq!(writes(&old)[..3], [between, second, first], "{old:?}");
            assert!(old.iter().all(|(kind, _)| *kind == BlockChange::Write), "{old:?}");
        }
    }
    bed.check_who_is("a", 5, None, behind);
    bed.check_who_is("a", 5, Some(between), between);
    // A net difference over the roll-back compares contents, not what was done.
    let net = |bed: &Bed, from: u64, to: u64| {
        let request = DiffRequest {
            volume: "a".to_owned(),
            from: Some(lsn_point(from)),
            to: Some(lsn_point(to)),
            to_volume: None,
            first_block: 0,
            limit: None,
        };
        bed.diff(request).expect("a difference").0.into_keys().collect::<Vec<u64>>()
    };
    assert_eq!(net(&bed, second, between), [5]);
    assert_eq!(net(&bed, second, behind), [5]);
    assert_eq!(net(&bed, second, behind - 1), Vec::<u64>::new(), "it was rolled back to there");
    let undone = roll_back(&bed, Point::Snapshot(info.before.name).into());
    let last = lines(&bed, None, 100);
    assert_eq!(writes(&last)[..4], [behind, between, second, first], "{last:?}");
    let moved = last.iter().filter(|(kind, _)| *kind == BlockChange::Moved).count();
    assert_eq!((moved, last[0].0), (2, BlockChange::Moved), "{last:?}");
    assert_eq!(undone.point.lsn, info.before.lsn);
}

impl Bed {
    fn check_who_is(&self, name: &str, block: u64, at: Option<u64>, lsn: u64) {
        let who = Rc::clone(&self.pool).block_who(name.to_owned(), block, at.map(lsn_point));
        let version = wait(&self.pool, who).expect("an answer").version.expect("it was written");
        assert_eq!(version.point_lsn, lsn);
    }
}

/// Wherever the device dies during a restore of blocks, each block has its old or its restored
/// contents and nothing else is touched; the same restore does the rest.
#[test]
fn a_crash_leaves_each_block_of_a_restore_old_or_new() {
    let (mut cut, mut mixed) = (0, 0);
    for seed in [71, 72] {
        for died_after in 0..400 {
            let mut bed = Bed::new(seed, true);
            let then = bed.head();
            for _ in 0..400 {
                bed.step(&["a", "b"]);
            }
            for name in ["a", "b"] {
                assert_eq!(run(&bed.pool, bed.id(name), &Request::Flush).result, Ok(()));
            }
            let (old, wanted) = (bed.state("a", u64::MAX), bed.state("a", then));
            let other = bed.state("b", u64::MAX);
            bed.disk.die_after_writes(Some(bed.disk.writes() + died_after));
            let pool = Rc::clone(&bed.pool);
            let at = lsn_point(then);
            let request = BlockRestoreRequest { volume: "a".to_owned(), block: 0, blocks: VOLUME_BLOCKS, at };
            let restore = async {
                let (_, restore) = Rc::clone(&pool).begin_block_restore(request).await.expect("it begins");
                Rc::clone(&pool).restore_blocks(restore).await;
            };
            begin(&pool, restore, 6000, || ());
            let is_done =
                pool.block_restore().is_some_and(|restore| restore.state == BlockRestoreState::Done);
            let was_alive = !bed.disk.is_dead();
            drop(pool);
            let crash = if died_after % 2 == 0 { Crash::Power } else { Crash::Process };
            bed.disk.die_after_writes(None);
            bed.restart(Some(crash));
            let found = bed.contents("a", &[&old, &wanted]);
            let is_new = Bed::expected_diff(&found, &wanted).is_empty();
            let is_old = Bed::expected_diff(&found, &old).is_empty();
            assert!(is_new || !is_done, "seed {seed}, {died_after}: what was answered is lost");
            cut += u64::from(!is_done);
            mixed += u64::from(!is_new && !is_old);
            bed.check_contents("b", &other);
            // The same restore does the rest.
            let at = lsn_point(then);
            let request = BlockRestoreRequest { volume: "a".to_owned(), block: 0, blocks: VOLUME_BLOCKS, at };
            let begun = wait(&bed.pool, Rc::clone(&bed.pool).begin_block_restore(request));
            let (_, restore) = begun.expect("it begins");
            wait(&bed.pool, Rc::clone(&bed.pool).restore_blocks(restore));
            let info = bed.pool.block_restore().expect("a restore");
            assert_eq!((info.state, info.problem), (BlockRestoreState::Done, None));
            bed.check_contents("a", &wanted);
            if was_alive {
                break;
            }
        }
    }
    println!("{cut} restores were cut, {mixed} with old and new blocks");
    assert!(cut > 4 && mixed > 2, "{cut} {mixed}");
}

impl Bed {
    /// What a volume holds, each block as one of some states has it.
    fn contents(&self, name: &str, states: &[&State]) -> State {
        let request = Request::Read { block: 0, len_blocks: VOLUME_BLOCKS as u32 };
        let read = run(&self.pool, self.id(name), &request);
        assert_eq!(read.result, Ok(()));
        let bytes: Vec<u8> = read.data.iter().flat_map(|piece| piece.to_vec()).collect();
        let mut found = State::new();
        for (block, piece) in (0..).zip(bytes.chunks(BLOCK_BYTES)) {
            let stamp = |state: &&State| state.get(&block).copied().unwrap_or(0);
            let stamp = states.iter().map(stamp).find(|&stamp| is_filled(stamp, block, piece));
            let stamp = stamp.unwrap_or_else(|| panic!("block {block} of {name} is neither old nor new"));
            if stamp > 0 {
                found.insert(block, stamp);
            }
        }
        found
    }
}

/// The worked example of a backup series: after T0 the blocks 3a 4a are written, then 3b 4b 6a; at
/// T1 a snapshot is taken, and the net set is 3b 4b 6a, also while 1a 3c are written. After 1b 4c
/// 6b the net set of T2 is 1b 3c 4c 6b. Each set applied to the copy gives the volume at that time.
#[test]
fn a_series_of_backups_sends_the_net_sets() {
    let mut bed = Bed::new(41, true);
    for block in 1..=6 {
        bed.write("a", block, 1);
    }
    let t0 = bed.head();
    bed.write("a", 3, 2);
    bed.write("a", 3, 2);
    bed.write("a", 6, 1);
    let t1 = wait(&bed.pool, Rc::clone(&bed.pool).create_snapshot("t1".to_owned())).expect("a snapshot").lsn;
    bed.write("a", 1, 1);
    bed.write("a", 3, 1);
    let net = |bed: &Bed, from: u64, to: NamedPoint| {
        let request = DiffRequest {
            volume: "a".to_owned(),
            from: Some(lsn_point(from)),
            to: Some(to),
            to_volume: None,
            first_block: 0,
            limit: None,
        };
        let (found, written, unmapped) = bed.diff(request).expect("a difference");
        assert_eq!((written, unmapped), (found.len() as u64, 0));
        found.into_keys().collect::<Vec<u64>>()
    };
    assert_eq!(net(&bed, t0, Point::Snapshot("t1".to_owned()).into()), [3, 4, 6]);
    let at_t1 = bed.state("a", t1);
    let mut copy = bed.state("a", t0);
    copy.extend(net(&bed, t0, lsn_point(t1)).into_iter().map(|block| (block, at_t1[&block])));
    assert_eq!(copy, at_t1);
    bed.write("a", 1, 1);
    bed.write("a", 4, 1);
    bed.write("a", 6, 1);
    let t2 = bed.head();
    assert_eq!(net(&bed, t1, lsn_point(t2)), [1, 3, 4, 6]);
    let at_t2 = bed.state("a", t2);
    copy.extend(net(&bed, t1, lsn_point(t2)).into_iter().map(|block| (block, at_t2[&block])));
    assert_eq!(copy, at_t2);
}

/// Requests that make no sense are refused with what is wrong, and change nothing.
#[test]
fn what_makes_no_sense_is_refused() {
    let mut bed = Bed::new(51, true);
    bed.step(&["a"]);
    let head = bed.head();
    let pool = Rc::clone(&bed.pool);
    let request = |volume: &str, from: u64| DiffRequest {
        volume: volume.to_owned(),
        from: Some(lsn_point(from)),
        to: None,
        to_volume: None,
        first_block: 0,
        limit: None,
    };
    let refused = bed.diff(request("nobody", head)).expect_err("no such volume").to_string();
    assert!(refused.contains("there were: a, b"), "{refused}");
    let refused = bed.diff(request("a", 0)).expect_err("it did not exist").to_string();
    assert!(refused.contains("did not exist at lsn:0") && refused.contains("nothing"), "{refused}");
    let refused = bed.diff(request("a", head + 1000)).expect_err("the future").to_string();
    assert!(refused.contains("the log ends at"), "{refused}");
    let who = wait(&pool, Rc::clone(&pool).block_who("a".to_owned(), VOLUME_BLOCKS, None));
    assert!(who.expect_err("outside").to_string().contains("0 to 59"));
    for (block, blocks) in [(0, 0), (59, 2), (u64::MAX, 2)] {
        let at = lsn_point(head);
        let request = BlockRestoreRequest { volume: "a".to_owned(), block, blocks, at };
        let begun = wait(&pool, Rc::clone(&pool).begin_block_restore(request));
        assert!(matches!(begun.err(), Some(VolumeError::Invalid { .. })), "{block} {blocks}");
    }
    assert_eq!(bed.head(), head);
    assert_eq!(pool.block_restore(), None);
}
