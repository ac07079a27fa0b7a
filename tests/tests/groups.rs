//! Groups: a writer that writes to the next of four volumes only after the acknowledgement of the
//! last; the four are a prefix of its writes at every cut, whether that is a crash, a point of the
//! past, a step of a session or a roll-back. A crash leaves every verb done for all volumes or for
//! none. Wrong uses are refused.

use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;
use varve::dma::BLOCK_BYTES;
use varve::log::{Recycling, SegmentSeq};
use varve::volume::{
    CreateVolume, HostGuard, NamedPoint, OpenSession, Point, Pool, PoolOptions, Request, SessionInfo, Sink,
    StepTo, Submitted, SynchFilter, Verdict, VolumeError, VolumeId,
};
use varve_tests::sim::disk::{Crash, SimDisk};
use varve_tests::sim::model::{fill, is_filled};
use varve_tests::sim::rng::Rng;
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::world::{World, begin, forget_background, run, turn, turn_alone, wait};

const MEMBERS: [&str; 4] = ["a", "b", "c", "d"];
const GROUP: &str = "shop";
const SESSION: &str = "search";
const SEGMENT_BLOCKS: u64 = 256;
const VOLUME_BLOCKS: u64 = 512;
/// The longest read, in blocks.
const READ_BLOCKS: u64 = 128;
/// How long the writer waits for an acknowledgement on a disk that may have died.
const PATIENCE_TURNS: u32 = 3000;

fn lsn_point(lsn: u64) -> NamedPoint {
    Point::Lsn(lsn).into()
}

/// The names of what was made from the members under a name.
fn named(name: &str) -> Vec<String> {
    MEMBERS.iter().map(|member| format!("{name}-{member}")).collect()
}

fn members() -> Vec<String> {
    MEMBERS.iter().map(ToString::to_string).collect()
}

/// Four volumes, their group, and a writer of numbered writes: the n-th goes to volume n modulo 4,
/// each to a block of its own.
struct Bed {
    world: World,
    disk: SimDisk,
    pool: Rc<Pool>,
    rng: Rng,
    /// How many writes the volumes have.
    count: u64,
    /// Of these, how many are stable.
    flushed: u64,
    /// Positions, each with how many writes the volumes have there.
    points: Vec<(u64, u64)>,
}

impl Bed {
    fn new(seed: u64) -> Self {
        forget_background();
        let mut world = World::new(seed);
        world.options = PoolOptions { recycling: Recycling::Archived, ..PoolOptions::default() };
        world.store = Some(Arc::new(MemoryStore::default()));
        let disk = SimDisk::new(257 + 14 * SEGMENT_BLOCKS, true, seed);
        let pool = world.create(disk.open(), SEGMENT_BLOCKS).expect("a pool");
        world.attach(&pool, &disk);
        let bed = Bed { world, disk, pool, rng: Rng::new(seed), count: 0, flushed: 0, points: Vec::new() };
        for name in MEMBERS {
            bed.create(name);
        }
        wait(&bed.pool, Rc::clone(&bed.pool).create_group(GROUP.to_owned(), members())).expect("made");
        bed
    }

    fn create(&self, name: &str) {
        let size_bytes = VOLUME_BLOCKS * BLOCK_BYTES as u64;
        let request = CreateVolume { name: name.to_owned(), size_bytes, uuid: None, thin: true };
        wait(&self.pool, Rc::clone(&self.pool).create_volume(request)).expect("room");
    }

    fn id(&self, name: &str) -> VolumeId {
        self.pool.find_volume(name).unwrap_or_else(|| panic!("volume {name}")).id
    }

    fn note(&mut self) {
        self.points.push((self.pool.stats().newest_point_lsn, self.count));
    }

