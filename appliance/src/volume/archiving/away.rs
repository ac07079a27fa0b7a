//! The stand-in for an archive that the pool has, but that has not been reached since the start.
//!
//! **States:** none → awaited (this stand-in, which knows no objects) → attached. With the stand-in
//! the pool behaves as with an archive that does not answer: data on the primary device is served,
//! requests that need the archive are refused in a way that lets clients retry, and the policy
//! decides about back-pressure.
//!
//! **Invariants.** Nothing is archived and nothing is deleted before the archive itself is
//! attached. A slot is reassigned only if the catalog says that its segment was verified in the
//! archive, or, if the policy gives up history, as a recorded gap. "Not in the archive" is never
//! concluded from the stand-in's empty list: its callers get the error that the archive does not
//! answer.

use std::sync::Arc;

use crate::archive::service::{ArchiveReply, ArchiveRequest, ArchiveService, VerifyPolicy};
use crate::archive::store::{AwayStore, Store};
use crate::log::SegmentSeq;

/// What is known of an archive that was not reached.
pub(super) struct Away {
    /// Segments that the device had lost at the start. Whether the archive has them is checked when
    /// it is attached.
    lost_on_device: Vec<SegmentSeq>,
}

/// Accepts no requests, because nothing can execute them.
struct AwayService {
    store: Arc<dyn Store>,
    verify: VerifyPolicy,
}

impl ArchiveService for AwayService {
    fn submit(&mut self, request: ArchiveRequest) -> Result<(), ArchiveRequest> {
        Err(request)
    }

    fn poll(&mut self, _: &mut Vec<ArchiveReply>) -> usize {
        0
    }

    fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    fn verify(&self) -> VerifyPolicy {
        self.verify
    }

    fn set_verify(&mut self, verify: VerifyPolicy) {
        self.verify = verify;
    }
}

impl Away {
    /// `lost_on_device`: segments that the device had lost at the start.
    pub(super) fn new(lost_on_device: Vec<SegmentSeq>) -> Self {
        Away { lost_on_device }
    }

    /// The segments that the primary device had lost when the pool was opened.
    pub(super) fn take_lost_on_device(&mut self) -> Vec<SegmentSeq> {
        std::mem::take(&mut self.lost_on_device)
    }
}

/// Stands in for the threads of the archive at `store`.
pub(super) fn stand_in(store: &str, verify: VerifyPolicy) -> Box<dyn ArchiveService> {
    Box::new(AwayService { store: Arc::new(AwayStore::new(store)), verify })
}
