//! Records in memory: the open one that grows, and closed ones on their way to the device.
//!
//! **Invariants.** An open record never holds more entries or data blocks than fit into its
//! segment. It has a data block for each entry that needs one. A closed record only makes the
//! transitions of [`RecordState`].

use smallvec::{SmallVec, smallvec};
use uuid::Uuid;

use super::format::{ENTRIES_PER_RECORD, Entry, RecordHead};
use super::types::Lsn;
use crate::bdev::Operation;
use crate::dma::{BLOCK_BYTES, DmaBuf, DmaBufMut};

/// The record that accepts entries now.
pub(super) struct OpenRecord {
    lsn: Lsn,
    header: DmaBufMut,
    entries: Vec<Entry>,
    pieces: SmallVec<[DmaBuf; 2]>,
    data_blocks: usize,
    entries_max: usize,
    data_blocks_max: usize,
    is_lazy: bool,
}

impl OpenRecord {
    /// An empty record at `lsn`. It reuses the memory of the empty list `entries`.
    pub(super) fn new(
        lsn: Lsn,
        header: DmaBufMut,
        entries: Vec<Entry>,
        entries_max: usize,
        data_blocks_max: usize,
    ) -> Self {
        debug_assert!(header.len() == BLOCK_BYTES && entries.is_empty());
        debug_assert!((1..=ENTRIES_PER_RECORD).contains(&entries_max));
        OpenRecord {
            lsn,
            header,
            entries,
            pieces: SmallVec::new(),
            data_blocks: 0,
            entries_max,
            data_blocks_max,
            is_lazy: true,
        }
    }

    /// The LSN of its header.
    pub(super) fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The LSN that the next data block gets.
    pub(super) fn next_lsn(&self) -> Lsn {
        self.lsn.plus(1 + self.data_blocks as u64)
    }

    /// Its entries so far.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many data blocks it has so far.
    pub(super) fn data_blocks(&self) -> usize {
        self.data_blocks
    }

    /// Whether no caller waits for anything in it: it holds only copies and masks.
    pub(super) fn is_lazy(&self) -> bool {
        self.is_lazy
    }

    /// Whether this many more entries and data blocks fit.
    pub(super) fn fits(&self, entries: usize, data_blocks: usize) -> bool {
        self.entries.len() + entries <= self.entries_max
            && self.data_blocks + data_blocks <= self.data_blocks_max
    }

    /// How many blocks it takes on the device, its header included.
    pub(super) fn len_blocks(&self) -> u64 {
        1 + self.data_blocks as u64
    }

    /// How many units it takes in the trailer, its line included.
    pub(super) fn len_units(&self) -> usize {
        1 + self.entries.len()
    }

    /// A caller waits for its content: it is closed as soon as the device accepts it.
    pub(super) fn note_awaited(&mut self) {
        self.is_lazy = false;
    }

    /// Adds an entry without data.
    pub(super) fn push_entry(&mut self, entry: Entry) {
        assert!(self.fits(1, 0), "room was reserved");
        debug_assert!(!entry.has_data(), "an entry with data comes with its block");
        self.entries.push(entry);
    }

    /// Adds an entry with its block, and returns the LSN of the block.
    pub(super) fn push_data(&mut self, entry: Entry, block: DmaBuf) -> Lsn {
        assert!(self.fits(1, 1) && block.len() == BLOCK_BYTES, "room was reserved for one block");
        debug_assert!(entry.has_data(), "a block belongs to an entry with data");
        let lsn = self.next_lsn();
        self.entries.push(entry);
        self.data_blocks += 1;
        match self.pieces.last_mut() {
            Some(last) => {
                if let Err(apart) = last.try_join(block) {
                    self.pieces.push(apart);
                }
            }
            None => self.pieces.push(block),
        }
        lsn
    }

    /// Adds the entry that repeats the header of the segment. Room was kept for it, beyond what
    /// [`fits`](Self::fits) reports.
    pub(super) fn push_opening(&mut self, entry: Entry) {
        assert!(self.entries.len() < ENTRIES_PER_RECORD, "a record holds 168 entries");
        self.entries.push(entry);
    }

