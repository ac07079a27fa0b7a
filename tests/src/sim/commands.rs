//! The commands of hosts in a run: submits them to the pool, records them in the model, and takes
//! their completions.

use std::rc::Rc;

use varve::dma::BLOCK_BYTES;
use varve::log::format::ENTRIES_PER_RECORD;
use varve::volume::{IoError, Point, PointKind, Request, VolumeId};

use super::checks::check_blocks;
use super::model::{Change, Stamp, fill};
use super::workload::{InFlight, Run};
use super::world::{story, submit, turn_alone, wait};

impl Run {
    pub(super) fn write(&mut self, place: usize, id: VolumeId, size_blocks: u64) {
        let len = if self.rng.one_in(8) { 1 + self.rng.below(128) } else { 1 + self.rng.below(4) };
        // Half of the writes go to a few blocks, so that these are overwritten many times.
        let span = if self.rng.one_in(2) { size_blocks } else { 64.min(size_blocks) };
        let len = len.min(span);
        let block = self.rng.below(span - len + 1);
        self.write_at(place, id, block, len);
    }

    pub(super) fn write_at(&mut self, place: usize, id: VolumeId, block: u64, len: u64) {
        let stamps: Vec<Stamp> = (0..len).map(|index| self.model.next_stamp + 1 + index).collect();
        self.model.next_stamp += len;
        self.write_stamps(place, id, block, stamps);
    }

