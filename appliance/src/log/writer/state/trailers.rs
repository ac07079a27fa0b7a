//! Trailers of full segments, on their way to the device and for some time after.
//!
//! The trailer of a 64 MiB segment is 388 KiB. If it were built and written at once, a host's
//! command would wait as long as for many commands. So it is written in pieces of [`PIECE_BYTES`],
//! one in each round of a turn. The checksum of the body is computed piece by piece. The piece with
//! the head contains it, and is written last. In whatever order the pieces reach the device, a
//! trailer is valid only if its head is there and its checksum matches the body.
//!
//! **States of a segment here:** sealed (its records may not be stable yet) → pieces in flight →
//! complete on the device → its units kept for the archivist, or not.
//!
//! **Invariants.** No segment is sealed while [`PENDING_MAX`] segments have no complete trailer. So
//! a start after a crash reads at most three segments record by record: these two and the current
//! one. Only a start that finds damaged trailers begins with more, and writes them again. A piece
//! is written only after the records are stable: a trailer proves its records, so it must not
//! survive a loss of power that they do not survive.

use std::collections::VecDeque;
use std::sync::Arc;

use crc_fast::Digest;
use smallvec::smallvec;

use super::identity::LogIdentity;
use crate::bdev::Operation;
use crate::dma::{BLOCK_BYTES, DmaBuf, DmaPool};
use crate::log::checksum::running;
use crate::log::format::{TrailerHead, TrailerUnit};
use crate::log::types::{Lsn, SegmentSeq, Slot};

/// The size of one piece of a trailer, in bytes.
const PIECE_BYTES: usize = 32 << 10;
/// The maximum number of segments whose trailer is not complete on the device.
const PENDING_MAX: usize = 2;
/// How many segments' units are kept in memory after they were sealed.
const KEPT_MAX: usize = 3;
/// The maximum number of empty lists of units that are kept for the next segments.
const UNIT_LISTS_MAX: usize = 4;
/// The bit of a piece's name at which its index begins, above the number of its segment: in 48 bits
/// of LSN there are at most 2^40 segments of at least 256 blocks.
const PIECE_SHIFT: u32 = 44;

/// The trailers. See the module's documentation.
pub(in crate::log) struct Trailers {
    /// Oldest first.
    pending: VecDeque<PendingTrailer>,
    /// The units of the segments sealed last, for the archivist.
    kept: VecDeque<(SegmentSeq, Arc<Vec<TrailerUnit>>)>,
    unit_lists: Vec<Vec<TrailerUnit>>,
}

/// A full segment whose trailer is not complete on the device.
pub(in crate::log) struct PendingTrailer {
    sequence: SegmentSeq,
    slot: Slot,
    epoch: u32,
    end_lsn: Lsn,
    units: Arc<Vec<TrailerUnit>>,
    /// The checksum of the body so far.
    body_crc: Digest,
    /// How many pieces have been processed; one more step writes the head.
    pieces: usize,
    is_submitted: bool,
    /// Pieces at the device.
    in_flight: Vec<TrailerPiece>,
    /// Pieces that the device had no room for.
    refused: Vec<TrailerPiece>,
}

/// A piece of a trailer in flight, kept because the device may have no room for it.
struct TrailerPiece {
    index: usize,
    block: u64,
    data: DmaBuf,
}

/// The result of one step of a trailer.
enum PieceStep {
    /// The first piece was added to the checksum. It is written last.
    WentThrough,
    /// A piece is to be written.
    Write(u64, Operation),
}

impl Trailers {
    /// Starts with the segments whose trailer a start did not find.
    pub(in crate::log) fn new(pending: VecDeque<PendingTrailer>) -> Self {
        Trailers { pending, kept: VecDeque::new(), unit_lists: Vec::new() }
    }

    /// Whether every full segment has its trailer.
    pub(in crate::log) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether no segment may be sealed before one of these has its trailer.
    pub(in crate::log) fn is_full(&self) -> bool {
        self.pending.len() >= PENDING_MAX
    }

