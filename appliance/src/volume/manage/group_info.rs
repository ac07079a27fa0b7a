//! What is told of groups.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::volume::info::CloneInfo;

/// A group as `group_list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// Its UUID, which stays when the name changes.
    pub uuid: Uuid,
    /// When it was made, ns since the Unix epoch.
    pub created_ns: u64,
    /// Its volumes, in the order in which they were added.
    pub volumes: Vec<GroupVolume>,
}

/// A volume of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupVolume {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its size.
    pub size_bytes: u64,
}

/// A group that was opened as it was at a point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupCloneInfo {
    /// The new group.
    pub group: GroupInfo,
    /// Its volumes: clones, in the order of the group.
    pub clones: Vec<CloneInfo>,
}
