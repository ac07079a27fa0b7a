//! Trailers on their way to the device.
//!
//! A trailer of a 64 MiB segment is 390 KiB. Made and written at once it would hold up a host's command for as long as many commands
//! take, so a sealed segment's trailer goes in pieces of [`PIECE_BYTES`], one with each look at what can be submitted: while the
//! pieces go, the body's checksum grows, and the piece with the head, which carries it, goes last. In whatever order they reach the device, a trailer is one only
//! when its head is there and its checksum is that of the body.

use std::sync::Arc;

use crc_fast::Digest;
use smallvec::smallvec;

use super::{Log, Recycling, SEALED_UNITS_KEPT, TAG_KIND_SHIFT, TAG_TRAILER};
use crate::bdev::{Command, Operation};
use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::checksum::running;
use crate::log::format::{TrailerHead, TrailerUnit};
use crate::log::types::{Lsn, SegmentSeq, Slot};

/// Bytes of one piece of a sealed segment's trailer.
const PIECE_BYTES: usize = 32 << 10;
/// The most bytes of one write of a closing trailer, which nobody waits behind.
const CLOSING_WRITE_BYTES: usize = 1 << 20;
/// Emptied lists of units that are kept for the next segments.
const UNIT_LISTS_KEPT: usize = 4;
/// Where the number of a piece stands in a tag, above the number of its segment: there are fewer than 2^40 segments of at least 256 blocks in 48 bits of LSN.
const PIECE_SHIFT: u32 = 44;

/// A piece of a trailer on its way, kept for the case that the device has no room for it.
pub(super) struct Piece {
    index: usize,
    block: u64,
    data: DmaBuf,
}

impl Piece {
    /// What names the piece in a tag.
    pub(super) fn tag(&self, sequence: SegmentSeq) -> u64 {
        debug_assert!(sequence.0 < 1 << PIECE_SHIFT);
        (self.index as u64) << PIECE_SHIFT | sequence.0
    }

    pub(super) fn operation(&self) -> Operation {
        Operation::Write { block: self.block, buffers: smallvec![self.data.clone()] }
    }
}

/// A segment that takes no records any more and whose trailer is not on the device yet.
pub(super) struct Sealing {
    pub(super) sequence: SegmentSeq,
    slot: Slot,
    epoch: u32,
    end_lsn: Lsn,
    pub(super) units: Arc<Vec<TrailerUnit>>,
    /// Of the body, as far as it has been gone through.
    body_crc: Digest,
    /// Pieces gone through; one more step writes the head.
    pieces: usize,
    is_submitted: bool,
    /// Pieces at the device.
    pub(super) out: Vec<Piece>,
    /// Pieces that the device had no room for.
    pub(super) refused: Vec<Piece>,
}

impl Sealing {
    pub(super) fn new(
        sequence: SegmentSeq,
        slot: Slot,
        epoch: u32,
        end_lsn: Lsn,
        units: Vec<TrailerUnit>,
    ) -> Self {
        Sealing {
            sequence,
            slot,
            epoch,
            end_lsn,
            units: Arc::new(units),
            body_crc: running(),
            pieces: 0,
            is_submitted: false,
            out: Vec::new(),
            refused: Vec::new(),
        }
    }
}

impl Log {
    /// Writes the next piece of each trailer that may go. Returns how many.
    pub(super) fn submit_trailers(&mut self) -> usize {
        let mut count = 0;
        for index in 0..self.sealing.len() {
            let sealing = &self.sealing[index];
            // A trailer vouches for its records: it must not survive a loss of power that they do not.
            if !sealing.is_submitted && self.stable_lsn >= sealing.end_lsn {
                count += usize::from(self.submit_piece(index).is_some());
            }
        }
        count
    }

