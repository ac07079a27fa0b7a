//! The record: one header block and its data blocks, the unit of one device write.

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FORMAT_VERSIONS, FormatError};
use crate::dma::BLOCK_BYTES;
use crate::log::checksum::ZeroRuns;
use crate::log::frame::{Framed, framed};
use crate::log::types::{BlockNumber, ImageId, Lsn, SegmentSeq};

/// The maximum number of entries in a record, and so of data blocks.
pub const ENTRIES_PER_RECORD: usize = 168;

/// Bits of a block number in an entry; the higher bits belong to the image.
const BLOCK_BITS: u32 = 48;
const BLOCK_MASK: u64 = (1 << BLOCK_BITS) - 1;

const MAGIC: [u8; 4] = *b"VREC";

/// Layout, in bytes; the entries follow from byte 64 on, the rest of the block is zero:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | magic `VREC` |
/// | 4 | 2 | format version |
/// | 6 | 1 | count of entries, 1 to 168 |
/// | 7 | 1 | count of data blocks, at most the count of entries |
/// | 8 | 16 | pool UUID |
/// | 24 | 8 | LSN of this block |
/// | 32 | 8 | segment sequence |
/// | 40 | 8 | wall-clock time, ns since the Unix epoch, never less than in the record before |
/// | 48 | 8 | stable LSN when this was written |
/// | 56 | 4 | epoch |
/// | 60 | 4 | CRC32C of the block without these four bytes |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHead {
    magic: [u8; 4],
    version: U16,
    entries: u8,
    data_blocks: u8,
    pool: [u8; 16],
    lsn: U64,
    sequence: U64,
    time_ns: U64,
    stable_lsn: U64,
    epoch: U32,
    crc: U32,
}

/// Bytes of a record head.
const HEAD_BYTES: usize = 64;

const _: () = assert!(size_of::<RawHead>() == HEAD_BYTES);
const _: () = assert!(HEAD_BYTES + ENTRIES_PER_RECORD * size_of::<Entry>() == BLOCK_BYTES);

framed!(RawHead, MAGIC, FORMAT_VERSIONS, owner: pool);

/// The places of entries that a record does not use.
static UNUSED_ENTRIES: ZeroRuns<ENTRIES_PER_RECORD> = ZeroRuns::new(size_of::<Entry>());

/// The fields of a record header, without its entries. The table of its bytes is at the private
/// `RawHead` in this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHead {
    /// The format version of the pool.
    pub version: u32,
    /// The LSN of the header block.
    pub lsn: Lsn,
    /// The segment.
    pub sequence: SegmentSeq,
    /// Wall-clock time, ns since the Unix epoch; it never falls along the log.
    pub time_ns: u64,
    /// How far the log was stable when this was written.
    pub stable_lsn: Lsn,
    /// The epoch.
    pub epoch: u32,
    /// Count of data blocks.
    pub data_blocks: u8,
}

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A block that a host wrote; has data.
    Write = 1,
    /// A live block that was appended again; has data.
    Copied = 2,
    /// Blocks that read as zeroes from here on; no data.
    Trim = 3,
    /// A block of an event's text; has data.
    Event = 4,
    /// The image no longer inherits anything in a range of blocks; no data. It replaces the trims
    /// of a clone whose segments have left the working set.
    Mask = 5,
    /// The data that the segment's header has about the segments before it, in the segment's first
    /// record; no data block. With it a damaged header is rebuilt. From format version 2 on.
    Opening = 6,
}

/// The header fields that an [`EntryKind::Opening`] repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The epoch in which the segment was opened.
    pub epoch: u32,
    /// The oldest segment that was kept then.
    pub oldest: SegmentSeq,
    /// Where the records of the segment before it end.
    pub previous_end_lsn: Lsn,
}

/// Bits of an entry's flags.
pub struct EntryFlags;

impl EntryFlags {
    /// The last entry of a host's command, or of an event: a point that can be restored.
    pub const LAST: u8 = 1;
    /// A copied block that could not be read as it was written: its data does not match the
    /// checksum that is stored here, so that every reader gets an error.
    pub const BAD: u8 = 2;
    /// A trim that hides nothing inherited that is not already hidden, so it need not be copied
    /// forward.
    pub const HIDDEN: u8 = 4;
}

