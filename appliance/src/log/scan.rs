//! Reads a segment record by record, if its trailer does not list its entries.
//!
//! **Unreadable blocks.** A lost record header makes entries unknown. A lost data block only loses
//! its own content: the scan keeps the record, and a reader of the block gets an error. A lost
//! block never counts as one that was not written. If a record may have been there, the range is
//! reported as lost, even at the end of the log, where a readable block without a record would be
//! the end.
//!
//! **Invariants.** The scan only moves forward. `end_lsn` is its current position; `stable_lsn`
//! never falls. Records that count do not overlap, and their epochs do not fall.

use super::entries::LsnRange;
use super::format::{ENTRIES_PER_RECORD, RecordLine, TrailerUnit};
use super::read::ReadError;
use super::reader::SegmentReader;
use super::types::{Lsn, SegmentSeq, Slot};
use super::window::{FoundRecord, RecordPlace, RecordWindow};

/// The end of a segment's records, according to the session that opened the next segment.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedEnd {
    /// The end.
    pub lsn: Lsn,
    /// The epoch of that session. Records of a later epoch after the end prove that the log never
    /// continued with the next segment.
    pub epoch: u32,
}

/// The start and the limits of a segment's scan.
#[derive(Debug, Clone, Copy)]
pub struct ScanFrom {
    /// The slot of the segment.
    pub slot: Slot,
    /// The segment.
    pub sequence: SegmentSeq,
    /// Records of an older epoch do not belong to it.
    pub epoch: u32,
    /// The first record.
    pub start: Lsn,
    /// How far the log is known to have been stable.
    pub stable: Lsn,
    /// Where the segment ends according to the next one; this may be before the end of its slot.
    pub expected_end: Option<ExpectedEnd>,
    /// The known end; nothing is read from there on.
    pub limit: Option<Lsn>,
}

/// The result of a scan of a segment's records.
#[derive(Debug, Default)]
pub struct Scan {
    /// The units of the records found.
    pub units: Vec<TrailerUnit>,
    /// Where the records end.
    pub end_lsn: Lsn,
    /// The epoch of the last record.
    pub epoch: u32,
    /// The highest stable LSN that was found.
    pub stable_lsn: Lsn,
    /// The time of the last record.
    pub last_time_ns: u64,
    /// Ranges whose entries are lost: they had been stable, or cannot be read.
    pub lost: Vec<LsnRange>,
    /// Data blocks of valid records that cannot be read or have a wrong checksum: reading them
    /// gives an error.
    pub bad_blocks: Vec<Lsn>,
    /// Complete records after the end that were dropped, because a record before them never became
    /// stable.
    pub dropped_records: u64,
}

/// A summary of the complete records from some offset on.
#[derive(Default)]
pub(super) struct RecordsAhead {
    /// The offset of the first one.
    first: Option<u64>,
    /// The highest stable LSN in them.
    pub(super) stable_lsn: Lsn,
    /// Their highest epoch.
    pub(super) epoch: u32,
    /// How many of them have all their data.
    records: u64,
}

/// A scan in progress.
struct ScanRun<'a> {
    window: RecordWindow<'a>,
    sequence: SegmentSeq,
    first_lsn: Lsn,
    expected_end: Option<ExpectedEnd>,
    offset: u64,
    scan: Scan,
}

impl SegmentReader {
    /// Reads a segment record by record, and checks headers and data. It ends at the first missing
    /// record, unless `stable` or a stable LSN found during the scan says that the record had been
    /// stable, or the device cannot read its place, so that it may exist. In those cases the scan
    /// continues after the gap and reports it. It also ends at `expected_end`: a segment is sealed
    /// when the next command does not fit.
    ///
    /// # Errors
    /// No memory.
    pub async fn scan(&self, from: ScanFrom) -> Result<Scan, ReadError> {
        let geometry = self.geometry();
        let first_lsn = geometry.first_lsn(from.sequence);
        let data_end = from.limit.map_or(geometry.data_end(), |limit| {
            limit.0.saturating_sub(first_lsn.0).min(geometry.data_end())
        });
        let mut run = ScanRun {
            window: RecordWindow::new(self, from.slot, data_end),
            sequence: from.sequence,
            first_lsn,
            expected_end: from.expected_end,
            offset: geometry.offset_of(from.start),
            scan: Scan { end_lsn: from.start, epoch: from.epoch, stable_lsn: from.stable, ..Scan::default() },
        };
        while run.offset < data_end {
            let before = run.offset;
            if !run.step().await? {
                break;
            }
            assert!(run.offset > before, "a scan goes forward");
        }
        Ok(run.scan)
    }

    /// A summary of all records of a segment.
    ///
    /// # Errors
    /// No memory.
    pub(super) async fn look_through(
        &self,
        slot: Slot,
        sequence: SegmentSeq,
        epoch: u32,
    ) -> Result<RecordsAhead, ReadError> {
        let geometry = self.geometry();
        let mut window = RecordWindow::new(self, slot, geometry.data_end());
        look_ahead(&mut window, sequence, geometry.first_lsn(sequence), 1, epoch).await
    }
}

