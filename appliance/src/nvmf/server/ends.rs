//! The ends of connections. What has ended waits here until it is closed, and a turn closes a few.
//!
//! To close a connection takes system calls, and the kernel frees what its host did not take:
//! together some ten microseconds, or some hundred when that is megabytes. When a host or a network
//! goes, a thousand connections end at once. Closed in one turn, they would delay everybody else by
//! tens of milliseconds.
//!
//! A connection in here does nothing any more: it reads, answers and waits for nothing. It keeps
//! its descriptor, its place, its queue and its memory until it is closed, and counts as open for
//! all bounds. So no more of them wait than connections are allowed. The first that ended is the
//! first that is closed, and every turn closes at least one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::connection::{Close, Connection};
use super::context::Context;

/// Connections closed per turn.
pub(super) const ENDS_PER_TURN: usize = 16;
/// The time after which a turn begins to close no other one.
const ENDS_TIME_MAX: Duration = Duration::from_micros(200);

/// The connections that have ended and are not closed yet.
#[derive(Default)]
pub(super) struct Ends {
    waiting: RefCell<VecDeque<(Connection, Close)>>,
    /// Closed in this turn, and the time that this took.
    closed: Cell<usize>,
    spent: Cell<Duration>,
}

impl Ends {
    /// A turn begins.
    pub(super) fn begin_turn(&self) {
        self.closed.set(0);
        self.spent.set(Duration::ZERO);
    }

    /// Connections that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Takes a connection that has ended.
    pub(super) fn push(&self, context: &Context, mut connection: Connection, why: Close) {
        connection.begin_end(context);
        self.waiting.borrow_mut().push_back((connection, why));
    }

    /// Closes the first one. `false` when there is none, or when this turn may close no more.
    pub(super) fn close_one(&self, context: &Context) -> bool {
        if self.closed.get() >= ENDS_PER_TURN || self.spent.get() >= ENDS_TIME_MAX {
            return false;
        }
        let Some((connection, why)) = self.waiting.borrow_mut().pop_front() else { return false };
        let began = Instant::now();
        connection.close(context, &why);
        self.closed.set(self.closed.get() + 1);
        self.spent.set(self.spent.get() + began.elapsed());
        true
    }

    /// Closes as many as this turn may. Returns how many.
    pub(super) fn close_some(&self, context: &Context) -> usize {
        std::iter::from_fn(|| self.close_one(context).then_some(())).count()
    }

    /// Closes all, however long that takes: the target shuts down.
    pub(super) fn close_all(&self, context: &Context) {
        for (connection, why) in self.waiting.take() {
            connection.close(context, &why);
        }
    }
}
