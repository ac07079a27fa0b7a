//! A trim of more ranges than a record can hold, whose second part waits for room.
//!
//! **Invariant:** there is at most one. While there is one, no other command changes a volume, so
//! the two parts are adjacent in history.

use std::rc::Rc;

use smallvec::SmallVec;

use super::latency::Began;
use crate::volume::request::{IoCompletion, IoError, Sink, VolumeId};

/// The second part of a trim.
pub(super) struct RestOfTrim {
    pub(super) volume: VolumeId,
    pub(super) ranges: SmallVec<[(u64, u64); 8]>,
    pub(super) force_unit_access: bool,
    pub(super) tag: u64,
    pub(super) sink: Rc<Sink>,
    pub(super) began: Began,
}

impl RestOfTrim {
    /// Ends it with an error. Its first part is done.
    pub(super) fn refuse(self, error: IoError) {
        self.sink.push(IoCompletion { tag: self.tag, result: Err(error), data: SmallVec::new() });
    }
}

/// The trim that is partly done, if there is one. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Trims {
    rest: Option<RestOfTrim>,
}

impl Trims {
    /// Whether an accepted command is only partly in the log.
    #[inline]
    pub(in crate::volume) fn is_in_the_middle(&self) -> bool {
        self.rest.is_some()
    }

    /// Stores the rest until there is room.
    pub(super) fn hold(&mut self, rest: RestOfTrim) {
        assert!(self.rest.is_none(), "one trim at a time is half done");
        self.rest = Some(rest);
    }

    /// Takes the rest, which no longer waits.
    pub(super) fn take(&mut self) -> Option<RestOfTrim> {
        self.rest.take()
    }
}
