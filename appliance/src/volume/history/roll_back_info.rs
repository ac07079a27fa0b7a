//! What a roll-back tells.

use serde::{Deserialize, Serialize};

use crate::volume::info::{ResolvedPoint, ScanCost, SnapshotInfo, VolumeInfo};

/// The answer of `restore_roll_back`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RollBackInfo {
    /// The volume, and what was done to it.
    #[serde(flatten)]
    pub done: RolledBack,
    /// The point whose state it has now.
    pub point: ResolvedPoint,
    /// The snapshot that names the state before.
    pub before: SnapshotInfo,
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
    /// What was read to build its index.
    #[serde(flatten)]
    pub scan: ScanCost,
}

/// What [`Pool::roll_back_members`](crate::volume::Pool::roll_back_members) did: to all volumes of
/// a group, or to one.
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
        let done = self.volumes.into_iter().next()?;
        Some(RollBackInfo { done, point: self.point, before: self.before, elapsed_us: self.elapsed_us })
    }
}
