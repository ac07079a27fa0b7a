//! Entries of the catalog's lists: volumes, images, deleted images, and where the pool was
//! recovered.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::log::{Lsn, SegmentSeq};
use crate::volume::info::{ImageParent, SnapshotInfo, VolumeOrigin};

use super::CatalogSnapshot;
use super::shared::{Key, Keyed, Keys};

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CatalogVolume {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) size_blocks: u64,
    pub(crate) read_only: bool,
    pub(crate) image: u32,
    pub(crate) created_ns: u64,
    /// Whether its capacity was not reserved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) thin: bool,
    /// For a clone: the point that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<VolumeOrigin>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CatalogImage {
    pub(crate) id: u32,
    pub(crate) parent: Option<ImageParent>,
    /// The image has no entries at or before this LSN.
    pub(crate) born_lsn: u64,
    /// From this LSN on the image has its own entries for everything that it inherited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hydrated_lsn: Option<u64>,
    /// Its mappings below this LSN, and its missing mappings, are not certain: entries of its
    /// ancestors could not be read when it was made, or are lost. The ranges that the
    /// catalog lists as lost and that affect it and its ancestors count in addition.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) uncertain_below: u64,
    /// Whether inherited data is being copied into its own entries.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hydrating: bool,
    /// The part of what it inherited that the pool keeps in the working set, as the image's own
    /// blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resident: Option<ResidentPart>,
    /// The size with which a clone began. The state of `parent` may have another: an origin without
    /// entries is skipped, and only the size of an origin may have changed since the point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) begun_blocks: Option<u64>,
}

/// The part of what an image inherited that stays in the working set: its blocks were there when
/// the image was made by a roll-back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResidentPart {
    /// Inherited mappings above this LSN are resident.
    pub(crate) above: u64,
    /// From this LSN on the image has entries of its own for all other inherited blocks. Then only
    /// the entries of its ancestors above `above` count, as far as they are in the W+1 segments
    /// that end at a point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) only_from: Option<u64>,
}

impl Keyed for CatalogVolume {
    fn keys(&self) -> Keys {
        [Key::Id(u64::from(self.image)), Key::Uuid(self.uuid), Key::name(&self.name)].into_iter().collect()
    }
}

impl Keyed for CatalogImage {
    fn keys(&self) -> Keys {
        let parent = self.parent.map(|parent| Key::Parent(parent.image));
        std::iter::once(Key::Id(u64::from(self.id))).chain(parent).collect()
    }
}

impl Keyed for GoneImage {
    fn keys(&self) -> Keys {
        [Key::Id(u64::from(self.id)), Key::Parent(self.parent.image)].into_iter().collect()
    }
}

/// The position of a deleted synch.
impl Keyed for u64 {
    fn keys(&self) -> Keys {
        std::iter::once(Key::Id(*self)).collect()
    }
}

impl CatalogImage {
    /// Whether it needs its parent at a position.
    pub(in crate::volume) fn inherits_at(&self, lsn: Lsn) -> bool {
        self.parent.is_some() && self.independent_from().is_none_or(|from| lsn.0 < from)
    }

    /// The LSN from which on it needs neither the archive nor what was outside the working set.
    pub(in crate::volume) fn independent_from(&self) -> Option<u64> {
        self.hydrated_lsn.or(self.resident.and_then(|part| part.only_from))
    }

    /// Whether it needs its parent now.
    pub(in crate::volume) fn inherits(&self) -> bool {
        self.inherits_at(Lsn::MAX)
    }
}

/// A position at which a pool was recovered: objects with an earlier epoch after it come from the
/// device that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(in crate::volume) struct Cut {
    /// The last segment with recovered data.
    pub(in crate::volume) sequence: SegmentSeq,
    /// Where it ended.
    pub(in crate::volume) end_lsn: Lsn,
    /// The epoch in which the log continued.
    pub(in crate::volume) epoch: u32,
}

/// A deleted image with a parent: points at which it existed still need what it inherited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GoneImage {
    pub(crate) id: u32,
    pub(crate) parent: ImageParent,
    pub(crate) born_lsn: u64,
    /// No point at or after this LSN needs it.
    pub(crate) gone_lsn: u64,
}

impl From<&CatalogSnapshot> for SnapshotInfo {
    fn from(snapshot: &CatalogSnapshot) -> Self {
        SnapshotInfo { name: snapshot.name.to_string(), lsn: snapshot.lsn, time_ns: snapshot.time_ns }
    }
}
