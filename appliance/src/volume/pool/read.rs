//! The read path: pieces of a request from zeroes, from the log's memory and from the device, each block checked.

use std::rc::Rc;

use std::sync::Arc;

use smallvec::SmallVec;

use super::read_ahead::{Found, is_ahead};
use super::rescue::is_rescue;
use super::{Extent, PendingRead, Piece, READS_MAX, Refusal, State, Ticket};
use crate::archive::service::{ArchiveError, ObjectBlocks};
use crate::dma::{BLOCK_BYTES, DmaBuf, DmaBufMut};
use crate::log::checksum::crc32c;
use crate::log::{Log, Lsn, ReadDone};
use crate::volume::archive::{Archive, ArchivedBlocks, Fetched};
use crate::volume::index::Mapping;
use crate::volume::request::{IoCompletion, IoError, MAX_IO_BLOCKS};

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
        if self.reads.len() - self.free_reads.len() >= READS_MAX {
            return Err(Refusal::Busy);
        }
        let zeroes = self.zeroes.clone();
        let stream = self.read_ahead.stream_at(ticket.volume, block);
        let volume = self.volumes.get_mut(ticket.volume.0 as usize).and_then(Option::as_mut);
        let volume = volume.ok_or(IoError::Gone)?;
        volume.check_range(block, u64::from(len_blocks))?;
        let uncertain_below = volume.uncertain_below;
        let index = volume.index()?;
        let mut pieces: SmallVec<[Piece; 1]> = SmallVec::new();
        let mut extents: SmallVec<[Extent; 4]> = SmallVec::new();
        // Pieces that were asked for ahead and are on their way, with the numbers of their extents.
        let mut coming: SmallVec<[(usize, u32); 4]> = SmallVec::new();
        let mut ahead_blocks = 0;
        let mut archived: Vec<(usize, ArchivedRun)> = Vec::new();
        // A block that cannot be given, and why.
        let mut bad_block = None;
        for at in block..block + u64::from(len_blocks) {
            let mapping = index.get(at);
            if mapping.lsn() < uncertain_below {
                bad_block =
                    Some((at, mapping.lsn(), "entries of the log that may have replaced it are lost"));
                break;
            }
            if mapping.is_none() {
                push_zero_block(&mut pieces, &zeroes);
            } else if let Some(buffered) = log.buffered(mapping.lsn()) {
                // A block that could not be read when it was copied forward goes on as an error, also before the copy is written.
                if crc32c(&buffered) as u16 != mapping.crc16() {
                    self.stats.checksum_errors += 1;
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
                    // Its place among the pieces; the memory comes below.
                    pieces.push(Piece::Reserved);
                }
            }
        }
        if let Some((block, lsn, why)) = bad_block {
            self.geometry = Some(log.geometry());
            self.tell_fault(ticket.volume, block, lsn, why);
            return Err(IoError::ReadFault.into());
        }
        if !archived.is_empty() && self.archive.is_none() {
            return Err(IoError::ReadFault.into());
        }
        let dma = &log.environment().host_dma;
        let mut from_archive = false;
        if !extents.is_empty() {
            // One buffer for all, so that they leave as one piece.
            let len_blocks: usize = extents.iter().map(|extent| extent.len_blocks).sum();
            let mut whole = dma.allocate(len_blocks * BLOCK_BYTES).map_err(|_| Refusal::Busy)?;
            for extent in &mut extents {
                extent.buffer = Some(whole.split_to(extent.len_blocks * BLOCK_BYTES));
            }
        }
        for (piece, blocks) in archived {
            let buffer = dma.allocate(blocks.len() * BLOCK_BYTES).map_err(|_| Refusal::Busy)?;
            pieces[piece] = Piece::Archived(Box::new(ArchivedBlocks { buffer, blocks }));
            from_archive = true;
        }
        let volume = self.volume_mut(ticket.volume).ok_or(IoError::Gone)?;
        volume.stats.reads += 1;
        volume.stats.read_bytes += u64::from(len_blocks) * BLOCK_BYTES as u64;
        self.stats.host_read_blocks += u64::from(len_blocks);
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
        self.read_ahead.used_blocks += ahead_blocks;
        ticket.sink.begin();
        if read.waiting == 0 && !from_archive {
            self.latencies.end(read.began, &mut None);
            read.complete();
            self.read_on(log, ticket.volume, block, len_blocks);
            return Ok(());
        }
        let slot = self.free_reads.pop().unwrap_or_else(|| {
            self.reads.push(None);
            self.reads.len() - 1
        });
        self.reads[slot] = Some(read);
        for extent in extents {
            if let Some(buffer) = extent.buffer {
                log.pin(log.geometry().sequence_of(extent.first_lsn));
                self.read_device(log, extent.device_block, buffer, token_of(slot, extent.piece));
            }
        }
        for (piece, number) in coming {
            let stream = stream.unwrap_or_default();
            self.read_ahead.wait_for(stream, number, slot, piece);
        }
        if from_archive {
            let geometry = log.geometry();
            self.geometry = Some(geometry);
            if let Some(mut archive) = self.archive.take() {
                self.fetch_archived(&mut archive, slot);
                self.archive = Some(archive);
            }
            self.end_read(slot);
        }
        self.read_on(log, ticket.volume, block, len_blocks);
        Ok(())
    }

    /// Starts a read of the device, and counts it until [`finish_read`](Self::finish_read).
    pub(super) fn read_device(&mut self, log: &mut Log, device_block: u64, buffer: DmaBufMut, token: u64) {
        log.submit_read(device_block, buffer, token);
        self.reads_at_device += 1;
    }

    /// Asks the archive for what a read still misses.
    pub(super) fn fetch_archived(&mut self, archive: &mut Archive, slot: usize) {
        let (Some(geometry), Some(read)) = (self.geometry, self.reads[slot].as_mut()) else { return };
        for piece in &mut read.pieces {
            let Piece::Archived(wanted) = piece else { continue };
            let progress = archive.fetch(wanted, |lsn| geometry.sequence_of(lsn), slot);
            read.waiting += progress.asked;
            if progress.failed {
                read.failure = Some(IoError::ReadFault);
            } else if progress.away {
                read.failure = read.failure.or(Some(IoError::NotNow));
            }
        }
    }

    /// A reply of the archive for a read.
    pub(in crate::volume) fn archive_answered(
        &mut self,
        archive: &mut Archive,
        slot: usize,
        result: Result<Arc<ObjectBlocks>, ArchiveError>,
    ) {
        let (Some(geometry), Some(read)) = (self.geometry, self.reads[slot].as_mut()) else { return };
        read.waiting -= 1;
        match result {
            Ok(blocks) => {
                for piece in &mut read.pieces {
                    if let Piece::Archived(wanted) = piece
                        && !archive.fill(wanted, |lsn| geometry.sequence_of(lsn), &blocks)
                    {
                        read.failure = Some(IoError::ReadFault);
                    }
                }
            }
            Err(error) => {
                tracing::error!(volume = read.volume.0, block = read.block, %error, "a read from the archive failed");
                let is_away = matches!(error, ArchiveError::Store { retry: true, .. });
                read.fail(if is_away { IoError::NotNow } else { IoError::ReadFault });
            }
        }
        if read.failure.is_none() {
            self.fetch_archived(archive, slot);
        }
        self.end_read(slot);
    }

    /// The device ended a read.
    pub(super) fn finish_read(&mut self, log: &mut Log, done: ReadDone) {
        self.reads_at_device -= 1;
        if is_ahead(done.token) {
            return self.finish_ahead(log, done);
        }
        if is_rescue(done.token) {
            return self.rescue_answered(log, done);
        }
        let (slot, piece) = ((done.token >> 16) as usize, (done.token & 0xffff) as usize);
        let Some(read) = self.reads[slot].as_mut() else { unreachable!("a read ends once") };
        let Piece::Waiting { first_lsn, checksums, .. } = &read.pieces[piece] else {
            unreachable!("a device read ends a piece that waits for it")
        };
        let blocks = done.buffer.as_slice().chunks_exact(BLOCK_BYTES).zip(checksums);
        if done.result.is_err() || !are_right(blocks) {
            return self.begin_rescue(log, (slot, piece), Some(done.buffer), done.result);
        }
        log.unpin(log.geometry().sequence_of(*first_lsn));
        read.waiting -= 1;
        read.pieces[piece] = Piece::Ready(done.buffer.freeze());
        self.end_read(slot);
    }

    /// Ends a read that waits for nothing more.
    pub(super) fn end_read(&mut self, slot: usize) {
        if self.reads[slot].as_ref().is_some_and(|read| read.waiting == 0)
            && let Some(read) = self.reads[slot].take()
        {
            self.free_reads.push(slot);
            if read.failure.is_some() {
                self.note_failed(&read);
            }
            self.latencies.end(read.began, &mut None);
            read.complete();
        }
    }

    /// Counts a read that failed, and tells which block it was.
    fn note_failed(&mut self, read: &PendingRead) {
        if let Some(volume) = self.volume_mut(read.volume) {
            volume.stats.errors += 1;
        }
        if read.failure != Some(IoError::ReadFault) {
            return;
        }
        if let Some(lsn) = read.first_missing() {
            let index = self.volume_mut(read.volume).map(|volume| volume.own_index().clone());
            let blocks = read.block..read.block + u64::from(read.len_blocks);
            let block = index.and_then(|index| blocks.clone().find(|&block| index.get(block).lsn() == lsn));
            let why = "neither the device nor the archive gives it with its checksum";
            self.tell_fault(read.volume, block.unwrap_or(read.block), lsn, why);
        }
    }
}

