//! Several owners of one archive: primaries that are lost, believed lost, paused and resumed,
//! copied, booted again after a recovery, and forked. The store fails and loses answers, and clocks
//! are days off.
//!
//! **What must hold.** The owner continues; every other primary is refused, or stops before it
//! removes anything. Every moment that the newest owner had archived opens exactly after each
//! recovery. At the end each history that the archive names is recovered, and every archived moment
//! of it opens exactly.

mod site;

use std::sync::Arc;

use varve::archive::owner::HistoryId;
use varve::archive::store::faulty::{Call, Fault, FaultyStore, When};
use varve::archive::store::{Reason, Store, StoreErrorKind};

use super::rng::Rng;
use super::store::MemoryStore;
use site::{Moment, Refusal, Site, chain_of, check_moment};

/// Steps of a run.
const STEPS: u64 = 40;

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnerCounts {
    /// Runs.
    pub runs: u64,
    /// Primaries that were lost, or believed lost.
    pub losses: u64,
    /// How many of these lived on.
    pub paused: u64,
    /// Refused starts of primaries that were not the owner.
    pub refused: u64,
    /// How many of these were forked.
    pub forks: u64,
    /// Owners that were overtaken while they ran.
    pub overtaken: u64,
    /// Moments that were compared.
    pub moments: u64,
    /// Histories that were recovered at the end.
    pub histories: u64,
    /// Faults of the store.
    pub store_faults: u64,
}

impl std::ops::AddAssign for OwnerCounts {
    fn add_assign(&mut self, other: OwnerCounts) {
        self.runs += other.runs;
        self.losses += other.losses;
        self.paused += other.paused;
        self.refused += other.refused;
        self.forks += other.forks;
        self.overtaken += other.overtaken;
        self.moments += other.moments;
        self.histories += other.histories;
        self.store_faults += other.store_faults;
    }
}

struct Owners {
    seed: u64,
    rng: Rng,
    store: Arc<dyn Store>,
    owner: Site,
    /// Primaries that were given up, and copies: none of them is open.
    old: Vec<Site>,
    /// Primaries that were believed lost and still run.
    paused: Vec<Site>,
    /// Each history that an owner left, with what it had archived then.
    left: Vec<(HistoryId, Vec<Moment>)>,
    counts: OwnerCounts,
}

/// Runs the campaign of a seed.
///
/// # Panics
/// When a guarantee is violated.
pub fn owners_campaign(seed: u64) -> OwnerCounts {
    let mut rng = Rng::new(seed ^ 0x0e5e_0000);
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let faulty = Arc::new(FaultyStore::new(memory, seed));
    let store = Arc::clone(&faulty) as Arc<dyn Store>;
    let owner = Site::create(seed, &store, &mut rng);
    if !rng.one_in(3) {
        let away = StoreErrorKind::Unavailable(Reason::Busy("the simulator"));
        for call in [Call::PutStart, Call::Commit, Call::Delete, Call::List, Call::Stat, Call::Get] {
            faulty.add(call, When::PerMille(10), Fault::Error(away));
        }
        faulty.add(Call::Commit, When::PerMille(20), Fault::ErrorAfter(away));
        faulty.add(Call::Delete, When::PerMille(20), Fault::ErrorAfter(away));
    }
    let counts = OwnerCounts { runs: 1, ..OwnerCounts::default() };
    let mut owners =
        Owners { seed, rng, store, owner, old: Vec::new(), paused: Vec::new(), left: Vec::new(), counts };
    for _ in 0..STEPS {
        owners.step();
    }
    faulty.heal();
    owners.check_all();
    owners.counts.store_faults = faulty.injected();
    owners.counts
}

impl Owners {
    fn step(&mut self) {
        match self.rng.below(100) {
            0..50 => {
                let rng = &mut self.rng;
                assert!(self.owner.write(rng), "seed {}: the owner takes writes", self.seed);
            }
            50..65 => assert!(self.owner.seal(), "seed {}: the owner seals", self.seed),
            65..72 => self.restart(),
            72..80 => {
                let copy = self.owner.copy(self.seed ^ self.counts.losses << 8, &mut self.rng);
                self.old.push(copy);
            }
            80..88 => self.lose(),
            88..95 => self.boot_old(),
            _ => self.resume(),
        }
    }

    fn restart(&mut self) {
        let started = self.owner.start(&self.store, false, &mut self.rng);
        assert!(started.is_ok(), "seed {}: the owner starts: {started:?}", self.seed);
        self.counts.moments += self.owner.check(self.seed, 2, &mut self.rng);
    }

    /// Records what the owner's history has, because another primary continues.
    fn leave(&mut self) {
        let pool = self.owner.open().info().uuid;
        let history = chain_of(&*self.store, pool).newest.expect("it has an owner").history;
        let archived = self.owner.moments.iter().filter(|moment| moment.archived).cloned().collect();
        self.left.retain(|(known, _)| *known != history);
        self.left.push((history, archived));
    }

    /// Another primary continues as the owner; the one before runs on and does not know.
    fn hand_over(&mut self, new: Site) {
        self.paused.push(std::mem::replace(&mut self.owner, new));
    }

