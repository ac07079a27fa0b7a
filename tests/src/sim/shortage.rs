//! A temporary shortage of memory: another user holds nearly all of it for a number of turns.

use std::cell::RefCell;

use varve::dma::{BLOCK_BYTES, DmaBufMut, DmaPool, MAX_ALLOCATION_BYTES};

/// The memory that is held, and for how long.
struct Shortage {
    dma: DmaPool,
    held: Vec<DmaBufMut>,
    turns_left: u64,
    /// Whether the remaining memory was used up.
    felt: bool,
}

thread_local! {
    static SHORTAGE: RefCell<Option<Shortage>> = const { RefCell::new(None) };
    /// Shortages so far, and those in which the remaining memory was used up.
    static COUNTS: RefCell<(u64, u64)> = const { RefCell::new((0, 0)) };
}

/// Takes all memory of a pool except `left_blocks` blocks, for `turns` turns. There is one shortage
/// at a time.
pub fn begin(dma: &DmaPool, left_blocks: usize, turns: u64) {
    end();
    let mut held = Vec::new();
    let mut len_bytes = MAX_ALLOCATION_BYTES;
    while len_bytes >= BLOCK_BYTES {
        match dma.allocate(len_bytes) {
            Ok(buffer) => held.push(buffer),
            Err(_) => len_bytes /= 2,
        }
    }
    // The last buffers are the smallest; if a larger one is freed, it is divided again.
    let mut freed = 0;
    while freed < left_blocks {
        let Some(buffer) = held.pop() else { break };
        freed += buffer.len() / BLOCK_BYTES;
    }
    let mut excess = freed.saturating_sub(left_blocks);
    while excess > 0 {
        let Ok(buffer) = dma.allocate(BLOCK_BYTES) else { break };
        held.push(buffer);
        excess -= 1;
    }
    COUNTS.with_borrow_mut(|counts| counts.0 += 1);
    SHORTAGE.set(Some(Shortage { dma: dma.clone(), held, turns_left: turns, felt: false }));
}

/// Counts a turn.
pub fn tick() {
    let is_over = SHORTAGE.with_borrow_mut(|shortage| {
        let Some(shortage) = shortage else { return false };
        shortage.turns_left = shortage.turns_left.saturating_sub(1);
        let stats = shortage.dma.stats();
        if !shortage.felt && stats.free_bytes < BLOCK_BYTES {
            shortage.felt = true;
            COUNTS.with_borrow_mut(|counts| counts.1 += 1);
        }
        shortage.turns_left == 0
    });
    if is_over {
        end();
    }
}

/// Frees all held memory.
pub fn end() {
    if let Some(shortage) = SHORTAGE.take() {
        drop(shortage.held);
    }
}

/// Shortages since the last call, and those in which the remaining memory was used up.
pub fn take_counts() -> (u64, u64) {
    COUNTS.replace((0, 0))
}
