//! A window over the blocks of a slot, which moves forward as records are read, and returns what is
//! at each place where a record may begin.
//!
//! **Invariant.** A record that it finds is completely before `data_end`. Each of its data blocks
//! is right, wrong or unread; an unread block never counts as a wrong one.

use super::checksum::crc32c;
use super::format::{Entry, RecordHead};
use super::read::{BlocksRead, ReadError};
use super::reader::SegmentReader;
use super::types::{Lsn, SegmentSeq, Slot};
use crate::dma::BLOCK_BYTES;

/// The length of one read, in blocks; longer than the longest record.
const READ_BLOCKS: u64 = 256;

/// What is at a place where a record may begin.
pub(super) enum RecordPlace {
    Record(FoundRecord),
    /// Not a record of this segment.
    Nothing,
    /// The device cannot read the block.
    Lost,
}

/// A record with a valid header.
pub(super) struct FoundRecord {
    pub(super) head: RecordHead,
    pub(super) entries: Vec<Entry>,
    /// Positions of data blocks with a wrong checksum: never written, or damaged later.
    pub(super) wrong: Vec<Lsn>,
    /// Positions of data blocks that cannot be read.
    pub(super) unread: Vec<Lsn>,
}

/// The window. See the module's documentation.
pub(super) struct RecordWindow<'a> {
    reader: &'a SegmentReader,
    slot: Slot,
    start: u64,
    read: Option<BlocksRead>,
    data_end: u64,
}

impl<'a> RecordWindow<'a> {
    /// A window over a slot. Nothing is read from the offset `data_end` on.
    pub(super) fn new(reader: &'a SegmentReader, slot: Slot, data_end: u64) -> Self {
        RecordWindow { reader, slot, start: 0, read: None, data_end }
    }

    /// The offset before which all records must end.
    pub(super) fn data_end(&self) -> u64 {
        self.data_end
    }

    /// The blocks `[offset, offset + len)`, which are read if necessary, and where they begin in
    /// the window.
    async fn blocks(&mut self, offset: u64, len: u64) -> Result<(&BlocksRead, u64), ReadError> {
        let held = self.read.as_ref().map_or(0, |read| (read.buffer.len() / BLOCK_BYTES) as u64);
        if self.read.is_none() || offset < self.start || offset + len > self.start + held {
            let geometry = self.reader.geometry();
            let count = READ_BLOCKS.min(geometry.data_end() - offset).max(len);
            self.read = None;
            self.read = Some(self.reader.read_around(geometry.slot_block(self.slot) + offset, count).await?);
            self.start = offset;
        }
        let read = self.read.as_ref().expect("it was just read");
        Ok((read, offset - self.start))
    }

    /// One block; `None` if it is lost.
    pub(super) async fn block(&mut self, offset: u64) -> Result<Option<&[u8]>, ReadError> {
        let (read, at) = self.blocks(offset, 1).await?;
        if read.is_lost(at) {
            return Ok(None);
        }
        let at = at as usize * BLOCK_BYTES;
        Ok(Some(&read.buffer.as_slice()[at..at + BLOCK_BYTES]))
    }

    /// What is at `lsn`, which has this offset. Records of an older epoch do not count.
    pub(super) async fn record(
        &mut self,
        sequence: SegmentSeq,
        lsn: Lsn,
        offset: u64,
        epoch: u32,
    ) -> Result<RecordPlace, ReadError> {
        let (pool, data_end) = (self.reader.pool(), self.data_end);
        let Some(header) = self.block(offset).await? else { return Ok(RecordPlace::Lost) };
        let Ok((head, entries)) = RecordHead::decode(header, pool, lsn, sequence) else {
            return Ok(RecordPlace::Nothing);
        };
        let entries = entries.to_vec();
        let data_blocks = u64::from(head.data_blocks);
        if head.epoch < epoch || offset + 1 + data_blocks > data_end {
            return Ok(RecordPlace::Nothing);
        }
        let (mut wrong, mut unread) = (Vec::new(), Vec::new());
        if data_blocks > 0 {
            let (read, at) = self.blocks(offset, 1 + data_blocks).await?;
            let bytes = &read.buffer.as_slice()[(at + 1) as usize * BLOCK_BYTES..];
            let with_data = entries.iter().filter(|entry| entry.has_data());
            for (index, (entry, block)) in (1..).zip(with_data.zip(bytes.chunks_exact(BLOCK_BYTES))) {
                if read.is_lost(at + index) {
                    unread.push(lsn.plus(index));
                } else if !entry.is_bad() && crc32c(block) != entry.crc() {
                    wrong.push(lsn.plus(index));
                }
            }
        }
        Ok(RecordPlace::Record(FoundRecord { head, entries, wrong, unread }))
    }
}
