//! The time that records carry.
//!
//! **Invariant.** It never falls from one record to the next, whatever the clocks of the machine
//! do: it is trusted time ([`crate::log::time`]), but never before the time of the newest record.

use crate::log::clock::Clock;
use crate::log::time::{ClockStatus, SpanBy, TrustedTime};

/// The time of records. See the module's documentation.
pub(in crate::log) struct RecordClock {
    newest_ns: u64,
    trusted: TrustedTime,
}

impl RecordClock {
    /// Starts with the time of the newest record.
    pub(in crate::log) fn new(newest_ns: u64, clock: &dyn Clock) -> Self {
        RecordClock { newest_ns, trusted: TrustedTime::new(newest_ns, clock) }
    }

    /// The time of the newest record, ns since the Unix epoch.
    pub(in crate::log) fn newest_ns(&self) -> u64 {
        self.newest_ns
    }

    /// The time that the next record will carry, ns since the Unix epoch.
    pub(in crate::log) fn now_ns(&self, clock: &dyn Clock) -> u64 {
        self.trusted.now_ns(clock).max(self.newest_ns)
    }

    /// The time for a record or a segment that is made now.
    pub(in crate::log) fn stamp(&mut self, clock: &dyn Clock) -> u64 {
        let now_ns = self.now_ns(clock);
        assert!(now_ns >= self.newest_ns, "the time of records never falls");
        self.newest_ns = now_ns;
        now_ns
    }

    /// Trusted time and the time of the machine.
    pub(in crate::log) fn status(&self, clock: &dyn Clock) -> ClockStatus {
        self.trusted.status(clock)
    }

    /// An operator confirms that the machine's clock is right.
    pub(in crate::log) fn confirm(&self, clock: &dyn Clock) -> ClockStatus {
        self.trusted.confirm(clock)
    }

    /// The trusted time `span_ns` before now, and the clock that measured it.
    pub(in crate::log) fn ago(&self, span_ns: u64, clock: &dyn Clock) -> (u64, SpanBy) {
        self.trusted.ago(span_ns, clock)
    }
}
