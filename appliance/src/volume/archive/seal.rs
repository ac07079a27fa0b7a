//! What is archived when: whole segments once they are sealed, increments of the current one by time or by command.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::objects::SegmentObjects;
use super::{Archive, Flight, JOBS_MAX, RETRY_FIRST_NS, RETRY_LAST_NS, record_gap};
use crate::archive::object::{ClaimId, ObjectId, holes_of};
use crate::archive::retention::SegmentRange;
use crate::archive::service::{ArchiveError, ArchiveJob, Archived, Request};
use crate::log::format::TrailerUnit;
use crate::log::load::load_segment;
use crate::log::reader::{LsnRange, ReadError, SegmentEntries};
use crate::log::table::{Phase, Segment};
use crate::log::{Log, Lsn, SegmentSeq};
use crate::volume::error::VolumeError;
use crate::volume::pool::{Pool, State};
use crate::volume::working_set::reach;

/// How often a segment that the device does not give is tried before its past is given up.
const SOURCE_FAILURES_MAX: u32 = 6;

/// After so many failures a command that waits for the archive is told.
const FAILURES_TOLD: u64 = 3;

/// A segment that the device gives in part is archived in part after so many tries: until then it may do better.
const PARTLY_FAILURES_MAX: u32 = 2;

type Loading = Pin<Box<dyn Future<Output = Result<SegmentEntries, ReadError>>>>;

/// Where sealing stands.
#[derive(Default)]
pub(super) struct Sealing {
    /// No segment before this one is to be archived.
    next: SegmentSeq,
    /// Units of a segment that is no longer in memory, on their way from the device.
    loading: Option<(SegmentSeq, Loading)>,
    loaded: HashMap<SegmentSeq, Arc<Vec<TrailerUnit>>>,
    /// Segments whose entries could not be read, and how often that was tried.
    load_failures: HashMap<SegmentSeq, u32>,
    /// When the next increment is due, by the clock of spans.
    due_ns: u64,
    /// Everything before this position is to be archived as soon as it is stable.
    target: Option<Lsn>,
    /// When the segment was opened that the newest run of gaps begins with, and which it is.
    gap: Option<(SegmentSeq, u64)>,
    /// Waiting for `target`.
    waiters: Vec<Waker>,
}

impl Sealing {
    /// Segments from here on are looked at again: one of them is not in the archive after all.
    pub(super) fn begin_again(&mut self, sequence: SegmentSeq) {
        self.next = self.next.min(sequence);
    }
}

impl Archive {
    /// Marks what is archived already: objects before `trusted` were verified, and are never put again. What is behind `trusted`, the last segment that the catalog knows to be verified, may be an object whose verification a crash cut off:
    /// its job is done again, which finds it and verifies it.
    ///
    /// One before `trusted` without an object has expired, and only its slot came back with a crash: put again it would come before it is verified, and count as verified after the next start. But when no object of those before
    /// `trusted` is newer, the store lost it, because expiry keeps the newest. The first and the last of these are the answer: from there on nothing is trusted, and what is on the primary device is archived again.
    pub(super) fn adopt(&mut self, log: &mut Log, trusted: SegmentSeq) -> Option<SegmentRange> {
        let is_verified = |(sequence, objects): &(SegmentSeq, &SegmentObjects)| {
            *sequence < trusted && objects.whole.is_some()
        };
        let newest_verified = self.objects.iter().rfind(is_verified).map(|(sequence, _)| sequence);
        let mut lost: Option<SegmentRange> = None;
        let there: Vec<SegmentSeq> = log
            .table()
            .iter()
            .filter(|(_, segment)| segment.slot.is_some())
            .map(|(sequence, _)| sequence)
            .collect();
        self.seal.next = log.table().oldest();
        for sequence in there {
            if sequence >= trusted {
                // The whole, if it is there, can still be read: each block of it is checked.
                let increments = self.objects.take_increments(sequence);
                self.unverified.insert(sequence, increments);
                continue;
            }
            // What the store is known to have lost has not expired.
            let is_lost = self.lost.contains(sequence);
            if !is_lost && newest_verified.is_some_and(|newest| sequence <= newest) {
                log.note_archived(sequence);
            } else {
                // The catalog may have been believed while the archive was away.
                log.note_unarchived(sequence);
                let first = lost.map_or(sequence, |lost| lost.first);
                lost = Some(SegmentRange { first, last: sequence });
            }
        }
        lost
    }

