//! What the storage still has of a connection that is closed.
//!
//! It cannot be called back. A controller that is reset is not ready to be enabled again before it
//! is over: otherwise a write of the time before could come after one of the time after.

use std::rc::Rc;

use super::controller::Controller;
use super::shares::MemberId;
use crate::volume::Sink;

/// Commands of a closed connection that the storage has.
pub(super) struct Leftover {
    controller: Rc<Controller>,
    sink: Rc<Sink>,
    count: usize,
    /// Who holds their memory until then.
    pub(super) member: MemberId,
}

impl Leftover {
    /// `count` commands whose completions come to `sink`, and who holds their memory.
    pub(super) fn new(controller: &Rc<Controller>, sink: &Rc<Sink>, count: usize, member: MemberId) -> Self {
        controller.begin_leftover();
        Leftover { controller: Rc::clone(controller), sink: Rc::clone(sink), count, member }
    }

    /// Takes what has completed. Whether that was the last of it.
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
