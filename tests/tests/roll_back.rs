//! Rolling back, and clones: every state of a volume that is rolled back, forth again, reset,
//! renamed or promoted equals a model of all writes, also after crashes at every durable step, and
//! the accounts of the space are exact after each.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use varve::archive::store::faulty::{Call, Fault, FaultyStore, When};
use varve::archive::store::{Reason, StoreErrorKind};
use varve::dma::BLOCK_BYTES;
use varve::log::Recycling;
use varve::volume::{
    CloneInfo, CreateVolume, HostGuard, IoError, NamedPoint, Point, Pool, PoolOptions, Request, RollBackInfo,
    SegmentState, Sink, VolumeError, VolumeId,
};
use varve_tests::sim::disk::{Crash, SimDisk};
use varve_tests::sim::rng::Rng;
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::world::{
    World, begin, forget_background, in_background, is_background_idle, run, submit, turn, wait,
};

/// A point by its position.
fn lsn_point(lsn: u64) -> NamedPoint {
    Point::Lsn(lsn).into()
}

const SEGMENT_BLOCKS: u64 = 256;
const VOLUME_BLOCKS: u64 = 150;
const VOLUME: &str = "data";
const DOWN: Fault = Fault::Error(StoreErrorKind::Unavailable(Reason::Busy("a fault")));

/// Stamps of the blocks that have contents.
type Contents = BTreeMap<u64, u64>;

/// The state of a volume.
#[derive(Clone, Debug, PartialEq)]
struct State {
    size_blocks: u64,
    contents: Contents,
}

/// A pool, its disk, and all states of one volume.
struct Bed {
    world: World,
    disk: SimDisk,
    pool: Rc<Pool>,
    store: Option<Arc<FaultyStore>>,
    rng: Rng,
    /// The states, each from its LSN on.
    states: Vec<(u64, State)>,
    next_stamp: u64,
}

impl Bed {
    fn new(seed: u64, segments: u64, recycling: Recycling) -> Self {
        forget_background();
        let mut world = World::new(seed);
        world.options = PoolOptions { recycling, ..PoolOptions::default() };
        let store = (recycling == Recycling::Archived)
            .then(|| Arc::new(FaultyStore::new(Arc::new(MemoryStore::default()), seed)));
        world.store = store.clone().map(|store| store as _);
        // So small that reads come from the store.
        world.policy.blocks_cache_bytes = 64 << 10;
        let disk = SimDisk::new(257 + segments * SEGMENT_BLOCKS, true, seed);
        let pool = world.create(disk.open(), SEGMENT_BLOCKS).expect("a pool");
        world.attach(&pool, &disk);
        let mut bed =
            Bed { world, disk, pool, store, rng: Rng::new(seed), states: Vec::new(), next_stamp: 1 };
        bed.create(VOLUME);
        let state = State { size_blocks: VOLUME_BLOCKS, contents: Contents::new() };
        bed.states.push((bed.pool.stats().newest_change_lsn, state));
        bed
    }

    fn create(&self, name: &str) {
        let request = CreateVolume {
            name: name.to_owned(),
            size_bytes: VOLUME_BLOCKS * BLOCK_BYTES as u64,
            uuid: None,
            thin: false,
        };
        wait(&self.pool, Rc::clone(&self.pool).create_volume(request)).expect("room");
    }

    fn id(&self, name: &str) -> VolumeId {
        self.pool.find_volume(name).unwrap_or_else(|| panic!("volume {name}")).id
    }

    /// A clone of a volume.
    fn clone(&self, source: &str, point: NamedPoint, name: &str) -> CloneInfo {
        let clone = Rc::clone(&self.pool).clone_volume(source.to_owned(), point, name.to_owned(), false);
        wait(&self.pool, clone).expect("a clone")
    }

    /// Sets a clone back to its beginning.
    fn reset(&self, name: &str) {
        wait(&self.pool, Rc::clone(&self.pool).reset_clone(name.to_owned(), None, HostGuard::none()))
            .expect("reset");
    }

    fn now(&self) -> &State {
        &self.states.last().expect("a state").1
    }

    fn state_at(&self, lsn: u64) -> &State {
        let behind = self.states.partition_point(|(from, _)| *from <= lsn);
        &self.states[behind - 1].1
    }

    fn push(&mut self, lsn: u64, state: State) {
        assert!(self.states.last().is_none_or(|(last, _)| *last < lsn), "states are in order");
        self.states.push((lsn, state));
    }

    /// Writes or trims something of a volume. Returns what the volume holds then.
    fn change(&mut self, id: VolumeId, before: &State) -> State {
        self.world.clock.advance(1_000_000);
        let mut state = before.clone();
        let len = 1 + self.rng.below(6);
        let block = self.rng.below(state.size_blocks - len);
        if self.rng.one_in(6) {
            let request = Request::Trim { ranges: &[(block, len)] };
            assert_eq!(run(&self.pool, id, &request).result, Ok(()));
            state.contents.retain(|&known, _| known < block || known >= block + len);
            return state;
        }
        let stamp = self.next_stamp;
        self.next_stamp += 1;
        let data = filled(stamp, len);
        let force_unit_access = self.rng.one_in(4);
        let request = Request::Write { block, data: &[&data], force_unit_access };
        assert_eq!(run(&self.pool, id, &request).result, Ok(()));
        state.contents.extend((block..block + len).map(|block| (block, stamp)));
        state
    }

