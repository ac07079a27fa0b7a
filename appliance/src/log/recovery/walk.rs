//! The walk along the segments of a device: which there are, which belong to the log, and where it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use uuid::Uuid;

use super::{LogError, OnReadError, SLOTS_AT_ONCE};
use crate::log::format::{FormatError, RecordHead, RecordLine, SegmentHeader, TrailerHead, TrailerUnit};
use crate::log::geometry::Geometry;
use crate::log::reader::{ExpectedEnd, LsnRange, ReadError, SegmentEntries, SegmentReader};
use crate::log::table::{Phase, Segment, SegmentTable};
use crate::log::types::{Lsn, SegmentSeq, Slot};

/// A segment that was found in a slot.
pub(super) struct Candidate {
    pub(super) slot: Slot,
    pub(super) epoch: u32,
    pub(super) header: Option<SegmentHeader>,
    pub(super) trailer: Option<TrailerHead>,
    pub(super) problems: Vec<String>,
}

/// A look into one slot, under way.
pub(super) type Look<'a> = Pin<Box<dyn Future<Output = Option<(SegmentSeq, Candidate)>> + 'a>>;

/// Looks into every slot.
pub(super) async fn find_segments(reader: &SegmentReader, pool: Uuid) -> BTreeMap<SegmentSeq, Candidate> {
    let mut found: BTreeMap<SegmentSeq, Candidate> = BTreeMap::new();
    let slots: Vec<Slot> = (0..reader.geometry().slots).map(Slot).collect();
    for batch in slots.chunks(SLOTS_AT_ONCE) {
        let looks: Vec<Look<'_>> =
            batch.iter().map(|&slot| Box::pin(look_into(reader, pool, slot)) as _).collect();
        for (sequence, candidate) in join_all(looks).await.into_iter().flatten() {
            // After a crash a sequence may have been opened again in another slot; the later opening counts.
            let older = found.get(&sequence).is_some_and(|known| known.epoch >= candidate.epoch);
            if !older {
                found.insert(sequence, candidate);
            }
        }
    }
    found
}

