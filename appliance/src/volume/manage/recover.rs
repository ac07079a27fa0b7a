//! Recovers a pool whose primary device is lost from its archive alone (R27, R32).
//!
//! The log continues in a new segment after the last archived one. Each volume gets a new image
//! that inherits from the old one at the recovery point, as a clone would. So the volumes can be
//! used before anything is copied: their inherited data is read from the archive. History, synchs
//! and snapshots keep their positions.
//!
//! **Order:** find the recovery point, from the newest object whose entries can be read; write the
//! first segment with the new catalog, and make it stable; then write the superblocks. A crash
//! before them leaves a blank device and an unchanged archive.
//!
//! **Damage.** If the newest object cannot be read, it is left out, and the recovery point is
//! before it. An earlier object with damaged entries costs only its own content: its range is
//! recorded as lost in the catalog, older data in its range is not certain, and everything newer is
//! recovered. An object that the store fails to return may be available later, so it ends the
//! recovery, unless the caller lets it count as damaged; in that case the store is asked for it
//! once more before anything is written.
//!
//! **Epoch:** higher than any in the archive by a margin, because the lost device may have been
//! opened more often than its archive knows.

mod reading;
mod search;

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::archive::object::ObjectId;
use crate::archive::service::ArchiveService;
use crate::bdev::SharedBdev;
use crate::dma::BLOCK_BYTES;
use crate::log::reader::LsnRange;
use crate::log::recovery::{ContinueLog, finish_continuing};
use crate::log::{CreateLog, Environment, Lsn, SegmentSeq};
use crate::volume::archiving::{AnchorPolicy, ArchivePolicy, KnownObjects};
use crate::volume::catalog::{Catalog, CatalogImage, Cut, Ownership};
use crate::volume::error::VolumeError;
use crate::volume::image::image_ids;
use crate::volume::info::ImageParent;
use crate::volume::manage::open::PoolOptions;
use crate::volume::pool::Pool;
use crate::volume::space::capacity::capacity_blocks;
use reading::Unreadable;
pub use reading::WAY_WITHOUT_UNREADABLE;
use search::{RecoveryPoint, Search};

/// The input of a recovery.
pub struct RecoverFrom {
    /// The archive.
    pub service: Box<dyn ArchiveService>,
    /// How the pool uses the archive from now on.
    pub policy: ArchivePolicy,
    /// The objects in the archive.
    pub known: KnownObjects,
    /// The pool.
    pub pool: Uuid,
    /// The claim for the recovered pool's log.
    pub ownership: Ownership,
    /// Takes over the archive: called with the end of the recovery point after everything is
    /// written except the superblocks. If it fails, the recovery ends, and the device is blank.
    pub take_over: Option<TakeOver>,
    /// Whether objects that the store fails to return count as damaged. Otherwise they end the
    /// recovery.
    pub leaves_out_unreadable: bool,
}

impl RecoverFrom {
    /// A recovery from an archive that has no owners.
    pub fn unowned(
        service: Box<dyn ArchiveService>,
        policy: ArchivePolicy,
        known: KnownObjects,
        pool: Uuid,
    ) -> Self {
        RecoverFrom {
            service,
            policy,
            known,
            pool,
            ownership: Ownership::default(),
            take_over: None,
            leaves_out_unreadable: false,
        }
    }
}

/// Makes the recovery the owner of the archive. Objects that end at or before the position belong
/// to its history. It blocks.
pub type TakeOver = Box<dyn FnOnce(Lsn) -> Result<(), VolumeError>>;