    fn write(&mut self) {
        let state = self.change(self.id(VOLUME), &self.now().clone());
        self.push(self.pool.stats().newest_point_lsn, state);
    }

    fn check(&self, name: &str, expected: &State) {
        check(&self.pool, name, expected);
    }

    fn try_roll_back(&mut self, point: NamedPoint, forced: bool) -> Result<RollBackInfo, VolumeError> {
        let future = Rc::clone(&self.pool).roll_back(VOLUME.to_owned(), point, forced);
        let info = wait(&self.pool, future)?;
        let to = self.state_at(info.point.lsn).clone();
        self.push(self.pool.stats().newest_change_lsn, to);
        in_background(Rc::clone(&self.pool).hydrate(info.done.volume.id));
        Ok(info)
    }

    fn roll_back(&mut self, point: NamedPoint) -> RollBackInfo {
        let text = point.text.clone();
        let info = self.try_roll_back(point, false).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(info.done.volume.size_bytes, self.now().size_blocks * BLOCK_BYTES as u64);
        assert_eq!(info.done.resident_blocks + info.done.inherited_blocks, self.now().contents.len() as u64);
        info
    }

    /// Turns the pool until what was buried and hydrated is counted.
    fn settle(&self) {
        for _ in 0..100_000 {
            if is_background_idle() {
                break;
            }
            turn(&self.pool);
        }
        assert!(is_background_idle(), "{:?}", self.pool.info().problems);
        for _ in 0..500 {
            turn(&self.pool);
        }
    }

    /// The live blocks of each segment. Their sum is what the volumes hold in the working set.
    fn audit(&self) -> Vec<(Option<u64>, u64)> {
        let live: Vec<(Option<u64>, u64)> = self
            .pool
            .segments()
            .iter()
            .filter(|segment| segment.live_blocks > 0)
            .map(|segment| (segment.sequence, segment.live_blocks))
            .collect();
        let held: u64 =
            self.pool.volumes().iter().map(|volume| volume.mapped_blocks - volume.inherited_blocks).sum();
        assert_eq!(live.iter().map(|(_, live)| live).sum::<u64>(), held, "{live:?}");
        let thin = self.pool.volumes().into_iter().filter(|volume| volume.thin);
        let thin: u64 = thin.map(|volume| volume.mapped_blocks - volume.inherited_blocks).sum();
        assert_eq!(self.pool.stats().thin_blocks, thin);
        live
    }

    /// Opens the pool again. What is not loaded yet waits for [`load`](Self::load).
    fn reopen_loading(&mut self, crash: Crash) {
        self.world.crash(&mut self.pool, &self.disk, crash).expect("it opens");
    }

    fn load(&self) {
        self.world.attach(&self.pool, &self.disk);
        wait(&self.pool, Rc::clone(&self.pool).load_inherited());
        in_background(Rc::clone(&self.pool).hydrate_all());
    }

    fn reopen(&mut self, crash: Crash) {
        self.reopen_loading(crash);
        self.load();
    }

    /// A random point of which the volume existed, among the newest `last` states.
    fn random_point(&mut self, last: u64) -> u64 {
        let count = (self.states.len() as u64).min(last);
        let place = self.states.len() as u64 - 1 - self.rng.below(count);
        self.states[place as usize].0
    }
}

fn filled(stamp: u64, len_blocks: u64) -> Vec<u8> {
    stamp.to_le_bytes().repeat(len_blocks as usize * BLOCK_BYTES / 8)
}

fn stamps(data: &[varve::dma::DmaBuf]) -> Vec<u64> {
    let blocks = data.iter().flat_map(|piece| piece.chunks_exact(BLOCK_BYTES));
    let stamp = |block: &[u8]| {
        let stamp = u64::from_le_bytes(block[..8].try_into().expect("eight bytes"));
        assert!(block.chunks_exact(8).all(|word| word == stamp.to_le_bytes()), "a block is one write's");
        stamp
    };
    blocks.map(stamp).collect()
}

fn check(pool: &Pool, name: &str, expected: &State) {
    let info = pool.find_volume(name).unwrap_or_else(|| panic!("volume {name}"));
    assert_eq!(info.size_bytes, expected.size_blocks * BLOCK_BYTES as u64, "{name}");
    let mut block = 0;
    while block < expected.size_blocks {
        let len_blocks = (expected.size_blocks - block).min(64) as u32;
        let read = run(pool, info.id, &Request::Read { block, len_blocks });
        assert_eq!(read.result, Ok(()), "{name}, block {block}: {:?}", pool.info().problems);
        for stamp in stamps(&read.data) {
            let wanted = expected.contents.get(&block).copied().unwrap_or(0);
            assert_eq!(stamp, wanted, "{name}, block {block} of {:?}", pool.volumes());
            block += 1;
        }
    }
}

