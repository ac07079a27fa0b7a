//! When data is archived: whole segments after they are sealed, increments of the current one by
//! time or by command.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::objects::SegmentObjects;
use super::{Archive, Flight, JOBS_MAX, PoolSide, RETRY_FIRST_NS, RETRY_LAST_NS};
use crate::archive::object::{ClaimId, ObjectId, holes_of};
use crate::archive::retention::SegmentRange;
use crate::archive::service::{ArchiveError, ArchiveJob, Archived, Request};
use crate::log::format::TrailerUnit;
use crate::log::load::load_segment;
use crate::log::reader::{LsnRange, ReadError, SegmentEntries};
use crate::log::table::{Phase, Segment};
use crate::log::{Log, Lsn, SegmentSeq};
use crate::volume::catalog::{Catalog, reach};

/// How many times an unreadable segment is tried before its history is given up.
const SOURCE_FAILURES_MAX: u32 = 6;

/// A segment that the device can read only in part is archived in part after this many tries; until
/// then the device may recover.
const PARTLY_FAILURES_MAX: u32 = 2;

type Loading = Pin<Box<dyn Future<Output = Result<SegmentEntries, ReadError>>>>;

/// The progress of sealing.
#[derive(Default)]
pub(super) struct Sealing {
    /// No segment before this one needs to be archived.
    next: SegmentSeq,
    /// The read of the units of a segment that is no longer in memory.
    loading: Option<(SegmentSeq, Loading)>,
    loaded: HashMap<SegmentSeq, Arc<Vec<TrailerUnit>>>,
    /// Segments whose entries could not be read, and how many times that was tried.
    load_failures: HashMap<SegmentSeq, u32>,
    /// When the next increment is due, by the clock of spans.
    due_ns: u64,
    /// Everything before this position must be archived as soon as it is stable.
    target: Option<Lsn>,
    /// The first segment of the newest run of gaps, and when it was opened.
    gap: Option<(SegmentSeq, u64)>,
    /// Tasks that wait for `target`.
    waiters: Vec<Waker>,
}

impl Sealing {
    /// Checks the segments from here on again: one of them is not in the archive after all.
    pub(super) fn begin_again(&mut self, sequence: SegmentSeq) {
        self.next = self.next.min(sequence);
    }
}

