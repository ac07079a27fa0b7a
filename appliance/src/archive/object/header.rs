//! The header at an object's front, and the tail with its digest.

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ClaimId, Damage, FRAME_BYTES_MAX, FRAME_BYTES_MIN, OBJECT_VERSION, ObjectId, VERSION_WHOLE};
use crate::dma::BLOCK_BYTES;
use crate::log::format::{TrailerUnit, trailer_units};
use crate::log::frame::{FrameError, Framed, framed};
use crate::log::geometry::{SEGMENT_BLOCKS_MAX, SEGMENT_BLOCKS_MIN};
use crate::log::types::{Lsn, SegmentSeq};

const HEADER_MAGIC: [u8; 8] = *b"VARVE-AO";
const TAIL_MAGIC: [u8; 8] = *b"VARVE-AD";
const WHOLE: u32 = 1;

/// The size of the header in bytes.
pub(super) const HEADER_BYTES: usize = 128;
/// The size of a hole in bytes.
pub(super) const HOLE_BYTES: usize = 16;
/// The same as a `u64`.
const HOLE_LEN: u64 = HOLE_BYTES as u64;
/// The size of a damaged block's position in bytes.
pub(super) const POSITION_BYTES: usize = 8;
/// The size of the tail in bytes.
pub(super) const TAIL_BYTES: usize = 128;

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
const _: () = assert!(size_of::<RawTail>() == TAIL_BYTES);

framed!(RawHeader, HEADER_MAGIC, VERSION_WHOLE..=OBJECT_VERSION, owner: pool);
framed!(RawTail, TAIL_MAGIC, VERSION_WHOLE..=OBJECT_VERSION, owner: pool);

/// Layout, in bytes; the compressed units follow, and in the same frame the holes. A hole is its
/// first LSN and the LSN after its last, 8 bytes each:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `VARVE-AO` |
/// | 8 | 4 | format version |
/// | 12 | 4 | epoch of the segment |
/// | 16 | 16 | pool UUID |
/// | 32 | 8 | sequence |
/// | 40 | 8 | first LSN of the segment: sequence times segment size |
/// | 48 | 8 | first LSN of the object |
/// | 56 | 8 | LSN after the object's last block |
/// | 64 | 8 | time at which the segment was opened, ns since the Unix epoch |
/// | 72 | 8 | time at which the stretch was sealed, ns since the Unix epoch |
/// | 80 | 8 | segment size in blocks |
/// | 88 | 8 | count of blocks in the object |
/// | 96 | 4 | content of a data frame, in bytes; the last one may have less |
/// | 100 | 4 | flags: bit 0, the whole segment |
/// | 104 | 4 | count of units |
/// | 108 | 4 | bytes of the units, compressed |
/// | 112 | 8 | bytes of the units and of the holes, uncompressed; with holes the version is 2 |
/// | 120 | 4 | CRC32C of the compressed units and holes |
/// | 124 | 4 | CRC32C of bytes 0 to 123 |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U32,
    epoch: U32,
    pool: [u8; 16],
    sequence: U64,
    first_lsn: U64,
    from_lsn: U64,
    to_lsn: U64,
    opened_ns: U64,
    sealed_ns: U64,
    segment_blocks: U64,
    blocks: U64,
    frame_bytes: U32,
    flags: U32,
    units: U32,
    units_compressed_bytes: U32,
    units_bytes: U64,
    units_crc: U32,
    crc: U32,
}

/// Layout, in bytes; the positions of the damaged blocks follow, 8 bytes each, ascending:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `VARVE-AD` |
/// | 8 | 4 | format version |
/// | 12 | 4 | epoch of the segment |
/// | 16 | 16 | pool UUID |
/// | 32 | 8 | sequence |
/// | 40 | 8 | first LSN of the object |
/// | 48 | 8 | LSN after the object's last block |
/// | 56 | 8 | segment size in blocks |
/// | 64 | 32 | BLAKE3 of all bytes before this frame |
/// | 96 | 8 | count of bytes before this frame |
/// | 104 | 4 | content of a data frame, in bytes |
/// | 108 | 4 | flags: bit 0, the whole segment |
/// | 112 | 4 | count of data frames |
/// | 116 | 4 | CRC32C of the positions of the damaged blocks and of the whole seek table |
/// | 120 | 4 | count of damaged blocks; with any the version is 2 |
/// | 124 | 4 | CRC32C of bytes 0 to 123 |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawTail {
    magic: [u8; 8],
    version: U32,
    epoch: U32,
    pool: [u8; 16],
    sequence: U64,
    from_lsn: U64,
    to_lsn: U64,
    segment_blocks: U64,
    digest: [u8; 32],
    digested_bytes: U64,
    frame_bytes: U32,
    flags: U32,
    data_frames: U32,
    table_crc: U32,
    damaged_blocks: U32,
    crc: U32,
}

