//! Hosts' writes while the device has no room (the log's side is `log::writer::starved`): they
//! wait, and after [`NO_ROOM_WAIT_NS`] they end with an error that asks the host to retry. Reads
//! continue, even those that follow a write on the same connection.
//!
//! A write that the log has accepted may end with that error and still reach the device later. Its
//! host does not know, as with every failed write, and its later writes follow in the log. A write
//! that finds the log's memory used up changes nothing. It is held without its data, and ends with
//! the error when it has waited long enough, or as soon as there is room, so that its retry
//! succeeds. A flush that arrives during this time is held, and executed then.
//!
//! **Ages without a clock reading for each write:** while the log is starved, its head is marked
//! every [`MARK_NS`]; all entries before a mark are at least as old as the mark.
//!
//! **Invariants:** marks are in the order of time and of the log; held requests are in the order of
//! their deadlines. **Bounds:** marks by their spacing, held requests by the depths of the hosts'
//! queues.

use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;

use super::acknowledgements::{Acknowledgements, PendingAck};
use super::latency::{Began, Latencies};
use super::ticket::Ticket;
use super::trims::Trims;
use crate::log::{Log, Lsn};
use crate::volume::request::{IoCompletion, IoError, Request, Sink};

/// How long a host's write waits for room: half the time that Linux waits for a command before it
/// resets the controller.
const NO_ROOM_WAIT_NS: u64 = 15_000_000_000;
/// How often the head of a starved log is marked.
const MARK_NS: u64 = 250_000_000;

/// The requests that wait for room outside the log. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Starving {
    /// Heads of the log and when they were recorded, oldest first.
    marks: VecDeque<(Lsn, u64)>,
    held: VecDeque<Held>,
}

/// A request that is not in the log.
struct Held {
    deadline_ns: u64,
    is_flush: bool,
    tag: u64,
    sink: Rc<Sink>,
    began: Began,
}

impl Held {
    fn refuse(self) {
        self.sink.push(IoCompletion { tag: self.tag, result: Err(IoError::NoRoom), data: SmallVec::new() });
    }
}

impl Starving {
    /// Holds a request that a starved log does not accept. Exactly one completion follows.
    pub(super) fn hold(&mut self, log: &Log, request: &Request<'_>, ticket: &Ticket<'_>) {
        ticket.sink.begin();
        let deadline_ns = log.environment().clock.monotonic_ns() + NO_ROOM_WAIT_NS;
        debug_assert!(self.held.back().is_none_or(|last| last.deadline_ns <= deadline_ns));
        self.held.push_back(Held {
            deadline_ns,
            is_flush: matches!(request, Request::Flush),
            tag: ticket.tag,
            sink: Rc::clone(ticket.sink),
            began: ticket.began,
        });
    }

    /// One turn: ends requests that have waited too long for room, or for which there is room now.
    /// Returns how many ended.
    pub(super) fn turn(
        &mut self,
        log: &mut Log,
        acknowledgements: &mut Acknowledgements,
        trims: &mut Trims,
        latencies: &mut Latencies,
    ) -> usize {
        let Some(since_ns) = log.starved().map(|starved| starved.since_ns) else {
            return if self.is_idle() { 0 } else { self.end(log, acknowledgements) };
        };
        let now_ns = log.environment().clock.monotonic_ns();
        let mut work =
            self.oldest_to_refuse(log, now_ns).map_or(0, |lsn| acknowledgements.refuse_up_to(lsn, latencies));
        while self.held.front().is_some_and(|held| held.deadline_ns <= now_ns) {
            work += self.held.pop_front().map(Held::refuse).map_or(0, |()| 1);
        }
        if since_ns + NO_ROOM_WAIT_NS <= now_ns
            && let Some(rest) = trims.take()
        {
            rest.refuse(IoError::NoRoom);
            work += 1;
        }
        work
    }

    /// Marks the head of the log if it is time. Returns the position up to which everything has
    /// waited too long.
    fn oldest_to_refuse(&mut self, log: &Log, now_ns: u64) -> Option<Lsn> {
        if self.marks.back().is_none_or(|&(_, at_ns)| at_ns + MARK_NS <= now_ns) {
            self.marks.push_back((log.head_lsn(), now_ns));
        }
        let mut reached = None;
        while let Some(&(lsn, at_ns)) = self.marks.front()
            && at_ns + NO_ROOM_WAIT_NS <= now_ns
        {
            reached = Some(lsn);
            self.marks.pop_front();
        }
        reached
    }

    /// Ends all held requests, because there is room or the log has failed.
    fn end(&mut self, log: &mut Log, acknowledgements: &mut Acknowledgements) -> usize {
        self.marks.clear();
        let held = std::mem::take(&mut self.held);
        let work = held.len();
        for held in held {
            if held.is_flush && log.poisoned().is_none() {
                let ack = PendingAck::new(log.commit_lsn(), held.tag, held.sink, held.began);
                acknowledgements.add(log, ack, true);
            } else {
                held.refuse();
            }
        }
        work
    }

    fn is_idle(&self) -> bool {
        self.marks.is_empty() && self.held.is_empty()
    }
}
