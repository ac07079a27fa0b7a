//! The on-disk format. Little-endian; offsets in bytes within a block unless said otherwise.
//!
//! ```text
//! device   | superblock A | superblock B | gap | slot 0 | slot 1 | ... | superblock C |
//! slot     | segment header | record | record | ... | (unused) | trailer area |
//! record   | record header: 64 bytes and up to 168 entries of 24 | data block | data block | ... |
//! trailer  | 64 bytes, then for each record: one line of 24 bytes and its entries |
//! ```
//!
//! Three numbers make old bytes harmless. The pool's UUID excludes blocks of other pools. The LSN
//! in every header must be the position where it is found, so blocks from an earlier use of a slot
//! never match. The **epoch**, which grows each time the pool is opened, must not fall along the
//! log. A record that was written but cut off by a crash (because one before it was lost) carries
//! an older epoch than the records that are later written before it, so it can never become valid
//! again.
//!
//! Every header also says up to which LSN the log was known to be stable when it was written
//! (**stable LSN**). Recovery ends the log at the first record that is missing, unless something
//! after it proves that the record had been stable. In that case the record is damaged; the damage
//! is reported, and the log continues.

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod event;
mod record;
mod segment;
mod superblock;
mod trailer;

use std::ops::RangeInclusive;

use super::frame::FrameError;

pub use event::{EventHead, EventKind};
pub use record::{ENTRIES_PER_RECORD, Entry, EntryFlags, EntryKind, Opening, RecordHead};
pub use segment::{ENDS_MAX, RELEASED_SPAN, SegmentHeader};
pub use superblock::{SUPERBLOCK_HEADS, Superblock};
pub use trailer::{RecordLine, TrailerHead, TrailerUnit, trailer_blocks, trailer_units};

/// The version of pools that this build makes. A pool keeps the version that it was made with:
///
/// - Version 1 is the first.
/// - Version 2: a third superblock in the last block of the device; a trailer names the session
///   that wrote it; a copy of a copy carries the position of the first write; a segment's first
///   record repeats the data of its header; superblocks record where the log ended at the last
///   start; changes of the catalog are events of their own, and its snapshots are stored in pages
///   after it (`docs/FORMAT.md`).
///
/// A build that knows only version 1 refuses a pool of version 2 by its superblock, and changes
/// nothing.
pub const FORMAT_VERSION: u32 = 2;
/// The oldest version that this build reads. It continues to write this version in pools that have
/// it.
pub const FORMAT_VERSION_OLDEST: u32 = 1;
/// The versions that this build reads.
const FORMAT_VERSIONS: RangeInclusive<u32> = FORMAT_VERSION_OLDEST..=FORMAT_VERSION;

/// Why bytes are not the expected structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Something else, or nothing, is there.
    #[error("no such structure here (wrong magic)")]
    Magic,
    /// It was written by another version.
    #[error(
        "format version {0} is not supported (this build reads versions {FORMAT_VERSION_OLDEST} to {FORMAT_VERSION})"
    )]
    Version(u32),
    /// The checksum is wrong.
    #[error("checksum mismatch")]
    Checksum,
    /// It belongs to another pool.
    #[error("belongs to another pool")]
    Pool,
    /// It belongs to another place or time of this pool.
    #[error("is stale: it belongs to another position of the log")]
    Stale,
    /// A field has an impossible value.
    #[error("field {0} has an impossible value")]
    Field(&'static str),
}

impl From<FrameError> for FormatError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Length => FormatError::Field("length"),
            FrameError::Magic => FormatError::Magic,
            FrameError::Checksum => FormatError::Checksum,
            FrameError::Version(version) => FormatError::Version(version),
        }
    }
}
