//! The log of a device as it is there, to inspect it without opening the pool. It only reads, and
//! goes on after whatever is damaged.
//!
//! [`LogView::open`] finds the log as a recovery would (the same code: [`survey`]);
//! [`LogView::slots`] says what is in every slot; [`LogView::entries`] gives a segment's entries,
//! and [`LogView::check`] compares every record and every data block of it with them.

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

/// Blocks of one read while checking; more than the longest record.
const CHECK_BLOCKS: u64 = 256;

/// What a structure's place on the device holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// A whole one.
    Valid,
    /// Zeroes.
    None,
    /// Something else, or it cannot be read.
    Damaged,
}

/// What the trailer area of a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrailerState {
    /// The segment's trailer.
    Full,
    /// The trailer that a clean stop leaves: the segment goes on after what it covers.
    Partial,
    /// No trailer: zeroes, or that of an earlier segment in this slot.
    None,
    /// Something that is no trailer, or cannot be read.
    Damaged,
}

/// What a slot is to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    /// Holds the segment in which the log goes on.
    Current,
    /// Holds a full segment of the log.
    Active,
    /// Free, and holds a segment that a crash has cut off: it is no part of the log.
    Stale,
    /// Free.
    Recycle,
}

/// A slot, and the segment in it.
#[derive(Debug, Clone)]
pub struct SlotView {
    /// Which.
    pub slot: Slot,
    /// What it is to the log.
    pub state: SlotState,
    /// The segment of the log in it, or what its header says when it is stale.
    pub sequence: Option<SegmentSeq>,
    /// What is in place of the header.
    pub header_presence: Presence,
    /// The header.
    pub header: Option<SegmentHeader>,
    /// What is in place of the trailer.
    pub trailer: TrailerState,
}

/// A record, or a data block, as [`LogView::check`] found it.
#[derive(Debug)]
pub enum Checked<'a> {
    /// The header block of the record at this LSN; `Err` says what is wrong with it.
    Record(Lsn, Result<(), &'a str>),
    /// The data block of an entry; `Err` says what is wrong with it.
    Data(PlacedEntry, Result<(), &'a str>),
}

/// The log of a device.
pub struct LogView {
    /// Every copy of the superblock; for one that is not valid, what is wrong with it.
    pub superblocks: Vec<Result<Superblock, String>>,
    /// The log as a recovery finds it.
    pub survey: Survey,
    reader: SegmentReader,
    /// Units of segments without a full trailer, which the survey has read.
    pending: HashMap<SegmentSeq, Rc<SegmentEntries>>,
    /// The segment that was asked for last: it is asked for more than once.
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

    /// Reads segments of the device.
    pub fn reader(&self) -> &SegmentReader {
        &self.reader
    }

    /// The segments of the log, oldest first; those that were not found have no slot.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = (SegmentSeq, &Segment)> {
        self.survey.table.iter()
    }

    /// Where the block at a position is on the device; `None` when its segment is not there.
    pub fn device_block(&self, lsn: Lsn) -> Option<u64> {
        let geometry = self.geometry();
        let slot = self.survey.table.slot(geometry.sequence_of(lsn))?;
        Some(geometry.slot_block(slot) + geometry.offset_of(lsn))
    }

    /// What is in every slot, in their order.
    ///
    /// # Errors
    /// No memory. What the device cannot read is shown as damaged.
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

    /// The entries of a segment of the log: what the survey has read record by record, else the
    /// trailer's.
    ///
    /// # Errors
    /// The outer: no memory, or no such segment. The inner says why there are none: the segment is
    /// damaged.
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

    /// Whether every record lies in the segment and has the data blocks that its entries need.
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
    /// blocks must hold the same entries, the data blocks must have all 32 bits of their CRC32C.
    ///
    /// # Errors
    /// No memory, or no such segment. Everything else is shown to `see`.
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

    /// Stretches that had been stable and whose entries are lost.
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
