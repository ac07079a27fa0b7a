//! The head of an anchor: which state it is, and which parts hold it.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::part::part_bytes_max;
use super::{ANCHOR_VERSION, AnchorDamage, AnchorId, LEAF_BLOCKS, Leaves, PART_LEAVES, PARTS_MAX};
use crate::log::frame::{Framed, framed};
use crate::log::types::Lsn;

const HEAD_MAGIC: [u8; 8] = *b"VARVE-AH";
/// The size of the head in bytes.
pub(super) const HEAD_BYTES: usize = 128;
/// The size of a part's row in bytes.
pub(super) const PART_ROW_BYTES: usize = 48;

const _: () = assert!(size_of::<RawHead>() == HEAD_BYTES);
const _: () = assert!(size_of::<RawPartRow>() == PART_ROW_BYTES);
framed!(RawHead, HEAD_MAGIC, ANCHOR_VERSION..=ANCHOR_VERSION, owner: pool);

/// Layout, in bytes; a row for each part follows:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `VARVE-AH` |
/// | 8 | 4 | format version |
/// | 12 | 4 | image |
/// | 16 | 16 | pool UUID |
/// | 32 | 8 | LSN of the anchor |
/// | 40 | 8 | claim |
/// | 48 | 4 | epoch of the segment |
/// | 52 | 4 | count of parts |
/// | 56 | 8 | LSN of the last record at or before the LSN of the anchor |
/// | 64 | 8 | time of that record, ns since the Unix epoch |
/// | 72 | 4 | epoch of that record |
/// | 76 | 4 | zero |
/// | 80 | 8 | size of the volume, in blocks |
/// | 88 | 8 | count of mapped blocks |
/// | 96 | 28 | zero |
/// | 124 | 4 | CRC32C of bytes 0 to 123 and of the rows |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHead {
    magic: [u8; 8],
    version: U32,
    image: U32,
    pool: [u8; 16],
    lsn: U64,
    claim: U64,
    epoch: U32,
    parts: U32,
    record_lsn: U64,
    record_ns: U64,
    record_epoch: U32,
    zero: [u8; 4],
    size_blocks: U64,
    mapped_blocks: U64,
    zeroes: [u8; 28],
    crc: U32,
}

/// Layout, in bytes:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | number of the first leaf |
/// | 8 | 4 | count of leaves |
/// | 12 | 4 | bytes of the part |
/// | 16 | 32 | BLAKE3 of the part |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawPartRow {
    first_leaf: U64,
    leaves: U32,
    bytes: U32,
    digest: [u8; 32],
}

/// The last record before a position, which tells one history of a pool from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRecord {
    /// Where its header is.
    pub lsn: Lsn,
    /// Its time.
    pub time_ns: u64,
    /// The epoch of the session that wrote it.
    pub epoch: u32,
}

/// A part, as the head lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnchorPart {
    /// The number of its first leaf.
    pub first_leaf: u64,
    /// How many leaves it has.
    pub leaves: u32,
    /// Its bytes.
    pub bytes: u32,
    /// Its BLAKE3.
    pub digest: [u8; 32],
}

/// The head of an anchor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnchorHead {
    /// The record that ends at its position.
    pub record: LastRecord,
    /// The size of the volume there, in blocks.
    pub size_blocks: u64,
    /// How many blocks are mapped.
    pub mapped_blocks: u64,
    /// The parts, in the order of their leaves.
    pub parts: Vec<AnchorPart>,
}

impl AnchorHead {
    /// The most bytes of a head with so many parts.
    pub fn bytes_of(parts: u32) -> usize {
        (parts.min(PARTS_MAX) as usize).saturating_mul(PART_ROW_BYTES).saturating_add(HEAD_BYTES)
    }

