//! Reading segments: by their trailer, or record by record when there is none.

use zerocopy::FromBytes;

use super::checksum::crc32c;
use super::format::{Entry, RecordHead, RecordLine, SegmentHeader, TrailerHead, TrailerUnit};
use super::geometry::Geometry;
use super::types::{Lsn, SegmentSeq, Slot};
use super::writer::SharedLog;
use crate::bdev::{BdevError, SharedBdev};
use crate::dma::{BLOCK_BYTES, DmaBufMut, DmaError, DmaPool};
use uuid::Uuid;

/// Blocks of one read while scanning; more than the longest record.
const SCAN_BLOCKS: u64 = 256;

/// Why a segment could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The device failed.
    #[error("{0}")]
    Device(#[from] BdevError),
    /// No memory for the read.
    #[error("{0}")]
    Memory(#[from] DmaError),
    /// The segment is not on the primary device.
    #[error("segment {0} is not on the primary device")]
    NoSegment(SegmentSeq),
}

/// A stretch of the log, first LSN and the LSN behind the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LsnRange {
    /// The first position.
    pub start: Lsn,
    /// The position behind the last.
    pub end: Lsn,
}

/// The entries of a segment, in memory.
#[derive(Debug, Default)]
pub struct SegmentEntries {
    units: Vec<TrailerUnit>,
    /// For each record, the index of its line in `units`.
    lines: Vec<u32>,
}

/// An entry with its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedEntry {
    /// The entry.
    pub entry: Entry,
    /// Its position: the LSN of its data block, or for one without data that of the newest block before it in its record.
    pub lsn: Lsn,
    /// The time of its record, ns since the Unix epoch.
    pub time_ns: u64,
}

impl SegmentEntries {
    /// Takes the units of a trailer. Units that do not make up whole records are dropped, which a checksum has ruled out.
    pub fn new(units: Vec<TrailerUnit>) -> Self {
        let mut lines = Vec::new();
        let mut at = 0;
        while at < units.len() {
            let line: RecordLine = zerocopy::transmute!(units[at]);
            if at + line.entries() >= units.len() + usize::from(line.entries() == 0) {
                break;
            }
            lines.push(at as u32);
            at += 1 + line.entries();
        }
        SegmentEntries { units, lines }
    }

    /// The units again.
    pub fn into_units(self) -> Vec<TrailerUnit> {
        self.units
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// A record: its line and its entries.
    ///
    /// # Panics
    /// When there is no such record.
    pub fn record(&self, index: usize) -> (RecordLine, &[Entry]) {
        let at = self.lines[index] as usize;
        let line: RecordLine = zerocopy::transmute!(self.units[at]);
        let bytes = self.units[at + 1..=at + line.entries()].as_flattened();
        let entries = <[Entry]>::ref_from_bytes(bytes).expect("units are entries");
        (line, entries)
    }

    /// All records, oldest first.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = (RecordLine, &[Entry])> {
        (0..self.len()).map(|index| self.record(index))
    }

    /// The stretches of `from` to `to` that no record covers: their entries are not known. Records of a segment
    /// follow each other without a hole, from the block after its header on, so this is empty for a whole one.
    pub fn holes(&self, from: Lsn, to: Lsn) -> Vec<LsnRange> {
        let mut holes = Vec::new();
        let mut at = from;
        for (line, _) in self.records() {
            if line.lsn() > at && at < to {
                holes.push(LsnRange { start: at, end: line.lsn().min(to) });
            }
            at = at.max(line.end_lsn());
        }
        if at < to {
            holes.push(LsnRange { start: at, end: to });
        }
        holes
    }

    /// The entries of a record with their positions, oldest first.
    pub fn placed(line: RecordLine, entries: &[Entry]) -> impl Iterator<Item = PlacedEntry> {
        let mut lsn = line.lsn();
        entries.iter().map(move |&entry| {
            if entry.has_data() {
                lsn = lsn.plus(1);
            }
            PlacedEntry { entry, lsn, time_ns: line.time_ns() }
        })
    }

    /// Calls `visit` for each entry at or before `up_to`, newest first, until it returns `false`.
    pub fn visit_backward(&self, up_to: Lsn, mut visit: impl FnMut(PlacedEntry) -> bool) {
        for (line, entries) in self.records().rev() {
            if line.lsn() > up_to {
                continue;
            }
            let mut lsn = line.lsn().plus(line.data_blocks());
            for &entry in entries.iter().rev() {
                if lsn <= up_to && !visit(PlacedEntry { entry, lsn, time_ns: line.time_ns() }) {
                    return;
                }
                if entry.has_data() {
                    lsn = Lsn(lsn.0 - 1);
                }
            }
        }
    }
}

