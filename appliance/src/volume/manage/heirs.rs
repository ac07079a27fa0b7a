//! The images whose inherited blocks are partly resident, while a pool is opened: the pass over the
//! working set gives them the entries of their ancestors that count for them, so that the start
//! needs nothing else for them, and counts their resident blocks before any slot is reassigned.
//!
//! Entries come from newest to oldest. So an image's own entries come first, and then those of each
//! ancestor, because the stretches of its ranges follow each other.

use std::collections::{HashMap, HashSet};

use crate::log::Lsn;
use crate::log::reader::PlacedEntry;
use crate::volume::catalog::{Catalog, ImageRange};
use crate::volume::history::past::see;
use crate::volume::image::index::IndexBuilder;

/// An image, and its ancestors of which entries are still to come.
struct Heir {
    image: u32,
    /// Youngest first.
    ancestors: Vec<ImageRange>,
    /// How many of them have begun.
    begun: usize,
}

/// See the module's documentation.
pub(super) struct Heirs {
    list: Vec<Heir>,
    /// The images of which entries count for an heir.
    ancestors: HashSet<u32>,
    /// For each image that may have had no entries at the start of the pass: when it was born.
    unwritten: HashMap<u32, Lsn>,
    /// The LSN before the first entry of the pass.
    pass_from: Lsn,
}

impl Heirs {
    /// The heirs of a catalog. `newest` is the newest position, and `window` gives for a point the
    /// LSN before the segments that determine the state there.
    pub(super) fn new(catalog: &Catalog, newest: Lsn, window: impl Fn(Lsn) -> Lsn) -> Self {
        let mut heirs = Vec::new();
        for volume in catalog.volumes.iter() {
            let Some(part) = catalog.image(volume.image).and_then(|image| image.resident) else { continue };
            let above = Lsn(part.above).max(window(newest));
            let ancestors = catalog.image_ranges(volume.image, newest, &window).into_iter().skip(1);
            let resident = ancestors.filter(|range| range.up_to > above);
            let resident = resident.map(|range| ImageRange { above: range.above.max(above), ..range });
            heirs.push(Heir { image: volume.image, ancestors: resident.collect(), begun: 0 });
        }
        let unwritten = catalog.images.iter().filter(|image| image.independent_from().is_none());
        Heirs {
            ancestors: heirs.iter().flat_map(|heir| &heir.ancestors).map(|one| one.image).collect(),
            list: heirs,
            unwritten: unwritten.map(|image| (image.id, Lsn(image.born_lsn))).collect(),
            pass_from: window(newest),
        }
    }

    /// Takes an entry of the pass, before its own image does.
    pub(super) fn see(&mut self, builders: &mut HashMap<u32, IndexBuilder>, placed: &PlacedEntry) {
        let image = placed.entry.image().0;
        self.unwritten.remove(&image);
        if !self.ancestors.contains(&image) {
            return;
        }
        for heir in &mut self.list {
            let counts =
                |one: &ImageRange| one.image == image && placed.lsn > one.above && placed.lsn <= one.up_to;
            let Some(place) = heir.ancestors.iter().position(counts) else { continue };
            let Some(builder) = builders.get_mut(&heir.image) else { continue };
            for _ in heir.begun..=place {
                builder.begin_parent();
            }
            heir.begun = heir.begun.max(place + 1);
            see(builder, placed);
        }
    }

    /// Ends the pass: marks everything that is still to come for an heir as inherited.
    pub(super) fn finish(&self, builders: &mut HashMap<u32, IndexBuilder>) {
        for heir in &self.list {
            let Some(builder) = builders.get_mut(&heir.image) else { continue };
            for _ in heir.begun..heir.ancestors.len() {
                builder.begin_parent();
            }
        }
    }

    /// Whether an image may have entries: the pass found some, or began after its birth.
    pub(super) fn is_written(&self, image: u32) -> bool {
        self.unwritten.get(&image).is_none_or(|&born| born < self.pass_from)
    }
}
