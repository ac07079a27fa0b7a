//! The segment that currently accepts records.
//!
//! **Invariants.** Its records follow each other from its header on: `next_offset` is where the
//! next one begins, never after the end of the room for records. `units` are the lines and entries
//! of these records, in this order, never more than its trailer holds.

use crate::log::format::{Entry, Opening, RecordLine, TrailerUnit};
use crate::log::geometry::Geometry;
use crate::log::types::{Lsn, SegmentSeq, Slot};

/// The current segment. See the module's documentation.
pub(in crate::log) struct CurrentSegment {
    sequence: SegmentSeq,
    slot: Slot,
    epoch: u32,
    /// Where the records of the previous segment end; `None` if that is no longer known.
    previous_end_lsn: Option<Lsn>,
    next_offset: u64,
    units: Vec<TrailerUnit>,
}

impl CurrentSegment {
    /// A segment with the units of its records so far, which end at `next_offset`.
    pub(in crate::log) fn new(
        sequence: SegmentSeq,
        slot: Slot,
        epoch: u32,
        previous_end_lsn: Option<Lsn>,
        next_offset: u64,
        units: Vec<TrailerUnit>,
    ) -> Self {
        CurrentSegment { sequence, slot, epoch, previous_end_lsn, next_offset, units }
    }

    /// Its sequence.
    pub(in crate::log) fn sequence(&self) -> SegmentSeq {
        self.sequence
    }

    /// Its slot on the device.
    pub(in crate::log) fn slot(&self) -> Slot {
        self.slot
    }

    /// The epoch of its header.
    pub(in crate::log) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The offset at which the next record begins.
    pub(in crate::log) fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// Whether it has no records.
    pub(in crate::log) fn is_empty(&self) -> bool {
        self.next_offset == 1
    }

    /// The lines and entries of its records.
    pub(in crate::log) fn units(&self) -> &[TrailerUnit] {
        &self.units
    }

    /// Splits it into the data for its trailer: its sequence, its slot, its epoch and its units.
    pub(in crate::log) fn into_parts(self) -> (SegmentSeq, Slot, u32, Vec<TrailerUnit>) {
        (self.sequence, self.slot, self.epoch, self.units)
    }

    /// How many blocks are left for records after `pending` more.
    pub(in crate::log) fn blocks_left(&self, geometry: &Geometry, pending: u64) -> u64 {
        geometry.data_end().saturating_sub(self.next_offset + pending)
    }

    /// How many units are left in the trailer after `pending` more.
    pub(in crate::log) fn units_left(&self, geometry: &Geometry, pending: usize) -> usize {
        geometry.trailer_units().saturating_sub(self.units.len() + pending)
    }

    /// The entry that repeats the segment's header, if the next record is the segment's first.
    pub(in crate::log) fn opening(&self, oldest: SegmentSeq) -> Option<Entry> {
        let previous_end_lsn = self.previous_end_lsn.filter(|_| self.is_empty())?;
        Some(Entry::opening(Opening { epoch: self.epoch, oldest, previous_end_lsn }))
    }

    /// Adds a record that was closed.
    pub(in crate::log) fn push_record(&mut self, geometry: &Geometry, line: RecordLine, entries: &[Entry]) {
        self.units.push(zerocopy::transmute!(line));
        self.units.extend(entries.iter().map(|entry| -> TrailerUnit { zerocopy::transmute!(*entry) }));
        self.next_offset += 1 + line.data_blocks();
        assert!(
            self.next_offset <= geometry.data_end() && self.units.len() <= geometry.trailer_units(),
            "a record fits its segment"
        );
    }

    /// The units of records from `from` on that end before `to`, and where they end.
    pub(in crate::log) fn units_between(&self, from: Lsn, to: Lsn) -> (Vec<TrailerUnit>, Lsn) {
        let (mut units, mut end, mut at) = (Vec::new(), from, 0);
        while let Some(unit) = self.units.get(at) {
            let line: RecordLine = zerocopy::transmute!(*unit);
            let next = at + 1 + line.entries();
            if line.end_lsn() > to {
                break;
            }
            if line.lsn() >= from {
                units.extend_from_slice(&self.units[at..next]);
                end = line.end_lsn();
            }
            at = next;
        }
        (units, end)
    }
}
