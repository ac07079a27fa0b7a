//! Events: two copies of a text, in blocks, in one segment, so that a reader of that segment finds
//! the whole event.

use std::rc::Rc;

use super::Log;
use super::interface::{AppendClass, AppendError, SegmentCatalog};
use crate::dma::BLOCK_BYTES;
use crate::log::format::{ENTRIES_PER_RECORD, Entry, EventHead, EventKind};
use crate::log::types::Lsn;

impl Log {
    /// Appends an event, with both copies of its text. Returns its position, which is that of its
    /// last block.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve); [`AppendError::EventTooLong`]. In that case nothing was
    /// appended, or an unfinished event that readers ignore.
    pub fn append_event(&mut self, kind: EventKind, text: &[u8]) -> Result<Lsn, AppendError> {
        self.check_event(text.len())?;
        self.check_takes()?;
        // While nothing can be written, even the pool's own events must not accumulate.
        if self.health.starved().is_some() && self.records.is_full() {
            return Err(AppendError::Busy);
        }
        if !self.event_fits(event_blocks(text.len())) {
            self.may_open_next(AppendClass::Pool)?;
            self.close_record();
            self.next_segment()?;
        }
        self.append_event_here(kind, text)
    }

    /// Whether an event of `len_bytes` bytes fits into the rest of the current segment.
    pub fn event_fits_here(&self, len_bytes: usize) -> bool {
        self.current.is_some() && self.event_fits(event_blocks(len_bytes))
    }

    /// Whether an event of `blocks` blocks fits into the rest of the current segment; true if there
    /// is no current segment yet.
    fn event_fits(&self, blocks: usize) -> bool {
        let Some(current) = &self.current else { return true };
        let geometry = self.identity.geometry();
        let records = blocks.div_ceil(ENTRIES_PER_RECORD) + 1;
        let kept = self.kept_blocks(AppendClass::Pool);
        current.blocks_left(geometry, self.records.open_blocks()) >= (blocks + records) as u64 + kept
            && current.units_left(geometry, self.records.open_units()) >= blocks + records + kept as usize
    }

    /// Appends an event to the current segment.
    pub(super) fn append_event_here(&mut self, kind: EventKind, text: &[u8]) -> Result<Lsn, AppendError> {
        let chunks = text.len().div_ceil(BLOCK_BYTES).max(1);
        let mut lsn = Lsn(0);
        let mut padded = [0_u8; BLOCK_BYTES];
        for copy in 0..EventHead::COPIES {
            for chunk in 0..chunks {
                let part =
                    &text[(chunk * BLOCK_BYTES).min(text.len())..((chunk + 1) * BLOCK_BYTES).min(text.len())];
                padded[..part.len()].copy_from_slice(part);
                padded[part.len()..].fill(0);
                let last = copy + 1 == EventHead::COPIES && chunk + 1 == chunks;
                self.reserve(AppendClass::Pool, 1, 1, false)?;
                let head = EventHead::encode(kind, copy, chunk as u32);
                lsn = self.append_data(&padded, |crc| Entry::event(head, crc, text.len() as u64, last)).0;
            }
        }
        Ok(lsn)
    }

    /// Sets the catalog with which every new segment begins (`docs/FORMAT.md`).
    ///
    /// # Errors
    /// [`AppendError::EventTooLong`].
    pub fn set_catalog(&mut self, catalog: Rc<dyn SegmentCatalog>) -> Result<(), AppendError> {
        let len_bytes = catalog.text_bytes_max();
        self.check_event(len_bytes)?;
        self.catalog.set(catalog, len_bytes);
        Ok(())
    }

    /// The maximum length of the catalog's text, in bytes.
    pub fn catalog_bytes_max(&self) -> usize {
        self.catalog.bytes_max()
    }

    fn check_event(&self, len_bytes: usize) -> Result<(), AppendError> {
        let max_bytes = self.identity.geometry().catalog_bytes_max();
        if len_bytes > max_bytes { Err(AppendError::EventTooLong { len_bytes, max_bytes }) } else { Ok(()) }
    }
}

/// The number of blocks of both copies of an event's text.
fn event_blocks(len_bytes: usize) -> usize {
    2 * len_bytes.div_ceil(BLOCK_BYTES).max(1)
}
