//! The groups of a catalog: looking them up, and their volumes.

use uuid::Uuid;

use super::groups::CatalogGroup;
use super::{Catalog, CatalogVolume};

impl Catalog {
    /// The group of a name.
    pub(in crate::volume) fn group(&self, name: &str) -> Option<&CatalogGroup> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// The group with a UUID.
    pub(in crate::volume) fn group_with_uuid(&self, uuid: Uuid) -> Option<&CatalogGroup> {
        self.groups.iter().find(|group| group.uuid == uuid)
    }

    /// The volumes of a group, in its order. A program that knows no groups may have deleted some.
    pub(in crate::volume) fn volumes_of<'a>(
        &'a self,
        group: &'a CatalogGroup,
    ) -> impl Iterator<Item = &'a CatalogVolume> {
        group.volumes.iter().filter_map(|&uuid| self.volume_with_uuid(uuid))
    }

    /// The groups that a volume is in.
    pub(in crate::volume) fn groups_of(&self, volume: Uuid) -> impl Iterator<Item = &CatalogGroup> {
        self.groups.iter().filter(move |group| group.has(volume))
    }
}