/// A hundred times to a random point, with writes between, and forth again; every state equals the
/// model, also after crashes and restarts between, and the accounts are those of the index.
#[test]
fn a_hundred_times_back_and_forth_is_exact() {
    let (mut resident, mut inherited, mut undone) = (0, 0, 0);
    for seed in 0..4 {
        let mut bed = Bed::new(seed, 12, Recycling::Archived);
        for _ in 0..600 {
            bed.write();
        }
        for round in 0..100 {
            let before = bed.now().clone();
            // Near and far points.
            let last = if bed.rng.one_in(2) { 40 } else { u64::MAX };
            let lsn = bed.random_point(last);
            let info = bed.roll_back(lsn_point(lsn));
            bed.check(VOLUME, &bed.now().clone());
            (resident, inherited) =
                (resident + info.done.resident_blocks, inherited + info.done.inherited_blocks);
            for _ in 0..bed.rng.below(12) {
                bed.write();
            }
            if bed.rng.one_in(3) {
                let again = bed.roll_back(Point::Snapshot(info.before.name.clone()).into());
                assert_eq!(bed.now(), &before, "round {round}: rolling back is undone");
                assert_ne!(again.before.name, info.before.name);
                bed.check(VOLUME, &before);
                undone += 1;
            }
            match bed.rng.below(8) {
                0 => {
                    // A crash keeps what was answered; writes without FUA may be lost.
                    assert_eq!(run(&bed.pool, bed.id(VOLUME), &Request::Flush).result, Ok(()));
                    let crash = if bed.rng.one_in(2) { Crash::Power } else { Crash::Process };
                    bed.reopen(crash);
                    bed.check(VOLUME, &bed.now().clone());
                }
                1..3 => {
                    assert_eq!(run(&bed.pool, bed.id(VOLUME), &Request::Flush).result, Ok(()));
                    bed.settle();
                    // Copies that are still in memory would be lost.
                    wait(&bed.pool, Rc::clone(&bed.pool).close()).expect("closed");
                    let live = bed.audit();
                    let volume = bed.pool.find_volume(VOLUME).expect("there");
                    assert_eq!(volume.inherited_blocks, 0, "it is hydrated: {:?}", bed.pool.info().problems);
                    // What is counted is what a restart finds, and it needs no archive for that.
                    bed.reopen_loading(Crash::Process);
                    assert_eq!(bed.audit(), live, "round {round} of seed {seed}");
                    bed.check(VOLUME, &bed.now().clone());
                    bed.load();
                }
                _ => {}
            }
        }
        bed.settle();
        let problems = bed.pool.info().problems;
        assert!(problems.is_empty(), "{problems:?}");
        // Every state of the past is still exact, as a clone.
        for _ in 0..40 {
            let lsn = bed.random_point(u64::MAX);
            let expected = bed.state_at(lsn).clone();
            let future = Rc::clone(&bed.pool).clone_volume(
                VOLUME.to_owned(),
                lsn_point(lsn),
                "probe".to_owned(),
                true,
            );
            wait(&bed.pool, future).unwrap_or_else(|error| panic!("lsn:{lsn}: {error}"));
            bed.check("probe", &expected);
            wait(&bed.pool, Rc::clone(&bed.pool).delete_volume("probe".to_owned())).expect("deleted");
        }
        bed.settle();
        bed.audit();
    }
    println!("{resident} blocks stayed resident, {inherited} were inherited, {undone} were undone");
    assert!(resident > 1000 && inherited > 1000 && undone > 50);
}

/// The device dies after each write command around a roll-back of a volume under way: afterwards
/// the volume has wholly the old or wholly the new state, the new one if it was answered, and no
/// acknowledged write is lost.
#[test]
fn a_crash_at_every_durable_step_leaves_one_of_both_states() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..8 {
        for died_after in 0.. {
            let mut bed = Bed::new(seed, 12, Recycling::Archived);
            for _ in 0..500 {
                bed.write();
            }
            let point = bed.random_point(450);
            assert_eq!(run(&bed.pool, bed.id(VOLUME), &Request::Flush).result, Ok(()));
            let (before, rolled) = (bed.now().clone(), bed.state_at(point).clone());
            // Writes that are under way when it begins; with force, so that each is stable or not.
            let id = bed.id(VOLUME);
            let sink = Sink::new();
            let mut written = before.clone();
            let mut possible = vec![before.clone()];
            for block in [3_u64, 70, 71] {
                let stamp = 1_000_000 + block;
                let data = filled(stamp, 1);
                let request = Request::Write { block, data: &[&data], force_unit_access: true };
                submit(&bed.pool, id, &request, block, &sink);
                written.contents.insert(block, stamp);
                possible.push(written.clone());
            }
            bed.disk.die_after_writes(Some(bed.disk.writes() + died_after));
            let pool = Rc::clone(&bed.pool);
            let answered = std::cell::Cell::new(false);
            let future = async {
                let done = Rc::clone(&pool).roll_back(VOLUME.to_owned(), lsn_point(point), false).await;
                done.expect("it goes back");
                answered.set(true);
                Rc::clone(&pool).hydrate(id).await;
            };
            begin(&bed.pool, future, 4000, || {});
            let acknowledged = std::iter::from_fn(|| sink.pop()).filter(|done| done.result == Ok(())).count();
            let was_alive = !bed.disk.is_dead();
            drop(pool);
            bed.reopen(if died_after % 2 == 0 { Crash::Power } else { Crash::Process });
            let found = contents(&bed.pool);
            if found == rolled {
                new += 1;
            } else {
                assert!(!answered.get(), "seed {seed}, {died_after}: an answered roll-back is lost");
                let place = possible.iter().position(|state| *state == found);
                let place = place.unwrap_or_else(|| panic!("seed {seed}, {died_after}: a mix: {found:?}"));
                assert!(place >= acknowledged, "seed {seed}, {died_after}: a write is lost");
                old += 1;
            }
            // Either way it goes on.
            bed.settle();
            bed.audit();
            check(&bed.pool, VOLUME, &found);
            if was_alive {
                break;
            }
        }
    }
    println!("{old} crashes left the old state, {new} the new one");
    assert!(old > 5 && new > 5, "{old} {new}");
}

