//! Expiry: the pool's part in deleting history that nothing needs (R31, R32).
//!
//! The plan is made elsewhere, from a copy of the pool's data; objects are deleted elsewhere too.
//! The pool checks that the plan is still valid, and forgets the segments.
//!
//! **Order:** plan from a [`Lineage`](crate::volume::Lineage) → the pool forgets the segments, if
//! nothing has changed since → their objects are deleted from the store, oldest first. A crash in
//! between leaves objects that the next start finds and the next plan releases again.
//!
//! **Race with a clone:** a clone of an old point may be made while a plan is executed. Before the
//! clone's change is added to the catalog, it checks
//! [`ArchiveSlot::expiries`](super::ArchiveSlot::expiries) again and starts over if something was
//! forgotten. After the change, the plan is out of date and refused.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::slot::no_archive;
use super::state::Archive;
use crate::archive::retention::SegmentRange;
use crate::log::{Log, Lsn, SegmentSeq};
use crate::volume::catalog::{longest_reach, reach};
use crate::volume::error::VolumeError;
use crate::volume::pool::Pool;
use crate::volume::pool::state::State;

/// What a pool has forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// How many segments.
    pub segments: u64,
    /// Positions of synchs that can no longer be restored.
    pub synchs: Vec<u64>,
}

impl Pool {
    /// Forgets archived segments that a plan releases, and the synchs that cannot be restored
    /// without them. `change_lsn` is that of the lineage from which the plan was made.
    ///
    /// # Errors
    /// [`VolumeError::Busy`]: the pool was changed since, and the plan must be made again. There is
    /// no archive. The plan would release segments that are still on the primary device.
    pub fn forget_archived(
        &self,
        ranges: &[SegmentRange],
        change_lsn: Lsn,
    ) -> Result<Forgotten, VolumeError> {
        let mut state = self.state.borrow_mut();
        let log = self.log.borrow();
        if state.catalog.change_lsn() != change_lsn {
            let reason = "the pool was changed while the archive's expiry was planned; try again".to_owned();
            return Err(VolumeError::Busy { reason });
        }
        let oldest_on_primary = log.table().on_device().next();
        if let Some(range) =
            ranges.iter().find(|range| oldest_on_primary.is_some_and(|oldest| range.last >= oldest))
        {
            let reason = format!("segments {range} are not all in the archive alone");
            return Err(VolumeError::Invalid { what: "segments to expire", reason });
        }
        let archive = state.archive.get_mut().ok_or_else(no_archive)?;
        archive.check_reached()?;
        let mut segments = 0;
        for &range in ranges {
            for id in archive.objects.ids_of(range) {
                archive.entries.forget(&id);
            }
            segments += archive.objects.forget(range);
        }
        state.archive.note_expiry();
        drop(log);
        let synchs = self.drop_lost_synchs(&mut state);
        self.drop_useless_anchors(&mut state);
        self.forget_gone_images(&mut state);
        Ok(Forgotten { segments, synchs })
    }

    /// Forgets deleted images without remaining points: nobody can ask any longer for what they
    /// inherited. The log's next segment begins with the shorter catalog; after a crash before
    /// that, the next expiry does it again.
    fn forget_gone_images(&self, state: &mut State) {
        let mut log = self.log.borrow_mut();
        let (geometry, there) = (log.geometry(), segments_there(state, &log));
        if let Err(error) = state.catalog.forget_gone_images(&mut log, &geometry, &there) {
            tracing::warn!(%error, "the next segment cannot begin with the shorter catalog");
        }
    }

    /// Drops synchs that cannot be restored because a segment that they need is gone, and returns
    /// their positions. A synch that a gap or a loss affects stays: opening it reports the reason.
    pub(super) fn drop_lost_synchs(&self, state: &mut State) -> Vec<u64> {
        let log = self.log.borrow();
        if state.archive.get().is_none_or(Archive::is_away) {
            return Vec::new();
        }
        let geometry = log.geometry();
        let gone = gone_segments(state, &log);
        let mut lost = Vec::new();
        let working_sets = &state.catalog.working_sets;
        let window_start = |last: SegmentSeq| {
            last.0.saturating_sub(reach(working_sets, last).unwrap_or(geometry.working_set))
        };
        let longest = longest_reach(working_sets).max(geometry.working_set);
        // The last hole that begins at or before the synch's segment reaches into its window, or
        // none does.
        let is_met = |last: SegmentSeq, first: u64| {
            let before = gone.partition_point(|range| range.first <= last);
            before > 0 && gone[before - 1].last.0 >= first
        };
        // Pages of synchs that no window of theirs can meet a hole are not looked at.
        let may_drop = |first: Lsn, last: Lsn| {
            let reach = geometry.sequence_of(first).0.saturating_sub(longest);
            is_met(geometry.sequence_of(last), reach)
        };
        state.synchs.retain(may_drop, |lsn| {
            let last = geometry.sequence_of(lsn);
            let is_lost = is_met(last, window_start(last));
            if is_lost {
                lost.push(lsn.0);
            }
            !is_lost
        });
        lost
    }

