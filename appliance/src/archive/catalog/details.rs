//! Reads what the object names do not contain: times, and the synchs.

use std::ops::ControlFlow;

use super::rows::{GAPS, OBJECTS, SYNCHS, insert_holes, insert_object, insert_synch};
use super::{ArchiveCatalog, CatalogError, ObjectDetails, SynchRow};
use crate::archive::object::{Decompressor, ObjectError, ObjectFront, ObjectId, ObjectReader, read_front};
use crate::archive::store::{Reason, Store, StoreError, StoreErrorKind, StoredObject};
use crate::dma::BLOCK_BYTES;
use crate::log::checksum::crc32c;
use crate::log::format::{EntryKind, EventHead, EventKind};
use crate::log::reader::{LsnRange, PlacedEntry, SegmentEntries};
use crate::log::types::Lsn;

/// Objects read before their details are recorded in one transaction.
const BATCH_OBJECTS: usize = 64;
/// The same is done once the texts of their synchs have so many bytes: one object may have 8,000.
const BATCH_BYTES: usize = 4 << 20;
/// After this many read failures of the store in a row, the store itself counts as unavailable.
const FAILED_IN_A_ROW_MAX: usize = 3;
/// The number of problems that a report describes in words.
const PROBLEMS_MAX: usize = 16;

/// How far the reading of details has advanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillProgress {
    /// Objects read so far.
    pub objects: u64,
    /// The object that is read next.
    pub next: ObjectId,
}

/// What the reading of details found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FillReport {
    /// Objects whose details were read and recorded.
    pub filled: u64,
    /// Synchs found.
    pub synchs: u64,
    /// The synchs among them whose text could not be read.
    pub synchs_without_text: u64,
    /// Objects that are damaged or missing, or that the store fails to return although it returns
    /// others.
    pub failed: u64,
    /// The first 16 of these failures, in words for the operator.
    pub problems: Vec<String>,
}

impl FillReport {
    fn note_failed(&mut self, id: &ObjectId, error: &ObjectError) {
        self.failed += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(format!("{}: {error}", text_of(id)));
        }
    }
}

/// What was read from an object.
struct ObjectContent {
    id: ObjectId,
    len_bytes: u64,
    details: ObjectDetails,
    holes: Vec<LsnRange>,
    synchs: Vec<SynchRow>,
}

impl ArchiveCatalog {
    /// Reads the front of each object whose details are not known, in the order of the log, and
    /// records its times and its synchs. A damaged object is reported and stays as it is. So does
    /// an object that the store fails to return, as long as the store returns later ones.
    /// `progress` is called before each object and may stop the run.
    ///
    /// The text of a synch that a part cuts in two stays unknown until the whole segment is
    /// archived.
    ///
    /// # Errors
    /// The store's error, when it returns no objects any more; the file's; or
    /// [`CatalogError::Stopped`]. What was read before the error is recorded.
    pub fn fill_details(
        &self,
        store: &dyn Store,
        progress: &mut dyn FnMut(FillProgress) -> ControlFlow<()>,
    ) -> Result<FillReport, CatalogError> {
        let mut report = FillReport::default();
        let mut codec = Decompressor::new()?;
        let mut after = None;
        let mut failures: Vec<ObjectError> = Vec::new();
        loop {
            let ids = self.missing_details(after.as_ref(), BATCH_OBJECTS)?;
            let mut batch = Vec::with_capacity(ids.len());
            let mut batch_bytes = 0;
            let mut end = Ok(());
            after = None;
            for &id in &ids {
                after = Some(id);
                if progress(FillProgress { objects: report.filled + report.failed, next: id }).is_break() {
                    end = Err(CatalogError::Stopped);
                    break;
                }
                match read(store, id, &mut codec) {
                    Ok(found) => {
                        report.filled += 1;
                        failures.clear();
                        batch_bytes += found.synchs.iter().map(|synch| synch.text.len()).sum::<usize>();
                        batch.push(found);
                        if batch_bytes >= BATCH_BYTES {
                            break;
                        }
                    }
                    Err(error @ ObjectError::OutOfMemory) => {
                        end = Err(error.into());
                        break;
                    }
                    Err(error) => {
                        report.note_failed(&id, &error);
                        if !is_about_the_object(&error) {
                            failures.push(error);
                        }
                        if failures.len() >= FAILED_IN_A_ROW_MAX {
                            break;
                        }
                    }
                }
            }
            for synch in batch.iter().flat_map(|found| &found.synchs) {
                report.synchs += 1;
                report.synchs_without_text += u64::from(synch.text.is_empty());
            }
            self.record(&batch)?;
            end?;
            if after.is_none() || failures.len() >= FAILED_IN_A_ROW_MAX {
                self.sync()?;
                return failures.pop().map_or(Ok(report), |error| Err(error.into()));
            }
        }
    }

    fn record(&self, batch: &[ObjectContent]) -> Result<(), CatalogError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.update(|transaction| {
            let mut objects = transaction.open_table(OBJECTS)?;
            let mut synchs = transaction.open_table(SYNCHS)?;
            let mut gaps = transaction.open_table(GAPS)?;
            for found in batch {
                insert_holes(&mut gaps, &found.id, &found.holes, found.details.sealed_ns)?;
                insert_object(&mut objects, &found.id, found.len_bytes, Some(found.details))?;
                for synch in &found.synchs {
                    insert_synch(&mut synchs, synch)?;
                }
            }
            Ok(())
        })
    }
}

