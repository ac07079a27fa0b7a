//! Finds out which segments are in the slots of a device, from their headers, records or trailers.
//!
//! **Invariant.** A segment is found at most once. After a crash a sequence may have been opened
//! again in another slot; the later opening counts.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use crate::log::format::{SegmentHeader, TrailerHead};
use crate::log::reader::{Found, ReadError, SegmentReader};
use crate::log::types::{Lsn, SegmentSeq, Slot};

/// How many slots are read at once.
const SLOTS_AT_ONCE: usize = 64;

/// A segment found in a slot.
pub(super) struct FoundSegment {
    slot: Slot,
    epoch: u32,
    header: Option<SegmentHeader>,
    /// Whether the header was rebuilt from the first record.
    is_rebuilt: bool,
    trailer: Option<TrailerHead>,
    problems: Vec<String>,
}

impl FoundSegment {
    /// Its slot.
    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    /// The epoch in which it was opened.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Its header, if it is valid or could be rebuilt.
    pub(super) fn header(&self) -> Option<&SegmentHeader> {
        self.header.as_ref()
    }

    /// Whether its header was rebuilt from the first record.
    pub(super) fn is_rebuilt(&self) -> bool {
        self.is_rebuilt
    }

    /// The head of its trailer.
    pub(super) fn trailer(&self) -> Option<TrailerHead> {
        self.trailer
    }

    /// Its problems, as text.
    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// How far the log was stable, according to the segment. A trailer is written after its records
    /// are stable.
    pub(super) fn stable_lsn(&self) -> Lsn {
        let header = self.header.as_ref().map_or(Lsn(0), |header| header.stable_lsn);
        header.max(self.trailer.map_or(Lsn(0), |trailer| trailer.end_lsn))
    }
}

/// The content of a device's slots.
#[derive(Default)]
pub(super) struct FoundSlots {
    /// The segments that were found.
    pub(super) found: BTreeMap<SegmentSeq, FoundSegment>,
    /// Slots that may hold an unknown segment, because the device cannot read the blocks that
    /// identify it; the segment that was found may be from an earlier use. These slots are not
    /// free, whatever was found.
    pub(super) unsure: BTreeSet<Slot>,
    /// Those of them that may hold the newest segment.
    pub(super) anonymous: BTreeSet<Slot>,
}

/// The content of one slot.
struct SlotContent {
    /// The segment in it, if one was found.
    found: Option<(SegmentSeq, FoundSegment)>,
    /// Whether the device could not read the blocks that would identify the segment.
    is_unsure: bool,
    /// Whether no block at the start of the segment can be read, so that it may be any segment.
    is_anonymous: bool,
}

/// A read of one slot in progress.
type SlotRead<'a> = Pin<Box<dyn Future<Output = Result<SlotContent, ReadError>> + 'a>>;

/// Reads the content of every slot.
///
/// # Errors
/// No memory.
pub(super) async fn find_segments(reader: &SegmentReader) -> Result<FoundSlots, ReadError> {
    let mut slots = FoundSlots::default();
    let all: Vec<Slot> = (0..reader.geometry().slots).map(Slot).collect();
    for batch in all.chunks(SLOTS_AT_ONCE) {
        let reads: Vec<SlotRead<'_>> =
            batch.iter().map(|&slot| Box::pin(read_slot(reader, slot)) as _).collect();
        for (&slot, content) in batch.iter().zip(join_all(reads).await) {
            let content = content?;
            slots.unsure.extend(content.is_unsure.then_some(slot));
            slots.anonymous.extend(content.is_anonymous.then_some(slot));
            let Some((sequence, candidate)) = content.found else { continue };
            let older = slots.found.get(&sequence).is_some_and(|known| known.epoch >= candidate.epoch);
            if !older {
                slots.found.insert(sequence, candidate);
            }
        }
    }
    debug_assert!(slots.anonymous.is_subset(&slots.unsure));
    Ok(slots)
}

async fn read_slot(reader: &SegmentReader, slot: Slot) -> Result<SlotContent, ReadError> {
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
        let candidate = FoundSegment { slot, epoch, header, is_rebuilt: false, trailer, problems };
        return Ok(SlotContent { found: Some((sequence, candidate)), is_unsure, is_anonymous: false });
    }
    // The header is damaged, or the slot was never used: the records or the trailer may still
    // identify the segment. In a blank slot only the first record is read, because otherwise a
    // start would read a new device completely.
    let problem = header.problem().unwrap_or_default();
    problems.push(format!("its header in slot {slot} {problem}"));
    let first_is_lost = reader.is_first_record_lost(slot).await?;
    let newest = if header == Found::Blank && !first_is_lost && trailer.is_none() {
        reader.first_record(slot).await?
    } else {
        reader.newest_record(slot).await?
    };
    let by_record = newest.as_ref().map(|first| (first.sequence(), first.epoch()));
    // A trailer from an earlier use may follow the records of a later segment.
    let trailer =
        trailer.filter(|trailer| by_record.is_none_or(|(sequence, _)| sequence <= trailer.sequence));
    let named = trailer.map(|trailer| (trailer.sequence, trailer.epoch)).or(by_record);
    let found = named.map(|(sequence, epoch)| {
        let first = newest.filter(|first| first.sequence() == sequence);
        let header = first.and_then(|first| first.header(reader.geometry().first_lsn(sequence)));
        let (epoch, is_rebuilt) = (header.as_ref().map_or(epoch, |header| header.epoch), header.is_some());
        let trailer = trailer.filter(|trailer| trailer.epoch == epoch);
        (sequence, FoundSegment { slot, epoch, header, is_rebuilt, trailer, problems })
    });
    Ok(SlotContent { found, is_unsure, is_anonymous: is_unsure && first_is_lost })
}

/// Runs futures together and returns their results in order.
async fn join_all<'a, T>(mut futures: Vec<Pin<Box<dyn Future<Output = T> + 'a>>>) -> Vec<T> {
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