    /// Segments that the device has lost, and that the archive has not or not whole: nothing more
    /// of them will ever be archived. `before`: segments of which that was so when the pool was
    /// opened. Of those in which nothing was live, the ones before `trusted` were archived, and may
    /// have expired.
    pub(super) fn lost_before_archived(
        &self,
        log: &Log,
        before: &[SegmentSeq],
        trusted: SegmentSeq,
    ) -> Vec<LsnRange> {
        let geometry = log.geometry();
        let now = log
            .table()
            .iter()
            .filter(|(_, segment)| segment.slot.is_none() && segment.phase != Phase::Released);
        let missing = log.table().missing().iter().copied().filter(|&sequence| sequence >= trusted);
        let lost: BTreeSet<SegmentSeq> =
            now.map(|(sequence, _)| sequence).chain(before.iter().copied()).chain(missing).collect();
        let range = |sequence: SegmentSeq| LsnRange {
            start: geometry.first_lsn(sequence),
            end: geometry.first_lsn(sequence.next()),
        };
        lost.into_iter().filter(|&sequence| !self.is_whole(sequence)).map(range).collect()
    }

    /// Up to where the log is in the archive, without a hole but for recorded gaps.
    pub(super) fn archived_to(&self, log: &Log) -> Lsn {
        let geometry = log.geometry();
        // What left the table before it was looked at again is recorded as a gap.
        let mut sequence = self.seal.next.max(log.table().oldest());
        while log.table().get(sequence).is_some_and(is_past_archiving) {
            sequence = sequence.next();
        }
        let first = geometry.first_lsn(sequence);
        match log.table().get(sequence) {
            // Nothing but its header is in it: a crash came before its first record.
            Some(segment) if segment.end_lsn <= first.plus(1) => segment.end_lsn,
            // Of a segment that is not archived, what counts are increments.
            Some(segment) => self
                .objects
                .parts(sequence)
                .last()
                .filter(|part| part.epoch == segment.epoch && !part.whole)
                .map_or(first, |part| part.to_lsn),
            None => log.commit_lsn(),
        }
    }

    /// What a recovery from the archive alone would give, when everything before `stored_to` is in it but for the recorded gaps: a point whose window has a gap cannot be made again.
    pub(super) fn recoverable_to(&self, state: &State, log: &Log, stored_to: Lsn) -> Lsn {
        let geometry = log.geometry();
        let mut to = stored_to;
        while to > Lsn(0) {
            let last = geometry.sequence_of(Lsn(to.0 - 1));
            let working_set = reach(&state.catalog.working_sets, last).unwrap_or(geometry.working_set);
            let first = geometry.first_lsn(SegmentSeq(last.0.saturating_sub(working_set)));
            // Increments of a gap's first segment may have been archived before it was given away.
            let gaps = state.catalog.gaps.iter().map(|gap| {
                let parts = self.objects.parts(geometry.sequence_of(gap.start));
                (parts.last().map_or(gap.start, |part| part.to_lsn.max(gap.start)), gap.end)
            });
            let within = gaps.filter(|&(start, end)| start < to && end > first.max(start));
            let Some(start) = within.map(|(start, _)| start).max() else { break };
            to = start;
        }
        to
    }

    /// The time of the first record behind a position that is not recoverable; the opening of its segment where the record is not in memory.
    pub(super) fn uncovered_since_ns(&self, log: &Log, from: Lsn) -> u64 {
        let sequence = log.geometry().sequence_of(from);
        if let Some(time_ns) = log.first_time_ns(sequence, from) {
            return time_ns;
        }
        match (log.table().get(sequence), self.seal.gap) {
            (_, Some((gap, opened_ns))) if gap == sequence => opened_ns,
            (Some(segment), _) if segment.end_lsn > from => segment.opened_ns,
            // Nothing but what is still in the open record.
            _ => log.last_time_ns(),
        }
    }

