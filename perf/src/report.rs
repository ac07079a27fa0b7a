//! Shows every budget beside its floor in one table, measured in one run.
//!
//! The report covers the benchmark, the log alone, the index, idling and the archivist, with this
//! machine's limits below. Where the design compares with another target's figures, the report
//! shows the machine's own floor instead, because absolute figures are not valid on another
//! machine.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};
use serde::{Deserialize, Serialize};
use varve::text::units::SizeBytes;

use crate::bar::{Bar, Bound, table as bars_table};
use crate::bench::{self, BenchConfig, BenchReport};
use crate::error::PerfError;
use crate::floor::limits;
use crate::machine::Machine;
use crate::{append, archive, lookup, open_archived, rebuild};

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Length of each step.
    #[arg(long, default_value_t = 2.0, value_parser = crate::seconds, value_name = "S")]
    pub seconds: f64,
    /// Where a directory for files is made, and removed.
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub dir: PathBuf,
    /// Size of the benchmark's volume.
    #[arg(long, default_value = "256MiB", value_name = "SIZE")]
    pub volume_size: SizeBytes,
    /// Size of the benchmark's pool.
    #[arg(long, default_value = "4GiB", value_name = "SIZE")]
    pub pool_size: SizeBytes,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of varve.
    pub version: String,
    /// The machine.
    pub machine: Machine,
    /// Every budget beside its floor.
    pub bars: Vec<Bar>,
    /// What could not be measured here, and why.
    pub missing: Vec<String>,
    /// The benchmark it is derived from.
    pub bench: BenchReport,
    /// The machine's limits.
    pub limits: limits::Report,
}

/// The options of a command line that gives none.
#[derive(Debug, Parser)]
struct Defaults<O: Args> {
    #[command(flatten)]
    options: O,
}

fn defaults<O: Args>() -> Result<O, PerfError> {
    Defaults::<O>::try_parse_from(["report"])
        .map(|defaults| defaults.options)
        .map_err(|_| PerfError::shape("a measurement has no defaults"))
}

/// The options of every measurement.
struct Parts {
    limits: limits::Options,
    bench: BenchConfig,
    append: append::Options,
    index: lookup::Options,
    rebuild: rebuild::Options,
    archive: archive::Options,
    opened: open_archived::Options,
}

impl Parts {
    fn of(options: &Options) -> Result<Self, PerfError> {
        let (seconds, dir) = (options.seconds, options.dir.clone());
        Ok(Parts {
            limits: limits::Options { seconds, dir: dir.clone(), ..defaults()? },
            bench: BenchConfig {
                step: Duration::from_secs_f64(seconds),
                directory: dir,
                volume_bytes: options.volume_size.0,
                pool_bytes: options.pool_size.0,
                memory: true,
                file: true,
            },
            append: append::Options { seconds, ..defaults()? },
            index: lookup::Options { seconds, ..defaults()? },
            rebuild: defaults()?,
            archive: defaults()?,
            opened: defaults()?,
        })
    }
}

/// Measures everything; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// As for each measurement. A measurement that needs a missing program is listed in `missing`.
pub fn run(options: &Options, mut on_step: impl FnMut(&str)) -> Result<Report, PerfError> {
    run_parts(&Parts::of(options)?, &mut on_step)
}

