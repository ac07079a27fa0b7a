//! Trusted time: what records carry, what spans before now are counted by, and what retention goes by.
//!
//! The machine's clock of the day (the wall) may be wrong, and may leap. What cannot be undone, and what stands in the log for ever, never rests on one reading of it.
//! Trusted time begins with the time of the log's newest record and goes on with the machine's monotonic clock. It follows the wall as long as that is credible:
//!
//! | the wall is | trusted time | standing |
//! |---|---|---|
//! | ahead, within the bound | becomes the wall's | agrees |
//! | ahead by more | goes on by itself, until the wall comes back or an operator confirms it | ahead |
//! | behind, within the bound | runs at 1/16 of its speed until the wall has caught up | agrees |
//! | behind by more | goes on by itself; after a confirmation at 1/16 of its speed | behind |
//!
//! The bound ahead is that of a start until the wall has agreed once since then: the machine was off, or its clock is not set yet. Later it is that of a running machine, and what was believed counts
//! against it for a day, so that many small leaps are no way round it. The bound behind is that of a running machine.
//!
//! **Invariants.** Trusted time never falls, and never stops while time passes, so that records of different moments can be told apart. Without a confirmation it is never further ahead of the newest record
//! than the time that passed, plus the bound of a start once, plus the bound of a running machine each day.
//!
//! **Spans before now** (`time:-10m`) are monotonic distances within a run: where trusted time
//! leapt or ran slowly is remembered, at `KNOTS_MAX` places. Before the start the times of records
//! count.
//!
//! **Why the monotonic clock that counts sleep** (`CLOCK_BOOTTIME`): a machine that slept for a night wakes up with the right time of day. By a clock that stands still meanwhile it would be hours ahead.
//! Time-outs go by the other one: what nobody could answer while the machine slept is not late.
//!
//! **Cost:** two readings of clocks (no system calls where the kernel maps them) and a few comparisons.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use super::environment::Clock;

const SECOND_NS: u64 = 1_000_000_000;
const HOUR_NS: u64 = 3600 * SECOND_NS;
const DAY_NS: u64 = 24 * HOUR_NS;

/// Trusted time runs so many times slower while the wall catches up.
const SLOWNESS: u64 = 16;
/// Leaps up to this are not remembered: clocks are read one after the other.
const LEAP_NS: u64 = 10_000_000;
/// So many places at which trusted time leapt, or changed its speed, are remembered.
const KNOTS_MAX: usize = 512;

/// How far ahead of trusted time the wall may be and still be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockBounds {
    /// While the appliance runs, in ns; so far behind it may be too.
    pub running_ns: u64,
    /// After a start, until the wall has agreed once, in ns.
    pub start_ns: u64,
}

impl Default for ClockBounds {
    /// An hour, and seven days.
    fn default() -> Self {
        ClockBounds { running_ns: HOUR_NS, start_ns: 7 * DAY_NS }
    }
}

/// How the wall stands to trusted time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockStanding {
    /// Within the bounds.
    #[default]
    Agrees,
    /// So far ahead that it is not believed.
    Ahead,
    /// Far behind.
    Behind,
}

/// Both times at one moment, ns since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClockStatus {
    /// What records carry.
    pub trusted_ns: u64,
    /// What the machine's clock says.
    pub wall_ns: u64,
    /// How they stand to each other.
    pub standing: ClockStanding,
    /// An operator has confirmed a wall that is behind; trusted time runs slowly until it has caught up.
    #[serde(default)]
    pub confirmed: bool,
}

impl ClockStatus {
    /// By how much they differ, in ns.
    pub fn apart_ns(&self) -> u64 {
        self.wall_ns.abs_diff(self.trusted_ns)
    }

    /// The time that ends of retention are compared with: the earlier one, which keeps more.
    pub fn retention_ns(&self) -> u64 {
        self.wall_ns.min(self.trusted_ns)
    }

    /// Whether nothing may expire, because the wall is ahead and nobody has confirmed it.
    pub fn holds_expiry(&self) -> bool {
        self.standing == ClockStanding::Ahead
    }
}

/// By what a span before now was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanBy {
    /// The machine's monotonic clock: it lies within this run.
    Monotonic,
    /// The times of records: it reaches back before the start.
    Records,
}

/// A moment by both clocks: ns of the monotonic one, ns since the Unix epoch of trusted time.
#[derive(Debug, Clone, Copy)]
struct Knot {
    elapsed_ns: u64,
    time_ns: u64,
}

/// The trusted time of a log. See the module's documentation.
pub(super) struct TrustedTime {
    state: RefCell<State>,
}

