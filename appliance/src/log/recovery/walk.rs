//! The walk along the segments of a device: which there are, which belong to the log, and where it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use super::{LogError, SLOTS_AT_ONCE};
use crate::log::format::{RecordLine, SegmentHeader, TrailerHead, TrailerUnit};
use crate::log::geometry::Geometry;
use crate::log::reader::{ExpectedEnd, Found, LsnRange, ReadError, ScanFrom, SegmentEntries, SegmentReader};
use crate::log::table::{Phase, Segment, SegmentTable};
use crate::log::types::{Lsn, SegmentSeq, Slot};

/// The most segments that are told to be missing before the first one found.
const MISSING_MAX: usize = 1024;

/// A segment that was found in a slot.
pub(super) struct Candidate {
    pub(super) slot: Slot,
    pub(super) epoch: u32,
    pub(super) header: Option<SegmentHeader>,
    /// Whether the header was made again from what the first record says.
    pub(super) is_rebuilt: bool,
    pub(super) trailer: Option<TrailerHead>,
    pub(super) problems: Vec<String>,
}

impl Candidate {
    /// Up to where the log was stable, as it says. A trailer is written when its records are.
    fn stable_lsn(&self) -> Lsn {
        let header = self.header.as_ref().map_or(Lsn(0), |header| header.stable_lsn);
        header.max(self.trailer.map_or(Lsn(0), |trailer| trailer.end_lsn))
    }
}

/// The last segment that was found.
struct Last {
    sequence: SegmentSeq,
    slot: Slot,
    /// The greatest epoch in which any was opened.
    epoch: u32,
}

impl Last {
    /// There is one.
    fn of(candidates: &BTreeMap<SegmentSeq, Candidate>) -> Self {
        let last = candidates.last_key_value();
        let (sequence, slot) =
            last.map_or((SegmentSeq(0), Slot(0)), |(&sequence, candidate)| (sequence, candidate.slot));
        let epoch = candidates.values().map(|candidate| candidate.epoch).max().unwrap_or(0);
        Last { sequence, slot, epoch }
    }
}

/// What a look into a slot found.
pub(super) struct Slotted {
    /// The segment in it, if one was found.
    found: Option<(SegmentSeq, Candidate)>,
    /// Whether the device could not read what would tell which segment is in it.
    is_unsure: bool,
    /// Whether nothing of the beginning of a segment can be read there: any might be.
    is_anonymous: bool,
}

/// What is in the slots of a device.
#[derive(Default)]
pub(super) struct Slots {
    /// The segments that were found.
    pub(super) found: BTreeMap<SegmentSeq, Candidate>,
    /// Slots of which the device cannot read which segment they hold: what was found there may be of an earlier life.
    /// They are not free, whatever was found.
    pub(super) unsure: BTreeSet<Slot>,
    /// Those in which the newest segment of all may be.
    pub(super) anonymous: BTreeSet<Slot>,
}

/// A look into one slot, under way.
type Look<'a> = Pin<Box<dyn Future<Output = Result<Slotted, ReadError>> + 'a>>;

/// Looks into every slot.
///
/// # Errors
/// No memory.
pub(super) async fn find_segments(reader: &SegmentReader) -> Result<Slots, ReadError> {
    let mut slots = Slots::default();
    let all: Vec<Slot> = (0..reader.geometry().slots).map(Slot).collect();
    for batch in all.chunks(SLOTS_AT_ONCE) {
        let looks: Vec<Look<'_>> = batch.iter().map(|&slot| Box::pin(look_into(reader, slot)) as _).collect();
        for (&slot, look) in batch.iter().zip(join_all(looks).await) {
            let look = look?;
            slots.unsure.extend(look.is_unsure.then_some(slot));
            slots.anonymous.extend(look.is_anonymous.then_some(slot));
            let Some((sequence, candidate)) = look.found else { continue };
            // After a crash a sequence may have been opened again in another slot; the later opening counts.
            let older = slots.found.get(&sequence).is_some_and(|known| known.epoch >= candidate.epoch);
            if !older {
                slots.found.insert(sequence, candidate);
            }
        }
    }
    Ok(slots)
}

