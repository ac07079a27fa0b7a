//! Writes an increment in one pass.
//!
//! **Invariant:** entries come in order of member and block, none overlaps the one before it, and
//! data comes with the entry that it belongs to. A chunk is written when it is full.

use std::io::Write;

use super::description::Description;
use super::error::IncrementError;
use super::format::{
    CHUNK_FRAME, ChunkHead, Entry, EntryKind, HEADER_FRAME, Header, TAIL_FRAME, Tail, compressed_bytes_max,
};
use super::{CHUNK_BLOCKS_MAX, CHUNK_ENTRIES_MAX, DESCRIPTION_BYTES_MAX, MEMBERS_MAX};
use crate::archive::object::skippable_head;
use crate::dma::BLOCK_BYTES;
use crate::log::checksum::crc32c;

/// The compression level: small enough to keep up with a disk.
const LEVEL: i32 = 3;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The digest: it names the increment, and the next of the series refers to it.
    pub digest: [u8; 32],
    /// The length of the file.
    pub file_bytes: u64,
    /// Blocks with new contents.
    pub data_blocks: u64,
    /// Blocks without contents.
    pub unmapped_blocks: u64,
}

/// Writes an increment. See the module's documentation.
pub struct IncrementWriter<W> {
    output: W,
    header: Header,
    sizes_blocks: Vec<u64>,
    digest: blake3::Hasher,
    bytes: u64,
    chunks: u64,
    /// Member and block behind the last entry.
    behind: (u32, u64),
    entries: Vec<Entry>,
    data: Vec<u8>,
    data_blocks: u64,
    unmapped_blocks: u64,
}

impl<W: Write> IncrementWriter<W> {
    /// Begins an increment: writes the header, whose counts must be those of what follows.
    ///
    /// # Errors
    /// The output's; a description without members, or with too many.
    pub fn begin(output: W, header: Header, description: &Description) -> Result<Self, IncrementError> {
        let order = |what| IncrementError::Order { what };
        if description.members.is_empty() || description.members.len() > MEMBERS_MAX {
            return Err(order("it has no volume, or too many"));
        }
        let text = serde_json::to_vec(description).map_err(|_| order("the description is no JSON"))?;
        if text.len() > DESCRIPTION_BYTES_MAX {
            return Err(order("the description is too long"));
        }
        let sizes_blocks = description.members.iter().map(|member| member.to_size_blocks).collect();
        let mut writer = IncrementWriter {
            output,
            header,
            sizes_blocks,
            digest: blake3::Hasher::new(),
            bytes: 0,
            chunks: 0,
            behind: (0, 0),
            entries: Vec::new(),
            data: Vec::new(),
            data_blocks: 0,
            unmapped_blocks: 0,
        };
        let payload = header.encode(description.members.len() as u32, &text);
        writer.put(&skippable_head(HEADER_FRAME, payload.len() as u32))?;
        writer.put(&payload)?;
        Ok(writer)
    }

    /// Adds blocks with new contents: whole blocks.
    ///
    /// # Errors
    /// The output's; they are not behind all others, or not in the volume.
    pub fn data(&mut self, member: u32, block: u64, data: &[u8]) -> Result<(), IncrementError> {
        let (blocks, rest) = data.as_chunks::<BLOCK_BYTES>();
        if !rest.is_empty() {
            return Err(IncrementError::Order { what: "data is not in whole blocks" });
        }
        self.advance(member, block, blocks.len() as u64)?;
        for (at, bytes) in (block..).zip(blocks) {
            if self.data.len() >= (CHUNK_BLOCKS_MAX as usize).saturating_mul(BLOCK_BYTES) {
                self.close_chunk()?;
            }
            self.add(Entry { member, kind: EntryKind::Data, block: at, blocks: 1 })?;
            self.data.extend_from_slice(bytes);
        }
        self.data_blocks = self.data_blocks.saturating_add(blocks.len() as u64);
        Ok(())
    }

