//! Records latencies of single commands, and summarises them.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The greatest latency that is distinguished; the least is 1 ns. Longer ones count as this long.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Significant decimal digits of a recorded latency.
const DIGITS: u8 = 3;

/// A recorder of latencies.
#[derive(Debug, Clone)]
pub struct Recorder {
    histogram: Histogram<u64>,
}

/// A summary of latencies, in microseconds; all 0 if nothing was recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many commands.
    pub count: u64,
    /// The mean.
    pub mean_us: f64,
    /// Half took no longer.
    pub p50_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// 999 of 1000 took no longer.
    pub p99_9_us: f64,
    /// 9999 of 10,000 took no longer.
    pub p99_99_us: f64,
    /// 99,999 of 100,000 took no longer.
    #[serde(default)]
    pub p99_999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// An empty recorder.
    ///
    /// # Panics
    /// Never: the bounds are constants that the histogram accepts.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("constant bounds");
        Recorder { histogram }
    }

    /// Records one latency.
    #[inline]
    pub fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record((latency.as_nanos() as u64).max(1));
    }

    /// Adds what another recorder recorded.
    ///
    /// # Panics
    /// Never: all recorders have the same bounds.
    pub fn add(&mut self, other: &Recorder) {
        self.histogram.add(&other.histogram).expect("the same bounds");
    }

    /// The histogram itself, in nanoseconds.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The summary.
    pub fn latency(&self) -> Latency {
        let histogram = &self.histogram;
        if histogram.is_empty() {
            return Latency::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Latency {
            count: histogram.len(),
            mean_us: histogram.mean() / 1000.0,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            p99_99_us: at(0.9999),
            p99_999_us: at(0.99999),
            max_us: histogram.max() as f64 / 1000.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_summed_up() {
        let mut recorder = Recorder::new();
        for micros in 1..=10_000 {
            recorder.record(Duration::from_micros(micros));
        }
        let latency = recorder.latency();
        assert_eq!(latency.count, 10_000);
        for (found, expected) in [
            (latency.mean_us, 5000.5),
            (latency.p50_us, 5000.0),
            (latency.p99_us, 9900.0),
            (latency.p99_9_us, 9990.0),
            (latency.p99_99_us, 9999.0),
            (latency.p99_999_us, 10_000.0),
            (latency.max_us, 10_000.0),
        ] {
            assert!((found / expected - 1.0).abs() < 0.002, "{found} {expected}");
        }
    }

    #[test]
    fn nothing_is_all_zero_and_extremes_are_kept() {
        let mut recorder = Recorder::new();
        assert_eq!(recorder.latency(), Latency::default());
        recorder.record(Duration::ZERO);
        recorder.record(Duration::from_secs(1000));
        assert_eq!(recorder.count(), 2);
        assert!(recorder.latency().max_us >= 59_000_000.0);
    }
}
