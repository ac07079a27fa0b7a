//! Writes and trims on their way into the log, and their acknowledgements: in order of LSN, so that
//! none overtakes.

use std::rc::Rc;

use smallvec::SmallVec;

use super::latency::Began;
use super::{Refusal, State, Ticket};
use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::format::ENTRIES_PER_RECORD;
use crate::log::{AppendClass, BlockNumber, Log, Lsn};
use crate::volume::index::{Index, Mapping};
use crate::volume::request::{IoCompletion, IoError, MAX_IO_BLOCKS, MAX_TRIM_RANGES, Sink, VolumeId};

/// Blocks that a trim looks at in the turn in which it comes.
const TRIMMED_AT_ONCE_BLOCKS: u64 = 32_768;
/// Ranges of so many blocks take a mask without a look at what is in them.
const LOOKED_AT_BLOCKS: u64 = 65_536;

/// What a write brings.
#[derive(Clone, Copy)]
pub(super) enum WriteData<'a> {
    /// To be copied: slices of whole blocks, one behind the other.
    Slices(&'a [&'a [u8]]),
    /// In DMA memory, to be kept as it is.
    Received(&'a DmaBuf),
}

impl WriteData<'_> {
    /// How many blocks it is; 0 when a part is not whole blocks.
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

/// Where the blocks of a write go.
struct Target {
    first: u64,
    len_blocks: u64,
    /// What the image has before this does not count as its own.
    resident_above: Lsn,
}

impl Target {
    /// Appends all blocks, with `append`, and has the index point at them. Returns how many took no other's place, and the last position.
    fn append(
        &self,
        log: &mut Log,
        index: &mut Index,
        mut append: impl FnMut(&mut Log, usize, BlockNumber, Lsn, bool) -> (Lsn, u32),
    ) -> (u64, Lsn) {
        let (mut new_blocks, mut changed_lsn) = (0, Lsn(0));
        for offset in 0..self.len_blocks {
            let at = self.first + offset;
            let superseded = index.get(at).lsn();
            let last = offset + 1 == self.len_blocks;
            let (lsn, crc) = append(log, offset as usize, BlockNumber(at), superseded, last);
            index.set(at, Mapping::new(lsn, crc));
            if superseded > self.resident_above {
                log.note_dead(superseded);
            } else {
                new_blocks += 1;
            }
            log.note_live(lsn);
            changed_lsn = lsn;
        }
        (new_blocks, changed_lsn)
    }
}

/// Whether a trim has more blocks than are looked at in the turn in which it comes.
fn is_large(ranges: &[(u64, u64)]) -> bool {
    ranges.iter().map(|&(_, len_blocks)| len_blocks).sum::<u64>() > TRIMMED_AT_ONCE_BLOCKS
}

pub(super) struct PendingAck {
    /// Acknowledged once the log is written, or stable, past this.
    pub(super) past: Lsn,
    pub(super) tag: u64,
    pub(super) sink: Rc<Sink>,
    pub(super) began: Began,
}

/// A trim whose second part waits for room.
pub(super) struct RestOfTrim {
    volume: VolumeId,
    ranges: SmallVec<[(u64, u64); 8]>,
    force_unit_access: bool,
    tag: u64,
    sink: Rc<Sink>,
    began: Began,
}