async fn look_into(reader: &SegmentReader, slot: Slot) -> Result<Slotted, ReadError> {
    let header = reader.read_header(slot).await?;
    let trailer = reader.read_trailer_head(slot).await?;
    let mut problems = Vec::new();
    if let (Found::Damaged(_) | Found::Lost, Some(problem)) = (&trailer, trailer.problem()) {
        problems.push(format!("its trailer in slot {slot} {problem}; it is read record by record"));
    }
    let trailer = trailer.valid();
    let is_unsure = header == Found::Lost;
    if let Found::Valid(header) = header {
        let matches =
            |trailer: &TrailerHead| trailer.sequence == header.sequence && trailer.epoch == header.epoch;
        let trailer = trailer.filter(matches);
        let (epoch, sequence) = (header.epoch, header.sequence);
        let header = Some(header);
        let candidate = Candidate { slot, epoch, header, is_rebuilt: false, trailer, problems };
        return Ok(Slotted { found: Some((sequence, candidate)), is_unsure, is_anonymous: false });
    }
    // The header is damaged, or the slot was never used: the records or the trailer may still tell. A blank slot is
    // looked at no further than its first record, or a start would read the whole of a new device.
    let problem = header.problem().unwrap_or_default();
    problems.push(format!("its header in slot {slot} {problem}"));
    let first_is_lost = reader.is_first_record_lost(slot).await?;
    let newest = if header == Found::Blank && !first_is_lost && trailer.is_none() {
        reader.first_record(slot).await?
    } else {
        reader.newest_record(slot).await?
    };
    let by_record = newest.as_ref().map(|first| (first.head.sequence, first.head.epoch));
    // A trailer of an earlier life may lie behind the records of a later one.
    let trailer =
        trailer.filter(|trailer| by_record.is_none_or(|(sequence, _)| sequence <= trailer.sequence));
    let named = trailer.map(|trailer| (trailer.sequence, trailer.epoch)).or(by_record);
    let found = named.map(|(sequence, epoch)| {
        let first = newest.filter(|first| first.head.sequence == sequence);
        let header = first.and_then(|first| first.header(reader.geometry().first_lsn(sequence)));
        let (epoch, is_rebuilt) = (header.as_ref().map_or(epoch, |header| header.epoch), header.is_some());
        let trailer = trailer.filter(|trailer| trailer.epoch == epoch);
        (sequence, Candidate { slot, epoch, header, is_rebuilt, trailer, problems })
    });
    Ok(Slotted { found, is_unsure, is_anonymous: is_unsure && first_is_lost })
}

/// The walk along the segments.
pub(super) struct Walk {
    pub(super) reader: SegmentReader,
    pub(super) version: u32,
    pub(super) geometry: Geometry,
    pub(super) table: SegmentTable,
    pub(super) stable_lsn: Lsn,
    pub(super) end_lsn: Lsn,
    pub(super) epoch: u32,
    pub(super) last_time_ns: u64,
    /// The epoch in which the pool was opened last.
    pub(super) session: u32,
    /// Where the log ended then.
    pub(super) begun_lsn: Lsn,
    /// The oldest segment that was kept.
    pub(super) oldest: SegmentSeq,
    /// Segments behind it that were released before their turn.
    pub(super) released: BTreeSet<SegmentSeq>,
    /// Where segments end whose next one was released, as the newest header tells it.
    pub(super) ends: BTreeMap<SegmentSeq, ExpectedEnd>,
    /// Segments that should be there and are not, and in which nothing can be live.
    pub(super) missing: Vec<SegmentSeq>,
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
        // Where the log ended at the last start there was a segment, also if nothing of it is
        // found.
        let begun = self.geometry.sequence_of(Lsn(self.begun_lsn.0.saturating_sub(1)));
        let ends = candidates.first_key_value().zip(candidates.last_key_value());
        let Some(((&first, _), (&newest, _))) = ends else {
            if self.begun_lsn > Lsn(0) {
                self.table = SegmentTable::new(begun, []);
                self.lose_segment(begun);
            }
            return Ok(());
        };
        // No more of them than there are slots, whatever a superblock says.
        let begun = begun.min(SegmentSeq(newest.0.saturating_add(self.geometry.slots)));
        // What is missing before the first segment found is lost, unless it may be gone.
        let mut before = (self.oldest.0..first.0).map(SegmentSeq);
        let mut oldest = before.find(|&sequence| !self.is_gone(sequence, newest)).unwrap_or(first);
        if candidates.values().all(|candidate| candidate.header.is_none()) {
            // Without a header nobody knows what may be gone: a log that was recovered begins with
            // a late segment.
            (self.oldest, oldest) = (first, first);
        }
        self.table = SegmentTable::new(oldest, []);
        self.missing = (self.oldest.0..oldest.0).rev().take(MISSING_MAX).map(SegmentSeq).collect();
        self.missing.reverse();
        self.stable_lsn = candidates.values().map(Candidate::stable_lsn).fold(self.stable_lsn, Lsn::max);
        let last = Last::of(candidates);
        for sequence in oldest.0..=newest.max(begun).0 {
            let sequence = SegmentSeq(sequence);
            let first_lsn = self.geometry.first_lsn(sequence);
            let next = candidates
                .get(&sequence.next())
                .and_then(|next| next.header.as_ref())
                .map(|header| ExpectedEnd { lsn: header.previous_end_lsn, epoch: header.epoch })
                .or_else(|| self.ends.get(&sequence).copied());
            let Some(candidate) = candidates.get_mut(&sequence) else {
                if self.is_gone(sequence, newest) {
                    if !self.released.contains(&sequence) {
                        self.missing.push(sequence);
                    }
                    self.skip_segment(sequence, next);
                    continue;
                }
                if self.stable_lsn <= first_lsn {
                    break;
                }
                self.lose_segment(sequence);
                continue;
            };
            // A whole trailer tells what was in the segment, whatever stands in its records' place,
            // and a slot without any is of a segment that was not sealed.
            let may_be_gone = candidate.trailer.is_none() && !candidate.problems.is_empty();
            if may_be_gone && sequence < newest && self.was_given_away(sequence, candidate, &last).await? {
                self.released.insert(sequence);
                self.skip_segment(sequence, next);
                continue;
            }
            let joins =
                candidate.header.as_ref().is_some_and(|header| header.previous_end_lsn == self.end_lsn);
            let is_proven = joins || self.table.is_empty() || self.stable_lsn > first_lsn;
            if candidate.header.is_none() || !is_proven {
                // Its own records may prove that it had been stable.
                let records = self.reader.look_through(candidate.slot, sequence, candidate.epoch).await?;
                self.stable_lsn = self.stable_lsn.max(records.stable_lsn);
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
            self.take(sequence, candidate, next).await?;
        }
        Ok(())
    }

