//! The catalog: the pool's small state, which stands whole, as JSON, in an event at the start of every segment and after every change
//! (DESIGN section 5). The catalog in force at a point is the newest at or before it; it says which volumes there were and how large.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::archive::Cut;
use super::capacity::OVERPROVISIONING_PERCENT_DEFAULT;
use super::info::{ImageParent, SnapshotInfo};
use crate::log::reader::LsnRange;
use crate::log::{Lsn, SegmentSeq};

/// The version of this text.
pub(super) const CATALOG_VERSION: u32 = 1;

/// The pool's small state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Catalog {
    pub(super) version: u32,
    /// The next image id; ids are never used twice.
    pub(super) next_image: u16,
    /// The next synch id.
    pub(super) next_synch: u64,
    pub(super) volumes: Vec<CatalogVolume>,
    /// The images of the volumes and of their ancestors.
    pub(super) images: Vec<CatalogImage>,
    pub(super) snapshots: Vec<CatalogSnapshot>,
    /// Stretches of the log whose entries are lost: what is older in any index is not certain.
    #[serde(default)]
    pub(super) lost: Vec<LsnRange>,
    /// Spare blocks for each hundred live ones.
    #[serde(default = "default_overprovisioning")]
    pub(super) overprovisioning_percent: u64,
    /// Lengths of the working set other than the first, and the segments from which on they were in force, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) working_sets: Vec<(SegmentSeq, u64)>,
    /// Where the pool was recovered from its archive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) cuts: Vec<Cut>,
    /// When the pool was created, ns since the Unix epoch; 0: not recorded.
    #[serde(default)]
    pub(super) created_ns: u64,
    /// Every segment before this one was archived and verified, or is a gap.
    #[serde(default)]
    pub(super) archived_below: SegmentSeq,
    /// Stretches of the log that left the primary device without having been archived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) gaps: Vec<LsnRange>,
}

fn default_overprovisioning() -> u64 {
    OVERPROVISIONING_PERCENT_DEFAULT
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CatalogVolume {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) size_blocks: u64,
    pub(crate) read_only: bool,
    pub(crate) image: u16,
    pub(crate) created_ns: u64,
    /// Whether its capacity was not set aside.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) thin: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CatalogImage {
    pub(crate) id: u16,
    pub(crate) parent: Option<ImageParent>,
    /// The image has no entries at or before this LSN.
    pub(crate) born_lsn: u64,
    /// Whether everything it inherited has been copied into entries of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hydrated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CatalogSnapshot {
    pub(crate) name: String,
    pub(crate) lsn: u64,
    pub(crate) time_ns: u64,
}

impl Default for Catalog {
    fn default() -> Self {
        Catalog {
            version: CATALOG_VERSION,
            next_image: 1,
            next_synch: 1,
            volumes: Vec::new(),
            images: Vec::new(),
            snapshots: Vec::new(),
            lost: Vec::new(),
            overprovisioning_percent: OVERPROVISIONING_PERCENT_DEFAULT,
            working_sets: Vec::new(),
            cuts: Vec::new(),
            created_ns: 0,
            archived_below: SegmentSeq(0),
            gaps: Vec::new(),
        }
    }
}

impl Catalog {
    /// The text that goes to the log.
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|_| unreachable!("a catalog is plain data"))
    }

    /// Reads a text; `None` when it is not a catalog of a version that this build knows.
    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Catalog>(text).ok().filter(|catalog| catalog.version == CATALOG_VERSION)
    }

    pub(super) fn volume(&self, name: &str) -> Option<&CatalogVolume> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    pub(super) fn image(&self, id: u16) -> Option<&CatalogImage> {
        self.images.iter().find(|image| image.id == id)
    }

    /// Drops images that no volume needs.
    pub(super) fn prune_images(&mut self) {
        let mut needed = std::collections::HashSet::new();
        for volume in &self.volumes {
            let mut next = Some(volume.image);
            while let Some(id) = next.filter(|&id| needed.insert(id)) {
                next = self.image(id).and_then(|image| image.parent).map(|parent| parent.image);
            }
        }
        self.images.retain(|image| needed.contains(&image.id));
    }

    /// What lies before this LSN in the index of `image` as it is at `at` is not certain, because entries that may have replaced it are lost.
    /// A loss touches an image when it lies in the stretch in which the image, or an ancestor up to the point of its birth, took its entries.
    pub(super) fn uncertain_below(&self, image: u16, at: Lsn) -> Lsn {
        let mut uncertain = Lsn(0);
        let mut next = Some((image, at));
        while let Some((id, at)) = next {
            let image = self.image(id);
            let born = Lsn(image.map_or(0, |image| image.born_lsn));
            let touching = self.lost.iter().filter(|range| range.end > born && range.start <= at);
            uncertain = touching.map(|range| range.end).fold(uncertain, Lsn::max);
            next = image.and_then(|image| image.parent).map(|parent| (parent.image, Lsn(parent.lsn)));
        }
        uncertain
    }
}

impl From<&CatalogSnapshot> for SnapshotInfo {
    fn from(snapshot: &CatalogSnapshot) -> Self {
        SnapshotInfo { name: snapshot.name.clone(), lsn: snapshot.lsn, time_ns: snapshot.time_ns }
    }
}
