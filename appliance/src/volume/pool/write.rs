//! The write path: writes and trims into the log.

use std::rc::Rc;

use smallvec::SmallVec;

use super::acknowledgements::PendingAck;
use super::state::State;
use super::ticket::Ticket;
use super::trims::RestOfTrim;
use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::format::ENTRIES_PER_RECORD;
use crate::log::{AppendClass, Log, Lsn};
use crate::volume::request::{IoError, MAX_IO_BLOCKS, MAX_TRIM_RANGES, Refusal, VolumeId};

/// The blocks of a larger trim are counted in later turns.
const TRIMMED_AT_ONCE_BLOCKS: u64 = 32_768;

/// The data of a write.
#[derive(Clone, Copy)]
pub(super) enum WriteData<'a> {
    /// To be copied: slices of whole blocks, one after the other.
    Slices(&'a [&'a [u8]]),
    /// In DMA memory, to be kept without a copy.
    Received(&'a DmaBuf),
}

impl WriteData<'_> {
    /// How many blocks there are; 0 if a part is not whole blocks.
    fn len_blocks(&self) -> usize {
        let (len_bytes, whole) = match self {
            WriteData::Slices(parts) => (
                parts.iter().map(|part| part.len()).sum(),
                parts.iter().all(|part| part.len().is_multiple_of(BLOCK_BYTES)),
            ),
            WriteData::Received(data) => (data.len(), data.len().is_multiple_of(BLOCK_BYTES)),
        };
        if whole { len_bytes / BLOCK_BYTES } else { 0 }
    }
}

/// Whether a trim has more blocks than one turn may count.
fn is_large(ranges: &[(u64, u64)]) -> bool {
    ranges.iter().map(|&(_, len_blocks)| len_blocks).sum::<u64>() > TRIMMED_AT_ONCE_BLOCKS
}

impl State {
    pub(super) fn start_write(
        &mut self,
        log: &mut Log,
        block: u64,
        data: WriteData<'_>,
        force_unit_access: bool,
        ticket: &Ticket<'_>,
    ) -> Result<(), Refusal> {
        let len_blocks = data.len_blocks();
        if len_blocks == 0 || len_blocks > MAX_IO_BLOCKS as usize {
            return Err(IoError::InvalidLength.into());
        }
        let volume = self.volumes.get(ticket.volume).ok_or(IoError::Gone)?;
        volume.check_range(block, len_blocks as u64)?;
        volume.check_write()?;
        let (image, thin) = (volume.image(), volume.is_thin());
        if thin {
            let new_blocks = volume.not_resident(block, len_blocks as u64)?;
            self.check_thin_room(new_blocks, log)?;
        } else {
            volume.usable_index()?;
        }
        log.reserve(AppendClass::Host, len_blocks, len_blocks, false)?;
        let volume = self.volumes.get_mut(ticket.volume).ok_or(IoError::Gone)?;
        let new_blocks = match data {
            WriteData::Slices(parts) => {
                let mut chunks = parts.iter().flat_map(|part| part.chunks_exact(BLOCK_BYTES));
                volume.write(log, block, len_blocks as u64, |log, _, block, superseded, last| {
                    let chunk = chunks.next().expect("the parts are so many blocks");
                    log.append_write(image, block, chunk, superseded, last)
                })?
            }
            WriteData::Received(data) => {
                volume.write(log, block, len_blocks as u64, |log, at, block, superseded, last| {
                    let chunk = data.slice(at * BLOCK_BYTES, BLOCK_BYTES);
                    log.append_received(image, block, chunk, superseded, last)
                })?
            }
        };
        if thin {
            self.capacity.add_thin(new_blocks);
        }
        self.stats.note_written(len_blocks as u64);
        self.acknowledge_later(log, log.head_lsn(), force_unit_access, ticket);
        Ok(())
    }