    /// A segment is about to leave the primary device without having been archived.
    pub(super) fn note_gap(&mut self, log: &Log, sequence: SegmentSeq) {
        let working_set = log.geometry().working_set;
        let goes_on = self.seal.gap.is_some_and(|(first, _)| sequence.0 <= first.0 + working_set + 1);
        if !goes_on && let Some(segment) = log.table().get(sequence) {
            self.seal.gap = Some((sequence, segment.opened_ns));
        }
    }

    /// Sends what is to be archived now. Returns how much was done.
    pub(super) fn submit_jobs(&mut self, log: &mut Log, now_ns: u64) -> usize {
        let mut work = 0;
        self.set_target(log, now_ns);
        if now_ns < self.retry_at_ns {
            return work;
        }
        while log.table().get(self.seal.next).is_some_and(is_past_archiving) {
            self.seal.next = self.seal.next.next();
        }
        self.seal.next = self.seal.next.max(log.table().oldest());
        let mut sequence = self.seal.next;
        let jobs = |flights: &HashMap<u64, Flight>| {
            flights.values().filter(|flight| matches!(flight, Flight::Job { .. })).count()
        };
        while jobs(&self.flights) < JOBS_MAX {
            let Some(segment) = log.table().get(sequence) else { break };
            if !segment.sealed {
                break;
            }
            let under_way = self.flights.values().any(
                |flight| matches!(flight, Flight::Job { id, .. } if id.sequence == sequence && id.whole),
            );
            if !segment.archived && segment.slot.is_some() && !under_way {
                // Until the next one's header is stable a loss of power may take the trailer, and the log would go on in this segment: then what was put is not the whole.
                let next = sequence.next();
                let next_begun = log.geometry().first_lsn(next).plus(1);
                if log.table().get(next).is_some() && log.stable_lsn() < next_begun {
                    log.request_stable(next_begun);
                    break;
                }
                let Some(units) = self.units_of(log, sequence) else { break };
                self.send_job(log, sequence, None, units);
                work += 1;
            }
            sequence = sequence.next();
        }
        if jobs(&self.flights) < JOBS_MAX {
            work += self.submit_increment(log);
        }
        self.reach_target(log);
        work
    }

    /// The units of a sealed segment; `None` while they are read.
    fn units_of(&mut self, log: &Log, sequence: SegmentSeq) -> Option<Arc<Vec<TrailerUnit>>> {
        if let Some(units) = log.units_in_memory(sequence).or_else(|| self.seal.loaded.remove(&sequence)) {
            return Some(units);
        }
        if self.seal.loading.is_none() {
            let shared = Rc::clone(&self.log);
            let future = async move { load_segment(&shared, sequence).await };
            self.seal.loading = Some((sequence, Box::pin(future)));
        }
        None
    }

    /// Takes the entries of a segment that were read. What could not be read is a hole, and becomes one of the object; nothing is left out silently. When nothing at all can be read, it is tried
    /// again for as long as the device may do better, and then all of it is a hole: its blocks are archived still.
    fn take_loaded(&mut self, sequence: SegmentSeq, result: Result<SegmentEntries, ReadError>, log: &Log) {
        let entries = match result {
            Ok(entries) => entries,
            Err(error) => {
                let failures = self.seal.load_failures.entry(sequence).or_default();
                // Memory comes back; a device may not.
                *failures += u32::from(!matches!(error, ReadError::Memory(_)));
                let now_ns = log.environment().clock.monotonic_ns();
                self.retry_at_ns = now_ns.saturating_add(self.retry_wait_ns);
                self.retry_wait_ns = (self.retry_wait_ns * 2).min(RETRY_LAST_NS);
                if *failures < SOURCE_FAILURES_MAX {
                    tracing::warn!(%sequence, %error, "the entries of a segment cannot be read to archive it; it is tried again");
                    return;
                }
                tracing::error!(%sequence, %error, "the entries of a segment cannot be read; it is archived without them");
                SegmentEntries::default()
            }
        };
        self.seal.load_failures.remove(&sequence);
        self.seal.loaded.insert(sequence, Arc::new(entries.into_units()));
    }

