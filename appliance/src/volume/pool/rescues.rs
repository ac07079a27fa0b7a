//! The table of the pieces of hosts' reads that are read again, block by block, and their states.
//!
//! **States of a piece:** pausing, for the back-off → its missing blocks at the device, each
//! separately → pausing again, or settled when every block was read or [`BACK_OFF_NS`] is used up,
//! which is after about one second. A block with a wrong checksum is read once more at once; if it
//! is wrong again, it is damaged. A piece without memory first waits for that.
//!
//! **Invariants.** The number of a piece is its place in the table. A place is in `free`, or has a
//! piece, or its piece is being processed. `at_device` is the sum of that of all pieces.
//!
//! **Bounds:** [`AT_DEVICE_MAX`] reads at the device. There are at most as many pieces as the
//! pool's reads have.

use smallvec::SmallVec;

use crate::bdev::BdevError;
use crate::dma::{BLOCK_BYTES, DmaBufMut};
use crate::log::checksum::crc32c;
use crate::log::{Lsn, ReadDone};
use crate::volume::archiving::{ArchivedBlocks, Fetched};

/// How long a piece pauses before each further try, in nanoseconds.
const BACK_OFF_NS: [u64; 6] = [1_000_000, 4_000_000, 16_000_000, 64_000_000, 256_000_000, 660_000_000];
/// How long a piece waits for memory.
const MEMORY_WAIT_NS: u64 = 1_000_000_000;
/// After this many equal readings a clock does not move, as a simulator's may not: pieces then do
/// not pause.
const STANDING_LOOKS: u32 = 100;
/// The maximum number of blocks at the device at the same time.
const AT_DEVICE_MAX: usize = 16;
/// A flag in the token of a device read: the read is for a rescue, and the rest of the token is its
/// number and the block's.
const RESCUE_TOKEN: u64 = 1 << 46;

/// The state of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// To be read. `was_wrong`: it was read with a wrong checksum before.
    Missing {
        was_wrong: bool,
    },
    There,
    /// It was read with a wrong checksum twice.
    Damaged,
}

struct Block {
    /// `None` while it is at the device.
    buffer: Option<DmaBufMut>,
    crc16: u16,
    step: Step,
}

/// A piece of a host's read that is being read again.
pub(super) struct Rescue {
    /// The read and its piece.
    place: (usize, usize),
    first_lsn: Lsn,
    device_block: u64,
    len_blocks: usize,
    /// Empty while it waits for memory.
    blocks: Vec<Block>,
    began_ns: u64,
    due_ns: u64,
    round: usize,
    /// The time at the last check, and how many checks it has been the same.
    looked_ns: u64,
    stands: u32,
    /// The next block to process in this round.
    next: usize,
    at_device: usize,
    /// The device's last error.
    error: Option<BdevError>,
}

/// The result of a piece.
pub(super) struct Settled {
    /// The read and its piece.
    pub(super) place: (usize, usize),
    /// All blocks; those that could not be read are marked as missing.
    pub(super) blocks: ArchivedBlocks,
    /// How many could not be read.
    pub(super) bad: u64,
    /// How many of these had a wrong checksum.
    pub(super) damaged: u64,
    /// The device's last error.
    pub(super) error: Option<BdevError>,
}

/// All pieces. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Rescues {
    list: Vec<Option<Rescue>>,
    free: Vec<usize>,
    at_device: usize,
    /// Where the next turn starts.
    cursor: usize,
}

/// Whether a device read belongs to a rescue.
pub(super) fn is_rescue(token: u64) -> bool {
    token & RESCUE_TOKEN != 0
}

impl Rescues {
    /// How many pieces are being read again.
    pub(super) fn under_way(&self) -> usize {
        self.list.len() - self.free.len()
    }

    /// How many places the table has.
    pub(super) fn places(&self) -> usize {
        self.list.len()
    }

    /// Adds a piece.
    pub(super) fn add(&mut self, rescue: Rescue) {
        match self.free.pop() {
            Some(number) => self.list[number] = Some(rescue),
            None => self.list.push(Some(rescue)),
        }
    }

    /// Takes the next piece in turn for processing; `None` if the place is free.
    pub(super) fn take_next(&mut self) -> Option<(usize, Rescue)> {
        let number = self.cursor % self.list.len();
        self.cursor = number + 1;
        Some((number, self.list[number].take()?))
    }

    /// Puts back a piece that was processed.
    pub(super) fn put_back(&mut self, number: usize, rescue: Rescue) {
        debug_assert!(self.list[number].is_none(), "it was taken out");
        self.list[number] = Some(rescue);
    }

    /// Frees the place of a piece that was taken out.
    pub(super) fn finish(&mut self, number: usize) {
        debug_assert!(self.list[number].is_none(), "it was taken out");
        self.free.push(number);
    }

    /// The next block of a piece to read, if the device may be asked: its device block, its memory,
    /// and the token.
    pub(super) fn next_missing(
        &mut self,
        number: usize,
        rescue: &mut Rescue,
    ) -> Option<(u64, DmaBufMut, u64)> {
        while rescue.next < rescue.blocks.len() && self.at_device < AT_DEVICE_MAX {
            let at = rescue.next;
            rescue.next += 1;
            let block = &mut rescue.blocks[at];
            if !matches!(block.step, Step::Missing { .. }) {
                continue;
            }
            let Some(buffer) = block.buffer.take() else { continue };
            self.at_device += 1;
            rescue.at_device += 1;
            let token = RESCUE_TOKEN | (number as u64) << 16 | at as u64;
            return Some((rescue.device_block + at as u64, buffer, token));
        }
        None
    }

