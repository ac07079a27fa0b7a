//! The pace of an open load: when each command is meant to start, independently of the commands
//! before it.
//!
//! Latency counts from that moment. If a command had to wait because the appliance stalled, its
//! latency includes the wait; a closed load omits this.

use std::time::Duration;

/// The intended start times of one thread's commands, since the start of the load.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    period_s: f64,
    /// When this thread begins within the first period.
    phase_s: f64,
    taken: u64,
}

impl Pace {
    /// Thread `index` of `count`; together the threads start `rate` commands per second, evenly.
    pub(super) fn new(rate: f64, index: usize, count: usize) -> Self {
        Pace { period_s: count as f64 / rate, phase_s: index as f64 / rate, taken: 0 }
    }

    /// When the next command is meant to start.
    pub(super) fn due(&self) -> Duration {
        // Computed from the count, not incrementally, so that rounding errors do not add up.
        Duration::from_secs_f64(self.phase_s + self.period_s * self.taken as f64)
    }

    /// Notes that the next command was started.
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
