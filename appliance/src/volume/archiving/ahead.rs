//! Entries that are requested before they are needed: while an index builder processes the entries
//! of one segment, the readers fetch and decompress those of the next.
//!
//! **Bounds:** [`AHEAD_SEGMENTS`] segments of one scan are in flight or ready, at most 6.0 MiB each
//! and usually 400 KiB. A scan that is abandoned leaves only replies that nobody receives.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::receivers::{FetchSlot, failed, reply};
use super::requests::Ask;
use super::slot::no_archive;
use crate::archive::object::ObjectId;
use crate::archive::service::{ArchiveReply, ObjectEntries};
use crate::log::SegmentSeq;
use crate::log::reader::SegmentEntries;
use crate::volume::error::VolumeError;
use crate::volume::pool::Pool;

/// How many segments of one scan are requested before they are needed: two for each reader of the
/// default archive.
const AHEAD_SEGMENTS: usize = 4;

/// The entries of an object: available, or in flight.
pub(super) enum Coming {
    There(Arc<ObjectEntries>),
    Asked(Rc<RefCell<FetchSlot>>),
}

/// The requests of one scan. Segments are in descending order, from the newest to the oldest.
pub(in crate::volume) struct Ahead {
    /// The next segment to request; `None`: all have been requested.
    next: Option<SegmentSeq>,
    oldest: SegmentSeq,
    /// For each segment the objects that hold it; none for a segment that is on the primary device,
    /// or lost.
    coming: VecDeque<(SegmentSeq, Vec<(ObjectId, Coming)>)>,
}

impl Ahead {
    /// A scan of the segments from `newest` down to `oldest`, both included.
    pub(in crate::volume) fn new(newest: SegmentSeq, oldest: SegmentSeq) -> Self {
        Ahead { next: Some(newest).filter(|next| *next >= oldest), oldest, coming: VecDeque::new() }
    }
}

impl Pool {
    /// The entries of the next segment of a scan, as [`entries_of`](Self::entries_of) returns them;
    /// `None` after the last.
    ///
    /// # Errors
    /// Those of `entries_of` for this segment; the scan may continue with the next.
    pub(in crate::volume) async fn next_entries(
        &self,
        ahead: &mut Ahead,
    ) -> Option<Result<Option<SegmentEntries>, VolumeError>> {
        while ahead.coming.len() < AHEAD_SEGMENTS
            && let Some(sequence) = ahead.next
        {
            ahead.next = sequence.0.checked_sub(1).map(SegmentSeq).filter(|next| *next >= ahead.oldest);
            let parts = self.begin_segment(sequence);
            ahead.coming.push_back((sequence, parts));
        }
        let (sequence, parts) = ahead.coming.pop_front()?;
        if parts.is_empty() {
            return Some(self.entries_of(sequence).await);
        }
        let mut entries = Vec::with_capacity(parts.len());
        for (id, part) in parts {
            match arrive(part).await {
                Ok(part) => entries.push(part),
                Err(error) => {
                    if let Err(error) = self.check_given_up(id, error) {
                        return Some(Err(error));
                    }
                }
            }
        }
        Some(Ok(Some(ObjectEntries::join(entries.iter().map(|entries| &**entries)))))
    }

    /// Requests the entries of a segment that is only in the archive.
    fn begin_segment(&self, sequence: SegmentSeq) -> Vec<(ObjectId, Coming)> {
        if self.log.borrow().table().slot(sequence).is_some() {
            return Vec::new();
        }
        let ids = {
            let state = self.state.borrow();
            state.archive.get().map(|archive| archive.objects.parts(sequence)).unwrap_or_default()
        };
        // Without an archive there are no parts.
        ids.into_iter().filter_map(|id| Some((id, self.begin_entries(id).ok()?))).collect()
    }

    /// Returns the entries of an object from the cache, or requests them.
    fn begin_entries(&self, id: ObjectId) -> Result<Coming, VolumeError> {
        let mut state = self.state.borrow_mut();
        let archive = state.archive.get_mut().ok_or_else(no_archive)?;
        match archive.entries.get(&id) {
            Some(entries) => Ok(Coming::There(entries)),
            None => Ok(Coming::Asked(archive.begin(Ask { id, lsn: None }))),
        }
    }

    /// The entries of an object.
    pub(in crate::volume) async fn object_entries(
        &self,
        id: ObjectId,
    ) -> Result<Arc<ObjectEntries>, VolumeError> {
        arrive(self.begin_entries(id)?).await
    }
}

async fn arrive(coming: Coming) -> Result<Arc<ObjectEntries>, VolumeError> {
    let slot = match coming {
        Coming::There(entries) => return Ok(entries),
        Coming::Asked(slot) => slot,
    };
    match reply(slot).await {
        ArchiveReply::Entries { result, .. } => result.map_err(failed),
        _ => unreachable!("a reply is of its request's kind"),
    }
}
