//! Finds a volume that no longer exists: its last point, for whoever names it.
//!
//! **Cost:** the newest segments are searched change by change. Before them the search goes back in
//! steps that double, and then closes in: it reads one catalog a step. A volume that existed there
//! only between two steps is not found.

use uuid::Uuid;

use crate::log::{Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::text::units::format_time;
use crate::volume::catalog::Catalog;
use crate::volume::error::VolumeError;
use crate::volume::history::point_info::PointAt;
use crate::volume::history::stretches::Stretch;
use crate::volume::pool::Pool;

/// So many of the newest segments are searched change by change.
const ONE_BY_ONE_SEGMENTS: u64 = 16;

/// A volume that does not exist now.
pub(in crate::volume) struct DeletedVolume {
    pub(in crate::volume) uuid: Uuid,
    /// The newest point at which it existed.
    pub(in crate::volume) last: PointAt,
}

impl Pool {
    /// Looks for a volume of this name in the past.
    ///
    /// # Errors
    /// The past cannot be read now.
    pub(in crate::volume) async fn find_deleted(
        &self,
        name: &str,
    ) -> Result<Option<DeletedVolume>, VolumeError> {
        let stretches = self.stretches().await;
        let Some(&Stretch { first, last, .. }) = stretches.last() else { return Ok(None) };
        let mut gone = last.next();
        while gone > first && last.0 - gone.0.min(last.0) < ONE_BY_ONE_SEGMENTS {
            gone = SegmentSeq(gone.0 - 1);
            if let Some(found) = self.find_in(gone, name).await? {
                return Ok(Some(found));
            }
            yield_now().await;
        }
        let (mut there, mut step) = (None, 1);
        while gone > first && there.is_none() {
            let sequence = SegmentSeq(gone.0.saturating_sub(step).max(first.0));
            if has(&self.first_catalog_of(sequence).await?, name) {
                there = Some(sequence);
            } else {
                (gone, step) = (sequence, step * 2);
            }
            yield_now().await;
        }
        let Some(mut there) = there else { return Ok(None) };
        while gone.0 - there.0 > 1 {
            let middle = SegmentSeq(there.0 + (gone.0 - there.0) / 2);
            if has(&self.first_catalog_of(middle).await?, name) { there = middle } else { gone = middle }
        }
        self.find_in(there, name).await
    }

    /// Looks for the change that deleted it in one segment.
    async fn find_in(&self, sequence: SegmentSeq, name: &str) -> Result<Option<DeletedVolume>, VolumeError> {
        let known = self.known_of(sequence).await?;
        let (mut uuid, mut last) = (None, None);
        self.visit_catalogs(sequence, &known, |catalog, lsn| match catalog.volume(name) {
            Some(volume) => (uuid, last) = (Some(volume.uuid), None),
            None => last = last.or_else(|| uuid.map(|uuid| (uuid, lsn))),
        })
        .await?;
        // If it is not gone in this segment, its last point is the segment's last.
        let end_lsn = self.log.borrow().geometry().first_lsn(sequence.next());
        let Some((uuid, lsn)) = last.or_else(|| uuid.map(|uuid| (uuid, end_lsn))) else { return Ok(None) };
        let (boundary, _) = self.boundary_and_hole(Lsn(lsn.0.saturating_sub(1))).await?;
        Ok(Some(DeletedVolume { uuid, last: PointAt { lsn: boundary.lsn.0, time_ns: boundary.time_ns } }))
    }

    /// The catalog with which a segment begins.
    async fn first_catalog_of(&self, sequence: SegmentSeq) -> Result<Catalog, VolumeError> {
        let known = self.known_of(sequence).await?;
        let mut first = None;
        self.visit_catalogs(sequence, &known, |catalog, _| {
            first.get_or_insert_with(|| catalog.clone());
        })
        .await?;
        Ok(first.unwrap_or_default())
    }

    /// The error for a volume that did not exist at a point, with what there was instead.
    pub(in crate::volume) async fn no_such_volume_then(
        &self,
        name: &str,
        catalog: &Catalog,
        point: &str,
    ) -> VolumeError {
        let names: Vec<&str> = catalog.volumes.iter().map(|volume| volume.name.as_str()).collect();
        let there = if names.is_empty() {
            "there was none".to_owned()
        } else {
            format!("there were: {}", names.join(", "))
        };
        let present = self.state.borrow().catalog.volume(name).map(|volume| volume.created_ns);
        let hint = match present {
            Some(created_ns) => format!("; it was created at {}", format_time(created_ns)),
            None => match self.find_deleted(name).await {
                Ok(Some(deleted)) => format!(
                    "; it was deleted: its last point is lsn:{} ({})",
                    deleted.last.lsn,
                    format_time(deleted.last.time_ns)
                ),
                Ok(None) => "; no volume of that name was found in what is kept".to_owned(),
                Err(error) => format!("; its last point cannot be looked up now: {error}"),
            },
        };
        let reason = format!("volume '{name}' did not exist then; {there}{hint}");
        VolumeError::NoSuchPoint { point: point.to_owned(), reason }
    }
}

fn has(catalog: &Catalog, name: &str) -> bool {
    catalog.volume(name).is_some()
}