    /// Gives the next write. Returns whether it was acknowledged.
    fn write(&mut self) -> bool {
        self.world.clock.advance(1_000_000);
        let (member, block) = (MEMBERS[(self.count % 4) as usize], self.count / 4);
        let mut data = vec![0; BLOCK_BYTES];
        fill(self.count + 1, block, &mut data);
        let force_unit_access = self.rng.one_in(9);
        let request = Request::Write { block, data: &[&data], force_unit_access };
        let (id, sink) = (self.id(member), Sink::new());
        for _ in 0..PATIENCE_TURNS {
            if self.pool.submit(id, &request, 0, &sink) == Submitted::Queued {
                break;
            }
            turn(&self.pool);
        }
        for _ in 0..PATIENCE_TURNS {
            if let Some(done) = sink.pop() {
                if done.result != Ok(()) {
                    return false;
                }
                self.count += 1;
                self.note();
                if force_unit_access {
                    self.flushed = self.count;
                }
                return true;
            }
            turn(&self.pool);
        }
        false
    }

    fn writes(&mut self, count: u64) {
        for _ in 0..count {
            assert!(self.write(), "nothing keeps it from writing");
        }
    }

    fn flush(&mut self) {
        for name in MEMBERS {
            assert_eq!(run(&self.pool, self.id(name), &Request::Flush).result, Ok(()));
        }
        self.flushed = self.count;
    }

    fn idle(&self, turns: usize) {
        for _ in 0..turns {
            self.world.clock.advance(100_000);
            turn_alone(&self.pool);
        }
    }

    /// Crashes the pool and opens it again.
    fn reopen(&mut self, crash: Crash) {
        self.world.crash(&mut self.pool, &self.disk, crash).expect("it opens");
        self.world.attach(&self.pool, &self.disk);
        wait(&self.pool, Rc::clone(&self.pool).load_archived_synchs(SegmentSeq(0))).expect("read");
        wait(&self.pool, Rc::clone(&self.pool).load_inherited());
    }

    /// How many writes some volumes have; they are the first ones, whole.
    fn prefix(&self, names: &[String]) -> u64 {
        let mut there = vec![false; (VOLUME_BLOCKS * 4) as usize];
        for (member, name) in names.iter().enumerate() {
            let (id, mut block) = (self.id(name), 0);
            while block < VOLUME_BLOCKS {
                let read = run(&self.pool, id, &Request::Read { block, len_blocks: READ_BLOCKS as u32 });
                assert_eq!(read.result, Ok(()), "{name}: {:?}", self.pool.info().problems);
                for bytes in read.data.iter().flat_map(|piece| piece.chunks_exact(BLOCK_BYTES)) {
                    let number = block * 4 + member as u64;
                    let is_there = is_filled(number + 1, block, bytes);
                    assert!(is_there || is_filled(0, block, bytes), "{name}, block {block}");
                    there[number as usize] = is_there;
                    block += 1;
                }
            }
        }
        let count = there.iter().take_while(|is_there| **is_there).count();
        assert!(!there[count..].contains(&true), "a write is there without write {count} before it");
        count as u64
    }

    fn point(&mut self) -> (u64, u64) {
        self.points[self.rng.below(self.points.len() as u64) as usize]
    }

    fn open(&self, lsn: u64) -> Result<SessionInfo, VolumeError> {
        let (volume, name) = (GROUP.to_owned(), SESSION.to_owned());
        let request = OpenSession { volume, at: lsn_point(lsn), name, read_only: false };
        wait(&self.pool, Rc::clone(&self.pool).open_session(request)).map(|(session, _)| session)
    }

    fn step(&self, to: StepTo) -> u64 {
        let step = Rc::clone(&self.pool).step_session(SESSION.to_owned(), to, false, HostGuard::none());
        let step = wait(&self.pool, step).expect("moved");
        assert!(step.changed.len() <= MEMBERS.len());
        step.session.at.lsn
    }

    fn roll_back(&mut self, lsn: u64, count: u64) {
        let pool = Rc::clone(&self.pool);
        let done = wait(
            &pool,
            Rc::clone(&pool).roll_back_members(GROUP.to_owned(), lsn_point(lsn), false, HostGuard::none()),
        );
        let done = done.expect("rolled back");
        assert_eq!((done.group.as_deref(), done.volumes.len()), (Some(GROUP), MEMBERS.len()));
        assert_eq!(self.prefix(&members()), count);
        self.count = count;
        self.flushed = count;
    }

    fn delete_all(&self, names: &[String]) {
        for name in names {
            wait(&self.pool, Rc::clone(&self.pool).delete_volume(name.clone())).expect("deleted");
        }
    }
}

