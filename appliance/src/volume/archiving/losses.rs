//! The list of the objects that the archive has lost, and the report of it.
//!
//! **Invariant:** `told` is exactly what this file has put into the pool's list of problems.

use std::collections::BTreeMap;

use crate::archive::object::ObjectId;
use crate::archive::retention::SegmentRange;
use crate::log::{Lsn, SegmentSeq};
use crate::volume::problems::Problems;

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

    /// Adds an object. Returns whether it is new.
    pub(super) fn insert(&mut self, id: ObjectId) -> bool {
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
    pub(super) fn positions(&self, range: SegmentRange) -> (Lsn, Lsn) {
        let ids = || self.objects.range(range.first..=range.last).flat_map(|(_, ids)| ids);
        let from = ids().map(|id| id.from_lsn).min().unwrap_or_default();
        (from, ids().map(|id| id.to_lsn).max().unwrap_or_default())
    }

    /// Whether something of these segments is lost.
    pub(super) fn reaches_into(&self, first: SegmentSeq, last: SegmentSeq) -> bool {
        self.objects.range(first..=last).next().is_some()
    }

    /// Replaces the report to the operator.
    pub(super) fn tell(&mut self, problem: Option<String>, problems: &mut Problems) {
        if self.told == problem {
            return;
        }
        if let Some(told) = self.told.take() {
            problems.withdraw(&told);
        }
        if let Some(problem) = &problem {
            tracing::error!(problem, "the archive lost something");
            problems.add(problem);
        }
        self.told = problem;
    }
}
