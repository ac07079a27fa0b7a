//! Reading segments: by their trailer, or record by record when there is none.
//!
//! **What cannot be read.** All reads go around blocks that are lost ([`super::read`]). A lost record header or trailer
//! makes entries unknown, a lost data block only its own content: the scan keeps the record, and whoever reads the block
//! gets an error. A lost block is never taken for one that was not written: where a record may have stood, the stretch
//! is reported as lost, also at the end of the log, where a readable block without a record would be the end.

use uuid::Uuid;

use super::checksum::crc32c;
use super::environment::Environment;
use super::format::{
    ENTRIES_PER_RECORD, Entry, FormatError, Opening, RecordHead, RecordLine, SegmentHeader, Superblock,
    TrailerHead, TrailerUnit,
};
use super::geometry::Geometry;
use super::read::{BlocksRead, DeviceReader};
use super::types::{Lsn, SegmentSeq, Slot};
use super::writer::SharedLog;
use crate::bdev::SharedBdev;
use crate::dma::{BLOCK_BYTES, DmaBufMut};

pub use super::entries::{LsnRange, PlacedEntry, SegmentEntries};
pub use super::read::ReadError;

/// Blocks of one read while scanning; more than the longest record.
const SCAN_BLOCKS: u64 = 256;

/// Where the opener of the next segment said that a segment's records end.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedEnd {
    /// The end.
    pub lsn: Lsn,
    /// The epoch of the opener. Records of a later epoch behind the end prove that it was never taken over by the log.
    pub epoch: u32,
}

/// What a structure's place holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    /// A whole one.
    Valid(T),
    /// Nothing of this kind was ever written there: zeroes, or the copy of the superblock that was
    /// at the end of the device before it grew.
    Blank,
    /// Something else.
    Damaged(FormatError),
    /// The device cannot read it: nobody knows what it holds.
    Lost,
}

impl<T> Found<T> {
    /// The structure, if it is whole.
    pub fn valid(self) -> Option<T> {
        match self {
            Found::Valid(value) => Some(value),
            _ => None,
        }
    }

    /// What is wrong with it, to go on from its name; `None` when it is whole.
    pub fn problem(&self) -> Option<String> {
        match self {
            Found::Valid(_) => None,
            Found::Blank => Some("is blank".to_owned()),
            Found::Damaged(error) => Some(format!("is damaged: {error}")),
            Found::Lost => Some("cannot be read".to_owned()),
        }
    }
}

/// From where and how far a segment is scanned.
#[derive(Debug, Clone, Copy)]
pub struct ScanFrom {
    /// Where the segment is.
    pub slot: Slot,
    /// Which it is.
    pub sequence: SegmentSeq,
    /// Records of an older epoch are not its own.
    pub epoch: u32,
    /// The first record.
    pub start: Lsn,
    /// Up to where the log is known to have been stable.
    pub stable: Lsn,
    /// Where the segment is said to end, which need not be the end of its slot.
    pub expected_end: Option<ExpectedEnd>,
    /// Where it is known to end; nothing is looked at from there on.
    pub limit: Option<Lsn>,
}

/// What a scan of a segment's records found.
#[derive(Debug, Default)]
pub struct Scan {
    /// The units of the records found.
    pub units: Vec<TrailerUnit>,
    /// Where the records end.
    pub end_lsn: Lsn,
    /// The epoch of the last record.
    pub epoch: u32,
    /// The greatest stable LSN that was seen.
    pub stable_lsn: Lsn,
    /// The time of the last record.
    pub last_time_ns: u64,
    /// Stretches whose entries are lost: they had been stable, or cannot be read.
    pub lost: Vec<LsnRange>,
    /// Data blocks of records that count which cannot be read, or have a wrong checksum: readable as errors only.
    pub bad_blocks: Vec<Lsn>,
    /// Whole records that lie behind the end and were dropped, because one before them never became stable.
    pub dropped_records: u64,
}

/// The first record that is found of a segment whose header does not tell.
pub(super) struct FirstRecord {
    pub(super) head: RecordHead,
    opening: Option<Opening>,
}

impl FirstRecord {
    fn new(head: RecordHead, entries: &[Entry]) -> Self {
        FirstRecord { head, opening: entries.iter().find_map(Entry::as_opening) }
    }

