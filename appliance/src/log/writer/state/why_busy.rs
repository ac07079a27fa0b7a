//! Why appends are refused for now: [`WhyBusy`]. It is one value, and the log owns it.
//!
//! | reason | begins when | ends when | read by |
//! |---|---|---|---|
//! | copies | an append needs the next segment, which waits until live blocks are copied out of the segments that leave | the next segment is opened, or the length of the working set changes | the cleaner: it copies without regard to its pace |
//! | room | a host's command finds no room beside the copies, in this segment or in the next one | the next segment is opened, or an append may open it | the cleaner: it fills the rest of this segment with copies |
//! | slot | an append needs the next segment, and no slot is free | the next segment is opened, or a slot becomes free | the pool's side of the archive: it reports the wait, or gives up a segment that is not archived |
//!
//! Only `writer/room.rs` sets a reason, because it alone decides where an append goes. The reasons
//! do not exclude each other: an append that waited for copies may then find that no slot is free,
//! and the copies continue at full speed until the segment is opened.
//!
//! **Invariants.** A reason lasts until the event that ends it, even if the waiting caller has
//! given up. Opening a segment clears all of them ([`WhyBusy::clear`]).

/// What appends wait for. See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WhyBusy {
    copies: bool,
    room: bool,
    slot: bool,
}

impl WhyBusy {
    /// Whether an append waits for copies before the next segment can be opened.
    pub fn waits_for_copies(self) -> bool {
        self.copies
    }

    /// Whether a host's command waits for room that the next segment does not have either. The rest
    /// of the current segment is then used for copies of what leaves after it.
    pub fn waits_for_room(self) -> bool {
        self.room
    }

    /// Whether an append waits for a free slot before the next segment can be opened.
    pub fn waits_for_slot(self) -> bool {
        self.slot
    }

    /// Whether an append waits for something that only copies can provide.
    pub fn needs_copies(self) -> bool {
        self.copies || self.room
    }

    pub(in crate::log) fn note_copies(&mut self) {
        self.copies = true;
    }

    /// Sets whether a host's append waits for room.
    pub(in crate::log) fn note_room(&mut self, waits: bool) {
        self.room = waits;
    }

    pub(in crate::log) fn note_slot(&mut self, free_slots: usize) {
        assert_eq!(free_slots, 0, "nobody waits for a slot while one is free");
        self.slot = true;
    }

    /// Notes that the working set has another length: other copies are needed, or none.
    pub(in crate::log) fn forget_copies(&mut self) {
        self.copies = false;
    }

    /// Notes that slots were added to the device.
    pub(in crate::log) fn forget_slot(&mut self) {
        self.slot = false;
    }

    /// Notes that the next segment was opened: nobody waits for it any longer.
    pub(in crate::log) fn clear(&mut self) {
        *self = WhyBusy::default();
    }

    /// The value with this number of free slots taken into account.
    #[must_use]
    pub(in crate::log) fn with_free_slots(mut self, free_slots: usize) -> Self {
        self.slot &= free_slots == 0;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_do_not_hide_each_other_and_a_new_segment_clears_them() {
        let mut why = WhyBusy::default();
        assert!(!why.needs_copies() && !why.waits_for_slot());
        why.note_copies();
        why.note_slot(0);
        assert!(why.waits_for_copies() && why.waits_for_slot() && !why.waits_for_room());
        assert!(!why.with_free_slots(1).waits_for_slot() && why.waits_for_slot());
        why.note_room(true);
        why.forget_copies();
        assert!(why.needs_copies() && why.waits_for_room() && !why.waits_for_copies());
        why.note_room(false);
        assert!(!why.needs_copies());
        why.clear();
        assert_eq!(why, WhyBusy::default());
    }
}
