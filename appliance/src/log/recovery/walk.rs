//! The walk along the segments of a device: which of them belong to the log, and where it ends.
//!
//! **Invariants.** Segments are visited in order of their sequence, without a hole, each one once.
//! `end_lsn` is where the last one ends. `stable_lsn` and the epoch never fall.

use std::collections::{BTreeMap, BTreeSet};

use super::gone::Gone;
use super::slots::FoundSegment;
use crate::log::entries::{LsnRange, SegmentEntries};
use crate::log::error::LogError;
use crate::log::format::{SegmentHeader, Superblock, TrailerUnit};
use crate::log::geometry::Geometry;
use crate::log::reader::{Found, ReadError, SegmentReader};
use crate::log::scan::{ExpectedEnd, ScanFrom};
use crate::log::table::{Phase, Segment, SegmentTable};
use crate::log::types::{Lsn, SegmentSeq, Slot};

/// The maximum number of segments before the first one found that are reported missing.
const MISSING_MAX: usize = 1024;

/// The last segment that was found.
struct Last {
    sequence: SegmentSeq,
    slot: Slot,
    /// The highest epoch in which any segment was opened.
    epoch: u32,
}

impl Last {
    /// The last segment; there is at least one.
    fn of(candidates: &BTreeMap<SegmentSeq, FoundSegment>) -> Self {
        let last = candidates.last_key_value();
        let (sequence, slot) =
            last.map_or((SegmentSeq(0), Slot(0)), |(&sequence, candidate)| (sequence, candidate.slot()));
        let epoch = candidates.values().map(FoundSegment::epoch).max().unwrap_or(0);
        Last { sequence, slot, epoch }
    }
}

/// The result of a walk.
pub(super) struct Walked {
    /// The first of `segments`.
    pub(super) oldest: SegmentSeq,
    /// The segments of the log, one after the other.
    pub(super) segments: Vec<Segment>,
    /// Segments that should be on the device but are not, and that cannot contain live blocks.
    pub(super) missing: Vec<SegmentSeq>,
    /// Segments without a full trailer, with their units.
    pub(super) pending: Vec<(SegmentSeq, Vec<TrailerUnit>)>,
    pub(super) end_lsn: Lsn,
    pub(super) epoch: u32,
    pub(super) last_time_ns: u64,
    /// Headers that were damaged, to be rewritten.
    pub(super) repairs: Vec<(Slot, SegmentHeader)>,
    pub(super) lost: Vec<LsnRange>,
    pub(super) problems: Vec<String>,
    /// What was correctly cut off.
    pub(super) notes: Vec<String>,
    /// Whether the log ends as a clean stop left it.
    pub(super) clean: bool,
}

/// The walk along the segments.
pub(super) struct Walk {
    reader: SegmentReader,
    version: u32,
    geometry: Geometry,
    table: SegmentTable,
    stable_lsn: Lsn,
    end_lsn: Lsn,
    epoch: u32,
    last_time_ns: u64,
    /// The epoch in which the pool was last opened.
    session: u32,
    /// Where the log ended then.
    begun_lsn: Lsn,
    gone: Gone,
    missing: Vec<SegmentSeq>,
    repairs: Vec<(Slot, SegmentHeader)>,
    pending: Vec<(SegmentSeq, Vec<TrailerUnit>)>,
    clean: bool,
    lost: Vec<LsnRange>,
    problems: Vec<String>,
    notes: Vec<String>,
}

/// The known records of a segment.
struct KnownRecords {
    units: Vec<TrailerUnit>,
    /// Where they end.
    end_lsn: Lsn,
    /// Whether they come from its full trailer.
    is_sealed: bool,
    /// Whether nothing can follow them, because the last session left them in a clean stop.
    is_final: bool,
}