/// Whether a failure concerns only the object, and not the whole store.
fn is_about_the_object(error: &ObjectError) -> bool {
    match error {
        ObjectError::Store(error) => matches!(
            error.kind,
            // Only the medium with this object is away: other objects can be read.
            StoreErrorKind::NotFound
                | StoreErrorKind::Corrupt(_)
                | StoreErrorKind::OutOfRange
                | StoreErrorKind::Unavailable(Reason::Away)
        ),
        ObjectError::OutOfMemory => false,
        _ => true,
    }
}

fn text_of(id: &ObjectId) -> String {
    id.name().map_or_else(|_| format!("{id:?}"), |name| name.to_string())
}

fn read(store: &dyn Store, id: ObjectId, codec: &mut Decompressor) -> Result<ObjectContent, ObjectError> {
    let name = id.name().map_err(|_| ObjectError::Spec("name"))?;
    let source = StoredObject::open(store, &name)?;
    let len_bytes = crate::archive::object::RangedRead::len_bytes(&source)?;
    // Units that are missing without a recorded hole are damage.
    let ObjectFront { header, units, holes } = read_front(&source, codec)?;
    if !header.id.is_same_stretch(&id) {
        let kind = StoreErrorKind::Corrupt("another object stands under this name");
        return Err(StoreError::new(store.label(), "read", kind).of(&name).into());
    }
    let entries = SegmentEntries::new(units);
    let mut times = entries.records().map(|(line, _)| line.time_ns());
    let records_ns = times.next().map(|first_ns| (first_ns, times.next_back().unwrap_or(first_ns)));
    let mut synchs = Vec::new();
    for event in events(&entries) {
        // An unavailable store is an error; a damaged text is a synch without text.
        let text = match event.read(&source, codec) {
            Ok(text) => text,
            Err(error) if is_about_the_object(&error) => None,
            Err(error) => return Err(error),
        };
        synchs.push(SynchRow { lsn: event.lsn, time_ns: event.time_ns, text: text.unwrap_or_default() });
    }
    let details = ObjectDetails { opened_ns: header.opened_ns, sealed_ns: header.sealed_ns, records_ns };
    Ok(ObjectContent { id, len_bytes, details, holes, synchs })
}

/// A synch event: its position, and the positions of the blocks of its text.
struct Event {
    lsn: Lsn,
    time_ns: u64,
    text_bytes: u64,
    /// For each copy, the position and CRC32C of each chunk; empty when the event began before the
    /// object.
    copies: [Vec<(Lsn, u32)>; EventHead::COPIES as usize],
}

/// The synch events that end in these entries.
fn events(entries: &SegmentEntries) -> Vec<Event> {
    let mut found = Vec::new();
    let mut copies: [Vec<(Lsn, u32)>; EventHead::COPIES as usize] = Default::default();
    let placed = entries.records().flat_map(|(line, entries)| SegmentEntries::placed(line, entries));
    for PlacedEntry { entry, lsn, time_ns } in placed {
        if entry.kind() != Some(EntryKind::Event) {
            continue;
        }
        let head = EventHead::decode(entry.block().0);
        if head.copy == 0 && head.chunk == 0 {
            // The event before this one was never finished.
            copies = Default::default();
        }
        if let Some(copy) = copies.get_mut(usize::from(head.copy)) {
            // A chunk out of order belongs to an event that begins before these entries.
            if copy.len() == head.chunk as usize {
                copy.push((lsn, entry.crc()));
            }
        }
        if entry.is_last() {
            let copies = std::mem::take(&mut copies);
            if head.kind == Some(EventKind::Synch) {
                found.push(Event { lsn, time_ns, text_bytes: entry.value(), copies });
            }
        }
    }
    found
}

impl Event {
    /// The text. Each chunk is read from a copy that is intact; `None` when both copies of a chunk
    /// are damaged.
    fn read(
        &self,
        source: &StoredObject<'_>,
        codec: &mut Decompressor,
    ) -> Result<Option<Vec<u8>>, ObjectError> {
        let chunks = self.text_bytes.div_ceil(BLOCK_BYTES as u64);
        if chunks == 0 || self.copies.iter().all(|copy| (copy.len() as u64) < chunks) {
            return Ok(None);
        }
        let reader = ObjectReader::open(source)?;
        let mut text = Vec::with_capacity(chunks as usize * BLOCK_BYTES);
        for chunk in 0..chunks as usize {
            let mut whole = None;
            for &(lsn, crc) in self.copies.iter().filter_map(|copy| copy.get(chunk)) {
                let mut block = [0; BLOCK_BYTES];
                match reader.read_block(lsn, &mut block, codec) {
                    Ok(()) if crc32c(&block) == crc => {
                        whole = Some(block);
                        break;
                    }
                    Ok(()) => {}
                    Err(error) if is_about_the_object(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            match whole {
                Some(block) => text.extend_from_slice(&block),
                None => return Ok(None),
            }
        }
        text.truncate(self.text_bytes as usize);
        Ok(Some(text))
    }
}
