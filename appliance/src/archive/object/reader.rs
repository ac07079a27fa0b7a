//! Reads objects: one block, a range, the entries, or everything with all checks.

use std::sync::Arc;

use super::codec::Decompressor;
use super::header::{HEADER_BYTES, HOLE_BYTES, POSITION_BYTES, TAIL_BYTES};
use super::records;
use super::seek::{self, DataFrame, FOOTER_BYTES, le_u32};
use super::{
    DIGEST_MAGIC, Damage, FRONT_MAGIC, ObjectError, ObjectHeader, ObjectTail, Part, SKIPPABLE_HEAD_BYTES,
};
use crate::archive::store::StoreError;
use crate::dma::BLOCK_BYTES;
use crate::log::checksum::crc32c;
use crate::log::format::TrailerUnit;
use crate::log::reader::LsnRange;
use crate::log::types::Lsn;

/// The bytes that are read first from the end: four times what the table of the default segment
/// with the default frames needs.
const TAIL_GUESS_BYTES: u64 = 16 << 10;
/// The bytes that are read first from the front.
const FRONT_GUESS_BYTES: u64 = 64 << 10;

/// Bytes that can be read from any offset: an object in a store, a file, a slice.
pub trait RangedRead {
    /// The length in bytes.
    ///
    /// # Errors
    /// The store's.
    fn len_bytes(&self) -> Result<u64, StoreError>;

    /// Fills the whole `buffer` from `offset` on, or returns an error.
    ///
    /// # Errors
    /// The store's; `OutOfRange` beyond the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError>;
}

impl RangedRead for [u8] {
    fn len_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let range = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..)?.get(..buffer.len()))
            .ok_or_else(|| StoreError::out_of_range("memory", "read"))?;
        buffer.copy_from_slice(range);
        Ok(())
    }
}

/// The content of an object's front. The records of `units` fill its stretch except for `holes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFront {
    /// The header.
    pub header: ObjectHeader,
    /// The units of the records in the object.
    pub units: Vec<TrailerUnit>,
    /// Stretches whose entries could not be read when the object was made, in order.
    pub holes: Vec<LsnRange>,
}

/// The front of an object, read from its first bytes alone: one read, or two when there are many
/// units.
///
/// # Errors
/// [`ObjectError::Damaged`], also for missing records and unlisted holes, or the source's.
pub fn read_front(
    source: &(impl RangedRead + ?Sized),
    codec: &mut Decompressor,
) -> Result<ObjectFront, ObjectError> {
    let len = source.len_bytes()?;
    let mut front = vec![0; len.min(FRONT_GUESS_BYTES) as usize];
    source.read_at(0, &mut front)?;
    let header = decode_front_head(&front)?;
    let wanted = FRONT_HEAD_BYTES.saturating_add(header.units_compressed_bytes as usize);
    let entries_damage = |damage| ObjectError::damaged(Part::Entries, FRONT_HEAD_BYTES as u64, damage);
    if wanted as u64 > len {
        return Err(entries_damage(Damage::Truncated));
    }
    let have = front.len().min(wanted);
    front.resize(wanted, 0);
    if let Some(missing) = front.get_mut(have..).filter(|missing| !missing.is_empty()) {
        source.read_at(have as u64, missing)?;
    }
    decode_entries(header, compressed_entries(&front), codec).map_err(entries_damage)
}

const FRONT_HEAD_BYTES: usize = SKIPPABLE_HEAD_BYTES + HEADER_BYTES;

/// The part of the front frame after its head and the header.
fn compressed_entries(front: &[u8]) -> &[u8] {
    front.get(FRONT_HEAD_BYTES..).unwrap_or_default()
}

/// Decodes the front frame's head and the header.
fn decode_front_head(front: &[u8]) -> Result<ObjectHeader, ObjectError> {
    let damaged = |damage| ObjectError::damaged(Part::Front, 0, damage);
    let head = front.get(..FRONT_HEAD_BYTES).ok_or_else(|| damaged(Damage::Truncated))?;
    if le_u32(head, 0) != FRONT_MAGIC {
        return Err(damaged(Damage::Magic));
    }
    let header = ObjectHeader::decode(head.get(SKIPPABLE_HEAD_BYTES..).unwrap_or_default())
        .map_err(|damage| ObjectError::damaged(Part::Header, SKIPPABLE_HEAD_BYTES as u64, damage))?;
    if u64::from(le_u32(head, 4)) != payload_bytes(&header) {
        return Err(damaged(Damage::Field("size")));
    }
    Ok(header)
}

