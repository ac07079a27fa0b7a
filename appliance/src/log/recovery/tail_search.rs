//! Searches for the last superblock if its place is unknown: both copies at the start are damaged,
//! and the device has grown after the last superblock.
//!
//! The search goes backward from the device's end. A pool writes nothing after its last block, so
//! the first superblock that the search finds is the pool's, even if a block of a host's data looks
//! like a superblock. A superblock that an earlier use of the device left in the part by which it
//! grew has no segments.

use crate::dma::BLOCK_BYTES;
use crate::log::error::LogError;
use crate::log::format::{SUPERBLOCK_HEADS, SegmentHeader, Superblock};
use crate::log::geometry::Geometry;
use crate::log::read::DeviceReader;
use crate::log::types::Slot;

/// The length of one read, in blocks.
const READ_BLOCKS: u64 = 64;
/// How far the search goes: 64 GiB. On a device that has grown by more, the search does not reach
/// the start.
const SEARCHED_BLOCKS_MAX: u64 = 16 << 20;
/// How many completely unreadable reads in a row end the search: the device is broken.
const UNREADABLE_MAX: u32 = 4;
/// How many slots' headers are read.
const SLOTS_MAX: u64 = 256;

/// The last superblock before block `end`.
///
/// # Errors
/// No memory.
pub(super) async fn find_tail(reads: &DeviceReader, end: u64) -> Result<Option<Superblock>, LogError> {
    let least = end.saturating_sub(SEARCHED_BLOCKS_MAX).max(SUPERBLOCK_HEADS);
    let (mut end, mut unreadable) = (end, 0);
    while end > least && unreadable < UNREADABLE_MAX {
        let first = end.saturating_sub(READ_BLOCKS).max(least);
        // A lost block reads as zeroes, which are not a superblock.
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
