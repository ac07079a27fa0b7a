//! Measures what reading a clone at full speed costs the hosts of its volume (R23, R217): latencies
//! of the volume beside such a reader, beside those next to a reader of an ordinary volume, and
//! alone.
//!
//! The measurement drives one pool directly. It holds a volume, a clone of its past, of which every
//! block was overwritten in the volume since, and a twin: a volume of the same size that was
//! written block by block. A reader keeps its commands in flight at all times; the host has one
//! command in flight, a write or a read of 4 KiB. All share one core, so a reader takes time
//! whatever it reads: what counts is that a clone takes no more of it than the twin.
//!
//! The three are measured in turns, several times, so that other work on the machine affects all;
//! the bar is the median of the ratios per round.

use std::fmt::Write;
use std::rc::Rc;
use std::time::Instant;

use clap::Args;
use serde::{Deserialize, Serialize};
use varve::bdev::{BLOCK_BYTES, MemoryDisk};
use varve::log::Recycling;
use varve::text::units::SizeBytes;
use varve::volume::{CreateVolume, Point, Request, Sink, Submitted, VolumeId};

use crate::bed::{Bed, Shape, VOLUME, wait};
use crate::cleaning::median;
use crate::error::PerfError;
use crate::latency::{Latency, Recorder};
use crate::machine::{Machine, pinned, two_cores};
use crate::rng::Rng;

/// The bar: p99 of the volume beside a reader of its clone, over p99 beside a reader of the twin.
pub const P99_RATIO_MAX: f64 = 1.1;
/// Blocks of a segment: 16 MiB.
const SEGMENT_BLOCKS: u64 = 4096;
/// Writes in flight while volumes are filled: full records.
const FILL_DEPTH: usize = 128;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Size of the volume, of its clone and of the twin.
    #[arg(long, default_value = "256MiB", value_name = "SIZE")]
    pub volume_size: SizeBytes,
    /// Reads of 4 KiB that the reader keeps in flight.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub reader_depth: u16,
    /// Commands of the host in one measurement.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    pub commands: u64,
    /// Rounds.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub repeat: u8,
    /// Of the random numbers.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// One round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Without a reader.
    pub alone: Latency,
    /// Beside a reader of the twin.
    pub twin: Latency,
    /// Beside a reader of the clone.
    pub clone: Latency,
    /// Reads that the reader of the twin got for each command of the host.
    pub twin_reads: f64,
    /// The same of the clone.
    pub clone_reads: f64,
}

/// The rounds of one kind of command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `write` or `read`.
    pub command: String,
    /// The rounds.
    pub rounds: Vec<Round>,
    /// The median of p99 beside the clone over p99 beside the twin.
    pub p99_ratio: f64,
    /// Whether it is within the bar.
    pub passed: bool,
}

/// The whole result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of varve.
    pub version: String,
    /// The machine.
    pub machine: Machine,
    /// Reads in flight of the reader.
    pub reader_depth: u16,
    /// Commands of the host in one measurement.
    pub commands: u64,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Runs all measurements; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// No memory, a command that failed.
pub fn run(options: &Options, mut on_step: impl FnMut(&str)) -> Result<Report, PerfError> {
    let rows = pinned(two_cores().map(|cores| cores.1), || {
        on_step("filling");
        let stage = Stage::new(options)?;
        let mut rng = Rng::new(options.seed);
        [false, true]
            .into_iter()
            .map(|is_read| {
                let command = if is_read { "read" } else { "write" };
                let mut rounds = Vec::new();
                for round in 1..=options.repeat {
                    on_step(&format!("{command}: {round} of {}", options.repeat));
                    rounds.push(stage.round(options, is_read, &mut rng)?);
                }
                let ratios = rounds.iter().map(|round| round.clone.p99_us / round.twin.p99_us);
                let p99_ratio = median(ratios);
                let passed = p99_ratio <= P99_RATIO_MAX;
                Ok(Row { command: command.to_owned(), rounds, p99_ratio, passed })
            })
            .collect::<Result<Vec<_>, PerfError>>()
    })?;
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::here(),
        reader_depth: options.reader_depth,
        commands: options.commands,
        rows,
    })
}

