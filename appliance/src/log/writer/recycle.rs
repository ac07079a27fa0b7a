//! The way out of the working set: which blocks are live, which segments may go, whose slot is used again (DESIGN section 7).
//!
//! The volume layer tells of each block when an index begins and ceases to point at it. From that the log knows which segments hold nothing live; it makes sure that what superseded them is stable, declares
//! them inactive, and gives their slots away when new segments need them.
//!
//! **The rule behind the bound of reconstruction:** segment k+1 is not opened before every segment up to k-W is inactive. So at any point in k everything live is
//! in the segments k-W to k. What must still be copied out of them is kept free in k, so that it always fits.
//!
//! **Another W** ([`Log::set_working_set`]) is the rule for the next segment that is opened. A longer one asks less of it. A shorter one is taken only when nothing live is left that it
//! would put out ([`Log::fits_within`]), so there is never more to copy into a segment than fits; until then copies of the class [`AppendClass::Drain`](super::AppendClass::Drain) make it so.

use super::{FREE_SLOTS_TARGET, Log, Recycling};
use crate::log::table::{Mask, Phase, Segment};
use crate::log::types::{Lsn, SegmentSeq, Slot};

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

    /// Live blocks, and masks, that must be copied forward before the next segment is opened.
    pub fn must_copy_blocks(&self) -> u64 {
        self.leaving_blocks(self.geometry.working_set)
    }

    /// The same if the working set had `segments` segments.
    pub fn leaving_blocks(&self, segments: u64) -> u64 {
        let Some(current) = self.current_sequence() else { return 0 };
        let first = self.table.first_in_use();
        // Up to k-W; that is one segment, or several for a working set that is to become shorter.
        let leaving = (first.0..(current.0 + 1).saturating_sub(segments)).map(SegmentSeq);
        leaving
            .filter_map(|sequence| self.table.get(sequence))
            .map(|segment| segment.live + segment.masks.len() as u64)
            .sum()
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
        self.pressed.set(false);
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
        self.wants_slot.set(false);
    }

    /// The oldest segment that holds something live, unless it is the current one.
    pub fn victim(&self) -> Option<(SegmentSeq, &Segment)> {
        let current = self.current_sequence()?;
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
        self.current_sequence().is_some_and(|current| sequence.0 + segments <= current.0)
    }

    /// Blocks of the current segment: how many are used, and how many it has for records.
    pub fn current_fill(&self) -> (u64, u64) {
        let pending = self.open.as_ref().map_or(0, |open| 1 + open.data_blocks as u64);
        let used = self.current.as_ref().map_or(0, |current| current.next_offset - 1 + pending);
        (used, self.geometry.record_blocks())
    }

    /// The segment's object is in the archive, verified.
    pub fn note_archived(&mut self, sequence: SegmentSeq) {
        if let Some(segment) = self.table.get_mut(sequence) {
            segment.archived = true;
        }
    }

    /// Recovery found an entry in the segment that hides something inherited which nothing newer hides.
    pub fn note_mask(&mut self, sequence: SegmentSeq, mask: Mask) {
        if let Some(segment) = self.table.get_mut(sequence) {
            segment.masks.push(mask);
        }
    }

    /// All masks of a segment stand in a later one now.
    pub fn masks_carried(&mut self, sequence: SegmentSeq) {
        if let Some(segment) = self.table.get_mut(sequence) {
            segment.masks = Vec::new();
        }
    }

    /// Keeps a segment's slot from being given away until [`unpin`](Self::unpin). Whether the segment is there.
    pub fn pin(&mut self, sequence: SegmentSeq) -> bool {
        let Some(segment) = self.table.get_mut(sequence).filter(|segment| segment.slot.is_some()) else {
            return false;
        };
        segment.pins += 1;
        true
    }

    /// The end of a [`pin`](Self::pin).
    pub fn unpin(&mut self, sequence: SegmentSeq) {
        if let Some(segment) = self.table.get_mut(sequence) {
            debug_assert!(segment.pins > 0, "a pin ends once");
            segment.pins = segment.pins.saturating_sub(1);
        }
    }

    /// Whether somebody waits for the next segment while copies must still go into this one.
    pub fn is_pressed(&self) -> bool {
        self.pressed.get()
    }

    /// Whether somebody waits for the next segment because no slot is free.
    pub fn wants_slot(&self) -> bool {
        self.wants_slot.get() && self.table.free_len() == 0
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
