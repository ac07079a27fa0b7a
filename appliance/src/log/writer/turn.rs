//! The turn of the log: completions in, the written prefix forward, records, trailers and flushes out.

use std::rc::Rc;

use super::{
    Log, RECORDS_IN_FLIGHT_MAX, ReadDone, TAG_FLUSH, TAG_KIND_SHIFT, TAG_READ, TAG_RECORD, TAG_TRAILER,
};
use crate::bdev::{BdevErrorKind, Command, Completion, Operation};
use crate::log::record::RecordState;

impl Log {
    /// One turn: reaps completions, moves the prefix, submits what is ready. Completed reads go to `reads`. Returns how much was done.
    pub fn poll(&mut self, reads: &mut Vec<ReadDone>) -> usize {
        let mut work = 0;
        let (written_before, stable_before) = (self.written_lsn, self.stable_lsn);
        // Two rounds suffice: what the first submits, the second starts (and, on a device without delay, completes).
        for _ in 0..3 {
            let mut completions = std::mem::take(&mut self.completions);
            work += self.device.queue().poll(&mut completions);
            for completion in completions.drain(..) {
                self.complete(completion, reads);
            }
            self.completions = completions;
            self.advance();
            work += self.recycle();
            let submitted = self.submit_ready();
            work += submitted;
            if submitted == 0 {
                break;
            }
        }
        if !self.waiters.is_empty()
            && (self.written_lsn != written_before
                || self.stable_lsn != stable_before
                || self.poisoned.is_some())
        {
            for waiter in self.waiters.drain(..) {
                waiter.wake();
            }
        }
        work
    }

    pub(super) fn complete(&mut self, mut completion: Completion, reads: &mut Vec<ReadDone>) {
        let value = completion.tag & ((1 << TAG_KIND_SHIFT) - 1);
        match completion.tag >> TAG_KIND_SHIFT {
            TAG_READ => {
                let buffer = completion.buffers.pop().expect("a read gives its buffer back");
                reads.push(ReadDone { token: value, buffer, result: completion.result });
            }
            TAG_RECORD => {
                self.submitted -= 1;
                let index = (value - self.first_record) as usize;
                self.records[index].state = match &completion.result {
                    Ok(()) => RecordState::Done,
                    Err(error) if error.kind == BdevErrorKind::NoRoom => RecordState::Refused,
                    Err(_) => RecordState::Failed,
                };
                match completion.result {
                    Ok(()) => self.note_room(),
                    Err(error) if error.kind == BdevErrorKind::NoRoom => self.note_no_room(&error),
                    Err(error) => self.poison(&format!("writing a record failed: {error}")),
                }
            }
            TAG_TRAILER => match completion.result {
                Ok(()) => {
                    self.note_room();
                    self.trailer_written(value);
                }
                Err(error) if error.kind == BdevErrorKind::NoRoom => {
                    self.trailer_refused(value);
                    self.note_no_room(&error);
                }
                Err(error) => self.poison(&format!("writing a segment's trailer failed: {error}")),
            },
            TAG_FLUSH => {
                let target = self.flushing_lsn.take();
                match completion.result {
                    Ok(()) => self.stable_lsn = self.stable_lsn.max(target.unwrap_or_default()),
                    Err(error) => self.poison(&format!("flushing the device failed: {error}")),
                }
            }
            kind => unreachable!("a completion with tag kind {kind}"),
        }
    }

    /// Moves `written_lsn` over the records that have completed in order.
    pub(super) fn advance(&mut self) {
        if self.poisoned.is_some() {
            return;
        }
        while let Some(record) = self.records.front() {
            if record.state != RecordState::Done {
                break;
            }
            self.written_lsn = record.end_lsn;
            self.records.pop_front();
            self.first_record += 1;
        }
        if !self.volatile_cache {
            self.stable_lsn = self.written_lsn;
        }
    }

    pub(super) fn submit_ready(&mut self) -> usize {
        if self.poisoned.is_some() {
            return 0;
        }
        if self.is_beginning() {
            return self.go_on_beginning();
        }
        if self.starved.is_some() {
            return self.resubmit() + self.submit_flush();
        }
        let mut count = 0;
        while self.submitted < RECORDS_IN_FLIGHT_MAX {
            let index = (self.next_to_submit - self.first_record) as usize;
            if index >= self.records.len() {
                if self.open.as_ref().is_some_and(|open| {
                    !open.entries.is_empty() && (!open.is_lazy || self.wanted_stable_lsn > open.lsn)
                }) {
                    self.close_record();
                    continue;
                }
                break;
            }
            let record = &mut self.records[index];
            record.state = RecordState::Submitted;
            let command = Command {
                tag: TAG_RECORD << TAG_KIND_SHIFT | self.next_to_submit,
                operation: Operation::Write { block: record.device_block, buffers: record.pieces.clone() },
            };
            self.stats.device_written_blocks += command.operation.len_blocks();
            self.stats.header_blocks += 1;
            self.stats.records += 1;
            self.device.queue().submit(command);
            self.submitted += 1;
            self.next_to_submit += 1;
            count += 1;
        }
        count + self.submit_trailers() + self.submit_flush()
    }

    pub(super) fn submit_flush(&mut self) -> usize {
        let wanted = self.wanted_stable_lsn > self.stable_lsn && self.written_lsn > self.stable_lsn;
        if !wanted || self.flushing_lsn.is_some() {
            return 0;
        }
        self.flushing_lsn = Some(self.written_lsn);
        self.stats.flushes += 1;
        self.device.queue().submit(Command { tag: TAG_FLUSH << TAG_KIND_SHIFT, operation: Operation::Flush });
        1
    }

    /// No write is taken any more until a restart; reads go on. After a write that failed, or
    /// because the log is somebody else's to write.
    pub(crate) fn poison(&mut self, reason: &str) {
        if self.poisoned.is_none() {
            tracing::error!(pool = %self.pool, reason, "the log failed; the pool takes no more writes");
            self.poisoned = Some(Rc::from(reason));
        }
    }
}
