//! Records in memory: the open one, and the closed ones until they are written.
//!
//! Closed records are numbered consecutively since the start. They go to the device in this order,
//! complete in any order, and leave the list in this order ([`Records::pop_done`]).
//!
//! **Invariants.** `first_number` ≤ `next_to_submit` ≤ the number after the last closed record.
//! `in_flight` is how many records are submitted and not answered, at most
//! [`RECORDS_IN_FLIGHT_MAX`]. Closed records follow each other in the log: none begins before the
//! previous one ends.

use std::collections::VecDeque;

use crate::bdev::Operation;
use crate::dma::DmaBuf;
use crate::log::format::{ENTRIES_PER_RECORD, Entry};
use crate::log::record::{ClosedRecord, OpenRecord, RecordState};
use crate::log::types::Lsn;
use crate::log::writer::interface::{CLOSED_RECORDS_MAX, RECORDS_IN_FLIGHT_MAX};

/// The records. See the module's documentation.
#[derive(Default)]
pub(in crate::log) struct Records {
    open: Option<OpenRecord>,
    /// Empty lists of entries, for the next records.
    entry_buffers: Vec<Vec<Entry>>,
    closed: VecDeque<ClosedRecord>,
    /// The number of the first of `closed`.
    first_number: u64,
    next_to_submit: u64,
    in_flight: usize,
}

impl Records {
    /// The open record.
    pub(in crate::log) fn open(&self) -> Option<&OpenRecord> {
        self.open.as_ref()
    }

    /// The open record, in which room was reserved.
    ///
    /// # Panics
    /// Without a reservation.
    pub(in crate::log) fn reserved(&mut self) -> &mut OpenRecord {
        self.open.as_mut().expect("room was reserved")
    }

    /// Whether the entries fit into the open record.
    pub(in crate::log) fn joins(&self, entries: usize, data_blocks: usize) -> bool {
        self.open.as_ref().is_some_and(|open| open.fits(entries, data_blocks))
    }

    /// How many blocks the open record takes on the device.
    pub(in crate::log) fn open_blocks(&self) -> u64 {
        self.open.as_ref().map_or(0, OpenRecord::len_blocks)
    }

    /// How many units the open record takes in the trailer.
    pub(in crate::log) fn open_units(&self) -> usize {
        self.open.as_ref().map_or(0, OpenRecord::len_units)
    }

    /// Whether there is no record at all.
    pub(in crate::log) fn is_empty(&self) -> bool {
        self.open.is_none() && self.closed.is_empty()
    }

    /// Whether there are so many closed records that appends must wait.
    pub(in crate::log) fn is_full(&self) -> bool {
        self.closed.len() >= CLOSED_RECORDS_MAX
    }

    /// Whether a record is at the device.
    pub(in crate::log) fn is_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether the device accepts one more record now.
    pub(in crate::log) fn may_submit(&self) -> bool {
        self.in_flight < RECORDS_IN_FLIGHT_MAX
    }

    /// An empty list of entries.
    pub(in crate::log) fn take_entry_buffer(&mut self) -> Vec<Entry> {
        self.entry_buffers.pop().unwrap_or_else(|| Vec::with_capacity(ENTRIES_PER_RECORD))
    }

    /// Opens a record.
    pub(in crate::log) fn begin(&mut self, record: OpenRecord) {
        assert!(self.open.is_none(), "one record is open at a time");
        self.open = Some(record);
    }

    /// Takes the open record in order to close it. A record without entries is discarded: nothing
    /// has its position yet.
    pub(in crate::log) fn take_open(&mut self) -> Option<OpenRecord> {
        let open = self.open.take()?;
        if open.entries().is_empty() {
            self.entry_buffers.push(open.into_entries());
            return None;
        }
        Some(open)
    }

    /// Keeps the list of entries of a closed record for reuse.
    pub(in crate::log) fn keep_entry_buffer(&mut self, entries: Vec<Entry>) {
        debug_assert!(entries.is_empty());
        self.entry_buffers.push(entries);
    }

    /// Adds a closed record, or the header of a segment.
    pub(in crate::log) fn push_closed(&mut self, record: ClosedRecord) {
        let before = self.closed.back().map(ClosedRecord::end_lsn);
        assert!(before.is_none_or(|end_lsn| end_lsn <= record.lsn()), "records follow each other");
        self.closed.push_back(record);
    }

