//! What a start must write before anything else, and how far it came with that.
//!
//! A device without room for it does not keep the pool from being opened. The log is there and
//! waits: it takes appends into memory and gives nothing to the device until the first writes got
//! through.
//!
//! **Invariant.** One try is under way at a time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::bdev::BdevError;
use crate::log::error::LogError;

/// A try to write it; the text says what could not be written although the rest was.
type Try = Pin<Box<dyn Future<Output = Result<Vec<String>, LogError>>>>;

/// What must be written first, while the device has no room for it.
pub(in crate::log) struct FirstWrites {
    again: Box<dyn Fn() -> Try>,
    trying: Option<Try>,
}

impl FirstWrites {
    /// What is written by each future that `again` makes. To write it twice must do no harm.
    pub(in crate::log) fn new<F>(again: impl Fn() -> F + 'static) -> Self
    where
        F: Future<Output = Result<Vec<String>, LogError>> + 'static,
    {
        FirstWrites { again: Box::new(move || Box::pin(again())), trying: None }
    }

    /// Whether a try is under way.
    pub(in crate::log) fn is_trying(&self) -> bool {
        self.trying.is_some()
    }

    /// Begins a try, or goes on with the one that is under way. `None` until it has ended.
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

/// How far a start came with what it must write first.
pub(in crate::log) enum Beginning {
    /// It is on the device.
    Begun,
    /// The device had no room for it.
    NoRoom(BdevError, FirstWrites),
    /// The device does not take it: nothing may be appended.
    Failed(String),
}
