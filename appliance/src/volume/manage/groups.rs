//! Groups: makes, changes and deletes them. The volumes of a group stay what they are; deleting one
//! takes it out of its groups.
//!
//! A volume may be in several groups: each verb acts on one group at one position, so groups cannot
//! contradict each other. A group and a volume never have the same name, so that a name in a
//! command means one thing.

use std::rc::Rc;

use uuid::Uuid;

use crate::dma::BLOCK_BYTES;
use crate::log::recovery;
use crate::volume::catalog::{Catalog, CatalogGroup, GROUP_VOLUMES_MAX, GROUPS_MAX};
use crate::volume::error::VolumeError;
use crate::volume::history::clone::{MadeClones, MakeClones};
use crate::volume::history::point::NamedPoint;
use crate::volume::manage::checks::{check_free, check_name};
use crate::volume::manage::group_info::{GroupCloneInfo, GroupInfo, GroupVolume};
use crate::volume::pool::Pool;

impl Pool {
    /// Makes a group of volumes.
    ///
    /// # Errors
    /// A bad name or one that is taken, a volume that does not exist or is named twice, too many,
    /// no room, a failed pool.
    pub async fn create_group(
        self: Rc<Self>,
        name: String,
        volumes: Vec<String>,
    ) -> Result<GroupInfo, VolumeError> {
        check_name("group name", &name)?;
        let (created_ns, uuid) = {
            let log = self.log.borrow();
            (log.now_ns(), log.environment().random.uuid())
        };
        self.change_groups(|catalog| {
            let group = CatalogGroup { name: name.clone(), uuid, created_ns, volumes: Vec::new() };
            insert_group(catalog, group)?;
            add(catalog, &name, &volumes)
        })
        .await?;
        self.group(&name)
    }

    /// Adds volumes to a group.
    ///
    /// # Errors
    /// No such group or volume, a volume that is in it, too many, no room, a failed pool.
    pub async fn add_to_group(
        self: Rc<Self>,
        name: String,
        volumes: Vec<String>,
    ) -> Result<GroupInfo, VolumeError> {
        self.change_groups(|catalog| add(catalog, &name, &volumes)).await?;
        self.group(&name)
    }

    /// Takes volumes out of a group.
    ///
    /// # Errors
    /// No such group or volume, a volume that is not in it, a failed pool.
    pub async fn remove_from_group(
        self: Rc<Self>,
        name: String,
        volumes: Vec<String>,
    ) -> Result<GroupInfo, VolumeError> {
        self.change_groups(|catalog| {
            for volume in &volumes {
                let uuid = volume_named(catalog, volume)?;
                let remove = |group: &mut CatalogGroup| {
                    let is_in = group.has(uuid);
                    group.volumes.retain(|known| *known != uuid);
                    is_in
                };
                if !catalog.change_group(&name, remove).ok_or_else(|| no_such_group(&name))? {
                    return Err(wrong(format!("volume '{volume}' is not in group '{name}'")));
                }
            }
            Ok(())
        })
        .await?;
        self.group(&name)
    }

    /// Gives a group another name.
    ///
    /// # Errors
    /// No such group, a bad name or one that is taken, a failed pool.
    pub async fn rename_group(self: Rc<Self>, name: String, to: String) -> Result<GroupInfo, VolumeError> {
        check_name("group name", &to)?;
        self.change_groups(|catalog| {
            check_free(catalog, &to)?;
            let renamed = catalog.change_group(&name, |group| to.clone_into(&mut group.name));
            renamed.ok_or_else(|| no_such_group(&name))
        })
        .await?;
        self.group(&to)
    }

    /// Deletes a group; its volumes stay.
    ///
    /// # Errors
    /// No such group, a failed pool.
    pub async fn delete_group(self: Rc<Self>, name: String) -> Result<(), VolumeError> {
        self.change_groups(
            |catalog| {
                if catalog.remove_group(&name) { Ok(()) } else { Err(no_such_group(&name)) }
            },
        )
        .await
    }

    /// Opens a group as it was at a point, as new volumes and a new group of them, in one change.
    /// The new volumes have the name of the new group before the names of the old ones.
    ///
    /// # Errors
    /// No such group; those of [`clone_volume`](Self::clone_volume) for each volume.
    pub async fn clone_group(
        self: Rc<Self>,
        group: String,
        point: impl Into<NamedPoint>,
        name: String,
        read_only: bool,
    ) -> Result<GroupCloneInfo, VolumeError> {
        check_name("group name", &name)?;
        let uuid = self.log.borrow().environment().random.uuid();
        let also = |catalog: &mut Catalog, made: &MadeClones| {
            if made.group.is_none() {
                return Err(no_such_group(&group));
            }
            let volumes = made.clones.iter().map(|clone| clone.uuid).collect();
            insert_group(
                catalog,
                CatalogGroup { name: name.clone(), uuid, created_ns: made.made_ns, volumes },
            )
        };
        let make = MakeClones { of: group.clone(), point: point.into(), name: name.clone(), read_only };
        let clones = Rc::clone(&self).make_clones(make, &also).await?;
        Ok(GroupCloneInfo { group: self.group(&name)?, clones })
    }

