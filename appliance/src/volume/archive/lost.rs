//! The losses of the archive: objects that should be in the store and are not, or are damaged.
//!
//! **States of such an object:** in the archive → found missing or damaged (by a listing of the
//! store, by a verification, at a start) → archived again, if the primary device still has its
//! segment; otherwise lost, until it is found again or expires. The pool reports all losses as one
//! problem, with the segments, the positions and the synchs that cannot be opened. The local
//! catalog stores the list, so a start reports it again.

use std::collections::{BTreeMap, BTreeSet};

use super::{Archive, PoolSide};
use crate::archive::object::ObjectId;
use crate::archive::retention::SegmentRange;
use crate::log::{Log, Lsn, SegmentSeq};
use crate::volume::catalog::{longest_reach, reach};

/// How many ranges a problem lists.
const STRETCHES_TOLD: usize = 8;
/// How many synchs a problem lists.
const SYNCHS_TOLD: usize = 8;

/// The losses by segment, and the reported problem.
#[derive(Debug, Clone, Default)]
pub(super) struct Lost {
    objects: BTreeMap<SegmentSeq, Vec<ObjectId>>,
    /// What was reported to the operator.
    told: Option<String>,
}

impl Lost {
    pub(super) fn new(ids: impl IntoIterator<Item = ObjectId>) -> Self {
        let mut lost = Lost::default();
        for id in ids {
            lost.insert(id);
        }
        lost
    }

    fn insert(&mut self, id: ObjectId) -> bool {
        let objects = self.objects.entry(id.sequence).or_default();
        let is_new = !objects.contains(&id);
        if is_new {
            objects.push(id);
        }
        is_new
    }

    /// Notes that the segment is in the archive again. Returns whether it was lost.
    pub(super) fn found(&mut self, sequence: SegmentSeq) -> bool {
        self.objects.remove(&sequence).is_some()
    }

    pub(super) fn contains(&self, sequence: SegmentSeq) -> bool {
        self.objects.contains_key(&sequence)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The reported problem.
    pub(super) fn told(&self) -> Option<&str> {
        self.told.as_deref()
    }

    /// The objects.
    pub(super) fn ids(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.objects.values().flatten().copied()
    }

    /// The segments with losses; adjacent segments are joined into one range.
    pub(super) fn ranges(&self) -> Vec<SegmentRange> {
        let mut ranges: Vec<SegmentRange> = Vec::new();
        for &sequence in self.objects.keys() {
            match ranges.last_mut() {
                Some(range) if range.last.next() == sequence => range.last = sequence,
                _ => ranges.push(SegmentRange { first: sequence, last: sequence }),
            }
        }
        ranges
    }

    /// The positions in a range of segments.
    fn positions(&self, range: SegmentRange) -> (Lsn, Lsn) {
        let ids = || self.objects.range(range.first..=range.last).flat_map(|(_, ids)| ids);
        let from = ids().map(|id| id.from_lsn).min().unwrap_or_default();
        (from, ids().map(|id| id.to_lsn).max().unwrap_or_default())
    }
}

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
        if self.lost.told == problem {
            return;
        }
        if let Some(told) = self.lost.told.take() {
            side.problems.withdraw(&told);
        }
        if let Some(problem) = &problem {
            tracing::error!(problem, "the archive lost something");
            side.problems.add(problem);
        }
        self.lost.told = problem;
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
    let is_lost = |first: SegmentSeq, last: SegmentSeq| lost.objects.range(first..=last).next().is_some();
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
