//! The archive without threads: for a simulator, and for tests that control every step.
//!
//! Each [`poll`](ArchiveService::poll) executes at most one request, on the calling thread. Jobs
//! are executed in the order of their submission. So are fetches, except with more than one reader:
//! then any of the first `readers` fetches may be next, as with threads. A closure chooses which
//! one is next, so that a seed decides.
//!
//! A panic in the work propagates to the caller, so that a simulator sees it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::anchors::store_anchor;
use super::fetch::{Fetch, Work};
use super::stats::{ServiceCounters, ServiceStats};
use super::worker::{BlockSource, VerifyPolicy, WorkerOptions, archive};
use super::{AnchorJob, ArchiveJob, ArchiveReply, ArchiveRequest, ArchiveService, TablesCache};
use crate::archive::object::{Compressor, Decompressor, ObjectError};
use crate::archive::store::Store;

/// How an [`InlineArchive`] works.
pub struct InlineOptions {
    /// The most waiting jobs.
    pub jobs_max: usize,
    /// The most waiting fetches.
    pub fetches_max: usize,
    /// The number of readers that it simulates, at least 1.
    pub readers: usize,
    /// How the work is done.
    pub worker: WorkerOptions,
    /// Chooses among this many candidates (2 or more); the result is taken modulo the count. The
    /// fetches are first, the job is last.
    pub choose: Box<dyn FnMut(usize) -> usize>,
}

impl Default for InlineOptions {
    /// The fetches first.
    fn default() -> Self {
        InlineOptions {
            jobs_max: 16,
            fetches_max: 64,
            readers: 1,
            worker: WorkerOptions::default(),
            choose: Box::new(|_| 0),
        }
    }
}

/// A job of the archivist.
enum Job {
    Segment(ArchiveJob),
    Anchor(AnchorJob),
}

/// An [`ArchiveService`] that works in its `poll`.
pub struct InlineArchive {
    store: Arc<dyn Store>,
    source: Box<dyn BlockSource>,
    options: InlineOptions,
    compressor: Compressor,
    codec: Decompressor,
    jobs: VecDeque<Job>,
    fetches: VecDeque<Fetch>,
    counters: Arc<ServiceCounters>,
    tables: TablesCache,
}

impl InlineArchive {
    /// Makes a service that is idle.
    ///
    /// # Errors
    /// [`ObjectError::Level`], [`ObjectError::OutOfMemory`].
    pub fn new(
        store: Arc<dyn Store>,
        source: Box<dyn BlockSource>,
        options: InlineOptions,
    ) -> Result<Self, ObjectError> {
        Ok(InlineArchive {
            store,
            source,
            compressor: Compressor::new(options.worker.level)?,
            codec: Decompressor::new()?,
            options,
            jobs: VecDeque::new(),
            fetches: VecDeque::new(),
            counters: Arc::default(),
            tables: TablesCache::default(),
        })
    }

    /// The number of waiting requests.
    pub fn waiting(&self) -> usize {
        self.jobs.len() + self.fetches.len()
    }

    /// The counters, for other threads.
    pub fn counters(&self) -> Arc<ServiceCounters> {
        Arc::clone(&self.counters)
    }

    fn run_job(&mut self, job: &Job) -> ArchiveReply {
        let options = &self.options.worker;
        let job = match job {
            Job::Segment(job) => job,
            Job::Anchor(job) => {
                let result = store_anchor(job, &*self.store, options);
                return ArchiveReply::AnchorStored { token: job.token, result };
            }
        };
        let started_us = (options.clock_us)();
        let result = archive(job, &mut *self.source, &*self.store, &mut self.compressor, options);
        self.counters.note_job(&result, (options.clock_us)().saturating_sub(started_us));
        ArchiveReply::Archived { token: job.token, result }
    }

    fn run_fetch(&mut self, fetch: &Fetch) -> ArchiveReply {
        let reply = fetch.run(&*self.store, &mut self.codec, &self.tables, &self.options.worker);
        self.counters.note_fetch(&reply);
        reply
    }
}

impl ArchiveService for InlineArchive {
    fn submit(&mut self, request: ArchiveRequest) -> Result<(), ArchiveRequest> {
        match request.into() {
            Work::Archive(job) if self.jobs.len() >= self.options.jobs_max => {
                Err(ArchiveRequest::Archive(job))
            }
            Work::StoreAnchor(job) if self.jobs.len() >= self.options.jobs_max => {
                Err(ArchiveRequest::StoreAnchor(job))
            }
            Work::Archive(job) => {
                self.jobs.push_back(Job::Segment(job));
                Ok(())
            }
            Work::StoreAnchor(job) => {
                self.jobs.push_back(Job::Anchor(job));
                Ok(())
            }
            Work::Fetch(fetch) if self.fetches.len() >= self.options.fetches_max => Err(fetch.into()),
            Work::Fetch(fetch) => {
                self.fetches.push_back(fetch);
                Ok(())
            }
        }
    }

    fn poll(&mut self, replies: &mut Vec<ArchiveReply>) -> usize {
        let next_fetches = self.fetches.len().min(self.options.readers.max(1));
        let count = next_fetches + usize::from(!self.jobs.is_empty());
        let choice = if count < 2 { 0 } else { (self.options.choose)(count) % count };
        let reply = if choice < next_fetches {
            self.fetches.remove(choice).map(|fetch| self.run_fetch(&fetch))
        } else {
            self.jobs.pop_front().map(|job| self.run_job(&job))
        };
        let Some(reply) = reply else { return 0 };
        replies.push(reply);
        1
    }

    fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    fn verify(&self) -> VerifyPolicy {
        self.options.worker.verify
    }

    fn set_verify(&mut self, verify: VerifyPolicy) {
        self.options.worker.verify = verify;
    }

    fn stats(&self) -> ServiceStats {
        self.counters.snapshot()
    }
}
