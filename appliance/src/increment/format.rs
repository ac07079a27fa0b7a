//! The bytes of an increment's frames.

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::{IncrementError, Part};
use super::{CHUNK_BLOCKS_MAX, CHUNK_ENTRIES_MAX, DESCRIPTION_BYTES_MAX, VERSION};
use crate::archive::object::SKIPPABLE_HEAD_BYTES;
use crate::dma::BLOCK_BYTES;
use crate::log::frame::{Framed, framed};
use crate::log::types::Lsn;

/// The magic number of the skippable frame with the header.
pub(super) const HEADER_FRAME: u32 = 0x184D_2A58;
/// The magic number of the skippable frame with a chunk's entries.
pub(super) const CHUNK_FRAME: u32 = 0x184D_2A59;
/// The magic number of the skippable frame with the tail.
pub(super) const TAIL_FRAME: u32 = 0x184D_2A5A;

const HEADER_MAGIC: [u8; 8] = *b"VARVE-IN";
const CHUNK_MAGIC: [u8; 8] = *b"VARVE-IC";
const TAIL_MAGIC: [u8; 8] = *b"VARVE-IT";

/// The size of the header in bytes.
pub(super) const HEADER_BYTES: usize = 192;
/// The size of a chunk's head in bytes.
pub(super) const CHUNK_HEAD_BYTES: usize = 64;
/// The size of an entry in bytes.
pub(super) const ENTRY_BYTES: usize = 24;
/// The size of the tail in bytes.
pub(super) const TAIL_BYTES: usize = 128;

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
const _: () = assert!(size_of::<RawChunk>() == CHUNK_HEAD_BYTES);
const _: () = assert!(size_of::<RawEntry>() == ENTRY_BYTES);
const _: () = assert!(size_of::<RawTail>() == TAIL_BYTES);

framed!(RawHeader, HEADER_MAGIC, VERSION..=VERSION, owner: pool);
framed!(RawChunk, CHUNK_MAGIC, VERSION..=VERSION, owner: pool);
framed!(RawTail, TAIL_MAGIC, VERSION..=VERSION, owner: pool);

/// Layout, in bytes; the description follows:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `VARVE-IN` |
/// | 8 | 4 | format version |
/// | 12 | 4 | kind: 1 net |
/// | 16 | 16 | pool UUID |
/// | 32 | 16 | history of the pool's log; zero if it has none |
/// | 48 | 16 | series UUID |
/// | 64 | 8 | number in the series |
/// | 72 | 8 | LSN of the first point; 0: nothing |
/// | 80 | 8 | LSN of the second point |
/// | 88 | 8 | time of the first point, ns since the Unix epoch |
/// | 96 | 8 | time of the second point, ns since the Unix epoch |
/// | 104 | 8 | time at which it was made, ns since the Unix epoch |
/// | 112 | 32 | digest of the increment before it in the series; zero for the first |
/// | 144 | 8 | count of data blocks |
/// | 152 | 8 | count of unmapped blocks |
/// | 160 | 4 | count of members |
/// | 164 | 4 | bytes of the description |
/// | 168 | 20 | zero |
/// | 188 | 4 | CRC32C of bytes 0 to 187 and of the description |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U32,
    kind: U32,
    pool: [u8; 16],
    history: [u8; 16],
    series: [u8; 16],
    number: U64,
    from_lsn: U64,
    to_lsn: U64,
    from_ns: U64,
    to_ns: U64,
    made_ns: U64,
    previous_digest: [u8; 32],
    data_blocks: U64,
    unmapped_blocks: U64,
    members: U32,
    description_bytes: U32,
    zero: [u8; 20],
    crc: U32,
}

/// Layout, in bytes; the entries follow:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `VARVE-IC` |
/// | 8 | 4 | format version |
/// | 12 | 4 | count of entries, 1 to 1,024 |
/// | 16 | 16 | pool UUID |
/// | 32 | 8 | number of the chunk, from 0 |
/// | 40 | 4 | count of data blocks, 0 to 256 |
/// | 44 | 4 | bytes of the Zstandard frame that follows; 0 if there are no data blocks |
/// | 48 | 4 | CRC32C of the data blocks |
/// | 52 | 4 | CRC32C of the Zstandard frame |
/// | 56 | 4 | zero |
/// | 60 | 4 | CRC32C of bytes 0 to 59 and of the entries |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawChunk {
    magic: [u8; 8],
    version: U32,
    entries: U32,
    pool: [u8; 16],
    number: U64,
    data_blocks: U32,
    compressed_bytes: U32,
    data_crc: U32,
    compressed_crc: U32,
    zero: [u8; 4],
    crc: U32,
}