    /// The segment's header, made again. What was released before its turn is not told: it comes
    /// back without anything live.
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

/// Reads segments of one pool from its device.
#[derive(Clone)]
pub struct SegmentReader {
    reads: DeviceReader,
    geometry: Geometry,
    pool: Uuid,
}

impl SegmentReader {
    /// A reader.
    pub fn new(device: SharedBdev, environment: &Environment, geometry: Geometry, pool: Uuid) -> Self {
        SegmentReader { reads: DeviceReader::new(device, environment), geometry, pool }
    }

    /// The same device, as it is shaped now.
    pub(super) fn of(reads: DeviceReader, geometry: Geometry, pool: Uuid) -> Self {
        SegmentReader { reads, geometry, pool }
    }

    /// The shape of the device.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Reads `len_blocks` blocks from a device block on. Transient errors are retried.
    ///
    /// # Errors
    /// The device's, or no memory.
    pub async fn read_blocks(&self, block: u64, len_blocks: u64) -> Result<DmaBufMut, ReadError> {
        self.reads.read(block, len_blocks).await
    }

    /// The same, around blocks that are lost.
    ///
    /// # Errors
    /// No memory.
    pub async fn read_around(&self, block: u64, len_blocks: u64) -> Result<BlocksRead, ReadError> {
        self.reads.read_around(block, len_blocks).await
    }

    /// Reads a structure of one block.
    async fn find<T>(
        &self,
        block: u64,
        decode: impl FnOnce(&[u8]) -> Result<T, FormatError>,
    ) -> Result<Found<T>, ReadError> {
        let read = self.read_around(block, 1).await?;
        if read.is_lost(0) {
            return Ok(Found::Lost);
        }
        let bytes = read.buffer.as_slice();
        Ok(match decode(bytes) {
            Ok(value) => Found::Valid(value),
            Err(_) if bytes.iter().all(|&byte| byte == 0) || Superblock::decode(bytes).is_ok() => {
                Found::Blank
            }
            Err(error) => Found::Damaged(error),
        })
    }

    /// Reads a slot's segment header.
    ///
    /// # Errors
    /// No memory.
    pub async fn read_header(&self, slot: Slot) -> Result<Found<SegmentHeader>, ReadError> {
        let (pool, segment_blocks) = (self.pool, self.geometry.segment_blocks);
        let decode = |block: &[u8]| SegmentHeader::decode(block, pool, segment_blocks);
        self.find(self.geometry.slot_block(slot), decode).await
    }

    /// Reads the head of a slot's trailer.
    ///
    /// # Errors
    /// No memory.
    pub async fn read_trailer_head(&self, slot: Slot) -> Result<Found<TrailerHead>, ReadError> {
        let (pool, segment_blocks) = (self.pool, self.geometry.segment_blocks);
        let decode = |block: &[u8]| TrailerHead::decode(block, pool, segment_blocks);
        self.find(self.geometry.trailer_block(slot), decode).await
    }

    /// Reads the units of a slot's trailer, whose head was read before.
    ///
    /// # Errors
    /// No memory.
    pub async fn read_trailer(
        &self,
        slot: Slot,
        head: &TrailerHead,
    ) -> Result<Found<Vec<TrailerUnit>>, ReadError> {
        let len_blocks = TrailerHead::len_bytes(head.units as usize).div_ceil(BLOCK_BYTES) as u64;
        let mut area = Vec::with_capacity(len_blocks as usize * BLOCK_BYTES);
        let mut at = 0;
        while at < len_blocks {
            let count = SCAN_BLOCKS.min(len_blocks - at);
            let part = self.read_around(self.geometry.trailer_block(slot) + at, count).await?;
            if !part.lost.is_empty() {
                return Ok(Found::Lost);
            }
            area.extend_from_slice(part.buffer.as_slice());
            at += count;
        }
        Ok(match head.body(&area) {
            Ok(units) => Found::Valid(units.to_vec()),
            Err(error) => Found::Damaged(error),
        })
    }

    /// Reads a block of the log and checks its CRC32C; `None` when that is wrong.
    ///
    /// # Errors
    /// The device's, or no memory.
    pub async fn read_checked(&self, slot: Slot, lsn: Lsn, crc: u32) -> Result<Option<DmaBufMut>, ReadError> {
        let block =
            self.read_blocks(self.geometry.slot_block(slot) + self.geometry.offset_of(lsn), 1).await?;
        Ok((crc32c(block.as_slice()) == crc).then_some(block))
    }

