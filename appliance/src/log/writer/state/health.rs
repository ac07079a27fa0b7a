//! Whether the log takes writes: it runs, waits for room, or has failed.
//!
//! ```text
//! running --no room--> starved --everything got through--> running
//! start without room --> starved, with first writes --they got through--> running
//! any of these --a write or a flush failed--> poisoned
//! ```
//!
//! **No room is not a broken device.** A write that was refused because a sparse file is on a full
//! file system is submitted again, the same bytes at the same place, until there is room. Until
//! then nothing new is submitted. So `written_lsn` stays before the refused write, and nothing
//! after it is acknowledged. Appends continue into memory up to the usual bound. A crash in this
//! state is a crash with records in flight: those that reached the device may be torn, and none was
//! acknowledged.
//!
//! **Poison.** When a record, a header, a trailer or a flush fails, or another appliance goes on
//! with this history, the log stops until a restart: nothing more is submitted, unwritten records
//! stay unwritten, appends are refused with the reason, and the unwritten blocks can be read from
//! memory. A failed flush poisons the log whatever the reason: the data that it should have made
//! stable may be gone.
//!
//! **Invariants.** Only the first failure is kept. A log that must do its first writes is starved.

use uuid::Uuid;

use super::beginning::FirstWrites;
use super::starved::Starved;
use crate::bdev::{BdevError, BdevErrorKind};
use crate::log::error::LogError;
use crate::log::failure::{FailureCause, LogFailure};

/// The health of the log. See the module's documentation.
pub(in crate::log) struct LogHealth {
    pool: Uuid,
    poisoned: Option<LogFailure>,
    starved: Option<Starved>,
    first_writes: Option<FirstWrites>,
}

impl LogHealth {
    /// A running log.
    pub(in crate::log) fn new(pool: Uuid) -> Self {
        LogHealth { pool, poisoned: None, starved: None, first_writes: None }
    }

    /// The failure that stopped the log, if one did.
    pub(in crate::log) fn poisoned(&self) -> Option<&LogFailure> {
        self.poisoned.as_ref()
    }

    /// Whether the log has failed.
    pub(in crate::log) fn is_poisoned(&self) -> bool {
        self.poisoned.is_some()
    }

    /// Since when the log has been waiting for room on the device, if it is.
    pub(in crate::log) fn starved(&self) -> Option<&Starved> {
        self.starved.as_ref()
    }

    /// Whether the first writes of a start are not on the device yet.
    pub(in crate::log) fn is_beginning(&self) -> bool {
        self.first_writes.is_some()
    }

    /// Marks the log as failed. Only the first reason is kept.
    pub(in crate::log) fn poison(&mut self, cause: FailureCause, reason: &str) {
        if self.poisoned.is_none() {
            tracing::error!(pool = %self.pool, reason, "the log failed; the pool takes no more writes");
            self.poisoned = Some(LogFailure::new(cause, reason));
        }
    }

    /// Notes that the device had no room for the first writes of a start.
    pub(in crate::log) fn begin_without_room(&mut self, error: &BdevError, first: FirstWrites, now_ns: u64) {
        self.note_no_room(error, now_ns);
        self.first_writes = Some(first);
    }

    /// Notes that a write was refused because the device has no room.
    pub(in crate::log) fn note_no_room(&mut self, error: &BdevError, now_ns: u64) {
        if let Some(starved) = &mut self.starved {
            starved.note_refused(now_ns);
            return;
        }
        tracing::error!(pool = %self.pool, %error, "the device has no room; writes wait until it has");
        self.starved = Some(Starved::new(error, now_ns));
    }

    /// Notes that a write succeeded.
    pub(in crate::log) fn note_room(&mut self) {
        if let Some(starved) = &mut self.starved {
            starved.note_room();
        }
    }

    /// Whether it is time to submit the refused writes again. If so, it sets the next time.
    pub(in crate::log) fn take_retry(&mut self, now_ns: u64) -> bool {
        let Some(starved) = self.starved.as_mut().filter(|starved| starved.is_due(now_ns)) else {
            return false;
        };
        starved.wait_longer(now_ns);
        true
    }

    /// Notes that the device has accepted everything that it had refused.
    pub(in crate::log) fn end_starvation(&mut self) {
        debug_assert!(!self.is_beginning(), "the first writes come first");
        tracing::warn!(pool = %self.pool, "the device has room again; writes go on");
        self.starved = None;
    }

    /// Tries the first writes again when it is time. `None` while nothing has changed. Otherwise
    /// they succeeded, and the result lists what could not be written although the rest was; or the
    /// log is poisoned.
    pub(in crate::log) fn go_on_beginning(&mut self, now_ns: u64) -> Option<Vec<String>> {
        let (first, starved) = (self.first_writes.as_mut()?, self.starved.as_mut()?);
        if !first.is_trying() && !starved.is_due(now_ns) {
            return None;
        }
        match first.go_on()? {
            Ok(problems) => {
                self.first_writes = None;
                self.end_starvation();
                Some(problems)
            }
            Err(LogError::Device(error)) if error.kind == BdevErrorKind::NoRoom => {
                starved.wait_longer(now_ns);
                None
            }
            Err(error) => {
                (self.first_writes, self.starved) = (None, None);
                self.poison(FailureCause::Device, &format!("the device takes no writes at start: {error}"));
                Some(Vec::new())
            }
        }
    }
}