/// Layout, in bytes:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | member, its place in the description |
/// | 4 | 4 | kind: 1 data, 2 unmapped |
/// | 8 | 8 | first block |
/// | 16 | 8 | count of blocks |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawEntry {
    member: U32,
    kind: U32,
    block: U64,
    blocks: U64,
}

/// Layout, in bytes:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `VARVE-IT` |
/// | 8 | 4 | format version |
/// | 12 | 4 | zero |
/// | 16 | 16 | pool UUID |
/// | 32 | 8 | count of chunks |
/// | 40 | 8 | count of data blocks |
/// | 48 | 8 | count of unmapped blocks |
/// | 56 | 8 | bytes before this frame |
/// | 64 | 32 | BLAKE3 of all bytes before this frame |
/// | 96 | 28 | zero |
/// | 124 | 4 | CRC32C of bytes 0 to 123 |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawTail {
    magic: [u8; 8],
    version: U32,
    zero: [u8; 4],
    pool: [u8; 16],
    chunks: U64,
    data_blocks: U64,
    unmapped_blocks: U64,
    bytes: U64,
    digest: [u8; 32],
    zeroes: [u8; 28],
    crc: U32,
}

/// What an increment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// The last content of each block that differs between the two points.
    Net = 1,
}

/// What happened to the blocks of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum EntryKind {
    /// They have new contents, which the chunk's data holds.
    Data = 1,
    /// They have no contents any more, and read as zeroes.
    Unmapped = 2,
}

/// Neighbouring blocks of a volume that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The volume: its place among the members.
    pub member: u32,
    /// What happened to the blocks.
    pub kind: EntryKind,
    /// The first block.
    pub block: u64,
    /// How many.
    pub blocks: u64,
}

/// The header. The layout of its bytes is at the private `RawHeader` in this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the increment holds.
    pub kind: Kind,
    /// The pool.
    pub pool: Uuid,
    /// The history of the pool's log; nil if it has none.
    pub history: Uuid,
    /// The series: increments that continue each other.
    pub series: Uuid,
    /// The number in the series, from 0.
    pub number: u64,
    /// The first point; 0: nothing.
    pub from_lsn: Lsn,
    /// The second point.
    pub to_lsn: Lsn,
    /// The time of the first point.
    pub from_ns: u64,
    /// The time of the second point.
    pub to_ns: u64,
    /// When the increment was made.
    pub made_ns: u64,
    /// The digest of the increment before it; zeroes for the first.
    pub previous_digest: [u8; 32],
    /// How many blocks have new contents.
    pub data_blocks: u64,
    /// How many blocks have no contents any more.
    pub unmapped_blocks: u64,
}

/// A chunk's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkHead {
    pub(super) number: u64,
    pub(super) data_blocks: u32,
    pub(super) compressed_bytes: u32,
    pub(super) data_crc: u32,
    pub(super) compressed_crc: u32,
}

/// The tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) chunks: u64,
    pub(super) data_blocks: u64,
    pub(super) unmapped_blocks: u64,
    pub(super) bytes: u64,
    pub(super) digest: [u8; 32],
}

/// Magic number and payload size of a skippable frame's head.
pub(super) fn of_skippable_head(head: [u8; SKIPPABLE_HEAD_BYTES]) -> (u32, u32) {
    let both = u64::from_le_bytes(head);
    (both as u32, (both >> 32) as u32)
}

/// The longest Zstandard frame of a chunk.
pub(super) fn compressed_bytes_max(data_blocks: u32) -> usize {
    zstd_safe::compress_bound((data_blocks as usize).saturating_mul(BLOCK_BYTES))
}

impl Header {
    /// The bytes of the header and the description after it.
    pub(super) fn encode(&self, members: u32, description: &[u8]) -> Vec<u8> {
        let mut raw = RawHeader {
            magic: HEADER_MAGIC,
            version: VERSION.into(),
            kind: (self.kind as u32).into(),
            pool: *self.pool.as_bytes(),
            history: *self.history.as_bytes(),
            series: *self.series.as_bytes(),
            number: self.number.into(),
            from_lsn: self.from_lsn.0.into(),
            to_lsn: self.to_lsn.0.into(),
            from_ns: self.from_ns.into(),
            to_ns: self.to_ns.into(),
            made_ns: self.made_ns.into(),
            previous_digest: self.previous_digest,
            data_blocks: self.data_blocks.into(),
            unmapped_blocks: self.unmapped_blocks.into(),
            members: members.into(),
            description_bytes: (description.len() as u32).into(),
            zero: [0; 20],
            crc: 0.into(),
        };
        raw.seal(description);
        [raw.as_bytes(), description].concat()
    }

