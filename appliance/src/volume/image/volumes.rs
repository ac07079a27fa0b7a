//! The table of the pool's volumes. Whatever their number, a volume is found by its id, its name or
//! its image in one step.
//!
//! **Invariants:** an id is given to one volume only, so an old id finds its own volume or none: it
//! has the slot of the volume and how often that slot was used before. `by_name` and `by_image`
//! have every volume, `holders` those whose blocks may be entries of their ancestors, and
//! `thick_blocks` is the sum of the sizes of those that are not thin. So whatever changes a name,
//! an image, a size or what a volume holds is a method here.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use smallvec::SmallVec;

use super::volume::{Outgoing, Rebased, Volume};
use crate::log::{ImageId, Lsn};
use crate::volume::image::index::Mapping;
use crate::volume::request::VolumeId;

/// The maximum number of volumes in a pool.
pub const VOLUMES_MAX: usize = 1024;

/// A slot of the table.
struct Place {
    /// The id of its volume, or of its last one.
    id: VolumeId,
    /// Its number in the order of the volumes.
    number: u64,
    volume: Option<Volume>,
}

/// All volumes. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Volumes {
    places: Vec<Place>,
    /// Slots without a volume that may be used again, the one that has waited longest first.
    free: VecDeque<usize>,
    /// The volumes in the order in which they were added.
    order: BTreeMap<u64, VolumeId>,
    /// How many were ever added.
    added: u64,
    by_name: HashMap<String, VolumeId>,
    by_image: HashMap<ImageId, VolumeId>,
    holders: BTreeSet<VolumeId>,
    thick_blocks: u64,
    /// Whether clones keep inherited blocks on the primary device: the pool has no archive and
    /// reuses slots.
    keeps_inherited: bool,
}

impl Volumes {
    /// The volume of an id, unless it was deleted.
    #[inline]
    pub(in crate::volume) fn get(&self, id: VolumeId) -> Option<&Volume> {
        self.places.get(id.slot()).filter(|place| place.id == id)?.volume.as_ref()
    }

    /// The same, for changes.
    #[inline]
    pub(in crate::volume) fn get_mut(&mut self, id: VolumeId) -> Option<&mut Volume> {
        self.places.get_mut(id.slot()).filter(|place| place.id == id)?.volume.as_mut()
    }

    /// The id of the volume with a name.
    pub(in crate::volume) fn find(&self, name: &str) -> Option<VolumeId> {
        self.by_name.get(name).copied()
    }

    /// The volume of an image.
    pub(in crate::volume) fn of_image(&self, image: ImageId) -> Option<&Volume> {
        self.get(*self.by_image.get(&image)?)
    }

    /// Every volume, in the order in which they were added.
    pub(in crate::volume) fn iter(&self) -> impl Iterator<Item = &Volume> {
        self.order.values().filter_map(|&id| self.get(id))
    }

    /// How many there are.
    pub(in crate::volume) fn len(&self) -> usize {
        self.order.len()
    }

    /// Every id, in the order in which they were added.
    pub(in crate::volume) fn ids(&self) -> impl Iterator<Item = VolumeId> {
        self.order.values().copied()
    }

    /// The first volume that was added as number `from` or later, and its number.
    pub(in crate::volume) fn next_from(&self, from: u64) -> Option<(u64, &Volume)> {
        let (&number, &id) = self.order.range(from..).next()?;
        Some((number, self.get(id)?))
    }

    /// Adds a volume. Returns its id.
    pub(in crate::volume) fn insert(&mut self, volume: Volume) -> VolumeId {
        let id = match self.free.pop_front() {
            Some(slot) => {
                self.places[slot].id.next_of_slot().unwrap_or_else(|| unreachable!("it was usable"))
            }
            None => VolumeId::first_of_slot(self.places.len()),
        };
        let is_new = self.by_image.insert(volume.image(), id).is_none();
        assert!(is_new, "an image is one volume's");
        self.by_name.insert(volume.name().to_owned(), id);
        let number = self.added;
        self.added += 1;
        self.order.insert(number, id);
        if volume.holds_inherited() {
            self.holders.insert(id);
        }
        self.thick_blocks += thick_blocks(&volume);
        let place = Place { id, number, volume: Some(volume) };
        match self.places.get_mut(id.slot()) {
            Some(free) => *free = place,
            None => self.places.push(place),
        }
        id
    }