impl Walk {
    /// A walk that has not started.
    pub(super) fn new(reader: SegmentReader, superblock: &Superblock) -> Self {
        Walk {
            reader,
            version: superblock.version,
            geometry: Geometry::of(superblock),
            table: SegmentTable::default(),
            stable_lsn: superblock.begun_lsn,
            end_lsn: Lsn(0),
            epoch: 0,
            last_time_ns: superblock.created_ns,
            session: superblock.epoch,
            begun_lsn: superblock.begun_lsn,
            gone: Gone::default(),
            missing: Vec::new(),
            repairs: Vec::new(),
            pending: Vec::new(),
            clean: true,
            lost: Vec::new(),
            problems: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Returns the result.
    pub(super) fn finish(self) -> Walked {
        Walked {
            oldest: self.table.oldest(),
            segments: self.table.iter().map(|(_, segment)| segment.clone()).collect(),
            missing: self.missing,
            pending: self.pending,
            end_lsn: self.end_lsn,
            epoch: self.epoch,
            last_time_ns: self.last_time_ns,
            repairs: self.repairs,
            lost: self.lost,
            problems: self.problems,
            notes: self.notes,
            clean: self.clean,
        }
    }

    /// Walks along the segments that were found. Those that are known to be gone are removed from
    /// `candidates`.
    ///
    /// # Errors
    /// No memory; an entry that this build does not know.
    pub(super) async fn run(
        &mut self,
        candidates: &mut BTreeMap<SegmentSeq, FoundSegment>,
    ) -> Result<(), LogError> {
        self.gone = Gone::of(candidates, &self.geometry);
        candidates.retain(|&sequence, _| !self.gone.contains(sequence));
        let Some((first, newest)) = self.begin(candidates) else { return Ok(()) };
        let last = Last::of(candidates);
        for sequence in (first.0..=newest.0).map(SegmentSeq) {
            let next = self.expected_end(sequence, candidates);
            let goes_on = match candidates.get(&sequence) {
                Some(candidate) => self.step(sequence, candidate, next, &last).await?,
                None => self.step_over(sequence, next, last.sequence),
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// Starts the table. Returns the first and the last possible segment; `None` if there is none
    /// to walk along.
    fn begin(&mut self, candidates: &BTreeMap<SegmentSeq, FoundSegment>) -> Option<(SegmentSeq, SegmentSeq)> {
        // There was a segment where the log ended at the last start, even if nothing of it is
        // found.
        let begun = self.geometry.sequence_of(Lsn(self.begun_lsn.0.saturating_sub(1)));
        let ends = candidates.first_key_value().zip(candidates.last_key_value());
        let Some(((&first, _), (&newest, _))) = ends else {
            if self.begun_lsn > Lsn(0) {
                self.table = SegmentTable::new(begun, []);
                self.lose_segment(begun);
            }
            return None;
        };
        // Limit them to the number of slots, whatever a superblock says.
        let begun = begun.min(SegmentSeq(newest.0.saturating_add(self.geometry.slots)));
        // Segments missing before the first one found are lost, unless they may be gone.
        let mut before = (self.gone.oldest().0..first.0).map(SegmentSeq);
        let mut oldest = before.find(|&sequence| !self.is_gone(sequence, newest)).unwrap_or(first);
        if candidates.values().all(|candidate| candidate.header().is_none()) {
            // Without a header it is unknown what may be gone: a log that was recovered begins with
            // a late segment.
            self.gone.begin_at(first);
            oldest = first;
        }
        self.table = SegmentTable::new(oldest, []);
        self.missing = (self.gone.oldest().0..oldest.0).rev().take(MISSING_MAX).map(SegmentSeq).collect();
        self.missing.reverse();
        self.stable_lsn = candidates.values().map(FoundSegment::stable_lsn).fold(self.stable_lsn, Lsn::max);
        Some((oldest, newest.max(begun)))
    }

    /// Where a segment ends according to others: the header of the next segment, or of a later one
    /// if the next one was released.
    fn expected_end(
        &self,
        sequence: SegmentSeq,
        candidates: &BTreeMap<SegmentSeq, FoundSegment>,
    ) -> Option<ExpectedEnd> {
        let next = candidates.get(&sequence.next()).and_then(FoundSegment::header);
        next.map(|header| ExpectedEnd { lsn: header.previous_end_lsn, epoch: header.epoch })
            .or_else(|| self.gone.end_of(sequence))
    }

    /// Handles a segment that was not found. Returns whether the walk continues.
    fn step_over(&mut self, sequence: SegmentSeq, next: Option<ExpectedEnd>, newest: SegmentSeq) -> bool {
        if self.is_gone(sequence, newest) {
            if !self.gone.is_released(sequence) {
                self.missing.push(sequence);
            }
            self.skip_segment(sequence, next);
            return true;
        }
        self.lose_if_stable(sequence)
    }

    /// Handles a segment that is missing or does not belong to the log. If the log had been stable
    /// there, the segment is lost and the walk continues; otherwise the log ends before it.
    fn lose_if_stable(&mut self, sequence: SegmentSeq) -> bool {
        let is_lost = self.stable_lsn > self.geometry.first_lsn(sequence);
        if is_lost {
            self.lose_segment(sequence);
        }
        is_lost
    }

    /// Handles a segment that was found. Returns whether the walk continues.
    async fn step(
        &mut self,
        sequence: SegmentSeq,
        candidate: &FoundSegment,
        next: Option<ExpectedEnd>,
        last: &Last,
    ) -> Result<bool, LogError> {
        let first_lsn = self.geometry.first_lsn(sequence);
        // A valid trailer lists the content of the segment, whatever is in the place of its
        // records. A slot without a trailer holds a segment that was not sealed.
        let may_be_gone = candidate.trailer().is_none() && !candidate.problems().is_empty();
        if may_be_gone && sequence < last.sequence && self.was_given_away(sequence, candidate, last).await? {
            self.gone.note_released(sequence);
            self.skip_segment(sequence, next);
            return Ok(true);
        }
        let joins = candidate.header().is_some_and(|header| header.previous_end_lsn == self.end_lsn);
        let is_proven = joins || self.table.is_empty() || self.stable_lsn > first_lsn;
        if candidate.header().is_none() || !is_proven {
            // Its own records may prove that it had been stable.
            let records = self.reader.look_through(candidate.slot(), sequence, candidate.epoch()).await?;
            self.stable_lsn = self.stable_lsn.max(records.stable_lsn);
        }
        // Epochs do not fall along the log: this is an earlier version of a segment that was cut
        // off.
        if candidate.epoch() < self.epoch {
            return Ok(self.lose_if_stable(sequence));
        }
        if !self.table.is_empty() && !self.continues(candidate, first_lsn) {
            return Ok(false);
        }
        self.take(sequence, candidate, next).await?;
        Ok(true)
    }

    /// Slots that must not be used although no known segment of the log is in them: the device
    /// cannot read their content. If one of them may hold the newest segment, that segment is lost,
    /// because nothing else refers to it.
    pub(super) fn withhold(&mut self, unsure: &BTreeSet<Slot>, anonymous: &BTreeSet<Slot>) -> BTreeSet<Slot> {
        let used: BTreeSet<Slot> = self.table.iter().filter_map(|(_, segment)| segment.slot).collect();
        let withheld: BTreeSet<Slot> = unsure.difference(&used).copied().collect();
        for slot in &withheld {
            self.problems.push(format!(
                "slot {slot}: its header cannot be read, and nothing says what it holds; it is not used. The device may be failing: replace it soon"
            ));
        }
        let newest = self.table.iter().next_back().map(|(sequence, segment)| (sequence, segment.slot));
        if let Some((sequence, slot)) = newest {
            let may_be_newer = anonymous.iter().any(|anonymous| Some(*anonymous) != slot);
            if may_be_newer && !self.clean {
                self.lose_segment(sequence.next());
            }
        }
        withheld
    }

    /// Whether a segment that is not on the device need not be there: it was released, or the
    /// newest segment could only be opened after this one contained no live blocks.
    fn is_gone(&self, sequence: SegmentSeq, newest: SegmentSeq) -> bool {
        self.gone.is_released(sequence) || sequence.0 + self.geometry.working_set < newest.0
    }

    /// Whether the slot of a segment had been reassigned, to a segment whose header a power cut
    /// lost. In that case the old segment had no live blocks, and nothing of the later one had
    /// become stable; the rest of the old records would look damaged. This does not count if the
    /// log continued without the later segment: since then a clone of the past may have brought the
    /// old segment back into use.
    async fn was_given_away(
        &self,
        sequence: SegmentSeq,
        candidate: &FoundSegment,
        last: &Last,
    ) -> Result<bool, ReadError> {
        let later = self.reader.later_epoch(candidate.slot(), sequence, candidate.epoch()).await?;
        let Some(later_epoch) = later else { return Ok(false) };
        if later_epoch < last.epoch {
            return Ok(false);
        }
        let newest_epoch = self.reader.look_through(last.slot, last.sequence, last.epoch).await?.epoch;
        Ok(later_epoch >= newest_epoch)
    }

    /// Leaves out a segment that was released. The log continues where the next segment says.
    fn skip_segment(&mut self, sequence: SegmentSeq, next: Option<ExpectedEnd>) {
        let end = next.map_or(self.geometry.first_lsn(sequence.next()), |next| next.lsn);
        self.end_lsn = end;
        if self.table.is_empty() {
            // A segment that is gone is in the table only after others.
            self.table = SegmentTable::new(sequence.next(), []);
            return;
        }
        self.table.push(Segment {
            epoch: self.epoch,
            opened_ns: self.last_time_ns,
            end_lsn: end,
            sealed: true,
            phase: Phase::Released,
            ..Segment::default()
        });
    }

    /// Whether the segment continues where the log is now.
    fn continues(&mut self, candidate: &FoundSegment, first_lsn: Lsn) -> bool {
        let Some(header) = candidate.header() else {
            // Without its header, a segment belongs to the log only if this is proven. A trailer
            // proves it, because it is written after its records are stable. A record of the last
            // session after a complete segment proves it too; a record of an earlier session may
            // have been cut off since.
            let follows = self.table.iter().next_back().is_some_and(|(_, segment)| segment.sealed);
            return candidate.trailer().is_some()
                || (follows && candidate.epoch() >= self.session)
                || self.stable_lsn > first_lsn;
        };
        // A segment that the last start left out must not return because its missing header is
        // rebuilt now.
        if candidate.is_rebuilt() && candidate.epoch() < self.session && self.stable_lsn <= first_lsn {
            return candidate.trailer().is_some();
        }
        if header.previous_end_lsn == self.end_lsn && header.epoch >= self.epoch {
            return true;
        }
        // The data missing before it was torn, unless it had been stable. A trailer with the epoch
        // of the header proves that everything before it was stable.
        if self.stable_lsn <= first_lsn && candidate.trailer().is_none() {
            return false;
        }
        if header.previous_end_lsn > self.end_lsn {
            self.lose(LsnRange { start: self.end_lsn, end: header.previous_end_lsn });
        }
        true
    }

    fn lose(&mut self, range: LsnRange) {
        self.problems.push(format!(
            "the records at LSN {} to {} are lost (earlier points have what was there: `varve restore clone`); blocks that were not written again after them are not served",
            range.start, range.end
        ));
        self.lost.push(range);
    }

    fn lose_segment(&mut self, sequence: SegmentSeq) {
        let (start, end) = (self.geometry.first_lsn(sequence), self.geometry.first_lsn(sequence.next()));
        self.lose(LsnRange { start, end });
        self.table.push(Segment {
            slot: None,
            epoch: self.epoch,
            opened_ns: self.last_time_ns,
            end_lsn: end,
            sealed: true,
            problems: vec!["it was not found on the device".to_owned()],
            ..Segment::default()
        });
        self.end_lsn = end;
    }

    /// Adds a segment to the log and determines where it ends. `next` is the end according to the
    /// segment after it, if there is one.
    async fn take(
        &mut self,
        sequence: SegmentSeq,
        candidate: &FoundSegment,
        next: Option<ExpectedEnd>,
    ) -> Result<(), LogError> {
        debug_assert!(self.table.is_empty() || self.table.next_sequence() == sequence);
        let opened_ns = candidate.header().map_or(self.last_time_ns, |header| header.opened_ns);
        let mut problems = candidate.problems().to_vec();
        self.last_time_ns = self.last_time_ns.max(opened_ns);
        self.epoch = self.epoch.max(candidate.epoch());
        self.plan_repair(sequence, candidate, opened_ns);
        let mut records = self.read_trailer(sequence, candidate, &mut problems).await?;
        if !records.is_sealed && !records.is_final {
            self.scan_on(sequence, candidate, next, &mut records, &mut problems).await?;
        }
        let KnownRecords { units, end_lsn, is_sealed, .. } = records;
        self.end_lsn = end_lsn;
        for problem in &problems {
            self.problems.push(format!("segment {sequence}: {problem}"));
        }
        let records = SegmentEntries::new(units);
        let all = || records.records().flat_map(|(_, entries)| entries);
        if let Some(entry) = all().find(|entry| !entry.is_known()) {
            let (entry, version) = (format!("{entry:?}"), self.version);
            return Err(LogError::UnknownEntry { sequence, entry, version });
        }
        self.table.push(Segment {
            slot: Some(candidate.slot()),
            epoch: candidate.epoch(),
            opened_ns,
            end_lsn,
            entries: all().count() as u64,
            trims: all().filter(|entry| entry.is_trim()).count() as u64,
            sealed: is_sealed,
            problems,
            ..Segment::default()
        });
        if !is_sealed {
            self.pending.push((sequence, records.into_units()));
        }
        Ok(())
    }

    /// Schedules the header of a segment for rewriting if it is damaged.
    fn plan_repair(&mut self, sequence: SegmentSeq, candidate: &FoundSegment, opened_ns: u64) {
        let header = match candidate.header() {
            Some(header) if candidate.is_rebuilt() => header.clone(),
            Some(_) => return,
            None => self.gone.fill(SegmentHeader {
                version: self.version,
                epoch: candidate.epoch(),
                sequence,
                first_lsn: self.geometry.first_lsn(sequence),
                opened_ns,
                previous_end_lsn: self.end_lsn,
                stable_lsn: self.stable_lsn.min(self.end_lsn),
                oldest: sequence,
                released: Vec::new(),
                ends: Vec::new(),
            }),
        };
        self.repairs.push((candidate.slot(), header));
    }

    /// The records in a segment's trailer, if it has a valid one.
    async fn read_trailer(
        &mut self,
        sequence: SegmentSeq,
        candidate: &FoundSegment,
        problems: &mut Vec<String>,
    ) -> Result<KnownRecords, LogError> {
        let start = self.geometry.first_lsn(sequence).plus(1);
        self.clean = false;
        let none = KnownRecords { units: Vec::new(), end_lsn: start, is_sealed: false, is_final: false };
        let Some(trailer) = candidate.trailer() else { return Ok(none) };
        let body = self.reader.read_trailer(candidate.slot(), &trailer).await?;
        if let Some(problem) = body.problem() {
            problems.push(format!("its trailer {problem}; it is read record by record"));
        }
        let Found::Valid(body) = body else { return Ok(none) };
        self.clean = trailer.partial;
        let entries = SegmentEntries::new(body);
        if let Some((line, _)) = entries.records().next_back() {
            self.last_time_ns = self.last_time_ns.max(line.time_ns());
            self.epoch = self.epoch.max(line.epoch());
        }
        Ok(KnownRecords {
            units: entries.into_units(),
            end_lsn: trailer.end_lsn,
            is_sealed: !trailer.partial,
            // Nothing can have been written after the end of a clean stop of the last session.
            is_final: trailer.partial && trailer.session == self.session,
        })
    }

    /// Continues to read record by record after the trailer's end, or from the start.
    async fn scan_on(
        &mut self,
        sequence: SegmentSeq,
        candidate: &FoundSegment,
        next: Option<ExpectedEnd>,
        records: &mut KnownRecords,
        problems: &mut Vec<String>,
    ) -> Result<(), LogError> {
        let from = ScanFrom {
            slot: candidate.slot(),
            sequence,
            epoch: self.epoch,
            start: records.end_lsn,
            stable: self.stable_lsn,
            expected_end: next,
            limit: None,
        };
        let scan = self.reader.scan(from).await?;
        self.clean &= scan.units.is_empty();
        self.epoch = self.epoch.max(scan.epoch);
        self.last_time_ns = self.last_time_ns.max(scan.last_time_ns);
        self.stable_lsn = self.stable_lsn.max(scan.stable_lsn);
        if !scan.bad_blocks.is_empty() {
            problems
                .push(format!("{} of its data blocks are damaged or cannot be read", scan.bad_blocks.len()));
        }
        // After a clean stop, an earlier start has already dropped what follows the end.
        if scan.dropped_records > 0 && !self.clean {
            self.notes.push(format!(
                "segment {sequence}: {} records behind LSN {} were dropped: a record before them is missing",
                scan.dropped_records, scan.end_lsn
            ));
        }
        for lost in scan.lost {
            self.lose(lost);
        }
        records.units.extend(scan.units);
        records.end_lsn = scan.end_lsn;
        Ok(())
    }
}
