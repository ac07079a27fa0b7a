//! The canary proper: a thread that repeatedly sleeps 10 ms and records how much later it wakes.
//! Everything on this machine is late by this much, through no fault of the appliance.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::verdict::Times;

const NAP: Duration = Duration::from_millis(10);

/// Sleeps until `stop` is set.
pub(super) fn listen(stop: &AtomicBool) -> Times {
    let mut lateness = Times::default();
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        std::thread::sleep(NAP);
        lateness.record(begin.elapsed().saturating_sub(NAP));
    }
    lateness
}
