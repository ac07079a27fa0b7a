//! The state of a pool's archive: a short list of parts.
//!
//! **Invariant:** a part owns its fields, and only its own file writes them.

use super::alarm::Alarm;
use super::anchoring::{AnchorSide, Anchoring};
use super::anchors::{Anchors, KnownAnchor};
use super::away::{Away, stand_in};
use super::flights::Flights;
use super::losses::Lost;
use super::objects::{KnownObjects, Objects, SegmentObjects};
use super::policy::{AnchorPolicy, ArchivePolicy};
use super::rate::Recent;
use super::receivers::{ReadReply, Receivers};
use super::reported::ReportedProblem;
use super::requests::Requests;
use super::retries::Retries;
use super::sealing::Sealing;
use super::side::PoolSide;
use super::throttle::{Client, Throttle};
use crate::archive::object::{ClaimId, ObjectId};
use crate::archive::service::{
    ArchiveError, ArchiveRequest, ArchiveService, BlocksCache, EntriesCache, StoredAnchor, VerifyPolicy,
};
use crate::archive::store::Store;
use crate::log::{Log, Lsn, SegmentSeq, SharedLog};
use crate::volume::catalog::Catalog;
use crate::volume::error::VolumeError;
use crate::volume::image::volumes::Volumes;

/// A pool's archive. See the documentation of the folder's module.
pub(in crate::volume) struct Archive {
    /// The requests to the archive's threads.
    pub(super) requests: Requests,
    /// Who receives the replies.
    pub(super) receivers: Receivers,
    /// The objects that are being archived.
    pub(super) flights: Flights,
    /// The objects in the store.
    pub(super) objects: Objects,
    /// The objects that should be there and are not.
    pub(super) lost: Lost,
    /// The anchors in the store.
    pub(super) anchors: Anchors,
    /// The anchors that are being made.
    anchoring: Anchoring,
    /// Entries that were read back.
    pub(super) entries: EntriesCache,
    /// Blocks that were read back.
    pub(super) blocks: BlocksCache,
    /// The progress of sealing.
    pub(super) seal: Sealing,
    /// The pauses after failures.
    pub(super) retries: Retries,
    /// The reported problem.
    pub(super) reported: ReportedProblem,
    /// The speed of the archivist.
    pub(super) recent: Recent,
    /// The delays of hosts' writes.
    pub(super) throttle: Throttle,
    /// The alarm for a recovery point that is too old.
    pub(super) alarm: Alarm,
    /// Set while this only replaces an archive that has not been reached.
    away: Option<Away>,
    /// Used to read the entries of segments that wait for their job.
    log: SharedLog,
    policy: ArchivePolicy,
    /// The claim under which new objects are uploaded.
    claim: ClaimId,
    /// Since when writes have been waiting for a slot.
    waiting_since_ns: Option<u64>,
}

impl Archive {
    pub(super) fn new(
        service: Box<dyn ArchiveService>,
        log: SharedLog,
        policy: ArchivePolicy,
        known: KnownObjects,
    ) -> Self {
        let (objects, lost, claim, anchors) = known.into_parts();
        Archive {
            requests: Requests::new(service),
            receivers: Receivers::default(),
            flights: Flights::default(),
            objects,
            lost,
            anchors,
            anchoring: Anchoring::default(),
            entries: EntriesCache::new(policy.entries_cache_bytes),
            blocks: BlocksCache::new(policy.blocks_cache_bytes),
            seal: Sealing::default(),
            retries: Retries::default(),
            reported: ReportedProblem::default(),
            recent: Recent::default(),
            throttle: Throttle::default(),
            alarm: Alarm::default(),
            away: None,
            log,
            policy,
            claim,
            waiting_since_ns: None,
        }
    }

    /// A stand-in for the archive at `store`. `lost_on_device`: segments that the device had lost
    /// at the start.
    pub(super) fn stand_in(
        store: &str,
        verify: VerifyPolicy,
        log: SharedLog,
        policy: ArchivePolicy,
        lost_on_device: Vec<SegmentSeq>,
    ) -> Self {
        let mut archive = Archive::new(stand_in(store, verify), log, policy, KnownObjects::default());
        archive.away = Some(Away::new(lost_on_device));
        archive
    }

    /// Its threads, and what is known of its store.
    pub(super) fn into_parts(self) -> (Box<dyn ArchiveService>, KnownObjects) {
        (self.requests.into_service(), KnownObjects::new(self.objects, self.lost, self.claim, self.anchors))
    }

    /// The log of the pool.
    pub(super) fn log(&self) -> &SharedLog {
        &self.log
    }

    /// How it is used.
    pub(super) fn policy(&self) -> ArchivePolicy {
        self.policy
    }

    /// The claim under which new objects are uploaded.
    pub(super) fn claim(&self) -> ClaimId {
        self.claim
    }

    /// The object that holds a position.
    pub(in crate::volume) fn object_of(&self, sequence: SegmentSeq, lsn: Lsn) -> Option<ObjectId> {
        self.objects.object_of(sequence, lsn)
    }

    /// The objects that hold a segment, in order.
    pub(in crate::volume) fn parts(&self, sequence: SegmentSeq) -> Vec<ObjectId> {
        self.objects.parts(sequence)
    }

    /// The position up to which a segment is covered without a hole.
    pub(in crate::volume) fn covered(&self, sequence: SegmentSeq) -> Option<Lsn> {
        self.objects.covered(sequence)
    }

    /// Whether it has any object of a segment.
    pub(in crate::volume) fn has_any(&self, sequence: SegmentSeq) -> bool {
        self.objects.holds(sequence)
    }

