//! The positions of structures: conversions between LSNs, segments, slots and device blocks.
//!
//! **Invariants.** The length of a segment is a power of two blocks. Slots follow each other from
//! the first slot's block on, and the trailer area is at the end of each.

use super::format::{FORMAT_VERSION, Superblock, trailer_blocks, trailer_units};
use super::types::{Lsn, SegmentSeq, Slot};

/// The minimum segment size, in blocks (1 MiB).
pub const SEGMENT_BLOCKS_MIN: u64 = 256;
/// The maximum segment size, in blocks (1 GiB).
pub const SEGMENT_BLOCKS_MAX: u64 = 262_144;
/// The default segment size, in blocks (64 MiB).
pub const SEGMENT_BLOCKS_DEFAULT: u64 = 16_384;
/// The minimum number of slots beyond the working set.
pub const RESERVE_SLOTS: u64 = 4;
/// The maximum number of data blocks in a host's command. A segment always has room for one such
/// command beside its catalog.
pub const COMMAND_BLOCKS_MAX: u64 = 128;
/// The size of a device, with a superblock in its last block, that has as many segments as one of
/// `len_blocks` blocks without it.
pub const fn with_tail(len_blocks: u64) -> u64 {
    len_blocks.saturating_add(1)
}
/// The minimum size of a device in blocks, for segments of `segment_blocks`.
pub const fn device_blocks_min(segment_blocks: u64) -> u64 {
    FIRST_SLOT_BLOCK + (RESERVE_SLOTS + 2) * segment_blocks + 1
}
/// The first block of slot 0: 1 MiB into the device, so that slots have the alignment of the
/// device.
pub const FIRST_SLOT_BLOCK: u64 = 256;

/// The geometry of a pool's device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Size of a segment in blocks, a power of two.
    pub segment_blocks: u64,
    /// Count of slots.
    pub slots: u64,
    /// Working set in segments (W).
    pub working_set: u64,
    /// First block of slot 0.
    pub first_slot_block: u64,
}

impl Geometry {
    /// The geometry for a device of `device_blocks`, with segments of `segment_blocks`: as many
    /// slots as fit before the last block, which holds a superblock; all but [`RESERVE_SLOTS`] of
    /// them are for the working set. `None` if fewer than two segments would be left for the
    /// working set.
    pub fn fit(device_blocks: u64, segment_blocks: u64) -> Option<Self> {
        Geometry::fit_version(FORMAT_VERSION, device_blocks, segment_blocks)
    }

    /// The same for a pool of a given format version.
    pub fn fit_version(version: u32, device_blocks: u64, segment_blocks: u64) -> Option<Self> {
        let tail_blocks = u64::from(version >= 2);
        let slots = device_blocks.checked_sub(FIRST_SLOT_BLOCK + tail_blocks)? / segment_blocks;
        let working_set = slots.checked_sub(RESERVE_SLOTS).filter(|&left| left >= 2)?;
        Some(Geometry { segment_blocks, slots, working_set, first_slot_block: FIRST_SLOT_BLOCK })
    }

    /// The geometry in a superblock.
    pub fn of(superblock: &Superblock) -> Self {
        Geometry {
            segment_blocks: superblock.segment_blocks,
            slots: superblock.slots,
            working_set: superblock.working_set,
            first_slot_block: superblock.first_slot_block,
        }
    }

    /// The same geometry with a working set of another length.
    #[must_use]
    pub fn with_working_set(self, segments: u64) -> Self {
        Geometry { working_set: segments, ..self }
    }

    /// The same geometry with another count of slots.
    #[must_use]
    pub fn with_slots(self, slots: u64) -> Self {
        Geometry { slots, ..self }
    }

    /// The segment of a position.
    pub fn sequence_of(&self, lsn: Lsn) -> SegmentSeq {
        SegmentSeq(lsn.0 >> self.segment_blocks.trailing_zeros())
    }

    /// The offset of a position within its segment, in blocks.
    pub fn offset_of(&self, lsn: Lsn) -> u64 {
        lsn.0 & (self.segment_blocks - 1)
    }

    /// The first position of a segment.
    pub fn first_lsn(&self, sequence: SegmentSeq) -> Lsn {
        Lsn(sequence.0 << self.segment_blocks.trailing_zeros())
    }

    /// The device block of a slot's first block.
    pub fn slot_block(&self, slot: Slot) -> u64 {
        self.first_slot_block + slot.0 * self.segment_blocks
    }

    /// The device block of a slot's trailer area.
    pub fn trailer_block(&self, slot: Slot) -> u64 {
        self.slot_block(slot) + self.data_end()
    }

    /// Blocks of a trailer area.
    pub fn trailer_blocks(&self) -> u64 {
        trailer_blocks(self.segment_blocks)
    }

