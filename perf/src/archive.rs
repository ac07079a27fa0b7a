//! Measures the throughput of the archivist beside the `zstd` command line at the same level, on
//! the same bytes and one core.
//!
//! The archivist reads segments from a memory disk, checks each block's CRC32C, compresses frame by
//! frame with XXH64 sums, hashes the object with BLAKE3, uploads it to a directory store and
//! verifies it by each policy. `zstd -T1` reads the same bytes from a file in the page cache and
//! writes to `/dev/null`; the bar is relative to this run. A second `zstd` run writes a file where
//! the store is, as the archivist must. All are pinned to the same core and measured in turns. The
//! best of each is compared, because other work on the machine can only slow a run down; the median
//! of the ratios per round is also shown.

use std::cell::RefCell;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use varve::archive::object::{ClaimId, Compressor, ObjectId};
use varve::archive::service::{
    ArchiveJob, BdevSource, READS_IN_FLIGHT_DEFAULT, VerifyPolicy, WorkerOptions, archive,
};
use varve::archive::store::{DirectoryOptions, DirectoryStore};
use varve::bdev::{BLOCK_BYTES, MemoryDisk, SharedBdev};
use varve::dma::DmaPool;
use varve::log::format::ENTRIES_PER_RECORD;
use varve::log::geometry::SEGMENT_BLOCKS_DEFAULT;
use varve::log::load::load_segment;
use varve::log::{Environment, Recycling, SegmentSeq, SharedLog, recover};
use varve::options::VerifyChoice;
use varve::reactor::block_on;
use varve::volume::VolumeError;

use crate::bed::{Bed, Shape, wait};
use crate::cleaning::median;
use crate::error::PerfError;
use crate::machine::{Machine, pinned, two_cores};
use crate::rng::Rng;

/// DMA memory for reading entries, in bytes.
const DMA_BYTES: usize = 64 << 20;
/// The words in the lines of text.
const WORDS: [&str; 8] =
    ["accepted", "finished", "queued", "redirected", "refused", "retried", "started", "timed out"];
/// The bar: archivist over `zstd`, at least.
pub const RATIO_MIN: f64 = 0.9;
/// The default directory for files: in memory.
const MEMORY_DIRECTORY: &str = "/dev/shm";

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Compression levels.
    #[arg(long, value_delimiter = ',', default_value = "1,3", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub level: Vec<i32>,
    /// What the blocks hold.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Content::Random, Content::Mixed, Content::Text])]
    pub content: Vec<Content>,
    /// How objects are verified.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [VerifyChoice::Digest, VerifyChoice::Tail])]
    pub verify: Vec<VerifyChoice>,
    /// Segments of 64 MiB.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub segments: u64,
    /// How often each pair is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub repeat: u8,
    /// Where a directory for the files is made, and removed; /dev/shm where there is one.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// What the blocks hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Nothing compresses.
    Random,
    /// Text with much that does not repeat: about half remains.
    Mixed,
    /// Text as of a log: about a quarter remains.
    Text,
}

/// One content at one level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What the blocks hold.
    pub content: Content,
    /// The level.
    pub level: i32,
    /// How objects were verified.
    pub verify: VerifyPolicy,
    /// Uncompressed bytes over bytes of the objects.
    pub compression: f64,
    /// MiB of blocks per second, for each repetition.
    pub archive_mib_s: Vec<f64>,
    /// The same for `zstd`.
    pub zstd_mib_s: Vec<f64>,
    /// The same for `zstd` when it writes a file where the store is.
    pub zstd_file_mib_s: Vec<f64>,
    /// The archivist's best over the best of `zstd`.
    pub ratio: f64,
    /// The archivist's best over the best of `zstd` to a file.
    pub ratio_file: f64,
    /// The median of the ratios per repetition.
    pub ratio_median: f64,
    /// Whether the first ratio reaches the bar.
    pub passed: bool,
}

/// The whole result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of varve.
    pub version: String,
    /// What `zstd --version` says.
    pub zstd: String,
    /// The machine.
    pub machine: Machine,
    /// Bytes of blocks in one measurement.
    pub content_bytes: u64,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Segments on a disk, and the same bytes in a file.