/// The pool with its three volumes.
struct Stage {
    bed: Bed,
    clone: VolumeId,
    twin: VolumeId,
    len_blocks: u64,
}

impl Stage {
    fn new(options: &Options) -> Result<Self, PerfError> {
        let len_blocks = (options.volume_size.0 / BLOCK_BYTES as u64).max(1);
        let writes_blocks = 2 * options.commands * 3 * u64::from(options.repeat);
        let segments = (4 * len_blocks + writes_blocks) * 11 / 10 / SEGMENT_BLOCKS + 8;
        let shape = Shape { segment_blocks: SEGMENT_BLOCKS, segments, recycling: Recycling::Never };
        let disk = MemoryDisk::try_new(shape.device_blocks())?;
        let bed = Bed::create(Box::new(disk.open("memory")), shape, len_blocks, true)?;
        bed.fill(len_blocks)?;
        let pool = || Rc::clone(&bed.pool);
        wait(&bed.pool, pool().create_snapshot("before".to_owned()))?;
        let at = Point::Snapshot("before".to_owned());
        let cloning = pool().clone_volume(VOLUME.to_owned(), at, "clone".to_owned(), true);
        let clone = wait(&bed.pool, cloning)?.volume.id;
        let mut rng = Rng::new(options.seed);
        let mut left = len_blocks;
        bed.write_all(FILL_DEPTH, || {
            left = left.checked_sub(1)?;
            Some(left)
        })?;
        let request = CreateVolume {
            name: "twin".to_owned(),
            size_bytes: len_blocks * BLOCK_BYTES as u64,
            uuid: None,
            thin: true,
        };
        let twin = wait(&bed.pool, pool().create_volume(request))?.id;
        let mut written = Bed::of(pool(), twin);
        let mut payload = vec![0; BLOCK_BYTES];
        rng.fill(&mut payload);
        written.set_payload(payload);
        written.fill(len_blocks)?;
        Ok(Stage { bed, clone, twin, len_blocks })
    }

    fn round(&self, options: &Options, is_read: bool, rng: &mut Rng) -> Result<Round, PerfError> {
        let depth = usize::from(options.reader_depth);
        let mut timed = |reader: Option<VolumeId>| {
            let reader = reader.map(|volume| Reader { volume, sink: Sink::new(), depth });
            self.timed(reader.as_ref(), options.commands, is_read, rng)
        };
        let (alone, _) = timed(None)?;
        let (twin, twin_reads) = timed(Some(self.twin))?;
        let (clone, clone_reads) = timed(Some(self.clone))?;
        Ok(Round { alone, twin, clone, twin_reads, clone_reads })
    }

    /// The latencies of the host's commands, and the reads of the reader for each of them.
    fn timed(
        &self,
        reader: Option<&Reader>,
        commands: u64,
        is_read: bool,
        rng: &mut Rng,
    ) -> Result<(Latency, f64), PerfError> {
        let mut recorder = Recorder::new();
        let host = Sink::new();
        let payload = vec![0xa5_u8; BLOCK_BYTES];
        let mut reads = 0;
        for _ in 0..commands {
            let block = rng.below(self.len_blocks);
            let data = [&payload[..]];
            let request = if is_read {
                Request::Read { block, len_blocks: 1 }
            } else {
                Request::Write { block, data: &data, force_unit_access: false }
            };
            let started = Instant::now();
            let mut is_queued = false;
            loop {
                is_queued = is_queued
                    || self.bed.pool.submit(self.bed.volume, &request, 0, &host) == Submitted::Queued;
                self.bed.pool.poll();
                if let Some(completion) = host.pop() {
                    completion.result.map_err(PerfError::Command)?;
                    recorder.record(started.elapsed());
                    break;
                }
                if let Some(reader) = reader {
                    reads += reader.go_on(&self.bed, self.len_blocks, rng)?;
                }
            }
            if let Some(reader) = reader {
                reads += reader.go_on(&self.bed, self.len_blocks, rng)?;
            }
        }
        while reader.is_some_and(|reader| reader.sink.outstanding() > 0) {
            self.bed.pool.poll();
            while reader.is_some_and(|reader| reader.sink.pop().is_some()) {}
        }
        Ok((recorder.latency(), reads as f64 / commands as f64))
    }
}

