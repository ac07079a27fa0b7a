//! A part of an anchor: leaves of the index, in frames of 64.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zstd_safe::get_error_name;

use super::{
    ANCHOR_VERSION, AnchorDamage, AnchorError, AnchorId, FRAME_LEAVES, LEAF_BLOCKS, PART_LEAVES, PARTS_MAX,
    planes,
};
use crate::log::checksum::crc32c;
use crate::log::frame::{Framed, framed};

/// The largest number of a leaf: all of its blocks have numbers.
const LEAF_NUMBER_MAX: u64 = u64::MAX >> LEAF_BLOCKS.trailing_zeros();

const PART_MAGIC: [u8; 8] = *b"VARVE-AP";
/// The size of a part's head in bytes.
pub(super) const PART_HEAD_BYTES: usize = 64;
/// The compression level: what can be compressed at all are planes of equal bytes.
const LEVEL: i32 = 1;
/// The bytes of a leaf's mappings.
const LEAF_BYTES: usize = LEAF_BLOCKS * 8;
/// The most bytes of a frame's content.
const FRAME_BYTES: usize = FRAME_LEAVES * LEAF_BYTES;

const _: () = assert!(size_of::<RawPart>() == PART_HEAD_BYTES);
framed!(RawPart, PART_MAGIC, ANCHOR_VERSION..=ANCHOR_VERSION, owner: pool);

/// Layout, in bytes; the numbers of the leaves, 8 bytes each, and the rows of the frames follow,
/// then the frames:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `VARVE-AP` |
/// | 8 | 4 | format version |
/// | 12 | 4 | image |
/// | 16 | 16 | pool UUID |
/// | 32 | 8 | LSN of the anchor |
/// | 40 | 8 | claim |
/// | 48 | 4 | number of the part, from 0 |
/// | 52 | 4 | count of leaves |
/// | 56 | 4 | epoch of the segment |
/// | 60 | 4 | CRC32C of bytes 0 to 59, the numbers of the leaves and the rows |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawPart {
    magic: [u8; 8],
    version: U32,
    image: U32,
    pool: [u8; 16],
    lsn: U64,
    claim: U64,
    number: U32,
    leaves: U32,
    epoch: U32,
    crc: U32,
}

/// Layout, in bytes:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | bytes of the Zstandard frame |
/// | 4 | 4 | CRC32C of the Zstandard frame |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawFrame {
    bytes: U32,
    crc: U32,
}

/// Leaves of an index, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaves {
    /// For each leaf its number: its first block divided by 512.
    numbers: Vec<u64>,
    /// The mappings of the leaves: position and low half of the checksum, 0 for none.
    mappings: Vec<u64>,
}

impl Leaves {
    /// Adds a leaf behind the others.
    pub fn push(&mut self, number: u64, mappings: &[u64; LEAF_BLOCKS]) {
        debug_assert!(self.numbers.last().is_none_or(|&last| last < number), "leaves are in order");
        self.numbers.push(number);
        self.mappings.extend_from_slice(mappings);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The number of the first leaf.
    pub fn first(&self) -> Option<u64> {
        self.numbers.first().copied()
    }

    /// The number of the last leaf.
    pub fn last(&self) -> Option<u64> {
        self.numbers.last().copied()
    }

    /// How many mappings there are.
    pub fn mapped(&self) -> u64 {
        self.mappings.iter().map(|&mapping| u64::from(mapping != 0)).sum()
    }

    /// The leaves from one on, by their place here: number and mappings.
    pub fn iter_from(&self, place: usize) -> impl Iterator<Item = (u64, &[u64; LEAF_BLOCKS])> {
        self.numbers.iter().copied().zip(self.mappings.as_chunks().0).skip(place)
    }

    /// The bytes of a part.
    ///
    /// # Errors
    /// More leaves than a part has, or none.
    pub fn encode(&self, id: &AnchorId, number: u32) -> Result<Vec<u8>, AnchorError> {
        if self.numbers.is_empty() || self.numbers.len() > PART_LEAVES || number >= PARTS_MAX {
            return Err(AnchorError::Content("it has no leaves, or too many"));
        }
        let (mut rows, mut frames) = (Vec::<RawFrame>::new(), Vec::new());
        let (mut content, mut frame) = (Vec::with_capacity(FRAME_BYTES), Vec::new());
        for mappings in self.mappings.chunks(FRAME_LEAVES.saturating_mul(LEAF_BLOCKS)) {
            content.clear();
            planes::split(mappings, &mut content);
            frame.clear();
            frame.reserve(zstd_safe::compress_bound(content.len()));
            zstd_safe::compress(&mut frame, &content, LEVEL)
                .map_err(|code| AnchorError::Zstd(get_error_name(code)))?;
            rows.push(RawFrame { bytes: (frame.len() as u32).into(), crc: crc32c(&frame).into() });
            frames.extend_from_slice(&frame);
        }
        let numbers: Vec<U64> = self.numbers.iter().map(|&number| number.into()).collect();
        let tables = [numbers.as_bytes(), rows.as_bytes()].concat();
        let mut raw = RawPart {
            magic: PART_MAGIC,
            version: ANCHOR_VERSION.into(),
            image: id.image.into(),
            pool: *id.pool.as_bytes(),
            lsn: id.lsn.0.into(),
            claim: id.claim.0.into(),
            number: number.into(),
            leaves: (self.numbers.len() as u32).into(),
            epoch: id.epoch.into(),
            crc: 0.into(),
        };
        raw.seal(&tables);
        Ok([raw.as_bytes(), &tables, &frames].concat())
    }

    /// Reads a part of an anchor.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(id: &AnchorId, number: u32, bytes: &[u8]) -> Result<Self, AnchorDamage> {
        let (raw, rest) = RawPart::ref_from_prefix(bytes).map_err(|_| AnchorDamage::Length)?;
        let count = raw.leaves.get() as usize;
        if raw.magic != PART_MAGIC {
            return Err(AnchorDamage::Magic);
        }
        if count == 0 || count > PART_LEAVES {
            return Err(AnchorDamage::Field("count of leaves"));
        }
        let (tables, frames) = rest.split_at_checked(tables_bytes(count)).ok_or(AnchorDamage::Length)?;
        raw.check(tables).map_err(AnchorDamage::of_frame)?;
        id.check_owner((raw.pool, raw.epoch, raw.image, raw.lsn, raw.claim))?;
        if raw.number.get() != number {
            return Err(AnchorDamage::Elsewhere("part"));
        }
        let (numbers, rows) =
            <[U64]>::ref_from_prefix_with_elems(tables, count).map_err(|_| AnchorDamage::Length)?;
        let rows = <[RawFrame]>::ref_from_bytes(rows).map_err(|_| AnchorDamage::Length)?;
        let numbers: Vec<u64> = numbers.iter().map(|number| number.get()).collect();
        let is_ordered = numbers.iter().zip(numbers.iter().skip(1)).all(|(one, next)| one < next);
        if !is_ordered || numbers.last().is_some_and(|&last| last > LEAF_NUMBER_MAX) {
            return Err(AnchorDamage::Field("order of the leaves"));
        }
        let mappings = decode_frames(rows, frames, count)?;
        // The largest mapping at a position has all bits of the checksum. All are checked, without
        // a branch for each: there are half a million.
        let newest = mappings.iter().copied().max().unwrap_or_default() >> 16;
        let without_position = mappings.iter().filter(|mapping| mapping.wrapping_sub(1) < 0xffff).count();
        if newest > id.lsn.0 || without_position > 0 {
            return Err(AnchorDamage::Field("position of a block"));
        }
        Ok(Leaves { numbers, mappings })
    }
}

