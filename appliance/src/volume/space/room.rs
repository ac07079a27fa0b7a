//! Whether there is room for more: the capacity of the pool, minus what is promised and used.

use super::capacity::{capacity_blocks, is_nearly_full};
use crate::log::{Log, Recycling, SegmentSeq};
use crate::volume::error::VolumeError;
use crate::volume::image::census::{Census, CountedIndex};
use crate::volume::image::volume::Volume;
use crate::volume::pool::state::State;
use crate::volume::request::{IoError, Refusal, VolumeId};

impl State {
    /// How many data blocks may be live; `None`: the pool never reuses slots, and ends when its log
    /// is full. A working set that is being shortened counts with its target.
    pub(in crate::volume) fn capacity_of(&self, log: &Log) -> Option<u64> {
        let mut geometry = log.geometry();
        geometry.working_set = self.catalog.working_set_target.unwrap_or(geometry.working_set);
        (log.recycling() != Recycling::Never)
            .then(|| capacity_blocks(&geometry, self.catalog.overprovisioning_percent))
    }

    /// Counts the resident blocks of a volume that has just been added.
    pub(in crate::volume) fn count_resident(&mut self, log: &mut Log, id: VolumeId) {
        let Some(volume) = self.volumes.get_mut(id) else { return };
        let resident = volume.count_resident(log);
        if volume.is_thin() {
            self.capacity.add_thin(resident);
        }
    }

    /// Subtracts a deleted volume's blocks from the accounts, a part in each turn.
    pub(in crate::volume) fn bury(&mut self, volume: Volume) {
        if volume.is_thin() {
            self.capacity.remove_thin(volume.resident());
        }
        let (above, resident) = (volume.resident_above(), volume.resident());
        self.capacity.bury(volume.into_index(), above, resident);
    }

    /// The same for a clone that keeps what it inherits on the primary device, whose blocks were
    /// counted before. Cost: one step for each segment.
    pub(in crate::volume) fn count_kept(&mut self, log: &mut Log, id: VolumeId, census: &Census) {
        let Some(volume) = self.volumes.get_mut(id) else { return };
        let resident = volume.count_kept(log, census);
        if volume.is_thin() {
            self.capacity.add_thin(resident);
        }
    }

    /// Refuses clones of `source` that would keep more on the primary device than the device can
    /// hold, or more than can be copied forward in time. Cost: one step for each segment, or for
    /// each block that a clone inherits if they were not counted.
    pub(in crate::volume) fn check_kept(
        &self,
        log: &Log,
        source: &str,
        point: &str,
        clones: &[CountedIndex],
    ) -> Result<(), VolumeError> {
        let Some(capacity) = self.capacity_of(log).filter(|_| self.volumes.keeps_inherited()) else {
            return Ok(());
        };
        let mapped: u64 = clones.iter().map(|(index, _)| index.mapped()).sum();
        let what = format!(
            "a clone of {source} at {point} keeps {mapped} blocks of 4 KiB on the primary device, because the pool has no archive"
        );
        let taken = self.taken_blocks(log);
        if taken + mapped > capacity {
            let reason = format!(
                "{what}; of {capacity} that it can hold {taken} are taken. Delete volumes, use a larger device, or serve the pool with an archive"
            );
            return Err(VolumeError::NoSpace { reason });
        }
        let mut more = Census::new();
        for (index, census) in clones {
            let mut add = |sequence: SegmentSeq, blocks: u64| *more.entry(sequence).or_default() += blocks;
            match census {
                Some(census) => census.iter().for_each(|(&sequence, &blocks)| add(sequence, blocks)),
                None => index.visit(|_, mapping| add(log.geometry().sequence_of(mapping.lsn()), 1)),
            }
        }
        if !log.may_become_live(&more) {
            let reason = format!(
                "{what}; too many of them are leaving the working set, or have left it, to be copied forward in time. Open a newer point, write on and try again, make the working set longer, or serve the pool with an archive"
            );
            return Err(VolumeError::NoSpace { reason });
        }
        Ok(())
    }

    /// How many blocks can no longer be promised. Masks, which hide inherited blocks of clones,
    /// count as one block each: they are copied forward as live blocks are, and take as much of a
    /// segment's trailer.
    pub(in crate::volume) fn taken_blocks(&self, log: &Log) -> u64 {
        self.reserved_blocks() + self.capacity.thin_blocks() + log.table().masks()
    }

    /// How many blocks are reserved for volumes that are not thin.
    pub(in crate::volume) fn reserved_blocks(&self) -> u64 {
        self.volumes.reserved_blocks(self.capacity.counting().into_iter())
    }

    /// How many more masks there may be.
    pub(in crate::volume) fn masks_room(&self, log: &Log) -> u64 {
        self.capacity_of(log).map_or(u64::MAX, |capacity| capacity.saturating_sub(self.taken_blocks(log)))
    }

    /// Refuses thin volumes and clones if there is no room for `new_blocks` more blocks.
    pub(in crate::volume) fn check_thin_room(&mut self, new_blocks: u64, log: &Log) -> Result<(), Refusal> {
        let Some(capacity) = self.capacity_of(log).filter(|_| new_blocks > 0) else { return Ok(()) };
        let taken = self.taken_blocks(log) + new_blocks;
        if taken > capacity {
            // Counting trimmed parts may free room.
            let is_counting = self.capacity.is_counting_trims();
            return Err(if is_counting { Refusal::Busy } else { IoError::CapacityExceeded.into() });
        }
        if self.capacity.warn_once(taken, capacity) {
            let left = capacity - taken;
            tracing::warn!(left_blocks = left, "the pool is nearly full; thin volumes will be refused more");
        }
        Ok(())
    }

    /// The problem for the operator while little is left for thin volumes and clones, if there are
    /// any.
    pub(in crate::volume) fn nearly_full_problem(&self, log: &Log) -> Option<String> {
        let (capacity, taken) = (self.capacity_of(log)?, self.taken_blocks(log));
        let is_of_interest = is_nearly_full(taken, capacity) && self.volumes.iter().any(Volume::is_thin);
        is_of_interest.then(|| {
            format!(
                "the pool is nearly full: thin volumes and clones have {} blocks of 4 KiB left; delete volumes, trim, or use a larger device",
                capacity.saturating_sub(taken)
            )
        })
    }
}
