//! The archive as the pool's reactor sees it: requests go in, replies come out, nothing blocks.
//!
//! The reactor hands over descriptors of segments, never their bytes: the archivist reads them from
//! the device through a queue of its own, compresses, puts, verifies, and reports. What the pool
//! wants back (entries of a segment to build an index, blocks to serve a read) is fetched by
//! readers of their own, so that a restore never waits behind the archiving of the present.
//!
//! ```text
//! Request -> ThreadedArchive -> ring  -> archivist -> worker::archive -> Store
//!                            -> queue -> readers   -> worker::read_*  -> Store
//! Request -> InlineArchive   -> one at a time, in poll: the same work without threads
//! ```
//!
//! The work itself is in `worker` and knows neither threads nor the clock; `BdevSource` gives it the blocks; the caches keep what came back.
//!
//! **Bounds:** each service takes a stated number of requests; beyond it [`ArchiveService::submit`] gives the request back, and the pool asks again in a later turn.
//! Every request that was taken gets exactly one reply.

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

pub use cache::{BlocksCache, CacheStats, EntriesCache, TABLES_CACHE_BYTES_DEFAULT, TablesCache};
pub use delete::delete;
pub use inline::{InlineArchive, InlineOptions};
pub use source::{BdevSource, READS_IN_FLIGHT_DEFAULT};
pub use stats::{ServiceCounters, ServiceStats};
pub use threads::{SourceFactory, StartError, ThreadedArchive, ThreadedOptions};
pub use types::{ArchiveError, ArchiveJob, Archived, ObjectBlocks, ObjectEntries, Reply, Request};
pub use worker::{
    BlockSource, SourceError, StopFlag, VerifyPolicy, WorkerOptions, archive, read_blocks, read_entries,
};

/// The archive of one pool. See the module's documentation.
pub trait ArchiveService {
    /// Takes a request, or gives it back when too many are under way.
    ///
    /// # Errors
    /// The request itself; try again after replies have come.
    // It goes back whole, so that a full queue costs its owner no allocation.
    #[expect(clippy::result_large_err)]
    fn submit(&mut self, request: Request) -> Result<(), Request>;

    /// Appends the replies that have come, oldest first; returns how many.
    fn poll(&mut self, replies: &mut Vec<Reply>) -> usize;

    /// The store behind it.
    fn store(&self) -> &Arc<dyn Store>;

    /// How objects are verified from now on.
    fn verify(&self) -> VerifyPolicy;

    /// Sets how objects are verified, from the next job on that is begun.
    fn set_verify(&mut self, verify: VerifyPolicy);

    /// What was done since the start; zeroes from a service that does not count.
    fn stats(&self) -> ServiceStats {
        ServiceStats::default()
    }
}