/// One line of a record header. Layout, in bytes:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 2 | image, low 16 bits; 0 for events |
/// | 2 | 1 | kind: 1 write, 2 copied, 3 trim, 4 event, 5 mask, 6 opening |
/// | 3 | 1 | flags: bit 2, a trim of a clone that need not be carried on; bit 1, copied although it could not be read; bit 0, last entry of its command |
/// | 4 | 4 | CRC32C of the data block; 0 for a trim; opening: epoch in which the segment was opened |
/// | 8 | 8 | block number, high 16 bits: those of the image; event, opening: below |
/// | 16 | 8 | write: LSN superseded, 0 for none; copied: LSN of the origin; trim: count of blocks; event: bytes of its text; opening: LSN at which the segment before ends |
///
/// In the field of the block number, an event stores the `EventHead`, and an opening the oldest
/// segment kept.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Entry {
    image: U16,
    kind: u8,
    flags: u8,
    crc: U32,
    block: U64,
    value: U64,
}

impl Entry {
    /// A block that a host wrote.
    pub fn write(image: ImageId, block: BlockNumber, crc: u32, superseded: Lsn, last: bool) -> Self {
        Entry::new(image, EntryKind::Write, last, crc, block.0, superseded.0)
    }

    /// A live block, copied forward from `origin`. It does not end a command, so it is not a point
    /// either.
    pub fn copied(image: ImageId, block: BlockNumber, crc: u32, origin: Lsn, bad: bool) -> Self {
        let mut entry = Entry::new(image, EntryKind::Copied, false, crc, block.0, origin.0);
        entry.flags |= if bad { EntryFlags::BAD } else { 0 };
        entry
    }

    /// A trim of `len_blocks` blocks.
    pub fn trim(image: ImageId, block: BlockNumber, len_blocks: u64, last: bool) -> Self {
        Entry::new(image, EntryKind::Trim, last, 0, block.0, len_blocks)
    }

    /// Nothing is inherited any longer in `len_blocks` blocks. It does not end a command.
    pub fn mask(image: ImageId, block: BlockNumber, len_blocks: u64) -> Self {
        Entry::new(image, EntryKind::Mask, false, 0, block.0, len_blocks)
    }

    /// The data of a segment's header. It does not end a command.
    pub fn opening(opening: Opening) -> Self {
        let Opening { epoch, oldest, previous_end_lsn } = opening;
        Entry::new(ImageId::POOL, EntryKind::Opening, false, epoch, oldest.0, previous_end_lsn.0)
    }

    /// The header data in an opening; `None` for other kinds.
    pub fn as_opening(&self) -> Option<Opening> {
        (self.kind() == Some(EntryKind::Opening)).then(|| Opening {
            epoch: self.crc.get(),
            oldest: SegmentSeq(self.block.get()),
            previous_end_lsn: Lsn(self.value.get()),
        })
    }

    /// A chunk of an event.
    pub fn event(head: u64, crc: u32, text_bytes: u64, last: bool) -> Self {
        Entry::new(ImageId::POOL, EntryKind::Event, last, crc, head, text_bytes)
    }

    fn new(image: ImageId, kind: EntryKind, last: bool, crc: u32, block: u64, value: u64) -> Self {
        let flags = if last { EntryFlags::LAST } else { 0 };
        debug_assert!(image == ImageId::POOL || block <= BLOCK_MASK);
        Entry {
            image: (image.0 as u16).into(),
            kind: kind as u8,
            flags,
            crc: crc.into(),
            block: (block | u64::from(image.0 >> 16) << BLOCK_BITS).into(),
            value: value.into(),
        }
    }

    /// The image.
    pub fn image(&self) -> ImageId {
        let high = if self.is_of_pool() { 0 } else { (self.block.get() >> BLOCK_BITS) as u32 };
        ImageId(high << 16 | u32::from(self.image.get()))
    }

    /// Whether it belongs to no image: then the bits of the block number have another use.
    fn is_of_pool(&self) -> bool {
        self.kind == EntryKind::Event as u8 || self.kind == EntryKind::Opening as u8
    }

    /// The kind; `None` if a later build wrote one that this build does not know.
    pub fn kind(&self) -> Option<EntryKind> {
        match self.kind {
            1 => Some(EntryKind::Write),
            2 => Some(EntryKind::Copied),
            3 => Some(EntryKind::Trim),
            4 => Some(EntryKind::Event),
            5 => Some(EntryKind::Mask),
            6 => Some(EntryKind::Opening),
            _ => None,
        }
    }

    /// Whether this build knows its kind and all its flags. A later version wrote an entry that
    /// this build does not know.
    pub fn is_known(&self) -> bool {
        self.kind().is_some() && self.flags & !(EntryFlags::LAST | EntryFlags::BAD | EntryFlags::HIDDEN) == 0
    }

    /// Whether the entry has a data block.
    pub fn has_data(&self) -> bool {
        !matches!(self.kind(), Some(EntryKind::Trim | EntryKind::Mask | EntryKind::Opening))
    }

    /// Whether blocks read as zeroes, or as not inherited, because of it.
    pub fn is_trim(&self) -> bool {
        matches!(self.kind(), Some(EntryKind::Trim | EntryKind::Mask))
    }

