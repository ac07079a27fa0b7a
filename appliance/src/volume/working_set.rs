//! The length of the working set, changed while the pool is used (R12, R13), and slots that are new on the device.
//!
//! **What is needed of the past.** Let segment k be opened under W(k): the log opened it when every segment before k-W(k) was inactive. So at a point in k everything live is in the segments from k-W(k) on; and as what is
//! inactive stays so, it is also in the segments from j-W(j) on, for every j before k. Hence a point in k needs the segments from the greatest of all j-W(j) on, and no others: [`reach`]. That is W+1
//! segments while W does not change. After growing from W1 to W2 at segment s it is W1+2 segments in s, one more in each segment behind it, and W2+1 in the end: never a segment that
//! nothing needed before, and that may have been discarded or expired since. After shrinking at s it is W2+1 segments from s on, because the change is in force only once that is so.
//!
//! **Growing** is in force from the next segment on. **Shrinking** has a target, which stands in the catalog, so that a restart goes on. Copy-forward drains what the target would put out, paced; when everything live
//! is within it, the change is in force from the next segment on.
//!
//! **States:** idle → (growing: superblocks → catalog → stable; shrinking: catalog → stable → superblocks; more slots: superblocks) → idle.
//!
//! **Invariant, and crashes.** The superblocks never tell a shorter working set than one under which a segment was opened that recovery may find: recovery reads as far as they say. The catalog is what
//! counts for the rest: [`Pool::open`] takes the length that it says, and brings superblocks into line that a crash left behind.
//!
//! **Bounds:** [`CHANGES_MAX`] changes are remembered.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::capacity::capacity_blocks;
use super::catalog::Catalog;
use super::error::VolumeError;
use super::info::PoolInfo;
use super::pool::{Pool, State};
use crate::dma::BLOCK_BYTES;
use crate::log::geometry::RESERVE_SLOTS;
use crate::log::{AppendError, Geometry, Log, LogError, Lsn, Recycling, SegmentSeq, SharedLog, recovery};
use crate::reactor::yield_now;

/// The shortest working set, in segments.
pub const WORKING_SET_MIN: u64 = 2;
/// The most changes that are remembered. Beyond them the two oldest count as one of the longer length.
const CHANGES_MAX: usize = 128;
/// How often another length is asked for when another change takes its place.
const TRIES_MAX: usize = 4;
/// How often something under way is waited for before an operation gives up.
const BUSY_TURNS_MAX: usize = 10_000_000;

/// How many segments before its own a point in `sequence` needs; `None` when no length was in force there. See the module's documentation.
pub(super) fn reach(changes: &[(SegmentSeq, u64)], sequence: SegmentSeq) -> Option<u64> {
    let in_force = changes.iter().enumerate().take_while(|(_, (since, _))| *since <= sequence);
    let oldest = in_force.filter_map(|(index, &(since, segments))| {
        // The last segment that was opened under it, so far.
        let last =
            changes.get(index + 1).map_or(sequence.0, |next| sequence.0.min(next.0.0.saturating_sub(1)));
        (last >= since.0).then(|| last.saturating_sub(segments))
    });
    oldest.max().map(|oldest| sequence.0 - oldest)
}

impl Catalog {
    /// Notes that the working set has `segments` segments from segment `from` on, and `before` until then.
    fn change_working_set(&mut self, before: u64, from: SegmentSeq, segments: u64) {
        if self.working_sets.is_empty() {
            self.working_sets.push((SegmentSeq(0), before));
        }
        self.working_sets.retain(|(since, _)| *since < from);
        self.working_sets.push((from, segments));
        if self.working_sets.len() > CHANGES_MAX {
            let (since, segments) = self.working_sets.remove(0);
            let next = &mut self.working_sets[0];
            *next = (since, segments.max(next.1));
        }
        self.working_set_target = None;
    }
}

/// Superblocks on their way to the device.
type Writing = Pin<Box<dyn Future<Output = Result<(), LogError>>>>;

/// What is to be changed.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// A longer working set.
    Longer(u64),
    /// A shorter one; it is in force already.
    Shorter,
    /// So many slots.
    Slots(u64),
}

#[derive(Default)]
enum Work {
    #[default]
    Idle,
    /// Both superblocks are being written.
    Writing(Change, Writing),
    /// A longer working set waits for room for its catalog.
    Recording(u64),
    /// The catalog that says what is in force becomes stable; whether the superblocks are to follow.
    Settling(Lsn, bool),
}

/// A change of the pool's shape that is under way. See the module's documentation.
#[derive(Default)]
pub(super) struct Reshaping {
    work: Work,
    /// Why the last change failed.
    failure: Option<VolumeError>,
    /// A target that cannot be recorded; it is tried again after the next start.
    stuck: Option<u64>,
}

