//! Records in memory: the open one that grows, and closed ones on their way to the device.

use smallvec::SmallVec;

use super::format::{ENTRIES_PER_RECORD, Entry};
use super::types::Lsn;
use crate::dma::{BLOCK_BYTES, DmaBuf, DmaBufMut};

/// The record that takes entries now.
pub(super) struct OpenRecord {
    pub(super) lsn: Lsn,
    pub(super) header: DmaBufMut,
    pub(super) entries: Vec<Entry>,
    pub(super) pieces: SmallVec<[DmaBuf; 2]>,
    pub(super) data_blocks: usize,
    pub(super) entries_max: usize,
    pub(super) data_blocks_max: usize,
    /// Whether it holds nothing that anybody waits for: copies and masks only.
    pub(super) is_lazy: bool,
}

impl OpenRecord {
    pub(super) fn fits(&self, entries: usize, data_blocks: usize) -> bool {
        self.entries.len() + entries <= self.entries_max
            && self.data_blocks + data_blocks <= self.data_blocks_max
    }

    /// The LSN that the next data block gets.
    pub(super) fn next_lsn(&self) -> Lsn {
        self.lsn.plus(1 + self.data_blocks as u64)
    }

    /// Takes one filled block.
    pub(super) fn push_block(&mut self, block: DmaBuf) {
        debug_assert_eq!(block.len(), BLOCK_BYTES);
        self.data_blocks += 1;
        debug_assert!(self.data_blocks <= ENTRIES_PER_RECORD);
        match self.pieces.last_mut() {
            Some(last) => {
                if let Err(apart) = last.try_join(block) {
                    self.pieces.push(apart);
                }
            }
            None => self.pieces.push(block),
        }
    }
}

/// How far a closed record has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordState {
    Closed,
    Submitted,
    Done,
    /// The device had no room for it: it is submitted again.
    Refused,
    Failed,
}

/// A closed record, or a segment header, which is written in the same order.
pub(super) struct ClosedRecord {
    pub(super) lsn: Lsn,
    pub(super) end_lsn: Lsn,
    pub(super) device_block: u64,
    /// Header and data; one piece when they are neighbours.
    pub(super) pieces: SmallVec<[DmaBuf; 2]>,
    pub(super) state: RecordState,
}

/// The block at `index` of pieces that stand for consecutive blocks.
pub(super) fn block_of(pieces: &[DmaBuf], index: u64) -> Option<DmaBuf> {
    let mut start = usize::try_from(index).ok()?.checked_mul(BLOCK_BYTES)?;
    for piece in pieces {
        if start < piece.len() {
            return Some(piece.slice(start, BLOCK_BYTES));
        }
        start -= piece.len();
    }
    None
}
