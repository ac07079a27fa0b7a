//! Which images volumes need, and what is known of an image from several catalogs.

use std::collections::{HashMap, HashSet};

use smallvec::SmallVec;

use crate::log::Lsn;

use super::id_set::IdSet;
use super::{Catalog, CatalogImage, GoneImage, Key, ResidentPart};

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
                let image = known.get(&id).filter(|image| image.uses_parent_at(at, &window));
                let image = image.filter(|_| followed.insert(id));
                next = image.and_then(|image| image.parent).map(|parent| (parent.image, Lsn(parent.lsn)));
            }
        }
        IdSet::new(needed)
    }

    /// The images with a parent that are not needed, and that are not remembered yet.
    pub(super) fn images_that_go(&self, needed: &IdSet, gone_lsn: Lsn) -> Vec<GoneImage> {
        let gone = self.images.iter().filter(|image| !needed.contains(image.id));
        gone.filter_map(|image| self.gone_image(image, gone_lsn)).collect()
    }

    /// What must be remembered of an image that goes; `None` if it has no parent, or is remembered
    /// already.
    pub(super) fn gone_image(&self, image: &CatalogImage, gone_lsn: Lsn) -> Option<GoneImage> {
        let (id, parent, born_lsn) = (image.id, image.parent?, image.born_lsn);
        let is_known = self.gone_images.get(&Key::Id(u64::from(id))).is_some();
        (!is_known).then_some(GoneImage { id, parent, born_lsn, gone_lsn: gone_lsn.0 })
    }

    /// Whether an image is a volume's, or a volume inherits from it: the same as
    /// [`needed_images`](Self::needed_images) says of it. Cost: one step for each image that was
    /// made from it, at most.
    pub(super) fn is_needed(&self, image: u32, newest: Lsn, window: impl Fn(Lsn) -> Lsn) -> bool {
        if self.volume_of_image(image).is_some() {
            return true;
        }
        // Images that read their parents, if something reads them where they do.
        let (mut readers, mut seen) = (Vec::new(), HashSet::new());
        let mut children = self.images.all(&Key::Parent(image)).collect::<SmallVec<[_; 8]>>();
        loop {
            for child in children.drain(..).filter(|child| seen.insert(child.id)) {
                if self.volume_of_image(child.id).is_some() && child.uses_parent_at(newest, &window) {
                    return true;
                }
                readers.push(child);
            }
            let Some(reader) = readers.pop() else { return false };
            let made_from_it = self.images.all(&Key::Parent(reader.id));
            children.extend(made_from_it.filter(|made| {
                made.parent.is_some_and(|parent| reader.uses_parent_at(Lsn(parent.lsn), &window))
            }));
        }
    }
}

impl CatalogImage {
    /// Whether its state at a position needs its parent: an image that is hydrated now may be a
    /// clone's origin at a point at which it was not.
    fn uses_parent_at(&self, at: Lsn, window: impl Fn(Lsn) -> Lsn) -> bool {
        let is_used =
            |part: ResidentPart| self.parent.is_some_and(|parent| parent.lsn > part.above.max(window(at).0));
        self.inherits_at(at) || self.resident.is_some_and(is_used)
    }

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::volume::catalog::CatalogVolume;
    use crate::volume::info::ImageParent;

    const WINDOW: Lsn = Lsn(300);

    fn ids(catalog: &Catalog) -> (Vec<u32>, Vec<u32>) {
        let gone = catalog.gone_images.iter().map(|gone| gone.id);
        (catalog.images.iter().map(|image| image.id).collect(), gone.collect())
    }

    fn add(catalog: &mut Catalog, parent: Option<ImageParent>, head: u64) {
        let id = catalog.take_image_id(u32::MAX).expect("there are enough");
        let (born_lsn, name) = (head, format!("v{id}"));
        catalog.add_image(CatalogImage {
            id,
            parent,
            born_lsn,
            hydrated_lsn: None,
            uncertain_below: 0,
            hydrating: false,
            resident: None,
            begun_blocks: None,
        });
        catalog.add_volume(CatalogVolume {
            name,
            uuid: Uuid::from_u128(u128::from(id)),
            size_blocks: 1,
            read_only: false,
            image: id,
            created_ns: 0,
            thin: true,
            origin: None,
        });
    }

    proptest! {
        /// Volumes, clones of clones, hydrated ones and ones with a resident part: a deletion that
        /// looks at one lineage drops what a look at all images drops.
        #[test]
        fn a_lineage_is_pruned_as_all_images_are(
            steps in proptest::collection::vec((0_u8..7, any::<usize>(), 0_u64..100), 1..120),
        ) {
            let mut catalog = Catalog::default();
            for (head, (kind, which, back)) in (1_u64..).map(|step| step * 10).zip(steps) {
                let count = catalog.volumes.len().max(1);
                let volume = catalog.volumes.iter().nth(which % count).cloned();
                let Some(volume) = volume.filter(|_| kind > 0) else {
                    add(&mut catalog, None, head);
                    continue;
                };
                let born = catalog.image(volume.image).expect("it has an image").born_lsn;
                match kind {
                    1..=3 => {
                        let lsn = head.saturating_sub(back).max(born);
                        add(&mut catalog, Some(ImageParent { image: volume.image, lsn }), head);
                    }
                    4 => {
                        let above = head.saturating_sub(back);
                        catalog.change_image(volume.image, |image| {
                            if image.parent.is_some() && which % 2 == 0 {
                                image.resident = Some(ResidentPart { above, only_from: Some(head) });
                            } else if image.parent.is_some() {
                                image.hydrated_lsn = Some(head);
                            }
                        });
                        catalog.prune_images(Lsn(head), Lsn(head), |_| WINDOW);
                    }
                    _ => {
                        catalog.remove_volume(&volume.name);
                        let mut all = catalog.clone();
                        all.prune_images(Lsn(head), Lsn(head), |_| WINDOW);
                        catalog.prune_lineage(volume.image, Lsn(head), Lsn(head), |_| WINDOW);
                        prop_assert_eq!(ids(&catalog), ids(&all));
                    }
                }
            }
        }
    }
}
