//! The requests that readers execute: all requests except archiving.

use std::sync::Arc;

use super::anchors::{delete_anchors, read_anchor};
use super::delete::delete;
use super::worker::{WorkerOptions, read_blocks, read_entries};
use super::{AnchorJob, AnchorRead, ArchiveError, ArchiveJob, ArchiveReply, ArchiveRequest, TablesCache};
use crate::archive::anchor::{AnchorId, AnchorName};
use crate::archive::object::{Decompressor, ObjectId};
use crate::archive::store::Store;
use crate::log::Lsn;

/// A request, by the thread that executes it.
pub(super) enum Work {
    /// The archivist.
    Archive(ArchiveJob),
    /// The archivist too.
    StoreAnchor(AnchorJob),
    /// A reader.
    Fetch(Fetch),
}

/// A request for a reader.
#[derive(Debug)]
pub(super) enum Fetch {
    Entries { token: u64, id: ObjectId },
    Blocks { token: u64, id: ObjectId, lsn: Lsn },
    Delete { token: u64, ids: Vec<ObjectId> },
    ReadAnchor { token: u64, id: AnchorId, read: AnchorRead },
    DeleteAnchors { token: u64, names: Vec<AnchorName> },
}

impl From<ArchiveRequest> for Work {
    fn from(request: ArchiveRequest) -> Self {
        match request {
            ArchiveRequest::Archive(job) => Work::Archive(job),
            ArchiveRequest::Entries { token, id } => Work::Fetch(Fetch::Entries { token, id }),
            ArchiveRequest::Blocks { token, id, lsn } => Work::Fetch(Fetch::Blocks { token, id, lsn }),
            ArchiveRequest::Delete { token, ids } => Work::Fetch(Fetch::Delete { token, ids }),
            ArchiveRequest::StoreAnchor(job) => Work::StoreAnchor(job),
            ArchiveRequest::ReadAnchor { token, id, read } => {
                Work::Fetch(Fetch::ReadAnchor { token, id, read })
            }
            ArchiveRequest::DeleteAnchors { token, names } => {
                Work::Fetch(Fetch::DeleteAnchors { token, names })
            }
        }
    }
}

impl From<Fetch> for ArchiveRequest {
    fn from(fetch: Fetch) -> Self {
        match fetch {
            Fetch::Entries { token, id } => ArchiveRequest::Entries { token, id },
            Fetch::Blocks { token, id, lsn } => ArchiveRequest::Blocks { token, id, lsn },
            Fetch::Delete { token, ids } => ArchiveRequest::Delete { token, ids },
            Fetch::ReadAnchor { token, id, read } => ArchiveRequest::ReadAnchor { token, id, read },
            Fetch::DeleteAnchors { token, names } => ArchiveRequest::DeleteAnchors { token, names },
        }
    }
}

impl Fetch {
    /// Executes the request.
    pub(super) fn run(
        &self,
        store: &dyn Store,
        codec: &mut Decompressor,
        tables: &TablesCache,
        options: &WorkerOptions,
    ) -> ArchiveReply {
        match self {
            Fetch::Entries { token, id } => ArchiveReply::Entries {
                token: *token,
                result: read_entries(store, id, codec, options).map(Arc::new),
            },
            Fetch::Blocks { token, id, lsn } => ArchiveReply::Blocks {
                token: *token,
                result: read_blocks(store, id, *lsn, codec, tables, options).map(Arc::new),
            },
            Fetch::Delete { token, ids } => {
                ArchiveReply::Deleted { token: *token, result: delete(store, ids, tables, options) }
            }
            Fetch::ReadAnchor { token, id, read } => ArchiveReply::Anchor {
                token: *token,
                result: read_anchor(store, id, *read, options).map(Arc::new),
            },
            Fetch::DeleteAnchors { token, names } => {
                ArchiveReply::Deleted { token: *token, result: delete_anchors(store, names, options) }
            }
        }
    }

    /// The reply when the request failed.
    pub(super) fn failed(&self, error: ArchiveError) -> ArchiveReply {
        match *self {
            Fetch::Entries { token, .. } => ArchiveReply::Entries { token, result: Err(error) },
            Fetch::Blocks { token, .. } => ArchiveReply::Blocks { token, result: Err(error) },
            Fetch::Delete { token, .. } | Fetch::DeleteAnchors { token, .. } => {
                ArchiveReply::Deleted { token, result: Err(error) }
            }
            Fetch::ReadAnchor { token, .. } => ArchiveReply::Anchor { token, result: Err(error) },
        }
    }
}