impl Reshaping {
    fn is_idle(&self) -> bool {
        matches!(self.work, Work::Idle)
    }

    fn begin(&mut self, change: Change, log: &SharedLog) {
        let mut geometry = log.borrow().geometry();
        match change {
            Change::Longer(segments) => geometry.working_set = segments,
            Change::Slots(slots) => geometry.slots = slots,
            Change::Shorter => {}
        }
        self.failure = None;
        self.work = Work::Writing(change, write(log, geometry));
    }

    /// One turn. Returns how much was done.
    pub(super) fn poll(&mut self, state: &mut State, shared: &SharedLog) -> usize {
        match &mut self.work {
            Work::Idle => {
                let target = state.catalog.working_set_target.filter(|&target| self.stuck != Some(target));
                let mut log = shared.borrow_mut();
                let Some(target) = target else {
                    log.hold_next_segment(false);
                    return 0;
                };
                let fits = log.fits_within(target);
                // Before the first segment since start nothing is known to leave, and nothing may keep it from being opened.
                let is_drained = log.current_sequence().is_some()
                    && log.recycling() != Recycling::Never
                    && log.leaving_blocks(target) == 0;
                log.hold_next_segment(is_drained && !fits);
                // A command in two parts is not parted.
                if !fits || log.poisoned().is_some() || state.is_in_the_middle() {
                    return 0;
                }
                match record(state, &mut log, target) {
                    Ok(lsn) => self.work = Work::Settling(lsn, true),
                    Err(AppendError::Busy) => return 0,
                    Err(error) => {
                        self.stuck = Some(target);
                        state.note_problem(format!("the shorter working set cannot be recorded: {error}"));
                    }
                }
                1
            }
            Work::Settling(lsn, superblocks_follow) => {
                let (lsn, superblocks_follow) = (*lsn, *superblocks_follow);
                let (is_stable, poisoned) = {
                    let log = shared.borrow();
                    (log.stable_lsn() > lsn, log.poisoned().map(ToString::to_string))
                };
                if let Some(reason) = poisoned {
                    self.failure = Some(VolumeError::Failed { reason });
                    self.work = Work::Idle;
                } else if is_stable && superblocks_follow {
                    self.begin(Change::Shorter, shared);
                } else if is_stable {
                    self.work = Work::Idle;
                }
                usize::from(is_stable)
            }
            Work::Writing(change, future) => {
                let change = *change;
                let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
                else {
                    return 0;
                };
                self.work = Work::Idle;
                match (result, change) {
                    (Ok(()), Change::Longer(segments)) => self.work = Work::Recording(segments),
                    (Ok(()), Change::Slots(slots)) => shared.borrow_mut().grow_slots(slots),
                    (Ok(()), Change::Shorter) => {}
                    // It is in force; superblocks that tell a longer one only let the next start read more, and it writes them again.
                    (Err(error), Change::Shorter) => {
                        state.note_problem(format!("the superblocks could not be written: {error}"));
                    }
                    (Err(error), Change::Longer(_) | Change::Slots(_)) => self.failure = Some(error.into()),
                }
                1
            }
            Work::Recording(segments) => {
                let segments = *segments;
                if state.is_in_the_middle() {
                    return 0;
                }
                match record(state, &mut shared.borrow_mut(), segments) {
                    Ok(lsn) => self.work = Work::Settling(lsn, false),
                    Err(AppendError::Busy) => return 0,
                    Err(error) => {
                        self.failure = Some(error.into());
                        self.work = Work::Idle;
                    }
                }
                1
            }
        }
    }
}

/// Writes both superblocks with a shape.
fn write(log: &SharedLog, geometry: Geometry) -> Writing {
    let log = log.borrow();
    let (device, environment, epoch) = (log.device().clone(), log.environment().clone(), log.epoch());
    Box::pin(async move { recovery::write_shape(&device, &environment, epoch, geometry).await })
}