    /// Handles the end of a device read. Returns the piece if nothing more of it is to be read.
    pub(super) fn answered(&mut self, done: ReadDone, now_ns: impl FnOnce() -> u64) -> Option<Rescue> {
        self.at_device -= 1;
        let (number, at) = (((done.token & !RESCUE_TOKEN) >> 16) as usize, (done.token & 0xffff) as usize);
        let Some(rescue) = self.list[number].as_mut() else {
            unreachable!("a rescue waits for what it asked for")
        };
        rescue.take_answer(at, done);
        if rescue.at_device > 0 || rescue.is_missing_from(rescue.next) {
            return None;
        }
        if rescue.is_missing_from(0) && rescue.rest(now_ns()) {
            return None;
        }
        let rescue = self.list[number].take();
        self.free.push(number);
        rescue
    }
}

impl Rescue {
    /// A piece of a read, with its position on the device.
    pub(super) fn new(
        place: (usize, usize),
        first_lsn: Lsn,
        device_block: u64,
        len_blocks: usize,
        now_ns: u64,
    ) -> Self {
        Rescue {
            place,
            first_lsn,
            device_block,
            len_blocks,
            blocks: Vec::new(),
            began_ns: now_ns,
            due_ns: now_ns,
            round: 0,
            looked_ns: now_ns,
            stands: 0,
            next: 0,
            at_device: 0,
            error: None,
        }
    }

    /// Sets the result of the failed device read: its memory, the checksums of its blocks, and
    /// whether the device returned data.
    pub(super) fn begin(&mut self, buffer: DmaBufMut, checksums: &[u16], was_read: bool, now_ns: u64) {
        self.take_memory(buffer, checksums, was_read);
        self.rest(now_ns);
    }

    /// Sets the device's error, if it failed.
    pub(super) fn set_error(&mut self, error: Option<BdevError>) {
        self.error = error;
    }

    /// The read and its piece.
    pub(super) fn place(&self) -> (usize, usize) {
        self.place
    }

    /// Its first position.
    pub(super) fn first_lsn(&self) -> Lsn {
        self.first_lsn
    }

    /// How much memory it needs.
    pub(super) fn len_bytes(&self) -> usize {
        self.len_blocks * BLOCK_BYTES
    }

    /// Whether it waits for memory.
    pub(super) fn has_no_memory(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether it has waited long enough for memory.
    pub(super) fn has_waited_for_memory(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.began_ns) >= MEMORY_WAIT_NS
    }

    /// Whether its pause has ended.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        self.due_ns <= now_ns
    }

    /// Sets the memory of a piece; blocks with a wrong checksum are to be read again.
    pub(super) fn take_memory(&mut self, mut buffer: DmaBufMut, checksums: &[u16], was_read: bool) {
        self.blocks = checksums
            .iter()
            .map(|&crc16| {
                let block = buffer.split_to(BLOCK_BYTES);
                let is_right = was_read && crc32c(block.as_slice()) as u16 == crc16;
                let step = if is_right { Step::There } else { Step::Missing { was_wrong: was_read } };
                Block { buffer: Some(block), crc16, step }
            })
            .collect();
    }

    fn take_answer(&mut self, at: usize, done: ReadDone) {
        self.at_device -= 1;
        let block = &mut self.blocks[at];
        if let Err(error) = done.result {
            self.error = Some(error);
        } else if crc32c(done.buffer.as_slice()) as u16 == block.crc16 {
            block.step = Step::There;
        } else {
            let was_wrong = block.step == Step::Missing { was_wrong: true };
            block.step = if was_wrong { Step::Damaged } else { Step::Missing { was_wrong: true } };
        }
        block.buffer = Some(done.buffer);
    }

    /// Whether any block from `at` on is to be read.
    fn is_missing_from(&self, at: usize) -> bool {
        self.blocks[at..].iter().any(|block| matches!(block.step, Step::Missing { .. }))
    }

    /// Ends a round: starts the next one, unless it was the last. Returns whether there is a next
    /// one.
    fn rest(&mut self, now_ns: u64) -> bool {
        let Some(&back_off_ns) = BACK_OFF_NS.get(self.round) else { return false };
        // Blocks with a wrong checksum need no pause; unreadable ones do.
        let is_only_wrong =
            self.blocks.iter().all(|block| !matches!(block.step, Step::Missing { was_wrong: false }));
        self.due_ns = if is_only_wrong { now_ns } else { now_ns + back_off_ns };
        self.round += 1;
        self.stands = 0;
        self.next = 0;
        true
    }

    /// Checks the clock. Returns whether it does not move.
    pub(super) fn look(&mut self, now_ns: u64) -> bool {
        self.stands = if now_ns == self.looked_ns { self.stands + 1 } else { 0 };
        self.looked_ns = now_ns;
        self.stands >= STANDING_LOOKS
    }

    /// Assembles the result.
    pub(super) fn settle(self) -> Settled {
        let (mut buffer, mut blocks) = (None::<DmaBufMut>, SmallVec::new());
        let (mut bad, mut damaged) = (0, 0);
        for (at, block) in self.blocks.into_iter().enumerate() {
            let Some(memory) = block.buffer else { unreachable!("every block came back") };
            match &mut buffer {
                Some(whole) => {
                    whole.try_join(memory).unwrap_or_else(|_| unreachable!("it was cut off there"));
                }
                None => buffer = Some(memory),
            }
            let is_there = block.step == Step::There;
            bad += u64::from(!is_there);
            damaged += u64::from(block.step == Step::Damaged);
            let fetched = if is_there { Fetched::There } else { Fetched::Missing };
            blocks.push((self.first_lsn.plus(at as u64), block.crc16, fetched));
        }
        let Some(buffer) = buffer else { unreachable!("a piece has blocks") };
        let blocks = ArchivedBlocks { buffer, blocks };
        Settled { place: self.place, blocks, bad, damaged, error: self.error }
    }
}
