//! The segment table: which segment is in which slot, in which state (R4), and how much of it is
//! live (R16).
//!
//! ```text
//! recycle --open--> current --seal--> active --nothing live, and that is stable--> inactive --archived, slot needed--> recycle
//! ```
//!
//! Sequences are contiguous from the oldest kept to the current one, so the table is a queue
//! indexed by sequence. The map from sequence to slot is what the rest of the log uses; nothing
//! computes a slot from a sequence, so segments may leave in any order: one that is released before
//! its turn stays in the queue without a slot until all before it have gone too.
//!
//! An inactive segment keeps its slot until that is needed: it can still be read there.
//!
//! **Invariants.** A slot is free, or one segment has it. A segment takes the steps of [`Phase`]
//! and no others, except that an inactive one comes back into use when something in it becomes live
//! again. Every segment before `retired_below` is inactive or released, and no live block is in it.
//! Only this file writes the fields of segments.

use std::collections::{BTreeMap, VecDeque};

use super::format::RELEASED_SPAN;
use super::types::{BlockNumber, ImageId, Lsn, SegmentSeq, Slot};

/// How far a segment has come on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Being written, or in the working set: something in it may be live.
    #[default]
    InUse,
    /// Nothing in it is live any more, and what made it so is stable.
    Inactive,
    /// Its slot was given away.
    Released,
}

/// A range of which a clone inherits nothing any more.
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
    /// Where it is; `None` for one that recovery could not find, or that was released.
    pub slot: Option<Slot>,
    /// The epoch of its header.
    pub epoch: u32,
    /// When it was opened, ns since the Unix epoch.
    pub opened_ns: u64,
    /// Where its records end.
    pub end_lsn: Lsn,
    /// Entries in it.
    pub entries: u64,
    /// Trims among them.
    pub trims: u64,
    /// Whether its trailer is on the device.
    pub sealed: bool,
    /// What is wrong with it, in words.
    pub problems: Vec<String>,
    /// How far it has come on its way out.
    pub phase: Phase,
    /// Blocks in it that an index points at.
    pub live: u64,
    /// Trims and masks of clones in it that hide what was inherited and nothing newer hides, and
    /// must be carried on before it goes. The table counts them: add and take them there.
    pub masks: Vec<Mask>,
    /// Once nothing is live: the position up to which the log must be stable before the segment may
    /// go.
    pub dead_at: Option<Lsn>,
    /// Whether its object is in the archive, verified.
    pub archived: bool,
    /// How many readers need it to stay where it is.
    pub pins: u32,
}

impl Segment {
    /// What must be copied forward before the segment may go: its live blocks, and its masks.
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
    /// Segments that lost their last live block and were not checked since.
    dead: Vec<SegmentSeq>,
    /// Segments that recovery did not find although nothing says that they were given away. Nothing
    /// in them can be live.
    missing: Vec<SegmentSeq>,
    /// How many masks are in segments, of each image that still needs them.
    masks_of: BTreeMap<u32, u64>,
}

impl SegmentTable {
    /// A table that begins with `oldest`, empty, with all of `free` free.
    pub fn new(oldest: SegmentSeq, free: impl IntoIterator<Item = Slot>) -> Self {
        SegmentTable {
            oldest: oldest.0,
            free: free.into_iter().collect(),
            retired_below: oldest.0,
            ..SegmentTable::default()
        }
    }

    /// Segments in which nothing can be live that were not found on the device, although nothing
    /// says that they were given away.
    pub fn missing(&self) -> &[SegmentSeq] {
        &self.missing
    }

    /// Takes note of them.
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

    /// The first segment that is in use: everything live is in it or after it.
    pub fn first_in_use(&self) -> SegmentSeq {
        SegmentSeq(self.retired_below)
    }

