//! Reads of hosts that the device failed, or gave with a wrong checksum: tried again, block by block, so that one bad sector fails only what holds it.
//!
//! **States of a piece:** resting, for the back-off → its missing blocks at the device, each by itself → resting again, or settled when every block came or [`BACK_OFF_NS`] is used up, which is after about a
//! second. A block whose checksum is wrong is read once more at once; then it is damaged. A piece without memory first waits for that. What is still missing at the end the archive is asked for; what it does not have either is a
//! media error.
//!
//! **Invariant:** a piece keeps the pin that its device read had, so that its segment's slot is not used again while the device may be asked for it. It keeps its memory too, so trying again waits for nobody; the pin
//! of a piece that waits for memory is bounded by [`MEMORY_WAIT_NS`], because who holds the memory may wait for the slot.
//!
//! **Bounds:** [`AT_DEVICE_MAX`] reads at the device, [`LOOKED_AT_MAX`] pieces looked at in a turn, [`FAULTS_KEPT`] faults told by name, one line of the journal a second. Pieces are as many as the pool's reads have.

use std::collections::VecDeque;

use super::{Piece, State};
use crate::bdev::BdevError;
use crate::dma::{BLOCK_BYTES, DmaBufMut};
use crate::log::checksum::crc32c;
use crate::log::{Log, Lsn, ReadDone};
use crate::volume::archive::{ArchivedBlocks, Fetched};
use crate::volume::request::{IoError, VolumeId};

/// How long a piece rests before each further try, in nanoseconds.
const BACK_OFF_NS: [u64; 6] = [1_000_000, 4_000_000, 16_000_000, 64_000_000, 256_000_000, 660_000_000];
/// How long memory is waited for.
const MEMORY_WAIT_NS: u64 = 1_000_000_000;
/// A clock that says the same at so many looks stands still, as a simulator's may: nothing rests by it.
const STANDING_LOOKS: u32 = 100;
/// Blocks that are at the device again at the same time.
const AT_DEVICE_MAX: usize = 16;
/// Pieces that are looked at in one turn.
const LOOKED_AT_MAX: usize = 64;
/// The newest faults that are told by name.
const FAULTS_KEPT: usize = 16;
/// The least time between two lines of the journal.
const JOURNAL_NS: u64 = 1_000_000_000;
/// In the token of a device read: it is one of a rescue, and the rest of the token is its number and the block's.
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

/// A piece of a host's read that is tried again.
struct Rescue {
    read: usize,
    piece: usize,
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

/// All of them. See the module's documentation.
#[derive(Default)]
pub(super) struct Rescues {
    list: Vec<Option<Rescue>>,
    free: Vec<usize>,
    at_device: usize,
    /// Where the next turn begins to look.
    cursor: usize,
    faults: VecDeque<String>,
    journal_ns: u64,
    unsaid: u64,
}

/// Whether a device read was one of a rescue.
pub(super) fn is_rescue(token: u64) -> bool {
    token & RESCUE_TOKEN != 0
}

impl Rescues {
    /// The newest blocks that hosts could not be given, in words.
    pub(super) fn faults(&self) -> impl Iterator<Item = &String> {
        self.faults.iter()
    }

    fn under_way(&self) -> usize {
        self.list.len() - self.free.len()
    }

    fn add(&mut self, rescue: Rescue) {
        match self.free.pop() {
            Some(number) => self.list[number] = Some(rescue),
            None => self.list.push(Some(rescue)),
        }
    }