    /// Whether the open record must be closed as soon as the device has room for it: a caller waits
    /// for something in it, or wants it to be stable.
    pub(in crate::log) fn is_open_awaited(&self, wanted_stable_lsn: Lsn) -> bool {
        self.open.as_ref().is_some_and(|open| {
            !open.entries().is_empty() && (!open.is_lazy() || wanted_stable_lsn > open.lsn())
        })
    }

    /// Submits the next closed record: returns its number and its write.
    #[inline]
    pub(in crate::log) fn submit_next(&mut self) -> Option<(u64, Operation)> {
        let number = self.next_to_submit;
        let operation = self.closed.get_mut((number - self.first_number) as usize)?.submit();
        self.next_to_submit += 1;
        self.in_flight += 1;
        assert!(self.in_flight <= RECORDS_IN_FLIGHT_MAX, "records at the device have a bound");
        Some((number, operation))
    }

    /// Notes that the device has completed the write of a record.
    #[inline]
    pub(in crate::log) fn complete(&mut self, number: u64, state: RecordState) {
        assert!(self.in_flight > 0 && number < self.next_to_submit, "an answer has its question");
        self.in_flight -= 1;
        self.closed[(number - self.first_number) as usize].complete(state);
    }

    /// Drops the first record if it is written, and returns where it ended.
    #[inline]
    pub(in crate::log) fn pop_done(&mut self) -> Option<Lsn> {
        let record = self.closed.front().filter(|record| record.state() == RecordState::Done)?;
        let end_lsn = record.end_lsn();
        self.closed.pop_front();
        self.first_number += 1;
        debug_assert!(self.first_number <= self.next_to_submit);
        Some(end_lsn)
    }

    /// Whether the device had no room for a record.
    pub(in crate::log) fn has_refused(&self) -> bool {
        self.closed.iter().any(|record| record.state() == RecordState::Refused)
    }

    /// Passes each record that the device had no room for to `submit` again. Returns how many.
    pub(in crate::log) fn resubmit(&mut self, mut submit: impl FnMut(u64, Operation)) -> usize {
        debug_assert!(!self.is_in_flight(), "what is refused comes again when everything is answered");
        let numbered = (self.first_number..).zip(&mut self.closed);
        let mut count = 0;
        for (number, record) in numbered.filter(|(_, record)| record.state() == RecordState::Refused) {
            submit(number, record.submit());
            count += 1;
        }
        self.in_flight += count;
        count
    }

    /// The block at `lsn`, if it is in memory.
    pub(in crate::log) fn block(&self, lsn: Lsn) -> Option<DmaBuf> {
        if let Some(open) = &self.open
            && lsn > open.lsn()
        {
            return open.block(lsn);
        }
        let after = self.closed.partition_point(|record| record.lsn() <= lsn);
        self.closed.get(after.checked_sub(1)?)?.block(lsn)
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::dma::{BLOCK_BYTES, DmaPool};

    fn closed(dma: &DmaPool, lsn: u64) -> ClosedRecord {
        let block = dma.allocate(BLOCK_BYTES).expect("memory").freeze();
        ClosedRecord::new(Lsn(lsn), Lsn(lsn + 1), lsn, smallvec![block])
    }

    #[test]
    fn records_complete_in_any_order_and_leave_in_theirs() {
        let dma = DmaPool::new(1 << 20);
        let mut records = Records::default();
        for lsn in 1..=3 {
            records.push_closed(closed(&dma, lsn));
        }
        let numbers: Vec<u64> = std::iter::from_fn(|| Some(records.submit_next()?.0)).collect();
        assert_eq!(numbers, [0, 1, 2]);
        records.complete(1, RecordState::Done);
        assert_eq!(records.pop_done(), None, "the one before it is not written");
        assert!(records.block(Lsn(2)).is_some() && records.block(Lsn(9)).is_none());
        records.complete(0, RecordState::Refused);
        records.complete(2, RecordState::Done);
        assert!(records.has_refused() && records.pop_done().is_none());
        let mut again = Vec::new();
        assert_eq!(records.resubmit(|number, _| again.push(number)), 1);
        assert_eq!(again, [0]);
        records.complete(0, RecordState::Done);
        let ends: Vec<Lsn> = std::iter::from_fn(|| records.pop_done()).collect();
        assert_eq!(ends, [Lsn(2), Lsn(3), Lsn(4)]);
        assert!(records.is_empty() && !records.is_in_flight());
    }

    #[test]
    #[should_panic(expected = "records follow each other")]
    fn a_record_does_not_begin_in_another() {
        let dma = DmaPool::new(1 << 20);
        let mut records = Records::default();
        records.push_closed(closed(&dma, 5));
        records.push_closed(closed(&dma, 5));
    }
}
