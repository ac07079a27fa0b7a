//! Sets a clone to another point of its origin: the one from which it was made, or any other.
//!
//! The origin is the volume with another UUID whose state the clone began with. The clone's own
//! writes are no longer in it; if there are any, they stay in its history until that expires.

use std::rc::Rc;

use uuid::Uuid;

use crate::log::{ImageId, Lsn, recovery};
use crate::volume::catalog::{Catalog, CatalogImage, CatalogVolume};
use crate::volume::error::VolumeError;
use crate::volume::history::point::NamedPoint;
use crate::volume::hosts::HostGuard;
use crate::volume::image::rebase::RebaseKind;
use crate::volume::image::volume::Volume;
use crate::volume::info::{CloneSpace, ImageParent, VolumeInfo};
use crate::volume::pool::Pool;
use crate::volume::request::VolumeId;

/// What a reset does to a clone, for a refusal.
const RESET_IT: &str = "reset it";
/// How many roll-backs of a clone are followed to its origin.
const ROLL_BACKS_MAX: usize = 1024;

/// Where a clone began.
pub(in crate::volume) struct Origin {
    /// The point.
    pub(in crate::volume) lsn: Lsn,
    /// The catalog there.
    pub(in crate::volume) catalog: Catalog,
    /// The volume there.
    pub(in crate::volume) volume: CatalogVolume,
    /// The size with which the clone began, if the catalog has it.
    begun_blocks: Option<u64>,
}

impl Pool {
    /// Sets a clone to the point from which it was made, or to another point of its origin.
    ///
    /// # Errors
    /// No such volume, or it is no clone; a host is connected to it; a point that does not exist;
    /// no room; a failed pool. Nothing has changed then.
    pub async fn reset_clone(
        self: Rc<Self>,
        name: String,
        point: Option<NamedPoint>,
        guard: HostGuard,
    ) -> Result<VolumeInfo, VolumeError> {
        guard.check(&name, RESET_IT)?;
        let (id, uuid) = self.identity_of(&name)?;
        self.refuse_session_clone(uuid)?;
        let expiries = self.expiries();
        // The clone may have been made from what was appended last.
        self.close_up_to_now();
        let origin = self.origin_of(id, uuid, &name).await?;
        let (to, what) = if let Some(point) = point {
            let at = Rc::clone(&self).resolve(point).await?;
            (self.past_state(origin.volume.uuid, &at).await?.0, at.point)
        } else {
            // What it was made from may have had another size and the same contents.
            let mut to = self.state_of(origin.catalog, &origin.volume, origin.lsn).await?.0;
            to.size_blocks = origin.begun_blocks.unwrap_or(to.size_blocks);
            (to, format!("the beginning of '{name}'"))
        };
        let moves = [(id, to)];
        let done = self.rebase(&moves, RebaseKind::Reset, |catalog, _| {
            // It may have another name now.
            let now = catalog.volume_with_uuid(uuid);
            guard.check_all(now.map(|volume| &volume.name), RESET_IT)?;
            self.check_not_expired(expiries, format_args!("{what} was being opened"))
        });
        let done = done.await?;
        recovery::stable(&self.log, done.lsn.plus(1)).await?;
        self.volume(id).ok_or(VolumeError::NoSuchVolume { name })
    }

    /// The volumes that inherit from another one, by name.
    pub fn clones(&self) -> Vec<CloneSpace> {
        let volumes = self.volumes();
        let state = self.state.borrow();
        let clone = |volume: &VolumeInfo| {
            let parent = volume.parent?;
            let of = state.volumes.of_image(ImageId(parent.image));
            Some(CloneSpace {
                name: volume.name.clone(),
                origin: of.map(|volume| volume.name().to_owned()),
                parent,
                state: volume.state,
                loading_percent: state.volumes.get(volume.id).and_then(Volume::loading_percent),
                hydrating: volume.hydrating,
                read_only: volume.read_only,
                own_blocks: volume.mapped_blocks - volume.inherited_blocks,
                shared_blocks: volume.inherited_blocks,
            })
        };
        volumes.iter().filter_map(clone).collect()
    }

    /// Where a clone began.
    pub(in crate::volume) async fn origin_of(
        &self,
        id: VolumeId,
        uuid: Uuid,
        name: &str,
    ) -> Result<Origin, VolumeError> {
        let mut young = self.image_of(id);
        for _ in 0..ROLL_BACKS_MAX {
            let Some(known) = young else { break };
            let Some(ImageParent { image, lsn }) = known.parent else { break };
            let lsn = Lsn(lsn);
            let catalog = self.catalog_at(lsn).await?;
            let Some(volume) = catalog.volume_of_image(image).cloned() else {
                break;
            };
            if volume.uuid != uuid {
                return Ok(Origin { lsn, catalog, volume, begun_blocks: known.begun_blocks });
            }
            // It was rolled back, or recovered: its own earlier image.
            young = catalog.image(image).cloned();
        }
        let reason = format!("'{name}' is not a clone: it did not begin with the state of another volume");
        Err(VolumeError::Invalid { what: "volume", reason })
    }

    /// The image of a volume, with its parent, whether it still needs that or not.
    fn image_of(&self, id: VolumeId) -> Option<CatalogImage> {
        let state = self.state.borrow();
        let image = state.volumes.get(id)?.image();
        state.catalog.image(image.0).cloned()
    }
}
