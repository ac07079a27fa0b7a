//! Finds events in the log: assembles their chunks, and reads their text from whichever copy is
//! valid.

use crate::dma::BLOCK_BYTES;
use crate::log::format::{EntryKind, EventHead, EventKind};
use crate::log::reader::{PlacedEntry, ReadError, SegmentEntries};
use crate::log::{Lsn, checksum::crc32c};
use crate::volume::error::VolumeError;
use crate::volume::pool::Pool;

/// An event that was found in the entries of a segment; its text has not been read yet.
pub(in crate::volume) struct FoundEvent {
    pub(in crate::volume) kind: EventKind,
    /// The position of the event.
    pub(in crate::volume) lsn: Lsn,
    pub(in crate::volume) time_ns: u64,
    text_bytes: u64,
    /// For each copy, the position and CRC32C of each chunk, last chunk first.
    copies: [Vec<(Lsn, u32)>; EventHead::COPIES as usize],
}

impl FoundEvent {
    /// How many blocks its text has.
    pub(in crate::volume) fn chunks(&self) -> usize {
        self.copies[0].len()
    }

    /// Position and CRC32C of a block of its text, counted from the text's beginning.
    pub(in crate::volume) fn chunk(&self, copy: u16, chunk: usize) -> Option<(Lsn, u32)> {
        let chunks = self.copies.get(usize::from(copy))?;
        chunks.get(chunks.len().checked_sub(chunk.checked_add(1)?)?).copied()
    }

    /// The length of the text; `None` if its blocks are too few for the length in its entry, which
    /// is then not trusted.
    fn len(&self) -> Option<usize> {
        usize::try_from(self.text_bytes).ok().filter(|&len| len <= self.chunks() * BLOCK_BYTES)
    }

    /// Cuts the blocks of the text to its length; `None` if they are too short for it.
    pub(in crate::volume) fn cut(&self, mut blocks: Vec<u8>) -> Option<Vec<u8>> {
        let len = self.len().filter(|&len| len <= blocks.len())?;
        blocks.truncate(len);
        Some(blocks)
    }
}

/// Collects events from entries in descending order.
#[derive(Default)]
pub(in crate::volume) struct EventCollector {
    open: Option<FoundEvent>,
    pub(in crate::volume) found: Vec<FoundEvent>,
}

impl EventCollector {
    /// The events of entries up to a position, newest first.
    pub(in crate::volume) fn events(entries: &SegmentEntries, up_to: Lsn) -> Vec<FoundEvent> {
        let mut collector = EventCollector::default();
        entries.visit_backward(up_to, |placed| {
            if placed.entry.kind() == Some(EntryKind::Event) {
                collector.see(&placed);
            }
            true
        });
        collector.found
    }

    /// Takes one entry of kind event.
    pub(in crate::volume) fn see(&mut self, placed: &PlacedEntry) {
        let head = EventHead::decode(placed.entry.block().0);
        let Some(kind) = head.kind else { return };
        if placed.entry.is_last() {
            self.open = Some(FoundEvent {
                kind,
                lsn: placed.lsn,
                time_ns: placed.time_ns,
                text_bytes: placed.entry.value(),
                copies: [Vec::new(), Vec::new()],
            });
        }
        // Chunks without a last chunk belong to an event that was never finished.
        let Some(event) = &mut self.open else { return };
        if let Some(copy) = event.copies.get_mut(usize::from(head.copy)) {
            copy.push((placed.lsn, placed.entry.crc()));
        }
        if head.copy == 0 && head.chunk == 0 {
            self.found.extend(self.open.take());
        }
    }
}

