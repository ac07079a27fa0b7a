//! Renders results as text for people.

use std::fmt::Write;

use crate::bar;
use crate::bench::{BackingKind, BenchReport, Comparison, Measure, Step};
use crate::load::{Access, LoadResult};

/// A rate is kept if at least this share of it was reached.
const RATE_KEPT: f64 = 0.99;

/// A load in one line.
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
    let headings = ["latency us", "count", "mean", "p50", "p99", "p99.9", "p99.99", "p99.999", "max"];
    let mut rows = vec![headings.map(str::to_owned)];
    for (name, latency) in kinds {
        let Some(latency) = latency.filter(|_| several || name != "all") else { continue };
        rows.push([
            name.to_owned(),
            latency.count.to_string(),
            micros(latency.mean_us),
            micros(latency.p50_us),
            micros(latency.p99_us),
            micros(latency.p99_9_us),
            micros(latency.p99_99_us),
            micros(latency.p99_999_us),
            micros(latency.max_us),
        ]);
    }
    text += &aligned(&rows);
    if let Some(rate) = result.rate.filter(|rate| result.iops < rate * RATE_KEPT) {
        let _ = writeln!(
            text,
            "  the rate was missed: {:.0} of {rate:.0} commands a second ({:.0} %)",
            result.iops,
            result.iops * 100.0 / rate
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

/// Microseconds, without a fraction from 10 ms on.
fn micros(value: f64) -> String {
    if value < 10_000.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Rows as lines, two spaces between columns; the first column is aligned to the left and the
/// others to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: Vec<usize> =
        (0..N).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a string does not fail.
            let _ =
                if column == 0 { write!(text, "  {cell:<width$}") } else { write!(text, "  {cell:>width$}") };
        }
        text.push('\n');
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
        "{:<50}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>8}{:>6}",
        "step", "IOPS", "MiB/s", "mean us", "p50", "p99", "p99.9", "p99.99", "max", "s", "fail"
    );
    for step in &report.steps {
        let load = &step.load;
        let latency = &load.latency;
        let _ = writeln!(
            text,
            "{:<50}{:>10.0}{:>10.1}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>8.2}{:>6}",
            name(step),
            load.iops,
            load.mib_per_second,
            micros(latency.mean_us),
            micros(latency.p50_us),
            micros(latency.p99_us),
            micros(latency.p99_9_us),
            micros(latency.p99_99_us),
            micros(latency.max_us),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A result with few contents.
    fn result() -> LoadResult {
        serde_json::from_value(serde_json::json!({
            "target": "memory", "pattern": "randwrite", "access": "uniform", "read_percent": 0,
            "trim_percent": 0, "compress_ratio": 1.0, "block_bytes": 4096, "queue_depth": 1, "connections": 1,
            "threads": 1, "rate": null, "seconds": 1.0, "operations": 1000, "failures": 0,
            "first_failure": null, "unsent": 0, "iops": 1000.0, "mib_per_second": 3.9,
            "latency": {"count": 1000, "mean_us": 1_234_567.89, "p50_us": 1.5, "p99_us": 9_999.9,
                        "p99_9_us": 10_000.4, "p99_99_us": 1_500_000.0, "p99_999_us": 25_000_000.0, "max_us": 1e9},
            "read_latency": null, "write_latency": null, "trim_latency": null, "verification": null,
            "timeline": [],
        }))
        .expect("a result")
    }

    #[test]
    fn latencies_beyond_a_second_stay_in_their_columns() {
        let mut result = result();
        result.write_latency = Some(result.latency);
        let text = load(&result);
        let lines: Vec<&str> = text.lines().skip_while(|line| !line.contains("latency us")).collect();
        let (headings, cells) = (lines[0], lines[1]);
        assert_eq!(headings.len(), cells.len(), "{text}");
        let expected =
            ["write", "1000", "1234568", "1.5", "9999.9", "10000", "1500000", "25000000", "1000000000"];
        assert_eq!(cells.split_whitespace().collect::<Vec<_>>(), expected, "{text}");
    }

    #[test]
    fn a_rate_that_was_missed_is_said() {
        let mut result = result();
        for (rate, is_missed) in [(None, false), (Some(1005.0), false), (Some(4000.0), true)] {
            result.rate = rate;
            let text = load(&result);
            assert_eq!(text.contains("the rate was missed"), is_missed, "{text}");
        }
        assert!(load(&result).contains("1000 of 4000 commands a second (25 %)"));
    }
}
