//! Drives two NVMe/TCP targets in turn with the same load, and prints their ratios with the spread:
//! varve beside any other target, or beside itself with other options (R217).
//!
//! Both are driven by the same initiator, from the same cores, in the same minutes. A round runs
//! each row on A and then on B, the next round on B and then on A, so that what changes on the
//! machine affects both. The figure is the median of the ratios B / A per round. What is read was
//! written before: the range is filled in order first, which is a row of its own.

use std::fmt::Write;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use varve::text::units::SizeBytes;

use crate::bar::number;
use crate::cleaning::median;
use crate::error::PerfError;
use crate::load::{self, LoadConfig, LoadResult, Pattern, Target};
use crate::machine::Machine;
use crate::seconds;

/// The rows that are measured if none is named: small commands at three depths, and large ones.
const ROWS: [&str; 8] = [
    "randwrite,4KiB,1",
    "randread,4KiB,1",
    "randwrite,4KiB,32",
    "randread,4KiB,32",
    "randwrite,4KiB,128",
    "randread,4KiB,128",
    "write,128KiB,16",
    "read,128KiB,16",
];
/// Bytes of a command that fills, and how many are in flight.
const FILL_BYTES: u32 = 128 << 10;
const FILL_DEPTH: u16 = 16;
/// A fill ends after its bytes, not after a time.
const FILL_LIMIT: Duration = Duration::from_hours(1);

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The first target: ADDRESS:PORT/NAME, where NAME is a volume of varve or any subsystem's NQN.
    pub a: Endpoint,
    /// The target that is compared with it.
    pub b: Endpoint,
    /// A row: PATTERN,SIZE,DEPTH like randread,4KiB,32; may be given more than once. The patterns
    /// are those of `run --rw`. Default: 4 KiB at depths 1, 32 and 128, and 128 KiB at 16.
    #[arg(long, value_name = "ROW")]
    pub row: Vec<Load>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0, value_parser = seconds, value_name = "S")]
    pub seconds: f64,
    /// Rounds; the median of their ratios counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub rounds: u8,
    /// Connections to each target, each an I/O queue.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=128))]
    pub connections: u16,
    /// Core that the load is pinned to.
    #[arg(long, value_name = "CORE")]
    pub core: Option<usize>,
    /// Use only the first part of each namespace; all of it is written first.
    #[arg(long, default_value = "256MiB", value_name = "SIZE")]
    pub range: SizeBytes,
    /// Do not fill the range first: it holds what is to be read.
    #[arg(long)]
    pub no_fill: bool,
}

/// A target and a subsystem of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// A volume of varve, or an NQN.
    pub subsystem: String,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let needed = || format!("'{text}' is not ADDRESS:PORT/NAME, like 127.0.0.1:4420/vol0");
        let (address, subsystem) = text.split_once('/').ok_or_else(needed)?;
        let address = address.parse().map_err(|_| needed())?;
        if subsystem.is_empty() {
            return Err(needed());
        }
        Ok(Endpoint { address, subsystem: subsystem.to_owned() })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.subsystem)
    }
}

/// The load of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// What the commands do.
    pub pattern: Pattern,
    /// Bytes of each.
    pub block_bytes: u32,
    /// Commands in flight on each connection.
    pub queue_depth: u16,
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let needed = || format!("'{text}' is not PATTERN,SIZE,DEPTH, like randread,4KiB,32");
        let mut parts = text.split(',');
        let (Some(pattern), Some(size), Some(depth), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(needed());
        };
        let pattern = match pattern {
            "read" => Pattern::Read,
            "write" => Pattern::Write,
            "randread" => Pattern::RandRead,
            "randwrite" => Pattern::RandWrite,
            "randrw" => Pattern::RandRw,
            _ => return Err(needed()),
        };
        let size: SizeBytes = size.parse().map_err(|_| needed())?;
        let block_bytes = u32::try_from(size.0).map_err(|_| needed())?;
        let queue_depth = depth.parse().ok().filter(|depth| (1..=1023).contains(depth)).ok_or_else(needed)?;
        Ok(Load { pattern, block_bytes, queue_depth })
    }
}

/// What one measurement found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Commands per second.
    pub iops: f64,
    /// MiB per second.
    pub mib_per_second: f64,
    /// Half of the commands took no longer, in us.
    pub p50_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// 999 of 1000 took no longer.
    pub p99_9_us: f64,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The load, in words.
    pub what: String,
    /// A in each round.
    pub a: Vec<Figures>,
    /// B in each round.
    pub b: Vec<Figures>,
    /// The median of the ratios B / A of commands per second.
    pub ratio: f64,
    /// The least and the greatest of these.
    pub spread: (f64, f64),
    /// The median of the ratios B / A of p99.
    pub p99_ratio: f64,
}

/// The whole result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of varve.
    pub version: String,
    /// The machine.
    pub machine: Machine,
    /// The first target.
    pub a: String,
    /// The target that was compared with it.
    pub b: String,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Runs all rows; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// A target that cannot be reached or that refuses the load; a command that failed, because then
