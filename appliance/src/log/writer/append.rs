//! Appending: room for commands, records and segments that open and close (the states are the parent module's).

use std::rc::Rc;

use smallvec::{SmallVec, smallvec};

use super::room::Place;
use super::trailer::Sealing;
use super::{AppendClass, AppendError, CHUNK_BYTES, CLOSED_RECORDS_MAX, Current, Log, Recycling};
use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::checksum::crc32c;
use crate::log::format::{
    ENTRIES_PER_RECORD, Entry, EventHead, EventKind, Opening, RecordHead, RecordLine, SegmentHeader,
    TrailerUnit,
};
use crate::log::record::{ClosedRecord, OpenRecord, RecordState};
use crate::log::table::Mask;
use crate::log::types::{BlockNumber, ImageId, Lsn};

impl Log {
    /// Makes sure that `entries` entries with `data_blocks` data blocks fit into the open record, opening records and segments as needed.
    /// With `fresh`, that record has no entries before: so a command without data gets a position of its own.
    ///
    /// # Errors
    /// [`AppendError::Busy`], [`AppendError::Full`], [`AppendError::Poisoned`]; nothing was appended then.
    ///
    /// # Panics
    /// With more entries than a record holds.
    pub fn reserve(
        &mut self,
        class: AppendClass,
        entries: usize,
        data_blocks: usize,
        fresh: bool,
    ) -> Result<(), AppendError> {
        assert!(
            (1..=ENTRIES_PER_RECORD).contains(&entries) && data_blocks <= entries,
            "a reservation fits a record"
        );
        self.check_takes()?;
        let place = self.place(class, entries, data_blocks)?;
        if place == Place::Here
            && let Some(open) = &self.open
            && open.fits(entries, data_blocks)
            && (!fresh || open.entries.is_empty())
        {
            return self.ensure_memory(data_blocks);
        }
        // The pool's own events are few and bounded by themselves; a segment's catalog must not be cut short.
        if class != AppendClass::Pool && self.records.len() >= CLOSED_RECORDS_MAX {
            return Err(AppendError::Busy);
        }
        self.ensure_memory(data_blocks + 1)?;
        self.close_record();
        if place == Place::Next || !self.open_record(entries, data_blocks)? {
            self.next_segment()?;
            // What must be copied into the new segment goes first when both do not fit.
            if place == Place::Next {
                self.place(class, entries, data_blocks)?;
            }
            // The segment's catalog stands in the record that is open now; what was asked for goes behind it.
            let joins = self.open.as_ref().is_some_and(|open| open.fits(entries, data_blocks) && !fresh);
            if !joins {
                self.close_record();
                let opened = self.open_record(entries, data_blocks)?;
                assert!(opened, "a new segment holds a full record");
            }
        }
        self.ensure_memory(data_blocks)
    }

    /// Whether the log takes anything at all.
    fn check_takes(&self) -> Result<(), AppendError> {
        match &self.poisoned {
            Some(reason) => Err(AppendError::Poisoned { reason: Rc::clone(reason) }),
            None if self.stopped => Err(AppendError::Busy),
            None => Ok(()),
        }
    }

    /// Appends a block that a host wrote. Room must have been reserved. Returns its position and its CRC32C.
    ///
    /// # Panics
    /// Without a reservation, or when `data` is not one block.
    pub fn append_write(
        &mut self,
        image: ImageId,
        block: BlockNumber,
        data: &[u8],
        superseded: Lsn,
        last: bool,
    ) -> (Lsn, u32) {
        self.append_data(data, |crc| Entry::write(image, block, crc, superseded, last))
    }

    /// As [`append_write`](Self::append_write), from the memory that the block was received into, which nobody may change any more: no byte is copied.
    ///
    /// # Panics
    /// Without a reservation, or when `data` is not one block.
    pub fn append_received(
        &mut self,
        image: ImageId,
        block: BlockNumber,
        data: DmaBuf,
        superseded: Lsn,
        last: bool,
    ) -> (Lsn, u32) {
        self.append_block(data, |crc| Entry::write(image, block, crc, superseded, last))
    }