impl PendingRead {
    /// It cannot end well. What is lost for good outweighs what may come later.
    pub(super) fn fail(&mut self, error: IoError) {
        if self.failure.is_none() || error == IoError::ReadFault {
            self.failure = Some(error);
        }
    }

    /// The first block that neither the device nor the archive gave.
    fn first_missing(&self) -> Option<Lsn> {
        let archived = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Archived(archived) => Some(archived),
            _ => None,
        });
        let blocks = archived.flat_map(|archived| &archived.blocks);
        blocks.filter(|(_, _, fetched)| *fetched != Fetched::There).map(|&(lsn, ..)| lsn).next()
    }

    pub(super) fn complete(self) {
        let mut data: SmallVec<[DmaBuf; 1]> = SmallVec::new();
        if self.failure.is_none() {
            for piece in self.pieces {
                let buffer = match piece {
                    Piece::Ready(buffer) => buffer,
                    Piece::Archived(archived) => archived.buffer.freeze(),
                    Piece::Waiting { .. } | Piece::Reserved => {
                        unreachable!("a read completes when all its pieces are there")
                    }
                };
                match data.last_mut() {
                    Some(last) => {
                        if let Err(apart) = last.try_join(buffer) {
                            data.push(apart);
                        }
                    }
                    None => data.push(buffer),
                }
            }
        }
        let result = self.failure.map_or(Ok(()), Err);
        self.sink.push(IoCompletion { tag: self.tag, result, data });
    }
}

