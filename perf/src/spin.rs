//! How a thread that polls passes the time until there is something for it.
//!
//! It goes on looking, as the appliance does. On a machine that is shared, giving the core away after each empty look would put the thread behind whoever else waits for it, and two
//! threads that answer each other would then measure the scheduler. Only after many empty looks is the core given away, for then the other side may be waiting for it. Where there
//! is one core for both sides, each empty look gives it away.

use crate::machine::two_cores;

/// Empty looks in a row after which the core is given away: some milliseconds of non-blocking receives.
const EMPTY_LOOKS_MAX: u32 = 10_000;

/// Counts empty looks.
#[derive(Debug)]
pub(crate) struct Spin {
    empty_looks: u32,
    empty_looks_max: u32,
}

impl Spin {
    /// For a thread whose other side has a core of its own if there are two.
    pub(crate) fn new() -> Self {
        Self::giving_way_after(if two_cores().is_some() { EMPTY_LOOKS_MAX } else { 0 })
    }

    fn giving_way_after(empty_looks_max: u32) -> Self {
        Spin { empty_looks: 0, empty_looks_max }
    }

    /// To be called after each look. Returns whether the core was given away.
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
