//! Block devices: one trait, completions by polling.
//!
//! A [`Bdev`] is the local handle of one reactor to one device. Commands are handed over with [`Bdev::submit`], start
//! at the latest with the next [`Bdev::poll`], and complete through `poll`, in any order. The buffers of a command travel with it and come back
//! (reads) or are dropped (writes) at completion, so memory is never touched by a device after it has been reused.
//!
//! Offsets and lengths are in blocks of [`BLOCK_BYTES`]. Every kind keeps these rules:
//! - at most [`BdevInfo::queue_depth`] commands in flight; at the bound `submit` gives the command back ([`Submit::Full`]);
//! - a command outside the device completes with [`BdevErrorKind::OutOfRange`] and touches nothing;
//! - data is stable after a completed write when [`BdevInfo::volatile_cache`] is false, and after a flush that was
//!   submitted when the write had completed, otherwise;
//! - what was submitted since the last `poll` may not have been started: poll again before sleeping on
//!   [`Bdev::wake_fd`];
//! - dropping the handle waits for commands in flight; their completions are lost.

mod file;
pub mod memory;
mod queue;
mod registered;
mod threads;
mod transfer;
mod uring;

#[cfg(test)]
mod conformance;

use std::os::fd::BorrowedFd;

use smallvec::SmallVec;

use crate::dma::{DmaBuf, DmaBufMut};

pub use crate::dma::BLOCK_BYTES;

pub use file::{
    ENGINE_VARIABLE, Engine, FileDevice, FileOptions, MAX_QUEUE_DEPTH, OpenError, is_blank, open_file,
};
pub use memory::{MemoryBdev, MemoryDisk, MemoryError};
pub use queue::{BdevQueue, SharedBdev};

/// A block device as one reactor sees it. See the module's documentation for the rules.
pub trait Bdev {
    /// What the device is.
    fn info(&self) -> &BdevInfo;

    /// Queues a command. It is started by the next [`poll`](Bdev::poll) at the latest.
    fn submit(&mut self, command: Command) -> Submit;

    /// Starts what is queued and appends what has completed to `completions`; returns how many.
    fn poll(&mut self, completions: &mut Vec<Completion>) -> usize;

    /// Commands submitted and not yet completed.
    fn in_flight(&self) -> usize;

    /// What becomes readable when a completion waits to be polled; `None` when `poll` itself completes everything.
    fn wake_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Room in the file system under it; `None` where there is none, or it does not tell. May take a few system calls.
    fn space(&self) -> Option<Space> {
        None
    }
}

/// Room in the file system that holds a device's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// Where it is mounted.
    pub file_system: String,
    /// Bytes of it that are free.
    pub free_bytes: u64,
    /// Bytes that the file does not have yet and may come to need.
    pub missing_bytes: u64,
}

/// The outcome of [`Bdev::submit`].
#[derive(Debug)]
#[must_use]
pub enum Submit {
    /// Taken; exactly one [`Completion`] follows.
    Queued,
    /// The queue is full; here is the command back.
    Full(Command),
}

/// What a device is.
#[derive(Debug, Clone)]
pub struct BdevInfo {
    /// A name for messages: the path of the file, or `memory`.
    pub name: String,
    /// The kind: `memory`, `uring`, `threads`.
    pub kind: &'static str,
    /// Size in blocks.
    pub len_blocks: u64,
    /// Whether completed writes may be lost with the power before a flush.
    pub volatile_cache: bool,
    /// The bound on commands in flight.
    pub queue_depth: usize,
}

/// One command: an operation and the caller's tag, which comes back with the completion.
#[derive(Debug)]
pub struct Command {
    /// The caller's own; not looked at.
    pub tag: u64,
    /// What to do.
    pub operation: Operation,
}

