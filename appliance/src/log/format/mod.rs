//! The on-disk format, version 1 (DESIGN section 5). Little-endian; offsets in bytes within a block unless said otherwise.
//!
//! ```text
//! device   | superblock A | superblock B | gap | slot 0 | slot 1 | ... |
//! slot     | segment header | record | record | ... | (unused) | trailer area |
//! record   | record header: 64 bytes and up to 168 entries of 24 | data block | data block | ... |
//! trailer  | 64 bytes, then for each record: one line of 24 bytes and its entries |
//! ```
//!
//! Three numbers make old bytes harmless. The pool's UUID keeps other pools' blocks out. The LSN in every header must be the
//! position where it is found, so an earlier life of a slot never matches. The **epoch**, which grows by one each
//! time the pool is opened, must not fall along the log: a record that was written but cut off by a crash (because one before
//! it was lost) carries an older epoch than what is later written in front of it, and so can never come back to life.
//!
//! Every header also says up to which LSN the log was known to be stable when it was written (**stable LSN**). Recovery ends the log at the
//! first record that is missing, unless something behind it proves that the record had been stable: then it is damage, which is
//! reported, and not the end.

mod event;
mod record;
mod segment;
mod superblock;
mod trailer;

pub use event::{EventHead, EventKind};
pub use record::{ENTRIES_PER_RECORD, Entry, EntryFlags, EntryKind, RecordHead};
pub use segment::{RELEASED_SPAN, SegmentHeader};
pub use superblock::{SUPERBLOCK_COPIES, Superblock};
pub use trailer::{RecordLine, TrailerHead, TrailerUnit, trailer_blocks, trailer_units};

/// The version that this build writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Why bytes are not the structure that was expected there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Something else, or nothing, is there.
    #[error("no such structure here (wrong magic)")]
    Magic,
    /// It was written by another version.
    #[error("format version {0} is not supported (this build reads version {FORMAT_VERSION})")]
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
    /// A field has a value that cannot be.
    #[error("field {0} has an impossible value")]
    Field(&'static str),
}
