//! Trusted time: the time that records carry, and the base for spans before now and for the ends of
//! retention.
//!
//! The machine's time of day (the wall clock, "wall" below) may be wrong, and may jump. Actions
//! that cannot be undone, and data stored in the log forever, never depend on one reading of it.
//! Trusted time starts with the time of the log's newest record and advances with the machine's
//! monotonic clock. It follows the wall as long as the wall is credible:
//!
//! | the wall is | trusted time | standing |
//! |---|---|---|
//! | ahead, within the bound | becomes the wall's | agrees |
//! | ahead by more | advances by itself, until the wall comes back or an operator confirms it | ahead |
//! | behind, within the bound | runs at 1/16 of its speed until the wall has caught up | agrees |
//! | behind by more | advances by itself; after a confirmation at 1/16 of its speed | behind |
//!
//! Until the wall has agreed once since the start, the bound ahead is that of a start, because the
//! machine was off or its clock is not set yet. Later it is that of a running machine, and every
//! accepted jump uses it up for a day, so that many small jumps cannot bypass it. The bound behind
//! is that of a running machine.
//!
//! **Invariants.** Trusted time never falls, and never stops while time passes, so that records of
//! different moments can be told apart. Without a confirmation it is never further ahead of the
//! newest record than the elapsed time, plus the bound of a start once, plus the bound of a running
//! machine each day.
//!
//! **Spans before now** (`time:-10m`) are monotonic distances within a run: the log remembers at up
//! to `KNOTS_MAX` places where trusted time jumped or ran slowly. Before the start, the times of
//! records count.
//!
//! **Why the monotonic clock that counts sleep** (`CLOCK_BOOTTIME`): a machine that slept for a
//! night wakes up with the correct time of day. Measured by a clock that stops during sleep, the
//! wall would be hours ahead. Time-outs use the other clock: an answer that could not be given
//! while the machine slept is not late.
//!
//! **Cost:** two clock readings (no system calls if the kernel maps them) and a few comparisons.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use super::clock::{Clock, DAY_NS};

pub use super::clock::ClockBounds;

/// How many times slower trusted time runs while the wall catches up.
const SLOWNESS: u64 = 16;
/// Jumps up to this length are not remembered, because the clocks are read one after the other.
const LEAP_NS: u64 = 10_000_000;
/// The maximum number of remembered places at which trusted time jumped or changed its speed.
const KNOTS_MAX: usize = 512;

/// How the wall compares with trusted time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockStanding {
    /// Within the bounds.
    #[default]
    Agrees,
    /// So far ahead that it is not trusted.
    Ahead,
    /// Behind by more than the bound.
    Behind,
}

/// Both times at one moment, ns since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClockStatus {
    /// The time that records carry.
    pub trusted_ns: u64,
    /// The time of the machine's clock.
    pub wall_ns: u64,
    /// How the two compare.
    pub standing: ClockStanding,
    /// An operator has confirmed a wall that is behind; trusted time runs slowly until the wall has
    /// caught up.
    #[serde(default)]
    pub confirmed: bool,
}

impl ClockStatus {
    /// The difference between the two, in ns.
    pub fn apart_ns(&self) -> u64 {
        self.wall_ns.abs_diff(self.trusted_ns)
    }

    /// The time for comparison with the ends of retention: the earlier of the two, which keeps
    /// more.
    pub fn retention_ns(&self) -> u64 {
        self.wall_ns.min(self.trusted_ns)
    }

    /// Whether expiry is blocked, because the wall is ahead and no operator has confirmed it.
    pub fn holds_expiry(&self) -> bool {
        self.standing == ClockStanding::Ahead
    }
}

/// The clock that measured a span before now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanBy {
    /// The machine's monotonic clock: the span is within this run.
    Monotonic,
    /// The times of records: the span reaches back before the start.
    Records,
}

/// A moment in both clocks: ns of the monotonic clock, and ns since the Unix epoch of trusted time.
#[derive(Debug, Clone, Copy)]
struct Knot {
    elapsed_ns: u64,
    time_ns: u64,
}

/// The trusted time of a log. See the module's documentation.
pub(super) struct TrustedTime {
    state: RefCell<TimeState>,
}

struct TimeState {
    bounds: ClockBounds,
    now: Knot,
    /// Whether the wall has agreed since the start.
    agreed: bool,
    standing: ClockStanding,
    confirmed_behind: bool,
    /// How much further ahead the wall may jump and be trusted, in ns.
    ahead_left_ns: u64,
    is_slow: bool,
    /// Where trusted time jumped or changed its speed, oldest first; never empty.
    knots: Vec<Knot>,
    /// The time at the first knot for spans that begin before it: that of the wall, if the wall was
    /// trusted later.
    before_ns: u64,
}

impl TrustedTime {
    /// Starts with the time of the newest record.
    pub(super) fn new(newest_ns: u64, clock: &dyn Clock) -> Self {
        let now = Knot { elapsed_ns: clock.elapsed_ns(), time_ns: newest_ns };
        let bounds = clock.bounds();
        let state = TimeState {
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
        state.update(clock);
        state.now.time_ns
    }

    /// Both times now.
    pub(super) fn status(&self, clock: &dyn Clock) -> ClockStatus {
        self.state.borrow_mut().update(clock)
    }

    /// An operator confirms that the wall is right. Trusted time follows it at once if the wall is
    /// ahead, and as fast as it may if the wall is behind.
    pub(super) fn confirm(&self, clock: &dyn Clock) -> ClockStatus {
        let mut state = self.state.borrow_mut();
        let before = state.update(clock);
        if before.wall_ns > state.now.time_ns {
            state.follow(before.wall_ns);
            state.agree();
        } else if before.standing == ClockStanding::Behind {
            state.confirmed_behind = true;
        }
        state.ahead_left_ns = state.bounds.running_ns;
        state.update(clock)
    }

    /// The trusted time `span_ns` before now, and the clock that measured it.
    pub(super) fn ago(&self, span_ns: u64, clock: &dyn Clock) -> (u64, SpanBy) {
        let mut state = self.state.borrow_mut();
        state.update(clock);
        state.ago(span_ns)
    }
}

impl TimeState {
    /// Reads the clocks and advances trusted time to now.
    fn update(&mut self, clock: &dyn Clock) -> ClockStatus {
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
        self.report(standing, wall_ns);
        let confirmed = self.confirmed_behind;
        ClockStatus { trusted_ns: self.now.time_ns, wall_ns, standing, confirmed }
    }

    /// Handles a wall that is not behind. Trusted time has already advanced.
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

    /// Handles a wall that is behind the advanced trusted time.
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
            // The wall caught up at some moment since the last update.
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

    /// Advances trusted time by itself.
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

    /// Jumps to the wall's time, which is not behind.
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

    /// Notes that the wall is right. The first time, this also shows how long the machine was off.
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

    /// Logs a change once.
    fn report(&mut self, standing: ClockStanding, wall_ns: u64) {
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
mod tests;
