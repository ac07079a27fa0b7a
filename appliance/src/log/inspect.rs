//! Shows the log of a device without opening the pool. It only reads, and continues after damage.
//!
//! [`LogView::open`] finds the log as a recovery would (the same code: [`survey`]).
//! [`LogView::slots`] returns the content of every slot, [`LogView::entries`] the entries of a
//! segment, and [`LogView::check`] compares every record and every data block of a segment with its
//! entries.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use serde::Serialize;

use super::checksum::crc32c;
use super::environment::Environment;
use super::error::LogError;
use super::format::{FormatError, RecordHead, SegmentHeader, Superblock};
use super::geometry::Geometry;
use super::read::BlocksRead;
use super::reader::{Found, LsnRange, PlacedEntry, ReadError, SegmentEntries, SegmentReader};
use super::recovery::{Survey, read_superblocks, survey};
use super::table::Segment;
use super::types::{Lsn, SegmentSeq, Slot};
use crate::bdev::SharedBdev;
use crate::dma::BLOCK_BYTES;

/// The length of one read during a check, in blocks; longer than the longest record.
const CHECK_BLOCKS: u64 = 256;

/// What is at the place of a structure on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// A valid structure.
    Valid,
    /// Zeroes.
    None,
    /// Something else, or it cannot be read.
    Damaged,
}

/// What is in the trailer area of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrailerState {
    /// The segment's trailer.
    Full,
    /// The trailer of a clean stop: the segment continues after the records that it covers.
    Partial,
    /// No trailer: zeroes, or that of an earlier segment in this slot.
    None,
    /// Something that is not a trailer, or that cannot be read.
    Damaged,
}

/// The state of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    /// It holds the segment in which the log continues.
    Current,
    /// It holds a full segment of the log.
    Active,
    /// It is free, and holds a segment that a crash has cut off: it is not part of the log.
    Stale,
    /// Free.
    Recycle,
}

/// A slot, and the segment in it.
#[derive(Debug, Clone)]
pub struct SlotView {
    /// The slot.
    pub slot: Slot,
    /// Its state.
    pub state: SlotState,
    /// The segment of the log in it; for a stale slot, the segment that its header names.
    pub sequence: Option<SegmentSeq>,
    /// What is at the place of the header.
    pub header_presence: Presence,
    /// The header.
    pub header: Option<SegmentHeader>,
    /// What is at the place of the trailer.
    pub trailer: TrailerState,
}

