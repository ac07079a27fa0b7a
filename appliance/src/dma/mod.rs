//! DMA memory: page-aligned, reference-counted, pooled buffers for every byte that a device or a socket touches.
//!
//! A [`DmaPool`] belongs to one reactor. It hands out [`DmaBufMut`]: a *unique* view of a part of one
//! allocation. A unique view can be cut into disjoint unique views ([`DmaBufMut::split_to`]), each of which may be
//! read into by its own device command, and frozen into a [`DmaBuf`]: a *shared*, immutable view that is cheap to
//! clone. The allocation goes back to its pool when the last view of it is dropped, so memory that a device still
//! uses can never be handed out twice: whoever has the command in flight holds the view.
//!
//! Sizes are classes of powers of two from one block to [`MAX_ALLOCATION_BYTES`]; the pool keeps what was freed and is bounded
//! by a budget in bytes, so that at the bound an allocation fails with [`DmaError::OutOfMemory`] instead of
//! growing. Memory is plain anonymous memory aligned to 4096 bytes, cut from a few arenas
//! that an engine may register with the kernel ([`Region`]); nothing here needs hugepages (R222).
//!
//! Nothing here is `Send`: buffers live and die on the reactor that made them. An engine that uses other threads passes raw addresses
//! to them and keeps the view until they are done.

mod arena;
mod buffer;
mod memory;
mod pool;
mod resident;

pub use arena::Region;
pub use buffer::{DmaBuf, DmaBufMut};
pub use memory::ARENA_BYTES;
pub use pool::{DmaPool, DmaStats};

/// The unit of alignment and of every size on disk, in bytes.
pub const BLOCK_BYTES: usize = 4096;

/// The largest single allocation, in bytes.
pub const MAX_ALLOCATION_BYTES: usize = 4 << 20;

/// Why a buffer could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DmaError {
    /// The pool's budget is in use; try again when a buffer was given back.
    #[error(
        "DMA memory is used up: {in_use_bytes} of {budget_bytes} bytes in use, {wanted_bytes} more wanted"
    )]
    OutOfMemory {
        /// Bytes that were asked for, rounded up to a size class.
        wanted_bytes: usize,
        /// Bytes handed out at that moment.
        in_use_bytes: usize,
        /// The bound.
        budget_bytes: usize,
    },
    /// No size class is that large.
    #[error("a DMA buffer of {wanted_bytes} bytes was asked for, the largest is {MAX_ALLOCATION_BYTES}")]
    TooLarge {
        /// Bytes that were asked for.
        wanted_bytes: usize,
    },
}
