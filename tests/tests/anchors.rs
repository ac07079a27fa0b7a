//! Anchors: opening a point from a stored index and the entries after it gives what a scan gives,
//! whatever happens to the anchor.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use varve::archive::anchor::{AnchorId, AnchorName};
use varve::archive::catalog::ArchiveCatalog;
use varve::archive::object::ObjectId;
use varve::archive::store::faulty::{Call, Fault, FaultyStore, When};
use varve::archive::store::{Name, Reason, Store, StoreErrorKind};
use varve::manage::{ArchiveManager, Learner, ManageError, Scrubber};
use varve::volume::{AnchorPolicy, CloneInfo, KnownAnchor, Point};
use varve_tests::sim::anchors::{Compared, anchors_in};
use varve_tests::sim::disk::Crash;
use varve_tests::sim::expiry::expire_all;
use varve_tests::sim::past::Past;
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::workload::{Run, Shape};
use varve_tests::sim::world::wait;

const SHAPE: Shape =
    Shape { device_blocks: 257 + 10 * 256, segment_blocks: 256, volatile_cache: true, volume_blocks: 60 };

fn rounds(run: &mut Run, rounds: usize, sum: &mut Compared) {
    for _ in 0..rounds {
        for _ in 0..150 {
            if !run.step() {
                break;
            }
        }
        run.check_anchors(12, sum);
        run.check_points(3);
    }
}

/// Volumes, clones of clones, trims, resizes, roll-backs, hydrations and copies, across restarts
/// and crashes, and after the loss of the primary device.
#[test]
fn an_anchor_and_the_entries_after_it_are_a_scan() {
    let (mut sum, mut recovered) = (Compared::default(), Compared::default());
    for seed in 900..910 {
        let store = Arc::new(MemoryStore::default());
        let anchors = AnchorPolicy::Every(1 + seed % 3);
        let mut run = Run::with_anchors(seed, SHAPE, Arc::clone(&store) as Arc<dyn Store>, anchors);
        rounds(&mut run, 5, &mut sum);
        run.settle();
        run.crash(if seed % 2 == 0 { Crash::Power } else { Crash::Process });
        rounds(&mut run, 4, &mut sum);
        run.lose_primary(seed % 3 != 0);
        rounds(&mut run, 3, &mut recovered);
        run.finish_hydrations();
        rounds(&mut run, 1, &mut recovered);
    }
    println!("{sum:?} {recovered:?}");
    assert!(sum.anchored > 300 && 4 * sum.anchored > sum.positions, "{sum:?}");
    assert!(recovered.anchored > 50, "{recovered:?}");
    assert!(sum.entries.0 < sum.entries.1 * 3 / 4, "{sum:?}");
}

/// A pool of one volume, with anchors in a store in memory, whose past is mostly in the archive.
fn past(seed: u64, store: &Arc<MemoryStore>, commands: usize) -> Past {
    let anchors = AnchorPolicy::Every(2);
    let mut past = Past::with_anchors(seed, 8, 150, Arc::clone(store) as Arc<dyn Store>, anchors);
    for _ in 0..commands / 50 {
        past.step(50);
        past.idle(30);
    }
    past.idle(200);
    past
}

/// Opens a moment as a clone, compares it with the model, and deletes it again.
fn open(past: &mut Past, moment: usize) -> CloneInfo {
    let point = Point::Lsn(past.lsn(moment));
    let opening = Rc::clone(&past.pool).clone_volume("data".to_owned(), point, "probe".to_owned(), true);
    let opened = wait(&past.pool, opening).unwrap_or_else(|error| panic!("moment {moment}: {error}"));
    past.check("probe", moment);
    wait(&past.pool, Rc::clone(&past.pool).delete_volume("probe".to_owned())).expect("it can be deleted");
    opened
}

fn names(store: &MemoryStore) -> Vec<Name> {
    let is_of_anchor = |name: &Name| AnchorName::parse(name.as_str()).is_some();
    store.names().into_iter().filter(is_of_anchor).collect()
}

/// Every anchor is whole: no part is without a head.
fn assert_whole(store: &MemoryStore) {
    for (place, (_, head, parts)) in anchors_in(&store.names()) {
        assert_eq!(head, Some(parts.len() as u32), "{place:?}");
    }
}

