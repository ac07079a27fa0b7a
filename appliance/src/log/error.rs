//! Why a log could not be created, found or closed.

use super::failure::LogFailure;
use super::read::ReadError;
use super::types::SegmentSeq;
use crate::bdev::BdevError;
use crate::dma::DmaError;

/// Why a log could not be created, found or closed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The device failed.
    #[error("{0}")]
    Device(#[from] BdevError),
    /// A segment could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// No memory.
    #[error("{0}")]
    Memory(#[from] DmaError),
    /// The device holds something that is not a varve pool.
    #[error(
        "{device} is not empty and holds no varve pool; nothing was changed. Name an empty file or device, or clear this one first"
    )]
    NotBlank {
        /// The device.
        device: String,
    },
    /// The device is too small for a pool.
    #[error(
        "{device} has {len_blocks} blocks of 4 KiB; with segments of {segment_blocks} blocks a pool needs at least {needed_blocks}"
    )]
    TooSmall {
        /// The device.
        device: String,
        /// Its size.
        len_blocks: u64,
        /// The segment size.
        segment_blocks: u64,
        /// The minimum size.
        needed_blocks: u64,
    },
    /// The segment size is not allowed.
    #[error(
        "a segment of {segment_blocks} blocks is not possible: it must be a power of two from 256 to 262144 (1 MiB to 1 GiB)"
    )]
    SegmentSize {
        /// The requested segment size.
        segment_blocks: u64,
    },
    /// A segment holds an entry that this build does not know.
    #[error(
        "segment {sequence} holds an entry of a kind or with a flag that this build does not know ({entry}); the pool, of format version {version}, was written by a later version of varve: open it with that one. Nothing was changed"
    )]
    UnknownEntry {
        /// The segment.
        sequence: SegmentSeq,
        /// The entry.
        entry: String,
        /// The pool's format version.
        version: u32,
    },
    /// There is no pool on the device.
    #[error("{device} holds no varve pool: {reason}")]
    NoPool {
        /// The device.
        device: String,
        /// What is wrong with each superblock.
        reason: String,
    },
    /// The device is smaller than the pool on it.
    #[error(
        "{device} has shrunk: it has {len_blocks} blocks and the pool on it {pool_blocks}; nothing was changed"
    )]
    Shrunk {
        /// The device.
        device: String,
        /// Its size now.
        len_blocks: u64,
        /// The pool's size.
        pool_blocks: u64,
    },
    /// The log failed.
    #[error("{}: everything acknowledged is in the log", failure.problem())]
    Poisoned {
        /// The first failure.
        failure: LogFailure,
    },
}
