//! The way out of the working set: which blocks are live, which segments may go, whose slot is used
//! again.
//!
//! The volume layer tells of each block when an index begins and ceases to point at it. From that the log knows which segments hold nothing live; it makes sure that what superseded them is stable, declares
//! them inactive, and gives their slots away when new segments need them.
//!
//! **The rule behind the bound of reconstruction:** segment k+1 is not opened before every segment up to k-W is inactive. So at any point in k everything live is
//! in the segments k-W to k. What must still be copied out of them is kept free in k, so that it always fits.
//!
//! **Room for copies.** What leaves with one segment must fit into one. Blocks that only hosts wrote always do. Where clones keep what they inherited, a block is live once for each of them, and a stretch of segments
//! may hold more than as many new ones take: then copies begin before it is their turn, and hosts leave them the room ([`Log::demand`]). A clone for which that is too late is refused before it is made.
//!
//! **Room for hosts.** Where every segment is so full of copies that the largest command finds no room beside them, the rest of the current one is filled with copies from the next that leaves, until one leaves
//! that is empty enough ([`WhyBusy::waits_for_room`]). That comes about because what may be live fits into fewer segments than there are.
//!
//! **Another W** ([`Log::set_working_set`]) is the rule for the next segment that is opened. A longer one asks less of it. A shorter one is taken only when nothing live is left that it
//! would put out ([`Log::fits_within`]), so there is never more to copy into a segment than fits; until then copies of the class [`AppendClass::Drain`](super::AppendClass::Drain) make it so.

use std::collections::BTreeMap;

use super::{FREE_SLOTS_TARGET, Log, Recycling, WhyBusy};
use crate::dma::BLOCK_BYTES;
use crate::log::format::ENTRIES_PER_RECORD;
use crate::log::table::{Mask, Phase, Segment};
use crate::log::types::{ImageId, Lsn, SegmentSeq, Slot};

impl Log {
    /// What becomes of segments in which nothing is live.
    pub fn recycling(&self) -> Recycling {
        self.recycling
    }

    /// Chooses what becomes of segments in which nothing is live. Liveness must have been told from the beginning.
    pub fn set_recycling(&mut self, recycling: Recycling) {
        self.recycling = recycling;
        if recycling != Recycling::Never {
            // What was inactive before a restart is so again, at once.
            let current = self.current_sequence();
            self.table.retire(current, self.head_lsn(), self.stable_lsn);
            self.refresh_demand();
        }
    }

    /// An index points at `lsn` now.
    pub fn note_live(&mut self, lsn: Lsn) {
        self.table.count_live(self.geometry.sequence_of(lsn));
    }

    /// An index points no more at `lsn`.
    pub fn note_dead(&mut self, lsn: Lsn) {
        self.table.count_dead(self.geometry.sequence_of(lsn));
    }

    /// The segment before the next one: the current one, or the last of a log that ends with a full
    /// segment. What is live in it was copied in time then, unless something was lost since.
    fn newest_sequence(&self) -> Option<SegmentSeq> {
        self.current_sequence().or_else(|| self.table.iter().next_back().map(|(sequence, _)| sequence))
    }

    /// Live blocks, and masks, that must be copied forward before the next segment is opened.
    pub fn must_copy_blocks(&self) -> u64 {
        self.leaving_blocks(self.geometry.working_set)
    }

    /// The same if the working set had `segments` segments.
    pub fn leaving_blocks(&self, segments: u64) -> u64 {
        let Some(current) = self.newest_sequence() else { return 0 };
        let first = self.table.first_in_use();
        // Up to k-W; that is one segment, or several for a working set that is to become shorter.
        let leaving = (first.0..(current.0 + 1).saturating_sub(segments)).map(SegmentSeq);
        leaving
            .filter_map(|sequence| self.table.get(sequence))
            .map(|segment| segment.live + segment.masks.len() as u64)
            .sum()
    }

    /// Copies that must go into the current segment, so that each one behind it takes what must be copied into it, if so many blocks more were live in segments: what must leave now, or what leaves with the next
    /// segments beyond the room that these have. Cost: a look at each segment in use.
    fn demand_blocks_with(&self, more: &BTreeMap<SegmentSeq, u64>) -> u64 {
        let current = self.current_sequence().unwrap_or(self.table.next_sequence());
        let room = self.copies_room_blocks();
        let first = more
            .keys()
            .next()
            .map_or(self.table.first_in_use(), |&first| first.min(self.table.first_in_use()));
        let (mut sum, mut most) = (0, 0);
        for sequence in (first.0..current.0).map(SegmentSeq) {
            let live =
                self.table.get(sequence).map_or(0, |segment| segment.live + segment.masks.len() as u64);
            sum += live + more.get(&sequence).copied().unwrap_or(0);
            let ahead = (sequence.0 + self.geometry.working_set).saturating_sub(current.0);
            most = most.max(u64::saturating_sub(sum, ahead * room));
        }
        most
    }

