//! Waiting, for tasks: for time to pass, and for memory.
//!
//! **Bounds.** Memory is waited for ten seconds at most. A clock that does not move, as a
//! simulator's may, ends every pause after [`STANDING_READS`] readings.

use super::clock::Clock;
use crate::dma::{DmaBufMut, DmaError, DmaPool};
use crate::reactor::yield_now;

/// For how long memory is waited for, in ns, and how often it is asked for.
const MEMORY_NS: u64 = 10_000_000_000;
const MEMORY_PAUSE_NS: u64 = 100_000;
/// So many equal readings in a row mean that a clock does not move.
const STANDING_READS: u32 = 100;

/// Memory, waited for: buffers come back as commands end. For tasks; a command of a host is refused
/// instead.
///
/// # Errors
/// None came within ten seconds, or it is more than a buffer can have.
pub(super) async fn wait_for_memory(
    dma: &DmaPool,
    clock: &dyn Clock,
    len_bytes: usize,
) -> Result<DmaBufMut, DmaError> {
    let mut waited_ns = 0;
    loop {
        match dma.allocate(len_bytes) {
            Err(DmaError::OutOfMemory { .. }) if waited_ns < MEMORY_NS => {
                pause(clock, MEMORY_PAUSE_NS).await;
                waited_ns += MEMORY_PAUSE_NS;
            }
            allocated => return allocated,
        }
    }
}

/// Lets the reactor turn for so long.
pub(super) async fn pause(clock: &dyn Clock, pause_ns: u64) {
    let mut now_ns = clock.monotonic_ns();
    let until_ns = now_ns.saturating_add(pause_ns);
    let mut stands = 0;
    while now_ns < until_ns && stands < STANDING_READS {
        yield_now().await;
        let before_ns = std::mem::replace(&mut now_ns, clock.monotonic_ns());
        stands = if now_ns == before_ns { stands + 1 } else { 0 };
    }
}
