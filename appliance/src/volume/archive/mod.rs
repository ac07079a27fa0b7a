//! The pool's side of its archive: what is archived when, what is in the archive, and how it comes back.
//!
//! **States of a stretch of the log:** unarchived → (sealed, by size, by time or by command) job under way → archived and verified. A segment is archived as one object when it is sealed; what of the current segment is
//! stable is archived as an increment every so often, so that the recovery point of the archive is bounded. When the whole segment is there, its increments are deleted.
//!
//! **Invariants.** Only what is stable is archived, so nothing in the archive is ever cut off by a crash. A slot is given away only when the segment's object was verified. A gap, if the policy allows one,
//! is recorded in the catalog before the next segment is written.
//!
//! **Failures.** A store that fails is asked again, each time later, up to half a minute apart; the operator is told once, and once more when it works again. As unarchived segments fill the slots, writes slow
//! down (`throttle`; see the module of that name). When no slot is free they wait, at most [`ArchivePolicy::wait_ns`] before they are refused with "capacity exceeded", or history gets a gap (`degrade`).
//!
//! **Bounds:** [`JOBS_MAX`] jobs under way; one request of each waiting task, and as many as its frames of each read; two caches with a budget in bytes.

mod ahead;
mod alarm;
mod away;
mod expire;
mod fetch;
mod lost;
mod objects;
mod rate;
mod seal;
mod status;
mod throttle;

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

pub(super) use ahead::Ahead;
pub use expire::Forgotten;
use fetch::Waiter;
pub(super) use fetch::{ArchivedBlocks, BlockAnswer, Fetched};
pub(super) use objects::Cut;
pub use objects::KnownObjects;
pub use status::ArchiveStatus;

use crate::archive::object::{ClaimId, ObjectId};
use crate::archive::service::{
    ArchiveError, ArchiveService, BlocksCache, EntriesCache, Reply, Request, VerifyPolicy,
};
use crate::log::reader::LsnRange;
use crate::log::{Log, Lsn, SegmentSeq, SharedLog};

use crate::log::format::EventKind;
use crate::reactor::yield_now;

use super::error::VolumeError;
use super::event::EventCollector;
use super::info::SynchInfo;
use super::pool::{Pool, State};
use objects::Objects;
use throttle::{Client, Throttle};

/// Jobs under way at once.
const JOBS_MAX: usize = 2;
/// How often a store is asked for the same before whoever wants it is told that it failed.
const ASKS_MAX: u32 = 14;
/// How long it is left alone first; that doubles.
const ASK_AGAIN_NS: u64 = 5_000_000;
/// The longest that it is left alone.
const ASK_AGAIN_LAST_NS: u64 = 2_000_000_000;
/// The first wait after a failure; it doubles.
const RETRY_FIRST_NS: u64 = 500_000_000;
/// The longest.
const RETRY_LAST_NS: u64 = 30_000_000_000;

/// What happens to writes when the archive cannot keep up and no slot is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackPressure {
    /// They slow down, wait at last, and are refused with "capacity exceeded" when that takes too long.
    #[default]
    Throttle,
    /// They go on; the oldest segment's past is lost, and that is recorded.
    Degrade,
}

/// How a pool uses its archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchivePolicy {
    /// How often what is new is archived as an increment, in ns; 0: only whole segments.
    pub seal_interval_ns: u64,
    /// What happens when the archive cannot keep up.
    pub back_pressure: BackPressure,
    /// How long writes wait before they are refused, in ns.
    pub wait_ns: u64,
    /// From this age of the recovery point on it is told as a problem, in ns; 0: never.
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

/// What is asked of the archive.
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

/// What is under way.
enum Flight {
    Job {
        id: ObjectId,
        /// What the object does not know.
        holes: Vec<LsnRange>,
    },
    Delete,
}

/// A pool's archive. See the module's documentation.
pub(super) struct Archive {
    service: Box<dyn ArchiveService>,
    /// Set as long as this only stands in for an archive that has not been reached.
    away: Option<away::Away>,
    /// For reading the entries of segments that wait for their job.
    log: SharedLog,
    policy: ArchivePolicy,
    objects: Objects,
    lost: lost::Lost,
    /// Under which new objects are put.
    claim: ClaimId,
    /// Increments of segments on the primary that nobody knows to be verified; they go when the whole is there.
    unverified: HashMap<SegmentSeq, Vec<ObjectId>>,
    flights: HashMap<u64, Flight>,
    waiters: HashMap<u64, Waiter>,
    /// What was asked for, to ask again, and how often it was.
    asked: HashMap<u64, (Ask, u32)>,
    /// What is to be asked again, and when.
    later: Vec<(u64, u64)>,
    next_token: u64,
    /// Requests that found no room.
    outbox: VecDeque<Request>,
    entries: EntriesCache,
    blocks: BlocksCache,
    seal: seal::Sealing,
    /// No job before this time.
    retry_at_ns: u64,
    retry_wait_ns: u64,
    /// What the operator was told and is still true.
    problem: Option<String>,
    /// Why the newest job failed, until one succeeds.
    cause: Option<String>,
    recent: rate::Recent,
    /// Since when writes wait for a slot.
    waiting_since_ns: Option<u64>,
    /// Segments whose source failed, and how often.
    source_failures: HashMap<SegmentSeq, u32>,
    throttle: Throttle,
    alarm: alarm::Alarm,
    replies: Vec<Reply>,
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

