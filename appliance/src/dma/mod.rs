//! DMA memory: pooled, page-aligned, reference-counted buffers for every byte that a device or a
//! socket reads or writes.
//!
//! A [`DmaPool`] belongs to one reactor. It hands out [`DmaBufMut`]: a *unique* view of a part of
//! one allocation. A unique view can be cut into disjoint unique views ([`DmaBufMut::split_to`]),
//! each of which may be the target of its own device command. It can be frozen into a [`DmaBuf`]: a
//! *shared*, immutable view that is cheap to clone. The allocation returns to its pool when its
//! last view is dropped. The owner of a command in flight holds the view, so memory that a device
//! still uses is never handed out again.
//!
//! Size classes are powers of two from one block to [`MAX_ALLOCATION_BYTES`]. The pool keeps freed
//! memory and has a budget in bytes. At the budget an allocation fails with
//! [`DmaError::OutOfMemory`] instead of growing the pool. Memory is plain anonymous memory aligned
//! to 4096 bytes, cut from a few arenas that an engine may register with the kernel ([`Region`]).
//! Nothing here needs hugepages (R222).
//!
//! Nothing here is `Send`: a buffer is created and dropped on the same reactor. An engine that uses
//! other threads passes raw addresses to them and keeps the view until they are done.

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

/// Why a buffer could not be allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DmaError {
    /// The pool's budget is in use. Try again after a buffer is returned.
    #[error(
        "DMA memory is used up: {in_use_bytes} of {budget_bytes} bytes in use, {wanted_bytes} more wanted"
    )]
    OutOfMemory {
        /// Bytes that were requested, rounded up to a size class.
        wanted_bytes: usize,
        /// Bytes in use at that moment.
        in_use_bytes: usize,
        /// The budget.
        budget_bytes: usize,
    },
    /// No size class is that large.
    #[error("a DMA buffer of {wanted_bytes} bytes was asked for, the largest is {MAX_ALLOCATION_BYTES}")]
    TooLarge {
        /// Bytes that were requested.
        wanted_bytes: usize,
    },
}
