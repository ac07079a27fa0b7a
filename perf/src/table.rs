//! Results as text for people.

use std::fmt::Write;

use crate::bench::{BackingKind, BenchReport, Comparison, Measure, Step};
use crate::load::LoadResult;

/// A load's figures.
pub fn load(result: &LoadResult) -> String {
    let mut text = String::new();
    let latency = &result.latency;
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{} {} B, QD{} on {} connection(s), {:.2} s: {:.0} IOPS, {:.1} MiB/s, {} operations, {} failed",
        result.pattern.name(),
        result.block_bytes,
        result.queue_depth,
        result.connections,
        result.seconds,
        result.iops,
        result.mib_per_second,
        result.operations,
        result.failures
    );
    let _ = writeln!(
        text,
        "  latency us: mean {:.1}, p50 {:.1}, p99 {:.1}, p99.9 {:.1}, p99.99 {:.1}, max {:.1}",
        latency.mean_us, latency.p50_us, latency.p99_us, latency.p99_9_us, latency.p99_99_us, latency.max_us
    );
    if let Some(failure) = &result.first_failure {
        let _ = writeln!(text, "  first failure: {failure}");
    }
    text
}

/// A benchmark's steps, each with its floors below it.
pub fn bench(report: &BenchReport) -> String {
    let mut text = String::new();
    let machine = &report.machine;
    let guest = if machine.is_guest { ", a guest" } else { "" };
    let _ = writeln!(
        text,
        "varve {} on {} cores of {}{guest}, Linux {}\n",
        report.version, machine.cores, machine.processor, machine.kernel
    );
    let _ = writeln!(
        text,
        "{:<28}{:>10}{:>10}{:>9}{:>9}{:>9}{:>9}{:>9}{:>10}{:>7}{:>6}",
        "step", "IOPS", "MiB/s", "mean us", "p50", "p99", "p99.9", "p99.99", "max", "s", "fail"
    );
    for step in &report.steps {
        let load = &step.load;
        let latency = &load.latency;
        let _ = writeln!(
            text,
            "{:<28}{:>10.0}{:>10.1}{:>9.1}{:>9.1}{:>9.1}{:>9.1}{:>9.1}{:>10.1}{:>7.2}{:>6}",
            name(step),
            load.iops,
            load.mib_per_second,
            latency.mean_us,
            latency.p50_us,
            latency.p99_us,
            latency.p99_9_us,
            latency.p99_99_us,
            latency.max_us,
            load.seconds,
            load.failures
        );
        for comparison in &step.floors {
            let _ = writeln!(text, "    {}", floor(comparison));
        }
        if let Some(failure) = &load.first_failure {
            let _ = writeln!(text, "    first failure: {failure}");
        }
    }
    text
}

fn name(step: &Step) -> String {
    let backing = match step.backing {
        BackingKind::Memory => "memory",
        BackingKind::File => "file",
    };
    let load = &step.load;
    format!("{backing} {} {} KiB QD{}", load.pattern.name(), load.block_bytes / 1024, load.queue_depth)
}

fn floor(comparison: &Comparison) -> String {
    let floor = &comparison.floor;
    let (measure, value) = match comparison.measure {
        Measure::MeanLatency => ("mean", format!("{:.1} us", floor.latency.mean_us)),
        Measure::Iops => ("IOPS", format!("{:.0}", floor.iops)),
        Measure::Bandwidth => ("bandwidth", format!("{:.1} MiB/s", floor.mib_per_second)),
    };
    format!("{:.2} x the {measure} of {}: {value}", comparison.ratio, floor.what)
}
