//! The entries of a segment in memory, with their positions, and the ranges whose entries are
//! unknown.
//!
//! **Invariant.** Every line is followed by all of its entries, and ends at a position that the log
//! can have: other units are dropped. So positions of entries do not overflow.

use zerocopy::FromBytes;

use super::format::{Entry, RecordLine, TrailerUnit};
use super::types::Lsn;

/// A range of the log: the first LSN, and the LSN after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LsnRange {
    /// The first position.
    pub start: Lsn,
    /// The position after the last.
    pub end: Lsn,
}

/// The entries of a segment, in memory.
#[derive(Debug, Default)]
pub struct SegmentEntries {
    units: Vec<TrailerUnit>,
    /// For each record, the index of its line in `units`.
    lines: Vec<u32>,
}

/// An entry with its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedEntry {
    /// The entry.
    pub entry: Entry,
    /// Its position: the LSN of its data block. For an entry without data, the LSN of the newest
    /// block before it in its record.
    pub lsn: Lsn,
    /// The time of its record, ns since the Unix epoch.
    pub time_ns: u64,
}

impl SegmentEntries {
    /// Takes the units of a trailer. Units that do not form whole records, or whose positions the
    /// log cannot have, are dropped with all that follow; the trailer's checksum rules them out.
    pub fn new(units: Vec<TrailerUnit>) -> Self {
        let mut lines = Vec::new();
        let mut at = 0;
        while at < units.len() {
            let line: RecordLine = zerocopy::transmute!(units[at]);
            let is_whole = at + line.entries() < units.len() + usize::from(line.entries() == 0);
            if !is_whole || line.end_lsn() > Lsn::MAX {
                break;
            }
            lines.push(at as u32);
            at += 1 + line.entries();
        }
        SegmentEntries { units, lines }
    }

    /// Returns the units.
    pub fn into_units(self) -> Vec<TrailerUnit> {
        self.units
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// A record: its line and its entries.
    ///
    /// # Panics
    /// When there is no such record.
    pub fn record(&self, index: usize) -> (RecordLine, &[Entry]) {
        let at = self.lines[index] as usize;
        let line: RecordLine = zerocopy::transmute!(self.units[at]);
        let bytes = self.units[at + 1..=at + line.entries()].as_flattened();
        let entries = <[Entry]>::ref_from_bytes(bytes).expect("units are entries");
        (line, entries)
    }

    /// All records, oldest first.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = (RecordLine, &[Entry])> {
        (0..self.len()).map(|index| self.record(index))
    }

    /// The ranges between `from` and `to` that no record covers: their entries are unknown. The
    /// records of a segment follow each other without a hole, starting at the block after its
    /// header, so this is empty for a complete segment.
    pub fn holes(&self, from: Lsn, to: Lsn) -> Vec<LsnRange> {
        let mut holes = Vec::new();
        let mut at = from;
        for (line, _) in self.records() {
            if line.lsn() > at && at < to {
                holes.push(LsnRange { start: at, end: line.lsn().min(to) });
            }
            at = at.max(line.end_lsn());
        }
        if at < to {
            holes.push(LsnRange { start: at, end: to });
        }
        holes
    }

    /// The entries of a record with their positions, oldest first.
    pub fn placed(line: RecordLine, entries: &[Entry]) -> impl Iterator<Item = PlacedEntry> {
        let mut lsn = line.lsn();
        entries.iter().map(move |&entry| {
            if entry.has_data() {
                lsn = lsn.plus(1);
            }
            PlacedEntry { entry, lsn, time_ns: line.time_ns() }
        })
    }

    /// The entries of a record with their positions, newest first.
    pub fn placed_backward(line: RecordLine, entries: &[Entry]) -> impl Iterator<Item = PlacedEntry> {
        let mut next = line.lsn().plus(line.data_blocks());
        entries.iter().rev().map(move |&entry| {
            let lsn = next;
            // A line with fewer blocks than its entries have is damage that its checksum missed.
            if entry.has_data() {
                next = Lsn(lsn.0.saturating_sub(1));
            }
            PlacedEntry { entry, lsn, time_ns: line.time_ns() }
        })
    }

    /// The records that have an entry after `after` and may have one at or before `up_to`.
    pub fn records_between(&self, after: Lsn, up_to: Lsn) -> std::ops::Range<usize> {
        let from = self.lines_while(|line| line.end_lsn() <= after.plus(1));
        from..self.lines_while(|line| line.lsn() <= up_to).max(from)
    }