    /// Reads a segment record by record: headers and data are checked. Ends at the first record that is not there,
    /// unless `stable` or a stable LSN that it finds on the way says that it had been, or nobody knows whether it is
    /// there because the device cannot read it; then it goes on behind the gap and reports it. Also ends at
    /// `expected_end`: a segment is sealed when the next command does not fit.
    ///
    /// # Errors
    /// No memory.
    pub async fn scan(&self, from: ScanFrom) -> Result<Scan, ReadError> {
        let ScanFrom { slot, sequence, epoch, start, stable, expected_end, limit } = from;
        let first_lsn = self.geometry.first_lsn(sequence);
        let data_end = limit.map_or(self.geometry.data_end(), |limit| {
            limit.0.saturating_sub(first_lsn.0).min(self.geometry.data_end())
        });
        let mut scan = Scan { end_lsn: start, epoch, stable_lsn: stable, ..Scan::default() };
        let mut window = self.window(slot, data_end);
        let mut offset = self.geometry.offset_of(start);
        while offset < data_end {
            let lsn = first_lsn.plus(offset);
            if let Some(end) = expected_end.filter(|end| end.lsn == lsn && end.epoch >= scan.epoch) {
                let later =
                    self.look_ahead(&mut window, sequence, offset, end.epoch.saturating_add(1)).await?;
                if later.first.is_none() {
                    break;
                }
            }
            let place = window.record(sequence, lsn, offset, scan.epoch).await?;
            if let Place::Record(record) = place {
                let next = offset + 1 + u64::from(record.head.data_blocks);
                if !record.wrong.is_empty() {
                    let behind = self.look_ahead(&mut window, sequence, next, scan.epoch).await?;
                    let stable = scan.stable_lsn.max(record.head.stable_lsn).max(behind.stable_lsn);
                    if stable <= lsn {
                        scan.dropped_records = behind.records;
                        break;
                    }
                }
                scan.take(record);
                offset = next;
                scan.end_lsn = first_lsn.plus(offset);
                continue;
            }
            let behind = self.look_ahead(&mut window, sequence, offset + 1, scan.epoch).await?;
            scan.stable_lsn = scan.stable_lsn.max(behind.stable_lsn);
            if scan.stable_lsn <= lsn && !matches!(place, Place::Lost) {
                scan.dropped_records = behind.records;
                break;
            }
            // Up to the next record; where there is none, up to what is known to have been stable. A lost header may
            // be that of the longest record, which may be in the archive: its positions must not come again.
            let longest = if matches!(place, Place::Lost) { 1 + ENTRIES_PER_RECORD as u64 } else { 1 };
            // The next segment knows where this one ended. That counts for more than records behind
            // it, which may be of an earlier life, or a guess.
            let told = expected_end.filter(|end| end.lsn > lsn && end.epoch >= scan.epoch);
            let told = told.filter(|_| matches!(place, Place::Lost)).map(|end| end.lsn);
            let known = behind.first.map(|first| first_lsn.plus(first)).into_iter().chain(told).min();
            let end = known.unwrap_or(scan.stable_lsn.max(lsn.plus(longest))).min(first_lsn.plus(data_end));
            scan.lost.push(LsnRange { start: lsn, end });
            scan.end_lsn = end;
            offset = (end.0 - first_lsn.0).max(offset + 1);
            if behind.first.is_none() {
                break;
            }
        }
        Ok(scan)
    }

    /// What all records of a segment tell together.
    ///
    /// # Errors
    /// No memory.
    pub(super) async fn look_through(
        &self,
        slot: Slot,
        sequence: SegmentSeq,
        epoch: u32,
    ) -> Result<Behind, ReadError> {
        self.look_ahead(&mut self.window(slot, self.geometry.data_end()), sequence, 1, epoch).await
    }

    /// A window over a slot, of which nothing is looked at from the offset `data_end` on.
    fn window(&self, slot: Slot, data_end: u64) -> Window<'_> {
        Window { reader: self, slot, start: 0, read: None, data_end }
    }

    /// The head of the first record of the newest segment that a slot holds records of; `None` when there is none. For
    /// a slot whose header does not tell: records of earlier segments may lie behind those of the newest.
    ///
    /// # Errors
    /// No memory.
    pub(super) async fn newest_record(&self, slot: Slot) -> Result<Option<FirstRecord>, ReadError> {
        let data_end = self.geometry.data_end();
        let mut window = self.window(slot, data_end);
        let mut newest: Option<FirstRecord> = None;
        for offset in 1..data_end {
            let Some(block) = window.block(offset).await? else { continue };
            let Ok((head, entries)) = RecordHead::decode_any(block, self.pool) else { continue };
            let belongs = self.is_at(&head, offset);
            if belongs && newest.as_ref().is_none_or(|known| known.head.sequence < head.sequence) {
                newest = Some(FirstRecord::new(head, entries));
            }
        }
        Ok(newest)
    }