/// The result of a recovery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecoveryReport {
    /// The pool.
    pub pool: Uuid,
    /// The recovery point: every volume has its state at this LSN.
    pub recovery_point_lsn: u64,
    /// Its time.
    pub recovery_point_time_ns: u64,
    /// The volumes.
    pub volumes: Vec<String>,
    /// Snapshots.
    pub snapshots: u64,
    /// Segments with at least one object in the archive.
    pub archived_segments: u64,
    /// Objects that are unreadable or damaged, and why. The newest are left out; for earlier ones,
    /// the entries are unknown.
    pub damaged_objects: Vec<String>,
    /// Ranges of the log whose entries are unknown, because their objects are damaged or never had
    /// them. Blocks of the volumes that may have been written there, and not since, read as errors.
    #[serde(default)]
    pub lost: Vec<LsnRange>,
    /// Points that are not certain because of that: those in the ranges, and later ones whose
    /// window includes them.
    #[serde(default)]
    pub uncertain_points: Vec<LsnRange>,
    /// Ranges of the log after the recovery point that are at least partly in the archive: data
    /// before them is missing or unreadable.
    #[serde(default)]
    pub left_out: Vec<LsnRange>,
}

impl Pool {
    /// Recovers a pool from its archive to a blank device.
    ///
    /// # Errors
    /// The device is not blank or too small; the archive holds no readable data of the pool.
    pub async fn recover(
        device: SharedBdev,
        environment: Environment,
        request: CreateLog,
        options: PoolOptions,
        from: RecoverFrom,
    ) -> Result<(Rc<Self>, RecoveryReport), VolumeError> {
        let RecoverFrom { service, policy, known, pool: uuid, ownership, take_over, .. } = from;
        let all: Vec<ObjectId> = known.ids().collect();
        let search = Search {
            pool: uuid,
            device: &device,
            environment: &environment,
            request,
            options,
            // Nothing is stored or deleted before the archive is taken over.
            policy: ArchivePolicy { anchors: AnchorPolicy::Never, ..policy },
            unreadable: Unreadable::new(from.leaves_out_unreadable),
            damaged_objects: Vec::new(),
            lost: Vec::new(),
        };
        let RecoveryPoint { pool, continued, at, mut lost, damaged_objects } =
            search.run(service, known).await?;
        let mut catalog = Rc::clone(&pool).turning(pool.find_catalog(at.lsn)).await?.catalog;
        lost.sort_unstable_by_key(|range| (range.start, range.end));
        pool.continue_catalog(&mut catalog, &continued, &lost, ownership)?;
        pool.check_fits(&catalog)?;
        pool.renew_images(&mut catalog, at.lsn, &continued)?;
        let report = RecoveryReport {
            pool: uuid,
            recovery_point_lsn: at.lsn.0,
            recovery_point_time_ns: at.time_ns,
            volumes: catalog.volumes.iter().map(|volume| volume.name.clone()).collect(),
            snapshots: catalog.snapshots.len() as u64,
            archived_segments: pool.archive_status().map_or(0, |status| status.segments),
            damaged_objects,
            uncertain_points: pool.uncertain_points(&lost, at.lsn),
            lost,
            left_out: left_out(&all, continued.end_lsn),
        };
        let lsn = pool
            .change(|now, _| {
                *now = catalog.clone();
                Ok(())
            })
            .await?;
        pool.drive_until_stable(lsn.plus(1)).await?;
        if let Some(take_over) = take_over {
            take_over(continued.end_lsn)?;
        }
        let continued = ContinueLog { created_ns: catalog.created_ns, ..continued };
        let geometry = pool.log.borrow().geometry();
        finish_continuing(&device, &environment, geometry, continued).await?;
        Ok((pool, report))
    }
}

impl Pool {
    /// Closes a pool whose turns nothing else runs: writes what is open and records that the stop
    /// was clean.
    ///
    /// # Errors
    /// A failed pool.
    pub async fn close_recovered(self: Rc<Self>) -> Result<(), VolumeError> {
        Rc::clone(&self).turning(self.close()).await
    }
}

