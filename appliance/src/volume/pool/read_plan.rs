//! What a read consists of: where each of its blocks is now, joined into as few pieces as the order
//! of the log allows.
//!
//! **Invariants.** The pieces are in the order of the blocks. Each piece that waits has exactly one
//! source: an extent of the device, an extent of read-ahead, or a run of the archive, by the index
//! of the piece. `waiting` counts the answers of the device and of read-ahead alone.

use smallvec::SmallVec;

use super::read_ahead::AheadBlock;
use super::reads::ReadPiece;
use crate::dma::{BLOCK_BYTES, DmaBuf, DmaBufMut, DmaPool};
use crate::log::Lsn;
use crate::volume::archiving::{ArchivedBlocks, Fetched};
use crate::volume::image::index::Mapping;
use crate::volume::request::Refusal;

/// A block that cannot be read, and why.
pub(super) struct BadBlock {
    pub(super) block: u64,
    pub(super) lsn: Lsn,
    pub(super) why: &'static str,
}

/// A device read that will be submitted.
pub(super) struct DeviceRead {
    /// The index of its piece.
    pub(super) piece: usize,
    pub(super) first_lsn: Lsn,
    pub(super) device_block: u64,
    pub(super) buffer: DmaBufMut,
}

/// Blocks of a read that follow each other on the device.
struct Extent {
    piece: usize,
    first_lsn: Lsn,
    device_block: u64,
    len_blocks: usize,
    /// Its part of the memory of the read, once there is some.
    buffer: Option<DmaBufMut>,
}

/// Blocks that come from the archive: positions, checksums, and states.
type ArchivedRun = SmallVec<[(Lsn, u16, Fetched); 4]>;

/// The plan of a read. See the module's documentation.
#[derive(Default)]
pub(super) struct ReadPlan {
    pieces: SmallVec<[ReadPiece; 1]>,
    extents: SmallVec<[Extent; 4]>,
    /// Pieces that read-ahead has requested and that are still in flight, with the numbers of their
    /// extents.
    coming: SmallVec<[(usize, u32); 4]>,
    archived: Vec<(usize, ArchivedRun)>,
    /// How many blocks read-ahead has.
    ahead_blocks: u64,
}

impl ReadPlan {
    /// Whether a block is only in the archive.
    #[inline]
    pub(super) fn needs_archive(&self) -> bool {
        !self.archived.is_empty()
    }

    /// How many blocks read-ahead has.
    #[inline]
    pub(super) fn ahead_blocks(&self) -> u64 {
        self.ahead_blocks
    }

    /// How many answers of the device and of read-ahead the read waits for.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.extents.len() + self.coming.len()
    }

    /// Takes the pieces, in the order of the blocks.
    #[inline]
    pub(super) fn take_pieces(&mut self) -> SmallVec<[ReadPiece; 1]> {
        std::mem::take(&mut self.pieces)
    }

    /// Takes the device reads; [`allocate`](Self::allocate) has given them memory.
    pub(super) fn extents(&mut self) -> impl Iterator<Item = DeviceRead> {
        self.extents.drain(..).filter_map(|extent| {
            let Extent { piece, first_lsn, device_block, buffer, .. } = extent;
            buffer.map(|buffer| DeviceRead { piece, first_lsn, device_block, buffer })
        })
    }

    /// The pieces that wait for read-ahead, with the numbers of their extents.
    pub(super) fn coming(&self) -> impl Iterator<Item = (usize, u32)> {
        self.coming.iter().copied()
    }

    /// Allocates the memory of what is read.
    ///
    /// # Errors
    /// There is none now.
    #[inline]
    pub(super) fn allocate(&mut self, dma: &DmaPool) -> Result<(), Refusal> {
        if !self.extents.is_empty() {
            // Use one buffer for all, so that they are sent as one piece.
            let len_blocks: usize = self.extents.iter().map(|extent| extent.len_blocks).sum();
            let mut whole = dma.allocate(len_blocks * BLOCK_BYTES).map_err(|_| Refusal::Busy)?;
            for extent in &mut self.extents {
                extent.buffer = Some(whole.split_to(extent.len_blocks * BLOCK_BYTES));
            }
        }
        for (piece, blocks) in &mut self.archived {
            let buffer = dma.allocate(blocks.len() * BLOCK_BYTES).map_err(|_| Refusal::Busy)?;
            let blocks = std::mem::take(blocks);
            self.pieces[*piece] = ReadPiece::Archived(Box::new(ArchivedBlocks { buffer, blocks }));
        }
        Ok(())
    }
}

