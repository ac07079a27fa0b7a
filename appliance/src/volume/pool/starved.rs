//! Hosts' writes while the device has no room (the log's side is `log::writer::starved`): they wait, and after [`NO_ROOM_WAIT_NS`] they end with an error that asks for
//! another try. Reads go on, behind them on the same connection too.
//!
//! A write that the log has taken may end with that error and still reach the device later: its host does not know, as with every write that failed, and whatever it writes
//! next stands behind it in the log. A write that finds the log's memory used up changes nothing: it is held, without its data, and ends with the
//! error when it has waited so long, or as soon as there is room, so that its next try succeeds. A flush that came meanwhile is held and done then.
//!
//! **Ages without a clock reading for each write:** while the log is starved, its head is marked every [`MARK_NS`]; what lies before a mark is at least as old as that.
//!
//! **Bounds:** marks by their spacing, requests that are held by the depths of the hosts' queues.

use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;

use super::latency::Began;
use super::write::PendingAck;
use super::{State, Ticket};
use crate::log::{Log, Lsn};
use crate::volume::request::{IoCompletion, IoError, Request, Sink};

/// How long a host's write waits for room: half of what Linux waits for a command before it resets the controller.
pub(super) const NO_ROOM_WAIT_NS: u64 = 15_000_000_000;
/// How often the head of a starved log is marked.
const MARK_NS: u64 = 250_000_000;

/// What waits for room beside what is in the log.
#[derive(Default)]
pub(super) struct Starving {
    /// Heads of the log and when they were seen, oldest first.
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

impl State {
    /// Holds a request that a starved log takes nothing of. Exactly one completion follows.
    pub(super) fn hold(&mut self, log: &Log, request: &Request<'_>, ticket: &Ticket<'_>) {
        ticket.sink.begin();
        self.starving.held.push_back(Held {
            deadline_ns: log.environment().clock.monotonic_ns() + NO_ROOM_WAIT_NS,
            is_flush: matches!(request, Request::Flush),
            tag: ticket.tag,
            sink: Rc::clone(ticket.sink),
            began: ticket.began,
        });
    }

    /// Ends what has waited too long for room, or what there is room for now. Returns how much ended.
    pub(super) fn look_after_starving(&mut self, log: &mut Log) -> usize {
        let Some(since_ns) = log.starved().map(|starved| starved.since_ns) else {
            return if self.starving.is_idle() { 0 } else { self.end_starving(log) };
        };
        let now_ns = log.environment().clock.monotonic_ns();
        let marks = &mut self.starving.marks;
        if marks.back().is_none_or(|&(_, at_ns)| at_ns + MARK_NS <= now_ns) {
            marks.push_back((log.head_lsn(), now_ns));
        }
        let mut reached = None;
        while let Some(&(lsn, at_ns)) = marks.front()
            && at_ns + NO_ROOM_WAIT_NS <= now_ns
        {
            reached = Some(lsn);
            marks.pop_front();
        }
        let mut work = reached.map_or(0, |lsn| self.refuse_up_to(lsn));
        while self.starving.held.front().is_some_and(|held| held.deadline_ns <= now_ns) {
            work += self.starving.held.pop_front().map(Held::refuse).map_or(0, |()| 1);
        }
        if since_ns + NO_ROOM_WAIT_NS <= now_ns
            && let Some(rest) = self.rest_of_trim.take()
        {
            rest.refuse();
            work += 1;
        }
        work
    }

    /// There is room, or the log has failed.
    fn end_starving(&mut self, log: &mut Log) -> usize {
        self.starving.marks.clear();
        let held = std::mem::take(&mut self.starving.held);
        let work = held.len();
        for held in held {
            if held.is_flush && log.poisoned().is_none() {
                let ack =
                    PendingAck { past: log.commit_lsn(), tag: held.tag, sink: held.sink, began: held.began };
                self.add_ack(log, ack, true);
            } else {
                held.refuse();
            }
        }
        work
    }
}

impl Starving {
    fn is_idle(&self) -> bool {
        self.marks.is_empty() && self.held.is_empty()
    }
}
