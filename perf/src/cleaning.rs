//! Measures what copy-forward costs the writes of hosts (R18): latencies while cleaning is steady,
//! beside those of the same pool without cleaning.
//!
//! The measurement drives both pools directly. They hold the same blocks and get the same writes of
//! 4 KiB. The log of the pool without cleaning is long enough to keep everything. The two are
//! measured in turns, several times, so that other work on the machine affects both; the ratios per
//! round are reported as well as their median.
//!
//! **Pace** is measured in a separate pass, because observing it takes time: the copies between any
//! two appends of hosts, and the copies for each thousand writes.
//!
//! A write's latency counts from the first attempt to submit it, so it includes waiting for room.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::{Deserialize, Serialize};
use varve::bdev::{BLOCK_BYTES, Bdev, FileOptions, MemoryDisk, open_file};
use varve::log::Recycling;
use varve::log::format::ENTRIES_PER_RECORD;
use varve::text::units::SizeBytes;

use crate::bed::{Bed, Shape};
use crate::error::PerfError;
use crate::latency::{Latency, Recorder};
use crate::machine::{Machine, pinned, two_cores};
use crate::overwrite::{BlockNumbers, Overwrite};
use crate::plot::sparkline;

/// The bar: p99.9 while cleaning over p99.9 without.
pub const P99_9_RATIO_MAX: f64 = 2.0;
/// Copies are counted for each group of this many writes.
const SPAN_WRITES: u64 = 1000;
/// Cleaning is steady after this many passages of the working set.
const SETTLE_PASSAGES: u64 = 4;
/// Columns of a timeline.
const COLUMNS: usize = 100;
/// Bytes of one write when a file is prepared.
const PREPARE_BYTES: usize = 1 << 20;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Over-provisioning, spare over live blocks in percent.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..=1000))]
    pub op: u64,
    /// Segments of the working set.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(2..=65_536))]
    pub segments: u64,
    /// Size of a segment.
    #[arg(long, default_value = "16MiB", value_name = "SIZE")]
    pub segment_size: SizeBytes,
    /// Loads.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "uniform,hot-cold")]
    pub load: Vec<Overwrite>,
    /// Writes in flight.
    #[arg(long, value_delimiter = ',', default_value = "1,8", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub queue_depth: Vec<u16>,
    /// Writes of one measurement.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    pub writes: u64,
    /// How often each pair is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub repeat: u8,
    /// Also on a file with this path, which must not exist; it is removed afterwards.
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Of the random numbers.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A pair of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Without cleaning.
    pub without: Latency,
    /// While cleaning.
    pub cleaning: Latency,
    /// p99.9 while cleaning over p99.9 without.
    pub p99_9_ratio: f64,
}

/// One load at one queue depth on one backing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `memory` or `file`.
    pub backing: String,
    /// The load.
    pub load: Overwrite,
    /// Writes in flight.
    pub queue_depth: u16,
    /// The measurements.
    pub pairs: Vec<Pair>,
    /// The median of their ratios.
    pub p99_9_ratio: f64,
    /// Whether it is within the bar.
    pub passed: bool,
    /// Data blocks appended over data blocks written, in the pass that measures the pace.
    pub amplification: f64,
    /// The most copies between two appends of hosts.
    pub longest_run: u64,
    /// Copies for each thousand writes.
    pub copies: Vec<u64>,
}

/// The whole result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of varve.
    pub version: String,
    /// The machine.
    pub machine: Machine,
    /// Over-provisioning in percent.
    pub op_percent: u64,
    /// Segments of the working set.
    pub segments: u64,
    /// Blocks of a segment.
    pub segment_blocks: u64,
    /// Writes of one measurement.
    pub writes: u64,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Runs all measurements; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// A shape that no pool can have, no memory, a file that exists, a write that failed.
pub fn run(options: &Options, on_step: impl FnMut(&str)) -> Result<Report, PerfError> {
    let mut on_step = on_step;
    let rows = pinned(two_cores().map(|cores| cores.1), || {
        let mut rows = Vec::new();
        for &load in &options.load {
            rows.extend(measure(options, load, None, &mut on_step)?);
        }
        for (&load, path) in options.load.iter().zip(options.file.iter().cycle()) {
            rows.extend(measure(options, load, Some(path), &mut on_step)?);
        }
        Ok::<_, PerfError>(rows)
    })?;
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::here(),
        op_percent: options.op,
        segments: options.segments,
        segment_blocks: options.segment_size.0 / BLOCK_BYTES as u64,
        writes: options.writes,
        rows,
    })
}

/// What a pool of this measurement is stored on.
struct Backing {
    /// The file, if there is one; it is removed at the end.
    file: Option<PathBuf>,
}

