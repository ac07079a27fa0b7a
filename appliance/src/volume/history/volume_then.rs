//! A volume as the catalog of a position has it.

use uuid::Uuid;

use crate::log::Lsn;
use crate::volume::catalog::Catalog;
use crate::volume::info::ImageParent;

/// A volume as the catalog of a position has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::volume) struct VolumeThen {
    pub(in crate::volume) name: String,
    pub(in crate::volume) uuid: Uuid,
    pub(in crate::volume) image: u32,
    pub(in crate::volume) size_blocks: u64,
    /// Its own entries are after this position.
    pub(in crate::volume) born: Lsn,
    /// What it inherited.
    pub(in crate::volume) parent: Option<ImageParent>,
}

impl VolumeThen {
    /// The volume of a UUID in a catalog.
    pub(in crate::volume) fn of(catalog: &Catalog, uuid: Uuid) -> Option<Self> {
        let volume = catalog.volume_with_uuid(uuid)?;
        let image = catalog.image(volume.image);
        Some(VolumeThen {
            name: volume.name.clone(),
            uuid,
            image: volume.image,
            size_blocks: volume.size_blocks,
            born: Lsn(image.map_or(0, |image| image.born_lsn)),
            parent: image.and_then(|image| image.parent),
        })
    }

    /// Whether the entries of one lead to the state of the other: neither a roll-back nor a step is
    /// between them.
    pub(in crate::volume) fn continues(&self, other: &Self) -> bool {
        (self.image, self.born, self.parent) == (other.image, other.born, other.parent)
    }
}