    /// The anchors of an image after `above`, and at or before `up_to`, newest first.
    pub(in crate::volume) fn anchors_of(
        &self,
        image: u32,
        above: Lsn,
        up_to: Lsn,
    ) -> impl Iterator<Item = KnownAnchor> {
        self.anchors.of(image, above, up_to)
    }

    /// Whether one object contains the whole segment.
    pub(in crate::volume) fn is_whole(&self, sequence: SegmentSeq) -> bool {
        self.objects.get(sequence).is_some_and(SegmentObjects::is_whole)
    }

    /// The replies for hosts' reads that have arrived; return the list with
    /// [`keep_for_reads`](Self::keep_for_reads).
    pub(in crate::volume) fn take_for_reads(&mut self) -> Vec<ReadReply> {
        self.receivers.take_for_reads()
    }

    /// Keeps the memory of an empty list for the next replies.
    pub(in crate::volume) fn keep_for_reads(&mut self, list: Vec<ReadReply>) {
        self.receivers.keep_for_reads(list);
    }

    /// Runs the read of a segment that waits for its job. It borrows the log itself, so it is
    /// polled separately.
    pub(super) fn poll_loading(&mut self) -> usize {
        self.seal.poll_loading(&self.log, &mut self.retries)
    }
}

impl Archive {
    /// One turn of making and deleting anchors. Returns how much was done.
    pub(in crate::volume) fn turn_anchors(
        &mut self,
        volumes: &Volumes,
        catalog: &Catalog,
        log: &mut Log,
    ) -> usize {
        if self.policy.anchors == AnchorPolicy::Never {
            return 0;
        }
        let doomed = self.anchors.take_doomed();
        if !doomed.is_empty() {
            let token = self.requests.token();
            self.requests.send(ArchiveRequest::DeleteAnchors { token, names: doomed });
            return 1;
        }
        let store = self.requests.service().store();
        let Some(interval) =
            self.policy.anchors.interval(&log.geometry()).filter(|_| holds_anchors(&**store))
        else {
            return 0;
        };
        let now_ns = log.environment().clock.monotonic_ns();
        let mut side = AnchorSide {
            may_store: self.flights.has_room() && !self.retries.is_pausing(now_ns),
            requests: &mut self.requests,
            anchors: &mut self.anchors,
            claim: self.claim,
            interval,
            is_left_out: &|name| {
                catalog.volume(name).is_some_and(|volume| catalog.session_of(volume.uuid).is_some())
            },
        };
        self.anchoring.turn(&mut side, volumes, log)
    }

    /// Takes the reply for an object of an anchor.
    ///
    /// # Errors
    /// It could not be stored.
    pub(super) fn anchor_stored(
        &mut self,
        token: u64,
        result: Result<StoredAnchor, ArchiveError>,
    ) -> Result<(), ArchiveError> {
        self.anchoring.stored(token, result, &mut self.anchors)
    }
}

/// Whether a store can hold anchors: any part of them is read alone, and they are deleted again.
fn holds_anchors(store: &dyn Store) -> bool {
    let can = store.capabilities();
    can.random_access && can.reclaims_space && !can.sequential_only
}

impl Archive {
    /// Notes that writes wait for a slot. Returns since when.
    pub(super) fn note_waiting(&mut self, now_ns: u64) -> u64 {
        *self.waiting_since_ns.get_or_insert(now_ns)
    }

    /// Notes that no write waits for a slot.
    pub(super) fn note_not_waiting(&mut self) {
        self.waiting_since_ns = None;
    }

    /// Whether writes have waited too long for a slot and are refused now.
    pub(in crate::volume) fn refuses_writes(&self, now_ns: u64) -> bool {
        self.waiting_since_ns.is_some_and(|since| now_ns.saturating_sub(since) > self.policy.wait_ns)
    }

    /// Whether a host's command that appends must wait for a later turn because the archive is
    /// behind.
    pub(in crate::volume) fn holds_back(&mut self, log: &Log, client: Client) -> bool {
        // If it waits for a slot, the log itself reports that.
        self.waiting_since_ns.is_none() && self.throttle.holds(log, client)
    }

    /// Notes that a host's command has appended `blocks` blocks.
    pub(in crate::volume) fn note_appended(&mut self, log: &Log, client: Client, blocks: u64) {
        self.throttle.charge(log, client, blocks);
    }

    /// Reports that the store fails, or that writes are refused, with the cause.
    pub(super) fn tell_failure(&mut self, now_ns: u64, side: &mut PoolSide<'_>) {
        let refuses_writes = self.refuses_writes(now_ns);
        self.reported.tell_failure(refuses_writes, side.problems);
    }
}

impl Archive {
    /// Whether it has not been reached since the start.
    pub(in crate::volume) fn is_away(&self) -> bool {
        self.away.is_some()
    }

    /// Checks that the content of the archive is known.
    ///
    /// # Errors
    /// It has not been reached since the start.
    pub(super) fn check_reached(&self) -> Result<(), VolumeError> {
        if !self.is_away() {
            return Ok(());
        }
        // The reported problem says why.
        let reason = format!("{} was not reached since the start", self.requests.service().store().label());
        Err(VolumeError::ArchiveAway { reason })
    }

    /// Reports why it is away, in place of the previous report.
    pub(super) fn tell_away(&mut self, why: String, side: &mut PoolSide<'_>, log: &Log) {
        if !self.is_away() {
            return;
        }
        self.reported.note_cause(Some(why));
        self.tell_failure(log.environment().clock.monotonic_ns(), side);
    }

    /// The segments that the primary device had lost when the pool was opened.
    pub(super) fn take_lost_on_device(&mut self) -> Vec<SegmentSeq> {
        self.away.as_mut().map(Away::take_lost_on_device).unwrap_or_default()
    }
}
