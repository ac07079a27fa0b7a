//! The pool: hands out buffers within its budget. `memory` manages its memory.

use std::rc::Rc;

use super::buffer::Allocation;
use super::memory::{PoolMemory, bytes_of, class_of};
use super::{DmaBufMut, DmaError, MAX_ALLOCATION_BYTES};

/// A pool of DMA memory, shared by reference within one reactor.
#[derive(Clone)]
pub struct DmaPool {
    shared: Rc<PoolMemory>,
}

/// What the pool holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaStats {
    /// Bytes handed out now.
    pub in_use_bytes: usize,
    /// Bytes kept for reuse.
    pub free_bytes: usize,
    /// The limit on bytes in use and free together.
    pub budget_bytes: usize,
}

impl DmaPool {
    /// Makes an empty pool that will never hold more than `budget_bytes`.
    pub fn new(budget_bytes: usize) -> Self {
        DmaPool { shared: PoolMemory::new(budget_bytes) }
    }

    /// Hands out `len_bytes` bytes, aligned to a block. The memory is initialised: new memory is
    /// zero, and reused memory keeps its previous contents.
    ///
    /// # Errors
    /// [`DmaError::OutOfMemory`] at the budget, [`DmaError::TooLarge`] beyond
    /// [`MAX_ALLOCATION_BYTES`].
    pub fn allocate(&self, len_bytes: usize) -> Result<DmaBufMut, DmaError> {
        if len_bytes > MAX_ALLOCATION_BYTES {
            return Err(DmaError::TooLarge { wanted_bytes: len_bytes });
        }
        let class = class_of(len_bytes);
        let Some((chunk, arena)) = self.shared.take(class) else {
            return Err(DmaError::OutOfMemory {
                wanted_bytes: bytes_of(class),
                in_use_bytes: self.shared.in_use_bytes(),
                budget_bytes: self.shared.budget_bytes(),
            });
        };
        let allocation = Allocation::new(chunk, bytes_of(class), arena, Rc::downgrade(&self.shared));
        Ok(DmaBufMut::whole(allocation, len_bytes))
    }

    /// Bytes of the budget that a buffer of `len_bytes` uses: its size class.
    pub fn allocation_bytes(len_bytes: usize) -> usize {
        bytes_of(class_of(len_bytes))
    }

    /// Whether both are the same pool.
    pub fn is(&self, other: &DmaPool) -> bool {
        Rc::ptr_eq(&self.shared, &other.shared)
    }

    /// What the pool holds now.
    pub fn stats(&self) -> DmaStats {
        let in_use_bytes = self.shared.in_use_bytes();
        DmaStats {
            in_use_bytes,
            free_bytes: self.shared.arena_bytes() - in_use_bytes,
            budget_bytes: self.shared.budget_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::BLOCK_BYTES;
    use super::super::memory::ARENA_BYTES;
    use super::*;

    #[test]
    fn freed_memory_is_reused_and_the_budget_holds() {
        let pool = DmaPool::new(4 * BLOCK_BYTES);
        let first = pool.allocate(BLOCK_BYTES).expect("within the budget");
        let address = first.as_ptr();
        drop(first);
        let again = pool.allocate(10).expect("within the budget");
        assert_eq!(again.as_ptr(), address);
        assert_eq!(again.len(), 10);
        let large = pool.allocate(2 * BLOCK_BYTES).expect("within the budget");
        let refused = pool.allocate(2 * BLOCK_BYTES).expect_err("over the budget");
        assert!(
            matches!(refused, DmaError::OutOfMemory { in_use_bytes, .. } if in_use_bytes == 3 * BLOCK_BYTES)
        );
        drop((again, large));
        assert_eq!(pool.stats().in_use_bytes, 0);
        // Free memory of other classes is joined to make room.
        assert!(pool.allocate(4 * BLOCK_BYTES).is_ok());
        assert!(matches!(pool.allocate(MAX_ALLOCATION_BYTES + 1), Err(DmaError::TooLarge { .. })));
    }

    #[test]
    fn buffers_may_outlive_their_pool() {
        let pool = DmaPool::new(1 << 20);
        let mut buffer = pool.allocate(BLOCK_BYTES).expect("within the budget");
        drop(pool);
        buffer.as_mut_slice().fill(7);
        let shared = buffer.freeze();
        assert!(shared.iter().all(|&byte| byte == 7));
    }

    /// For every order of allocations and frees: buffers are disjoint, lie in their region, and at
    /// the end all memory can be allocated again in whole arenas.
    #[test]
    fn any_mixture_of_sizes_is_disjoint_and_joins_again() {
        let pool = DmaPool::new(3 * ARENA_BYTES + 5 * BLOCK_BYTES);
        let mut random = 0x1234_5678_u64;
        let mut held: Vec<DmaBufMut> = Vec::new();
        for step in 0..4000_u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let roll = (random >> 33) as usize;
            if roll.is_multiple_of(3) && !held.is_empty() {
                held.swap_remove(roll / 3 % held.len());
            } else if let Ok(mut buffer) = pool.allocate(BLOCK_BYTES << (roll % 9)) {
                assert!(buffer.region().holds(buffer.as_ptr(), buffer.len()));
                let stamp = step.to_le_bytes();
                let len = buffer.len();
                buffer.as_mut_slice()[..4].copy_from_slice(&stamp);
                buffer.as_mut_slice()[len - 4..].copy_from_slice(&stamp);
                held.push(buffer);
            }
        }
        for buffer in &held {
            assert_eq!(
                buffer.as_slice()[..4],
                buffer.as_slice()[buffer.len() - 4..],
                "nobody else wrote there"
            );
        }
        held.clear();
        let whole: Vec<_> = (0..3).map(|_| pool.allocate(ARENA_BYTES)).collect();
        assert!(whole.iter().all(Result::is_ok), "{:?}", pool.stats());
    }
}
