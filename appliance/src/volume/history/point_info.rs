//! What the pool tells about points: the time line, the writes in it, and the plan of a restore.

use serde::{Deserialize, Serialize};

use super::super::info::ResolvedPoint;

/// A point and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointAt {
    /// Its position.
    pub lsn: u64,
    /// The time of the record at the point, ns since the Unix epoch.
    pub time_ns: u64,
}

/// Why the points of a range cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// By the rules of retention.
    Expired,
    /// A part of it left the primary device without having been archived.
    NotArchived,
    /// A part of it is lost.
    Lost,
    /// It left the primary device, and the pool has no archive, or has not reached it yet.
    NoArchive,
}

/// A range of the log whose points cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapInfo {
    /// Its first position.
    pub from_lsn: u64,
    /// The position after its last.
    pub to_lsn: u64,
    /// Why.
    pub reason: GapReason,
}

/// What a mark on the time line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkKind {
    /// A synch event.
    Synch,
    /// A snapshot.
    Snapshot,
    /// The end of a segment.
    Seal,
}

/// A mark on the time line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkInfo {
    /// Its kind.
    pub kind: MarkKind,
    /// Its position.
    pub lsn: u64,
    /// Its time, ns since the Unix epoch.
    pub time_ns: u64,
    /// The label of a synch, the name of a snapshot, the number of a segment.
    pub name: String,
    /// The number of a synch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
}

/// What hosts wrote in an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BurstInfo {
    /// When the interval begins, ns since the Unix epoch.
    pub from_ns: u64,
    /// The end of the first command in it.
    pub first_lsn: u64,
    /// The end of the last command in it.
    pub last_lsn: u64,
    /// How many commands wrote.
    pub writes: u64,
    /// The bytes that they wrote.
    pub written_bytes: u64,
    /// How many commands trimmed.
    pub trims: u64,
    /// The bytes that they trimmed.
    pub trimmed_bytes: u64,
}

/// A host's command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandInfo {
    /// The point after it: its position.
    pub lsn: u64,
    /// The time of its record, ns since the Unix epoch; commands of one record have one time.
    pub time_ns: u64,
    /// The volume, by the name that it has now, or had last; empty if that is not known.
    pub volume: String,
    /// Whether it trimmed; otherwise it wrote.
    pub trim: bool,
    /// The first block and the number of blocks of each range, in blocks of 4096 bytes.
    pub ranges: Vec<(u64, u64)>,
}

/// The answer of `point_list`: a piece of the time line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeLine {
    /// The oldest point that can be opened; null: none can.
    pub earliest: Option<PointAt>,
    /// The newest.
    pub newest: Option<PointAt>,
    /// The ranges whose points cannot be opened, oldest first; at most 1000.
    pub gaps: Vec<GapInfo>,
    /// Synchs, snapshots and seals, in the order of the log.
    pub marks: Vec<MarkInfo>,
    /// What hosts wrote in each interval, if intervals were asked for. An interval that a page ends
    /// in the middle of is continued by the next page.
    pub bursts: Vec<BurstInfo>,
    /// Single commands, if they were asked for.
    pub commands: Vec<CommandInfo>,
    /// The position from which to continue (`from_lsn`); null: this was the last piece.
    pub next_lsn: Option<u64>,
}

/// Where a segment would be read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The primary device.
    Primary,
    /// The archive.
    Archive,
    /// Neither has it.
    Nowhere,
}

/// A segment that a restore would read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSegment {
    /// Its number.
    pub segment: u64,
    /// Where its entries and blocks are.
    pub place: Place,
    /// How many objects of the archive hold it.
    pub objects: u64,
    /// The bytes of its entries.
    pub entries_bytes: u64,
    /// The bytes of its blocks that the volume holds at the point.
    pub mapped_bytes: u64,
}

/// The bytes on one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceBytes {
    /// Segments.
    pub segments: u64,
    /// Bytes of their entries, which opening the point reads.
    pub entries_bytes: u64,
    /// Bytes of their blocks that the volume holds at the point.
    pub mapped_bytes: u64,
}

/// The estimated time of a restore.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanEstimate {
    /// Seconds until the clone can be used; null: not known, because nothing was read.
    pub open_s: Option<f64>,
    /// Seconds until everything that is not on the primary device is copied there; null: not known,
    /// because nothing could be measured.
    pub hydrate_s: Option<f64>,
    /// What the estimates are based on.
    pub basis: String,
}

/// The answer of `restore_plan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestorePlan {
    /// The volume, by the name that it had at the point.
    pub volume: String,
    /// The point.
    pub point: ResolvedPoint,
    /// The volume's size at the point.
    pub size_bytes: u64,
    /// How much of it has contents.
    pub mapped_bytes: u64,
    /// Whether the volume has not changed since: then a clone shares its index, and reads nothing.
    pub unchanged: bool,
    /// The archive's store; null: none.
    pub store: Option<String>,
    /// The sums for the primary device.
    pub primary: PlaceBytes,
    /// The sums for the archive.
    pub archive: PlaceBytes,
    /// Bytes that are certain nowhere: those blocks would read as media errors.
    pub uncertain_bytes: u64,
    /// The anchor from which the index was built; `None`: from entries alone, or it was not built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor_lsn: Option<u64>,
    /// Bytes of anchors read.
    #[serde(default)]
    pub anchor_bytes: u64,
    /// The segments, oldest first; at most 10,000.
    pub segments: Vec<PlanSegment>,
    /// The time.
    pub estimate: PlanEstimate,
}
