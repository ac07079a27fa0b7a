//! Reads and checks an increment in one pass.
//!
//! **Bounds:** one chunk is in memory: at most 1 MiB of data, as much compressed, and 1,024
//! entries.

use std::io::{self, Read};

use super::description::Description;
use super::error::{IncrementError, Part};
use super::format::{
    CHUNK_FRAME, CHUNK_HEAD_BYTES, ChunkHead, ENTRY_BYTES, Entry, EntryKind, HEADER_BYTES, HEADER_FRAME,
    Header, TAIL_BYTES, TAIL_FRAME, Tail, of_skippable_head,
};
use super::{CHUNK_ENTRIES_MAX, DESCRIPTION_BYTES_MAX, MEMBERS_MAX};
use crate::archive::object::SKIPPABLE_HEAD_BYTES;
use crate::dma::BLOCK_BYTES;
use crate::log::checksum::crc32c;

/// A chunk: its entries, and the data of those that have any, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The data.
    pub data: Vec<u8>,
}

impl Chunk {
    /// Each entry with its data; empty for unmapped blocks.
    pub fn pieces(&self) -> impl Iterator<Item = (Entry, &[u8])> {
        let mut rest = &self.data[..];
        self.entries.iter().map(move |&entry| {
            let len = if entry.kind == EntryKind::Data { entry.blocks } else { 0 };
            let len_bytes = (len as usize).saturating_mul(BLOCK_BYTES).min(rest.len());
            let (piece, behind) = rest.split_at_checked(len_bytes).unwrap_or((rest, &[]));
            rest = behind;
            (entry, piece)
        })
    }
}

/// Reads an increment. See the module's documentation.
pub struct IncrementReader<R> {
    input: R,
    header: Header,
    description: Description,
    hasher: blake3::Hasher,
    bytes: u64,
    chunks: u64,
    behind: (u32, u64),
    data_blocks: u64,
    unmapped_blocks: u64,
    digest: Option<[u8; 32]>,
}