struct Material {
    disk: MemoryDisk,
    jobs: Vec<ArchiveJob>,
    file: PathBuf,
    len_bytes: u64,
}

/// Runs all measurements; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// No `zstd`, no room for the files, a store that fails.
pub fn run(options: &Options, mut on_step: impl FnMut(&str)) -> Result<Report, PerfError> {
    let output = Command::new("zstd").arg("--version").output().map_err(PerfError::io("run zstd"))?;
    let zstd = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let directory = directory_for_files(options.dir.as_deref())?;
    let mut rows = Vec::new();
    let mut content_bytes = 0;
    for &content in &options.content {
        on_step(&format!("{content:?}: making"));
        let bytes = Material::make(content, options.segments, directory.path())?;
        content_bytes = bytes.len_bytes;
        for &level in &options.level {
            for verify in options.verify.iter().map(|&choice| choice.into()) {
                on_step(&format!("{content:?} at level {level}, verified by {verify}"));
                let worker = WorkerOptions { level, verify, ..WorkerOptions::default() };
                let row = pinned(two_cores().map(|cores| cores.1), || {
                    measure(&bytes, content, &worker, options.repeat, directory.path())
                })?;
                rows.push(row);
            }
        }
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        zstd,
        machine: Machine::here(),
        content_bytes,
        rows,
    })
}

/// A new directory in `parent`, or by default in memory if the system has a directory there.
pub(crate) fn directory_for_files(parent: Option<&Path>) -> Result<tempfile::TempDir, PerfError> {
    let usual = if Path::new(MEMORY_DIRECTORY).is_dir() { MEMORY_DIRECTORY } else { "." };
    tempfile::Builder::new()
        .prefix("varve-perf-")
        .tempdir_in(parent.unwrap_or(Path::new(usual)))
        .map_err(PerfError::io("make a directory for the files of the measurement"))
}

impl Material {
    /// Writes segments through a pool, so that they are like those that an archivist reads, and
    /// finds their entries as a restart does.
    fn make(content: Content, segments: u64, directory: &Path) -> Result<Self, PerfError> {
        // Two more: one so that the last wanted segment is sealed, and one that a log without
        // recycling keeps in reserve.
        let shape = Shape {
            segment_blocks: SEGMENT_BLOCKS_DEFAULT,
            segments: segments + 2,
            recycling: Recycling::Never,
        };
        let disk = MemoryDisk::try_new(shape.device_blocks())?;
        let volume_blocks = (segments + 1) * shape.data_blocks_max()?;
        let mut bed = Bed::create(Box::new(disk.open("memory")), shape, volume_blocks, false)?;
        let mut rng = Rng::new(5);
        let mut block = 0;
        while bed.pool.stats().head_lsn <= segments * shape.segment_blocks {
            for _ in 0..ENTRIES_PER_RECORD {
                bed.set_payload(content.block(&mut rng));
                let mut one = Some(block % volume_blocks);
                block += 1;
                // Waits only for room, so that records are full.
                bed.write_all_but(ENTRIES_PER_RECORD, || one.take())?;
            }
        }
        bed.write_all(1, || None)?;
        wait(&bed.pool, Rc::clone(&bed.pool).close())?;
        drop(bed);
        let log = recovered(&disk)?;
        let (mut jobs, mut bytes) = (Vec::new(), Vec::new());
        for sequence in (0..segments).map(SegmentSeq) {
            let (job, len_bytes) = job(&log, &disk, sequence)?;
            let start = bytes.len();
            bytes.resize(start + len_bytes, 0);
            disk.read_raw(job.device_block * BLOCK_BYTES as u64, &mut bytes[start..]);
            jobs.push(job);
        }
        let file = directory.join("segments");
        std::fs::write(&file, &bytes).map_err(PerfError::io("write the bytes to compress"))?;
        Ok(Material { disk, jobs, file, len_bytes: bytes.len() as u64 })
    }
}