    /// Whether it is the last of its command.
    pub fn is_last(&self) -> bool {
        self.flags & EntryFlags::LAST != 0
    }

    /// Marks the trim as one that hides nothing inherited that is not already hidden.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.flags |= EntryFlags::HIDDEN;
        self
    }

    /// Whether it is a trim or a mask that may hide something inherited, and so must not be lost.
    pub fn hides(&self) -> bool {
        self.is_trim() && self.flags & EntryFlags::HIDDEN == 0
    }

    /// Whether its data is known not to match its checksum.
    pub fn is_bad(&self) -> bool {
        self.flags & EntryFlags::BAD != 0
    }

    /// CRC32C of the data block.
    pub fn crc(&self) -> u32 {
        self.crc.get()
    }

    /// The block number; for an event, the value stored in its place.
    pub fn block(&self) -> BlockNumber {
        let bits = self.block.get();
        BlockNumber(if self.is_of_pool() { bits } else { bits & BLOCK_MASK })
    }

    /// The value of the kind: superseded LSN, origin, count of blocks, or bytes of text.
    pub fn value(&self) -> u64 {
        self.value.get()
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Entry({:?} image {} block {} value {} crc {:08x}{})",
            self.kind(),
            self.image(),
            self.block(),
            self.value(),
            self.crc(),
            if self.is_last() { " last" } else { "" }
        )
    }
}

impl RecordHead {
    /// Writes the header block, checksum included.
    ///
    /// # Panics
    /// With more than [`ENTRIES_PER_RECORD`] entries, or a count of data blocks that does not match
    /// them.
    pub fn encode(&self, pool: Uuid, entries: &[Entry], block: &mut [u8]) {
        assert!((1..=ENTRIES_PER_RECORD).contains(&entries.len()), "a record has 1 to 168 entries");
        let data_blocks = entries.iter().filter(|entry| entry.has_data()).count();
        assert_eq!(data_blocks, usize::from(self.data_blocks), "data blocks belong to entries");
        let mut raw = RawHead {
            magic: MAGIC,
            version: (self.version as u16).into(),
            entries: entries.len() as u8,
            data_blocks: self.data_blocks,
            pool: *pool.as_bytes(),
            lsn: self.lsn.0.into(),
            sequence: self.sequence.0.into(),
            time_ns: self.time_ns.into(),
            stable_lsn: self.stable_lsn.0.into(),
            epoch: self.epoch.into(),
            crc: 0.into(),
        };
        let entry_bytes = entries.as_bytes();
        let (head, rest) = block.split_at_mut(HEAD_BYTES);
        let (used, unused) = rest.split_at_mut(entry_bytes.len());
        used.copy_from_slice(entry_bytes);
        unused.fill(0);
        // Most records have few entries. The rest of the block need not be read for its checksum.
        let unused_entries = ENTRIES_PER_RECORD.saturating_sub(entries.len());
        raw.seal_before_zeroes(used, &UNUSED_ENTRIES, unused_entries);
        head.copy_from_slice(raw.as_bytes());
    }

