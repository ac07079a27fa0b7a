//! The report of an inspection: plain data, serialised as `--json` shows it. Times are nanoseconds
//! since the Unix epoch.

use std::rc::Rc;

use serde::ser::{SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::log::format::{Entry, EntryKind, EventHead, EventKind, RecordLine};
use crate::log::inspect::{Presence, SlotState, TrailerState};
use crate::log::reader::{LsnRange, SegmentEntries};
use crate::volume::index::{Index, Mapping};
use crate::volume::{ImageParent, SnapshotInfo, SynchInfo};

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every check passed.
    pub ok: bool,
    /// The file.
    pub file: String,
    /// Its size.
    pub file_bytes: u64,
    /// The pool.
    pub pool: PoolReport,
    /// Both superblocks.
    pub superblocks: Vec<SuperblockReport>,
    /// Where the log begins and ends.
    pub log: LogReport,
    /// Every slot, in the order of the device.
    pub slots: Vec<SlotReport>,
    /// The LSN of the catalog in force; `None` when no catalog can be read.
    pub catalog_lsn: Option<u64>,
    /// The volumes of the catalog.
    pub volumes: Vec<VolumeReport>,
    /// Its images.
    pub images: Vec<ImageReport>,
    /// Its snapshots.
    pub snapshots: Vec<SnapshotInfo>,
    /// The synchs in the log, oldest first.
    pub synchs: Vec<SynchInfo>,
    /// Sums over all segments and volumes.
    pub totals: Totals,
    /// What was checked.
    pub checks: Vec<Check>,
    /// What is worth knowing but is not damage.
    pub notes: Vec<String>,
    /// Problems; at most [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
    /// The number of problems beyond that bound.
    pub problems_omitted: u64,
}

/// The most problems that a report lists individually.
pub const PROBLEMS_MAX: usize = 1000;

/// A pool's shape, from the superblock in force.
#[derive(Debug, Serialize)]
pub struct PoolReport {
    /// Its UUID.
    pub uuid: Uuid,
    /// When it was created.
    pub created_ns: u64,
    /// Size of a segment.
    pub segment_bytes: u64,
    /// Slots on the device.
    pub slots: u64,
    /// The working set in segments (W).
    pub working_set_segments: u64,
}

/// A copy of the superblock.
#[derive(Debug, Serialize)]
pub struct SuperblockReport {
    /// Which copy; also the block of the device in which it is stored.
    pub copy: u64,
    /// Whether it is the newest valid one.
    pub in_force: bool,
    /// What is wrong with it; the other fields are `None` then.
    pub error: Option<String>,
    /// Grows with each write of a superblock.
    pub generation: Option<u64>,
    /// Grows with each opening of the pool.
    pub epoch: Option<u32>,
    /// Size of the device in blocks.
    pub device_blocks: Option<u64>,
    /// Size of a segment in blocks.
    pub segment_blocks: Option<u64>,
    /// Count of slots.
    pub slots: Option<u64>,
    /// Working set in segments.
    pub working_set: Option<u64>,
    /// First block of slot 0.
    pub first_slot_block: Option<u64>,
}

/// The log as a whole.
#[derive(Debug, Serialize)]
pub struct LogReport {
    /// The sequence of its oldest segment; `None` when it has none.
    pub oldest_sequence: Option<u64>,
    /// The sequence of the segment that the log continues in; `None` if a new one is to be opened.
    pub current_sequence: Option<u64>,
    /// Where it ends.
    pub end_lsn: u64,
    /// Whether the last stop was clean.
    pub clean: bool,
    /// The time of its newest record.
    pub last_time_ns: u64,
    /// Sequences of segments that belong to the log and were not found.
    pub missing_segments: Vec<u64>,
    /// Ranges that were stable and are lost.
    pub lost: Vec<LsnRange>,
}

/// Entries of a segment, or of the log, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EntryCounts {
    /// Blocks that hosts wrote.
    pub write: u64,
    /// Blocks copied forward.
    pub copied: u64,
    /// Trims.
    pub trim: u64,
    /// Masks: trims of clones, carried forward.
    pub mask: u64,
    /// Blocks of events.
    pub event: u64,
    /// Opening entries: what a segment records about the segments before it.
    pub opening: u64,
    /// Kinds that this build does not know.
    pub unknown: u64,
}

