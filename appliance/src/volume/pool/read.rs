//! The read path: parts of a request from zeroes, from the log's memory and from the device, each
//! block checked.

use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use super::read_ahead::{Found, is_ahead};
use super::reads::{PendingRead, ReadPiece, are_right};
use super::rescues::is_rescue;
use super::state::State;
use super::ticket::Ticket;
use crate::archive::service::{ArchiveError, ObjectBlocks};
use crate::dma::{BLOCK_BYTES, DmaBuf, DmaBufMut};
use crate::log::checksum::crc32c;
use crate::log::{Log, Lsn, ReadDone};
use crate::volume::archive::{ArchivedBlocks, Fetched};
use crate::volume::image::index::Mapping;
use crate::volume::image::volume::Volume;
use crate::volume::request::{IoError, MAX_IO_BLOCKS, Refusal, VolumeId};

impl State {
    pub(super) fn start_read(
        &mut self,
        log: &mut Log,
        block: u64,
        len_blocks: u32,
        ticket: &Ticket<'_>,
    ) -> Result<(), Refusal> {
        if len_blocks == 0 || len_blocks > MAX_IO_BLOCKS {
            return Err(IoError::InvalidLength.into());
        }
        if self.reads.is_full() {
            return Err(Refusal::Busy);
        }
        let zeroes = self.reads.zeroes();
        let stream = self.read_ahead.stream_at(ticket.volume, block);
        let volume = self.volumes.get(ticket.volume).ok_or(IoError::Gone)?;
        volume.check_range(block, u64::from(len_blocks))?;
        let uncertain_below = volume.uncertain_below();
        let index = volume.usable_index()?;
        let mut pieces: SmallVec<[ReadPiece; 1]> = SmallVec::new();
        let mut extents: SmallVec<[Extent; 4]> = SmallVec::new();
        // Pieces that read-ahead has requested and that are still in flight, with the numbers of
        // their extents.
        let mut coming: SmallVec<[(usize, u32); 4]> = SmallVec::new();
        let mut ahead_blocks = 0;
        let mut archived: Vec<(usize, ArchivedRun)> = Vec::new();
        // A block that cannot be read, and why.
        let mut bad_block = None;
        for at in block..block + u64::from(len_blocks) {
            let mapping = index.get(at);
            if mapping.lsn() < uncertain_below {
                bad_block =
                    Some((at, mapping.lsn(), "entries of the log that may have replaced it are lost"));
                break;
            }
            if mapping.is_none() {
                push_zero_block(&mut pieces, zeroes);
            } else if let Some(buffered) = log.buffered(mapping.lsn()) {
                // A block that could not be read when it was copied forward remains an error, even
                // before the copy is written.
                if crc32c(&buffered) as u16 != mapping.crc16() {
                    self.stats.note_checksum_errors(1);
                    bad_block = Some((at, mapping.lsn(), "it could not be read when it was copied forward"));
                    break;
                }
                push_ready(&mut pieces, buffered);
            } else if let Some(found) = stream.and_then(|stream| self.read_ahead.find(stream, at, mapping)) {
                ahead_blocks += 1;
                match found {
                    Found::There(data) => push_ready(&mut pieces, data),
                    Found::Coming(number) => push_coming(&mut pieces, &mut coming, mapping, number),
                }
            } else if let Some(device_block) = log.device_block(mapping.lsn()) {
                push_extent(&mut pieces, &mut extents, mapping, device_block);
            } else {
                push_archived(&mut archived, pieces.len(), mapping);
                if archived.last().is_some_and(|(_, blocks)| blocks.len() == 1) {
                    // Reserve its place among the pieces; the memory is allocated below.
                    pieces.push(ReadPiece::Reserved);
                }
            }
        }
        if let Some((block, lsn, why)) = bad_block {
            self.reads.set_geometry(log.geometry());
            self.report_fault(ticket.volume, block, lsn, why);
            return Err(IoError::ReadFault.into());
        }
        if !archived.is_empty() && !self.archive.is_attached() {
            return Err(IoError::ReadFault.into());
        }
        let dma = &log.environment().host_dma;
        let mut from_archive = false;
        if !extents.is_empty() {
            // Use one buffer for all, so that they are sent as one piece.
            let len_blocks: usize = extents.iter().map(|extent| extent.len_blocks).sum();
            let mut whole = dma.allocate(len_blocks * BLOCK_BYTES).map_err(|_| Refusal::Busy)?;
            for extent in &mut extents {
                extent.buffer = Some(whole.split_to(extent.len_blocks * BLOCK_BYTES));
            }
        }
        for (piece, blocks) in archived {
            let buffer = dma.allocate(blocks.len() * BLOCK_BYTES).map_err(|_| Refusal::Busy)?;
            pieces[piece] = ReadPiece::Archived(Box::new(ArchivedBlocks { buffer, blocks }));
            from_archive = true;
        }
        let volume = self.volumes.get_mut(ticket.volume).ok_or(IoError::Gone)?;
        volume.note_read(u64::from(len_blocks));
        self.stats.note_read(u64::from(len_blocks));
        let read = PendingRead {
            volume: ticket.volume,
            block,
            len_blocks,
            tag: ticket.tag,
            sink: Rc::clone(ticket.sink),
            began: ticket.began,
            pieces,
            waiting: extents.len() + coming.len(),
            failure: None,
        };
        self.read_ahead.note_used(ahead_blocks);
        ticket.sink.begin();
        if read.waiting == 0 && !from_archive {
            self.latencies.end(read.began, &mut None);
            read.complete();
            self.read_on(log, ticket.volume, block, len_blocks);
            return Ok(());
        }
        let place = self.reads.add(read);
        for extent in extents {
            if let Some(buffer) = extent.buffer {
                log.pin(log.geometry().sequence_of(extent.first_lsn));
                let token = token_of(place, extent.piece);
                self.reads.read_device(log, extent.device_block, buffer, token);
            }
        }
        for (piece, number) in coming {
            let stream = stream.unwrap_or_default();
            self.read_ahead.wait_for(stream, number, place, piece);
        }
        if from_archive {
            self.fetch_archived(log, place);
            self.end_read(place);
        }
        self.read_on(log, ticket.volume, block, len_blocks);
        Ok(())
    }