fn contents(pool: &Pool) -> State {
    let info = pool.find_volume(VOLUME).expect("there");
    let size_blocks = info.size_bytes / BLOCK_BYTES as u64;
    let mut contents = Contents::new();
    for block in 0..size_blocks {
        let read = run(pool, info.id, &Request::Read { block, len_blocks: 1 });
        assert_eq!(read.result, Ok(()));
        let stamp = stamps(&read.data)[0];
        if stamp > 0 {
            contents.insert(block, stamp);
        }
    }
    State { size_blocks, contents }
}

/// Reads that are in flight when a volume is rolled back give the old or the new state, and never
/// both in one command.
#[test]
fn a_command_in_flight_belongs_to_one_state() {
    let mut bed = Bed::new(20, 12, Recycling::Archived);
    let id = bed.id(VOLUME);
    let all = |bed: &mut Bed, stamp: u64| {
        for block in (0..VOLUME_BLOCKS).step_by(50) {
            let data = filled(stamp, 50);
            let request = Request::Write { block, data: &[&data], force_unit_access: false };
            assert_eq!(run(&bed.pool, id, &request).result, Ok(()));
        }
        let contents = (0..VOLUME_BLOCKS).map(|block| (block, stamp)).collect();
        bed.push(bed.pool.stats().newest_point_lsn, State { size_blocks: VOLUME_BLOCKS, contents });
    };
    all(&mut bed, 1);
    let point = bed.pool.stats().newest_point_lsn;
    all(&mut bed, 2);
    let sink = Sink::new();
    let pool = Rc::clone(&bed.pool);
    let mut tag = 0;
    let (mut olds, mut news) = (0, 0);
    let future = Rc::clone(&pool).roll_back(VOLUME.to_owned(), lsn_point(point), true);
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut is_done = false;
    for _ in 0..20_000 {
        if sink.outstanding() < 8 {
            let request = Request::Read { block: 0, len_blocks: 100 };
            submit(&pool, id, &request, tag, &sink);
            tag += 1;
        }
        if !is_done {
            is_done = future.as_mut().poll(&mut context).is_ready();
        }
        turn(&pool);
        while let Some(done) = sink.pop() {
            assert_eq!(done.result, Ok(()));
            let stamps = stamps(&done.data);
            assert!(stamps.iter().all(|stamp| *stamp == stamps[0]), "{stamps:?}");
            *if stamps[0] == 2 { &mut olds } else { &mut news } += 1;
        }
        if is_done && news > 20 {
            break;
        }
    }
    assert!(olds > 0 && news > 20, "{olds} {news}");
}

/// The size goes back too, and forth; a command beyond the new end is refused.
#[test]
fn the_size_goes_back_too() {
    let mut bed = Bed::new(30, 12, Recycling::Archived);
    for _ in 0..20 {
        bed.write();
    }
    let small = bed.pool.stats().newest_point_lsn;
    let size_bytes = 2 * VOLUME_BLOCKS * BLOCK_BYTES as u64;
    wait(&bed.pool, Rc::clone(&bed.pool).resize_volume(VOLUME.to_owned(), size_bytes)).expect("room");
    let grown = State { size_blocks: 2 * VOLUME_BLOCKS, ..bed.now().clone() };
    bed.push(bed.pool.stats().newest_change_lsn, grown);
    for _ in 0..20 {
        bed.write();
    }
    let large = bed.now().clone();
    let info = bed.roll_back(lsn_point(small));
    bed.check(VOLUME, &bed.now().clone());
    let beyond = run(&bed.pool, bed.id(VOLUME), &Request::Read { block: VOLUME_BLOCKS, len_blocks: 1 });
    assert_eq!(beyond.result, Err(IoError::OutOfRange));
    bed.roll_back(Point::Snapshot(info.before.name).into());
    bed.check(VOLUME, &large);
    bed.settle();
    bed.audit();
    bed.reopen(Crash::Process);
    bed.check(VOLUME, &large);
}

