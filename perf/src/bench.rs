//! The benchmark: an appliance in this process, loaded over loopback, each figure beside its floor from the same run.
//!
//! For each backing: the volume is written once, so that every read finds data; then 4 KiB random writes and reads
//! at queue depths 1 and 32. A pool's log does not take more than its size, so a step of writes ends early when its share of the log is used up;
//! how long each step really took is in its result.
//!
//! Two cores are used: the appliance's reactor is pinned to one, the load to the other, and the floors of the network likewise.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use varve::bdev::Engine;
use varve::serve::{Appliance, ApplianceConfig, Backing, FIRST_VOLUME_NAME};

use crate::error::PerfError;
use crate::floor::FloorResult;
use crate::floor::file::FloorFile;
use crate::floor::tcp::{self, Shape};
use crate::load::{self, LoadConfig, LoadResult, Pattern};
use crate::machine::{Machine, pinned, two_cores};

/// Bytes of a command.
const COMMAND_BYTES: u32 = 4096;
/// The queue depth that counts as loaded.
const DEPTH_LOADED: u16 = 32;
/// Commands that prepare the volume, and write the floor's file: their size in blocks and how many are in flight.
const SEQUENTIAL_BLOCKS: u32 = 32;
const SEQUENTIAL_DEPTH: u16 = 8;
/// How long preparing a volume may take.
const PREPARE_TIMEOUT: Duration = Duration::from_mins(5);

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchConfig {
    /// Length of each step.
    pub step: Duration,
    /// Where files for the file-backed part are made, and removed.
    pub directory: PathBuf,
    /// Size of the volume in bytes, a multiple of 128 KiB; all of it is written first.
    pub volume_bytes: u64,
    /// Size of the pool in bytes, at least 4 times the volume. In memory it takes as much memory.
    pub pool_bytes: u64,
    /// Whether the memory-backed part is run.
    pub memory: bool,
    /// Whether the file-backed part is run.
    pub file: bool,
}

/// What a pool lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackingKind {
    /// Memory.
    Memory,
    /// A file.
    File,
}

/// What is compared with a floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The mean latency: the ratio is at least 1 and smaller is better.
    MeanLatency,
    /// Operations a second: larger is better.
    Iops,
    /// Bytes a second: larger is better.
    Bandwidth,
}

/// A figure beside its floor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What is compared.
    pub measure: Measure,
    /// The floor.
    pub floor: FloorResult,
    /// The appliance's figure over the floor's.
    pub ratio: f64,
}

/// One step of the benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What the pool lives on.
    pub backing: BackingKind,
    /// The appliance's figures.
    pub load: LoadResult,
    /// The floors beside them.
    pub floors: Vec<Comparison>,
}

/// The whole result; its JSON form is what `--json` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// Version of varve.
    pub version: String,
    /// The machine.
    pub machine: Machine,
    /// Length of a step as asked, in seconds.
    pub step_seconds: f64,
    /// Size of the volume.
    pub volume_bytes: u64,
    /// Size of the pool.
    pub pool_bytes: u64,
    /// The steps, in the order in which they were run.
    pub steps: Vec<Step>,
}

/// Runs the benchmark; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// When an appliance does not start, a connection fails, or the system refuses a floor. Failed commands are counted in
/// the results instead.
pub fn run(config: &BenchConfig, mut on_step: impl FnMut(&str)) -> Result<BenchReport, PerfError> {
    let mut bench = Bench { config, on_step: &mut on_step, steps: Vec::new() };
    if config.memory {
        let backing = Backing::Memory { len_bytes: config.pool_bytes };
        bench.run_backing(BackingKind::Memory, backing, None)?;
    }
    if config.file {
        let directory = tempfile::Builder::new()
            .prefix("varve-perf-")
            .tempdir_in(&config.directory)
            .map_err(PerfError::io("make a directory for the files of the benchmark"))?;
        let floor = bench.file_floor(directory.path())?;
        let backing = Backing::File {
            path: directory.path().join("pool.varve"),
            create_bytes: config.pool_bytes,
            engine: Engine::Auto,
        };
        bench.run_backing(BackingKind::File, backing, Some(&floor))?;
    }
    Ok(BenchReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::here(),
        step_seconds: config.step.as_secs_f64(),
        volume_bytes: config.volume_bytes,
        pool_bytes: config.pool_bytes,
        steps: bench.steps,
    })
}

/// What the file system gives.
struct FileFloor {
    sequential_write: FloorResult,
    /// The smallest record: a header and one block.
    record_write: FloorResult,
    read_1: FloorResult,
    read_loaded: FloorResult,
}

struct Bench<'a> {
    config: &'a BenchConfig,
    on_step: &'a mut dyn FnMut(&str),
    steps: Vec<Step>,
}

