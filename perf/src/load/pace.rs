//! The beat of an open load: when each command is meant to start, whatever became of those before it.
//!
//! Latency counts from that moment. A command that had to wait because the appliance stalled has waited, and its histogram says so:
//! this is what a closed load omits.

use std::time::Duration;

/// The meant starts of one thread's commands, since the start of the load.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    period_s: f64,
    /// Where in the first period this thread begins.
    phase_s: f64,
    taken: u64,
}

impl Pace {
    /// Thread `index` of `count`, all of which together start `rate` commands a second, evenly.
    pub(super) fn new(rate: f64, index: usize, count: usize) -> Self {
        Pace { period_s: count as f64 / rate, phase_s: index as f64 / rate, taken: 0 }
    }

    /// When the next command is meant to start.
    pub(super) fn due(&self) -> Duration {
        // From the count, not step by step: no rounding adds up.
        Duration::from_secs_f64(self.phase_s + self.period_s * self.taken as f64)
    }

    /// The next command is started.
    pub(super) fn take(&mut self) {
        self.taken += 1;
    }

    /// How many commands are meant to start before `end` and were not taken.
    pub(super) fn untaken(&self, end: Duration) -> u64 {
        let meant = ((end.as_secs_f64() - self.phase_s) / self.period_s).ceil().max(0.0) as u64;
        meant.saturating_sub(self.taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_the_beat_evenly() {
        let mut paces = [Pace::new(100.0, 0, 2), Pace::new(100.0, 1, 2)];
        let mut due = Vec::new();
        for _ in 0..3 {
            for pace in &mut paces {
                due.push(pace.due().as_millis());
                pace.take();
            }
        }
        assert_eq!(due, [0, 10, 20, 30, 40, 50]);
        assert_eq!(paces[0].untaken(Duration::from_millis(60)), 0);
        assert_eq!(paces[0].untaken(Duration::from_millis(61)), 1);
        assert_eq!(paces[1].untaken(Duration::from_secs(1)), 47);
    }
}
