//! The origin of a request, and the destination of its answer.

use std::rc::Rc;

use super::latency::Began;
use crate::volume::request::{Sink, VolumeId};

/// A host's request while it is being started.
pub(in crate::volume) struct Ticket<'a> {
    /// The volume.
    pub(super) volume: VolumeId,
    /// The host's tag.
    pub(super) tag: u64,
    /// The destination of its completion.
    pub(super) sink: &'a Rc<Sink>,
    /// When it began.
    pub(super) began: Began,
}
