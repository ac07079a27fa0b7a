//! The search for the last superblock where nothing names its place: both at the head are damaged,
//! and the device has grown after it.
//!
//! The search goes backward from the device's end. A pool writes nothing after its last block, so
//! what it finds first is the pool's, however much like a superblock a block of a host's data is.
//! What an earlier life of the device left in the part that it grew by has no segments.

use crate::dma::BLOCK_BYTES;
use crate::log::error::LogError;
use crate::log::format::{SUPERBLOCK_HEADS, SegmentHeader, Superblock};
use crate::log::geometry::Geometry;
use crate::log::read::DeviceReader;
use crate::log::types::Slot;

/// Blocks of one read.
const READ_BLOCKS: u64 = 64;
/// How far the search goes: 64 GiB. A device that has grown by more is not searched to its begin.
const SEARCHED_BLOCKS_MAX: u64 = 16 << 20;
/// Reads of which nothing can be read, one after the other, that end the search: the device is
/// broken.
const UNREADABLE_MAX: u32 = 4;
/// Slots of which the headers are read.
const SLOTS_MAX: u64 = 256;

/// The last superblock before block `end`, wherever it is.
///
/// # Errors
/// No memory.
pub(super) async fn find_tail(reads: &DeviceReader, end: u64) -> Result<Option<Superblock>, LogError> {
    let least = end.saturating_sub(SEARCHED_BLOCKS_MAX).max(SUPERBLOCK_HEADS);
    let (mut end, mut unreadable) = (end, 0);
    while end > least && unreadable < UNREADABLE_MAX {
        let first = end.saturating_sub(READ_BLOCKS).max(least);
        // A block that is lost reads as zeroes, which are no superblock.
        let read = reads.read_around(first, end - first).await?;
        unreadable = if read.lost.len() as u64 == end - first { unreadable + 1 } else { 0 };
        let blocks = read.buffer.as_slice().chunks_exact(BLOCK_BYTES);
        for (block, bytes) in (first..end).rev().zip(blocks.rev()) {
            let Ok(superblock) = Superblock::decode(bytes) else { continue };
            if superblock.tail_block() == Some(block) && has_segments(reads, &superblock).await? {
                tracing::warn!(
                    block,
                    "the last copy of the superblock was found by a search: the device has grown"
                );
                return Ok(Some(superblock));
            }
        }
        end = first;
    }
    Ok(None)
}

/// Whether a segment of the pool is on the device.
async fn has_segments(reads: &DeviceReader, superblock: &Superblock) -> Result<bool, LogError> {
    let geometry = Geometry::of(superblock);
    for slot in 0..geometry.slots.min(SLOTS_MAX) {
        let read = reads.read_around(geometry.slot_block(Slot(slot)), 1).await?;
        let bytes = read.buffer.as_slice();
        if SegmentHeader::decode(bytes, superblock.pool, geometry.segment_blocks).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}