impl RestOfTrim {
    /// Ends it, half done, because its host has waited long enough for room.
    pub(super) fn refuse(self) {
        self.sink.push(IoCompletion { tag: self.tag, result: Err(IoError::NoRoom), data: SmallVec::new() });
    }
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
        let volume = self.volume_mut(ticket.volume).ok_or(IoError::Gone)?;
        volume.check_range(block, len_blocks as u64)?;
        volume.check_write()?;
        let (image, resident_above, thin) = (volume.image, volume.resident_above, volume.thin);
        let index = volume.index()?;
        if thin {
            let range = block..block + len_blocks as u64;
            let new_blocks = range.filter(|&at| index.get(at).lsn() <= resident_above).count() as u64;
            self.check_thin_room(new_blocks, log)?;
        }
        log.reserve(AppendClass::Host, len_blocks, len_blocks, false)?;
        let volume = self.volume_mut(ticket.volume).ok_or(IoError::Gone)?;
        let index = volume.index()?;
        let blocks = Target { first: block, len_blocks: len_blocks as u64, resident_above };
        let (new_blocks, changed_lsn) = match data {
            WriteData::Slices(parts) => {
                let mut chunks = parts.iter().flat_map(|part| part.chunks_exact(BLOCK_BYTES));
                blocks.append(log, index, |log, _, block, superseded, last| {
                    let chunk = chunks.next().expect("the parts are so many blocks");
                    log.append_write(image, block, chunk, superseded, last)
                })
            }
            WriteData::Received(data) => blocks.append(log, index, |log, at, block, superseded, last| {
                let chunk = data.slice(at * BLOCK_BYTES, BLOCK_BYTES);
                log.append_received(image, block, chunk, superseded, last)
            }),
        };
        volume.changed_lsn = changed_lsn;
        volume.resident += new_blocks;
        volume.stats.writes += 1;
        volume.stats.written_bytes += (len_blocks * BLOCK_BYTES) as u64;
        if thin {
            self.capacity.thin_blocks += new_blocks;
        }
        self.stats.host_written_blocks += len_blocks as u64;
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
        let volume = self.volume_mut(ticket.volume).ok_or(IoError::Gone)?;
        for &(block, len_blocks) in ranges {
            volume.check_range(block, len_blocks)?;
        }
        volume.check_write()?;
        volume.index()?;
        // Asked once for the whole command: a second part that waited until old parts are counted
        // would keep everybody else's writes waiting too.
        if is_large(ranges) && self.buries_much() {
            return Err(Refusal::Busy);
        }
        let mut parts: SmallVec<[(u64, u64); 8]> =
            ranges.iter().copied().filter(|&(_, len_blocks)| len_blocks > 0).collect();
        // A trim of more ranges than a record holds is two commands to history; NVMe does not ask that it be atomic. Each part begins a
        // record of its own, so that each has a position of its own. A second part that finds no room yet is done in a later turn; until then nothing else changes a volume.
        let rest = parts.len().min(ENTRIES_PER_RECORD);
        let rest: SmallVec<[(u64, u64); 8]> = parts.drain(rest..).collect();
        self.trim_part(log, ticket.volume, &parts)?;
        if let Some(volume) = self.volume_mut(ticket.volume) {
            volume.stats.trims += 1;
            volume.stats.trimmed_bytes +=
                ranges.iter().map(|&(_, len_blocks)| len_blocks * BLOCK_BYTES as u64).sum::<u64>();
        }
        match self.trim_part(log, ticket.volume, &rest) {
            Ok(()) => self.acknowledge_later(log, log.head_lsn(), force_unit_access, ticket),
            Err(Refusal::Busy) => {
                ticket.sink.begin();
                let (tag, sink) = (ticket.tag, Rc::clone(ticket.sink));
                self.rest_of_trim = Some(RestOfTrim {
                    volume: ticket.volume,
                    ranges: rest,
                    force_unit_access,
                    tag,
                    sink,
                    began: ticket.began,
                });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Which ranges of a trim take a mask: those of a clone in which something is, unless a mask
    /// covers them. Where nothing is that no mask hides, nothing was inherited.
    ///
    /// Masks are carried on as live blocks are, and count as such: without room for one the trim is
    /// refused, and changes nothing.
    fn hiding_of(
        &mut self,
        log: &Log,
        id: VolumeId,
        part: &[(u64, u64)],
    ) -> Result<SmallVec<[bool; 8]>, Refusal> {
        let volume = self.volume_mut(id).ok_or(IoError::Gone)?;
        let is_certain = volume.uncertain_below.0 == 0;
        if !volume.inherits {
            return Ok(part.iter().map(|_| false).collect());
        }
        let mut hiding = SmallVec::new();
        for &(block, len_blocks) in part {
            let is_masked = volume.masked.covers(block, block + len_blocks);
            let is_unknown = !is_certain || len_blocks > LOOKED_AT_BLOCKS;
            hiding.push(!is_masked && (is_unknown || volume.index()?.holds_any(block, len_blocks)));
        }
        let masks = hiding.iter().filter(|&&hides| hides).count() as u64;
        if masks > 0 && masks > self.masks_room(log) {
            return Err(IoError::CapacityExceeded.into());
        }
        Ok(hiding)
    }

    /// Appends a part of a trim, if there is something of it.
    fn trim_part(&mut self, log: &mut Log, id: VolumeId, part: &[(u64, u64)]) -> Result<(), Refusal> {
        if part.is_empty() {
            return Ok(());
        }
        // Many blocks are gone at once for hosts, and leave the accounts piece by piece.
        let is_large = is_large(part);
        let hiding = self.hiding_of(log, id, part)?;
        let volume = self.volume_mut(id).ok_or(IoError::Gone)?;
        let (image, resident_above, thin) = (volume.image, volume.resident_above, volume.thin);
        volume.index()?;
        log.reserve(AppendClass::Host, part.len(), 0, true)?;
        let mut piece = if is_large { Some(volume.index()?.empty_like()) } else { None };
        let mut freed = 0;
        for (done, (&(block, len_blocks), hides)) in part.iter().zip(hiding).enumerate() {
            if hides {
                volume.masked.insert(block, block + len_blocks);
            }
            volume.changed_lsn =
                log.append_trim(image, BlockNumber(block), len_blocks, hides, done + 1 == part.len());
            let index = volume.index()?;
            if let Some(piece) = &mut piece {
                index.cut(block, len_blocks, piece);
                continue;
            }
            index.trim(block, len_blocks, |gone| {
                if gone.lsn() > resident_above {
                    log.note_dead(gone.lsn());
                    freed += 1;
                }
            });
        }
        volume.resident -= freed;
        if thin {
            self.capacity.thin_blocks -= freed;
        }
        if let Some(piece) = piece {
            self.bury_part(piece, resident_above, id);
        }
        Ok(())
    }

    /// Goes on with a trim whose second part found no room. Returns how much was done.
    pub(super) fn go_on_trimming(&mut self, log: &mut Log) -> usize {
        let Some(rest) = self.rest_of_trim.take() else { return 0 };
        let result = match self.trim_part(log, rest.volume, &rest.ranges) {
            Err(Refusal::Busy) => {
                self.rest_of_trim = Some(rest);
                return 0;
            }
            Err(Refusal::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        let past = log.head_lsn();
        match result {
            Ok(()) => {
                self.add_ack(
                    log,
                    PendingAck { past, tag: rest.tag, sink: rest.sink, began: rest.began },
                    rest.force_unit_access,
                );
            }
            Err(error) => {
                rest.sink.push(IoCompletion { tag: rest.tag, result: Err(error), data: SmallVec::new() });
            }
        }
        1
    }

    /// Completes the request once everything before `past` is written, or stable.
    pub(super) fn acknowledge_later(&mut self, log: &mut Log, past: Lsn, stable: bool, ticket: &Ticket<'_>) {
        ticket.sink.begin();
        let ack = PendingAck { past, tag: ticket.tag, sink: Rc::clone(ticket.sink), began: ticket.began };
        self.add_ack(log, ack, stable);
    }

    pub(super) fn add_ack(&mut self, log: &mut Log, ack: PendingAck, stable: bool) {
        if stable {
            log.request_stable(ack.past);
            self.stable_acks.push_back(ack);
        } else {
            self.acks.push_back(ack);
        }
    }

    /// Ends everything up to `lsn` that is not acknowledged, because its host has waited long enough for room.
    pub(super) fn refuse_up_to(&mut self, lsn: Lsn) -> usize {
        let (mut work, mut end_ns) = (0, None);
        for queue in [&mut self.acks, &mut self.stable_acks] {
            while let Some(ack) = queue.pop_front_if(|ack| ack.past <= lsn) {
                self.latencies.end(ack.began, &mut end_ns);
                ack.sink.push(IoCompletion {
                    tag: ack.tag,
                    result: Err(IoError::NoRoom),
                    data: SmallVec::new(),
                });
                work += 1;
            }
        }
        work
    }

    pub(super) fn acknowledge(&mut self, log: &Log) -> usize {
        let failed = log.poisoned().is_some();
        let reached = [(&mut self.acks, log.written_lsn()), (&mut self.stable_acks, log.stable_lsn())];
        let (mut work, mut end_ns) = (0, None);
        for (queue, lsn) in reached {
            while let Some(ack) = queue.front() {
                let result = if ack.past <= lsn {
                    Ok(())
                } else if failed {
                    Err(IoError::WriteFault)
                } else {
                    break;
                };
                if let Some(ack) = queue.pop_front() {
                    self.latencies.end(ack.began, &mut end_ns);
                    ack.sink.push(IoCompletion { tag: ack.tag, result, data: SmallVec::new() });
                }
                work += 1;
            }
        }
        work
    }
}