    /// Reads a header and the bytes after it, which are the description. Returns also the count of
    /// members.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, u32, &[u8]), IncrementError> {
        let part = Part::Header;
        let (raw, description) =
            RawHeader::ref_from_prefix(bytes).map_err(|_| IncrementError::Truncated { part })?;
        raw.check(description).map_err(|error| part.of_frame(error))?;
        if raw.description_bytes.get() as usize != description.len()
            || description.len() > DESCRIPTION_BYTES_MAX
        {
            return Err(part.damaged("the length of the description"));
        }
        if raw.kind.get() != Kind::Net as u32 {
            return Err(part.damaged("the kind is none that this program knows"));
        }
        let (from_lsn, to_lsn) = (Lsn(raw.from_lsn.get()), Lsn(raw.to_lsn.get()));
        if from_lsn > Lsn::MAX || to_lsn > Lsn::MAX {
            return Err(part.damaged("a position"));
        }
        let header = Header {
            kind: Kind::Net,
            pool: Uuid::from_bytes(raw.pool),
            history: Uuid::from_bytes(raw.history),
            series: Uuid::from_bytes(raw.series),
            number: raw.number.get(),
            from_lsn,
            to_lsn,
            from_ns: raw.from_ns.get(),
            to_ns: raw.to_ns.get(),
            made_ns: raw.made_ns.get(),
            previous_digest: raw.previous_digest,
            data_blocks: raw.data_blocks.get(),
            unmapped_blocks: raw.unmapped_blocks.get(),
        };
        Ok((header, raw.members.get(), description))
    }
}

impl ChunkHead {
    /// The bytes of the head and the entries after it.
    pub(super) fn encode(&self, pool: Uuid, entries: &[Entry]) -> Vec<u8> {
        let raw_entries: Vec<RawEntry> = entries.iter().map(RawEntry::from).collect();
        let mut raw = RawChunk {
            magic: CHUNK_MAGIC,
            version: VERSION.into(),
            entries: (entries.len() as u32).into(),
            pool: *pool.as_bytes(),
            number: self.number.into(),
            data_blocks: self.data_blocks.into(),
            compressed_bytes: self.compressed_bytes.into(),
            data_crc: self.data_crc.into(),
            compressed_crc: self.compressed_crc.into(),
            zero: [0; 4],
            crc: 0.into(),
        };
        raw.seal(raw_entries.as_bytes());
        [raw.as_bytes(), raw_entries.as_bytes()].concat()
    }

    /// Reads a head and the entries after it.
    pub(super) fn decode(
        bytes: &[u8],
        pool: Uuid,
        number: u64,
    ) -> Result<(Self, Vec<Entry>), IncrementError> {
        let part = Part::Chunk(number);
        let (raw, rest) = RawChunk::ref_from_prefix(bytes).map_err(|_| IncrementError::Truncated { part })?;
        raw.check(rest).map_err(|error| part.of_frame(error))?;
        if !raw.is_of(pool) || raw.number.get() != number {
            return Err(part.damaged("it belongs elsewhere"));
        }
        let raw_entries = <[RawEntry]>::ref_from_bytes(rest).map_err(|_| part.damaged("count of entries"))?;
        let count = raw.entries.get();
        if raw_entries.len() != count as usize || count == 0 || count > CHUNK_ENTRIES_MAX {
            return Err(part.damaged("count of entries"));
        }
        let head = ChunkHead {
            number,
            data_blocks: raw.data_blocks.get(),
            compressed_bytes: raw.compressed_bytes.get(),
            data_crc: raw.data_crc.get(),
            compressed_crc: raw.compressed_crc.get(),
        };
        if head.data_blocks > CHUNK_BLOCKS_MAX
            || (head.data_blocks == 0) != (head.compressed_bytes == 0)
            || head.compressed_bytes as usize > compressed_bytes_max(head.data_blocks)
        {
            return Err(part.damaged("count of data blocks"));
        }
        let entries: Option<Vec<Entry>> = raw_entries.iter().map(RawEntry::decode).collect();
        Ok((head, entries.ok_or_else(|| part.damaged("the kind of an entry"))?))
    }
}

impl From<&Entry> for RawEntry {
    fn from(entry: &Entry) -> Self {
        RawEntry {
            member: entry.member.into(),
            kind: (entry.kind as u32).into(),
            block: entry.block.into(),
            blocks: entry.blocks.into(),
        }
    }
}

