//! The interface types of the archive: jobs, requests, replies, and errors.

use std::sync::Arc;

use crate::archive::anchor::{AnchorHead, AnchorId, AnchorName, Leaves};
use crate::archive::object::{ObjectHeader, ObjectId};
use crate::dma::BLOCK_BYTES;
use crate::log::Lsn;
use crate::log::format::TrailerUnit;
use crate::log::reader::{LsnRange, SegmentEntries};

/// A stretch of a segment to archive. Everything in it is stable on the device and does not change.
#[derive(Debug, Clone)]
pub struct ArchiveJob {
    /// The pool's number for this job.
    pub token: u64,
    /// The identity of the stretch; it determines the object's name.
    pub id: ObjectId,
    /// Size of the segment, in blocks.
    pub segment_blocks: u64,
    /// The position of the block `id.from_lsn` on the device.
    pub device_block: u64,
    /// When the segment was opened, ns since the Unix epoch.
    pub opened_ns: u64,
    /// When the stretch was sealed, ns since the Unix epoch.
    pub sealed_ns: u64,
    /// The trailer's units of the records in the stretch.
    pub units: Arc<Vec<TrailerUnit>>,
    /// Stretches whose entries could not be read, in order. Units and holes together must fill the
    /// stretch, or nothing is stored: missing records are listed, not left out.
    pub holes: Vec<LsnRange>,
    /// Whether the stretch is stored even if some of its blocks cannot be read. The first attempts
    /// leave this off, because the device may recover; with it on, those blocks are lost for good.
    pub accept_lost: bool,
}

/// The result of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archived {
    /// Bytes of the object.
    pub object_bytes: u64,
    /// Bytes of its blocks.
    pub content_bytes: u64,
    /// Blocks that the device could not read, or whose CRC32C is not that in their entry. They are
    /// in the object's list of damaged blocks, and reading them returns an error.
    pub bad_blocks: u64,
    /// The time of the whole job, from the read of the device to the verification, in microseconds.
    pub elapsed_us: u64,
}

/// The entries of an archived object.
#[derive(Debug)]
pub struct ObjectEntries {
    /// The object's header.
    pub header: ObjectHeader,
    /// The units of the records in it.
    pub units: Vec<TrailerUnit>,
    /// Stretches whose entries were not known when the object was made, in order.
    pub holes: Vec<LsnRange>,
}

impl ObjectEntries {
    /// The entries of the objects that together contain a segment, in order. Records that an object
    /// lacks appear as a hole between its records: see [`SegmentEntries::holes`].
    pub fn join<'a>(parts: impl IntoIterator<Item = &'a ObjectEntries>) -> SegmentEntries {
        SegmentEntries::new(parts.into_iter().flat_map(|part| part.units.iter().copied()).collect())
    }
}

/// Consecutive blocks of an archived object: the content of one frame.
#[derive(Debug)]
pub struct ObjectBlocks {
    /// The position of the first block.
    pub first_lsn: Lsn,
    /// The blocks, 4096 bytes each.
    pub bytes: Vec<u8>,
    /// The positions of those blocks that were damaged when they were archived: the bytes at their
    /// places are not valid.
    pub damaged: Vec<Lsn>,
}