    /// Up to where a segment is covered without a hole.
    pub(super) fn covered(&self, sequence: SegmentSeq) -> Option<Lsn> {
        self.objects.covered(sequence)
    }

    /// Whether one object has all of a segment.
    pub(super) fn is_whole(&self, sequence: SegmentSeq) -> bool {
        self.objects.get(sequence).is_some_and(|objects| objects.whole.is_some())
    }

    /// Whether writes have waited too long for a slot and are refused now.
    pub(super) fn refuses_writes(&self, now_ns: u64) -> bool {
        self.waiting_since_ns.is_some_and(|since| now_ns.saturating_sub(since) > self.policy.wait_ns)
    }

    /// Whether a host's command that appends must wait for a later turn, because the archive is behind.
    pub(super) fn holds_back(&mut self, log: &Log, client: Client) -> bool {
        // One that waits for a slot is told so by the log.
        self.waiting_since_ns.is_none() && self.throttle.holds(log, client)
    }

    /// A host's command has appended so many blocks.
    pub(super) fn note_appended(&mut self, log: &Log, client: Client, blocks: u64) {
        self.throttle.charge(log, client, blocks);
    }

    fn token(&mut self) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        token
    }

    fn send(&mut self, request: Request) {
        // In order: what came before goes first.
        if !self.outbox.is_empty() {
            self.outbox.push_back(request);
        } else if let Err(request) = self.service.submit(request) {
            self.outbox.push_back(request);
        }
    }

    /// Asks for entries (without a position) or blocks.
    fn ask(&mut self, token: u64, ask: Ask) {
        self.asked.insert(token, (ask, 1));
        self.send(ask.request(token));
    }

    /// A store that may do better, such as a tape that is being written, is asked again a little later, a few times. `false`: it was asked often enough.
    fn ask_later(&mut self, token: u64, now_ns: u64) -> bool {
        let Some((_, tries)) = self.asked.get_mut(&token).filter(|(_, tries)| *tries < ASKS_MAX) else {
            return false;
        };
        self.later.push((now_ns + (ASK_AGAIN_NS << *tries).min(ASK_AGAIN_LAST_NS), token));
        *tries += 1;
        true
    }

    /// Asks again what is due.
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

    /// One turn. Returns how much was done.
    pub(super) fn poll(&mut self, state: &mut State, log: &mut Log) -> usize {
        let mut replies = std::mem::take(&mut self.replies);
        let mut work = self.service.poll(&mut replies);
        for reply in replies.drain(..) {
            self.take(reply, state, log);
        }
        self.replies = replies;
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
        if !self.is_away() {
            work += self.submit_jobs(log, now_ns);
        }
        work += self.relieve(state, log, now_ns);
        self.look_at_recovery_point(state, log, now_ns);
        let is_wanted = self.policy.back_pressure == BackPressure::Throttle;
        work + usize::from(self.throttle.turn(is_wanted, log, now_ns))
    }

    fn take(&mut self, reply: Reply, state: &mut State, log: &mut Log) {
        match reply {
            Reply::Archived { token, result } => {
                let Some(Flight::Job { id, holes }) = self.flights.remove(&token) else { return };
                self.throttle.recount();
                match result {
                    Ok(archived) => self.job_done(id, &holes, archived, state, log),
                    Err(error) => self.job_failed(id, &error, state, log),
                }
            }
            Reply::Deleted { token, result } => {
                self.flights.remove(&token);
                if let Err(error) = result {
                    if matches!(error, ArchiveError::Overtaken { .. }) {
                        Self::overtaken(&error, state, log);
                    }
                    // Left behind, they cost room and nothing else; the next start finds and deletes them.
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
                self.answer(token, reply, state);
            }
            Reply::Blocks { token, .. } => {
                self.asked.remove(&token);
                self.answer(token, reply, state);
            }
        }
    }

    /// When no slot is free and somebody waits for one.
    fn relieve(&mut self, state: &mut State, log: &mut Log, now_ns: u64) -> usize {
        if !log.why_busy().waits_for_slot() {
            self.waiting_since_ns = None;
            return 0;
        }
        let since = *self.waiting_since_ns.get_or_insert(now_ns);
        if self.policy.back_pressure == BackPressure::Throttle {
            if now_ns.saturating_sub(since) > self.policy.wait_ns {
                self.tell_failure(now_ns, state);
            }
            return 0;
        }
        let Some(sequence) = log.release_unarchived() else { return 0 };
        if sequence < state.catalog.archived_below {
            return 1;
        }
        self.note_gap(log, sequence);
        let geometry = log.geometry();
        let gap = LsnRange { start: geometry.first_lsn(sequence), end: geometry.first_lsn(sequence.next()) };
        record_gap(gap, "it was not archived before its room was needed", state, log);
        1
    }

    /// Tells the operator that the store fails, or that writes are refused, with why: neither hides the other.
    fn tell_failure(&mut self, now_ns: u64, state: &mut State) {
        const REFUSED: &str = "writes are refused: the archive cannot keep up, and no segment of the primary device can be given away before it is archived (`varve archive status` shows how far behind it is; --back-pressure degrade lets writes go on, with a gap in history)";
        let problem = match (&self.cause, self.refuses_writes(now_ns)) {
            (Some(cause), true) => format!("{REFUSED}; it does not work, and is tried again: {cause}"),
            (None, true) => REFUSED.to_owned(),
            (Some(cause), false) => format!("the archive does not work, and is tried again: {cause}"),
            (None, false) => return,
        };
        self.tell(problem, state);
    }

    /// Tells the operator of a problem, once.
    fn tell(&mut self, problem: String, state: &mut State) {
        // One that differs only in the object, or in how it failed, is no news; the newest words are shown.
        let is_news = self.problem.is_none();
        if !is_news && self.problem.as_ref() != Some(&problem) {
            self.tell_no_more(state);
            state.problems.push(problem.clone());
            self.problem = Some(problem);
        } else if is_news {
            tracing::warn!(problem, "the archive has a problem");
            self.tell_no_more(state);
            state.problems.push(problem.clone());
            self.problem = Some(problem);
        }
    }

    fn tell_no_more(&mut self, state: &mut State) {
        if let Some(problem) = self.problem.take() {
            state.problems.retain(|known| *known != problem);
        }
    }
}

