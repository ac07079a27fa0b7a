//! Which entries make the index of an image at a point: its own, and those of its ancestors.
//!
//! An image that needs its parent continues with the parent's state at the point from which it was
//! made. An image of a roll-back that needs nothing else of it still uses the entries of its
//! ancestors that were in the working set then ([`ResidentPart`](super::ResidentPart)), as far as
//! they are in the W+1 segments that end at the point: what has left them was copied into its own
//! entries.

use super::Catalog;
use crate::log::Lsn;

/// The entries of one image that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) struct ImageRange {
    pub(in crate::volume) image: u32,
    /// Only entries after this LSN count.
    pub(in crate::volume) above: Lsn,
    /// Only entries at or before this LSN count.
    pub(in crate::volume) up_to: Lsn,
    /// Whether some of what the image had at that point does not count: older entries of it, or of
    /// its ancestors.
    pub(in crate::volume) is_partial: bool,
}

impl Catalog {
    /// The ranges of an image at a point, youngest first. Their stretches do not overlap, and
    /// each lies before those of the younger ones. `window` gives for a point the LSN before the
    /// W+1 segments that end there.
    pub(in crate::volume) fn image_ranges(
        &self,
        image: u32,
        at: Lsn,
        window: impl Fn(Lsn) -> Lsn,
    ) -> Vec<ImageRange> {
        let mut ranges = Vec::new();
        let mut next = Some((image, at, Lsn(0)));
        // A damaged catalog may have a circle.
        while let Some((id, up_to, floor)) = next.filter(|_| ranges.len() <= self.images.len()) {
            let known = self.image(id);
            let born = Lsn(known.map_or(0, |image| image.born_lsn));
            let is_partial = floor.0 > 0;
            ranges.push(ImageRange { image: id, above: born.max(floor), up_to, is_partial });
            next = known.and_then(|image| {
                let parent = image.parent?;
                let floor = if image.inherits_at(up_to) {
                    floor
                } else {
                    floor.max(Lsn(image.resident?.above)).max(window(up_to))
                };
                (floor.0 < parent.lsn).then_some((parent.image, Lsn(parent.lsn), floor))
            });
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::catalog::{CatalogImage, ResidentPart, Shared};
    use crate::volume::info::ImageParent;

    fn image(
        id: u32,
        parent: Option<(u32, u64)>,
        born_lsn: u64,
        resident: Option<(u64, Option<u64>)>,
    ) -> CatalogImage {
        CatalogImage {
            id,
            parent: parent.map(|(image, lsn)| ImageParent { image, lsn }),
            born_lsn,
            hydrated_lsn: None,
            uncertain_below: 0,
            hydrating: false,
            resident: resident.map(|(above, only_from)| ResidentPart { above, only_from }),
            begun_blocks: None,
        }
    }

    fn of(catalog: &Catalog, image: u32, at: u64, window: u64) -> Vec<(u32, u64, u64)> {
        let ranges = catalog.image_ranges(image, Lsn(at), |_| Lsn(window));
        ranges.iter().map(|one| (one.image, one.above.0, one.up_to.0)).collect()
    }

    #[test]
    fn what_stays_resident_is_found_in_the_window_of_the_point() {
        let catalog = Catalog {
            images: Shared::from_iter([
                image(1, None, 10, None),
                image(2, Some((1, 500)), 900, Some((400, Some(950)))),
                image(3, Some((2, 970)), 1000, Some((300, None))),
            ]),
            ..Catalog::default()
        };
        assert_eq!(of(&catalog, 1, 700, 0), [(1, 10, 700)]);
        // Before the rest was copied, all of the parent counts; then what is above.
        assert_eq!(of(&catalog, 2, 940, 450), [(2, 900, 940), (1, 10, 500)]);
        assert_eq!(of(&catalog, 2, 950, 0), [(2, 900, 950), (1, 400, 500)]);
        assert_eq!(of(&catalog, 2, 960, 450), [(2, 900, 960), (1, 450, 500)]);
        assert_eq!(of(&catalog, 2, 960, 500), [(2, 900, 960)]);
        assert_eq!(of(&catalog, 3, 2000, 0), [(3, 1000, 2000), (2, 900, 970), (1, 400, 500)]);
    }

    #[test]
    fn a_circle_in_a_damaged_catalog_ends() {
        let images = Shared::from_iter([image(1, Some((2, 5)), 0, None), image(2, Some((1, 5)), 0, None)]);
        let catalog = Catalog { images, ..Catalog::default() };
        assert!(of(&catalog, 1, 9, 0).len() <= 3);
    }
}
