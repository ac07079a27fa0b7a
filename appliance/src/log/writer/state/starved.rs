//! The state of a log that waits for room on the device: since when, and when it tries again.
//!
//! **Invariants.** Tries are at least [`RETRY_NS`] and at most [`RETRY_MAX_NS`] apart. Each pause
//! is twice the previous one; after a success the pauses start again with the first one.

use std::rc::Rc;

use crate::bdev::BdevError;

/// The first pause before refused writes are submitted again.
const RETRY_NS: u64 = 50_000_000;
/// The longest pause.
const RETRY_MAX_NS: u64 = 1_000_000_000;

/// A log that waits for room.
#[derive(Debug, Clone)]
pub struct Starved {
    /// Since when, on the monotonic clock.
    pub since_ns: u64,
    /// The first error of the device.
    pub reason: Rc<str>,
    retry_at_ns: u64,
    delay_ns: u64,
}

impl Starved {
    /// Notes the first write that the device refused.
    pub(in crate::log) fn new(error: &BdevError, now_ns: u64) -> Self {
        Starved {
            since_ns: now_ns,
            reason: Rc::from(error.to_string()),
            retry_at_ns: now_ns + RETRY_NS,
            delay_ns: RETRY_NS,
        }
    }

    /// Whether it is time to try again.
    pub(in crate::log) fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.retry_at_ns
    }

    /// Notes that the device has refused another write.
    pub(in crate::log) fn note_refused(&mut self, now_ns: u64) {
        self.retry_at_ns = now_ns + self.delay_ns;
    }

    /// Notes that a refused write succeeded.
    pub(in crate::log) fn note_room(&mut self) {
        self.delay_ns = RETRY_NS;
    }

    /// Doubles the pause before the next try.
    pub(in crate::log) fn wait_longer(&mut self, now_ns: u64) {
        self.delay_ns = (2 * self.delay_ns).min(RETRY_MAX_NS);
        debug_assert!((RETRY_NS..=RETRY_MAX_NS).contains(&self.delay_ns));
        self.retry_at_ns = now_ns + self.delay_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bdev::BdevErrorKind;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_anew_when_something_got_through() {
        let device = "full".to_owned();
        let error =
            BdevError { device, operation: "write", block: 0, len_blocks: 1, kind: BdevErrorKind::NoRoom };
        let mut starved = Starved::new(&error, 0);
        assert!(!starved.is_due(RETRY_NS - 1) && starved.is_due(RETRY_NS));
        let mut now_ns = 0;
        for _ in 0..10 {
            starved.wait_longer(now_ns);
            assert!(!starved.is_due(now_ns + RETRY_NS) && starved.is_due(now_ns + RETRY_MAX_NS));
            now_ns += RETRY_MAX_NS;
        }
        starved.note_room();
        starved.note_refused(now_ns);
        assert!(starved.is_due(now_ns + RETRY_NS));
    }
}