    /// Whether a line may go to the journal now, and how many did not since the last one.
    fn may_say(&mut self, now_ns: u64) -> Option<u64> {
        if self.journal_ns != 0 && now_ns.saturating_sub(self.journal_ns) < JOURNAL_NS {
            self.unsaid += 1;
            return None;
        }
        self.journal_ns = now_ns.max(1);
        Some(std::mem::take(&mut self.unsaid))
    }
}

impl Rescue {
    /// The blocks of a piece in its memory; those that are not right are to be read again.
    fn take_memory(&mut self, mut buffer: DmaBufMut, checksums: &[u16], was_read: bool) {
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

    /// Whether something is to be read at or behind a block.
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

    /// A look at the clock; whether it stands still.
    fn look(&mut self, now_ns: u64) -> bool {
        self.stands = if now_ns == self.looked_ns { self.stands + 1 } else { 0 };
        self.looked_ns = now_ns;
        self.stands >= STANDING_LOOKS
    }
}

impl State {
    /// A piece did not come as it should: `buffer` is its memory, `None` when there was none, and `result` what the device said.
    pub(super) fn begin_rescue(
        &mut self,
        log: &Log,
        (read, piece): (usize, usize),
        buffer: Option<DmaBufMut>,
        result: Result<(), BdevError>,
    ) {
        let Some(Piece::Waiting { first_lsn, checksums, .. }) =
            self.reads[read].as_ref().map(|read| &read.pieces[piece])
        else {
            unreachable!("a device read ends a piece that waits for it")
        };
        let Some(device_block) = log.device_block(*first_lsn) else {
            unreachable!("a segment that is pinned stays where it is")
        };
        let now_ns = log.environment().clock.monotonic_ns();
        let mut rescue = Rescue {
            read,
            piece,
            first_lsn: *first_lsn,
            device_block,
            len_blocks: checksums.len(),
            blocks: Vec::new(),
            began_ns: now_ns,
            due_ns: now_ns,
            round: 0,
            looked_ns: now_ns,
            stands: 0,
            next: 0,
            at_device: 0,
            error: None,
        };
        if let Some(buffer) = buffer {
            self.stats.retried_reads += 1;
            rescue.take_memory(buffer, checksums, result.is_ok());
            rescue.rest(now_ns);
        }
        rescue.error = result.err();
        self.rescues.add(rescue);
    }

    /// A turn of all rescues: what has rested goes to the device. Returns how much there is to do, so that the reactor does not go to sleep over it.
    pub(super) fn go_on_rescuing(&mut self, log: &mut Log) -> usize {
        let under_way = self.rescues.under_way();
        if under_way == 0 {
            return 0;
        }
        let now_ns = log.environment().clock.monotonic_ns();
        for _ in 0..self.rescues.list.len().min(LOOKED_AT_MAX) {
            let number = self.rescues.cursor % self.rescues.list.len();
            self.rescues.cursor = number + 1;
            let Some(mut rescue) = self.rescues.list[number].take() else { continue };
            let stands = rescue.look(now_ns);
            if rescue.blocks.is_empty()
                && !self.find_memory(log, &mut rescue)
                && (stands || now_ns.saturating_sub(rescue.began_ns) >= MEMORY_WAIT_NS)
            {
                self.rescues.free.push(number);
                self.end_starved(log, &rescue);
                continue;
            }
            if (rescue.due_ns <= now_ns || stands) && !rescue.blocks.is_empty() {
                self.submit_missing(log, number, &mut rescue);
            }
            self.rescues.list[number] = Some(rescue);
        }
        under_way
    }

    /// Memory for a piece that had none; whether there was some.
    fn find_memory(&mut self, log: &Log, rescue: &mut Rescue) -> bool {
        let Some(Piece::Waiting { checksums, .. }) =
            self.reads[rescue.read].as_ref().map(|read| &read.pieces[rescue.piece])
        else {
            unreachable!("a piece waits until it is settled")
        };
        match log.environment().dma.allocate(rescue.len_blocks * BLOCK_BYTES) {
            Ok(buffer) => {
                rescue.take_memory(buffer, checksums, false);
                true
            }
            Err(_) => false,
        }
    }

    /// No memory came: the host is to try again.
    fn end_starved(&mut self, log: &mut Log, rescue: &Rescue) {
        log.unpin(log.geometry().sequence_of(rescue.first_lsn));
        if let Some(read) = self.reads[rescue.read].as_mut() {
            read.waiting -= 1;
            read.fail(IoError::NotNow);
        }
        self.end_read(rescue.read);
    }

    /// Reads what is missing of a piece, as far as the bound allows.
    fn submit_missing(&mut self, log: &mut Log, number: usize, rescue: &mut Rescue) {
        while rescue.next < rescue.blocks.len() && self.rescues.at_device < AT_DEVICE_MAX {
            let at = rescue.next;
            rescue.next += 1;
            let block = &mut rescue.blocks[at];
            if !matches!(block.step, Step::Missing { .. }) {
                continue;
            }
            let Some(buffer) = block.buffer.take() else { continue };
            let token = RESCUE_TOKEN | (number as u64) << 16 | at as u64;
            self.read_device(log, rescue.device_block + at as u64, buffer, token);
            self.rescues.at_device += 1;
            rescue.at_device += 1;
        }
    }

