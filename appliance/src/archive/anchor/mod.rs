//! The anchor: the index of an image at a position of the log, stored in the archive beside the
//! segments, so that a point is opened without the entries of a whole working set.
//!
//! ```text
//! v1/POOL/anc/EPOCH/LSN-IMAGE.CLAIM.NUMBER.part    leaves of the index, at most 1,024
//! v1/POOL/anc/EPOCH/LSN-IMAGE.CLAIM.PARTS.anchor   the head: what it is, and which parts it has
//! ```
//!
//! **A head makes an anchor.** The parts are stored first, the head last. Parts without a head,
//! which a crash leaves, are never used. A deletion takes the head first.
//!
//! **What it belongs to.** Every object names the pool, the image, the position and the claim of
//! its owner; a head names the record that ended at the position, with its time and its session.
//! Only the log that has this record is the one of the anchor.
//!
//! **Nothing depends on an anchor.** It is made from the log, and what it says can be found in the
//! log. A damaged, missing or foreign one costs the time to read entries instead. So nothing in it
//! is trusted beyond what the checks here establish: positions at or before its own, leaves in
//! order, lengths within the format.
//!
//! **Layout of a part.** Leaves of 512 mappings, 64 to a Zstandard frame. A mapping is 8 bytes: a
//! position and half a checksum, which compress badly. So the bytes of a frame are in the order of
//! their significance: first the lowest byte of each mapping, then the next one. The high bytes are
//! then almost nothing, and the low ones are stored as they are, which is fast to read.

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod head;
mod name;
mod part;
mod planes;

#[cfg(test)]
mod tests;

pub use error::{AnchorDamage, AnchorError};
pub use head::{AnchorHead, AnchorPart, LastRecord};
pub use name::{AnchorId, AnchorName, anchor_prefix};
pub use part::Leaves;

/// The version of head and part.
pub const ANCHOR_VERSION: u32 = 1;
/// Blocks of a leaf.
pub const LEAF_BLOCKS: usize = 512;
/// The most leaves of a frame.
pub const FRAME_LEAVES: usize = 64;
/// The most leaves of a part.
pub const PART_LEAVES: usize = 1024;
/// The most parts of an anchor: enough for the largest volume.
pub const PARTS_MAX: u32 = 1 << 17;
