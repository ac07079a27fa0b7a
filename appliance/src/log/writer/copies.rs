//! What must be copied forward, and whether it fits.
//!
//! **The rule for the bound of reconstruction:** segment k+1 is not opened before every segment up
//! to k-W is inactive. So at any point in k everything live is in the segments k-W to k. Room for
//! what must still be copied out of them is kept free in k, so it always fits.
//!
//! **Room for copies.** What leaves with one segment must fit into one. Blocks that only hosts
//! wrote always do. Where clones keep what they inherited, a block is live once for each of them,
//! and a stretch of segments may hold more than as many new ones take. Then copies begin before it
//! is their turn, and hosts leave them the room ([`Log::demand`]). A clone for which that is too
//! late is refused before it is made.
//!
//! **Room for hosts.** Every segment may be so full of copies that the largest command finds no
//! room beside them, because what may be live fits into fewer segments than there are. Then the
//! rest of the current segment is filled with copies from the next one that leaves, until one
//! leaves that is empty enough ([`WhyBusy::waits_for_room`](super::WhyBusy::waits_for_room)).

use std::collections::BTreeMap;

use super::Log;
use crate::log::format::ENTRIES_PER_RECORD;
use crate::log::table::Segment;
use crate::log::types::SegmentSeq;

impl Log {
    /// The segment before the next one: the current one, or the last of a log that ends with a full
    /// segment. What is live in it was copied in time then, unless something was lost since.
    fn newest_sequence(&self) -> Option<SegmentSeq> {
        self.current_sequence().or_else(|| self.table.iter().next_back().map(|(sequence, _)| sequence))
    }

    /// Live blocks, and masks, that must be copied forward before the next segment is opened.
    pub fn must_copy_blocks(&self) -> u64 {
        self.leaving_blocks(self.identity.geometry().working_set)
    }

    /// The same if the working set had `segments` segments.
    pub fn leaving_blocks(&self, segments: u64) -> u64 {
        let Some(current) = self.newest_sequence() else { return 0 };
        let first = self.table.first_in_use();
        // Up to k-W; that is one segment, or several for a working set that is to become shorter.
        let leaving = (first.0..(current.0 + 1).saturating_sub(segments)).map(SegmentSeq);
        leaving.filter_map(|sequence| self.table.get(sequence)).map(Segment::copies).sum()
    }

    /// Whether the segment must be empty before the next one is opened.
    pub fn must_leave(&self, sequence: SegmentSeq) -> bool {
        self.leaves(sequence, self.identity.geometry().working_set)
    }

    /// The same if the working set had `segments` segments.
    pub fn leaves(&self, sequence: SegmentSeq, segments: u64) -> bool {
        self.newest_sequence().is_some_and(|current| sequence.0 + segments <= current.0)
    }

    /// The oldest segment that holds something live, unless it is the current one.
    pub fn victim(&self) -> Option<(SegmentSeq, &Segment)> {
        let current = self.newest_sequence()?;
        let before = (self.table.first_in_use().0..current.0).map(SegmentSeq);
        let mut present = before.filter_map(|sequence| Some((sequence, self.table.get(sequence)?)));
        present.find(|(_, segment)| segment.copies() > 0)
    }

    /// Copies that must go into the current segment, so that each one after it takes what must be
    /// copied into it, if so many blocks more were live in segments: what must leave now, or what
    /// leaves with the next segments beyond the room that these have. Cost: a look at each segment
    /// in use.
    fn demand_blocks_with(&self, more: &BTreeMap<SegmentSeq, u64>) -> u64 {
        let current = self.current_sequence().unwrap_or(self.table.next_sequence());
        let working_set = self.identity.geometry().working_set;
        let room = self.copies_room_blocks();
        let first = more
            .keys()
            .next()
            .map_or(self.table.first_in_use(), |&first| first.min(self.table.first_in_use()));
        let (mut sum, mut most) = (0, 0);
        for sequence in (first.0..current.0).map(SegmentSeq) {
            let live = self.table.get(sequence).map_or(0, Segment::copies);
            sum += live + more.get(&sequence).copied().unwrap_or(0);
            let ahead = (sequence.0 + working_set).saturating_sub(current.0);
            most = most.max(u64::saturating_sub(sum, ahead * room));
        }
        most
    }

    /// Copies that must go into the current segment; 0 where that is never more than what must
    /// leave now. While it is more, this looks at each segment in use.
    pub fn demand(&self) -> u64 {
        if self.demand.blocks() > self.must_copy_blocks() {
            self.refresh_demand();
        }
        self.demand.blocks()
    }

    /// A segment may hold more that is live than it has blocks, from now on: something in it that
    /// was there has become live once more.
    pub fn watch_demand(&self) {
        self.demand.watch();
        self.refresh_demand();
    }

    /// Counts the demand anew. Only what becomes live in older segments, and the next segment,
    /// raise it.
    pub(super) fn refresh_demand(&self) {
        if self.demand.is_watched() {
            self.demand.set(self.demand_blocks_with(&BTreeMap::new()));
        }
    }

    /// Whether so many blocks more may become live in segments: what must be copied because of them
    /// fits, beside a catalog that names it.
    pub fn may_become_live(&self, more: &BTreeMap<SegmentSeq, u64>) -> bool {
        let demand = self.demand_blocks_with(more);
        let geometry = self.identity.geometry();
        let left = self.current.as_ref().map_or(geometry.record_blocks(), |current| {
            current.blocks_left(geometry, self.records.open_blocks())
        });
        // The catalog may have grown by a block.
        let catalog = with_headers(2 + self.catalog.blocks_max());
        demand == 0 || left >= catalog + with_headers(demand)
    }

    /// Copies that a new segment takes beside its catalog.
    fn copies_room_blocks(&self) -> u64 {
        let record_blocks = self.identity.geometry().record_blocks();
        let left = record_blocks.saturating_sub(with_headers(self.catalog.blocks_max()));
        left.saturating_sub(2 + left.div_ceil(1 + ENTRIES_PER_RECORD as u64))
    }

    /// Whether a command of a host finds no room in the next segment beside what must be copied
    /// into that, and would if less of it was left.
    pub(super) fn next_is_too_full(&self, data_blocks: usize) -> bool {
        let geometry = self.identity.geometry();
        let copies = self.leaving_blocks(geometry.working_set - 1);
        let catalog = with_headers(self.catalog.blocks_max());
        let taken = catalog + with_headers(copies) + self.event_room_blocks();
        copies > 0 && taken + 1 + data_blocks as u64 > geometry.record_blocks()
    }

    /// Whether the next segment could be opened, and everything before it that holds something live
    /// lay within a working set of `segments` segments. It stays so until the next segment is
    /// opened; what made it so is stable.
    pub fn fits_within(&self, segments: u64) -> bool {
        self.table.next_sequence().0 - self.table.first_in_use().0 <= segments
    }

    /// Blocks of the current segment: how many are used, and how many it has for records. Trims use
    /// entries of the trailer and hardly a block: what is used is what ends first.
    pub fn current_fill(&self) -> (u64, u64) {
        let geometry = self.identity.geometry();
        let room = geometry.record_blocks();
        let Some(current) = &self.current else { return (0, room) };
        let used = current.next_offset() - 1 + self.records.open_blocks();
        let units_left = current.units_left(geometry, self.records.open_units()) as u64;
        (used.max(room.saturating_sub(units_left)), room)
    }
}

/// Blocks, and the headers of the records that they are in.
pub(super) fn with_headers(blocks: u64) -> u64 {
    blocks + blocks.div_ceil(ENTRIES_PER_RECORD as u64) + 2 * u64::from(blocks > 0)
}