/// The bytes of the tables of a part with so many leaves.
fn tables_bytes(leaves: usize) -> usize {
    let rows = leaves.div_ceil(FRAME_LEAVES).saturating_mul(size_of::<RawFrame>());
    leaves.saturating_mul(8).saturating_add(rows)
}

/// The most bytes of a part.
pub(super) fn part_bytes_max() -> usize {
    let frames = (PART_LEAVES / FRAME_LEAVES).saturating_mul(zstd_safe::compress_bound(FRAME_BYTES));
    PART_HEAD_BYTES.saturating_add(tables_bytes(PART_LEAVES)).saturating_add(frames)
}

/// The mappings of `leaves` leaves in frames.
fn decode_frames(rows: &[RawFrame], frames: &[u8], leaves: usize) -> Result<Vec<u64>, AnchorDamage> {
    let mut mappings = Vec::with_capacity(leaves.saturating_mul(LEAF_BLOCKS));
    let (mut rest, mut left) = (frames, leaves);
    let mut content = Vec::with_capacity(FRAME_BYTES);
    for row in rows {
        let (frame, after) = rest.split_at_checked(row.bytes.get() as usize).ok_or(AnchorDamage::Length)?;
        if crc32c(frame) != row.crc.get() {
            return Err(AnchorDamage::Checksum("frame"));
        }
        let of_frame = left.min(FRAME_LEAVES);
        let content_bytes = of_frame.saturating_mul(LEAF_BYTES);
        content.clear();
        // The buffer's capacity bounds what a hostile frame can make of it.
        content.reserve_exact(FRAME_BYTES);
        let len = zstd_safe::decompress(&mut content, frame)
            .map_err(|code| AnchorDamage::Zstd(get_error_name(code)))?;
        if len != content_bytes {
            return Err(AnchorDamage::Field("length of a frame's content"));
        }
        planes::join(&content, &mut mappings);
        (rest, left) = (after, left.saturating_sub(of_frame));
    }
    if !rest.is_empty() || left != 0 {
        return Err(AnchorDamage::Length);
    }
    Ok(mappings)
}

/// The same bytes with right checksums, for fuzzing: a change would otherwise never get past them.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn resealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let (raw, rest) = RawPart::mut_from_prefix(&mut bytes).ok()?;
    let count = raw.leaves.get() as usize;
    let (tables, frames) = rest.split_at_mut_checked(tables_bytes(count))?;
    let rows = tables.get_mut(count.checked_mul(8)?..)?;
    let mut frames = &*frames;
    for row in <[RawFrame]>::mut_from_bytes(rows).ok()? {
        let (frame, after) = frames.split_at_checked(row.bytes.get() as usize)?;
        row.crc = crc32c(frame).into();
        frames = after;
    }
    raw.seal(tables);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::layout!(
        the_document_has_the_bytes_of_a_part,
        "### Part of an anchor",
        RawPart { magic: "magic", version: "version", image: "image", pool: "pool UUID", lsn: "LSN of the anchor", claim: "claim", number: "number of the part", leaves: "count of leaves", epoch: "epoch", crc: "CRC32C of bytes 0 to 59" },
        magic PART_MAGIC
    );

    crate::document::layout!(
        the_document_has_the_bytes_of_a_frame_row,
        "### Row of a frame",
        RawFrame { bytes: "bytes of the Zstandard frame", crc: "CRC32C of the Zstandard frame" }
    );

    crate::document::numbers!(
        the_document_has_these_bounds,
        PART_HEAD_BYTES => "a head, {} bytes, the numbers of the leaves",
        FRAME_LEAVES => "{} leaves to a frame",
        PART_LEAVES => "at most {} leaves",
        ANCHOR_VERSION => "| anchor: head, part | `version` in each | {} | 1 |",
    );
}
