//! The clocks that the log needs, and how far the time of day is believed.

pub(super) const SECOND_NS: u64 = 1_000_000_000;
pub(super) const HOUR_NS: u64 = 3600 * SECOND_NS;
pub(super) const DAY_NS: u64 = 24 * HOUR_NS;

/// Time.
pub trait Clock {
    /// The time of day, ns since the Unix epoch. It may be wrong, and may leap both ways: see
    /// [`Log::now_ns`](super::Log::now_ns) for what records carry.
    fn wall_ns(&self) -> u64;

    /// Nanoseconds since a moment of the clock's own choice, for time-outs: it never falls, and
    /// stops while the machine sleeps.
    fn monotonic_ns(&self) -> u64;

    /// The same, but it goes on while the machine sleeps: for comparing with the time of day. By
    /// default the machine never sleeps.
    fn elapsed_ns(&self) -> u64 {
        self.monotonic_ns()
    }

    /// How far the time of day is believed.
    fn bounds(&self) -> ClockBounds {
        ClockBounds::default()
    }
}

/// How far ahead of trusted time the wall may be and still be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockBounds {
    /// While the appliance runs, in ns. It may be behind by as much.
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
