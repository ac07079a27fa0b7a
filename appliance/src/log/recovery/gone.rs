//! What the headers say of segments that need not be on the device: those before the oldest that
//! was kept, and those that were released before their turn.
//!
//! What a header says of this stays true even if the log was cut off before it: the copies that
//! made it so were stable before a slot was given away.
//!
//! **Invariant.** No released segment comes before the oldest one that was kept.

use std::collections::{BTreeMap, BTreeSet};

use super::slots::FoundSegment;
use crate::log::format::SegmentHeader;
use crate::log::geometry::Geometry;
use crate::log::scan::ExpectedEnd;
use crate::log::types::{Lsn, SegmentSeq};

/// What is gone. See the module's documentation.
#[derive(Default)]
pub(super) struct Gone {
    /// The oldest segment that was kept.
    oldest: SegmentSeq,
    /// Segments after it that were released before their turn.
    released: BTreeSet<SegmentSeq>,
    /// Where segments end whose next one was released, as the newest header says.
    ends: BTreeMap<SegmentSeq, ExpectedEnd>,
}

impl Gone {
    /// What the headers of all segments that were found say together.
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

    /// Whether a segment was released before its turn.
    pub(super) fn is_released(&self, sequence: SegmentSeq) -> bool {
        self.released.contains(&sequence)
    }

    /// Whether a segment is gone, whatever is still found of it.
    pub(super) fn contains(&self, sequence: SegmentSeq) -> bool {
        sequence < self.oldest || self.is_released(sequence)
    }

    /// Where a segment ends whose next one was released.
    pub(super) fn end_of(&self, sequence: SegmentSeq) -> Option<ExpectedEnd> {
        self.ends.get(&sequence).copied()
    }

    /// Nobody knows what is gone before this segment: the log begins with it.
    pub(super) fn begin_at(&mut self, oldest: SegmentSeq) {
        self.oldest = oldest;
    }

    /// The slot of a segment had been given away before its turn.
    pub(super) fn note_released(&mut self, sequence: SegmentSeq) {
        debug_assert!(sequence >= self.oldest);
        self.released.insert(sequence);
    }

    /// Makes the header of this segment again: it says of segments before it what is known of them.
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
