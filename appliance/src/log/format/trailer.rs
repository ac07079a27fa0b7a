//! The trailer: a second copy of every entry of a segment, in one place at the end of its slot.
//!
//! The trailer area has a fixed place and size, [`trailer_blocks`], which is always enough for
//! records with data: a line and an entry take 24 bytes each, and each belongs to one block. A
//! segment whose entries have no data may fill the area before its blocks; then it is sealed early.
//! A clean stop writes a *partial* trailer: it covers the records so far, and the segment continues
//! after it.

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Entry, FORMAT_VERSIONS, FormatError};
use crate::dma::BLOCK_BYTES;
use crate::log::checksum::crc32c;
use crate::log::frame::{Framed, framed};
use crate::log::types::{Lsn, SegmentSeq};

const MAGIC: [u8; 8] = *b"VARVE-TR";
const HEAD_BYTES: usize = 64;
const PARTIAL: u16 = 1;
/// The size of a unit in bytes.
const UNIT_BYTES: u64 = size_of::<TrailerUnit>() as u64;

/// One unit of the trailer's body: a [`RecordLine`] or an [`Entry`], 24 bytes.
pub type TrailerUnit = [u8; 24];

const _: () = assert!(size_of::<Entry>() == size_of::<TrailerUnit>());
const _: () = assert!(size_of::<RecordLine>() == size_of::<TrailerUnit>());
const _: () = assert!(size_of::<RawHead>() == HEAD_BYTES);

framed!(RawHead, MAGIC, FORMAT_VERSIONS, owner: pool);

/// The size of the trailer area in blocks, for a segment of `segment_blocks`.
pub const fn trailer_blocks(segment_blocks: u64) -> u64 {
    segment_blocks.saturating_mul(UNIT_BYTES).saturating_add(HEAD_BYTES as u64).div_ceil(BLOCK_BYTES as u64)
}

/// How many units the trailer area holds, for a segment of `segment_blocks`.
pub const fn trailer_units(segment_blocks: u64) -> u64 {
    trailer_blocks(segment_blocks).saturating_mul(BLOCK_BYTES as u64).saturating_sub(HEAD_BYTES as u64)
        / UNIT_BYTES
}

/// Layout, in bytes; the body follows: for each record its line and then its entries:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `VARVE-TR` |
/// | 8 | 2 | format version |
/// | 10 | 2 | flags: bit 0, partial |
/// | 12 | 4 | epoch of the segment's header |
/// | 16 | 16 | pool UUID |
/// | 32 | 8 | sequence |
/// | 40 | 8 | LSN at which the records covered end |
/// | 48 | 4 | count of units in the body |
/// | 52 | 4 | epoch of the session that wrote the trailer; 0 in version 1 |
/// | 56 | 4 | CRC32C of the body |
/// | 60 | 4 | CRC32C of bytes 0 to 59 |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHead {
    magic: [u8; 8],
    version: U16,
    flags: U16,
    epoch: U32,
    pool: [u8; 16],
    sequence: U64,
    end_lsn: U64,
    units: U32,
    session: U32,
    body_crc: U32,
    crc: U32,
}

/// A record in a trailer. Layout, in bytes:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | LSN of the record's header |
/// | 8 | 8 | its time, ns since the Unix epoch |
/// | 16 | 1 | count of entries |
/// | 17 | 1 | count of data blocks |
/// | 18 | 2 | zero |
/// | 20 | 4 | epoch |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RecordLine {
    lsn: U64,
    time_ns: U64,
    entries: u8,
    data_blocks: u8,
    zero: U16,
    epoch: U32,
}

impl RecordLine {
    /// A line.
    pub fn new(lsn: Lsn, time_ns: u64, entries: u8, data_blocks: u8, epoch: u32) -> Self {
        RecordLine {
            lsn: lsn.0.into(),
            time_ns: time_ns.into(),
            entries,
            data_blocks,
            zero: 0.into(),
            epoch: epoch.into(),
        }
    }

    /// LSN of the record's header.
    pub fn lsn(&self) -> Lsn {
        Lsn(self.lsn.get())
    }

    /// Its time, ns since the Unix epoch.
    pub fn time_ns(&self) -> u64 {
        self.time_ns.get()
    }

    /// Count of entries.
    pub fn entries(&self) -> usize {
        usize::from(self.entries)
    }

    /// Count of data blocks.
    pub fn data_blocks(&self) -> u64 {
        u64::from(self.data_blocks)
    }

    /// The epoch in which it was written.
    pub fn epoch(&self) -> u32 {
        self.epoch.get()
    }

    /// The LSN after the record's last block. It cannot overflow: positions have 48 bits, and for
    /// an invalid position that was read it saturates.
    pub fn end_lsn(&self) -> Lsn {
        Lsn(self.lsn.get().saturating_add(1).saturating_add(self.data_blocks()))
    }
}

/// The fields of a trailer's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrailerHead {
    /// The format version of the pool.
    pub version: u32,
    /// Whether the segment continues after it.
    pub partial: bool,
    /// The epoch of the segment's header.
    pub epoch: u32,
    /// The epoch of the session that wrote the trailer; 0: not recorded, in version 1.
    pub session: u32,
    /// The segment.
    pub sequence: SegmentSeq,
    /// Where the covered records end.
    pub end_lsn: Lsn,
    /// Units in the body.
    pub units: u32,
    /// CRC32C of the body.
    pub body_crc: u32,
}

