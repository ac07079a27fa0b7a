//! What goes to the archive and what comes back: jobs, requests, replies, and why one fails.

use std::sync::Arc;

use crate::archive::object::{ObjectHeader, ObjectId};
use crate::dma::BLOCK_BYTES;
use crate::log::Lsn;
use crate::log::format::TrailerUnit;
use crate::log::reader::{LsnRange, SegmentEntries};

/// A stretch of a segment that is to be archived. Everything in it is stable on the device and does not change.
#[derive(Debug, Clone)]
pub struct ArchiveJob {
    /// The pool's own number of this job.
    pub token: u64,
    /// What the object holds, and so its name.
    pub id: ObjectId,
    /// Size of the segment, in blocks.
    pub segment_blocks: u64,
    /// Where the block `id.from_lsn` is on the device.
    pub device_block: u64,
    /// When the segment was opened, ns since the Unix epoch.
    pub opened_ns: u64,
    /// When the stretch was sealed, ns since the Unix epoch.
    pub sealed_ns: u64,
    /// The trailer's units of the records in the stretch.
    pub units: Arc<Vec<TrailerUnit>>,
    /// Stretches whose entries nobody could read, in order. Units and holes together fill the stretch, or nothing is put: what is missing is told, not left out.
    pub holes: Vec<LsnRange>,
    /// Whether it is put although blocks of it cannot be read. First the device gets time to do better: they would be lost for good.
    pub accept_lost: bool,
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archived {
    /// Bytes of the object.
    pub object_bytes: u64,
    /// Bytes of its blocks.
    pub content_bytes: u64,
    /// Blocks that the device did not give, or whose CRC32C is not that of their entry: they stand in the object's list of damaged blocks, and are readable as errors only.
    pub bad_blocks: u64,
    /// How long compression and the store took, in microseconds.
    pub elapsed_us: u64,
}

/// The entries of an archived object.
#[derive(Debug)]
pub struct ObjectEntries {
    /// What the object says of itself.
    pub header: ObjectHeader,
    /// The units of the records in it.
    pub units: Vec<TrailerUnit>,
    /// Stretches whose entries were not known when it was made, in order.
    pub holes: Vec<LsnRange>,
}

impl ObjectEntries {
    /// The entries of the objects that hold a segment, in order. What an object does not know is a hole between its records, as
    /// [`SegmentEntries::holes`] tells.
    pub fn join<'a>(parts: impl IntoIterator<Item = &'a ObjectEntries>) -> SegmentEntries {
        SegmentEntries::new(parts.into_iter().flat_map(|part| part.units.iter().copied()).collect())
    }
}

/// Consecutive blocks of an archived object: the contents of one frame.
#[derive(Debug)]
pub struct ObjectBlocks {
    /// The position of the first block.
    pub first_lsn: Lsn,
    /// The blocks, 4096 bytes each.
    pub bytes: Vec<u8>,
    /// The positions of blocks among them that were damaged when they were archived: what stands at their places is not theirs.
    pub damaged: Vec<Lsn>,
}

impl ObjectBlocks {
    /// The block at a position; `None` when it is not among them, or was damaged when it was archived.
    pub fn block(&self, lsn: Lsn) -> Option<&[u8]> {
        if self.damaged.binary_search(&lsn).is_ok() {
            return None;
        }
        let at = usize::try_from(lsn.0.checked_sub(self.first_lsn.0)?).ok()?.checked_mul(BLOCK_BYTES)?;
        self.bytes.get(at..at.checked_add(BLOCK_BYTES)?)
    }
}

/// A request to the archive.
#[derive(Debug)]
pub enum Request {
    /// Archive a stretch of a segment.
    Archive(ArchiveJob),
    /// The entries of an object.
    Entries {
        /// The pool's own number.
        token: u64,
        /// The object.
        id: ObjectId,
    },
    /// The frame of an object that holds the block at a position.
    Blocks {
        /// The pool's own number.
        token: u64,
        /// The object.
        id: ObjectId,
        /// The position.
        lsn: Lsn,
    },
    /// Remove objects; those that are not there are not missed.
    Delete {
        /// The pool's own number.
        token: u64,
        /// The objects.
        ids: Vec<ObjectId>,
    },
}

/// A reply of the archive; the token is the request's.
#[derive(Debug)]
pub enum Reply {
    /// A stretch is in the store, stable and verified; or it is not.
    Archived {
        /// Of the request.
        token: u64,
        /// What became of it.
        result: Result<Archived, ArchiveError>,
    },
    /// The entries of an object.
    Entries {
        /// Of the request.
        token: u64,
        /// The entries.
        result: Result<Arc<ObjectEntries>, ArchiveError>,
    },
    /// Blocks of an object.
    Blocks {
        /// Of the request.
        token: u64,
        /// The blocks.
        result: Result<Arc<ObjectBlocks>, ArchiveError>,
    },
    /// Objects were removed.
    Deleted {
        /// Of the request.
        token: u64,
        /// How many were there; or the first failure.
        result: Result<u64, ArchiveError>,
    },
}

/// Why the archive could not do what it was asked. It is told to an operator, so it names the store and the object.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArchiveError {
    /// The primary device cannot be read.
    #[error("segment {sequence} cannot be read from the primary device: {reason}")]
    Source {
        /// The segment.
        sequence: u64,
        /// The device's words.
        reason: String,
    },
    /// The store failed; `retry` says whether it may do better later.
    #[error("{store}: {reason}")]
    Store {
        /// The store's label.
        store: String,
        /// Its words.
        reason: String,
        /// Whether the same request may succeed later (full, unreachable), or never will (damaged, gone).
        retry: bool,
    },
    /// Somebody else owns the archive now: nothing is put or deleted any more.
    #[error("{store}: another appliance has taken over the archive")]
    Overtaken {
        /// The store's label.
        store: String,
    },
    /// What is in the store is not what was put there.
    #[error("{store}: object {object} is damaged: {reason}")]
    Damaged {
        /// The store's label.
        store: String,
        /// The object's name.
        object: String,
        /// What is wrong.
        reason: String,
    },
}