/// The log on a disk, recovered.
fn recovered(disk: &MemoryDisk) -> Result<SharedLog, PerfError> {
    let device = SharedBdev::new(Box::new(disk.open("memory")));
    let environment = Environment::system(DmaPool::new(DMA_BYTES));
    let found = block_on(recover(device.clone(), environment), move || {
        device.queue().drive();
    });
    Ok(Rc::new(RefCell::new(found.map_err(VolumeError::from)?.log)))
}

/// The job for a sealed segment, and the segment's size in bytes.
fn job(log: &SharedLog, disk: &MemoryDisk, sequence: SegmentSeq) -> Result<(ArchiveJob, usize), PerfError> {
    let shared = Rc::clone(log);
    let turned = Rc::clone(log);
    let entries = block_on(async move { load_segment(&shared, sequence).await }, move || {
        turned.borrow_mut().poll(&mut Vec::new());
    });
    let units = entries.map_err(VolumeError::from)?.into_units();
    let log = log.borrow();
    let geometry = log.geometry();
    let missing = || PerfError::shape("a segment that was written is not there");
    let segment = log.table().get(sequence).ok_or_else(missing)?;
    let slot = segment.slot.ok_or_else(missing)?;
    let from_lsn = geometry.first_lsn(sequence);
    let id = ObjectId {
        pool: log.pool(),
        epoch: segment.epoch,
        sequence,
        from_lsn,
        to_lsn: segment.end_lsn,
        whole: true,
        claim: ClaimId::NONE,
    };
    let device_block = geometry.slot_block(slot);
    debug_assert!(device_block + id.len_blocks() <= disk.len_blocks());
    let job = ArchiveJob {
        token: sequence.0,
        id,
        segment_blocks: geometry.segment_blocks,
        device_block,
        opened_ns: segment.opened_ns,
        sealed_ns: segment.opened_ns,
        units: Arc::new(units),
        holes: Vec::new(),
        accept_lost: false,
    };
    Ok((job, id.content_bytes() as usize))
}

impl Content {
    /// One block of this content.
    fn block(self, rng: &mut Rng) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        // The part that does not repeat is at the end, after the text.
        let random_bytes = match self {
            Content::Random => BLOCK_BYTES,
            Content::Mixed => BLOCK_BYTES * 3 / 10,
            Content::Text => BLOCK_BYTES / 20,
        };
        let (text, random) = block.split_at_mut(BLOCK_BYTES - random_bytes);
        let mut line = String::new();
        for byte in text {
            if line.is_empty() {
                let (time, host, word) =
                    (rng.below(86_400), rng.below(40), WORDS[rng.below(WORDS.len() as u64) as usize]);
                let _ = write!(
                    line,
                    "{:02}:{:02}:{:02} server{host:02} {word} request {} took {} us",
                    time / 3600,
                    time / 60 % 60,
                    time % 60,
                    rng.below(1_000_000),
                    rng.below(5000)
                );
                line = line.chars().rev().chain(['\n']).collect();
            }
            *byte = line.pop().map_or(b' ', |char| char as u8);
        }
        rng.fill(random);
        block
    }
}