impl Bench<'_> {
    fn file_floor(&mut self, directory: &Path) -> Result<FileFloor, PerfError> {
        let step = self.config.step;
        (self.on_step)("floor of the file system");
        let path = directory.join("floor");
        let mut file = FloorFile::create(&path, self.config.pool_bytes)?;
        let sequential_write = file.write(SEQUENTIAL_BLOCKS.into(), SEQUENTIAL_DEPTH.into(), step)?;
        let read_1 = file.random_read(1, step)?;
        let read_loaded = file.random_read(DEPTH_LOADED.into(), step)?;
        drop(file);
        let remove = || std::fs::remove_file(&path).map_err(PerfError::io("remove the floor's file"));
        remove()?;
        // A file of its own, so that these writes extend it as a log does.
        let record_write = FloorFile::create(&path, self.config.pool_bytes)?.write(2, 1, step)?;
        remove()?;
        Ok(FileFloor { sequential_write, record_write, read_1, read_loaded })
    }

    fn run_backing(
        &mut self,
        kind: BackingKind,
        backing: Backing,
        file: Option<&FileFloor>,
    ) -> Result<(), PerfError> {
        let config = self.config;
        let mut appliance_config = ApplianceConfig::new(backing, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        appliance_config.first_volume_bytes = Some(config.volume_bytes);
        let cores = two_cores();
        // First writes of fresh memory would measure the system's page faults.
        appliance_config.memory_resident = true;
        appliance_config.reactor.core = cores.map(|cores| cores.1);
        let appliance = Appliance::start(appliance_config)?;
        let base = LoadConfig {
            duration: config.step,
            ..LoadConfig::new(appliance.address(), FIRST_VOLUME_NAME, Pattern::RandRead)
        };
        let prepare = LoadConfig {
            pattern: Pattern::Write,
            block_bytes: SEQUENTIAL_BLOCKS * COMMAND_BYTES,
            queue_depth: SEQUENTIAL_DEPTH,
            duration: PREPARE_TIMEOUT,
            bytes_max: Some(config.volume_bytes),
            ..base.clone()
        };
        self.step(kind, &prepare, |load| {
            file.map(|file| against(Measure::Bandwidth, load, &file.sequential_write)).into_iter().collect()
        })?;
        // What is left of the log, less headers and trailers. At depth 1 each block brings a header of its own.
        let log_bytes = config.pool_bytes * 9 / 10 - config.volume_bytes * 11 / 10;
        let budget = |depth| if depth == 1 { log_bytes / 10 } else { log_bytes * 6 / 10 };
        for depth in [1, DEPTH_LOADED] {
            let load = LoadConfig {
                pattern: Pattern::RandWrite,
                queue_depth: depth,
                bytes_max: Some(budget(depth)),
                ..base.clone()
            };
            let tcp = self.tcp_floor(Shape::write(COMMAND_BYTES as usize), depth)?;
            self.step(kind, &load, |load| {
                let mut floors = vec![against(measure_at(depth), load, &tcp)];
                if let Some(file) = file {
                    floors.push(if depth == 1 {
                        against(Measure::MeanLatency, load, &file.record_write)
                    } else {
                        against(Measure::Bandwidth, load, &file.sequential_write)
                    });
                }
                floors
            })?;
        }
        for depth in [1, DEPTH_LOADED] {
            let load = LoadConfig { pattern: Pattern::RandRead, queue_depth: depth, ..base.clone() };
            let tcp = self.tcp_floor(Shape::read(COMMAND_BYTES as usize), depth)?;
            self.step(kind, &load, |load| {
                let mut floors = vec![against(measure_at(depth), load, &tcp)];
                if let Some(file) = file {
                    let read = if depth == 1 { &file.read_1 } else { &file.read_loaded };
                    floors.push(against(measure_at(depth), load, read));
                }
                floors
            })?;
        }
        appliance.stop()?;
        Ok(())
    }

    fn tcp_floor(&mut self, shape: Shape, depth: u16) -> Result<FloorResult, PerfError> {
        (self.on_step)(&format!("floor of loopback TCP: {} QD{depth}", shape.name));
        tcp::measure(shape, depth.into(), self.config.step)
    }

    fn step(
        &mut self,
        backing: BackingKind,
        config: &LoadConfig,
        floors: impl FnOnce(&LoadResult) -> Vec<Comparison>,
    ) -> Result<(), PerfError> {
        let memory = if backing == BackingKind::Memory { "memory" } else { "file" };
        let kib = config.block_bytes / 1024;
        (self.on_step)(&format!("{memory}: {} {kib} KiB QD{}", config.pattern.name(), config.queue_depth));
        let load = pinned(two_cores().map(|cores| cores.0), || load::run(config, |_| {}))?;
        let floors = floors(&load);
        self.steps.push(Step { backing, load, floors });
        Ok(())
    }
}

/// At depth 1 the latency is what counts, under load the count of operations.
fn measure_at(depth: u16) -> Measure {
    if depth == 1 { Measure::MeanLatency } else { Measure::Iops }
}

fn against(measure: Measure, load: &LoadResult, floor: &FloorResult) -> Comparison {
    let (value, base) = match measure {
        Measure::MeanLatency => (load.latency.mean_us, floor.latency.mean_us),
        Measure::Iops => (load.iops, floor.iops),
        Measure::Bandwidth => (load.mib_per_second, floor.mib_per_second),
    };
    // A step that got nothing done has no ratio; 0 keeps the JSON a number.
    let ratio = if base > 0.0 { value / base } else { 0.0 };
    Comparison { measure, floor: floor.clone(), ratio }
}
