//! The state of a command in a file engine: where its bytes are, how far it is, and what a result
//! means.
//!
//! Both file engines keep each [`Command`] in an [`InFlight`] slot until it has completed, and move
//! the bytes of its [`Transfer`], which contains plain addresses only. So both engines retry,
//! resume and forgive the same results.

use smallvec::SmallVec;

use super::{
    BLOCK_BYTES, BdevError, BdevErrorKind, BdevInfo, Command, Completion, DmaBuf, DmaBufMut, Operation,
};

/// How often a transfer is retried without progress when the system interrupts it or has no
/// resources for it.
const MAX_RETRIES: u32 = 64;

/// A piece of memory, with the layout of the system's `iovec`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct TransferPiece {
    pub(super) address: *mut u8,
    pub(super) len_bytes: usize,
}

/// What a transfer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    Discard,
}

/// The rest of a command's work. Adjacent buffers are one piece.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) kind: Kind,
    /// Offset of the rest on the device.
    pub(super) offset_bytes: u64,
    /// Bytes left of a read, a write or a discard.
    pub(super) len_bytes: u64,
    /// The memory of the rest of a read or a write.
    pub(super) pieces: SmallVec<[TransferPiece; 4]>,
    retries: u32,
}

// SAFETY: the addresses are those of buffers that the slot of the command holds until the transfer
// has ended, whichever thread moves the bytes: unique views for reads, immutable ones for writes.
// Nothing else in it is bound to a thread.
unsafe impl Send for Transfer {}

/// The next step after a result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Try the rest.
    Again,
    /// The command has ended.
    Done(Result<(), BdevErrorKind>),
}

impl Transfer {
    /// The work of an operation that has been checked.
    pub(super) fn of(operation: &mut Operation) -> Self {
        let mut pieces: SmallVec<[TransferPiece; 4]> = SmallVec::new();
        let mut add = |address: *mut u8, len_bytes: usize| match pieces.last_mut() {
            Some(last) if last.address.wrapping_add(last.len_bytes) == address => last.len_bytes += len_bytes,
            _ => pieces.push(TransferPiece { address, len_bytes }),
        };
        let kind = match operation {
            Operation::Read { buffers, .. } => {
                buffers.iter_mut().for_each(|buffer: &mut DmaBufMut| add(buffer.as_mut_ptr(), buffer.len()));
                Kind::Read
            }
            Operation::Write { buffers, .. } => {
                buffers.iter().for_each(|buffer: &DmaBuf| add(buffer.as_ptr().cast_mut(), buffer.len()));
                Kind::Write
            }
            Operation::Flush => Kind::Flush,
            Operation::Discard { .. } => Kind::Discard,
        };
        Transfer {
            kind,
            offset_bytes: operation.block() * BLOCK_BYTES as u64,
            len_bytes: operation.len_blocks() * BLOCK_BYTES as u64,
            pieces,
            retries: 0,
        }
    }

    /// Processes the system's result: bytes moved, or an error number.
    pub(super) fn after(&mut self, result: Result<usize, i32>) -> Step {
        match (self.kind, result) {
            (Kind::Read | Kind::Write, Ok(0)) => Step::Done(Err(BdevErrorKind::ShortTransfer)),
            (Kind::Read | Kind::Write, Ok(moved_bytes)) => {
                self.retries = 0;
                self.advance(moved_bytes);
                if self.len_bytes == 0 { Step::Done(Ok(())) } else { Step::Again }
            }
            (Kind::Flush | Kind::Discard, Ok(_)) => Step::Done(Ok(())),
            (_, Err(errno)) if is_transient(errno) && self.retries < MAX_RETRIES => {
                self.retries += 1;
                Step::Again
            }
            // A discard is a hint: a device that cannot do it still succeeds.
            (Kind::Discard, Err(errno)) if is_unsupported(errno) => Step::Done(Ok(())),
            (Kind::Write, Err(errno)) if is_no_room(errno) => Step::Done(Err(BdevErrorKind::NoRoom)),
            (_, Err(errno)) => Step::Done(Err(BdevErrorKind::Os(errno))),
        }
    }

    fn advance(&mut self, moved_bytes: usize) {
        let mut left = moved_bytes.min(self.len_bytes as usize);
        self.offset_bytes += left as u64;
        self.len_bytes -= left as u64;
        let mut whole = 0;
        for piece in &mut self.pieces {
            if left < piece.len_bytes {
                piece.address = piece.address.wrapping_add(left);
                piece.len_bytes -= left;
                break;
            }
            left -= piece.len_bytes;
            whole += 1;
        }
        self.pieces.drain(..whole);
    }
}

fn is_transient(errno: i32) -> bool {
    use rustix::io::Errno;
    [Errno::AGAIN, Errno::INTR].iter().any(|known| known.raw_os_error() == errno)
}

fn is_no_room(errno: i32) -> bool {
    use rustix::io::Errno;
    [Errno::NOSPC, Errno::DQUOT].iter().any(|known| known.raw_os_error() == errno)
}

fn is_unsupported(errno: i32) -> bool {
    use rustix::io::Errno;
    [Errno::OPNOTSUPP, Errno::NOSYS, Errno::NODEV].iter().any(|known| known.raw_os_error() == errno)
}

/// A command that an engine has taken.
pub(super) struct InFlight {
    command: Command,
    /// `None` while another thread has it.
    pub(super) transfer: Option<Transfer>,
}

/// The commands that an engine has taken. Each has a slot that does not move. There are as many
/// slots as the queue is deep.
pub(super) struct Slots {
    places: Box<[Option<InFlight>]>,
    free: Vec<u32>,
}