    /// Whether a piece is at the device.
    pub(in crate::log) fn is_in_flight(&self) -> bool {
        self.pending.iter().any(|trailer| !trailer.in_flight.is_empty())
    }

    /// Whether the device had no room for a piece.
    pub(in crate::log) fn has_refused(&self) -> bool {
        self.pending.iter().any(|trailer| !trailer.refused.is_empty())
    }

    /// Adds a full segment, whose trailer is to be written.
    pub(in crate::log) fn push(&mut self, trailer: PendingTrailer) {
        assert!(!self.is_full(), "a start reads few segments record by record");
        debug_assert!(self.pending.back().is_none_or(|before| before.sequence < trailer.sequence));
        self.pending.push_back(trailer);
    }

    /// The units of a segment that was sealed recently.
    pub(in crate::log) fn units(&self, sequence: SegmentSeq) -> Option<&Arc<Vec<TrailerUnit>>> {
        let pending = self.pending.iter().find(|trailer| trailer.sequence == sequence);
        let kept = || self.kept.iter().find(|(known, _)| *known == sequence).map(|(_, units)| units);
        pending.map(|trailer| &trailer.units).or_else(kept)
    }

    /// Passes the next piece of each trailer that may be written to `submit`, with its name.
    /// Returns how many trailers made progress.
    pub(in crate::log) fn submit(
        &mut self,
        stable_lsn: Lsn,
        identity: &LogIdentity,
        dma: &DmaPool,
        mut submit: impl FnMut(u64, Operation),
    ) -> usize {
        let mut count = 0;
        for trailer in &mut self.pending {
            if trailer.is_submitted || stable_lsn < trailer.end_lsn {
                continue;
            }
            match trailer.next_piece(identity, dma) {
                Some(PieceStep::WentThrough) => count += 1,
                Some(PieceStep::Write(name, operation)) => {
                    submit(name, operation);
                    count += 1;
                }
                None => {}
            }
        }
        count
    }

    /// Passes each piece that the device had no room for to `submit` again. Returns how many.
    pub(in crate::log) fn resubmit(&mut self, mut submit: impl FnMut(u64, Operation)) -> usize {
        let mut count = 0;
        for trailer in &mut self.pending {
            for piece in trailer.refused.drain(..) {
                submit(piece.name(trailer.sequence), piece.operation());
                trailer.in_flight.push(piece);
                count += 1;
            }
        }
        count
    }

    /// Notes that the device has no room for a piece.
    pub(in crate::log) fn note_refused(&mut self, name: u64) {
        if let Some((index, piece)) = self.take_in_flight(name) {
            self.pending[index].refused.push(piece);
        }
    }

    /// Notes that a piece is on the device. Returns its segment if the trailer is now complete.
    /// `keeps_units`: its units stay in memory for the archivist.
    pub(in crate::log) fn note_written(&mut self, name: u64, keeps_units: bool) -> Option<SegmentSeq> {
        let (index, _) = self.take_in_flight(name)?;
        let trailer = &self.pending[index];
        if !trailer.is_submitted || !trailer.in_flight.is_empty() || !trailer.refused.is_empty() {
            return None;
        }
        let PendingTrailer { sequence, units, .. } = self.pending.remove(index)?;
        if !keeps_units {
            self.keep_unit_list(units);
            return Some(sequence);
        }
        self.kept.push_back((sequence, units));
        if self.kept.len() > KEPT_MAX
            && let Some((_, units)) = self.kept.pop_front()
        {
            self.keep_unit_list(units);
        }
        Some(sequence)
    }

