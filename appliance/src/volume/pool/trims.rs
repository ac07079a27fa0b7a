//! A trim of more ranges than a record can hold, whose second part waits for room.
//!
//! **Invariant:** there is at most one. While there is one, no other command changes a volume, so
//! the two parts are adjacent in history.

use std::rc::Rc;

use smallvec::SmallVec;

use super::acknowledgements::PendingAck;
use super::latency::Began;
use super::ticket::Ticket;
use crate::log::Lsn;
use crate::volume::request::{IoCompletion, IoError, Sink, VolumeId};

/// The second part of a trim.
pub(super) struct RestOfTrim {
    volume: VolumeId,
    ranges: SmallVec<[(u64, u64); 8]>,
    force_unit_access: bool,
    tag: u64,
    sink: Rc<Sink>,
    began: Began,
}

impl RestOfTrim {
    /// The ranges of a trim that its first part leaves.
    pub(super) fn new(
        ticket: &Ticket<'_>,
        ranges: SmallVec<[(u64, u64); 8]>,
        force_unit_access: bool,
    ) -> Self {
        RestOfTrim {
            volume: ticket.volume,
            ranges,
            force_unit_access,
            tag: ticket.tag,
            sink: Rc::clone(ticket.sink),
            began: ticket.began,
        }
    }

    /// The volume.
    pub(super) fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Its ranges: the first block, and how many.
    pub(super) fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// Its acknowledgement, once the log is past `past`, and whether that must be stable.
    pub(super) fn into_ack(self, past: Lsn) -> (PendingAck, bool) {
        (PendingAck::new(past, self.tag, self.sink, self.began), self.force_unit_access)
    }

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