impl State {
    /// Takes up a synch that the archive knows. One that is known already stays as it is, unless its text is damaged on the primary device: a crash while a slot is used again may bring back the
    /// segment that was there, with blocks of the new one in it.
    fn learn_synch(&mut self, synch: SynchInfo) {
        self.catalog.next_synch = self.catalog.next_synch.max(synch.id + 1);
        let place = self.synchs.partition_point(|known| known.lsn < synch.lsn);
        match self.synchs.get_mut(place).filter(|known| known.lsn == synch.lsn) {
            None => self.synchs.insert(place, synch),
            Some(known) if known.is_damaged() && !synch.is_damaged() => {
                let problem = synch.damage();
                *known = synch;
                self.problems.retain(|told| *told != problem);
            }
            Some(_) => {}
        }
    }
}

/// Records a stretch that left the primary device without being archived. Gaps that meet are one,
/// and are told as one.
fn record_gap(gap: LsnRange, why: &str, state: &mut State, log: &mut Log) {
    state.catalog.add_gap(gap);
    let whole = state.catalog.gaps.iter().find(|known| known.start <= gap.start && gap.end <= known.end);
    let whole = whole.copied().unwrap_or(gap);
    let is_within = |(known, _): &(LsnRange, String)| whole.start <= known.start && known.end <= whole.end;
    let (before, apart): (Vec<_>, Vec<_>) =
        std::mem::take(&mut state.told_gaps).into_iter().partition(is_within);
    state.problems.retain(|problem| before.iter().all(|(_, told)| told != problem));
    state.told_gaps = apart;
    let problem = format!("history has a gap at LSN {} to {}: {why}", whole.start, whole.end);
    if before.is_empty() {
        tracing::warn!(problem, "the archive cannot keep up");
    }
    state.problems.push(problem.clone());
    state.told_gaps.push((whole, problem));
    // Stands at the start of the next segment.
    if let Err(error) = state.publish_catalog(log) {
        tracing::error!(%error, "the gap cannot be recorded in the catalog");
    }
}

