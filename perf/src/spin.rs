//! What a polling thread does until it has work.
//!
//! It keeps polling, as the appliance does. On a shared machine, yielding the core after each empty
//! poll would let every other waiting thread run first, and two threads that answer each other
//! would then measure the scheduler. So the thread yields only after many empty polls, because then
//! the other side may be waiting for the core. If both sides share one core, the thread yields
//! after each empty poll.

use crate::machine::two_cores;

/// The thread yields after this many empty polls in a row: a few milliseconds of non-blocking
/// receives.
const EMPTY_LOOKS_MAX: u32 = 10_000;

/// Counts empty polls.
#[derive(Debug)]
pub(crate) struct Spin {
    empty_looks: u32,
    empty_looks_max: u32,
}

impl Spin {
    /// For a thread whose other side has its own core if there are two.
    pub(crate) fn new() -> Self {
        Self::giving_way_after(if two_cores().is_some() { EMPTY_LOOKS_MAX } else { 0 })
    }

    fn giving_way_after(empty_looks_max: u32) -> Self {
        Spin { empty_looks: 0, empty_looks_max }
    }

    /// Must be called after each poll. Returns whether the thread yielded.
    #[inline]
    pub(crate) fn looked(&mut self, found: bool) -> bool {
        if found {
            self.empty_looks = 0;
            return false;
        }
        if self.empty_looks < self.empty_looks_max {
            self.empty_looks += 1;
            std::hint::spin_loop();
            return false;
        }
        std::thread::yield_now();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_is_given_away_only_after_many_empty_looks_in_a_row() {
        let mut spin = Spin::giving_way_after(3);
        let given: Vec<bool> = [false, false, true, false, false, false, false, false, true, false]
            .map(|found| spin.looked(found))
            .to_vec();
        let away: Vec<usize> = (0..given.len()).filter(|&look| given[look]).collect();
        assert_eq!(away, [6, 7], "the third look and the ninth found something");
    }

    #[test]
    fn on_one_core_every_empty_look_gives_it_away() {
        let mut spin = Spin::giving_way_after(0);
        assert!(spin.looked(false) && !spin.looked(true) && spin.looked(false));
    }
}