/// Whatever cuts the log, the four volumes are a prefix of the writes.
#[test]
fn dependent_writes_over_four_volumes_are_a_prefix_at_every_cut() {
    let (mut lost, mut cut_short) = (0, 0);
    for seed in 0..6 {
        let mut bed = Bed::new(seed);
        for round in 0..8 {
            let dies_after = bed.rng.below(60);
            let many = 20 + bed.rng.below(60);
            bed.writes(many);
            if round % 2 == 0 {
                // The device dies somewhere under the writer.
                bed.disk.die_after_writes(Some(bed.disk.writes() + dies_after));
                while bed.count < 1600 && bed.write() {}
                cut_short += usize::from(bed.disk.is_dead());
            }
            let crash = if bed.rng.one_in(2) { Crash::Power } else { Crash::Process };
            let at_least = if crash == Crash::Power { bed.flushed } else { bed.count };
            bed.reopen(crash);
            let count = bed.prefix(&members());
            assert!(count >= at_least && count <= bed.count + 1, "seed {seed}: {count} of {}", bed.count);
            lost += bed.count.saturating_sub(count);
            bed.count = count;
            bed.flushed = bed.flushed.min(count);
            while bed.points.last().is_some_and(|(_, known)| *known > count) {
                bed.points.pop();
            }
        }
        bed.flush();
        bed.idle(2000);
        for round in 0..12 {
            let (lsn, count) = bed.point();
            let pool = Rc::clone(&bed.pool);
            let clone =
                Rc::clone(&pool).clone_group(GROUP.to_owned(), lsn_point(lsn), "then".to_owned(), true);
            let clone = wait(&pool, clone).expect("opened");
            assert_eq!((clone.group.volumes.len(), clone.clones.len()), (4, 4));
            assert_eq!(bed.prefix(&named("then")), count, "seed {seed}, lsn:{lsn}");
            wait(&pool, Rc::clone(&pool).delete_group("then".to_owned())).expect("deleted");
            bed.delete_all(&named("then"));
            if round % 4 == 3 {
                bed.roll_back(lsn, count);
                bed.writes(9);
                bed.flush();
            }
        }
    }
    println!("{lost} writes were lost with the power, {cut_short} writers were cut short");
    assert!(lost > 0 && cut_short > 5, "{lost} {cut_short}");
}

/// A session of a group stands at one position with all clones: over each write, back and forth, to
/// points, and after restarts.
#[test]
fn a_session_of_a_group_stands_at_one_position() {
    let mut bed = Bed::new(21);
    bed.writes(700);
    bed.flush();
    bed.idle(2000);
    let (lsn, count) = bed.points[400];
    let session = bed.open(lsn).expect("opened");
    assert_eq!((session.group.as_deref(), session.members.len()), (Some(GROUP), 4));
    assert_eq!(bed.prefix(&named(SESSION)), count);
    let mut at = count;
    for round in 0..40 {
        let by = [1, -1, 3, -2, 50, -80][bed.rng.below(6) as usize];
        if at as i64 + by < 1 || at as i64 + by > 700 {
            continue;
        }
        at = at.saturating_add_signed(by);
        assert_eq!(bed.step(StepTo::Commands(by)), bed.points[at as usize - 1].0, "round {round}");
        assert_eq!(bed.prefix(&named(SESSION)), at, "round {round}");
        if round % 9 == 8 {
            bed.reopen(if round % 2 == 0 { Crash::Power } else { Crash::Process });
            assert_eq!(bed.prefix(&named(SESSION)), at);
        }
    }
    let refused = wait(&bed.pool, Rc::clone(&bed.pool).delete_volume(format!("{SESSION}-b")));
    assert!(refused.expect_err("it is one of four").to_string().contains("varve restore abort"));
    // The write that is to be found is the 333rd.
    let culprit = 333;
    let judge = |bed: &Bed, verdict, lsn: Option<u64>| {
        let name = SESSION.to_owned();
        let judged = Rc::clone(&bed.pool).judge_session(name, verdict, lsn.map(lsn_point));
        wait(&bed.pool, judged).expect("judged");
    };
    judge(&bed, Verdict::Good, Some(bed.points[0].0));
    judge(&bed, Verdict::Bad, Some(bed.points[699].0));
    let mut looks = 0;
    let found = loop {
        let info = wait(
            &bed.pool,
            Rc::clone(&bed.pool).bisect_session(SESSION.to_owned(), false, HostGuard::none()),
        );
        let info = info.expect("bisected");
        if info.step.is_none() {
            break info.found.expect("found");
        }
        looks += 1;
        let is_good = bed.prefix(&named(SESSION)) < culprit;
        judge(&bed, if is_good { Verdict::Good } else { Verdict::Bad }, None);
    };
    assert_eq!(found.at.lsn, bed.points[culprit as usize - 1].0);
    assert_eq!((found.volume.as_str(), found.blocks), ("a", vec![(332 / 4, 1)]));
    assert!(looks <= 10, "{looks} looks");
    // The group goes back to just before it, and the clones go.
    bed.step(StepTo::Point(lsn_point(bed.points[culprit as usize - 2].0)));
    let done = Rc::clone(&bed.pool).roll_back_session(SESSION.to_owned(), false, false, HostGuard::none());
    let done = wait(&bed.pool, done).expect("rolled back");
    assert_eq!((done.volumes.len(), bed.prefix(&members())), (4, culprit - 1));
    assert!(named(SESSION).iter().all(|name| bed.pool.find_volume(name).is_none()));
    let before = Point::Snapshot(done.before.name);
    wait(
        &bed.pool,
        Rc::clone(&bed.pool).roll_back_members(GROUP.to_owned(), before, false, HostGuard::none()),
    )
    .expect("undone");
    assert_eq!(bed.prefix(&members()), 700);
}

