//! Expiry: deletes from the store the objects that no kept point needs, as far as the clocks and
//! the pace allow.
//!
//! **States of an archived segment:** kept → (the plan releases it) forgotten by the pool → its
//! objects deleted, oldest segment first. Only objects that the pool has forgotten are deleted, and
//! the pool forgets only for a plan that is still valid (see
//! [`Pool::forget_archived`](crate::volume::Pool::forget_archived)).
//!
//! **A crash in between** must not leave a part of a segment that looks like a complete segment. So
//! the objects of a segment are deleted in an order in which the rest is never mistaken for the
//! whole: first the objects of earlier epochs, then the parts from the first to the last, and
//! the whole object last.
//!
//! **Never because of a single clock reading:** the ends of retention are compared with the earlier
//! of the machine's time and the log's time. Nothing expires while the machine's clock is ahead and
//! no operator has confirmed it, and never more at once than the module `pace` allows. Scheduled
//! expiry does not run in the first minutes after a start (`expirer`).
//!
//! **Bounds:** one expiry at a time; one call deletes at most about the requested number of
//! objects, so that it ends in bounded time. Cost: one listing of the store, one plan, one delete
//! for each object.

use std::sync::{PoisonError, TryLockError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::error::{ManageError, failed};
use super::manager::ArchiveManager;
use super::pace::per_hour;
use crate::archive::object::ObjectId;
use crate::archive::retention::{Plan, SegmentRange, plan};
use crate::archive::service::StopFlag;
use crate::archive::store::StoreErrorKind;
use crate::log::{Lsn, SegmentSeq};
use crate::volume::{Forgotten, Lineage, VolumeError, clock_problem};

/// How many objects one call deletes by default.
pub(crate) const EXPIRE_OBJECTS_DEFAULT: usize = 1000;
/// How many times a plan is made before the call gives up because the pool keeps changing.
const PLANS_MAX: usize = 5;

/// The answer of `archive_expire`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryReport {
    /// Archived segments that nothing needs, before the call.
    pub expirable_segments: u64,
    /// Their objects.
    pub expirable_objects: u64,
    /// The bytes of these objects.
    pub expirable_bytes: u64,
    /// Segments that stay.
    pub kept_segments: u64,
    /// Objects that this call deleted; 0 in a dry run.
    pub deleted_objects: u64,
    /// The bytes of these.
    pub deleted_bytes: u64,
    /// Synchs that can no longer be restored.
    pub expired_synchs: u64,
    /// Deletes do not free space in the store, as on tape.
    pub room_is_kept: bool,
    /// How many segments may expire in an hour; `None`: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments_per_hour: Option<u64>,
    /// Objects that the store failed to delete. They no longer belong to the pool, and the next
    /// start tries again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_objects: u64,
    /// The reason of the first failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Why some or all expirable objects were not deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// The parameters of an expiry.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ExpiryRequest {
    /// Only report what would be deleted.
    pub(crate) dry_run: bool,
    /// The approximate maximum of objects; segments are deleted whole.
    pub(crate) objects_max: usize,
    /// The operator wants everything expirable deleted now, whatever the amount.
    pub(crate) all: bool,
}

/// How much may be deleted.
#[derive(Clone, Copy)]
enum Amount {
    /// What the pace allows.
    Paced,
    /// Everything that the plan releases.
    All,
}

/// What expiry needs from the pool, on whatever thread it runs.
pub trait ExpiryPool {
    /// The input of the retention rules.
    ///
    /// # Errors
    /// There is no pool, or it does not answer.
    fn lineage(&self) -> Result<Lineage, ManageError>;
    /// See [`Pool::forget_archived`](crate::volume::Pool::forget_archived).
    ///
    /// # Errors
    /// The same as [`lineage`](Self::lineage), and those of the pool.
    fn forget(&self, ranges: Vec<SegmentRange>, change_lsn: Lsn) -> Result<Forgotten, ManageError>;
}

/// An object and its size.
type Doomed = (ObjectId, u64);

