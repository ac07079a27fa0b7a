//! The read path: parts of a request from zeroes, from the log's memory and from the device, each
//! block checked.

use std::sync::Arc;

use super::read_ahead::is_ahead;
use super::read_plan::{BadBlock, ReadPlan};
use super::reads::{PendingRead, are_right};
use super::rescues::is_rescue;
use super::state::State;
use super::ticket::Ticket;
use crate::archive::service::{ArchiveError, ObjectBlocks};
use crate::dma::BLOCK_BYTES;
use crate::log::checksum::crc32c;
use crate::log::{Log, Lsn, ReadDone};
use crate::volume::image::volume::Volume;
use crate::volume::request::{IoError, MAX_IO_BLOCKS, Refusal, VolumeId};

impl State {
    /// Starts a read of a host: it is answered now, or when everything that it waits for is there.
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
        let stream = self.read_ahead.stream_at(ticket.volume, block);
        let mut plan = ReadPlan::default();
        if let Err(bad) = self.plan_read(log, ticket.volume, (block, len_blocks), stream, &mut plan)? {
            self.reads.set_geometry(log.geometry());
            self.report_fault(ticket.volume, bad.block, bad.lsn, bad.why);
            return Err(IoError::ReadFault.into());
        }
        if plan.needs_archive() && !self.archive.is_attached() {
            return Err(IoError::ReadFault.into());
        }
        plan.allocate(&log.environment().host_dma)?;
        let volume = self.volumes.get_mut(ticket.volume).ok_or(IoError::Gone)?;
        volume.note_read(u64::from(len_blocks));
        self.stats.note_read(u64::from(len_blocks));
        self.read_ahead.note_used(plan.ahead_blocks());
        ticket.sink.begin();
        self.submit_read(log, (block, len_blocks), stream, &mut plan, ticket);
        self.read_on(log, ticket.volume, block, len_blocks);
        Ok(())
    }

    /// Finds where each block of a read is now. The inner error is a block that cannot be read.
    #[inline]
    fn plan_read(
        &mut self,
        log: &Log,
        id: VolumeId,
        (block, len_blocks): (u64, u32),
        stream: Option<usize>,
        plan: &mut ReadPlan,
    ) -> Result<Result<(), BadBlock>, Refusal> {
        let zeroes = self.reads.zeroes();
        let volume = self.volumes.get(id).ok_or(IoError::Gone)?;
        volume.check_range(block, u64::from(len_blocks))?;
        let uncertain_below = volume.uncertain_below();
        let index = volume.usable_index()?;
        for at in block..block + u64::from(len_blocks) {
            let mapping = index.get(at);
            let lsn = mapping.lsn();
            if lsn < uncertain_below {
                let why = "entries of the log that may have replaced it are lost";
                return Ok(Err(BadBlock { block: at, lsn, why }));
            }
            if mapping.is_none() {
                plan.push_zero_block(zeroes);
            } else if let Some(buffered) = log.buffered(lsn) {
                // A block that could not be read when it was copied forward remains an error, even
                // before the copy is written.
                if crc32c(&buffered) as u16 != mapping.crc16() {
                    self.stats.note_checksum_errors(1);
                    let why = "it could not be read when it was copied forward";
                    return Ok(Err(BadBlock { block: at, lsn, why }));
                }
                plan.push_ready(buffered);
            } else if let Some(found) = stream.and_then(|stream| self.read_ahead.find(stream, at, mapping)) {
                plan.push_ahead(found, mapping);
            } else if let Some(device_block) = log.device_block(lsn) {
                plan.push_extent(mapping, device_block);
            } else {
                plan.push_archived(mapping);
            }
        }
        Ok(Ok(()))
    }

    /// Requests what a read waits for. A read that waits for nothing is answered.
    #[inline]
    fn submit_read(
        &mut self,
        log: &mut Log,
        blocks: (u64, u32),
        stream: Option<usize>,
        plan: &mut ReadPlan,
        ticket: &Ticket<'_>,
    ) {
        let from_archive = plan.needs_archive();
        let read = PendingRead::new(ticket, blocks, plan.take_pieces(), plan.waiting());
        if !read.is_waiting() && !from_archive {
            self.latencies.end(read.began(), &mut None);
            read.complete();
            return;
        }
        let place = self.reads.add(read);
        for extent in plan.extents() {
            log.pin(log.geometry().sequence_of(extent.first_lsn));
            let token = token_of(place, extent.piece);
            self.reads.read_device(log, extent.device_block, extent.buffer, token);
        }
        for (piece, number) in plan.coming() {
            let stream = stream.unwrap_or_default();
            self.read_ahead.wait_for(stream, number, place, piece);
        }
        if from_archive {
            self.fetch_archived(log, place);
            self.end_read(place);
        }
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
        if read.failure().is_some() {
            self.note_failed(&read);
        }
        self.latencies.end(read.began(), &mut None);
        read.complete();
    }

    /// Counts a read that failed, and reports its block.
    fn note_failed(&mut self, read: &PendingRead) {
        if let Some(volume) = self.volumes.get_mut(read.volume()) {
            volume.note_error();
        }
        if read.failure() != Some(IoError::ReadFault) {
            return;
        }
        if let Some(lsn) = read.first_missing() {
            let index = self.volumes.get(read.volume()).map(Volume::own_index);
            let mut blocks = read.blocks();
            let block = index.and_then(|index| blocks.find(|&block| index.get(block).lsn() == lsn));
            let why = "neither the device nor the archive gives it with its checksum";
            self.report_fault(read.volume(), block.unwrap_or(read.blocks().start), lsn, why);
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

/// The token of the device read for a piece of a read.
fn token_of(slot: usize, piece: usize) -> u64 {
    (slot as u64) << 16 | piece as u64
}
