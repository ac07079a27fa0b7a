//! Entries that are asked for before they are needed: while one segment's entries are shown to an index builder, the readers fetch and decompress those of the next.
//!
//! **Bounds:** [`AHEAD_SEGMENTS`] segments of one scan are on their way or wait, at most 6.0 MiB each and 400 KiB usually. A scan that is given up leaves nothing but replies that nobody takes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::Ask;
use super::fetch::{FetchSlot, Waiter, failed};
use super::seal::no_archive;
use crate::archive::object::ObjectId;
use crate::archive::service::{ObjectEntries, Reply};
use crate::log::SegmentSeq;
use crate::log::reader::SegmentEntries;
use crate::volume::error::VolumeError;
use crate::volume::pool::Pool;

/// Segments of one scan that are asked for before they are needed: two for each reader of the usual archive.
const AHEAD_SEGMENTS: usize = 4;

/// Entries of an object: there, or on their way.
pub(super) enum Coming {
    There(Arc<ObjectEntries>),
    Asked(Rc<RefCell<FetchSlot>>),
}

/// What one scan has asked for. Segments go down, from the newest to the oldest.
pub(in crate::volume) struct Ahead {
    /// The next segment to ask for; `None`: all were asked for.
    next: Option<SegmentSeq>,
    oldest: SegmentSeq,
    /// For each segment the objects that hold it; none for one that is on the primary device, or nowhere.
    coming: VecDeque<(SegmentSeq, Vec<(ObjectId, Coming)>)>,
}

impl Ahead {
    /// For the segments from `newest` down to `oldest`, both of them among those.
    pub(in crate::volume) fn new(newest: SegmentSeq, oldest: SegmentSeq) -> Self {
        Ahead { next: Some(newest).filter(|next| *next >= oldest), oldest, coming: VecDeque::new() }
    }
}

impl Pool {
    /// The entries of the next segment of a scan, as [`entries_of`](Self::entries_of) gives them; `None` behind the last.
    ///
    /// # Errors
    /// Those of `entries_of`, of this segment; the scan may go on with the next.
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

    /// Asks for the entries of a segment that is in the archive only.
    fn begin_segment(&self, sequence: SegmentSeq) -> Vec<(ObjectId, Coming)> {
        if self.log.borrow().table().slot(sequence).is_some() {
            return Vec::new();
        }
        let ids = {
            let state = self.state.borrow();
            state.archive.as_ref().map(|archive| archive.objects.parts(sequence)).unwrap_or_default()
        };
        // Without an archive there are no parts.
        ids.into_iter().filter_map(|id| Some((id, self.begin_entries(id).ok()?))).collect()
    }

    /// The entries of an object from the cache, or asks for them.
    fn begin_entries(&self, id: ObjectId) -> Result<Coming, VolumeError> {
        let mut state = self.state.borrow_mut();
        let archive = state.archive.as_mut().ok_or_else(no_archive)?;
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

impl super::Archive {
    /// Asks, for a task.
    pub(super) fn begin(&mut self, ask: Ask) -> Rc<RefCell<FetchSlot>> {
        let slot = Rc::new(RefCell::new(FetchSlot::default()));
        let token = self.token();
        self.waiters.insert(token, Waiter::Task(Rc::clone(&slot)));
        self.ask(token, ask);
        slot
    }
}

/// Waits for a reply.
pub(super) async fn reply(slot: Rc<RefCell<FetchSlot>>) -> Reply {
    std::future::poll_fn(move |context| {
        let mut slot = slot.borrow_mut();
        if let Some(reply) = slot.reply.take() {
            return Poll::Ready(reply);
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    })
    .await
}

async fn arrive(coming: Coming) -> Result<Arc<ObjectEntries>, VolumeError> {
    let slot = match coming {
        Coming::There(entries) => return Ok(entries),
        Coming::Asked(slot) => slot,
    };
    match reply(slot).await {
        Reply::Entries { result, .. } => result.map_err(failed),
        _ => unreachable!("a reply is of its request's kind"),
    }
}