impl Backing {
    /// A device of zeroes whose blocks have all been written, so that none is allocated during the
    /// measurement.
    fn make(
        path: Option<&Path>,
        suffix: &str,
        len_blocks: u64,
    ) -> Result<(Backing, Box<dyn Bdev>), PerfError> {
        let Some(path) = path else {
            let device = MemoryDisk::try_new_resident(len_blocks)?.open("memory");
            return Ok((Backing { file: None }, Box::new(device)));
        };
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let path = PathBuf::from(name);
        let failed = PerfError::io("prepare a file");
        let mut file = std::fs::File::create_new(&path).map_err(failed)?;
        let backing = Backing { file: Some(path.clone()) };
        let zeroes = vec![0; PREPARE_BYTES];
        let parts = (len_blocks * BLOCK_BYTES as u64).div_ceil(PREPARE_BYTES as u64);
        (0..parts)
            .try_for_each(|_| std::io::Write::write_all(&mut file, &zeroes))
            .and_then(|()| file.sync_all())
            .map_err(PerfError::io("prepare a file"))?;
        drop(file);
        Ok((backing, open_file(&path, &FileOptions::default())?))
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Some(path) = &self.file {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn measure(
    options: &Options,
    load: Overwrite,
    path: Option<&Path>,
    on_step: &mut impl FnMut(&str),
) -> Result<Vec<Row>, PerfError> {
    let backing = if path.is_some() { "file" } else { "memory" };
    let segment_blocks = options.segment_size.0 / BLOCK_BYTES as u64;
    let shape = Shape { segment_blocks, segments: options.segments, recycling: Recycling::Discard };
    let live = shape.segments * shape.data_blocks_max()? * 100 / (100 + options.op);
    // Each write at depth 1 takes two blocks; segments have trailers; hosts may not use the last
    // segments.
    let segments = (live + 2 * options.writes) * 11 / 10 / segment_blocks + 4;
    let endless = Shape { segments, recycling: Recycling::Never, ..shape };

    on_step(&format!("{backing} {}: filling", load.name()));
    let (_kept, device) = Backing::make(path, "", shape.device_blocks())?;
    let bed = Bed::create(device, shape, live, false)?;
    bed.fill(live)?;
    let mut blocks = load.blocks(live, options.seed);
    settle(&bed, &mut blocks, ENTRIES_PER_RECORD, SETTLE_PASSAGES * shape.segments * segment_blocks)?;
    let mut rows = Vec::new();
    for &depth in &options.queue_depth {
        let name = format!("{backing} {} QD{depth}", load.name());
        on_step(&format!("{name}: settling"));
        settle(&bed, &mut blocks, depth.into(), shape.segments * segment_blocks)?;
        let mut pairs = Vec::new();
        for turn in 1..=options.repeat {
            on_step(&format!("{name}: {turn} of {}", options.repeat));
            let without = {
                let (_kept, device) = Backing::make(path, ".beside", endless.device_blocks())?;
                let beside = Bed::create(device, endless, live, false)?;
                beside.fill(live)?;
                let mut blocks = load.blocks(live, options.seed + u64::from(turn));
                timed(&beside, &mut blocks, options.writes, depth.into())?
            };
            let cleaning = timed(&bed, &mut blocks, options.writes, depth.into())?;
            let p99_9_ratio = cleaning.p99_9_us / without.p99_9_us.max(f64::MIN_POSITIVE);
            pairs.push(Pair { without, cleaning, p99_9_ratio });
        }
        on_step(&format!("{name}: pace"));
        let before = bed.pool.stats();
        let (longest_run, copies) = pace(&bed, &mut blocks, options.writes, depth.into())?;
        let after = bed.pool.stats();
        let host = (after.host_written_blocks - before.host_written_blocks) as f64;
        let p99_9_ratio = median(pairs.iter().map(|pair| pair.p99_9_ratio));
        rows.push(Row {
            backing: backing.to_owned(),
            load,
            queue_depth: depth,
            pairs,
            p99_9_ratio,
            passed: p99_9_ratio <= P99_9_RATIO_MAX,
            amplification: 1.0 + (after.copied_blocks - before.copied_blocks) as f64 / host,
            longest_run,
            copies,
        });
    }
    Ok(rows)
}

/// Overwrites blocks until the log is `len_blocks` longer.
fn settle(bed: &Bed, blocks: &mut BlockNumbers, depth: usize, len_blocks: u64) -> Result<(), PerfError> {
    let end_lsn = bed.pool.stats().head_lsn + len_blocks;
    while bed.pool.stats().head_lsn < end_lsn {
        let mut left = SPAN_WRITES;
        bed.write_all(depth, || {
            left = left.checked_sub(1)?;
            Some(blocks.next_block())
        })?;
    }
    Ok(())
}

/// The latencies of this many writes.
fn timed(bed: &Bed, blocks: &mut BlockNumbers, writes: u64, depth: usize) -> Result<Latency, PerfError> {
    let mut recorder = Recorder::new();
    let mut started = vec![Instant::now(); depth];
    let mut free: Vec<usize> = (0..depth).collect();
    // A write that found no room keeps its slot and its start time.
    let mut waiting: Option<(usize, u64)> = None;
    let mut left = writes;
    while left > 0 || waiting.is_some() || bed.in_flight() > 0 {
        loop {
            let next = waiting.take().or_else(|| {
                let place = if left > 0 { free.pop() } else { None }?;
                left -= 1;
                let block = blocks.next_block();
                started[place] = Instant::now();
                Some((place, block))
            });
            let Some((place, block)) = next else { break };
            if !bed.submit(block, 1, place as u64) {
                waiting = next;
                break;
            }
        }
        bed.pool.poll();
        while let Some(completion) = bed.pop()? {
            let place = completion.tag as usize;
            recorder.record(started[place].elapsed());
            free.push(place);
        }
    }
    Ok(recorder.latency())
}

/// The most copies between two appends of hosts, and copies for each thousand writes.
fn pace(
    bed: &Bed,
    blocks: &mut BlockNumbers,
    writes: u64,
    depth: usize,
) -> Result<(u64, Vec<u64>), PerfError> {
    let copied = || bed.pool.stats().copied_blocks;
    let (mut longest, mut copies) = (0, Vec::new());
    let mut last = copied();
    let mut span_start = last;
    for write in 1..=writes {
        let block = blocks.next_block();
        loop {
            if bed.in_flight() < depth && bed.submit(block, 1, 0) {
                break;
            }
            bed.pool.poll();
            while bed.pop()?.is_some() {}
        }
        let now = copied();
        longest = longest.max(now - last);
        last = now;
        if write % SPAN_WRITES == 0 {
            copies.push(now - span_start);
            span_start = now;
        }
    }
    bed.write_all(depth, || None)?;
    Ok((longest, copies))
}

/// The middle value, or the mean of the two middle values; 0 without values.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count => f64::midpoint(values[(count - 1) / 2], values[count / 2]),
    }
}

/// The rows as a table, each with its timeline.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "OP {} %, working set of {} segments of {} blocks, {} writes each; latencies in us, medians; cleaning beside without",
        report.op_percent, report.segments, report.segment_blocks, report.writes
    );
    let _ = writeln!(
        text,
        "{:<20}{:>15}{:>15}{:>17}{:>19}{:>7}{:>15}{:>7}{:>6}{:>6}",
        "load", "p50", "p99", "p99.9", "max", "ratio", "least to most", "WA", "run", "bar"
    );
    for row in &report.rows {
        let beside = |of: fn(&Latency) -> f64| {
            let cleaning = median(row.pairs.iter().map(|pair| of(&pair.cleaning)));
            let without = median(row.pairs.iter().map(|pair| of(&pair.without)));
            format!("{cleaning:.1} / {without:.1}")
        };
        let ratios = row.pairs.iter().map(|pair| pair.p99_9_ratio);
        let (least, most) =
            ratios.fold((f64::MAX, 0.0_f64), |(least, most), one| (least.min(one), most.max(one)));
        let _ = writeln!(
            text,
            "{:<20}{:>15}{:>15}{:>17}{:>19}{:>7.2}{:>15}{:>7.3}{:>6}{:>6}",
            format!("{} {} QD{}", row.backing, row.load.name(), row.queue_depth),
            beside(|latency| latency.p50_us),
            beside(|latency| latency.p99_us),
            beside(|latency| latency.p99_9_us),
            beside(|latency| latency.max_us),
            row.p99_9_ratio,
            format!("{least:.2} to {most:.2}"),
            row.amplification,
            row.longest_run,
            if row.passed { "yes" } else { "NO" }
        );
    }
    let _ = writeln!(text, "\ncopies for each {SPAN_WRITES} writes, over time");
    for row in &report.rows {
        let least = row.copies.iter().min().copied().unwrap_or(0);
        let most = row.copies.iter().max().copied().unwrap_or(0);
        let _ = writeln!(
            text,
            "{} {} QD{}: {least} to {most}\n  {}",
            row.backing,
            row.load.name(),
            row.queue_depth,
            sparkline(&row.copies, COLUMNS)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle() {
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 2.0, 3.0].into_iter()) - 2.5).abs() < f64::EPSILON);
        assert!(median(std::iter::empty()).abs() < f64::EPSILON);
    }
}