impl ArchiveManager {
    /// Deletes what the rules release, as far as the clocks and the pace allow. The report says why
    /// the rest was not deleted.
    ///
    /// # Errors
    /// As [`expire`](Self::expire).
    pub(crate) fn expire_carefully(
        &self,
        pool: &dyn ExpiryPool,
        request: ExpiryRequest,
        stop: &StopFlag,
    ) -> Result<ExpiryReport, ManageError> {
        let clock = pool.lineage()?.clock;
        let held = clock_problem(&clock, true).filter(|_| clock.holds_expiry());
        let dry_run = request.dry_run || held.is_some();
        let amount = if request.all { Amount::All } else { Amount::Paced };
        let mut report =
            self.carry_out(pool, clock.retention_ns(), dry_run, request.objects_max, amount, stop)?;
        report.held = held.or(report.held);
        Ok(report)
    }

    /// Deletes what the rules release at `now_ns` (ns since the Unix epoch): whole segments, about
    /// `objects_max` objects at most. With `dry_run` it only reports what would be deleted. The
    /// caller is responsible for the time: it is not checked here.
    ///
    /// # Errors
    /// An expiry is running; the store failed; the pool kept changing while the plan was made.
    pub fn expire(
        &self,
        pool: &dyn ExpiryPool,
        now_ns: u64,
        dry_run: bool,
        objects_max: usize,
        stop: &StopFlag,
    ) -> Result<ExpiryReport, ManageError> {
        self.carry_out(pool, now_ns, dry_run, objects_max, Amount::All, stop)
    }