    /// Handles a reply of the archive for a read.
    pub(super) fn archive_answered(&mut self, place: usize, result: Result<Arc<ObjectBlocks>, ArchiveError>) {
        if let Some(archive) = self.archive.get_mut() {
            self.reads.archive_answered(archive, place, result);
        }
        self.end_read(place);
    }

    /// Requests the missing blocks of a read from the archive.
    pub(super) fn fetch_archived(&mut self, log: &Log, place: usize) {
        self.reads.set_geometry(log.geometry());
        match self.archive.get_mut() {
            Some(archive) => self.reads.fetch(archive, place),
            None => self.reads.fail(place, IoError::ReadFault),
        }
    }

    /// Handles the end of a device read.
    pub(super) fn finish_read(&mut self, log: &mut Log, done: ReadDone) {
        self.reads.note_done();
        if is_ahead(done.token) {
            return self.finish_ahead(log, done);
        }
        if is_rescue(done.token) {
            return self.rescue_answered(log, done);
        }
        let place = ((done.token >> 16) as usize, (done.token & 0xffff) as usize);
        let (first_lsn, checksums) = self.reads.waiting_piece(place);
        let blocks = done.buffer.as_slice().chunks_exact(BLOCK_BYTES).zip(checksums);
        if done.result.is_err() || !are_right(blocks) {
            return self.begin_rescue(log, place, Some(done.buffer), done.result);
        }
        log.unpin(log.geometry().sequence_of(first_lsn));
        self.reads.fill(place, done.buffer.freeze());
        self.end_read(place.0);
    }

    /// Handles read-ahead blocks that arrived, or could not be read: reads that wait for them
    /// continue.
    fn finish_ahead(&mut self, log: &mut Log, done: ReadDone) {
        let result = done.result.clone();
        let arrived = match self.read_ahead.finish(done) {
            Ok(arrived) => arrived,
            Err(orphan) => {
                if let Some(lsn) = orphan {
                    log.unpin(log.geometry().sequence_of(lsn));
                }
                return;
            }
        };
        let sequence = log.geometry().sequence_of(arrived.first_lsn);
        for place in arrived.waiters {
            if let Some(data) = &arrived.data {
                let (first_lsn, checksums) = self.reads.waiting_piece(place);
                let len = checksums.len() * BLOCK_BYTES;
                let at = (first_lsn.0 - arrived.first_lsn.0) as usize * BLOCK_BYTES;
                self.reads.fill(place, data.slice(at, len));
                self.end_read(place.0);
                continue;
            }
            // Only the piece of this read counts for it, and it is read again for this read alone.
            log.pin(sequence);
            self.begin_rescue(log, place, None, result.clone());
        }
        log.unpin(sequence);
    }

    /// Ends a read that no longer waits for anything.
    pub(super) fn end_read(&mut self, place: usize) {
        let Some(read) = self.reads.take_ended(place) else { return };
        if read.failure.is_some() {
            self.note_failed(&read);
        }
        self.latencies.end(read.began, &mut None);
        read.complete();
    }

    /// Counts a read that failed, and reports its block.
    fn note_failed(&mut self, read: &PendingRead) {
        if let Some(volume) = self.volumes.get_mut(read.volume) {
            volume.note_error();
        }
        if read.failure != Some(IoError::ReadFault) {
            return;
        }
        if let Some(lsn) = read.first_missing() {
            let index = self.volumes.get(read.volume).map(Volume::own_index);
            let mut blocks = read.block..read.block + u64::from(read.len_blocks);
            let block = index.and_then(|index| blocks.find(|&block| index.get(block).lsn() == lsn));
            let why = "neither the device nor the archive gives it with its checksum";
            self.report_fault(read.volume, block.unwrap_or(read.block), lsn, why);
        }
    }

