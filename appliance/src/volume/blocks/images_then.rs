//! Which image a volume had, going back in time; and whose entries make its contents at a point.
//!
//! An image has no entries of its own at or before its birth. Before it, the volume either had
//! another image (it was rolled back), or the same image with another past (a step), or did not
//! exist: then it was made as a clone, and its past is that of the clone's origin.

use uuid::Uuid;

use super::info::BlockChange;
use crate::log::Lsn;
use crate::volume::catalog::Catalog;
use crate::volume::error::VolumeError;
use crate::volume::info::ImageParent;
use crate::volume::pool::Pool;

/// An image of a volume, as it was at a position.
#[derive(Debug, Clone, Copy)]
pub(super) struct ImageThen {
    pub(super) image: u32,
    /// It has no entries at or before this position.
    pub(super) born: Lsn,
    /// What it was made from.
    parent: Option<ImageParent>,
    /// The volume that had it there; `None` if no volume had it.
    uuid: Option<Uuid>,
}

/// How a volume's past continues before the birth of its image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    /// What happened at the birth.
    pub(super) change: BlockChange,
    /// The image before it.
    pub(super) image: u32,
    /// Its newest position that belongs to the volume's past.
    pub(super) lsn: Lsn,
    /// The position at which the volume continued.
    pub(super) from_lsn: Option<u64>,
}

/// Entries of one image that count for the contents of a volume at a point: those after `above`, up
/// to `up_to`.
pub(super) type Entries = crate::volume::catalog::ImageRange;

impl Pool {
    /// The entries that count for an image at a point, youngest image first.
    pub(super) fn counting_entries(&self, catalog: &Catalog, image: u32, at: Lsn) -> Vec<Entries> {
        catalog.image_ranges(image, at, |at| self.window_before(at))
    }

    /// An image as it was at a position.
    pub(super) async fn image_then(&self, image: u32, at: Lsn) -> Result<ImageThen, VolumeError> {
        let catalog = self.catalog_at(at).await?;
        let known = catalog.image(image);
        Ok(ImageThen {
            image,
            born: Lsn(known.map_or(0, |known| known.born_lsn)),
            parent: known.and_then(|known| known.parent),
            uuid: catalog.volume_of_image(image).map(|volume| volume.uuid),
        })
    }

    /// What was before the birth of an image; `None`: its volume was made there.
    pub(super) async fn image_before(&self, young: ImageThen) -> Result<Option<Before>, VolumeError> {
        if young.born.0 == 0 {
            return Ok(None);
        }
        let catalog = self.catalog_at(young.born).await?;
        let same = catalog.volumes.iter().find(|volume| Some(volume.uuid) == young.uuid);
        if let Some(volume) = same {
            let born_lsn = catalog.image(volume.image).map_or(0, |image| image.born_lsn);
            // An older birth is what makes the walk end.
            let is_older = volume.image != young.image || born_lsn < young.born.0;
            let from_lsn = young.parent.map(|parent| parent.lsn);
            let change = BlockChange::Moved;
            return Ok(
                Some(Before { change, image: volume.image, lsn: young.born, from_lsn }).filter(|_| is_older)
            );
        }
        Ok(young.parent.map(|parent| Before {
            change: BlockChange::Cloned,
            image: parent.image,
            lsn: Lsn(parent.lsn),
            from_lsn: Some(parent.lsn),
        }))
    }
}
