//! Read-ahead along the index: the next blocks of a sequential reader are requested before it asks
//! for them.
//!
//! Blocks that were written in random order are scattered in the log, so reading them in order
//! needs one device read for each. At queue depth 1 a host would wait for each of these in turn;
//! with read-ahead they are in flight together. Copy-forward does not put them in order: one
//! segment contains so few of a volume's blocks that neighbours are seldom among them.
//!
//! **Finding readers.** The table of candidates holds, for the ends of recent reads, what would
//! continue there. A read looks up whether it continues where one ended, and stores its own end:
//! one probe and one store, whatever other reads come in between. The third read in a row starts a
//! stream.
//!
//! **States of a stream:** free → followed (a window of blocks ahead of its reader is in flight or
//! available; the window doubles while the reader continues) → reused for another reader, if it is
//! the least recently used one and no read waits for it. **Of an extent**, a run of blocks that are
//! adjacent in the log: in flight → available, or failed → dropped once the reader has passed it.
//!
//! **Invariant: read-ahead data is looked up by position in the log, not by block number.** A
//! position is written once, so data read from it stays valid forever. When the host asks for a
//! block, the index says whether the block is still at that position. So writes, trims, clones and
//! copy-forward need not know of this module. Checksums are checked when the data arrives. Damaged
//! or unreadable data is dropped here, and a host that asks for it reads it itself, with the usual
//! error handling (`rescue`). An extent at the device protects its segment's slot from being
//! reused, even when its reader is no longer followed.
//!
//! **Bounds:** [`STREAMS_MAX`] streams of at most the pool's window each, 1 MiB by default; nothing
//! is read ahead while [`COMMANDS_IN_FLIGHT_MAX`] reads are at the device, because it is then busy
//! enough; only blocks on the primary device are read ahead. **Costs:** for a random reader the
//! probe and the store; for a stream only reads that the host would cause anyway, except for blocks
//! that it never asks for: at most one window.

use std::collections::VecDeque;
use std::ops::Range;

use smallvec::{SmallVec, smallvec};

use super::reads::{Reads, are_right};
use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::{Log, Lsn, ReadDone};
use crate::volume::image::index::Mapping;
use crate::volume::image::volume::Volume;
use crate::volume::request::VolumeId;

/// The default maximum window, in blocks: 1 MiB.
pub const READ_AHEAD_BLOCKS_DEFAULT: u64 = 256;
/// The largest maximum window that can be configured, in blocks: 16 MiB.
pub const READ_AHEAD_BLOCKS_MAX: u64 = 4096;
/// How many readers are followed at the same time.
const STREAMS_MAX: usize = 8;
/// How many ends of reads are remembered.
const CANDIDATES: usize = 256;
/// How many reads must continue where the previous one ended to start a stream.
const READS_IN_ORDER: u8 = 2;
/// The first window of a stream, in blocks; it is also at least twice the length of the host's
/// reads.
const WINDOW_BLOCKS_MIN: u64 = 16;
/// The maximum number of blocks in an extent.
const EXTENT_BLOCKS_MAX: usize = 64;
/// At this number of reads at the device, nothing is read ahead.
const COMMANDS_IN_FLIGHT_MAX: usize = 64;
const NO_STREAM: u8 = u8::MAX;
/// A flag in the token of a device read: the read is for an extent, and the rest of the token is
/// its stream and its number.
const AHEAD_TOKEN: u64 = 1 << 47;
const STREAM_SHIFT: u32 = 32;

/// The end of a read.
#[derive(Clone, Copy)]
struct Candidate {
    volume: VolumeId,
    /// How many reads in a row ended here.
    in_order: u8,
    /// The stream that follows them, or [`NO_STREAM`].
    stream: u8,
    next: u64,
}

/// A reader that is followed.
struct Stream {
    volume: VolumeId,
    /// Where its next read is expected to begin.
    next: u64,
    /// The block up to which blocks have been requested.
    ahead_to: u64,
    window_blocks: u64,
    /// In the order of their blocks.
    extents: VecDeque<AheadExtent>,
    /// The number of the first extent. Numbers are not reused, so a late answer finds nothing.
    first_number: u32,
    /// When it was last used, counted in reads of streams.
    used: u64,
}

/// Blocks that are adjacent in the log, in flight or available.
struct AheadExtent {
    block: u64,
    first_lsn: Lsn,
    checksums: SmallVec<[u16; 8]>,
    state: AheadState,
    /// The reads that wait for it, by slot, and their pieces.
    waiters: SmallVec<[(usize, usize); 1]>,
}

