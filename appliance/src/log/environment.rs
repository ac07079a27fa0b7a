//! What the log, the volumes and the archive take from the world: time, randomness, memory. A simulator gives its own.

use std::rc::Rc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::dma::DmaPool;

/// Time.
pub trait Clock {
    /// Nanoseconds since the Unix epoch. It may step; the log clamps it so that times never fall along the log.
    fn wall_ns(&self) -> u64;

    /// Nanoseconds since a moment of the clock's own choice, for spans: it never falls, and steps as little as the clock can help.
    fn monotonic_ns(&self) -> u64;
}

/// Randomness for names.
pub trait Random {
    /// A new random UUID.
    fn uuid(&self) -> Uuid;
}

/// The world as a pool sees it.
#[derive(Clone)]
pub struct Environment {
    /// Memory for everything that goes to or comes from a device.
    pub dma: DmaPool,
    /// The clock.
    pub clock: Rc<dyn Clock>,
    /// Randomness.
    pub random: Rc<dyn Random>,
}

impl Environment {
    /// The real clock and the system's randomness.
    pub fn system(dma: DmaPool) -> Self {
        Environment {
            dma,
            clock: Rc::new(SystemClock { born: Instant::now() }),
            random: Rc::new(SystemRandom),
        }
    }
}

struct SystemClock {
    born: Instant,
}

impl Clock for SystemClock {
    fn wall_ns(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
    }

    fn monotonic_ns(&self) -> u64 {
        self.born.elapsed().as_nanos() as u64
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn uuid(&self) -> Uuid {
        Uuid::new_v4()
    }
}