    /// Slots that must not be used although no segment of the log is known to be in them: the device cannot read what
    /// they hold. If one may hold the newest segment of all, that is lost: no segment tells of it.
    pub(super) fn withhold(&mut self, slots: &Slots) -> BTreeSet<Slot> {
        let used: BTreeSet<Slot> = self.table.iter().filter_map(|(_, segment)| segment.slot).collect();
        let withheld: BTreeSet<Slot> = slots.unsure.difference(&used).copied().collect();
        for slot in &withheld {
            self.problems.push(format!(
                "slot {slot}: its header cannot be read, and nothing says what it holds; it is not used. The device may be failing: replace it soon"
            ));
        }
        let newest = self.table.iter().next_back().map(|(sequence, segment)| (sequence, segment.slot));
        if let Some((sequence, slot)) = newest {
            let may_be_newer = slots.anonymous.iter().any(|anonymous| Some(*anonymous) != slot);
            if may_be_newer && !self.clean {
                self.lose_segment(sequence.next());
            }
        }
        withheld
    }

    /// Drops what the headers say is gone: segments before the oldest that was kept, and those that were released before their turn. What a header says of this stays
    /// true even if the log was cut off before it: the copies that made it so were stable before a slot was given away.
    fn forget_released(&mut self, candidates: &mut BTreeMap<SegmentSeq, Candidate>) {
        let headers: Vec<&SegmentHeader> =
            candidates.values().filter_map(|candidate| candidate.header.as_ref()).collect();
        self.oldest = headers.iter().map(|header| header.oldest).max().unwrap_or_default();
        self.released = headers.iter().flat_map(|header| header.released.iter().copied()).collect();
        self.released.retain(|&sequence| sequence > self.oldest);
        for header in &headers {
            for &lsn in &header.ends {
                let sequence = self.geometry.sequence_of(Lsn(lsn.0 - 1));
                let end = ExpectedEnd { lsn, epoch: header.epoch };
                let known = self.ends.entry(sequence).or_insert(end);
                if known.epoch <= end.epoch {
                    *known = end;
                }
            }
        }
        candidates.retain(|sequence, _| *sequence >= self.oldest && !self.released.contains(sequence));
    }

    /// What a header of this segment tells of where others end.
    fn ends_before(&self, sequence: SegmentSeq) -> Vec<Lsn> {
        self.ends.range(self.oldest.min(sequence)..sequence).map(|(_, end)| end.lsn).collect()
    }