/// A host that reads random blocks as fast as it can.
struct Reader {
    volume: VolumeId,
    sink: Rc<Sink>,
    depth: usize,
}

impl Reader {
    /// Takes what is complete, and submits as many new reads. Returns how many were complete.
    fn go_on(&self, bed: &Bed, len_blocks: u64, rng: &mut Rng) -> Result<u64, PerfError> {
        let mut complete = 0;
        while let Some(completion) = self.sink.pop() {
            completion.result.map_err(PerfError::Command)?;
            complete += 1;
        }
        while self.sink.outstanding() < self.depth {
            let request = Request::Read { block: rng.below(len_blocks), len_blocks: 1 };
            if bed.pool.submit(self.volume, &request, 0, &self.sink) != Submitted::Queued {
                break;
            }
        }
        Ok(complete)
    }
}

/// The result as text.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{} commands of the host each, reader with {} reads in flight; latencies in us, medians of {} rounds",
        report.commands,
        report.reader_depth,
        report.rows.first().map_or(0, |row| row.rounds.len())
    );
    let _ = writeln!(
        text,
        "{:<8}{:>22}{:>22}{:>22}{:>8}{:>15}{:>16}{:>6}",
        "command",
        "alone p50 p99",
        "beside twin",
        "beside clone",
        "ratio",
        "least to most",
        "reads each",
        "bar"
    );
    for row in &report.rows {
        let of = |figure: fn(&Round) -> f64| median(row.rounds.iter().map(figure));
        let pair = |p50: fn(&Round) -> f64, p99: fn(&Round) -> f64| format!("{:.1} {:.1}", of(p50), of(p99));
        let ratios = row.rounds.iter().map(|round| round.clone.p99_us / round.twin.p99_us);
        let (least, most) =
            ratios.fold((f64::MAX, 0.0_f64), |(least, most), one| (least.min(one), most.max(one)));
        let _ = writeln!(
            text,
            "{:<8}{:>22}{:>22}{:>22}{:>8.3}{:>15}{:>16}{:>6}",
            row.command,
            pair(|round| round.alone.p50_us, |round| round.alone.p99_us),
            pair(|round| round.twin.p50_us, |round| round.twin.p99_us),
            pair(|round| round.clone.p50_us, |round| round.clone.p99_us),
            row.p99_ratio,
            format!("{least:.2} to {most:.2}"),
            format!("{:.1} / {:.1}", of(|round| round.clone_reads), of(|round| round.twin_reads)),
            if row.passed { "yes" } else { "NO" }
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_measured_beside_readers_of_a_clone_and_of_a_twin() {
        let options =
            Options { volume_size: SizeBytes(4 << 20), reader_depth: 8, commands: 200, repeat: 2, seed: 3 };
        let report = run(&options, |_| {}).expect("a small one");
        assert_eq!(report.rows.iter().map(|row| row.command.as_str()).collect::<Vec<_>>(), ["write", "read"]);
        for row in &report.rows {
            assert_eq!(row.rounds.len(), 2);
            assert!(
                row.rounds.iter().all(|round| round.clone_reads > 0.0 && round.twin_reads > 0.0),
                "{row:?}"
            );
            assert!(row.rounds.iter().all(|round| round.alone.p99_us > 0.0), "{row:?}");
        }
        assert!(table(&report).contains("beside clone"));
    }
}