/// Where the opener of the next segment said that a segment's records end.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedEnd {
    /// The end.
    pub lsn: Lsn,
    /// The epoch of the opener. Records of a later epoch behind the end prove that it was never taken over by the log.
    pub epoch: u32,
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
    /// Stretches that had been stable and whose entries are lost.
    pub lost: Vec<LsnRange>,
    /// Data blocks below the stable LSN with a wrong checksum: readable as errors only.
    pub bad_blocks: Vec<Lsn>,
    /// Whole records that lie behind the end and were dropped, because one before them never became stable.
    pub dropped_records: u64,
}

/// Reads segments of one pool from its device.
#[derive(Clone)]
pub struct SegmentReader {
    device: SharedBdev,
    dma: DmaPool,
    geometry: Geometry,
    pool: Uuid,
}

impl SegmentReader {
    /// A reader.
    pub fn new(device: SharedBdev, dma: DmaPool, geometry: Geometry, pool: Uuid) -> Self {
        SegmentReader { device, dma, geometry, pool }
    }

    /// The shape of the device.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Reads `len_blocks` blocks from a device block on.
    ///
    /// # Errors
    /// The device's, or no memory.
    pub async fn read_blocks(&self, block: u64, len_blocks: u64) -> Result<DmaBufMut, ReadError> {
        let buffer = self.dma.allocate(len_blocks as usize * BLOCK_BYTES)?;
        Ok(self.device.read(block, buffer).await?)
    }

    /// Reads a slot's segment header. The inner error says what is wrong with it.
    ///
    /// # Errors
    /// The device's, or no memory.
    pub async fn read_header(
        &self,
        slot: Slot,
    ) -> Result<Result<SegmentHeader, super::format::FormatError>, ReadError> {
        let block = self.read_blocks(self.geometry.slot_block(slot), 1).await?;
        Ok(SegmentHeader::decode(block.as_slice(), self.pool, self.geometry.segment_blocks))
    }

    /// Reads the head of a slot's trailer. The inner error says what is wrong with it, `None` that nothing was ever written there.
    ///
    /// # Errors
    /// The device's, or no memory.
    pub async fn read_trailer_head(
        &self,
        slot: Slot,
    ) -> Result<Result<TrailerHead, Option<super::format::FormatError>>, ReadError> {
        let block = self.read_blocks(self.geometry.trailer_block(slot), 1).await?;
        let decoded = TrailerHead::decode(block.as_slice(), self.pool, self.geometry.segment_blocks);
        Ok(decoded.map_err(|error| block.as_slice().iter().any(|&byte| byte != 0).then_some(error)))
    }

