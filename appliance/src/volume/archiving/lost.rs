//! The losses of the archive: objects that should be in the store and are not, or are damaged.
//!
//! **States of such an object:** in the archive → found missing or damaged (by a listing of the
//! store, by a verification, at a start) → archived again, if the primary device still has its
//! segment; otherwise lost, until it is found again or expires. The pool reports all losses as one
//! problem, with the segments, the positions and the synchs that cannot be opened. The local
//! catalog stores the list, so a start reports it again.

use std::collections::BTreeSet;

use super::PoolSide;
use super::losses::Lost;
use super::state::Archive;
use crate::archive::object::ObjectId;
use crate::log::{Log, Lsn, SegmentSeq};
use crate::volume::catalog::{longest_reach, reach};

/// How many ranges a problem lists.
const STRETCHES_TOLD: usize = 8;
/// How many synchs a problem lists.
const SYNCHS_TOLD: usize = 8;

impl Archive {
    /// Marks objects as lost. Those that the primary device still has are archived again. Returns
    /// whether anything changed.
    pub(super) fn lose(&mut self, ids: &[ObjectId], side: &mut PoolSide<'_>, log: &mut Log) -> bool {
        let mut again = BTreeSet::new();
        let mut changed = false;
        for &id in ids {
            let is_here = log
                .table()
                .get(id.sequence)
                .is_some_and(|segment| segment.slot.is_some() && segment.epoch == id.epoch);
            if is_here {
                if self.objects.remove(&id) | log.note_unarchived(id.sequence) {
                    again.insert(id.sequence);
                }
            } else if self.lost.insert(id) {
                self.objects.remove(&id);
                changed = true;
            }
            self.entries.forget(&id);
        }
        if let Some(&first) = again.first() {
            self.seal.begin_again(first);
            tracing::warn!(
                segments = again.len(),
                "the archive lost objects that the primary device still has; they are archived again"
            );
            if side.catalog.archived_below > first {
                side.catalog.distrust_archive(log, first);
            }
        }
        changed
    }

    /// Updates the report to the operator.
    pub(super) fn tell_lost(&mut self, side: &mut PoolSide<'_>, log: &Log) {
        let problem = (!self.lost.is_empty()).then(|| describe(&self.lost, side, log));
        self.lost.tell(problem, side.problems);
    }
}

/// Describes the losses as text.
fn describe(lost: &Lost, side: &PoolSide<'_>, log: &Log) -> String {
    let ranges = lost.ranges();
    let mut stretches: Vec<String> = ranges
        .iter()
        .take(STRETCHES_TOLD)
        .map(|&range| {
            let (from, to) = lost.positions(range);
            format!("segments {range} (LSN {from} to {to})")
        })
        .collect();
    if ranges.len() > STRETCHES_TOLD {
        stretches.push(format!("{} more stretches", ranges.len() - STRETCHES_TOLD));
    }
    let geometry = log.geometry();
    let working_sets = &side.catalog.working_sets;
    let longest = longest_reach(working_sets).max(geometry.working_set);
    let is_lost = |first: SegmentSeq, last: SegmentSeq| lost.reaches_into(first, last);
    // Pages of synchs that need nothing of what is lost are not looked at.
    let may_be_gone = |first: Lsn, last: Lsn| {
        let first = SegmentSeq(geometry.sequence_of(first).0.saturating_sub(longest));
        is_lost(first, geometry.sequence_of(last))
    };
    let gone = side.synchs.iter_pages(may_be_gone).filter(|synch| {
        let last = geometry.sequence_of(synch.lsn);
        let window = reach(working_sets, last).unwrap_or(geometry.working_set);
        is_lost(SegmentSeq(last.0.saturating_sub(window)), last)
    });
    let (mut count, mut labels) = (0, Vec::new());
    for synch in gone {
        count += 1;
        if labels.len() < SYNCHS_TOLD {
            labels.push(synch.label);
        }
    }
    let mut points = match count {
        0 => "no synch".to_owned(),
        count => format!("{count} synchs ({})", labels.join(", ")),
    };
    if count > SYNCHS_TOLD {
        points.insert_str(points.len() - 1, ", ...");
    }
    format!(
        "the archive has lost {}; points whose past lies there cannot be opened, {points} among them; `varve archive verify` names all of it",
        stretches.join(", ")
    )
}