    /// Removes a volume.
    pub(in crate::volume) fn remove(&mut self, id: VolumeId) -> Option<Volume> {
        let place = self.places.get_mut(id.slot()).filter(|place| place.id == id)?;
        let volume = place.volume.take()?;
        self.order.remove(&place.number);
        if id.next_of_slot().is_some() {
            self.free.push_back(id.slot());
        }
        self.by_image.remove(&volume.image());
        if self.find(volume.name()) == Some(id) {
            self.by_name.remove(volume.name());
        }
        self.holders.remove(&id);
        self.thick_blocks -= thick_blocks(&volume);
        Some(volume)
    }

    /// Gives volumes other names, which may be those of others of them.
    pub(in crate::volume) fn rename(&mut self, names: &[(VolumeId, &str)]) {
        for &(id, _) in names {
            if let Some(name) = self.get(id).map(|volume| volume.name().to_owned()) {
                self.by_name.remove(&name);
            }
        }
        for &(id, name) in names {
            if let Some(volume) = self.get_mut(id) {
                volume.rename(name.to_owned());
                self.by_name.insert(name.to_owned(), id);
            }
        }
    }

    /// Sets a larger size.
    pub(in crate::volume) fn grow(&mut self, id: VolumeId, size_blocks: u64) {
        let Some(volume) = self.get_mut(id) else { return };
        let before = thick_blocks(volume);
        volume.grow(size_blocks);
        let after = thick_blocks(volume);
        self.thick_blocks += after - before;
    }

    /// Shows another state of the past, see [`Volume::rebase`]. The volume exists.
    pub(in crate::volume) fn rebase(&mut self, id: VolumeId, to: Rebased) -> Outgoing {
        let image = to.image;
        let volume = self.get_mut(id).expect("the caller has found it");
        let before = thick_blocks(volume);
        let outgoing = volume.rebase(to);
        let (after, holds_inherited) = (thick_blocks(volume), volume.holds_inherited());
        self.thick_blocks = self.thick_blocks - before + after;
        self.by_image.remove(&outgoing.image);
        self.by_image.insert(image, id);
        if holds_inherited {
            self.holders.insert(id);
        } else {
            self.holders.remove(&id);
        }
        outgoing
    }

    /// Whether clones keep inherited blocks on the primary device.
    pub(in crate::volume) fn keeps_inherited(&self) -> bool {
        self.keeps_inherited
    }

    /// Sets whether clones keep inherited blocks on the primary device.
    pub(in crate::volume) fn set_keeps_inherited(&mut self, keeps_inherited: bool) {
        self.keeps_inherited = keeps_inherited;
    }

    /// The volume whose index still maps `block` to exactly this mapping, as resident.
    pub(in crate::volume) fn owner_of(
        &self,
        image: ImageId,
        block: u64,
        mapping: Mapping,
    ) -> Option<VolumeId> {
        let id = *self.by_image.get(&image)?;
        self.get(id).filter(|volume| volume.holds(block, mapping)).map(|_| id)
    }

    /// The images that hold an entry of `image` as resident: the image itself, and those of volumes
    /// that keep what they inherited on the primary device.
    pub(in crate::volume) fn owners_of(
        &self,
        image: ImageId,
        block: u64,
        mapping: Mapping,
    ) -> SmallVec<[ImageId; 1]> {
        let own = self.by_image.get(&image).filter(|id| !self.holders.contains(id));
        let owners = own.into_iter().chain(&self.holders).filter_map(|&id| self.get(id));
        owners.filter(|volume| volume.holds(block, mapping)).map(Volume::image).collect()
    }

    /// Whether an image belongs to a volume that may inherit anything.
    pub(in crate::volume) fn inherits(&self, image: ImageId) -> bool {
        self.of_image(image).is_some_and(Volume::inherits)
    }

    /// Whether a volume's data at a position may have been replaced by something that is lost.
    pub(in crate::volume) fn is_uncertain(&self, id: VolumeId, lsn: Lsn) -> bool {
        self.get(id).is_some_and(|volume| lsn < volume.uncertain_below())
    }

