//! Results as text for people.

use std::fmt::Write;

use crate::bar;
use crate::bench::{BackingKind, BenchReport, Comparison, Measure, Step};
use crate::load::{Access, LoadResult};

/// What a load was, in one line.
pub fn load_title(result: &LoadResult) -> String {
    let mut text = format!(
        "{} {} B, QD{} on {} connection(s)",
        result.pattern.name(),
        result.block_bytes,
        result.queue_depth,
        result.connections
    );
    // Writing to a string does not fail.
    if let Access::Zipf { theta } = result.access {
        let _ = write!(text, ", zipf {theta}");
    }
    if let Some(rate) = result.rate {
        let _ = write!(text, ", {rate} a second");
    }
    let _ = write!(text, ": {}", result.target);
    text
}

/// A load's figures.
pub fn load(result: &LoadResult) -> String {
    let mut text = load_title(result);
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "\n  {:.2} s: {:.0} IOPS, {:.1} MiB/s, {} operations, {} failed",
        result.seconds, result.iops, result.mib_per_second, result.operations, result.failures
    );
    let kinds = [
        ("read", result.read_latency),
        ("write", result.write_latency),
        ("trim", result.trim_latency),
        ("all", Some(result.latency)),
    ];
    let several = kinds.iter().filter(|(_, latency)| latency.is_some()).count() > 2;
    let _ = writeln!(
        text,
        "  {:<10}{:>10}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>10}",
        "latency us", "count", "mean", "p50", "p99", "p99.9", "p99.99", "p99.999", "max"
    );
    for (name, latency) in kinds {
        let Some(latency) = latency.filter(|_| several || name != "all") else { continue };
        let _ = writeln!(
            text,
            "  {name:<10}{:>10}{:>9.1}{:>9.1}{:>9.1}{:>9.1}{:>9.1}{:>9.1}{:>10.1}",
            latency.count,
            latency.mean_us,
            latency.p50_us,
            latency.p99_us,
            latency.p99_9_us,
            latency.p99_99_us,
            latency.p99_999_us,
            latency.max_us
        );
    }
    if result.unsent > 0 {
        let _ = writeln!(text, "  {} commands should have started and were never sent", result.unsent);
    }
    if let Some(failure) = &result.first_failure {
        let _ = writeln!(text, "  first failure: {failure}");
    }
    if let Some(found) = &result.verification {
        let _ = writeln!(text, "  {} blocks checked, {} wrong", found.checked_blocks, found.violations);
        if let Some(violation) = &found.first_violation {
            let _ = writeln!(text, "  first wrong: {violation}");
        }
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
        "{:<50}{:>10}{:>10}{:>9}{:>9}{:>9}{:>9}{:>9}{:>10}{:>7}{:>6}",
        "step", "IOPS", "MiB/s", "mean us", "p50", "p99", "p99.9", "p99.99", "max", "s", "fail"
    );
    for step in &report.steps {
        let load = &step.load;
        let latency = &load.latency;
        let _ = writeln!(
            text,
            "{:<50}{:>10.0}{:>10.1}{:>9.1}{:>9.1}{:>9.1}{:>9.1}{:>9.1}{:>10.1}{:>7.2}{:>6}",
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
    text += "\n";
    text += &bar::table(&report.bars);
    for missing in &report.missing {
        let _ = writeln!(text, "not measured: {missing}");
    }
    text
}

fn name(step: &Step) -> String {
    let backing = match step.backing {
        BackingKind::Memory => "memory",
        BackingKind::File => "file",
    };
    let load = &step.load;
    let name =
        format!("{backing} {} {} KiB QD{}", load.pattern.name(), load.block_bytes / 1024, load.queue_depth);
    if step.name.is_empty() { name } else { format!("{name}, {}", step.name) }
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
