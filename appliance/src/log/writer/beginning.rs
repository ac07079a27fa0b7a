//! The end of a start on a device that had no room for what a start must write. The log is there and starved: it takes appends into
//! memory and gives nothing to the device, until what must stand there first got through. See `starved` for the rest.
//!
//! **States:** begun, or waiting → trying → waiting (no room still) or begun; any other failure of a try poisons the log.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::Log;
use crate::bdev::{BdevError, BdevErrorKind};
use crate::log::recovery::LogError;

/// A try to write what must be written first; what of it could not be written although the rest was.
type Try = Pin<Box<dyn Future<Output = Result<Vec<String>, LogError>>>>;

/// What must be written before anything else, while there is no room for it.
pub(in crate::log) struct Opening {
    again: Box<dyn Fn() -> Try>,
    trying: Option<Try>,
}

impl Opening {
    /// What is written by each future that `again` makes; written twice it must be the same.
    pub(in crate::log) fn new<F>(again: impl Fn() -> F + 'static) -> Self
    where
        F: Future<Output = Result<Vec<String>, LogError>> + 'static,
    {
        Opening { again: Box::new(move || Box::pin(again())), trying: None }
    }
}

/// How far a start came with what it must write before anything is appended.
pub(in crate::log) enum Beginning {
    /// It stands on the device.
    Begun,
    /// The device had no room for it.
    NoRoom(BdevError, Opening),
    /// The device does not take it: nothing may be appended.
    Failed(String),
}

impl Log {
    /// Takes over what the start left.
    pub(super) fn begin(&mut self, beginning: Beginning) {
        match beginning {
            Beginning::Begun => {}
            Beginning::NoRoom(error, opening) => {
                self.note_no_room(&error);
                self.opening = Some(opening);
            }
            Beginning::Failed(reason) => self.poison(&reason),
        }
    }

    /// Whether what a start must write first does not stand on the device yet.
    pub fn is_beginning(&self) -> bool {
        self.opening.is_some()
    }

    /// Tries again what a start must write, when it is time. Returns 1 when something changed.
    pub(super) fn go_on_beginning(&mut self) -> usize {
        let (Some(opening), Some(starved)) = (&mut self.opening, &mut self.starved) else { return 0 };
        let now_ns = self.environment.clock.monotonic_ns();
        if opening.trying.is_none() && now_ns < starved.retry_at_ns {
            return 0;
        }
        let trying = opening.trying.get_or_insert_with(|| (opening.again)());
        let Poll::Ready(result) = trying.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            return 0;
        };
        match result {
            Ok(problems) => {
                tracing::warn!(pool = %self.pool, "the device has room again; writes go on");
                self.opening = None;
                self.starved = None;
                for problem in problems {
                    self.note_damage(problem);
                }
            }
            Err(LogError::Device(error)) if error.kind == BdevErrorKind::NoRoom => {
                opening.trying = None;
                starved.wait_longer(now_ns);
                return 0;
            }
            Err(error) => {
                self.opening = None;
                self.starved = None;
                self.poison(&format!("the device takes no writes at start: {error}"));
            }
        }
        1
    }
}
