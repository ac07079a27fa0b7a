//! Writes an object, block by block, in bounded memory.

use super::codec::Compressor;
use super::header::{HEADER_BYTES, HOLE_BYTES, check_shape};
use super::records;
use super::seek::{self, DataFrame};
use super::{
    DIGEST_MAGIC, FRAME_BYTES_MAX, FRAME_BYTES_MIN, FRONT_MAGIC, ObjectError, ObjectHeader, ObjectId,
    ObjectTail, SKIPPABLE_HEAD_BYTES, skippable_head,
};
use crate::archive::store::Sink;
use crate::dma::BLOCK_BYTES;
use crate::log::checksum::crc32c;
use crate::log::format::{TrailerUnit, trailer_units};
use crate::log::reader::LsnRange;
use crate::log::types::Lsn;

/// The size of a unit with a hole after it, in bytes.
const UNIT_AND_HOLE_BYTES: usize = size_of::<TrailerUnit>() + HOLE_BYTES;

/// The specification of a new object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectSpec {
    /// The stretch of the log that it holds.
    pub id: ObjectId,
    /// Size of the segment, in blocks.
    pub segment_blocks: u64,
    /// When the segment was opened, ns since the Unix epoch.
    pub opened_ns: u64,
    /// When the stretch was sealed, ns since the Unix epoch.
    pub sealed_ns: u64,
    /// Content of a data frame: a power of two, 64 KiB to 1 MiB.
    pub frame_bytes: u32,
}

/// The result of writing an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectSummary {
    /// The size of the object in bytes.
    pub object_bytes: u64,
    /// The size of its blocks in bytes.
    pub content_bytes: u64,
    /// BLAKE3 of everything before the digest frame, as it is stored in the object.
    pub digest: [u8; 32],
}

/// Writes one object to a [`Sink`]. Memory: one frame's content, one compressed frame, and 24 bytes
/// for each frame.
///
/// An object is complete only after [`finish`](Self::finish); dropping a writer leaves an
/// incomplete object that no reader accepts.
pub struct ObjectWriter<'a> {
    compressor: &'a mut Compressor,
    sink: &'a mut dyn Sink,
    spec: ObjectSpec,
    hasher: blake3::Hasher,
    written_bytes: u64,
    front_bytes: u32,
    frames: Vec<DataFrame>,
    pushed_blocks: u64,
}

impl ObjectSpec {
    /// The most bytes that the object can take, for
    /// [`Store::put_start`](crate::archive::store::Store::put_start).
    pub fn max_bytes(&self, units: usize) -> u64 {
        let frames = self.id.data_frames(self.frame_bytes.max(FRAME_BYTES_MIN));
        // Every block may prove to be damaged, and between two holes there is a record.
        let digest = seek::digest_frame_bytes(self.id.len_blocks() as u32);
        let skippable = digest
            .saturating_add(seek::table_bytes(frames))
            .saturating_add(SKIPPABLE_HEAD_BYTES + HEADER_BYTES);
        let entries_bytes = units.saturating_mul(UNIT_AND_HOLE_BYTES).saturating_add(HOLE_BYTES);
        let entries = zstd_safe::compress_bound(entries_bytes);
        let frame = zstd_safe::compress_bound(self.frame_bytes as usize) as u64;
        (skippable as u64).saturating_add(entries as u64).saturating_add(frame.saturating_mul(frames.into()))
    }
}