/// Whether all of some volumes are there; if only some are, it fails.
fn all_or_none(pool: &Pool, names: &[String], context: &str) -> bool {
    let there = names.iter().filter(|name| pool.find_volume(name).is_some()).count();
    assert!(there == 0 || there == names.len(), "{context}: {there} of {names:?}");
    there > 0
}

impl Bed {
    /// Begins a verb, lets it run for some turns, crashes the pool and opens it again.
    fn cut<F: Future>(&mut self, verb: impl FnOnce(Rc<Pool>) -> F, (turns, crash): (u64, Crash)) {
        let pool = Rc::clone(&self.pool);
        begin(&pool, verb(Rc::clone(&pool)), turns, || ());
        drop(pool);
        self.reopen(crash);
    }

    /// The names of the group's volumes, if it is there under a name.
    fn volumes_of(&self, group: &str) -> Option<Vec<String>> {
        let groups = self.pool.groups(Some(group)).ok()?;
        Some(groups.into_iter().flat_map(|group| group.volumes).map(|volume| volume.name).collect())
    }
}

/// Wherever a crash comes, a verb was done for all volumes of the group, or for none.
#[test]
fn a_crash_leaves_each_verb_done_for_all_volumes_or_for_none() {
    let mut done = [0_usize; 6];
    for turns in (0..36).map(|turns| turns * 4) {
        let mut bed = Bed::new(100 + turns);
        bed.writes(320);
        bed.flush();
        let crash = (turns, if turns % 8 == 0 { Crash::Power } else { Crash::Process });
        let context = format!("turns {turns}");
        let (first, second) = (bed.points[200], bed.points[77]);
        let text = |text: &str| text.to_owned();

        bed.cut(|pool| pool.create_group(text("two"), vec![text("a"), text("b")]), crash);
        let groups = bed.pool.groups(None).expect("listed");
        let two = groups.iter().find(|group| group.name == "two");
        assert!(two.is_none_or(|group| group.volumes.len() == 2), "{context}: {two:?}");
        done[0] += usize::from(two.is_some());

        bed.cut(|pool| pool.clone_group(text(GROUP), lsn_point(first.0), text("then"), false), crash);
        let is_there = all_or_none(&bed.pool, &named("then"), &context);
        assert_eq!(bed.pool.is_group("then"), is_there, "{context}");
        if is_there {
            assert_eq!(bed.prefix(&named("then")), first.1, "{context}");
        }
        done[1] += usize::from(is_there);

        let (volume, name) = (text(GROUP), text(SESSION));
        let request = OpenSession { volume, at: lsn_point(first.0), name, read_only: false };
        bed.cut(|pool| pool.open_session(request), crash);
        let is_there = all_or_none(&bed.pool, &named(SESSION), &context);
        assert_eq!(!bed.pool.sessions(None).expect("listed").is_empty(), is_there, "{context}");
        if !is_there {
            bed.open(first.0).expect("opened");
        }

        let to = StepTo::Point(lsn_point(second.0));
        bed.cut(|pool| pool.step_session(text(SESSION), to, false, HostGuard::none()), crash);
        let at = bed.pool.sessions(Some(SESSION)).expect("it is there").remove(0).at.lsn;
        let expected = if at == second.0 { second } else { first };
        assert_eq!((at, bed.prefix(&named(SESSION))), expected, "{context}");
        done[2] += usize::from(at == second.0);

        bed.cut(|pool| pool.keep_session(text(SESSION), text("kept"), HostGuard::none()), crash);
        let is_kept = all_or_none(&bed.pool, &named("kept"), &context);
        assert_eq!(all_or_none(&bed.pool, &named(SESSION), &context), !is_kept, "{context}");
        assert_eq!(
            (bed.pool.is_group("kept"), bed.pool.sessions(Some(SESSION)).is_err()),
            (is_kept, is_kept)
        );
        assert_eq!(bed.prefix(&named(if is_kept { "kept" } else { SESSION })), expected.1, "{context}");
        done[3] += usize::from(is_kept);

        bed.cut(
            |pool| pool.roll_back_members(text(GROUP), lsn_point(second.0), false, HostGuard::none()),
            crash,
        );
        let count = bed.prefix(&members());
        let is_back = !bed.pool.snapshots().is_empty();
        assert_eq!(count, if is_back { second.1 } else { 320 }, "{context}");
        done[4] += usize::from(is_back);

        bed.cut(|pool| pool.delete_volume(text("d")), crash);
        let is_gone = bed.pool.find_volume("d").is_none();
        let left = bed.pool.groups(Some(GROUP)).expect("it is there").remove(0).volumes.len();
        assert_eq!(left, if is_gone { 3 } else { 4 }, "{context}");
        done[5] += usize::from(is_gone);
    }
    println!("done: {done:?} of 36");
    assert!(done.iter().all(|&done| done > 3), "{done:?}");
}