    /// `None` while there is no memory.
    fn submit_piece(&mut self, index: usize) -> Option<()> {
        let sealing = &mut self.sealing[index];
        let body = sealing.units.as_flattened();
        let len_bytes = TrailerHead::len_bytes(sealing.units.len());
        let pieces = len_bytes.div_ceil(PIECE_BYTES);
        let head_bytes = TrailerHead::len_bytes(0);
        // Piece 0 is gone through first and written last.
        let is_last = sealing.pieces == pieces;
        let piece = if is_last { 0 } else { sealing.pieces };
        let (start, end) = (piece * PIECE_BYTES, ((piece + 1) * PIECE_BYTES).min(len_bytes));
        let part = &body[start.saturating_sub(head_bytes)..end - head_bytes];
        if !is_last && piece == 0 {
            sealing.body_crc.update(part);
            sealing.pieces = 1;
            return Some(());
        }
        let mut buffer = self.environment.dma.allocate((end - start).next_multiple_of(BLOCK_BYTES)).ok()?;
        let (used, unused) = buffer.as_mut_slice().split_at_mut(end - start);
        unused.fill(0);
        if is_last {
            let (head, rest) = used.split_at_mut(head_bytes);
            let units = sealing.units.len();
            let written = TrailerHead {
                version: self.version,
                partial: false,
                epoch: sealing.epoch,
                session: self.epoch,
                sequence: sealing.sequence,
                end_lsn: sealing.end_lsn,
                units: units as u32,
                body_crc: sealing.body_crc.finalize() as u32,
            };
            head.copy_from_slice(&written.encode_head(self.pool));
            rest.copy_from_slice(part);
            sealing.is_submitted = true;
        } else {
            sealing.body_crc.update(part);
            used.copy_from_slice(part);
            sealing.pieces += 1;
        }
        let len_blocks = (buffer.len() / BLOCK_BYTES) as u64;
        let block = self.geometry.trailer_block(sealing.slot) + (start / BLOCK_BYTES) as u64;
        let written = Piece { index: piece, block, data: buffer.freeze() };
        let tag = TAG_TRAILER << TAG_KIND_SHIFT | written.tag(sealing.sequence);
        let operation = written.operation();
        sealing.out.push(written);
        self.device.queue().submit(Command { tag, operation });
        self.stats.device_written_blocks += len_blocks;
        self.stats.trailer_blocks += len_blocks;
        Some(())
    }

    /// Takes the piece that a tag names from those at the device; with the place of its segment.
    fn take_out(&mut self, tag: u64) -> Option<(usize, Piece)> {
        let (piece, sequence) = ((tag >> PIECE_SHIFT) as usize, tag & ((1 << PIECE_SHIFT) - 1));
        let index = self.sealing.iter().position(|sealing| sealing.sequence.0 == sequence)?;
        let out = &mut self.sealing[index].out;
        let place = out.iter().position(|known| known.index == piece)?;
        Some((index, out.swap_remove(place)))
    }

    /// The device has no room for a piece.
    pub(super) fn trailer_refused(&mut self, tag: u64) {
        if let Some((index, piece)) = self.take_out(tag) {
            self.sealing[index].refused.push(piece);
        }
    }

    /// A piece is on the device.
    pub(super) fn trailer_written(&mut self, tag: u64) {
        let Some((index, _)) = self.take_out(tag) else { return };
        let sealing = &self.sealing[index];
        let sequence = sealing.sequence;
        if !sealing.is_submitted || !sealing.out.is_empty() || !sealing.refused.is_empty() {
            return;
        }
        if let Some(sealed) = self.sealing.remove(index) {
            if self.recycling == Recycling::Archived {
                self.sealed_units.push_back((sequence, sealed.units));
                if self.sealed_units.len() > SEALED_UNITS_KEPT
                    && let Some((_, units)) = self.sealed_units.pop_front()
                {
                    self.keep_unit_list(units);
                }
            } else {
                self.keep_unit_list(sealed.units);
            }
        }
        self.table.note_sealed(sequence);
    }

    fn keep_unit_list(&mut self, units: Arc<Vec<TrailerUnit>>) {
        if self.unit_lists.len() < UNIT_LISTS_KEPT
            && let Ok(mut units) = Arc::try_unwrap(units)
        {
            units.clear();
            self.unit_lists.push(units);
        }
    }

    /// An empty list with room for all units of a segment, so that it never moves while it grows.
    pub(super) fn take_unit_list(&mut self) -> Vec<TrailerUnit> {
        self.unit_lists.pop().unwrap_or_else(|| Vec::with_capacity(self.geometry.trailer_units()))
    }

    /// What a clean stop leaves behind once everything is written: a partial trailer for the current segment. `None` when no segment is open or there is no memory.
    pub(in crate::log) fn closing_trailer(&self) -> Option<(u64, Vec<DmaBuf>)> {
        let current = self.current.as_ref()?;
        debug_assert!(self.open.is_none() && self.written_lsn == self.end_lsn);
        let len_bytes = TrailerHead::len_bytes(current.units.len()).next_multiple_of(BLOCK_BYTES);
        let mut area = vec![0; len_bytes];
        let head = TrailerHead {
            version: self.version,
            partial: true,
            epoch: current.epoch,
            session: self.epoch,
            sequence: current.sequence,
            end_lsn: self.end_lsn,
            units: 0,
            body_crc: 0,
        };
        head.of(&current.units).encode(self.pool, &current.units, &mut area);
        let buffers: Option<Vec<DmaBuf>> = area
            .chunks(CLOSING_WRITE_BYTES)
            .map(|chunk| {
                let mut buffer = self.environment.dma.allocate(chunk.len()).ok()?;
                buffer.as_mut_slice().copy_from_slice(chunk);
                Some(buffer.freeze())
            })
            .collect();
        Some((self.geometry.trailer_block(current.slot), buffers?))
    }
}
