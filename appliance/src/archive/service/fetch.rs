//! The requests that readers execute: all requests except archiving.

use std::sync::Arc;

use super::delete::delete;
use super::worker::{WorkerOptions, read_blocks, read_entries};
use super::{ArchiveError, ArchiveJob, Reply, Request, TablesCache};
use crate::archive::object::{Decompressor, ObjectId};
use crate::archive::store::Store;
use crate::log::Lsn;

/// A request, by the thread that executes it.
pub(super) enum Work {
    /// The archivist.
    Archive(ArchiveJob),
    /// A reader.
    Fetch(Fetch),
}

/// A request for a reader.
#[derive(Debug)]
pub(super) enum Fetch {
    Entries { token: u64, id: ObjectId },
    Blocks { token: u64, id: ObjectId, lsn: Lsn },
    Delete { token: u64, ids: Vec<ObjectId> },
}

impl From<Request> for Work {
    fn from(request: Request) -> Self {
        match request {
            Request::Archive(job) => Work::Archive(job),
            Request::Entries { token, id } => Work::Fetch(Fetch::Entries { token, id }),
            Request::Blocks { token, id, lsn } => Work::Fetch(Fetch::Blocks { token, id, lsn }),
            Request::Delete { token, ids } => Work::Fetch(Fetch::Delete { token, ids }),
        }
    }
}

impl From<Fetch> for Request {
    fn from(fetch: Fetch) -> Self {
        match fetch {
            Fetch::Entries { token, id } => Request::Entries { token, id },
            Fetch::Blocks { token, id, lsn } => Request::Blocks { token, id, lsn },
            Fetch::Delete { token, ids } => Request::Delete { token, ids },
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
    ) -> Reply {
        match self {
            Fetch::Entries { token, id } => Reply::Entries {
                token: *token,
                result: read_entries(store, id, codec, options).map(Arc::new),
            },
            Fetch::Blocks { token, id, lsn } => Reply::Blocks {
                token: *token,
                result: read_blocks(store, id, *lsn, codec, tables, options).map(Arc::new),
            },
            Fetch::Delete { token, ids } => {
                Reply::Deleted { token: *token, result: delete(store, ids, tables, options) }
            }
        }
    }

    /// The reply when the request failed.
    pub(super) fn failed(&self, error: ArchiveError) -> Reply {
        match *self {
            Fetch::Entries { token, .. } => Reply::Entries { token, result: Err(error) },
            Fetch::Blocks { token, .. } => Reply::Blocks { token, result: Err(error) },
            Fetch::Delete { token, .. } => Reply::Deleted { token, result: Err(error) },
        }
    }
}