impl EntryCounts {
    /// Counts an entry.
    pub(super) fn add(&mut self, entry: &Entry) {
        *match entry.kind() {
            Some(EntryKind::Write) => &mut self.write,
            Some(EntryKind::Copied) => &mut self.copied,
            Some(EntryKind::Trim) => &mut self.trim,
            Some(EntryKind::Mask) => &mut self.mask,
            Some(EntryKind::Event) => &mut self.event,
            Some(EntryKind::Opening) => &mut self.opening,
            None => &mut self.unknown,
        } += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.write + self.copied + self.trim + self.mask + self.event + self.opening + self.unknown
    }
}

/// What a segment holds, and what the check of it found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Records.
    pub records: u64,
    /// Records whose header block is damaged.
    pub damaged_records: u64,
    /// Entries by kind.
    pub entries: EntryCounts,
    /// Data blocks; all 32 bits of the CRC32C of each were checked.
    pub data_blocks: u64,
    /// Data blocks that are damaged or cannot be read.
    pub damaged_blocks: u64,
    /// Data blocks that the index of some volume points at.
    pub live_blocks: u64,
}

impl Totals {
    /// Adds another segment's.
    pub(super) fn add(&mut self, other: &Totals) {
        self.records += other.records;
        self.damaged_records += other.damaged_records;
        self.entries.write += other.entries.write;
        self.entries.copied += other.entries.copied;
        self.entries.trim += other.entries.trim;
        self.entries.mask += other.entries.mask;
        self.entries.event += other.entries.event;
        self.entries.opening += other.entries.opening;
        self.entries.unknown += other.entries.unknown;
        self.data_blocks += other.data_blocks;
        self.damaged_blocks += other.damaged_blocks;
        self.live_blocks += other.live_blocks;
    }
}

/// A slot and its segment.
#[derive(Debug, Serialize)]
pub struct SlotReport {
    /// Which, counted from the first.
    pub slot: u64,
    /// Its first block on the device.
    pub device_block: u64,
    /// How the log uses it.
    pub state: SlotState,
    /// The segment in it.
    pub sequence: Option<u64>,
    /// What is stored in the place of the segment header.
    pub header: Presence,
    /// What is stored in the place of the trailer.
    pub trailer: TrailerState,
    /// The epoch in which the segment was opened.
    pub epoch: Option<u32>,
    /// Its first LSN.
    pub first_lsn: Option<u64>,
    /// Where its records end; `None` if it does not belong to the log.
    pub end_lsn: Option<u64>,
    /// When it was opened.
    pub opened_ns: Option<u64>,
    /// What it holds; zero if it does not belong to the log.
    pub totals: Totals,
    /// Problems of the segment as a whole.
    pub problems: Vec<String>,
    /// Its records, if they were requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<RecordList>,
}

/// A volume.
#[derive(Debug, Serialize)]
pub struct VolumeReport {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its size.
    pub size_bytes: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Its image.
    pub image: u32,
    /// For a clone: the image and position that it was cloned from.
    pub parent: Option<ImageParent>,
    /// When it was created.
    pub created_ns: u64,
    /// Blocks that have contents according to the rebuilt index.
    pub mapped_blocks: u64,
    /// Of these, the blocks that the check of all data blocks found.
    pub checked_blocks: u64,
    /// Of the checked blocks, those that are damaged or cannot be read.
    pub damaged_blocks: u64,
    /// Of the mapped blocks, those that something lost may have replaced. They read as errors.
    pub uncertain_blocks: u64,
    /// The index, if it was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexList>,
}

/// An image.
#[derive(Debug, Serialize)]
pub struct ImageReport {
    /// Its number.
    pub id: u32,
    /// The image and position that it started from.
    pub parent: Option<ImageParent>,
    /// It has no entries at or before this LSN.
    pub born_lsn: u64,
}

/// One check.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// Whether nothing was found wrong.
    pub ok: bool,
    /// What was found, in words.
    pub detail: String,
}

/// Something that is wrong.
#[derive(Debug, Default, Serialize)]
pub struct Problem {
    /// In words.
    pub text: String,
    /// The segment, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The LSN, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<u64>,
    /// The blocks of volumes that it damages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<VolumeBlock>,
}

/// A block of a volume.
#[derive(Debug, Serialize)]
pub struct VolumeBlock {
    /// The volume's name.
    pub volume: String,
    /// The block's number, in units of 4096 bytes.
    pub block: u64,
}

/// The records of a segment, serialised one by one.
#[derive(Debug)]
pub struct RecordList(pub(super) Rc<SegmentEntries>);

impl RecordList {
    /// The records, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (RecordLine, &[Entry])> {
        self.0.records()
    }
}

impl Serialize for RecordList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for (line, entries) in self.iter() {
            list.serialize_element(&RecordItem { line, entries })?;
        }
        list.end()
    }
}

