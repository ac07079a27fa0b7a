//! How long commands wait for a storage that is busy: not until the host loses its patience and
//! resets the controller, which would end them all and help nobody. Once nothing of a connection
//! has been taken for so long, its commands end with a status that asks for another try, each after
//! one try of its own, until the storage takes one again.
//!
//! Beside the storage's own bounds (its throttle, a full file system), this is for whatever else
//! may keep it: memory that others hold, a working set that finds no room, a clone that waits for
//! its archive.

use std::time::{Duration, Instant};

use super::{Connection, Context};

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
    fn is_over(&mut self, now: Instant, timeout: Duration) -> bool {
        now.saturating_duration_since(*self.busy_since.get_or_insert(now)) >= timeout
    }
}

impl Connection {
    /// The storage was busy when it was given a command: whether the command is to end now.
    pub(super) fn has_waited_too_long(&mut self, context: &Context) -> bool {
        let is_over = self.has_waited_too_long_for_memory(context);
        if is_over && let Some(volume) = self.volume() {
            context.storage.note_ended_busy(volume);
        }
        is_over
    }

    /// There was no memory for a command's data: whether the command is to end now.
    pub(super) fn has_waited_too_long_for_memory(&mut self, context: &Context) -> bool {
        let is_over = self.patience.is_over(context.now(), context.config.busy_timeout);
        context.counters.commands_ended_busy.add(u64::from(is_over));
        is_over
    }
}
