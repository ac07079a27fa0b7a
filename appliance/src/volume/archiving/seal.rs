//! When data is archived: whole segments after they are sealed, parts of the current one by
//! time or by command.

use std::rc::Rc;
use std::sync::Arc;

use super::PoolSide;
use super::flights::Flight;
use super::sealing::{SOURCE_FAILURES_MAX, is_past_archiving};
use super::state::Archive;
use crate::archive::object::{ClaimId, ObjectId, holes_of};
use crate::archive::service::{ArchiveError, ArchiveJob, ArchiveRequest, Archived};
use crate::log::format::TrailerUnit;
use crate::log::reader::LsnRange;
use crate::log::table::Segment;
use crate::log::{Log, Lsn, SegmentSeq};

/// A segment that the device can read only in part is archived in part after this many tries; until
/// then the device may recover.
const PARTLY_FAILURES_MAX: u32 = 2;

impl Archive {
    /// Starts the jobs that are due. Returns how much was done.
    pub(super) fn submit_jobs(&mut self, log: &mut Log, now_ns: u64) -> usize {
        let mut work = 0;
        self.set_target(log, now_ns);
        if self.retries.is_pausing(now_ns) {
            return work;
        }
        let mut sequence = self.seal.skip_past(log);
        while self.flights.has_room() {
            let Some(segment) = log.table().get(sequence) else { break };
            if !segment.sealed {
                break;
            }
            if !segment.archived && segment.slot.is_some() && !self.flights.holds_whole(sequence) {
                // Until the next segment's header is stable, a loss of power may take the trailer,
                // and the log would continue in this segment. The uploaded object would then not be
                // the whole segment.
                let next = sequence.next();
                let next_begun = log.geometry().first_lsn(next).plus(1);
                if log.table().get(next).is_some() && log.stable_lsn() < next_begun {
                    log.request_stable(next_begun);
                    break;
                }
                let shared = Rc::clone(self.log());
                let Some(units) = self.seal.units_of(log, &shared, sequence) else { break };
                self.send_job(log, sequence, None, units);
                work += 1;
            }
            sequence = sequence.next();
        }
        if self.flights.has_room() {
            work += self.submit_part(log);
        }
        self.reach_target(log);
        work
    }

    /// Archives everything before `head` as soon as it is stable, and at once even if a pause after
    /// a failure has not ended.
    pub(super) fn seal_up_to(&mut self, head: Lsn) {
        self.seal.aim_at(head);
        self.retries.go_on_now();
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
        let whole = whole_id(log, sequence, segment, self.claim());
        let id = match range {
            Some((from_lsn, to_lsn)) => ObjectId { from_lsn, to_lsn, whole: false, ..whole },
            None => whole,
        };
        let (units, holes) = with_holes(&id, geometry.segment_blocks, units);
        let token = self.requests.token();
        let job = ArchiveJob {
            token,
            id,
            segment_blocks: geometry.segment_blocks,
            device_block: geometry.slot_block(slot) + geometry.offset_of(id.from_lsn),
            opened_ns: segment.opened_ns,
            sealed_ns: log.now_ns(),
            units,
            holes,
            accept_lost: self.retries.source_failures(sequence) >= PARTLY_FAILURES_MAX,
        };
        self.flights.begin(token, Flight { id, holes: job.holes.clone() });
        self.requests.send(ArchiveRequest::Archive(job));
    }

    /// Sets the target of the time-based part: everything up to here must be archived.
    fn set_target(&mut self, log: &mut Log, now_ns: u64) {
        if !self.seal.is_due(self.policy().seal_interval_ns, now_ns) {
            return;
        }
        let head = log.commit_lsn();
        if self.archived_to(log) < head {
            self.seal.aim_at(head);
            log.close_up_to(head);
            log.request_stable(head);
        }
    }

    fn submit_part(&mut self, log: &Log) -> usize {
        let Some(target) = self.seal.target() else { return 0 };
        let Some(sequence) = log.current_sequence() else { return 0 };
        if self.flights.holds(sequence)
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
        if self.seal.target().is_some_and(|target| self.archived_to(log) >= target) {
            self.seal.end_target();
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
        self.retries.note_success(id.sequence);
        self.reported.note_cause(None);
        self.recent.note(log.environment().clock.monotonic_ns(), &archived);
        if self.reported.tell_no_more(side.problems) {
            tracing::warn!(object = id.sequence.0, "the archive works again");
        }
        self.objects.insert(id);
        if id.whole {
            log.note_archived(id.sequence);
            if self.lost.found(id.sequence) {
                self.tell_lost(side, log);
            }
            // If the whole object has holes, the parts may contain the missing entries, so
            // they stay.
            let mut parts = Vec::new();
            if holes.is_empty() {
                parts = self.objects.take_parts(id.sequence);
                parts.extend(self.seal.take_aside(id.sequence));
            }
            let below = verified_below(side, log);
            side.note_verified(log, below);
            if !parts.is_empty() {
                let token = self.requests.token();
                self.requests.send(ArchiveRequest::Delete { token, ids: parts });
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
        self.seal.wake_all();
        let now_ns = log.environment().clock.monotonic_ns();
        self.retries.pause(now_ns);
        if matches!(error, ArchiveError::Source { .. }) {
            let failures = self.retries.note_source_failure(id.sequence);
            // This error means that nothing of it can be read; a readable part is uploaded, see
            // `accept_lost`.
            if failures >= SOURCE_FAILURES_MAX && id.whole {
                // It will not recover, and the rest of the log must not wait for it.
                let geometry = log.geometry();
                self.seal.note_gap(log, id.sequence);
                let start = geometry.first_lsn(id.sequence);
                let gap = LsnRange { start, end: geometry.first_lsn(id.sequence.next()) };
                side.record_gap(log, gap, "the primary device gives nothing of it");
                log.note_archived(id.sequence);
                return;
            }
        }
        self.reported.note_cause(Some(error.to_string()));
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
