//! What must be copied forward, and whether it fits.
//!
//! **The rule for the bound of reconstruction:** segment k+1 is not opened before every segment up
//! to k-W is inactive. So at any point in k all live data is in the segments k-W to k. Segment k
//! keeps room for everything that must still be copied out of these segments, so it always fits.
//!
//! **Room for copies.** The live data of one leaving segment must fit into one segment. Blocks that
//! only hosts wrote always fit. When clones keep what they inherited, a block is live once for each
//! of them, and a range of segments may hold more than the same number of new segments can take. In
//! that case copying begins early, and hosts leave the room for it ([`Log::demand`]). A clone for
//! which it is too late is refused before it is made.
//!
//! **Room for hosts.** Every segment may be so full of copies that the largest command finds no
//! room beside them, because the live data may fit into fewer segments than there are. In that case
//! the rest of the current segment is filled with copies from the next segment that leaves, until
//! one leaves that is empty enough ([`WhyBusy::waits_for_room`](super::WhyBusy::waits_for_room)).

use std::collections::BTreeMap;

use super::Log;
use crate::log::format::ENTRIES_PER_RECORD;
use crate::log::table::Segment;
use crate::log::types::SegmentSeq;

impl Log {
    /// The segment before the next one: the current one, or the last of a log that ends with a full
    /// segment. Its live data was copied in time, unless something has been lost since.
    fn newest_sequence(&self) -> Option<SegmentSeq> {
        self.current_sequence().or_else(|| self.table.iter().next_back().map(|(sequence, _)| sequence))
    }

    /// The live blocks and masks that must be copied forward before the next segment is opened.
    pub fn must_copy_blocks(&self) -> u64 {
        self.leaving_blocks(self.identity.geometry().working_set)
    }

    /// The same for a working set of `segments` segments.
    pub fn leaving_blocks(&self, segments: u64) -> u64 {
        let Some(current) = self.newest_sequence() else { return 0 };
        let first = self.table.first_in_use();
        // Up to k-W: one segment, or several if the working set is being shortened.
        let leaving = (first.0..(current.0 + 1).saturating_sub(segments)).map(SegmentSeq);
        leaving.filter_map(|sequence| self.table.get(sequence)).map(Segment::copies).sum()
    }

    /// Whether the segment must be empty before the next one is opened.
    pub fn must_leave(&self, sequence: SegmentSeq) -> bool {
        self.leaves(sequence, self.identity.geometry().working_set)
    }

    /// The same for a working set of `segments` segments.
    pub fn leaves(&self, sequence: SegmentSeq, segments: u64) -> bool {
        self.newest_sequence().is_some_and(|current| sequence.0 + segments <= current.0)
    }

    /// The oldest segment with live data, unless it is the current one.
    pub fn victim(&self) -> Option<(SegmentSeq, &Segment)> {
        let current = self.newest_sequence()?;
        let before = (self.table.first_in_use().0..current.0).map(SegmentSeq);
        let mut present = before.filter_map(|sequence| Some((sequence, self.table.get(sequence)?)));
        present.find(|(_, segment)| segment.copies() > 0)
    }

    /// How many copies must go into the current segment, or the next one if there is none, so that
    /// every later segment can take the copies that it must take, if `more` blocks were live in
    /// addition. This covers what must leave now, and what leaves with the next segments beyond
    /// their room. Cost: one step for each segment in use.
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

    /// How many copies must go into the current segment; 0 if this is never more than what must
    /// leave now. While it is more, each call visits every segment in use.
    ///
    /// Without a current segment it is 0 too: the newest one is full, and a crash took the next one.
    /// Nothing can be copied before that is opened, and the demand is then for it.
    pub fn demand(&self) -> u64 {
        if self.current.is_none() {
            return 0;
        }
        // Nearly always nothing is demanded, and then what must leave does not matter.
        if self.demand.blocks() > 0 && self.demand.blocks() > self.must_copy_blocks() {
            self.refresh_demand();
        }
        self.demand.blocks()
    }

    /// From now on a segment may hold more live data than it has blocks: a block in it has become
    /// live once more.
    pub fn watch_demand(&self) {
        self.demand.watch();
        self.refresh_demand();
    }

    /// Recomputes the demand. Only blocks that become live in older segments, and the next segment,
    /// raise it.
    pub(super) fn refresh_demand(&self) {
        if self.demand.is_watched() {
            self.demand.set(self.demand_blocks_with(&BTreeMap::new()));
        }
    }

    /// Whether `more` blocks may become live: the resulting copies fit, beside a catalog that names
    /// the clone.
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

    /// How many copies a new segment can take beside its catalog.
    fn copies_room_blocks(&self) -> u64 {
        let record_blocks = self.identity.geometry().record_blocks();
        let left = record_blocks.saturating_sub(with_headers(self.catalog.blocks_max()));
        left.saturating_sub(2 + left.div_ceil(1 + ENTRIES_PER_RECORD as u64))
    }

    /// Whether a host's command finds no room in the next segment beside the copies that must go
    /// there, but would if fewer were left.
    pub(super) fn next_is_too_full(&self, data_blocks: usize) -> bool {
        let geometry = self.identity.geometry();
        let copies = self.leaving_blocks(geometry.working_set - 1);
        let catalog = with_headers(self.catalog.blocks_max());
        let taken = catalog + with_headers(copies) + self.event_room_blocks();
        copies > 0 && taken + 1 + data_blocks as u64 > geometry.record_blocks()
    }

    /// Whether the next segment could be opened with a working set of `segments` segments: all
    /// segments with live data before it are within that length. It stays true until the next
    /// segment is opened; the writes that made it true are stable.
    pub fn fits_within(&self, segments: u64) -> bool {
        self.table.next_sequence().0 - self.table.first_in_use().0 <= segments
    }

    /// How full the current segment is, in blocks: used, and available for records. Trims use
    /// trailer entries and hardly any blocks, so the scarcer resource counts.
    pub fn current_fill(&self) -> (u64, u64) {
        let geometry = self.identity.geometry();
        let room = geometry.record_blocks();
        let Some(current) = &self.current else { return (0, room) };
        let used = current.next_offset() - 1 + self.records.open_blocks();
        let units_left = current.units_left(geometry, self.records.open_units()) as u64;
        (used.max(room.saturating_sub(units_left)), room)
    }
}

/// Blocks plus the headers of the records that contain them.
pub(super) fn with_headers(blocks: u64) -> u64 {
    blocks + blocks.div_ceil(ENTRIES_PER_RECORD as u64) + 2 * u64::from(blocks > 0)
}