fn run_parts(parts: &Parts, on_step: &mut dyn FnMut(&str)) -> Result<Report, PerfError> {
    let limits = limits::run(&parts.limits, &mut *on_step)?;
    let bench = bench::run(&parts.bench, &mut *on_step)?;
    let mut bars = bench.bars.clone();
    bars.extend(append::run(&parts.append, &mut *on_step)?.bars);
    bars.extend(lookup::run(&parts.index, &mut *on_step)?.bars);
    for row in rebuild::run(&parts.rebuild, &mut *on_step)?.rows {
        let bound = Some(Bound::AtLeast(rebuild::ENTRIES_PER_SECOND_MIN));
        let scan = crate::cleaning::median(row.scan_per_second.iter().copied());
        bars.push(
            Bar::alone(format!("index built, {:?}, one core", row.layout), row.median, "a second", bound)
                .beside("only reading the entries", scan),
        );
    }
    let mut missing = bench.missing.clone();
    match archive::run(&parts.archive, &mut *on_step) {
        Ok(report) => bars.extend(archive_bars(&report)),
        Err(error) => missing.push(format!("archivist: {error}")),
    }
    match open_archived::run(&parts.opened, &mut *on_step) {
        Ok(opened) => {
            let what = format!("first byte of an archived point of {} GiB", opened.volume_bytes >> 30);
            let alone = opened.entries_alone_ms + opened.index_alone_ms + opened.block_alone_ms;
            let bound = Some(Bound::AtMost(open_archived::MS_MAX));
            bars.push(
                Bar::alone(what, opened.total_ms, "ms", bound).beside("its parts alone, on one core", alone),
            );
        }
        Err(error) => missing.push(format!("opening a point in the archive: {error}")),
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::here(),
        bars,
        missing,
        bench,
        limits,
    })
}

fn archive_bars(report: &archive::Report) -> Vec<Bar> {
    let best = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let bar = |row: &archive::Row| {
        Bar::over(
            format!("archivist, {:?}, level {}, verified {:?}", row.content, row.level, row.verify),
            best(&row.archive_mib_s),
            "MiB/s",
            "zstd on the same bytes",
            best(&row.zstd_mib_s),
            Some(Bound::AtLeast(archive::RATIO_MIN)),
        )
    };
    report.rows.iter().map(bar).collect()
}

/// The budgets as a table, with the machine's limits below it.
pub fn table(report: &Report) -> String {
    let mut text = bars_table(&report.bars);
    for missing in &report.missing {
        // Writing to a string does not fail.
        let _ = writeln!(text, "not measured: {missing}");
    }
    text + "\n" + &limits::table(&report.limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tiny report has every budget, each judged or beside a floor. The test judges no figure.
    #[test]
    fn every_budget_has_its_bar() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            seconds: 0.005,
            dir: directory.path().to_owned(),
            volume_size: SizeBytes(8 << 20),
            pool_size: SizeBytes(96 << 20),
        };
        let mut parts = Parts::of(&options).unwrap();
        parts.limits.size = SizeBytes(32 << 20);
        parts.append.size = SizeBytes(64 << 20);
        parts.index =
            lookup::Options { volume_size: SizeBytes(1 << 34), mapped: SizeBytes(1 << 28), ..parts.index };
        let (volume_size, mapped) = (SizeBytes(1 << 30), SizeBytes(96 << 20));
        parts.rebuild = rebuild::Options { volume_size, mapped, overwritten: 100, repeat: 1 };
        parts.opened.index = parts.rebuild.clone();
        parts.archive.segments = 1;
        parts.archive.repeat = 1;
        parts.archive.level = vec![1];
        parts.archive.content.truncate(1);
        parts.archive.verify.truncate(1);
        let report = run_parts(&parts, &mut |_| {}).unwrap();
        for what in [
            "memory: QD1 write, mean",
            "memory: QD1 write, p99.99",
            "memory: QD32 write",
            "memory: QD32 read",
            "memory: QD1 randwrite of an adaptive reactor, mean",
            "idle appliance, of a core",
            "file: QD32 4 KiB random write",
            "file: QD32 4 KiB random write, on 4 connections",
            "memory: sequential 512 KiB read",
            "file: QD32 write beside 100 snapshots",
            "file: QD32 4 KiB random read",
            "snapshot of",
            "clone of",
            "synch beside",
            "memory of a TiB mapped whole",
            "index built",
            "archivist",
            "first byte of an archived point",
        ] {
            let bar = report.bars.iter().find(|bar| bar.what.starts_with(what));
            let explained = report.missing.iter().any(|missing| missing.starts_with(what));
            assert!(
                bar.is_some_and(|bar| bar.bound.is_some() || bar.floor.is_some()) || explained,
                "{what}: {:?} {:?}",
                report.bars,
                report.missing
            );
        }
        let text = table(&report);
        assert!(report.bars.iter().all(|bar| text.contains(&bar.what)), "{text}");
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap().bars.len(), report.bars.len());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "files are removed");
    }
}
