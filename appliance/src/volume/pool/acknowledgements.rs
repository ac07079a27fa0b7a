//! Writes, trims and flushes that are in the log and not acknowledged yet.
//!
//! **Invariant:** each queue is in the order of the positions that its entries wait for. So hosts
//! are answered in that order, and no answer overtakes another.

use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;

use super::latency::{Began, Latencies};
use crate::log::{Log, Lsn};
use crate::volume::request::{IoCompletion, IoError, Sink};

/// A request that waits for the log.
pub(super) struct PendingAck {
    /// It is acknowledged once the log is written, or stable, past this position.
    past: Lsn,
    tag: u64,
    sink: Rc<Sink>,
    began: Began,
}

impl PendingAck {
    /// A request that is acknowledged once the log is written, or stable, past `past`.
    #[inline]
    pub(super) fn new(past: Lsn, tag: u64, sink: Rc<Sink>, began: Began) -> Self {
        PendingAck { past, tag, sink, began }
    }
}

/// All requests that wait for the log. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Acknowledgements {
    /// Requests that wait until they are written.
    written: VecDeque<PendingAck>,
    /// Requests that wait until they are stable.
    stable: VecDeque<PendingAck>,
}

impl Acknowledgements {
    /// Completes a request once everything before its position is written, or stable if `stable`.
    pub(super) fn add(&mut self, log: &mut Log, ack: PendingAck, stable: bool) {
        let queue = if stable {
            log.request_stable(ack.past);
            &mut self.stable
        } else {
            &mut self.written
        };
        debug_assert!(queue.back().is_none_or(|last| last.past <= ack.past), "requests wait in order");
        queue.push_back(ack);
    }

    /// Completes the requests that the log has reached, or all if the log has failed. Returns how
    /// many.
    pub(super) fn acknowledge(&mut self, log: &Log, latencies: &mut Latencies) -> usize {
        let failed = log.poisoned().is_some();
        let reached = [(&mut self.written, log.written_lsn()), (&mut self.stable, log.stable_lsn())];
        let (mut work, mut end_ns) = (0, None);
        for (queue, lsn) in reached {
            while let Some(ack) = queue.front() {
                let result = if ack.past <= lsn {
                    Ok(())
                } else if failed {
                    Err(IoError::WriteFault)
                } else {
                    break;
                };
                if let Some(ack) = queue.pop_front() {
                    latencies.end(ack.began, &mut end_ns);
                    ack.sink.push(IoCompletion { tag: ack.tag, result, data: SmallVec::new() });
                }
                work += 1;
            }
        }
        work
    }

    /// Ends all unacknowledged requests up to `lsn` with an error, because their hosts have waited
    /// long enough for room. Returns how many.
    pub(super) fn refuse_up_to(&mut self, lsn: Lsn, latencies: &mut Latencies) -> usize {
        let (mut work, mut end_ns) = (0, None);
        for queue in [&mut self.written, &mut self.stable] {
            while let Some(ack) = queue.pop_front_if(|ack| ack.past <= lsn) {
                latencies.end(ack.began, &mut end_ns);
                ack.sink.push(IoCompletion {
                    tag: ack.tag,
                    result: Err(IoError::NoRoom),
                    data: SmallVec::new(),
                });
                work += 1;
            }
        }
        work
    }
}
