//! Measures the write amplification of copy-forward against the formula and its bound.
//!
//! For each load and over-provisioning, a new pool on a memory disk with one volume is filled. The
//! load overwrites it until the working set has been passed often enough that nothing of the
//! initial state is left. Then several more passages are measured separately, so that an unsteady
//! state is visible.
//!
//! **Over-provisioning** is derived from what happened, not from the request. The capacity of the
//! working set is the average number of data blocks that were appended to a segment, times W; the
//! live blocks are those of the volume. So blocks for catalogs, headers and the room reserved for
//! events are neither live nor spare; they have their own columns.

use std::fmt::Write;

use clap::Args;
use serde::{Deserialize, Serialize};
use varve::bdev::{BLOCK_BYTES, MemoryDisk};
use varve::log::Recycling;
use varve::log::format::ENTRIES_PER_RECORD;
use varve::text::units::SizeBytes;
use varve::volume::{PoolStats, SegmentState};

use crate::bed::{Bed, Shape};
use crate::error::PerfError;
use crate::formula;
use crate::machine::Machine;
use crate::overwrite::Overwrite;
use crate::plot::Plot;

/// The greatest deviation of write amplification under uniform load from the formula.
pub const UNIFORM_TOLERANCE: f64 = 0.05;
/// Writes between two checks of the cleaner's position.
const LOOK_WRITES: u64 = 1024;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Over-provisioning, spare over live blocks in percent.
    #[arg(long, value_name = "PERCENT,...", value_delimiter = ',', default_value = "10,28,50,100", value_parser = percent)]
    pub op: Vec<f64>,
    /// Segments of the working set.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(2..=65_536))]
    pub segments: u64,
    /// Size of a segment.
    #[arg(long, default_value = "4MiB", value_name = "SIZE")]
    pub segment_size: SizeBytes,
    /// Loads.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "uniform,sequential,eighty-twenty,hot-cold"
    )]
    pub load: Vec<Overwrite>,
    /// Passages of the working set before measuring.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub settle: u64,
    /// Passages of the working set that are measured.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub passages: u64,
    /// Writes in flight; as many as a record holds fill records.
    #[arg(long, default_value_t = ENTRIES_PER_RECORD as u64, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub queue_depth: u64,
    /// Of the random numbers.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the plot to a file as SVG.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<std::path::PathBuf>,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if (1.0..=1000.0).contains(&percent) => Ok(percent),
        _ => Err("a number of percent from 1 to 1000 is needed".to_owned()),
    }
}

/// One load at one over-provisioning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The load.
    pub load: Overwrite,
    /// Requested over-provisioning, in percent, relative to the most that segments could hold.
    pub op_asked_percent: f64,
    /// Actual over-provisioning: see the module's documentation.
    pub op_percent: f64,
    /// Data blocks appended over data blocks written.
    pub amplification: f64,
    /// The least of the single passages.
    pub least: f64,
    /// The greatest of the single passages.
    pub most: f64,
    /// The formula's value, under uniform load.
    pub formula: Option<f64>,
    /// The value that it cannot exceed.
    pub bound: f64,
    /// Whether the bars hold: within 5 % of the formula, and not above the bound.
    pub passed: bool,
    /// How many segments younger the victim was than the one that must leave, on average: blocks
    /// that are copied earlier than necessary had less time to become obsolete.
    pub ahead_segments: f64,
    /// Header blocks over data blocks written.
    pub headers: f64,
    /// Trailer blocks over data blocks written.
    pub trailers: f64,
    /// The share of a segment's capacity that held no data of hosts, because it was reserved for
    /// events or too short for the next command. In percent.
    pub unused_percent: f64,
    /// Data blocks that hosts wrote during the measurement.
    pub host_blocks: u64,
}

/// The whole result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of varve.
    pub version: String,
    /// The machine; the figures do not depend on it.
    pub machine: Machine,
    /// Segments of the working set.
    pub segments: u64,
    /// Blocks of a segment.
    pub segment_blocks: u64,
    /// Passages that were measured.
    pub passages: u64,
    /// Writes in flight.
    pub queue_depth: u64,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Runs all measurements; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// A shape that no pool can have, no memory, a write that failed.
pub fn run(options: &Options, mut on_step: impl FnMut(&str)) -> Result<Report, PerfError> {
    let shape = Shape {
        segment_blocks: options.segment_size.0 / BLOCK_BYTES as u64,
        segments: options.segments,
        recycling: Recycling::Discard,
    };
    let mut rows = Vec::new();
    for &load in &options.load {
        for &op in &options.op {
            on_step(&format!("{} at {op} %", load.name()));
            rows.push(measure(options, shape, load, op)?);
        }
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::here(),
        segments: shape.segments,
        segment_blocks: shape.segment_blocks,
        passages: options.passages,
        queue_depth: options.queue_depth,
        rows,
    })
}

