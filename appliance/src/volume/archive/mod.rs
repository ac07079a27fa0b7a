//! The pool's side of its archive: when data is archived, what is in the archive, and how it is
//! read back.
//!
//! **States of a range of the log:** unarchived → (sealed, by size, by time or by command) job in
//! progress → archived and verified. A segment is archived as one object when it is sealed. The
//! stable part of the current segment is archived as an increment at a fixed interval, so that the
//! age of the archive's recovery point is bounded. When the whole segment is archived, its
//! increments are deleted.
//!
//! **Invariants.** Only stable data is archived, so nothing in the archive is ever cut off by a
//! crash. A slot is reassigned only after the segment's object was verified. A gap, if the policy
//! allows one, is recorded in the catalog before the next segment is written.
//!
//! **Failures.** A store that fails is tried again, with growing pauses of up to half a minute. The
//! operator is informed once, and once more when it works again. As unarchived segments fill the
//! slots, writes slow down (`throttle`; see the module of that name). When no slot is free they
//! wait, at most [`ArchivePolicy::wait_ns`] before they are refused with "capacity exceeded", or
//! history gets a gap (`degrade`).
//!
//! **Bounds:** [`JOBS_MAX`] jobs in progress; one request of each waiting task, and as many of each
//! read as it has frames; two caches with a budget in bytes.

// This file has the struct, and `fetch`, `seal`, `lost` and `alarm` add its methods by subject:
// they import it, and it holds their parts. Methods that work on the whole pool are in files that
// this one does not use: `attach`, `read_back`, `ahead`, `seal_now`, `lost_objects`, `expire`,
// `status`.
mod ahead;
mod alarm;
mod attach;
mod away;
mod expire;
mod fetch;
mod lost;
mod lost_objects;
mod objects;
mod rate;
mod read_back;
mod seal;
mod seal_now;
mod side;
mod slot;
mod status;
mod throttle;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

pub(super) use ahead::Ahead;
pub use expire::Forgotten;
use fetch::Waiter;
pub(super) use fetch::{ArchivedBlocks, BlockAnswer, Fetched};
pub use objects::KnownObjects;
pub(super) use side::PoolSide;
pub(super) use slot::ArchiveSlot;
pub use status::ArchiveStatus;

use crate::archive::object::{ClaimId, ObjectId};
use crate::archive::service::{
    ArchiveError, ArchiveService, BlocksCache, EntriesCache, ObjectBlocks, Reply, Request,
};
use crate::log::reader::LsnRange;
use crate::log::{Log, Lsn, SegmentSeq, SharedLog};
use crate::volume::error::VolumeError;
use objects::Objects;
use throttle::{Client, Throttle};

/// The maximum number of jobs in progress.
const JOBS_MAX: usize = 2;
/// How many times a request is repeated before its caller gets the error.
const ASKS_MAX: u32 = 14;
/// The first pause before a request is repeated; it doubles each time.
const ASK_AGAIN_NS: u64 = 5_000_000;
/// The longest such pause.
const ASK_AGAIN_LAST_NS: u64 = 2_000_000_000;
/// The first pause after a failed job; it doubles each time.
const RETRY_FIRST_NS: u64 = 500_000_000;
/// The longest such pause.
const RETRY_LAST_NS: u64 = 30_000_000_000;

/// What happens to writes when the archive cannot keep up and no slot is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackPressure {
    /// They slow down, then wait, and are refused with "capacity exceeded" if that takes too long.
    #[default]
    Throttle,
    /// They continue; the oldest segment's history is lost, and the gap is recorded.
    Degrade,
}

/// How a pool uses its archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchivePolicy {
    /// How often new data is archived as an increment, in ns; 0: only whole segments.
    pub seal_interval_ns: u64,
    /// What happens when the archive cannot keep up.
    pub back_pressure: BackPressure,
    /// How long writes wait before they are refused, in ns.
    pub wait_ns: u64,
    /// The age of the recovery point from which on it is reported as a problem, in ns; 0: never.
    pub rpo_alarm_ns: u64,
    /// Budget of the cache for blocks, in bytes.
    pub blocks_cache_bytes: usize,
    /// Budget of the cache for entries, in bytes.
    pub entries_cache_bytes: usize,
}