impl<R: Read> IncrementReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// It is not an increment, or the header is damaged.
    pub fn open(mut input: R) -> Result<Self, IncrementError> {
        let part = Part::Header;
        let mut head = [0; SKIPPABLE_HEAD_BYTES];
        fill(&mut input, &mut head, part).map_err(|error| match error {
            IncrementError::Truncated { .. } => IncrementError::NotAnIncrement,
            error => error,
        })?;
        let (magic, len) = of_skippable_head(head);
        let len = len as usize;
        if magic != HEADER_FRAME
            || !(HEADER_BYTES..=HEADER_BYTES.saturating_add(DESCRIPTION_BYTES_MAX)).contains(&len)
        {
            return Err(IncrementError::NotAnIncrement);
        }
        let mut payload = vec![0; len];
        fill(&mut input, &mut payload, part)?;
        let (header, members, text) = Header::decode(&payload)?;
        let description: Description =
            serde_json::from_slice(text).map_err(|_| part.damaged("the description"))?;
        let count = description.members.len();
        if count == 0 || count > MEMBERS_MAX || count != members as usize {
            return Err(part.damaged("count of members"));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&head).update(&payload);
        let bytes = (SKIPPABLE_HEAD_BYTES.saturating_add(len)) as u64;
        Ok(IncrementReader {
            input,
            header,
            description,
            hasher,
            bytes,
            chunks: 0,
            behind: (0, 0),
            data_blocks: 0,
            unmapped_blocks: 0,
            digest: None,
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The description.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The digest of the increment, once it was read to its end.
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }

    /// The next chunk; `None` at the end, after everything was checked.
    ///
    /// # Errors
    /// What is damaged.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, IncrementError> {
        if self.digest.is_some() {
            return Ok(None);
        }
        let part = Part::Chunk(self.chunks);
        let mut head = [0; SKIPPABLE_HEAD_BYTES];
        fill(&mut self.input, &mut head, part)?;
        let (magic, len) = of_skippable_head(head);
        let entries_max = ENTRY_BYTES.saturating_mul(CHUNK_ENTRIES_MAX as usize);
        match (magic, len as usize) {
            (TAIL_FRAME, TAIL_BYTES) => return self.read_tail().map(|()| None),
            (CHUNK_FRAME, len) if len <= CHUNK_HEAD_BYTES.saturating_add(entries_max) => {}
            _ => return Err(part.damaged("the head of a frame")),
        }
        let mut payload = vec![0; len as usize];
        fill(&mut self.input, &mut payload, part)?;
        let (chunk, entries) = ChunkHead::decode(&payload, self.header.pool, self.chunks)?;
        self.check_entries(&chunk, &entries)?;
        let mut compressed = vec![0; chunk.compressed_bytes as usize];
        fill(&mut self.input, &mut compressed, part)?;
        let data = decompressed(&chunk, &compressed)?;
        self.hasher.update(&head).update(&payload).update(&compressed);
        let read = SKIPPABLE_HEAD_BYTES.saturating_add(payload.len()).saturating_add(compressed.len());
        self.bytes = self.bytes.saturating_add(read as u64);
        self.chunks = self.chunks.saturating_add(1);
        Ok(Some(Chunk { entries, data }))
    }

    /// Checks order and counts of a chunk's entries.
    fn check_entries(&mut self, chunk: &ChunkHead, entries: &[Entry]) -> Result<(), IncrementError> {
        let part = Part::Chunk(chunk.number);
        let mut data_blocks: u64 = 0;
        for entry in entries {
            let member = self.description.members.get(entry.member as usize);
            let size_blocks = member.map_or(0, |member| member.to_size_blocks);
            let end = entry.block.checked_add(entry.blocks).filter(|&end| end <= size_blocks);
            match end {
                Some(end) if entry.blocks > 0 && (entry.member, entry.block) >= self.behind => {
                    self.behind = (entry.member, end);
                }
                _ => return Err(part.damaged("an entry is not in order, or not in its volume")),
            }
            match entry.kind {
                EntryKind::Data => data_blocks = data_blocks.saturating_add(entry.blocks),
                EntryKind::Unmapped => {
                    self.unmapped_blocks = self.unmapped_blocks.saturating_add(entry.blocks);
                }
            }
        }
        if data_blocks != u64::from(chunk.data_blocks) {
            return Err(part.damaged("count of data blocks"));
        }
        self.data_blocks = self.data_blocks.saturating_add(data_blocks);
        Ok(())
    }

    fn read_tail(&mut self) -> Result<(), IncrementError> {
        let part = Part::Tail;
        let mut payload = [0; TAIL_BYTES];
        fill(&mut self.input, &mut payload, part)?;
        let tail = Tail::decode(&payload, self.header.pool)?;
        let header = &self.header;
        let counts = (self.chunks, self.bytes, self.data_blocks, self.unmapped_blocks);
        if counts != (tail.chunks, tail.bytes, tail.data_blocks, tail.unmapped_blocks)
            || (self.data_blocks, self.unmapped_blocks) != (header.data_blocks, header.unmapped_blocks)
        {
            return Err(part.damaged("the counts are not those of the file"));
        }
        if tail.digest != *self.hasher.finalize().as_bytes() {
            return Err(part.damaged("the digest is not that of the file"));
        }
        let mut more = [0; 1];
        match self.input.read(&mut more)? {
            0 => self.digest = Some(tail.digest),
            _ => return Err(part.damaged("something follows it")),
        }
        Ok(())
    }
}

/// Reads an increment to its end and checks all of it. Returns its digest.
///
/// # Errors
/// What is damaged.
pub fn verify<R: Read>(reader: &mut IncrementReader<R>) -> Result<[u8; 32], IncrementError> {
    while reader.next_chunk()?.is_some() {}
    reader.digest().ok_or(IncrementError::Truncated { part: Part::Tail })
}

/// The data of a chunk.
fn decompressed(chunk: &ChunkHead, compressed: &[u8]) -> Result<Vec<u8>, IncrementError> {
    let part = Part::Chunk(chunk.number);
    if crc32c(compressed) != chunk.compressed_crc {
        return Err(part.damaged("the checksum of its compressed data"));
    }
    let len_bytes = (chunk.data_blocks as usize).saturating_mul(BLOCK_BYTES);
    let mut data = Vec::new();
    if len_bytes > 0 {
        if zstd_safe::find_frame_compressed_size(compressed) != Ok(compressed.len()) {
            return Err(part.damaged("its compressed data is not one frame"));
        }
        data.reserve_exact(len_bytes);
        zstd_safe::decompress(&mut data, compressed).map_err(|_| part.damaged("its compressed data"))?;
    }
    if data.len() != len_bytes || crc32c(&data) != chunk.data_crc {
        return Err(part.damaged("the checksum of its data"));
    }
    Ok(data)
}

fn fill(input: &mut impl Read, bytes: &mut [u8], part: Part) -> Result<(), IncrementError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => IncrementError::Truncated { part },
        _ => IncrementError::Io(error),
    })
}
