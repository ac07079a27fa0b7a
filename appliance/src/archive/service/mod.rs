//! The archive as the pool's reactor sees it: requests go in, replies come out, nothing blocks.
//!
//! The reactor passes descriptors of segments, never their bytes: the archivist reads them from the
//! device through its own queue, compresses, stores, verifies and reports. What the pool needs back
//! (entries of a segment to build an index, blocks to serve a read) is fetched by separate readers,
//! so that a restore never waits for the archivist.
//!
//! ```text
//! request -> ThreadedArchive -> ring  -> archivist -> worker::archive -> Store
//!                            -> queue -> readers   -> worker::read_*  -> Store
//! request -> InlineArchive   -> one at a time, in poll: the same work without threads
//! ```
//!
//! The work itself is in `worker`, which uses neither threads nor the clock. `BdevSource` supplies
//! the blocks; the caches hold what was read back.
//!
//! **Bounds:** each service accepts a stated number of requests. Beyond it
//! [`ArchiveService::submit`] returns the request, and the pool submits it again in a later turn.
//! Every accepted request gets exactly one reply.

mod anchors;
mod cache;
mod check;
mod delete;
mod failure;
mod fetch;
mod inline;
mod source;
mod stats;
mod threads;
mod types;
mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::store::Store;

pub use anchors::{delete_anchors, read_anchor_head, read_anchor_part, store_anchor};
pub use cache::{BlocksCache, CacheStats, EntriesCache, TABLES_CACHE_BYTES_DEFAULT, TablesCache};
pub use delete::delete;
pub use inline::{InlineArchive, InlineOptions};
pub use source::{BdevSource, READS_IN_FLIGHT_DEFAULT};
pub use stats::{ServiceCounters, ServiceStats};
pub use threads::{SourceFactory, StartError, ThreadedArchive, ThreadedOptions};
pub use types::{
    AnchorContent, AnchorJob, AnchorPiece, AnchorRead, ArchiveError, ArchiveJob, ArchiveReply,
    ArchiveRequest, Archived, ObjectBlocks, ObjectEntries, StoredAnchor,
};
pub use worker::{
    BlockSource, SourceError, StopFlag, VerifyPolicy, WorkerOptions, archive, read_blocks, read_entries,
};

/// The archive of one pool. See the module's documentation.
pub trait ArchiveService {
    /// Takes a request, or returns it when too many are under way.
    ///
    /// # Errors
    /// The request itself; submit it again after replies have arrived.
    // The whole request is returned, so that a full queue costs its owner no allocation.
    #[expect(clippy::result_large_err)]
    fn submit(&mut self, request: ArchiveRequest) -> Result<(), ArchiveRequest>;

    /// Appends the replies that have arrived, oldest first; returns how many.
    fn poll(&mut self, replies: &mut Vec<ArchiveReply>) -> usize;

    /// The store of the archive.
    fn store(&self) -> &Arc<dyn Store>;

    /// How objects are verified now.
    fn verify(&self) -> VerifyPolicy;

    /// Sets how objects are verified, from the next job that begins.
    fn set_verify(&mut self, verify: VerifyPolicy);

    /// The counters since the start; zeroes from a service that does not count.
    fn stats(&self) -> ServiceStats {
        ServiceStats::default()
    }
}
