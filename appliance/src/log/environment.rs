//! The time, randomness and memory that the log, the volumes and the archive use. A simulator
//! provides its own.

use std::rc::Rc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

use super::clock::{Clock, ClockBounds};
use super::wait::wait_for_memory;
use crate::dma::{DmaBufMut, DmaError, DmaPool, DmaStats};

/// Randomness for names.
pub trait Random {
    /// A new random UUID.
    fn uuid(&self) -> Uuid;
}

/// The environment of a pool.
#[derive(Clone)]
pub struct Environment {
    /// Memory for transfers to and from a device by the log, the cleaner, recovery and the archive.
    /// Hosts' reads never use it.
    pub dma: DmaPool,
    /// Memory for data read for hosts. A slow host may hold it for as long as it needs.
    pub host_dma: DmaPool,
    /// Memory for read-ahead. When it is used up, nothing is read ahead.
    pub ahead_dma: DmaPool,
    /// The clock.
    pub clock: Rc<dyn Clock>,
    /// Randomness.
    pub random: Rc<dyn Random>,
}

impl Environment {
    /// Waits for a buffer: for tasks that must not fail because others hold memory for some
    /// seconds.
    ///
    /// # Errors
    /// No memory within ten seconds, or more bytes than a buffer can have.
    pub async fn wait_for_memory(&self, len_bytes: usize) -> Result<DmaBufMut, DmaError> {
        wait_for_memory(&self.dma, &*self.clock, len_bytes).await
    }

    /// The statistics of all of its pools together.
    pub fn dma_stats(&self) -> DmaStats {
        let mut sum = self.dma.stats();
        let pools = [&self.host_dma, &self.ahead_dma];
        for stats in pools.into_iter().filter(|pool| !pool.is(&self.dma)).map(DmaPool::stats) {
            sum.in_use_bytes += stats.in_use_bytes;
            sum.free_bytes += stats.free_bytes;
            sum.budget_bytes += stats.budget_bytes;
        }
        sum
    }

    /// Gives hosts' reads and read-ahead memory pools of their own.
    #[must_use]
    pub fn with_host_memory(self, host_dma: DmaPool, ahead_dma: DmaPool) -> Self {
        Environment { host_dma, ahead_dma, ..self }
    }

    /// The real clock and the system's randomness; hosts' reads use the same memory pool.
    pub fn system(dma: DmaPool) -> Self {
        Environment::system_with(dma, ClockBounds::default())
    }

    /// The same, with bounds on how far the time of day is trusted.
    pub fn system_with(dma: DmaPool, bounds: ClockBounds) -> Self {
        let (host_dma, ahead_dma) = (dma.clone(), dma.clone());
        Environment {
            dma,
            host_dma,
            ahead_dma,
            clock: Rc::new(SystemClock { born: Instant::now(), bounds }),
            random: Rc::new(SystemRandom),
        }
    }
}

/// The machine's time of day, ns since the Unix epoch.
pub(crate) fn system_now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

struct SystemClock {
    born: Instant,
    bounds: ClockBounds,
}

impl Clock for SystemClock {
    fn wall_ns(&self) -> u64 {
        system_now_ns()
    }

    fn monotonic_ns(&self) -> u64 {
        self.born.elapsed().as_nanos() as u64
    }

    fn elapsed_ns(&self) -> u64 {
        let now = clock_gettime(ClockId::Boottime);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }

    fn bounds(&self) -> ClockBounds {
        self.bounds
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn uuid(&self) -> Uuid {
        Uuid::new_v4()
    }
}