/// The content of an object's header. The layout of its bytes is at the private `RawHeader` in this
/// file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectHeader {
    /// The stretch of the log that the object holds.
    pub id: ObjectId,
    /// Size of the segment, in blocks.
    pub segment_blocks: u64,
    /// When the segment was opened, ns since the Unix epoch.
    pub opened_ns: u64,
    /// When the stretch was sealed, ns since the Unix epoch.
    pub sealed_ns: u64,
    /// The content of a data frame, in bytes.
    pub frame_bytes: u32,
    /// The number of the trailer's units.
    pub units: u32,
    /// The number of holes between the records.
    pub holes: u32,
    /// The size of the compressed units and holes, in bytes.
    pub units_compressed_bytes: u32,
    /// CRC32C of the compressed units and holes.
    pub units_crc: u32,
}

/// The content of an object's tail. The layout of its bytes is at the private `RawTail` in this
/// file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectTail {
    /// The stretch of the log that the object holds.
    pub id: ObjectId,
    /// Size of the segment, in blocks.
    pub segment_blocks: u64,
    /// The content of a data frame, in bytes.
    pub frame_bytes: u32,
    /// The number of data frames.
    pub data_frames: u32,
    /// BLAKE3 of all bytes before the digest frame.
    pub digest: [u8; 32],
    /// The number of those bytes.
    pub digested_bytes: u64,
    /// CRC32C of the positions of the damaged blocks and of the seek table.
    pub table_crc: u32,
    /// The number of blocks that were damaged when the object was made.
    pub damaged_blocks: u32,
}

/// Checks the fields that both ends contain; the error is the name of the field with an impossible
/// value.
pub(super) fn check_shape(id: &ObjectId, segment_blocks: u64, frame_bytes: u32) -> Result<(), &'static str> {
    if !segment_blocks.is_power_of_two()
        || !(SEGMENT_BLOCKS_MIN..=SEGMENT_BLOCKS_MAX).contains(&segment_blocks)
    {
        return Err("segment size");
    }
    if !frame_bytes.is_power_of_two() || !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame_bytes) {
        return Err("frame size");
    }
    let first_lsn = id.sequence.0.checked_mul(segment_blocks).ok_or("sequence")?;
    let limit =
        first_lsn.checked_add(segment_blocks).filter(|&end| end <= Lsn::MAX.0 + 1).ok_or("sequence")?;
    if id.from_lsn.0 < first_lsn || id.to_lsn.0 > limit || id.from_lsn >= id.to_lsn {
        return Err("range of LSNs");
    }
    if id.whole && id.from_lsn.0 != first_lsn {
        return Err("range of LSNs");
    }
    Ok(())
}

impl ObjectId {
    /// The first position of its segment. `check_shape` has refused a sequence without such a
    /// position.
    fn first_lsn(&self, segment_blocks: u64) -> Lsn {
        Lsn(self.sequence.0.saturating_mul(segment_blocks))
    }

    /// The number of blocks in the object.
    pub fn len_blocks(&self) -> u64 {
        self.to_lsn.0.saturating_sub(self.from_lsn.0)
    }

    /// The size of the object's content in bytes: what `zstd -dc` returns.
    pub fn content_bytes(&self) -> u64 {
        self.len_blocks().saturating_mul(BLOCK_BYTES as u64)
    }

    /// The number of data frames of an object of this range.
    pub(super) fn data_frames(&self, frame_bytes: u32) -> u32 {
        self.content_bytes().div_ceil(u64::from(frame_bytes)) as u32
    }
}

/// The version of a part that lists `missing` holes or damaged blocks.
fn version(missing: u32) -> u32 {
    if missing == 0 { VERSION_WHOLE } else { OBJECT_VERSION }
}

impl From<FrameError> for Damage {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Length => Damage::Truncated,
            FrameError::Magic => Damage::Magic,
            FrameError::Checksum => Damage::Checksum,
            FrameError::Version(version) => Damage::Version(version),
        }
    }
}

