//! How long commands wait for a busy storage: not so long that the host times out and resets the
//! controller, which would end all its commands and help nobody. When the storage has accepted
//! nothing of a connection for the timeout, the connection's commands end with a status that asks
//! for a retry, each after one try of its own, until the storage accepts one again.
//!
//! The storage has its own bounds (its throttle, a full file system). This covers everything else
//! that may block it: memory that others hold, a working set that does not fit, a clone that waits
//! for its archive.

use std::time::{Duration, Instant};

/// Since when the storage has accepted nothing of a connection.
#[derive(Debug, Default)]
pub(super) struct Patience {
    busy_since: Option<Instant>,
}

impl Patience {
    /// The storage accepted something.
    pub(super) fn note_taken(&mut self) {
        self.busy_since = None;
    }

    /// The storage was busy. Returns whether that has lasted for `timeout`.
    pub(super) fn is_over(&mut self, now: Instant, timeout: Duration) -> bool {
        now.saturating_duration_since(*self.busy_since.get_or_insert(now)) >= timeout
    }
}
