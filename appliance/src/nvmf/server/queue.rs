//! A connected queue: its place in a controller, its submission queue head and its counters.

use std::rc::Rc;

use super::controller::{Controller, End};
use super::line::Line;
use super::stats::Counter;

/// The SQHD with which a Connect response agrees to work without flow control (Base section 6.3).
pub(super) const NO_FLOW_CONTROL_HEAD: u16 = 0xFFFF;

/// A queue and its association with a controller. Dropping an I/O queue releases its QID. Dropping
/// the admin queue ends the whole controller.
pub(super) struct Queue {
    pub(super) controller: Rc<Controller>,
    /// 0 is the admin queue.
    pub(super) id: u16,
    /// At least 2.
    pub(super) entries: u32,
    pub(super) flow_control: bool,
    /// The controller's count of resets when the queue was connected.
    pub(super) resets: u32,
    pub(super) counters: QueueCounters,
    line: Rc<Line>,
    head: u32,
}

#[derive(Debug, Default)]
pub(super) struct QueueCounters {
    pub(super) commands: Counter,
    pub(super) reads: Counter,
    pub(super) read_bytes: Counter,
    pub(super) writes: Counter,
    pub(super) written_bytes: Counter,
    pub(super) errors: Counter,
}

impl Queue {
    pub(super) fn new(
        controller: Rc<Controller>,
        id: u16,
        entries: u32,
        flow_control: bool,
        line: &Rc<Line>,
    ) -> Self {
        let (resets, line) = (controller.resets(), Rc::clone(line));
        let counters = QueueCounters::default();
        Queue { controller, id, entries, flow_control, resets, counters, line, head: 0 }
    }

    pub(super) fn is_admin(&self) -> bool {
        self.id == 0
    }

    /// Counts a command as taken from the queue, and returns the SQHD of its response.
    pub(super) fn advance(&mut self) -> u16 {
        if !self.flow_control {
            return 0;
        }
        self.head = (self.head + 1) % self.entries;
        self.head as u16
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.is_admin() {
            self.controller.end(End::AdminClosed);
            self.controller.subsystem.remove_controller(self.controller.id);
        } else {
            self.controller.release_queue(&self.line);
        }
    }
}