fn flags(whole: bool) -> U32 {
    (if whole { WHOLE } else { 0 }).into()
}

impl ObjectHeader {
    /// The size of the units in bytes, uncompressed.
    pub fn units_bytes(&self) -> usize {
        (self.units as usize).saturating_mul(size_of::<TrailerUnit>())
    }

    /// The size of the units and the holes in bytes, uncompressed.
    pub(super) fn entries_bytes(&self) -> usize {
        self.units_bytes().saturating_add((self.holes as usize).saturating_mul(HOLE_BYTES))
    }

    /// The header's bytes.
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let raw = RawHeader {
            magic: HEADER_MAGIC,
            version: version(self.holes).into(),
            epoch: self.id.epoch.into(),
            pool: *self.id.pool.as_bytes(),
            sequence: self.id.sequence.0.into(),
            first_lsn: self.id.first_lsn(self.segment_blocks).0.into(),
            from_lsn: self.id.from_lsn.0.into(),
            to_lsn: self.id.to_lsn.0.into(),
            opened_ns: self.opened_ns.into(),
            sealed_ns: self.sealed_ns.into(),
            segment_blocks: self.segment_blocks.into(),
            blocks: self.id.len_blocks().into(),
            frame_bytes: self.frame_bytes.into(),
            flags: flags(self.id.whole),
            units: self.units.into(),
            units_compressed_bytes: self.units_compressed_bytes.into(),
            units_bytes: (self.entries_bytes() as u64).into(),
            units_crc: self.units_crc.into(),
            crc: 0.into(),
        };
        zerocopy::transmute!(raw.sealed())
    }

    /// Decodes a header.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let raw = RawHeader::view(bytes)?;
        let units_bytes = u64::from(raw.units.get()).saturating_mul(size_of::<TrailerUnit>() as u64);
        let holes = match raw.units_bytes.get().checked_sub(units_bytes) {
            Some(rest) if rest.is_multiple_of(HOLE_LEN) => rest / HOLE_LEN,
            _ => return Err(Damage::Field("count of units")),
        };
        // Between two holes there is a record.
        if holes > u64::from(raw.units.get()).saturating_add(1) || version(holes as u32) != raw.version.get()
        {
            return Err(Damage::Field("count of holes"));
        }
        let header = ObjectHeader {
            id: ObjectId {
                pool: Uuid::from_bytes(raw.pool),
                epoch: raw.epoch.get(),
                sequence: SegmentSeq(raw.sequence.get()),
                from_lsn: Lsn(raw.from_lsn.get()),
                to_lsn: Lsn(raw.to_lsn.get()),
                whole: raw.flags.get() & WHOLE != 0,
                claim: ClaimId::NONE,
            },
            segment_blocks: raw.segment_blocks.get(),
            opened_ns: raw.opened_ns.get(),
            sealed_ns: raw.sealed_ns.get(),
            frame_bytes: raw.frame_bytes.get(),
            units: raw.units.get(),
            holes: holes as u32,
            units_compressed_bytes: raw.units_compressed_bytes.get(),
            units_crc: raw.units_crc.get(),
        };
        check_shape(&header.id, header.segment_blocks, header.frame_bytes).map_err(Damage::Field)?;
        if raw.first_lsn.get() != header.id.first_lsn(header.segment_blocks).0 {
            return Err(Damage::Field("first LSN"));
        }
        if raw.blocks.get() != header.id.len_blocks() {
            return Err(Damage::Field("count of blocks"));
        }
        if u64::from(header.units) > trailer_units(header.segment_blocks)
            || header.units_compressed_bytes as usize > zstd_safe::compress_bound(header.entries_bytes())
        {
            return Err(Damage::Field("count of units"));
        }
        Ok(header)
    }
}

impl ObjectTail {
    /// The tail's bytes.
    pub(super) fn encode(&self) -> [u8; TAIL_BYTES] {
        let raw = RawTail {
            magic: TAIL_MAGIC,
            version: version(self.damaged_blocks).into(),
            epoch: self.id.epoch.into(),
            pool: *self.id.pool.as_bytes(),
            sequence: self.id.sequence.0.into(),
            from_lsn: self.id.from_lsn.0.into(),
            to_lsn: self.id.to_lsn.0.into(),
            segment_blocks: self.segment_blocks.into(),
            digest: self.digest,
            digested_bytes: self.digested_bytes.into(),
            frame_bytes: self.frame_bytes.into(),
            flags: flags(self.id.whole),
            data_frames: self.data_frames.into(),
            table_crc: self.table_crc.into(),
            damaged_blocks: self.damaged_blocks.into(),
            crc: 0.into(),
        };
        zerocopy::transmute!(raw.sealed())
    }