    /// The block at `lsn`, if that is one of its data blocks.
    pub(super) fn block(&self, lsn: Lsn) -> Option<DmaBuf> {
        block_of(&self.pieces, lsn.0.checked_sub(self.lsn.0 + 1)?)
    }

    /// Writes its header in memory. Returns the closed record, and the emptied list of entries.
    pub(super) fn close(
        mut self,
        head: &RecordHead,
        pool: Uuid,
        device_block: u64,
    ) -> (ClosedRecord, Vec<Entry>) {
        debug_assert!(head.lsn == self.lsn && usize::from(head.data_blocks) == self.data_blocks);
        head.encode(pool, &self.entries, self.header.as_mut_slice());
        let (lsn, end_lsn) = (self.lsn, self.next_lsn());
        let mut pieces: SmallVec<[DmaBuf; 2]> = smallvec![self.header.freeze()];
        for piece in self.pieces.drain(..) {
            let last = pieces.last_mut().expect("the header is there");
            if let Err(apart) = last.try_join(piece) {
                pieces.push(apart);
            }
        }
        self.entries.clear();
        (ClosedRecord::new(lsn, end_lsn, device_block, pieces), self.entries)
    }

    /// Discards an empty record. Its header returns with its memory.
    pub(super) fn into_entries(self) -> Vec<Entry> {
        debug_assert!(self.entries.is_empty() && self.data_blocks == 0);
        self.entries
    }
}

/// The state of a closed record: closed → submitted → done, refused or failed; refused → submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordState {
    Closed,
    Submitted,
    Done,
    /// The device had no room for it; it is submitted again.
    Refused,
    Failed,
}

/// A closed record, or a segment header, which is written in the same order.
pub(super) struct ClosedRecord {
    lsn: Lsn,
    end_lsn: Lsn,
    device_block: u64,
    /// Header and data; one piece if they are adjacent.
    pieces: SmallVec<[DmaBuf; 2]>,
    state: RecordState,
}

impl ClosedRecord {
    /// A record that is not submitted yet.
    pub(super) fn new(lsn: Lsn, end_lsn: Lsn, device_block: u64, pieces: SmallVec<[DmaBuf; 2]>) -> Self {
        debug_assert!(lsn < end_lsn);
        ClosedRecord { lsn, end_lsn, device_block, pieces, state: RecordState::Closed }
    }

    /// The LSN of its header.
    pub(super) fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The LSN after its last block.
    pub(super) fn end_lsn(&self) -> Lsn {
        self.end_lsn
    }

    /// Its state.
    pub(super) fn state(&self) -> RecordState {
        self.state
    }

    /// The block at `lsn`, if it belongs to the record.
    pub(super) fn block(&self, lsn: Lsn) -> Option<DmaBuf> {
        if lsn >= self.end_lsn { None } else { block_of(&self.pieces, lsn.0.checked_sub(self.lsn.0)?) }
    }

    /// Builds the write of the record, for the first time or again: the same bytes at the same
    /// place.
    pub(super) fn submit(&mut self) -> Operation {
        assert!(
            matches!(self.state, RecordState::Closed | RecordState::Refused),
            "a record is at the device once"
        );
        self.state = RecordState::Submitted;
        Operation::Write { block: self.device_block, buffers: self.pieces.clone() }
    }

    /// The device has answered.
    pub(super) fn complete(&mut self, state: RecordState) {
        assert_eq!(self.state, RecordState::Submitted, "the device answers what was submitted");
        self.state = state;
    }
}

/// The block at `index` of pieces that hold consecutive blocks.
fn block_of(pieces: &[DmaBuf], index: u64) -> Option<DmaBuf> {
    let mut start = usize::try_from(index).ok()?.checked_mul(BLOCK_BYTES)?;
    for piece in pieces {
        if start < piece.len() {
            return Some(piece.slice(start, BLOCK_BYTES));
        }
        start -= piece.len();
    }
    None
}
