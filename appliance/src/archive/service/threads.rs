//! The archive on its own threads: one archivist, and readers that never wait for it.
//!
//! ```text
//! reactor --rtrb, jobs-->     archivist (its core, its device queue) --rtrb, replies--> reactor
//! reactor --ArrayQueue-->     readers                                --ArrayQueue-->    reactor
//! ```
//!
//! **Idle:** the archivist polls for work for a configured time and then parks; readers park at
//! once. A sender pushes first and then wakes. A thread checks its queue again between marking
//! itself idle and parking, so no request is left waiting.
//!
//! **Bounds:** a request is under way from its `submit` until its reply is polled. At most
//! `jobs_max` jobs and `fetches_max` other requests are under way. The queues have the same size,
//! so a reply always has room.
//!
//! **End:** dropping the service stops the archivist between two frames (its unfinished put is
//! dropped and leaves nothing) and a reader before its next call of the store, and joins the
//! threads. Requests under way then get no reply. A panic in the work becomes an error in the
//! reply.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

use super::anchors::store_anchor;
use super::failure;
use super::fetch::{Fetch, Work};
use super::stats::{ServiceCounters, ServiceStats};
use super::worker::{BlockSource, StopFlag, VerifyPolicy, WorkerOptions, archive};
use super::{AnchorJob, ArchiveJob, ArchiveReply, ArchiveRequest, ArchiveService, TablesCache};
use crate::archive::object::{Compressor, Decompressor, ObjectError};
use crate::archive::store::Store;

/// Makes the archivist's source on the archivist's thread. The error is a message for an operator.
pub type SourceFactory = Box<dyn FnOnce() -> Result<Box<dyn BlockSource>, String> + Send>;

/// The most reader threads.
const READERS_MAX: usize = 64;

/// How a [`ThreadedArchive`] runs.
#[derive(Clone)]
pub struct ThreadedOptions {
    /// The prefix of the threads' names; the system shows 15 bytes of a name.
    pub name: String,
    /// The core that the archivist is pinned to; `None` lets the system choose.
    pub core: Option<usize>,
    /// How long the archivist polls for work before it parks.
    pub spin: Duration,
    /// The number of reader threads, limited to the range 1 to 64.
    pub readers: usize,
    /// The most jobs under way, at least 1.
    pub jobs_max: usize,
    /// The most other requests under way, at least 1.
    pub fetches_max: usize,
    /// How the work is done. Its stop flag is not used: each service has its own flag.
    pub worker: WorkerOptions,
    /// Called after a reply is ready, on a thread of the service, to wake the reactor. Must not
    /// block or panic.
    pub waker: Arc<dyn Fn() + Send + Sync>,
}

impl Default for ThreadedOptions {
    fn default() -> Self {
        ThreadedOptions {
            name: "archive".to_owned(),
            core: None,
            spin: Duration::from_micros(50),
            readers: 2,
            jobs_max: 16,
            fetches_max: 256,
            worker: WorkerOptions::default(),
            waker: Arc::new(|| {}),
        }
    }
}

