//! Names of volumes: renames one, and swaps those of a clone and its origin.
//!
//! Hosts find a volume by its name, which is in its NQN. So hosts that are connected lose a volume
//! that gets another name, and find under the old name whatever has it then: both are refused while
//! a host is connected. UUIDs, contents and history stay with the volume; points of the past
//! know it by the name that it had then.

use std::rc::Rc;

use crate::log::{Lsn, recovery};
use crate::volume::catalog::Catalog;
use crate::volume::error::VolumeError;
use crate::volume::hosts::HostGuard;
use crate::volume::info::{VolumeEvent, VolumeInfo};
use crate::volume::manage::checks::{check_free, check_name};
use crate::volume::pool::Pool;
use crate::volume::request::VolumeId;

/// What is done to a volume, for a refusal.
const RENAME_IT: &str = "rename it";
const PROMOTE_IT: &str = "promote it";

impl Pool {
    /// Gives a volume another name.
    ///
    /// # Errors
    /// No such volume, a bad name, a name that exists, a host is connected, a failed pool.
    pub async fn rename_volume(
        self: Rc<Self>,
        name: String,
        to: String,
        guard: HostGuard,
    ) -> Result<VolumeInfo, VolumeError> {
        guard.check(&name, RENAME_IT)?;
        check_name("volume name", &to)?;
        let (id, _) = self.identity_of(&name)?;
        let lsn = self
            .change(|catalog, _| {
                guard.check(&name, RENAME_IT)?;
                check_free(catalog, &to)?;
                set_name(catalog, &name, &to)
            })
            .await?;
        self.put_names_in_force(&[(id, &to)], lsn).await?;
        self.volume(id).ok_or(VolumeError::NoSuchVolume { name: to })
    }

    /// Swaps the names of a clone and its origin. Returns both, the clone first.
    ///
    /// # Errors
    /// No such volume, or it is no clone; its origin was deleted; a host is connected to one of
    /// them; a failed pool.
    pub async fn promote_clone(
        self: Rc<Self>,
        name: String,
        guard: HostGuard,
    ) -> Result<[VolumeInfo; 2], VolumeError> {
        guard.check(&name, PROMOTE_IT)?;
        let (id, uuid) = self.identity_of(&name)?;
        let origin = self.origin_of(id, uuid, &name).await?.volume;
        let mut swapped = None;
        let lsn = self
            .change(|catalog, _| {
                let known = catalog.volume_with_uuid(origin.uuid);
                let Some(other) = known.map(|volume| volume.name.clone()) else {
                    let reason = format!(
                        "the origin of '{name}', which was '{}', was deleted; `varve volume rename` gives the clone its name",
                        origin.name
                    );
                    return Err(VolumeError::Invalid { what: "volume", reason });
                };
                if catalog.volume(&name).is_none_or(|volume| volume.uuid != uuid) {
                    return Err(VolumeError::NoSuchVolume { name: name.clone() });
                }
                guard.check(&name, PROMOTE_IT)?;
                guard.check(&other, "give its name to the clone")?;
                // No volume has this name in between: it is no valid one.
                set_name(catalog, &other, "")?;
                set_name(catalog, &name, &other)?;
                set_name(catalog, "", &name)?;
                swapped = Some(other);
                Ok(())
            })
            .await?;
        let other = swapped.expect("the change that was made has swapped names");
        let other_id = self.state.borrow().volumes.find(&other);
        let other_id = other_id.ok_or_else(|| VolumeError::NoSuchVolume { name: other.clone() })?;
        self.put_names_in_force(&[(id, &other), (other_id, &name)], lsn).await?;
        let info = |id| self.volume(id).ok_or_else(|| VolumeError::NoSuchVolume { name: name.clone() });
        Ok([info(id)?, info(other_id)?])
    }

    /// Gives volumes the names that the catalog says, in the turn of its change, and waits until
    /// that is stable.
    pub(in crate::volume) async fn put_names_in_force(
        &self,
        names: &[(VolumeId, &str)],
        lsn: Lsn,
    ) -> Result<(), VolumeError> {
        {
            let mut state = self.state.borrow_mut();
            // To a target it is another volume: hosts find it by its name.
            for &(id, _) in names {
                state.events.push(VolumeEvent::Deleted(id));
            }
            state.volumes.rename(names);
            for &(id, _) in names {
                state.events.push(VolumeEvent::Created(id));
            }
        }
        recovery::stable(&self.log, lsn.plus(1)).await?;
        Ok(())
    }
}

/// Gives volumes other names, each from its first to its second; where both are the same, it stays.
///
/// # Errors
/// A name is taken, or no volume has it.
pub(in crate::volume) fn set_names(
    catalog: &mut Catalog,
    names: &[(String, String)],
) -> Result<(), VolumeError> {
    for (from, to) in names.iter().filter(|(from, to)| from != to) {
        check_free(catalog, to)?;
        set_name(catalog, from, to)?;
    }
    Ok(())
}

fn set_name(catalog: &mut Catalog, name: &str, to: &str) -> Result<(), VolumeError> {
    let changed = catalog.change_volume(name, |volume| to.clone_into(&mut volume.name));
    changed.ok_or_else(|| VolumeError::NoSuchVolume { name: name.to_owned() })
}
