//! Trusted time against a wall clock that jumps, stops and comes back.

use std::cell::Cell;

use super::*;
use crate::log::clock::{HOUR_NS, SECOND_NS};

const MINUTE_NS: u64 = 60 * SECOND_NS;
/// The time of the newest record in these tests.
const NEWEST_NS: u64 = 1_000 * DAY_NS;

struct Clocks {
    elapsed_ns: Cell<u64>,
    wall_ns: Cell<u64>,
}

impl Clocks {
    fn at(wall_ns: u64) -> Self {
        Clocks { elapsed_ns: Cell::new(5 * SECOND_NS), wall_ns: Cell::new(wall_ns) }
    }

    fn pass(&self, span_ns: u64) {
        self.elapsed_ns.set(self.elapsed_ns.get() + span_ns);
        self.wall_ns.set(self.wall_ns.get() + span_ns);
    }

    fn leap(&self, by_ns: i64) {
        self.wall_ns.set(self.wall_ns.get().saturating_add_signed(by_ns));
    }
}

impl Clock for Clocks {
    fn wall_ns(&self) -> u64 {
        self.wall_ns.get()
    }

    fn monotonic_ns(&self) -> u64 {
        unreachable!("time-outs are not the time of day")
    }

    fn elapsed_ns(&self) -> u64 {
        self.elapsed_ns.get()
    }
}

#[test]
fn a_wall_that_agrees_is_followed() {
    let clocks = Clocks::at(NEWEST_NS + 6 * DAY_NS);
    let time = TrustedTime::new(NEWEST_NS, &clocks);
    assert_eq!(time.now_ns(&clocks), clocks.wall_ns(), "the machine was off for six days");
    clocks.pass(MINUTE_NS);
    clocks.leap(SECOND_NS as i64);
    assert_eq!(time.now_ns(&clocks), clocks.wall_ns());
    assert_eq!(time.status(&clocks).standing, ClockStanding::Agrees);
}

#[test]
fn a_leap_ahead_is_not_believed_and_leaves_nothing_behind() {
    let clocks = Clocks::at(NEWEST_NS);
    let time = TrustedTime::new(NEWEST_NS, &clocks);
    time.now_ns(&clocks);
    clocks.leap(400 * DAY_NS as i64);
    clocks.pass(6 * SECOND_NS);
    let status = time.status(&clocks);
    assert!(status.holds_expiry() && status.apart_ns() == 400 * DAY_NS, "{status:?}");
    assert_eq!(status.trusted_ns, NEWEST_NS + 6 * SECOND_NS);
    assert_eq!(status.retention_ns(), status.trusted_ns);
    clocks.leap(-400 * DAY_NS as i64);
    let status = time.status(&clocks);
    assert!(!status.holds_expiry() && status.trusted_ns == clocks.wall_ns(), "{status:?}");
}

#[test]
fn a_leap_that_is_confirmed_is_followed() {
    let clocks = Clocks::at(NEWEST_NS);
    let time = TrustedTime::new(NEWEST_NS, &clocks);
    clocks.pass(MINUTE_NS);
    time.now_ns(&clocks);
    clocks.leap(2 * HOUR_NS as i64);
    clocks.pass(MINUTE_NS);
    assert!(time.status(&clocks).holds_expiry());
    let status = time.confirm(&clocks);
    assert!(!status.holds_expiry() && status.trusted_ns == clocks.wall_ns(), "{status:?}");
    // Spans measure elapsed time, not the jump of the clock.
    let at_leap = NEWEST_NS + 2 * MINUTE_NS;
    assert_eq!(time.ago(30 * SECOND_NS, &clocks), (at_leap - 30 * SECOND_NS, SpanBy::Monotonic));
    clocks.pass(10 * SECOND_NS);
    assert_eq!(time.ago(5 * SECOND_NS, &clocks), (clocks.wall_ns() - 5 * SECOND_NS, SpanBy::Monotonic));
    assert_eq!(time.ago(40 * SECOND_NS, &clocks), (at_leap - 30 * SECOND_NS, SpanBy::Monotonic));
    assert_eq!(time.ago(HOUR_NS, &clocks).1, SpanBy::Records);
    // The next jump needs its own confirmation.
    clocks.leap(2 * HOUR_NS as i64);
    assert!(time.status(&clocks).holds_expiry());
}