/// What a command does. Buffers' lengths are multiples of a block, in total at most 4 MiB and 512 buffers.
#[derive(Debug)]
pub enum Operation {
    /// Read from `block` on into the buffers, one behind the other.
    Read {
        /// First block.
        block: u64,
        /// Where to; handed back with the completion.
        buffers: SmallVec<[DmaBufMut; 1]>,
    },
    /// Write the buffers, one behind the other, from `block` on.
    Write {
        /// First block.
        block: u64,
        /// What; held until the completion.
        buffers: SmallVec<[DmaBuf; 2]>,
    },
    /// Make everything stable that had completed before this was submitted.
    Flush,
    /// Give the blocks' space back; they read as zeroes or as before after it. A hint: succeeds where the device cannot.
    Discard {
        /// First block.
        block: u64,
        /// How many.
        len_blocks: u64,
    },
}

/// A command's end.
#[derive(Debug)]
pub struct Completion {
    /// The tag of the command.
    pub tag: u64,
    /// How it ended.
    pub result: Result<(), BdevError>,
    /// The buffers of a read, in their order, filled on success.
    pub buffers: SmallVec<[DmaBufMut; 1]>,
}

/// Why a command failed, and on which device.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation} of {len_blocks} blocks at block {block} of {device}: {kind}")]
pub struct BdevError {
    /// The device's name.
    pub device: String,
    /// `read`, `write`, `flush` or `discard`.
    pub operation: &'static str,
    /// First block.
    pub block: u64,
    /// How many blocks.
    pub len_blocks: u64,
    /// What went wrong.
    pub kind: BdevErrorKind,
}

/// What can go wrong with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BdevErrorKind {
    /// It reaches beyond the device.
    #[error("beyond the end of the device")]
    OutOfRange,
    /// A buffer is empty, or its length or address is not a multiple of a block.
    #[error("not aligned to 4096 bytes")]
    Misaligned,
    /// The device moved fewer bytes than asked, and nothing more.
    #[error("short transfer")]
    ShortTransfer,
    /// The file system under the device has no room for what is written, or a quota is used up. It may have room again later.
    #[error("no room left in its file system")]
    NoRoom,
    /// The operating system's error number.
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Os(i32),
    /// A fault that a test injected.
    #[error("injected fault")]
    Injected,
}

impl Operation {
    /// A name for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Operation::Read { .. } => "read",
            Operation::Write { .. } => "write",
            Operation::Flush => "flush",
            Operation::Discard { .. } => "discard",
        }
    }

    /// The first block, 0 for a flush.
    pub fn block(&self) -> u64 {
        match self {
            Operation::Read { block, .. }
            | Operation::Write { block, .. }
            | Operation::Discard { block, .. } => *block,
            Operation::Flush => 0,
        }
    }

    /// How many blocks the operation covers, 0 for a flush.
    pub fn len_blocks(&self) -> u64 {
        let bytes = match self {
            Operation::Read { buffers, .. } => buffers.iter().map(DmaBufMut::len).sum::<usize>(),
            Operation::Write { buffers, .. } => buffers.iter().map(|buffer| buffer.len()).sum::<usize>(),
            Operation::Flush => 0,
            Operation::Discard { len_blocks, .. } => return *len_blocks,
        };
        (bytes / BLOCK_BYTES) as u64
    }

    /// Checks the rules that every kind shares: alignment and range.
    ///
    /// # Errors
    /// [`BdevErrorKind::Misaligned`], [`BdevErrorKind::OutOfRange`].
    pub fn check(&self, device_len_blocks: u64) -> Result<(), BdevErrorKind> {
        let aligned = |address: *const u8, len: usize| {
            len > 0 && len.is_multiple_of(BLOCK_BYTES) && (address as usize).is_multiple_of(BLOCK_BYTES)
        };
        let all_aligned = match self {
            Operation::Read { buffers, .. } => {
                !buffers.is_empty() && buffers.iter().all(|buffer| aligned(buffer.as_ptr(), buffer.len()))
            }
            Operation::Write { buffers, .. } => {
                !buffers.is_empty() && buffers.iter().all(|buffer| aligned(buffer.as_ptr(), buffer.len()))
            }
            Operation::Flush | Operation::Discard { .. } => true,
        };
        if !all_aligned {
            return Err(BdevErrorKind::Misaligned);
        }
        match self.block().checked_add(self.len_blocks()) {
            Some(end) if end <= device_len_blocks => Ok(()),
            _ => Err(BdevErrorKind::OutOfRange),
        }
    }
}