    /// Points the index of a volume to the new place of a copied block. Returns whether the block
    /// was inherited before.
    pub(in crate::volume) fn move_block(&mut self, id: VolumeId, block: u64, mapping: Mapping) -> bool {
        self.get_mut(id).is_some_and(|volume| volume.move_block(block, mapping))
    }

    /// How many blocks are reserved for volumes that are not thin: their sizes, and what was cut
    /// out of those in `counting` and still counts for them, beyond their sizes.
    pub(in crate::volume) fn reserved_blocks(&self, counting: impl Iterator<Item = VolumeId>) -> u64 {
        let thick = counting.filter_map(|id| self.get(id)).filter(|volume| !volume.is_thin());
        let beyond = thick.map(|volume| volume.resident().saturating_sub(volume.size_blocks()));
        let reserved = self.thick_blocks + beyond.sum::<u64>();
        #[cfg(debug_assertions)]
        {
            let all = self.iter().filter(|volume| !volume.is_thin());
            let sum: u64 = all.map(|volume| volume.size_blocks().max(volume.resident())).sum();
            assert_eq!(reserved, sum, "only what is being counted takes more than the size");
        }
        reserved
    }
}

/// The size of a volume that is not thin.
fn thick_blocks(volume: &Volume) -> u64 {
    if volume.is_thin() { 0 } else { volume.size_blocks() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::volume::image::index::Index;
    use crate::volume::image::volume::{NewVolume, VolumeIndex};

    fn volume(name: &str, image: u32, thin: bool) -> Volume {
        Volume::new(NewVolume {
            name: name.to_owned(),
            size_blocks: 10,
            read_only: false,
            image: ImageId(image),
            index: VolumeIndex::Ready(Index::new(10)),
            resident_above: Lsn(0),
            keeps_inherited: false,
            holds_inherited: false,
            is_written: false,
            inherits: false,
            changed_lsn: Lsn(0),
            thin,
        })
    }

    fn names(volumes: &Volumes) -> Vec<&str> {
        volumes.iter().map(Volume::name).collect()
    }

    #[test]
    fn a_slot_is_used_again_and_an_old_id_finds_nothing() {
        let mut volumes = Volumes::default();
        let [a, b] = [("a", 1), ("b", 2)].map(|(name, image)| volumes.insert(volume(name, image, false)));
        assert_eq!(volumes.reserved_blocks(std::iter::empty()), 20);
        assert!(volumes.remove(a).is_some() && volumes.remove(a).is_none());
        let c = volumes.insert(volume("c", 3, true));
        assert!(c.slot() == a.slot() && c != a);
        assert!(volumes.get(a).is_none() && volumes.get_mut(a).is_none());
        assert_eq!((volumes.find("a"), volumes.find("b"), volumes.find("c")), (None, Some(b), Some(c)));
        assert!(volumes.of_image(ImageId(1)).is_none());
        assert_eq!(names(&volumes), ["b", "c"], "in the order in which they were added");
        assert_eq!(volumes.next_from(0).map(|(number, found)| (number, found.name())), Some((1, "b")));
        volumes.grow(b, 15);
        assert_eq!((volumes.reserved_blocks(std::iter::empty()), volumes.len()), (15, 2));
    }

    #[test]
    fn names_are_swapped() {
        let mut volumes = Volumes::default();
        let [a, b] = [("a", 1), ("b", 2)].map(|(name, image)| volumes.insert(volume(name, image, false)));
        volumes.rename(&[(a, "b"), (b, "a")]);
        assert_eq!((volumes.find("a"), volumes.find("b")), (Some(b), Some(a)));
        assert_eq!(names(&volumes), ["b", "a"]);
        volumes.remove(a);
        assert_eq!((volumes.find("a"), volumes.find("b")), (Some(b), None));
    }

    /// A pool that makes and deletes a clone for ever needs no more memory, and no id twice.
    #[test]
    fn ids_are_never_given_twice_and_the_table_stays_short() {
        let mut volumes = Volumes::default();
        let mut ids = HashSet::new();
        for image in 1..=10_000 {
            let id = volumes.insert(volume("v", image, true));
            assert!(ids.insert(id), "{id:?}");
            volumes.remove(id);
        }
        assert_eq!(volumes.places.len(), 3, "a slot has 4,096 ids");
    }
}