/// Wherever a crash comes, a group was changed, renamed or deleted, or is as it was.
#[test]
fn a_crash_leaves_each_change_of_a_group_done_or_not() {
    let mut done = [0_usize; 4];
    for turns in (0..36).map(|turns| turns * 4) {
        let mut bed = Bed::new(200 + turns);
        let at = (turns, if turns % 8 == 0 { Crash::Power } else { Crash::Process });
        let text = |text: &str| text.to_owned();
        let (all, three) = (members(), members()[..3].to_vec());

        bed.cut(|pool| pool.remove_from_group(text(GROUP), vec![text("d")]), at);
        let volumes = bed.volumes_of(GROUP).expect("it is there");
        assert!(volumes == all || volumes == three, "turns {turns}: {volumes:?}");
        done[0] += usize::from(volumes == three);
        if volumes == all {
            let removed = Rc::clone(&bed.pool).remove_from_group(text(GROUP), vec![text("d")]);
            wait(&bed.pool, removed).expect("removed");
        }

        bed.cut(|pool| pool.add_to_group(text(GROUP), vec![text("d")]), at);
        let volumes = bed.volumes_of(GROUP).expect("it is there");
        assert!(volumes == all || volumes == three, "turns {turns}: {volumes:?}");
        done[1] += usize::from(volumes == all);

        bed.cut(|pool| pool.rename_group(text(GROUP), text("other")), at);
        let (old, new) = (bed.volumes_of(GROUP), bed.volumes_of("other"));
        assert!(old.is_some() != new.is_some(), "turns {turns}: {old:?} {new:?}");
        assert_eq!(old.as_ref().or(new.as_ref()), Some(&volumes), "turns {turns}");
        done[2] += usize::from(new.is_some());
        let name = if new.is_some() { "other" } else { GROUP };

        bed.cut(|pool| pool.delete_group(text(name)), at);
        let left = bed.volumes_of(name);
        assert!(left.as_ref().is_none_or(|left| *left == volumes), "turns {turns}: {left:?}");
        assert_eq!(bed.pool.volumes().len(), 4, "turns {turns}: its volumes stay");
        done[3] += usize::from(left.is_none());
    }
    println!("done: {done:?} of 36");
    assert!(done.iter().all(|&done| done > 3 && done < 36), "{done:?}");
}