    pub(super) fn start_trim(
        &mut self,
        log: &mut Log,
        ranges: &[(u64, u64)],
        force_unit_access: bool,
        ticket: &Ticket<'_>,
    ) -> Result<(), Refusal> {
        if ranges.len() > MAX_TRIM_RANGES {
            return Err(IoError::InvalidLength.into());
        }
        let volume = self.volumes.get(ticket.volume).ok_or(IoError::Gone)?;
        for &(block, len_blocks) in ranges {
            volume.check_range(block, len_blocks)?;
        }
        volume.check_write()?;
        volume.usable_index()?;
        // Checked once for the whole command: a second part that waited for earlier parts to be
        // counted would make all other writes wait too.
        if is_large(ranges) && self.capacity.buries_much() {
            return Err(Refusal::Busy);
        }
        let mut parts: SmallVec<[(u64, u64); 8]> =
            ranges.iter().copied().filter(|&(_, len_blocks)| len_blocks > 0).collect();
        // In history, a trim of more ranges than a record can hold is two commands; NVMe does not
        // require it to be atomic. Each part begins a new record, so that each has its own
        // position. If the second part finds no room, it is done in a later turn; until then
        // nothing else changes a volume.
        let rest = parts.len().min(ENTRIES_PER_RECORD);
        let rest: SmallVec<[(u64, u64); 8]> = parts.drain(rest..).collect();
        self.trim_part(log, ticket.volume, &parts)?;
        if let Some(volume) = self.volumes.get_mut(ticket.volume) {
            volume.note_trim(ranges.iter().map(|&(_, len_blocks)| len_blocks).sum());
        }
        match self.trim_part(log, ticket.volume, &rest) {
            Ok(()) => self.acknowledge_later(log, log.head_lsn(), force_unit_access, ticket),
            Err(Refusal::Busy) => {
                ticket.sink.begin();
                self.trims.hold(RestOfTrim::new(ticket, rest, force_unit_access));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Appends a part of a trim, if it is not empty.
    fn trim_part(&mut self, log: &mut Log, id: VolumeId, part: &[(u64, u64)]) -> Result<(), Refusal> {
        if part.is_empty() {
            return Ok(());
        }
        // Many blocks disappear for hosts at once, and are subtracted from the accounts piece by
        // piece.
        let is_large = is_large(part);
        let volume = self.volumes.get(id).ok_or(IoError::Gone)?;
        let hiding = volume.hiding_of(part)?;
        // Masks are copied forward as live blocks are, and count as such. Without room for one, the
        // trim is refused and changes nothing.
        let masks = hiding.iter().filter(|&&hides| hides).count() as u64;
        if masks > 0 && masks > self.masks_room(log) {
            return Err(IoError::CapacityExceeded.into());
        }
        volume.usable_index()?;
        log.reserve(AppendClass::Host, part.len(), 0, true)?;
        let volume = self.volumes.get_mut(id).ok_or(IoError::Gone)?;
        let trimmed = volume.trim(log, part, &hiding, is_large)?;
        let (thin, above) = (volume.is_thin(), volume.resident_above());
        if thin {
            self.capacity.remove_thin(trimmed.freed);
        }
        if let Some(cut) = trimmed.cut {
            self.capacity.bury_part(cut, above, id);
        }
        Ok(())
    }

    /// Continues a trim whose second part found no room. Returns how much was done.
    pub(super) fn go_on_trimming(&mut self, log: &mut Log) -> usize {
        let Some(rest) = self.trims.take() else { return 0 };
        match self.trim_part(log, rest.volume(), rest.ranges()) {
            Err(Refusal::Busy) => {
                self.trims.hold(rest);
                return 0;
            }
            Err(Refusal::Error(error)) => rest.refuse(error),
            Ok(()) => {
                let (ack, stable) = rest.into_ack(log.head_lsn());
                self.acknowledgements.add(log, ack, stable);
            }
        }
        1
    }

    /// Completes the request once everything before `past` is written, or stable.
    pub(super) fn acknowledge_later(&mut self, log: &mut Log, past: Lsn, stable: bool, ticket: &Ticket<'_>) {
        ticket.sink.begin();
        let ack = PendingAck::new(past, ticket.tag, Rc::clone(ticket.sink), ticket.began);
        self.acknowledgements.add(log, ack, stable);
    }
}
