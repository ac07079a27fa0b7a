//! The volumes that a name stands for at a point: a volume is a group of one.
//!
//! **A group at a point** has the volumes that it had there, because its volumes are in the
//! catalog. If the group was made later, they are those of today. Either is said in a note, if it
//! makes a difference.

use std::collections::HashSet;

use uuid::Uuid;

use crate::log::Lsn;
use crate::text::units::format_time;
use crate::volume::catalog::{Catalog, CatalogGroup, CatalogVolume};
use crate::volume::error::VolumeError;
use crate::volume::history::point::{NamedPoint, Point};
use crate::volume::info::ResolvedPoint;
use crate::volume::pool::Pool;

/// The volumes that a name stands for at a point.
pub(in crate::volume) struct Members {
    /// The catalog there.
    pub(in crate::volume) catalog: Catalog,
    /// The name of the group; `None`: it is one volume.
    pub(in crate::volume) group: Option<String>,
    /// The volumes as they were there, at least one.
    pub(in crate::volume) volumes: Vec<CatalogVolume>,
}

/// The volumes of a group at a point, and what the caller may not expect of them.
type GroupThen = (Vec<CatalogVolume>, Vec<String>);

impl Pool {
    /// The point, and what a name stands for there. The name is that of a group now, or else that
    /// of a volume at the point, or else that of a group at the point.
    ///
    /// # Errors
    /// A point that does not exist; nothing has the name; a volume of the group did not exist then.
    pub(in crate::volume) async fn members_at(
        &self,
        name: &str,
        point: &NamedPoint,
    ) -> Result<(ResolvedPoint, Members), VolumeError> {
        let mut at = self.resolve_for(point, None).await?;
        let catalog = self.catalog_at(Lsn(at.lsn)).await?;
        let of_volume = catalog.volume(name).filter(|_| !self.is_group(name)).cloned();
        if let Some(volume) = of_volume {
            return Ok((at, Members { catalog, group: None, volumes: vec![volume] }));
        }
        let Some((volumes, notes)) = self.group_then(name, &catalog, &point.text)? else {
            return Err(self.no_such_volume_then(name, &catalog, &point.text).await);
        };
        at.notes.extend(notes);
        Ok((at, Members { catalog, group: Some(name.to_owned()), volumes }))
    }

    /// The same for volumes that exist now, which are followed by their UUIDs.
    ///
    /// # Errors
    /// As there; a volume of the group was deleted since.
    pub(in crate::volume) async fn present_members_at(
        &self,
        name: &str,
        point: &NamedPoint,
    ) -> Result<(ResolvedPoint, Members), VolumeError> {
        if self.is_group(name) {
            let (at, members) = self.members_at(name, point).await?;
            for volume in &members.volumes {
                self.check_present(volume, name)?;
            }
            return Ok((at, members));
        }
        let (_, uuid) = self.identity_of(name)?;
        let at = self.resolve_for(point, None).await?;
        let catalog = self.catalog_at(Lsn(at.lsn)).await?;
        let volume = self.member_then(uuid, &catalog, &at.point)?;
        Ok((at, Members { catalog, group: None, volumes: vec![volume] }))
    }

    /// The volume with a UUID in the catalog of a point.
    ///
    /// # Errors
    /// It did not exist then.
    pub(in crate::volume) fn member_then(
        &self,
        uuid: Uuid,
        then: &Catalog,
        point: &str,
    ) -> Result<CatalogVolume, VolumeError> {
        let volume = then.volume_with_uuid(uuid).cloned();
        volume.ok_or_else(|| {
            let state = self.state.borrow();
            let reason = state.catalog.volume_with_uuid(uuid).map_or_else(
                || "the volume did not exist then".to_owned(),
                |now| {
                    let made = Point::Time(now.created_ns);
                    format!("volume '{}' did not exist then; it was made at {made}", now.name)
                },
            );
            VolumeError::NoSuchPoint { point: point.to_owned(), reason }
        })
    }

    /// A group at a point; `None`: there is no such group.
    fn group_then(&self, name: &str, then: &Catalog, point: &str) -> Result<Option<GroupThen>, VolumeError> {
        let now = self.state.borrow().catalog.group(name).cloned();
        let old = match &now {
            Some(now) => then.group_with_uuid(now.uuid),
            None => then.group(name),
        };
        let mut notes = Vec::new();
        let volumes: Vec<CatalogVolume> = match (old, &now) {
            (None, None) => return Ok(None),
            (None, Some(now)) => {
                let made = format_time(now.created_ns);
                notes.push(format!(
                    "group '{name}' was made at {made}, after the point; its volumes are those of today"
                ));
                let volumes = self.volumes_now(now);
                volumes
                    .iter()
                    .map(|volume| self.member_then(volume.uuid, then, point))
                    .collect::<Result<_, _>>()?
            }
            (Some(old), _) => {
                notes.extend(now.as_ref().and_then(|now| self.other_volumes(old, now, then)));
                then.volumes_of(old).cloned().collect()
            }
        };
        if volumes.is_empty() {
            let reason = format!("group '{name}' has no volumes; varve group add {name} VOLUME adds one");
            return Err(VolumeError::Invalid { what: "group", reason });
        }
        Ok(Some((volumes, notes)))
    }

    fn volumes_now(&self, group: &CatalogGroup) -> Vec<CatalogVolume> {
        self.state.borrow().catalog.volumes_of(group).cloned().collect()
    }

    /// What is different in a group between a point and now.
    fn other_volumes(&self, old: &CatalogGroup, now: &CatalogGroup, then: &Catalog) -> Option<String> {
        let volumes = self.volumes_now(now);
        let [was, is]: [HashSet<Uuid>; 2] =
            [then.volumes_of(old).map(|v| v.uuid).collect(), volumes.iter().map(|v| v.uuid).collect()];
        let names = |list: Vec<&str>| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
        (was != is).then(|| {
            format!(
                "group '{}' had the volumes {} at the point, and these are meant; today it has {}",
                now.name,
                names(then.volumes_of(old).map(|volume| volume.name.as_str()).collect()),
                names(volumes.iter().map(|volume| volume.name.as_str()).collect())
            )
        })
    }

    /// Refuses a volume that was deleted since.
    fn check_present(&self, volume: &CatalogVolume, group: &str) -> Result<(), VolumeError> {
        if self.state.borrow().catalog.volume_with_uuid(volume.uuid).is_some() {
            return Ok(());
        }
        let reason = format!(
            "volume '{}', which was in group '{group}' then, was deleted, so the group cannot be rolled back; varve group clone {group} opens it as it was",
            volume.name
        );
        Err(VolumeError::Invalid { what: "group", reason })
    }
}