/// Wherever a crash comes, a session of a group has ended with its clones, and with the roll-back
/// that it led to, or none of these was done.
#[test]
fn a_crash_leaves_the_end_of_a_groups_session_done_or_not() {
    let mut done = [0_usize; 2];
    for turns in (0..36).map(|turns| turns * 4) {
        let mut bed = Bed::new(300 + turns);
        bed.writes(320);
        bed.flush();
        let at = (turns, if turns % 8 == 0 { Crash::Power } else { Crash::Process });
        let (lsn, count) = bed.points[200];
        bed.open(lsn).expect("opened");

        bed.cut(|pool| pool.roll_back_session(SESSION.to_owned(), true, false, HostGuard::none()), at);
        let is_there = all_or_none(&bed.pool, &named(SESSION), &format!("turns {turns}"));
        assert_eq!(bed.pool.sessions(Some(SESSION)).is_ok(), is_there, "turns {turns}");
        assert_eq!(bed.pool.snapshots().is_empty(), is_there, "turns {turns}");
        assert_eq!(bed.prefix(&members()), if is_there { 320 } else { count }, "turns {turns}");
        done[0] += usize::from(!is_there);
        if !is_there {
            bed.open(lsn).expect("opened");
        }

        bed.cut(|pool| pool.abort_session(SESSION.to_owned(), HostGuard::none()), at);
        let is_there = all_or_none(&bed.pool, &named(SESSION), &format!("turns {turns}"));
        assert_eq!(bed.pool.sessions(Some(SESSION)).is_ok(), is_there, "turns {turns}");
        done[1] += usize::from(!is_there);
    }
    println!("done: {done:?} of 36");
    assert!(done.iter().all(|&done| done > 3 && done < 36), "{done:?}");
}

/// A group at a point has the volumes that it had there, and what differs from today is said.
#[test]
fn a_group_at_a_point_has_the_volumes_that_it_had_there() {
    let mut bed = Bed::new(41);
    bed.writes(80);
    bed.flush();
    let (lsn, count) = bed.points[60];
    let pool = Rc::clone(&bed.pool);
    let text = |text: &str| text.to_owned();
    wait(&pool, Rc::clone(&pool).rename_group(text(GROUP), text("store"))).expect("renamed");
    bed.create("e");
    wait(&pool, Rc::clone(&pool).add_to_group(text("store"), vec![text("e")])).expect("added");
    wait(&pool, Rc::clone(&pool).remove_from_group(text("store"), vec![text("a")])).expect("removed");
    let clone = Rc::clone(&pool).clone_group(text("store"), lsn_point(lsn), text("then"), true);
    let clone = wait(&pool, clone).expect("opened");
    let notes = &clone.clones[0].point.notes;
    assert!(notes.iter().any(|note| note.contains("had the volumes a, b, c, d")), "{notes:?}");
    assert_eq!(bed.prefix(&named("then")), count);
    // What was made later, with the volumes of today.
    wait(&pool, Rc::clone(&pool).create_group(text("late"), vec![text("a"), text("b")])).expect("made");
    let late = Rc::clone(&pool).clone_group(text("late"), lsn_point(lsn), text("old"), true);
    let late = wait(&pool, late).expect("opened");
    assert!(late.clones[0].point.notes.iter().any(|note| note.contains("those of today")));
    // The volume that was made later was not there.
    wait(&pool, Rc::clone(&pool).add_to_group(text("late"), vec![text("e")])).expect("added");
    let with_e = Rc::clone(&pool).clone_group(text("late"), lsn_point(lsn), text("no"), true);
    let refused = wait(&pool, with_e).expect_err("it did not exist").to_string();
    assert!(refused.contains("volume 'e' did not exist then"), "{refused}");
    // A volume that is gone is opened, and not rolled back.
    wait(&pool, Rc::clone(&pool).delete_volume(text("b"))).expect("deleted");
    let back = Rc::clone(&pool).roll_back_members(text("store"), lsn_point(lsn), false, HostGuard::none());
    let refused = wait(&pool, back).expect_err("one is deleted").to_string();
    assert!(refused.contains("varve group clone store"), "{refused}");
    let again = Rc::clone(&pool).clone_group(text("store"), lsn_point(lsn), text("again"), true);
    wait(&pool, again).expect("opened");
    assert_eq!(bed.prefix(&named("again")), count);
}

