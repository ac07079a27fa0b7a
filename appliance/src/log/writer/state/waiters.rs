//! Tasks that wait until more of the log is written or stable, or until it has failed.
//!
//! **Invariant.** A woken task no longer waits, unless it asks again.

use std::task::Waker;

/// The tasks. See the module's documentation.
#[derive(Default)]
pub(in crate::log) struct Waiters {
    wakers: Vec<Waker>,
}

impl Waiters {
    /// Adds a task.
    pub(in crate::log) fn push(&mut self, waker: Waker) {
        self.wakers.push(waker);
    }

    /// Whether no task waits.
    pub(in crate::log) fn is_empty(&self) -> bool {
        self.wakers.is_empty()
    }

    /// Wakes all of them.
    pub(in crate::log) fn wake_all(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }
}