    /// Whether a segment that is not on the device need not be there: it was released, or the newest segment could not have been opened with anything live in it.
    fn is_gone(&self, sequence: SegmentSeq, newest: SegmentSeq) -> bool {
        self.released.contains(&sequence) || sequence.0 + self.geometry.working_set < newest.0
    }

    /// Whether the slot of a segment had been given away, to a segment whose header a power cut
    /// lost. Nothing was live in it then, and nothing of the later one had become stable; what is
    /// left of its own records would be taken for damaged. It does not count when the log went on
    /// without the later one: since then a clone of the past may have brought the segment back into
    /// use.
    async fn was_given_away(
        &self,
        sequence: SegmentSeq,
        candidate: &Candidate,
        last: &Last,
    ) -> Result<bool, ReadError> {
        let later = self.reader.later_epoch(candidate.slot, sequence, candidate.epoch).await?;
        let Some(later_epoch) = later else { return Ok(false) };
        if later_epoch < last.epoch {
            return Ok(false);
        }
        let newest_epoch = self.reader.look_through(last.slot, last.sequence, last.epoch).await?.epoch;
        Ok(later_epoch >= newest_epoch)
    }

    /// Leaves out a segment that was released. The log goes on where the one behind it says.
    fn skip_segment(&mut self, sequence: SegmentSeq, next: Option<ExpectedEnd>) {
        let end = next.map_or(self.geometry.first_lsn(sequence.next()), |next| next.lsn);
        self.end_lsn = end;
        if self.table.is_empty() {
            // One that is gone is in the table only behind others.
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
        // What the last start left out does not come back because a header is made again that was
        // not there.
        if candidate.is_rebuilt && candidate.epoch < self.session && self.stable_lsn <= first_lsn {
            return candidate.trailer.is_some();
        }
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
            "the records at LSN {} to {} are lost (earlier points have what was there: `varve restore clone`); blocks that were not written again after them are not served",
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
        if let Some(header) = candidate.header.as_ref().filter(|_| candidate.is_rebuilt) {
            self.repairs.push((candidate.slot, header.clone()));
        } else if candidate.header.is_none() {
            let header = SegmentHeader {
                version: self.version,
                epoch: candidate.epoch,
                sequence,
                first_lsn: self.geometry.first_lsn(sequence),
                opened_ns,
                previous_end_lsn: self.end_lsn,
                stable_lsn: self.stable_lsn.min(self.end_lsn),
                oldest: self.oldest.min(sequence),
                released: self.released.iter().copied().filter(|&gone| gone < sequence).collect(),
                ends: self.ends_before(sequence),
            };
            self.repairs.push((candidate.slot, header));
        }
        let mut units = Vec::new();
        let mut from = self.geometry.first_lsn(sequence).plus(1);
        let mut sealed = false;
        let mut dropped = None;
        self.clean = false;
        // Nothing can have been written behind what the last session left cleanly.
        let mut ends = false;
        if let Some(trailer) = candidate.trailer {
            let body = self.reader.read_trailer(candidate.slot, &trailer).await?;
            if let Some(problem) = body.problem() {
                problems.push(format!("its trailer {problem}; it is read record by record"));
            }
            if let Found::Valid(body) = body {
                from = trailer.end_lsn;
                sealed = !trailer.partial;
                self.clean = trailer.partial;
                ends = trailer.partial && trailer.session == self.session;
                let entries = SegmentEntries::new(body);
                if let Some((line, _)) = entries.records().next_back() {
                    self.note_line(line);
                }
                units = entries.into_units();
            }
        }
        if !sealed && !ends {
            let scan = self.reader.scan(ScanFrom {
                slot: candidate.slot,
                sequence,
                epoch: self.epoch,
                start: from,
                stable: self.stable_lsn,
                expected_end: next,
                limit: None,
            });
            let scan = scan.await?;
            self.clean &= scan.units.is_empty();
            self.epoch = self.epoch.max(scan.epoch);
            self.last_time_ns = self.last_time_ns.max(scan.last_time_ns);
            self.stable_lsn = self.stable_lsn.max(scan.stable_lsn);
            if !scan.bad_blocks.is_empty() {
                problems.push(format!(
                    "{} of its data blocks are damaged or cannot be read",
                    scan.bad_blocks.len()
                ));
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
        if let Some(entry) = all().find(|entry| !entry.is_known()) {
            let (entry, version) = (format!("{entry:?}"), self.version);
            return Err(LogError::UnknownEntry { sequence, entry, version });
        }
        let (entries, trims) = (all().count() as u64, all().filter(|entry| entry.is_trim()).count() as u64);
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
