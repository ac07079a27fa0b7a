//! Expiry in a run: sets rules and executes them as the appliance does, with the pool, the store
//! and a separate catalog. The model knows what may be gone and what must stay: points of the last
//! seconds, synchs that a rule keeps, snapshots, and everything that lives.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use tempfile::TempDir;
use uuid::Uuid;
use varve::archive::catalog::ArchiveCatalog;
use varve::archive::retention::{KeepRules, SegmentRange};
use varve::archive::service::StopFlag;
use varve::archive::store::Store;
use varve::log::{Lsn, SegmentSeq};
use varve::manage::{ArchiveManager, ExpiryPool, ManageError};
use varve::volume::{Forgotten, Lineage, Point, Pool, VolumeError};

use super::rng::Rng;
use super::workload::{Opened, Run};
use super::world::wait;

/// After this many writes in a row that changed nothing the writing ends: the store may have failed
/// permanently.
const REFUSALS_MAX: u32 = 300;
/// The maximum number of objects that one expiry deletes when it has a small limit.
const FEW_OBJECTS: u64 = 6;

/// What a run's expiries removed, and what they must not remove.
#[derive(Default)]
pub struct Expired {
    /// The manager, after the first expiry, and the folder of its files.
    manager: Option<(ArchiveManager, TempDir)>,
    /// Segments that the pool forgot. Their objects may still exist if their deletion failed.
    segments: BTreeSet<u64>,
    /// Labels of removed synchs. They may come back where objects could not be deleted.
    synchs: HashSet<String>,
    /// Every point after this position must open.
    kept_above: u64,
}

impl Expired {
    /// The same, for a pool on a copy of the device, where nothing more expires.
    pub(super) fn without_manager(&self) -> Expired {
        Expired {
            manager: None,
            segments: self.segments.clone(),
            synchs: self.synchs.clone(),
            kept_above: self.kept_above,
        }
    }

    /// Whether anything was removed.
    pub fn is_something(&self) -> bool {
        !self.segments.is_empty()
    }

    /// Whether a synch was removed.
    pub fn has_synch(&self, label: &str) -> bool {
        self.synchs.contains(label)
    }
}

/// Deletes at `now_ns` what some rules do not keep, as the appliance does. Returns how many
/// segments the pool forgot.
///
/// # Panics
/// When that fails.
pub fn expire_all(pool: &Rc<Pool>, store: &Arc<dyn Store>, rules: &str, now_ns: u64) -> u64 {
    let (manager, _folder) = new_manager(Arc::clone(store), pool.info().uuid);
    manager.set_keep(KeepRules::parse(rules).expect("rules")).expect("rules are written");
    let forgetting = Forgetting { pool: Rc::clone(pool), forgotten: RefCell::default() };
    manager.expire(&forgetting, now_ns, false, usize::MAX, &StopFlag::default()).expect("expired");
    forgetting.forgotten.take().iter().map(|range| range.last.0 - range.first.0 + 1).sum()
}

/// The run's pool as expiry sees it; records what is forgotten.
struct Forgetting {
    pool: Rc<Pool>,
    forgotten: RefCell<Vec<SegmentRange>>,
}

impl ExpiryPool for Forgetting {
    fn lineage(&self) -> Result<Lineage, ManageError> {
        Ok(self.pool.lineage())
    }

    fn forget(&self, ranges: Vec<SegmentRange>, change_lsn: Lsn) -> Result<Forgotten, ManageError> {
        let forgotten = self.pool.forget_archived(&ranges, change_lsn)?;
        self.forgotten.borrow_mut().extend(ranges);
        Ok(forgotten)
    }
}

fn new_manager(store: Arc<dyn Store>, pool: Uuid) -> (ArchiveManager, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let (catalog, _) =
        ArchiveCatalog::open(&folder.path().join("catalog"), pool, store.label()).expect("a new catalog");
    let manager = ArchiveManager::new(store, &folder.path().join("keep")).expect("a new file of rules");
    manager.set_catalog(catalog);
    (manager, folder)
}

impl Run {
    /// Writes until the log is this many segments longer: what was written before leaves the
    /// primary device.
    ///
    /// # Panics
    /// When the pool violates a guarantee.
    pub fn write_on(&mut self, segments: u64) {
        let mut head_lsn = self.pool.stats().head_lsn;
        let until = head_lsn + segments * self.shape.segment_blocks;
        let mut refused = 0;
        while head_lsn < until && refused < REFUSALS_MAX {
            if self.writable().is_empty() || self.rng.one_in(8) {
                self.step();
            } else {
                self.step_hot_write();
            }
            self.check_working_set();
            let before = std::mem::replace(&mut head_lsn, self.pool.stats().head_lsn);
            if head_lsn == before {
                // The pool retries a failing store at growing intervals and refuses writes in the
                // meantime.
                refused += 1;
                self.world.clock.advance(100_000_000);
            } else {
                refused = 0;
            }
        }
    }