    /// The device ended a read of a rescue.
    pub(super) fn rescue_answered(&mut self, log: &mut Log, done: ReadDone) {
        self.rescues.at_device -= 1;
        let (number, at) = (((done.token & !RESCUE_TOKEN) >> 16) as usize, (done.token & 0xffff) as usize);
        let Some(rescue) = self.rescues.list[number].as_mut() else {
            unreachable!("a rescue waits for what it asked for")
        };
        rescue.at_device -= 1;
        let block = &mut rescue.blocks[at];
        if let Err(error) = done.result {
            rescue.error = Some(error);
        } else if crc32c(done.buffer.as_slice()) as u16 == block.crc16 {
            block.step = Step::There;
        } else {
            let was_wrong = block.step == Step::Missing { was_wrong: true };
            block.step = if was_wrong { Step::Damaged } else { Step::Missing { was_wrong: true } };
        }
        block.buffer = Some(done.buffer);
        if rescue.at_device > 0 || rescue.is_missing_from(rescue.next) {
            return;
        }
        let now_ns = log.environment().clock.monotonic_ns();
        if rescue.is_missing_from(0) && rescue.rest(now_ns) {
            return;
        }
        if let Some(rescue) = self.rescues.list[number].take() {
            self.rescues.free.push(number);
            self.settle(log, rescue);
        }
    }

    /// Ends a rescue: its read gets what came, and the archive is asked for the rest.
    fn settle(&mut self, log: &mut Log, rescue: Rescue) {
        let (mut buffer, mut blocks) = (None::<DmaBufMut>, smallvec::SmallVec::new());
        let (mut bad, mut damaged) = (0, 0);
        for (at, block) in rescue.blocks.into_iter().enumerate() {
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
            blocks.push((rescue.first_lsn.plus(at as u64), block.crc16, fetched));
        }
        let Some(buffer) = buffer else { unreachable!("a piece has blocks") };
        self.stats.checksum_errors += damaged;
        self.stats.rescued_reads += u64::from(bad == 0);
        let geometry = log.geometry();
        let sequence = geometry.sequence_of(rescue.first_lsn);
        log.unpin(sequence);
        if bad > 0 {
            let why = if damaged > 0 { "have a wrong checksum" } else { "cannot be read" };
            log.note_problem(sequence, format!("blocks of it {why} on the device; hosts get the archive's copy where there is one, else a media error. The device may be failing: replace it soon"));
            if let Some(error) = &rescue.error {
                self.say(log, |unsaid| tracing::error!(%error, segment = sequence.0, unsaid, "blocks cannot be read from the device"));
            }
        }
        let Some(read) = self.reads[rescue.read].as_mut() else { unreachable!("a read ends once") };
        read.waiting -= 1;
        if bad == 0 {
            read.pieces[rescue.piece] = Piece::Ready(buffer.freeze());
            return self.end_read(rescue.read);
        }
        read.pieces[rescue.piece] = Piece::Archived(Box::new(ArchivedBlocks { buffer, blocks }));
        self.geometry = Some(geometry);
        match self.archive.take() {
            Some(mut archive) => {
                self.fetch_archived(&mut archive, rescue.read);
                self.archive = Some(archive);
            }
            None => read.fail(IoError::ReadFault),
        }
        self.end_read(rescue.read);
    }

    /// Says something in the journal, unless something was said just now.
    fn say(&mut self, log: &Log, line: impl FnOnce(u64)) {
        if let Some(unsaid) = self.rescues.may_say(log.environment().clock.monotonic_ns()) {
            line(unsaid);
        }
    }

    /// A block that a host asked for cannot be had: it is counted, and told by name.
    pub(super) fn tell_fault(&mut self, volume: VolumeId, block: u64, lsn: Lsn, why: &str) {
        self.stats.unreadable_blocks += 1;
        let name = self.volume_mut(volume).map(|volume| volume.name.clone()).unwrap_or_default();
        let segment = self.geometry.map(|geometry| geometry.sequence_of(lsn).0);
        let place = segment.map_or(String::new(), |segment| format!(", segment {segment}"));
        let fault = format!(
            "volume '{name}', block {block} (LSN {lsn}{place}): {why}; hosts get a media error until it is written again"
        );
        if self.rescues.faults.contains(&fault) {
            return;
        }
        if self.rescues.faults.len() == FAULTS_KEPT {
            self.rescues.faults.pop_front();
        }
        let now_ns = self.latencies.now_ns();
        if let Some(unsaid) = self.rescues.may_say(now_ns) {
            tracing::error!(fault, unsaid, "a host's read failed");
        }
        self.rescues.faults.push_back(fault);
    }
}
