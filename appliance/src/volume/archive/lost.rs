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
use crate::volume::catalog::reach;

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
    let gone: Vec<&str> = side
        .synchs
        .iter()
        .filter(|synch| {
            let last = log.geometry().sequence_of(Lsn(synch.lsn));
            let window = reach(&side.catalog.working_sets, last).unwrap_or(log.geometry().working_set);
            let first = SegmentSeq(last.0.saturating_sub(window));
            lost.reaches_into(first, last)
        })
        .map(|synch| synch.label.as_str())
        .collect();
    let mut points = match gone.len() {
        0 => "no synch".to_owned(),
        count => format!(
            "{count} synchs ({})",
            gone.iter().take(SYNCHS_TOLD).copied().collect::<Vec<_>>().join(", ")
        ),
    };
    if gone.len() > SYNCHS_TOLD {
        points.insert_str(points.len() - 1, ", ...");
    }
    format!(
        "the archive has lost {}; points whose past lies there cannot be opened, {points} among them; `varve archive verify` names all of it",
        stretches.join(", ")
    )
}