/// The size of the front frame after its head, in bytes.
fn payload_bytes(header: &ObjectHeader) -> u64 {
    u64::from(header.units_compressed_bytes).saturating_add(HEADER_BYTES as u64)
}

fn decode_entries(
    header: ObjectHeader,
    compressed: &[u8],
    codec: &mut Decompressor,
) -> Result<ObjectFront, Damage> {
    if crc32c(compressed) != header.units_crc {
        return Err(Damage::Checksum);
    }
    codec.compressed.clear();
    codec.compressed.extend_from_slice(compressed);
    codec.decompress(header.entries_bytes())?;
    let (units, told) = codec.content.split_at_checked(header.units_bytes()).ok_or(Damage::Truncated)?;
    let holes = told.as_chunks::<HOLE_BYTES>().0.iter();
    let holes: Vec<LsnRange> =
        holes.map(|hole| LsnRange { start: le_lsn(hole, 0), end: le_lsn(hole, 1) }).collect();
    let units: Vec<TrailerUnit> = units.as_chunks().0.to_vec();
    records::check(&header.id, header.segment_blocks, &units, &holes)?;
    Ok(ObjectFront { header, units, holes })
}

/// The start (0) or the end (1) of a hole.
fn le_lsn(hole: &[u8; HOLE_BYTES], index: usize) -> Lsn {
    Lsn(hole.as_chunks().0.get(index).map_or(0, |&lsn| u64::from_le_bytes(lsn)))
}

/// The content of an object's last bytes: its tail, the damaged blocks, and its seek table (24
/// bytes for each frame, at most 16,384 frames).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectTable {
    tail: ObjectTail,
    damaged: Vec<Lsn>,
    frames: Vec<DataFrame>,
}

impl ObjectTable {
    /// The tail.
    pub fn tail(&self) -> &ObjectTail {
        &self.tail
    }

    /// The data frames.
    pub fn frames(&self) -> &[DataFrame] {
        &self.frames
    }

    /// The size of the object in bytes.
    pub fn object_bytes(&self) -> u64 {
        let digest_bytes = seek::digest_frame_bytes(self.damaged.len() as u32);
        let end_bytes = digest_bytes.saturating_add(seek::table_bytes(self.frames.len() as u32));
        self.tail.digested_bytes.saturating_add(end_bytes as u64)
    }

    /// The positions of the blocks that were damaged when the object was made, ascending: the bytes
    /// at their places are not what was written there.
    pub fn damaged(&self) -> &[Lsn] {
        &self.damaged
    }

    /// Those of them in a range.
    pub fn damaged_in(&self, from: Lsn, len_blocks: u64) -> &[Lsn] {
        let start = self.damaged.partition_point(|&lsn| lsn < from);
        let rest = self.damaged.get(start..).unwrap_or_default();
        let len = rest.partition_point(|lsn| lsn.0.saturating_sub(from.0) < len_blocks);
        rest.get(..len).unwrap_or_default()
    }
}

/// An object that is open for reading.
pub struct ObjectReader<'a, S: RangedRead + ?Sized> {
    source: &'a S,
    table: Arc<ObjectTable>,
}

