//! How much a pool can hold, and who has been promised what of it.
//!
//! The working set holds every live block, and spare ones, so that copy-forward always finds room:
//! over-provisioning, the ratio of spare to live blocks. What a pool can promise is the working
//! set's data blocks divided by (1 + over-provisioning). A volume's whole size is set aside when it
//! is created, unless it is thin; thin volumes and clones share what is left, block by block, and
//! each range of a clone that hides something inherited, and are refused with "capacity exceeded"
//! when nothing is left. What was set aside is never refused.

use std::collections::BTreeMap;

use crate::log::format::ENTRIES_PER_RECORD;
use crate::log::{Geometry, Log, Lsn, Recycling, SegmentSeq};

use super::error::VolumeError;
use super::index::Index;
use super::pool::{Refusal, State, Volume, VolumeIndex};
use super::request::{IoError, VolumeId};

/// Spare blocks for each hundred live ones, unless configured otherwise.
pub const OVERPROVISIONING_PERCENT_DEFAULT: u64 = 100;
/// The least and the most that can be configured.
pub const OVERPROVISIONING_PERCENT_RANGE: std::ops::RangeInclusive<u64> = 7..=1000;
/// From this share of the capacity on, the operator is warned, in percent.
const WARNING_PERCENT: u64 = 85;

/// Leaves of what is on its way out that are looked at in one turn: 512 blocks each.
const BURIED_LEAVES_PER_TURN: usize = 64;
/// Parts that may be on their way out; trims of large ranges wait beyond that. A command adds two
/// at most.
const BURIED_MAX: usize = 64;

/// What a pool can hold and what is taken of it, in blocks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Capacity {
    /// Resident blocks of thin volumes.
    pub(super) thin_blocks: u64,
    /// Blocks that volumes inherited and that were made their own, since start.
    pub(super) hydrated_blocks: u64,
    /// Whether the operator was warned.
    warned: bool,
}

/// A deleted volume's index on its way out, or a part that was trimmed.
pub(super) struct Buried {
    index: Index,
    above: Lsn,
    /// Whose accounts it still counts in.
    of: Option<VolumeId>,
}

/// Data blocks that may be live in a pool of this shape.
pub(super) fn capacity_blocks(geometry: &Geometry, overprovisioning_percent: u64) -> u64 {
    let records = geometry.record_blocks() / (1 + ENTRIES_PER_RECORD as u64) + 1;
    // What a segment keeps for its catalog and the pool's own events, as the log reckons it, with some reserve.
    let events = 2 * (16 + geometry.record_blocks() / 64).min(128);
    let data = geometry.record_blocks().saturating_sub(records + events);
    let spared = geometry.working_set * data * 100 / (100 + overprovisioning_percent);
    // One segment's worth is always spare, or the largest commands of hosts might find no room beside copies, in any segment.
    spared.min(geometry.working_set.saturating_sub(1) * data)
}

impl State {
    /// Data blocks that may be live; `None`: the pool gives no segment away, and ends when its log is full. A working set that is to become shorter counts as if it were so.
    pub(super) fn capacity_of(&self, log: &Log) -> Option<u64> {
        let mut geometry = log.geometry();
        geometry.working_set = self.catalog.working_set_target.unwrap_or(geometry.working_set);
        (log.recycling() != Recycling::Never)
            .then(|| capacity_blocks(&geometry, self.catalog.overprovisioning_percent))
    }

    /// Counts the resident blocks of a volume that has just been added, or whose inherited index has just been found.
    pub(super) fn count_resident(&mut self, log: &mut Log, id: VolumeId) {
        let Some(volume) = self.volumes.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        let above = volume.resident_above;
        let mut resident = 0;
        volume.own_index().visit(|_, mapping| {
            if mapping.lsn() > above {
                log.note_live(mapping.lsn());
                resident += 1;
            }
        });
        volume.resident = resident;
        if volume.thin {
            self.capacity.thin_blocks += resident;
        }
    }

    /// Counts a block that a volume inherited, and that is its own now.
    pub(super) fn count_hydrated(&mut self, id: VolumeId) {
        let Some(volume) = self.volume_mut(id) else { return };
        volume.resident += 1;
        let thin = volume.thin;
        self.capacity.thin_blocks += u64::from(thin);
        self.capacity.hydrated_blocks += 1;
    }

    /// Takes back what [`count_resident`](Self::count_resident) counted.
    pub(super) fn uncount_resident(&mut self, log: &mut Log, id: VolumeId) {
        let Some(volume) = self.volumes.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        let above = volume.resident_above;
        volume.own_index().visit(|_, mapping| {
            if mapping.lsn() > above {
                log.note_dead(mapping.lsn());
            }
        });
        if volume.thin {
            self.capacity.thin_blocks -= volume.resident;
        }
        volume.resident = 0;
    }