    /// Starts what [`Sealing::loading`] holds. It borrows the log by itself, so it is polled apart from everything else.
    pub(in crate::volume) fn poll_loading(&mut self) -> usize {
        let Some((sequence, future)) = &mut self.seal.loading else { return 0 };
        let mut context = Context::from_waker(Waker::noop());
        match future.as_mut().poll(&mut context) {
            Poll::Pending => 0,
            Poll::Ready(result) => {
                let sequence = *sequence;
                self.seal.loading = None;
                let shared = Rc::clone(&self.log);
                self.take_loaded(sequence, result, &shared.borrow());
                1
            }
        }
    }

    fn send_job(
        &mut self,
        log: &Log,
        sequence: SegmentSeq,
        range: Option<(Lsn, Lsn)>,
        units: Arc<Vec<TrailerUnit>>,
    ) {
        let geometry = log.geometry();
        let Some(segment) = log.table().get(sequence) else { return };
        let Some(slot) = segment.slot else { return };
        let whole = whole_id(log, sequence, segment, self.claim);
        let id = match range {
            Some((from_lsn, to_lsn)) => ObjectId { from_lsn, to_lsn, whole: false, ..whole },
            None => whole,
        };
        let (units, holes) = with_holes(&id, geometry.segment_blocks, units);
        let token = self.token();
        let job = ArchiveJob {
            token,
            id,
            segment_blocks: geometry.segment_blocks,
            device_block: geometry.slot_block(slot) + geometry.offset_of(id.from_lsn),
            opened_ns: segment.opened_ns,
            sealed_ns: log.now_ns(),
            units,
            holes,
            accept_lost: self
                .source_failures
                .get(&sequence)
                .is_some_and(|&failures| failures >= PARTLY_FAILURES_MAX),
        };
        self.flights.insert(token, Flight::Job { id, holes: job.holes.clone() });
        self.send(Request::Archive(job));
    }

    /// By time: everything up to here is to be archived.
    fn set_target(&mut self, log: &mut Log, now_ns: u64) {
        if self.policy.seal_interval_ns == 0 || now_ns < self.seal.due_ns || self.seal.target.is_some() {
            return;
        }
        self.seal.due_ns = now_ns.saturating_add(self.policy.seal_interval_ns);
        let head = log.commit_lsn();
        if self.archived_to(log) < head {
            self.seal.target = Some(head);
            log.close_up_to(head);
            log.request_stable(head);
        }
    }

    fn submit_increment(&mut self, log: &Log) -> usize {
        let Some(target) = self.seal.target else { return 0 };
        let Some(sequence) = log.current_sequence() else { return 0 };
        let under_way = self
            .flights
            .values()
            .any(|flight| matches!(flight, Flight::Job { id, .. } if id.sequence == sequence));
        if under_way
            || log.stable_lsn() < target
            || log.geometry().sequence_of(Lsn(target.0.saturating_sub(1))) != sequence
        {
            return 0;
        }
        let epoch = log.table().get(sequence).map(|segment| segment.epoch);
        let last = self
            .objects
            .parts(sequence)
            .last()
            .filter(|part| Some(part.epoch) == epoch)
            .map(|part| part.to_lsn);
        let from = last.unwrap_or(log.geometry().first_lsn(sequence));
        let (units, to) = log.current_units(from, target);
        if to <= from || units.is_empty() {
            return 0;
        }
        self.send_job(log, sequence, Some((from, to)), Arc::new(units));
        1
    }

    fn reach_target(&mut self, log: &Log) {
        if let Some(target) = self.seal.target
            && self.archived_to(log) >= target
        {
            self.seal.target = None;
            for waiter in self.seal.waiters.drain(..) {
                waiter.wake();
            }
        }
    }