    /// Counts a block that a host could not read, and reports it by name.
    fn report_fault(&mut self, volume: VolumeId, block: u64, lsn: Lsn, why: &str) {
        self.stats.note_unreadable();
        let name = self.volumes.get(volume).map(Volume::name).unwrap_or_default();
        let segment = self.reads.geometry().map(|geometry| geometry.sequence_of(lsn).0);
        let place = segment.map_or(String::new(), |segment| format!(", segment {segment}"));
        let fault = format!(
            "volume '{name}', block {block} (LSN {lsn}{place}): {why}; hosts get a media error until it is written again"
        );
        self.faults.note(fault, self.latencies.now_ns());
    }
}

/// A device read that will be submitted.
struct Extent {
    piece: usize,
    first_lsn: Lsn,
    device_block: u64,
    len_blocks: usize,
    buffer: Option<DmaBufMut>,
}

/// The token of the device read for a piece of a read.
fn token_of(slot: usize, piece: usize) -> u64 {
    (slot as u64) << 16 | piece as u64
}

/// Adds one block of zeroes, joined to a preceding piece of zeroes.
fn push_zero_block(pieces: &mut SmallVec<[ReadPiece; 1]>, zeroes: &DmaBuf) {
    if let Some(ReadPiece::Ready(last)) = pieces.last_mut() {
        let longer = last.len() + BLOCK_BYTES;
        if last.as_ptr() == zeroes.as_ptr() && longer <= zeroes.len() {
            *last = zeroes.slice(0, longer);
            return;
        }
    }
    pieces.push(ReadPiece::Ready(zeroes.slice(0, BLOCK_BYTES)));
}

/// Adds a block that is in memory, joined to the preceding piece if they are adjacent.
fn push_ready(pieces: &mut SmallVec<[ReadPiece; 1]>, block: DmaBuf) {
    match pieces.last_mut() {
        Some(ReadPiece::Ready(last)) => {
            if let Err(apart) = last.try_join(block) {
                pieces.push(ReadPiece::Ready(apart));
            }
        }
        _ => pieces.push(ReadPiece::Ready(block)),
    }
}

/// Adds a block that read-ahead has requested. It is joined to the preceding piece if it is in the
/// same extent and directly follows.
fn push_coming(
    pieces: &mut SmallVec<[ReadPiece; 1]>,
    coming: &mut SmallVec<[(usize, u32); 4]>,
    mapping: Mapping,
    number: u32,
) {
    let place = pieces.len();
    if let Some(ReadPiece::Waiting { first_lsn, checksums, .. }) = pieces.last_mut()
        && coming.last().is_some_and(|&(piece, last)| piece + 1 == place && last == number)
        && first_lsn.plus(checksums.len() as u64) == mapping.lsn()
    {
        checksums.push(mapping.crc16());
        return;
    }
    coming.push((place, number));
    let checksums = std::iter::once(mapping.crc16()).collect();
    pieces.push(ReadPiece::Waiting { first_lsn: mapping.lsn(), checksums });
}

/// Blocks that come from the archive: positions, checksums, and states.
type ArchivedRun = SmallVec<[(Lsn, u16, Fetched); 4]>;

/// Adds a block that is only in the archive. It is joined to the preceding run if that is the last
/// piece; otherwise it starts a run at `place`.
fn push_archived(archived: &mut Vec<(usize, ArchivedRun)>, place: usize, mapping: Mapping) {
    let block = (mapping.lsn(), mapping.crc16(), Fetched::Missing);
    match archived.last_mut() {
        Some((piece, run)) if *piece + 1 == place => run.push(block),
        _ => archived.push((place, std::iter::once(block).collect())),
    }
}

/// Adds a block that is on the device. It is joined to the preceding read if it directly follows.
fn push_extent(
    pieces: &mut SmallVec<[ReadPiece; 1]>,
    extents: &mut SmallVec<[Extent; 4]>,
    mapping: Mapping,
    device_block: u64,
) {
    let place = pieces.len();
    if let (Some(extent), Some(ReadPiece::Waiting { checksums, .. })) =
        (extents.last_mut(), pieces.last_mut())
        && extent.piece + 1 == place
    {
        let len = extent.len_blocks as u64;
        if extent.first_lsn.plus(len) == mapping.lsn() && extent.device_block + len == device_block {
            extent.len_blocks += 1;
            checksums.push(mapping.crc16());
            return;
        }
    }
    extents.push(Extent {
        piece: pieces.len(),
        first_lsn: mapping.lsn(),
        device_block,
        len_blocks: 1,
        buffer: None,
    });
    let mut checksums = SmallVec::new();
    checksums.push(mapping.crc16());
    pieces.push(ReadPiece::Waiting { first_lsn: mapping.lsn(), checksums });
}