    /// Copies that must go into the current segment; 0 where that is never more than what must leave now. While it is more, this looks at each segment in use.
    pub fn demand(&self) -> u64 {
        if self.demand.blocks() > self.must_copy_blocks() {
            self.refresh_demand();
        }
        self.demand.blocks()
    }

    /// A segment may hold more that is live than it has blocks, from now on: something in it that was there has become live once more.
    pub fn watch_demand(&self) {
        self.demand.watch();
        self.refresh_demand();
    }

    /// Only what becomes live in older segments, and the next segment, raise the demand.
    pub(super) fn refresh_demand(&self) {
        if self.demand.is_watched() {
            self.demand.set(self.demand_blocks_with(&BTreeMap::new()));
        }
    }

    /// Whether so many blocks more may become live in segments: what must be copied because of them fits, beside a catalog that tells of it.
    pub fn may_become_live(&self, more: &BTreeMap<SegmentSeq, u64>) -> bool {
        let demand = self.demand_blocks_with(more);
        let left = self.current.as_ref().map_or(self.geometry.record_blocks(), |current| {
            let pending = self.open.as_ref().map_or(0, |open| 1 + open.data_blocks as u64);
            self.geometry.data_end().saturating_sub(current.next_offset + pending)
        });
        // The catalog may have grown by a block.
        let catalog = with_headers(2 + self.catalog_blocks());
        demand == 0 || left >= catalog + with_headers(demand)
    }

    /// Copies that a new segment takes beside its catalog.
    fn copies_room_blocks(&self) -> u64 {
        let left = self.geometry.record_blocks().saturating_sub(with_headers(self.catalog_blocks()));
        left.saturating_sub(2 + left.div_ceil(1 + ENTRIES_PER_RECORD as u64))
    }

    /// Both copies of the catalog.
    pub(super) fn catalog_blocks(&self) -> u64 {
        2 * self.catalog_bytes_max.div_ceil(BLOCK_BYTES) as u64
    }

    /// Whether a command of a host finds no room in the next segment beside what must be copied into that, and would if less of it was left.
    pub(super) fn next_is_too_full(&self, data_blocks: usize) -> bool {
        let copies = self.leaving_blocks(self.geometry.working_set - 1);
        let taken = with_headers(self.catalog_blocks()) + with_headers(copies) + self.event_room_blocks();
        copies > 0 && taken + 1 + data_blocks as u64 > self.geometry.record_blocks()
    }

    /// Whether the next segment could be opened, and everything before it that holds something live lay within a working set of `segments` segments. It stays so until
    /// the next segment is opened; what made it so is stable.
    pub fn fits_within(&self, segments: u64) -> bool {
        self.table.next_sequence().0 - self.table.first_in_use().0 <= segments
    }

    /// Changes the length of the working set: the rule for the next segment. A shorter one must [fit](Self::fits_within). The caller sees to it that recovery knows: the
    /// superblocks must never tell a shorter one than a segment was opened under.
    pub fn set_working_set(&mut self, segments: u64) {
        self.geometry.working_set = segments;
        self.why_busy.forget_copies();
        self.refresh_demand();
    }

    /// Lets nobody open the next segment for as long as this is set: what has been drained becomes inactive first, which takes a flush. Otherwise a shorter working set might come one segment too late
    /// again and again.
    pub fn hold_next_segment(&mut self, held: bool) {
        self.held = held;
    }

    /// Takes in slots that are new at the end of the device, up to `slots` in all. The superblocks must know them already.
    pub fn grow_slots(&mut self, slots: u64) {
        self.table.add_free((self.geometry.slots..slots).map(Slot));
        self.geometry.slots = self.geometry.slots.max(slots);
        self.why_busy.forget_slot();
    }