enum AheadState {
    Coming,
    There(DmaBuf),
    Failed,
}

/// The state of a block that a host asks for.
pub(super) enum AheadBlock {
    /// Its data.
    There(DmaBuf),
    /// It is in flight, in the extent with this number.
    Coming(u32),
}

/// An extent whose read has ended.
pub(super) struct Arrived {
    pub(super) first_lsn: Lsn,
    /// `None`: it could not be read, or is damaged.
    pub(super) data: Option<DmaBuf>,
    /// The reads that wait for it, by their places, and their pieces.
    pub(super) waiters: SmallVec<[(usize, usize); 1]>,
}

/// The readers of a pool. See the module's documentation.
pub(in crate::volume) struct ReadAhead {
    window_blocks_max: u64,
    candidates: Box<[Candidate; CANDIDATES]>,
    streams: Vec<Stream>,
    uses: u64,
    /// Extents at the device whose reader is no longer followed, and where they begin: at most
    /// [`COMMANDS_IN_FLIGHT_MAX`].
    orphans: Vec<(u64, Lsn)>,
    /// Blocks read from the device ahead of their reader.
    blocks: u64,
    /// Blocks of these that hosts then read.
    used_blocks: u64,
}

impl Default for ReadAhead {
    fn default() -> Self {
        let none = Candidate { volume: VolumeId(u32::MAX), in_order: 0, stream: NO_STREAM, next: u64::MAX };
        ReadAhead {
            window_blocks_max: READ_AHEAD_BLOCKS_DEFAULT,
            candidates: Box::new([none; CANDIDATES]),
            streams: Vec::new(),
            uses: 0,
            orphans: Vec::new(),
            blocks: 0,
            used_blocks: 0,
        }
    }
}

fn place(volume: VolumeId, block: u64) -> usize {
    let mixed = (block ^ u64::from(volume.0) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (u64::BITS - CANDIDATES.trailing_zeros())) as usize
}

impl ReadAhead {
    /// Sets the maximum window, in blocks; 0: no read-ahead.
    pub(super) fn set_window(&mut self, blocks: u64) {
        self.window_blocks_max = blocks.min(READ_AHEAD_BLOCKS_MAX);
    }

    /// The stream that a read from `block` on continues.
    pub(super) fn stream_at(&self, volume: VolumeId, block: u64) -> Option<usize> {
        let candidate = &self.candidates[place(volume, block)];
        if candidate.stream == NO_STREAM || !candidate.is_at(volume, block) {
            return None;
        }
        let stream = self.streams.get(usize::from(candidate.stream))?;
        ((stream.volume, stream.next) == (volume, block)).then_some(usize::from(candidate.stream))
    }

    /// Finds a block that is now at `mapping` in a stream.
    pub(super) fn find(&self, stream: usize, block: u64, mapping: Mapping) -> Option<AheadBlock> {
        let stream = &self.streams[stream];
        let index = stream.extents.partition_point(|extent| extent.end() <= block);
        let extent = stream.extents.get(index).filter(|extent| extent.block <= block)?;
        let at = (block - extent.block) as usize;
        if extent.first_lsn.plus(at as u64) != mapping.lsn() || extent.checksums[at] != mapping.crc16() {
            return None;
        }
        match &extent.state {
            AheadState::There(data) => Some(AheadBlock::There(data.slice(at * BLOCK_BYTES, BLOCK_BYTES))),
            AheadState::Coming => Some(AheadBlock::Coming(stream.first_number.wrapping_add(index as u32))),
            AheadState::Failed => None,
        }
    }

    /// Makes a piece of a read wait for an extent that [`find`](Self::find) reported as in flight.
    pub(super) fn wait_for(&mut self, stream: usize, number: u32, read: usize, piece: usize) {
        let stream = &mut self.streams[stream];
        let index = number.wrapping_sub(stream.first_number) as usize;
        stream.extents[index].waiters.push((read, piece));
    }