/// Marks, lists and plans know groups.
#[test]
fn marks_lists_and_plans_know_groups() {
    let mut bed = Bed::new(51);
    bed.writes(40);
    let pool = Rc::clone(&bed.pool);
    let text = |text: &str| text.to_owned();
    bed.create("e");
    let mark = |label: &str, of: Option<&str>| {
        let of = of.map(str::to_owned);
        wait(&pool, Rc::clone(&pool).create_synch_of(label.to_owned(), Value::Null, of)).expect("marked")
    };
    let of_group = mark("g", Some(GROUP));
    assert_eq!(of_group.group.as_ref().map(|group| group.name.as_str()), Some(GROUP));
    for (label, of) in [("all", None), ("a", Some("a")), ("e", Some("e"))] {
        mark(label, of);
    }
    let listed = |of: &str| -> Vec<String> {
        let filter = SynchFilter { of: Some(of.to_owned()), ..SynchFilter::default() };
        let wanted = wait(&pool, Rc::clone(&pool).wanted_synchs(filter)).expect("known");
        let table = pool.synchs();
        wanted.of(&table, varve::log::Lsn(0)).map(|synch| synch.label.to_owned()).collect()
    };
    assert_eq!(listed(GROUP), ["g", "all"]);
    assert_eq!(listed("a"), ["g", "all", "a"]);
    assert_eq!(listed("e"), ["all", "e"]);
    drop(pool);
    bed.reopen(Crash::Process);
    let pool = Rc::clone(&bed.pool);
    let known = pool.synchs().infos().into_iter().find(|synch| synch.label == "g").expect("there");
    assert_eq!(known.group, of_group.group);
    // Offsets count the commands of all volumes of the group.
    let (from, to) = (bed.points[20].0, bed.points[25].0);
    let at = format!("lsn:{from}+5").parse::<NamedPoint>().expect("a point");
    let at = wait(&pool, Rc::clone(&pool).resolve_of(at, Some(text(GROUP)))).expect("resolved");
    assert_eq!(at.lsn, to);
    let plans = Rc::clone(&pool).restore_plans(text(GROUP), lsn_point(from), false);
    let (group, plans) = wait(&pool, plans).expect("planned");
    let mapped: u64 = plans.iter().map(|plan| plan.mapped_bytes).sum();
    assert_eq!((group.as_deref(), plans.len(), mapped), (Some(GROUP), 4, 21 * BLOCK_BYTES as u64));
}

/// If there is room for each volume of a group alone, and not for all, none goes back.
#[test]
fn a_group_for_which_there_is_no_room_stays_as_it_is() {
    let mut bed = Bed::new(71);
    bed.writes(400);
    bed.flush();
    let (lsn, count) = bed.points[399];
    for name in MEMBERS {
        let request = Request::Trim { ranges: &[(0, VOLUME_BLOCKS)] };
        assert_eq!(run(&bed.pool, bed.id(name), &request).result, Ok(()));
    }
    let data = vec![1; BLOCK_BYTES];
    let is_full = |bed: &Bed| {
        let stats = bed.pool.stats();
        stats.thin_blocks + 150 >= stats.capacity_blocks
    };
    for name in ["e", "f", "g", "h"] {
        bed.create(name);
        for block in (0..VOLUME_BLOCKS).take_while(|_| !is_full(&bed)) {
            let request = Request::Write { block, data: &[&data], force_unit_access: false };
            assert_eq!(run(&bed.pool, bed.id(name), &request).result, Ok(()));
        }
    }
    assert!(is_full(&bed));
    let pool = Rc::clone(&bed.pool);
    let changed = pool.stats().newest_change_lsn;
    let back = wait(
        &pool,
        Rc::clone(&pool).roll_back_members(GROUP.to_owned(), lsn_point(lsn), false, HostGuard::none()),
    );
    assert!(matches!(back, Err(VolumeError::NoSpace { .. })), "{back:?}");
    assert_eq!((pool.stats().newest_change_lsn, bed.prefix(&members()), count), (changed, 0, 400));
    wait(&pool, Rc::clone(&pool).roll_back("a".to_owned(), lsn_point(lsn), false)).expect("there is room");
}

