//! What can be wrong with an object, and where.

use std::fmt;

use super::{FRAME_BYTES_MAX, FRAME_BYTES_MIN, OBJECT_VERSION};
use crate::archive::store::StoreError;
use crate::log::reader::LsnRange;
use crate::log::types::Lsn;

/// A part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The head of the frame at the front.
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

/// What is wrong with a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Something else is there.
    #[error("is not there (wrong magic)")]
    Magic,
    /// Another version wrote it.
    #[error("has version {0}, and this build reads versions up to {OBJECT_VERSION}")]
    Version(u32),
    /// Its checksum is wrong.
    #[error("has a wrong checksum")]
    Checksum,
    /// It is cut off.
    #[error("is cut off")]
    Truncated,
    /// A field has a value that cannot be.
    #[error("has an impossible value in its field {0}")]
    Field(&'static str),
    /// Records are missing, and the object does not say so: it was made of entries that were not
    /// all there.
    #[error("lacks the records of LSN {} to {} and does not say so", .0.start, .0.end)]
    Hole(LsnRange),
    /// The decompressor refused it, and says why.
    #[error("cannot be decompressed: {0}")]
    Zstd(&'static str),
}

/// Why an object could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Bytes of the object are not what they must be.
    #[error("the {part} at byte {offset} {damage}")]
    Damaged {
        /// Which part.
        part: Part,
        /// Where in the object it begins.
        offset: u64,
        /// What is wrong.
        damage: Damage,
    },
    /// The object does not hold that position.
    #[error("{len_blocks} blocks at LSN {lsn} are not in the object, which holds LSN {from_lsn} to {to_lsn}")]
    NotHere {
        /// First position asked for.
        lsn: Lsn,
        /// Count of blocks asked for.
        len_blocks: u64,
        /// First position in the object.
        from_lsn: Lsn,
        /// The position after the last one in the object.
        to_lsn: Lsn,
    },
    /// The block could not be read, or was damaged, when it was archived.
    #[error("the block at LSN {0} was damaged when it was archived")]
    Unreadable(Lsn),
    /// What the object is to hold is not what it should be.
    #[error("no object can be made of this: its list of entries {0}")]
    Records(Damage),
    /// A buffer is not a whole number of blocks.
    #[error("{0} bytes are not whole blocks")]
    NotBlocks(usize),
    /// More or fewer blocks were pushed than the object is to have.
    #[error("{pushed_blocks} blocks were given to an object of {blocks} blocks")]
    Count {
        /// Blocks that were pushed.
        pushed_blocks: u64,
        /// Blocks that the object has.
        blocks: u64,
    },
    /// What the object is to be cannot be.
    #[error("no object can have this {0}")]
    Spec(&'static str),
    /// A frame size out of bounds.
    #[error("{0} bytes are no frame size: a power of two from {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX} is one")]
    FrameBytes(u32),
    /// The compression level does not exist.
    #[error("{0} is not a compression level of this zstd")]
    Level(i32),
    /// The compressor failed, and says why.
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
    /// Damage of `part`, which begins at `offset`.
    pub(super) fn damaged(part: Part, offset: u64, damage: Damage) -> Self {
        ObjectError::Damaged { part, offset, damage }
    }
}
