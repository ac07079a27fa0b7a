//! Reads the parts of a segment: its header, its trailer, single blocks. [`super::scan`] reads a
//! segment record by record, if there is no trailer.
//!
//! **Unreadable blocks.** All reads continue after lost blocks ([`super::read`]). "Cannot be read"
//! is never taken for "is damaged" or "was never written": [`Found::Lost`] is a separate case.

use uuid::Uuid;

use super::checksum::crc32c;
use super::environment::Environment;
use super::format::{FormatError, SegmentHeader, Superblock, TrailerHead, TrailerUnit};
use super::geometry::Geometry;
use super::read::{BlocksRead, DeviceReader};
use super::types::{Lsn, Slot};
use crate::bdev::SharedBdev;
use crate::dma::{BLOCK_BYTES, DmaBufMut};

pub use super::entries::{LsnRange, PlacedEntry, SegmentEntries};
pub use super::read::ReadError;

/// Blocks of one read of a trailer.
const TRAILER_READ_BLOCKS: u64 = 256;

/// What is at the place of a structure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    /// A valid structure.
    Valid(T),
    /// Nothing of this kind was ever written there: zeroes, or the superblock copy that was at the
    /// end of the device before it grew.
    Blank,
    /// Something else.
    Damaged(FormatError),
    /// The device cannot read it, so the content is unknown.
    Lost,
}

impl<T> Found<T> {
    /// The structure, if it is valid.
    pub fn valid(self) -> Option<T> {
        match self {
            Found::Valid(value) => Some(value),
            _ => None,
        }
    }

    /// What is wrong with it, as the end of a sentence that starts with its name; `None` if it is
    /// valid.
    pub fn problem(&self) -> Option<String> {
        match self {
            Found::Valid(_) => None,
            Found::Blank => Some("is blank".to_owned()),
            Found::Damaged(error) => Some(format!("is damaged: {error}")),
            Found::Lost => Some("cannot be read".to_owned()),
        }
    }
}

/// Reads segments of one pool from its device.
#[derive(Clone)]
pub struct SegmentReader {
    reads: DeviceReader,
    geometry: Geometry,
    pool: Uuid,
}

impl SegmentReader {
    /// A reader.
    pub fn new(device: SharedBdev, environment: &Environment, geometry: Geometry, pool: Uuid) -> Self {
        SegmentReader { reads: DeviceReader::new(device, environment), geometry, pool }
    }

    /// A reader of the same device with its current geometry.
    pub(super) fn of(reads: DeviceReader, geometry: Geometry, pool: Uuid) -> Self {
        SegmentReader { reads, geometry, pool }
    }

    /// The shape of the device.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The pool whose segments are read.
    pub(super) fn pool(&self) -> Uuid {
        self.pool
    }

    /// Reads `len_blocks` blocks from a device block on. Transient errors are retried.
    ///
    /// # Errors
    /// The device's, or no memory.
    pub async fn read_blocks(&self, block: u64, len_blocks: u64) -> Result<DmaBufMut, ReadError> {
        self.reads.read(block, len_blocks).await
    }

    /// The same, but it continues after lost blocks.
    ///
    /// # Errors
    /// No memory.
    pub async fn read_around(&self, block: u64, len_blocks: u64) -> Result<BlocksRead, ReadError> {
        self.reads.read_around(block, len_blocks).await
    }

    /// Reads a structure of one block.
    pub(super) async fn find<T>(
        &self,
        block: u64,
        decode: impl FnOnce(&[u8]) -> Result<T, FormatError>,
    ) -> Result<Found<T>, ReadError> {
        let read = self.read_around(block, 1).await?;
        if read.is_lost(0) {
            return Ok(Found::Lost);
        }
        let bytes = read.buffer.as_slice();
        Ok(match decode(bytes) {
            Ok(value) => Found::Valid(value),
            Err(_) if bytes.iter().all(|&byte| byte == 0) || Superblock::decode(bytes).is_ok() => {
                Found::Blank
            }
            Err(error) => Found::Damaged(error),
        })
    }

    /// Reads a slot's segment header.
    ///
    /// # Errors
    /// No memory.
    pub async fn read_header(&self, slot: Slot) -> Result<Found<SegmentHeader>, ReadError> {
        let (pool, segment_blocks) = (self.pool, self.geometry.segment_blocks);
        let decode = |block: &[u8]| SegmentHeader::decode(block, pool, segment_blocks);
        self.find(self.geometry.slot_block(slot), decode).await
    }

    /// Reads the head of a slot's trailer.
    ///
    /// # Errors
    /// No memory.
    pub async fn read_trailer_head(&self, slot: Slot) -> Result<Found<TrailerHead>, ReadError> {
        let (pool, segment_blocks) = (self.pool, self.geometry.segment_blocks);
        let decode = |block: &[u8]| TrailerHead::decode(block, pool, segment_blocks);
        self.find(self.geometry.trailer_block(slot), decode).await
    }

    /// Reads the units of a slot's trailer, whose head has been read.
    ///
    /// # Errors
    /// No memory.
    pub async fn read_trailer(
        &self,
        slot: Slot,
        head: &TrailerHead,
    ) -> Result<Found<Vec<TrailerUnit>>, ReadError> {
        let len_blocks = TrailerHead::len_bytes(head.units as usize).div_ceil(BLOCK_BYTES) as u64;
        let mut area = Vec::with_capacity(len_blocks as usize * BLOCK_BYTES);
        let mut at = 0;
        while at < len_blocks {
            let count = TRAILER_READ_BLOCKS.min(len_blocks - at);
            let part = self.read_around(self.geometry.trailer_block(slot) + at, count).await?;
            if !part.lost.is_empty() {
                return Ok(Found::Lost);
            }
            area.extend_from_slice(part.buffer.as_slice());
            at += count;
        }
        Ok(match head.body(&area) {
            Ok(units) => Found::Valid(units.to_vec()),
            Err(error) => Found::Damaged(error),
        })
    }

    /// Reads a block of the log and checks its CRC32C; `None` if it is wrong.
    ///
    /// # Errors
    /// The device's, or no memory.
    pub async fn read_checked(&self, slot: Slot, lsn: Lsn, crc: u32) -> Result<Option<DmaBufMut>, ReadError> {
        let block =
            self.read_blocks(self.geometry.slot_block(slot) + self.geometry.offset_of(lsn), 1).await?;
        Ok((crc32c(block.as_slice()) == crc).then_some(block))
    }
}
