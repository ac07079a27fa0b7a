//! The capacity of a pool, and the accounts of its use.
//!
//! The working set holds every live block, and spare blocks, so that copy-forward always finds
//! room: over-provisioning is the ratio of spare to live blocks. The pool can promise the working
//! set's data blocks divided by (1 + over-provisioning). A volume's whole size is reserved when it
//! is created, unless it is thin. Thin volumes and clones share the rest, block by block; each
//! range of a clone that hides inherited data counts too. When nothing is left, they are refused
//! with "capacity exceeded". Reserved blocks are never refused.
//!
//! **Invariant:** `thin_blocks` is the sum of the resident blocks of all thin volumes. The volumes
//! count their own (`image::volume`), and every method here takes the change of such a count.
//!
//! **Bounds:** [`BURIED_MAX`] parts being removed; [`BURIED_LEAVES_PER_TURN`] leaves in a turn.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::log::format::ENTRIES_PER_RECORD;
use crate::log::{Geometry, Log, Lsn};
use crate::volume::image::index::Index;
use crate::volume::image::volumes::Volumes;
use crate::volume::request::VolumeId;

/// The allowed range of spare blocks per hundred live blocks.
pub const OVERPROVISIONING_PERCENT_RANGE: std::ops::RangeInclusive<u64> = 7..=1000;
/// The percentage of the capacity from which on the operator is warned.
const WARNING_PERCENT: u64 = 85;

/// The percentage below which a warning in the journal is over, and the next one is news.
const WARN_AGAIN_PERCENT: u64 = 80;

/// How many leaves of removed parts one turn counts: 512 blocks each.
const BURIED_LEAVES_PER_TURN: usize = 64;
/// The maximum number of parts that may be removed at once; beyond it trims of large ranges wait. A
/// command adds at most two.
const BURIED_MAX: usize = 64;

/// The used capacity of a pool, in blocks. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Capacity {
    /// Resident blocks of thin volumes.
    thin_blocks: u64,
    /// Inherited blocks that were hydrated since the start.
    hydrated_blocks: u64,
    /// Whether the journal has a warning that is not over.
    warned: bool,
    /// Parts that have disappeared for hosts and must still be counted, oldest first.
    buried: VecDeque<Buried>,
}

/// A deleted volume's index, or a part that was trimmed, while it is being removed.
struct Buried {
    index: Index,
    above: Lsn,
    /// The volume whose accounts still include it.
    of: Option<VolumeId>,
    /// Whether blocks of it count in their segments.
    is_counted: bool,
}

/// How many data blocks may be live in a pool of this geometry.
pub(in crate::volume) fn capacity_blocks(geometry: &Geometry, overprovisioning_percent: u64) -> u64 {
    let records = geometry.record_blocks() / (1 + ENTRIES_PER_RECORD as u64) + 1;
    // The room in a segment for its catalog and the pool's own events, as the log computes it, with
    // some reserve.
    let events = 2 * (16 + geometry.record_blocks() / 64).min(128);
    let data = geometry.record_blocks().saturating_sub(records + events);
    let spared = geometry.working_set * data * 100 / (100 + overprovisioning_percent);
    // The size of one segment is always spare; otherwise the largest commands of hosts might find
    // no room beside copies in any segment.
    spared.min(geometry.working_set.saturating_sub(1) * data)
}

/// Whether the operator must know how much is taken.
pub(in crate::volume) fn is_nearly_full(taken_blocks: u64, capacity_blocks: u64) -> bool {
    taken_blocks * 100 > capacity_blocks * WARNING_PERCENT
}

impl Capacity {
    /// Resident blocks of thin volumes.
    pub(in crate::volume) fn thin_blocks(&self) -> u64 {
        self.thin_blocks
    }

    /// Inherited blocks that were hydrated since the start.
    pub(in crate::volume) fn hydrated_blocks(&self) -> u64 {
        self.hydrated_blocks
    }

    /// Adds resident blocks of a thin volume.
    #[inline]
    pub(in crate::volume) fn add_thin(&mut self, blocks: u64) {
        self.thin_blocks += blocks;
    }

    /// Subtracts resident blocks of a thin volume.
    pub(in crate::volume) fn remove_thin(&mut self, blocks: u64) {
        assert!(blocks <= self.thin_blocks, "thin volumes give back what they took");
        self.thin_blocks -= blocks;
    }