    /// The owner is lost, or believed lost.
    fn lose(&mut self) {
        self.counts.losses += 1;
        if !self.owner.moments.iter().any(|moment| moment.archived) {
            // Otherwise there would be nothing to recover.
            assert!(self.owner.seal(), "the owner seals");
        }
        self.leave();
        let pool = self.owner.open().info().uuid;
        let (seed, rng) = (self.seed ^ self.counts.losses << 16, &mut self.rng);
        let (mut new, report) = Site::recover(seed, &self.store, pool, None, true, rng);
        new.moments.clone_from(&self.owner.moments);
        new.moments.retain(|moment| moment.lsn <= report.recovery_point_lsn);
        let archived = self.owner.moments.iter().filter(|moment| moment.archived);
        for moment in archived {
            assert!(
                moment.lsn <= report.recovery_point_lsn,
                "seed {}: LSN {} was archived, and the recovery point is {}",
                self.seed,
                moment.lsn,
                report.recovery_point_lsn
            );
        }
        // Everything before the recovery point came from the archive.
        new.moments.iter_mut().for_each(|moment| moment.archived = true);
        let newest = new.moments.last();
        new.state = newest.map_or_else(|| self.owner.state.clone(), |moment| moment.state.clone());
        if newest.is_none() {
            new.state.blocks.clear();
        }
        new.start(&self.store, false, &mut self.rng)
            .unwrap_or_else(|refusal| panic!("seed {}: what was recovered starts: {refusal:?}", self.seed));
        let mut lost = std::mem::replace(&mut self.owner, new);
        match self.rng.below(3) {
            0 => {
                self.counts.paused += 1;
                self.paused.push(lost);
            }
            1 => {
                lost.crash();
                self.old.push(lost);
            }
            _ => {}
        }
        self.counts.moments += self.owner.check(self.seed, 3, &mut self.rng);
    }

    /// Boots a primary that was given up, or a copy.
    fn boot_old(&mut self) {
        if self.old.is_empty() {
            return;
        }
        let at = self.rng.below(self.old.len() as u64) as usize;
        let mut site = self.old.swap_remove(at);
        let before = chain_of(&*self.store, self.owner.open().info().uuid).newest;
        match site.start(&self.store, false, &mut self.rng) {
            // A copy that knows everything that the archive has, and is the first to start again.
            Ok(()) => {
                self.leave();
                self.counts.paused += 1;
                self.hand_over(site);
            }
            Err(Refusal::Overtaken) => panic!("seed {}: nobody else starts", self.seed),
            Err(Refusal::Conflict) => {
                self.counts.refused += 1;
                let after = chain_of(&*self.store, self.owner.open().info().uuid).newest;
                assert_eq!(before, after, "seed {}: whoever is refused changes nothing", self.seed);
                if self.rng.one_in(3) {
                    self.leave();
                    site.start(&self.store, true, &mut self.rng).expect("a fork goes on");
                    self.counts.forks += 1;
                    self.hand_over(site);
                } else {
                    site.crash();
                    self.old.push(site);
                }
            }
        }
        self.counts.moments += self.owner.check(self.seed, 2, &mut self.rng);
    }

    /// A primary that was believed lost continues: it stops at the latest when it archives
    /// something.
    fn resume(&mut self) {
        if self.paused.is_empty() {
            return;
        }
        let at = self.rng.below(self.paused.len() as u64) as usize;
        let mut site = self.paused.swap_remove(at);
        for _ in 0..self.rng.below(6) {
            if site.open().has_failed() || !site.write(&mut self.rng) {
                break;
            }
        }
        if !site.open().has_failed() && site.write(&mut self.rng) {
            assert!(!site.seal(), "seed {}: whoever was overtaken archives nothing", self.seed);
        }
        assert!(site.open().has_failed(), "seed {}: and takes no more writes", self.seed);
        self.counts.overtaken += 1;
        if !site.is_unsure {
            site.crash();
            self.old.push(site);
        }
    }

    /// Recovers every history that the archive names, and opens its newest archived moments (up to
    /// 12).
    fn check_all(&mut self) {
        assert!(self.owner.seal(), "seed {}: the owner seals", self.seed);
        self.counts.moments += self.owner.check(self.seed, 20, &mut self.rng);
        self.leave();
        let pool = self.owner.open().info().uuid;
        let newest = chain_of(&*self.store, pool).newest.expect("it has an owner");
        let named: Vec<HistoryId> = newest.histories().map(|(history, _)| history).collect();
        for (history, moments) in std::mem::take(&mut self.left) {
            assert!(named.contains(&history), "seed {}: history {history} is forgotten", self.seed);
            if moments.is_empty() {
                continue;
            }
            self.counts.histories += 1;
            let (seed, rng) = (self.seed ^ self.counts.histories << 24, &mut self.rng);
            let (mut site, _) = Site::recover(seed, &self.store, pool, Some(history), false, rng);
            site.start_rehearsal(&self.store, history);
            for moment in moments.iter().rev().take(12) {
                check_moment(&site.open(), moment, self.seed);
                self.counts.moments += 1;
            }
        }
        let after = chain_of(&*self.store, pool).newest.expect("it has an owner");
        assert_eq!(after, newest, "seed {}: rehearsals change nothing", self.seed);
    }
}
