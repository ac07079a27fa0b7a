//! The memory of a pool: arenas, size classes, free lists and the budget.
//!
//! The size of a buffer is a power of two blocks. The pool cuts buffers from arenas of
//! [`ARENA_BYTES`] by halving. A freed buffer goes to the free list of its class and is not joined
//! with its neighbour immediately: the same sizes recur, so the fast path is one pop and one push.
//! Only when nothing fits and the budget allows no further arena does the pool join neighbours, all
//! in one pass.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::rc::{Rc, Weak};

use super::arena::Arena;
use super::{BLOCK_BYTES, MAX_ALLOCATION_BYTES};

/// The number of size classes: powers of two from one block to [`MAX_ALLOCATION_BYTES`].
const CLASSES: usize = (MAX_ALLOCATION_BYTES / BLOCK_BYTES).ilog2() as usize + 1;
/// The size of an arena, unless less than that is left of the budget.
pub const ARENA_BYTES: usize = MAX_ALLOCATION_BYTES;

/// The memory of one pool. Its buffers can reach it for as long as it exists.
pub(super) struct PoolMemory {
    budget_bytes: usize,
    state: RefCell<PoolState>,
}

/// A piece of an arena: a power of two blocks, aligned to its size within the arena.
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

impl PoolMemory {
    pub(super) fn new(budget_bytes: usize) -> Rc<Self> {
        let state = PoolState {
            arenas: Vec::new(),
            arena_bytes: 0,
            free: std::array::from_fn(|_| Vec::new()),
            in_use_bytes: 0,
        };
        Rc::new(PoolMemory { budget_bytes, state: RefCell::new(state) })
    }

    /// A chunk of a class, and its arena. `None` when the budget is used up.
    pub(super) fn take(&self, class: usize) -> Option<(Chunk, Rc<Arena>)> {
        let mut state = self.state.borrow_mut();
        let chunk = state.take(class, self.budget_bytes)?;
        state.in_use_bytes += bytes_of(class);
        let arena = Rc::clone(&state.arenas[chunk.arena as usize]);
        Some((chunk, arena))
    }

    pub(super) fn in_use_bytes(&self) -> usize {
        self.state.borrow().in_use_bytes
    }

    pub(super) fn arena_bytes(&self) -> usize {
        self.state.borrow().arena_bytes
    }

    pub(super) fn budget_bytes(&self) -> usize {
        self.budget_bytes
    }

    /// Returns memory to its pool, if the pool still exists. Otherwise the arena is unmapped with
    /// its last buffer.
    pub(super) fn give_back(pool: &Weak<Self>, chunk: Chunk, len_bytes: usize) {
        if let Some(memory) = pool.upgrade() {
            let mut state = memory.state.borrow_mut();
            state.in_use_bytes -= len_bytes;
            state.free[class_of(len_bytes)].push(chunk);
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
            // SAFETY: the chunk is of class `half + 1` or larger here, so its second half lies in
            // the same arena.
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
        // A power of two blocks, like every chunk.
        let arena_class = (left / BLOCK_BYTES).ilog2() as usize;
        let Some(arena) = Arena::map(bytes_of(arena_class)) else { return false };
        self.free[arena_class].push(Chunk { memory: arena.base(), arena: self.arenas.len() as u32 });
        self.arena_bytes += arena.len_bytes();
        self.arenas.push(arena);
        true
    }

    /// Joins each pair of free halves of the same chunk, from the smallest class up.
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

/// The smallest class that holds `len_bytes` bytes.
pub(super) fn class_of(len_bytes: usize) -> usize {
    len_bytes.max(1).div_ceil(BLOCK_BYTES).next_power_of_two().ilog2() as usize
}

/// Bytes of a buffer of a class.
pub(super) fn bytes_of(class: usize) -> usize {
    BLOCK_BYTES << class
}