struct State {
    bounds: ClockBounds,
    now: Knot,
    /// Whether the wall has agreed since the start.
    agreed: bool,
    standing: ClockStanding,
    confirmed_behind: bool,
    /// How much further ahead the wall may leap and be believed, in ns.
    ahead_left_ns: u64,
    is_slow: bool,
    /// Where trusted time leapt or changed its speed, oldest first; never empty.
    knots: Vec<Knot>,
    /// The time at the first of these from which spans that begin before it are counted: that of the wall where it was believed later.
    before_ns: u64,
}

impl TrustedTime {
    /// Begins with the time of the newest record.
    pub(super) fn new(newest_ns: u64, clock: &dyn Clock) -> Self {
        let now = Knot { elapsed_ns: clock.elapsed_ns(), time_ns: newest_ns };
        let bounds = clock.bounds();
        let state = State {
            bounds,
            now,
            agreed: false,
            standing: ClockStanding::default(),
            confirmed_behind: false,
            ahead_left_ns: bounds.running_ns,
            is_slow: false,
            knots: vec![now],
            before_ns: newest_ns,
        };
        TrustedTime { state: RefCell::new(state) }
    }

    /// The trusted time now.
    pub(super) fn now_ns(&self, clock: &dyn Clock) -> u64 {
        let mut state = self.state.borrow_mut();
        state.look(clock);
        state.now.time_ns
    }

    /// Both times now.
    pub(super) fn status(&self, clock: &dyn Clock) -> ClockStatus {
        self.state.borrow_mut().look(clock)
    }

    /// An operator says that the wall is right. Trusted time follows it at once when it is ahead, and as fast as it may when it is behind.
    pub(super) fn confirm(&self, clock: &dyn Clock) -> ClockStatus {
        let mut state = self.state.borrow_mut();
        let before = state.look(clock);
        if before.wall_ns > state.now.time_ns {
            state.follow(before.wall_ns);
            state.agree();
        } else if before.standing == ClockStanding::Behind {
            state.confirmed_behind = true;
        }
        state.ahead_left_ns = state.bounds.running_ns;
        state.look(clock)
    }

    /// The trusted time so long before now, and by what that was counted.
    pub(super) fn ago(&self, span_ns: u64, clock: &dyn Clock) -> (u64, SpanBy) {
        let mut state = self.state.borrow_mut();
        state.look(clock);
        state.ago(span_ns)
    }
}

impl State {
    /// Reads the clocks and brings trusted time up to now.
    fn look(&mut self, clock: &dyn Clock) -> ClockStatus {
        let (elapsed_ns, wall_ns) = (clock.elapsed_ns(), clock.wall_ns());
        let passed_ns = elapsed_ns.saturating_sub(self.now.elapsed_ns);
        let refilled_ns = u128::from(passed_ns) * u128::from(self.bounds.running_ns) / u128::from(DAY_NS);
        self.ahead_left_ns = self
            .ahead_left_ns
            .saturating_add(u64::try_from(refilled_ns).unwrap_or(u64::MAX))
            .min(self.bounds.running_ns);
        let even_ns = self.now.time_ns.saturating_add(passed_ns);
        let standing = if wall_ns >= even_ns {
            self.go_on(passed_ns);
            self.take_ahead(wall_ns)
        } else {
            self.take_behind(wall_ns, even_ns - wall_ns, passed_ns)
        };
        self.tell(standing, wall_ns);
        let confirmed = self.confirmed_behind;
        ClockStatus { trusted_ns: self.now.time_ns, wall_ns, standing, confirmed }
    }

    /// The wall is not behind. Trusted time has gone on.
    fn take_ahead(&mut self, wall_ns: u64) -> ClockStanding {
        let ahead_ns = wall_ns - self.now.time_ns;
        let bound_ns = if self.agreed { self.ahead_left_ns } else { self.bounds.start_ns };
        if ahead_ns > bound_ns {
            self.confirmed_behind = false;
            return ClockStanding::Ahead;
        }
        if self.agreed {
            self.ahead_left_ns -= ahead_ns;
        }
        self.follow(wall_ns);
        self.agree();
        ClockStanding::Agrees
    }

    /// The wall is behind what trusted time would be by now.
    fn take_behind(&mut self, wall_ns: u64, behind_ns: u64, passed_ns: u64) -> ClockStanding {
        let is_near = behind_ns <= self.bounds.running_ns;
        if !is_near && !self.confirmed_behind {
            self.go_on(passed_ns);
            return ClockStanding::Behind;
        }
        if behind_ns > LEAP_NS && !self.is_slow {
            self.knot();
            self.is_slow = true;
        }
        let slow_ns = self.now.time_ns + passed_ns / SLOWNESS;
        if self.is_slow && slow_ns.saturating_add(LEAP_NS) < wall_ns {
            // It caught up somewhere since the last look.
            self.knot();
        }
        self.now.time_ns = slow_ns.max(wall_ns);
        self.now.elapsed_ns += passed_ns;
        if self.now.time_ns == wall_ns {
            self.end_slowness();
        }
        if is_near {
            self.agree();
            return ClockStanding::Agrees;
        }
        ClockStanding::Behind
    }