    /// Segments kept.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether no segment is kept.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Slots that are free.
    pub fn free(&self) -> impl Iterator<Item = Slot> + '_ {
        self.free.iter().copied()
    }

    /// Takes in slots that are new on the device.
    pub fn add_free(&mut self, slots: impl IntoIterator<Item = Slot>) {
        self.free.extend(slots);
    }

    /// How many slots are free.
    pub fn free_len(&self) -> usize {
        self.free.len()
    }

    /// A segment.
    pub fn get(&self, sequence: SegmentSeq) -> Option<&Segment> {
        self.segments.get(usize::try_from(sequence.0.checked_sub(self.oldest)?).ok()?)
    }

    /// A segment, to change: only this file writes the fields of segments.
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

    /// Segments after the oldest that were released before their turn.
    pub fn released(&self) -> Vec<SegmentSeq> {
        let gone = self.iter().filter(|(_, segment)| segment.phase == Phase::Released);
        gone.map(|(sequence, _)| sequence).collect()
    }

    /// Where the segments end that are kept while the next one was released.
    pub fn ends_before_released(&self) -> Vec<Lsn> {
        let pairs = self.segments.iter().zip(self.segments.iter().skip(1));
        let told = pairs.filter(|(one, next)| one.phase != Phase::Released && next.phase == Phase::Released);
        told.map(|(one, _)| one.end_lsn).collect()
    }

    /// Takes a free slot for the next sequence.
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

    /// Adds a segment that recovery found, as the next sequence.
    pub fn push(&mut self, segment: Segment) {
        self.segments.push_back(segment);
    }

    /// An index points at a block of the segment now. One that was inactive already comes back into
    /// use: a clone of the past, in a pool without an archive, keeps what it inherits.
    pub fn count_live(&mut self, sequence: SegmentSeq) {
        let Some(segment) = self.get_mut(sequence) else { return };
        debug_assert!(segment.phase != Phase::Released, "nothing becomes live in a segment that is gone");
        segment.live += 1;
        segment.dead_at = None;
        if segment.phase == Phase::Inactive {
            segment.phase = Phase::InUse;
            self.retired_below = self.retired_below.min(sequence.0);
        }
    }

    /// An index points no more at a block of the segment.
    pub fn count_dead(&mut self, sequence: SegmentSeq) {
        let Some(segment) = self.get_mut(sequence) else { return };
        debug_assert!(segment.live > 0, "segment {sequence} has no live block to lose");
        segment.live = segment.live.saturating_sub(1);
        if segment.live == 0 {
            self.dead.push(sequence);
        }
    }

    /// A record was closed in the segment: it ends there now, with so many entries more.
    pub(super) fn note_record(&mut self, sequence: SegmentSeq, end_lsn: Lsn, entries: u64) {
        let Some(segment) = self.get_mut(sequence) else { return };
        debug_assert!(segment.end_lsn < end_lsn && !segment.sealed, "segments grow until they are sealed");
        segment.end_lsn = end_lsn;
        segment.entries += entries;
    }

    /// A trim or a mask was appended to the segment.
    pub(super) fn note_trim(&mut self, sequence: SegmentSeq) {
        if let Some(segment) = self.get_mut(sequence) {
            segment.trims += 1;
        }
    }

    /// The trailer of the segment is on the device.
    pub(super) fn note_sealed(&mut self, sequence: SegmentSeq) {
        if let Some(segment) = self.get_mut(sequence) {
            debug_assert!(!segment.sealed, "a segment is sealed once");
            segment.sealed = true;
        }
    }

    /// The object of the segment is in the archive, verified.
    pub(super) fn note_archived(&mut self, sequence: SegmentSeq) {
        if let Some(segment) = self.get_mut(sequence) {
            segment.archived = true;
        }
    }

    /// The object of the segment is not in the archive after all. Returns whether it was taken for
    /// archived.
    pub(super) fn note_unarchived(&mut self, sequence: SegmentSeq) -> bool {
        self.get_mut(sequence).is_some_and(|segment| std::mem::replace(&mut segment.archived, false))
    }

    /// Keeps what is wrong with the segment. Returns whether it is news.
    pub(super) fn note_problem(&mut self, sequence: SegmentSeq, problem: &str) -> bool {
        let Some(segment) = self.get_mut(sequence) else { return false };
        let is_news = !segment.problems.iter().any(|known| known == problem);
        if is_news {
            segment.problems.push(problem.to_owned());
        }
        is_news
    }

    /// Keeps the slot of the segment from being given away until [`unpin`](Self::unpin). Returns
    /// whether the segment has a slot.
    pub(super) fn pin(&mut self, sequence: SegmentSeq) -> bool {
        let Some(segment) = self.get_mut(sequence).filter(|segment| segment.slot.is_some()) else {
            return false;
        };
        segment.pins += 1;
        true
    }

    /// The end of a [`pin`](Self::pin).
    pub(super) fn unpin(&mut self, sequence: SegmentSeq) {
        if let Some(segment) = self.get_mut(sequence) {
            debug_assert!(segment.pins > 0, "a pin ends once");
            segment.pins = segment.pins.saturating_sub(1);
        }
    }

    /// Notes a mask in a segment.
    pub fn add_mask(&mut self, sequence: SegmentSeq, mask: Mask) {
        if let Some(segment) = self.get_mut(sequence) {
            segment.masks.push(mask);
            *self.masks_of.entry(mask.image.0).or_default() += 1;
        }
    }

    /// Takes all masks out of a segment.
    pub fn take_masks(&mut self, sequence: SegmentSeq) {
        let Some(segment) = self.get_mut(sequence) else { return };
        for mask in std::mem::take(&mut segment.masks) {
            if let Some(count) = self.masks_of.get_mut(&mask.image.0) {
                *count = count.saturating_sub(1);
            }
        }
    }

    /// The image needs its masks no more. They leave with their segments, and count no longer.
    pub fn forget_masks(&mut self, image: ImageId) {
        self.masks_of.remove(&image.0);
    }

    /// How many masks images need.
    pub fn masks(&self) -> u64 {
        self.masks_of.values().sum()
    }

    /// Checks the segments that lost their last live block, and the oldest in use: those in which
    /// nothing is live, and where that is stable, become inactive. `head` is where the log ends
    /// now, `current` the segment that is being written. Returns how many became inactive, and what
    /// must become stable first for more.
    ///
    /// A trim must stay as long as an older version of a block may lie before it, so a segment with
    /// trims waits for its turn.
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

    /// Whether a call of [`retire`](Self::retire) may find something.
    pub fn may_retire(&self, current: Option<SegmentSeq>) -> bool {
        !self.dead.is_empty()
            || (self.retired_below < current.map_or(u64::MAX, |current| current.0)
                && self
                    .get(SegmentSeq(self.retired_below))
                    .is_some_and(|segment| segment.live == 0 && segment.masks.is_empty()))
    }

    /// The next inactive segment whose slot may be given away: the oldest first, then those that
    /// are inactive before their turn. `may_go` says whether nobody else needs it.
    pub fn next_to_release(&self, may_go: impl Fn(SegmentSeq, &Segment) -> bool) -> Option<SegmentSeq> {
        let ready = |sequence: SegmentSeq, segment: &Segment| {
            segment.phase == Phase::Inactive && segment.pins == 0 && may_go(sequence, segment)
        };
        let (oldest, first) = self.iter().next()?;
        if ready(oldest, first) {
            return Some(oldest);
        }
        // One with trims does not overtake what is before it.
        self.iter()
            .take_while(|(sequence, _)| sequence.0 - self.oldest < RELEASED_SPAN)
            .find(|(sequence, segment)| segment.trims == 0 && ready(*sequence, segment))
            .map(|(sequence, _)| sequence)
    }

    /// Gives an inactive segment's slot away: it becomes a recycle segment (R21).
    ///
    /// # Panics
    /// When it is not inactive.
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