impl RawEntry {
    fn decode(&self) -> Option<Entry> {
        let kind = match self.kind.get() {
            1 => EntryKind::Data,
            2 => EntryKind::Unmapped,
            _ => return None,
        };
        let (block, blocks) = (self.block.get(), self.blocks.get());
        Some(Entry { member: self.member.get(), kind, block, blocks })
    }
}

impl Tail {
    /// The tail's bytes.
    pub(super) fn encode(&self, pool: Uuid) -> [u8; TAIL_BYTES] {
        let raw = RawTail {
            magic: TAIL_MAGIC,
            version: VERSION.into(),
            zero: [0; 4],
            pool: *pool.as_bytes(),
            chunks: self.chunks.into(),
            data_blocks: self.data_blocks.into(),
            unmapped_blocks: self.unmapped_blocks.into(),
            bytes: self.bytes.into(),
            digest: self.digest,
            zeroes: [0; 28],
            crc: 0.into(),
        };
        zerocopy::transmute!(raw.sealed())
    }

    /// Reads a tail.
    pub(super) fn decode(bytes: &[u8], pool: Uuid) -> Result<Self, IncrementError> {
        let raw = RawTail::view(bytes).map_err(|error| Part::Tail.of_frame(error))?;
        if !raw.is_of(pool) {
            return Err(Part::Tail.damaged("it belongs elsewhere"));
        }
        Ok(Tail {
            chunks: raw.chunks.get(),
            data_blocks: raw.data_blocks.get(),
            unmapped_blocks: raw.unmapped_blocks.get(),
            bytes: raw.bytes.get(),
            digest: raw.digest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::increment::MEMBERS_MAX;

    crate::document::layout!(
        the_document_has_the_bytes_of_a_header,
        "### Increment header",
        RawHeader { magic: "magic", version: "version", kind: "kind: 1 net", pool: "pool UUID", history: "history", series: "series", number: "number in the series", from_lsn: "LSN of the first point", to_lsn: "LSN of the second point", from_ns: "time of the first point", to_ns: "time of the second point", made_ns: "time at which it was made", previous_digest: "digest of the increment before it", data_blocks: "count of data blocks", unmapped_blocks: "count of unmapped blocks", members: "count of members", description_bytes: "bytes of the description", zero: "zero", crc: "CRC32C of bytes 0 to 187 and of the description" },
        magic HEADER_MAGIC
    );

    crate::document::layout!(
        the_document_has_the_bytes_of_a_chunk,
        "### Increment chunk",
        RawChunk { magic: "magic", version: "version", entries: "count of entries", pool: "pool UUID", number: "number of the chunk", data_blocks: "count of data blocks", compressed_bytes: "bytes of the Zstandard frame", data_crc: "CRC32C of the data blocks", compressed_crc: "CRC32C of the Zstandard frame", zero: "zero", crc: "CRC32C of bytes 0 to 59 and of the entries" },
        magic CHUNK_MAGIC
    );

    crate::document::layout!(
        the_document_has_the_bytes_of_an_entry,
        "### Increment entry",
        RawEntry {
            member: "member",
            kind: "kind: 1 data, 2 unmapped",
            block: "first block",
            blocks: "count of blocks"
        }
    );

    crate::document::layout!(
        the_document_has_the_bytes_of_the_tail,
        "### Increment tail",
        RawTail { magic: "magic", version: "version", zero: "zero", pool: "pool UUID", chunks: "count of chunks", data_blocks: "count of data blocks", unmapped_blocks: "count of unmapped blocks", bytes: "bytes before this frame", digest: "BLAKE3", zeroes: "zero", crc: "CRC32C of bytes 0 to 123" },
        magic TAIL_MAGIC
    );

    crate::document::numbers!(
        the_document_has_these_bounds,
        HEADER_BYTES => "header, {} bytes, and the description",
        CHUNK_HEAD_BYTES => "head, {} bytes, and the entries",
        ENTRY_BYTES => "entries, {} bytes each",
        TAIL_BYTES => "tail, {} bytes",
        CHUNK_ENTRIES_MAX => "count of entries, 1 to {}",
        CHUNK_BLOCKS_MAX => "count of data blocks, 0 to {}",
        MEMBERS_MAX => "1 to {} members",
        DESCRIPTION_BYTES_MAX => "at most {} bytes (`DESCRIPTION_BYTES_MAX`)",
        VERSION => "| increment: header, chunk, tail | `version` in each | {} | 1 |",
    );

    #[test]
    fn the_document_has_the_magic_numbers_of_the_frames() {
        for magic in [HEADER_FRAME, CHUNK_FRAME, TAIL_FRAME] {
            crate::document::check_says(&format!("`{magic:#X}`").replace("0X", "0x"));
        }
    }
}