impl Pool {
    /// Gives the pool its archive: from now on what is sealed is archived, segments that are archived give their slots away, and the past is read from there.
    ///
    /// # Errors
    /// The pool has one already, which is not one that it [waits for](Self::await_archive).
    pub fn attach_archive(
        &self,
        mut service: Box<dyn ArchiveService>,
        policy: ArchivePolicy,
        mut known: KnownObjects,
        synchs: Vec<SynchInfo>,
    ) -> Result<(), VolumeError> {
        let mut state = self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        if state.archive.as_ref().is_some_and(|archive| !archive.is_away()) {
            return Err(VolumeError::Busy { reason: "the pool has an archive already".to_owned() });
        }
        let mut lost_on_device = Vec::new();
        if let Some(mut stand_in) = state.archive.take() {
            stand_in.tell_no_more(&mut state);
            stand_in.end_alarm(&mut state);
            lost_on_device = stand_in.take_lost_on_device();
            service.set_verify(stand_in.service.verify());
        }
        known.apply(&state.catalog.cuts);
        known.drop_headless(&log.geometry());
        let mut archive = Archive::new(service, Rc::clone(&self.log), policy, known);
        let trusted = state.catalog.archived_below;
        for gap in archive.lost_before_archived(&log, &lost_on_device, trusted) {
            if !state.catalog.gaps.iter().any(|known| known.start <= gap.start && known.end >= gap.end) {
                record_gap(gap, "the primary device lost it before it was archived", &mut state, &mut log);
            }
        }
        if let Some(lost) = archive.adopt(&mut log, trusted) {
            state.note_problem(format!(
                "the archive has lost segments that were in it: segments {lost}; what the primary device still holds is archived again"
            ));
            state.distrust_archive(&mut log, lost.first);
        }
        // What is on the primary device is archived again, and is no loss.
        let here: Vec<SegmentSeq> = log.table().on_device().collect();
        let again: Vec<SegmentSeq> =
            here.into_iter().filter(|&sequence| archive.lost.found(sequence)).collect();
        if let Some(&first) = again.first().filter(|first| **first < state.catalog.archived_below) {
            state.distrust_archive(&mut log, first);
        }
        for synch in synchs {
            state.learn_synch(synch);
        }
        archive.tell_lost(&mut state, &log);
        state.archive = Some(Box::new(archive));
        drop(log);
        self.drop_lost_synchs(&mut state);
        Ok(())
    }

    /// Takes the archive away again.
    pub(super) fn detach_archive(&self) -> Option<(Box<dyn ArchiveService>, KnownObjects)> {
        let archive = self.state.borrow_mut().archive.take()?;
        Some((archive.service, KnownObjects(archive.objects, archive.lost, archive.claim)))
    }

    /// Looks up the synchs that are only in the archive, in segments from `from` on, and those whose text is damaged on the primary device. The entries of all these segments are read.
    /// A segment whose objects cannot be read does not keep the others from being looked up.
    ///
    /// # Errors
    /// The first one of the store's; all that can be found is.
    pub async fn load_archived_synchs(self: Rc<Self>, from: SegmentSeq) -> Result<(), VolumeError> {
        let sequences: Vec<SegmentSeq> = {
            let (state, log) = (self.state.borrow(), self.log.borrow());
            let Some(archive) = &state.archive else { return Ok(()) };
            let damaged = state.synchs.iter().filter(|synch| synch.is_damaged());
            let damaged: HashSet<SegmentSeq> =
                damaged.map(|synch| log.geometry().sequence_of(Lsn(synch.lsn))).collect();
            let there =
                |sequence: SegmentSeq| log.table().slot(sequence).is_some() && !damaged.contains(&sequence);
            let all = archive.objects.iter().map(|(sequence, _)| sequence);
            all.filter(|&sequence| sequence >= from && !there(sequence)).collect()
        };
        let mut result = Ok(());
        for sequence in sequences {
            let looked_up = self.load_synchs_of(sequence).await;
            result = result.and(looked_up);
            yield_now().await;
        }
        self.drop_lost_synchs(&mut self.state.borrow_mut());
        result
    }

    async fn load_synchs_of(&self, sequence: SegmentSeq) -> Result<(), VolumeError> {
        let Some(entries) = self.entries_of(sequence).await? else { return Ok(()) };
        let events = EventCollector::events(&entries, Lsn::MAX).into_iter();
        for event in events.filter(|event| event.kind == EventKind::Synch) {
            let synch = self.read_synch(&event).await?;
            self.state.borrow_mut().learn_synch(synch);
        }
        Ok(())
    }

    /// How objects of the archive are verified; `None` when there is no archive.
    pub fn archive_verify(&self) -> Option<VerifyPolicy> {
        self.state.borrow().archive.as_ref().map(|archive| archive.service.verify())
    }

    /// Sets how objects of the archive are verified, from the next one on.
    ///
    /// # Errors
    /// The pool has no archive.
    pub fn set_archive_verify(&self, verify: VerifyPolicy) -> Result<(), VolumeError> {
        let mut state = self.state.borrow_mut();
        state.archive.as_mut().ok_or_else(seal::no_archive)?.service.set_verify(verify);
        Ok(())
    }

    /// Whether the pool has an archive.
    pub fn has_archive(&self) -> bool {
        self.state.borrow().archive.is_some()
    }
}