    /// Reads the units of a slot's trailer, whose head was read before. The inner error says what is wrong with them.
    ///
    /// # Errors
    /// The device's, or no memory.
    pub async fn read_trailer(
        &self,
        slot: Slot,
        head: &TrailerHead,
    ) -> Result<Result<Vec<TrailerUnit>, super::format::FormatError>, ReadError> {
        let len_blocks = TrailerHead::len_bytes(head.units as usize).div_ceil(BLOCK_BYTES) as u64;
        let mut area = Vec::with_capacity(len_blocks as usize * BLOCK_BYTES);
        let mut at = 0;
        while at < len_blocks {
            let count = SCAN_BLOCKS.min(len_blocks - at);
            let part = self.read_blocks(self.geometry.trailer_block(slot) + at, count).await?;
            area.extend_from_slice(part.as_slice());
            at += count;
        }
        Ok(head.body(&area).map(<[TrailerUnit]>::to_vec))
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

    /// Reads a segment record by record from `start` on: headers and data are checked. Ends at the first record that is not there, unless
    /// `stable` or a stable LSN that it finds on the way says that it had been; then it goes on behind the gap and reports it. Also ends at
    /// `expected_end`, which need not be the end of the slot: a segment is sealed when the next command does not fit.
    ///
    /// # Errors
    /// The device's, or no memory.
    pub async fn scan(
        &self,
        slot: Slot,
        sequence: SegmentSeq,
        epoch: u32,
        start: Lsn,
        stable: Lsn,
        expected_end: Option<ExpectedEnd>,
    ) -> Result<Scan, ReadError> {
        let mut scan = Scan { end_lsn: start, epoch, stable_lsn: stable, ..Scan::default() };
        let mut window = Window { reader: self, slot, start: 0, buffer: None };
        let mut offset = self.geometry.offset_of(start);
        while offset < self.geometry.data_end() {
            let lsn = self.geometry.first_lsn(sequence).plus(offset);
            if let Some(end) = expected_end.filter(|end| end.lsn == lsn && end.epoch >= scan.epoch) {
                let later =
                    self.look_ahead(&mut window, sequence, offset, end.epoch.saturating_add(1)).await?;
                if later.first.is_none() {
                    break;
                }
            }
            if let Some((head, entries, bad)) = window.record(sequence, lsn, offset, scan.epoch).await? {
                let next = offset + 1 + u64::from(head.data_blocks);
                if !bad.is_empty() {
                    let behind = self.look_ahead(&mut window, sequence, next, scan.epoch).await?;
                    let stable = scan.stable_lsn.max(head.stable_lsn).max(behind.stable_lsn);
                    if stable <= lsn {
                        scan.dropped_records = behind.records;
                        break;
                    }
                    scan.bad_blocks.extend(bad);
                }
                scan.stable_lsn = scan.stable_lsn.max(head.stable_lsn);
                scan.epoch = head.epoch;
                scan.last_time_ns = head.time_ns;
                let line =
                    RecordLine::new(lsn, head.time_ns, entries.len() as u8, head.data_blocks, head.epoch);
                scan.units.push(zerocopy::transmute!(line));
                scan.units
                    .extend(entries.iter().map(|entry| -> TrailerUnit { zerocopy::transmute!(*entry) }));
                offset = next;
                scan.end_lsn = self.geometry.first_lsn(sequence).plus(offset);
            } else {
                let behind = self.look_ahead(&mut window, sequence, offset + 1, scan.epoch).await?;
                scan.stable_lsn = scan.stable_lsn.max(behind.stable_lsn);
                if scan.stable_lsn <= lsn {
                    scan.dropped_records = behind.records;
                    break;
                }
                let resume = behind.first.unwrap_or(self.geometry.data_end());
                let end =
                    self.geometry.first_lsn(sequence).plus(resume).min(scan.stable_lsn.max(lsn.plus(1)));
                let end =
                    if behind.first.is_some() { self.geometry.first_lsn(sequence).plus(resume) } else { end };
                scan.lost.push(LsnRange { start: lsn, end });
                scan.end_lsn = end;
                offset = self.geometry.offset_of(end).max(offset + 1);
                if behind.first.is_none() {
                    break;
                }
            }
        }
        Ok(scan)
    }

    /// The greatest stable LSN that the records of a segment tell.
    ///
    /// # Errors
    /// The device's, or no memory.
    pub async fn stable_lsn_of(
        &self,
        slot: Slot,
        sequence: SegmentSeq,
        epoch: u32,
    ) -> Result<Lsn, ReadError> {
        let mut window = Window { reader: self, slot, start: 0, buffer: None };
        Ok(self.look_ahead(&mut window, sequence, 1, epoch).await?.stable_lsn)
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
        while offset < self.geometry.data_end() {
            let lsn = self.geometry.first_lsn(sequence).plus(offset);
            match window.record(sequence, lsn, offset, epoch).await? {
                Some((head, _, bad)) => {
                    behind.first.get_or_insert(offset);
                    behind.stable_lsn = behind.stable_lsn.max(head.stable_lsn);
                    behind.records += u64::from(bad.is_empty());
                    offset += 1 + u64::from(head.data_blocks);
                }
                None => offset += 1,
            }
        }
        Ok(behind)
    }
}

#[derive(Default)]
struct Behind {
    first: Option<u64>,
    stable_lsn: Lsn,
    records: u64,
}

/// A window over the blocks of a slot, moved forward as records are read.
struct Window<'a> {
    reader: &'a SegmentReader,
    slot: Slot,
    start: u64,
    buffer: Option<DmaBufMut>,
}

