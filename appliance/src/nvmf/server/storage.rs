//! What the target needs from the owner of the volumes: a small trait, so that tests can serve
//! memory instead of a pool.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::volume::{Pool, Request, Sink, Submitted, VolumeEvent, VolumeId, VolumeInfo};

/// A set of volumes that accept requests. All calls come from the reactor that owns it, and none of
/// them may call back into the target.
pub trait Storage {
    /// Submits a request. Its completion comes to `sink` with `tag`, never before the call returns.
    fn submit(&self, volume: VolumeId, request: &Request<'_>, tag: u64, sink: &Rc<Sink>) -> Submitted;

    /// Announces that a request for `block` comes next.
    fn prefetch(&self, _volume: VolumeId, _block: u64) {}

    /// A command ended unserved because the volume's storage was busy for too long.
    fn note_ended_busy(&self, _volume: VolumeId) {}

    /// Every volume.
    fn volumes(&self) -> Vec<VolumeInfo>;

    /// One volume. `None` when it is gone.
    fn volume(&self, id: VolumeId) -> Option<VolumeInfo>;

    /// One volume by its name.
    fn find(&self, name: &str) -> Option<VolumeInfo>;

    /// Appends the changes of the set since the last call, in order.
    fn take_events(&self, events: &mut VecDeque<VolumeEvent>);

    /// Whether a power loss before a flush can lose completed writes.
    fn volatile_cache(&self) -> bool;

    /// Whether the medium has failed, so that no write is accepted until a restart. Reads continue.
    fn has_failed(&self) -> bool;
}

impl Storage for Pool {
    fn submit(&self, volume: VolumeId, request: &Request<'_>, tag: u64, sink: &Rc<Sink>) -> Submitted {
        Pool::submit(self, volume, request, tag, sink)
    }

    fn prefetch(&self, volume: VolumeId, block: u64) {
        Pool::prefetch(self, volume, block);
    }

    fn note_ended_busy(&self, volume: VolumeId) {
        Pool::note_ended_busy(self, volume);
    }

    fn volumes(&self) -> Vec<VolumeInfo> {
        Pool::volumes(self)
    }

    fn volume(&self, id: VolumeId) -> Option<VolumeInfo> {
        Pool::volume(self, id)
    }

    fn find(&self, name: &str) -> Option<VolumeInfo> {
        self.find_volume(name)
    }

    fn take_events(&self, events: &mut VecDeque<VolumeEvent>) {
        Pool::take_events(self, events);
    }

    fn volatile_cache(&self) -> bool {
        Pool::volatile_cache(self)
    }

    fn has_failed(&self) -> bool {
        Pool::has_failed(self)
    }
}
