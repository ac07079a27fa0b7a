//! Every verb of going back in a run: sessions with steps, verdicts and bisecting, roll-backs,
//! clones of clones with reset, promote and rename, points that are pinned and marks that are
//! deleted, blocks that are restored, differences, and increments.
//!
//! A verb is a future and its pieces (`carry`): each piece is one durable change, and the model
//! learns it when the pool shows it. So a crash may come between any two pieces, or while one is
//! under way, and the model knows whether the pool must show the old state or the new one: its step
//! is before or after the end of the log that the next start finds.
//!
//! | file | verbs |
//! |---|---|
//! | `carry` | runs a verb to its end or up to a crash, while hosts write elsewhere |
//! | `sessions` | open, step, judge, bisect, commit, abort |
//! | `volumes` | roll back, clone, reset, promote, rename, delete |
//! | `points` | snapshots of the past, deletion of synchs |
//! | `blocks` | differences and restores of blocks |
//! | `increments` | a difference as a file, applied to a clone |

mod blocks;
mod carry;
mod increments;
mod points;
mod sessions;
mod volumes;

use std::collections::BTreeMap;

use varve::volume::VolumeError;

use self::blocks::CutRestore;
pub(super) use self::carry::{Carried, Piece};
pub(super) use self::volumes::History;
use super::workload::Run;

/// The most volumes that the verbs make.
const VOLUMES_MAX: usize = 7;
/// The most sessions at a time.
const SESSIONS_AT_ONCE: usize = 2;
/// The most turns of a verb that a crash cuts, by the power of two.
const CUT_TURNS_BITS: u64 = 7;
/// The most turns of a verb during which the device dies.
const DYING_TURNS: u64 = 1000;
/// So many verbs are begun until one of them is cut.
const BEGUN_MAX: usize = 8;

/// Where a crash cuts a verb.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// After so many turns.
    turns: u64,
    /// The device stops to answer after so many writes.
    writes: Option<u64>,
}

/// The verbs of a run, and what they did.
#[derive(Debug, Default)]
pub struct GoingBack {
    /// Names that were given: none comes twice, also if a crash took its volume.
    names: u64,
    /// How many verbs were cut.
    cuts: u64,
    /// A restore of blocks that a crash has cut.
    cut_restore: Option<CutRestore>,
    /// Whether the verb that is being carried out has appended a change. The pool appends changes
    /// too, such as another working set.
    has_changed: bool,
    /// What was done, by name of verb.
    pub(super) counts: VerbCounts,
}

/// How often each verb was begun, done, refused and cut by a crash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerbCounts(BTreeMap<&'static str, VerbCount>);

/// How often a verb was done, refused, and cut by a crash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerbCount {
    /// It came to its end.
    pub done: u64,
    /// It was refused, as it may be.
    pub refused: u64,
    /// A crash cut it, before or behind some of its pieces.
    pub cut: u64,
    /// Of those, how many showed the new state after the crash, at least in part.
    pub cut_behind: u64,
}

impl VerbCounts {
    /// What a verb did.
    pub fn of(&self, verb: &str) -> VerbCount {
        self.0.get(verb).copied().unwrap_or_default()
    }

    pub(super) fn count(&mut self, verb: &'static str) -> &mut VerbCount {
        self.0.entry(verb).or_default()
    }
}

impl std::ops::AddAssign<&VerbCounts> for VerbCounts {
    fn add_assign(&mut self, other: &VerbCounts) {
        for (verb, count) in &other.0 {
            let sum = self.count(verb);
            sum.done += count.done;
            sum.refused += count.refused;
            sum.cut += count.cut;
            sum.cut_behind += count.cut_behind;
        }
    }
}

impl std::fmt::Display for VerbCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, (verb, count)) in self.0.iter().enumerate() {
            let VerbCount { done, refused, cut, cut_behind } = count;
            let between = if place == 0 { "verbs: " } else { "; " };
            write!(
                f,
                "{between}{verb} {done} done, {refused} refused, {cut} cut ({cut_behind} behind a piece)"
            )?;
        }
        Ok(())
    }
}

impl Run {
    /// The run has the verbs of going back from here on.
    pub fn begin_verbs(&mut self) {
        self.going_back = Some(GoingBack::default());
    }

    /// What the verbs did so far.
    pub fn take_verb_counts(&mut self) -> VerbCounts {
        self.going_back.as_mut().map(|verbs| std::mem::take(&mut verbs.counts)).unwrap_or_default()
    }

    pub(super) fn is_going_back(&self) -> bool {
        self.going_back.is_some()
    }

    /// Does one random verb, to its end.
    pub(super) fn go_back(&mut self) {
        self.choose_verb(None);
    }

