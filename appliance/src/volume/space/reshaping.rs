//! A change of the pool's geometry in progress: the length of the working set, changed while the
//! pool is used (R12, R13), and new slots on the device. See `catalog::working_sets` for how a
//! length of the working set affects points of the past.
//!
//! **Growing** takes effect with the next segment. **Shrinking** has a target, which is stored in
//! the catalog, so that it continues after a restart. Copy-forward drains the live data outside the
//! target, paced; when all live data is within the target, the change takes effect with the next
//! segment.
//!
//! **States:** idle → (growing: superblocks → catalog → stable; shrinking: catalog → stable →
//! superblocks; more slots: superblocks) → idle.
//!
//! **Invariant, and crashes.** The superblocks never contain a shorter working set than one under
//! which a segment was opened that recovery may find, because recovery reads as far as they say.
//! For everything else the catalog counts: [`Pool::open`](crate::volume::Pool::open) uses the
//! length in the catalog, and corrects superblocks that a crash left unchanged.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::log::{AppendError, Geometry, Log, LogError, Lsn, Recycling, SharedLog, recovery};
use crate::volume::catalog::{Catalog, PresentCatalog};
use crate::volume::error::VolumeError;
use crate::volume::problems::Problems;

/// A write of the superblocks in progress.
type Writing = Pin<Box<dyn Future<Output = Result<(), LogError>>>>;

/// The change to make.
#[derive(Debug, Clone, Copy)]
pub(in crate::volume) enum Change {
    /// A longer working set.
    Longer(u64),
    /// A shorter one; it is already in force.
    Shorter,
    /// This many slots.
    Slots(u64),
}

#[derive(Default)]
enum ReshapingStep {
    #[default]
    Idle,
    /// Both superblocks are being written.
    Writing(Change, Writing),
    /// A longer working set waits for room for its catalog.
    Recording(u64),
    /// The catalog with the length in force is becoming stable. The flag says whether the
    /// superblocks must follow.
    Settling(Lsn, bool),
}

/// A change of the pool's geometry in progress. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Reshaping {
    work: ReshapingStep,
    /// Why the last change failed.
    failure: Option<VolumeError>,
    /// A target that cannot be recorded; it is tried again after the next start.
    stuck: Option<u64>,
}

impl Reshaping {
    /// Whether no change is in progress.
    pub(in crate::volume) fn is_idle(&self) -> bool {
        matches!(self.work, ReshapingStep::Idle)
    }

    /// Starts a change. None may be in progress.
    pub(in crate::volume) fn begin(&mut self, change: Change, log: &SharedLog) {
        assert!(self.is_idle(), "changes of the shape follow each other");
        let mut geometry = log.borrow().geometry();
        match change {
            Change::Longer(segments) => geometry.working_set = segments,
            Change::Slots(slots) => geometry.slots = slots,
            Change::Shorter => {}
        }
        self.failure = None;
        self.work = ReshapingStep::Writing(change, write(log, geometry));
    }

    /// Takes the reason why the last change failed.
    pub(in crate::volume) fn take_failure(&mut self) -> Option<VolumeError> {
        self.failure.take()
    }

    /// Notes that another target was set: it is recorded when everything is within it.
    pub(in crate::volume) fn forget_stuck(&mut self) {
        self.stuck = None;
    }

    /// One turn. Returns how much was done.
    pub(in crate::volume) fn poll(
        &mut self,
        catalog: &mut PresentCatalog,
        problems: &mut Problems,
        is_in_the_middle: bool,
        shared: &SharedLog,
    ) -> usize {
        match &mut self.work {
            ReshapingStep::Idle => self.shorten(catalog, problems, is_in_the_middle, shared),
            ReshapingStep::Settling(lsn, superblocks_follow) => {
                let (lsn, superblocks_follow) = (*lsn, *superblocks_follow);
                self.settle(lsn, superblocks_follow, shared)
            }
            ReshapingStep::Writing(change, future) => {
                let change = *change;
                let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
                else {
                    return 0;
                };
                self.written(change, result, problems, shared);
                1
            }
            ReshapingStep::Recording(segments) => {
                let segments = *segments;
                if is_in_the_middle {
                    return 0;
                }
                match record(catalog, &mut shared.borrow_mut(), segments) {
                    Ok(lsn) => self.work = ReshapingStep::Settling(lsn, false),
                    Err(AppendError::Busy) => return 0,
                    Err(error) => {
                        self.failure = Some(error.into());
                        self.work = ReshapingStep::Idle;
                    }
                }
                1
            }
        }
    }

