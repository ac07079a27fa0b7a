//! Which volumes and marks a name in a command stands for: those of a volume, or of a group. Groups
//! are those of today; a volume may also be one that was deleted.

use std::rc::Rc;

use uuid::Uuid;

use crate::volume::error::VolumeError;
use crate::volume::pool::Pool;

/// Whose commands count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::volume) enum Whose {
    /// Those of all volumes.
    All,
    /// Those of these volumes.
    Volumes(Rc<[Uuid]>),
}

impl Pool {
    /// Whose commands a name stands for.
    ///
    /// # Errors
    /// No volume or group is known by that name.
    pub(in crate::volume) async fn whose(&self, name: Option<&str>) -> Result<Whose, VolumeError> {
        let Some(name) = name else { return Ok(Whose::All) };
        let of_group = {
            let catalog = &self.state.borrow().catalog;
            catalog.group(name).map(|group| catalog.volumes_of(group).map(|volume| volume.uuid).collect())
        };
        match of_group {
            Some(volumes) => Ok(Whose::Volumes(volumes)),
            None => Ok(Whose::Volumes([self.uuid_of(name).await?].into())),
        }
    }

    /// What the marks of a name are marks of: a group; or a volume, and the groups that it is in.
    ///
    /// # Errors
    /// No volume or group is known by that name.
    pub(in crate::volume) async fn whose_marks(
        &self,
        name: Option<&str>,
    ) -> Result<Option<Vec<Uuid>>, VolumeError> {
        let Some(name) = name else { return Ok(None) };
        let group = self.state.borrow().catalog.group(name).map(|group| group.uuid);
        if let Some(group) = group {
            return Ok(Some(vec![group]));
        }
        let volume = self.uuid_of(name).await?;
        let state = self.state.borrow();
        let groups = state.catalog.groups_of(volume).map(|group| group.uuid);
        Ok(Some([volume].into_iter().chain(groups).collect()))
    }
}
