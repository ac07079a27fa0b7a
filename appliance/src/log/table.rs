//! The segment table: which segment is in which slot, in which state (R4), and how much of it is
//! live (R16).
//!
//! ```text
//! recycle --open--> current --seal--> active --nothing live, and that is stable--> inactive
//! inactive --archived, slot needed--> recycle
//! ```
//!
//! Sequences are contiguous from the oldest kept to the current one, so the table is a queue
//! indexed by sequence. The rest of the log uses the map from sequence to slot and never computes a
//! slot from a sequence, so segments may leave in any order: one that is released early stays in
//! the queue without a slot until all segments before it have left too.
//!
//! An inactive segment keeps its slot until another segment needs it, and can be read there until
//! then.
//!
//! **Invariants.** A slot is free, or belongs to one segment. A segment only makes the transitions
//! of [`Phase`], except that an inactive one returns into use if something in it becomes live
//! again. Every segment before `retired_below` is inactive or released, and contains no live block.
//! Only this file writes the fields of segments.

use std::collections::{BTreeMap, VecDeque};

use super::format::RELEASED_SPAN;
use super::types::{BlockNumber, ImageId, Lsn, SegmentSeq, Slot};

/// The state of a segment on its way out of the working set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Being written, or in the working set: it may contain live blocks.
    #[default]
    InUse,
    /// It no longer contains live blocks, and the writes that replaced them are stable.
    Inactive,
    /// Its slot was reassigned.
    Released,
}

/// A range in which a clone no longer inherits anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask {
    /// The clone's image.
    pub image: ImageId,
    /// The first block.
    pub block: BlockNumber,
    /// Its length.
    pub len_blocks: u64,
}

/// One segment on the primary device.
#[derive(Debug, Clone, Default)]
pub struct Segment {
    /// Its slot; `None` if recovery could not find the segment, or if it was released.
    pub slot: Option<Slot>,
    /// The epoch of its header.
    pub epoch: u32,
    /// When it was opened, ns since the Unix epoch.
    pub opened_ns: u64,
    /// Where its records end.
    pub end_lsn: Lsn,
    /// How many entries are in it.
    pub entries: u64,
    /// How many of them are trims.
    pub trims: u64,
    /// Whether its trailer is on the device.
    pub sealed: bool,
    /// What is wrong with it, as text.
    pub problems: Vec<String>,
    /// Its state on the way out of the working set.
    pub phase: Phase,
    /// How many of its blocks an index points to.
    pub live: u64,
    /// Trims and masks of clones in it that hide inherited data, that no newer entry replaces, and
    /// that must be copied forward before the segment leaves. The table counts them, so use its
    /// methods to add and remove them.
    pub masks: Vec<Mask>,
    /// Set once it contains no live blocks: the position up to which the log must be stable before
    /// the segment may leave.
    pub dead_at: Option<Lsn>,
    /// Whether its object is in the archive and verified.
    pub archived: bool,
    /// How many readers need it to keep its slot.
    pub pins: u32,
}