/// the figures mean nothing.
pub fn run(options: &Options, mut on_step: impl FnMut(&str)) -> Result<Report, PerfError> {
    let mut rows = Vec::new();
    let fill = Load { pattern: Pattern::Write, block_bytes: FILL_BYTES, queue_depth: FILL_DEPTH };
    if !options.no_fill {
        on_step("filling");
        let of = |endpoint| measure(options, endpoint, fill, true);
        rows.push(row("fill in order".to_owned(), vec![of(&options.a)?], vec![of(&options.b)?]));
    }
    let usual = ROWS.iter().filter_map(|text| text.parse().ok()).collect::<Vec<Load>>();
    let loads = if options.row.is_empty() { &usual } else { &options.row };
    for &load in loads {
        let what =
            format!("{} {} QD{}", load.pattern.name(), SizeBytes(load.block_bytes.into()), load.queue_depth);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for round in 1..=options.rounds {
            on_step(&format!("{what}: {round} of {}", options.rounds));
            let mut first = || -> Result<(), PerfError> {
                a.push(measure(options, &options.a, load, false)?);
                Ok(())
            };
            let mut second = || -> Result<(), PerfError> {
                b.push(measure(options, &options.b, load, false)?);
                Ok(())
            };
            if round % 2 == 1 {
                first()?;
                second()?;
            } else {
                second()?;
                first()?;
            }
        }
        rows.push(row(what, a, b));
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::here(),
        a: options.a.to_string(),
        b: options.b.to_string(),
        rows,
    })
}

fn measure(options: &Options, endpoint: &Endpoint, load: Load, is_fill: bool) -> Result<Figures, PerfError> {
    let target = Target::Nvme { address: endpoint.address, volumes: vec![endpoint.subsystem.clone()] };
    let duration = if is_fill { FILL_LIMIT } else { Duration::from_secs_f64(options.seconds) };
    let config = LoadConfig {
        block_bytes: load.block_bytes,
        queue_depth: load.queue_depth,
        connections: options.connections,
        cores: options.core.into_iter().collect(),
        duration,
        bytes_max: is_fill.then_some(options.range.0),
        range_bytes: Some(options.range.0),
        ..LoadConfig::of(target, load.pattern)
    };
    let result = load::run(&config, |_| {})?;
    figures(endpoint, &result)
}

fn figures(endpoint: &Endpoint, result: &LoadResult) -> Result<Figures, PerfError> {
    if result.failures > 0 {
        let reason = result.first_failure.clone().unwrap_or_default();
        return Err(PerfError::FailedCommands {
            target: endpoint.to_string(),
            count: result.failures,
            reason,
        });
    }
    Ok(Figures {
        iops: result.iops,
        mib_per_second: result.mib_per_second,
        p50_us: result.latency.p50_us,
        p99_us: result.latency.p99_us,
        p99_9_us: result.latency.p99_9_us,
    })
}

fn row(what: String, a: Vec<Figures>, b: Vec<Figures>) -> Row {
    let ratios = |of: fn(&Figures) -> f64| -> Vec<f64> {
        a.iter().zip(&b).map(|(a, b)| of(b) / of(a).max(f64::MIN_POSITIVE)).collect()
    };
    let iops = ratios(|figures| figures.iops);
    let spread = iops.iter().fold((f64::MAX, 0.0_f64), |(least, most), &one| (least.min(one), most.max(one)));
    let p99_ratio = median(ratios(|figures| figures.p99_us).into_iter());
    Row { what, ratio: median(iops.into_iter()), spread, p99_ratio, a, b }
}

/// The result as text.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "A: {}\nB: {}\nmedians; ratios are B / A of the same round", report.a, report.b);
    let _ = writeln!(
        text,
        "{:<24}{:>12}{:>12}{:>9}{:>15}{:>12}{:>12}{:>9}",
        "load", "A IOPS", "B IOPS", "ratio", "least to most", "A p99 us", "B p99 us", "ratio"
    );
    for row in &report.rows {
        let of = |rounds: &[Figures], figure: fn(&Figures) -> f64| number(median(rounds.iter().map(figure)));
        let _ = writeln!(
            text,
            "{:<24}{:>12}{:>12}{:>9.3}{:>15}{:>12}{:>12}{:>9.3}",
            row.what,
            of(&row.a, |figures| figures.iops),
            of(&row.b, |figures| figures.iops),
            row.ratio,
            format!("{:.2} to {:.2}", row.spread.0, row.spread.1),
            of(&row.a, |figures| figures.p99_us),
            of(&row.b, |figures| figures.p99_us),
            row.p99_ratio,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_rows_are_read_or_refused_with_what_is_needed() {
        let endpoint: Endpoint = "127.0.0.1:4420/nqn.2016-06.io.spdk:cnode1".parse().expect("an NQN");
        assert_eq!(endpoint.subsystem, "nqn.2016-06.io.spdk:cnode1");
        assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        for bad in ["127.0.0.1:4420", "127.0.0.1/vol0", "127.0.0.1:4420/"] {
            assert!(bad.parse::<Endpoint>().is_err_and(|error| error.contains(bad)));
        }
        assert!(ROWS.iter().all(|row| row.parse::<Load>().is_ok()));
        for bad in ["randread,4KiB", "randread,4KiB,0", "trim,4KiB,1", "read,big,1", "read,4KiB,1,2"] {
            assert!(bad.parse::<Load>().is_err_and(|error| error.contains(bad)));
        }
    }

    #[test]
    fn a_ratio_is_of_the_same_round() {
        let of = |iops: f64| Figures {
            iops,
            mib_per_second: 1.0,
            p50_us: 1.0,
            p99_us: 100.0 / iops,
            p99_9_us: 1.0,
        };
        // The machine was half as fast in the second round.
        let row =
            row("load".to_owned(), vec![of(10.0), of(5.0), of(10.0)], vec![of(12.0), of(6.0), of(13.0)]);
        assert!((row.ratio - 1.2).abs() < 1e-9 && (row.spread.1 - 1.3).abs() < 1e-9, "{row:?}");
        let report = Report {
            version: String::new(),
            machine: Machine::here(),
            a: "one".to_owned(),
            b: "other".to_owned(),
            rows: vec![row],
        };
        assert!(table(&report).contains("1.200"), "{}", table(&report));
    }
}