/// Records another length in the catalog and puts it in force, both from the next segment on. Returns the catalog's position.
fn record(state: &mut State, log: &mut Log, segments: u64) -> Result<Lsn, AppendError> {
    let (before, from) = (log.geometry().working_set, log.table().next_sequence());
    let mut catalog = state.catalog.clone();
    catalog.change_working_set(before, from, segments);
    // This may open the next segment already, still under the old length; the new one holds of it all the same.
    let lsn = state.append_catalog(log, catalog)?;
    log.request_stable(lsn.plus(1));
    log.set_working_set(segments);
    tracing::info!(segments, before, from = from.0, "the working set has another length");
    Ok(lsn)
}

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
    /// Changes the length of the working set (R12). A longer one is in force from the next segment on when this returns. A shorter one becomes the target: copy-forward moves what is live
    /// out of the segments in between, hosts' writes going on, and [`Pool::info`] tells when it is in force; a restart goes on with it. The present length ends the way to a target.
    ///
    /// # Errors
    /// Fewer than [`WORKING_SET_MIN`] segments, or more than the device has slots for; too few for what volumes and clones need; a failed pool or device. The length is as before then.
    pub async fn set_working_set(self: Rc<Self>, segments: u64) -> Result<PoolInfo, VolumeError> {
        for _ in 0..TRIES_MAX {
            self.try_set_working_set(segments).await?;
            let info = self.info();
            // The way to an earlier target may have ended meanwhile, and taken its place again.
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
                    catalog.working_set_target =
                        Some(segments).filter(|_| segments < log.geometry().working_set);
                    Ok(())
                })
                .await?;
            self.state.borrow_mut().reshaping.stuck = None;
            recovery::stable(&self.log, lsn.plus(1)).await?;
        }
        Ok(())
    }

    /// Uses slots that are new because the device has become larger since the pool was made. They are free at once; the length of the working set stays.
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

    /// Waits until no change is under way.
    pub(super) async fn reshaping_idle(&self) -> Result<(), VolumeError> {
        for _ in 0..BUSY_TURNS_MAX {
            if self.state.borrow().reshaping.is_idle() {
                // A start that has not written its superblocks yet would write them over what a change writes.
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
        self.state.borrow_mut().reshaping.failure.take().map_or(Ok(()), Err)
    }

    /// Takes the length of the working set that the catalog says, and brings superblocks into line that a crash left behind. The pool is being opened; nobody turns it.
    pub(super) async fn adopt_working_set(&self) -> Result<(), VolumeError> {
        let (told, geometry) = {
            let state = self.state.borrow();
            let told = state.catalog.working_sets.last().map(|(_, segments)| *segments);
            (told, self.log.borrow().geometry())
        };
        // A pool of an older version did not record the length that it was made with.
        let segments = told.unwrap_or(geometry.working_set);
        let (device, environment) = {
            let log = self.log.borrow();
            (log.device().clone(), log.environment().clone())
        };
        // Both copies: a crash may have come between them, and the newer one may be damaged one day.
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

    /// How many segments before its own a point in a segment needs: the present catalog knows all changes.
    pub(super) fn working_set_at(&self, sequence: SegmentSeq) -> u64 {
        let changes = &self.state.borrow().catalog.working_sets;
        reach(changes, sequence).unwrap_or_else(|| self.log.borrow().geometry().working_set)
    }
}

/// How many slots the device holds.
pub(super) fn device_slots(log: &Log) -> u64 {
    let geometry = log.geometry();
    let len_blocks = log.device().info().len_blocks;
    let fitting = Geometry::fit_version(log.format_version(), len_blocks, geometry.segment_blocks);
    fitting.map_or(geometry.slots, |fitting| fitting.slots.max(geometry.slots))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn change(from: u64, segments: u64) -> (SegmentSeq, u64) {
        (SegmentSeq(from), segments)
    }

    #[test]
    fn a_point_needs_what_was_live_then() {
        let reaches = |changes: &[(SegmentSeq, u64)], range: std::ops::Range<u64>| -> Vec<u64> {
            range.filter_map(|sequence| reach(changes, SegmentSeq(sequence))).collect()
        };
        assert_eq!(reach(&[], SegmentSeq(9)), None);
        assert_eq!(reaches(&[change(0, 3)], 0..6), [0, 1, 2, 3, 3, 3]);
        // Longer: one segment more with each segment. Shorter: at once.
        assert_eq!(reaches(&[change(0, 3), change(10, 6)], 8..15), [3, 3, 4, 5, 6, 6, 6]);
        assert_eq!(reaches(&[change(0, 6), change(10, 3)], 8..12), [6, 6, 3, 3]);
        // Longer and shorter again before it had grown; and what was replaced before it was in force.
        assert_eq!(reaches(&[change(0, 3), change(10, 6), change(11, 4)], 9..14), [3, 4, 4, 4, 4]);
        assert_eq!(reaches(&[change(0, 9), change(0, 3)], 10..12), [3, 3]);
    }

    #[test]
    fn only_so_many_changes_are_remembered() {
        let mut catalog = Catalog::default();
        for sequence in 1..1000 {
            catalog.change_working_set(7, SegmentSeq(10 * sequence), 3 + sequence % 5);
        }
        assert_eq!(catalog.working_sets.len(), CHANGES_MAX);
        assert_eq!(catalog.working_sets[0], change(0, 7));
        assert_eq!(catalog.working_sets[CHANGES_MAX - 1], change(9990, 3 + 999 % 5));
        catalog.change_working_set(0, SegmentSeq(9990), 2);
        assert_eq!(catalog.working_sets.last(), Some(&change(9990, 2)));
    }
}
