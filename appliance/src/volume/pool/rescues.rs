//! Pieces of hosts' reads that are read again, block by block: the table of them, and how far each
//! is.
//!
//! **States of a piece:** resting, for the back-off → its missing blocks at the device, each by
//! itself → resting again, or settled when every block came or [`BACK_OFF_NS`] is used up, which is
//! after about a second. A block whose checksum is wrong is read once more at once; then it is
//! damaged. A piece without memory first waits for that.
//!
//! **Invariants.** The number of a piece is its place in the table, which is in `free` or has a
//! piece, or the piece is being worked on. `at_device` is the sum of that of all pieces.
//!
//! **Bounds:** [`AT_DEVICE_MAX`] reads at the device. Pieces are as many as the pool's reads have.

use smallvec::SmallVec;

use crate::bdev::BdevError;
use crate::dma::{BLOCK_BYTES, DmaBufMut};
use crate::log::checksum::crc32c;
use crate::log::{Lsn, ReadDone};
use crate::volume::archive::{ArchivedBlocks, Fetched};

/// How long a piece rests before each further try, in nanoseconds.
const BACK_OFF_NS: [u64; 6] = [1_000_000, 4_000_000, 16_000_000, 64_000_000, 256_000_000, 660_000_000];
/// How long memory is waited for.
const MEMORY_WAIT_NS: u64 = 1_000_000_000;
/// A clock that says the same at so many looks does not move, as a simulator's may: no piece rests
/// by it.
const STANDING_LOOKS: u32 = 100;
/// Blocks that are at the device again at the same time.
const AT_DEVICE_MAX: usize = 16;
/// In the token of a device read: it is one of a rescue, and the rest of the token is its number
/// and the block's.
const RESCUE_TOKEN: u64 = 1 << 46;

/// How far a block has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// To be read; whether it came with a wrong checksum before.
    Missing {
        was_wrong: bool,
    },
    There,
    /// It came with a wrong checksum twice.
    Damaged,
}

struct Block {
    /// `None` while it is at the device.
    buffer: Option<DmaBufMut>,
    crc16: u16,
    step: Step,
}

/// A piece of a host's read that is read again.
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
    /// The time at the last look, and at how many looks it was the same.
    looked_ns: u64,
    stands: u32,
    /// The next block to look at in this round.
    next: usize,
    at_device: usize,
    /// What the device said last.
    error: Option<BdevError>,
}

/// What came of a piece in the end.
pub(super) struct Settled {
    /// The read and its piece.
    pub(super) place: (usize, usize),
    /// All blocks, those that did not come marked as missing.
    pub(super) blocks: ArchivedBlocks,
    /// How many did not come.
    pub(super) bad: u64,
    /// How many of these had a wrong checksum.
    pub(super) damaged: u64,
    /// What the device said last.
    pub(super) error: Option<BdevError>,
}

/// All of them. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Rescues {
    list: Vec<Option<Rescue>>,
    free: Vec<usize>,
    at_device: usize,
    /// Where the next turn begins to look.
    cursor: usize,
}

/// Whether a device read was one of a rescue.
pub(super) fn is_rescue(token: u64) -> bool {
    token & RESCUE_TOKEN != 0
}

impl Rescues {
    /// How many pieces are read again.
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

    /// The next piece in turn, to be worked on; `None` where a place is free.
    pub(super) fn take_next(&mut self) -> Option<(usize, Rescue)> {
        let number = self.cursor % self.list.len();
        self.cursor = number + 1;
        Some((number, self.list[number].take()?))
    }

    /// Puts a piece back that was worked on.
    pub(super) fn put_back(&mut self, number: usize, rescue: Rescue) {
        debug_assert!(self.list[number].is_none(), "it was taken out");
        self.list[number] = Some(rescue);
    }

    /// A piece that was taken out does not come back.
    pub(super) fn finish(&mut self, number: usize) {
        debug_assert!(self.list[number].is_none(), "it was taken out");
        self.free.push(number);
    }

    /// The next block of a piece to be read, if the device may be asked: its place on the device,
    /// its memory, and the token.
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

    /// The device ended a read. Returns the piece when nothing more is to be read of it.
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
    /// A piece of a read that is at a place of the device.
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

    /// The device read that failed: its memory, the checksums of its blocks, and what the device
    /// said.
    pub(super) fn begin(&mut self, buffer: DmaBufMut, checksums: &[u16], was_read: bool, now_ns: u64) {
        self.take_memory(buffer, checksums, was_read);
        self.rest(now_ns);
    }

    /// What the device said, if it failed.
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

    /// Whether it has rested.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        self.due_ns <= now_ns
    }

    /// The blocks of a piece in its memory; those that are not right are to be read again.
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

    /// Whether something is to be read from a block on.
    fn is_missing_from(&self, at: usize) -> bool {
        self.blocks[at..].iter().any(|block| matches!(block.step, Step::Missing { .. }))
    }

    /// A round is over: begins the next one, unless it was the last.
    fn rest(&mut self, now_ns: u64) -> bool {
        let Some(&back_off_ns) = BACK_OFF_NS.get(self.round) else { return false };
        // What came wrong needs no rest; what did not come does.
        let is_only_wrong =
            self.blocks.iter().all(|block| !matches!(block.step, Step::Missing { was_wrong: false }));
        self.due_ns = if is_only_wrong { now_ns } else { now_ns + back_off_ns };
        self.round += 1;
        self.stands = 0;
        self.next = 0;
        true
    }

    /// A look at the clock; whether it does not move.
    pub(super) fn look(&mut self, now_ns: u64) -> bool {
        self.stands = if now_ns == self.looked_ns { self.stands + 1 } else { 0 };
        self.looked_ns = now_ns;
        self.stands >= STANDING_LOOKS
    }

    /// Puts together what came.
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