    /// The bytes of the parts.
    pub fn part_bytes(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.bytes)).sum()
    }

    /// The blocks of a part: the first, and the one at which the next part begins, or the end.
    pub fn blocks_of(&self, number: u32) -> (u64, u64) {
        let first = |number: u32| {
            let part = self.parts.get(number as usize)?;
            Some(part.first_leaf.saturating_mul(LEAF_BLOCKS as u64))
        };
        let end = first(number.saturating_add(1)).unwrap_or(u64::MAX);
        (first(number).unwrap_or(u64::MAX), end)
    }

    /// Checks that a part has the leaves that this head lists.
    ///
    /// # Errors
    /// [`AnchorDamage::Unlisted`].
    pub fn check_part(&self, number: u32, leaves: &Leaves) -> Result<(), AnchorDamage> {
        let (_, end) = self.blocks_of(number);
        let is_before_next = leaves.last().is_some_and(|last| last < end.div_ceil(LEAF_BLOCKS as u64));
        let is_listed = self.parts.get(number as usize).is_some_and(|listed| {
            leaves.first() == Some(listed.first_leaf) && leaves.len() == listed.leaves as usize
        });
        if is_listed && is_before_next { Ok(()) } else { Err(AnchorDamage::Unlisted) }
    }

    /// Its bytes.
    pub fn encode(&self, id: &AnchorId) -> Vec<u8> {
        let rows: Vec<RawPartRow> = self.parts.iter().map(RawPartRow::from).collect();
        let mut raw = RawHead {
            magic: HEAD_MAGIC,
            version: ANCHOR_VERSION.into(),
            image: id.image.into(),
            pool: *id.pool.as_bytes(),
            lsn: id.lsn.0.into(),
            claim: id.claim.0.into(),
            epoch: id.epoch.into(),
            parts: (self.parts.len() as u32).into(),
            record_lsn: self.record.lsn.0.into(),
            record_ns: self.record.time_ns.into(),
            record_epoch: self.record.epoch.into(),
            zero: [0; 4],
            size_blocks: self.size_blocks.into(),
            mapped_blocks: self.mapped_blocks.into(),
            zeroes: [0; 28],
            crc: 0.into(),
        };
        raw.seal(rows.as_bytes());
        [raw.as_bytes(), rows.as_bytes()].concat()
    }

    /// Reads the head of an anchor.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(id: &AnchorId, bytes: &[u8]) -> Result<Self, AnchorDamage> {
        let (raw, rows) = RawHead::ref_from_prefix(bytes).map_err(|_| AnchorDamage::Length)?;
        raw.check(rows).map_err(AnchorDamage::of_frame)?;
        id.check_owner((raw.pool, raw.epoch, raw.image, raw.lsn, raw.claim))?;
        let rows = <[RawPartRow]>::ref_from_bytes(rows).map_err(|_| AnchorDamage::Length)?;
        if rows.len() != raw.parts.get() as usize || rows.len() > PARTS_MAX as usize {
            return Err(AnchorDamage::Field("count of parts"));
        }
        let record = LastRecord {
            lsn: Lsn(raw.record_lsn.get()),
            time_ns: raw.record_ns.get(),
            epoch: raw.record_epoch.get(),
        };
        if record.lsn > id.lsn {
            return Err(AnchorDamage::Field("position of the last record"));
        }
        let parts: Vec<AnchorPart> = rows.iter().map(AnchorPart::from).collect();
        check_parts(&parts)?;
        let leaves: u64 = parts.iter().map(|part| u64::from(part.leaves)).sum();
        let mapped_blocks = raw.mapped_blocks.get();
        if mapped_blocks > leaves.saturating_mul(LEAF_BLOCKS as u64) {
            return Err(AnchorDamage::Field("count of mapped blocks"));
        }
        Ok(AnchorHead { record, size_blocks: raw.size_blocks.get(), mapped_blocks, parts })
    }
}

/// Whether parts are in order, and none is larger than one can be.
fn check_parts(parts: &[AnchorPart]) -> Result<(), AnchorDamage> {
    let mut next_leaf = 0;
    for part in parts {
        if part.leaves == 0 || part.leaves as usize > PART_LEAVES || part.bytes as usize > part_bytes_max() {
            return Err(AnchorDamage::Field("size of a part"));
        }
        if part.first_leaf < next_leaf {
            return Err(AnchorDamage::Field("order of the parts"));
        }
        next_leaf = part.first_leaf.saturating_add(u64::from(part.leaves));
    }
    Ok(())
}

impl From<&AnchorPart> for RawPartRow {
    fn from(part: &AnchorPart) -> Self {
        RawPartRow {
            first_leaf: part.first_leaf.into(),
            leaves: part.leaves.into(),
            bytes: part.bytes.into(),
            digest: part.digest,
        }
    }
}

impl From<&RawPartRow> for AnchorPart {
    fn from(raw: &RawPartRow) -> Self {
        AnchorPart {
            first_leaf: raw.first_leaf.get(),
            leaves: raw.leaves.get(),
            bytes: raw.bytes.get(),
            digest: raw.digest,
        }
    }
}

/// The same bytes with a right checksum, for fuzzing: a change would otherwise never get past it.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn resealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let (raw, rows) = RawHead::mut_from_prefix(&mut bytes).ok()?;
    raw.seal(rows);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::layout!(
        the_document_has_the_bytes_of_a_head,
        "### Head of an anchor",
        RawHead { magic: "magic", version: "version", image: "image", pool: "pool UUID", lsn: "LSN of the anchor", claim: "claim", epoch: "epoch of the segment", parts: "count of parts", record_lsn: "LSN of the last record", record_ns: "time of that record", record_epoch: "epoch of that record", zero: "zero", size_blocks: "size of the volume", mapped_blocks: "count of mapped blocks", zeroes: "zero", crc: "CRC32C of bytes 0 to 123 and of the rows" },
        magic HEAD_MAGIC
    );

    crate::document::layout!(
        the_document_has_the_bytes_of_a_part_row,
        "### Row of a part",
        RawPartRow {
            first_leaf: "number of the first leaf",
            leaves: "count of leaves",
            bytes: "bytes of the part",
            digest: "BLAKE3"
        }
    );

    crate::document::numbers!(
        the_document_has_these_bounds,
        HEAD_BYTES => "a head, {} bytes, and a row",
        PART_ROW_BYTES => "row, {} bytes, for each part",
        PARTS_MAX => "At most {} parts",
    );
}