    /// Decodes a tail.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let raw = RawTail::view(bytes)?;
        // Readers of version 1 never checked this field, so it is ignored there.
        let damaged_blocks = if raw.version.get() == VERSION_WHOLE { 0 } else { raw.damaged_blocks.get() };
        let tail = ObjectTail {
            id: ObjectId {
                pool: Uuid::from_bytes(raw.pool),
                epoch: raw.epoch.get(),
                sequence: SegmentSeq(raw.sequence.get()),
                from_lsn: Lsn(raw.from_lsn.get()),
                to_lsn: Lsn(raw.to_lsn.get()),
                whole: raw.flags.get() & WHOLE != 0,
                claim: ClaimId::NONE,
            },
            segment_blocks: raw.segment_blocks.get(),
            frame_bytes: raw.frame_bytes.get(),
            data_frames: raw.data_frames.get(),
            digest: raw.digest,
            digested_bytes: raw.digested_bytes.get(),
            table_crc: raw.table_crc.get(),
            damaged_blocks,
        };
        check_shape(&tail.id, tail.segment_blocks, tail.frame_bytes).map_err(Damage::Field)?;
        if tail.data_frames != tail.id.data_frames(tail.frame_bytes) {
            return Err(Damage::Field("count of data frames"));
        }
        if u64::from(tail.damaged_blocks) > tail.id.len_blocks() {
            return Err(Damage::Field("count of damaged blocks"));
        }
        Ok(tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::layout!(
        the_document_has_the_bytes_of_a_header,
        "### Header",
        RawHeader { magic: "magic", version: "version", epoch: "epoch of the segment", pool: "pool UUID", sequence: "sequence", first_lsn: "first LSN of the segment", from_lsn: "first LSN of the object", to_lsn: "LSN after the object's last block", opened_ns: "time at which the segment was opened", sealed_ns: "time at which the stretch was sealed", segment_blocks: "segment size in blocks", blocks: "count of blocks in the object", frame_bytes: "content of a data frame", flags: "flags: bit 0, the whole segment", units: "count of units", units_compressed_bytes: "bytes of the compressed entries", units_bytes: "bytes of the entries", units_crc: "CRC32C of the compressed entries", crc: "CRC32C of bytes 0 to 123" },
        magic HEADER_MAGIC
    );

    crate::document::layout!(
        the_document_has_the_bytes_of_a_tail,
        "### Digest frame",
        RawTail { magic: "magic", version: "version", epoch: "epoch of the segment", pool: "pool UUID", sequence: "sequence", from_lsn: "first LSN of the object", to_lsn: "LSN after the object's last block", segment_blocks: "segment size in blocks", digest: "BLAKE3", digested_bytes: "count of bytes before this frame", frame_bytes: "content of a data frame", flags: "flags: bit 0, the whole segment", data_frames: "count of data frames", table_crc: "CRC32C of the list of damaged blocks", damaged_blocks: "count of damaged blocks", crc: "CRC32C of bytes 0 to 123" },
        magic TAIL_MAGIC
    );

    crate::document::numbers!(
        the_document_has_these_bounds,
        HEADER_BYTES => "{} bytes at offset 8 of the object.",
        HOLE_BYTES => "A hole is {} bytes",
        TAIL_BYTES => "Tail, {} bytes, after the 8 bytes of the frame's head",
        WHOLE.ilog2() => "flags: bit {}, the whole segment",
        FRAME_BYTES_MIN => "power of two, {} to 1,048,576",
        FRAME_BYTES_MAX => "power of two, 65,536 to {}",
        super::super::FRAME_BYTES_DEFAULT => "65,536 to 1,048,576; usual {}",
        super::super::SKIPPABLE_HEAD_BYTES => "after the {} bytes of the frame's head",
        VERSION_WHOLE => "| object: header, tail | `version` in each | {} if the part reports nothing missing",
        OBJECT_VERSION => "if the part reports nothing missing, else {} |",
    );

    #[test]
    fn the_document_has_the_magic_numbers_of_the_frames() {
        for magic in [super::super::FRONT_MAGIC, super::super::DIGEST_MAGIC] {
            crate::document::check_says(&format!("skippable frame {magic:#X}").replace("0X", "0x"));
        }
    }
}