    /// Reads a header block at any position and returns its own: for a slot whose segment header is
    /// damaged, and for inspection.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode_any(block: &[u8], pool: Uuid) -> Result<(Self, &[Entry]), FormatError> {
        let (raw, _) = RawHead::ref_from_prefix(block).map_err(|_| FormatError::Field("length"))?;
        RecordHead::decode(block, pool, Lsn(raw.lsn.get()), SegmentSeq(raw.sequence.get()))
    }

    /// Reads a header block that must be the record at `lsn`.
    ///
    /// # Errors
    /// What is wrong with it; [`FormatError::Stale`] when it belongs elsewhere.
    pub fn decode(
        block: &[u8],
        pool: Uuid,
        lsn: Lsn,
        sequence: SegmentSeq,
    ) -> Result<(Self, &[Entry]), FormatError> {
        let (raw, rest) = RawHead::ref_from_prefix(block).map_err(|_| FormatError::Field("length"))?;
        raw.check(rest)?;
        if !raw.is_of(pool) {
            return Err(FormatError::Pool);
        }
        if raw.lsn.get() != lsn.0 || raw.sequence.get() != sequence.0 {
            return Err(FormatError::Stale);
        }
        let count = usize::from(raw.entries);
        let (entries, _) = <[Entry]>::ref_from_prefix_with_elems(rest, count)
            .map_err(|_| FormatError::Field("count of entries"))?;
        let data_blocks = entries.iter().filter(|entry| entry.has_data()).count();
        if count == 0 || data_blocks != usize::from(raw.data_blocks) {
            return Err(FormatError::Field("count of data blocks"));
        }
        let head = RecordHead {
            version: raw.version(),
            lsn,
            sequence,
            time_ns: raw.time_ns.get(),
            stable_lsn: Lsn(raw.stable_lsn.get()),
            epoch: raw.epoch.get(),
            data_blocks: raw.data_blocks,
        };
        Ok((head, entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::layout!(
        the_document_has_these_bytes,
        "## 6. Record",
        RawHead { magic: "magic", version: "format version", entries: "count of entries", data_blocks: "count of data blocks", pool: "pool UUID", lsn: "LSN of this block", sequence: "sequence of the segment", time_ns: "time; never less", stable_lsn: "stable LSN", epoch: "epoch of the session", crc: "CRC32C of bytes 0 to 59 and 64 to 4095" },
        magic MAGIC
    );

    crate::document::layout!(
        the_document_has_the_bytes_of_an_entry,
        "### Entry",
        Entry {
            image: "image id, low 16 bits",
            kind: "kind",
            flags: "flags",
            crc: "CRC32C of the data block",
            block: "block number",
            value: "value, by kind"
        }
    );

    crate::document::numbers!(
        the_document_has_these_bounds,
        ENTRIES_PER_RECORD => "1 to {} (`ENTRIES_PER_RECORD`)",
        ENTRIES_PER_RECORD => "if the record holds {} other entries",
        ENTRIES_PER_RECORD => "Each line must have 1 to {} entries",
        ENTRIES_PER_RECORD + 1 => "the stretch has {} blocks, the longest record",
        HEAD_BYTES => "| {} | 24 x entries | entries | |",
        size_of::<Entry>() => "| 64 | {} x entries | entries | |",
        BLOCK_BITS - 1 => "kinds 1, 2, 3, 5: bits 0 to {} are the block number",
        BLOCK_BITS => "bits {} to 63 are the high 16 bits of the image id",
    );

    #[test]
    fn a_record_with_any_count_of_entries_has_the_checksum_of_its_whole_block() {
        let pool = Uuid::from_u64_pair(3, 4);
        for count in 1..=ENTRIES_PER_RECORD {
            let entries: Vec<Entry> = (0..count as u64)
                .map(|block| Entry::write(ImageId(7), BlockNumber(block), 0x1234_5678, Lsn(9), false))
                .collect();
            let head = RecordHead {
                version: 2,
                lsn: Lsn(1000),
                sequence: SegmentSeq(1),
                time_ns: 5,
                stable_lsn: Lsn(900),
                epoch: 3,
                data_blocks: count as u8,
            };
            let mut block = vec![0xff; BLOCK_BYTES];
            head.encode(pool, &entries, &mut block);
            let crc = crate::log::checksum::crc32c_parts(&[&block[..60], &block[HEAD_BYTES..]]);
            assert_eq!(block[60..HEAD_BYTES], crc.to_le_bytes(), "{count} entries");
            let (read, found) = RecordHead::decode_any(&block, pool).expect("it is whole");
            assert_eq!((read, found), (head, &entries[..]));
        }
    }

    #[test]
    fn the_document_has_these_kinds_and_flags() {
        let rows = crate::document::rows_of("### Entry", "| kind | name");
        let mut known = Vec::new();
        for kind in 0..=u8::MAX {
            let mut entry = Entry::trim(ImageId(1), BlockNumber(1), 1, false);
            entry.kind = kind;
            let Some(name) = entry.kind() else { continue };
            let data = if entry.has_data() { "yes" } else { "no" };
            known.push([kind.to_string(), format!("{name:?}").to_lowercase(), data.to_owned()]);
        }
        let named: Vec<_> = rows.iter().map(|row| [row[0], row[1], row[2]].map(str::to_owned)).collect();
        assert_eq!(named, known);
        let rows = crate::document::rows_of("### Entry", "| flag | bit");
        let flags = [("LAST", EntryFlags::LAST), ("BAD", EntryFlags::BAD), ("HIDDEN", EntryFlags::HIDDEN)];
        let known = flags.map(|(name, bits)| vec![format!("`{name}`"), format!("{} ({bits})", bits.ilog2())]);
        let named: Vec<Vec<String>> =
            rows.iter().map(|row| vec![row[0].to_owned(), row[1].to_owned()]).collect();
        assert_eq!(named, known);
        let mut entry = Entry::trim(ImageId(1), BlockNumber(1), 1, false);
        let all_known = (0..8).filter(|bit| {
            entry.flags = 1 << bit;
            entry.is_known()
        });
        assert_eq!(all_known.count(), known.len(), "a flag has no row");
        crate::document::check_says("Bits 3 to 7 are 0.");
    }
}