    /// Appends a live block again, from memory that it was read into: no byte is copied. Room must have been reserved. `bad`: the data does not have the checksum `crc`
    /// that the block was written with, and shall go on being an error. Returns its position.
    ///
    /// # Panics
    /// Without a reservation, or when `data` is not one block.
    pub fn append_copied(
        &mut self,
        image: ImageId,
        block: BlockNumber,
        data: DmaBuf,
        crc: u32,
        origin: Lsn,
        bad: bool,
    ) -> Lsn {
        let open = self.open.as_mut().expect("room was reserved");
        assert!(open.fits(1, 1) && data.len() == BLOCK_BYTES, "room was reserved for one block");
        let lsn = open.next_lsn();
        open.entries.push(Entry::copied(image, block, crc, origin, bad));
        open.push_block(data);
        self.stats.copied_blocks += 1;
        lsn
    }

    /// Appends a trim. Room must have been reserved. `hides`: it hides something that the image inherited, and must be carried on when its segment leaves.
    /// Returns its position: that of the record's newest block.
    ///
    /// # Panics
    /// Without a reservation.
    pub fn append_trim(
        &mut self,
        image: ImageId,
        block: BlockNumber,
        len_blocks: u64,
        hides: bool,
        last: bool,
    ) -> Lsn {
        let open = self.open.as_mut().expect("room was reserved");
        assert!(open.fits(1, 0), "room was reserved");
        open.is_lazy = false;
        let entry = Entry::trim(image, block, len_blocks, last);
        open.entries.push(if hides { entry } else { entry.hidden() });
        let lsn = Lsn(open.next_lsn().0 - 1);
        if last {
            self.point_lsn = lsn;
        }
        self.note_trim(hides.then_some(Mask { image, block, len_blocks }));
        lsn
    }

    /// Notes a trim at once: until the record closes, nobody may take the segment for one without.
    fn note_trim(&mut self, mask: Option<Mask>) {
        let Some(sequence) = self.current_sequence() else { return };
        self.table.note_trim(sequence);
        if let Some(mask) = mask {
            self.table.add_mask(sequence, mask);
        }
    }

    /// Appends a mask: what the image inherited in the range is gone. Room must have been reserved.
    ///
    /// # Panics
    /// Without a reservation.
    pub fn append_mask(&mut self, image: ImageId, block: BlockNumber, len_blocks: u64) {
        let open = self.open.as_mut().expect("room was reserved");
        assert!(open.fits(1, 0), "room was reserved");
        open.entries.push(Entry::mask(image, block, len_blocks));
        self.note_trim(Some(Mask { image, block, len_blocks }));
    }

    /// Appends an event, both copies of its text. Returns its position: the one of its last block.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve); [`AppendError::EventTooLong`]. Nothing, or an unfinished event that readers ignore, was appended then.
    pub fn append_event(&mut self, kind: EventKind, text: &[u8]) -> Result<Lsn, AppendError> {
        self.check_event(text.len())?;
        let blocks = 2 * text.len().div_ceil(BLOCK_BYTES).max(1);
        self.check_takes()?;
        // As long as nothing can be written, even the pool's own events must not pile up.
        if self.starved.is_some() && self.records.len() >= CLOSED_RECORDS_MAX {
            return Err(AppendError::Busy);
        }
        // The whole event stays in one segment, so that a reader of one segment finds it whole.
        if !self.event_fits(blocks) {
            self.may_open_next(AppendClass::Pool)?;
            self.close_record();
            self.next_segment()?;
        }
        self.append_event_here(kind, text)
    }

    /// Whether an event of so many bytes fits into what the current segment has left.
    pub fn event_fits_here(&self, len_bytes: usize) -> bool {
        self.current.is_some() && self.event_fits(2 * len_bytes.div_ceil(BLOCK_BYTES).max(1))
    }

    /// Whether an event of so many blocks fits into what the current segment has left; also when there is none yet.
    pub(super) fn event_fits(&self, blocks: usize) -> bool {
        let Some(current) = &self.current else { return true };
        let (open_blocks, open_units) =
            self.open.as_ref().map_or((0, 0), |open| (1 + open.data_blocks as u64, 1 + open.entries.len()));
        let records = blocks.div_ceil(ENTRIES_PER_RECORD) + 1;
        let kept = self.kept_blocks(AppendClass::Pool);
        current.next_offset + open_blocks + (blocks + records) as u64 + kept <= self.geometry.data_end()
            && current.units.len() + open_units + blocks + records + kept as usize
                <= self.geometry.trailer_units()
    }

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