    /// Refuses a change if segments were forgotten since [`expiries`](Self::expiries) was
    /// `expiries`: what was looked up meanwhile may be gone. `doing` says what was done meanwhile.
    pub(in crate::volume) fn check_not_expired(
        &self,
        expiries: u64,
        doing: fmt::Arguments<'_>,
    ) -> Result<(), VolumeError> {
        if self.expiries() == expiries {
            return Ok(());
        }
        let reason = format!("parts of the archive expired while {doing}; try again");
        Err(VolumeError::Busy { reason })
    }

    /// How many times segments were forgotten since the start.
    pub(in crate::volume) fn expiries(&self) -> u64 {
        self.state.borrow().archive.expiries()
    }
}

impl Pool {
    /// Has the anchors deleted that help to open no point any more.
    pub(super) fn drop_useless_anchors(&self, state: &mut State) {
        let log = self.log.borrow();
        if state.catalog.ownership.rehearsal_lsn.is_some() {
            return;
        }
        let (geometry, gone) = (log.geometry(), gone_segments(state, &log));
        let working_sets = &state.catalog.working_sets;
        let window_start = |last: SegmentSeq| {
            last.0.saturating_sub(reach(working_sets, last).unwrap_or(geometry.working_set))
        };
        let newest = log.table().next_sequence();
        if let Some(archive) = state.archive.get_mut().filter(|archive| !archive.is_away()) {
            archive.anchors.drop_useless(&geometry, newest, &gone, window_start);
        }
    }
}

/// The segments that have expired. What was never archived, or what the store lost, is not among
/// them: opening a point there reports the reason.
fn gone_segments(state: &State, log: &Log) -> Vec<SegmentRange> {
    let geometry = log.geometry();
    let there = segments_there(state, log);
    let gaps = state.catalog.gaps.iter().chain(&state.catalog.lost).map(|gap| SegmentRange {
        first: geometry.sequence_of(gap.start),
        last: geometry.sequence_of(Lsn(gap.end.0.saturating_sub(1))),
    });
    let lost = state.archive.get().into_iter().flat_map(|archive| archive.lost.ranges());
    holes(&there, gaps.chain(lost))
}

/// The segments that are in the archive, completely or in part, or on the primary device.
fn segments_there(state: &State, log: &Log) -> BTreeSet<SegmentSeq> {
    let archived = state.archive.get().into_iter().flat_map(|archive| archive.objects.iter());
    archived.map(|(sequence, _)| sequence).chain(log.table().on_device()).collect()
}

/// The ranges between the segments that are there, and before the first, without those that were
/// never archived.
fn holes(there: &BTreeSet<SegmentSeq>, gaps: impl Iterator<Item = SegmentRange>) -> Vec<SegmentRange> {
    let mut known: Vec<SegmentRange> =
        there.iter().map(|&sequence| SegmentRange { first: sequence, last: sequence }).chain(gaps).collect();
    known.sort_unstable_by_key(|range| range.first);
    let mut holes = Vec::new();
    let mut next = SegmentSeq(0);
    for range in known {
        if range.first > next {
            holes.push(SegmentRange { first: next, last: SegmentSeq(range.first.0 - 1) });
        }
        next = next.max(range.last.next());
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_what_neither_is_there_nor_was_never_archived() {
        let there = [3, 4, 8, 9, 20].map(SegmentSeq).into_iter().collect();
        let range = |first, last| SegmentRange { first: SegmentSeq(first), last: SegmentSeq(last) };
        let gaps = [range(5, 5), range(15, 17), range(16, 16)];
        assert_eq!(holes(&there, gaps.into_iter()), [range(0, 2), range(6, 7), range(10, 14), range(18, 19)]);
        assert_eq!(holes(&BTreeSet::new(), std::iter::empty()), []);
    }
}
