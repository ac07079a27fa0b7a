//! How much a pool can hold, and the accounts of what is taken of it.
//!
//! The working set holds every live block, and spare ones, so that copy-forward always finds room:
//! over-provisioning, the ratio of spare to live blocks. What a pool can promise is the working
//! set's data blocks divided by (1 + over-provisioning). A volume's whole size is set aside when it
//! is created, unless it is thin; thin volumes and clones share what is left, block by block, and
//! each range of a clone that hides something inherited, and are refused with "capacity exceeded"
//! when nothing is left. What was set aside is never refused.
//!
//! **Invariant:** `thin_blocks` is the sum of the resident blocks of all thin volumes. The volumes
//! count their own (`image::volume`), and every method here takes what such a count changed by.
//!
//! **Bounds:** [`BURIED_MAX`] parts on their way out; [`BURIED_LEAVES_PER_TURN`] leaves in a turn.

use std::collections::VecDeque;

use crate::log::format::ENTRIES_PER_RECORD;
use crate::log::{Geometry, Log, Lsn};
use crate::volume::image::index::Index;
use crate::volume::image::volumes::Volumes;
use crate::volume::request::VolumeId;

/// The least and the most spare blocks for each hundred live ones that can be configured.
pub const OVERPROVISIONING_PERCENT_RANGE: std::ops::RangeInclusive<u64> = 7..=1000;
/// From this share of the capacity on, the operator is warned, in percent.
const WARNING_PERCENT: u64 = 85;

/// Leaves of what is on its way out that one turn counts: 512 blocks each.
const BURIED_LEAVES_PER_TURN: usize = 64;
/// Parts that may be on their way out; trims of large ranges wait beyond that. A command adds two
/// at most.
const BURIED_MAX: usize = 64;

/// What is taken of a pool, in blocks. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Capacity {
    /// Resident blocks of thin volumes.
    thin_blocks: u64,
    /// Blocks that volumes inherited and that were made their own, since start.
    hydrated_blocks: u64,
    /// Whether the operator was warned.
    warned: bool,
    /// What is gone for hosts, and is still to be counted, oldest first.
    buried: VecDeque<Buried>,
}

/// A deleted volume's index on its way out, or a part that was trimmed.
struct Buried {
    index: Index,
    above: Lsn,
    /// Whose accounts it still counts in.
    of: Option<VolumeId>,
}

/// Data blocks that may be live in a pool of this shape.
pub(in crate::volume) fn capacity_blocks(geometry: &Geometry, overprovisioning_percent: u64) -> u64 {
    let records = geometry.record_blocks() / (1 + ENTRIES_PER_RECORD as u64) + 1;
    // What a segment keeps for its catalog and the pool's own events, as the log reckons it, with
    // some reserve.
    let events = 2 * (16 + geometry.record_blocks() / 64).min(128);
    let data = geometry.record_blocks().saturating_sub(records + events);
    let spared = geometry.working_set * data * 100 / (100 + overprovisioning_percent);
    // One segment's worth is always spare, or the largest commands of hosts might find no room
    // beside copies, in any segment.
    spared.min(geometry.working_set.saturating_sub(1) * data)
}

impl Capacity {
    /// Resident blocks of thin volumes.
    pub(in crate::volume) fn thin_blocks(&self) -> u64 {
        self.thin_blocks
    }

    /// Blocks that volumes inherited and that were made their own, since start.
    pub(in crate::volume) fn hydrated_blocks(&self) -> u64 {
        self.hydrated_blocks
    }

    /// A thin volume has so many resident blocks more.
    #[inline]
    pub(in crate::volume) fn add_thin(&mut self, blocks: u64) {
        self.thin_blocks += blocks;
    }

    /// A thin volume has so many resident blocks fewer.
    pub(in crate::volume) fn remove_thin(&mut self, blocks: u64) {
        assert!(blocks <= self.thin_blocks, "thin volumes give back what they took");
        self.thin_blocks -= blocks;
    }

    /// A block that a volume inherited is its own now.
    pub(in crate::volume) fn note_hydrated(&mut self, is_thin: bool) {
        self.thin_blocks += u64::from(is_thin);
        self.hydrated_blocks += 1;
    }

    /// Takes the blocks of a deleted volume out of the accounts, a part in each turn: a large one
    /// has many. What its owner counted is taken out already.
    pub(in crate::volume) fn bury(&mut self, index: Index, above: Lsn) {
        self.buried.push_back(Buried { index, above, of: None });
    }

    /// The same for a part that was cut out of a volume, in whose accounts it counts until then.
    pub(in crate::volume) fn bury_part(&mut self, index: Index, above: Lsn, of: VolumeId) {
        self.buried.push_back(Buried { index, above, of: Some(of) });
    }

    /// Whether no large part should be added to what is on its way out.
    pub(in crate::volume) fn buries_much(&self) -> bool {
        self.buried.len() >= BURIED_MAX
    }

    /// Whether everything that is gone for hosts is counted.
    pub(in crate::volume) fn is_counted(&self) -> bool {
        self.buried.is_empty()
    }

    /// Whether what was trimmed may make room when it is counted.
    pub(in crate::volume) fn is_counting_trims(&self) -> bool {
        self.buried.iter().any(|buried| buried.of.is_some())
    }

    /// A turn of what [`bury`](Self::bury) began. Returns how much was done.
    pub(in crate::volume) fn dig(&mut self, volumes: &mut Volumes, log: &mut Log) -> usize {
        let Some(buried) = self.buried.front_mut() else { return 0 };
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
        // A volume that was deleted meanwhile went with all that counted in it.
        if let Some(volume) = of.and_then(|id| volumes.get_mut(id)) {
            volume.note_cut_gone(removed, freed);
            if volume.is_thin() {
                self.remove_thin(freed);
            }
        }
        1
    }

    /// Whether the operator is to be warned now, and was not before: so much is taken of so much.
    pub(in crate::volume) fn warn_once(&mut self, taken_blocks: u64, capacity_blocks: u64) -> bool {
        let is_first = !self.warned && taken_blocks * 100 > capacity_blocks * WARNING_PERCENT;
        self.warned |= is_first;
        is_first
    }
}