impl<'a, S: RangedRead + ?Sized> ObjectReader<'a, S> {
    /// Opens an object by its last bytes: one read, or two when the table is long.
    ///
    /// # Errors
    /// [`ObjectError::Damaged`], or the source's.
    pub fn open(source: &'a S) -> Result<Self, ObjectError> {
        let len = source.len_bytes()?;
        let truncated = || ObjectError::damaged(Part::SeekTable, len, Damage::Truncated);
        let mut end = vec![0; len.min(TAIL_GUESS_BYTES) as usize];
        source.read_at(len.saturating_sub(end.len() as u64), &mut end)?;
        let footer_damage =
            |damage| ObjectError::damaged(Part::SeekTable, len.saturating_sub(FOOTER_BYTES as u64), damage);
        let footer = end.last_chunk::<FOOTER_BYTES>().ok_or_else(truncated)?;
        let data_frames = seek::decode_footer(footer).map_err(footer_damage)?;
        // At most the count of the largest segment with the smallest frames.
        if data_frames > MAX_DATA_FRAMES {
            return Err(footer_damage(Damage::Field("count of frames")));
        }
        let table_bytes = seek::table_bytes(data_frames);
        let least_bytes = table_bytes.saturating_add(seek::digest_frame_bytes(0));
        let digest_bytes = seek::told_digest_frame_bytes(last_bytes(source, len, &mut end, least_bytes)?);
        let table_damage =
            |damage| ObjectError::damaged(Part::SeekTable, len.saturating_sub(table_bytes as u64), damage);
        if !(seek::digest_frame_bytes(0)..=MAX_DIGEST_BYTES).contains(&digest_bytes) {
            return Err(table_damage(Damage::Field("size of the digest frame")));
        }
        let wanted = digest_bytes.saturating_add(table_bytes);
        let (digest_frame, rest) = last_bytes(source, len, &mut end, wanted)?
            .split_at_checked(SKIPPABLE_HEAD_BYTES + TAIL_BYTES)
            .ok_or_else(truncated)?;
        let digest_offset = len.saturating_sub(wanted as u64);
        let digest_damage = |damage| ObjectError::damaged(Part::Digest, digest_offset, damage);
        let tail = decode_digest_frame(digest_frame).map_err(digest_damage)?;
        if tail.digested_bytes != digest_offset {
            return Err(digest_damage(Damage::Field("position")));
        }
        if tail.data_frames != data_frames {
            return Err(digest_damage(Damage::Field("count of data frames")));
        }
        if digest_bytes != seek::digest_frame_bytes(tail.damaged_blocks) {
            return Err(digest_damage(Damage::Field("count of damaged blocks")));
        }
        if crc32c(rest) != tail.table_crc {
            return Err(table_damage(Damage::Checksum));
        }
        let positions_bytes = (tail.damaged_blocks as usize).saturating_mul(POSITION_BYTES);
        let (positions, table) = rest.split_at_checked(positions_bytes).ok_or_else(truncated)?;
        let damaged = decode_positions(positions, &tail).map_err(digest_damage)?;
        let frames = seek::decode(table, &tail).map_err(table_damage)?;
        Ok(ObjectReader::with_table(source, Arc::new(ObjectTable { tail, damaged, frames })))
    }

    /// Opens an object with a table that was read before. It must be this object's: a caller that
    /// caches tables reads the table again when a frame is damaged.
    pub fn with_table(source: &'a S, table: Arc<ObjectTable>) -> Self {
        ObjectReader { source, table }
    }

    /// The content of the last bytes, to be cached.
    pub fn table(&self) -> &Arc<ObjectTable> {
        &self.table
    }

    /// The tail.
    pub fn tail(&self) -> &ObjectTail {
        &self.table.tail
    }

    /// The data frames.
    pub fn frames(&self) -> &[DataFrame] {
        &self.table.frames
    }

    /// Reads one block: one read, of one frame.
    ///
    /// # Errors
    /// [`ObjectError::NotHere`], [`ObjectError::Unreadable`], [`ObjectError::Damaged`], or the
    /// source's.
    pub fn read_block(
        &self,
        lsn: Lsn,
        block: &mut [u8; BLOCK_BYTES],
        codec: &mut Decompressor,
    ) -> Result<(), ObjectError> {
        self.read_blocks(lsn, block, codec)
    }

    /// Reads blocks from `lsn` on, as many as `buffer` holds: one read for each frame that contains
    /// some of them.
    ///
    /// # Errors
    /// [`ObjectError::NotBlocks`], [`ObjectError::NotHere`], [`ObjectError::Unreadable`] when one
    /// of them was damaged when it was archived, [`ObjectError::Damaged`], or the source's.
    pub fn read_blocks(
        &self,
        lsn: Lsn,
        buffer: &mut [u8],
        codec: &mut Decompressor,
    ) -> Result<(), ObjectError> {
        self.read_with_damaged(lsn, buffer, codec)?;
        match self.table.damaged_in(lsn, (buffer.len() / BLOCK_BYTES) as u64).first() {
            Some(&lsn) => Err(ObjectError::Unreadable(lsn)),
            None => Ok(()),
        }
    }