    /// Counts an inherited block that was hydrated.
    pub(in crate::volume) fn note_hydrated(&mut self, is_thin: bool) {
        self.thin_blocks += u64::from(is_thin);
        self.hydrated_blocks += 1;
    }

    /// Subtracts the blocks of a deleted volume, a part in each turn, because a large volume has
    /// many. The volume's own counts have been subtracted already; `resident` is how many of its
    /// blocks count in their segments.
    pub(in crate::volume) fn bury(&mut self, index: Index, above: Lsn, resident: u64) {
        self.buried.push_back(Buried { index, above, of: None, is_counted: resident > 0 });
    }

    /// The same for the state that a volume had before it was set to another one. Parts that were
    /// cut out of it count for the volume no more. `resident`: how many of its blocks count.
    pub(in crate::volume) fn bury_state(&mut self, index: Index, above: Lsn, resident: u64, of: VolumeId) {
        let parts = self.buried.iter_mut().filter(|buried| buried.of == Some(of));
        parts.for_each(|buried| buried.of = None);
        self.buried.push_back(Buried { index, above, of: None, is_counted: resident > 0 });
    }

    /// The same for a part that was cut out of a volume, whose accounts include it until then.
    pub(in crate::volume) fn bury_part(&mut self, index: Index, above: Lsn, of: VolumeId) {
        self.buried.push_back(Buried { index, above, of: Some(of), is_counted: true });
    }

    /// Whether no further large part should be added.
    pub(in crate::volume) fn buries_much(&self) -> bool {
        self.buried.len() >= BURIED_MAX
    }

    /// Whether everything that has disappeared for hosts is counted.
    pub(in crate::volume) fn is_counted(&self) -> bool {
        self.buried.is_empty()
    }

    /// The volumes whose accounts include parts that were cut out of them.
    pub(in crate::volume) fn counting(&self) -> SmallVec<[VolumeId; 4]> {
        let mut ids: SmallVec<_> = self.buried.iter().filter_map(|buried| buried.of).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Whether counting trimmed parts may free room.
    pub(in crate::volume) fn is_counting_trims(&self) -> bool {
        self.buried.iter().any(|buried| buried.of.is_some())
    }

    /// One turn of what [`bury`](Self::bury) started. Returns how much was done.
    pub(in crate::volume) fn dig(&mut self, volumes: &mut Volumes, log: &mut Log) -> usize {
        let Some(buried) = self.buried.front_mut() else { return 0 };
        if !buried.is_counted {
            if buried.index.drop_some(BURIED_LEAVES_PER_TURN) {
                self.buried.pop_front();
            }
            return 1;
        }
        let (above, of) = (buried.above, buried.of);
        let (mut removed, mut freed) = (0, 0);
        let is_done = buried.index.take_some(BURIED_LEAVES_PER_TURN, |gone| {
            removed += 1;
            if gone.lsn() > above {
                log.note_dead(gone.lsn());
                freed += 1;
            }
        });
        if is_done {
            self.buried.pop_front();
        }
        // If the volume was deleted in the meantime, all its counts are gone too.
        if let Some(volume) = of.and_then(|id| volumes.get_mut(id)) {
            volume.note_cut_gone(removed, freed);
            if volume.is_thin() {
                self.remove_thin(freed);
            }
        }
        1
    }

    /// Whether the journal must get a warning now: `taken_blocks` of `capacity_blocks` are used,
    /// and there was no warning since they were clearly fewer.
    pub(in crate::volume) fn warn_once(&mut self, taken_blocks: u64, capacity_blocks: u64) -> bool {
        let is_first = !self.warned && is_nearly_full(taken_blocks, capacity_blocks);
        let is_over = taken_blocks * 100 < capacity_blocks * WARN_AGAIN_PERCENT;
        self.warned = (self.warned || is_first) && !is_over;
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_warned_again_only_after_there_was_clearly_more_room() {
        let mut capacity = Capacity::default();
        let warned: Vec<bool> =
            [85, 86, 90, 84, 86, 79, 86].map(|taken| capacity.warn_once(taken, 100)).into();
        assert_eq!(warned, [false, true, false, false, false, false, true]);
    }
}
