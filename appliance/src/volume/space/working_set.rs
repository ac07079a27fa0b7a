//! The operations of the management plane on the pool's geometry: the length of the working set,
//! and new slots on the device.

use std::ops::RangeInclusive;
use std::rc::Rc;

use crate::dma::BLOCK_BYTES;
use crate::log::geometry::RESERVE_SLOTS;
use crate::log::{Geometry, Log, Lsn, Recycling, SegmentSeq, recovery};
use crate::reactor::yield_now;
use crate::volume::catalog::reach;
use crate::volume::error::VolumeError;
use crate::volume::info::PoolInfo;
use crate::volume::pool::Pool;
use crate::volume::pool::state::State;
use crate::volume::space::capacity::capacity_blocks;
use crate::volume::space::reshaping::{Change, write};

/// The minimum working set, in segments.
pub const WORKING_SET_MIN: u64 = 2;
/// How many times another length is requested if another change replaces it.
const TRIES_MAX: usize = 4;
/// How many turns an operation waits for a change in progress before it gives up.
const BUSY_TURNS_MAX: usize = 10_000_000;

impl State {
    /// Refuses a working set that is too short for what the pool has promised.
    fn check_working_set(&self, segments: u64, log: &Log) -> Result<(), VolumeError> {
        let geometry = log.geometry();
        let longest = geometry.slots.saturating_sub(RESERVE_SLOTS);
        let invalid = |reason| Err(VolumeError::Invalid { what: "length of the working set", reason });
        if !(WORKING_SET_MIN..=longest).contains(&segments) {
            return invalid(format!(
                "{segments} segments; it must have {WORKING_SET_MIN} to {longest}: the device has {} slots, and {RESERVE_SLOTS} are kept for segments on their way out. \
                 `varve pool grow` uses a device that has become larger",
                geometry.slots
            ));
        }
        if segments >= geometry.working_set {
            return Ok(());
        }
        if log.recycling() == Recycling::Never {
            return if log.fits_within(segments) {
                Ok(())
            } else {
                invalid("this pool gives no segment away, and its log is longer than that already".to_owned())
            };
        }
        let percent = self.catalog.overprovisioning_percent;
        let holds = |segments| capacity_blocks(&Geometry { working_set: segments, ..geometry }, percent);
        let needed = self.taken_blocks(log);
        if needed > holds(segments) {
            let least = (segments..geometry.working_set).find(|&more| holds(more) >= needed);
            let mib = |blocks: u64| (blocks * BLOCK_BYTES as u64).div_ceil(1 << 20);
            return Err(VolumeError::NoSpace {
                reason: format!(
                    "volumes and clones need {} MiB, and a working set of {segments} segments holds {} MiB at {percent} % over-provisioning; {}",
                    mib(needed),
                    (holds(segments) * BLOCK_BYTES as u64) >> 20,
                    least.map_or("it cannot be shorter than it is".to_owned(), |least| format!(
                        "the shortest that is possible has {least}"
                    )),
                ),
            });
        }
        Ok(())
    }
}

impl Pool {
    /// Changes the length of the working set (R12). A longer one takes effect with the next segment
    /// when this returns. A shorter one becomes the target: copy-forward moves the live data out of
    /// the segments in between while hosts continue to write, and [`Pool::info`] reports when it is
    /// in force; a restart continues. Setting the present length cancels a target.
    ///
    /// # Errors
    /// Fewer than [`WORKING_SET_MIN`] segments, or more than the device has slots for; too few for
    /// what volumes and clones need; a failed pool or device. The length is unchanged.
    pub async fn set_working_set(self: Rc<Self>, segments: u64) -> Result<PoolInfo, VolumeError> {
        for _ in 0..TRIES_MAX {
            self.try_set_working_set(segments).await?;
            let info = self.info();
            // An earlier target may have been reached in the meantime, and have replaced this
            // length.
            if info.working_set_target_segments.unwrap_or(info.working_set_segments) == segments {
                return Ok(info);
            }
        }
        let reason = "others change the working set at the same time; see `varve pool list`, and try again";
        Err(VolumeError::Busy { reason: reason.to_owned() })
    }

    async fn try_set_working_set(&self, segments: u64) -> Result<(), VolumeError> {
        self.reshaping_idle().await?;
        let now = {
            let (mut state, log) = (self.state.borrow_mut(), self.log.borrow());
            state.check_working_set(segments, &log)?;
            let now = log.geometry().working_set;
            drop(log);
            if segments > now {
                state.reshaping.begin(Change::Longer(segments), &self.log);
            }
            now
        };
        if segments > now {
            self.reshaped().await?;
        } else {
            let lsn = self
                .change(|catalog, _| {
                    let (state, log) = (self.state.borrow(), self.log.borrow());
                    state.check_working_set(segments, &log)?;
                    let target = Some(segments).filter(|_| segments < log.geometry().working_set);
                    catalog.set_working_set_target(target);
                    Ok(())
                })
                .await?;
            self.state.borrow_mut().reshaping.forget_stuck();
            recovery::stable(&self.log, lsn.plus(1)).await?;
        }
        Ok(())
    }

