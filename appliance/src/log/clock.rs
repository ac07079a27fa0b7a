//! The clocks that the log needs, and how far the time of day is trusted.

pub(super) const SECOND_NS: u64 = 1_000_000_000;
pub(super) const HOUR_NS: u64 = 3600 * SECOND_NS;
pub(super) const DAY_NS: u64 = 24 * HOUR_NS;

/// The clocks of a machine.
pub trait Clock {
    /// The time of day, ns since the Unix epoch. It may be wrong and may jump in both directions;
    /// see [`Log::now_ns`](super::Log::now_ns) for the time that records carry.
    fn wall_ns(&self) -> u64;

    /// Nanoseconds since an arbitrary moment, for time-outs. It never falls, and stops while the
    /// machine sleeps.
    fn monotonic_ns(&self) -> u64;

    /// The same, but it also counts while the machine sleeps: for comparison with the time of day.
    /// The default assumes that the machine never sleeps.
    fn elapsed_ns(&self) -> u64 {
        self.monotonic_ns()
    }

    /// How far the time of day is trusted.
    fn bounds(&self) -> ClockBounds {
        ClockBounds::default()
    }
}

/// How far the wall clock may be ahead of trusted time and still be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockBounds {
    /// While the appliance runs, in ns. The wall clock may also be behind by this much.
    pub running_ns: u64,
    /// After a start, until the wall clock has agreed once, in ns.
    pub start_ns: u64,
}

impl Default for ClockBounds {
    /// An hour, and seven days.
    fn default() -> Self {
        ClockBounds { running_ns: HOUR_NS, start_ns: 7 * DAY_NS }
    }
}