    /// Removes the piece with this name from those at the device, and returns it with the index of
    /// its trailer.
    fn take_in_flight(&mut self, name: u64) -> Option<(usize, TrailerPiece)> {
        let (piece, sequence) = ((name >> PIECE_SHIFT) as usize, name & ((1 << PIECE_SHIFT) - 1));
        let index = self.pending.iter().position(|trailer| trailer.sequence.0 == sequence)?;
        let in_flight = &mut self.pending[index].in_flight;
        let place = in_flight.iter().position(|known| known.index == piece)?;
        Some((index, in_flight.swap_remove(place)))
    }

    fn keep_unit_list(&mut self, units: Arc<Vec<TrailerUnit>>) {
        if self.unit_lists.len() < UNIT_LISTS_MAX
            && let Ok(mut units) = Arc::try_unwrap(units)
        {
            units.clear();
            self.unit_lists.push(units);
        }
    }

    /// An empty list with room for all units of a segment, so that it is not reallocated while it
    /// grows.
    pub(in crate::log) fn take_unit_list(&mut self, units_max: usize) -> Vec<TrailerUnit> {
        self.unit_lists.pop().unwrap_or_else(|| Vec::with_capacity(units_max))
    }
}

impl PendingTrailer {
    /// The trailer of a segment whose records end at `end_lsn`.
    pub(in crate::log) fn new(
        sequence: SegmentSeq,
        slot: Slot,
        epoch: u32,
        end_lsn: Lsn,
        units: Vec<TrailerUnit>,
    ) -> Self {
        PendingTrailer {
            sequence,
            slot,
            epoch,
            end_lsn,
            units: Arc::new(units),
            body_crc: running(),
            pieces: 0,
            is_submitted: false,
            in_flight: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Builds the next piece; `None` while there is no memory.
    fn next_piece(&mut self, identity: &LogIdentity, dma: &DmaPool) -> Option<PieceStep> {
        let len_bytes = TrailerHead::len_bytes(self.units.len());
        let pieces = len_bytes.div_ceil(PIECE_BYTES);
        let head_bytes = TrailerHead::len_bytes(0);
        debug_assert!(self.pieces <= pieces && !self.is_submitted);
        // Piece 0 is processed first and written last.
        let is_last = self.pieces == pieces;
        let index = if is_last { 0 } else { self.pieces };
        let (start, end) = (index * PIECE_BYTES, ((index + 1) * PIECE_BYTES).min(len_bytes));
        let body = self.units.as_flattened();
        let part = &body[start.saturating_sub(head_bytes)..end - head_bytes];
        if !is_last && index == 0 {
            self.body_crc.update(part);
            self.pieces = 1;
            return Some(PieceStep::WentThrough);
        }
        let mut buffer = dma.allocate((end - start).next_multiple_of(BLOCK_BYTES)).ok()?;
        let (used, unused) = buffer.as_mut_slice().split_at_mut(end - start);
        unused.fill(0);
        if is_last {
            let (head, rest) = used.split_at_mut(head_bytes);
            head.copy_from_slice(&self.head(identity).encode_head(identity.pool()));
            rest.copy_from_slice(part);
            self.is_submitted = true;
        } else {
            self.body_crc.update(part);
            used.copy_from_slice(part);
            self.pieces += 1;
        }
        let block = identity.geometry().trailer_block(self.slot) + (start / BLOCK_BYTES) as u64;
        let piece = TrailerPiece { index, block, data: buffer.freeze() };
        let step = PieceStep::Write(piece.name(self.sequence), piece.operation());
        self.in_flight.push(piece);
        Some(step)
    }

    /// The head, after the whole body was processed.
    fn head(&self, identity: &LogIdentity) -> TrailerHead {
        TrailerHead {
            version: identity.version(),
            partial: false,
            epoch: self.epoch,
            session: identity.epoch(),
            sequence: self.sequence,
            end_lsn: self.end_lsn,
            units: self.units.len() as u32,
            body_crc: self.body_crc.finalize() as u32,
        }
    }
}

impl TrailerPiece {
    /// The name of the piece in a tag.
    fn name(&self, sequence: SegmentSeq) -> u64 {
        debug_assert!(sequence.0 < 1 << PIECE_SHIFT);
        (self.index as u64) << PIECE_SHIFT | sequence.0
    }

    fn operation(&self) -> Operation {
        Operation::Write { block: self.block, buffers: smallvec![self.data.clone()] }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::log::geometry::Geometry;

    /// A geometry in which a full trailer takes four pieces.
    fn identity() -> LogIdentity {
        let geometry = Geometry::fit(8 * 4096, 4096).expect("seven slots");
        LogIdentity::new(2, Uuid::from_u128(7), 0, 3, geometry)
    }

    fn trailer(sequence: u64, end_lsn: u64, units: &[TrailerUnit]) -> PendingTrailer {
        PendingTrailer::new(SegmentSeq(sequence), Slot(sequence), 1, Lsn(end_lsn), units.to_vec())
    }

    /// The writes of one round: names, blocks and bytes.
    fn round(
        trailers: &mut Trailers,
        stable: u64,
        identity: &LogIdentity,
        dma: &DmaPool,
    ) -> Vec<(u64, u64, Vec<u8>)> {
        let mut writes = Vec::new();
        trailers.submit(Lsn(stable), identity, dma, |name, operation| {
            let Operation::Write { block, buffers } = operation else { panic!("a trailer is written") };
            writes.push((name, block, buffers.iter().flat_map(|part| part.to_vec()).collect()));
        });
        writes
    }

    #[test]
    fn pieces_wait_for_stable_records_and_the_head_goes_last() {
        let (identity, dma) = (identity(), DmaPool::new(1 << 20));
        let units: Vec<TrailerUnit> = (0..4100_u32).map(|number| [number as u8; 24]).collect();
        let mut trailers = Trailers::new(VecDeque::from([trailer(0, 900, &units)]));
        assert!(round(&mut trailers, 899, &identity, &dma).is_empty(), "its records are not stable");
        let first = identity.geometry().trailer_block(Slot(0));
        let mut area = vec![0; 4 * PIECE_BYTES];
        let mut written = Vec::new();
        for _ in 0..10 {
            for (name, block, bytes) in round(&mut trailers, 900, &identity, &dma) {
                let at = (block - first) as usize * BLOCK_BYTES;
                area[at..at + bytes.len()].copy_from_slice(&bytes);
                written.push((name, block));
            }
        }
        assert_eq!(written.len(), 3 + 1, "{written:?}");
        assert_eq!(written.last().map(|&(_, block)| block), Some(first), "the head goes last");
        let (pool, segment_blocks) = (identity.pool(), identity.geometry().segment_blocks);
        let head = TrailerHead::decode(&area[..BLOCK_BYTES], pool, segment_blocks).expect("a whole head");
        assert_eq!(head.body(&area).expect("a whole body"), units);
        // At first the device has no room for one of them. The trailer is complete when all are
        // there.
        trailers.note_refused(written[1].0);
        assert!(trailers.has_refused() && trailers.is_in_flight());
        for &(name, _) in [&written[0], &written[2], &written[3]] {
            assert_eq!(trailers.note_written(name, true), None);
        }
        let mut again = Vec::new();
        assert_eq!(trailers.resubmit(|name, _| again.push(name)), 1);
        assert_eq!(trailers.note_written(again[0], true), Some(SegmentSeq(0)));
        assert!(trailers.is_empty() && trailers.units(SegmentSeq(0)).is_some());
    }

    #[test]
    fn two_segments_without_a_trailer_are_enough() {
        let mut trailers = Trailers::new(VecDeque::new());
        trailers.push(trailer(0, 10, &[]));
        assert!(!trailers.is_full());
        trailers.push(trailer(1, 20, &[]));
        assert!(trailers.is_full());
        let third = std::panic::AssertUnwindSafe(|| trailers.push(trailer(2, 30, &[])));
        assert!(std::panic::catch_unwind(third).is_err());
    }
}
