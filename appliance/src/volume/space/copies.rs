//! Blocks that are copied within the log, by copy-forward and by hydration: what is known of them,
//! how they are read, and what happens to an unreadable one.
//!
//! **Invariant: a copy is certain.** Its position is newer than any loss of entries, so it will be
//! served as correct. Therefore a block that may have been replaced by something that is lost, that
//! is unreadable, or that does not match its checksum is copied as an *uncorrectable copy*: zeroes
//! with a checksum that does not match them, not even in its low half, which is all that the index
//! keeps. Every reader gets an error, here, in clones and after any restart, until the block is
//! written again.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::checksum::crc32c;
use crate::log::format::EntryKind;
use crate::log::reader::{PlacedEntry, ReadError, SegmentReader};
use crate::log::{ImageId, Lsn, SharedLog};
use crate::reactor::yield_now;

use crate::volume::image::index::Mapping;

/// The longest read, in blocks.
const READ_BLOCKS_MAX: u64 = 256;
/// How many dead blocks between live ones are read too, because one longer read costs less than
/// two.
const GAP_BLOCKS: u64 = 4;
/// How many single blocks are read at the same time after a longer read failed.
const SINGLE_READS_MAX: usize = 16;

/// A block to be appended again.
#[derive(Debug, Clone, Copy)]
pub(in crate::volume) struct Source {
    pub(in crate::volume) image: ImageId,
    pub(in crate::volume) block: u64,
    pub(in crate::volume) lsn: Lsn,
    /// Its CRC32C, or the known part of it.
    pub(in crate::volume) crc: u32,
    /// Whether only the low half of the checksum is known, from an index, because its entry is
    /// lost.
    pub(in crate::volume) is_half: bool,
    /// Whether its data does not match the checksum, and must not be returned.
    pub(in crate::volume) bad: bool,
    /// Whether its data was checked against the checksum.
    pub(in crate::volume) is_checked: bool,
    /// Where its data was first written. If the entry is lost, this is unknown, and the block's own
    /// position is used.
    pub(in crate::volume) origin: Lsn,
}

/// A batch with its data; `None` for blocks that the device could not read.
pub(in crate::volume) type Batch = Vec<(Source, Option<DmaBuf>)>;

/// The data and the checksum to append for a source.
pub(in crate::volume) struct Copied {
    pub(in crate::volume) data: DmaBuf,
    /// The checksum for its entry.
    pub(in crate::volume) crc: u32,
    /// Whether it is an uncorrectable copy.
    pub(in crate::volume) bad: bool,
}

impl Source {
    /// The block of an entry, for an image that has it.
    pub(in crate::volume) fn of_entry(placed: &PlacedEntry, image: ImageId) -> Self {
        let entry = placed.entry;
        let is_copy = entry.kind() == Some(EntryKind::Copied);
        Source {
            image,
            block: entry.block().0,
            lsn: placed.lsn,
            crc: entry.crc(),
            is_half: false,
            bad: entry.is_bad(),
            is_checked: false,
            origin: if is_copy { Lsn(entry.value()) } else { placed.lsn },
        }
    }

    /// A block that is known only from the index.
    pub(in crate::volume) fn of_index(image: ImageId, block: u64, mapping: Mapping) -> Self {
        let (lsn, crc) = (mapping.lsn(), u32::from(mapping.crc16()));
        Source { image, block, lsn, crc, is_half: true, bad: false, is_checked: false, origin: lsn }
    }

    /// The mapping that the index must still have for the block to be copied.
    pub(in crate::volume) fn mapping(&self) -> Mapping {
        Mapping::new(self.lsn, self.crc)
    }

    /// Whether bytes are the block's data.
    pub(in crate::volume) fn is_of(&self, data: &[u8]) -> bool {
        let crc = crc32c(data);
        if self.is_half { crc as u16 == self.crc as u16 } else { crc == self.crc }
    }

    /// Builds its copy. `uncertain`: the data that replaced it may be lost. `zeroes` is one block.
    pub(in crate::volume) fn copied(&self, data: Option<DmaBuf>, uncertain: bool, zeroes: DmaBuf) -> Copied {
        match data {
            Some(data) if !self.bad && !uncertain && (self.is_checked || self.is_of(&data)) => {
                let crc = if self.is_half { crc32c(&data) } else { self.crc };
                Copied { data, crc, bad: false }
            }
            _ => {
                let crc = crc32c(&zeroes);
                // Keep the checksum with which it was written, unless the zeroes happen to match
                // it.
                let is_kept = !self.is_half && self.crc as u16 != crc as u16;
                Copied { data: zeroes, crc: if is_kept { self.crc } else { !crc }, bad: true }
            }
        }
    }
}

