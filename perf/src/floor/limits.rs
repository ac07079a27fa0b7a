//! All limits of this machine in one list: network, memory, storage, compression.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use varve::text::units::SizeBytes;

use super::tcp::Shape;
use super::{FloorResult, memory, tcp};
use crate::error::PerfError;
use crate::latency::Latency;
use crate::load::{self, Device, LoadConfig, Pattern, Target};
use crate::machine::{Machine, pinned, two_cores};
use crate::rng::Rng;

/// Works for the given time and reports how fast it was.
type Measurement = fn(Duration) -> FloorResult;

/// Sizes of commands, in bytes.
const SMALL: u32 = 4 << 10;
const MEDIUM: u32 = 128 << 10;
const LARGE: u32 = 1 << 20;
/// Bytes to compress; half of each block does not compress.
const ZSTD_BYTES: usize = 64 << 20;
/// The archive's default level.
const ZSTD_LEVEL: u8 = 3;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Length of each step.
    #[arg(long, default_value_t = 1.0, value_parser = crate::seconds, value_name = "S")]
    pub seconds: f64,
    /// Where a directory for files is made, and removed.
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub dir: PathBuf,
    /// Size of the file that stands for the device.
    #[arg(long, default_value = "1GiB", value_name = "SIZE")]
    pub size: SizeBytes,
}

/// The limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of varve.
    pub version: String,
    /// The machine.
    pub machine: Machine,
    /// Each limit under a short name, in the order in which they were measured.
    pub floors: Vec<(String, FloorResult)>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

/// Measures everything; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// The system refuses sockets, threads or files. Without `zstd` only its line is missing.
pub fn run(options: &Options, mut on_step: impl FnMut(&str)) -> Result<Report, PerfError> {
    let step = Duration::from_secs_f64(options.seconds);
    let mut floors = Vec::new();
    for (bytes, depth) in [(SMALL, 1), (SMALL, 32), (MEDIUM, 8), (LARGE, 4)] {
        for shape in [Shape::write(bytes as usize), Shape::read(bytes as usize)] {
            let name = format!("tcp {} {} KiB QD{depth}", shape.name, bytes >> 10);
            on_step(&name);
            floors.push((name, tcp::measure(shape, depth, step)?));
        }
    }
    let core = two_cores().map(|cores| cores.0);
    let works: [(&str, Measurement); 3] = [
        ("copy", memory::copy),
        ("crc32c", memory::checksum),
        ("copy and crc32c", memory::copy_and_checksum),
    ];
    for (name, work) in works {
        on_step(name);
        floors.push((name.to_owned(), pinned(core, || work(step))));
    }
    let directory = tempfile::Builder::new()
        .prefix("varve-perf-")
        .tempdir_in(&options.dir)
        .map_err(PerfError::io("make a directory for the files"))?;
    device(directory.path(), options.size.0, step, &mut on_step, &mut floors)?;
    let mut missing = Vec::new();
    on_step("zstd");
    match zstd(directory.path()) {
        Ok(result) => floors.push(("zstd".to_owned(), result)),
        Err(error) => missing.push(format!("zstd: {error}")),
    }
    Ok(Report { version: env!("CARGO_PKG_VERSION").to_owned(), machine: Machine::here(), floors, missing })
}

fn device(
    directory: &Path,
    len_bytes: u64,
    step: Duration,
    on_step: &mut impl FnMut(&str),
    floors: &mut Vec<(String, FloorResult)>,
) -> Result<(), PerfError> {
    let device = Device::File { path: directory.join("device"), create_bytes: Some(len_bytes) };
    let base = LoadConfig {
        duration: step,
        cores: two_cores().map(|cores| cores.0).into_iter().collect(),
        ..LoadConfig::of(Target::Bdev(device), Pattern::Write)
    };
    // All of it is written first, so that later steps use blocks that are already allocated on the
    // device.
    let whole = LoadConfig {
        block_bytes: LARGE,
        queue_depth: 8,
        bytes_max: Some(len_bytes),
        duration: Duration::from_mins(5),
        ..base.clone()
    };
    on_step("device first write");
    load::run(&whole, |_| {})?;
    for (pattern, block_bytes, queue_depth) in [
        (Pattern::Write, MEDIUM, 8),
        (Pattern::Write, LARGE, 8),
        (Pattern::Read, MEDIUM, 8),
        (Pattern::Read, LARGE, 8),
        (Pattern::RandWrite, SMALL, 1),
        (Pattern::RandWrite, SMALL, 32),
        (Pattern::RandRead, SMALL, 1),
        (Pattern::RandRead, SMALL, 32),
    ] {
        let name = format!("device {} {} KiB QD{queue_depth}", pattern.name(), block_bytes >> 10);
        on_step(&name);
        let result = load::run(&LoadConfig { pattern, block_bytes, queue_depth, ..base.clone() }, |_| {})?;
        if let Some(reason) = &result.first_failure {
            return Err(PerfError::Floor { what: name, reason: reason.clone() });
        }
        let what = format!("the file system's own, {name}");
        floors.push((name, FloorResult::new(what, result.seconds, block_bytes.into(), result.latency)));
    }
    Ok(())
}

/// The `zstd` command line on one core.
fn zstd(directory: &Path) -> Result<FloorResult, PerfError> {
    let path = directory.join("plain");
    let mut bytes = vec![0; ZSTD_BYTES];
    let mut rng = Rng::new(4);
    for block in bytes.chunks_mut(4096) {
        rng.fill(&mut block[..2048]);
    }
    std::fs::write(&path, &bytes).map_err(PerfError::io("write a file to compress"))?;
    let started = Instant::now();
    let output = Command::new("zstd")
        .args(["-T1", "-q", "-f", &format!("-{ZSTD_LEVEL}"), "-o"])
        .arg(directory.join("packed"))
        .arg(&path)
        .output()
        .map_err(PerfError::io("run zstd"))?;
    if !output.status.success() {
        return Err(PerfError::shape("zstd does not compress"));
    }
    let seconds = started.elapsed().as_secs_f64();
    let latency = Latency { count: 1, mean_us: seconds * 1e6, ..Latency::default() };
    Ok(FloorResult::new(
        format!("zstd -{ZSTD_LEVEL} -T1 of {} MiB", ZSTD_BYTES >> 20),
        seconds,
        ZSTD_BYTES as u64,
        latency,
    ))
}

/// The limits as a table.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{:<30}{:>12}{:>12}{:>10}{:>10}{:>10}",
        "floor", "a second", "MiB/s", "mean us", "p50", "p99.99"
    );
    for (name, floor) in &report.floors {
        let latency = &floor.latency;
        let _ = writeln!(
            text,
            "{name:<30}{:>12.0}{:>12.1}{:>10.2}{:>10.1}{:>10.1}",
            floor.iops, floor.mib_per_second, latency.mean_us, latency.p50_us, latency.p99_99_us
        );
    }
    for missing in &report.missing {
        let _ = writeln!(text, "not measured: {missing}");
    }
    text
}