    /// The greatest epoch of records of later segments that stand in the slot of one, where its own
    /// records do not go on; `None` when there are none. Then the slot had been given away, and a
    /// power cut lost the header of the later segment. Blocks of its own data, which hosts wrote,
    /// are not looked at.
    ///
    /// # Errors
    /// No memory.
    pub(super) async fn later_epoch(
        &self,
        slot: Slot,
        sequence: SegmentSeq,
        epoch: u32,
    ) -> Result<Option<u32>, ReadError> {
        let data_end = self.geometry.data_end();
        let mut window = self.window(slot, data_end);
        let (mut offset, mut later) = (1, None);
        while offset < data_end {
            let lsn = self.geometry.first_lsn(sequence).plus(offset);
            if let Place::Record(record) = window.record(sequence, lsn, offset, epoch).await? {
                offset += 1 + u64::from(record.head.data_blocks);
                continue;
            }
            if let Some(block) = window.block(offset).await?
                && let Ok((head, _)) = RecordHead::decode_any(block, self.pool)
                && self.is_at(&head, offset)
                && head.sequence > sequence
            {
                later = later.max(Some(head.epoch));
            }
            offset += 1;
        }
        Ok(later)
    }

    /// The head of the first record in a slot, of whichever segment of this pool; `None` when there is none.
    ///
    /// # Errors
    /// No memory.
    pub(super) async fn first_record(&self, slot: Slot) -> Result<Option<FirstRecord>, ReadError> {
        let (pool, block) = (self.pool, self.geometry.slot_block(slot) + 1);
        let decode = |block: &[u8]| {
            RecordHead::decode_any(block, pool).map(|(head, entries)| FirstRecord::new(head, entries))
        };
        let first = self.find(block, decode).await?.valid();
        Ok(first.filter(|first| self.is_at(&first.head, 1)))
    }

    /// Whether a record belongs at this offset of a slot. Its numbers are as it says, whatever
    /// wrote them.
    fn is_at(&self, head: &RecordHead, offset: u64) -> bool {
        let first_lsn = head.sequence.0.checked_mul(self.geometry.segment_blocks);
        first_lsn.and_then(|first_lsn| first_lsn.checked_add(offset)) == Some(head.lsn.0)
    }

    /// Whether the first record's header of a slot cannot be read.
    ///
    /// # Errors
    /// No memory.
    pub async fn is_first_record_lost(&self, slot: Slot) -> Result<bool, ReadError> {
        Ok(self.read_around(self.geometry.slot_block(slot) + 1, 1).await?.is_lost(0))
    }

    /// Looks for whole records from `offset` on.
    async fn look_ahead(
        &self,
        window: &mut Window<'_>,
        sequence: SegmentSeq,
        offset: u64,
        epoch: u32,
    ) -> Result<Behind, ReadError> {
        let mut behind = Behind::default();
        let mut offset = offset;
        while offset < window.data_end {
            let lsn = self.geometry.first_lsn(sequence).plus(offset);
            match window.record(sequence, lsn, offset, epoch).await? {
                Place::Record(record) => {
                    behind.first.get_or_insert(offset);
                    behind.stable_lsn = behind.stable_lsn.max(record.head.stable_lsn);
                    behind.epoch = behind.epoch.max(record.head.epoch);
                    behind.records += u64::from(record.wrong.is_empty() && record.unread.is_empty());
                    offset += 1 + u64::from(record.head.data_blocks);
                }
                Place::Nothing | Place::Lost => offset += 1,
            }
        }
        Ok(behind)
    }
}

