//! Finds out from its records which segment a slot holds, if the slot's header does not say it.
//!
//! **Invariant.** A record counts only at the place that its own LSN and sequence give.

use super::format::{Entry, Opening, RecordHead, SegmentHeader};
use super::read::ReadError;
use super::reader::SegmentReader;
use super::types::{Lsn, SegmentSeq, Slot};
use super::window::{RecordPlace, RecordWindow};

/// The first record found of a segment whose header does not identify it.
pub(super) struct FirstRecord {
    head: RecordHead,
    opening: Option<Opening>,
}

impl FirstRecord {
    fn new(head: RecordHead, entries: &[Entry]) -> Self {
        FirstRecord { head, opening: entries.iter().find_map(Entry::as_opening) }
    }

    /// Its segment.
    pub(super) fn sequence(&self) -> SegmentSeq {
        self.head.sequence
    }

    /// The epoch in which it was written.
    pub(super) fn epoch(&self) -> u32 {
        self.head.epoch
    }

    /// Rebuilds the segment's header. The list of segments released early is lost: they return
    /// without any live blocks.
    pub(super) fn header(&self, first_lsn: Lsn) -> Option<SegmentHeader> {
        let Opening { epoch, oldest, previous_end_lsn } = self.opening?;
        let sequence = self.head.sequence;
        (oldest <= sequence && previous_end_lsn <= first_lsn).then(|| SegmentHeader {
            version: self.head.version,
            epoch,
            sequence,
            first_lsn,
            opened_ns: self.head.time_ns,
            previous_end_lsn,
            stable_lsn: self.head.stable_lsn,
            oldest,
            released: Vec::new(),
            ends: Vec::new(),
        })
    }
}

impl SegmentReader {
    /// The first record in a slot, of any segment of this pool; `None` if there is none.
    ///
    /// # Errors
    /// No memory.
    pub(super) async fn first_record(&self, slot: Slot) -> Result<Option<FirstRecord>, ReadError> {
        let (pool, block) = (self.pool(), self.geometry().slot_block(slot) + 1);
        let decode = |block: &[u8]| {
            RecordHead::decode_any(block, pool).map(|(head, entries)| FirstRecord::new(head, entries))
        };
        let first = self.find(block, decode).await?.valid();
        Ok(first.filter(|first| self.is_at(&first.head, 1)))
    }

    /// Whether the header of a slot's first record cannot be read.
    ///
    /// # Errors
    /// No memory.
    pub(super) async fn is_first_record_lost(&self, slot: Slot) -> Result<bool, ReadError> {
        Ok(self.read_around(self.geometry().slot_block(slot) + 1, 1).await?.is_lost(0))
    }

    /// The first record of the newest segment that has records in the slot; `None` if there is
    /// none. Records of earlier segments may follow those of the newest.
    ///
    /// # Errors
    /// No memory.
    pub(super) async fn newest_record(&self, slot: Slot) -> Result<Option<FirstRecord>, ReadError> {
        let data_end = self.geometry().data_end();
        let mut window = RecordWindow::new(self, slot, data_end);
        let mut newest: Option<FirstRecord> = None;
        for offset in 1..data_end {
            let Some(block) = window.block(offset).await? else { continue };
            let Ok((head, entries)) = RecordHead::decode_any(block, self.pool()) else { continue };
            let belongs = self.is_at(&head, offset);
            if belongs && newest.as_ref().is_none_or(|known| known.head.sequence < head.sequence) {
                newest = Some(FirstRecord::new(head, entries));
            }
        }
        Ok(newest)
    }

    /// The highest epoch of records of later segments that are in the slot of `sequence` after its
    /// own records end; `None` if there are none. If there are some, the slot had been reassigned,
    /// and a power cut lost the header of the later segment. Blocks of its own data, which hosts
    /// wrote, do not count.
    pub(super) async fn later_epoch(
        &self,
        slot: Slot,
        sequence: SegmentSeq,
        epoch: u32,
    ) -> Result<Option<u32>, ReadError> {
        let data_end = self.geometry().data_end();
        let mut window = RecordWindow::new(self, slot, data_end);
        let (mut offset, mut later) = (1, None);
        while offset < data_end {
            let lsn = self.geometry().first_lsn(sequence).plus(offset);
            if let RecordPlace::Record(record) = window.record(sequence, lsn, offset, epoch).await? {
                offset += 1 + u64::from(record.head.data_blocks);
                continue;
            }
            if let Some(block) = window.block(offset).await?
                && let Ok((head, _)) = RecordHead::decode_any(block, self.pool())
                && self.is_at(&head, offset)
                && head.sequence > sequence
            {
                later = later.max(Some(head.epoch));
            }
            offset += 1;
        }
        Ok(later)
    }

    /// Whether a record belongs at this offset of a slot. Its numbers are not trusted: any data may
    /// look like a record.
    fn is_at(&self, head: &RecordHead, offset: u64) -> bool {
        let first_lsn = head.sequence.0.checked_mul(self.geometry().segment_blocks);
        first_lsn.and_then(|first_lsn| first_lsn.checked_add(offset)) == Some(head.lsn.0)
    }
}