    pub(super) fn job_done(
        &mut self,
        id: ObjectId,
        holes: &[LsnRange],
        archived: Archived,
        state: &mut State,
        log: &mut Log,
    ) {
        for hole in holes {
            state.note_problem(format!(
                "segment {}: the entries of LSN {} to {} could not be read when it was archived; points whose past lies there are not certain",
                id.sequence, hole.start, hole.end
            ));
        }
        if archived.bad_blocks > 0 {
            log.note_problem(
                id.sequence,
                format!("{} of its blocks were damaged when it was archived", archived.bad_blocks),
            );
        }
        self.retry_wait_ns = RETRY_FIRST_NS;
        self.cause = None;
        self.recent.note(log.environment().clock.monotonic_ns(), &archived);
        if self.problem.is_some() {
            tracing::warn!(object = id.sequence.0, "the archive works again");
            self.tell_no_more(state);
        }
        self.objects.insert(id);
        self.source_failures.remove(&id.sequence);
        if id.whole {
            log.note_archived(id.sequence);
            if self.lost.found(id.sequence) {
                self.tell_lost(state, log);
            }
            // Increments may know what the whole could not be told: then they stay.
            let mut increments = Vec::new();
            if holes.is_empty() {
                increments = self.objects.take_increments(id.sequence);
                increments.extend(self.unverified.remove(&id.sequence).unwrap_or_default());
            }
            note_verified(state, log);
            if !increments.is_empty() {
                let token = self.token();
                self.flights.insert(token, Flight::Delete);
                self.send(Request::Delete { token, ids: increments });
            }
        }
        self.reach_target(log);
    }

    pub(super) fn job_failed(
        &mut self,
        id: ObjectId,
        error: &ArchiveError,
        state: &mut State,
        log: &mut Log,
    ) {
        for waiter in self.seal.waiters.drain(..) {
            waiter.wake();
        }
        let now_ns = log.environment().clock.monotonic_ns();
        self.retry_at_ns = now_ns.saturating_add(self.retry_wait_ns);
        self.retry_wait_ns = (self.retry_wait_ns * 2).min(RETRY_LAST_NS);
        if matches!(error, ArchiveError::Source { .. }) {
            let failures = self.source_failures.entry(id.sequence).or_default();
            *failures += 1;
            // Nothing of it can be read: what can is put, see `accept_lost`.
            if *failures >= SOURCE_FAILURES_MAX && id.whole {
                // It will not get better; the rest of the log must not wait for it.
                let geometry = log.geometry();
                self.note_gap(log, id.sequence);
                let start = geometry.first_lsn(id.sequence);
                let gap = LsnRange { start, end: geometry.first_lsn(id.sequence.next()) };
                record_gap(gap, "the primary device gives nothing of it", state, log);
                log.note_archived(id.sequence);
                return;
            }
        }
        self.cause = Some(error.to_string());
        self.tell_failure(now_ns, state);
        if matches!(error, ArchiveError::Overtaken { .. }) {
            Self::overtaken(error, state, log);
        }
    }

    /// Somebody else goes on with this history: what hosts write here from now on would be lost to
    /// them. So nothing is taken any more.
    pub(super) fn overtaken(error: &ArchiveError, state: &mut State, log: &mut Log) {
        let reason = format!(
            "{error}, by a recovery or a fork, and goes on with this pool: no writes are taken here any more, reads go on. \
             Ways out: move the hosts to where the pool is served now; or stop, and serve this copy with --fork, \
             as a history of its own that takes the archive back"
        );
        state.take_no_more_writes(log, reason);
    }
}

impl Pool {
    /// Begins to archive everything up to now, at once also when a failure is being waited out; the position. Copies that nobody waits for are left out.
    ///
    /// # Errors
    /// The pool has no archive.
    pub fn begin_seal(&self) -> Result<Lsn, VolumeError> {
        let mut state = self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        let Some(archive) = &mut state.archive else { return Err(no_archive()) };
        archive.check_reached()?;
        let head = log.commit_lsn();
        log.close_up_to(head);
        log.request_stable(head);
        archive.seal.target = Some(head);
        archive.retry_at_ns = 0;
        Ok(head)
    }

