//! The writes that a start must do before anything else, and their progress.
//!
//! A device without room for them does not prevent the pool from being opened. The log is opened
//! and waits: it accepts appends into memory and sends nothing to the device until the first writes
//! have succeeded.
//!
//! **Invariant.** One try is in progress at a time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::bdev::BdevError;
use crate::log::error::LogError;

/// One try of the writes. The result lists what could not be written although the rest was.
type Try = Pin<Box<dyn Future<Output = Result<Vec<String>, LogError>>>>;

/// The writes that must come first, while the device has no room for them.
pub(in crate::log) struct FirstWrites {
    again: Box<dyn Fn() -> Try>,
    trying: Option<Try>,
}

impl FirstWrites {
    /// Each future that `again` makes does all of the writes. Repeating them must do no harm.
    pub(in crate::log) fn new<F>(again: impl Fn() -> F + 'static) -> Self
    where
        F: Future<Output = Result<Vec<String>, LogError>> + 'static,
    {
        FirstWrites { again: Box::new(move || Box::pin(again())), trying: None }
    }

    /// Whether a try is in progress.
    pub(in crate::log) fn is_trying(&self) -> bool {
        self.trying.is_some()
    }

    /// Starts a try, or continues the current one. `None` until it has ended.
    pub(in crate::log) fn go_on(&mut self) -> Option<Result<Vec<String>, LogError>> {
        let trying = self.trying.get_or_insert_with(|| (self.again)());
        match trying.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => None,
            Poll::Ready(result) => {
                self.trying = None;
                Some(result)
            }
        }
    }
}

/// The progress of the first writes of a start.
pub(in crate::log) enum Beginning {
    /// They are on the device.
    Begun,
    /// The device had no room for them.
    NoRoom(BdevError, FirstWrites),
    /// The device refuses them: nothing may be appended.
    Failed(String),
}
