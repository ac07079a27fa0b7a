//! The data that the management plane reports of blocks. Positions are LSNs, blocks have 4096
//! bytes, times are in nanoseconds since the Unix epoch.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How a block differs between two points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiffKind {
    /// It has contents at the second point, and other contents or none at the first.
    Written,
    /// It has contents at the first point, and none at the second: it reads as zeroes there.
    Unmapped,
}

/// Blocks that differ between two points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffRange {
    /// The first block.
    pub block: u64,
    /// How many.
    pub blocks: u64,
    /// How they differ.
    pub kind: DiffKind,
}

/// One end of a difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffEnd {
    /// The point, as it was asked for; `nothing` for a volume without contents.
    pub point: String,
    /// Its position.
    pub lsn: u64,
    /// Its time.
    pub time_ns: u64,
    /// The volume's name there.
    pub volume: String,
    /// The volume's UUID.
    pub uuid: Uuid,
    /// The volume's size there, in blocks.
    pub size_blocks: u64,
}

/// A page of the difference of a volume between two points, as `volume_diff` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffPage {
    /// The first point.
    pub from: DiffEnd,
    /// The second point.
    pub to: DiffEnd,
    /// The pool.
    pub pool: Uuid,
    /// The history of its log; `None`: it has never claimed an archive.
    pub history: Option<Uuid>,
    /// The size of a block in bytes.
    pub block_bytes: u64,
    /// How many blocks from the requested one on have contents at the second point that they did
    /// not have at the first.
    pub written_blocks: u64,
    /// How many blocks from the requested one on have contents only at the first point.
    pub unmapped_blocks: u64,
    /// The ranges, in order of blocks.
    pub ranges: Vec<DiffRange>,
    /// Where the next page begins; `None`: this is the last.
    pub next_block: Option<u64>,
}

/// What happened to blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockChange {
    /// A host wrote them.
    Write,
    /// A host discarded them; they read as zeroes from there on.
    Trim,
    /// The volume was taken back, or forth, to another point of the log.
    Moved,
    /// The volume was made as a clone: older changes are those of its origin.
    Cloned,
    /// The entries there cannot be read: there may have been changes.
    Unknown,
}

/// Where the data of a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockPlace {
    /// On the primary device.
    Primary,
    /// In the archive.
    Archive,
    /// It is no longer kept.
    Gone,
    /// It has no data.
    None,
}

/// A change of a block, or of neighbouring blocks by one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockVersion {
    /// The first block.
    pub block: u64,
    /// How many.
    pub blocks: u64,
    /// What happened.
    pub kind: BlockChange,
    /// Its position: the newest of them.
    pub lsn: u64,
    /// The end of its command, which is the point with this change: `lsn:N` before it opens the
    /// state without.
    pub point_lsn: u64,
    /// Its time; `None` if its entry is no longer kept.
    pub time_ns: Option<u64>,
    /// For a write, the newest position that it replaced; `None`: the blocks had no contents.
    pub superseded_lsn: Option<u64>,
    /// For a move or a clone, the position at which the volume continued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_lsn: Option<u64>,
    /// The image that it belongs to.
    pub image: u32,
    /// Where its data is.
    pub place: BlockPlace,
}

/// Where a history continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryPosition {
    /// Changes after this position have been shown.
    pub lsn: u64,
    /// The image whose entries come next.
    pub image: u32,
    /// A position at which the catalog has this image: not before `lsn`.
    pub known_lsn: u64,
    /// For a single block, the position of its next version, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_lsn: Option<u64>,
}

/// A page of the history of blocks, as `block_history` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryPage {
    /// The volume.
    pub volume: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// The changes, newest first.
    pub versions: Vec<BlockVersion>,
    /// Where the next page begins; `None`: this is the last. A page may be empty.
    pub next: Option<HistoryPosition>,
    /// Why there is no further page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
}

/// The answer of `block_who`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockWho {
    /// The volume's name at the point.
    pub volume: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// The block.
    pub block: u64,
    /// The point's position.
    pub lsn: u64,
    /// The point's time.
    pub time_ns: u64,
    /// What wrote or discarded the block; `None`: it was never written, or it was discarded before
    /// everything that a point needs.
    pub version: Option<BlockVersion>,
}

/// The state of a restore of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockRestoreState {
    /// It looks for what differs.
    Comparing,
    /// It writes.
    Writing,
    /// It is complete.
    Done,
    /// It ended early; what it has written stays.
    Failed,
}

/// A restore of blocks, as `block_restore` and `block_get_restore` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRestoreInfo {
    /// The volume.
    pub volume: String,
    /// The first block of the range.
    pub block: u64,
    /// The length of the range.
    pub blocks: u64,
    /// The position of the point whose contents are restored.
    pub lsn: u64,
    /// The time of that point.
    pub time_ns: u64,
    /// The newest point before the restore: the state to go back to.
    pub before_lsn: u64,
    /// Its state.
    pub state: BlockRestoreState,
    /// Blocks of the range that differ from the point, as far as they have been counted.
    pub differing_blocks: u64,
    /// Blocks written so far.
    pub written_blocks: u64,
    /// Blocks discarded so far, because the point has nothing there.
    pub unmapped_blocks: u64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