    /// The oldest segment that holds something live, unless it is the current one.
    pub fn victim(&self) -> Option<(SegmentSeq, &Segment)> {
        let current = self.newest_sequence()?;
        let first = self.table.first_in_use();
        (first.0..current.0).find_map(|sequence| {
            let sequence = SegmentSeq(sequence);
            self.table
                .get(sequence)
                .filter(|segment| segment.live > 0 || !segment.masks.is_empty())
                .map(|segment| (sequence, segment))
        })
    }

    /// Whether the segment must be empty before the next one is opened.
    pub fn must_leave(&self, sequence: SegmentSeq) -> bool {
        self.leaves(sequence, self.geometry.working_set)
    }

    /// The same if the working set had `segments` segments.
    pub fn leaves(&self, sequence: SegmentSeq, segments: u64) -> bool {
        self.newest_sequence().is_some_and(|current| sequence.0 + segments <= current.0)
    }

    /// Blocks of the current segment: how many are used, and how many it has for records.
    pub fn current_fill(&self) -> (u64, u64) {
        let pending = self.open.as_ref().map_or(0, |open| 1 + open.data_blocks as u64);
        let used = self.current.as_ref().map_or(0, |current| current.next_offset - 1 + pending);
        (used, self.geometry.record_blocks())
    }

    /// The segment's object is in the archive, verified.
    pub fn note_archived(&mut self, sequence: SegmentSeq) {
        self.table.note_archived(sequence);
    }

    /// The segment's object is not in the archive after all: its slot is not given away before it is archived again. Whether it was taken for archived.
    pub fn note_unarchived(&mut self, sequence: SegmentSeq) -> bool {
        self.table.note_unarchived(sequence)
    }

    /// Recovery found an entry in the segment that hides something inherited which nothing newer hides.
    pub fn note_mask(&mut self, sequence: SegmentSeq, mask: Mask) {
        self.table.add_mask(sequence, mask);
    }

    /// All masks of a segment stand in a later one now.
    pub fn masks_carried(&mut self, sequence: SegmentSeq) {
        self.table.take_masks(sequence);
    }

    /// The image inherits nothing any more: its masks need not be carried on.
    pub fn forget_masks(&mut self, image: ImageId) {
        self.table.forget_masks(image);
    }

    /// Keeps a segment's slot from being given away until [`unpin`](Self::unpin). Whether the segment is there.
    pub fn pin(&mut self, sequence: SegmentSeq) -> bool {
        self.table.pin(sequence)
    }

    /// The end of a [`pin`](Self::pin).
    pub fn unpin(&mut self, sequence: SegmentSeq) {
        self.table.unpin(sequence);
    }

    /// What appends wait for, if they do.
    pub fn why_busy(&self) -> WhyBusy {
        self.why_busy.with_free_slots(self.table.free_len())
    }

    /// Gives a segment away although it is not in the archive: the past in it is lost. The oldest inactive one; its sequence.
    pub fn release_unarchived(&mut self) -> Option<SegmentSeq> {
        let sequence = self.table.next_to_release(|_, _| true)?;
        self.release(sequence);
        Some(sequence)
    }

    /// Declares segments inactive and gives slots away, as far as that is wanted. Returns how much was done.
    pub(super) fn recycle(&mut self) -> usize {
        if self.recycling == Recycling::Never || self.poisoned.is_some() {
            return 0;
        }
        let mut work = 0;
        let current = self.current_sequence();
        if self.table.may_retire(current) {
            let (retired, wanted) = self.table.retire(current, self.head_lsn(), self.stable_lsn);
            self.stats.retired_segments += retired;
            work += retired as usize;
            if let Some(lsn) = wanted {
                self.request_stable(lsn);
            }
        }
        let archived = self.recycling == Recycling::Archived;
        while self.table.free_len() < FREE_SLOTS_TARGET {
            let may_go = |_, segment: &Segment| !archived || segment.archived || segment.slot.is_none();
            let Some(sequence) = self.table.next_to_release(may_go) else { break };
            self.release(sequence);
            work += 1;
        }
        work
    }

    fn release(&mut self, sequence: SegmentSeq) {
        debug_assert_eq!(self.table.get(sequence).map(|segment| segment.phase), Some(Phase::Inactive));
        self.stats.released_segments += 1;
        self.stats.released_early_segments += u64::from(sequence != self.table.oldest());
        self.table.release(sequence);
    }
}

/// Blocks, and the headers of the records that they stand in.
pub(super) fn with_headers(blocks: u64) -> u64 {
    blocks + blocks.div_ceil(ENTRIES_PER_RECORD as u64) + 2 * u64::from(blocks > 0)
}
