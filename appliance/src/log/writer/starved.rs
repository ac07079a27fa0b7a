//! A device without room: a sparse file on a full file system.
//!
//! **No room is not a broken device.** A write that was refused for want of room comes again, the same bytes at the same place, until there is
//! room. Until then nothing new is submitted, so `written_lsn` stays in front of what was refused and nothing behind it is ever acknowledged before it.
//! Appends go on into memory up to the usual bound. A crash meanwhile is a crash with records in flight: whatever of them reached the
//! device in part is torn, and none of them was acknowledged.
//!
//! **States:** running → starved, with the first refusal → running, when the device has taken everything that it had refused. The tries are
//! apart by [`RETRY_NS`], doubled up to [`RETRY_MAX_NS`], and begin anew when something got through.
//!
//! A flush that fails poisons the log whatever its reason: what it should have made stable may be gone.

use std::rc::Rc;

use super::{Log, TAG_KIND_SHIFT, TAG_RECORD, TAG_TRAILER};
use crate::bdev::{BdevError, Command, Operation};
use crate::log::record::RecordState;

/// The first wait before what was refused is submitted again.
const RETRY_NS: u64 = 50_000_000;
/// The longest.
const RETRY_MAX_NS: u64 = 1_000_000_000;

/// A log that waits for room.
#[derive(Debug, Clone)]
pub struct Starved {
    /// Since when, on the monotonic clock.
    pub since_ns: u64,
    /// What the device said first.
    pub reason: Rc<str>,
    pub(super) retry_at_ns: u64,
    delay_ns: u64,
}

impl Log {
    /// Whether the log waits for room on the device, and since when.
    pub fn starved(&self) -> Option<&Starved> {
        self.starved.as_ref()
    }

    /// A write was refused for want of room.
    pub(super) fn note_no_room(&mut self, error: &BdevError) {
        let now_ns = self.environment.clock.monotonic_ns();
        if let Some(starved) = &mut self.starved {
            starved.retry_at_ns = now_ns + starved.delay_ns;
            return;
        }
        tracing::error!(pool = %self.pool, %error, "the device has no room; writes wait until it has");
        self.starved = Some(Starved {
            since_ns: now_ns,
            reason: Rc::from(error.to_string()),
            retry_at_ns: now_ns + RETRY_NS,
            delay_ns: RETRY_NS,
        });
    }

    /// Something that had been refused got through.
    pub(super) fn note_room(&mut self) {
        if let Some(starved) = &mut self.starved {
            starved.delay_ns = RETRY_NS;
        }
    }

    /// Submits again what was refused, when it is time. Returns how much was submitted, or 1 when the log runs again.
    pub(super) fn resubmit(&mut self) -> usize {
        if self.submitted > 0 || self.sealing.iter().any(|sealing| !sealing.out.is_empty()) {
            return 0;
        }
        let records = (self.next_to_submit - self.first_record) as usize;
        let is_refused = |index: &usize| self.records[*index].state == RecordState::Refused;
        let refused: Vec<usize> = (0..records).filter(is_refused).collect();
        let Some(starved) = &mut self.starved else { return 0 };
        if refused.is_empty() && self.sealing.iter().all(|sealing| sealing.refused.is_empty()) {
            tracing::warn!(pool = %self.pool, "the device has room again; writes go on");
            self.starved = None;
            return 1;
        }
        let now_ns = self.environment.clock.monotonic_ns();
        if now_ns < starved.retry_at_ns {
            return 0;
        }
        starved.wait_longer(now_ns);
        let count = refused.len();
        for index in refused {
            let record = &mut self.records[index];
            record.state = RecordState::Submitted;
            let tag = TAG_RECORD << TAG_KIND_SHIFT | (self.first_record + index as u64);
            let operation = Operation::Write { block: record.device_block, buffers: record.pieces.clone() };
            self.device.queue().submit(Command { tag, operation });
            self.submitted += 1;
        }
        count + self.resubmit_trailers()
    }

    fn resubmit_trailers(&mut self) -> usize {
        let mut count = 0;
        for sealing in &mut self.sealing {
            for piece in std::mem::take(&mut sealing.refused) {
                let tag = TAG_TRAILER << TAG_KIND_SHIFT | piece.tag(sealing.sequence);
                let operation = piece.operation();
                sealing.out.push(piece);
                self.device.queue().submit(Command { tag, operation });
                count += 1;
            }
        }
        count
    }
}

impl Starved {
    /// The next try comes later than the last did.
    pub(super) fn wait_longer(&mut self, now_ns: u64) {
        self.delay_ns = (2 * self.delay_ns).min(RETRY_MAX_NS);
        self.retry_at_ns = now_ns + self.delay_ns;
    }
}