    /// Every group, or the one of a name, oldest first.
    ///
    /// # Errors
    /// No such group.
    pub fn groups(&self, name: Option<&str>) -> Result<Vec<GroupInfo>, VolumeError> {
        if let Some(name) = name {
            return Ok(vec![self.group(name)?]);
        }
        let catalog = &self.state.borrow().catalog;
        Ok(catalog.groups.iter().map(|group| info(catalog, group)).collect())
    }

    /// Whether a name is that of a group.
    pub fn is_group(&self, name: &str) -> bool {
        self.state.borrow().catalog.group(name).is_some()
    }

    /// The group of a name.
    ///
    /// # Errors
    /// There is none.
    pub(in crate::volume) fn group(&self, name: &str) -> Result<GroupInfo, VolumeError> {
        let catalog = &self.state.borrow().catalog;
        let group = catalog.group(name).ok_or_else(|| no_such_group(name))?;
        Ok(info(catalog, group))
    }

    /// The names of the groups that a volume is in.
    pub fn group_names_of(&self, volume: &str) -> Vec<String> {
        let catalog = &self.state.borrow().catalog;
        let Some(volume) = catalog.volume(volume) else { return Vec::new() };
        catalog.groups_of(volume.uuid).map(|group| group.name.clone()).collect()
    }

    /// Makes a change of groups, and waits until it is stable.
    async fn change_groups(
        &self,
        mut edit: impl FnMut(&mut Catalog) -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        let lsn = self.change(|catalog, _| edit(catalog)).await?;
        recovery::stable(&self.log, lsn.plus(1)).await?;
        Ok(())
    }
}

/// Adds a group to a catalog.
///
/// # Errors
/// Its name is taken, or there are too many.
pub(in crate::volume) fn insert_group(catalog: &mut Catalog, group: CatalogGroup) -> Result<(), VolumeError> {
    check_free(catalog, &group.name)?;
    if catalog.groups.len() >= GROUPS_MAX {
        let reason = format!("a pool has at most {GROUPS_MAX} groups; delete one first (varve group delete)");
        return Err(VolumeError::NoSpace { reason });
    }
    catalog.add_group(group);
    Ok(())
}

fn add(catalog: &mut Catalog, name: &str, volumes: &[String]) -> Result<(), VolumeError> {
    for volume in volumes {
        let uuid = volume_named(catalog, volume)?;
        let group = catalog.group(name).ok_or_else(|| no_such_group(name))?;
        if group.has(uuid) {
            return Err(wrong(format!("volume '{volume}' is in group '{name}' already")));
        }
        if group.volumes.len() >= GROUP_VOLUMES_MAX {
            let reason = format!("a group has at most {GROUP_VOLUMES_MAX} volumes");
            return Err(VolumeError::NoSpace { reason });
        }
        catalog.change_group(name, |group| group.volumes.push(uuid));
    }
    catalog.group(name).map(|_| ()).ok_or_else(|| no_such_group(name))
}

/// The volume of a name. Volumes of other pools are not known here.
fn volume_named(catalog: &Catalog, name: &str) -> Result<Uuid, VolumeError> {
    if catalog.group(name).is_some() {
        return Err(wrong(format!("'{name}' is a group itself; name its volumes")));
    }
    let volume = catalog.volume(name).map(|volume| volume.uuid);
    volume.ok_or_else(|| {
        wrong(format!(
            "this pool has no volume '{name}', and the volumes of a group are all in one pool; `varve volume list` shows what there is"
        ))
    })
}

fn no_such_group(name: &str) -> VolumeError {
    VolumeError::NoSuchGroup { name: name.to_owned() }
}

fn wrong(reason: String) -> VolumeError {
    VolumeError::Invalid { what: "group", reason }
}

fn info(catalog: &Catalog, group: &CatalogGroup) -> GroupInfo {
    let volume = |uuid: &Uuid| {
        let volume = catalog.volume_with_uuid(*uuid)?;
        let size_bytes = volume.size_blocks * BLOCK_BYTES as u64;
        Some(GroupVolume { name: volume.name.clone(), uuid: volume.uuid, size_bytes })
    };
    GroupInfo {
        name: group.name.clone(),
        uuid: group.uuid,
        created_ns: group.created_ns,
        volumes: group.volumes.iter().filter_map(volume).collect(),
    }
}