/// The result of [`LogView::check`] for a record or a data block.
#[derive(Debug)]
pub enum Checked<'a> {
    /// The header block of the record at this LSN; `Err` says what is wrong with it.
    Record(Lsn, Result<(), &'a str>),
    /// The data block of an entry; `Err` says what is wrong with it.
    Data(PlacedEntry, Result<(), &'a str>),
}

/// The log of a device.
pub struct LogView {
    /// Every copy of the superblock; for an invalid copy, what is wrong with it.
    pub superblocks: Vec<Result<Superblock, String>>,
    /// The log as a recovery finds it.
    pub survey: Survey,
    reader: SegmentReader,
    /// Units of segments without a full trailer, which the survey has read.
    pending: HashMap<SegmentSeq, Rc<SegmentEntries>>,
    /// The segment that was requested last, because callers request it more than once.
    last: RefCell<Option<(SegmentSeq, Rc<SegmentEntries>)>>,
}

impl LogView {
    /// Finds the log.
    ///
    /// # Errors
    /// [`LogError::NoPool`] when no superblock is valid; no memory.
    pub async fn open(device: SharedBdev, environment: Environment) -> Result<Self, LogError> {
        let superblocks = read_superblocks(&device, &environment).await?;
        let survey = survey(&device, &environment).await?;
        let reader = SegmentReader::new(device, &environment, survey.geometry, survey.superblock.pool);
        let units = survey.pending.iter();
        let pending =
            units.map(|(sequence, units)| (*sequence, Rc::new(SegmentEntries::new(units.clone())))).collect();
        Ok(LogView { superblocks, survey, reader, pending, last: RefCell::default() })
    }

    /// The shape of the device.
    pub fn geometry(&self) -> Geometry {
        self.survey.geometry
    }

    /// The reader of the device's segments.
    pub fn reader(&self) -> &SegmentReader {
        &self.reader
    }

    /// The segments of the log, oldest first; a segment that was not found has no slot.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = (SegmentSeq, &Segment)> {
        self.survey.table.iter()
    }

    /// The device block of a position; `None` if its segment is not on the device.
    pub fn device_block(&self, lsn: Lsn) -> Option<u64> {
        let geometry = self.geometry();
        let slot = self.survey.table.slot(geometry.sequence_of(lsn))?;
        Some(geometry.slot_block(slot) + geometry.offset_of(lsn))
    }

    /// The content of every slot, in slot order.
    ///
    /// # Errors
    /// No memory. Places that the device cannot read are shown as damaged.
    pub async fn slots(&self) -> Result<Vec<SlotView>, ReadError> {
        let current = self.survey.current();
        let kept: HashMap<Slot, (SegmentSeq, u32)> = self
            .segments()
            .filter_map(|(sequence, segment)| Some((segment.slot?, (sequence, segment.epoch))))
            .collect();
        let mut slots = Vec::new();
        for slot in (0..self.geometry().slots).map(Slot) {
            let (header_presence, header) = self.header(slot).await?;
            let known = kept.get(&slot).copied();
            let state = match (known, &header) {
                (Some((sequence, _)), _) if Some(sequence) == current => SlotState::Current,
                (Some(_), _) => SlotState::Active,
                (None, Some(_)) => SlotState::Stale,
                (None, None) => SlotState::Recycle,
            };
            let identity = known.or_else(|| header.as_ref().map(|header| (header.sequence, header.epoch)));
            let trailer = self.trailer(slot, identity).await?;
            let sequence = identity.map(|(sequence, _)| sequence);
            slots.push(SlotView { slot, state, sequence, header_presence, header, trailer });
        }
        Ok(slots)
    }

    async fn header(&self, slot: Slot) -> Result<(Presence, Option<SegmentHeader>), ReadError> {
        Ok(match self.reader.read_header(slot).await? {
            Found::Valid(header) => (Presence::Valid, Some(header)),
            Found::Blank => (Presence::None, None),
            Found::Damaged(_) | Found::Lost => (Presence::Damaged, None),
        })
    }

    async fn trailer(
        &self,
        slot: Slot,
        identity: Option<(SegmentSeq, u32)>,
    ) -> Result<TrailerState, ReadError> {
        let head = match self.reader.read_trailer_head(slot).await? {
            Found::Valid(head) => head,
            Found::Blank => return Ok(TrailerState::None),
            Found::Damaged(_) | Found::Lost => return Ok(TrailerState::Damaged),
        };
        if identity != Some((head.sequence, head.epoch)) {
            return Ok(TrailerState::None);
        }
        Ok(match self.reader.read_trailer(slot, &head).await? {
            Found::Valid(_) if head.partial => TrailerState::Partial,
            Found::Valid(_) => TrailerState::Full,
            _ => TrailerState::Damaged,
        })
    }

    /// The entries of a segment of the log: those that the survey read record by record, or else
    /// those of the trailer.
    ///
    /// # Errors
    /// The outer error: no memory, or no such segment. The inner error says why there are none: the
    /// segment is damaged.
    pub async fn entries(
        &self,
        sequence: SegmentSeq,
    ) -> Result<Result<Rc<SegmentEntries>, String>, ReadError> {
        if let Some(entries) = self.pending.get(&sequence) {
            return Ok(Ok(Rc::clone(entries)));
        }
        if let Some((_, entries)) = self.last.borrow().as_ref().filter(|(held, _)| *held == sequence) {
            return Ok(Ok(Rc::clone(entries)));
        }
        let slot = self.survey.table.slot(sequence).ok_or(ReadError::NoSegment(sequence))?;
        let entries = self.trailer_entries(slot).await?;
        let checked = entries.and_then(|entries| {
            self.is_plausible(sequence, &entries)
                .then(|| Rc::new(entries))
                .ok_or_else(|| "its trailer names records that cannot be in it".to_owned())
        });
        if let Ok(entries) = &checked {
            *self.last.borrow_mut() = Some((sequence, Rc::clone(entries)));
        }
        Ok(checked)
    }

    async fn trailer_entries(&self, slot: Slot) -> Result<Result<SegmentEntries, String>, ReadError> {
        let head = self.reader.read_trailer_head(slot).await?;
        let problem = head.problem().unwrap_or_default();
        let Found::Valid(head) = head else { return Ok(Err(problem)) };
        let units = self.reader.read_trailer(slot, &head).await?;
        let problem = units.problem().unwrap_or_default();
        Ok(units.valid().map(SegmentEntries::new).ok_or(problem))
    }

    /// Whether every record is within the segment and has the data blocks that its entries need.
    fn is_plausible(&self, sequence: SegmentSeq, entries: &SegmentEntries) -> bool {
        let first = self.geometry().first_lsn(sequence);
        let mut at = first.plus(1);
        let limit = first.plus(self.geometry().data_end());
        entries.records().all(|(line, entries)| {
            let data_blocks = entries.iter().filter(|entry| entry.has_data()).count() as u64;
            let fits = line.lsn() >= at && line.lsn() < limit && line.data_blocks() == data_blocks;
            if fits {
                at = line.end_lsn();
            }
            fits && at <= limit
        })
    }

    /// Reads a segment's records and data blocks and compares them with its entries: the header
    /// blocks must hold the same entries, and the data blocks must match all 32 bits of their
    /// CRC32C.
    ///
    /// # Errors
    /// No memory, or no such segment. Everything else goes to `see`.
    pub async fn check(
        &self,
        sequence: SegmentSeq,
        entries: &SegmentEntries,
        mut see: impl FnMut(Checked<'_>),
    ) -> Result<(), ReadError> {
        let slot = self.survey.table.slot(sequence).ok_or(ReadError::NoSegment(sequence))?;
        let geometry = self.geometry();
        let mut window = Window::new(&self.reader, slot);
        for (line, record) in entries.records() {
            let offset = geometry.offset_of(line.lsn());
            window.load(offset, 1 + line.data_blocks()).await?;
            let header = window.block(offset).and_then(|block| {
                let decoded = RecordHead::decode(block, self.survey.superblock.pool, line.lsn(), sequence);
                let (_, found) = decoded.map_err(|error: FormatError| error.to_string())?;
                if found == record { Ok(()) } else { Err("it differs from the trailer".to_owned()) }
            });
            see(Checked::Record(line.lsn(), header.as_ref().copied().map_err(String::as_str)));
            for placed in SegmentEntries::placed(line, record).filter(|placed| placed.entry.has_data()) {
                let found = window.block(geometry.offset_of(placed.lsn)).and_then(|block| {
                    let crc = crc32c(block);
                    let expected = placed.entry.crc();
                    if crc == expected {
                        return Ok(());
                    }
                    Err(format!("its CRC32C is {crc:08x} and not {expected:08x}"))
                });
                see(Checked::Data(placed, found.as_ref().copied().map_err(String::as_str)));
            }
        }
        Ok(())
    }

    /// Ranges that had been stable and whose entries are lost.
    pub fn lost(&self) -> &[LsnRange] {
        &self.survey.lost
    }
}

/// A window over the blocks of a slot, in which single blocks may be unreadable.
struct Window<'a> {
    reader: &'a SegmentReader,
    slot: Slot,
    start: u64,
    read: Option<BlocksRead>,
}

impl<'a> Window<'a> {
    fn new(reader: &'a SegmentReader, slot: Slot) -> Self {
        Window { reader, slot, start: 0, read: None }
    }

    /// Makes the blocks `[offset, offset + len)` of the slot available.
    async fn load(&mut self, offset: u64, len: u64) -> Result<(), ReadError> {
        let held = self.read.as_ref().map_or(0, |read| (read.buffer.len() / BLOCK_BYTES) as u64);
        if offset >= self.start && offset + len <= self.start + held {
            return Ok(());
        }
        let geometry = self.reader.geometry();
        let count = CHECK_BLOCKS.min(geometry.data_end() - offset).max(len);
        self.start = offset;
        self.read = None;
        self.read = Some(self.reader.read_around(geometry.slot_block(self.slot) + offset, count).await?);
        Ok(())
    }

    fn block(&self, offset: u64) -> Result<&[u8], String> {
        let at = offset - self.start;
        let read = self.read.as_ref().filter(|read| !read.is_lost(at));
        let bytes = read.ok_or_else(|| "the device cannot read it".to_owned())?.buffer.as_slice();
        Ok(&bytes[at as usize * BLOCK_BYTES..(at as usize + 1) * BLOCK_BYTES])
    }
}