#[test]
fn many_small_leaps_are_no_way_round_the_bound() {
    let clocks = Clocks::at(NEWEST_NS);
    let time = TrustedTime::new(NEWEST_NS, &clocks);
    time.now_ns(&clocks);
    for _ in 0..100 {
        clocks.leap(50 * MINUTE_NS as i64);
        clocks.pass(SECOND_NS);
        time.now_ns(&clocks);
    }
    assert!(time.now_ns(&clocks) < NEWEST_NS + HOUR_NS + 3 * MINUTE_NS);
    assert!(time.status(&clocks).holds_expiry());
}

#[test]
fn after_a_start_a_week_is_believed_and_no_more() {
    let clocks = Clocks::at(NEWEST_NS + 8 * DAY_NS);
    let time = TrustedTime::new(NEWEST_NS, &clocks);
    let status = time.status(&clocks);
    assert!(status.holds_expiry() && status.trusted_ns == NEWEST_NS, "{status:?}");
    // A clock that is not set before it has asked the network is behind at first.
    let clocks = Clocks::at(SECOND_NS);
    let time = TrustedTime::new(NEWEST_NS, &clocks);
    assert_eq!(time.status(&clocks).standing, ClockStanding::Behind);
    clocks.pass(MINUTE_NS);
    clocks.wall_ns.set(NEWEST_NS + 2 * DAY_NS);
    assert_eq!(time.now_ns(&clocks), clocks.wall_ns());
    // Spans that begin before the start include the time that the machine was off.
    let two_days = time.ago(2 * DAY_NS, &clocks);
    assert_eq!(two_days, (NEWEST_NS, SpanBy::Records));
}

#[test]
fn a_wall_far_behind_does_not_hold_trusted_time() {
    let clocks = Clocks::at(NEWEST_NS);
    let time = TrustedTime::new(NEWEST_NS, &clocks);
    clocks.pass(MINUTE_NS);
    time.now_ns(&clocks);
    clocks.leap(-(DAY_NS as i64));
    clocks.pass(MINUTE_NS);
    let status = time.status(&clocks);
    assert_eq!((status.standing, status.trusted_ns), (ClockStanding::Behind, NEWEST_NS + 2 * MINUTE_NS));
    assert_eq!(status.retention_ns(), status.wall_ns, "the earlier one keeps more");
    assert_eq!(time.ago(SECOND_NS, &clocks), (status.trusted_ns - SECOND_NS, SpanBy::Monotonic));
    // After a confirmation it catches up, and no two moments have the same time.
    assert!(time.confirm(&clocks).confirmed);
    let mut before_ns = status.trusted_ns;
    let mut hours = 0;
    while time.status(&clocks).standing == ClockStanding::Behind || time.status(&clocks).confirmed {
        clocks.pass(HOUR_NS);
        let now_ns = time.now_ns(&clocks);
        assert!(now_ns > before_ns);
        before_ns = now_ns;
        hours += 1;
        assert!(hours < 27, "a day is made good in little more than a day");
    }
    assert_eq!(time.now_ns(&clocks), clocks.wall_ns());
}

#[test]
fn a_small_step_back_is_made_good_and_spans_stay_right() {
    let clocks = Clocks::at(NEWEST_NS);
    let time = TrustedTime::new(NEWEST_NS, &clocks);
    clocks.pass(MINUTE_NS);
    time.now_ns(&clocks);
    clocks.leap(-(16 * MINUTE_NS as i64));
    let mut marks = Vec::new();
    for _ in 0..40 {
        marks.push((clocks.elapsed_ns(), time.now_ns(&clocks)));
        clocks.pass(MINUTE_NS);
    }
    assert_eq!(time.now_ns(&clocks), clocks.wall_ns());
    for (elapsed_ns, time_ns) in marks {
        let (found_ns, by) = time.ago(clocks.elapsed_ns() - elapsed_ns, &clocks);
        assert!(found_ns.abs_diff(time_ns) <= MINUTE_NS / SLOWNESS && by == SpanBy::Monotonic);
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let clocks = Clocks::at(NEWEST_NS);
    let time = TrustedTime::new(NEWEST_NS, &clocks);
    for step in 0..10_000_i64 {
        clocks.pass(SECOND_NS);
        clocks.leap(if step % 2 == 0 { -(SECOND_NS as i64) } else { SECOND_NS as i64 });
        time.now_ns(&clocks);
        assert!(time.state.borrow().knots.len() <= KNOTS_MAX);
    }
    assert_eq!(time.ago(DAY_NS, &clocks).1, SpanBy::Records);
    let (minute_ago_ns, by) = time.ago(MINUTE_NS, &clocks);
    assert!(by == SpanBy::Monotonic);
    assert!(minute_ago_ns.abs_diff(time.now_ns(&clocks) - MINUTE_NS) <= 2 * SECOND_NS);
}
