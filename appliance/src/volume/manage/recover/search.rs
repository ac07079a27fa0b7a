//! Finds the point up to which an archive can be recovered.
//!
//! **States:** the newest object is tried → (it, or what is before it, cannot be used) an object
//! less, or a range of losses more, is tried again → the recovery point. Each round either ends the
//! search, or makes the list of objects shorter or that of losses longer, except for
//! [`ROUNDS_MAX`] rounds in which the store did not answer.
//!
//! **Invariant:** nothing permanent is written. A log that is only started leaves the device blank.

use std::collections::BTreeSet;
use std::rc::Rc;

use uuid::Uuid;

use super::reading::{Unreadable, covers, entries, entries_and_end, first_damage, range_of};
use crate::archive::object::ObjectId;
use crate::archive::service::ArchiveService;
use crate::bdev::SharedBdev;
use crate::log::reader::LsnRange;
use crate::log::recovery::{ContinueLog, begin_continuing};
use crate::log::{CreateLog, Environment, Lsn, SegmentSeq};
use crate::volume::archiving::{ArchivePolicy, KnownObjects};
use crate::volume::catalog::Catalog;
use crate::volume::error::VolumeError;
use crate::volume::history::past::Boundary;
use crate::volume::history::synch_table::SynchTable;
use crate::volume::manage::open::{PoolOptions, zeroes};
use crate::volume::pool::Pool;

/// How many rounds are repeated because the store did not answer.
const ROUNDS_MAX: u32 = 20;
/// The margin between the highest epoch in the archive and the new epoch.
const EPOCH_MARGIN: u32 = 1 << 16;

/// The search. See the module's documentation.
pub(super) struct Search<'a> {
    /// The pool.
    pub(super) pool: Uuid,
    pub(super) device: &'a SharedBdev,
    pub(super) environment: &'a Environment,
    pub(super) request: CreateLog,
    pub(super) options: PoolOptions,
    pub(super) policy: ArchivePolicy,
    /// What the store failed to return.
    pub(super) unreadable: Unreadable,
    /// Objects that are unreadable or damaged, and why.
    pub(super) damaged_objects: Vec<String>,
    /// The ranges whose entries are unknown.
    pub(super) lost: Vec<LsnRange>,
}

/// Where a pool is recovered.
pub(super) struct RecoveryPoint {
    /// The pool with the archive attached, and a log that is only started.
    pub(super) pool: Rc<Pool>,
    /// Where its log continues.
    pub(super) continued: ContinueLog,
    /// The recovery point.
    pub(super) at: Boundary,
    /// The ranges whose entries are unknown.
    pub(super) lost: Vec<LsnRange>,
    /// Objects that are unreadable or damaged, and why.
    pub(super) damaged_objects: Vec<String>,
}

