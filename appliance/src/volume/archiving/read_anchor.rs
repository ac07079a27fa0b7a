//! Reads of anchors by tasks.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::receivers::{FetchSlot, reply};
use super::slot::no_archive;
use crate::archive::anchor::AnchorId;
use crate::archive::service::{AnchorContent, AnchorRead, ArchiveError, ArchiveReply, ArchiveRequest};
use crate::volume::error::VolumeError;
use crate::volume::pool::Pool;

/// A part of an anchor that is being read. Dropped, only its reply is lost.
pub(in crate::volume) struct ComingAnchor(Rc<RefCell<FetchSlot>>);

impl ComingAnchor {
    /// Waits for it.
    ///
    /// # Errors
    /// The store's, at its first try, or damage.
    pub(in crate::volume) async fn arrive(self) -> Result<Arc<AnchorContent>, ArchiveError> {
        match reply(self.0).await {
            ArchiveReply::Anchor { result, .. } => result,
            _ => unreachable!("a reply is of its request's kind"),
        }
    }
}

impl Pool {
    /// Requests a part of an anchor.
    ///
    /// # Errors
    /// The pool has no archive.
    pub(in crate::volume) fn begin_anchor(
        &self,
        id: AnchorId,
        read: AnchorRead,
    ) -> Result<ComingAnchor, VolumeError> {
        let mut state = self.state.borrow_mut();
        let archive = state.archive.get_mut().ok_or_else(no_archive)?;
        let token = archive.requests.token();
        let slot = archive.receivers.add_task(token);
        archive.requests.send(ArchiveRequest::ReadAnchor { token, id, read });
        Ok(ComingAnchor(slot))
    }

    /// Stops using an anchor. With `delete`, what is in the store of it is deleted. Returns whether
    /// it was in use.
    pub(in crate::volume) fn forget_anchor(&self, id: &AnchorId, delete: bool) -> bool {
        let state = &mut *self.state.borrow_mut();
        let may_delete = delete && state.catalog.ownership.rehearsal_lsn.is_none();
        state.archive.get_mut().is_some_and(|archive| archive.anchors.forget(id, may_delete))
    }
}
