//! How far the archive is: what a recovery from the archive alone would restore, and how old that
//! is.

use super::PoolSide;
use super::state::Archive;
use crate::log::{Log, Lsn, SegmentSeq};
use crate::volume::catalog::{Catalog, reach};

impl Archive {
    /// The position up to which the log is in the archive, without a hole except for recorded gaps.
    pub(super) fn archived_to(&self, log: &Log) -> Lsn {
        let geometry = log.geometry();
        let sequence = self.seal.first_unarchived(log);
        let first = geometry.first_lsn(sequence);
        match log.table().get(sequence) {
            // It contains only its header: a crash came before its first record.
            Some(segment) if segment.end_lsn <= first.plus(1) => segment.end_lsn,
            // For a segment that is not archived, its parts count.
            Some(segment) => self
                .objects
                .parts(sequence)
                .last()
                .filter(|part| part.epoch == segment.epoch && !part.whole)
                .map_or(first, |part| part.to_lsn),
            None => log.commit_lsn(),
        }
    }

    /// The position up to which a recovery from the archive alone would restore, if everything
    /// before `stored_to` is in it except for the recorded gaps: a point whose window has a gap
    /// cannot be restored.
    fn recoverable_to(&self, catalog: &Catalog, log: &Log, stored_to: Lsn) -> Lsn {
        let geometry = log.geometry();
        let mut to = stored_to;
        while to > Lsn(0) {
            let last = geometry.sequence_of(Lsn(to.0 - 1));
            let working_set = reach(&catalog.working_sets, last).unwrap_or(geometry.working_set);
            let first = geometry.first_lsn(SegmentSeq(last.0.saturating_sub(working_set)));
            // Parts of a gap's first segment may have been archived before its slot was
            // reassigned.
            let gaps = catalog.gaps.iter().map(|gap| {
                let parts = self.objects.parts(geometry.sequence_of(gap.start));
                (parts.last().map_or(gap.start, |part| part.to_lsn.max(gap.start)), gap.end)
            });
            let within = gaps.filter(|&(start, end)| start < to && end > first.max(start));
            let Some(start) = within.map(|(start, _)| start).max() else { break };
            to = start;
        }
        to
    }

    /// The time of the first record after a position that is not recoverable, or when its segment
    /// was opened if the record is not in memory.
    fn uncovered_since_ns(&self, log: &Log, from: Lsn) -> u64 {
        let sequence = log.geometry().sequence_of(from);
        if let Some(time_ns) = log.first_time_ns(sequence, from) {
            return time_ns;
        }
        match (log.table().get(sequence), self.seal.gap()) {
            (_, Some((gap, opened_ns))) if gap == sequence => opened_ns,
            (Some(segment), _) if segment.end_lsn > from => segment.opened_ns,
            // Only what is still in the open record is missing.
            _ => log.last_time_ns(),
        }
    }

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
        let limit_ns = self.policy().rpo_alarm_ns;
        if limit_ns == 0 || !self.alarm.is_due(now_ns) {
            return;
        }
        let point = self.recovery_point(side.catalog, log);
        self.alarm.look(point, limit_ns, now_ns, side.problems);
    }
}