    fn carry_out(
        &self,
        pool: &dyn ExpiryPool,
        now_ns: u64,
        dry_run: bool,
        objects_max: usize,
        amount: Amount,
        stop: &StopFlag,
    ) -> Result<ExpiryReport, ManageError> {
        let _alone = match self.expiring.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let reason = "an expiry of the archive is under way; try again when it has ended".to_owned();
                return Err(VolumeError::Busy { reason }.into());
            }
        };
        for _ in 0..PLANS_MAX {
            let lineage = pool.lineage()?;
            let (plan, objects) = self.plan(&lineage, now_ns)?;
            let mut report = self.describe(&plan, &objects);
            if dry_run || objects.is_empty() {
                return Ok(report);
            }
            let segments_max = self.segments_allowed(amount, &mut report);
            if segments_max == 0 {
                return Ok(report);
            }
            let (ranges, doomed) = first_segments(&plan, objects, objects_max, segments_max);
            let count: u64 = ranges.iter().map(SegmentRange::count).sum();
            let forgotten = match pool.forget(ranges, lineage.change_lsn) {
                Ok(forgotten) => forgotten,
                Err(ManageError::Volume(VolumeError::Busy { .. })) => continue,
                Err(error) => return Err(error),
            };
            report.expired_synchs = forgotten.synchs.len() as u64;
            // Deletions that an operator requested without a limit count too.
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.spend(count, report.kept_segments + report.expirable_segments, Instant::now());
            drop(pace);
            self.delete(&doomed, &forgotten, &mut report, stop)?;
            return Ok(report);
        }
        let reason =
            "the pool was changed again and again while the expiry was planned; try again later".to_owned();
        Err(VolumeError::Busy { reason }.into())
    }

    /// How many segments may be deleted now; the report says why the others must wait.
    fn segments_allowed(&self, amount: Amount, report: &mut ExpiryReport) -> u64 {
        let Amount::Paced = amount else { return u64::MAX };
        let segments = report.kept_segments + report.expirable_segments;
        let hourly = per_hour(segments) as u64;
        report.segments_per_hour = Some(hourly);
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let allowed = pace.allowed(segments, now);
        if allowed < report.expirable_segments {
            let minutes = pace.wait(now).as_secs().div_ceil(60).max(1);
            let next =
                if allowed == 0 { format!("; the next may go in {minutes} min") } else { String::new() };
            report.held = Some(format!(
                "of {} segments that could go at most {hourly} go in an hour{next}; `varve archive expire --all` does not wait",
                report.expirable_segments
            ));
        }
        allowed
    }

    /// The plan under the current rules, and the objects of the segments to delete, in the order of
    /// deletion.
    fn plan(&self, lineage: &Lineage, now_ns: u64) -> Result<(Plan, Vec<Doomed>), ManageError> {
        let (catalog, segments) = self.archived(lineage)?;
        let working_set = |sequence| lineage.working_set(sequence);
        let plan = plan(&self.keep(), now_ns, &lineage.view(&segments, &working_set));
        let mut objects: Vec<Doomed> = Vec::new();
        let mut ranges = plan.expirable().peekable();
        let visited = catalog.for_each_object(|row| {
            let sequence = row.id.sequence;
            while ranges.next_if(|range| range.last < sequence).is_some() {}
            if ranges.peek().is_some_and(|range| range.first <= sequence) {
                objects.push((row.id, row.len_bytes));
            }
        });
        visited.map_err(failed)?;
        drop(ranges);
        objects.sort_unstable_by_key(|(id, _)| (id.sequence, id.epoch, id.whole, id.from_lsn, id.to_lsn));
        Ok((plan, objects))
    }

    fn describe(&self, plan: &Plan, objects: &[Doomed]) -> ExpiryReport {
        let expirable_segments = plan.expirable().map(|range| range.count()).sum();
        let all: u64 = plan.runs().iter().map(|run| run.segments.count()).sum();
        ExpiryReport {
            expirable_segments,
            expirable_objects: objects.len() as u64,
            expirable_bytes: objects.iter().map(|(_, len_bytes)| len_bytes).sum(),
            kept_segments: all - expirable_segments,
            room_is_kept: !self.store().capabilities().reclaims_space,
            ..ExpiryReport::default()
        }
    }

    fn delete(
        &self,
        doomed: &[Doomed],
        forgotten: &Forgotten,
        report: &mut ExpiryReport,
        stop: &StopFlag,
    ) -> Result<(), ManageError> {
        // Mark the objects in the catalog before deleting them: an object that is missing in the
        // store without this mark counts as lost.
        let ids: Vec<ObjectId> = doomed.iter().map(|(id, _)| *id).collect();
        {
            let catalog = self.catalog()?;
            catalog.let_go(&ids).map_err(failed)?;
            catalog.sync().map_err(failed)?;
        }
        let names = ids.iter().map(ObjectId::name).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        self.store().announce_deletes(&names).map_err(failed)?;
        for ((id, len_bytes), name) in doomed.iter().zip(&names) {
            if stop.is_set() {
                // The next plan deletes the rest.
                break;
            }
            match self.store().delete(name) {
                Ok(()) => {}
                Err(error) if error.kind == StoreErrorKind::NotFound => {}
                // One failed delete does not stop the others.
                Err(error) if error.kind != StoreErrorKind::Overtaken => {
                    report.failed_objects += 1;
                    report.failure.get_or_insert_with(|| error.to_string());
                    continue;
                }
                Err(error) => return Err(failed(error)),
            }
            // Repeat the mark, because a listing of the store may have restored the object. One
            // object at a time, because the archivist's notes go to the same file.
            self.catalog()?.let_go(&[*id]).map_err(failed)?;
            report.deleted_objects += 1;
            report.deleted_bytes += len_bytes;
        }
        let catalog = self.catalog()?;
        for &lsn in &forgotten.synchs {
            catalog.forget_synch(Lsn(lsn)).map_err(failed)?;
        }
        catalog.sync().map_err(failed)
    }
}

/// The oldest segments to delete, and their objects: at most `segments_max` segments, and no
/// further segment once there are `objects_max` objects.
fn first_segments(
    plan: &Plan,
    mut objects: Vec<Doomed>,
    objects_max: usize,
    segments_max: u64,
) -> (Vec<SegmentRange>, Vec<Doomed>) {
    let by_objects: Option<SegmentSeq> = objects.get(objects_max.max(1) - 1).map(|(id, _)| id.sequence);
    let mut left = segments_max;
    let by_segments = plan.expirable().find_map(|range| {
        let fits = left.checked_sub(range.count());
        let last = SegmentSeq(range.first.0.saturating_add(left).saturating_sub(1));
        left = fits.unwrap_or(0);
        // If `left` ends exactly at the end of a range, the next range returns the limit.
        fits.is_none().then_some(last)
    });
    let Some(last) = by_objects.into_iter().chain(by_segments).min() else {
        return (plan.expirable().collect(), objects);
    };
    objects.retain(|(id, _)| id.sequence <= last);
    let ranges = plan.expirable().take_while(|range| range.first <= last);
    (ranges.map(|range| SegmentRange { last: range.last.min(last), ..range }).collect(), objects)
}
