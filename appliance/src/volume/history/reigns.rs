//! Which image a volume had in which stretch of the log. A volume is followed by its UUID: names
//! may be swapped. It has one image until it is rolled back; a session's clone keeps its image, but
//! each step gives it a new beginning.

use uuid::Uuid;

use crate::log::Lsn;
use crate::volume::catalog::Catalog;
use crate::volume::error::VolumeError;
pub(in crate::volume) use crate::volume::history::volume_then::VolumeThen;
use crate::volume::pool::Pool;

/// A stretch of the log in which a volume had one image with one beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::volume) struct Reign {
    pub(in crate::volume) image: u32,
    /// The image's own entries are after this position.
    pub(in crate::volume) after: Lsn,
    /// The last position.
    pub(in crate::volume) up_to: Lsn,
}

impl Reign {
    /// Whether a position is in it.
    pub(in crate::volume) fn covers(&self, lsn: Lsn) -> bool {
        self.after < lsn && lsn <= self.up_to
    }
}

impl Pool {
    /// A volume at a position.
    ///
    /// # Errors
    /// It did not exist there, or that cannot be read; those of reading the catalog.
    pub(in crate::volume) async fn volume_then(
        &self,
        uuid: Uuid,
        at: Lsn,
    ) -> Result<(VolumeThen, Catalog), VolumeError> {
        let catalog = self.catalog_at(at).await?;
        match VolumeThen::of(&catalog, uuid) {
            Some(then) => Ok((then, catalog)),
            None => Err(VolumeError::NoSuchPoint {
                point: format!("lsn:{at}"),
                reason: format!("the volume with the UUID {uuid} did not exist there"),
            }),
        }
    }

    /// The reigns of a volume from `then` on up to the present, oldest first. Cost: nothing while
    /// the volume has the same image, or else one look at the catalog for each reign.
    ///
    /// # Errors
    /// Those of reading the catalog.
    pub(in crate::volume) async fn reigns_from(
        &self,
        then: &VolumeThen,
        at: Lsn,
    ) -> Result<Vec<Reign>, VolumeError> {
        let newest = Lsn(self.log.borrow().head_lsn().0.saturating_sub(1));
        let now = VolumeThen::of(&self.state.borrow().catalog, then.uuid);
        if now.is_none_or(|now| now.continues(then)) {
            return Ok(vec![Reign { image: then.image, after: then.born, up_to: newest }]);
        }
        let mut reigns = self.reigns(then.uuid, at, newest).await?;
        reigns.reverse();
        Ok(reigns)
    }

    /// The reigns of a volume that overlap the stretch after `after` up to `up_to`, newest first.
    /// Where the volume did not exist, there is none. Cost: one look at the catalog for each.
    ///
    /// # Errors
    /// Those of reading the catalog.
    pub(in crate::volume) async fn reigns(
        &self,
        uuid: Uuid,
        after: Lsn,
        up_to: Lsn,
    ) -> Result<Vec<Reign>, VolumeError> {
        let mut reigns = Vec::new();
        let mut at = up_to;
        while at > after {
            let catalog = self.catalog_at(at).await?;
            let Some(then) = VolumeThen::of(&catalog, uuid) else { break };
            reigns.push(Reign { image: then.image, after: then.born, up_to: at });
            if then.born >= at {
                break;
            }
            at = then.born;
        }
        Ok(reigns)
    }
}