impl ReadPlan {
    /// Adds a block that read-ahead has, or has requested.
    #[inline]
    pub(super) fn push_ahead(&mut self, found: AheadBlock, mapping: Mapping) {
        self.ahead_blocks += 1;
        match found {
            AheadBlock::There(data) => self.push_ready(data),
            AheadBlock::Coming(number) => self.push_coming(mapping, number),
        }
    }

    /// Adds one block of zeroes, joined to a preceding piece of zeroes.
    #[inline]
    pub(super) fn push_zero_block(&mut self, zeroes: &DmaBuf) {
        if let Some(ReadPiece::Ready(last)) = self.pieces.last_mut() {
            let longer = last.len() + BLOCK_BYTES;
            if last.as_ptr() == zeroes.as_ptr() && longer <= zeroes.len() {
                *last = zeroes.slice(0, longer);
                return;
            }
        }
        self.pieces.push(ReadPiece::Ready(zeroes.slice(0, BLOCK_BYTES)));
    }

    /// Adds a block that is in memory, joined to the preceding piece if they are adjacent.
    #[inline]
    pub(super) fn push_ready(&mut self, block: DmaBuf) {
        match self.pieces.last_mut() {
            Some(ReadPiece::Ready(last)) => {
                if let Err(apart) = last.try_join(block) {
                    self.pieces.push(ReadPiece::Ready(apart));
                }
            }
            _ => self.pieces.push(ReadPiece::Ready(block)),
        }
    }

    /// Adds a block that read-ahead has requested. It is joined to the preceding piece if it is in
    /// the same extent and directly follows.
    fn push_coming(&mut self, mapping: Mapping, number: u32) {
        let place = self.pieces.len();
        if let Some(ReadPiece::Waiting { first_lsn, checksums, .. }) = self.pieces.last_mut()
            && self.coming.last().is_some_and(|&(piece, last)| piece + 1 == place && last == number)
            && first_lsn.plus(checksums.len() as u64) == mapping.lsn()
        {
            checksums.push(mapping.crc16());
            return;
        }
        self.coming.push((place, number));
        let checksums = std::iter::once(mapping.crc16()).collect();
        self.pieces.push(ReadPiece::Waiting { first_lsn: mapping.lsn(), checksums });
    }

    /// Adds a block that is only in the archive. It is joined to the preceding run if that is the
    /// last piece.
    pub(super) fn push_archived(&mut self, mapping: Mapping) {
        let place = self.pieces.len();
        let block = (mapping.lsn(), mapping.crc16(), Fetched::Missing);
        match self.archived.last_mut() {
            Some((piece, run)) if *piece + 1 == place => run.push(block),
            _ => {
                self.archived.push((place, std::iter::once(block).collect()));
                // Its place among the pieces; the memory is allocated later.
                self.pieces.push(ReadPiece::Reserved);
            }
        }
    }

    /// Adds a block that is on the device. It is joined to the preceding read if it directly
    /// follows.
    #[inline]
    pub(super) fn push_extent(&mut self, mapping: Mapping, device_block: u64) {
        let place = self.pieces.len();
        if let (Some(extent), Some(ReadPiece::Waiting { checksums, .. })) =
            (self.extents.last_mut(), self.pieces.last_mut())
            && extent.piece + 1 == place
        {
            let len = extent.len_blocks as u64;
            if extent.first_lsn.plus(len) == mapping.lsn() && extent.device_block + len == device_block {
                extent.len_blocks += 1;
                checksums.push(mapping.crc16());
                return;
            }
        }
        self.extents.push(Extent {
            piece: self.pieces.len(),
            first_lsn: mapping.lsn(),
            device_block,
            len_blocks: 1,
            buffer: None,
        });
        let mut checksums = SmallVec::new();
        checksums.push(mapping.crc16());
        self.pieces.push(ReadPiece::Waiting { first_lsn: mapping.lsn(), checksums });
    }
}