/// Why a service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The archivist has no access to the device.
    #[error("the archivist cannot read the primary device: {0}")]
    Source(String),
    /// The compression context cannot be created.
    #[error("the archive's compression cannot start: {0}")]
    Compression(#[from] ObjectError),
    /// The system refuses a thread.
    #[error("the archive's threads cannot start: {0}")]
    Thread(#[from] std::io::Error),
}

/// A reply, and its number in the order of all replies.
type Stamped = (u64, ArchiveReply);

/// The state that the threads share.
struct Shared {
    store: Arc<dyn Store>,
    worker: WorkerOptions,
    /// Used instead of the one in `worker`; read once for each job.
    verify: Mutex<VerifyPolicy>,
    waker: Arc<dyn Fn() + Send + Sync>,
    counters: Arc<ServiceCounters>,
    tables: TablesCache,
    next_stamp: AtomicU64,
    fetches: ArrayQueue<Fetch>,
    fetched: ArrayQueue<Stamped>,
    readers: Box<[ReaderSlot]>,
}

/// The state of a reader for the threads that wake it.
#[derive(Default)]
struct ReaderSlot {
    /// It has parked or is about to. The thread that clears this flag wakes it.
    idle: AtomicBool,
    /// Set before `idle` is set.
    thread: OnceLock<Thread>,
}

/// An [`ArchiveService`] with threads. It belongs to one reactor.
pub struct ThreadedArchive {
    shared: Arc<Shared>,
    pub(super) stop: StopFlag,
    jobs: Producer<Job>,
    archived: Consumer<Stamped>,
    archivist: Option<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
    jobs_max: usize,
    jobs_under_way: usize,
    fetches_max: usize,
    fetches_under_way: usize,
    /// Reused to avoid allocations.
    came: Vec<Stamped>,
}

impl ThreadedArchive {
    /// Starts the threads; returns when the archivist has its source.
    ///
    /// # Errors
    /// [`StartError`]; no thread keeps running then.
    pub fn start(
        store: Arc<dyn Store>,
        source: SourceFactory,
        options: ThreadedOptions,
    ) -> Result<Self, StartError> {
        let (jobs_max, fetches_max) = (options.jobs_max.max(1), options.fetches_max.max(1));
        let (jobs, next_job) = RingBuffer::new(jobs_max);
        let (done, archived) = RingBuffer::new(jobs_max);
        let stop = StopFlag::default();
        let shared = Arc::new(Shared {
            store,
            verify: Mutex::new(options.worker.verify),
            worker: WorkerOptions { stop: stop.clone(), ..options.worker },
            waker: options.waker,
            counters: Arc::default(),
            tables: TablesCache::default(),
            next_stamp: AtomicU64::new(0),
            fetches: ArrayQueue::new(fetches_max),
            fetched: ArrayQueue::new(fetches_max),
            readers: (0..options.readers.clamp(1, READERS_MAX)).map(|_| ReaderSlot::default()).collect(),
        });
        // From here on, dropping the service ends the threads that were started.
        let mut service = ThreadedArchive {
            shared,
            stop,
            jobs,
            archived,
            archivist: None,
            readers: Vec::new(),
            jobs_max,
            jobs_under_way: 0,
            fetches_max,
            fetches_under_way: 0,
            came: Vec::new(),
        };
        for index in 0..service.shared.readers.len() {
            let (shared, codec) = (Arc::clone(&service.shared), Decompressor::new()?);
            let thread = Builder::new()
                .name(format!("{}-read{index}", options.name))
                .spawn(move || read(&shared, &shared.readers[index], codec))?;
            service.readers.push(thread);
        }
        let mut archivist = Archivist {
            shared: Arc::clone(&service.shared),
            compressor: Compressor::new(service.shared.worker.level)?,
            jobs: next_job,
            done,
            spin: options.spin,
        };
        let (report, started) = sync_channel(1);
        let core = options.core;
        let thread = Builder::new().name(options.name).spawn(move || {
            pin(core);
            match source() {
                Ok(mut source) => {
                    let _ = report.send(Ok(()));
                    archivist.run(&mut *source);
                }
                Err(reason) => {
                    let _ = report.send(Err(reason));
                }
            }
        })?;
        service.archivist = Some(thread);
        match started.recv() {
            Ok(Ok(())) => Ok(service),
            Ok(Err(reason)) => Err(StartError::Source(reason)),
            Err(_) => Err(StartError::Source("its opening panicked (a defect of this program)".to_owned())),
        }
    }

    /// The counters, for other threads.
    pub fn counters(&self) -> Arc<ServiceCounters> {
        Arc::clone(&self.shared.counters)
    }
}

/// A job of the archivist.
enum Job {
    Segment(ArchiveJob),
    Anchor(AnchorJob),
}

impl From<Job> for ArchiveRequest {
    fn from(job: Job) -> Self {
        match job {
            Job::Segment(job) => ArchiveRequest::Archive(job),
            Job::Anchor(job) => ArchiveRequest::StoreAnchor(job),
        }
    }
}

impl ThreadedArchive {
    #[expect(clippy::result_large_err, reason = "as for `ArchiveService::submit`")]
    fn submit_job(&mut self, job: Job) -> Result<(), ArchiveRequest> {
        if self.jobs_under_way >= self.jobs_max {
            return Err(job.into());
        }
        self.jobs.push(job).map_err(|PushError::Full(job)| ArchiveRequest::from(job))?;
        self.jobs_under_way += 1;
        // No system call unless it is parked.
        if let Some(archivist) = &self.archivist {
            archivist.thread().unpark();
        }
        Ok(())
    }
}

impl ArchiveService for ThreadedArchive {
    fn submit(&mut self, request: ArchiveRequest) -> Result<(), ArchiveRequest> {
        match request.into() {
            Work::Archive(job) => self.submit_job(Job::Segment(job)),
            Work::StoreAnchor(job) => self.submit_job(Job::Anchor(job)),
            Work::Fetch(fetch) if self.fetches_under_way >= self.fetches_max => Err(fetch.into()),
            Work::Fetch(fetch) => {
                self.shared.fetches.push(fetch)?;
                self.fetches_under_way += 1;
                self.shared.wake_reader();
                Ok(())
            }
        }
    }

    fn poll(&mut self, replies: &mut Vec<ArchiveReply>) -> usize {
        // Bounded: no more replies than requests under way.
        while let Ok(reply) = self.archived.pop() {
            self.jobs_under_way -= 1;
            self.came.push(reply);
        }
        while let Some(reply) = self.shared.fetched.pop() {
            self.fetches_under_way -= 1;
            self.came.push(reply);
        }
        let count = self.came.len();
        self.came.sort_by_key(|(stamp, _)| *stamp);
        replies.extend(self.came.drain(..).map(|(_, reply)| reply));
        count
    }

    fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    fn verify(&self) -> VerifyPolicy {
        self.shared.verify()
    }

    fn set_verify(&mut self, verify: VerifyPolicy) {
        *self.shared.verify.lock().unwrap_or_else(PoisonError::into_inner) = verify;
    }

    fn stats(&self) -> ServiceStats {
        self.shared.counters.snapshot()
    }
}

impl Drop for ThreadedArchive {
    fn drop(&mut self) {
        self.stop.set();
        let threads: Vec<_> = self.archivist.take().into_iter().chain(self.readers.drain(..)).collect();
        for thread in &threads {
            thread.thread().unpark();
        }
        for thread in threads {
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn stamp(&self, reply: ArchiveReply) -> Stamped {
        (self.next_stamp.fetch_add(1, Ordering::SeqCst), reply)
    }

    fn verify(&self) -> VerifyPolicy {
        *self.verify.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes one idle reader, if there is one; the others check the queue before they become idle.
    fn wake_reader(&self) {
        fence(Ordering::SeqCst);
        let idle = self.readers.iter().find(|reader| reader.idle.swap(false, Ordering::SeqCst));
        if let Some(thread) = idle.and_then(|reader| reader.thread.get()) {
            thread.unpark();
        }
    }
}

struct Archivist {
    shared: Arc<Shared>,
    compressor: Compressor,
    jobs: Consumer<Job>,
    done: Producer<Stamped>,
    spin: Duration,
}

impl Archivist {
    fn run(&mut self, source: &mut dyn BlockSource) {
        let mut idle_since = None;
        while !self.shared.worker.stop.is_set() {
            if let Ok(job) = self.jobs.pop() {
                idle_since = None;
                let reply = match &job {
                    Job::Segment(job) => self.work(job, source),
                    Job::Anchor(job) => self.store_anchor(job),
                };
                let pushed = self.done.push(self.shared.stamp(reply));
                debug_assert!(pushed.is_ok(), "as many replies as jobs");
                (self.shared.waker)();
            } else if idle_since.get_or_insert_with(Instant::now).elapsed() < self.spin {
                std::hint::spin_loop();
            } else {
                // A push after the check above has left a wake-up token, so this returns at once.
                std::thread::park();
                idle_since = None;
            }
        }
    }

    fn work(&mut self, job: &ArchiveJob, source: &mut dyn BlockSource) -> ArchiveReply {
        let started = Instant::now();
        let (store, compressor) = (&*self.shared.store, &mut self.compressor);
        let options = WorkerOptions { verify: self.shared.verify(), ..self.shared.worker.clone() };
        // A writer first resets the compressor, and a source is usable after any error.
        let work = AssertUnwindSafe(|| archive(job, source, store, compressor, &options));
        let result = catch_unwind(work).unwrap_or_else(|payload| Err(failure::panicked(store, &*payload)));
        self.shared.counters.note_job(&result, started.elapsed().as_micros() as u64);
        ArchiveReply::Archived { token: job.token, result }
    }
}

impl Archivist {
    fn store_anchor(&self, job: &AnchorJob) -> ArchiveReply {
        let store = &*self.shared.store;
        let options = WorkerOptions { verify: self.shared.verify(), ..self.shared.worker.clone() };
        let work = AssertUnwindSafe(|| store_anchor(job, store, &options));
        let result = catch_unwind(work).unwrap_or_else(|payload| Err(failure::panicked(store, &*payload)));
        ArchiveReply::AnchorStored { token: job.token, result }
    }
}

/// The loop of a reader thread.
fn read(shared: &Shared, slot: &ReaderSlot, mut codec: Decompressor) {
    let _ = slot.thread.set(std::thread::current());
    while !shared.worker.stop.is_set() {
        let Some(fetch) = next_fetch(shared, slot) else {
            std::thread::park();
            slot.idle.store(false, Ordering::SeqCst);
            continue;
        };
        let store = &*shared.store;
        // A decompression does not depend on earlier state.
        let work = AssertUnwindSafe(|| fetch.run(store, &mut codec, &shared.tables, &shared.worker));
        let reply =
            catch_unwind(work).unwrap_or_else(|payload| fetch.failed(failure::panicked(store, &*payload)));
        shared.counters.note_fetch(&reply);
        let pushed = shared.fetched.push(shared.stamp(reply));
        debug_assert!(pushed.is_ok(), "as many replies as requests");
        (shared.waker)();
    }
}

/// The next request; `None` when there is none and this reader is marked as idle.
fn next_fetch(shared: &Shared, slot: &ReaderSlot) -> Option<Fetch> {
    if let Some(fetch) = shared.fetches.pop() {
        return Some(fetch);
    }
    slot.idle.store(true, Ordering::SeqCst);
    // Either a sender sees that this reader is idle, or this reader sees the sender's request.
    fence(Ordering::SeqCst);
    let fetch = shared.fetches.pop()?;
    if !slot.idle.swap(false, Ordering::SeqCst) {
        // A sender woke this reader, for this request or another one: another reader checks the
        // queue in its place.
        shared.wake_reader();
    }
    Some(fetch)
}

/// Pins the calling thread to a core. A failure is logged and is not fatal.
fn pin(core: Option<usize>) {
    let Some(core) = core else { return };
    let refused = if core < rustix::thread::CpuSet::MAX_CPU {
        let mut set = rustix::thread::CpuSet::new();
        set.set(core);
        rustix::thread::sched_setaffinity(None, &set).err()
    } else {
        Some(rustix::io::Errno::INVAL)
    };
    if let Some(error) = refused {
        tracing::warn!(core, %error, "cannot pin the archivist to its core; it runs unpinned");
    }
}
