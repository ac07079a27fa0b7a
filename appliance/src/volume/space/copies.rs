//! What is copied within the log, by copy-forward and by hydration: blocks with what is known of
//! them, how they are read, and what becomes of one that cannot be had.
//!
//! **Invariant: a copy is certain.** Its position is newer than any loss of entries, so it will be
//! served without a doubt. A block that may have been replaced by something that is lost, that
//! cannot be read, or that does not have its checksum therefore goes on as an *uncorrectable copy*:
//! zeroes under a checksum that they do not have, in its low half either, which is all that the
//! index keeps. Whoever reads it gets an error, here, in clones and after any restart, until it is
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
/// Dead blocks that are read along, because one longer read costs less than two.
const GAP_BLOCKS: u64 = 4;
/// Single blocks that are read at the same time after a longer read failed.
const SINGLE_READS_MAX: usize = 16;

/// A block that is to be appended again.
#[derive(Debug, Clone, Copy)]
pub(in crate::volume) struct Source {
    pub(in crate::volume) image: ImageId,
    pub(in crate::volume) block: u64,
    pub(in crate::volume) lsn: Lsn,
    /// Its CRC32C, or as much of it as is known.
    pub(in crate::volume) crc: u32,
    /// Whether only the low half of the checksum is known, from an index: its entry is lost.
    pub(in crate::volume) is_half: bool,
    /// Whether its data does not have the checksum, and shall not be given.
    pub(in crate::volume) bad: bool,
    /// Whether its data was found to have the checksum.
    pub(in crate::volume) is_checked: bool,
    /// Where its data was written first. Of a block whose entry is lost that is not known, and its
    /// own position counts as that.
    pub(in crate::volume) origin: Lsn,
}

/// A batch with its data; `None` where the device could not read.
pub(in crate::volume) type Batch = Vec<(Source, Option<DmaBuf>)>;

/// What is appended for a source.
pub(in crate::volume) struct Copied {
    pub(in crate::volume) data: DmaBuf,
    /// The checksum that goes to its entry.
    pub(in crate::volume) crc: u32,
    /// Whether it is an uncorrectable copy.
    pub(in crate::volume) bad: bool,
}

impl Source {
    /// The block of an entry, for an image that holds it.
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

    /// A block of which only the index says.
    pub(in crate::volume) fn of_index(image: ImageId, block: u64, mapping: Mapping) -> Self {
        let (lsn, crc) = (mapping.lsn(), u32::from(mapping.crc16()));
        Source { image, block, lsn, crc, is_half: true, bad: false, is_checked: false, origin: lsn }
    }

    /// Where the index must point for the block to be copied.
    pub(in crate::volume) fn mapping(&self) -> Mapping {
        Mapping::new(self.lsn, self.crc)
    }

    /// Whether bytes are the block's.
    pub(in crate::volume) fn is_of(&self, data: &[u8]) -> bool {
        let crc = crc32c(data);
        if self.is_half { crc as u16 == self.crc as u16 } else { crc == self.crc }
    }

    /// Its copy. `uncertain`: what replaced it may be lost. `zeroes` is one block.
    pub(in crate::volume) fn copied(&self, data: Option<DmaBuf>, uncertain: bool, zeroes: DmaBuf) -> Copied {
        match data {
            Some(data) if !self.bad && !uncertain && (self.is_checked || self.is_of(&data)) => {
                let crc = if self.is_half { crc32c(&data) } else { self.crc };
                Copied { data, crc, bad: false }
            }
            _ => {
                let crc = crc32c(&zeroes);
                // The checksum that it was written with is kept, unless the zeroes happen to have
                // it.
                let is_kept = !self.is_half && self.crc as u16 != crc as u16;
                Copied { data: zeroes, crc: if is_kept { self.crc } else { !crc }, bad: true }
            }
        }
    }
}

/// Reads the blocks of a batch, neighbours together. What the device does not give stays missing.
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
                // One bad block must not take its neighbours with it.
                read_singly(&reader, run, |lsn| device_block + (lsn.0 - first.0)).await;
            }
        }
        start = end;
    }
    batch
}

/// Reads blocks; `None` when the device cannot. Memory is waited for: it comes back as records
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

/// Reads each block of a run by itself, several at a time: a block that cannot be read takes long.
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
        // Zeroes may have the low half, or all, of the checksum that was lost with the block.
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
        // What was written is kept to tell what it was.
        assert_eq!(source(of_data, false).copied(None, false, zeroes.clone()).crc, of_data);
        // Half of a checksum is made whole from data that has it.
        let whole = source(of_data & 0xffff, true).copied(Some(data.clone()), false, zeroes.clone());
        assert_eq!((whole.bad, whole.crc), (false, of_data));
        let wrong = source(of_data ^ 0x1_0000, false).copied(Some(data), false, zeroes);
        assert!(wrong.bad, "all 32 bits count where they are known");
    }
}