    /// Sets rules and expires everything else. Returns how many segments the pool forgot.
    ///
    /// # Panics
    /// When something is removed that must stay.
    pub fn expire(&mut self, rng: &mut Rng) -> u64 {
        self.settle();
        self.world.clock.advance(rng.below(4_000_000_000) as i64);
        let now_ns = self.world.environment.clock.wall_ns();
        let (seconds, synch_seconds) = (1 + rng.below(5), 1 + rng.below(30));
        let mut rules = vec![format!("every-write {seconds}s")];
        let keeps_synchs = rng.one_in(2);
        if keeps_synchs {
            rules.push(format!("synch {synch_seconds}s"));
        }
        if rng.one_in(3) {
            rules.push(format!("every {}s keep {}s", 1 + rng.below(4), 5 + rng.below(60)));
        }
        let rules = rules.join("; ");
        let begin_ns = now_ns.saturating_sub(seconds * 1_000_000_000);
        let floor = match wait(&self.pool, Rc::clone(&self.pool).resolve(Point::Time(begin_ns))) {
            Ok(point) => point.lsn,
            // Older than the pool, or than what is left of it.
            Err(VolumeError::NoSuchPoint { .. }) => 0,
            Err(error) => panic!("seed {}: {error}", self.seed),
        };
        self.expired.kept_above = self.expired.kept_above.max(floor);
        let before = self.pool.synchs().infos();
        let kept: Vec<(u64, String)> = before
            .iter()
            .filter(|synch| keeps_synchs && synch.time_ns + synch_seconds * 1_000_000_000 > now_ns)
            .map(|synch| (synch.lsn, synch.label.clone()))
            .collect();
        let snapshots = self.model.snapshots();
        // If an earlier expiry removed a part of a point, a later rule does not guarantee that
        // point again.
        let lineage = self.pool.lineage();
        let manager = self.manager(&rules);
        let is_whole = |lsn: u64| manager.explain(&lineage, Lsn(lsn)).is_ok_and(|told| told.restorable);
        let watched: Vec<(u64, String)> = [&kept, &snapshots]
            .into_iter()
            .filter(|some| !some.is_empty())
            .map(|some| some[rng.below(some.len() as u64) as usize].clone())
            .filter(|(lsn, _)| is_whole(*lsn))
            .collect();
        let objects_max = if rng.one_in(2) { 1 + rng.below(FEW_OBJECTS) as usize } else { usize::MAX };
        let segments = self.carry_out(now_ns, objects_max);
        let after: HashSet<String> =
            self.pool.synchs().infos().into_iter().map(|synch| synch.label).collect();
        for synch in before.iter().filter(|synch| !after.contains(&synch.label)) {
            assert!(
                !kept.iter().any(|(_, label)| *label == synch.label) && synch.lsn <= self.expired.kept_above,
                "seed {}: synch {synch:?} went by '{rules}' at {now_ns}",
                self.seed
            );
            self.expired.synchs.insert(synch.label.clone());
        }
        for (lsn, name) in watched {
            self.check_kept(lsn, &name, &rules, rng);
        }
        segments
    }

    /// The manager, with these rules in force.
    fn manager(&mut self, rules: &str) -> &ArchiveManager {
        let store = self.world.store.as_ref().expect("a run with an archive has a store");
        let uuid = self.pool.info().uuid;
        let (manager, _) = self.expired.manager.get_or_insert_with(|| new_manager(Arc::clone(store), uuid));
        manager.set_keep(KeepRules::parse(rules).expect("rules")).expect("rules are written");
        manager
    }

    /// Executes the rules as the appliance does. If the store fails, the rest waits for the next
    /// time.
    fn carry_out(&mut self, now_ns: u64, objects_max: usize) -> u64 {
        let (manager, _) = self.expired.manager.as_ref().expect("rules were set");
        let pool = Forgetting { pool: Rc::clone(&self.pool), forgotten: RefCell::default() };
        match manager.expire(&pool, now_ns, false, objects_max, &StopFlag::default()) {
            Ok(_) | Err(ManageError::Volume(VolumeError::Archive { .. })) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
        let forgotten: BTreeSet<u64> =
            pool.forgotten.take().iter().flat_map(|range| range.first.0..=range.last.0).collect();
        let count = forgotten.len() as u64;
        self.expired.segments.extend(forgotten);
        count
    }

    /// Whether a point of a volume may be gone: a segment that it needs was removed, and no rule
    /// keeps the point.
    pub(super) fn may_be_gone(&self, source: usize, lsn: u64) -> bool {
        let sequence = lsn / self.pool.lineage().segment_blocks;
        let first = sequence.saturating_sub(self.pool.lineage().working_set(SegmentSeq(sequence)));
        // The data that an image inherits may be anywhere before.
        let inherits = self.lost_primary || self.model.may_inherit(source);
        let first = if inherits { 0 } else { first };
        lsn <= self.expired.kept_above && self.expired.segments.range(first..=sequence).next().is_some()
    }

    /// Checks that a point that a rule or a snapshot keeps opens with its old content.
    fn check_kept(&mut self, lsn: u64, name: &str, rules: &str, rng: &mut Rng) {
        // A snapshot's step may have the same position as the step before.
        let existing: Vec<usize> = (0..self.model.volumes.len())
            .filter(|&place| self.model.state_at(place, lsn).is_some())
            .collect();
        if existing.is_empty() {
            return;
        }
        let source = existing[rng.below(existing.len() as u64) as usize];
        let opened = self.compare_point(source, lsn, true);
        assert!(
            opened != Opened::Expired,
            "seed {}: '{name}' at LSN {lsn} went by '{rules}': {:?}",
            self.seed,
            self.expired.segments
        );
    }
}
