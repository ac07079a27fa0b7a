//! Records in the local catalog what the archivist has uploaded, as it happens, so that the next
//! start has little to read from the store.
//!
//! A lost note (the bound is reached, the file fails) costs the next start one read, and nothing
//! else.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ServeError;
use crate::archive::catalog::{ArchiveCatalog, CatalogError, ObjectDetails, SynchRow};
use crate::archive::object::ObjectId;
use crate::archive::service::{ArchiveReply, ArchiveRequest, ArchiveService, ServiceStats, VerifyPolicy};
use crate::archive::store::Store;
use crate::log::Lsn;
use crate::log::format::{EntryKind, EventHead, EventKind, TrailerUnit};
use crate::log::reader::{LsnRange, SegmentEntries};
use crate::manage::ArchiveManager;
use crate::reactor::ReactorHandle;
use crate::rpc::App;
use crate::volume::SynchInfo;

/// The most notes that wait.
const NOTES_MAX: usize = 256;
/// The file is made stable after this many notes, which bounds how much it holds in memory.
const NOTES_PER_SYNC: u64 = 64;
/// How many synchs are asked for at once: at most 1 MiB of details.
const SYNCHS_AT_ONCE: usize = 64;
/// How long the pool may take to return these synchs.
const SYNCHS_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known about a job.
struct Note {
    id: ObjectId,
    len_bytes: u64,
    opened_ns: u64,
    sealed_ns: u64,
    units: Arc<Vec<TrailerUnit>>,
    holes: Vec<LsnRange>,
}

/// An archive service whose successful uploads are recorded.
pub(super) struct RecordingArchive {
    /// `None` only while this is dropped: the service ends before the thread that takes its notes.
    inner: Option<Box<dyn ArchiveService>>,
    under_way: HashMap<u64, Note>,
    notes: Option<SyncSender<Note>>,
    keeper: Option<JoinHandle<()>>,
}

impl RecordingArchive {
    /// Wraps a service; its successful uploads are recorded in the catalog of `manager`.
    pub(super) fn new(
        inner: Box<dyn ArchiveService>,
        manager: Arc<ArchiveManager>,
        handle: ReactorHandle<App>,
    ) -> Result<Self, ServeError> {
        let (notes, taken) = sync_channel(NOTES_MAX);
        let keeper = std::thread::Builder::new()
            .name("archive-notes".to_owned())
            .spawn(move || keep(&taken, &manager, &handle))
            .map_err(ServeError::Reactor)?;
        Ok(RecordingArchive {
            inner: Some(inner),
            under_way: HashMap::new(),
            notes: Some(notes),
            keeper: Some(keeper),
        })
    }

    fn inner(&self) -> &dyn ArchiveService {
        self.inner.as_deref().unwrap_or_else(|| unreachable!("it is there until the drop"))
    }

    fn inner_mut(&mut self) -> &mut dyn ArchiveService {
        self.inner.as_deref_mut().unwrap_or_else(|| unreachable!("it is there until the drop"))
    }
}

impl ArchiveService for RecordingArchive {
    fn submit(&mut self, request: ArchiveRequest) -> Result<(), ArchiveRequest> {
        let note = match &request {
            ArchiveRequest::Archive(job) => Some((
                job.token,
                Note {
                    id: job.id,
                    len_bytes: 0,
                    opened_ns: job.opened_ns,
                    sealed_ns: job.sealed_ns,
                    units: Arc::clone(&job.units),
                    holes: job.holes.clone(),
                },
            )),
            _ => None,
        };
        self.inner_mut().submit(request)?;
        self.under_way.extend(note);
        Ok(())
    }

    fn poll(&mut self, replies: &mut Vec<ArchiveReply>) -> usize {
        let before = replies.len();
        let count = self.inner_mut().poll(replies);
        for reply in &replies[before..] {
            let ArchiveReply::Archived { token, result } = reply else { continue };
            let Some(note) = self.under_way.remove(token) else { continue };
            if let (Ok(archived), Some(notes)) = (result, &self.notes) {
                // If the channel is full, the next start reads the object from the store.
                drop(notes.try_send(Note { len_bytes: archived.object_bytes, ..note }));
            }
        }
        count
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.inner().store()
    }