impl Default for ArchivePolicy {
    fn default() -> Self {
        ArchivePolicy {
            seal_interval_ns: 20_000_000_000,
            back_pressure: BackPressure::default(),
            wait_ns: 15_000_000_000,
            rpo_alarm_ns: 0,
            blocks_cache_bytes: 64 << 20,
            entries_cache_bytes: 64 << 20,
        }
    }
}

/// A request to the archive.
#[derive(Debug, Clone, Copy)]
struct Ask {
    id: ObjectId,
    /// The position of a block; `None`: the entries.
    lsn: Option<Lsn>,
}

impl Ask {
    fn request(self, token: u64) -> Request {
        match self.lsn {
            Some(lsn) => Request::Blocks { token, id: self.id, lsn },
            None => Request::Entries { token, id: self.id },
        }
    }
}

/// A request in flight.
enum Flight {
    Job {
        id: ObjectId,
        /// The ranges that the object does not have.
        holes: Vec<LsnRange>,
    },
    Delete,
}

/// A reply for a host's read, by its place among the pool's reads.
pub(super) type ReadReply = (usize, Result<Arc<ObjectBlocks>, ArchiveError>);

/// A pool's archive. See the module's documentation.
pub(super) struct Archive {
    service: Box<dyn ArchiveService>,
    /// Set while this only replaces an archive that has not been reached.
    away: Option<away::Away>,
    /// Used to read the entries of segments that wait for their job.
    log: SharedLog,
    policy: ArchivePolicy,
    objects: Objects,
    lost: lost::Lost,
    /// The claim under which new objects are uploaded.
    claim: ClaimId,
    /// Increments of segments on the primary device that are not known to be verified; they are
    /// deleted when the whole segment is archived.
    unverified: HashMap<SegmentSeq, Vec<ObjectId>>,
    flights: HashMap<u64, Flight>,
    waiters: HashMap<u64, Waiter>,
    /// The requests, so that they can be repeated, and how many times each was made.
    asked: HashMap<u64, (Ask, u32)>,
    /// The requests to repeat, and when.
    later: Vec<(u64, u64)>,
    next_token: u64,
    /// Requests that the service had no room for.
    outbox: VecDeque<Request>,
    entries: EntriesCache,
    blocks: BlocksCache,
    seal: seal::Sealing,
    /// No job starts before this time.
    retry_at_ns: u64,
    retry_wait_ns: u64,
    /// The reported problem, while it is still true.
    problem: Option<String>,
    /// Why the newest job failed, until one succeeds.
    cause: Option<String>,
    recent: rate::Recent,
    /// Since when writes have been waiting for a slot.
    waiting_since_ns: Option<u64>,
    /// Segments whose source could not be read, and how many times.
    source_failures: HashMap<SegmentSeq, u32>,
    throttle: Throttle,
    alarm: alarm::Alarm,
    replies: Vec<Reply>,
    /// Replies for hosts' reads, by their places, until the pool takes them.
    for_reads: Vec<ReadReply>,
}

impl Archive {
    fn new(
        service: Box<dyn ArchiveService>,
        log: SharedLog,
        policy: ArchivePolicy,
        KnownObjects(objects, lost, claim): KnownObjects,
    ) -> Self {
        Archive {
            service,
            away: None,
            log,
            policy,
            objects,
            lost,
            claim,
            unverified: HashMap::new(),
            flights: HashMap::new(),
            waiters: HashMap::new(),
            asked: HashMap::new(),
            later: Vec::new(),
            next_token: 1,
            outbox: VecDeque::new(),
            entries: EntriesCache::new(policy.entries_cache_bytes),
            blocks: BlocksCache::new(policy.blocks_cache_bytes),
            seal: seal::Sealing::default(),
            retry_at_ns: 0,
            retry_wait_ns: RETRY_FIRST_NS,
            problem: None,
            cause: None,
            recent: rate::Recent::default(),
            waiting_since_ns: None,
            source_failures: HashMap::new(),
            throttle: Throttle::default(),
            alarm: alarm::Alarm::default(),
            replies: Vec::new(),
            for_reads: Vec::new(),
        }
    }

    /// The object that holds a position.
    pub(super) fn object_of(&self, sequence: SegmentSeq, lsn: Lsn) -> Option<ObjectId> {
        self.objects.object_of(sequence, lsn)
    }

    /// The objects that hold a segment, in order.
    pub(super) fn parts(&self, sequence: SegmentSeq) -> Vec<ObjectId> {
        self.objects.parts(sequence)
    }

