//! The commands of a closed connection that the storage still has.
//!
//! They cannot be cancelled. A controller that is reset cannot be enabled again before they are
//! done: otherwise a write from before the reset could take effect after one from after it.

use std::rc::Rc;

use super::controller::Controller;
use super::shares::MemberId;
use crate::volume::Sink;

/// Commands of a closed connection that the storage still has.
pub(super) struct Leftover {
    controller: Rc<Controller>,
    sink: Rc<Sink>,
    count: usize,
    /// The member that holds their memory until then.
    pub(super) member: MemberId,
}

impl Leftover {
    /// `count` commands that complete into `sink`, and the member that holds their memory.
    pub(super) fn new(controller: &Rc<Controller>, sink: &Rc<Sink>, count: usize, member: MemberId) -> Self {
        controller.begin_leftover();
        Leftover { controller: Rc::clone(controller), sink: Rc::clone(sink), count, member }
    }

    /// Takes the completed commands. Returns whether all are done.
    pub(super) fn is_over(&mut self) -> bool {
        while self.count > 0 && self.sink.pop().is_some() {
            self.count -= 1;
        }
        self.count == 0
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        self.controller.end_leftover();
    }
}
