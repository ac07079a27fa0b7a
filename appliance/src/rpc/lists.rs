//! Turns to write long lists: how many are written at once, and the array that they are written to.
//!
//! **Bounds:** [`LISTS_AT_ONCE`] lists are written at once, so the memory for writing them does not
//! grow with the number of callers. Others wait in the order in which they came. Of the reads that
//! lists wait for, [`READS_MAX`] are under way, those included that nobody waits for any more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::error::RpcError;
use super::protocol::ResultText;

/// How many lists are written at once.
const LISTS_AT_ONCE: usize = 4;

/// How many reads for lists are under way.
const READS_MAX: usize = 2 * LISTS_AT_ONCE;

/// A read for a list; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Reading(Arc<AtomicUsize>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The turns of all callers.
#[derive(Debug, Default)]
pub(super) struct ListTurns {
    state: Mutex<State>,
    changed: Condvar,
    reads: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    /// The numbers of those who wait, in order.
    waiting: VecDeque<u64>,
    next_number: u64,
}

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct ListTurn<'a>(&'a ListTurns);

impl ListTurns {
    /// Waits for a turn; `None` if none came in time.
    pub(super) fn wait(&self, timeout: Duration) -> Option<ListTurn<'_>> {
        let began = Instant::now();
        let mut state = self.lock();
        let number = state.next_number;
        state.next_number = number.wrapping_add(1);
        state.waiting.push_back(number);
        loop {
            if state.under_way < LISTS_AT_ONCE && state.waiting.front() == Some(&number) {
                state.waiting.pop_front();
                state.under_way = state.under_way.saturating_add(1);
                drop(state);
                // There may be a turn for the next one too.
                self.changed.notify_all();
                return Some(ListTurn(self));
            }
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                state.waiting.retain(|&waiting| waiting != number);
                drop(state);
                self.changed.notify_all();
                return None;
            }
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Begins a read; `None` if too many are under way.
    pub(super) fn begin_reading(&self) -> Option<Reading> {
        // Dropped, and so counted off, if it is one too many.
        let before = self.reads.fetch_add(1, Ordering::Relaxed);
        let reading = Reading(Arc::clone(&self.reads));
        (before < READS_MAX).then_some(reading)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ListTurn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.under_way = state.under_way.saturating_sub(1);
        drop(state);
        self.0.changed.notify_all();
    }
}

/// A JSON array that is written entry by entry.
#[derive(Debug)]
pub(super) struct ListText {
    text: ResultText,
    count: usize,
}

impl ListText {
    /// An empty array.
    pub(super) fn new() -> Self {
        ListText { text: vec![b'['], count: 0 }
    }

    /// How many entries it has.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The length of the text so far, in bytes.
    pub(super) fn len_bytes(&self) -> usize {
        self.text.len()
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub(super) fn push(&mut self, entry: &impl Serialize) -> Result<(), RpcError> {
        if self.count > 0 {
            self.text.push(b',');
        }
        self.count = self.count.saturating_add(1);
        serde_json::to_writer(&mut self.text, entry).map_err(|error| RpcError::Internal {
            reason: format!("an entry of the list cannot be written as JSON: {error}"),
        })
    }

    /// The whole text.
    pub(super) fn finish(mut self) -> ResultText {
        self.text.push(b']');
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_an_array() {
        let mut list = ListText::new();
        assert_eq!(list.finish(), b"[]");
        list = ListText::new();
        for entry in 0..3 {
            list.push(&entry).expect("a number");
        }
        assert_eq!((list.count(), list.len_bytes()), (3, 6));
        assert_eq!(list.finish(), b"[0,1,2]");
    }

    #[test]
    fn reads_that_nobody_waits_for_are_counted_until_they_end() {
        let turns = ListTurns::default();
        let mut reads: Vec<Reading> = std::iter::from_fn(|| turns.begin_reading()).take(100).collect();
        assert_eq!(reads.len(), READS_MAX);
        reads.pop();
        reads.extend(turns.begin_reading());
        assert!(reads.len() == READS_MAX && turns.begin_reading().is_none());
    }

    #[test]
    fn only_a_few_write_at_once_and_the_others_follow_in_order() {
        let turns = ListTurns::default();
        let mut held: Vec<ListTurn<'_>> =
            (0..LISTS_AT_ONCE).filter_map(|_| turns.wait(Duration::ZERO)).collect();
        assert_eq!(held.len(), LISTS_AT_ONCE);
        assert!(turns.wait(Duration::from_millis(1)).is_none(), "all are taken");
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for number in 0..3 {
                let (turns, order) = (&turns, &order);
                scope.spawn(move || {
                    let turn = turns.wait(Duration::from_mins(1)).expect("its turn comes");
                    order.lock().expect("no panic").push(number);
                    drop(turn);
                });
                while turns.lock().waiting.len() <= number {
                    std::thread::yield_now();
                }
            }
            // One turn passes from one to the next.
            held.pop();
        });
        assert_eq!(order.into_inner().expect("no panic"), [0, 1, 2]);
        held.clear();
        assert_eq!(turns.lock().under_way, 0);
    }
}