/// While the archive is away, what is on the device can be gone back to; what is not is refused and
/// nothing changes, and a rolled-back volume is served after a restart without it.
#[test]
fn an_archive_that_is_away_refuses_only_what_it_has() {
    let mut bed = Bed::new(40, 12, Recycling::Archived);
    for _ in 0..900 {
        bed.write();
    }
    let (far, near) = (bed.states[40].0, bed.states[bed.states.len() - 10].0);
    let store = bed.store.clone().expect("an archive");
    store.add(Call::Get, When::Always, DOWN);
    let before = bed.now().clone();
    let error = bed.try_roll_back(lsn_point(far), false).expect_err("it is only in the archive");
    bed.check(VOLUME, &before);
    println!("{error}");
    assert!(bed.pool.snapshots().is_empty(), "nothing has changed");
    let info = bed.roll_back(lsn_point(near));
    assert_eq!(info.done.inherited_blocks, 0, "all of it is in the working set");
    assert_eq!(run(&bed.pool, bed.id(VOLUME), &Request::Flush).result, Ok(()));
    bed.reopen_loading(Crash::Power);
    bed.check(VOLUME, &bed.now().clone());
    store.heal();
    bed.load();
    bed.roll_back(lsn_point(far));
    bed.check(VOLUME, &bed.now().clone());
    bed.settle();
    bed.audit();
}

