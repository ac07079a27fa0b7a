//! Which images volumes need, and what is known of an image from several catalogs.

use std::collections::{HashMap, HashSet};

use crate::log::Lsn;

use super::id_set::IdSet;
use super::{Catalog, CatalogImage, GoneImage, ResidentPart};

impl Catalog {
    /// The images of the volumes, and what these inherit from. `newest` is the newest point, and
    /// `window` gives for a point the LSN before the W+1 segments that end there.
    pub(super) fn needed_images(&self, newest: Lsn, window: impl Fn(Lsn) -> Lsn) -> IdSet {
        // Most images have no parent, and either a volume needs them or nothing does.
        let with_parent = self.images.iter().filter(|image| image.parent.is_some());
        let known: HashMap<u32, &CatalogImage> = with_parent.map(|image| (image.id, image)).collect();
        let (mut needed, mut followed) = (Vec::with_capacity(self.volumes.len()), HashSet::new());
        for volume in self.volumes.iter() {
            let mut next = Some((volume.image, newest));
            while let Some((id, at)) = next {
                needed.push(id);
                // An image that is hydrated now may be a clone's origin at a point at which it was
                // not.
                let image = known.get(&id).filter(|image| {
                    let is_used = |part: ResidentPart| {
                        image.parent.is_some_and(|parent| parent.lsn > part.above.max(window(at).0))
                    };
                    image.inherits_at(at) || image.resident.is_some_and(is_used)
                });
                let image = image.filter(|_| followed.insert(id));
                next = image.and_then(|image| image.parent).map(|parent| (parent.image, Lsn(parent.lsn)));
            }
        }
        IdSet::new(needed)
    }

    /// The images with a parent that are not needed, and that are not remembered yet.
    pub(super) fn images_that_go(&self, needed: &IdSet, gone_lsn: Lsn) -> Vec<GoneImage> {
        let is_gone = |image: &&CatalogImage| !needed.contains(image.id);
        let gone = self.images.iter().filter(is_gone).filter_map(|image| {
            let (id, born_lsn, gone_lsn) = (image.id, image.born_lsn, gone_lsn.0);
            image.parent.map(|parent| GoneImage { id, parent, born_lsn, gone_lsn })
        });
        let mut gone: Vec<GoneImage> = gone.collect();
        gone.retain(|gone| self.gone_images.iter().all(|known| known.id != gone.id));
        gone
    }
}

impl CatalogImage {
    /// This image with what an older catalog says of it, which may be from before it was hydrated.
    pub(super) fn with_older(&self, image: &CatalogImage) -> CatalogImage {
        // An image without entries of its own may have been set to another point since.
        if (self.parent, self.born_lsn) != (image.parent, image.born_lsn) {
            return self.clone();
        }
        let hydrated_lsn = self.hydrated_lsn.or(image.hydrated_lsn);
        let uncertain_below = self.uncertain_below.max(image.uncertain_below);
        let resident = match (self.resident, image.resident) {
            (Some(now), Some(then)) => {
                Some(ResidentPart { only_from: now.only_from.or(then.only_from), ..now })
            }
            (now, then) => now.or(then),
        };
        CatalogImage { hydrated_lsn, uncertain_below, resident, ..self.clone() }
    }
}
