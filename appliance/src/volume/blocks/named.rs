//! The volume that an operator means, at a point. A volume is followed through time by its UUID,
//! because names may be given to other volumes.

use crate::log::Lsn;
use crate::volume::catalog::{Catalog, CatalogVolume};
use crate::volume::error::VolumeError;
use crate::volume::info::ResolvedPoint;
use crate::volume::pool::Pool;

impl Pool {
    /// The volume of a name or UUID in the catalog of a point. A name is that of a present volume
    /// which existed at the point, or the one that a volume had then.
    ///
    /// # Errors
    /// There was no such volume; the error names those that there were.
    pub(super) fn named_at(
        &self,
        name: &str,
        catalog: &Catalog,
        at: &ResolvedPoint,
    ) -> Result<CatalogVolume, VolumeError> {
        let present = self.state.borrow().catalog.volume(name).map(|volume| volume.uuid);
        let by_uuid =
            present.or_else(|| name.parse().ok()).and_then(|uuid| catalog.volume_with_uuid(uuid).cloned());
        by_uuid.or_else(|| catalog.volume(name).cloned()).ok_or_else(|| {
            let names: Vec<&str> = catalog.volumes.iter().map(|volume| volume.name.as_str()).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            VolumeError::NoSuchPoint {
                point: format!("{} of volume '{name}'", at.point),
                reason: format!("the volume did not exist at lsn:{}; there were: {there}", at.lsn),
            }
        })
    }
}

/// Refuses a point at which older data is not certain.
pub(super) fn check_certain(
    catalog: &Catalog,
    volume: &CatalogVolume,
    at: &ResolvedPoint,
    scanned: Lsn,
) -> Result<(), VolumeError> {
    let below = catalog.uncertain_below(volume.image, Lsn(at.lsn)).max(scanned);
    if below.0 == 0 {
        return Ok(());
    }
    Err(VolumeError::NoSuchPoint {
        point: at.point.clone(),
        reason: format!(
            "what volume '{}' held there is not certain: entries before lsn:{below} that may have changed it are lost. Choose a point before the loss; `varve pool list` names the range",
            volume.name
        ),
    })
}
