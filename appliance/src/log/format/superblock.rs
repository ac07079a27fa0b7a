//! The superblock: identity and geometry of the device. Two copies are in blocks 0 and 1 and are
//! written alternately. From version 2 on a third is in the last block of the device and is written
//! after each of them, so that erasing the start of a device does not erase all copies.

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FORMAT_VERSIONS, FormatError};
use crate::dma::BLOCK_BYTES;
use crate::log::frame::{Framed, framed};
use crate::log::types::Lsn;

/// How many copies are at the start of the device.
pub const SUPERBLOCK_HEADS: u64 = 2;

const MAGIC: [u8; 8] = *b"VARVE-SB";

/// Layout, in bytes:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `VARVE-SB` |
/// | 8 | 4 | format version |
/// | 12 | 4 | block size, 4096 |
/// | 16 | 16 | pool UUID |
/// | 32 | 8 | device size in blocks |
/// | 40 | 8 | segment size in blocks, a power of two |
/// | 48 | 8 | count of slots |
/// | 56 | 8 | working set in segments (W) |
/// | 64 | 8 | first block of slot 0 |
/// | 72 | 8 | creation time, ns since the Unix epoch |
/// | 80 | 8 | generation: grows with each write of a superblock; the greater one counts |
/// | 88 | 4 | epoch: grows each time the pool is opened for writing, by one; by two if a copy of the superblock was damaged |
/// | 92 | 8 | begun LSN: everything before it was found, and made stable, when the pool was opened last; 0: not stored, in version 1 |
/// | 100 | 3992 | zero |
/// | 4092 | 4 | CRC32C of bytes 0 to 4091 |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    block_bytes: U32,
    pool: [u8; 16],
    device_blocks: U64,
    segment_blocks: U64,
    slots: U64,
    working_set: U64,
    first_slot_block: U64,
    created_ns: U64,
    generation: U64,
    epoch: U32,
    begun_lsn: U64,
    zero: [u8; 3992],
    crc: U32,
}

const _: () = assert!(size_of::<Raw>() == BLOCK_BYTES);

framed!(Raw, MAGIC, FORMAT_VERSIONS, owner: pool);

/// A superblock, decoded. The table of its bytes is at the private `Raw` in this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// The format version of the pool.
    pub version: u32,
    /// The pool.
    pub pool: Uuid,
    /// Size of the device in blocks.
    pub device_blocks: u64,
    /// Size of a segment in blocks, a power of two.
    pub segment_blocks: u64,
    /// Count of slots.
    pub slots: u64,
    /// Working set in segments (W, R13).
    pub working_set: u64,
    /// First block of slot 0.
    pub first_slot_block: u64,
    /// Creation time, ns since the Unix epoch.
    pub created_ns: u64,
    /// Grows with each write of a superblock.
    pub generation: u64,
    /// Grows each time the pool is opened for writing: by one, or by two if a copy of the
    /// superblock was damaged.
    pub epoch: u32,
    /// Where the log ended when the pool was last opened. Everything before it is stable; records
    /// that a stop cut off are after it. 0: not stored, in version 1.
    pub begun_lsn: Lsn,
}

impl Superblock {
    /// Whether a third copy is in the last block of the device.
    pub fn has_tail(&self) -> bool {
        self.version >= 2
    }

    /// The block of the third copy, if there is one.
    pub fn tail_block(&self) -> Option<u64> {
        self.device_blocks.checked_sub(1).filter(|_| self.has_tail())
    }

    /// The block's bytes.
    pub fn encode(&self, block: &mut [u8]) {
        // The value that a build which knows only version 1 would write.
        let begun_lsn = if self.version == 1 { Lsn(0) } else { self.begun_lsn };
        let raw = Raw {
            magic: MAGIC,
            version: self.version.into(),
            block_bytes: (BLOCK_BYTES as u32).into(),
            pool: *self.pool.as_bytes(),
            device_blocks: self.device_blocks.into(),
            segment_blocks: self.segment_blocks.into(),
            slots: self.slots.into(),
            working_set: self.working_set.into(),
            first_slot_block: self.first_slot_block.into(),
            created_ns: self.created_ns.into(),
            generation: self.generation.into(),
            epoch: self.epoch.into(),
            begun_lsn: begun_lsn.0.into(),
            zero: [0; 3992],
            crc: 0.into(),
        };
        block.copy_from_slice(raw.sealed().as_bytes());
    }

    /// Reads a block.
    ///
    /// # Errors
    /// What is wrong with it. The geometry is checked too, so a decoded superblock is usable.
    pub fn decode(block: &[u8]) -> Result<Self, FormatError> {
        let raw = Raw::view(block)?;
        let superblock = Superblock {
            version: raw.version.get(),
            pool: Uuid::from_bytes(raw.pool),
            device_blocks: raw.device_blocks.get(),
            segment_blocks: raw.segment_blocks.get(),
            slots: raw.slots.get(),
            working_set: raw.working_set.get(),
            first_slot_block: raw.first_slot_block.get(),
            created_ns: raw.created_ns.get(),
            generation: raw.generation.get(),
            epoch: raw.epoch.get(),
            begun_lsn: Lsn(raw.begun_lsn.get()),
        };
        superblock.check(raw.block_bytes.get())
    }

    fn check(self, block_bytes: u32) -> Result<Self, FormatError> {
        if block_bytes as usize != BLOCK_BYTES {
            return Err(FormatError::Field("block size"));
        }
        if !self.segment_blocks.is_power_of_two() || !(256..=262_144).contains(&self.segment_blocks) {
            return Err(FormatError::Field("segment size"));
        }
        let slots_end = self
            .slots
            .checked_mul(self.segment_blocks)
            .and_then(|len| len.checked_add(self.first_slot_block));
        let limit = self.device_blocks.saturating_sub(u64::from(self.has_tail()));
        if slots_end.is_none_or(|end| end > limit) || self.first_slot_block < SUPERBLOCK_HEADS {
            return Err(FormatError::Field("count of slots"));
        }
        if self.working_set == 0 || self.working_set >= self.slots {
            return Err(FormatError::Field("working set"));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::layout!(
        the_document_has_these_bytes,
        "## 4. Superblock",
        Raw { magic: "magic", version: "format version", block_bytes: "block size", pool: "pool UUID", device_blocks: "device size in blocks", segment_blocks: "segment size in blocks", slots: "count of slots", working_set: "working set", first_slot_block: "first block of slot 0", created_ns: "creation time", generation: "generation", epoch: "epoch of the session", begun_lsn: "begun LSN", zero: "zero", crc: "CRC32C of bytes 0 to 4091" },
        magic MAGIC
    );
}