pub(super) async fn look_into(
    reader: &SegmentReader,
    pool: Uuid,
    slot: Slot,
) -> Option<(SegmentSeq, Candidate)> {
    let header = match reader.read_header(slot).await {
        Ok(Ok(header)) => Ok(header),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let mut problems = Vec::new();
    let trailer = match reader.read_trailer_head(slot).await {
        Ok(Ok(trailer)) => Some(trailer),
        Ok(Err(None)) => None,
        Ok(Err(Some(error))) => {
            problems
                .push(format!("its trailer in slot {slot} is damaged: {error}; it is read record by record"));
            None
        }
        Err(error) => {
            problems.push(format!(
                "its trailer in slot {slot} cannot be read: {error}; it is read record by record"
            ));
            None
        }
    };
    match header {
        Ok(header) => {
            let matches =
                |trailer: &TrailerHead| trailer.sequence == header.sequence && trailer.epoch == header.epoch;
            let trailer = trailer.filter(matches);
            let (epoch, sequence) = (header.epoch, header.sequence);
            Some((sequence, Candidate { slot, epoch, header: Some(header), trailer, problems }))
        }
        Err(error) => {
            // The header is damaged, or the slot was never used: the trailer, or the first record, may still tell.
            problems.push(format!("its header in slot {slot} is damaged: {error}"));
            if let Some(trailer) = trailer {
                let candidate =
                    Candidate { slot, epoch: trailer.epoch, header: None, trailer: Some(trailer), problems };
                return Some((trailer.sequence, candidate));
            }
            let geometry = reader.geometry();
            let block = reader.read_blocks(geometry.slot_block(slot) + 1, 1).await.ok()?;
            let (head, _) = RecordHead::decode_any(block.as_slice(), pool).ok()?;
            if geometry.first_lsn(head.sequence).plus(1) != head.lsn {
                return None;
            }
            Some((
                head.sequence,
                Candidate { slot, epoch: head.epoch, header: None, trailer: None, problems },
            ))
        }
    }
}

/// The walk along the segments.
pub(super) struct Walk {
    pub(super) reader: SegmentReader,
    pub(super) geometry: Geometry,
    pub(super) on_read_error: OnReadError,
    pub(super) table: SegmentTable,
    pub(super) stable_lsn: Lsn,
    pub(super) end_lsn: Lsn,
    pub(super) epoch: u32,
    pub(super) last_time_ns: u64,
    /// The epoch in which the pool was opened last.
    pub(super) session: u32,
    /// The oldest segment that was kept.
    pub(super) oldest: SegmentSeq,
    /// Segments behind it that were released before their turn.
    pub(super) released: BTreeSet<SegmentSeq>,
    /// Headers that were damaged, to be written again.
    pub(super) repairs: Vec<(Slot, SegmentHeader)>,
    /// Segments without a full trailer, with their units.
    pub(super) pending: Vec<(SegmentSeq, Vec<TrailerUnit>)>,
    pub(super) clean: bool,
    pub(super) lost: Vec<LsnRange>,
    pub(super) problems: Vec<String>,
    /// What was cut off rightly.
    pub(super) notes: Vec<String>,
}

impl Walk {
    pub(super) async fn run(
        &mut self,
        candidates: &mut BTreeMap<SegmentSeq, Candidate>,
    ) -> Result<(), LogError> {
        self.forget_released(candidates);
        let Some((&first, _)) = candidates.first_key_value() else { return Ok(()) };
        let Some((&newest, _)) = candidates.last_key_value() else { return Ok(()) };
        // What is missing before the first segment found is lost, unless it may be gone.
        let oldest = (self.oldest.0..first.0)
            .map(SegmentSeq)
            .find(|&sequence| !self.is_gone(sequence, newest))
            .unwrap_or(first);
        self.table = SegmentTable::new(oldest, []);
        let stable =
            |candidate: &Candidate| candidate.header.as_ref().map_or(Lsn(0), |header| header.stable_lsn);
        self.stable_lsn = candidates.values().map(stable).max().unwrap_or_default();
        for sequence in oldest.0..=newest.0 {
            let sequence = SegmentSeq(sequence);
            let first_lsn = self.geometry.first_lsn(sequence);
            let next = candidates
                .get(&sequence.next())
                .and_then(|next| next.header.as_ref())
                .map(|header| ExpectedEnd { lsn: header.previous_end_lsn, epoch: header.epoch });
            let Some(candidate) = candidates.get_mut(&sequence) else {
                if self.is_gone(sequence, newest) {
                    self.skip_segment(sequence, next);
                    continue;
                }
                if self.stable_lsn <= first_lsn {
                    break;
                }
                self.lose_segment(sequence);
                continue;
            };
            if candidate.header.is_none() {
                // Its own records may prove that it had been stable.
                let proof = self.reader.stable_lsn_of(candidate.slot, sequence, candidate.epoch).await?;
                self.stable_lsn = self.stable_lsn.max(proof);
            }
            // Epochs do not fall along the log: this is an earlier life of a segment that was cut off.
            if candidate.epoch < self.epoch {
                if self.stable_lsn <= first_lsn {
                    break;
                }
                self.lose_segment(sequence);
                continue;
            }
            if !self.table.is_empty() && !self.continues(candidate, first_lsn) {
                break;
            }
            match self.take(sequence, candidate, next).await {
                Err(LogError::Read(ReadError::Device(error)))
                    if self.on_read_error == OnReadError::Report =>
                {
                    self.problems.push(format!("segment {sequence} cannot be read: {error}"));
                    self.lose_segment(sequence);
                }
                taken => taken?,
            }
        }
        Ok(())
    }

    /// Drops what the headers say is gone: segments before the oldest that was kept, and those that were released before their turn. What a header says of this stays
    /// true even if the log was cut off before it: the copies that made it so were stable before a slot was given away.
    fn forget_released(&mut self, candidates: &mut BTreeMap<SegmentSeq, Candidate>) {
        let headers: Vec<&SegmentHeader> =
            candidates.values().filter_map(|candidate| candidate.header.as_ref()).collect();
        self.oldest = headers.iter().map(|header| header.oldest).max().unwrap_or_default();
        self.released = headers.iter().flat_map(|header| header.released.iter().copied()).collect();
        self.released.retain(|&sequence| sequence > self.oldest);
        candidates.retain(|sequence, _| *sequence >= self.oldest && !self.released.contains(sequence));
    }

    /// Whether a segment that is not on the device need not be there: it was released, or the newest segment could not have been opened with anything live in it.
    fn is_gone(&self, sequence: SegmentSeq, newest: SegmentSeq) -> bool {
        self.released.contains(&sequence) || sequence.0 + self.geometry.working_set < newest.0
    }

    /// Leaves out a segment that was released. The log goes on where the one behind it says.
    fn skip_segment(&mut self, sequence: SegmentSeq, next: Option<ExpectedEnd>) {
        let end = next.map_or(self.geometry.first_lsn(sequence.next()), |next| next.lsn);
        self.table.push(Segment {
            epoch: self.epoch,
            opened_ns: self.last_time_ns,
            end_lsn: end,
            sealed: true,
            phase: Phase::Released,
            ..Segment::default()
        });
        self.end_lsn = end;
    }

    /// Whether the segment goes on where the log is now.
    pub(super) fn continues(&mut self, candidate: &Candidate, first_lsn: Lsn) -> bool {
        let Some(header) = candidate.header.as_ref() else {
            // Without its header, only what is proven to follow belongs to the log.
            // A trailer proves it: it is written when its records are stable. So does a record of the last session behind a segment that was
            // whole; one of an earlier session may have been cut off since.
            let follows = self.table.iter().next_back().is_some_and(|(_, segment)| segment.sealed);
            return candidate.trailer.is_some()
                || (follows && candidate.epoch >= self.session)
                || self.stable_lsn > first_lsn;
        };
        if header.previous_end_lsn == self.end_lsn && header.epoch >= self.epoch {
            return true;
        }
        // What is missing before it was torn, unless it had been stable. A trailer, of the header's own life, proves that of all that is before it too.
        if self.stable_lsn <= first_lsn && candidate.trailer.is_none() {
            return false;
        }
        if header.previous_end_lsn > self.end_lsn {
            self.lose(LsnRange { start: self.end_lsn, end: header.previous_end_lsn });
        }
        true
    }

    pub(super) fn lose(&mut self, range: LsnRange) {
        self.problems.push(format!(
            "the records at LSN {} to {} are lost; blocks that were not written again after them are not served",
            range.start, range.end
        ));
        self.lost.push(range);
    }

    pub(super) fn lose_segment(&mut self, sequence: SegmentSeq) {
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

    /// Adds a segment to the log and finds out where it ends.
    /// `next` is what the segment after it, if there is one, says about where it ends.
    pub(super) async fn take(
        &mut self,
        sequence: SegmentSeq,
        candidate: &mut Candidate,
        next: Option<ExpectedEnd>,
    ) -> Result<(), LogError> {
        let opened_ns = candidate.header.as_ref().map_or(self.last_time_ns, |header| header.opened_ns);
        let mut problems = std::mem::take(&mut candidate.problems);
        self.last_time_ns = self.last_time_ns.max(opened_ns);
        self.epoch = self.epoch.max(candidate.epoch);
        if candidate.header.is_none() {
            let header = SegmentHeader {
                epoch: candidate.epoch,
                sequence,
                first_lsn: self.geometry.first_lsn(sequence),
                opened_ns,
                previous_end_lsn: self.end_lsn,
                stable_lsn: self.stable_lsn.min(self.end_lsn),
                oldest: self.oldest.min(sequence),
                released: self.released.iter().copied().filter(|&gone| gone < sequence).collect(),
            };
            self.repairs.push((candidate.slot, header));
        }
        let mut units = Vec::new();
        let mut from = self.geometry.first_lsn(sequence).plus(1);
        let mut sealed = false;
        let mut dropped = None;
        self.clean = false;
        if let Some(trailer) = candidate.trailer {
            match self.reader.read_trailer(candidate.slot, &trailer).await? {
                Ok(body) => {
                    units = body;
                    from = trailer.end_lsn;
                    sealed = !trailer.partial;
                    self.clean = trailer.partial;
                    let entries = SegmentEntries::new(std::mem::take(&mut units));
                    if let Some((line, _)) = entries.records().next_back() {
                        self.note_line(line);
                    }
                    units = entries.into_units();
                }
                Err(FormatError::Checksum) => {
                    problems.push("its trailer is damaged; it is read record by record".to_owned());
                }
                Err(error) => {
                    problems.push(format!("its trailer is unusable: {error}; it is read record by record"));
                }
            }
        }
        if !sealed {
            let scan =
                self.reader.scan(candidate.slot, sequence, self.epoch, from, self.stable_lsn, next).await?;
            self.clean &= scan.units.is_empty();
            self.epoch = self.epoch.max(scan.epoch);
            self.last_time_ns = self.last_time_ns.max(scan.last_time_ns);
            self.stable_lsn = self.stable_lsn.max(scan.stable_lsn);
            if !scan.bad_blocks.is_empty() {
                problems.push(format!("{} of its data blocks are damaged", scan.bad_blocks.len()));
            }
            // After a clean stop, what lies behind the end was dropped by an earlier start.
            if scan.dropped_records > 0 && !self.clean {
                dropped = Some(format!(
                    "{} records behind LSN {} were dropped: a record before them is missing",
                    scan.dropped_records, scan.end_lsn
                ));
            }
            for lost in scan.lost {
                self.lose(lost);
            }
            units.extend(scan.units);
            from = scan.end_lsn;
        }
        self.end_lsn = from;
        for problem in &problems {
            self.problems.push(format!("segment {sequence}: {problem}"));
        }
        self.notes.extend(dropped.iter().map(|dropped| format!("segment {sequence}: {dropped}")));
        let records = SegmentEntries::new(units);
        let all = || records.records().flat_map(|(_, entries)| entries);
        let (entries, trims) = (all().count() as u64, all().filter(|entry| !entry.has_data()).count() as u64);
        let units = records.into_units();
        self.table.push(Segment {
            slot: Some(candidate.slot),
            epoch: candidate.epoch,
            opened_ns,
            end_lsn: from,
            entries,
            trims,
            sealed,
            problems,
            ..Segment::default()
        });
        if !sealed {
            self.pending.push((sequence, units));
        }
        Ok(())
    }

    pub(super) fn note_line(&mut self, line: RecordLine) {
        self.last_time_ns = self.last_time_ns.max(line.time_ns());
        self.epoch = self.epoch.max(line.epoch());
    }
}

/// Runs futures together and returns their results in order.
pub(super) async fn join_all<'a, T>(mut futures: Vec<Pin<Box<dyn Future<Output = T> + 'a>>>) -> Vec<T> {
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        let mut waiting = false;
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting {
            Poll::Pending
        } else {
            Poll::Ready(results.iter_mut().filter_map(Option::take).collect())
        }
    })
    .await
}