    /// Records a shorter working set once everything is within it, and keeps the next segment from
    /// being opened until then. Returns how much was done.
    fn shorten(
        &mut self,
        catalog: &mut PresentCatalog,
        problems: &mut Problems,
        is_in_the_middle: bool,
        shared: &SharedLog,
    ) -> usize {
        let target = catalog.working_set_target.filter(|&target| self.stuck != Some(target));
        let mut log = shared.borrow_mut();
        let Some(target) = target else {
            log.hold_next_segment(false);
            return 0;
        };
        let fits = log.fits_within(target);
        // Before the first segment since the start it is unknown what leaves, and nothing may
        // prevent it from being opened.
        let is_drained = log.current_sequence().is_some()
            && log.recycling() != Recycling::Never
            && log.leaving_blocks(target) == 0;
        log.hold_next_segment(is_drained && !fits);
        // A command in two parts must not be separated.
        if !fits || log.poisoned().is_some() || is_in_the_middle {
            return 0;
        }
        match record(catalog, &mut log, target) {
            Ok(lsn) => self.work = ReshapingStep::Settling(lsn, true),
            Err(AppendError::Busy) => return 0,
            Err(error) => {
                self.stuck = Some(target);
                problems.note(format!("the shorter working set cannot be recorded: {error}"));
            }
        }
        1
    }

    /// Goes on when the record of a change is stable. Returns how much was done.
    fn settle(&mut self, lsn: Lsn, superblocks_follow: bool, shared: &SharedLog) -> usize {
        let (is_stable, poisoned) = {
            let log = shared.borrow();
            (log.stable_lsn() > lsn, log.poisoned().map(ToString::to_string))
        };
        if let Some(reason) = poisoned {
            self.failure = Some(VolumeError::Failed { reason });
            self.work = ReshapingStep::Idle;
        } else if is_stable && superblocks_follow {
            self.work = ReshapingStep::Idle;
            self.begin(Change::Shorter, shared);
        } else if is_stable {
            self.work = ReshapingStep::Idle;
        }
        usize::from(is_stable)
    }

    /// Goes on when the superblocks are written, or cannot be.
    fn written(
        &mut self,
        change: Change,
        result: Result<(), LogError>,
        problems: &mut Problems,
        shared: &SharedLog,
    ) {
        self.work = ReshapingStep::Idle;
        match (result, change) {
            (Ok(()), Change::Longer(segments)) => self.work = ReshapingStep::Recording(segments),
            (Ok(()), Change::Slots(slots)) => shared.borrow_mut().grow_slots(slots),
            (Ok(()), Change::Shorter) => {}
            // The change is in force. Superblocks with a longer length only let the next start read
            // more, and it rewrites them.
            (Err(error), Change::Shorter) => {
                problems.note(format!("the superblocks could not be written: {error}"));
            }
            (Err(error), Change::Longer(_) | Change::Slots(_)) => self.failure = Some(error.into()),
        }
    }
}

/// Writes both superblocks with a geometry.
pub(in crate::volume) fn write(log: &SharedLog, geometry: Geometry) -> Writing {
    let log = log.borrow();
    let (device, environment, epoch) = (log.device().clone(), log.environment().clone(), log.epoch());
    Box::pin(async move { recovery::write_shape(&device, &environment, epoch, geometry).await })
}

/// Records another length in the catalog and puts it in force, both from the next segment on.
/// Returns the catalog's position.
fn record(present: &mut PresentCatalog, log: &mut Log, segments: u64) -> Result<Lsn, AppendError> {
    let (before, from) = (log.geometry().working_set, log.table().next_sequence());
    let mut catalog = Catalog::clone(present);
    catalog.change_working_set(before, from, segments);
    // This may already open the next segment, still under the old length; the new length is true of
    // it too.
    let lsn = present.append(log, catalog)?;
    log.request_stable(lsn.plus(1));
    log.set_working_set(segments);
    tracing::info!(segments, before, from = from.0, "the working set has another length");
    Ok(lsn)
}
