//! Counters of a service, readable from any thread.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{ArchiveError, ArchiveReply, Archived};

/// Counts since the start. They only increase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServiceStats {
    /// Objects stored and verified.
    pub objects: u64,
    /// Bytes of the blocks in them.
    pub content_bytes: u64,
    /// Bytes of the objects.
    pub object_bytes: u64,
    /// Blocks that were damaged or unreadable on the device already.
    pub bad_blocks: u64,
    /// Jobs that failed.
    pub failures: u64,
    /// The time that the archivist spent on finished jobs, in microseconds.
    pub busy_us: u64,
    /// Answered requests for entries, for blocks and for deletion.
    pub fetches: u64,
    /// Those among them that failed.
    pub fetch_failures: u64,
    /// Bytes of fetched blocks.
    pub fetched_bytes: u64,
    /// Deleted objects.
    pub removed: u64,
}

/// The counters of [`ServiceStats`]. Each is exact; a snapshot may be taken between the updates of
/// two related ones.
#[derive(Debug, Default)]
pub struct ServiceCounters {
    objects: AtomicU64,
    content_bytes: AtomicU64,
    object_bytes: AtomicU64,
    bad_blocks: AtomicU64,
    failures: AtomicU64,
    busy_us: AtomicU64,
    fetches: AtomicU64,
    fetch_failures: AtomicU64,
    fetched_bytes: AtomicU64,
    removed: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl ServiceCounters {
    /// Their current values.
    pub fn snapshot(&self) -> ServiceStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServiceStats {
            objects: get(&self.objects),
            content_bytes: get(&self.content_bytes),
            object_bytes: get(&self.object_bytes),
            bad_blocks: get(&self.bad_blocks),
            failures: get(&self.failures),
            busy_us: get(&self.busy_us),
            fetches: get(&self.fetches),
            fetch_failures: get(&self.fetch_failures),
            fetched_bytes: get(&self.fetched_bytes),
            removed: get(&self.removed),
        }
    }

    pub(super) fn note_job(&self, result: &Result<Archived, ArchiveError>, busy_us: u64) {
        add(&self.busy_us, busy_us);
        match result {
            Ok(archived) => {
                add(&self.objects, 1);
                add(&self.content_bytes, archived.content_bytes);
                add(&self.object_bytes, archived.object_bytes);
                add(&self.bad_blocks, archived.bad_blocks);
            }
            Err(_) => add(&self.failures, 1),
        }
    }

    pub(super) fn note_fetch(&self, reply: &ArchiveReply) {
        add(&self.fetches, 1);
        match reply {
            ArchiveReply::Blocks { result: Ok(blocks), .. } => {
                add(&self.fetched_bytes, blocks.bytes.len() as u64);
            }
            ArchiveReply::Deleted { result: Ok(removed), .. } => add(&self.removed, *removed),
            ArchiveReply::Anchor { result: Err(_), .. }
            | ArchiveReply::Entries { result: Err(_), .. }
            | ArchiveReply::Blocks { result: Err(_), .. }
            | ArchiveReply::Deleted { result: Err(_), .. } => add(&self.fetch_failures, 1),
            ArchiveReply::Anchor { .. }
            | ArchiveReply::AnchorStored { .. }
            | ArchiveReply::Entries { .. }
            | ArchiveReply::Archived { .. } => {}
        }
    }
}