/// A pool without an archive keeps all of a rolled-back state on its device, or refuses.
#[test]
fn a_pool_without_an_archive_keeps_all_or_refuses() {
    let mut rolled = 0;
    for seed in 50..53 {
        let mut bed = Bed::new(seed, 14, Recycling::Discard);
        for _ in 0..700 {
            bed.write();
        }
        for _ in 0..20 {
            let point = bed.random_point(25);
            match bed.try_roll_back(lsn_point(point), false) {
                Ok(info) => {
                    assert_eq!(info.done.inherited_blocks, 0);
                    rolled += 1;
                }
                Err(VolumeError::NoSpace { .. } | VolumeError::NoSuchPoint { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            bed.check(VOLUME, &bed.now().clone());
            for _ in 0..30 {
                bed.write();
            }
            if bed.rng.one_in(4) {
                assert_eq!(run(&bed.pool, bed.id(VOLUME), &Request::Flush).result, Ok(()));
                bed.settle();
                wait(&bed.pool, Rc::clone(&bed.pool).close()).expect("closed");
                let live = bed.audit();
                bed.reopen(Crash::Process);
                assert_eq!(bed.audit(), live);
                bed.check(VOLUME, &bed.now().clone());
            }
        }
    }
    assert!(rolled > 5, "{rolled}");
}

/// Clones of clones are reset, promoted, renamed and deleted, with restarts between; each always
/// has the contents of its model.
#[test]
fn clones_are_reset_promoted_renamed_and_deleted() {
    for seed in 60..64 {
        let mut bed = Bed::new(seed, 14, Recycling::Archived);
        for _ in 0..200 {
            bed.write();
        }
        // For each its contents, and those it began with.
        let mut clones: BTreeMap<String, (State, State)> = BTreeMap::new();
        let mut made = 0;
        for round in 0..120 {
            let names: Vec<String> = clones.keys().cloned().collect();
            let picked =
                (!names.is_empty()).then(|| names[bed.rng.below(names.len() as u64) as usize].clone());
            match (bed.rng.below(9), picked) {
                (0..2, _) if clones.len() < 5 => {
                    made += 1;
                    let name = format!("c{made}");
                    let lsn = bed.random_point(150);
                    bed.clone(VOLUME, lsn_point(lsn), &name);
                    let state = bed.state_at(lsn).clone();
                    clones.insert(name, (state.clone(), state));
                }
                (2, Some(source)) if clones.len() < 5 => {
                    made += 1;
                    let name = format!("c{made}");
                    let now = lsn_point(bed.pool.stats().newest_point_lsn);
                    bed.clone(&source, now, &name);
                    let state = clones[&source].0.clone();
                    clones.insert(name, (state.clone(), state));
                }
                (3..5, Some(name)) => {
                    let before = bed.pool.find_volume(&name).expect("there");
                    let future = Rc::clone(&bed.pool).reset_clone(name.clone(), None, HostGuard::none());
                    wait(&bed.pool, future).unwrap_or_else(|error| panic!("{before:?}: {error}"));
                    let (state, base) = clones.get_mut(&name).expect("there");
                    *state = base.clone();
                }
                (5, Some(name)) => {
                    let other = format!("{name}r");
                    let future =
                        Rc::clone(&bed.pool).rename_volume(name.clone(), other.clone(), HostGuard::none());
                    wait(&bed.pool, future).expect("renamed");
                    let state = clones.remove(&name).expect("there");
                    clones.insert(other, state);
                }
                (6, Some(name)) if bed.rng.one_in(2) => {
                    wait(&bed.pool, Rc::clone(&bed.pool).delete_volume(name.clone())).expect("deleted");
                    clones.remove(&name);
                }
                (7, Some(name)) => {
                    let state = bed.change(bed.id(&name), &clones[&name].0.clone());
                    clones.get_mut(&name).expect("there").0 = state;
                }
                _ => bed.write(),
            }
            if round % 20 == 19 {
                assert_eq!(run(&bed.pool, bed.id(VOLUME), &Request::Flush).result, Ok(()));
                bed.reopen(Crash::Power);
            }
            bed.check(VOLUME, &bed.now().clone());
            for (name, (state, _)) in &clones {
                bed.check(name, state);
            }
            bed.audit_when_counted();
        }
    }
}

impl Bed {
    fn audit_when_counted(&self) {
        for _ in 0..200 {
            turn(&self.pool);
        }
        self.audit();
    }
}

/// A clone that is reset again and again without being written leaves nothing in the catalog: its
/// image stays the same.
#[test]
fn a_clone_that_was_never_written_leaves_nothing_behind() {
    let mut bed = Bed::new(70, 12, Recycling::Archived);
    for _ in 0..100 {
        bed.write();
    }
    let first = bed.states[10].0;
    let image = bed.clone(VOLUME, lsn_point(first), "c").volume.image;
    for _ in 0..50 {
        let point = bed.random_point(90);
        let future =
            Rc::clone(&bed.pool).reset_clone("c".to_owned(), Some(lsn_point(point)), HostGuard::none());
        let info = wait(&bed.pool, future).expect("reset");
        assert_eq!(info.image, image);
        bed.check("c", &bed.state_at(point).clone());
    }
    // A clone of it does not depend on it.
    let point = bed.random_point(90);
    let reset = |bed: &Bed, point| {
        let future =
            Rc::clone(&bed.pool).reset_clone("c".to_owned(), Some(lsn_point(point)), HostGuard::none());
        wait(&bed.pool, future).expect("reset")
    };
    reset(&bed, point);
    let now = lsn_point(bed.pool.stats().newest_point_lsn);
    bed.clone("c", now, "d");
    reset(&bed, first);
    bed.reopen(Crash::Process);
    bed.check("d", &bed.state_at(point).clone());
    bed.check("c", &bed.state_at(first).clone());
    // Once it was written, the next reset is another image.
    let state = bed.state_at(first).clone();
    bed.change(bed.id("c"), &state);
    assert_ne!(reset(&bed, first).image, image);
    bed.check("c", &state);
}

/// A clone of a point after which only the size of its origin changed is reset to the size of the
/// point.
#[test]
fn a_reset_gives_the_size_of_a_point_after_which_only_the_size_changed() {
    let mut bed = Bed::new(89, 12, Recycling::Archived);
    for _ in 0..30 {
        bed.write();
    }
    let (point, state) = bed.states[30].clone();
    let size_bytes = (state.size_blocks + 33) * BLOCK_BYTES as u64;
    wait(&bed.pool, Rc::clone(&bed.pool).resize_volume(VOLUME.to_owned(), size_bytes)).expect("room");
    bed.clone(VOLUME, lsn_point(point), "c");
    bed.check("c", &state);
    for crash in [Crash::Process, Crash::Power] {
        bed.reopen(crash);
        bed.change(bed.id("c"), &state);
        bed.reset("c");
        bed.check("c", &state);
    }
}

/// The same wherever the log is when the clone is made: its parent's point is then the present, and
/// need not be the end of a command. Copies may be the newest entries.
#[test]
fn a_reset_gives_the_first_size_whatever_was_appended_last() {
    let mut bed = Bed::new(91, 12, Recycling::Archived);
    bed.create("other");
    let mut other = bed.states[0].1.clone();
    for _ in 0..30 {
        bed.write();
    }
    let (point, state) = bed.states[30].clone();
    let size_bytes = (state.size_blocks + 33) * BLOCK_BYTES as u64;
    wait(&bed.pool, Rc::clone(&bed.pool).resize_volume(VOLUME.to_owned(), size_bytes)).expect("room");
    let mut inside = 0;
    for _ in 0..400 {
        other = bed.change(bed.id("other"), &other);
        (0..bed.rng.below(4)).for_each(|_| turn(&bed.pool));
        bed.clone(VOLUME, lsn_point(point), "c");
        let parent = bed.pool.find_volume("c").and_then(|clone| clone.parent).expect("it inherits");
        let resolved = wait(&bed.pool, Rc::clone(&bed.pool).resolve(lsn_point(parent.lsn)));
        inside += u64::from(resolved.expect("it is kept").lsn != parent.lsn);
        bed.reset("c");
        bed.check("c", &state);
        wait(&bed.pool, Rc::clone(&bed.pool).delete_volume("c".to_owned())).expect("it is deleted");
    }
    assert!(inside > 0, "no clone was made behind a copy");
}

impl Bed {
    /// The newest segment, and whether the log goes on in it.
    fn newest_segment(&self) -> (u64, bool) {
        let segments = self.pool.segments();
        let newest = segments
            .iter()
            .filter_map(|segment| Some((segment.sequence?, segment)))
            .max_by_key(|found| found.0);
        newest
            .map(|(sequence, segment)| (sequence, segment.state == SegmentState::Current))
            .expect("a segment")
    }

    /// Opens the pool after a power cut: the volume has one of the states from `flushed` on.
    fn cut_power(&mut self, flushed: usize) {
        self.reopen(Crash::Power);
        let found = contents(&self.pool);
        let place = self.states[flushed..].iter().position(|(_, state)| *state == found);
        self.states.truncate(flushed + place.expect("a prefix of the writes") + 1);
    }
}

/// A pool whose newest segment is full takes writes after a power cut that lost the next one, also
/// if the oldest holds blocks of a roll-back: nothing can be copied out of it before another
/// segment is opened.
#[test]
fn a_full_working_set_with_a_rolled_back_volume_takes_writes_after_a_power_cut() {
    let (mut full, mut tried) = (0, 0);
    for seed in 0..8 {
        let mut bed = Bed::new(90 + seed, 16, Recycling::Archived);
        wait(&bed.pool, Rc::clone(&bed.pool).set_working_set(3)).expect("slots for it");
        for _ in 0..900 {
            bed.write();
        }
        assert_eq!(bed.pool.info().working_set_segments, 3, "it is in force");
        for _ in 0..60 {
            let point = bed.random_point(30);
            bed.roll_back(lsn_point(point));
            bed.settle();
            assert_eq!(run(&bed.pool, bed.id(VOLUME), &Request::Flush).result, Ok(()));
            let (newest, flushed) = (bed.newest_segment().0, bed.states.len() - 1);
            for _ in 0..400 {
                bed.write();
                if bed.newest_segment().0 > newest {
                    break;
                }
            }
            // The trailer of the full segment is written, the next header not yet stable.
            for _ in 0..bed.rng.below(3) {
                turn(&bed.pool);
            }
            bed.cut_power(flushed);
            let (newest, goes_on) = bed.newest_segment();
            let segments = bed.pool.segments();
            let oldest = segments.iter().find(|segment| segment.sequence == Some(newest - 2));
            full += u32::from(!goes_on && oldest.is_some_and(|oldest| oldest.live_blocks > 0));
            tried += 1;
            bed.write();
            bed.check(VOLUME, &bed.now().clone());
            bed.settle();
            bed.audit();
        }
    }
    println!("{full} of {tried}");
    assert!(full > 2, "{full} of {tried} cuts left a full segment, and live blocks in the oldest");
}

/// A working set that was made longer does not reach back to segments that had left the shorter
/// one: a roll-back to what is there leaves it inherited, so that a restart and later points find
/// it.
#[test]
fn a_longer_working_set_reaches_back_to_nothing_that_had_left_it() {
    let mut inherited = 0;
    for seed in 0..6 {
        let mut bed = Bed::new(76 + seed, 16, Recycling::Archived);
        let set = |bed: &Bed, segments: u64| {
            wait(&bed.pool, Rc::clone(&bed.pool).set_working_set(segments)).expect("slots for it");
        };
        set(&bed, 2);
        for _ in 0..700 {
            bed.write();
        }
        assert_eq!(bed.pool.info().working_set_segments, 2, "it is in force");
        set(&bed, 10);
        assert_eq!(bed.pool.info().working_set_segments, 10);
        // Far enough for blocks that left the shorter one, near enough for them to be on the
        // device.
        let point = bed.states[bed.states.len() - 200 - 20 * seed as usize].0;
        let info = bed.roll_back(lsn_point(point));
        inherited += info.done.inherited_blocks;
        bed.check(VOLUME, &bed.now().clone());
        if seed % 2 == 0 {
            bed.settle();
        }
        for crash in [Crash::Power, Crash::Process] {
            bed.write();
            assert_eq!(run(&bed.pool, bed.id(VOLUME), &Request::Flush).result, Ok(()));
            let (now, at) = (bed.now().clone(), bed.pool.stats().newest_point_lsn);
            let name = format!("clone-{}", bed.states.len());
            bed.reopen(crash);
            bed.check(VOLUME, &now);
            let clone =
                Rc::clone(&bed.pool).clone_volume(VOLUME.to_owned(), lsn_point(at), name.clone(), true);
            wait(&bed.pool, clone).expect("a clone");
            bed.check(&name, &now);
        }
        bed.settle();
        bed.audit();
    }
    assert!(inherited > 0, "some blocks had left");
}

/// A clone of a clone that was never written begins with the size that this one had, and a reset
/// takes it back to that, not to the size of the volume that both inherit from.
#[test]
fn a_reset_gives_the_size_of_the_point_too() {
    let mut bed = Bed::new(75, 12, Recycling::Archived);
    for _ in 0..30 {
        bed.write();
    }
    bed.clone(VOLUME, lsn_point(bed.states[20].0), "c");
    let large = State { size_blocks: VOLUME_BLOCKS + 70, ..bed.states[20].1.clone() };
    let size_bytes = large.size_blocks * BLOCK_BYTES as u64;
    wait(&bed.pool, Rc::clone(&bed.pool).resize_volume("c".to_owned(), size_bytes)).expect("room");
    let point = bed.pool.stats().newest_point_lsn;
    bed.clone("c", lsn_point(point), "d");
    bed.check("d", &large);
    for crash in [None, Some(Crash::Process)] {
        if let Some(crash) = crash {
            bed.reopen(crash);
        }
        bed.change(bed.id("d"), &large);
        bed.reset("d");
        bed.check("d", &large);
    }
}

/// A clone that grew without being written, and was rolled back to a point of its own after that,
/// is reset to the size with which it began. So is a clone of it.
#[test]
fn a_reset_gives_the_first_size_after_a_roll_back_too() {
    let mut bed = Bed::new(77, 12, Recycling::Archived);
    for _ in 0..30 {
        bed.write();
    }
    let (first, state) = bed.states[20].clone();
    let blocks = |size_blocks: u64| State { size_blocks, ..state.clone() };
    let mut origin = (VOLUME.to_owned(), lsn_point(first), state.size_blocks);
    for name in ["c", "d", "e"] {
        let (source, point, size_blocks) = origin;
        bed.clone(&source, point, name);
        let large = size_blocks + 70;
        let grow = Rc::clone(&bed.pool).resize_volume(name.to_owned(), large * BLOCK_BYTES as u64);
        wait(&bed.pool, grow).expect("room");
        let grown = bed.pool.stats().newest_point_lsn;
        let check_reset = |bed: &Bed| {
            bed.reset(name);
            bed.check(name, &blocks(size_blocks));
        };
        check_reset(&bed);
        let roll_back = Rc::clone(&bed.pool).roll_back(name.to_owned(), lsn_point(grown), false);
        wait(&bed.pool, roll_back).expect("rolled back");
        bed.check(name, &blocks(large));
        bed.reopen(Crash::Process);
        check_reset(&bed);
        let roll_back = Rc::clone(&bed.pool).roll_back(name.to_owned(), lsn_point(grown), false);
        wait(&bed.pool, roll_back).expect("rolled back");
        let now = lsn_point(bed.pool.stats().newest_point_lsn);
        origin = (name.to_owned(), now, large);
    }
}

/// What cannot be done is refused, and nothing changes.
#[test]
fn what_cannot_be_done_is_refused_and_nothing_changes() {
    let mut bed = Bed::new(80, 12, Recycling::Archived);
    let beginning = bed.states[0].0 - 1;
    for _ in 0..10 {
        bed.write();
    }
    let head = bed.pool.stats().head_lsn;
    let roll_back = |bed: &Bed, name: &str, point| {
        let future = Rc::clone(&bed.pool).roll_back(name.to_owned(), point, false);
        wait(&bed.pool, future).expect_err("refused").to_string()
    };
    let text = roll_back(&bed, VOLUME, lsn_point(beginning));
    assert!(text.contains("did not exist then; it was made at time:"), "{text}");
    assert!(roll_back(&bed, "nobody", lsn_point(5)).contains("no volume 'nobody'"));
    assert!(roll_back(&bed, VOLUME, lsn_point(head + 100)).contains("the log ends at"));
    let reset = |bed: &Bed, name: &str| {
        wait(&bed.pool, Rc::clone(&bed.pool).reset_clone(name.to_owned(), None, HostGuard::none()))
            .expect_err("refused")
            .to_string()
    };
    assert!(reset(&bed, VOLUME).contains("is not a clone"));
    let rename = |bed: &Bed, name: &str, to: &str| {
        let future = Rc::clone(&bed.pool).rename_volume(name.to_owned(), to.to_owned(), HostGuard::none());
        wait(&bed.pool, future).expect_err("refused").to_string()
    };
    bed.create("other");
    assert!(rename(&bed, VOLUME, "other").contains("exists already"));
    assert!(rename(&bed, VOLUME, "a b").contains("letters"));
    assert!(rename(&bed, "nobody", "b").contains("no volume"));
    let promote = Rc::clone(&bed.pool).promote_clone(VOLUME.to_owned(), HostGuard::none());
    assert!(wait(&bed.pool, promote).expect_err("refused").to_string().contains("is not a clone"));
    bed.check(VOLUME, &bed.now().clone());
    assert!(bed.pool.snapshots().is_empty());
}

/// A promoted clone and its origin swap their names; a snapshot or a point still finds both by
/// what they are.
#[test]
fn a_promoted_clone_swaps_names_with_its_origin() {
    let mut bed = Bed::new(90, 12, Recycling::Archived);
    for _ in 0..60 {
        bed.write();
    }
    let point = bed.states[20].0;
    let (origin, then) = (bed.now().clone(), bed.state_at(point).clone());
    let future =
        Rc::clone(&bed.pool).clone_volume(VOLUME.to_owned(), lsn_point(point), "c".to_owned(), false);
    wait(&bed.pool, future).expect("a clone");
    let uuids = ["c", VOLUME].map(|name| bed.pool.find_volume(name).expect("there").uuid);
    wait(&bed.pool, Rc::clone(&bed.pool).promote_clone("c".to_owned(), HostGuard::none())).expect("promoted");
    for crash in [None, Some(Crash::Power)] {
        if let Some(crash) = crash {
            bed.reopen(crash);
        }
        bed.check(VOLUME, &then);
        bed.check("c", &origin);
        assert_eq!([VOLUME, "c"].map(|name| bed.pool.find_volume(name).expect("there").uuid), uuids);
    }
    // The volume that was the origin goes back by what it is, not by its name.
    let future = Rc::clone(&bed.pool).roll_back("c".to_owned(), lsn_point(point), false);
    wait(&bed.pool, future).expect("rolled back");
    bed.check("c", &then);
    // Its clone can be deleted, and goes on without it.
    wait(&bed.pool, Rc::clone(&bed.pool).delete_volume("c".to_owned())).expect("deleted");
    bed.check(VOLUME, &then);
    bed.reopen(Crash::Power);
    bed.check(VOLUME, &then);
}
