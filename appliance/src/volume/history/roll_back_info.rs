//! What a roll-back tells.

use serde::{Deserialize, Serialize};

use crate::volume::info::{ResolvedPoint, SnapshotInfo, VolumeInfo};

/// The answer of `restore_roll_back`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RollBackInfo {
    /// The volume.
    pub volume: VolumeInfo,
    /// The point whose state it has now.
    pub point: ResolvedPoint,
    /// The snapshot that names the state before.
    pub before: SnapshotInfo,
    /// How many blocks of the state were in the working set, and stay there.
    pub resident_blocks: u64,
    /// How many are read from where they are, and hydrated in the background.
    pub inherited_blocks: u64,
    /// The maximum number of segments that one generation's scan read; never above W+1 (R30).
    pub segments_touched: u64,
    /// The bound: W+1.
    pub segments_bound: u64,
    /// Entries read.
    pub entries_scanned: u64,
    /// The anchor from which the scan began; `None`: it used none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor_lsn: Option<u64>,
    /// Bytes of anchors read.
    #[serde(default)]
    pub anchor_bytes: u64,
    /// How long it took.
    pub elapsed_us: u64,
}

/// A volume of a roll-back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolledBack {
    /// The volume.
    pub volume: VolumeInfo,
    /// How many blocks of the state were in the working set, and stay there.
    pub resident_blocks: u64,
    /// How many are read from where they are, and hydrated in the background.
    pub inherited_blocks: u64,
    /// The maximum number of segments that one generation's scan read; never above W+1 (R30).
    pub segments_touched: u64,
    /// The bound: W+1.
    pub segments_bound: u64,
    /// Entries read.
    pub entries_scanned: u64,
    /// The anchor from which the scan began; `None`: it used none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor_lsn: Option<u64>,
    /// Bytes of anchors read.
    #[serde(default)]
    pub anchor_bytes: u64,
}

/// What [`Pool::roll_back_members`](crate::volume::Pool::roll_back_members) did: to all volumes of a
/// group, or to one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RollBacks {
    /// The group; `None`: it was one volume.
    pub group: Option<String>,
    /// The point whose state the volumes have now.
    pub point: ResolvedPoint,
    /// The snapshot that names the state before, of all of them.
    pub before: SnapshotInfo,
    /// The volumes, at least one.
    pub volumes: Vec<RolledBack>,
    /// How long it took.
    pub elapsed_us: u64,
}

impl RollBacks {
    /// The same for the first volume.
    pub fn into_first(self) -> Option<RollBackInfo> {
        let first = self.volumes.into_iter().next()?;
        Some(RollBackInfo {
            volume: first.volume,
            point: self.point,
            before: self.before,
            resident_blocks: first.resident_blocks,
            inherited_blocks: first.inherited_blocks,
            segments_touched: first.segments_touched,
            segments_bound: first.segments_bound,
            entries_scanned: first.entries_scanned,
            anchor_lsn: first.anchor_lsn,
            anchor_bytes: first.anchor_bytes,
            elapsed_us: self.elapsed_us,
        })
    }
}