impl ObjectBlocks {
    /// The block at a position; `None` when it is not in this frame, or was damaged when it was
    /// archived.
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
pub enum ArchiveRequest {
    /// Archive a stretch of a segment.
    Archive(ArchiveJob),
    /// Read the entries of an object.
    Entries {
        /// The pool's number.
        token: u64,
        /// The object.
        id: ObjectId,
    },
    /// Read the frame of an object that contains the block at a position.
    Blocks {
        /// The pool's number.
        token: u64,
        /// The object.
        id: ObjectId,
        /// The position.
        lsn: Lsn,
    },
    /// Delete objects; missing ones are not an error.
    Delete {
        /// The pool's number.
        token: u64,
        /// The objects.
        ids: Vec<ObjectId>,
    },
    /// Store an object of an anchor. Done by the archivist, in turn with the jobs.
    StoreAnchor(AnchorJob),
    /// Read an object of an anchor.
    ReadAnchor {
        /// The pool's number.
        token: u64,
        /// The anchor.
        id: AnchorId,
        /// What of it.
        read: AnchorRead,
    },
    /// Delete objects of anchors, in this order; missing ones are not an error.
    DeleteAnchors {
        /// The pool's number.
        token: u64,
        /// The objects.
        names: Vec<AnchorName>,
    },
}

/// An object of an anchor to store. The pool keeps what it is made from, so that it can give up.
#[derive(Debug, Clone)]
pub struct AnchorJob {
    /// The pool's number.
    pub token: u64,
    /// The anchor.
    pub id: AnchorId,
    /// The object.
    pub piece: AnchorPiece,
}

/// An object of an anchor.
#[derive(Debug, Clone)]
pub enum AnchorPiece {
    /// A part, by its number.
    Part(u32, Arc<Leaves>),
    /// The head.
    Head(Arc<AnchorHead>),
}

/// What is read of an anchor.
#[derive(Debug, Clone, Copy)]
pub enum AnchorRead {
    /// The head; with how many parts there are.
    Head(u32),
    /// A part, by its number; with what the head lists of it.
    Part(u32, StoredAnchor),
}

/// What was read of an anchor.
#[derive(Debug)]
pub enum AnchorContent {
    /// The head.
    Head(AnchorHead),
    /// Leaves of a part.
    Leaves(Leaves),
}

/// An object of an anchor that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredAnchor {
    /// Its bytes.
    pub bytes: u32,
    /// Its BLAKE3.
    pub digest: [u8; 32],
}

/// A reply of the archive; the token is the request's.
#[derive(Debug)]
pub enum ArchiveReply {
    /// A stretch is in the store, stable and verified; or it failed.
    Archived {
        /// The request's token.
        token: u64,
        /// The result.
        result: Result<Archived, ArchiveError>,
    },
    /// The entries of an object.
    Entries {
        /// The request's token.
        token: u64,
        /// The entries.
        result: Result<Arc<ObjectEntries>, ArchiveError>,
    },
    /// Blocks of an object.
    Blocks {
        /// The request's token.
        token: u64,
        /// The blocks.
        result: Result<Arc<ObjectBlocks>, ArchiveError>,
    },
    /// Objects were deleted.
    Deleted {
        /// The request's token.
        token: u64,
        /// The number of objects that existed; or the first failure.
        result: Result<u64, ArchiveError>,
    },
    /// An object of an anchor is in the store, stable and verified; or it failed.
    AnchorStored {
        /// The request's token.
        token: u64,
        /// The result.
        result: Result<StoredAnchor, ArchiveError>,
    },
    /// What was read of an anchor.
    Anchor {
        /// The request's token.
        token: u64,
        /// What was read.
        result: Result<Arc<AnchorContent>, ArchiveError>,
    },
}

/// Why the archive could not execute a request. An operator reads it, so it names the store and the
/// object.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArchiveError {
    /// The primary device cannot be read.
    #[error("segment {sequence} cannot be read from the primary device: {reason}")]
    Source {
        /// The segment.
        sequence: u64,
        /// The device's error.
        reason: String,
    },
    /// The store failed; `retry` says whether the request may succeed later.
    #[error("{store}: {reason}")]
    Store {
        /// The store's label.
        store: String,
        /// The store's error.
        reason: String,
        /// Whether the same request may succeed later (store full or unreachable), or never will
        /// (damaged, gone).
        retry: bool,
    },
    /// Another appliance owns the archive now: nothing is stored or deleted any more.
    #[error("{store}: another appliance has taken over the archive")]
    Overtaken {
        /// The store's label.
        store: String,
    },
    /// The content in the store is not what was stored there.
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
