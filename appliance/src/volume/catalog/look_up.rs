//! What the catalog says of one volume, image or position.

use uuid::Uuid;

use crate::log::{Lsn, SegmentSeq};

use super::{Catalog, CatalogImage, CatalogVolume, Key};

impl Catalog {
    pub(in crate::volume) fn volume(&self, name: &str) -> Option<&CatalogVolume> {
        self.volumes.get(&Key::name(name))
    }

    /// The volume with a UUID: names may be given to other volumes.
    pub(in crate::volume) fn volume_with_uuid(&self, uuid: Uuid) -> Option<&CatalogVolume> {
        self.volumes.get(&Key::Uuid(uuid))
    }

    /// The volume of an image.
    pub(in crate::volume) fn volume_of_image(&self, image: u32) -> Option<&CatalogVolume> {
        self.volumes.get(&Key::Id(u64::from(image)))
    }

    pub(in crate::volume) fn image(&self, id: u32) -> Option<&CatalogImage> {
        self.images.get(&Key::Id(u64::from(id)))
    }

    /// Whether an image was made from this one, and is still known.
    pub(in crate::volume) fn has_children(&self, image: u32) -> bool {
        let key = Key::Parent(image);
        self.images.get(&key).is_some() || self.gone_images.get(&key).is_some()
    }

    /// Whether the pool was recovered at this position of a segment, so that nothing follows it.
    pub(in crate::volume) fn was_cut_at(&self, sequence: SegmentSeq, end_lsn: Lsn) -> bool {
        self.cuts.iter().any(|cut| cut.sequence == sequence && cut.end_lsn == end_lsn)
    }

    /// Inherited data of an image before this LSN is not certain.
    pub(in crate::volume) fn inherited_uncertain_below(&self, image: u32) -> Lsn {
        let image = self.image(image).filter(|image| image.inherits());
        let parent = image.and_then(|image| image.parent);
        parent.map_or(Lsn(0), |parent| {
            self.uncertain_below(parent.image, Lsn(parent.lsn)).min(Lsn(parent.lsn).plus(1))
        })
    }

    /// In the index of `image` at `at`, mappings before this LSN are not certain, because entries
    /// that may have replaced them are lost. A loss affects an image if it overlaps the range in
    /// which the image, or an ancestor up to the point of the clone, received its entries.
    pub(in crate::volume) fn uncertain_below(&self, image: u32, at: Lsn) -> Lsn {
        let mut uncertain = Lsn(0);
        for one in self.image_ranges(image, at, |_| Lsn(0)) {
            let touching = self.lost.iter().filter(|range| range.end > one.above && range.start <= one.up_to);
            uncertain = touching.map(|range| range.end).fold(uncertain, Lsn::max);
            uncertain = uncertain.max(Lsn(self.image(one.image).map_or(0, |image| image.uncertain_below)));
        }
        uncertain
    }
}
