//! How long commands wait for a storage that is busy: not until the host loses its patience and
//! resets the controller, which would end them all and help nobody. Once nothing of a connection
//! has been taken for so long, its commands end with a status that asks for another try, each after
//! one try of its own, until the storage takes one again.
//!
//! Beside the storage's own bounds (its throttle, a full file system), this is for whatever else
//! may keep it: memory that others hold, a working set that finds no room, a clone that waits for
//! its archive.

use std::time::{Duration, Instant};

/// Since when the storage has taken nothing of a connection.
#[derive(Debug, Default)]
pub(super) struct Patience {
    busy_since: Option<Instant>,
}

impl Patience {
    /// The storage took something.
    pub(super) fn note_taken(&mut self) {
        self.busy_since = None;
    }

    /// The storage was busy. Whether that has lasted for `timeout`.
    pub(super) fn is_over(&mut self, now: Instant, timeout: Duration) -> bool {
        now.saturating_duration_since(*self.busy_since.get_or_insert(now)) >= timeout
    }
}