#[test]
fn a_point_is_opened_from_the_newest_anchor_before_it_also_after_a_crash() {
    let store = Arc::new(MemoryStore::default());
    let mut past = past(31, &store, 1500);
    let moments: Vec<usize> = (1..6).map(|part| past.len() * part / 6).collect();
    for crash in [None, Some(Crash::Process), Some(Crash::Power)] {
        if let Some(crash) = crash {
            past.crash(crash);
        }
        let status = past.pool.archive_status().expect("an archive");
        let known = anchors_in(&store.names());
        assert_eq!(status.anchors, known.len() as u64);
        let bytes: usize =
            names(&store).iter().filter_map(|name| store.bytes(name)).map(|bytes| bytes.len()).sum();
        assert_eq!(status.anchor_bytes, bytes as u64);
        for &moment in &moments {
            let (opened, lsn) = (open(&mut past, moment), past.lsn(moment));
            let newest = known.keys().map(|&(_, at)| at).filter(|&at| at <= lsn).max();
            assert_eq!(opened.scan.anchor_lsn, newest, "lsn:{lsn} of {known:?}");
            // Two segments to the next round, and what making one took.
            assert!(opened.scan.segments_touched <= 5 && opened.scan.anchor_bytes > 0, "{opened:?}");
        }
    }
    assert_whole(&store);
}

/// Each byte of an anchor's objects, one after the other, and each object missing: points are what
/// they were, and nobody is alarmed.
#[test]
fn a_damaged_or_missing_anchor_costs_only_time() {
    let store = Arc::new(MemoryStore::default());
    let mut past = past(32, &store, 700);
    let moment = past.len() * 3 / 4;
    let before = open(&mut past, moment);
    let at = before.scan.anchor_lsn.expect("an anchor was used");
    let of_anchor = |name: &Name| AnchorName::parse(name.as_str()).is_some_and(|name| name.id().lsn.0 == at);
    let problems = past.pool.info().problems;
    for name in names(&store).into_iter().filter(of_anchor) {
        let whole = store.bytes(&name).expect("it is there");
        let step = (whole.len() / 60).max(1);
        let flipped = (0..whole.len()).step_by(step).chain(0..whole.len().min(128)).map(|at| {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            Some(damaged)
        });
        let cut = [Some(whole[..whole.len() / 2].to_vec()), Some(Vec::new()), None];
        let saved = store.fork();
        for damaged in flipped.chain(cut) {
            store.set_bytes(&name, damaged.clone());
            let opened = open(&mut past, moment);
            let is_other = opened.scan.anchor_lsn.is_none_or(|used| used < at);
            assert!(
                is_other && opened.scan.entries_scanned > before.scan.entries_scanned,
                "{name}: {opened:?}"
            );
            // The store is mended, and the pool is started again: it is used again.
            for name in names(&saved) {
                store.set_bytes(&name, saved.bytes(&name));
            }
            past.crash(Crash::Process);
        }
    }
    assert_eq!(past.pool.info().problems, problems);
    assert_eq!(open(&mut past, moment).scan.anchor_lsn, Some(at));
}

/// The store answers no read of an anchor, or fails now and then while they are made.
#[test]
fn a_store_that_fails_costs_only_time() {
    let memory = Arc::new(MemoryStore::default());
    let store = Arc::new(FaultyStore::new(Arc::clone(&memory) as Arc<dyn Store>, 5));
    let anchors = AnchorPolicy::Every(1);
    let mut past = Past::with_anchors(33, 8, 150, Arc::clone(&store) as Arc<dyn Store>, anchors);
    let busy = || Fault::Error(StoreErrorKind::Unavailable(Reason::Busy("a fault")));
    for call in [Call::PutStart, Call::Write, Call::Commit, Call::Stat, Call::Get, Call::Delete] {
        store.add(call, When::PerMille(20), busy());
    }
    for _ in 0..40 {
        past.step(25);
        past.idle(200);
        for _ in 0..2 {
            let moment = past.rng.below(past.len() as u64) as usize;
            open(&mut past, moment);
        }
    }
    store.heal();
    past.idle(300);
    past.crash(Crash::Process);
    past.idle(300);
    assert_whole(&memory);
    assert!(past.pool.archive_status().expect("an archive").anchors > 3);
}

