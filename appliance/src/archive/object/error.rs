//! The errors of an object: what is wrong, and where.

use std::fmt;

use super::{FRAME_BYTES_MAX, FRAME_BYTES_MIN, OBJECT_VERSION};
use crate::archive::store::StoreError;
use crate::log::reader::LsnRange;
use crate::log::types::Lsn;

/// A part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The head of the front frame.
    Front,
    /// The header.
    Header,
    /// The trailer's units.
    Entries,
    /// A data frame, counted from 0.
    Data(u32),
    /// The frame with the digest.
    Digest,
    /// The seek table.
    SeekTable,
    /// All bytes before the digest.
    Whole,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Front => f.write_str("front frame"),
            Part::Header => f.write_str("header"),
            Part::Entries => f.write_str("entries"),
            Part::Data(index) => write!(f, "data frame {index}"),
            Part::Digest => f.write_str("digest frame"),
            Part::SeekTable => f.write_str("seek table"),
            Part::Whole => f.write_str("object as a whole"),
        }
    }
}

/// The defect of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Something else is in its place.
    #[error("is not there (wrong magic)")]
    Magic,
    /// An unsupported version wrote it.
    #[error("has version {0}, and this build reads versions up to {OBJECT_VERSION}")]
    Version(u32),
    /// Its checksum is wrong.
    #[error("has a wrong checksum")]
    Checksum,
    /// It is cut off.
    #[error("is cut off")]
    Truncated,
    /// A field has an impossible value.
    #[error("has an impossible value in its field {0}")]
    Field(&'static str),
    /// Records are missing, and the object does not list the hole: it was made from an incomplete
    /// list of entries.
    #[error("lacks the records of LSN {} to {} and does not say so", .0.start, .0.end)]
    Hole(LsnRange),
    /// The decompressor refused it, for this reason.
    #[error("cannot be decompressed: {0}")]
    Zstd(&'static str),
}

/// Why an object could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Bytes of the object are not what they must be.
    #[error("the {part} at byte {offset} {damage}")]
    Damaged {
        /// The damaged part.
        part: Part,
        /// Its offset in the object.
        offset: u64,
        /// The defect.
        damage: Damage,
    },
    /// The object does not contain that position.
    #[error("{len_blocks} blocks at LSN {lsn} are not in the object, which holds LSN {from_lsn} to {to_lsn}")]
    NotHere {
        /// The first requested position.
        lsn: Lsn,
        /// The number of requested blocks.
        len_blocks: u64,
        /// The first position in the object.
        from_lsn: Lsn,
        /// The position after the last one in the object.
        to_lsn: Lsn,
    },
    /// The block could not be read, or was damaged, when it was archived.
    #[error("the block at LSN {0} was damaged when it was archived")]
    Unreadable(Lsn),
    /// The entries for a new object are not valid.
    #[error("no object can be made of this: its list of entries {0}")]
    Records(Damage),
    /// A buffer is not a whole number of blocks.
    #[error("{0} bytes are not whole blocks")]
    NotBlocks(usize),
    /// More or fewer blocks were pushed than the object must have.
    #[error("{pushed_blocks} blocks were given to an object of {blocks} blocks")]
    Count {
        /// The number of pushed blocks.
        pushed_blocks: u64,
        /// The number of blocks of the object.
        blocks: u64,
    },
    /// The specification of a new object is not valid.
    #[error("no object can have this {0}")]
    Spec(&'static str),
    /// A frame size that is out of bounds.
    #[error("{0} bytes are no frame size: a power of two from {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX} is one")]
    FrameBytes(u32),
    /// The compression level does not exist.
    #[error("{0} is not a compression level of this zstd")]
    Level(i32),
    /// The compressor failed, for this reason.
    #[error("compression failed: {0}")]
    Compress(&'static str),
    /// No memory for a context.
    #[error("no memory for a compression context")]
    OutOfMemory,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ObjectError {
    /// The error for damage of `part`, which begins at `offset`.
    pub(super) fn damaged(part: Part, offset: u64, damage: Damage) -> Self {
        ObjectError::Damaged { part, offset, damage }
    }
}