    fn verify(&self) -> VerifyPolicy {
        self.inner().verify()
    }

    fn set_verify(&mut self, verify: VerifyPolicy) {
        self.inner_mut().set_verify(verify);
    }

    fn stats(&self) -> ServiceStats {
        self.inner().stats()
    }
}

impl Drop for RecordingArchive {
    fn drop(&mut self) {
        self.inner = None;
        self.notes = None;
        if let Some(keeper) = self.keeper.take() {
            // A thread that panicked has ended too. The join ensures that the catalog's file is
            // closed when the appliance has stopped.
            let _ = keeper.join();
        }
    }
}

/// The thread that records the notes; it runs until all senders are gone.
fn keep(notes: &Receiver<Note>, manager: &ArchiveManager, handle: &ReactorHandle<App>) {
    let mut count = 0;
    let mut told = false;
    for note in notes {
        let recorded = record_synchs(&note, manager, handle);
        let Ok(catalog) = manager.catalog() else { continue };
        count += 1;
        let recorded = recorded.and_then(|synchs_are_known| {
            record(&catalog, &note, synchs_are_known, count % NOTES_PER_SYNC == 0)
        });
        if let Err(error) = recorded
            && !told
        {
            told = true;
            tracing::warn!(%error, "the archive's local catalog cannot be kept; the next start reads the store instead");
        }
    }
}

fn record(
    catalog: &ArchiveCatalog,
    note: &Note,
    synchs_are_known: bool,
    sync: bool,
) -> Result<(), CatalogError> {
    let entries = SegmentEntries::new(note.units.to_vec());
    let mut times = entries.records().map(|(line, _)| line.time_ns());
    let records_ns = times.next().map(|first_ns| (first_ns, times.next_back().unwrap_or(first_ns)));
    let details = ObjectDetails { opened_ns: note.opened_ns, sealed_ns: note.sealed_ns, records_ns };
    catalog.record_holes(&note.id, &note.holes, note.sealed_ns)?;
    // An object recorded without its synchs counts as not read, and is read at the next start.
    catalog.record_object(&note.id, note.len_bytes, synchs_are_known.then_some(details))?;
    if sync { catalog.sync() } else { Ok(()) }
}

/// Whether a synch is in the range of the note.
fn has_synch(note: &Note) -> bool {
    let entries = SegmentEntries::new(note.units.to_vec());
    let mut placed = entries.records().flat_map(|(line, entries)| SegmentEntries::placed(line, entries));
    placed.any(|placed| {
        placed.entry.kind() == Some(EntryKind::Event)
            && EventHead::decode(placed.entry.block().0).kind == Some(EventKind::Synch)
    })
}

/// Records the synchs of the range of a note, a few at a time. Returns whether all are recorded.
fn record_synchs(
    note: &Note,
    manager: &ArchiveManager,
    handle: &ReactorHandle<App>,
) -> Result<bool, CatalogError> {
    if !has_synch(note) {
        return Ok(true);
    }
    let mut from = note.id.from_lsn;
    loop {
        let Some(synchs) = synchs_of(from..note.id.to_lsn, handle) else { return Ok(false) };
        let Some(last) = synchs.last() else { return Ok(true) };
        from = Lsn(last.lsn).plus(1);
        let Ok(catalog) = manager.catalog() else { return Ok(false) };
        for synch in &synchs {
            if synch.details_unread.is_some() {
                return Ok(false);
            }
            let text = serde_json::to_vec(synch).unwrap_or_default();
            catalog.record_synch(&SynchRow { lsn: Lsn(synch.lsn), time_ns: synch.time_ns, text })?;
        }
    }
}

/// The first synchs of a range, as the pool knows them; `None` if it does not answer.
fn synchs_of(range: Range<Lsn>, handle: &ReactorHandle<App>) -> Option<Vec<SynchInfo>> {
    let answer = handle.call(SYNCHS_TIMEOUT, move |app: &App, reply| match app.find_pool() {
        Some(pool) => {
            let read = async move { reply.send(Some(pool.read_synchs(range, SYNCHS_AT_ONCE).await)) };
            drop(app.local().spawn(read));
        }
        None => reply.send(None),
    });
    answer.ok().flatten()
}
