//! The increment: what differs between two consistent points of a group of volumes, as a file.
//!
//! ```text
//! header frame | skippable 0x184D2A58 | header, 192 bytes | description, JSON |
//! chunk | skippable 0x184D2A59 | head, 64 bytes | entries, 24 bytes each | one Zstandard frame:
//! the chunk's blocks | ...
//! tail frame | skippable 0x184D2A5A | tail, 128 bytes: counts, BLAKE3 of all bytes before this
//! frame |
//! ```
//!
//! An increment is a standard Zstandard file: `zstd -dc` returns the changed blocks in order. The
//! entries of a chunk say which blocks these are, and which blocks have lost their contents; they
//! are readable without the data. So the file is written and read in one pass, by pieces of at most
//! 1 MiB of data, and a damaged byte is found in the chunk that has it.
//!
//! **Every byte is checked:** header, chunk heads and tail by a CRC32C each, the data of a chunk
//! before and after it is decompressed, and everything by the digest. Counts and order are checked
//! too: an entry lies behind all entries before it, and within its volume. Values read from a file
//! are trusted only within the bounds that this module states.
//!
//! | file | job |
//! |---|---|
//! | `format` | the bytes of the frames |
//! | `description` | the JSON that follows the header |
//! | `error` | what is wrong with a file |
//! | `writer` | writes a file in one pass |
//! | `reader` | reads and checks a file in one pass |

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod description;
mod error;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use description::{Description, Member, PointText};
pub use error::IncrementError;
pub use format::{Entry, EntryKind, Header, Kind};
pub use reader::{Chunk, IncrementReader, verify};
pub use writer::{IncrementWriter, Summary};

/// The version of the format.
pub const VERSION: u32 = 1;
/// The most blocks of data in a chunk: 1 MiB.
pub const CHUNK_BLOCKS_MAX: u32 = 256;
/// The most entries of a chunk.
pub const CHUNK_ENTRIES_MAX: u32 = 1024;
/// The most volumes of an increment.
pub const MEMBERS_MAX: usize = 1024;
/// The longest description, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 1 << 20;
