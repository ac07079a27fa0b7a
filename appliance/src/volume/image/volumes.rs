//! The table of the pool's volumes.
//!
//! **Invariant:** the place of a volume in the table is its [`VolumeId`]. A place is never reused,
//! so an old id finds its own volume or none.

use smallvec::SmallVec;

use super::volume::Volume;
use crate::log::{ImageId, Lsn};
use crate::volume::image::index::Mapping;
use crate::volume::request::VolumeId;

/// The maximum number of volumes in a pool.
pub const VOLUMES_MAX: usize = 1024;

/// All volumes. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Volumes {
    places: Vec<Option<Volume>>,
    /// Whether clones keep inherited blocks on the primary device: the pool has no archive and
    /// reuses slots.
    keeps_inherited: bool,
}

impl Volumes {
    /// The volume of an id, unless it was deleted.
    #[inline]
    pub(in crate::volume) fn get(&self, id: VolumeId) -> Option<&Volume> {
        self.places.get(id.0 as usize)?.as_ref()
    }

    /// The same, for changes.
    #[inline]
    pub(in crate::volume) fn get_mut(&mut self, id: VolumeId) -> Option<&mut Volume> {
        self.places.get_mut(id.0 as usize)?.as_mut()
    }

    /// The id of the volume with a name.
    pub(in crate::volume) fn find(&self, name: &str) -> Option<VolumeId> {
        self.place(|volume| volume.name() == name)
    }

    /// The volume of an image.
    pub(in crate::volume) fn of_image(&self, image: ImageId) -> Option<&Volume> {
        self.iter().find(|volume| volume.image() == image)
    }

    /// Every volume, in the order of ids.
    pub(in crate::volume) fn iter(&self) -> impl Iterator<Item = &Volume> {
        self.places.iter().flatten()
    }

    /// Every id that was assigned, including those of deleted volumes.
    pub(in crate::volume) fn ids(&self) -> impl Iterator<Item = VolumeId> + use<> {
        (0..self.places.len() as u32).map(VolumeId)
    }

    /// Adds a volume. Returns its id.
    pub(in crate::volume) fn insert(&mut self, volume: Volume) -> VolumeId {
        assert!(self.of_image(volume.image()).is_none(), "an image is one volume's");
        self.places.push(Some(volume));
        VolumeId(self.places.len() as u32 - 1)
    }

    /// Removes a volume.
    pub(in crate::volume) fn remove(&mut self, id: VolumeId) -> Option<Volume> {
        self.places.get_mut(id.0 as usize)?.take()
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
        self.place(|volume| volume.image() == image && volume.holds(block, mapping))
    }

    /// The images that hold an entry of `image` as resident: the image itself, and those of volumes
    /// that keep what they inherited on the primary device.
    pub(in crate::volume) fn owners_of(
        &self,
        image: ImageId,
        block: u64,
        mapping: Mapping,
    ) -> SmallVec<[ImageId; 1]> {
        let owners = self
            .iter()
            .filter(|volume| volume.image() == image || volume.holds_inherited())
            .filter(|volume| volume.holds(block, mapping));
        owners.map(Volume::image).collect()
    }

    /// Whether an image belongs to a volume that may inherit anything.
    pub(in crate::volume) fn inherits(&self, image: ImageId) -> bool {
        self.iter().any(|volume| volume.image() == image && volume.inherits())
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

    /// How many blocks are reserved for volumes that are not thin.
    pub(in crate::volume) fn reserved_blocks(&self) -> u64 {
        let thick = self.iter().filter(|volume| !volume.is_thin());
        thick.map(|volume| volume.size_blocks().max(volume.resident())).sum()
    }

    fn place(&self, is_it: impl Fn(&Volume) -> bool) -> Option<VolumeId> {
        let place = self.places.iter().position(|volume| volume.as_ref().is_some_and(&is_it));
        place.map(|place| VolumeId(place as u32))
    }
}
