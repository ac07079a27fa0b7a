//! The result of a load.

use serde::{Deserialize, Serialize};

use super::LoadConfig;
use super::aim::{Access, Kind, Pattern};
use super::tally::{Collector, Slice};
use super::worker::Outcome;
use crate::latency::Latency;

/// The result of a load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadResult {
    /// What was loaded, in words.
    pub target: String,
    /// What the commands did.
    pub pattern: Pattern,
    /// How random commands chose their blocks.
    pub access: Access,
    /// For [`Pattern::RandRw`]: how many of 100 commands read.
    pub read_percent: u8,
    /// Of 100 commands that would write, how many trimmed instead.
    pub trim_percent: u8,
    /// What was written compresses to 1 / this.
    pub compress_ratio: f64,
    /// Bytes of a command.
    pub block_bytes: u32,
    /// Commands in flight on each connection.
    pub queue_depth: u16,
    /// Connections to each volume.
    pub connections: u16,
    /// Threads.
    pub threads: usize,
    /// The requested commands per second; `None`: as fast as they completed, and latency counts
    /// from submission.
    pub rate: Option<f64>,
    /// From the first submission to the last completion.
    pub seconds: f64,
    /// Commands that succeeded.
    pub operations: u64,
    /// Commands that failed; no other figure includes them.
    pub failures: u64,
    /// How the first of them failed.
    pub first_failure: Option<String>,
    /// With a rate: commands that should have started and were never sent.
    pub unsent: u64,
    /// Commands per second.
    pub iops: f64,
    /// Bytes per second, in MiB.
    pub mib_per_second: f64,
    /// Latencies of all commands.
    pub latency: Latency,
    /// Of reads; `None` when there were none.
    pub read_latency: Option<Latency>,
    /// Of writes; `None` when there were none.
    pub write_latency: Option<Latency>,
    /// Of trims; `None` when there were none.
    pub trim_latency: Option<Latency>,
    /// What verification found; `None` if it was not requested.
    pub verification: Option<Verification>,
    /// The load by interval.
    pub timeline: Vec<Slice>,
}

/// What verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Blocks that were read and checked, under load and at the end.
    pub checked_blocks: u64,
    /// Reads that returned wrong data.
    pub violations: u64,
    /// The first of them.
    pub first_violation: Option<String>,
}

impl LoadResult {
    pub(super) fn new(
        config: &LoadConfig,
        threads: usize,
        outcomes: &[Outcome],
        collector: &Collector,
    ) -> Self {
        let all = collector.total.all();
        let seconds = outcomes.iter().map(|outcome| outcome.elapsed).max().unwrap_or_default().as_secs_f64();
        let seconds = seconds.max(f64::MIN_POSITIVE);
        let iops = all.count() as f64 / seconds;
        let some = |kind| {
            let recorder = collector.total.of(kind);
            (recorder.count() > 0).then(|| recorder.latency())
        };
        let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum();
        let first = |of: fn(&Outcome) -> Option<&String>| outcomes.iter().find_map(of).cloned();
        LoadResult {
            target: config.target.name(),
            pattern: config.pattern,
            access: config.access,
            read_percent: config.read_percent,
            trim_percent: config.trim_percent,
            compress_ratio: config.compress_ratio,
            block_bytes: config.block_bytes,
            queue_depth: config.queue_depth,
            connections: config.connections,
            threads,
            rate: config.rate,
            seconds,
            operations: all.count(),
            failures: sum(|outcome| outcome.failures),
            first_failure: first(|outcome| outcome.first_failure.as_ref()),
            unsent: sum(|outcome| outcome.unsent),
            iops,
            mib_per_second: iops * f64::from(config.block_bytes) / f64::from(1 << 20),
            latency: all.latency(),
            read_latency: some(Kind::Read),
            write_latency: some(Kind::Write),
            trim_latency: some(Kind::Trim),
            verification: config.verify.then(|| Verification {
                checked_blocks: sum(|outcome| outcome.checked_blocks),
                violations: sum(|outcome| outcome.violations),
                first_violation: first(|outcome| outcome.first_violation.as_ref()),
            }),
            timeline: collector.slices.clone(),
        }
    }

    /// Whether no command failed and no read returned wrong data.
    pub fn is_good(&self) -> bool {
        self.failures == 0 && self.verification.as_ref().is_none_or(|found| found.violations == 0)
    }
}
