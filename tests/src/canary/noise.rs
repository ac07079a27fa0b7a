//! The canary proper: a thread that sleeps 10 ms again and again, and notes how much later it
//! wakes. So late is everybody on this machine, through no fault of the appliance.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::verdict::Times;

const NAP: Duration = Duration::from_millis(10);

/// Sleeps until it is told to stop.
pub(super) fn listen(stop: &AtomicBool) -> Times {
    let mut lateness = Times::default();
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        std::thread::sleep(NAP);
        lateness.record(begin.elapsed().saturating_sub(NAP));
    }
    lateness
}
