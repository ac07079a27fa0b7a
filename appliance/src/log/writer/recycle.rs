//! The way out of the working set: which blocks are live, which segments may go, whose slot is used
//! again.
//!
//! The volume layer reports of each block when an index begins and ceases to point at it. From that
//! the log knows which segments hold nothing live. It makes sure that what superseded them is
//! stable, declares them inactive, and gives their slots away when new segments need them.
//!
//! **Another W** ([`Log::set_working_set`]) is the rule for the next segment that is opened. A
//! longer one asks less of it. A shorter one is taken only when nothing live is left that it would
//! put out ([`Log::fits_within`]), so there is never more to copy into a segment than fits. Until
//! then copies of the class [`AppendClass::Drain`](super::AppendClass::Drain) bring that about.

use super::Log;
use super::interface::{FREE_SLOTS_TARGET, Recycling};
use crate::log::table::{Mask, Phase, Segment};
use crate::log::types::{ImageId, Lsn, SegmentSeq, Slot};

impl Log {
    /// Chooses what becomes of segments in which nothing is live. What is live must have been
    /// reported from the beginning.
    pub fn set_recycling(&mut self, recycling: Recycling) {
        self.orders.set_recycling(recycling);
        if self.orders.recycles() {
            // What was inactive before a restart is so again, at once.
            let current = self.current_sequence();
            self.table.retire(current, self.head_lsn(), self.stable_lsn());
            self.refresh_demand();
        }
    }

    /// An index points at `lsn` now.
    pub fn note_live(&mut self, lsn: Lsn) {
        self.table.count_live(self.identity.geometry().sequence_of(lsn));
    }

    /// An index points no more at `lsn`.
    pub fn note_dead(&mut self, lsn: Lsn) {
        self.table.count_dead(self.identity.geometry().sequence_of(lsn));
    }

    /// Changes the length of the working set: the rule for the next segment. A shorter one must
    /// [fit](Self::fits_within). The caller makes sure that recovery knows: the superblocks must
    /// never name a shorter one than a segment was opened under.
    pub fn set_working_set(&mut self, segments: u64) {
        self.identity.set_working_set(segments);
        self.why_busy.forget_copies();
        self.refresh_demand();
    }

    /// Takes in slots that are new at the end of the device, up to `slots` in all. The superblocks
    /// must know them already.
    pub fn grow_slots(&mut self, slots: u64) {
        self.table.add_free((self.identity.geometry().slots..slots).map(Slot));
        self.identity.grow_slots(slots);
        self.why_busy.forget_slot();
    }

    /// The segment's object is in the archive, verified.
    pub fn note_archived(&mut self, sequence: SegmentSeq) {
        self.table.note_archived(sequence);
    }

    /// The segment's object is not in the archive after all: its slot is not given away before it
    /// is archived again. Returns whether it was taken for archived.
    pub fn note_unarchived(&mut self, sequence: SegmentSeq) -> bool {
        self.table.note_unarchived(sequence)
    }

    /// Recovery found an entry in the segment that hides something inherited which nothing newer
    /// hides.
    pub fn note_mask(&mut self, sequence: SegmentSeq, mask: Mask) {
        self.table.add_mask(sequence, mask);
    }

    /// All masks of a segment are in a later one now.
    pub fn masks_carried(&mut self, sequence: SegmentSeq) {
        self.table.take_masks(sequence);
    }

    /// The image inherits nothing any more: its masks need not be carried on.
    pub fn forget_masks(&mut self, image: ImageId) {
        self.table.forget_masks(image);
    }

    /// Keeps a segment's slot from being given away until [`unpin`](Self::unpin). Returns whether
    /// the segment is there.
    pub fn pin(&mut self, sequence: SegmentSeq) -> bool {
        self.table.pin(sequence)
    }

    /// The end of a [`pin`](Self::pin).
    pub fn unpin(&mut self, sequence: SegmentSeq) {
        self.table.unpin(sequence);
    }

    /// Gives a segment away although it is not in the archive: the past in it is lost. The oldest
    /// inactive one; its sequence.
    pub fn release_unarchived(&mut self) -> Option<SegmentSeq> {
        let sequence = self.table.next_to_release(|_, _| true)?;
        self.release(sequence);
        Some(sequence)
    }

    /// Declares segments inactive and gives slots away, as far as that is needed. Returns how much
    /// was done.
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