impl Slots {
    pub(super) fn new(queue_depth: usize) -> Self {
        let places = (0..queue_depth).map(|_| None).collect();
        Slots { places, free: (0..queue_depth as u32).rev().collect() }
    }

    /// Stores a command that has been checked. Returns it when all slots are taken.
    pub(super) fn insert(&mut self, mut command: Command) -> Result<u32, Command> {
        let Some(slot) = self.free.pop() else { return Err(command) };
        let transfer = Some(Transfer::of(&mut command.operation));
        self.places[slot as usize] = Some(InFlight { command, transfer });
        Ok(slot)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut InFlight> {
        self.places.get_mut(slot as usize)?.as_mut()
    }

    /// Ends a command. `None` when the slot is empty.
    pub(super) fn finish(
        &mut self,
        slot: u32,
        info: &BdevInfo,
        outcome: Result<(), BdevErrorKind>,
    ) -> Option<Completion> {
        let in_flight = self.places.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(complete(info, in_flight.command, outcome))
    }

    pub(super) fn in_use(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

/// Makes a command's completion.
pub(super) fn complete(info: &BdevInfo, command: Command, outcome: Result<(), BdevErrorKind>) -> Completion {
    let operation = command.operation;
    let result = outcome.map_err(|kind| BdevError {
        device: info.name.clone(),
        operation: operation.name(),
        block: operation.block(),
        len_blocks: operation.len_blocks(),
        kind,
    });
    let buffers = match operation {
        Operation::Read { buffers, .. } => buffers,
        _ => SmallVec::new(),
    };
    Completion { tag: command.tag, result, buffers }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::dma::DmaPool;

    const INTERRUPTED: i32 = 4;
    const NOT_SUPPORTED: i32 = 95;

    #[test]
    fn neighbours_are_one_piece_and_progress_crosses_pieces() {
        let pool = DmaPool::new(1 << 20);
        let mut rest = pool.allocate(4 * BLOCK_BYTES).expect("within the budget");
        let buffers = [rest.split_to(BLOCK_BYTES), rest.split_to(BLOCK_BYTES)];
        let [first, second] = buffers;
        drop(rest.split_to(BLOCK_BYTES));
        let base = first.as_ptr() as usize;
        let mut operation = Operation::Read { block: 2, buffers: smallvec![first, second, rest] };
        let mut transfer = Transfer::of(&mut operation);
        assert_eq!(transfer.pieces.len(), 2);
        assert_eq!((transfer.offset_bytes, transfer.len_bytes), (8192, 12288));
        assert_eq!(transfer.after(Ok(4096)), Step::Again);
        assert_eq!(transfer.pieces[0].address as usize, base + 4096);
        assert_eq!(transfer.after(Ok(4096 + 512)), Step::Again);
        assert_eq!(transfer.pieces.len(), 1);
        assert_eq!(transfer.pieces[0].address as usize, base + 3 * 4096 + 512);
        assert_eq!((transfer.offset_bytes, transfer.len_bytes), (8192 + 8704, 12288 - 8704));
        assert_eq!(transfer.after(Ok(4096 - 512)), Step::Done(Ok(())));
    }

    #[test]
    fn retries_are_bounded_and_progress_renews_them() {
        let pool = DmaPool::new(1 << 20);
        let buffer = pool.allocate(2 * BLOCK_BYTES).expect("within the budget");
        let mut operation = Operation::Read { block: 0, buffers: smallvec![buffer] };
        let mut transfer = Transfer::of(&mut operation);
        for _ in 0..MAX_RETRIES {
            assert_eq!(transfer.after(Err(INTERRUPTED)), Step::Again);
        }
        assert_eq!(transfer.after(Ok(4096)), Step::Again);
        for _ in 0..MAX_RETRIES {
            assert_eq!(transfer.after(Err(INTERRUPTED)), Step::Again);
        }
        assert_eq!(transfer.after(Err(INTERRUPTED)), Step::Done(Err(BdevErrorKind::Os(INTERRUPTED))));
        assert_eq!(transfer.after(Ok(0)), Step::Done(Err(BdevErrorKind::ShortTransfer)));
    }

    #[test]
    fn only_a_write_finds_no_room() {
        let pool = DmaPool::new(1 << 20);
        for errno in [28, 122] {
            let buffer = pool.allocate(2 * BLOCK_BYTES).expect("within the budget");
            let mut operation = Operation::Write { block: 0, buffers: smallvec![buffer.freeze()] };
            let mut write = Transfer::of(&mut operation);
            // Also in the middle of a transfer.
            assert_eq!(write.after(Ok(4096)), Step::Again);
            assert_eq!(write.after(Err(errno)), Step::Done(Err(BdevErrorKind::NoRoom)));
            let mut flush = Transfer::of(&mut Operation::Flush);
            assert_eq!(flush.after(Err(errno)), Step::Done(Err(BdevErrorKind::Os(errno))));
        }
    }

    #[test]
    fn only_a_discard_may_be_unsupported() {
        let mut discard = Transfer::of(&mut Operation::Discard { block: 0, len_blocks: 1 });
        assert_eq!(discard.after(Err(NOT_SUPPORTED)), Step::Done(Ok(())));
        let mut flush = Transfer::of(&mut Operation::Flush);
        assert_eq!(flush.after(Err(NOT_SUPPORTED)), Step::Done(Err(BdevErrorKind::Os(NOT_SUPPORTED))));
    }
}