impl ScanRun<'_> {
    /// Handles one record, or one gap. Returns whether the scan continues.
    async fn step(&mut self) -> Result<bool, ReadError> {
        let lsn = self.first_lsn.plus(self.offset);
        if self.is_expected_end(lsn).await? {
            return Ok(false);
        }
        match self.window.record(self.sequence, lsn, self.offset, self.scan.epoch).await? {
            RecordPlace::Record(record) => self.take(record, lsn).await,
            RecordPlace::Nothing => self.pass_gap(lsn, false).await,
            RecordPlace::Lost => self.pass_gap(lsn, true).await,
        }
    }

    /// Whether the segment ends here, according to the session that opened the next one.
    async fn is_expected_end(&mut self, lsn: Lsn) -> Result<bool, ReadError> {
        let expected = self.expected_end.filter(|end| end.lsn == lsn && end.epoch >= self.scan.epoch);
        let Some(end) = expected else { return Ok(false) };
        let later = self.look_ahead(self.offset, end.epoch.saturating_add(1)).await?;
        Ok(later.first.is_none())
    }

    /// Accepts a record, unless its data is missing and it had never been stable.
    async fn take(&mut self, record: FoundRecord, lsn: Lsn) -> Result<bool, ReadError> {
        let next = self.offset + 1 + u64::from(record.head.data_blocks);
        if !record.wrong.is_empty() {
            let ahead = self.look_ahead(next, self.scan.epoch).await?;
            let stable = self.scan.stable_lsn.max(record.head.stable_lsn).max(ahead.stable_lsn);
            if stable <= lsn {
                self.scan.dropped_records = ahead.records;
                return Ok(false);
            }
        }
        self.scan.take(record);
        self.offset = next;
        self.scan.end_lsn = self.first_lsn.plus(next);
        Ok(true)
    }

    /// Skips a range without a record, if a record had been there.
    async fn pass_gap(&mut self, lsn: Lsn, is_unreadable: bool) -> Result<bool, ReadError> {
        let ahead = self.look_ahead(self.offset + 1, self.scan.epoch).await?;
        self.scan.stable_lsn = self.scan.stable_lsn.max(ahead.stable_lsn);
        if self.scan.stable_lsn <= lsn && !is_unreadable {
            self.scan.dropped_records = ahead.records;
            return Ok(false);
        }
        let end = self.gap_end(lsn, &ahead, is_unreadable);
        self.scan.lost.push(LsnRange { start: lsn, end });
        self.scan.end_lsn = end;
        self.offset = (end.0 - self.first_lsn.0).max(self.offset + 1);
        Ok(ahead.first.is_some())
    }

    /// Where a gap ends: at the next record, or if there is none, at the position up to which the
    /// log is known to have been stable.
    fn gap_end(&self, lsn: Lsn, ahead: &RecordsAhead, is_unreadable: bool) -> Lsn {
        // A lost header may belong to the longest possible record, which may be in the archive: its
        // positions must not be used again.
        let longest = if is_unreadable { 1 + ENTRIES_PER_RECORD as u64 } else { 1 };
        // The next segment says where this one ended. That outweighs records after the gap, which
        // may be from an earlier use of the slot, and a guess.
        let named = self.expected_end.filter(|end| end.lsn > lsn && end.epoch >= self.scan.epoch);
        let named = named.filter(|_| is_unreadable).map(|end| end.lsn);
        let known = ahead.first.map(|first| self.first_lsn.plus(first)).into_iter().chain(named).min();
        let data_end = self.first_lsn.plus(self.window.data_end());
        known.unwrap_or(self.scan.stable_lsn.max(lsn.plus(longest))).min(data_end)
    }

    async fn look_ahead(&mut self, offset: u64, epoch: u32) -> Result<RecordsAhead, ReadError> {
        look_ahead(&mut self.window, self.sequence, self.first_lsn, offset, epoch).await
    }
}

impl Scan {
    /// Adds a valid record.
    fn take(&mut self, record: FoundRecord) {
        let FoundRecord { head, entries, wrong, unread } = record;
        debug_assert!(head.epoch >= self.epoch && head.lsn >= self.end_lsn);
        self.bad_blocks.extend(wrong);
        self.bad_blocks.extend(unread);
        self.stable_lsn = self.stable_lsn.max(head.stable_lsn);
        self.epoch = head.epoch;
        self.last_time_ns = head.time_ns;
        let line = RecordLine::new(head.lsn, head.time_ns, entries.len() as u8, head.data_blocks, head.epoch);
        self.units.push(zerocopy::transmute!(line));
        self.units.extend(entries.iter().map(|entry| -> TrailerUnit { zerocopy::transmute!(*entry) }));
    }
}

/// A summary of the complete records from `offset` on.
async fn look_ahead(
    window: &mut RecordWindow<'_>,
    sequence: SegmentSeq,
    first_lsn: Lsn,
    offset: u64,
    epoch: u32,
) -> Result<RecordsAhead, ReadError> {
    let mut ahead = RecordsAhead::default();
    let mut offset = offset;
    while offset < window.data_end() {
        match window.record(sequence, first_lsn.plus(offset), offset, epoch).await? {
            RecordPlace::Record(record) => {
                ahead.first.get_or_insert(offset);
                ahead.stable_lsn = ahead.stable_lsn.max(record.head.stable_lsn);
                ahead.epoch = ahead.epoch.max(record.head.epoch);
                ahead.records += u64::from(record.wrong.is_empty() && record.unread.is_empty());
                offset += 1 + u64::from(record.head.data_blocks);
            }
            RecordPlace::Nothing | RecordPlace::Lost => offset += 1,
        }
    }
    Ok(ahead)
}