impl Segment {
    /// How many items must be copied forward before the segment may leave: its live blocks and its
    /// masks.
    pub fn copies(&self) -> u64 {
        self.live + self.masks.len() as u64
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct SegmentTable {
    oldest: u64,
    segments: VecDeque<Segment>,
    free: VecDeque<Slot>,
    /// Every segment before this one is inactive or released.
    retired_below: u64,
    /// Segments that lost their last live block and have not been checked since.
    dead: Vec<SegmentSeq>,
    /// Segments that recovery did not find although nothing says that their slots were reassigned.
    /// They cannot contain live blocks.
    missing: Vec<SegmentSeq>,
    /// How many masks are in segments, for each image that still needs them.
    masks_of: BTreeMap<u32, u64>,
    /// How many these are.
    masks: u64,
}

impl SegmentTable {
    /// An empty table that begins with `oldest`, with all slots in `free` free.
    pub fn new(oldest: SegmentSeq, free: impl IntoIterator<Item = Slot>) -> Self {
        SegmentTable {
            oldest: oldest.0,
            free: free.into_iter().collect(),
            retired_below: oldest.0,
            ..SegmentTable::default()
        }
    }

    /// Segments without live blocks that were not found on the device, although nothing says that
    /// their slots were reassigned.
    pub fn missing(&self) -> &[SegmentSeq] {
        &self.missing
    }

    /// Records them.
    pub fn set_missing(&mut self, missing: Vec<SegmentSeq>) {
        self.missing = missing;
    }

    /// The oldest segment kept.
    pub fn oldest(&self) -> SegmentSeq {
        SegmentSeq(self.oldest)
    }

    /// The sequence that the next segment will have.
    pub fn next_sequence(&self) -> SegmentSeq {
        SegmentSeq(self.oldest + self.segments.len() as u64)
    }

    /// The first segment in use: all live blocks are in it or in later ones.
    pub fn first_in_use(&self) -> SegmentSeq {
        SegmentSeq(self.retired_below)
    }

    /// How many segments are kept.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether no segment is kept.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The free slots.
    pub fn free(&self) -> impl Iterator<Item = Slot> + '_ {
        self.free.iter().copied()
    }

    /// Adds new slots of the device.
    pub fn add_free(&mut self, slots: impl IntoIterator<Item = Slot>) {
        self.free.extend(slots);
    }

    /// How many slots are free.
    pub fn free_len(&self) -> usize {
        self.free.len()
    }

    /// Returns a segment.
    pub fn get(&self, sequence: SegmentSeq) -> Option<&Segment> {
        self.segments.get(usize::try_from(sequence.0.checked_sub(self.oldest)?).ok()?)
    }

    /// Returns a segment for a change: only this file writes the fields of segments.
    fn get_mut(&mut self, sequence: SegmentSeq) -> Option<&mut Segment> {
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

    /// The segments that have a slot, oldest first.
    pub fn on_device(&self) -> impl Iterator<Item = SegmentSeq> + '_ {
        self.iter().filter(|(_, segment)| segment.slot.is_some()).map(|(sequence, _)| sequence)
    }

    /// Whether a segment of the log was not found on the device.
    pub fn has_lost(&self) -> bool {
        self.segments.iter().any(|segment| segment.slot.is_none() && segment.phase != Phase::Released)
    }

    /// Segments after the oldest that were released early.
    pub fn released(&self) -> Vec<SegmentSeq> {
        let gone = self.iter().filter(|(_, segment)| segment.phase == Phase::Released);
        gone.map(|(sequence, _)| sequence).collect()
    }

    /// Where the kept segments end whose next segment was released.
    pub fn ends_before_released(&self) -> Vec<Lsn> {
        let pairs = self.segments.iter().zip(self.segments.iter().skip(1));
        let told = pairs.filter(|(one, next)| one.phase != Phase::Released && next.phase == Phase::Released);
        told.map(|(one, _)| one.end_lsn).collect()
    }

    /// Assigns a free slot to the next sequence.
    pub fn open(&mut self, epoch: u32, opened_ns: u64, first_lsn: Lsn) -> Option<(SegmentSeq, Slot)> {
        let slot = self.free.pop_front()?;
        let sequence = self.next_sequence();
        self.push(Segment {
            slot: Some(slot),
            epoch,
            opened_ns,
            end_lsn: first_lsn.plus(1),
            ..Segment::default()
        });
        Some((sequence, slot))
    }

    /// Appends a segment that recovery found.
    pub fn push(&mut self, segment: Segment) {
        self.segments.push_back(segment);
    }

    /// Notes that an index now points to a block of the segment. An inactive segment returns into
    /// use: in a pool without an archive, a clone of the past keeps what it inherits.
    pub fn count_live(&mut self, sequence: SegmentSeq) {
        self.count_live_blocks(sequence, 1);
    }

    /// The same for several blocks of the segment.
    pub fn count_live_blocks(&mut self, sequence: SegmentSeq, blocks: u64) {
        let Some(segment) = self.get_mut(sequence) else { return };
        debug_assert!(segment.phase != Phase::Released, "nothing becomes live in a segment that is gone");
        segment.live += blocks;
        segment.dead_at = None;
        if segment.phase == Phase::Inactive {
            segment.phase = Phase::InUse;
            self.retired_below = self.retired_below.min(sequence.0);
        }
    }

    /// Notes that an index no longer points to a block of the segment.
    pub fn count_dead(&mut self, sequence: SegmentSeq) {
        let Some(segment) = self.get_mut(sequence) else { return };
        debug_assert!(segment.live > 0, "segment {sequence} has no live block to lose");
        segment.live = segment.live.saturating_sub(1);
        if segment.live == 0 {
            self.dead.push(sequence);
        }
    }

    /// Notes that a record was closed in the segment: the segment now ends there and has `entries`
    /// more entries.
    pub(super) fn note_record(&mut self, sequence: SegmentSeq, end_lsn: Lsn, entries: u64) {
        let Some(segment) = self.get_mut(sequence) else { return };
        debug_assert!(segment.end_lsn < end_lsn && !segment.sealed, "segments grow until they are sealed");
        segment.end_lsn = end_lsn;
        segment.entries += entries;
    }

    /// Notes that a trim or a mask was appended to the segment.
    pub(super) fn note_trim(&mut self, sequence: SegmentSeq) {
        if let Some(segment) = self.get_mut(sequence) {
            segment.trims += 1;
        }
    }

    /// Notes that the segment's trailer is on the device.
    pub(super) fn note_sealed(&mut self, sequence: SegmentSeq) {
        if let Some(segment) = self.get_mut(sequence) {
            debug_assert!(!segment.sealed, "a segment is sealed once");
            segment.sealed = true;
        }
    }

    /// Notes that the segment's object is in the archive and verified.
    pub(super) fn note_archived(&mut self, sequence: SegmentSeq) {
        if let Some(segment) = self.get_mut(sequence) {
            segment.archived = true;
        }
    }

    /// Notes that the segment's object is not in the archive after all. Returns whether it counted
    /// as archived.
    pub(super) fn note_unarchived(&mut self, sequence: SegmentSeq) -> bool {
        self.get_mut(sequence).is_some_and(|segment| std::mem::replace(&mut segment.archived, false))
    }

    /// Stores a problem of the segment. Returns whether it is new.
    pub(super) fn note_problem(&mut self, sequence: SegmentSeq, problem: &str) -> bool {
        let Some(segment) = self.get_mut(sequence) else { return false };
        let is_news = !segment.problems.iter().any(|known| known == problem);
        if is_news {
            segment.problems.push(problem.to_owned());
        }
        is_news
    }

    /// Protects the slot of the segment from being reassigned until [`unpin`](Self::unpin). Returns
    /// whether the segment has a slot.
    pub(super) fn pin(&mut self, sequence: SegmentSeq) -> bool {
        let Some(segment) = self.get_mut(sequence).filter(|segment| segment.slot.is_some()) else {
            return false;
        };
        segment.pins += 1;
        true
    }

    /// Ends a [`pin`](Self::pin).
    pub(super) fn unpin(&mut self, sequence: SegmentSeq) {
        if let Some(segment) = self.get_mut(sequence) {
            debug_assert!(segment.pins > 0, "a pin ends once");
            segment.pins = segment.pins.saturating_sub(1);
        }
    }

    /// Adds a mask to a segment.
    pub fn add_mask(&mut self, sequence: SegmentSeq, mask: Mask) {
        if let Some(segment) = self.get_mut(sequence) {
            segment.masks.push(mask);
            *self.masks_of.entry(mask.image.0).or_default() += 1;
            self.masks += 1;
        }
    }

    /// Removes all masks from a segment.
    pub fn take_masks(&mut self, sequence: SegmentSeq) {
        let Some(segment) = self.get_mut(sequence) else { return };
        for mask in std::mem::take(&mut segment.masks) {
            if let Some(count) = self.masks_of.get_mut(&mask.image.0).filter(|count| **count > 0) {
                *count -= 1;
                self.masks -= 1;
            }
        }
    }

    /// Notes that the image no longer needs its masks. They leave with their segments, and no
    /// longer count.
    pub fn forget_masks(&mut self, image: ImageId) {
        self.masks -= self.masks_of.remove(&image.0).unwrap_or(0);
    }

    /// How many masks the images need.
    pub fn masks(&self) -> u64 {
        self.masks
    }

    /// Checks the segments that lost their last live block, and the oldest in use: those without
    /// live blocks become inactive once that is stable. `head` is where the log ends now, `current`
    /// the segment that is being written. Returns how many became inactive, and what must become
    /// stable first for more.
    ///
    /// A trim must stay as long as an older version of a block may be before it, so a segment with
    /// trims does not leave early.
    pub fn retire(&mut self, current: Option<SegmentSeq>, head: Lsn, stable: Lsn) -> (u64, Option<Lsn>) {
        let mut retired = 0;
        let mut wanted = None;
        loop {
            let sequence = SegmentSeq(self.retired_below);
            let Some(segment) = self.get_mut(sequence) else { break };
            if segment.phase == Phase::InUse {
                if Some(sequence) == current
                    || segment.live > 0
                    || !segment.masks.is_empty()
                    || !(segment.sealed || segment.slot.is_none())
                {
                    break;
                }
                let dead_at = *segment.dead_at.get_or_insert(head);
                if dead_at > stable {
                    wanted = Some(dead_at);
                    break;
                }
                segment.phase = Phase::Inactive;
                retired += 1;
            }
            self.retired_below += 1;
        }
        let mut waiting = Vec::new();
        for sequence in std::mem::take(&mut self.dead) {
            let Some(segment) = self.get_mut(sequence) else { continue };
            if segment.live > 0
                || !segment.masks.is_empty()
                || segment.phase != Phase::InUse
                || segment.trims > 0
            {
                continue;
            }
            let dead_at = *segment.dead_at.get_or_insert(head);
            if Some(sequence) == current || !segment.sealed || dead_at > stable {
                if Some(sequence) != current {
                    wanted = wanted.max(Some(dead_at));
                }
                waiting.push(sequence);
                continue;
            }
            segment.phase = Phase::Inactive;
            retired += 1;
        }
        self.dead = waiting;
        (retired, wanted)
    }

    /// Whether a call of [`retire`](Self::retire) may find a segment.
    pub fn may_retire(&self, current: Option<SegmentSeq>) -> bool {
        !self.dead.is_empty()
            || (self.retired_below < current.map_or(u64::MAX, |current| current.0)
                && self
                    .get(SegmentSeq(self.retired_below))
                    .is_some_and(|segment| segment.live == 0 && segment.masks.is_empty()))
    }

    /// The next inactive segment whose slot may be reassigned: the oldest first, then those that
    /// became inactive early. `may_go` says whether nobody else needs it.
    pub fn next_to_release(&self, may_go: impl Fn(SegmentSeq, &Segment) -> bool) -> Option<SegmentSeq> {
        let ready = |sequence: SegmentSeq, segment: &Segment| {
            segment.phase == Phase::Inactive && segment.pins == 0 && may_go(sequence, segment)
        };
        let (oldest, first) = self.iter().next()?;
        if ready(oldest, first) {
            return Some(oldest);
        }
        // A segment with trims does not overtake the segments before it.
        self.iter()
            .take_while(|(sequence, _)| sequence.0 - self.oldest < RELEASED_SPAN)
            .find(|(sequence, segment)| segment.trims == 0 && ready(*sequence, segment))
            .map(|(sequence, _)| sequence)
    }

    /// Releases the slot of an inactive segment: it becomes a recycle segment (R21).
    ///
    /// # Panics
    /// If it is not inactive.
    pub fn release(&mut self, sequence: SegmentSeq) -> Option<Slot> {
        let segment = self.get_mut(sequence)?;
        assert_eq!(segment.phase, Phase::Inactive, "only an inactive segment is released");
        segment.phase = Phase::Released;
        let slot = segment.slot.take();
        self.free.extend(slot);
        while self.segments.front().is_some_and(|segment| segment.phase == Phase::Released) {
            self.segments.pop_front();
            self.oldest += 1;
        }
        self.retired_below = self.retired_below.max(self.oldest);
        slot
    }
}

#[cfg(test)]
mod tests;
