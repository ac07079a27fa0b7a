//! Who asked for something, and where the answer goes.

use std::rc::Rc;

use super::latency::Began;
use crate::volume::request::{Sink, VolumeId};

/// A request of a host while it is being started.
pub(in crate::volume) struct Ticket<'a> {
    /// The volume.
    pub(super) volume: VolumeId,
    /// What the host calls it.
    pub(super) tag: u64,
    /// Where its completion goes.
    pub(super) sink: &'a Rc<Sink>,
    /// When it began.
    pub(super) began: Began,
}