/// A crash at each moment while anchors are made leaves none in part after the next start.
#[test]
fn a_crash_while_an_anchor_is_made_leaves_nothing_of_it() {
    let store = Arc::new(MemoryStore::default());
    let mut past = past(34, &store, 400);
    for turns in 0..60 {
        past.step(12);
        past.idle(turns);
        // What was acknowledged survives it, so the model still holds.
        past.crash(Crash::Process);
        past.idle(60);
        let moment = past.len() - 1 - past.rng.below(past.len() as u64 / 2) as usize;
        open(&mut past, moment);
    }
    past.crash(Crash::Process);
    past.idle(400);
    assert_whole(&store);
}

/// An anchor of another history of the pool, at the same position and with the same owner, is not
/// used: the record before it is another one.
#[test]
fn an_anchor_of_another_history_is_not_used() {
    let (one, two) = (Arc::new(MemoryStore::default()), Arc::new(MemoryStore::default()));
    let mut mine = past(35, &one, 600);
    let mut other =
        Past::with_anchors(35, 8, 150, Arc::clone(&two) as Arc<dyn Store>, AnchorPolicy::Every(2));
    other.world.clock.advance(12_345);
    for _ in 0..12 {
        other.step(50);
        other.idle(30);
    }
    other.idle(200);
    assert_eq!(mine.pool.info().uuid, other.pool.info().uuid, "the seed gives both the same");
    let known: Vec<u64> = anchors_in(&one.names()).keys().map(|&(_, lsn)| lsn).collect();
    // The anchors of the other one take the place of all.
    for name in names(&one) {
        one.set_bytes(&name, None);
    }
    let mut foreign = 0;
    for name in names(&two) {
        one.set_bytes(&name, two.bytes(&name));
        foreign += 1;
    }
    assert!(known.len() > 2 && foreign > 4);
    mine.crash(Crash::Process);
    for part in 1..8 {
        let moment = mine.len() * part / 8;
        assert_eq!(open(&mut mine, moment).scan.anchor_lsn, None);
    }
}

/// Anchors go with the history that they help to open.
#[test]
fn anchors_expire_with_what_they_open() {
    let store = Arc::new(MemoryStore::default());
    let mut past = past(36, &store, 2000);
    let before = anchors_in(&store.names()).len();
    let now_ns = past.world.environment.clock.wall_ns();
    let shared = Arc::clone(&store) as Arc<dyn Store>;
    let gone = expire_all(&past.pool, &shared, "every-write 1s", now_ns);
    past.idle(200);
    let oldest = past.pool.archive_status().expect("an archive").oldest_segment.expect("some are left");
    let left = anchors_in(&store.names());
    assert!(gone > 4 && !left.is_empty() && left.len() < before, "{gone}: {before} to {}", left.len());
    // What is before the first point that can be opened serves only the next few.
    assert!(left.keys().all(|&(_, lsn)| lsn / 256 >= oldest), "{oldest}: {left:?}");
    assert_eq!(past.pool.archive_status().expect("an archive").anchors, left.len() as u64);
    assert_whole(&store);
    let moment = past.len() - 2;
    open(&mut past, moment);
}

/// Small working sets need no anchors.
#[test]
fn a_small_pool_has_no_anchors() {
    let store = Arc::new(MemoryStore::default());
    let mut past =
        Past::with_anchors(37, 8, 150, Arc::clone(&store) as Arc<dyn Store>, AnchorPolicy::default());
    past.step(600);
    past.idle(300);
    assert!(names(&store).is_empty());
}

/// What the scrub, on its thread, asks the pool.
enum Asked {
    Anchors(Sender<Vec<KnownAnchor>>),
    Useless(AnchorId, Sender<bool>),
}

struct Asker(Sender<Asked>);

fn gone<T>(_: T) -> ManageError {
    ManageError::NotReady { reason: "the test has ended" }
}

impl Asker {
    fn ask<T>(&self, of: impl FnOnce(Sender<T>) -> Asked) -> Result<T, ManageError> {
        let (reply, answer) = channel();
        self.0.send(of(reply)).map_err(gone)?;
        answer.recv().map_err(gone)
    }
}

impl Learner for Asker {
    fn learn(&self, missing: &[ObjectId], damaged: &[ObjectId]) -> Result<(), ManageError> {
        assert!(missing.is_empty() && damaged.is_empty(), "anchors are no objects of the log");
        Ok(())
    }

    fn anchors(&self) -> Result<Vec<KnownAnchor>, ManageError> {
        self.ask(Asked::Anchors)
    }