    /// The same, but includes blocks that were damaged when they were archived: the caller
    /// identifies them with [`ObjectTable::damaged_in`].
    ///
    /// # Errors
    /// [`ObjectError::NotBlocks`], [`ObjectError::NotHere`], [`ObjectError::Damaged`], or the
    /// source's.
    pub fn read_with_damaged(
        &self,
        lsn: Lsn,
        buffer: &mut [u8],
        codec: &mut Decompressor,
    ) -> Result<(), ObjectError> {
        if !buffer.len().is_multiple_of(BLOCK_BYTES) {
            return Err(ObjectError::NotBlocks(buffer.len()));
        }
        let id = &self.table.tail.id;
        let len_blocks = (buffer.len() / BLOCK_BYTES) as u64;
        let first = lsn.0.checked_sub(id.from_lsn.0);
        let Some(first) =
            first.filter(|&first| first.checked_add(len_blocks).is_some_and(|end| end <= id.len_blocks()))
        else {
            return Err(ObjectError::NotHere { lsn, len_blocks, from_lsn: id.from_lsn, to_lsn: id.to_lsn });
        };
        let position = first.saturating_mul(BLOCK_BYTES as u64);
        let frame_bytes = u64::from(self.table.tail.frame_bytes);
        let damaged = |damage| ObjectError::damaged(Part::Digest, self.table.tail.digested_bytes, damage);
        let (Some(first), Some(within)) =
            (position.checked_div(frame_bytes), position.checked_rem(frame_bytes))
        else {
            return Err(damaged(Damage::Field("frame size")));
        };
        let (mut rest, mut within) = (buffer, within as usize);
        for index in first as u32.. {
            if rest.is_empty() {
                break;
            }
            self.load_frame(index, codec)?;
            let content = codec.content.get(within..).unwrap_or_default();
            let len = rest.len().min(content.len());
            let (now, later) = rest.split_at_mut(len);
            now.copy_from_slice(content.get(..len).unwrap_or_default());
            (rest, within) = (later, 0);
        }
        Ok(())
    }

    /// Reads the whole object from its first byte on, with every check, and passes its blocks to
    /// `blocks`, one frame's content at a time. Each frame's content is checked before it is passed
    /// on, but the object as a whole is known to be valid only when this returns without an error.
    ///
    /// # Errors
    /// [`ObjectError::Damaged`] with the first damaged part, or the source's.
    pub fn verify(
        &self,
        codec: &mut Decompressor,
        mut blocks: impl FnMut(&[u8]),
    ) -> Result<ObjectFront, ObjectError> {
        let front_bytes =
            self.table.frames.first().map_or(self.table.tail.digested_bytes, |frame| frame.offset);
        let mut front = vec![0; front_bytes.min(MAX_FRONT_BYTES) as usize];
        self.source.read_at(0, &mut front)?;
        let header = decode_front_head(&front)?;
        if header.id != self.table.tail.id
            || header.segment_blocks != self.table.tail.segment_blocks
            || header.frame_bytes != self.table.tail.frame_bytes
        {
            return Err(ObjectError::damaged(Part::Header, 0, Damage::Field("identity")));
        }
        if payload_bytes(&header).saturating_add(SKIPPABLE_HEAD_BYTES as u64) != front_bytes {
            return Err(ObjectError::damaged(Part::Front, 0, Damage::Field("size")));
        }
        let entries = decode_entries(header, compressed_entries(&front), codec)
            .map_err(|damage| ObjectError::damaged(Part::Entries, FRONT_HEAD_BYTES as u64, damage))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&front);
        for index in 0..self.table.frames.len() as u32 {
            self.load_frame(index, codec)?;
            hasher.update(&codec.compressed);
            blocks(&codec.content);
        }
        if *hasher.finalize().as_bytes() != self.table.tail.digest {
            return Err(ObjectError::damaged(Part::Whole, 0, Damage::Checksum));
        }
        Ok(entries)
    }

    /// Reads a frame's content into the codec's buffer.
    fn load_frame(&self, index: u32, codec: &mut Decompressor) -> Result<(), ObjectError> {
        let frame = self.table.frames.get(index as usize).ok_or_else(|| {
            ObjectError::damaged(Part::Data(index), self.table.tail.digested_bytes, Damage::Truncated)
        })?;
        codec.compressed.resize(frame.compressed_bytes as usize, 0);
        self.source.read_at(frame.offset, &mut codec.compressed)?;
        let damaged = |damage| ObjectError::damaged(Part::Data(index), frame.offset, damage);
        codec.decompress(frame.content_bytes as usize).map_err(damaged)?;
        if seek::checksum(&codec.content) != frame.checksum {
            return Err(damaged(Damage::Checksum));
        }
        Ok(())
    }
}