fn measure(
    bytes: &Material,
    content: Content,
    options: &WorkerOptions,
    repeat: u8,
    directory: &Path,
) -> Result<Row, PerfError> {
    let level = options.level;
    let mut compressor = Compressor::new(level).map_err(PerfError::archive)?;
    let mut source = BdevSource::new(Box::new(bytes.disk.open("memory")), READS_IN_FLIGHT_DEFAULT);
    let (mut archive_mib_s, mut zstd_mib_s, mut zstd_file_mib_s) = (Vec::new(), Vec::new(), Vec::new());
    let mut object_bytes = 0;
    let mib_s =
        |started: Instant| bytes.len_bytes as f64 / f64::from(1 << 20) / started.elapsed().as_secs_f64();
    let output = directory.join("output");
    let zstd = |to: Stdio| {
        let started = Instant::now();
        let status = Command::new("zstd")
            .args(["-q", "-T1", &format!("-{level}"), "-k", "-c"])
            .arg(&bytes.file)
            .stdout(to)
            .status()
            .map_err(PerfError::io("run zstd"))?;
        if !status.success() {
            return Err(PerfError::shape("zstd does not compress; is it Debian's?"));
        }
        Ok(mib_s(started))
    };
    for _ in 0..repeat {
        zstd_mib_s.push(zstd(Stdio::null())?);
        let file = std::fs::File::create(&output).map_err(PerfError::io("make a file for zstd"))?;
        zstd_file_mib_s.push(zstd(file.into())?);
        std::fs::remove_file(&output).map_err(PerfError::io("remove the file of zstd"))?;
        let root = directory.join("store");
        let store = DirectoryStore::open(&root, DirectoryOptions::default()).map_err(PerfError::archive)?;
        let started = Instant::now();
        object_bytes = 0;
        for job in &bytes.jobs {
            let done =
                archive(job, &mut source, &store, &mut compressor, options).map_err(PerfError::archive)?;
            object_bytes += done.object_bytes;
            if done.bad_blocks > 0 {
                return Err(PerfError::shape("the segments on the disk are damaged"));
            }
        }
        archive_mib_s.push(mib_s(started));
        drop(store);
        std::fs::remove_dir_all(&root).map_err(PerfError::io("remove the store"))?;
    }
    let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    let ratio = best(&archive_mib_s) / best(&zstd_mib_s);
    let singles = archive_mib_s.iter().zip(&zstd_mib_s).map(|(archive, zstd)| archive / zstd);
    Ok(Row {
        content,
        level,
        verify: options.verify,
        compression: bytes.len_bytes as f64 / object_bytes as f64,
        ratio,
        ratio_file: best(&archive_mib_s) / best(&zstd_file_mib_s),
        ratio_median: median(singles),
        passed: ratio >= RATIO_MIN,
        archive_mib_s,
        zstd_mib_s,
        zstd_file_mib_s,
    })
}

/// The rows as a table.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{} MiB each; MiB/s, least, median and most; {}",
        report.content_bytes >> 20,
        report.zstd
    );
    let _ = writeln!(
        text,
        "{:<10}{:>6}{:>9}{:>12}{:>18}{:>18}{:>18}{:>7}{:>8}{:>6}{:>9}",
        "content",
        "level",
        "verified",
        "compression",
        "archivist",
        "zstd",
        "zstd to file",
        "ratio",
        "median",
        "bar",
        "to file"
    );
    for row in &report.rows {
        let spread = |rates: &[f64]| {
            let (least, most) =
                rates.iter().fold((f64::MAX, 0.0_f64), |(least, most), &one| (least.min(one), most.max(one)));
            format!("{least:.0} {:.0} {most:.0}", median(rates.iter().copied()))
        };
        let _ = writeln!(
            text,
            "{:<10}{:>6}{:>9}{:>12.2}{:>18}{:>18}{:>18}{:>7.2}{:>8.2}{:>6}{:>9.2}",
            format!("{:?}", row.content),
            row.level,
            row.verify.to_string(),
            row.compression,
            spread(&row.archive_mib_s),
            spread(&row.zstd_mib_s),
            spread(&row.zstd_file_mib_s),
            row.ratio,
            row.ratio_median,
            if row.passed { "yes" } else { "NO" },
            row.ratio_file
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contents differ in how much of a block repeats.
    #[test]
    fn contents_are_a_block_long_and_of_their_kind() {
        let mut rng = Rng::new(1);
        let text_bytes =
            |block: &[u8]| block.iter().filter(|byte| byte.is_ascii_graphic() || **byte == b' ').count();
        for (content, least, most) in
            [(Content::Random, 0, 2000), (Content::Mixed, 2800, 3600), (Content::Text, 3800, 4096)]
        {
            let block = content.block(&mut rng);
            assert_eq!(block.len(), BLOCK_BYTES);
            assert!((least..=most).contains(&text_bytes(&block)), "{content:?}: {}", text_bytes(&block));
        }
    }
}
