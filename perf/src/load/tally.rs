//! Counts a load: latencies of each kind of command, per interval and in total.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::aim::Kind;
use crate::latency::Recorder;

/// Latencies of each kind of command.
#[derive(Debug, Clone, Default)]
pub struct Recorders([Recorder; 3]);

impl Recorders {
    /// Records one latency.
    #[inline]
    pub(super) fn record(&mut self, kind: Kind, latency: Duration) {
        self.0[kind as usize].record(latency);
    }

    /// Those of one kind.
    pub fn of(&self, kind: Kind) -> &Recorder {
        &self.0[kind as usize]
    }

    /// Those of all kinds.
    pub fn all(&self) -> Recorder {
        let mut all = Recorder::new();
        for one in &self.0 {
            all.add(one);
        }
        all
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.0.iter().map(Recorder::count).sum()
    }

    fn add(&mut self, other: &Recorders) {
        for (into, from) in self.0.iter_mut().zip(&other.0) {
            into.add(from);
        }
    }
}

/// What one thread, or all of them, counted in one interval.
#[derive(Debug, Clone, Default)]
pub struct Interval {
    /// Its number.
    pub index: u64,
    /// When it began, since the start of the load.
    pub start: Duration,
    /// When it ended.
    pub end: Duration,
    /// Latencies of the commands that completed in it.
    pub recorders: Recorders,
    /// Commands that failed in it.
    pub failures: u64,
}

/// An interval in a result.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// When it began, since the start of the load.
    pub start_s: f64,
    /// How long it was.
    pub seconds: f64,
    /// Commands per second.
    pub iops: f64,
    /// Bytes per second, in MiB.
    pub mib_per_second: f64,
    /// Half took no longer.
    pub p50_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Slice {
    /// The figures of an interval of commands of `block_bytes`.
    pub fn new(interval: &Interval, block_bytes: u32) -> Self {
        let seconds = interval.end.saturating_sub(interval.start).as_secs_f64().max(f64::MIN_POSITIVE);
        let iops = interval.recorders.count() as f64 / seconds;
        let latency = interval.recorders.all().latency();
        Slice {
            start_s: interval.start.as_secs_f64(),
            seconds,
            iops,
            mib_per_second: iops * f64::from(block_bytes) / f64::from(1 << 20),
            p50_us: latency.p50_us,
            p99_us: latency.p99_us,
            max_us: latency.max_us,
        }
    }
}

/// Merges the intervals of all threads.
pub(super) struct Collector {
    threads: usize,
    block_bytes: u32,
    waiting: BTreeMap<u64, (usize, Interval)>,
    pub(super) total: Recorders,
    pub(super) failures: u64,
    pub(super) slices: Vec<Slice>,
}

impl Collector {
    pub(super) fn new(threads: usize, block_bytes: u32) -> Self {
        Collector {
            threads,
            block_bytes,
            waiting: BTreeMap::new(),
            total: Recorders::default(),
            failures: 0,
            slices: Vec::new(),
        }
    }

    /// Adds a thread's interval. Reports the intervals that all threads have ended, in order.
    pub(super) fn add(&mut self, interval: Interval, mut whole: impl FnMut(&Interval, &Slice, u64)) {
        self.failures += interval.failures;
        let index = interval.index;
        let (parts, sum) = self
            .waiting
            .entry(index)
            .or_insert_with(|| (0, Interval { index, start: interval.start, ..Interval::default() }));
        *parts += 1;
        sum.start = sum.start.min(interval.start);
        sum.end = sum.end.max(interval.end);
        sum.failures += interval.failures;
        sum.recorders.add(&interval.recorders);
        while let Some(first) = self.waiting.first_entry()
            && first.get().0 >= self.threads
        {
            let (_, interval) = first.remove();
            self.finish(&interval, &mut whole);
        }
    }

    /// Reports the remaining intervals, because no more will come.
    pub(super) fn end(&mut self, mut whole: impl FnMut(&Interval, &Slice, u64)) {
        for (_, interval) in std::mem::take(&mut self.waiting).into_values() {
            self.finish(&interval, &mut whole);
        }
    }

    fn finish(&mut self, interval: &Interval, whole: &mut impl FnMut(&Interval, &Slice, u64)) {
        self.total.add(&interval.recorders);
        let slice = Slice::new(interval, self.block_bytes);
        whole(interval, &slice, self.failures);
        self.slices.push(slice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(index: u64, commands: u64, micros: u64) -> Interval {
        let start = Duration::from_secs(index);
        let mut interval =
            Interval { index, start, end: start + Duration::from_secs(1), ..Interval::default() };
        for _ in 0..commands {
            interval.recorders.record(Kind::Write, Duration::from_micros(micros));
        }
        interval
    }

    #[test]
    fn intervals_of_threads_are_put_together_in_order() {
        let mut collector = Collector::new(2, 4096);
        let mut seen = Vec::new();
        let mut add = |collector: &mut Collector, one| {
            collector.add(one, |interval, slice, _| seen.push((interval.index, slice.iops.round() as u64)));
        };
        add(&mut collector, interval(0, 100, 10));
        add(&mut collector, interval(1, 300, 10));
        add(&mut collector, interval(0, 50, 1000));
        collector.end(|interval, slice, _| seen.push((interval.index, slice.iops.round() as u64)));
        assert_eq!(seen, [(0, 150), (1, 300)]);
        assert_eq!(collector.total.of(Kind::Write).count(), 450);
        assert_eq!(collector.total.of(Kind::Read).count(), 0);
        assert!(collector.slices[0].p99_us > 900.0 && collector.slices[1].p99_us < 11.0);
        assert!(collector.slices[0].p50_us < 11.0);
    }
}
