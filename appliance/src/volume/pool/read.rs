//! The read path: pieces of a request from zeroes, from the log's memory and from the device, each block checked.

use std::rc::Rc;

use smallvec::SmallVec;

use super::{Extent, PendingRead, Piece, READS_MAX, Refusal, State, Ticket};
use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::checksum::crc32c;
use crate::log::{Log, ReadDone};
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
        let volume = self.volume_mut(ticket.volume).ok_or(IoError::Gone)?;
        volume.check_range(block, u64::from(len_blocks))?;
        let uncertain_below = volume.uncertain_below;
        let index = volume.index()?;
        let mut pieces: SmallVec<[Piece; 1]> = SmallVec::new();
        let mut extents: SmallVec<[Extent; 4]> = SmallVec::new();
        for at in block..block + u64::from(len_blocks) {
            let mapping = index.get(at);
            if mapping.lsn() < uncertain_below {
                tracing::warn!(volume = %volume.name, block = at, "a block is not certain: entries of the log that may have replaced it are lost");
                return Err(IoError::ReadFault.into());
            }
            if mapping.is_none() {
                push_zero_block(&mut pieces, &zeroes);
            } else if let Some(buffered) = log.buffered(mapping.lsn()) {
                push_ready(&mut pieces, buffered);
            } else {
                let device_block = log.device_block(mapping.lsn()).ok_or(IoError::ReadFault)?;
                push_extent(&mut pieces, &mut extents, at, mapping, device_block);
            }
        }
        let dma = &log.environment().dma;
        for extent in &mut extents {
            extent.buffer = Some(dma.allocate(extent.len_blocks * BLOCK_BYTES).map_err(|_| Refusal::Busy)?);
        }
        volume.stats.reads += 1;
        volume.stats.read_bytes += u64::from(len_blocks) * BLOCK_BYTES as u64;
        self.stats.host_read_blocks += u64::from(len_blocks);
        let read = PendingRead {
            volume: ticket.volume,
            block,
            tag: ticket.tag,
            sink: Rc::clone(ticket.sink),
            pieces,
            waiting: extents.len(),
            failed: false,
        };
        ticket.sink.begin();
        if extents.is_empty() {
            read.complete();
            return Ok(());
        }
        let slot = self.free_reads.pop().unwrap_or_else(|| {
            self.reads.push(None);
            self.reads.len() - 1
        });
        self.reads[slot] = Some(read);
        for extent in extents {
            if let Some(buffer) = extent.buffer {
                log.submit_read(extent.device_block, buffer, (slot as u64) << 16 | extent.piece as u64);
            }
        }
        Ok(())
    }

    pub(super) fn finish_read(&mut self, done: ReadDone) {
        let (slot, piece) = ((done.token >> 16) as usize, (done.token & 0xffff) as usize);
        let Some(read) = self.reads[slot].as_mut() else { unreachable!("a read ends once") };
        read.waiting -= 1;
        let mut bad_blocks = 0;
        match done.result {
            Ok(buffer) => {
                let buffer = buffer.freeze();
                if let Piece::Waiting { block, checksums } = &read.pieces[piece] {
                    for (index, (data, &crc)) in buffer.chunks_exact(BLOCK_BYTES).zip(checksums).enumerate() {
                        if crc32c(data) as u16 != crc {
                            bad_blocks += 1;
                            tracing::error!(
                                volume = read.volume.0,
                                block = block + index as u64,
                                "a block's checksum is wrong"
                            );
                        }
                    }
                }
                read.pieces[piece] = Piece::Ready(buffer);
            }
            Err(error) => {
                tracing::error!(volume = read.volume.0, block = read.block, %error, "a read failed");
                read.failed = true;
            }
        }
        read.failed |= bad_blocks > 0;
        self.stats.checksum_errors += bad_blocks;
        if read.waiting == 0
            && let Some(read) = self.reads[slot].take()
        {
            self.free_reads.push(slot);
            if read.failed
                && let Some(volume) = self.volume_mut(read.volume)
            {
                volume.stats.errors += 1;
            }
            read.complete();
        }
    }
}

impl PendingRead {
    pub(super) fn complete(self) {
        let mut data = SmallVec::new();
        if !self.failed {
            for piece in self.pieces {
                match piece {
                    Piece::Ready(buffer) => data.push(buffer),
                    Piece::Waiting { .. } => unreachable!("a read completes when all its pieces are there"),
                }
            }
        }
        let result = if self.failed { Err(IoError::ReadFault) } else { Ok(()) };
        self.sink.push(IoCompletion { tag: self.tag, result, data });
    }
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

/// Adds a block that is on the device, to the read before it when it lies directly behind.
fn push_extent(
    pieces: &mut SmallVec<[Piece; 1]>,
    extents: &mut SmallVec<[Extent; 4]>,
    block: u64,
    mapping: Mapping,
    device_block: u64,
) {
    if let (Some(extent), Some(Piece::Waiting { checksums, .. })) = (extents.last_mut(), pieces.last_mut()) {
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
    pieces.push(Piece::Waiting { block, checksums });
}
