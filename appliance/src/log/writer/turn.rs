//! One turn of the log: takes completions of the device, advances the written prefix, and submits
//! records, trailers and flushes.
//!
//! **Order of submissions.** A log that must do its first writes does nothing else. A starved log
//! submits only what the device had refused, and flushes. Otherwise records go first, then a piece
//! of each trailer, then a flush if one is requested.

use super::Log;
use super::interface::{ReadDone, Recycling};
use super::state::port::DeviceAnswer;
use crate::bdev::{BdevError, BdevErrorKind, Completion};
use crate::log::failure::FailureCause;
use crate::log::record::RecordState;

impl Log {
    /// One turn: takes completions, advances the prefix, submits what is ready. Completed reads go
    /// to `reads`. Returns how much was done.
    pub fn poll(&mut self, reads: &mut Vec<ReadDone>) -> usize {
        let mut work = 0;
        let (written_before, stable_before) = (self.written_lsn(), self.stable_lsn());
        // At most three rounds: the next round starts what a round submits (and, on a device
        // without delay, completes it).
        for _ in 0..3 {
            let (polled, mut completions) = self.port.poll();
            work += polled;
            for completion in completions.drain(..) {
                self.complete(completion, reads);
            }
            self.port.give_back(completions);
            self.advance();
            work += self.recycle();
            let submitted = self.submit_ready();
            work += submitted;
            if submitted == 0 {
                break;
            }
        }
        if !self.waiters.is_empty()
            && (self.written_lsn() != written_before
                || self.stable_lsn() != stable_before
                || self.health.is_poisoned())
        {
            self.waiters.wake_all();
        }
        work
    }

    fn complete(&mut self, completion: Completion, reads: &mut Vec<ReadDone>) {
        match DeviceAnswer::of(completion) {
            DeviceAnswer::Read(done) => reads.push(done),
            DeviceAnswer::Record(number, result) => {
                let state = match &result {
                    Ok(()) => RecordState::Done,
                    Err(error) if error.kind == BdevErrorKind::NoRoom => RecordState::Refused,
                    Err(_) => RecordState::Failed,
                };
                self.records.complete(number, state);
                self.note_write(result, "writing a record failed");
            }
            DeviceAnswer::Trailer(piece, result) => {
                match &result {
                    Ok(()) => self.trailer_written(piece),
                    Err(error) if error.kind == BdevErrorKind::NoRoom => self.trailers.note_refused(piece),
                    Err(_) => {}
                }
                self.note_write(result, "writing a segment's trailer failed");
            }
            DeviceAnswer::Flush(result) => {
                self.positions.end_flush(result.is_ok());
                if let Err(error) = result {
                    self.health.poison(FailureCause::Device, &format!("flushing the device failed: {error}"));
                }
            }
        }
    }

    /// Evaluates the result of a write for the state of the device. `failure` names the write.
    fn note_write(&mut self, result: Result<(), BdevError>, failure: &str) {
        match result {
            Ok(()) => self.health.note_room(),
            Err(error) if error.kind == BdevErrorKind::NoRoom => {
                self.health.note_no_room(&error, self.environment.clock.monotonic_ns());
            }
            Err(error) => self.health.poison(FailureCause::Device, &format!("{failure}: {error}")),
        }
    }

    /// Handles a piece of a trailer that is on the device.
    fn trailer_written(&mut self, piece: u64) {
        let keeps_units = self.orders.recycling() == Recycling::Archived;
        if let Some(sequence) = self.trailers.note_written(piece, keeps_units) {
            self.table.note_sealed(sequence);
        }
    }

    /// Advances `written_lsn` over the records that have completed in order.
    fn advance(&mut self) {
        if self.health.is_poisoned() {
            return;
        }
        while let Some(end_lsn) = self.records.pop_done() {
            self.positions.note_written(end_lsn);
        }
    }

    fn submit_ready(&mut self) -> usize {
        if self.health.is_poisoned() {
            return 0;
        }
        if self.is_beginning() {
            return self.go_on_beginning();
        }
        if self.health.starved().is_some() {
            return self.resubmit() + self.submit_flush();
        }
        self.submit_records() + self.submit_trailers() + self.submit_flush()
    }

    fn submit_records(&mut self) -> usize {
        let mut count = 0;
        while self.records.may_submit() {
            if let Some((number, operation)) = self.records.submit_next() {
                self.stats.count_record(operation.len_blocks());
                self.port.submit_record(number, operation);
                count += 1;
            } else if self.records.is_open_awaited(self.positions.wanted_stable_lsn()) {
                self.close_record();
            } else {
                break;
            }
        }
        count
    }

    fn submit_trailers(&mut self) -> usize {
        let stable_lsn = self.positions.stable_lsn();
        self.trailers.submit(stable_lsn, &self.identity, &self.environment.dma, |piece, operation| {
            self.stats.count_trailer_piece(operation.len_blocks());
            self.port.submit_trailer(piece, operation);
        })
    }

    fn submit_flush(&mut self) -> usize {
        if !self.positions.begin_flush() {
            return 0;
        }
        self.stats.count_flush();
        self.port.submit_flush();
        1
    }

    /// Tries the first writes of a start again when it is time. Returns 1 if something changed.
    fn go_on_beginning(&mut self) -> usize {
        let now_ns = self.environment.clock.monotonic_ns();
        let Some(problems) = self.health.go_on_beginning(now_ns) else { return 0 };
        for problem in problems {
            self.damage.push(problem);
        }
        1
    }

    /// Submits refused writes again when it is time. Returns how much was submitted, or 1 if the
    /// log runs again.
    fn resubmit(&mut self) -> usize {
        if self.records.is_in_flight() || self.trailers.is_in_flight() {
            return 0;
        }
        if !self.records.has_refused() && !self.trailers.has_refused() {
            self.health.end_starvation();
            return 1;
        }
        if !self.health.take_retry(self.environment.clock.monotonic_ns()) {
            return 0;
        }
        let port = &self.port;
        let records = self.records.resubmit(|number, operation| port.submit_record(number, operation));
        records + self.trailers.resubmit(|piece, operation| port.submit_trailer(piece, operation))
    }
}