    /// Notes a read. Returns its stream, if it is one of several in order.
    fn advance(&mut self, volume: VolumeId, block: u64, len_blocks: u64) -> Option<usize> {
        if self.window_blocks_max == 0 {
            return None;
        }
        let goes_on = self.stream_at(volume, block);
        let next = block + len_blocks;
        let candidate = &mut self.candidates[place(volume, block)];
        let mut in_order = 0;
        if candidate.is_at(volume, block) {
            in_order = candidate.in_order.saturating_add(1);
            // Otherwise it would be taken for another reader that ended here.
            candidate.next = u64::MAX;
        }
        let stream = goes_on.or_else(|| {
            (in_order >= READS_IN_ORDER).then(|| self.follow(volume, next, len_blocks)).flatten()
        });
        let candidate = &mut self.candidates[place(volume, next)];
        // Another reader that ended here first is not replaced by one that only passes here.
        let is_taken = candidate.is_at(volume, next) && candidate.in_order > in_order;
        if !is_taken {
            *candidate =
                Candidate { volume, in_order, stream: stream.map_or(NO_STREAM, |stream| stream as u8), next };
        }
        let index = stream?;
        self.uses += 1;
        let stream = &mut self.streams[index];
        stream.used = self.uses;
        stream.next = next;
        stream.ahead_to = stream.ahead_to.max(next);
        while stream.extents.front().is_some_and(|extent| extent.end() <= next && !extent.is_coming()) {
            stream.extents.pop_front();
            stream.first_number = stream.first_number.wrapping_add(1);
        }
        Some(index)
    }

    /// A stream for a reader that continues at `next`; `None` while reads wait for all of them.
    fn follow(&mut self, volume: VolumeId, next: u64, len_blocks: u64) -> Option<usize> {
        let window_blocks = (2 * len_blocks).max(WINDOW_BLOCKS_MIN).min(self.window_blocks_max);
        if self.streams.len() < STREAMS_MAX {
            self.streams.push(Stream {
                volume,
                next,
                ahead_to: next,
                window_blocks,
                extents: VecDeque::new(),
                first_number: 0,
                used: 0,
            });
            return Some(self.streams.len() - 1);
        }
        let is_free = |stream: &Stream| stream.extents.iter().all(|extent| extent.waiters.is_empty());
        let free = self.streams.iter_mut().enumerate().filter(|(_, stream)| is_free(stream));
        let (index, stream) = free.min_by_key(|(_, stream)| stream.used)?;
        for (at, extent) in (0_u32..).zip(&stream.extents) {
            if extent.is_coming() {
                let token = token_of(index, stream.first_number.wrapping_add(at));
                self.orphans.push((token, extent.first_lsn));
            }
        }
        stream.first_number = stream.first_number.wrapping_add(stream.extents.len() as u32);
        stream.extents.clear();
        (stream.volume, stream.next, stream.ahead_to) = (volume, next, next);
        stream.window_blocks = window_blocks;
        Some(index)
    }

    /// The blocks that a stream must request now: none while half of its window is still ahead of
    /// the reader.
    fn wanted(&mut self, stream: usize, size_blocks: u64) -> Range<u64> {
        let stream = &mut self.streams[stream];
        let from = stream.ahead_to;
        if (from - stream.next) * 2 > stream.window_blocks {
            return from..from;
        }
        let end = (stream.next + stream.window_blocks).min(size_blocks);
        stream.window_blocks = (2 * stream.window_blocks).min(self.window_blocks_max);
        from..end.max(from)
    }

    /// Adds an extent that is being requested. Returns the number under which it
    /// [arrives](Self::arrived).
    fn begin(&mut self, stream: usize, extent: AheadExtent) -> u32 {
        let stream = &mut self.streams[stream];
        self.blocks += extent.checksums.len() as u64;
        let number = stream.first_number.wrapping_add(stream.extents.len() as u32);
        stream.extents.push_back(extent);
        number
    }

    /// Removes an extent whose reader is no longer followed; returns where it begins.
    fn forget_orphan(&mut self, token: u64) -> Option<Lsn> {
        let place = self.orphans.iter().position(|&(orphan, _)| orphan == token)?;
        Some(self.orphans.swap_remove(place).1)
    }

    /// Handles the end of an extent's read. `check` compares its data with its checksums. `None`:
    /// its reader is no longer followed.
    fn arrived(
        &mut self,
        stream: usize,
        number: u32,
        data: Option<DmaBuf>,
        check: impl FnOnce(&DmaBuf, &[u16]) -> bool,
    ) -> Option<Arrived> {
        let stream = self.streams.get_mut(stream)?;
        let index = number.wrapping_sub(stream.first_number) as usize;
        let extent = stream.extents.get_mut(index)?;
        let data = data.filter(|data| check(data, &extent.checksums));
        extent.state = data.clone().map_or(AheadState::Failed, AheadState::There);
        Some(Arrived { first_lsn: extent.first_lsn, data, waiters: std::mem::take(&mut extent.waiters) })
    }

    /// Counts read-ahead blocks that hosts then read.
    pub(super) fn note_used(&mut self, blocks: u64) {
        self.used_blocks += blocks;
    }

