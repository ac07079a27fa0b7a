//! Changes of the set of volumes, for their only consumer: the target, which announces namespaces.
//!
//! **Invariant:** events are taken in the order in which they were added, each once.

use std::collections::VecDeque;

use crate::volume::info::VolumeEvent;

/// Events that have not been taken yet.
#[derive(Default)]
pub(in crate::volume) struct VolumeEvents {
    queue: VecDeque<VolumeEvent>,
}

impl VolumeEvents {
    /// Adds an event.
    pub(in crate::volume) fn push(&mut self, event: VolumeEvent) {
        self.queue.push_back(event);
    }

    /// Moves all events to the end of `events`.
    pub(in crate::volume) fn take_all(&mut self, events: &mut VecDeque<VolumeEvent>) {
        events.append(&mut self.queue);
    }
}
