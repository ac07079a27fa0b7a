//! The description: what people and later versions want to know of an increment, as JSON.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A point, as a person named it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointText {
    /// Its text; `nothing` for volumes without contents.
    pub point: String,
}

/// A volume of an increment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name at the second point.
    pub name: String,
    /// Its size at the first point, in blocks; 0: it did not exist there, or counts as empty.
    pub from_size_blocks: u64,
    /// Its size at the second point, in blocks.
    pub to_size_blocks: u64,
}

/// The description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The first point.
    pub from: PointText,
    /// The second point.
    pub to: PointText,
    /// The volumes, in the order of their numbers in entries.
    pub members: Vec<Member>,
}