    /// The number of blocks read ahead, and how many of these hosts then read.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.blocks, self.used_blocks)
    }

    /// After a read: requests the following blocks, if the read is one of several in order and the
    /// device is not busy.
    pub(super) fn read_on(
        &mut self,
        log: &mut Log,
        reads: &mut Reads,
        (id, volume): (VolumeId, &Volume),
        blocks: Range<u64>,
    ) {
        let Some(stream) = self.advance(id, blocks.start, blocks.end - blocks.start) else { return };
        if reads.at_device() >= COMMANDS_IN_FLIGHT_MAX {
            return;
        }
        let Some(index) = volume.ready_index() else { return };
        let wanted = self.wanted(stream, volume.size_blocks());
        let mut extents: Vec<(u64, AheadExtent)> = Vec::new();
        let mut asked_to = wanted.start;
        for block in wanted {
            let mapping = index.get(block);
            let is_there = mapping.is_none()
                || mapping.lsn() < volume.uncertain_below()
                || log.is_buffered(mapping.lsn());
            let is_enough = reads.at_device() + extents.len() >= COMMANDS_IN_FLIGHT_MAX;
            if let Some(device_block) = log.device_block(mapping.lsn()).filter(|_| !is_there) {
                match extents.last_mut() {
                    Some((first, extent)) if extent.is_followed_by(*first, block, mapping, device_block) => {
                        extent.checksums.push(mapping.crc16());
                    }
                    _ if is_enough => break,
                    _ => extents.push((device_block, AheadExtent::new(block, mapping))),
                }
            }
            asked_to = block + 1;
        }
        let len_blocks: usize = extents.iter().map(|(_, extent)| extent.checksums.len()).sum();
        if len_blocks > 0 {
            // Use one buffer for all, so that adjacent blocks are sent as one piece. Without memory
            // the host reads the blocks itself.
            let Ok(mut whole) = log.environment().ahead_dma.allocate(len_blocks * BLOCK_BYTES) else {
                return;
            };
            for (device_block, extent) in extents {
                let buffer = whole.split_to(extent.checksums.len() * BLOCK_BYTES);
                log.pin(log.geometry().sequence_of(extent.first_lsn));
                let number = self.begin(stream, extent);
                reads.read_device(log, device_block, buffer, token_of(stream, number));
            }
        }
        self.streams[stream].ahead_to = asked_to;
    }

    /// Handles the end of an extent's device read, successful or not.
    ///
    /// # Errors
    /// Its reader is no longer followed. The value is where the extent begins, if it was an orphan.
    pub(super) fn finish(&mut self, done: ReadDone) -> Result<Arrived, Option<Lsn>> {
        let (stream, number) = ((done.token & !AHEAD_TOKEN) >> STREAM_SHIFT, done.token as u32);
        let check =
            |data: &DmaBuf, checksums: &[u16]| are_right(data.chunks_exact(BLOCK_BYTES).zip(checksums));
        let data = done.result.is_ok().then(|| done.buffer.freeze());
        match self.arrived(stream as usize, number, data, check) {
            Some(arrived) => Ok(arrived),
            None => Err(self.forget_orphan(done.token)),
        }
    }
}

/// The token of the device read for an extent.
fn token_of(stream: usize, number: u32) -> u64 {
    AHEAD_TOKEN | (stream as u64) << STREAM_SHIFT | u64::from(number)
}

impl Candidate {
    fn is_at(&self, volume: VolumeId, block: u64) -> bool {
        (self.volume, self.next) == (volume, block)
    }
}

impl AheadExtent {
    fn end(&self) -> u64 {
        self.block + self.checksums.len() as u64
    }

    fn is_coming(&self) -> bool {
        matches!(self.state, AheadState::Coming)
    }
}

/// Whether a device read is for read-ahead.
pub(super) fn is_ahead(token: u64) -> bool {
    token & AHEAD_TOKEN != 0
}

impl AheadExtent {
    fn new(block: u64, mapping: Mapping) -> Self {
        AheadExtent {
            block,
            first_lsn: mapping.lsn(),
            checksums: smallvec![mapping.crc16()],
            state: AheadState::Coming,
            waiters: SmallVec::new(),
        }
    }

    /// Whether a block directly follows it in the volume, in the log and on the device, where it
    /// begins at `first`.
    fn is_followed_by(&self, first: u64, block: u64, mapping: Mapping, device_block: u64) -> bool {
        let len = self.checksums.len() as u64;
        self.end() == block
            && self.first_lsn.plus(len) == mapping.lsn()
            && first + len == device_block
            && self.checksums.len() < EXTENT_BLOCKS_MAX
    }
}
