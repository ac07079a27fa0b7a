//! Whether the log takes writes: it runs, waits for room, or has failed.
//!
//! ```text
//! running --no room--> starved --everything got through--> running
//! start without room --> starved, with first writes --they got through--> running
//! any of these --a write or a flush failed--> poisoned
//! ```
//!
//! **No room is not a broken device.** A write that was refused because a sparse file is on a full
//! file system comes again, the same bytes at the same place, until there is room. Until then
//! nothing new is submitted. So `written_lsn` stays before what was refused, and nothing after it
//! is acknowledged. Appends go on into memory up to the usual bound. A crash in this state is a
//! crash with records in flight: whatever reached the device of them is torn, and none was
//! acknowledged.
//!
//! **Poison.** When a record, a header, a trailer or a flush fails, the log stops until a restart:
//! nothing more is submitted, what was not written never becomes written, appends are refused with
//! the reason, and the unwritten blocks can be read from memory. A flush that fails poisons the log
//! whatever its reason: what it should have made stable may be gone.
//!
//! **Invariants.** The first failure is the one that is kept. A log that must do its first writes
//! is starved.

use std::rc::Rc;

use uuid::Uuid;

use super::beginning::FirstWrites;
use super::starved::Starved;
use crate::bdev::{BdevError, BdevErrorKind};
use crate::log::error::LogError;

/// How the log is. See the module's documentation.
pub(in crate::log) struct LogHealth {
    pool: Uuid,
    poisoned: Option<Rc<str>>,
    starved: Option<Starved>,
    first_writes: Option<FirstWrites>,
}

impl LogHealth {
    /// A log that runs.
    pub(in crate::log) fn new(pool: Uuid) -> Self {
        LogHealth { pool, poisoned: None, starved: None, first_writes: None }
    }

    /// The failure that stopped the log, if one did.
    pub(in crate::log) fn poisoned(&self) -> Option<&Rc<str>> {
        self.poisoned.as_ref()
    }

    /// Whether the log has failed.
    pub(in crate::log) fn is_poisoned(&self) -> bool {
        self.poisoned.is_some()
    }

    /// Whether the log waits for room on the device, and since when.
    pub(in crate::log) fn starved(&self) -> Option<&Starved> {
        self.starved.as_ref()
    }

    /// Whether what a start must write first is not on the device yet.
    pub(in crate::log) fn is_beginning(&self) -> bool {
        self.first_writes.is_some()
    }

    /// The log has failed. Only the first reason is kept.
    pub(in crate::log) fn poison(&mut self, reason: &str) {
        if self.poisoned.is_none() {
            tracing::error!(pool = %self.pool, reason, "the log failed; the pool takes no more writes");
            self.poisoned = Some(Rc::from(reason));
        }
    }

    /// The device had no room for what a start must write first.
    pub(in crate::log) fn begin_without_room(&mut self, error: &BdevError, first: FirstWrites, now_ns: u64) {
        self.note_no_room(error, now_ns);
        self.first_writes = Some(first);
    }

    /// A write was refused because the device has no room.
    pub(in crate::log) fn note_no_room(&mut self, error: &BdevError, now_ns: u64) {
        if let Some(starved) = &mut self.starved {
            starved.note_refused(now_ns);
            return;
        }
        tracing::error!(pool = %self.pool, %error, "the device has no room; writes wait until it has");
        self.starved = Some(Starved::new(error, now_ns));
    }

    /// A write got through.
    pub(in crate::log) fn note_room(&mut self) {
        if let Some(starved) = &mut self.starved {
            starved.note_room();
        }
    }

    /// Whether it is time to submit again what was refused. If so, the next time is later.
    pub(in crate::log) fn take_retry(&mut self, now_ns: u64) -> bool {
        let Some(starved) = self.starved.as_mut().filter(|starved| starved.is_due(now_ns)) else {
            return false;
        };
        starved.wait_longer(now_ns);
        true
    }

    /// The device has taken everything that it had refused.
    pub(in crate::log) fn end_starvation(&mut self) {
        debug_assert!(!self.is_beginning(), "the first writes come first");
        tracing::warn!(pool = %self.pool, "the device has room again; writes go on");
        self.starved = None;
    }

    /// Tries the first writes again, when it is time. `None` while nothing has changed. Otherwise
    /// they got through, with what could not be written although the rest was; or the log is
    /// poisoned.
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
                self.poison(&format!("the device takes no writes at start: {error}"));
                Some(Vec::new())
            }
        }
    }
}
