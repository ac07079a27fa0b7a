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

use crate::log::Lsn;
use crate::volume::problems::Problems;

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

    /// Whether the age is to be checked now; if so, it is checked again after [`LOOK_NS`].
    pub(super) fn is_due(&mut self, now_ns: u64) -> bool {
        if now_ns < self.look_ns {
            return false;
        }
        self.look_ns = now_ns.saturating_add(LOOK_NS);
        true
    }

    /// Updates the report: a recovery would restore what is before `to`, which is `age_ns` old.
    pub(super) fn look(
        &mut self,
        (age_ns, to): (u64, Lsn),
        limit_ns: u64,
        now_ns: u64,
        problems: &mut Problems,
    ) {
        let seconds = |ns: u64| ns as f64 / 1e9;
        match (&self.told, age_ns >= limit_ns) {
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
                problems.add(&problem);
                self.told = Some((problem, now_ns));
            }
            (Some((problem, since_ns)), false) => {
                let lasted_s = seconds(now_ns.saturating_sub(*since_ns));
                tracing::warn!(
                    lasted_s,
                    age_s = seconds(age_ns),
                    lsn = to.0,
                    "the recovery point is young enough: the alarm ends"
                );
                problems.withdraw(problem);
                self.told = None;
            }
            _ => {}
        }
    }

    /// Ends the alarm: another archive replaces this one, and runs its own check.
    pub(super) fn end(&mut self, problems: &mut Problems) {
        if let Some((problem, _)) = self.told.take() {
            problems.withdraw(&problem);
        }
    }
}
