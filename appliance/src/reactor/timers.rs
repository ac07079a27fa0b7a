//! Timers: a heap of deadlines, each with a task to wake.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

#[derive(Default)]
pub(super) struct Timers {
    heap: RefCell<BinaryHeap<Reverse<Entry>>>,
}

struct Entry {
    deadline: Instant,
    waker: Waker,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.deadline == other.deadline
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.deadline.cmp(&other.deadline)
    }
}

impl Timers {
    /// When the next timer fires, if there is one.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.heap.borrow().peek().map(|Reverse(entry)| entry.deadline)
    }

    /// Wakes the tasks whose deadline has passed. Returns how many.
    pub(super) fn fire(&self, now: Instant) -> usize {
        let mut fired = 0;
        loop {
            let mut heap = self.heap.borrow_mut();
            match heap.peek() {
                Some(Reverse(entry)) if entry.deadline <= now => {
                    let waker = heap.pop().map(|Reverse(entry)| entry.waker);
                    drop(heap);
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    fired += 1;
                }
                _ => return fired,
            }
        }
    }
}

/// A future that is ready after its deadline. Made by [`Local::sleep`](super::Local::sleep).
pub struct Sleep {
    timers: Rc<Timers>,
    deadline: Instant,
    armed: bool,
}

impl Sleep {
    pub(super) fn new(timers: Rc<Timers>, deadline: Instant) -> Self {
        Sleep { timers, deadline, armed: false }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.deadline {
            return Poll::Ready(());
        }
        if !self.armed {
            self.armed = true;
            let entry = Entry { deadline: self.deadline, waker: context.waker().clone() };
            self.timers.heap.borrow_mut().push(Reverse(entry));
        }
        Poll::Pending
    }
}
