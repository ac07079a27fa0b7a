//! Appending: room for commands, entries into the open record, and closing the record.

use std::sync::Arc;

use super::Log;
use super::interface::{AppendClass, AppendError};
use super::room::Destination;
use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::checksum::crc32c;
use crate::log::format::{ENTRIES_PER_RECORD, Entry, RecordHead, RecordLine};
use crate::log::record::OpenRecord;
use crate::log::table::Mask;
use crate::log::types::{BlockNumber, ImageId, Lsn};

impl Log {
    /// Makes sure that `entries` entries with `data_blocks` data blocks fit into the open record,
    /// and opens records and segments if necessary. With `fresh` the record is empty, so that a
    /// command without data gets its own position.
    ///
    /// # Errors
    /// [`AppendError::Busy`], [`AppendError::Full`], [`AppendError::Poisoned`]; nothing was
    /// appended.
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
        let destination = self.destination(class, entries, data_blocks)?;
        if destination == Destination::Current
            && let Some(open) = self.records.open()
            && open.fits(entries, data_blocks)
            && (!fresh || open.entries().is_empty())
        {
            return self.ensure_memory(data_blocks);
        }
        // The pool's own events are few and bounded, and a segment's catalog must not be cut short.
        if class != AppendClass::Pool && self.records.is_full() {
            return Err(AppendError::Busy);
        }
        self.ensure_memory(data_blocks + 1)?;
        self.close_record();
        if destination == Destination::Next || !self.open_record(entries, data_blocks)? {
            self.next_segment()?;
            // If both do not fit, the data that must be copied into the new segment goes first.
            if destination == Destination::Next {
                self.destination(class, entries, data_blocks)?;
            }
            // The open record contains the segment's catalog; the requested entries follow it.
            if fresh || !self.records.joins(entries, data_blocks) {
                self.close_record();
                let opened = self.open_record(entries, data_blocks)?;
                assert!(opened, "a new segment holds a full record");
            }
        }
        self.ensure_memory(data_blocks)
    }

    /// Whether the log accepts anything at all.
    pub(super) fn check_takes(&self) -> Result<(), AppendError> {
        match self.health.poisoned() {
            Some(failure) => Err(AppendError::Poisoned { reason: Arc::clone(failure.reason()) }),
            None if self.orders.is_stopped() => Err(AppendError::Busy),
            None => Ok(()),
        }
    }

    /// Appends a block that a host wrote. The caller must have reserved room. Returns its position
    /// and its CRC32C.
    ///
    /// # Panics
    /// Without a reservation, or if `data` is not one block.
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

    /// As [`append_write`](Self::append_write), from the memory that received the block, which must
    /// not change any more: no byte is copied.
    ///
    /// # Panics
    /// Without a reservation, or if `data` is not one block.
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

    /// Appends a live block again, from the memory that it was read into: no byte is copied. The
    /// caller must have reserved room. `bad`: the data does not match the checksum `crc` with which
    /// the block was written, and remains an error. Returns its position.
    ///
    /// # Panics
    /// Without a reservation, or if `data` is not one block.
    pub fn append_copied(
        &mut self,
        image: ImageId,
        block: BlockNumber,
        data: DmaBuf,
        crc: u32,
        origin: Lsn,
        bad: bool,
    ) -> Lsn {
        self.stats.count_copy();
        self.records.reserved().push_data(Entry::copied(image, block, crc, origin, bad), data)
    }

    /// Appends a trim. The caller must have reserved room. `hides`: it hides something that the
    /// image inherited, and must be copied forward when its segment leaves. Returns its position:
    /// that of the record's newest block.
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
        let open = self.records.reserved();
        open.note_awaited();
        let entry = Entry::trim(image, block, len_blocks, last);
        open.push_entry(if hides { entry } else { entry.hidden() });
        let lsn = Lsn(open.next_lsn().0 - 1);
        if last {
            self.positions.note_point(lsn);
        }
        self.note_trim(hides.then_some(Mask { image, block, len_blocks }));
        lsn
    }

    /// Counts a trim at once: even before its record closes, the segment must count as one with
    /// trims.
    fn note_trim(&mut self, mask: Option<Mask>) {
        let Some(sequence) = self.current_sequence() else { return };
        self.table.note_trim(sequence);
        if let Some(mask) = mask {
            self.table.add_mask(sequence, mask);
        }
    }

    /// Appends a mask: the image no longer inherits anything in the range. The caller must have
    /// reserved room.
    ///
    /// # Panics
    /// Without a reservation.
    pub fn append_mask(&mut self, image: ImageId, block: BlockNumber, len_blocks: u64) {
        self.records.reserved().push_entry(Entry::mask(image, block, len_blocks));
        self.note_trim(Some(Mask { image, block, len_blocks }));
    }

    /// Appends a block by copying it into memory of the log.
    pub(super) fn append_data(&mut self, data: &[u8], entry: impl FnOnce(u32) -> Entry) -> (Lsn, u32) {
        assert_eq!(data.len(), BLOCK_BYTES, "data comes in blocks");
        let mut block = self.memory.take_block();
        block.as_mut_slice().copy_from_slice(data);
        self.append_block(block.freeze(), entry)
    }

    fn append_block(&mut self, block: DmaBuf, entry: impl FnOnce(u32) -> Entry) -> (Lsn, u32) {
        let open = self.records.reserved();
        let crc = crc32c(&block);
        let entry = entry(crc);
        open.note_awaited();
        let lsn = open.push_data(entry, block);
        if entry.is_last() {
            self.positions.note_point(lsn);
        }
        (lsn, crc)
    }

    /// Makes sure that `blocks` blocks of memory can be taken without a failure.
    pub(super) fn ensure_memory(&mut self, blocks: usize) -> Result<(), AppendError> {
        self.memory.ensure(&self.environment.dma, blocks)
    }

    /// Opens a record with the requested room; `false` if the segment does not have enough room
    /// left.
    pub(super) fn open_record(&mut self, entries: usize, data_blocks: usize) -> Result<bool, AppendError> {
        let geometry = self.identity.geometry();
        let Some(current) = &self.current else { return Ok(false) };
        let lsn = geometry.first_lsn(current.sequence()).plus(current.next_offset());
        // A block for the header, and a unit for the line.
        let data_blocks_max = (current.blocks_left(geometry, 1) as usize).min(ENTRIES_PER_RECORD);
        let entries_max = current.units_left(geometry, 1).min(ENTRIES_PER_RECORD);
        // The first record repeats the data of the segment's header, unless a command needs the
        // whole record.
        let opening = usize::from(current.is_empty() && entries < entries_max);
        let entries_max = entries_max - opening;
        if current.blocks_left(geometry, 0) == 0 || entries_max < entries || data_blocks_max < data_blocks {
            return Ok(false);
        }
        self.ensure_memory(data_blocks + 1)?;
        let (header, buffer) = (self.memory.take_block(), self.records.take_entry_buffer());
        self.records.begin(OpenRecord::new(lsn, header, buffer, entries_max, data_blocks_max));
        Ok(true)
    }

    /// Closes the open record: writes its header in memory, and queues it for the device.
    pub(super) fn close_record(&mut self) {
        let Some(mut open) = self.records.take_open() else { return };
        let time_ns = self.clock.stamp(&*self.environment.clock);
        let (identity, geometry) = (&self.identity, self.identity.geometry());
        let current = self.current.as_mut().expect("an open record lies in the current segment");
        debug_assert_eq!(geometry.offset_of(open.lsn()), current.next_offset());
        if identity.version() >= 2
            && open.entries().len() < ENTRIES_PER_RECORD
            && let Some(opening) = current.opening(self.table.oldest())
        {
            open.push_opening(opening);
        }
        let head = RecordHead {
            version: identity.version(),
            lsn: open.lsn(),
            sequence: current.sequence(),
            time_ns,
            stable_lsn: self.positions.stable_lsn(),
            epoch: identity.epoch(),
            data_blocks: open.data_blocks() as u8,
        };
        let entries = open.entries();
        let line =
            RecordLine::new(head.lsn, time_ns, entries.len() as u8, head.data_blocks, identity.epoch());
        current.push_record(geometry, line, entries);
        let end_lsn = open.next_lsn();
        self.table.note_record(current.sequence(), end_lsn, entries.len() as u64);
        let device_block = geometry.slot_block(current.slot()) + geometry.offset_of(head.lsn);
        let (record, buffer) = open.close(&head, identity.pool(), device_block);
        self.positions.close_up_to(end_lsn);
        self.records.push_closed(record);
        self.records.keep_entry_buffer(buffer);
    }

    /// Closes the open record if it contains a position before `lsn`, so that it can be scanned.
    pub fn close_up_to(&mut self, lsn: Lsn) {
        if self.records.open().is_some_and(|open| open.lsn() < lsn) {
            self.close_record();
        }
    }
}
