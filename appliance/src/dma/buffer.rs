//! Views of DMA memory: unique views to fill, shared views to read.

use std::ops::Deref;
use std::rc::{Rc, Weak};

use super::arena::{Arena, Region};
use super::memory::{Chunk, PoolMemory};

/// One allocation. It returns to its pool when the last view is dropped.
pub(super) struct Allocation {
    chunk: Chunk,
    len_bytes: usize,
    /// Keeps the memory mapped, even after the pool is dropped.
    arena: Rc<Arena>,
    pool: Weak<PoolMemory>,
}

impl Allocation {
    pub(super) fn new(chunk: Chunk, len_bytes: usize, arena: Rc<Arena>, pool: Weak<PoolMemory>) -> Rc<Self> {
        Rc::new(Allocation { chunk, len_bytes, arena, pool })
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        PoolMemory::give_back(&self.pool, self.chunk, self.len_bytes);
    }
}

/// A unique view of a range of an allocation: no other view, shared or unique, covers any of its
/// bytes.
pub struct DmaBufMut {
    allocation: Rc<Allocation>,
    start: usize,
    len: usize,
}

/// A shared, immutable view of a range of an allocation.
#[derive(Clone)]
pub struct DmaBuf {
    allocation: Rc<Allocation>,
    start: usize,
    len: usize,
}

impl DmaBufMut {
    pub(super) fn whole(allocation: Rc<Allocation>, len: usize) -> Self {
        debug_assert!(len <= allocation.len_bytes);
        DmaBufMut { allocation, start: 0, len }
    }

    /// Bytes in the view.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the view has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first byte, for a device or a system call.
    pub fn as_ptr(&self) -> *const u8 {
        // SAFETY: `start` lies within the allocation, by construction of every view.
        unsafe { self.allocation.chunk.memory.as_ptr().add(self.start) }
    }

    /// The address of the first byte, for a device or a system call that writes at most
    /// [`len`](Self::len) bytes there.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.as_ptr().cast_mut()
    }

    /// The arena that contains the view.
    pub fn region(&self) -> Region {
        Region(Rc::clone(&self.allocation.arena))
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the range lies within the allocation, which is initialised and alive. The view is
        // unique, so no other view changes the range while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }

    /// The bytes, to fill.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as for `as_slice`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) }
    }

    /// Cuts off the first `at` bytes as a view of their own. `self` keeps the rest.
    ///
    /// # Panics
    /// When `at` is beyond the end.
    #[must_use]
    pub fn split_to(&mut self, at: usize) -> DmaBufMut {
        assert!(at <= self.len, "split at {at} of a view of {} bytes", self.len);
        let front = DmaBufMut { allocation: Rc::clone(&self.allocation), start: self.start, len: at };
        self.start += at;
        self.len -= at;
        front
    }

    /// Joins a view that starts right after the end of this one in the same allocation. Returns any
    /// other view.
    ///
    /// # Errors
    /// The other view, when the two are not neighbours.
    pub fn try_join(&mut self, other: DmaBufMut) -> Result<(), DmaBufMut> {
        if Rc::ptr_eq(&self.allocation, &other.allocation) && self.start + self.len == other.start {
            self.len += other.len;
            Ok(())
        } else {
            Err(other)
        }
    }

    /// Makes the view shared and immutable.
    pub fn freeze(self) -> DmaBuf {
        DmaBuf { allocation: self.allocation, start: self.start, len: self.len }
    }
}

impl DmaBuf {
    /// Bytes that the view keeps from being reused: the whole allocation.
    pub fn pinned_bytes(&self) -> usize {
        self.allocation.len_bytes
    }

    /// The arena that contains the view.
    pub fn region(&self) -> Region {
        Region(Rc::clone(&self.allocation.arena))
    }

    /// A shared view of `len` bytes from `start` of this one.
    ///
    /// # Panics
    /// When the range is not inside this view.
    #[must_use]
    pub fn slice(&self, start: usize, len: usize) -> DmaBuf {
        assert!(
            start <= self.len && len <= self.len - start,
            "slice {start}+{len} of a view of {} bytes",
            self.len
        );
        DmaBuf { allocation: Rc::clone(&self.allocation), start: self.start + start, len }
    }

    /// Joins a view that starts right after the end of this one in the same allocation. Returns any
    /// other view.
    ///
    /// # Errors
    /// The other view, when the two are not neighbours.
    pub fn try_join(&mut self, other: DmaBuf) -> Result<(), DmaBuf> {
        if Rc::ptr_eq(&self.allocation, &other.allocation) && self.start + self.len == other.start {
            self.len += other.len;
            Ok(())
        } else {
            Err(other)
        }
    }
}

impl Deref for DmaBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies within the allocation, which is initialised and alive. A frozen
        // range is not written while a view of it exists.
        unsafe { std::slice::from_raw_parts(self.allocation.chunk.memory.as_ptr().add(self.start), self.len) }
    }
}

impl std::fmt::Debug for DmaBufMut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DmaBufMut({} bytes)", self.len)
    }
}

impl std::fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DmaBuf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BLOCK_BYTES, DmaPool};

    #[test]
    fn views_are_disjoint_and_join_again() {
        let pool = DmaPool::new(1 << 20);
        let mut rest = pool.allocate(4 * BLOCK_BYTES).expect("within the budget");
        let mut first = rest.split_to(BLOCK_BYTES);
        let mut second = rest.split_to(BLOCK_BYTES);
        first.as_mut_slice().fill(1);
        second.as_mut_slice().fill(2);
        rest.as_mut_slice().fill(3);
        let mut shared = first.freeze();
        let not_a_neighbour = shared.try_join(rest.freeze()).expect_err("the second block lies between");
        shared.try_join(second.freeze()).expect("neighbours");
        shared.try_join(not_a_neighbour).expect("neighbours now");
        assert_eq!(shared.len(), 4 * BLOCK_BYTES);
        assert_eq!(shared[BLOCK_BYTES - 1], 1);
        assert_eq!(shared[BLOCK_BYTES], 2);
        assert_eq!(shared.slice(2 * BLOCK_BYTES, 1)[0], 3);
        drop(shared);
        assert_eq!(pool.stats().in_use_bytes, 0);
    }
}
