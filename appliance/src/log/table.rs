//! The segment table: which segment is in which slot, and in which state (R4).
//!
//! Sequences are contiguous from the oldest kept to the current one, so the table is a queue indexed by sequence. The map from sequence to slot is what the rest of
//! the log uses; nothing computes a slot from a sequence, so segments may one day leave in any order.

use std::collections::VecDeque;

use super::types::{Lsn, SegmentSeq, Slot};

/// One segment on the primary device.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Where it is; `None` for one that recovery could not find.
    pub slot: Option<Slot>,
    /// The epoch of its header.
    pub epoch: u32,
    /// When it was opened, ns since the Unix epoch.
    pub opened_ns: u64,
    /// Where its records end.
    pub end_lsn: Lsn,
    /// Entries in it.
    pub entries: u64,
    /// Whether its trailer is on the device.
    pub sealed: bool,
    /// What is wrong with it, in words.
    pub problems: Vec<String>,
}

/// The table.
#[derive(Debug, Default)]
pub struct SegmentTable {
    oldest: u64,
    segments: VecDeque<Segment>,
    free: VecDeque<Slot>,
}

impl SegmentTable {
    /// A table that begins with `oldest`, empty, with all of `free` free.
    pub fn new(oldest: SegmentSeq, free: impl IntoIterator<Item = Slot>) -> Self {
        SegmentTable { oldest: oldest.0, segments: VecDeque::new(), free: free.into_iter().collect() }
    }

    /// The oldest segment kept.
    pub fn oldest(&self) -> SegmentSeq {
        SegmentSeq(self.oldest)
    }

    /// The sequence that the next segment will have.
    pub fn next_sequence(&self) -> SegmentSeq {
        SegmentSeq(self.oldest + self.segments.len() as u64)
    }

    /// Segments kept.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether no segment is kept.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Slots that are free.
    pub fn free(&self) -> impl Iterator<Item = Slot> + '_ {
        self.free.iter().copied()
    }

    /// How many slots are free.
    pub fn free_len(&self) -> usize {
        self.free.len()
    }

    /// A segment.
    pub fn get(&self, sequence: SegmentSeq) -> Option<&Segment> {
        self.segments.get(usize::try_from(sequence.0.checked_sub(self.oldest)?).ok()?)
    }

    /// A segment, to change.
    pub fn get_mut(&mut self, sequence: SegmentSeq) -> Option<&mut Segment> {
        self.segments.get_mut(usize::try_from(sequence.0.checked_sub(self.oldest)?).ok()?)
    }

    /// The slot of a segment.
    pub fn slot(&self, sequence: SegmentSeq) -> Option<Slot> {
        self.get(sequence)?.slot
    }

    /// All segments, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (SegmentSeq, &Segment)> {
        self.segments
            .iter()
            .enumerate()
            .map(|(index, segment)| (SegmentSeq(self.oldest + index as u64), segment))
    }

    /// Takes a free slot for the next sequence.
    pub fn open(&mut self, epoch: u32, opened_ns: u64, first_lsn: Lsn) -> Option<(SegmentSeq, Slot)> {
        let slot = self.free.pop_front()?;
        let sequence = self.next_sequence();
        self.push(Segment {
            slot: Some(slot),
            epoch,
            opened_ns,
            end_lsn: first_lsn.plus(1),
            entries: 0,
            sealed: false,
            problems: Vec::new(),
        });
        Some((sequence, slot))
    }

    /// Adds a segment that recovery found, as the next sequence.
    pub fn push(&mut self, segment: Segment) {
        self.segments.push_back(segment);
    }
}
