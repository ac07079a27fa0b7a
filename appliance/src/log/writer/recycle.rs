//! The way out of the working set: which blocks are live, which segments may leave, and whose slot
//! is reused.
//!
//! The volume layer reports for each block when an index starts to point to it and when it stops.
//! From this the log knows which segments contain no live blocks. It makes sure that the writes
//! that replaced them are stable, marks the segments inactive, and reassigns their slots when new
//! segments need them.
//!
//! **Another W** ([`Log::set_working_set`]) applies to the next segment that is opened. A longer
//! working set requires less of it. A shorter one is accepted only when no live data is outside it
//! ([`Log::fits_within`]), so there is never more to copy into a segment than fits. Until then,
//! copies of the class [`AppendClass::Drain`](super::AppendClass::Drain) move the live data.

use std::collections::BTreeMap;

use super::Log;
use super::interface::{FREE_SLOTS_TARGET, Recycling};
use crate::log::table::{Mask, Phase, Segment};
use crate::log::types::{ImageId, Lsn, SegmentSeq, Slot};

impl Log {
    /// Sets what happens to segments that contain no live blocks. All live blocks must have been
    /// reported before.
    pub fn set_recycling(&mut self, recycling: Recycling) {
        self.orders.set_recycling(recycling);
        if self.orders.recycles() {
            // Segments that were inactive before a restart become inactive again at once.
            let current = self.current_sequence();
            self.table.retire(current, self.head_lsn(), self.stable_lsn());
            self.refresh_demand();
        }
    }

    /// Notes that an index now points to `lsn`.
    pub fn note_live(&mut self, lsn: Lsn) {
        self.table.count_live(self.identity.geometry().sequence_of(lsn));
    }

    /// Notes that an index now points to so many more blocks of each of these segments.
    pub fn note_live_in(&mut self, more: &BTreeMap<SegmentSeq, u64>) {
        for (&sequence, &blocks) in more {
            self.table.count_live_blocks(sequence, blocks);
        }
    }

    /// Notes that an index no longer points to `lsn`.
    pub fn note_dead(&mut self, lsn: Lsn) {
        self.table.count_dead(self.identity.geometry().sequence_of(lsn));
    }

    /// Changes the length of the working set, which applies to the next segment. A shorter one must
    /// [fit](Self::fits_within). The caller makes sure that recovery knows it: the superblocks must
    /// never contain a shorter length than one under which a segment was opened.
    pub fn set_working_set(&mut self, segments: u64) {
        self.identity.set_working_set(segments);
        self.why_busy.forget_copies();
        self.refresh_demand();
    }

    /// Adds new slots at the end of the device, up to `slots` in total. The superblocks must
    /// already contain them.
    pub fn grow_slots(&mut self, slots: u64) {
        self.table.add_free((self.identity.geometry().slots..slots).map(Slot));
        self.identity.grow_slots(slots);
        self.why_busy.forget_slot();
    }

    /// Notes that the segment's object is in the archive and verified.
    pub fn note_archived(&mut self, sequence: SegmentSeq) {
        self.table.note_archived(sequence);
    }

    /// Notes that the segment's object is not in the archive after all: its slot is not reassigned
    /// before it is archived again. Returns whether it counted as archived.
    pub fn note_unarchived(&mut self, sequence: SegmentSeq) -> bool {
        self.table.note_unarchived(sequence)
    }

    /// Notes that recovery found an entry in the segment that hides something inherited and is not
    /// replaced by a newer entry.
    pub fn note_mask(&mut self, sequence: SegmentSeq, mask: Mask) {
        self.table.add_mask(sequence, mask);
    }

    /// Notes that all masks of a segment have been copied to a later one.
    pub fn masks_carried(&mut self, sequence: SegmentSeq) {
        self.table.take_masks(sequence);
    }

    /// Notes that the image no longer inherits anything: its masks need not be copied forward.
    pub fn forget_masks(&mut self, image: ImageId) {
        self.table.forget_masks(image);
    }

    /// Protects a segment's slot from being reassigned until [`unpin`](Self::unpin). Returns
    /// whether the segment has a slot.
    pub fn pin(&mut self, sequence: SegmentSeq) -> bool {
        self.table.pin(sequence)
    }

    /// Ends a [`pin`](Self::pin).
    pub fn unpin(&mut self, sequence: SegmentSeq) {
        self.table.unpin(sequence);
    }

    /// Releases the oldest inactive segment although it is not in the archive, and returns its
    /// sequence: its history is lost.
    pub fn release_unarchived(&mut self) -> Option<SegmentSeq> {
        let sequence = self.table.next_to_release(|_, _| true)?;
        self.release(sequence);
        Some(sequence)
    }

    /// Marks segments inactive and reassigns slots, as far as needed. Returns how much was done.
    pub(super) fn recycle(&mut self) -> usize {
        if !self.orders.recycles() || self.health.is_poisoned() {
            return 0;
        }
        let mut work = 0;
        let current = self.current_sequence();
        if self.table.may_retire(current) {
            let (retired, wanted) = self.table.retire(current, self.head_lsn(), self.stable_lsn());
            self.stats.count_retired(retired);
            work += retired as usize;
            if let Some(lsn) = wanted {
                self.positions.request_stable(lsn);
            }
        }
        let archived = self.orders.recycling() == Recycling::Archived;
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
        self.stats.count_released(sequence != self.table.oldest());
        self.table.release(sequence);
    }
}
