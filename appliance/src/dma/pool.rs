//! The pool: arenas, size classes, free lists, and the budget.
//!
//! Buffers are powers of two of blocks, cut from arenas of [`ARENA_BYTES`] by halving. A freed buffer goes to the list of its class and is not
//! joined with its neighbour at once: the same sizes come again and again, so the fast path is one pop and one push. Only when nothing fits and the
//! budget allows no further arena are neighbours joined, all at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::rc::{Rc, Weak};

use super::arena::Arena;
use super::buffer::Allocation;
use super::{BLOCK_BYTES, DmaBufMut, DmaError, MAX_ALLOCATION_BYTES};

/// How many size classes there are: powers of two from one block to [`MAX_ALLOCATION_BYTES`].
const CLASSES: usize = (MAX_ALLOCATION_BYTES / BLOCK_BYTES).ilog2() as usize + 1;
/// The size of an arena, unless the rest of the budget is smaller.
pub const ARENA_BYTES: usize = MAX_ALLOCATION_BYTES;

/// A pool of DMA memory, shared by reference within one reactor.
#[derive(Clone)]
pub struct DmaPool {
    shared: Rc<PoolShared>,
}

/// What the pool holds, in bytes and buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaStats {
    /// Bytes handed out now.
    pub in_use_bytes: usize,
    /// Bytes kept for reuse.
    pub free_bytes: usize,
    /// The bound on bytes in use and free together.
    pub budget_bytes: usize,
}

pub(super) struct PoolShared {
    budget_bytes: usize,
    state: RefCell<PoolState>,
}

/// A piece of an arena: a power of two of blocks, aligned to its size within the arena.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub(super) memory: NonNull<u8>,
    arena: u32,
}

struct PoolState {
    arenas: Vec<Rc<Arena>>,
    arena_bytes: usize,
    free: [Vec<Chunk>; CLASSES],
    in_use_bytes: usize,
}

impl DmaPool {
    /// Makes an empty pool that will never hold more than `budget_bytes`.
    pub fn new(budget_bytes: usize) -> Self {
        let state = PoolState {
            arenas: Vec::new(),
            arena_bytes: 0,
            free: std::array::from_fn(|_| Vec::new()),
            in_use_bytes: 0,
        };
        DmaPool { shared: Rc::new(PoolShared { budget_bytes, state: RefCell::new(state) }) }
    }

    /// Hands out `len_bytes` bytes, aligned to a block. The contents are whatever was there before; the memory is
    /// initialised (zero at birth).
    ///
    /// # Errors
    /// [`DmaError::OutOfMemory`] at the budget, [`DmaError::TooLarge`] beyond [`MAX_ALLOCATION_BYTES`].
    pub fn allocate(&self, len_bytes: usize) -> Result<DmaBufMut, DmaError> {
        if len_bytes > MAX_ALLOCATION_BYTES {
            return Err(DmaError::TooLarge { wanted_bytes: len_bytes });
        }
        let class = class_of(len_bytes);
        let mut state = self.shared.state.borrow_mut();
        let Some(chunk) = state.take(class, self.shared.budget_bytes) else {
            return Err(DmaError::OutOfMemory {
                wanted_bytes: bytes_of(class),
                in_use_bytes: state.in_use_bytes,
                budget_bytes: self.shared.budget_bytes,
            });
        };
        state.in_use_bytes += bytes_of(class);
        let arena = Rc::clone(&state.arenas[chunk.arena as usize]);
        drop(state);
        let allocation = Allocation::new(chunk, bytes_of(class), arena, Rc::downgrade(&self.shared));
        Ok(DmaBufMut::whole(allocation, len_bytes))
    }

    /// What a buffer of `len_bytes` takes of the budget: its size class.
    pub fn allocation_bytes(len_bytes: usize) -> usize {
        bytes_of(class_of(len_bytes))
    }

    /// Whether both are the same pool.
    pub fn is(&self, other: &DmaPool) -> bool {
        Rc::ptr_eq(&self.shared, &other.shared)
    }

