//! What is known of a segment: entries, and the ranges for which there are none.

use crate::log::Lsn;
use crate::log::reader::{LsnRange, SegmentEntries};

/// The available entries of a segment, and the ranges for which nothing is known, in order.
#[derive(Default)]
pub(in crate::volume) struct Known {
    pub(in crate::volume) entries: SegmentEntries,
    pub(in crate::volume) holes: Vec<LsnRange>,
}

impl Known {
    /// A range for which nothing is known.
    pub(in crate::volume) fn nothing(stretch: LsnRange) -> Self {
        Known { entries: SegmentEntries::default(), holes: vec![stretch] }
    }

    /// The newest unknown range after `after` and not after `up_to`.
    pub(in crate::volume) fn hole_between(&self, after: Lsn, up_to: Lsn) -> Option<LsnRange> {
        self.holes.iter().rev().find(|hole| hole.start <= up_to && hole.end > after.plus(1)).copied()
    }
}