/// The token of the device read for a piece of a read.
fn token_of(slot: usize, piece: usize) -> u64 {
    (slot as u64) << 16 | piece as u64
}

/// Whether blocks have their checksums.
pub(super) fn are_right<'a>(mut blocks: impl Iterator<Item = (&'a [u8], &'a u16)>) -> bool {
    blocks.all(|(block, &crc)| crc32c(block) as u16 == crc)
}

/// Adds one block of zeroes, joined to zeroes before it.
fn push_zero_block(pieces: &mut SmallVec<[Piece; 1]>, zeroes: &DmaBuf) {
    if let Some(Piece::Ready(last)) = pieces.last_mut() {
        let longer = last.len() + BLOCK_BYTES;
        if last.as_ptr() == zeroes.as_ptr() && longer <= zeroes.len() {
            *last = zeroes.slice(0, longer);
            return;
        }
    }
    pieces.push(Piece::Ready(zeroes.slice(0, BLOCK_BYTES)));
}

/// Adds a block that is in memory, joined to its neighbour.
fn push_ready(pieces: &mut SmallVec<[Piece; 1]>, block: DmaBuf) {
    match pieces.last_mut() {
        Some(Piece::Ready(last)) => {
            if let Err(apart) = last.try_join(block) {
                pieces.push(Piece::Ready(apart));
            }
        }
        _ => pieces.push(Piece::Ready(block)),
    }
}

/// Adds a block that was asked for ahead, to the piece before it when it is of the same extent and lies directly behind.
fn push_coming(
    pieces: &mut SmallVec<[Piece; 1]>,
    coming: &mut SmallVec<[(usize, u32); 4]>,
    mapping: Mapping,
    number: u32,
) {
    let place = pieces.len();
    if let Some(Piece::Waiting { first_lsn, checksums, .. }) = pieces.last_mut()
        && coming.last().is_some_and(|&(piece, last)| piece + 1 == place && last == number)
        && first_lsn.plus(checksums.len() as u64) == mapping.lsn()
    {
        checksums.push(mapping.crc16());
        return;
    }
    coming.push((place, number));
    let checksums = std::iter::once(mapping.crc16()).collect();
    pieces.push(Piece::Waiting { first_lsn: mapping.lsn(), checksums });
}

/// Blocks that come from the archive: positions, checksums, and how far they have come.
type ArchivedRun = SmallVec<[(Lsn, u16, Fetched); 4]>;

/// Adds a block that is in the archive only, to the run before it when that is the last piece; otherwise it begins a run at `place`.
fn push_archived(archived: &mut Vec<(usize, ArchivedRun)>, place: usize, mapping: Mapping) {
    let block = (mapping.lsn(), mapping.crc16(), Fetched::Missing);
    match archived.last_mut() {
        Some((piece, run)) if *piece + 1 == place => run.push(block),
        _ => archived.push((place, std::iter::once(block).collect())),
    }
}

/// Adds a block that is on the device, to the read before it when it lies directly behind.
fn push_extent(
    pieces: &mut SmallVec<[Piece; 1]>,
    extents: &mut SmallVec<[Extent; 4]>,
    mapping: Mapping,
    device_block: u64,
) {
    let place = pieces.len();
    if let (Some(extent), Some(Piece::Waiting { checksums, .. })) = (extents.last_mut(), pieces.last_mut())
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
    pieces.push(Piece::Waiting { first_lsn: mapping.lsn(), checksums });
}
