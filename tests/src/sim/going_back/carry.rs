//! Runs a verb: polls its future, lets hosts write to other volumes meanwhile, and tells the model
//! of each piece when the pool shows it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use varve::volume::{SegmentState, VolumeError};

use super::super::workload::Run;
use super::super::world::{TURNS_MAX, poll_background, story, turn_alone};
use super::Cut;

/// After so many turns the background work runs too: the verb may wait for it.
const TURNS_ALONE: u64 = 10_000;
/// The most writes of hosts during one verb.
const WRITES_MAX: u32 = 12;

/// One durable change of a verb. Called after every turn until the pool shows the change: then it
/// tells the model, and returns `true`.
pub(in crate::sim) type Piece<'a> = Box<dyn FnMut(&mut Run) -> bool + 'a>;

/// How a verb ended.
pub(in crate::sim) enum Carried<T> {
    /// With its answer; all pieces were seen.
    Done(T),
    /// Refused; pieces before the last may have been seen.
    Refused(VolumeError),
    /// A crash follows.
    Cut,
}

impl Run {
    /// Runs a verb to its end, or to where a crash cuts it. Hosts write to volumes that are not
    /// among `touched`. The verb is counted.
    ///
    /// # Panics
    /// When it does not end, or is done without one of its pieces.
    pub(in crate::sim) fn carry<T>(
        &mut self,
        verb: &'static str,
        future: impl Future<Output = Result<T, VolumeError>>,
        touched: &[usize],
        pieces: Vec<Piece<'_>>,
        cut: Option<Cut>,
    ) -> Carried<T> {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        let (mut pieces, mut writes, mut last_lsn) = (VecDeque::from(pieces), 0, None);
        let dies_after = cut.and_then(|cut| cut.writes).map(|writes| self.disk.writes() + writes);
        if dies_after.is_some() {
            self.disk.die_after_writes(dies_after);
        }
        let dies = dies_after.is_some();
        self.going_back_mut().has_changed = false;
        for turn in 0..TURNS_MAX {
            let before = self.pool.stats().newest_change_lsn;
            let polled = future.as_mut().poll(&mut context);
            let has_changed = self.pool.stats().newest_change_lsn > before;
            self.going_back_mut().has_changed |= has_changed;
            while let Some(piece) = pieces.front_mut() {
                let lsn = self.pool.stats().newest_change_lsn;
                if !piece(self) {
                    break;
                }
                last_lsn = Some(lsn);
                pieces.pop_front();
            }
            if let Poll::Ready(result) = polled {
                return self.carried(verb, result, pieces.len(), last_lsn);
            }
            if cut.is_some_and(|cut| turn >= cut.turns) || self.disk.is_dead() {
                self.note_cut();
                let count = self.count_verb(verb);
                count.cut += 1;
                count.cut_behind += u64::from(last_lsn.is_some());
                return Carried::Cut;
            }
            // A host's write could wait for a device that does not answer.
            if writes < WRITES_MAX && !dies && self.rng.one_in(6) {
                writes += 1;
                self.write_elsewhere(touched);
            }
            turn_alone(&self.pool);
            if turn > TURNS_ALONE {
                poll_background();
            }
        }
        panic!("seed {}: {verb} does not end: {}", self.seed, story(&self.pool));
    }

    fn carried<T>(
        &mut self,
        verb: &'static str,
        result: Result<T, VolumeError>,
        missing: usize,
        last_lsn: Option<u64>,
    ) -> Carried<T> {
        // It has ended before the device died.
        self.disk.die_after_writes(None);
        // What was answered is stable.
        if let Some(lsn) = last_lsn.filter(|_| result.is_ok()) {
            self.mark_flushed(lsn);
        }
        self.reap();
        match result {
            Ok(answer) => {
                assert_eq!(missing, 0, "seed {}: {verb} is done, and not to be seen", self.seed);
                self.count_verb(verb).done += 1;
                Carried::Done(answer)
            }
            Err(error) => {
                self.count_verb(verb).refused += 1;
                Carried::Refused(error)
            }
        }
    }

    /// A host writes to, or trims, another volume.
    fn write_elsewhere(&mut self, touched: &[usize]) {
        let mut others = self.writable();
        others.retain(|(place, ..)| !touched.contains(place));
        // The verb is not polled while the command runs, and may hold the segment whose slot the
        // command needs.
        let has_free_slot = self.pool.segments().iter().any(|segment| segment.state == SegmentState::Recycle);
        if others.is_empty() || !has_free_slot || self.pool.is_in_the_middle() {
            return;
        }
        let (place, id, size_blocks) = others[self.rng.below(others.len() as u64) as usize];
        if self.rng.one_in(6) {
            self.trim(place, id, size_blocks);
        } else {
            self.write(place, id, size_blocks);
        }
        self.reap();
    }
}