/// Reads the blocks of a batch, adjacent ones together. Blocks that the device cannot read stay
/// missing.
pub(in crate::volume) async fn read(log: SharedLog, sources: Vec<Source>) -> Batch {
    let mut batch: Batch = sources.iter().map(|&source| (source, None)).collect();
    let mut start = 0;
    while start < sources.len() {
        let mut end = start + 1;
        while end < sources.len()
            && sources[end].lsn.0 >= sources[end - 1].lsn.0
            && sources[end].lsn.0 - sources[end - 1].lsn.0 <= GAP_BLOCKS + 1
            && sources[end].lsn.0 - sources[start].lsn.0 < READ_BLOCKS_MAX
        {
            end += 1;
        }
        let first = sources[start].lsn;
        let len_blocks = sources[end - 1].lsn.0 - first.0 + 1;
        let (reader, device_block) = {
            let log = log.borrow();
            (log.reader(), log.device_block(first))
        };
        if let Some(device_block) = device_block {
            let run = &mut batch[start..end];
            if let Some(buffer) = read_blocks(&reader, device_block, len_blocks).await {
                for (source, data) in run {
                    let at = (source.lsn.0 - first.0) as usize * BLOCK_BYTES;
                    *data = Some(buffer.slice(at, BLOCK_BYTES));
                }
            } else if len_blocks > 1 {
                // One bad block must not fail its neighbours.
                read_singly(&reader, run, |lsn| device_block + (lsn.0 - first.0)).await;
            }
        }
        start = end;
    }
    batch
}

/// Reads blocks; `None` if the device cannot. It waits for memory, which records free when they
/// complete.
async fn read_blocks(reader: &SegmentReader, device_block: u64, len_blocks: u64) -> Option<DmaBuf> {
    loop {
        match reader.read_blocks(device_block, len_blocks).await {
            Ok(buffer) => return Some(buffer.freeze()),
            Err(ReadError::Memory(_)) => yield_now().await,
            Err(error) => {
                tracing::warn!(device_block, len_blocks, %error, "blocks that are to be copied cannot be read");
                return None;
            }
        }
    }
}

type Single<'a> = Pin<Box<dyn Future<Output = Option<DmaBuf>> + 'a>>;

/// Reads each block of a run separately, several at a time, because an unreadable block takes long.
async fn read_singly(
    reader: &SegmentReader,
    run: &mut [(Source, Option<DmaBuf>)],
    device_block: impl Fn(Lsn) -> u64,
) {
    for chunk in run.chunks_mut(SINGLE_READS_MAX) {
        let begin =
            |source: &Source| -> Single<'_> { Box::pin(read_blocks(reader, device_block(source.lsn), 1)) };
        let mut reads: Vec<Option<Single<'_>>> =
            chunk.iter().map(|(source, _)| Some(begin(source))).collect();
        std::future::poll_fn(|context| {
            let mut is_waiting = false;
            for (read, (_, data)) in reads.iter_mut().zip(chunk.iter_mut()) {
                let Some(future) = read else { continue };
                match future.as_mut().poll(context) {
                    Poll::Ready(buffer) => (*data, *read) = (buffer, None),
                    Poll::Pending => is_waiting = true,
                }
            }
            if is_waiting { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::DmaPool;

    fn block(byte: u8) -> DmaBuf {
        let mut buffer = DmaPool::new(1 << 20).allocate(BLOCK_BYTES).expect("memory");
        buffer.as_mut_slice().fill(byte);
        buffer.freeze()
    }

    fn source(crc: u32, is_half: bool) -> Source {
        Source {
            image: ImageId(1),
            block: 7,
            lsn: Lsn(300),
            crc,
            is_half,
            bad: false,
            is_checked: false,
            origin: Lsn(300),
        }
    }

    #[test]
    fn a_copy_that_cannot_be_had_never_has_its_checksum() {
        let (zeroes, data) = (block(0), block(9));
        let (of_zeroes, of_data) = (crc32c(&zeroes), crc32c(&data));
        // The zeroes may match the low half, or all, of the checksum that was lost with the block.
        let crcs = [of_data, of_zeroes, (of_zeroes & 0xffff) | 0xabcd_0000, 0, 1];
        for (crc, is_half) in crcs.into_iter().flat_map(|crc| [(crc, false), (crc, true)]) {
            for (given, uncertain) in
                [(None, false), (Some(zeroes.clone()), true), (Some(data.clone()), true)]
            {
                let copied = source(crc, is_half).copied(given, uncertain, zeroes.clone());
                assert!(copied.bad && copied.data[..] == zeroes[..]);
                assert_ne!(crc32c(&copied.data) as u16, copied.crc as u16, "{crc:08x}");
            }
        }
        // The original checksum is kept, to identify the data.
        assert_eq!(source(of_data, false).copied(None, false, zeroes.clone()).crc, of_data);
        // Half of a checksum is completed from data that matches it.
        let whole = source(of_data & 0xffff, true).copied(Some(data.clone()), false, zeroes.clone());
        assert_eq!((whole.bad, whole.crc), (false, of_data));
        let wrong = source(of_data ^ 0x1_0000, false).copied(Some(data), false, zeroes);
        assert!(wrong.bad, "all 32 bits count where they are known");
    }
}
