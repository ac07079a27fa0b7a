//! Waiting in tasks: for time to pass, and for memory.
//!
//! **Bounds.** A wait for memory ends after ten seconds at most. If a clock does not move, as a
//! simulator's may not, every pause ends after [`STANDING_READS`] readings.

use super::clock::Clock;
use crate::dma::{DmaBufMut, DmaError, DmaPool};
use crate::reactor::yield_now;

/// How long a task waits for memory, and how often it tries, in ns.
const MEMORY_NS: u64 = 10_000_000_000;
const MEMORY_PAUSE_NS: u64 = 100_000;
/// This many equal readings in a row mean that a clock does not move.
const STANDING_READS: u32 = 100;

/// Waits for memory: commands that end free buffers. For tasks; a command of a host is refused
/// instead.
///
/// # Errors
/// No memory within ten seconds, or more bytes than a buffer can have.
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

/// Lets the reactor run other tasks for this time.
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
