//! Reads objects: one block, a range, the entries, or everything with all checks.

use std::sync::Arc;

use super::codec::Decompressor;
use super::header::{HEADER_BYTES, TAIL_BYTES};
use super::seek::{self, DataFrame, FOOTER_BYTES, le_u32};
use super::{
    DIGEST_MAGIC, Damage, FRONT_MAGIC, ObjectError, ObjectHeader, ObjectTail, Part, SKIPPABLE_HEAD_BYTES,
};
use crate::archive::store::StoreError;
use crate::dma::BLOCK_BYTES;
use crate::log::checksum::crc32c;
use crate::log::format::TrailerUnit;
use crate::log::types::Lsn;

/// What is read from the end first: enough for the usual segment's table with the usual frames, four times over.
const TAIL_GUESS_BYTES: u64 = 16 << 10;
/// What is read from the front first.
const FRONT_GUESS_BYTES: u64 = 64 << 10;
const DIGEST_FRAME_BYTES: usize = SKIPPABLE_HEAD_BYTES + TAIL_BYTES;

/// Bytes that can be read from any offset: an object in a store, a file, a slice.
pub trait RangedRead {
    /// Bytes in all.
    ///
    /// # Errors
    /// The store's.
    fn len_bytes(&self) -> Result<u64, StoreError>;

    /// Fills `buffer` from `offset` on, whole or with an error.
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

/// The header and the trailer's units of an object, from its first bytes alone: one read, or two when the units are many.
///
/// # Errors
/// [`ObjectError::Damaged`], or the source's.
pub fn read_front(
    source: &(impl RangedRead + ?Sized),
    codec: &mut Decompressor,
) -> Result<(ObjectHeader, Vec<TrailerUnit>), ObjectError> {
    let len = source.len_bytes()?;
    let mut front = vec![0; len.min(FRONT_GUESS_BYTES) as usize];
    source.read_at(0, &mut front)?;
    let header = decode_front_head(&front)?;
    let wanted = FRONT_HEAD_BYTES + header.units_compressed_bytes as usize;
    let entries_damage = |damage| ObjectError::damaged(Part::Entries, FRONT_HEAD_BYTES as u64, damage);
    if wanted as u64 > len {
        return Err(entries_damage(Damage::Truncated));
    }
    let have = front.len().min(wanted);
    front.resize(wanted, 0);
    if have < wanted {
        source.read_at(have as u64, &mut front[have..])?;
    }
    let units = decode_entries(&header, &front[FRONT_HEAD_BYTES..], codec).map_err(entries_damage)?;
    Ok((header, units))
}

const FRONT_HEAD_BYTES: usize = SKIPPABLE_HEAD_BYTES + HEADER_BYTES;

/// The front frame's head and the header.
fn decode_front_head(front: &[u8]) -> Result<ObjectHeader, ObjectError> {
    let damaged = |damage| ObjectError::damaged(Part::Front, 0, damage);
    let head = front.get(..FRONT_HEAD_BYTES).ok_or_else(|| damaged(Damage::Truncated))?;
    if le_u32(head, 0) != FRONT_MAGIC {
        return Err(damaged(Damage::Magic));
    }
    let header = ObjectHeader::decode(&head[SKIPPABLE_HEAD_BYTES..])
        .map_err(|damage| ObjectError::damaged(Part::Header, SKIPPABLE_HEAD_BYTES as u64, damage))?;
    if u64::from(le_u32(head, 4)) != HEADER_BYTES as u64 + u64::from(header.units_compressed_bytes) {
        return Err(damaged(Damage::Field("size")));
    }
    Ok(header)
}

fn decode_entries(
    header: &ObjectHeader,
    compressed: &[u8],
    codec: &mut Decompressor,
) -> Result<Vec<TrailerUnit>, Damage> {
    if crc32c(compressed) != header.units_crc {
        return Err(Damage::Checksum);
    }
    codec.compressed.clear();
    codec.compressed.extend_from_slice(compressed);
    codec.decompress(header.units_bytes())?;
    Ok(codec.content.as_chunks().0.to_vec())
}

/// What an object's last bytes say: its tail and its seek table (24 bytes for each frame, at most 16,384 frames).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectTable {
    tail: ObjectTail,
    frames: Vec<DataFrame>,
}

impl ObjectTable {
    /// What the end of the object says.
    pub fn tail(&self) -> &ObjectTail {
        &self.tail
    }

    /// The data frames.
    pub fn frames(&self) -> &[DataFrame] {
        &self.frames
    }

