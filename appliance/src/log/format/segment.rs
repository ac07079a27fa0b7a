//! The segment header: block 0 of a slot.

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FORMAT_VERSIONS, FormatError};
use crate::dma::BLOCK_BYTES;
use crate::log::frame::{Framed, framed};
use crate::log::types::{Lsn, SegmentSeq};

const MAGIC: [u8; 8] = *b"VARVE-SG";

/// Layout, in bytes:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `VARVE-SG` |
/// | 8 | 4 | format version |
/// | 12 | 4 | epoch in which the segment was opened |
/// | 16 | 16 | pool UUID |
/// | 32 | 8 | sequence |
/// | 40 | 8 | first LSN: sequence times segment size; the LSN of this block |
/// | 48 | 8 | time of opening, ns since the Unix epoch |
/// | 56 | 8 | LSN at which the records of the segment before it end |
/// | 64 | 8 | stable LSN when this was written |
/// | 72 | 8 | oldest segment kept when this was opened; those before it are gone |
/// | 80 | 3008 | bit n: segment oldest + n was released early; its slot may hold another |
/// | 3088 | 992 | LSNs at which kept segments before released ones end, 8 bytes each; 0: none |
/// | 4080 | 12 | zero |
/// | 4092 | 4 | CRC32C of bytes 0 to 4091 |
///
/// The header of the next segment says where a segment's records end. If the next segment was
/// released early, it cannot, so every later header does.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    epoch: U32,
    pool: [u8; 16],
    sequence: U64,
    first_lsn: U64,
    opened_ns: U64,
    previous_end_lsn: U64,
    stable_lsn: U64,
    oldest: U64,
    released: [u8; RELEASED_BYTES],
    ends: [U64; ENDS_MAX],
    zero: [u8; 12],
    crc: U32,
}

const RELEASED_BYTES: usize = 3008;
/// The maximum number of ends of kept segments that a header lists.
pub const ENDS_MAX: usize = 124;
/// How far after the oldest segment a segment may be to be released early: the header has bits up
/// to there.
pub const RELEASED_SPAN: u64 = RELEASED_BYTES as u64 * 8;

const _: () = assert!(size_of::<Raw>() == BLOCK_BYTES);

framed!(Raw, MAGIC, FORMAT_VERSIONS, owner: pool);

/// A segment header, decoded. The table of its bytes is at the private `Raw` in this file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The format version of the pool.
    pub version: u32,
    /// The epoch in which the segment was opened.
    pub epoch: u32,
    /// The segment.
    pub sequence: SegmentSeq,
    /// Its first LSN.
    pub first_lsn: Lsn,
    /// When it was opened, ns since the Unix epoch.
    pub opened_ns: u64,
    /// Where the records of the previous segment end.
    pub previous_end_lsn: Lsn,
    /// How far the log was stable when this was written.
    pub stable_lsn: Lsn,
    /// The oldest segment that was kept when this one was opened.
    pub oldest: SegmentSeq,
    /// Segments after the oldest that were released early, in order, less than [`RELEASED_SPAN`]
    /// after it.
    pub released: Vec<SegmentSeq>,
    /// The record ends of kept segments whose next segment was released, in order. If there are
    /// more than [`ENDS_MAX`], those of the newest.
    pub ends: Vec<Lsn>,
}

impl SegmentHeader {
    /// The block's bytes.
    pub fn encode(&self, pool: Uuid, block: &mut [u8]) {
        let mut released = [0; RELEASED_BYTES];
        for sequence in &self.released {
            let bit = sequence.0.wrapping_sub(self.oldest.0);
            debug_assert!(bit < RELEASED_SPAN);
            if let Some(byte) = released.get_mut((bit / 8) as usize) {
                *byte |= 1 << (bit % 8);
            }
        }
        let mut ends = [U64::ZERO; ENDS_MAX];
        let untold = self.ends.len().saturating_sub(ENDS_MAX);
        for (raw, end) in ends.iter_mut().zip(self.ends.iter().skip(untold)) {
            *raw = end.0.into();
        }
        let raw = Raw {
            magic: MAGIC,
            version: self.version.into(),
            epoch: self.epoch.into(),
            pool: *pool.as_bytes(),
            sequence: self.sequence.0.into(),
            first_lsn: self.first_lsn.0.into(),
            opened_ns: self.opened_ns.into(),
            previous_end_lsn: self.previous_end_lsn.0.into(),
            stable_lsn: self.stable_lsn.0.into(),
            oldest: self.oldest.0.into(),
            released,
            ends,
            zero: [0; 12],
            crc: 0.into(),
        };
        block.copy_from_slice(raw.sealed().as_bytes());
    }

    /// Reads a block.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(block: &[u8], pool: Uuid, segment_blocks: u64) -> Result<Self, FormatError> {
        let raw = Raw::view(block)?;
        if !raw.is_of(pool) {
            return Err(FormatError::Pool);
        }
        if raw.sequence.get().checked_mul(segment_blocks) != Some(raw.first_lsn.get()) {
            return Err(FormatError::Field("first LSN"));
        }
        let oldest = raw.oldest.get();
        if oldest > raw.sequence.get() {
            return Err(FormatError::Field("oldest segment"));
        }
        // The segment of each byte's lowest bit, and the byte. Sequences stay far below 2^64,
        // because the sequence checked above, times the segment size, does not overflow.
        let bytes = (oldest..).step_by(8).zip(&raw.released).filter(|&(_, &byte)| byte != 0);
        let released = bytes.flat_map(|(first, &byte)| {
            (first..)
                .zip(0..8)
                .filter(move |(_, bit)| byte & 1 << bit != 0)
                .map(|(sequence, _)| SegmentSeq(sequence))
        });
        let ends: Vec<Lsn> = raw.ends.iter().map(|end| Lsn(end.get())).filter(|end| end.0 != 0).collect();
        if ends.iter().any(|end| end.0 > raw.first_lsn.get()) {
            return Err(FormatError::Field("end of a segment"));
        }
        Ok(SegmentHeader {
            version: raw.version.get(),
            epoch: raw.epoch.get(),
            sequence: SegmentSeq(raw.sequence.get()),
            first_lsn: Lsn(raw.first_lsn.get()),
            opened_ns: raw.opened_ns.get(),
            previous_end_lsn: Lsn(raw.previous_end_lsn.get()),
            stable_lsn: Lsn(raw.stable_lsn.get()),
            oldest: SegmentSeq(oldest),
            released: released.collect(),
            ends,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::layout!(
        the_document_has_these_bytes,
        "## 5. Segment header",
        Raw { magic: "magic", version: "format version", epoch: "epoch in which the segment was opened", pool: "pool UUID", sequence: "sequence", first_lsn: "first LSN", opened_ns: "time of opening", previous_end_lsn: "LSN at which the records of the segment before it end", stable_lsn: "stable LSN", oldest: "oldest segment that was kept", released: "released early", ends: "`ends`", zero: "zero", crc: "CRC32C of bytes 0 to 4091" },
        magic MAGIC
    );

    crate::document::numbers!(
        the_document_has_these_bounds,
        ENDS_MAX => "up to {} LSNs of 8 bytes (`ENDS_MAX`)",
        ENDS_MAX => "If more than {} exist, the newest",
        RELEASED_SPAN => "n below {} (`RELEASED_SPAN`)",
        RELEASED_SPAN => "unless a segment {} or more after `oldest` was released early",
    );
}