struct RecordItem<'a> {
    line: RecordLine,
    entries: &'a [Entry],
}

impl Serialize for RecordItem<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut item = serializer.serialize_struct("Record", 5)?;
        item.serialize_field("lsn", &self.line.lsn())?;
        item.serialize_field("time_ns", &self.line.time_ns())?;
        item.serialize_field("epoch", &self.line.epoch())?;
        item.serialize_field("data_blocks", &self.line.data_blocks())?;
        let entries: Vec<EntryItem> = SegmentEntries::placed(self.line, self.entries)
            .map(|placed| EntryItem::new(placed.lsn.0, &placed.entry))
            .collect();
        item.serialize_field("entries", &entries)?;
        item.end()
    }
}

/// An entry, with fields that depend on its kind.
#[derive(Debug, Default, Serialize)]
pub struct EntryItem {
    /// `write`, `copied`, `trim`, `mask`, `event`, `opening` or `unknown`.
    pub kind: &'static str,
    /// The LSN of its data block. For an entry without data: the LSN of the newest block before it
    /// in its record.
    pub lsn: u64,
    /// Whether it is the last of its command.
    pub last: bool,
    /// The image; absent for events and openings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<u32>,
    /// The block number in the volume; absent for events and openings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// For a trim or a mask: how many blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub len_blocks: Option<u64>,
    /// For a write: the LSN that it superseded; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superseded: Option<u64>,
    /// For a copy: the LSN that it was copied from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<u64>,
    /// For an event: `catalog`, `synch`, `change` or `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<&'static str>,
    /// For an event: which copy of its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<u16>,
    /// For an event: which block of its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u32>,
    /// For an event: bytes of its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_bytes: Option<u64>,
    /// CRC32C of the data block, in hexadecimal; absent when there is no data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crc32c: Option<String>,
}

impl EntryItem {
    /// An entry at a position.
    pub fn new(lsn: u64, entry: &Entry) -> Self {
        let crc32c = entry.has_data().then(|| format!("{:08x}", entry.crc()));
        let base = EntryItem { lsn, last: entry.is_last(), crc32c, ..EntryItem::default() };
        let (image, block, value) = (Some(entry.image().0), Some(entry.block().0), Some(entry.value()));
        match entry.kind() {
            Some(EntryKind::Write) => EntryItem { kind: "write", image, block, superseded: value, ..base },
            Some(EntryKind::Copied) => EntryItem { kind: "copied", image, block, origin: value, ..base },
            Some(EntryKind::Trim) => EntryItem { kind: "trim", image, block, len_blocks: value, ..base },
            Some(EntryKind::Mask) => EntryItem { kind: "mask", image, block, len_blocks: value, ..base },
            Some(EntryKind::Event) => {
                let head = EventHead::decode(entry.block().0);
                let event = Some(event_name(head.kind));
                let (copy, chunk) = (Some(head.copy), Some(head.chunk));
                EntryItem { kind: "event", event, copy, chunk, text_bytes: value, ..base }
            }
            Some(EntryKind::Opening) => EntryItem { kind: "opening", ..base },
            None => EntryItem { kind: "unknown", image, block, ..base },
        }
    }
}

pub(super) fn event_name(kind: Option<EventKind>) -> &'static str {
    match kind {
        Some(EventKind::Catalog) => "catalog",
        Some(EventKind::Synch) => "synch",
        Some(EventKind::Change) => "change",
        None => "unknown",
    }
}

/// An index as runs of blocks that are contiguous both in the volume and in the log, serialised one
/// by one.
pub struct IndexList(pub(super) Index);

/// A run of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IndexRun {
    /// The first block of the volume.
    pub block: u64,
    /// How many blocks.
    pub len_blocks: u64,
    /// Where the first is in the log; the others follow it.
    pub lsn: u64,
}

impl IndexList {
    /// The runs, in the order of the volume.
    pub fn runs(&self) -> Vec<IndexRun> {
        let mut runs: Vec<IndexRun> = Vec::new();
        self.0.visit(|block, mapping: Mapping| {
            let lsn = mapping.lsn().0;
            match runs.last_mut() {
                Some(run) if run.block + run.len_blocks == block && run.lsn + run.len_blocks == lsn => {
                    run.len_blocks += 1;
                }
                _ => runs.push(IndexRun { block, len_blocks: 1, lsn }),
            }
        });
        runs
    }
}

impl std::fmt::Debug for IndexList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IndexList({} blocks)", self.0.mapped())
    }
}

impl Serialize for IndexList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.runs())
    }
}