    /// Writes blocks with these contents.
    pub(super) fn write_stamps(&mut self, place: usize, id: VolumeId, block: u64, stamps: Vec<Stamp>) {
        let len = stamps.len() as u64;
        let mut bytes = vec![0; len as usize * BLOCK_BYTES];
        for (index, chunk) in bytes.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            fill(stamps[index], block + index as u64, chunk);
        }
        let force_unit_access = self.rng.one_in(10);
        let before = self.head();
        let tag = self.next_tag;
        // Every second write is in memory that the log keeps. The tag decides this and not a random
        // number, so that existing seeds keep their meaning.
        if tag.is_multiple_of(2) {
            let mut buffer = self.received.allocate(bytes.len()).expect("memory for what a host sends");
            buffer.as_mut_slice().copy_from_slice(&bytes);
            let data = buffer.freeze();
            let request = Request::WriteReceived { block, data: &data, force_unit_access };
            submit(&self.pool, id, &request, tag, &self.sink);
        } else {
            let (front, back) = bytes.split_at(bytes.len() / BLOCK_BYTES / 2 * BLOCK_BYTES);
            let request = Request::Write { block, data: &[front, back], force_unit_access };
            submit(&self.pool, id, &request, tag, &self.sink);
        }
        self.submitted(before, tag, Change::Write { volume: place, block, stamps }, force_unit_access);
    }

    pub(super) fn trim(&mut self, place: usize, id: VolumeId, size_blocks: u64) {
        let before = self.head();
        let tag = self.next_tag;
        if self.rng.one_in(3) {
            let block = self.rng.below(size_blocks);
            let len_blocks = 1 + self.rng.below(size_blocks - block);
            submit(
                &self.pool,
                id,
                &Request::WriteZeroes { block, len_blocks, force_unit_access: false },
                tag,
                &self.sink,
            );
            self.submitted(
                before,
                tag,
                Change::Trim { volume: place, ranges: vec![(block, len_blocks)] },
                false,
            );
            return;
        }
        let count = match self.rng.below(20) {
            0 => 1 + self.rng.below(168),
            1 => 169 + self.rng.below(88),
            _ => 1 + self.rng.below(3),
        };
        let ranges: Vec<(u64, u64)> = (0..count)
            .map(|_| {
                let block = self.rng.below(size_blocks);
                (block, 1 + self.rng.below((size_blocks - block).min(8)))
            })
            .collect();
        submit(&self.pool, id, &Request::Trim { ranges: &ranges }, tag, &self.sink);
        // More ranges than a record holds are two commands in the history, each with its own
        // position.
        if let Some((first, second)) =
            ranges.split_at_checked(ENTRIES_PER_RECORD).filter(|(_, second)| !second.is_empty())
        {
            // The pool may have appended an entry of its own although it refused the command.
            let Some(lsn) = self.first_write_behind(before) else {
                assert!(self.refused(tag), "seed {}: no command lies behind LSN {before}", self.seed);
                self.next_tag += 1;
                return;
            };
            self.push_at(lsn, Change::Trim { volume: place, ranges: first.to_vec() });
            if lsn == self.head() {
                assert!(self.refused(tag), "seed {}: the second part has a position of its own", self.seed);
                self.next_tag += 1;
                return;
            }
            self.submitted(before, tag, Change::Trim { volume: place, ranges: second.to_vec() }, false);
            return;
        }
        self.submitted(before, tag, Change::Trim { volume: place, ranges }, false);
    }

    /// Trims ranges that one command may have.
    pub(super) fn trim_ranges(&mut self, place: usize, id: VolumeId, ranges: Vec<(u64, u64)>) {
        let (before, tag) = (self.head(), self.next_tag);
        submit(&self.pool, id, &Request::Trim { ranges: &ranges }, tag, &self.sink);
        self.submitted(before, tag, Change::Trim { volume: place, ranges }, false);
    }

    /// The position of the first host command after `lsn`, if there is one.
    pub(super) fn first_write_behind(&self, lsn: u64) -> Option<u64> {
        for at in lsn + 1..=self.head() {
            let point = wait(&self.pool, Rc::clone(&self.pool).resolve(Point::Lsn(at)))
                .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
            if point.lsn == at && point.kind == PointKind::Write {
                return Some(at);
            }
        }
        None
    }

    pub(super) fn submitted(&mut self, before: u64, tag: u64, change: Change, force_unit_access: bool) {
        self.next_tag += 1;
        let step = self.model.steps.len() as u64;
        // A refused command changes nothing; its completion is an error.
        if !self.refused(tag) {
            assert!(self.head() > before, "seed {}: a command moves the head", self.seed);
            self.push(change);
            self.in_flight.insert(
                tag,
                if force_unit_access { InFlight::Flush(self.head()) } else { InFlight::Step(step) },
            );
        }
    }

    /// Whether a tag has already ended with a refusal; takes the completion if so.
    pub(super) fn refused(&mut self, tag: u64) -> bool {
        let mut refused = false;
        while let Some(completion) = self.sink.pop() {
            let is_refusal = matches!(completion.result, Err(IoError::CapacityExceeded | IoError::NoRoom));
            if completion.tag == tag && is_refusal {
                refused = true;
            } else {
                self.early.push((completion.tag, completion.result));
            }
        }
        if refused {
            self.in_flight.insert(0, InFlight::Flush(0));
        }
        refused
    }

    pub(super) fn flush(&mut self, id: VolumeId) {
        let tag = self.next_tag;
        self.next_tag += 1;
        submit(&self.pool, id, &Request::Flush, tag, &self.sink);
        self.in_flight.insert(tag, InFlight::Flush(self.head()));
    }

    pub(super) fn ended(&mut self, tag: u64, result: Result<(), IoError>) {
        let Some(kind) = self.in_flight.remove(&tag) else { return };
        if self.disk.is_dead() && result.is_err() {
            return;
        }
        assert_eq!(result, Ok(()), "seed {}: a command failed", self.seed);
        match kind {
            InFlight::Step(step) => self.model.steps[step as usize].acknowledged = true,
            InFlight::Flush(lsn) => self.mark_flushed(lsn),
        }
    }

    /// Takes completions; `false` when a write was refused because the log is full.
    pub(super) fn reap(&mut self) -> bool {
        for (tag, result) in std::mem::take(&mut self.early) {
            self.ended(tag, result);
        }
        while let Some(completion) = self.sink.pop() {
            self.ended(completion.tag, completion.result);
        }
        self.in_flight.remove(&0).is_none()
    }

    /// Waits for all commands in flight.
    ///
    /// # Panics
    /// When they do not end.
    pub fn settle(&mut self) {
        for _ in 0..1_000_000 {
            self.reap();
            if self.in_flight.is_empty() {
                return;
            }
            turn_alone(&self.pool);
        }
        panic!("seed {}: requests do not end: {}", self.seed, story(&self.pool));
    }

    /// Reads at a random place; in one case of four reads 4 to 15 times in sequence, which starts
    /// read-ahead.
    pub(super) fn check_read(&mut self, place: usize, id: VolumeId, size_blocks: u64) {
        let len_blocks = 1 + self.rng.below(16.min(size_blocks));
        let mut block = self.rng.below(size_blocks - len_blocks + 1);
        let state = self.model.state_at(place, u64::MAX).expect("it exists");
        let reads = if self.rng.one_in(4) { 4 + self.rng.below(12) } else { 1 };
        for _ in 0..reads {
            if block + len_blocks <= size_blocks {
                let excused = &self.trouble.excused;
                check_blocks(&self.pool, id, block, len_blocks as u32, &state, excused, self.seed);
            }
            block += len_blocks;
        }
    }
}