    /// Bytes of the object.
    pub fn object_bytes(&self) -> u64 {
        self.tail.digested_bytes + (DIGEST_FRAME_BYTES + seek::table_bytes(self.frames.len() as u32)) as u64
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
        source.read_at(len - end.len() as u64, &mut end)?;
        let footer = end.last_chunk::<FOOTER_BYTES>().ok_or_else(truncated)?;
        let data_frames = seek::decode_footer(footer)
            .map_err(|damage| ObjectError::damaged(Part::SeekTable, len - FOOTER_BYTES as u64, damage))?;
        // At most what the largest segment with the smallest frames has.
        if data_frames > MAX_DATA_FRAMES {
            return Err(ObjectError::damaged(
                Part::SeekTable,
                len - FOOTER_BYTES as u64,
                Damage::Field("count of frames"),
            ));
        }
        let table_bytes = seek::table_bytes(data_frames);
        let wanted = DIGEST_FRAME_BYTES + table_bytes;
        if wanted as u64 > len {
            return Err(truncated());
        }
        if end.len() < wanted {
            let have = end.len();
            let mut longer = vec![0; wanted];
            source.read_at(len - wanted as u64, &mut longer[..wanted - have])?;
            longer[wanted - have..].copy_from_slice(&end);
            end = longer;
        }
        let (digest_frame, table) = end[end.len() - wanted..].split_at(DIGEST_FRAME_BYTES);
        let digest_offset = len - wanted as u64;
        let digest_damage = |damage| ObjectError::damaged(Part::Digest, digest_offset, damage);
        let tail = decode_digest_frame(digest_frame).map_err(digest_damage)?;
        if tail.digested_bytes != digest_offset {
            return Err(digest_damage(Damage::Field("position")));
        }
        if tail.data_frames != data_frames {
            return Err(digest_damage(Damage::Field("count of data frames")));
        }
        let table_damage = |damage| ObjectError::damaged(Part::SeekTable, len - table_bytes as u64, damage);
        if crc32c(table) != tail.table_crc {
            return Err(table_damage(Damage::Checksum));
        }
        let frames = seek::decode(table, &tail).map_err(table_damage)?;
        Ok(ObjectReader::with_table(source, Arc::new(ObjectTable { tail, frames })))
    }

    /// Opens an object whose table was read before. It must be this object's: whoever keeps tables looks again when a frame is damaged.
    pub fn with_table(source: &'a S, table: Arc<ObjectTable>) -> Self {
        ObjectReader { source, table }
    }

    /// What the last bytes say, to be kept.
    pub fn table(&self) -> &Arc<ObjectTable> {
        &self.table
    }

    /// What the end of the object says.
    pub fn tail(&self) -> &ObjectTail {
        &self.table.tail
    }

    /// The data frames.
    pub fn frames(&self) -> &[DataFrame] {
        &self.table.frames
    }

    /// One block: one read, of one frame.
    ///
    /// # Errors
    /// [`ObjectError::NotHere`], [`ObjectError::Damaged`], or the source's.
    pub fn read_block(
        &self,
        lsn: Lsn,
        block: &mut [u8; BLOCK_BYTES],
        codec: &mut Decompressor,
    ) -> Result<(), ObjectError> {
        self.read_blocks(lsn, block, codec)
    }

    /// Blocks from `lsn` on, as many as `buffer` holds: one read for each frame that holds some of them.
    ///
    /// # Errors
    /// [`ObjectError::NotBlocks`], [`ObjectError::NotHere`], [`ObjectError::Damaged`], or the source's.
    pub fn read_blocks(
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
        let mut position = first * BLOCK_BYTES as u64;
        let mut rest = buffer;
        while !rest.is_empty() {
            let index = position / u64::from(self.table.tail.frame_bytes);
            let within = (position % u64::from(self.table.tail.frame_bytes)) as usize;
            self.load_frame(index as u32, codec)?;
            let content = &codec.content[within..];
            let (now, later) = rest.split_at_mut(rest.len().min(content.len()));
            now.copy_from_slice(&content[..now.len()]);
            position += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Reads the object whole, from its first byte on, with every check there is, and gives its blocks to `blocks`, a frame's content at a time.
    /// What was given is only known to be all right when this has returned without error; each frame's content was checked before it was given.
    ///
    /// # Errors
    /// [`ObjectError::Damaged`] with the first part that is wrong, or the source's.
    pub fn verify(
        &self,
        codec: &mut Decompressor,
        mut blocks: impl FnMut(&[u8]),
    ) -> Result<(ObjectHeader, Vec<TrailerUnit>), ObjectError> {
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
        if FRONT_HEAD_BYTES as u64 + u64::from(header.units_compressed_bytes) != front_bytes {
            return Err(ObjectError::damaged(Part::Front, 0, Damage::Field("size")));
        }
        let units = decode_entries(&header, &front[FRONT_HEAD_BYTES..], codec)
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
        Ok((header, units))
    }

    /// Brings a frame's content into the codec's buffer.
    fn load_frame(&self, index: u32, codec: &mut Decompressor) -> Result<(), ObjectError> {
        let frame = &self.table.frames[index as usize];
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

/// The most data frames: the largest segment in the smallest frames.
const MAX_DATA_FRAMES: u32 =
    (crate::log::geometry::SEGMENT_BLOCKS_MAX * BLOCK_BYTES as u64 / super::FRAME_BYTES_MIN as u64) as u32;
/// More than any front frame has: the largest segment's units take 6.3 MiB uncompressed.
const MAX_FRONT_BYTES: u64 = 8 << 20;

fn decode_digest_frame(frame: &[u8]) -> Result<ObjectTail, Damage> {
    if le_u32(frame, 0) != DIGEST_MAGIC {
        return Err(Damage::Magic);
    }
    if le_u32(frame, 4) as usize != TAIL_BYTES {
        return Err(Damage::Field("size"));
    }
    ObjectTail::decode(&frame[SKIPPABLE_HEAD_BYTES..])
}
