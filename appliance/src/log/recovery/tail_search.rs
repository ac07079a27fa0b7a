//! Looking for the last superblock where nothing tells where it is: both at the head are damaged,
//! and the device has grown behind it.
//!
//! The search goes backward from the device's end. A pool writes nothing behind its last block, so
//! what it finds first is the pool's, however much like a superblock a block of a host's data is.
//! What an earlier life of the device left in the part that it grew by has no segments.

use super::LogError;
use crate::dma::BLOCK_BYTES;
use crate::log::format::{SUPERBLOCK_HEADS, SegmentHeader, Superblock};
use crate::log::geometry::Geometry;
use crate::log::read::{DeviceReader, ReadError, ReadFault};
use crate::log::types::Slot;

/// Blocks of one read.
const READ_BLOCKS: u64 = 64;
/// How far the search goes: 64 GiB. A device that has grown by more is not searched to its begin.
const SEARCHED_BLOCKS_MAX: u64 = 16 << 20;
/// Reads of which nothing can be read, one behind the other, that end the search: the device is
/// broken.
const UNREADABLE_MAX: u32 = 4;
/// Slots of which the headers are looked at.
const SLOTS_MAX: u64 = 256;

/// The last superblock, wherever it is.
///
/// # Errors
/// No memory.
pub(super) async fn find_tail(reads: &DeviceReader, len_blocks: u64) -> Result<Option<Superblock>, LogError> {
    let least = len_blocks.saturating_sub(SEARCHED_BLOCKS_MAX).max(SUPERBLOCK_HEADS);
    let (mut end, mut unreadable) = (len_blocks, 0);
    while end > least && unreadable < UNREADABLE_MAX {
        let first = end.saturating_sub(READ_BLOCKS).max(least);
        let mut found = Vec::new();
        if read(reads, first, end, &mut found).await? {
            unreadable = 0;
        } else {
            unreadable += 1;
        }
        for (block, superblock) in found.into_iter().rev() {
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

/// Finds every block of a range that is a superblock. Whether something of the range can be read.
async fn read(
    reads: &DeviceReader,
    first: u64,
    end: u64,
    found: &mut Vec<(u64, Superblock)>,
) -> Result<bool, LogError> {
    match reads.read(first, end - first).await {
        Ok(buffer) => {
            let blocks = (first..end).zip(buffer.as_slice().chunks_exact(BLOCK_BYTES));
            found.extend(blocks.filter_map(|(block, bytes)| Some((block, Superblock::decode(bytes).ok()?))));
            Ok(true)
        }
        Err(error) if ReadFault::of(&error) == ReadFault::Memory => Err(error.into()),
        Err(_) if end - first > 1 => {
            let mut is_readable = false;
            for block in first..end {
                is_readable |= Box::pin(read(reads, block, block + 1, found)).await?;
            }
            Ok(is_readable)
        }
        Err(_) => Ok(false),
    }
}

/// Whether a segment of the pool is on the device.
async fn has_segments(reads: &DeviceReader, superblock: &Superblock) -> Result<bool, LogError> {
    let geometry = Geometry::of(superblock);
    for slot in 0..geometry.slots.min(SLOTS_MAX) {
        match reads.read(geometry.slot_block(Slot(slot)), 1).await {
            Ok(buffer) => {
                let header =
                    SegmentHeader::decode(buffer.as_slice(), superblock.pool, geometry.segment_blocks);
                if header.is_ok() {
                    return Ok(true);
                }
            }
            Err(error @ ReadError::Memory(_)) => return Err(error.into()),
            Err(_) => {}
        }
    }
    Ok(false)
}