/// Wrong uses are refused with what to do, and change nothing.
#[test]
fn wrong_uses_are_refused() {
    let mut bed = Bed::new(61);
    bed.writes(8);
    let pool = Rc::clone(&bed.pool);
    let lsn = pool.stats().newest_change_lsn;
    let text = |text: &str| text.to_owned();
    let texts = |list: &[&str]| -> Vec<String> { list.iter().map(ToString::to_string).collect() };
    let says = |error: VolumeError, text: &str| assert!(error.to_string().contains(text), "{error}");
    let create = |name: &str, volumes: &[&str]| {
        wait(&pool, Rc::clone(&pool).create_group(name.to_owned(), texts(volumes))).expect_err("refused")
    };
    says(create("a", &["b"]), "a volume 'a' exists already");
    says(create(GROUP, &["b"]), "a group 'shop' exists already");
    says(create("x y", &["b"]), "letters, digits");
    says(create("x", &["b", "elsewhere"]), "this pool has no volume 'elsewhere'");
    says(create("x", &["b", "b"]), "is in group 'x' already");
    says(create("x", &[GROUP]), "is a group itself");
    let request = CreateVolume { name: text(GROUP), size_bytes: 4096, uuid: None, thin: true };
    says(wait(&pool, Rc::clone(&pool).create_volume(request)).expect_err("taken"), "a group 'shop' exists");
    let renamed = wait(&pool, Rc::clone(&pool).rename_volume(text("a"), text(GROUP), HostGuard::none()));
    says(renamed.expect_err("taken"), "a group 'shop' exists");
    let renamed = wait(&pool, Rc::clone(&pool).rename_group(text(GROUP), text("a")));
    says(renamed.expect_err("taken"), "a volume 'a' exists");
    let removed = wait(&pool, Rc::clone(&pool).remove_from_group(text("nobody"), texts(&["a"])));
    says(removed.expect_err("none"), "varve group list");
    let future = lsn_point(1 << 40);
    let back = wait(&pool, Rc::clone(&pool).roll_back_members(text(GROUP), future, false, HostGuard::none()));
    says(back.expect_err("the future"), "the log ends at");
    let back =
        wait(&pool, Rc::clone(&pool).roll_back_members(text(GROUP), lsn_point(1), false, HostGuard::none()));
    assert!(back.is_err(), "the volumes did not exist");
    let here = lsn_point(bed.points[3].0);
    let clone = Rc::clone(&pool).clone_volume(text(GROUP), here.clone(), text("c2"), false);
    says(wait(&pool, clone).expect_err("a group"), "varve group clone");
    let clone = Rc::clone(&pool).clone_group(text("a"), here.clone(), text("c2"), false);
    says(wait(&pool, clone).expect_err("a volume"), "there is no group 'a'");
    let long = "n".repeat(63);
    let clone = Rc::clone(&pool).clone_group(text(GROUP), here, long, false);
    says(wait(&pool, clone).expect_err("too long"), "letters, digits");
    assert_eq!(pool.stats().newest_change_lsn, lsn, "nothing has changed");
    // A group without volumes is no target.
    wait(&pool, Rc::clone(&pool).remove_from_group(text(GROUP), members())).expect("removed");
    let back =
        wait(&pool, Rc::clone(&pool).roll_back_members(text(GROUP), Point::Now, false, HostGuard::none()));
    says(back.expect_err("it is empty"), "has no volumes");
    wait(&pool, Rc::clone(&pool).delete_group(text(GROUP))).expect("deleted");
    assert!(pool.groups(None).expect("listed").is_empty());
    assert_eq!(bed.prefix(&members()), 8, "the volumes stay");
}