    /// Uses new slots after the device has grown since the pool was made. They are free at once;
    /// the length of the working set does not change.
    ///
    /// # Errors
    /// The device holds no more slots; it failed.
    pub async fn grow(self: Rc<Self>) -> Result<PoolInfo, VolumeError> {
        self.reshaping_idle().await?;
        {
            let mut state = self.state.borrow_mut();
            let (slots, possible) = {
                let log = self.log.borrow();
                (log.geometry().slots, device_slots(&log))
            };
            if possible <= slots {
                let reason = format!(
                    "the device has room for {possible} slots, and the pool has {slots}; enlarge the device, restart the appliance so that it sees the new size, and try again"
                );
                return Err(VolumeError::NoSpace { reason });
            }
            state.reshaping.begin(Change::Slots(possible), &self.log);
        }
        self.reshaped().await?;
        Ok(self.info())
    }

    /// Waits until no change is in progress.
    pub(in crate::volume) async fn reshaping_idle(&self) -> Result<(), VolumeError> {
        for _ in 0..BUSY_TURNS_MAX {
            if self.state.borrow().reshaping.is_idle() {
                // A start that has not written its superblocks yet would write them over those of a
                // change.
                return if self.log.borrow().is_beginning() {
                    let reason = "the device has no room; writes wait until it has";
                    Err(VolumeError::Busy { reason: reason.to_owned() })
                } else {
                    Ok(())
                };
            }
            yield_now().await;
        }
        let reason = "a change of the pool's shape is under way, and takes long; `varve pool list` shows when it is in force";
        Err(VolumeError::Busy { reason: reason.to_owned() })
    }

    /// Waits for the end of the change that the caller began.
    async fn reshaped(&self) -> Result<(), VolumeError> {
        self.reshaping_idle().await?;
        self.state.borrow_mut().reshaping.take_failure().map_or(Ok(()), Err)
    }

    /// Uses the length of the working set in the catalog, and corrects superblocks that a crash
    /// left unchanged. The pool is being opened; nothing runs its turns.
    pub(in crate::volume) async fn adopt_working_set(&self) -> Result<(), VolumeError> {
        let (told, geometry) = {
            let state = self.state.borrow();
            let told = state.catalog.working_sets.last().map(|(_, segments)| *segments);
            (told, self.log.borrow().geometry())
        };
        // A pool of an older version did not record its original length.
        let segments = told.unwrap_or(geometry.working_set);
        let (device, environment) = {
            let log = self.log.borrow();
            (log.device().clone(), log.environment().clone())
        };
        // Check both copies: a crash may have come between them, and the newer one may be damaged
        // one day.
        let copies = recovery::read_superblocks(&device, &environment).await?;
        let shape = (segments, geometry.slots);
        if copies.iter().flatten().all(|copy| (copy.working_set, copy.slots) == shape) {
            return Ok(());
        }
        if !(1..geometry.slots).contains(&segments) {
            self.note_problem(format!(
                "the catalog says that the working set has {segments} segments, which {} slots do not hold; {} are taken",
                geometry.slots, geometry.working_set
            ));
            return Ok(());
        }
        if self.log.borrow().is_beginning() {
            let reason = "the device has no room, and a change of the pool's shape that was cut off must be written first: make room, and start again";
            return Err(VolumeError::Busy { reason: reason.to_owned() });
        }
        write(&self.log, Geometry { working_set: segments, ..geometry }).await?;
        self.log.borrow_mut().set_working_set(segments);
        self.note_problem(format!(
            "superblocks: a change of the pool's shape was cut off; all copies were written again, for a working set of {segments} segments and {} slots",
            geometry.slots
        ));
        Ok(())
    }

    /// How many segments before its own a point in a segment needs: the present catalog knows all
    /// changes.
    pub(in crate::volume) fn working_set_at(&self, sequence: SegmentSeq) -> u64 {
        let changes = &self.state.borrow().catalog.working_sets;
        reach(changes, sequence).unwrap_or_else(|| self.log.borrow().geometry().working_set)
    }

    /// The segments of which entries count for a point: the W+1 that end at `up_to`, without those
    /// that have none after `above`.
    pub(in crate::volume) fn segments_between(&self, above: Lsn, up_to: Lsn) -> RangeInclusive<u64> {
        let geometry = self.log.borrow().geometry();
        let newest = geometry.sequence_of(up_to);
        let oldest = newest.0.saturating_sub(self.working_set_at(newest));
        oldest.max(geometry.sequence_of(above.plus(1)).0).min(newest.0)..=newest.0
    }

    /// The LSN before the segments that determine the state at a point: the W+1 that end there.
    pub(in crate::volume) fn window_before(&self, at: Lsn) -> Lsn {
        let geometry = self.log.borrow().geometry();
        let newest = geometry.sequence_of(at);
        let oldest = newest.0.saturating_sub(self.working_set_at(newest));
        Lsn(geometry.first_lsn(SegmentSeq(oldest)).0.saturating_sub(1))
    }
}

/// How many slots the device holds.
pub(in crate::volume) fn device_slots(log: &Log) -> u64 {
    let geometry = log.geometry();
    let len_blocks = log.device().info().len_blocks;
    let fitting = Geometry::fit_version(log.format_version(), len_blocks, geometry.segment_blocks);
    fitting.map_or(geometry.slots, |fitting| fitting.slots.max(geometry.slots))
}