    pub(super) fn append_data(&mut self, data: &[u8], entry: impl FnOnce(u32) -> Entry) -> (Lsn, u32) {
        assert_eq!(data.len(), BLOCK_BYTES, "data comes in blocks");
        let spare = self.spare.as_mut().expect("memory was reserved");
        let mut block = spare.split_to(BLOCK_BYTES);
        block.as_mut_slice().copy_from_slice(data);
        self.append_block(block.freeze(), entry)
    }

    fn append_block(&mut self, block: DmaBuf, entry: impl FnOnce(u32) -> Entry) -> (Lsn, u32) {
        let open = self.open.as_mut().expect("room was reserved");
        assert!(open.fits(1, 1) && block.len() == BLOCK_BYTES, "room was reserved for one block");
        let crc = crc32c(&block);
        let lsn = open.next_lsn();
        let entry = entry(crc);
        if entry.is_last() {
            self.point_lsn = lsn;
        }
        open.is_lazy = false;
        open.entries.push(entry);
        open.push_block(block);
        (lsn, crc)
    }

    pub(super) fn check_event(&self, len_bytes: usize) -> Result<(), AppendError> {
        let max_bytes = self.geometry.catalog_bytes_max();
        if len_bytes > max_bytes { Err(AppendError::EventTooLong { len_bytes, max_bytes }) } else { Ok(()) }
    }

    /// Makes sure that `blocks` blocks can be cut from the spare chunk without a gap.
    pub(super) fn ensure_memory(&mut self, blocks: usize) -> Result<(), AppendError> {
        if self.spare.as_ref().is_some_and(|spare| spare.len() >= blocks * BLOCK_BYTES) {
            return Ok(());
        }
        match self.environment.dma.allocate(CHUNK_BYTES) {
            Ok(chunk) => {
                self.spare = Some(chunk);
                Ok(())
            }
            Err(_) => Err(AppendError::Busy),
        }
    }

    /// Opens a record with room for what is asked; `false` when the segment has not that much left.
    pub(super) fn open_record(&mut self, entries: usize, data_blocks: usize) -> Result<bool, AppendError> {
        let Some(current) = &self.current else { return Ok(false) };
        let lsn = self.geometry.first_lsn(current.sequence).plus(current.next_offset);
        let blocks_left = self.geometry.data_end().saturating_sub(current.next_offset + 1) as usize;
        let units_left = self.geometry.trailer_units().saturating_sub(current.units.len() + 1);
        let entries_max = units_left.min(ENTRIES_PER_RECORD);
        // The first record says again what the segment's header says, unless a command needs all of
        // it.
        let opening = usize::from(current.next_offset == 1 && entries < entries_max);
        let entries_max = entries_max - opening;
        let data_blocks_max = blocks_left.min(ENTRIES_PER_RECORD);
        if current.next_offset >= self.geometry.data_end()
            || entries_max < entries
            || data_blocks_max < data_blocks
        {
            return Ok(false);
        }
        self.ensure_memory(data_blocks + 1)?;
        let spare = self.spare.as_mut().expect("memory was ensured");
        self.open = Some(OpenRecord {
            lsn,
            header: spare.split_to(BLOCK_BYTES),
            entries: self.entry_buffers.pop().unwrap_or_else(|| Vec::with_capacity(ENTRIES_PER_RECORD)),
            pieces: SmallVec::new(),
            data_blocks: 0,
            entries_max,
            data_blocks_max,
            is_lazy: true,
        });
        Ok(true)
    }