    fn learn_useless_anchor(&self, id: &AnchorId) -> Result<bool, ManageError> {
        self.ask(|reply| Asked::Useless(*id, reply))
    }
}

/// Scrubs the archive of a pool, at least one whole pass; returns the anchors that are of no use.
fn scrub(past: &Past, store: &Arc<MemoryStore>) -> Vec<AnchorId> {
    let folder = tempfile::tempdir().expect("a folder");
    let shared = Arc::clone(store) as Arc<dyn Store>;
    let manager =
        ArchiveManager::new(Arc::clone(&shared), &folder.path().join("archive-keep")).expect("rules");
    let catalog = folder.path().join("catalog");
    let (catalog, _) =
        ArchiveCatalog::open(&catalog, past.pool.info().uuid, shared.label()).expect("a catalog");
    manager.set_catalog(catalog);
    let (asker, asked): (_, Receiver<Asked>) = channel();
    let pass = Duration::from_millis(1);
    let scrubber = Scrubber::start(Arc::new(manager), Asker(asker), pass).expect("a thread");
    let (mut found, mut lists) = (Vec::new(), 0);
    // A pass lists them at most three times.
    while lists < 7 {
        match asked.recv().expect("the scrub goes on") {
            Asked::Anchors(reply) => {
                let (mut all, mut place) = (Vec::new(), None);
                loop {
                    let page = past.pool.anchors_after(place);
                    let Some(last) = page.last() else { break };
                    place = Some((last.id.image, last.id.lsn));
                    all.extend(page);
                }
                reply.send(all).expect("the scrub waits for it");
                lists += 1;
            }
            Asked::Useless(id, reply) => {
                reply.send(past.pool.learn_useless_anchor(&id)).expect("the scrub waits for it");
                found.push(id);
            }
        }
    }
    // Then the thread waits for no answer.
    drop(asked);
    drop(scrubber);
    found
}

/// The scrub finds damage in a head, in a part, and that one is missing. The pool deletes what is
/// left of the anchor, opens the point exactly without it, and makes later ones.
#[test]
fn a_scrub_finds_damaged_anchors_and_the_pool_goes_on_without_them() {
    for (seed, kind) in [(40, "head"), (41, "part"), (42, "no head"), (43, "no part")] {
        let store = Arc::new(MemoryStore::default());
        let mut past = past(seed, &store, 700);
        let moment = past.len() * 3 / 4;
        assert_eq!(scrub(&past, &store), [], "{kind}: nothing is damaged");
        let at = open(&mut past, moment).scan.anchor_lsn.expect("an anchor was used");
        let is_it = |name: &Name| AnchorName::parse(name.as_str()).is_some_and(|name| name.id().lsn.0 == at);
        let is_head = |name: &Name| matches!(AnchorName::parse(name.as_str()), Some(AnchorName::Head(..)));
        let of_anchor: Vec<Name> = names(&store).into_iter().filter(is_it).collect();
        let name = of_anchor.iter().find(|name| is_head(name) == kind.contains("head")).expect("it has both");
        let mut bytes = store.bytes(name).expect("it is there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        store.set_bytes(name, (!kind.contains("no ")).then_some(bytes));
        let (problems, before) = (past.pool.info().problems, past.pool.archive_status().expect("an archive"));
        let found: Vec<u64> = scrub(&past, &store).iter().map(|id| id.lsn.0).collect();
        assert_eq!(found, [at], "{kind}");
        past.idle(60);
        assert_eq!(names(&store).into_iter().filter(is_it).count(), 0, "{kind}: what is left is deleted");
        let after = past.pool.archive_status().expect("an archive");
        assert_eq!((after.anchors + 1, &past.pool.info().problems), (before.anchors, &problems), "{kind}");
        let opened = open(&mut past, moment);
        assert!(opened.scan.anchor_lsn.is_none_or(|used| used < at), "{kind}: {opened:?}");
        // Later ones are made, and used.
        let newest = anchors_in(&store.names()).keys().map(|&(_, lsn)| lsn).max();
        for _ in 0..12 {
            past.step(50);
            past.idle(30);
        }
        past.idle(200);
        let moment = past.len() - 40;
        let opened = open(&mut past, moment);
        assert!(opened.scan.anchor_lsn > newest, "{kind}: {newest:?}, {opened:?}");
        assert_whole(&store);
        assert_eq!(scrub(&past, &store), [], "{kind}");
    }
}