impl Scan {
    /// Takes a record that counts.
    fn take(&mut self, record: FoundRecord) {
        let FoundRecord { head, entries, wrong, unread } = record;
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

/// What whole records from some offset on tell.
#[derive(Default)]
pub(super) struct Behind {
    /// The offset of the first.
    first: Option<u64>,
    /// The greatest stable LSN that any tells.
    pub(super) stable_lsn: Lsn,
    /// The greatest epoch of any.
    pub(super) epoch: u32,
    /// How many are there with all their data.
    records: u64,
}

/// What stands where a record may begin.
enum Place {
    Record(FoundRecord),
    /// No record of this segment.
    Nothing,
    /// The device cannot read the block.
    Lost,
}

/// A record with a whole header.
struct FoundRecord {
    head: RecordHead,
    entries: Vec<Entry>,
    /// Positions of data blocks whose checksum is wrong: never written, or damaged since.
    wrong: Vec<Lsn>,
    /// Positions of data blocks that cannot be read.
    unread: Vec<Lsn>,
}

/// A window over the blocks of a slot, moved forward as records are read.
struct Window<'a> {
    reader: &'a SegmentReader,
    slot: Slot,
    start: u64,
    read: Option<BlocksRead>,
    /// Nothing is looked at from this offset on.
    data_end: u64,
}

impl Window<'_> {
    /// The blocks `[offset, offset + len)`, read if they are not there, and where in the window they begin.
    async fn blocks(&mut self, offset: u64, len: u64) -> Result<(&BlocksRead, u64), ReadError> {
        let held = self.read.as_ref().map_or(0, |read| (read.buffer.len() / BLOCK_BYTES) as u64);
        if self.read.is_none() || offset < self.start || offset + len > self.start + held {
            let geometry = self.reader.geometry;
            let count = SCAN_BLOCKS.min(geometry.data_end() - offset).max(len);
            self.read = None;
            self.read = Some(self.reader.read_around(geometry.slot_block(self.slot) + offset, count).await?);
            self.start = offset;
        }
        let read = self.read.as_ref().expect("it was just read");
        Ok((read, offset - self.start))
    }

    /// One block; `None` when it is lost.
    async fn block(&mut self, offset: u64) -> Result<Option<&[u8]>, ReadError> {
        let (read, at) = self.blocks(offset, 1).await?;
        if read.is_lost(at) {
            return Ok(None);
        }
        let at = at as usize * BLOCK_BYTES;
        Ok(Some(&read.buffer.as_slice()[at..at + BLOCK_BYTES]))
    }

    /// What stands at `lsn`.
    async fn record(
        &mut self,
        sequence: SegmentSeq,
        lsn: Lsn,
        offset: u64,
        epoch: u32,
    ) -> Result<Place, ReadError> {
        let (pool, data_end) = (self.reader.pool, self.data_end);
        let Some(header) = self.block(offset).await? else { return Ok(Place::Lost) };
        let Ok((head, entries)) = RecordHead::decode(header, pool, lsn, sequence) else {
            return Ok(Place::Nothing);
        };
        let entries = entries.to_vec();
        let data_blocks = u64::from(head.data_blocks);
        if head.epoch < epoch || offset + 1 + data_blocks > data_end {
            return Ok(Place::Nothing);
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
        Ok(Place::Record(FoundRecord { head, entries, wrong, unread }))
    }
}

/// The entries of a segment of a running log: from memory while it has them, else from the trailer, else record by
/// record around what cannot be read. What is not known of them [`SegmentEntries::holes`] tells.
///
/// # Errors
/// No memory; the segment is not on the device.
pub async fn load_segment(log: &SharedLog, sequence: SegmentSeq) -> Result<SegmentEntries, ReadError> {
    let (reader, slot, epoch) = {
        let log = log.borrow();
        if let Some(units) = log.units_in_memory(sequence) {
            return Ok(SegmentEntries::new(units.to_vec()));
        }
        let segment = log.table().get(sequence).ok_or(ReadError::NoSegment(sequence))?;
        (log.reader(), segment.slot.ok_or(ReadError::NoSegment(sequence))?, segment.epoch)
    };
    let head = reader.read_trailer_head(slot).await?;
    let mut problem = head.problem();
    if let Found::Valid(head) = head
        && head.sequence == sequence
        && head.epoch == epoch
        && !head.partial
    {
        let units = reader.read_trailer(slot, &head).await?;
        problem = units.problem();
        if let Found::Valid(units) = units {
            return Ok(SegmentEntries::new(units));
        }
    }
    let problem = problem.unwrap_or_else(|| "is another segment's".to_owned());
    log.borrow_mut().note_problem(sequence, format!("its trailer {problem}; it is read record by record"));
    let start = reader.geometry().first_lsn(sequence).plus(1);
    let end = log.borrow().table().get(sequence).map_or(start, |segment| segment.end_lsn);
    let from = ScanFrom { slot, sequence, epoch, start, stable: end, expected_end: None, limit: Some(end) };
    let scan = reader.scan(from).await?;
    let entries = SegmentEntries::new(scan.units);
    for hole in entries.holes(start, end) {
        let problem = format!("the records at LSN {} to {} are lost", hole.start, hole.end);
        log.borrow_mut().note_problem(sequence, problem);
    }
    Ok(entries)
}