    /// How many lines from the first on match.
    fn lines_while(&self, is_before: impl Fn(RecordLine) -> bool) -> usize {
        self.lines.partition_point(|&at| is_before(zerocopy::transmute!(self.units[at as usize])))
    }

    /// Where the last record ends; LSN 0 if there is none.
    pub fn end_lsn(&self) -> Lsn {
        self.len().checked_sub(1).map_or(Lsn(0), |last| self.record(last).0.end_lsn())
    }

    /// The line of the record whose header is at `lsn`.
    pub fn line_at(&self, lsn: Lsn) -> Option<RecordLine> {
        let index = self.lines_while(|line| line.lsn() < lsn);
        (index < self.len()).then(|| self.record(index).0).filter(|line| line.lsn() == lsn)
    }

    /// The entry whose data block is at `lsn`.
    pub fn at(&self, lsn: Lsn) -> Option<PlacedEntry> {
        let index = self.lines_while(|line| line.lsn() < lsn);
        let (line, entries) = self.record(index.checked_sub(1)?);
        SegmentEntries::placed(line, entries).find(|placed| placed.lsn == lsn && placed.entry.has_data())
    }

    /// Calls `visit` for each entry at or before `up_to`, newest first, until it returns `false`.
    pub fn visit_backward(&self, up_to: Lsn, mut visit: impl FnMut(PlacedEntry) -> bool) {
        for (line, entries) in self.records().rev() {
            if line.lsn() > up_to {
                continue;
            }
            for placed in SegmentEntries::placed_backward(line, entries) {
                if placed.lsn <= up_to && !visit(placed) {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::types::{BlockNumber, ImageId};

    /// A record with `data_blocks` data blocks at `lsn`, as units.
    fn record(lsn: u64, data_blocks: u8) -> Vec<TrailerUnit> {
        let line = RecordLine::new(Lsn(lsn), 7, data_blocks, data_blocks, 1);
        let entry = Entry::write(ImageId(1), BlockNumber(lsn & 0xff), 3, Lsn(0), true);
        let mut units: Vec<TrailerUnit> = vec![zerocopy::transmute!(line)];
        units.extend((0..data_blocks).map(|_| -> TrailerUnit { zerocopy::transmute!(entry) }));
        units
    }

    #[test]
    fn positions_that_no_log_has_are_dropped_and_nothing_overflows() {
        let count = |units: Vec<Vec<TrailerUnit>>| SegmentEntries::new(units.concat()).len();
        let last = Lsn::MAX.0 - 3;
        assert_eq!(count(vec![record(1, 2), record(last, 2)]), 2);
        assert_eq!(count(vec![record(1, 2), record(last, 3), record(9, 1)]), 1);
        assert_eq!(count(vec![record(u64::MAX, 2)]), 0);
        // Fewer blocks than its entries have, at the first position.
        let line = RecordLine::new(Lsn(0), 7, 2, 0, 1);
        let mut units = record(1, 2);
        units[0] = zerocopy::transmute!(line);
        let entries = SegmentEntries::new(units);
        let mut seen = Vec::new();
        entries.visit_backward(Lsn::MAX, |placed| {
            seen.push(placed.lsn.0);
            true
        });
        assert_eq!(seen, [0, 0]);
        let (line, list) = entries.record(0);
        let placed: Vec<u64> = SegmentEntries::placed(line, list).map(|placed| placed.lsn.0).collect();
        assert_eq!(placed, [1, 2]);
    }

    #[test]
    fn holes_are_what_no_record_covers() {
        let holes = |units: Vec<Vec<TrailerUnit>>, from: u64, to: u64| -> Vec<(u64, u64)> {
            let found = SegmentEntries::new(units.concat()).holes(Lsn(from), Lsn(to));
            found.iter().map(|hole| (hole.start.0, hole.end.0)).collect()
        };
        assert_eq!(holes(vec![record(1, 2), record(4, 1)], 1, 6), []);
        assert_eq!(holes(vec![record(1, 2), record(6, 1)], 1, 8), [(4, 6)]);
        assert_eq!(holes(vec![record(3, 2)], 1, 8), [(1, 3), (6, 8)]);
        assert_eq!(holes(vec![], 1, 8), [(1, 8)]);
        assert_eq!(holes(vec![record(9, 1)], 1, 4), [(1, 4)]);
    }
}
