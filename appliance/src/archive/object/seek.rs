//! The seek table of zstd's seekable format, version 0.1.0.
//!
//! ```text
//! | magic 0x184D2A5E u32 | size of the rest u32 | entry, 12 bytes, for each frame | count of frames u32 | descriptor u8 | magic 0x8F92EAB1 u32 |
//! entry: | compressed bytes u32 | content bytes u32 | low 32 bits of XXH64 of the content u32 |
//! ```
//!
//! The descriptor is 0x80: entries have checksums. Frames are listed in their order: the front
//! frame, the data frames, the digest frame.

use xxhash_rust::xxh64::xxh64;

use super::codec::frame_compressed_max;
use super::header::{POSITION_BYTES, TAIL_BYTES};
use super::{Damage, ObjectTail, SKIPPABLE_HEAD_BYTES, skippable_head};

const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const CHECKSUM_FLAG: u8 = 0x80;
const ENTRY_BYTES: usize = 12;
/// The size of the footer in bytes.
pub(super) const FOOTER_BYTES: usize = 9;
/// Frames in addition to the data frames: the front frame and the digest frame.
const SKIPPABLE_FRAMES: u32 = 2;

/// A data frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataFrame {
    /// Its offset in the object.
    pub offset: u64,
    /// Its size in bytes.
    pub compressed_bytes: u32,
    /// The size of its content in bytes.
    pub content_bytes: u32,
    /// The low 32 bits of its content's XXH64.
    pub checksum: u32,
}

/// The checksum of a frame's content.
pub(super) fn checksum(content: &[u8]) -> u32 {
    xxh64(content, 0) as u32
}

/// The size in bytes of a table with `data_frames`.
pub(super) fn table_bytes(data_frames: u32) -> usize {
    (data_frames.saturating_add(SKIPPABLE_FRAMES) as usize)
        .saturating_mul(ENTRY_BYTES)
        .saturating_add(SKIPPABLE_HEAD_BYTES + FOOTER_BYTES)
}

/// The number of data frames that a footer states.
pub(super) fn decode_footer(footer: &[u8; FOOTER_BYTES]) -> Result<u32, Damage> {
    if le_u32(footer, 5) != SEEKABLE_MAGIC {
        return Err(Damage::Magic);
    }
    if footer[4] != CHECKSUM_FLAG {
        return Err(Damage::Field("descriptor"));
    }
    le_u32(footer, 0)
        .checked_sub(SKIPPABLE_FRAMES)
        .filter(|&frames| frames >= 1)
        .ok_or(Damage::Field("count of frames"))
}

/// The size of the digest frame in bytes.
pub(super) fn digest_frame_bytes(damaged_blocks: u32) -> usize {
    (damaged_blocks as usize).saturating_mul(POSITION_BYTES).saturating_add(SKIPPABLE_HEAD_BYTES + TAIL_BYTES)
}

/// The size of the digest frame in bytes, as the last entry of the table at the end of `end` states
/// it. The caller must not rely on it before the table's checksum has been verified.
pub(super) fn told_digest_frame_bytes(end: &[u8]) -> usize {
    le_u32(end, end.len().saturating_sub(FOOTER_BYTES + ENTRY_BYTES)) as usize
}

/// Encodes a whole table.
pub(super) fn encode(front_bytes: u32, frames: &[DataFrame], damaged_blocks: u32) -> Vec<u8> {
    let len = table_bytes(frames.len() as u32);
    let mut table = Vec::with_capacity(len);
    table
        .extend_from_slice(&skippable_head(SKIPPABLE_MAGIC, len.saturating_sub(SKIPPABLE_HEAD_BYTES) as u32));
    let mut line = |compressed: u32, content: u32, checksum: u32| {
        for value in [compressed, content, checksum] {
            table.extend_from_slice(&value.to_le_bytes());
        }
    };
    line(front_bytes, 0, checksum(&[]));
    for frame in frames {
        line(frame.compressed_bytes, frame.content_bytes, frame.checksum);
    }
    line(digest_frame_bytes(damaged_blocks) as u32, 0, checksum(&[]));
    table.extend_from_slice(&(frames.len() as u32).saturating_add(SKIPPABLE_FRAMES).to_le_bytes());
    table.push(CHECKSUM_FLAG);
    table.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
    table
}

/// Decodes the data frames of a table whose checksum was verified, and which has the length that
/// its footer states.
pub(super) fn decode(table: &[u8], tail: &ObjectTail) -> Result<Vec<DataFrame>, Damage> {
    if le_u32(table, 0) != SKIPPABLE_MAGIC {
        return Err(Damage::Magic);
    }
    let (_, after_head) = table.split_at_checked(SKIPPABLE_HEAD_BYTES).ok_or(Damage::Truncated)?;
    if le_u32(table, 4) as usize != after_head.len() {
        return Err(Damage::Field("size"));
    }
    let (lines, _) = after_head.split_last_chunk::<FOOTER_BYTES>().ok_or(Damage::Truncated)?;
    let (lines, _) = lines.as_chunks::<ENTRY_BYTES>();
    let [front, data @ .., digest] = lines else { return Err(Damage::Truncated) };
    if le_u32(front, 4) != 0 || le_u32(digest, 4) != 0 {
        return Err(Damage::Field("content of a skippable frame"));
    }
    if le_u32(digest, 0) as usize != digest_frame_bytes(tail.damaged_blocks) {
        return Err(Damage::Field("size of the digest frame"));
    }
    let mut offset = u64::from(le_u32(front, 0));
    let mut content_left = tail.id.content_bytes();
    let mut frames = Vec::with_capacity(data.len());
    for line in data {
        let frame = DataFrame {
            offset,
            compressed_bytes: le_u32(line, 0),
            content_bytes: le_u32(line, 4),
            checksum: le_u32(line, 8),
        };
        if u64::from(frame.content_bytes) != content_left.min(u64::from(tail.frame_bytes)) {
            return Err(Damage::Field("content of a frame"));
        }
        if u64::from(frame.compressed_bytes) > frame_compressed_max() {
            return Err(Damage::Field("size of a frame"));
        }
        content_left = content_left.saturating_sub(u64::from(frame.content_bytes));
        offset = offset.saturating_add(u64::from(frame.compressed_bytes));
        frames.push(frame);
    }
    if content_left != 0 || offset != tail.digested_bytes {
        return Err(Damage::Field("sizes of the frames"));
    }
    Ok(frames)
}

/// The u32 at `offset`. Callers ensure that it is inside; 0 if not, which is no magic number and no
/// size that is accepted here.
pub(super) fn le_u32(bytes: &[u8], offset: usize) -> u32 {
    let value = bytes.get(offset..).and_then(|from| from.first_chunk());
    value.map_or(0, |&value| u32::from_le_bytes(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_these_sizes,
        ENTRY_BYTES => "| {} for each frame | compressed bytes u32",
        SKIPPABLE_FRAMES => "| 4 | count of frames: data frames + {} |",
        FOOTER_BYTES => "12 bytes for each frame before it | footer, {} bytes |",
    );

    #[test]
    fn the_document_has_these_magic_numbers() {
        crate::document::check_says(&format!("Skippable frame 0x{SKIPPABLE_MAGIC:X}; its payload"));
        crate::document::check_says(&format!("| 4 | magic 0x{SEEKABLE_MAGIC:X} |"));
        crate::document::check_says(&format!(
            "| 1 | descriptor, 0x{CHECKSUM_FLAG:x}: lines have checksums |"
        ));
    }
}
