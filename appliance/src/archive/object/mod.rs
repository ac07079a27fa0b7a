//! The archived object: a segment, or a part of one, as a standard Zstandard file in the
//! seekable format.
//!
//! ```text
//! front frame   | skippable 0x184D2A56 | header, 128 bytes | the trailer's units, and the holes between them, compressed |
//! data frames   | one Zstandard frame for each 64 KiB to 1 MiB of blocks, independent of each other | ... |
//! digest frame  | skippable 0x184D2A57 | tail, 128 bytes: whose object it is, BLAKE3 of all bytes before this frame, CRC32C of the rest | damaged blocks, 8 bytes each |
//! seek table    | skippable 0x184D2A5E | 12 bytes for each frame before it: sizes and XXH64 | footer, 9 bytes |
//! ```
//!
//! `zstd -dc OBJECT` gives the blocks of `[from_lsn, to_lsn)`, exactly. One block needs two reads:
//! the last bytes (tail and seek table) and one frame. The entries need the first bytes only. Every
//! byte is covered by some check, and what is damaged is named ([`Part`]): a flipped byte gives an
//! error, never wrong data. Nothing read from an object is believed beyond the bounds that this
//! module states.
//!
//! **Nothing is missing silently.** The records of an object follow each other without a hole from
//! its first position to its last. Where entries could not be read when it was archived, it lists
//! the stretch (the list of holes), and where a block could not be read, its position (the list of
//! damaged blocks); the place of such a block holds bytes that are not its own, and a reader gets
//! an error. An object whose records leave a hole that it does not list is damaged. A part with
//! such a list has version 2, which older builds refuse; every other has version 1.
//!
//! The seek table is the one of zstd's `contrib/seekable_format`, version 0.1.0, with its checksum
//! flag set; skippable frames are listed in it with no content. Since the table has each frame's
//! XXH64, the frames carry none of their own; older objects have both, and are read with both.

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

/// The newest version of the format, which this build writes where something is missing, and reads
/// like all before it.
pub const OBJECT_VERSION: u32 = 2;
/// The version of a part from which nothing is missing.
const VERSION_WHOLE: u32 = 1;
/// The smallest content of a data frame, in bytes.
pub const FRAME_BYTES_MIN: u32 = 64 << 10;
/// The largest content of a data frame, in bytes.
pub const FRAME_BYTES_MAX: u32 = 1 << 20;
/// The usual content of a data frame, in bytes.
pub const FRAME_BYTES_DEFAULT: u32 = 256 << 10;

/// Magic number of the skippable frame at the front.
const FRONT_MAGIC: u32 = 0x184D_2A56;
/// Magic number of the skippable frame that holds the digest.
const DIGEST_MAGIC: u32 = 0x184D_2A57;
/// Bytes of a skippable frame's own head: magic number and size.
const SKIPPABLE_HEAD_BYTES: usize = 8;

/// The head of a skippable frame.
fn skippable_head(magic: u32, payload_bytes: u32) -> [u8; SKIPPABLE_HEAD_BYTES] {
    // Both little-endian, the magic number first.
    (u64::from(payload_bytes) << 32 | u64::from(magic)).to_le_bytes()
}