impl Archive {
    /// Marks what is already archived: objects before `trusted` were verified, and are never
    /// uploaded again. An object after `trusted`, which is the last segment that the catalog knows
    /// to be verified, may be one whose verification a crash interrupted: its job runs again, which
    /// finds and verifies it.
    ///
    /// A segment before `trusted` without an object has expired, and only its slot returned after a
    /// crash. It must not be uploaded again: its object would exist before it is verified, and
    /// would count as verified after the next start. But if no object before `trusted` is newer,
    /// the store has lost it, because expiry keeps the newest. The function returns the first and
    /// the last of these lost segments: from the first on nothing is trusted, and the segments on
    /// the primary device are archived again.
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
                // The whole object, if there is one, can still be read: each of its blocks is
                // checked.
                let increments = self.objects.take_increments(sequence);
                self.unverified.insert(sequence, increments);
                continue;
            }
            // An object that the store is known to have lost has not expired.
            let is_lost = self.lost.contains(sequence);
            if !is_lost && newest_verified.is_some_and(|newest| sequence <= newest) {
                log.note_archived(sequence);
            } else {
                // The catalog may have been trusted while the archive was away.
                log.note_unarchived(sequence);
                let first = lost.map_or(sequence, |lost| lost.first);
                lost = Some(SegmentRange { first, last: sequence });
            }
        }
        lost
    }

    /// Segments that the device has lost, and that are not whole in the archive: nothing more of
    /// them can be archived. `before`: segments that were in this state when the pool was opened.
    /// Segments without live blocks before `trusted` were archived, and may have expired.
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

    /// The position up to which the log is in the archive, without a hole except for recorded gaps.
    pub(super) fn archived_to(&self, log: &Log) -> Lsn {
        let geometry = log.geometry();
        // A segment that left the table before it was checked again is recorded as a gap.
        let mut sequence = self.seal.next.max(log.table().oldest());
        while log.table().get(sequence).is_some_and(is_past_archiving) {
            sequence = sequence.next();
        }
        let first = geometry.first_lsn(sequence);
        match log.table().get(sequence) {
            // It contains only its header: a crash came before its first record.
            Some(segment) if segment.end_lsn <= first.plus(1) => segment.end_lsn,
            // For a segment that is not archived, its increments count.
            Some(segment) => self
                .objects
                .parts(sequence)
                .last()
                .filter(|part| part.epoch == segment.epoch && !part.whole)
                .map_or(first, |part| part.to_lsn),
            None => log.commit_lsn(),
        }
    }

    /// The position up to which a recovery from the archive alone would restore, if everything
    /// before `stored_to` is in it except for the recorded gaps: a point whose window has a gap
    /// cannot be restored.
    pub(super) fn recoverable_to(&self, catalog: &Catalog, log: &Log, stored_to: Lsn) -> Lsn {
        let geometry = log.geometry();
        let mut to = stored_to;
        while to > Lsn(0) {
            let last = geometry.sequence_of(Lsn(to.0 - 1));
            let working_set = reach(&catalog.working_sets, last).unwrap_or(geometry.working_set);
            let first = geometry.first_lsn(SegmentSeq(last.0.saturating_sub(working_set)));
            // Increments of a gap's first segment may have been archived before its slot was
            // reassigned.
            let gaps = catalog.gaps.iter().map(|gap| {
                let parts = self.objects.parts(geometry.sequence_of(gap.start));
                (parts.last().map_or(gap.start, |part| part.to_lsn.max(gap.start)), gap.end)
            });
            let within = gaps.filter(|&(start, end)| start < to && end > first.max(start));
            let Some(start) = within.map(|(start, _)| start).max() else { break };
            to = start;
        }
        to
    }

    /// The time of the first record after a position that is not recoverable, or when its segment
    /// was opened if the record is not in memory.
    pub(super) fn uncovered_since_ns(&self, log: &Log, from: Lsn) -> u64 {
        let sequence = log.geometry().sequence_of(from);
        if let Some(time_ns) = log.first_time_ns(sequence, from) {
            return time_ns;
        }
        match (log.table().get(sequence), self.seal.gap) {
            (_, Some((gap, opened_ns))) if gap == sequence => opened_ns,
            (Some(segment), _) if segment.end_lsn > from => segment.opened_ns,
            // Only what is still in the open record is missing.
            _ => log.last_time_ns(),
        }
    }

    /// Notes that a segment leaves the primary device without having been archived.
    pub(super) fn note_gap(&mut self, log: &Log, sequence: SegmentSeq) {
        let working_set = log.geometry().working_set;
        let goes_on = self.seal.gap.is_some_and(|(first, _)| sequence.0 <= first.0 + working_set + 1);
        if !goes_on && let Some(segment) = log.table().get(sequence) {
            self.seal.gap = Some((sequence, segment.opened_ns));
        }
    }

    /// Starts the jobs that are due. Returns how much was done.
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
                // Until the next segment's header is stable, a loss of power may take the trailer,
                // and the log would continue in this segment. The uploaded object would then not be
                // the whole segment.
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

    /// The units of a sealed segment; `None` while they are being read.
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

    /// Takes the entries of a segment that were read. Ranges that could not be read are holes, and
    /// become holes of the object; nothing is left out silently. If nothing at all can be read, it
    /// is tried again while the device may recover. After that everything is a hole, and only the
    /// blocks are archived.
    fn take_loaded(&mut self, sequence: SegmentSeq, result: Result<SegmentEntries, ReadError>, log: &Log) {
        let entries = match result {
            Ok(entries) => entries,
            Err(error) => {
                let failures = self.seal.load_failures.entry(sequence).or_default();
                // A lack of memory passes; a device failure may not.
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

    /// Archives everything before `head` as soon as it is stable, and at once even if a pause after
    /// a failure has not ended.
    pub(super) fn seal_up_to(&mut self, head: Lsn) {
        self.seal.target = Some(head);
        self.retry_at_ns = 0;
    }

    /// Wakes a task when sealed data has been archived, or a job has failed.
    pub(super) fn wake_when_sealed(&mut self, waker: Waker) {
        self.seal.waiters.push(waker);
    }

    /// Runs the read in [`Sealing::loading`]. It borrows the log itself, so it is polled
    /// separately.
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

    /// Sets the target of the time-based increment: everything up to here must be archived.
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
        side: &mut PoolSide<'_>,
        log: &mut Log,
    ) {
        for hole in holes {
            side.problems.note(format!(
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
            self.tell_no_more(side);
        }
        self.objects.insert(id);
        self.source_failures.remove(&id.sequence);
        if id.whole {
            log.note_archived(id.sequence);
            if self.lost.found(id.sequence) {
                self.tell_lost(side, log);
            }
            // If the whole object has holes, the increments may contain the missing entries, so
            // they stay.
            let mut increments = Vec::new();
            if holes.is_empty() {
                increments = self.objects.take_increments(id.sequence);
                increments.extend(self.unverified.remove(&id.sequence).unwrap_or_default());
            }
            let below = verified_below(side, log);
            side.note_verified(log, below);
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
        side: &mut PoolSide<'_>,
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
            // This error means that nothing of it can be read; a readable part is uploaded, see
            // `accept_lost`.
            if *failures >= SOURCE_FAILURES_MAX && id.whole {
                // It will not recover, and the rest of the log must not wait for it.
                let geometry = log.geometry();
                self.note_gap(log, id.sequence);
                let start = geometry.first_lsn(id.sequence);
                let gap = LsnRange { start, end: geometry.first_lsn(id.sequence.next()) };
                side.record_gap(log, gap, "the primary device gives nothing of it");
                log.note_archived(id.sequence);
                return;
            }
        }
        self.cause = Some(error.to_string());
        self.tell_failure(now_ns, side);
        if matches!(error, ArchiveError::Overtaken { .. }) {
            Self::overtaken(error, log);
        }
    }

    /// Another instance continues this history: writes that hosts make here from now on would be
    /// lost to it. So no more writes are accepted.
    pub(super) fn overtaken(error: &ArchiveError, log: &mut Log) {
        let reason = format!(
            "{error}, by a recovery or a fork, and goes on with this pool: no writes are taken here any more, reads go on. \
             Ways out: move the hosts to where the pool is served now; or stop, and serve this copy with --fork, \
             as a history of its own that takes the archive back"
        );
        log.give_up_to_owner(&reason);
    }
}

/// Whether nothing more of a segment will be archived: it was archived, it is gone, or the device
/// has lost it, which is a recorded gap.
fn is_past_archiving(segment: &Segment) -> bool {
    segment.archived || segment.phase == Phase::Released || segment.slot.is_none()
}

/// The id of the object of a whole segment.
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

/// The units of an object, and the ranges that they do not cover. If the units are not records in
/// order, they are useless, whatever checksum they had: everything is unknown.
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

/// The segment before which everything is verified in the archive, or is a gap.
fn verified_below(side: &PoolSide<'_>, log: &Log) -> SegmentSeq {
    let mut below = side.catalog.archived_below.max(log.table().oldest());
    while log.table().get(below).is_some_and(is_past_archiving) {
        below = below.next();
    }
    below
}
