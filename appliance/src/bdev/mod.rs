//! Block devices: one trait, completions by polling.
//!
//! A [`Bdev`] is the local handle of one reactor to one device. A caller passes commands to
//! [`Bdev::submit`]. They start with the next [`Bdev::poll`] at the latest, and complete through
//! `poll`, in any order. The buffers of a command move into it. At completion they come back
//! (reads) or are dropped (writes), so a device never touches memory after it is reused.
//!
//! Offsets and lengths are in blocks of [`BLOCK_BYTES`]. Every kind of device keeps these rules:
//! - At most [`BdevInfo::queue_depth`] commands are in flight. At that limit `submit` returns the
//!   command ([`Submit::Full`]).
//! - A command outside the device completes with [`BdevErrorKind::OutOfRange`] and touches nothing.
//! - When [`BdevInfo::volatile_cache`] is false, data is stable after its write completes.
//!   Otherwise it is stable after a flush that was submitted after the write completed.
//! - Commands submitted since the last `poll` may not have started: poll again before sleeping on
//!   [`Bdev::wake_fd`].
//! - Dropping the handle waits for commands in flight. Their completions are lost.

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

    /// Queues a command. The next [`poll`](Bdev::poll) starts it, if it has not started before.
    fn submit(&mut self, command: Command) -> Submit;

    /// Starts the queued commands and appends the completed ones to `completions`. Returns how many
    /// completed.
    fn poll(&mut self, completions: &mut Vec<Completion>) -> usize;

    /// Commands submitted and not yet completed.
    fn in_flight(&self) -> usize;

    /// A descriptor that becomes readable when a completion is ready to be polled. `None` when
    /// `poll` itself completes everything.
    fn wake_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Space in the file system that holds the device. `None` if there is no file system, or if it
    /// does not report its space. May take a few system calls.
    fn space(&self) -> Option<Space> {
        None
    }
}

/// Space in the file system that holds a device's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// The mount point.
    pub file_system: String,
    /// Free bytes in the file system.
    pub free_bytes: u64,
    /// Bytes that are not allocated to the file yet and that it may need later.
    pub missing_bytes: u64,
}

/// The outcome of [`Bdev::submit`].
#[derive(Debug)]
#[must_use]
pub enum Submit {
    /// Accepted. Exactly one [`Completion`] follows.
    Queued,
    /// The queue is full. Contains the command.
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
    /// Whether a power loss before a flush can lose completed writes.
    pub volatile_cache: bool,
    /// The limit on commands in flight.
    pub queue_depth: usize,
}

/// One command: an operation and the caller's tag, which the completion returns.
#[derive(Debug)]
pub struct Command {
    /// The caller's own value. The device does not interpret it.
    pub tag: u64,
    /// The operation.
    pub operation: Operation,
}

/// What a command does. Each buffer's length is a multiple of a block. A command has at most 4 MiB
/// and 512 buffers in total.
#[derive(Debug)]
pub enum Operation {
    /// Read from `block` on into the buffers, in order.
    Read {
        /// First block.
        block: u64,
        /// The destination. The completion returns them.
        buffers: SmallVec<[DmaBufMut; 1]>,
    },
    /// Write the buffers, in order, from `block` on.
    Write {
        /// First block.
        block: u64,
        /// The data. Held until the completion.
        buffers: SmallVec<[DmaBuf; 2]>,
    },
    /// Make stable every command that completed before this one was submitted.
    Flush,
    /// Free the space of the blocks. They read as zeroes or as their old contents afterwards. A
    /// hint: it succeeds even if the device cannot do it.
    Discard {
        /// First block.
        block: u64,
        /// Number of blocks.
        len_blocks: u64,
    },
}

/// The end of a command.
#[derive(Debug)]
pub struct Completion {
    /// The tag of the command.
    pub tag: u64,
    /// Its outcome.
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
    /// Number of blocks.
    pub len_blocks: u64,
    /// The cause.
    pub kind: BdevErrorKind,
}

/// Causes of a failed command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BdevErrorKind {
    /// It reaches beyond the device.
    #[error("beyond the end of the device")]
    OutOfRange,
    /// A buffer is empty, or its length or address is not a multiple of a block.
    #[error("not aligned to 4096 bytes")]
    Misaligned,
    /// The device moved fewer bytes than requested, and a retry moved none.
    #[error("short transfer")]
    ShortTransfer,
    /// The file system under the device has no space for the data, or a quota is used up. It may
    /// have space again later.
    #[error("no room left in its file system")]
    NoRoom,
    /// The operating system's error number.
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Os(i32),
    /// A fault injected by a test.
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

    /// Number of blocks in the operation, 0 for a flush.
    pub fn len_blocks(&self) -> u64 {
        let bytes = match self {
            Operation::Read { buffers, .. } => buffers.iter().map(DmaBufMut::len).sum::<usize>(),
            Operation::Write { buffers, .. } => buffers.iter().map(|buffer| buffer.len()).sum::<usize>(),
            Operation::Flush => 0,
            Operation::Discard { len_blocks, .. } => return *len_blocks,
        };
        (bytes / BLOCK_BYTES) as u64
    }

    /// Checks the rules that all kinds share: alignment and range.
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
