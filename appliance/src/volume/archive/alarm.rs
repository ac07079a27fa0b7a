//! The alarm for a recovery point that is too old: a loss of the primary device would lose more
//! time of writes than the operator accepts.
//!
//! **States:** quiet → (the recovery point's age reaches
//! [`ArchivePolicy::rpo_alarm_ns`](super::ArchivePolicy)) reported, as one problem and a line in
//! the journal → quiet again, with another line. The age is
//! [`ArchiveStatus::recovery_point_age_s`](super::ArchiveStatus): the age of the state that a
//! recovery from the archive alone would produce.
//!
//! **Cost:** one pass over the segments that are not archived, once a second.

use super::{Archive, PoolSide};
use crate::log::{Log, Lsn};
use crate::volume::catalog::Catalog;

/// How often the age is checked.
const LOOK_NS: u64 = 1_000_000_000;

/// The alarm of a pool's archive.
#[derive(Default)]
pub(super) struct Alarm {
    /// When the age is checked next, by the clock of spans.
    look_ns: u64,
    /// What was reported to the operator, and since when.
    told: Option<(String, u64)>,
}

impl Alarm {
    /// The reported problem.
    pub(super) fn told(&self) -> Option<&str> {
        self.told.as_ref().map(|(problem, _)| problem.as_str())
    }
}

impl Archive {
    /// The age in ns of the state that a recovery from the archive alone would produce, and the
    /// position up to which it reaches.
    pub(super) fn recovery_point(&self, catalog: &Catalog, log: &Log) -> (u64, Lsn) {
        // Copies that wait for their record to fill up do not count as new: their content is
        // archived at its original position.
        let (head, stored_to) = (log.commit_lsn(), self.archived_to(log));
        let to = self.recoverable_to(catalog, log, stored_to);
        let age_ns =
            if to >= head { 0 } else { log.now_ns().saturating_sub(self.uncovered_since_ns(log, to)) };
        (age_ns, to)
    }

    /// Checks the age when it is due, and updates the report.
    pub(super) fn look_at_recovery_point(&mut self, side: &mut PoolSide<'_>, log: &Log, now_ns: u64) {
        let limit_ns = self.policy.rpo_alarm_ns;
        if limit_ns == 0 || now_ns < self.alarm.look_ns {
            return;
        }
        self.alarm.look_ns = now_ns.saturating_add(LOOK_NS);
        let (age_ns, to) = self.recovery_point(side.catalog, log);
        let seconds = |ns: u64| ns as f64 / 1e9;
        match (&self.alarm.told, age_ns >= limit_ns) {
            (None, true) => {
                let problem = format!(
                    "writes have not been in the archive for longer than {} s, and a loss of the primary device would lose them; `varve archive status` says how old the recovery point is, and what is in the way",
                    seconds(limit_ns)
                );
                tracing::warn!(
                    problem,
                    age_s = seconds(age_ns),
                    lsn = to.0,
                    "the recovery point is too old: the alarm begins"
                );
                side.problems.add(&problem);
                self.alarm.told = Some((problem, now_ns));
            }
            (Some((problem, since_ns)), false) => {
                let lasted_s = seconds(now_ns.saturating_sub(*since_ns));
                tracing::warn!(
                    lasted_s,
                    age_s = seconds(age_ns),
                    lsn = to.0,
                    "the recovery point is young enough: the alarm ends"
                );
                side.problems.withdraw(problem);
                self.alarm.told = None;
            }
            _ => {}
        }
    }

    /// Ends the alarm: another archive replaces this one, and runs its own check.
    pub(super) fn end_alarm(&mut self, side: &mut PoolSide<'_>) {
        if let Some((problem, _)) = self.alarm.told.take() {
            side.problems.withdraw(&problem);
        }
    }
}