impl Search<'_> {
    /// Finds the recovery point.
    ///
    /// # Errors
    /// Nothing of the pool can be read, or the store fails.
    pub(super) async fn run(
        mut self,
        mut service: Box<dyn ArchiveService>,
        mut known: KnownObjects,
    ) -> Result<RecoveryPoint, VolumeError> {
        let mut rounds = 0;
        known.drop_stale();
        loop {
            let Some(newest) = newest(&known) else { return Err(self.nothing_left(&*service)) };
            let last_time_ns = match entries_and_end(&mut *service, newest, &mut self.unreadable).await? {
                Ok(front) => front.last_time_ns,
                Err(reason) => {
                    tracing::warn!(reason, "the newest object cannot be read; the one before it is taken");
                    self.damaged_objects.push(reason);
                    known.drop_newest();
                    continue;
                }
            };
            let continued = self.continued(newest, last_time_ns, &known);
            let pool = self.begin(continued).await?;
            pool.attach_archive(service, self.policy, known, SynchTable::default())?;
            pool.state.borrow_mut().catalog.set_lost(&self.lost);
            // Nothing else runs the pool's turns during a recovery.
            let found = Rc::clone(&pool).turning(async {
                let at = pool.boundary(Lsn(newest.to_lsn.0 - 1)).await?;
                Ok::<_, VolumeError>((at, pool.find_catalog(at.lsn).await?.catalog))
            });
            let found = found.await;
            let Some(detached) = pool.detach_archive() else { unreachable!("it was attached above") };
            (service, known) = detached;
            let (at, catalog) = match found {
                Ok(found) => found,
                Err(error) => {
                    self.step_back(error, &mut *service, &mut known, &mut rounds).await?;
                    continue;
                }
            };
            pool.state.borrow_mut().catalog.set_working_sets(&catalog.working_sets);
            if cut_off(&pool, &catalog, newest, &mut known) {
                continue;
            }
            self.look_at_window(&pool, &catalog, newest, &mut *service, &known).await?;
            self.unreadable.check_again(&mut *service).await?;
            pool.attach_archive(service, self.policy, known, SynchTable::default())?;
            pool.state.borrow_mut().catalog.set_lost(&self.lost);
            let Search { lost, damaged_objects, .. } = self;
            return Ok(RecoveryPoint { pool, continued, at, lost, damaged_objects });
        }
    }

    fn nothing_left(&self, service: &dyn ArchiveService) -> VolumeError {
        VolumeError::Archive {
            reason: format!(
                "nothing of pool {} in {} can be read; bring back its objects, or name another copy of the archive with --from",
                self.pool,
                service.store().label()
            ),
        }
    }

    /// Where the log continues if `newest` is the last object.
    fn continued(&self, newest: ObjectId, last_time_ns: u64, known: &KnownObjects) -> ContinueLog {
        let epoch = known.ids().map(|id| id.epoch).max().unwrap_or(0);
        ContinueLog {
            pool: self.pool,
            first: newest.sequence.next(),
            end_lsn: newest.to_lsn,
            epoch: epoch.saturating_add(EPOCH_MARGIN),
            created_ns: 0,
            last_time_ns,
        }
    }

    /// A pool on a log that is only started.
    async fn begin(&self, continued: ContinueLog) -> Result<Rc<Pool>, VolumeError> {
        let log =
            begin_continuing(self.device.clone(), self.environment.clone(), self.request, continued).await?;
        let pool = Pool::new(log, zeroes(self.environment).await?);
        pool.set_recycling(self.options.recycling);
        Ok(pool)
    }

    /// The catalog at the newest object cannot be read: an object less, or a loss more.
    ///
    /// # Errors
    /// `error`, if another round would not help.
    async fn step_back(
        &mut self,
        error: VolumeError,
        service: &mut dyn ArchiveService,
        known: &mut KnownObjects,
        rounds: &mut u32,
    ) -> Result<(), VolumeError> {
        let is_away = match &error {
            VolumeError::NoSuchPoint { reason, .. } => {
                tracing::warn!(
                    reason,
                    "what is before the newest object is missing; the object before it is taken"
                );
                known.drop_newest();
                return Ok(());
            }
            VolumeError::Archive { .. } => false,
            VolumeError::ArchiveAway { .. } => true,
            _ => return Err(error),
        };
        // The cause is an object on the way there, or the store.
        let ids: Vec<ObjectId> = known.ids().collect();
        let ids = ids.into_iter().rev().filter(|id| !covers(&self.lost, &range_of(id)));
        match first_damage(service, ids, &mut self.unreadable).await? {
            Some(damage) => {
                self.damaged_objects.push(damage.reason);
                self.lost.push(damage.range);
            }
            // It answers again.
            None if is_away && *rounds < ROUNDS_MAX => *rounds += 1,
            None if is_away => return Err(error),
            // Entries are readable, but the blocks of the catalog are not: there is no catalog
            // before the newest object.
            None => {
                tracing::warn!(%error, "the catalog cannot be read; the object before the newest one is taken");
                self.damaged_objects.push(error.to_string());
                known.drop_newest();
            }
        }
        Ok(())
    }

    /// Reads the entries that determine the state of all volumes; what cannot be read is lost.
    async fn look_at_window(
        &mut self,
        pool: &Pool,
        catalog: &Catalog,
        newest: ObjectId,
        service: &mut dyn ArchiveService,
        known: &KnownObjects,
    ) -> Result<(), VolumeError> {
        let ids: Vec<ObjectId> = needed_at(pool, catalog, newest.sequence)
            .into_iter()
            .flat_map(|sequence| known.parts(sequence))
            .filter(|id| !covers(&self.lost, &range_of(id)))
            .collect();
        for id in ids {
            match entries(service, id, &mut self.unreadable).await? {
                Ok(front) => self.lost.extend(front.holes),
                Err(reason) => {
                    tracing::warn!(reason, "an object is damaged; what it alone knew is lost");
                    self.damaged_objects.push(reason);
                    self.lost.push(range_of(&id));
                }
            }
        }
        Ok(())
    }
}

/// Drops objects that earlier recoveries cut off, and those after a segment that is not whole: it
/// was being archived when the device was lost, and later segments were archived already, so the
/// state after it is unknown. Returns whether anything was dropped.
fn cut_off(pool: &Pool, catalog: &Catalog, newest: ObjectId, known: &mut KnownObjects) -> bool {
    let working_set = pool.working_set_at(newest.sequence);
    let before = known.ids().count();
    known.apply(&catalog.cuts);
    known.cut_at_hole(working_set, &catalog.cuts) || known.ids().count() < before
}

/// The newest object for which everything before it in its segment is there.
fn newest(known: &KnownObjects) -> Option<ObjectId> {
    let (sequence, _, end_lsn) = known.newest()?;
    known.ids().filter(|id| id.sequence == sequence && id.to_lsn == end_lsn).last()
}

/// The segments that determine the state of all volumes at the end of a segment: the window
/// that ends there, and for each image those of its ancestors.
fn needed_at(pool: &Pool, catalog: &Catalog, newest: SegmentSeq) -> BTreeSet<SegmentSeq> {
    let geometry = pool.log.borrow().geometry();
    let parents = catalog.images.iter().filter_map(|image| image.parent);
    let ends = parents.map(|parent| geometry.sequence_of(Lsn(parent.lsn))).chain([newest]);
    let windows = ends.map(|end| (end.0.saturating_sub(pool.working_set_at(end)), end.0));
    windows.flat_map(|(first, last)| (first..=last).map(SegmentSeq)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_this_margin,
        EPOCH_MARGIN => "has the greatest epoch of the archive plus {}",
    );
}
