//! The progress of sealing: which segment is archived next, what must be archived soon, and what
//! was read for that.
//!
//! **Invariants.** No segment before `next` needs to be archived. At most one segment is being
//! read. A task that waits is woken when the target is reached, and when a job fails.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::retries::Retries;
use crate::archive::object::ObjectId;
use crate::log::format::TrailerUnit;
use crate::log::load::load_segment;
use crate::log::reader::{ReadError, SegmentEntries};
use crate::log::table::{Phase, Segment};
use crate::log::{Log, Lsn, SegmentSeq, SharedLog};

/// How many times an unreadable segment is tried before its history is given up.
pub(super) const SOURCE_FAILURES_MAX: u32 = 6;

type Loading = Pin<Box<dyn Future<Output = Result<SegmentEntries, ReadError>>>>;

/// The progress of sealing. See the module's documentation.
#[derive(Default)]
pub(super) struct Sealing {
    /// No segment before this one needs to be archived.
    next: SegmentSeq,
    /// The read of the units of a segment that is no longer in memory.
    loading: Option<(SegmentSeq, Loading)>,
    loaded: HashMap<SegmentSeq, Arc<Vec<TrailerUnit>>>,
    /// Segments whose entries could not be read, and how many times that was tried.
    load_failures: HashMap<SegmentSeq, u32>,
    /// When the next part is due, by the clock of spans.
    due_ns: u64,
    /// Everything before this position must be archived as soon as it is stable.
    target: Option<Lsn>,
    /// The first segment of the newest run of gaps, and when it was opened.
    gap: Option<(SegmentSeq, u64)>,
    /// Tasks that wait for `target`.
    waiters: Vec<Waker>,
    /// Parts of segments on the primary device that are not known to be verified; they are
    /// deleted when the whole segment is archived.
    unverified: HashMap<SegmentSeq, Vec<ObjectId>>,
}

impl Sealing {
    /// Checks the segments from here on, and none before.
    pub(super) fn begin_at(&mut self, sequence: SegmentSeq) {
        self.next = sequence;
    }

    /// Checks the segments from here on again: one of them is not in the archive after all.
    pub(super) fn begin_again(&mut self, sequence: SegmentSeq) {
        self.next = self.next.min(sequence);
    }

    /// Passes over the segments that need no archiving any more. Returns the first that may.
    pub(super) fn skip_past(&mut self, log: &Log) -> SegmentSeq {
        while log.table().get(self.next).is_some_and(is_past_archiving) {
            self.next = self.next.next();
        }
        self.next = self.next.max(log.table().oldest());
        self.next
    }

    /// The first segment that still needs to be archived, or the one after the last.
    pub(super) fn first_unarchived(&self, log: &Log) -> SegmentSeq {
        // A segment that left the table before it was checked again is recorded as a gap.
        let mut sequence = self.next.max(log.table().oldest());
        while log.table().get(sequence).is_some_and(is_past_archiving) {
            sequence = sequence.next();
        }
        sequence
    }

    /// The first segment of the newest run of gaps, and when it was opened.
    pub(super) fn gap(&self) -> Option<(SegmentSeq, u64)> {
        self.gap
    }

    /// Notes that a segment leaves the primary device without having been archived.
    pub(super) fn note_gap(&mut self, log: &Log, sequence: SegmentSeq) {
        let working_set = log.geometry().working_set;
        let goes_on = self.gap.is_some_and(|(first, _)| sequence.0 <= first.0 + working_set + 1);
        if !goes_on && let Some(segment) = log.table().get(sequence) {
            self.gap = Some((sequence, segment.opened_ns));
        }
    }

    /// Stores the parts of a segment that are not known to be verified.
    pub(super) fn set_aside(&mut self, sequence: SegmentSeq, parts: Vec<ObjectId>) {
        self.unverified.insert(sequence, parts);
    }

    /// Takes the parts of a segment that are not known to be verified.
    pub(super) fn take_aside(&mut self, sequence: SegmentSeq) -> Vec<ObjectId> {
        self.unverified.remove(&sequence).unwrap_or_default()
    }
}

