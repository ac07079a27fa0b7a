//! The settings of the log's owner: what happens to dead segments, and what may continue.
//!
//! **Invariant.** Once appends are stopped, they stay stopped: the trailer of a clean stop is valid
//! only if the log ends there.

use crate::log::writer::interface::Recycling;

/// The settings. See the module's documentation.
#[derive(Default)]
pub(in crate::log) struct Orders {
    recycling: Recycling,
    holds_next_segment: bool,
    is_stopped: bool,
}

impl Orders {
    /// What happens to segments that contain no live blocks.
    pub(in crate::log) fn recycling(&self) -> Recycling {
        self.recycling
    }

    /// Whether the slots of segments without live blocks are reused at all.
    pub(in crate::log) fn recycles(&self) -> bool {
        self.recycling != Recycling::Never
    }

    /// Whether no segment may be opened now.
    pub(in crate::log) fn holds_next_segment(&self) -> bool {
        self.holds_next_segment
    }

    /// Whether appends are stopped.
    pub(in crate::log) fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    pub(in crate::log) fn set_recycling(&mut self, recycling: Recycling) {
        self.recycling = recycling;
    }

    pub(in crate::log) fn hold_next_segment(&mut self, held: bool) {
        self.holds_next_segment = held;
    }

    pub(in crate::log) fn stop(&mut self) {
        self.is_stopped = true;
    }
}