impl Pool {
    /// Changes the catalog of the recovery point to that of the log that continues there.
    ///
    /// # Errors
    /// It does not say what its points need.
    fn continue_catalog(
        &self,
        catalog: &mut Catalog,
        continued: &ContinueLog,
        lost: &[LsnRange],
        ownership: Ownership,
    ) -> Result<(), VolumeError> {
        let working_set = self.log.borrow().geometry().working_set;
        if catalog.working_sets.is_empty() {
            return Err(VolumeError::Archive {
                reason:
                    "the archive is of a pool that did not record its working set; it cannot be recovered by this version: use the version of varve that made it"
                        .to_owned(),
            });
        }
        let cut = Cut {
            sequence: SegmentSeq(continued.first.0 - 1),
            end_lsn: continued.end_lsn,
            epoch: continued.epoch,
        };
        catalog.go_on_after(cut, continued.first, working_set, lost);
        catalog.set_ownership(match ownership.rehearsal_lsn {
            Some(_) => Ownership { rehearsal_lsn: Some(continued.end_lsn), ..ownership },
            None => ownership,
        });
        Ok(())
    }

    /// Checks that the device has room for the volumes.
    ///
    /// # Errors
    /// It does not.
    fn check_fits(&self, catalog: &Catalog) -> Result<(), VolumeError> {
        let geometry = self.log.borrow().geometry();
        let reserved: u64 =
            catalog.volumes.iter().filter(|volume| !volume.thin).map(|volume| volume.size_blocks).sum();
        let capacity = capacity_blocks(&geometry, catalog.overprovisioning_percent);
        if reserved > capacity {
            let mib = |blocks: u64| (blocks * BLOCK_BYTES as u64) >> 20;
            return Err(VolumeError::NoSpace {
                reason: format!(
                    "the volumes need {} MiB and this device holds {} MiB of live data; recover onto a larger one (--pool-size)",
                    mib(reserved),
                    mib(capacity)
                ),
            });
        }
        Ok(())
    }

    /// Gives each volume a new image that inherits from its old one at the recovery point.
    ///
    /// # Errors
    /// No image id is left.
    fn renew_images(
        &self,
        catalog: &mut Catalog,
        at: Lsn,
        continued: &ContinueLog,
    ) -> Result<(), VolumeError> {
        // The new image of a session's clone has no entries, but inherits what hosts wrote.
        catalog.doubt_sessions();
        let parents: Vec<u32> = catalog.volumes.iter().map(|volume| volume.image).collect();
        for image in parents {
            let id = image_ids::take_for_recovery(catalog, self.format_version())?;
            let parent = Some(ImageParent { image, lsn: at.0 });
            // The inherited data of a clone of the past was not on the lost device either.
            let hydrating = catalog.image(image).is_none_or(|image| !image.inherits() || image.hydrating);
            catalog.add_image(CatalogImage {
                id,
                parent,
                born_lsn: continued.end_lsn.0 - 1,
                hydrated_lsn: None,
                hydrating,
                uncertain_below: 0,
                resident: None,
                begun_blocks: None,
            });
            catalog.change_volume_of_image(image, |volume| volume.image = id);
        }
        Ok(())
    }

    /// The points, up to `newest`, that are uncertain because of ranges without entries.
    fn uncertain_points(&self, lost: &[LsnRange], newest: Lsn) -> Vec<LsnRange> {
        let geometry = self.log.borrow().geometry();
        let mut points: Vec<LsnRange> = Vec::new();
        for range in lost {
            let last = geometry.sequence_of(Lsn(range.end.0.saturating_sub(1)));
            let behind = SegmentSeq(last.0 + self.working_set_at(last) + 1);
            let end = geometry.first_lsn(behind).min(newest.plus(1)).max(range.end);
            match points.last_mut() {
                Some(known) if known.end >= range.start => known.end = known.end.max(end),
                _ => points.push(LsnRange { start: range.start, end }),
            }
        }
        points
    }
}

/// The ranges of objects that extend beyond a position, as few as possible.
fn left_out(ids: &[ObjectId], end_lsn: Lsn) -> Vec<LsnRange> {
    let after = ids.iter().filter(|id| id.to_lsn > end_lsn);
    let mut ranges: Vec<LsnRange> =
        after.map(|id| LsnRange { start: id.from_lsn.max(end_lsn), end: id.to_lsn }).collect();
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut merged: Vec<LsnRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}
