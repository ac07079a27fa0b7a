//! The archived object: a segment, or a part of one, as a standard Zstandard file in the seekable
//! format.
//!
//! ```text
//! front frame | skippable 0x184D2A56 | header, 128 bytes | the trailer's units, and the holes
//! between them, compressed | data frames | one Zstandard frame for each 64 KiB to 1 MiB of blocks,
//! independent of each other
//! | ... | digest frame | skippable 0x184D2A57 | tail, 128 bytes: whose object it is, BLAKE3 of all
//! bytes before this frame, CRC32C of the rest | damaged blocks, 8 bytes each | seek table |
//! skippable 0x184D2A5E | 12 bytes for each frame before it: sizes and XXH64 | footer, 9 bytes |
//! ```
//!
//! `zstd -dc OBJECT` returns exactly the blocks of `[from_lsn, to_lsn)`. Reading one block takes
//! two reads: the last bytes (tail and seek table) and one frame. Reading the entries takes the
//! first bytes only. Every byte is covered by a check, and errors name the damaged part ([`Part`]):
//! a flipped byte gives an error, never wrong data. Values read from an object are trusted only
//! within the bounds that this module states.
//!
//! **Nothing is missing silently.** The records of an object follow each other without a hole from
//! its first position to its last. If entries could not be read when it was archived, the object
//! lists the stretch (the list of holes). If a block could not be read, the object lists its
//! position (the list of damaged blocks); the place of such a block holds arbitrary bytes, and a
//! reader gets an error. An object whose records leave an unlisted hole is damaged. A part with
//! such a list has version 2, which older builds refuse; every other part has version 1.
//!
//! The seek table is that of zstd's `contrib/seekable_format`, version 0.1.0, with its checksum
//! flag set; skippable frames are listed in it without content. Since the table has each frame's
//! XXH64, the frames have no checksum of their own. Older objects have both, and both are checked.

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod codec;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod header;
mod name;
mod raw;
mod reader;
mod records;
mod seek;
mod writer;

#[cfg(test)]
mod tests;

pub use codec::{Compressor, Decompressor, LEVEL_DEFAULT};
pub use error::{Damage, ObjectError, Part};
pub use header::{ObjectHeader, ObjectTail};
pub use name::{ClaimId, NameError, ObjectId, Place, pool_prefix};
pub use reader::{ObjectFront, ObjectReader, ObjectTable, RangedRead, read_front};
pub use records::holes_of;
pub use seek::DataFrame;
pub use writer::{ObjectSpec, ObjectSummary, ObjectWriter};

/// The newest version of the format. This build writes it for parts with missing data, and reads it
/// and all earlier versions.
pub const OBJECT_VERSION: u32 = 2;
/// The version of a part without missing data.
const VERSION_WHOLE: u32 = 1;
/// The smallest content of a data frame, in bytes.
pub const FRAME_BYTES_MIN: u32 = 64 << 10;
/// The largest content of a data frame, in bytes.
pub const FRAME_BYTES_MAX: u32 = 1 << 20;
/// The default content of a data frame, in bytes.
pub const FRAME_BYTES_DEFAULT: u32 = 256 << 10;

/// The magic number of the skippable frame at the front.
const FRONT_MAGIC: u32 = 0x184D_2A56;
/// The magic number of the skippable frame with the digest.
const DIGEST_MAGIC: u32 = 0x184D_2A57;
/// The size of a skippable frame's own head in bytes: magic number and size.
pub(crate) const SKIPPABLE_HEAD_BYTES: usize = 8;

/// The head of a skippable frame.
pub(crate) fn skippable_head(magic: u32, payload_bytes: u32) -> [u8; SKIPPABLE_HEAD_BYTES] {
    // Both little-endian, the magic number first.
    (u64::from(payload_bytes) << 32 | u64::from(magic)).to_le_bytes()
}