impl TrailerHead {
    /// The size in bytes of a trailer with `units` units.
    pub fn len_bytes(units: usize) -> usize {
        units.saturating_mul(size_of::<TrailerUnit>()).saturating_add(HEAD_BYTES)
    }

    /// Returns the head with the count and the CRC32C of these units.
    #[must_use]
    pub fn of(self, units: &[TrailerUnit]) -> Self {
        TrailerHead { units: units.len() as u32, body_crc: crc32c(units.as_flattened()), ..self }
    }

    /// Writes the head and its body (see [`of`](Self::of)) to the start of `area`, and zeroes the
    /// rest.
    pub fn encode(&self, pool: Uuid, units: &[TrailerUnit], area: &mut [u8]) {
        let body = units.as_flattened();
        let (head_area, rest) = area.split_at_mut(HEAD_BYTES);
        head_area.copy_from_slice(&self.encode_head(pool));
        let (used, unused) = rest.split_at_mut(body.len());
        used.copy_from_slice(body);
        unused.fill(0);
    }

    /// Encodes the head.
    pub fn encode_head(&self, pool: Uuid) -> [u8; HEAD_BYTES] {
        // The value that a build which knows only version 1 would write.
        let session = if self.version == 1 { 0 } else { self.session };
        let raw = RawHead {
            magic: MAGIC,
            version: (self.version as u16).into(),
            flags: (if self.partial { PARTIAL } else { 0 }).into(),
            epoch: self.epoch.into(),
            pool: *pool.as_bytes(),
            sequence: self.sequence.0.into(),
            end_lsn: self.end_lsn.0.into(),
            units: self.units.into(),
            session: session.into(),
            body_crc: self.body_crc.into(),
            crc: 0.into(),
        };
        zerocopy::transmute!(raw.sealed())
    }

    /// Reads the head at the start of a trailer area.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(area: &[u8], pool: Uuid, segment_blocks: u64) -> Result<Self, FormatError> {
        let (raw, _) = RawHead::ref_from_prefix(area).map_err(|_| FormatError::Field("length"))?;
        raw.check(&[])?;
        if !raw.is_of(pool) {
            return Err(FormatError::Pool);
        }
        if u64::from(raw.units.get()) > trailer_units(segment_blocks) {
            return Err(FormatError::Field("count of units"));
        }
        let first_lsn =
            raw.sequence.get().checked_mul(segment_blocks).ok_or(FormatError::Field("sequence"))?;
        let limit = first_lsn.checked_add(segment_blocks).ok_or(FormatError::Field("sequence"))?;
        // The records end at least after the header's block.
        if raw.end_lsn.get() <= first_lsn || raw.end_lsn.get() > limit {
            return Err(FormatError::Field("end LSN"));
        }
        Ok(TrailerHead {
            version: raw.version(),
            session: raw.session.get(),
            partial: raw.flags.get() & PARTIAL != 0,
            epoch: raw.epoch.get(),
            sequence: SegmentSeq(raw.sequence.get()),
            end_lsn: Lsn(raw.end_lsn.get()),
            units: raw.units.get(),
            body_crc: raw.body_crc.get(),
        })
    }

    /// The units of the body, from an area that starts with this head.
    ///
    /// # Errors
    /// [`FormatError::Checksum`], or [`FormatError::Field`] if the area is too short.
    pub fn body<'a>(&self, area: &'a [u8]) -> Result<&'a [TrailerUnit], FormatError> {
        let bytes = area
            .get(HEAD_BYTES..TrailerHead::len_bytes(self.units as usize))
            .ok_or(FormatError::Field("length"))?;
        if crc32c(bytes) != self.body_crc {
            return Err(FormatError::Checksum);
        }
        let (units, rest) = bytes.as_chunks::<24>();
        debug_assert!(rest.is_empty());
        Ok(units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::layout!(
        the_document_has_these_bytes,
        "Head, 64 bytes, at the first byte of the trailer area",
        RawHead { magic: "magic", version: "format version", flags: "flags", epoch: "epoch in the segment's header", pool: "pool UUID", sequence: "sequence", end_lsn: "LSN at which the records covered end", units: "count of units", session: "epoch of the session", body_crc: "CRC32C of the body", crc: "CRC32C of bytes 0 to 59" },
        magic MAGIC
    );

    crate::document::layout!(
        the_document_has_the_bytes_of_a_line,
        "Line, 24 bytes.",
        RecordLine {
            lsn: "LSN of the record's header",
            time_ns: "time of the record",
            entries: "count of entries",
            data_blocks: "count of data blocks",
            zero: "zero",
            epoch: "epoch of the record"
        }
    );

    crate::document::numbers!(
        the_document_has_these_sizes,
        size_of::<TrailerUnit>() => "Body: units of {} bytes",
        PARTIAL.ilog2() => "flags: bit {}, partial",
        HEAD_BYTES => "T = ceil(({} + 24 x segment size) / 4096)",
    );
}