    /// Begins one random verb, which a crash cuts after some turns, or after some writes of the
    /// device.
    pub(super) fn begin_going_back(&mut self) {
        let cuts = |run: &Run| run.going_back.as_ref().map_or(0, |verbs| verbs.cuts);
        let before = cuts(self);
        for _ in 0..BEGUN_MAX {
            let bits = self.rng.below(CUT_TURNS_BITS);
            let turns = self.rng.below(1 << bits);
            let writes = self.rng.one_in(3).then(|| 1 + self.rng.below(8));
            let turns = if writes.is_some() { DYING_TURNS } else { turns };
            self.choose_verb(Some(Cut { turns, writes }));
            if cuts(self) > before || self.disk.is_dead() {
                break;
            }
            self.disk.die_after_writes(None);
        }
    }

    /// `cut`: where a crash cuts the verb, whether it is done or not.
    fn choose_verb(&mut self, cut: Option<Cut>) {
        if self.live().is_empty() {
            return;
        }
        match self.rng.below(40) {
            0..4 => self.verb_open_session(cut),
            4..13 => self.verb_step(cut),
            13..15 => self.verb_judge(cut),
            15..18 => self.verb_bisect(cut),
            18 => self.verb_keep(cut),
            19..21 => self.verb_commit(cut),
            21 => self.verb_abort(cut),
            22..26 => self.verb_roll_back(cut),
            26 => self.verb_clone(cut),
            27..29 => self.verb_reset(cut),
            29 => self.verb_promote(cut),
            30 => self.verb_rename(cut),
            31 => self.verb_delete(cut),
            32 => self.verb_snapshot_at(cut),
            33 => self.verb_delete_synch(cut),
            34..36 => self.verb_diff(),
            36..38 => self.verb_restore_blocks(cut),
            _ => self.verb_increment(cut),
        }
    }

    /// A name that was never given.
    fn new_name(&mut self, prefix: &str) -> String {
        let verbs = self.going_back.as_mut().expect("the run has verbs");
        verbs.names += 1;
        format!("{prefix}{}", verbs.names)
    }

    fn note_cut(&mut self) {
        self.going_back.as_mut().expect("the run has verbs").cuts += 1;
    }

    fn count_verb(&mut self, verb: &'static str) -> &mut VerbCount {
        self.going_back_mut().counts.count(verb)
    }

    fn going_back_mut(&mut self) -> &mut GoingBack {
        self.going_back.as_mut().expect("the run has verbs")
    }

    /// Whether the verb that is being carried out has appended a change.
    fn has_changed(&self) -> bool {
        self.going_back.as_ref().is_some_and(|verbs| verbs.has_changed)
    }

    /// A random volume and a position of a step at which it existed; often a near one.
    fn random_point(&mut self, among: impl Fn(&Run, usize) -> bool) -> Option<(usize, u64)> {
        let steps = self.model.steps.len() as u64;
        let reach = if self.rng.one_in(2) { steps } else { steps.min(30) };
        let lsn = self.model.steps[(steps - 1 - self.rng.below(reach)) as usize].lsn;
        let places: Vec<usize> = (0..self.model.volumes.len())
            .filter(|&place| among(self, place) && self.model.state_at(place, lsn).is_some())
            .collect();
        (!places.is_empty()).then(|| (places[self.rng.below(places.len() as u64) as usize], lsn))
    }

    /// One of the volumes that exist now.
    fn random_live(&mut self, among: impl Fn(&Run, usize) -> bool) -> Option<usize> {
        let live: Vec<usize> =
            self.live().iter().map(|(place, ..)| *place).filter(|&place| among(self, place)).collect();
        (!live.is_empty()).then(|| live[self.rng.below(live.len() as u64) as usize])
    }

    /// Whether a volume is the clone of a session.
    fn is_session_clone(&self, place: usize) -> bool {
        self.model.sessions().iter().any(|session| session.clone == place)
    }

    /// Fails unless a refusal is one that the faults of the run, its space or its expiry explain.
    /// `points`: what the verb needed of the past.
    fn check_refusal(&self, verb: &str, error: &VolumeError, points: &[(usize, u64)]) {
        let is_gone = points.iter().any(|&(place, lsn)| self.may_be_gone(place, lsn));
        let has_lost = self.trouble.lost_from.is_some();
        let may_be = match error {
            VolumeError::NoSpace { .. } => true,
            VolumeError::NoSuchPoint { .. } => is_gone || has_lost,
            VolumeError::Busy { reason } => {
                self.is_held_up()
                    || self.trouble.has_plan()
                    || reason.contains("expired")
                    || (reason.contains("loading") && self.is_store_faulty())
            }
            VolumeError::Archive { .. } | VolumeError::ArchiveAway { .. } => self.is_store_faulty(),
            _ => has_lost,
        };
        assert!(may_be, "seed {}: {verb} of {points:?}: {error}", self.seed);
    }

    /// Whether the run's store fails now and then.
    fn is_store_faulty(&self) -> bool {
        self.world.store.is_some() && self.trouble.memory_store.is_none()
            || self.pool.archive_status().is_some_and(|status| status.problem.is_some())
    }
}