    /// Adds blocks that have no contents any more.
    ///
    /// # Errors
    /// As for [`data`](Self::data).
    pub fn unmapped(&mut self, member: u32, block: u64, blocks: u64) -> Result<(), IncrementError> {
        self.advance(member, block, blocks)?;
        self.add(Entry { member, kind: EntryKind::Unmapped, block, blocks })?;
        self.unmapped_blocks = self.unmapped_blocks.saturating_add(blocks);
        Ok(())
    }

    /// Writes the rest and the tail, and flushes the output.
    ///
    /// # Errors
    /// The output's; the counts are not those of the header.
    pub fn finish(mut self) -> Result<(Summary, W), IncrementError> {
        self.close_chunk()?;
        if (self.data_blocks, self.unmapped_blocks) != (self.header.data_blocks, self.header.unmapped_blocks)
        {
            return Err(IncrementError::Order { what: "the counts are not those of its header" });
        }
        let digest = *self.digest.finalize().as_bytes();
        let tail = Tail {
            chunks: self.chunks,
            data_blocks: self.data_blocks,
            unmapped_blocks: self.unmapped_blocks,
            bytes: self.bytes,
            digest,
        };
        let payload = tail.encode(self.header.pool);
        self.put(&skippable_head(TAIL_FRAME, payload.len() as u32))?;
        self.put(&payload)?;
        self.output.flush()?;
        let (data_blocks, unmapped_blocks) = (self.data_blocks, self.unmapped_blocks);
        Ok((Summary { digest, file_bytes: self.bytes, data_blocks, unmapped_blocks }, self.output))
    }

    /// Checks that blocks lie behind all others.
    fn advance(&mut self, member: u32, block: u64, blocks: u64) -> Result<(), IncrementError> {
        let size_blocks = self.sizes_blocks.get(member as usize);
        let end = block.checked_add(blocks).filter(|end| size_blocks.is_some_and(|size| end <= size));
        match end {
            Some(end) if blocks > 0 && (member, block) >= self.behind => self.behind = (member, end),
            _ => return Err(IncrementError::Order { what: "blocks are not in order, or not in the volume" }),
        }
        Ok(())
    }

    /// Adds an entry, or extends the last one.
    fn add(&mut self, entry: Entry) -> Result<(), IncrementError> {
        if let Some(last) = self.entries.last_mut()
            && (last.member, last.kind) == (entry.member, entry.kind)
            && last.block.checked_add(last.blocks) == Some(entry.block)
        {
            last.blocks = last.blocks.saturating_add(entry.blocks);
            return Ok(());
        }
        if self.entries.len() >= CHUNK_ENTRIES_MAX as usize {
            self.close_chunk()?;
        }
        self.entries.push(entry);
        Ok(())
    }

    fn close_chunk(&mut self) -> Result<(), IncrementError> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let (entries, data) = (std::mem::take(&mut self.entries), std::mem::take(&mut self.data));
        let data_blocks = (data.len() / BLOCK_BYTES) as u32;
        let mut compressed = Vec::new();
        if data_blocks > 0 {
            compressed.reserve_exact(compressed_bytes_max(data_blocks));
            zstd_safe::compress(&mut compressed, &data, LEVEL)
                .map_err(|code| std::io::Error::other(zstd_safe::get_error_name(code)))?;
        }
        let head = ChunkHead {
            number: self.chunks,
            data_blocks,
            compressed_bytes: compressed.len() as u32,
            data_crc: crc32c(&data),
            compressed_crc: crc32c(&compressed),
        };
        let payload = head.encode(self.header.pool, &entries);
        self.put(&skippable_head(CHUNK_FRAME, payload.len() as u32))?;
        self.put(&payload)?;
        self.put(&compressed)?;
        self.chunks = self.chunks.saturating_add(1);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), IncrementError> {
        self.digest.update(bytes);
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        Ok(self.output.write_all(bytes)?)
    }
}