    /// The position up to which a segment is covered without a hole.
    pub(super) fn covered(&self, sequence: SegmentSeq) -> Option<Lsn> {
        self.objects.covered(sequence)
    }

    /// Whether one object contains the whole segment.
    pub(super) fn is_whole(&self, sequence: SegmentSeq) -> bool {
        self.objects.get(sequence).is_some_and(|objects| objects.whole.is_some())
    }

    /// Whether writes have waited too long for a slot and are refused now.
    pub(super) fn refuses_writes(&self, now_ns: u64) -> bool {
        self.waiting_since_ns.is_some_and(|since| now_ns.saturating_sub(since) > self.policy.wait_ns)
    }

    /// Whether a host's command that appends must wait for a later turn because the archive is
    /// behind.
    pub(super) fn holds_back(&mut self, log: &Log, client: Client) -> bool {
        // If it waits for a slot, the log itself reports that.
        self.waiting_since_ns.is_none() && self.throttle.holds(log, client)
    }

    /// Notes that a host's command has appended `blocks` blocks.
    pub(super) fn note_appended(&mut self, log: &Log, client: Client, blocks: u64) {
        self.throttle.charge(log, client, blocks);
    }

    fn token(&mut self) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        token
    }

    fn send(&mut self, request: Request) {
        // Keep the order: earlier requests go first.
        if !self.outbox.is_empty() {
            self.outbox.push_back(request);
        } else if let Err(request) = self.service.submit(request) {
            self.outbox.push_back(request);
        }
    }

    /// Requests entries (without a position) or blocks.
    fn ask(&mut self, token: u64, ask: Ask) {
        self.asked.insert(token, (ask, 1));
        self.send(ask.request(token));
    }

    /// Schedules another try of a request, because the store may succeed later, such as a tape that
    /// is being written. `false`: it was tried often enough.
    fn ask_later(&mut self, token: u64, now_ns: u64) -> bool {
        let Some((_, tries)) = self.asked.get_mut(&token).filter(|(_, tries)| *tries < ASKS_MAX) else {
            return false;
        };
        self.later.push((now_ns + (ASK_AGAIN_NS << *tries).min(ASK_AGAIN_LAST_NS), token));
        *tries += 1;
        true
    }

    /// Repeats the requests that are due.
    fn ask_due(&mut self, now_ns: u64) -> usize {
        let (due, later): (Vec<_>, Vec<_>) = self.later.drain(..).partition(|(due_ns, _)| *due_ns <= now_ns);
        self.later = later;
        for &(_, token) in &due {
            if let Some((ask, _)) = self.asked.get(&token) {
                let request = ask.request(token);
                self.send(request);
            }
        }
        due.len()
    }

    /// Takes the replies of the archive's threads. Returns how many there were.
    pub(super) fn take_replies(&mut self, side: &mut PoolSide<'_>, log: &mut Log) -> usize {
        let mut replies = std::mem::take(&mut self.replies);
        let work = self.service.poll(&mut replies);
        for reply in replies.drain(..) {
            self.take(reply, side, log);
        }
        self.replies = replies;
        work
    }

    /// The replies for hosts' reads that have arrived; return the list with
    /// [`keep_for_reads`](Self::keep_for_reads).
    pub(super) fn take_for_reads(&mut self) -> Vec<ReadReply> {
        std::mem::take(&mut self.for_reads)
    }

    /// Keeps the memory of an empty list for the next replies.
    pub(super) fn keep_for_reads(&mut self, list: Vec<ReadReply>) {
        assert!(list.is_empty(), "every reply is handed to its read");
        self.for_reads = list;
    }

    /// One turn: makes the requests that are due. Returns how much was done.
    pub(super) fn poll(&mut self, side: &mut PoolSide<'_>, log: &mut Log) -> usize {
        let mut work = 0;
        while let Some(request) = self.outbox.pop_front() {
            if let Err(request) = self.service.submit(request) {
                self.outbox.push_front(request);
                break;
            }
            work += 1;
        }
        let now_ns = log.environment().clock.monotonic_ns();
        if !self.later.is_empty() {
            work += self.ask_due(now_ns);
        }
        // The archive of a rehearsal is only read, and has no recovery point of it.
        let is_rehearsal = side.catalog.ownership.rehearsal_lsn.is_some();
        if !self.is_away() && !is_rehearsal {
            work += self.submit_jobs(log, now_ns);
        }
        work += self.relieve(side, log, now_ns);
        if !is_rehearsal {
            self.look_at_recovery_point(side, log, now_ns);
        }
        let is_wanted = self.policy.back_pressure == BackPressure::Throttle;
        work + usize::from(self.throttle.turn(is_wanted, log, now_ns))
    }

    fn take(&mut self, reply: Reply, side: &mut PoolSide<'_>, log: &mut Log) {
        match reply {
            Reply::Archived { token, result } => {
                let Some(Flight::Job { id, holes }) = self.flights.remove(&token) else { return };
                self.throttle.recount();
                match result {
                    Ok(archived) => self.job_done(id, &holes, archived, side, log),
                    Err(error) => self.job_failed(id, &error, side, log),
                }
            }
            Reply::Deleted { token, result } => {
                self.flights.remove(&token);
                if let Err(error) = result {
                    if matches!(error, ArchiveError::Overtaken { .. }) {
                        Self::overtaken(&error, log);
                    }
                    // They only cost space; the next start finds and deletes them.
                    tracing::warn!(%error, "increments of an archived segment could not be deleted");
                }
            }
            Reply::Entries { token, result: Err(ArchiveError::Store { retry: true, .. }) }
            | Reply::Blocks { token, result: Err(ArchiveError::Store { retry: true, .. }) }
                if self.ask_later(token, log.environment().clock.monotonic_ns()) => {}
            Reply::Entries { token, ref result } => {
                self.asked.remove(&token);
                if let Ok(entries) = result {
                    self.entries.insert(std::sync::Arc::clone(entries));
                }
                self.answer(token, reply);
            }
            Reply::Blocks { token, .. } => {
                self.asked.remove(&token);
                self.answer(token, reply);
            }
        }
    }

    /// Handles writes that wait for a slot while none is free.
    fn relieve(&mut self, side: &mut PoolSide<'_>, log: &mut Log, now_ns: u64) -> usize {
        if !log.why_busy().waits_for_slot() {
            self.waiting_since_ns = None;
            return 0;
        }
        let since = *self.waiting_since_ns.get_or_insert(now_ns);
        if self.policy.back_pressure == BackPressure::Throttle {
            if now_ns.saturating_sub(since) > self.policy.wait_ns {
                self.tell_failure(now_ns, side);
            }
            return 0;
        }
        let Some(sequence) = log.release_unarchived() else { return 0 };
        if sequence < side.catalog.archived_below {
            return 1;
        }
        self.note_gap(log, sequence);
        let geometry = log.geometry();
        let gap = LsnRange { start: geometry.first_lsn(sequence), end: geometry.first_lsn(sequence.next()) };
        side.record_gap(log, gap, "it was not archived before its room was needed");
        1
    }

    /// Reports that the store fails, or that writes are refused, with the cause: neither hides the
    /// other.
    fn tell_failure(&mut self, now_ns: u64, side: &mut PoolSide<'_>) {
        const REFUSED: &str = "writes are refused: the archive cannot keep up, and no segment of the primary device can be given away before it is archived (`varve archive status` shows how far behind it is; --back-pressure degrade lets writes go on, with a gap in history)";
        let problem = match (&self.cause, self.refuses_writes(now_ns)) {
            (Some(cause), true) => format!("{REFUSED}; it does not work, and is tried again: {cause}"),
            (None, true) => REFUSED.to_owned(),
            (Some(cause), false) => format!("the archive does not work, and is tried again: {cause}"),
            (None, false) => return,
        };
        self.tell(problem, side);
    }

    /// Reports a problem to the operator, once.
    fn tell(&mut self, problem: String, side: &mut PoolSide<'_>) {
        // A problem that differs only in the object or in the kind of failure is not new, but the
        // newest text is shown.
        let is_news = self.problem.is_none();
        if !is_news && self.problem.as_ref() != Some(&problem) {
            self.tell_no_more(side);
            side.problems.add(&problem);
            self.problem = Some(problem);
        } else if is_news {
            tracing::warn!(problem, "the archive has a problem");
            self.tell_no_more(side);
            side.problems.add(&problem);
            self.problem = Some(problem);
        }
    }

    fn tell_no_more(&mut self, side: &mut PoolSide<'_>) {
        if let Some(problem) = self.problem.take() {
            side.problems.withdraw(&problem);
        }
    }
}

/// The error of a pool without an archive.
pub(super) fn no_archive() -> VolumeError {
    VolumeError::Busy { reason: "the pool has no archive; start it with --archive DIRECTORY".to_owned() }
}