    /// Archives everything up to now; returns when it is in the store, with the position.
    ///
    /// # Errors
    /// The pool has no archive, or failed; the store failed a few times; history got a gap meanwhile.
    pub async fn seal_archive(self: Rc<Self>) -> Result<Lsn, VolumeError> {
        let target = self.begin_seal()?;
        let (failures, gaps) = {
            let state = self.state.borrow();
            let archive = state.archive.as_ref().ok_or_else(no_archive)?;
            (archive.service.stats().failures, state.catalog.gaps.last().copied())
        };
        std::future::poll_fn(|context| {
            let mut state = self.state.borrow_mut();
            let log = self.log.borrow();
            if let Some(reason) = log.poisoned() {
                return Poll::Ready(Err(VolumeError::Failed { reason: reason.to_string() }));
            }
            if let Some(gap) = state.catalog.gaps.last().filter(|gap| Some(**gap) != gaps && gap.start < target) {
                let reason = format!(
                    "history has got a gap at LSN {} to {}: what was to be archived left the primary device before that",
                    gap.start, gap.end
                );
                return Poll::Ready(Err(VolumeError::Busy { reason }));
            }
            let Some(archive) = &mut state.archive else { return Poll::Ready(Err(no_archive())) };
            if archive.archived_to(&log) >= target {
                return Poll::Ready(Ok(target));
            }
            if archive.service.stats().failures >= failures + FAILURES_TOLD
                && let Some(problem) = &archive.problem
            {
                return Poll::Ready(Err(VolumeError::Busy { reason: problem.clone() }));
            }
            archive.seal.waiters.push(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Whether nothing of a segment is to be archived any more: it was, it is gone, or the device has lost it, which is a recorded gap.
fn is_past_archiving(segment: &Segment) -> bool {
    segment.archived || segment.phase == Phase::Released || segment.slot.is_none()
}

/// What an object of a whole segment is named.
fn whole_id(log: &Log, sequence: SegmentSeq, segment: &Segment, claim: ClaimId) -> ObjectId {
    ObjectId {
        pool: log.pool(),
        epoch: segment.epoch,
        sequence,
        from_lsn: log.geometry().first_lsn(sequence),
        to_lsn: segment.end_lsn,
        whole: true,
        claim,
    }
}

/// The units of an object, and what they do not tell of. Units that are no records in order are worth nothing, whatever checksum they had: all is unknown then.
fn with_holes(
    id: &ObjectId,
    segment_blocks: u64,
    units: Arc<Vec<TrailerUnit>>,
) -> (Arc<Vec<TrailerUnit>>, Vec<LsnRange>) {
    match holes_of(id, segment_blocks, &units) {
        Ok(holes) => (units, holes),
        Err(damage) => {
            tracing::error!(sequence = id.sequence.0, %damage, "the entries of a segment make no sense; it is archived without them");
            let all = LsnRange { start: id.first_record_lsn(segment_blocks), end: id.to_lsn };
            (Arc::default(), if all.start < all.end { vec![all] } else { Vec::new() })
        }
    }
}

/// Has the catalog know how far the archive is verified; it stands at the start of the next segment.
fn note_verified(state: &mut State, log: &mut Log) {
    let mut below = state.catalog.archived_below.max(log.table().oldest());
    while log.table().get(below).is_some_and(is_past_archiving) {
        below = below.next();
    }
    if below > state.catalog.archived_below {
        state.catalog.archived_below = below;
        if let Err(error) = state.publish_catalog(log) {
            tracing::warn!(%error, "the catalog cannot tell how far the archive is");
        }
    }
}

impl State {
    /// Has the catalog know that nothing from `first` on is verified in the archive, now if there is room, and at the start of the next segment at the latest: what is put again and not verified yet must not count after
    /// another start.
    pub(super) fn distrust_archive(&mut self, log: &mut Log, first: SegmentSeq) {
        let mut catalog = self.catalog.clone();
        catalog.archived_below = first;
        match self.append_catalog(log, catalog) {
            Ok(lsn) => log.request_stable(lsn.plus(1)),
            Err(error) => {
                tracing::warn!(%error, "the catalog tells with the next segment that the archive has lost something");
                self.catalog.archived_below = first;
                // It is as large as the one before.
                let _ = self.publish_catalog(log);
            }
        }
    }
}

/// The pool has no archive.
pub(super) fn no_archive() -> VolumeError {
    VolumeError::Busy { reason: "the pool has no archive; start it with --archive DIRECTORY".to_owned() }
}
