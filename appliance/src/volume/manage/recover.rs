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

use std::collections::BTreeSet;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::archive::object::ObjectId;
use crate::archive::service::{ArchiveError, ArchiveService, Reply, Request};
use crate::bdev::SharedBdev;
use crate::dma::BLOCK_BYTES;
use crate::log::reader::{LsnRange, SegmentEntries};
use crate::log::recovery::{ContinueLog, begin_continuing, finish_continuing};
use crate::log::{CreateLog, Environment, Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::archive::{ArchivePolicy, KnownObjects};
use crate::volume::catalog::{Catalog, CatalogImage, Cut, Ownership};
use crate::volume::error::VolumeError;
use crate::volume::image::image_ids;
use crate::volume::info::ImageParent;
use crate::volume::manage::open::{PoolOptions, zeroes};
use crate::volume::pool::Pool;
use crate::volume::space::capacity::capacity_blocks;

/// How many times a request is repeated if the store may succeed later.
const TRIES_MAX: u32 = 20;
/// The margin between the highest epoch in the archive and the new epoch.
const EPOCH_MARGIN: u32 = 1 << 16;

/// The advice about an object that the store fails to return.
pub const WAY_WITHOUT_UNREADABLE: &str =
    "If that does not end, --leave-out-unreadable recovers without what cannot be read";

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
        let RecoverFrom { mut service, policy, mut known, pool: uuid, ownership, take_over, .. } = from;
        let mut unreadable = Unreadable { counts_as_damaged: from.leaves_out_unreadable, ids: Vec::new() };
        let all: Vec<ObjectId> = known.ids().collect();
        let mut damaged_objects = Vec::new();
        let mut lost: Vec<LsnRange> = Vec::new();
        let mut rounds = 0;
        known.drop_stale();
        // Nothing permanent is written until the end is known: a log that is only started leaves
        // the device blank.
        let (pool, continued, at) = loop {
            let Some(newest) = newest(&known) else {
                return Err(VolumeError::Archive {
                    reason: format!(
                        "nothing of pool {uuid} in {} can be read; bring back its objects, or name another copy of the archive with --from",
                        service.store().label()
                    ),
                });
            };
            let last_time_ns = match entries_and_end(&mut *service, newest, &mut unreadable).await? {
                Ok(front) => front.last_time_ns,
                Err(reason) => {
                    tracing::warn!(reason, "the newest object cannot be read; the one before it is taken");
                    damaged_objects.push(reason);
                    known.drop_newest();
                    continue;
                }
            };
            let epoch = known.ids().map(|id| id.epoch).max().unwrap_or(0);
            let continued = ContinueLog {
                pool: uuid,
                first: newest.sequence.next(),
                end_lsn: newest.to_lsn,
                epoch: epoch.saturating_add(EPOCH_MARGIN),
                created_ns: 0,
                last_time_ns,
            };
            let log = begin_continuing(device.clone(), environment.clone(), request, continued).await?;
            let pool = Pool::new(log, zeroes(&environment).await?);
            pool.set_recycling(options.recycling);
            pool.attach_archive(service, policy, known, Vec::new())?;
            pool.state.borrow_mut().catalog.set_lost(&lost);
            // Nothing else runs the pool's turns during a recovery.
            let found = Rc::clone(&pool).turning(async {
                let at = pool.boundary(Lsn(newest.to_lsn.0 - 1)).await?;
                Ok::<_, VolumeError>((at, pool.catalog_at(at.lsn).await?))
            });
            let found = found.await;
            let Some((mut again, mut objects)) = pool.detach_archive() else {
                unreachable!("it was attached above")
            };
            let (at, catalog) = match found {
                Ok(found) => found,
                Err(VolumeError::NoSuchPoint { reason, .. }) => {
                    tracing::warn!(
                        reason,
                        "what is before the newest object is missing; the object before it is taken"
                    );
                    objects.drop_newest();
                    (service, known) = (again, objects);
                    continue;
                }
                Err(error @ (VolumeError::Archive { .. } | VolumeError::ArchiveAway { .. })) => {
                    // The cause is an object on the way there, or the store.
                    let ids: Vec<ObjectId> = objects.ids().collect();
                    let ids = ids.into_iter().rev().filter(|id| !covers(&lost, &range_of(id)));
                    match first_damage(&mut *again, ids, &mut unreadable).await? {
                        Some(damage) => {
                            damaged_objects.push(damage.reason);
                            lost.push(damage.range);
                        }
                        // It answers again.
                        None if matches!(error, VolumeError::ArchiveAway { .. }) && rounds < TRIES_MAX => {
                            rounds += 1;
                        }
                        None if matches!(error, VolumeError::ArchiveAway { .. }) => return Err(error),
                        // Entries are readable, but the blocks of the catalog are not: there is no
                        // catalog before the newest object.
                        None => {
                            tracing::warn!(%error, "the catalog cannot be read; the object before the newest one is taken");
                            damaged_objects.push(error.to_string());
                            objects.drop_newest();
                        }
                    }
                    (service, known) = (again, objects);
                    continue;
                }
                Err(error) => return Err(error),
            };
            pool.state.borrow_mut().catalog.set_working_sets(&catalog.working_sets);
            let working_set = pool.working_set_at(newest.sequence);
            let before = objects.ids().count();
            objects.apply(&catalog.cuts);
            // A segment was being archived when the device was lost, and later segments were
            // archived already: the state after it is unknown.
            if objects.cut_at_hole(working_set, &catalog.cuts) || objects.ids().count() < before {
                (service, known) = (again, objects);
                continue;
            }
            let ids: Vec<ObjectId> = pool
                .needed_at(&catalog, newest.sequence)
                .into_iter()
                .flat_map(|sequence| objects.parts(sequence))
                .filter(|id| !covers(&lost, &range_of(id)))
                .collect();
            for id in ids {
                match entries(&mut *again, id, &mut unreadable).await? {
                    Ok(front) => lost.extend(front.holes),
                    Err(reason) => {
                        tracing::warn!(reason, "an object is damaged; what it alone knew is lost");
                        damaged_objects.push(reason);
                        lost.push(range_of(&id));
                    }
                }
            }
            unreadable.check_again(&mut *again).await?;
            pool.attach_archive(again, policy, objects, Vec::new())?;
            pool.state.borrow_mut().catalog.set_lost(&lost);
            break (pool, continued, at);
        };
        let mut catalog = Rc::clone(&pool).turning(pool.catalog_at(at.lsn)).await?;
        let working_set = pool.log.borrow().geometry().working_set;
        if catalog.working_sets.is_empty() {
            return Err(VolumeError::Archive {
                reason:
                    "the archive is of a pool that did not record its working set; it cannot be recovered by this version: use the version of varve that made it"
                        .to_owned(),
            });
        }
        catalog.working_sets.push((continued.first, working_set));
        catalog.working_set_target = None;
        lost.sort_unstable_by_key(|range| (range.start, range.end));
        let known_lost = catalog.lost.clone();
        catalog.lost.extend(lost.iter().copied().filter(|range| !covers(&known_lost, range)));
        catalog.archived_below = continued.first;
        catalog.ownership = match ownership.rehearsal_lsn {
            Some(_) => Ownership { rehearsal_lsn: Some(continued.end_lsn), ..ownership },
            None => ownership,
        };
        catalog.cuts.push(Cut {
            sequence: SegmentSeq(continued.first.0 - 1),
            end_lsn: continued.end_lsn,
            epoch: continued.epoch,
        });
        let geometry = pool.log.borrow().geometry();
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
        let parents: Vec<u32> = catalog.volumes.iter().map(|volume| volume.image).collect();
        for image in parents {
            let id = image_ids::take_for_recovery(&mut catalog, pool.format_version())?;
            let parent = Some(ImageParent { image, lsn: at.lsn.0 });
            // The inherited data of a clone of the past was not on the lost device either.
            let hydrating = catalog.image(image).is_none_or(|image| !image.inherits() || image.hydrating);
            catalog.images.push(CatalogImage {
                id,
                parent,
                born_lsn: continued.end_lsn.0 - 1,
                hydrated_lsn: None,
                hydrating,
                uncertain_below: 0,
                resident: None,
            });
            catalog.volumes.change(|volume| volume.image == image, |volume| volume.image = id);
        }
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
    /// The segments that determine the state of all volumes at the end of a segment: the window
    /// that ends there, and for each image those of its ancestors.
    fn needed_at(&self, catalog: &Catalog, newest: SegmentSeq) -> BTreeSet<SegmentSeq> {
        let geometry = self.log.borrow().geometry();
        let parents = catalog.images.iter().filter_map(|image| image.parent);
        let ends = parents.map(|parent| geometry.sequence_of(Lsn(parent.lsn))).chain([newest]);
        let windows = ends.map(|end| (end.0.saturating_sub(self.working_set_at(end)), end.0));
        windows.flat_map(|(first, last)| (first..=last).map(SegmentSeq)).collect()
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

/// The front of an object.
struct Front {
    /// The time of its last record.
    last_time_ns: u64,
    /// Ranges that the object does not have.
    holes: Vec<LsnRange>,
}

/// An object whose entries are unreadable.
struct Damaged {
    range: LsnRange,
    reason: String,
}

/// Objects that the store fails to return, however often it is asked.
struct Unreadable {
    /// Whether they count as damaged; otherwise they end the recovery.
    counts_as_damaged: bool,
    ids: Vec<ObjectId>,
}

impl Unreadable {
    /// Asks for all of them once more. So data that is left out permanently was unavailable twice,
    /// with the whole recovery in between.
    ///
    /// # Errors
    /// One of them can be read now.
    async fn check_again(&self, service: &mut dyn ArchiveService) -> Result<(), VolumeError> {
        for &id in &self.ids {
            let reply = ask(service, 1, &|| Request::Entries { token: 0, id }).await;
            if let Ok(Reply::Entries { result: Ok(_), .. }) = reply {
                let store = service.store().label();
                let name = id.name().map_or_else(|error| error.to_string(), |name| name.to_string());
                return Err(VolumeError::Archive {
                    reason: format!(
                        "{store} gives {name} after all, which it did not before; nothing was made, run it again"
                    ),
                });
            }
        }
        Ok(())
    }

    /// Handles one such object.
    fn note(&mut self, id: ObjectId, reason: String) -> Result<String, VolumeError> {
        if !self.counts_as_damaged {
            return Err(VolumeError::Archive {
                reason: format!("{reason} ({TRIES_MAX} tries). {WAY_WITHOUT_UNREADABLE}"),
            });
        }
        self.ids.push(id);
        Ok(reason)
    }
}

/// The first object in a list whose entries are damaged.
async fn first_damage(
    service: &mut dyn ArchiveService,
    ids: impl Iterator<Item = ObjectId>,
    unreadable: &mut Unreadable,
) -> Result<Option<Damaged>, VolumeError> {
    for id in ids {
        if let Err(reason) = entries(service, id, unreadable).await? {
            return Ok(Some(Damaged { range: range_of(&id), reason }));
        }
    }
    Ok(None)
}

/// The range of an object.
fn range_of(id: &ObjectId) -> LsnRange {
    LsnRange { start: id.from_lsn, end: id.to_lsn }
}

/// Whether one of the ranges covers another one.
fn covers(ranges: &[LsnRange], range: &LsnRange) -> bool {
    ranges.iter().any(|known| known.start <= range.start && known.end >= range.end)
}

/// The newest object for which everything before it in its segment is there.
fn newest(known: &KnownObjects) -> Option<ObjectId> {
    let (sequence, _, end_lsn) = known.newest()?;
    known.ids().filter(|id| id.sequence == sequence && id.to_lsn == end_lsn).last()
}

/// Reads an object's entries: returns its front, or why they are unreadable.
async fn entries(
    service: &mut dyn ArchiveService,
    id: ObjectId,
    unreadable: &mut Unreadable,
) -> Result<Result<Front, String>, VolumeError> {
    match ask(service, TRIES_MAX, &|| Request::Entries { token: 0, id }).await {
        Ok(Reply::Entries { result: Ok(entries), .. }) => {
            let records = SegmentEntries::new(entries.units.clone());
            let last_ns = records.records().next_back().map_or(0, |(line, _)| line.time_ns());
            Ok(Ok(Front {
                last_time_ns: last_ns.max(entries.header.opened_ns),
                holes: entries.holes.clone(),
            }))
        }
        Ok(Reply::Entries { result: Err(error), .. }) => Ok(Err(error.to_string())),
        Ok(_) => unreachable!("a reply is of its request's kind"),
        Err(reason) => unreadable.note(id, reason).map(Err),
    }
}

/// The same for the object with which a recovery ends. Its entries are at its beginning, so its end
/// must be checked too; otherwise it may be cut off, and its blocks would be unreadable.
async fn entries_and_end(
    service: &mut dyn ArchiveService,
    id: ObjectId,
    unreadable: &mut Unreadable,
) -> Result<Result<Front, String>, VolumeError> {
    let front = entries(service, id, unreadable).await?;
    if front.is_err() {
        return Ok(front);
    }
    let lsn = Lsn(id.to_lsn.0 - 1);
    match ask(service, TRIES_MAX, &|| Request::Blocks { token: 0, id, lsn }).await {
        Ok(Reply::Blocks { result: Err(error), .. }) => Ok(Err(error.to_string())),
        Ok(_) => Ok(front),
        Err(reason) => unreadable.note(id, reason).map(Err),
    }
}

/// Requests a part of an object, and repeats the request while the store may succeed later, with
/// `tries_max` tries at most. The error is the store's reason after the last try.
async fn ask(
    service: &mut dyn ArchiveService,
    tries_max: u32,
    make: &dyn Fn() -> Request,
) -> Result<Reply, String> {
    let mut request = Some(make());
    let mut tries = 1;
    let mut replies = Vec::new();
    loop {
        if let Some(taken) = request.take() {
            request = service.submit(taken).err();
        }
        service.poll(&mut replies);
        if let Some(reply) = replies.pop() {
            let (Reply::Entries { result: Err(error), .. } | Reply::Blocks { result: Err(error), .. }) =
                &reply
            else {
                return Ok(reply);
            };
            match error {
                ArchiveError::Store { retry: true, .. } if tries < tries_max => {
                    tries += 1;
                    request = Some(make());
                }
                ArchiveError::Store { retry: true, store, reason } => {
                    return Err(format!("{store}: {reason}"));
                }
                _ => return Ok(reply),
            }
            continue;
        }
        yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_this_margin,
        EPOCH_MARGIN => "has the greatest epoch of the archive plus {}",
    );
}