impl Window<'_> {
    /// The blocks `[offset, offset + len)`, read if they are not there.
    async fn blocks(&mut self, offset: u64, len: u64) -> Result<&[u8], ReadError> {
        let held = self.buffer.as_ref().map_or(0, |buffer| (buffer.len() / BLOCK_BYTES) as u64);
        if self.buffer.is_none() || offset < self.start || offset + len > self.start + held {
            let geometry = self.reader.geometry;
            let count = SCAN_BLOCKS.min(geometry.data_end() - offset).max(len);
            self.buffer = None;
            self.buffer =
                Some(self.reader.read_blocks(geometry.slot_block(self.slot) + offset, count).await?);
            self.start = offset;
        }
        let buffer = self.buffer.as_ref().expect("it was just read");
        let at = (offset - self.start) as usize * BLOCK_BYTES;
        Ok(&buffer.as_slice()[at..at + len as usize * BLOCK_BYTES])
    }

    /// The record at `lsn`, if one is there: its head, its entries, and the positions of data blocks whose checksum is wrong.
    async fn record(
        &mut self,
        sequence: SegmentSeq,
        lsn: Lsn,
        offset: u64,
        epoch: u32,
    ) -> Result<Option<(RecordHead, Vec<Entry>, Vec<Lsn>)>, ReadError> {
        let (pool, data_end) = (self.reader.pool, self.reader.geometry.data_end());
        let header = self.blocks(offset, 1).await?;
        let Ok((head, entries)) = RecordHead::decode(header, pool, lsn, sequence) else { return Ok(None) };
        let entries = entries.to_vec();
        let data_blocks = u64::from(head.data_blocks);
        if head.epoch < epoch || offset + 1 + data_blocks > data_end {
            return Ok(None);
        }
        let mut bad = Vec::new();
        if data_blocks > 0 {
            let data = self.blocks(offset, 1 + data_blocks).await?;
            let with_data = entries.iter().filter(|entry| entry.has_data());
            for (index, (entry, block)) in
                with_data.zip(data[BLOCK_BYTES..].chunks_exact(BLOCK_BYTES)).enumerate()
            {
                if !entry.is_bad() && crc32c(block) != entry.crc() {
                    bad.push(lsn.plus(1 + index as u64));
                }
            }
        }
        Ok(Some((head, entries, bad)))
    }
}

/// The entries of a segment of a running log: from memory while it has them, else from the trailer, else record by record.
///
/// # Errors
/// As [`ReadError`] says. What is damaged is left out; recovery has reported it.
pub async fn load_segment(log: &SharedLog, sequence: SegmentSeq) -> Result<SegmentEntries, ReadError> {
    let (reader, slot, epoch) = {
        let log = log.borrow();
        if let Some(units) = log.units_in_memory(sequence) {
            return Ok(SegmentEntries::new(units.to_vec()));
        }
        let segment = log.table().get(sequence).ok_or(ReadError::NoSegment(sequence))?;
        (log.reader(), segment.slot.ok_or(ReadError::NoSegment(sequence))?, segment.epoch)
    };
    if let Ok(head) = reader.read_trailer_head(slot).await?
        && head.sequence == sequence
        && head.epoch == epoch
        && !head.partial
        && let Ok(units) = reader.read_trailer(slot, &head).await?
    {
        return Ok(SegmentEntries::new(units));
    }
    log.borrow_mut().note_problem(sequence, "its trailer is damaged; it is read record by record".to_owned());
    let first = reader.geometry().first_lsn(sequence).plus(1);
    let end = log.borrow().table().get(sequence).map_or(first, |segment| segment.end_lsn);
    let scan = reader.scan(slot, sequence, epoch, first, end, None).await?;
    for lost in &scan.lost {
        log.borrow_mut()
            .note_problem(sequence, format!("the records at LSN {} to {} are lost", lost.start, lost.end));
    }
    Ok(SegmentEntries::new(scan.units))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::types::{BlockNumber, ImageId};

    /// A record with so many data blocks at `lsn`, as units.
    fn record(lsn: u64, data_blocks: u8) -> Vec<TrailerUnit> {
        let line = RecordLine::new(Lsn(lsn), 7, data_blocks, data_blocks, 1);
        let entry = Entry::write(ImageId(1), BlockNumber(lsn), 3, Lsn(0), true);
        let mut units: Vec<TrailerUnit> = vec![zerocopy::transmute!(line)];
        units.extend((0..data_blocks).map(|_| -> TrailerUnit { zerocopy::transmute!(entry) }));
        units
    }

    #[test]
    fn holes_are_what_no_record_covers() {
        let holes = |units: Vec<Vec<TrailerUnit>>, from: u64, to: u64| -> Vec<(u64, u64)> {
            let found = SegmentEntries::new(units.concat()).holes(Lsn(from), Lsn(to));
            found.iter().map(|hole| (hole.start.0, hole.end.0)).collect()
        };
        assert_eq!(holes(vec![record(1, 2), record(4, 1)], 1, 6), []);
        assert_eq!(holes(vec![record(1, 2), record(6, 1)], 1, 8), [(4, 6)]);
        assert_eq!(holes(vec![record(3, 2)], 1, 8), [(1, 3), (6, 8)]);
        assert_eq!(holes(vec![], 1, 8), [(1, 8)]);
        assert_eq!(holes(vec![record(9, 1)], 1, 4), [(1, 4)]);
    }
}