    /// What the pool holds now.
    pub fn stats(&self) -> DmaStats {
        let state = self.shared.state.borrow();
        DmaStats {
            in_use_bytes: state.in_use_bytes,
            free_bytes: state.arena_bytes - state.in_use_bytes,
            budget_bytes: self.shared.budget_bytes,
        }
    }
}

impl PoolState {
    fn take(&mut self, class: usize, budget_bytes: usize) -> Option<Chunk> {
        if let Some(chunk) = self.free[class].pop() {
            return Some(chunk);
        }
        if let Some(chunk) = self.split(class) {
            return Some(chunk);
        }
        if !self.grow(class, budget_bytes) {
            self.join_neighbours();
        }
        self.split(class)
    }

    /// Takes the smallest chunk that is large enough, and frees the halves that are not needed.
    fn split(&mut self, class: usize) -> Option<Chunk> {
        let from = (class..CLASSES).find(|&larger| !self.free[larger].is_empty())?;
        let chunk = self.free[from].pop()?;
        for half in (class..from).rev() {
            // SAFETY: the chunk is of class `half + 1` or greater here, so its second half lies in the same arena.
            let memory = unsafe { chunk.memory.add(bytes_of(half)) };
            self.free[half].push(Chunk { memory, ..chunk });
        }
        Some(chunk)
    }

    /// Maps another arena that holds at least one chunk of `class`, within the budget.
    fn grow(&mut self, class: usize, budget_bytes: usize) -> bool {
        let left = budget_bytes.saturating_sub(self.arena_bytes).min(ARENA_BYTES);
        if left < bytes_of(class) {
            return false;
        }
        // A power of two of blocks, as every chunk is.
        let arena_class = (left / BLOCK_BYTES).ilog2() as usize;
        let Some(arena) = Arena::map(bytes_of(arena_class)) else { return false };
        self.free[arena_class].push(Chunk { memory: arena.base(), arena: self.arenas.len() as u32 });
        self.arena_bytes += arena.len_bytes();
        self.arenas.push(arena);
        true
    }

    /// Joins every two free halves of one chunk, from the smallest class up.
    fn join_neighbours(&mut self) {
        for class in 0..CLASSES - 1 {
            let size = bytes_of(class);
            let mut by_address: BTreeMap<usize, Chunk> =
                self.free[class].drain(..).map(|chunk| (chunk.memory.as_ptr() as usize, chunk)).collect();
            while let Some((address, chunk)) = by_address.pop_first() {
                let offset = address - self.arenas[chunk.arena as usize].base().as_ptr() as usize;
                let is_first_half = (offset / size).is_multiple_of(2);
                let other = is_first_half.then(|| by_address.remove(&(address + size))).flatten();
                match other {
                    Some(second) if second.arena == chunk.arena => self.free[class + 1].push(chunk),
                    Some(second) => {
                        by_address.insert(address + size, second);
                        self.free[class].push(chunk);
                    }
                    None => self.free[class].push(chunk),
                }
            }
        }
    }
}

/// Gives memory back to its pool, if that lives; the arena goes with its last buffer otherwise.
pub(super) fn give_back(pool: &Weak<PoolShared>, chunk: Chunk, len_bytes: usize) {
    if let Some(shared) = pool.upgrade() {
        let mut state = shared.state.borrow_mut();
        state.in_use_bytes -= len_bytes;
        state.free[class_of(len_bytes)].push(chunk);
    }
}

fn class_of(len_bytes: usize) -> usize {
    len_bytes.max(1).div_ceil(BLOCK_BYTES).next_power_of_two().ilog2() as usize
}

fn bytes_of(class: usize) -> usize {
    BLOCK_BYTES << class
}

#[cfg(test)]
mod tests {
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

    /// Whatever is allocated and freed, in whatever order: buffers are disjoint, lie in their region, and everything can be had again as a whole.
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