    /// Closes the open record: its header is written in memory, and it waits for its turn.
    pub(super) fn close_record(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        if open.entries.is_empty() {
            // Nothing has its position yet; the header's block goes back with its memory.
            self.entry_buffers.push(open.entries);
            return;
        }
        self.last_time_ns = self.now_ns();
        let current = self.current.as_mut().expect("an open record lies in the current segment");
        if current.next_offset == 1
            && self.version >= 2
            && open.entries.len() < ENTRIES_PER_RECORD
            && let Some(previous_end_lsn) = current.previous_end_lsn
        {
            let (epoch, oldest) = (current.epoch, self.table.oldest());
            open.entries.push(Entry::opening(Opening { epoch, oldest, previous_end_lsn }));
        }
        let head = RecordHead {
            version: self.version,
            lsn: open.lsn,
            sequence: current.sequence,
            time_ns: self.last_time_ns,
            stable_lsn: self.stable_lsn,
            epoch: self.epoch,
            data_blocks: open.data_blocks as u8,
        };
        head.encode(self.pool, &open.entries, open.header.as_mut_slice());
        let line =
            RecordLine::new(open.lsn, head.time_ns, open.entries.len() as u8, head.data_blocks, self.epoch);
        current.units.push(zerocopy::transmute!(line));
        current
            .units
            .extend(open.entries.iter().map(|entry| -> TrailerUnit { zerocopy::transmute!(*entry) }));
        let end_lsn = open.next_lsn();
        current.next_offset += 1 + open.data_blocks as u64;
        debug_assert!(current.next_offset <= self.geometry.data_end());
        self.table.note_record(current.sequence, end_lsn, open.entries.len() as u64);
        let mut pieces: SmallVec<[DmaBuf; 2]> = smallvec![open.header.freeze()];
        for piece in open.pieces.drain(..) {
            let last = pieces.last_mut().expect("the header is there");
            if let Err(apart) = last.try_join(piece) {
                pieces.push(apart);
            }
        }
        let device_block = self.geometry.slot_block(current.slot) + self.geometry.offset_of(open.lsn);
        self.end_lsn = end_lsn;
        self.records.push_back(ClosedRecord {
            lsn: open.lsn,
            end_lsn,
            device_block,
            pieces,
            state: RecordState::Closed,
        });
        open.entries.clear();
        self.entry_buffers.push(open.entries);
    }

    /// Seals the current segment, if there is one, and opens the next with its header and catalog.
    pub(super) fn next_segment(&mut self) -> Result<(), AppendError> {
        debug_assert!(self.open.is_none(), "the record is closed before its segment");
        let used = self.table.next_sequence().0 - self.table.oldest().0;
        if self.recycling == Recycling::Never && used >= self.geometry.working_set {
            return Err(AppendError::Full { segments: self.geometry.working_set });
        }
        if self.sealing.len() >= 2 {
            return Err(AppendError::Busy);
        }
        // The memory of header and catalog is taken before anything changes, so that no half-opened segment is left.
        self.ensure_memory(1)?;
        let mut header = self.spare.as_mut().expect("memory was ensured").split_to(BLOCK_BYTES);
        let previous_end_lsn = self.end_lsn;
        self.last_time_ns = self.now_ns();
        let first_lsn = self.geometry.first_lsn(self.table.next_sequence());
        assert!(first_lsn.0 + self.geometry.segment_blocks <= Lsn::MAX.0, "48 bits of LSN are used up");
        let Some((sequence, slot)) = self.table.open(self.epoch, self.last_time_ns, first_lsn) else {
            return Err(AppendError::Full { segments: self.geometry.working_set });
        };
        if let Some(sealed) = self.current.take() {
            // A segment that is full becomes stable soon, whatever hosts do: its trailer waits for it.
            self.request_stable(previous_end_lsn);
            self.sealing.push_back(Sealing::new(
                sealed.sequence,
                sealed.slot,
                sealed.epoch,
                previous_end_lsn,
                sealed.units,
            ));
        }
        let segment_header = SegmentHeader {
            version: self.version,
            epoch: self.epoch,
            sequence,
            first_lsn,
            opened_ns: self.last_time_ns,
            previous_end_lsn,
            stable_lsn: self.stable_lsn,
            oldest: self.table.oldest(),
            released: self.table.released(),
            ends: self.table.ends_before_released(),
        };
        segment_header.encode(self.pool, header.as_mut_slice());
        self.end_lsn = first_lsn.plus(1);
        self.records.push_back(ClosedRecord {
            lsn: first_lsn,
            end_lsn: self.end_lsn,
            device_block: self.geometry.slot_block(slot),
            pieces: smallvec![header.freeze()],
            state: RecordState::Closed,
        });
        self.why_busy.clear();
        let units = self.take_unit_list();
        self.current = Some(Current {
            sequence,
            slot,
            epoch: self.epoch,
            previous_end_lsn: Some(previous_end_lsn),
            next_offset: 1,
            units,
        });
        self.refresh_demand();
        if let Some(catalog) = self.catalog.clone() {
            // One that finds no room or memory now comes later; what stands in the segment before
            // tells the same.
            match self.append_event_here(EventKind::Catalog, &catalog.text()) {
                Ok(_) => catalog.note_written(),
                Err(error) => {
                    tracing::debug!(segment = sequence.0, %error, "the segment begins without a catalog");
                    catalog.note_missing();
                }
            }
        }
        Ok(())
    }
}