impl Pool {
    /// The text of an event; `None` if some part of it is valid in no copy.
    pub(in crate::volume) async fn read_event(
        &self,
        event: &FoundEvent,
    ) -> Result<Option<Vec<u8>>, VolumeError> {
        let chunks = event.copies[0].len();
        let Some(len) = event.len() else { return Ok(None) };
        let mut text = Vec::with_capacity(len);
        for chunk in (0..chunks).rev() {
            let copies: Vec<(Lsn, u32)> =
                event.copies.iter().filter_map(|copy| copy.get(chunk).copied()).collect();
            let whole = match self.read_chunk_here(&copies).await? {
                Some(whole) => Some(whole),
                None => self.read_archived_chunk(&copies).await?,
            };
            match whole {
                Some(bytes) => text.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
        Ok(event.cut(text))
    }

    /// One block of an event from memory or the primary device: the first copy with a correct
    /// checksum. Damaged copies are reported.
    async fn read_chunk_here(&self, copies: &[(Lsn, u32)]) -> Result<Option<Vec<u8>>, VolumeError> {
        for &(lsn, crc) in copies {
            let (sequence, buffered, slot, reader) = {
                let log = self.log.borrow();
                let sequence = log.geometry().sequence_of(lsn);
                (sequence, log.buffered(lsn), log.table().slot(sequence), log.reader())
            };
            let whole = match (buffered, slot) {
                (Some(block), _) => (crc32c(&block) == crc).then(|| block.to_vec()),
                (None, None) => continue,
                (None, Some(slot)) => {
                    self.log.borrow_mut().pin(sequence);
                    let read = reader.read_checked(slot, lsn, crc).await;
                    self.log.borrow_mut().unpin(sequence);
                    match read {
                        Ok(block) => block.map(|block| block.as_slice().to_vec()),
                        Err(ReadError::Device(_)) => None,
                        Err(error) => return Err(error.into()),
                    }
                }
            };
            if whole.is_some() {
                return Ok(whole);
            }
            let problem = format!("the block at LSN {lsn}, one of two copies of an event, is damaged");
            self.log.borrow_mut().note_problem(sequence, problem);
        }
        Ok(None)
    }

    /// The same from the archive. A block that the archive has lost or holds damaged counts as
    /// absent. If the archive is away, this is an error, because it may have the block.
    async fn read_archived_chunk(&self, copies: &[(Lsn, u32)]) -> Result<Option<Vec<u8>>, VolumeError> {
        if !self.has_archive() {
            return Ok(None);
        }
        let mut away = None;
        for &(lsn, crc) in copies {
            let sequence = self.log.borrow().geometry().sequence_of(lsn);
            match self.archived_block(sequence, lsn, crc).await {
                Ok(Some(block)) => return Ok(Some(block)),
                Ok(None) | Err(VolumeError::Archive { .. }) => {}
                Err(error) => away = Some(error),
            }
        }
        away.map_or(Ok(None), Err)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::format::Entry;

    /// Entries of kind event, with arbitrary numbers: a checksum does not validate them.
    fn entry() -> impl Strategy<Value = Entry> {
        let number = || prop_oneof![Just(0_u64), Just(1), Just(4097), Just(u64::MAX), any::<u64>()];
        let head =
            (0_u16..4, 0_u32..4).prop_map(|(copy, chunk)| EventHead::encode(EventKind::Synch, copy, chunk));
        let head = prop_oneof![3 => head, 1 => any::<u64>()];
        (head, any::<u32>(), number(), any::<bool>())
            .prop_map(|(head, crc, text_bytes, last)| Entry::event(head, crc, text_bytes, last))
    }

    proptest! {
        /// No entry makes an event take more memory than its blocks, whatever length it gives.
        #[test]
        fn a_text_is_never_longer_than_its_blocks(entries in prop::collection::vec(entry(), 0..40)) {
            let mut collector = EventCollector::default();
            for (at, entry) in entries.iter().enumerate() {
                collector.see(&PlacedEntry { entry: *entry, lsn: Lsn(1000 - at as u64), time_ns: 1 });
            }
            for event in &collector.found {
                prop_assert!(event.chunks() <= entries.len());
                prop_assert!(event.len().is_none_or(|len| len <= event.chunks() * BLOCK_BYTES));
                let blocks = vec![7; event.chunks() * BLOCK_BYTES];
                let cut = event.cut(blocks).map(|text| text.len());
                prop_assert_eq!(cut, event.len());
                for copy in 0..u16::from(u8::MAX) {
                    prop_assert!(event.chunk(copy, usize::MAX).is_none());
                }
            }
        }
    }

    #[test]
    fn a_length_beyond_all_memory_is_no_text() {
        let mut collector = EventCollector::default();
        let head = EventHead::encode(EventKind::Catalog, 0, 0);
        let entry = Entry::event(head, 1, u64::MAX, true);
        collector.see(&PlacedEntry { entry, lsn: Lsn(5), time_ns: 1 });
        assert_eq!((collector.found.len(), collector.found[0].len()), (1, None));
        assert_eq!(collector.found[0].cut(vec![0; BLOCK_BYTES]), None);
    }
}