    /// Lets trusted time pass by itself.
    fn go_on(&mut self, passed_ns: u64) {
        self.end_slowness();
        self.now.time_ns = self.now.time_ns.saturating_add(passed_ns);
        self.now.elapsed_ns += passed_ns;
    }

    fn end_slowness(&mut self) {
        if std::mem::take(&mut self.is_slow) {
            self.knot();
        }
    }

    /// Leaps to the wall's time, which is not behind.
    fn follow(&mut self, wall_ns: u64) {
        let leaps = wall_ns - self.now.time_ns > LEAP_NS;
        if leaps {
            self.knot();
        }
        self.now.time_ns = wall_ns;
        if leaps {
            self.knot();
        }
    }

    /// The wall is right. The first time it also tells how long the machine was off.
    fn agree(&mut self) {
        if !std::mem::replace(&mut self.agreed, true) {
            let run_ns = self.now.elapsed_ns - self.knots[0].elapsed_ns;
            self.before_ns = self.before_ns.max(self.now.time_ns.saturating_sub(run_ns));
        }
        self.confirmed_behind &= self.is_slow;
    }

    /// Remembers this moment.
    fn knot(&mut self) {
        if self.knots.len() >= KNOTS_MAX {
            self.knots.remove(0);
            self.before_ns = self.knots[0].time_ns;
        }
        self.knots.push(self.now);
    }

    fn ago(&self, span_ns: u64) -> (u64, SpanBy) {
        let first = self.knots[0];
        let known_ns = self.now.elapsed_ns - first.elapsed_ns;
        if span_ns > known_ns {
            return (self.before_ns.saturating_sub(span_ns - known_ns), SpanBy::Records);
        }
        let elapsed_ns = self.now.elapsed_ns - span_ns;
        let place = self.knots.partition_point(|knot| knot.elapsed_ns <= elapsed_ns);
        let (from, to) = (self.knots[place - 1], self.knots.get(place).copied().unwrap_or(self.now));
        let piece_ns = to.elapsed_ns - from.elapsed_ns;
        if piece_ns == 0 {
            return (to.time_ns, SpanBy::Monotonic);
        }
        let part = u128::from(to.time_ns - from.time_ns) * u128::from(elapsed_ns - from.elapsed_ns)
            / u128::from(piece_ns);
        (from.time_ns + part as u64, SpanBy::Monotonic)
    }

    /// Tells of a change in the journal, once.
    fn tell(&mut self, standing: ClockStanding, wall_ns: u64) {
        if standing == self.standing {
            return;
        }
        self.standing = standing;
        let apart_s = wall_ns.abs_diff(self.now.time_ns) as f64 / 1e9;
        match standing {
            ClockStanding::Agrees => tracing::warn!("the machine's clock agrees with the log again"),
            ClockStanding::Ahead => tracing::warn!(
                apart_s,
                "the machine's clock is too far ahead of the log to be believed; expiry is held"
            ),
            ClockStanding::Behind => tracing::warn!(apart_s, "the machine's clock is far behind the log"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

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
        // Spans are what passed, not what the clock leapt over.
        let at_leap = NEWEST_NS + 2 * MINUTE_NS;
        assert_eq!(time.ago(30 * SECOND_NS, &clocks), (at_leap - 30 * SECOND_NS, SpanBy::Monotonic));
        clocks.pass(10 * SECOND_NS);
        assert_eq!(time.ago(5 * SECOND_NS, &clocks), (clocks.wall_ns() - 5 * SECOND_NS, SpanBy::Monotonic));
        assert_eq!(time.ago(40 * SECOND_NS, &clocks), (at_leap - 30 * SECOND_NS, SpanBy::Monotonic));
        assert_eq!(time.ago(HOUR_NS, &clocks).1, SpanBy::Records);
        // The next leap needs its own.
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
        // A clock that is not set before it has asked the network is behind first.
        let clocks = Clocks::at(SECOND_NS);
        let time = TrustedTime::new(NEWEST_NS, &clocks);
        assert_eq!(time.status(&clocks).standing, ClockStanding::Behind);
        clocks.pass(MINUTE_NS);
        clocks.wall_ns.set(NEWEST_NS + 2 * DAY_NS);
        assert_eq!(time.now_ns(&clocks), clocks.wall_ns());
        // Spans before the start count the time that the machine was off.
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
        // Confirmed, it catches up, and no two moments have one time meanwhile.
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
}