fn measure(options: &Options, shape: Shape, load: Overwrite, op: f64) -> Result<Row, PerfError> {
    let room = (shape.segments * shape.data_blocks_max()?) as f64;
    let live = (room / (1.0 + op / 100.0)) as u64;
    let disk = MemoryDisk::try_new(shape.device_blocks())?;
    let bed = Bed::create(Box::new(disk.open("memory")), shape, live, false)?;
    bed.fill(live)?;
    let mut blocks = load.blocks(live, options.seed);
    let mut passage = |segments: u64, ahead: &mut Vec<f64>| -> Result<(PoolStats, PoolStats), PerfError> {
        let before = bed.pool.stats();
        let end_lsn = before.head_lsn + segments * shape.segment_blocks;
        loop {
            let mut left = LOOK_WRITES;
            bed.write_all(options.queue_depth as usize, || {
                left = left.checked_sub(1)?;
                Some(blocks.next_block())
            })?;
            ahead.extend(ahead_segments(&bed));
            let after = bed.pool.stats();
            if after.head_lsn >= end_lsn {
                return Ok((before, after));
            }
        }
    };
    passage(options.settle * shape.segments, &mut Vec::new())?;
    let mut ahead = Vec::new();
    let mut passages = Vec::new();
    for _ in 0..options.passages {
        passages.push(passage(shape.segments, &mut ahead)?);
    }
    let singles = passages.iter().map(|(before, after)| amplification(before, after));
    let (least, most) =
        singles.fold((f64::MAX, 0.0_f64), |(least, most), one| (least.min(one), most.max(one)));
    let (Some((before, _)), Some((_, after))) = (passages.first(), passages.last()) else {
        return Err(PerfError::shape("at least one passage is measured"));
    };
    let host_blocks = after.host_written_blocks - before.host_written_blocks;
    let data_blocks = host_blocks + after.copied_blocks - before.copied_blocks;
    let segments = (after.head_lsn - before.head_lsn) as f64 / shape.segment_blocks as f64;
    let per_segment = data_blocks as f64 / segments;
    let op_measured = per_segment * shape.segments as f64 / live as f64 - 1.0;
    let amplification = amplification(before, after);
    let formula = (load == Overwrite::Uniform).then(|| formula::uniform(op_measured));
    let bound = formula::bound(op_measured);
    let near = formula.is_none_or(|formula| (amplification / formula - 1.0).abs() <= UNIFORM_TOLERANCE);
    let over_host = |blocks: u64| blocks as f64 / host_blocks as f64;
    Ok(Row {
        load,
        op_asked_percent: op,
        op_percent: op_measured * 100.0,
        amplification,
        least,
        most,
        formula,
        bound,
        passed: near && amplification <= bound,
        ahead_segments: ahead.iter().sum::<f64>() / ahead.len().max(1) as f64,
        headers: over_host(after.header_blocks - before.header_blocks),
        trailers: over_host(after.trailer_blocks - before.trailer_blocks),
        unused_percent: 100.0 * (1.0 - per_segment / shape.data_blocks_max()? as f64),
        host_blocks,
    })
}

fn amplification(before: &PoolStats, after: &PoolStats) -> f64 {
    let host = after.host_written_blocks - before.host_written_blocks;
    (host + after.copied_blocks - before.copied_blocks) as f64 / host.max(1) as f64
}

/// How many segments younger the oldest segment with live blocks is than the one that leaves next;
/// `None` while none has to leave.
fn ahead_segments(bed: &Bed) -> Option<f64> {
    let working_set = bed.pool.info().working_set_segments;
    let segments = bed.pool.segments();
    let current = segments.iter().find(|segment| segment.state == SegmentState::Current)?.sequence?;
    let victim = segments.iter().find(|segment| segment.live_blocks > 0)?.sequence?;
    Some(victim as f64 - current.checked_sub(working_set)? as f64)
}

/// The rows as a table, and the plot.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "working set of {} segments of {} blocks, QD{}, {} passages measured",
        report.segments, report.segment_blocks, report.queue_depth, report.passages
    );
    let _ = writeln!(
        text,
        "{:<12}{:>8}{:>8}{:>8}{:>16}{:>9}{:>8}{:>8}{:>8}{:>7}{:>9}{:>9}{:>8}{:>6}",
        "load",
        "OP ask",
        "OP %",
        "WA",
        "least to most",
        "formula",
        "ratio",
        "bound",
        "ratio",
        "ahead",
        "headers",
        "trailers",
        "unused",
        "bar"
    );
    for row in &report.rows {
        let formula = row.formula.map_or("-".to_owned(), |formula| format!("{formula:.3}"));
        let ratio =
            row.formula.map_or("-".to_owned(), |formula| format!("{:.3}", row.amplification / formula));
        let _ = writeln!(
            text,
            "{:<12}{:>8.0}{:>8.2}{:>8.3}{:>16}{formula:>9}{ratio:>8}{:>8.2}{:>8.3}{:>7.2}{:>9.3}{:>9.3}{:>7.2}%{:>6}",
            row.load.name(),
            row.op_asked_percent,
            row.op_percent,
            row.amplification,
            format!("{:.3} to {:.3}", row.least, row.most),
            row.bound,
            row.amplification / row.bound,
            row.ahead_segments,
            row.headers,
            row.trailers,
            row.unused_percent,
            if row.passed { "yes" } else { "NO" }
        );
    }
    text.push('\n');
    text + &plot(report).text()
}

/// Write amplification over over-provisioning.
pub fn plot(report: &Report) -> Plot<'static> {
    let points = |load: Overwrite| {
        let rows = report.rows.iter().filter(move |row| row.load == load);
        rows.map(|row| (row.op_percent, row.amplification)).collect::<Vec<_>>()
    };
    let loads = [
        (Overwrite::HotCold, 'c'),
        (Overwrite::EightyTwenty, '8'),
        (Overwrite::Sequential, 's'),
        (Overwrite::Uniform, 'O'),
    ];
    Plot {
        title: "write amplification (data blocks appended over written) over over-provisioning",
        x_name: "OP %",
        x_min: 0.0,
        x_max: report.rows.iter().map(|row| row.op_percent * 1.1).fold(20.0, f64::max),
        y_max: 20.0,
        curves: vec![
            ('-', "bound (1+OP)/OP", |op| formula::bound(op / 100.0)),
            ('.', "formula", |op| formula::uniform(op / 100.0)),
        ],
        points: loads.iter().map(|&(load, mark)| (mark, load.name(), points(load))).collect(),
    }
}