impl Sealing {
    /// The units of a sealed segment; `None` while they are being read.
    pub(super) fn units_of(
        &mut self,
        log: &Log,
        shared: &SharedLog,
        sequence: SegmentSeq,
    ) -> Option<Arc<Vec<TrailerUnit>>> {
        if let Some(units) = log.units_in_memory(sequence).or_else(|| self.loaded.remove(&sequence)) {
            return Some(units);
        }
        if self.loading.is_none() {
            let shared = Rc::clone(shared);
            let future = async move { load_segment(&shared, sequence).await };
            self.loading = Some((sequence, Box::pin(future)));
        }
        None
    }

    /// Runs the read of a segment. It borrows the log itself, so it is polled separately. Returns
    /// how much was done.
    pub(super) fn poll_loading(&mut self, shared: &SharedLog, retries: &mut Retries) -> usize {
        let Some((sequence, future)) = &mut self.loading else { return 0 };
        let mut context = Context::from_waker(Waker::noop());
        match future.as_mut().poll(&mut context) {
            Poll::Pending => 0,
            Poll::Ready(result) => {
                let sequence = *sequence;
                self.loading = None;
                self.take_loaded(sequence, result, &shared.borrow(), retries);
                1
            }
        }
    }

    /// Takes the entries of a segment that were read. Ranges that could not be read are holes, and
    /// become holes of the object; nothing is left out silently. If nothing at all can be read, it
    /// is tried again while the device may recover. After that everything is a hole, and only the
    /// blocks are archived.
    fn take_loaded(
        &mut self,
        sequence: SegmentSeq,
        result: Result<SegmentEntries, ReadError>,
        log: &Log,
        retries: &mut Retries,
    ) {
        let entries = match result {
            Ok(entries) => entries,
            Err(error) => {
                let failures = self.load_failures.entry(sequence).or_default();
                // A lack of memory passes; a device failure may not.
                *failures += u32::from(!matches!(error, ReadError::Memory(_)));
                retries.pause(log.environment().clock.monotonic_ns());
                if *failures < SOURCE_FAILURES_MAX {
                    tracing::warn!(%sequence, %error, "the entries of a segment cannot be read to archive it; it is tried again");
                    return;
                }
                tracing::error!(%sequence, %error, "the entries of a segment cannot be read; it is archived without them");
                SegmentEntries::default()
            }
        };
        self.load_failures.remove(&sequence);
        self.loaded.insert(sequence, Arc::new(entries.into_units()));
    }
}

impl Sealing {
    /// Everything before this position must be archived as soon as it is stable.
    pub(super) fn target(&self) -> Option<Lsn> {
        self.target
    }

    /// Sets the target.
    pub(super) fn aim_at(&mut self, head: Lsn) {
        self.target = Some(head);
    }

    /// Whether the time-based part is due; if so, the next one is due after `interval_ns`.
    /// Never with an interval of 0, nor while there is a target.
    pub(super) fn is_due(&mut self, interval_ns: u64, now_ns: u64) -> bool {
        if interval_ns == 0 || now_ns < self.due_ns || self.target.is_some() {
            return false;
        }
        self.due_ns = now_ns.saturating_add(interval_ns);
        true
    }

    /// Notes that the target is reached, and wakes the tasks.
    pub(super) fn end_target(&mut self) {
        self.target = None;
        self.wake_all();
    }

    /// Wakes a task when sealed data has been archived, or a job has failed.
    pub(super) fn wake_when_sealed(&mut self, waker: Waker) {
        self.waiters.push(waker);
    }

    /// Wakes the tasks.
    pub(super) fn wake_all(&mut self) {
        for waiter in self.waiters.drain(..) {
            waiter.wake();
        }
    }
}

/// Whether nothing more of a segment will be archived: it was archived, it is gone, or the device
/// has lost it, which is a recorded gap.
pub(super) fn is_past_archiving(segment: &Segment) -> bool {
    segment.archived || segment.phase == Phase::Released || segment.slot.is_none()
}