impl<'a> ObjectWriter<'a> {
    /// Begins an object: writes the header and the trailer's units that belong to it. `holes` are
    /// all stretches whose entries are not known, in order.
    ///
    /// # Errors
    /// [`ObjectError::Records`] when the units do not fill the stretch except for the holes,
    /// [`ObjectError::Spec`], [`ObjectError::FrameBytes`], [`ObjectError::Compress`], or the
    /// sink's.
    pub fn begin(
        compressor: &'a mut Compressor,
        spec: ObjectSpec,
        units: &[TrailerUnit],
        holes: &[LsnRange],
        sink: &'a mut dyn Sink,
    ) -> Result<Self, ObjectError> {
        if !spec.frame_bytes.is_power_of_two()
            || !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&spec.frame_bytes)
        {
            return Err(ObjectError::FrameBytes(spec.frame_bytes));
        }
        check_shape(&spec.id, spec.segment_blocks, spec.frame_bytes).map_err(ObjectError::Spec)?;
        if units.len() as u64 > trailer_units(spec.segment_blocks) {
            return Err(ObjectError::Spec("count of units"));
        }
        records::check(&spec.id, spec.segment_blocks, units, holes).map_err(ObjectError::Records)?;
        compressor.begin();
        let told: Vec<u8> = holes
            .iter()
            .flat_map(|hole| [hole.start.0.to_le_bytes(), hole.end.0.to_le_bytes()].concat())
            .collect();
        let entries = if told.is_empty() {
            compressor.compress(units.as_flattened())?
        } else {
            compressor.compress(&[units.as_flattened(), &told].concat())?
        };
        let header = ObjectHeader {
            id: spec.id,
            segment_blocks: spec.segment_blocks,
            opened_ns: spec.opened_ns,
            sealed_ns: spec.sealed_ns,
            frame_bytes: spec.frame_bytes,
            units: units.len() as u32,
            holes: holes.len() as u32,
            units_compressed_bytes: entries.len() as u32,
            units_crc: crc32c(entries),
        };
        let payload_bytes = entries.len().saturating_add(HEADER_BYTES) as u32;
        let mut hasher = blake3::Hasher::new();
        for bytes in [&skippable_head(FRONT_MAGIC, payload_bytes)[..], &header.encode(), entries] {
            hasher.update(bytes);
            sink.write(bytes)?;
        }
        let front_bytes = payload_bytes.saturating_add(SKIPPABLE_HEAD_BYTES as u32);
        Ok(ObjectWriter {
            compressor,
            sink,
            spec,
            hasher,
            written_bytes: u64::from(front_bytes),
            front_bytes,
            frames: Vec::new(),
            pushed_blocks: 0,
        })
    }

    /// Appends any number of whole blocks.
    ///
    /// # Errors
    /// [`ObjectError::NotBlocks`], [`ObjectError::Count`], [`ObjectError::Compress`], or the
    /// sink's; the object is then lost.
    pub fn push(&mut self, mut blocks: &[u8]) -> Result<(), ObjectError> {
        if !blocks.len().is_multiple_of(BLOCK_BYTES) {
            return Err(ObjectError::NotBlocks(blocks.len()));
        }
        self.pushed_blocks = self.pushed_blocks.saturating_add((blocks.len() / BLOCK_BYTES) as u64);
        if self.pushed_blocks > self.spec.id.len_blocks() {
            return Err(self.count_error());
        }
        let frame_bytes = self.spec.frame_bytes as usize;
        while !blocks.is_empty() {
            let collected = self.compressor.content.len();
            if collected == 0 && blocks.len() >= frame_bytes {
                // A whole frame is available, so it is not collected first.
                let (content, rest) = blocks.split_at(frame_bytes);
                blocks = rest;
                let sum = seek::checksum(content);
                let frame = self.compressor.frame(content)?;
                emit(
                    &mut self.hasher,
                    self.sink,
                    &mut self.frames,
                    &mut self.written_bytes,
                    frame,
                    content.len(),
                    sum,
                )?;
                continue;
            }
            let (content, rest) = blocks.split_at(blocks.len().min(frame_bytes.saturating_sub(collected)));
            blocks = rest;
            self.compressor.content.extend_from_slice(content);
            if self.compressor.content.len() == frame_bytes {
                self.emit_collected()?;
            }
        }
        Ok(())
    }

    /// Writes the last frame, the digest and the seek table. `damaged` are the positions of blocks
    /// that could not be read or are not what was written there, ascending. Whatever is stored at
    /// their places, a reader gets an error.
    ///
    /// # Errors
    /// [`ObjectError::Count`] when blocks are missing, [`ObjectError::Spec`],
    /// [`ObjectError::Compress`], or the sink's.
    pub fn finish(mut self, damaged: &[Lsn]) -> Result<ObjectSummary, ObjectError> {
        if self.pushed_blocks != self.spec.id.len_blocks() {
            return Err(self.count_error());
        }
        let id = self.spec.id;
        if !damaged.is_sorted_by(|a, b| a < b)
            || damaged.iter().any(|lsn| !(id.from_lsn..id.to_lsn).contains(lsn))
        {
            return Err(ObjectError::Spec("list of damaged blocks"));
        }
        if !self.compressor.content.is_empty() {
            self.emit_collected()?;
        }
        let mut rest: Vec<u8> = damaged.iter().flat_map(|lsn| lsn.0.to_le_bytes()).collect();
        rest.extend_from_slice(&seek::encode(self.front_bytes, &self.frames, damaged.len() as u32));
        let digest = *self.hasher.finalize().as_bytes();
        let tail = ObjectTail {
            id: self.spec.id,
            segment_blocks: self.spec.segment_blocks,
            frame_bytes: self.spec.frame_bytes,
            data_frames: self.frames.len() as u32,
            digest,
            digested_bytes: self.written_bytes,
            table_crc: crc32c(&rest),
            damaged_blocks: damaged.len() as u32,
        };
        let frame_bytes = seek::digest_frame_bytes(damaged.len() as u32);
        let payload_bytes = frame_bytes.saturating_sub(SKIPPABLE_HEAD_BYTES) as u32;
        let mut end = Vec::with_capacity(frame_bytes.saturating_add(rest.len()));
        end.extend_from_slice(&skippable_head(DIGEST_MAGIC, payload_bytes));
        end.extend_from_slice(&tail.encode());
        end.extend_from_slice(&rest);
        self.sink.write(&end)?;
        Ok(ObjectSummary {
            object_bytes: self.written_bytes.saturating_add(end.len() as u64),
            content_bytes: self.spec.id.content_bytes(),
            digest,
        })
    }

    fn emit_collected(&mut self) -> Result<(), ObjectError> {
        let content_bytes = self.compressor.content.len();
        let sum = seek::checksum(&self.compressor.content);
        let frame = self.compressor.collected_frame()?;
        emit(
            &mut self.hasher,
            self.sink,
            &mut self.frames,
            &mut self.written_bytes,
            frame,
            content_bytes,
            sum,
        )
    }

    fn count_error(&self) -> ObjectError {
        ObjectError::Count { pushed_blocks: self.pushed_blocks, blocks: self.spec.id.len_blocks() }
    }
}

/// Writes a data frame and records it.
fn emit(
    hasher: &mut blake3::Hasher,
    sink: &mut dyn Sink,
    frames: &mut Vec<DataFrame>,
    written_bytes: &mut u64,
    frame: &[u8],
    content_bytes: usize,
    checksum: u32,
) -> Result<(), ObjectError> {
    hasher.update(frame);
    sink.write(frame)?;
    frames.push(DataFrame {
        offset: *written_bytes,
        compressed_bytes: frame.len() as u32,
        content_bytes: content_bytes as u32,
        checksum,
    });
    *written_bytes = written_bytes.saturating_add(frame.len() as u64);
    Ok(())
}