/// The most data frames: the largest segment with the smallest frames.
const MAX_DATA_FRAMES: u32 =
    (crate::log::geometry::SEGMENT_BLOCKS_MAX * BLOCK_BYTES as u64 / super::FRAME_BYTES_MIN as u64) as u32;
/// More than any front frame has: the largest segment's units take 6.0 MiB uncompressed, and the
/// holes between them less than 4.3 MiB.
const MAX_FRONT_BYTES: u64 = 12 << 20;
/// At least the size of any digest frame, even for the largest segment with all blocks damaged.
const MAX_DIGEST_BYTES: usize = 4096 + crate::log::geometry::SEGMENT_BLOCKS_MAX as usize * POSITION_BYTES;

fn decode_digest_frame(frame: &[u8]) -> Result<ObjectTail, Damage> {
    if le_u32(frame, 0) != DIGEST_MAGIC {
        return Err(Damage::Magic);
    }
    let tail = ObjectTail::decode(frame.get(SKIPPABLE_HEAD_BYTES..).unwrap_or_default())?;
    let frame_bytes = (le_u32(frame, 4) as usize).saturating_add(SKIPPABLE_HEAD_BYTES);
    if frame_bytes != seek::digest_frame_bytes(tail.damaged_blocks) {
        return Err(Damage::Field("size"));
    }
    Ok(tail)
}

/// Decodes the positions of the damaged blocks: ascending, and in the object.
fn decode_positions(positions: &[u8], tail: &ObjectTail) -> Result<Vec<Lsn>, Damage> {
    let (positions, _) = positions.as_chunks::<POSITION_BYTES>();
    let damaged: Vec<Lsn> = positions.iter().map(|&position| Lsn(u64::from_le_bytes(position))).collect();
    let is_inside = |lsn: &Lsn| (tail.id.from_lsn..tail.id.to_lsn).contains(lsn);
    if damaged.is_sorted_by(|a, b| a < b) && damaged.iter().all(is_inside) {
        Ok(damaged)
    } else {
        Err(Damage::Field("list of damaged blocks"))
    }
}

/// The last `wanted` bytes of an object of `len` bytes; bytes that `end` lacks are read.
fn last_bytes<'e>(
    source: &(impl RangedRead + ?Sized),
    len: u64,
    end: &'e mut Vec<u8>,
    wanted: usize,
) -> Result<&'e [u8], ObjectError> {
    let truncated = || ObjectError::damaged(Part::SeekTable, len, Damage::Truncated);
    let offset = len.checked_sub(wanted as u64).ok_or_else(truncated)?;
    if let Some(missing) = wanted.checked_sub(end.len()).filter(|&missing| missing > 0) {
        let mut longer = vec![0; missing];
        source.read_at(offset, &mut longer)?;
        longer.append(end);
        *end = longer;
    }
    end.len().checked_sub(wanted).and_then(|start| end.get(start..)).ok_or_else(truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_these_bounds,
        MAX_DATA_FRAMES => "| data frames | {} | `MAX_DATA_FRAMES` |",
        MAX_FRONT_BYTES => "| front frame | {MiB} MiB | `MAX_FRONT_BYTES` |",
        (MAX_DIGEST_BYTES - 4096) / POSITION_BYTES => "| digest frame | 4,096 + {} x 8 bytes | `MAX_DIGEST_BYTES` |",
        MAX_DIGEST_BYTES - 262_144 * 8 => "| digest frame | {} + 262,144 x 8 bytes |",
    );
}