    /// Takes a deleted volume's blocks out of the accounts, a part in each turn: a large one has many.
    pub(super) fn bury(&mut self, volume: Volume) {
        if volume.thin {
            self.capacity.thin_blocks -= volume.resident;
        }
        let above = volume.resident_above;
        let index = match volume.index {
            VolumeIndex::Ready(index) => index,
            VolumeIndex::Inherits(builder) | VolumeIndex::Failed(builder) => builder.finish(),
        };
        self.buried.push_back(Buried { index, above, of: None });
    }

    /// The same for a part of a volume that was trimmed.
    pub(super) fn bury_part(&mut self, index: Index, above: Lsn, of: VolumeId) {
        self.buried.push_back(Buried { index, above, of: Some(of) });
    }

    /// Whether no large part should be added to what is on its way out.
    pub(super) fn buries_much(&self) -> bool {
        self.buried.len() >= BURIED_MAX
    }

    /// Refuses a clone that would keep more on the primary device than that holds, or than can be copied forward in time. Cost: a look at each block that it inherits.
    pub(super) fn check_kept(
        &self,
        log: &Log,
        source: &str,
        point: &str,
        index: &Index,
    ) -> Result<(), VolumeError> {
        let Some(capacity) = self.capacity_of(log).filter(|_| self.keeps_inherited) else { return Ok(()) };
        let what = format!(
            "a clone of volume '{source}' at {point} keeps {} blocks of 4 KiB on the primary device, because the pool has no archive",
            index.mapped()
        );
        let taken = self.taken_blocks(log);
        if taken + index.mapped() > capacity {
            let reason = format!(
                "{what}; of {capacity} that it can hold {taken} are taken. Delete volumes, use a larger device, or serve the pool with an archive"
            );
            return Err(VolumeError::NoSpace { reason });
        }
        let mut more: BTreeMap<SegmentSeq, u64> = BTreeMap::new();
        index.visit(|_, mapping| *more.entry(log.geometry().sequence_of(mapping.lsn())).or_default() += 1);
        if !log.may_become_live(&more) {
            let reason = format!(
                "{what}; too many of them are leaving the working set, or have left it, to be copied forward in time. Open a newer point, write on and try again, make the working set longer, or serve the pool with an archive"
            );
            return Err(VolumeError::NoSpace { reason });
        }
        Ok(())
    }

    /// A turn of what [`bury`](Self::bury) began. Returns how much was done.
    pub(super) fn dig(&mut self, log: &mut Log) -> usize {
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
        if let Some(volume) = of.and_then(|id| self.volume_mut(id)) {
            volume.resident -= freed;
            let thin = volume.thin;
            if let VolumeIndex::Ready(index) = &mut volume.index {
                index.note_gone(removed);
            }
            if thin {
                self.capacity.thin_blocks -= freed;
            }
        }
        1
    }

    /// Blocks set aside for volumes that are not thin.
    pub(super) fn reserved_blocks(&self) -> u64 {
        let thick = self.volumes.iter().flatten().filter(|volume| !volume.thin);
        thick.map(|volume| volume.size_blocks.max(volume.resident)).sum()
    }

    /// Blocks that nobody can be promised any more. What hides inherited blocks of clones counts as
    /// one block each: it is carried on as a live block is, with as much of a segment's trailer.
    pub(super) fn taken_blocks(&self, log: &Log) -> u64 {
        self.reserved_blocks() + self.capacity.thin_blocks + log.table().masks()
    }

    /// How many masks more there may be.
    pub(super) fn masks_room(&self, log: &Log) -> u64 {
        self.capacity_of(log).map_or(u64::MAX, |capacity| capacity.saturating_sub(self.taken_blocks(log)))
    }

    /// Refuses thin volumes and clones `new_blocks` more than there are.
    pub(super) fn check_thin_room(&mut self, new_blocks: u64, log: &Log) -> Result<(), Refusal> {
        let Some(capacity) = self.capacity_of(log).filter(|_| new_blocks > 0) else { return Ok(()) };
        let taken = self.taken_blocks(log) + new_blocks;
        if taken > capacity {
            // What was trimmed may make room when it is counted.
            let is_counting = self.buried.iter().any(|buried| buried.of.is_some());
            return Err(if is_counting { Refusal::Busy } else { IoError::CapacityExceeded.into() });
        }
        if !self.capacity.warned && taken * 100 > capacity * WARNING_PERCENT {
            self.capacity.warned = true;
            let left = capacity - taken;
            tracing::warn!(left_blocks = left, "the pool is nearly full; thin volumes will be refused more");
            self.problems.push(format!(
                "the pool is nearly full: thin volumes and clones have {left} blocks of 4 KiB left; delete volumes, trim, or use a larger device"
            ));
        }
        Ok(())
    }
}
