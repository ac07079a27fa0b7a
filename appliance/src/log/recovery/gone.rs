//! Which segments need not be on the device, according to the headers: those before the oldest that
//! was kept, and those that were released early.
//!
//! These facts stay true even if the log was cut off before the header that states them: the copies
//! that emptied a segment were stable before its slot was reassigned.
//!
//! **Invariant.** No released segment comes before the oldest one that was kept.

use std::collections::{BTreeMap, BTreeSet};

use super::slots::FoundSegment;
use crate::log::format::SegmentHeader;
use crate::log::geometry::Geometry;
use crate::log::scan::ExpectedEnd;
use crate::log::types::{Lsn, SegmentSeq};

/// The segments that are gone. See the module's documentation.
#[derive(Default)]
pub(super) struct Gone {
    /// The oldest segment that was kept.
    oldest: SegmentSeq,
    /// Segments after it that were released early.
    released: BTreeSet<SegmentSeq>,
    /// Where segments end whose next one was released, from the newest header.
    ends: BTreeMap<SegmentSeq, ExpectedEnd>,
}

impl Gone {
    /// Combines the headers of all segments that were found.
    pub(super) fn of(candidates: &BTreeMap<SegmentSeq, FoundSegment>, geometry: &Geometry) -> Self {
        let headers = || candidates.values().filter_map(FoundSegment::header);
        let oldest = headers().map(|header| header.oldest).max().unwrap_or_default();
        let released = headers().flat_map(|header| header.released.iter().copied());
        let released = released.filter(|&sequence| sequence > oldest).collect();
        let mut ends: BTreeMap<SegmentSeq, ExpectedEnd> = BTreeMap::new();
        for header in headers() {
            for &lsn in &header.ends {
                let end = ExpectedEnd { lsn, epoch: header.epoch };
                let known = ends.entry(geometry.sequence_of(Lsn(lsn.0 - 1))).or_insert(end);
                if known.epoch <= end.epoch {
                    *known = end;
                }
            }
        }
        Gone { oldest, released, ends }
    }

    /// The oldest segment that was kept.
    pub(super) fn oldest(&self) -> SegmentSeq {
        self.oldest
    }

    /// Whether a segment was released early.
    pub(super) fn is_released(&self, sequence: SegmentSeq) -> bool {
        self.released.contains(&sequence)
    }

    /// Whether a segment is gone, even if parts of it are still found.
    pub(super) fn contains(&self, sequence: SegmentSeq) -> bool {
        sequence < self.oldest || self.is_released(sequence)
    }

    /// Where a segment ends whose next one was released.
    pub(super) fn end_of(&self, sequence: SegmentSeq) -> Option<ExpectedEnd> {
        self.ends.get(&sequence).copied()
    }

    /// Starts the log with this segment, because it is unknown what is gone before it.
    pub(super) fn begin_at(&mut self, oldest: SegmentSeq) {
        self.oldest = oldest;
    }

    /// Notes that the slot of a segment had been reassigned early.
    pub(super) fn note_released(&mut self, sequence: SegmentSeq) {
        debug_assert!(sequence >= self.oldest);
        self.released.insert(sequence);
    }

    /// Completes a rebuilt header of this segment with what is known of the segments before it.
    pub(super) fn fill(&self, header: SegmentHeader) -> SegmentHeader {
        let sequence = header.sequence;
        let oldest = self.oldest.min(sequence);
        SegmentHeader {
            oldest,
            released: self.released.iter().copied().filter(|&gone| gone < sequence).collect(),
            ends: self.ends.range(oldest..sequence).map(|(_, end)| end.lsn).collect(),
            ..header
        }
    }
}