    /// How many units a trailer area holds.
    pub fn trailer_units(&self) -> usize {
        trailer_units(self.segment_blocks) as usize
    }

    /// The offset within a segment at which the records must end.
    pub fn data_end(&self) -> u64 {
        self.segment_blocks - self.trailer_blocks()
    }

    /// The number of blocks for records in one segment.
    pub fn record_blocks(&self) -> u64 {
        self.data_end() - 1
    }

    /// The maximum length of a catalog, in bytes: both copies and their headers take at most a
    /// quarter of a segment, and leave room for as much again and for the largest command of a
    /// host.
    pub fn catalog_bytes_max(&self) -> usize {
        let beside_command = self.record_blocks().saturating_sub(COMMAND_BLOCKS_MAX + 32) / 4;
        ((self.record_blocks() / 8).min(beside_command) * 4096) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_these_bounds,
        FIRST_SLOT_BLOCK => "| first block of slot 0 | {} (1 MiB)",
        FIRST_SLOT_BLOCK => "every writer stores {} |",
        FIRST_SLOT_BLOCK => "| slots that fit | (device - {}) / segment size | (device - 257) / segment size |",
        FIRST_SLOT_BLOCK + 1 => "| slots that fit | (device - 256) / segment size | (device - {}) / segment size |",
        SEGMENT_BLOCKS_MIN => "| segment size | a power of two, {} to 262,144 blocks",
        SEGMENT_BLOCKS_MAX => "| segment size | a power of two, 256 to {} blocks",
        SEGMENT_BLOCKS_MAX => "| 40 | 8 | segment size in blocks | power of two, 256 to {} |",
        SEGMENT_BLOCKS_DEFAULT => "| {} (64 MiB, usual) |",
        RESERVE_SLOTS => "| working set of a new pool | slots - {}, at least 2 |",
        RESERVE_SLOTS + 2 => "| smallest device | 256 + {} x segment size + 1 blocks |",
        COMMAND_BLOCKS_MAX + 32 => "4096 x min(R / 8, (R - {}) / 4)",
        super::super::format::FORMAT_VERSION => "| `version` in each | {} in new pools;",
        super::super::format::FORMAT_VERSION_OLDEST => "a pool keeps the version that it was made with | {} and 2 |",
        super::super::format::FORMAT_VERSION => "a pool keeps the version that it was made with | 1 and {} |",
        crate::dma::BLOCK_BYTES => "| block | {} bytes; the unit of every place",
    );

    #[test]
    fn the_document_has_the_values_of_the_formulas() {
        let rows = crate::document::rows_of("Values that follow from these formulas", "| segment size");
        let mut segment_blocks = SEGMENT_BLOCKS_MIN;
        for row in &rows {
            let geometry = Geometry::fit(8 * segment_blocks, segment_blocks).expect("it fits");
            let values = [
                segment_blocks,
                geometry.trailer_blocks(),
                geometry.trailer_units() as u64,
                geometry.data_end(),
                geometry.record_blocks(),
                geometry.catalog_bytes_max() as u64,
            ];
            let first = |cell: &str| cell.split(' ').next().map(str::to_owned);
            let named: Vec<Option<String>> = row.iter().map(|cell| first(cell)).collect();
            assert_eq!(named, values.map(|value| Some(crate::document::grouped(value))));
            segment_blocks *= 2;
        }
        assert_eq!(segment_blocks, 2 * SEGMENT_BLOCKS_MAX, "each size has its row");
    }

    #[test]
    fn positions_map_to_slots_and_back() {
        let geometry = Geometry::fit(1 << 20, SEGMENT_BLOCKS_DEFAULT).expect("4 GiB hold 63 segments");
        assert_eq!((geometry.slots, geometry.working_set), (63, 59));
        let lsn = Lsn(5 * SEGMENT_BLOCKS_DEFAULT + 77);
        assert_eq!(geometry.sequence_of(lsn), SegmentSeq(5));
        assert_eq!(geometry.offset_of(lsn), 77);
        assert_eq!(geometry.first_lsn(SegmentSeq(5)).plus(77), lsn);
        assert_eq!(geometry.trailer_blocks(), 97);
        assert!(Geometry::fit(FIRST_SLOT_BLOCK + 5 * 256, 256).is_none());
        for segment_blocks in [SEGMENT_BLOCKS_MIN, SEGMENT_BLOCKS_MAX] {
            let geometry = Geometry::fit(8 * segment_blocks, segment_blocks).expect("eight segments");
            // Records with data never fill the trailer before the blocks.
            assert!(geometry.trailer_units() as u64 >= geometry.record_blocks());
        }
    }
}
