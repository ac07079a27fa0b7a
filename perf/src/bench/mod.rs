//! The benchmark: an appliance in this process, loaded over loopback, with each figure beside its
//! floor from the same run.
//!
//! The steps for each backing:
//!
//! 1. The volume is written in order until the log has wrapped once, so that every read finds data
//!    and no step measures the first use of memory or the device.
//! 2. The volume is written and read sequentially, also in large commands.
//! 3. 4 KiB random writes and reads run at queue depths 1 and 32.
//! 4. The volume is read in order again; on a file also at depth 1, without and with read-ahead in
//!    turns.
//! 5. The volume is written at random on several connections, and without and with 100 snapshots in
//!    turns.
//!
//! In memory, an appliance that may sleep and one that never does then run the steps at depth 1 in
//! turns, which gives the cost of sleeping; the cost of idling is measured too. On a file, `fio`
//! reads the pool's own file at random after the appliance is stopped. The ratios between steps,
//! and between steps and floors, are in the bars.
//!
//! Two cores are used: the appliance's reactor is pinned to one, the load to the other, and the
//! network floors likewise.

mod bars;
mod inside;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use varve::bdev::{BLOCK_BYTES, Engine};
use varve::log::geometry::FIRST_SLOT_BLOCK;
use varve::reactor::IdlePolicy;
use varve::serve::{Appliance, ApplianceConfig, Backing, FIRST_VOLUME_NAME, POOL_PER_VOLUME};
use varve::volume::READ_AHEAD_BLOCKS_DEFAULT;

use self::inside::{Snapshots, manage_snapshots, set_read_ahead, written_bytes};

use crate::bar::Bar;
use crate::error::PerfError;
use crate::floor::file::FloorFile;
use crate::floor::tcp::{self, Shape};
use crate::floor::{FloorResult, fio};
use crate::idle;
use crate::load::{self, LoadConfig, LoadResult, Pattern};
use crate::machine::{Machine, pinned, two_cores};

/// Bytes per command.
const COMMAND_BYTES: u32 = 4096;
/// The queue depth that counts as loaded.
const DEPTH_LOADED: u16 = 32;
/// Commands that prepare the volume and write the floor's file: their size in blocks, and how many
/// are in flight.
const SEQUENTIAL_BLOCKS: u32 = 32;
const SEQUENTIAL_DEPTH: u16 = 8;
/// Large commands: a controller accepts at most 512 KiB (MDTS), so a host's 1 MiB is two of them.
const LARGE_BLOCKS: u32 = 128;
const LARGE_DEPTH: u16 = 8;
/// How many snapshots there are during the random writes with snapshots.
const SNAPSHOTS: usize = 100;
/// How many rounds an appliance that may sleep and one that never does run in turns; the pair with
/// the median ratio counts.
const IDLE_POLICY_ROUNDS: usize = 3;
/// How many rounds of random writes run without and with snapshots.
const SNAPSHOT_ROUNDS: usize = 3;
/// How many rounds of reads in order run without and with read-ahead.
const READ_AHEAD_ROUNDS: usize = 3;
/// The sizes of these reads in blocks.
const READ_AHEAD_COMMANDS: [u32; 2] = [1, SEQUENTIAL_BLOCKS];
/// The number of connections if one does not send enough commands.
const CONNECTIONS_MANY: u16 = 4;
/// The patterns of the steps at depth 1.
const DEPTH_1_PATTERNS: [Pattern; 2] = [Pattern::RandWrite, Pattern::RandRead];
/// The shortest time over which idling is measured.
const IDLE_LEAST: Duration = Duration::from_secs(1);
/// How long preparing a volume may take.
const PREPARE_TIMEOUT: Duration = Duration::from_mins(5);

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchConfig {
    /// Length of each step.
    pub step: Duration,
    /// The directory in which files for the file-backed part are made, and removed.
    pub directory: PathBuf,
    /// Size of the volume in bytes, a multiple of 128 KiB; all of it is written first.
    pub volume_bytes: u64,
    /// Size of the pool in bytes, at least 4 times the volume. In memory it uses this much memory.
    pub pool_bytes: u64,
    /// Whether the memory-backed part is run.
    pub memory: bool,
    /// Whether the file-backed part is run.
    pub file: bool,
}

/// What a pool is stored on.
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
    /// Operations per second: larger is better.
    Iops,
    /// Bytes per second: larger is better.
    Bandwidth,
}

/// A figure and its floor.
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
    /// What the pool is stored on.
    pub backing: BackingKind,
    /// What distinguishes the step; empty for most.
    pub name: String,
    /// The appliance's figures.
    pub load: LoadResult,
    /// The floors it is compared with.
    pub floors: Vec<Comparison>,
}

/// The whole result; `--json` writes its JSON form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// Version of varve.
    pub version: String,
    /// The machine.
    pub machine: Machine,
    /// Requested length of a step, in seconds.
    pub step_seconds: f64,
    /// Size of the volume.
    pub volume_bytes: u64,
    /// Size of the pool.
    pub pool_bytes: u64,
    /// The steps, in the order in which they were run.
    pub steps: Vec<Step>,
    /// The ratios between steps, and between steps and floors.
    pub bars: Vec<Bar>,
    /// What could not be measured, and why.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// Runs the benchmark; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// An appliance does not start, a connection fails, or the system refuses a floor. Failed commands
/// are counted in the results instead.
pub fn run(config: &BenchConfig, mut on_step: impl FnMut(&str)) -> Result<BenchReport, PerfError> {
    let mut bench =
        Bench { config, on_step: &mut on_step, steps: Vec::new(), bars: Vec::new(), missing: Vec::new() };
    if config.memory {
        let backing = Backing::Memory { len_bytes: config.pool_bytes };
        bench.run_backing(BackingKind::Memory, backing, None)?;
        bench.run_idle_policies()?;
        (bench.on_step)("idling");
        bench.bars.push(idle::measure(config.step.max(IDLE_LEAST))?.bar());
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
        bars: bench.bars,
        missing: bench.missing,
    })
}

/// The floors of the file system.
struct FileFloor {
    sequential_write: FloorResult,
    /// One command with as many bytes as the random writes have in flight.
    loaded_write: FloorResult,
    large_write: FloorResult,
    sequential_read: FloorResult,
    large_read: FloorResult,
    /// The smallest record: a header and one block.
    record_write: FloorResult,
    read_1: FloorResult,
    read_loaded: FloorResult,
}

struct Bench<'a> {
    config: &'a BenchConfig,
    on_step: &'a mut dyn FnMut(&str),
    steps: Vec<Step>,
    bars: Vec<Bar>,
    missing: Vec<String>,
}

impl Bench<'_> {
    fn file_floor(&mut self, directory: &Path) -> Result<FileFloor, PerfError> {
        let step = self.config.step;
        (self.on_step)("floor of the file system");
        let path = directory.join("floor");
        let mut file = FloorFile::create(&path, self.config.pool_bytes)?;
        // After the log has wrapped once, a pool's device has all its blocks allocated; the same
        // must hold here.
        file.write_whole()?;
        let sequential_write = file.write(SEQUENTIAL_BLOCKS.into(), SEQUENTIAL_DEPTH.into(), step)?;
        let loaded_write = file.write(DEPTH_LOADED.into(), 1, step)?;
        let large_write = file.write(LARGE_BLOCKS.into(), LARGE_DEPTH.into(), step)?;
        let record_write = file.write(2, 1, step)?;
        let sequential_read =
            file.sequential_read(SEQUENTIAL_BLOCKS.into(), SEQUENTIAL_DEPTH.into(), step)?;
        let large_read = file.sequential_read(LARGE_BLOCKS.into(), LARGE_DEPTH.into(), step)?;
        let read_1 = file.random_read(1, step)?;
        let read_loaded = file.random_read(DEPTH_LOADED.into(), step)?;
        drop(file);
        std::fs::remove_file(&path).map_err(PerfError::io("remove the floor's file"))?;
        Ok(FileFloor {
            sequential_write,
            loaded_write,
            large_write,
            sequential_read,
            large_read,
            record_write,
            read_1,
            read_loaded,
        })
    }

    fn start(&self, backing: Backing, idle: IdlePolicy) -> Result<Appliance, PerfError> {
        let mut config = ApplianceConfig::new(backing, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        config.first_volume_bytes = Some(self.config.volume_bytes);
        // The first writes to fresh memory would measure the system's page faults.
        config.memory_resident = true;
        config.reactor.core = two_cores().map(|cores| cores.1);
        config.reactor.idle = idle;
        Ok(Appliance::start(config)?)
    }

    fn base(&self, appliance: &Appliance) -> LoadConfig {
        LoadConfig {
            duration: self.config.step,
            ..LoadConfig::new(appliance.address(), FIRST_VOLUME_NAME, Pattern::RandRead)
        }
    }

    /// Writes the volume in order until this many bytes are written.
    fn fill(base: &LoadConfig, len_bytes: u64) -> LoadConfig {
        LoadConfig {
            duration: PREPARE_TIMEOUT,
            bytes_max: Some(len_bytes),
            ..sequential(base, Pattern::Write, SEQUENTIAL_BLOCKS, SEQUENTIAL_DEPTH)
        }
    }

    fn run_backing(
        &mut self,
        kind: BackingKind,
        backing: Backing,
        file: Option<&FileFloor>,
    ) -> Result<(), PerfError> {
        let config = self.config;
        let path = match &backing {
            Backing::File { path, .. } => Some(path.clone()),
            Backing::Memory { .. } => None,
        };
        let appliance = self.start(backing, IdlePolicy::default())?;
        let base = self.base(&appliance);
        let mut tcp = TcpFloors::default();
        for depth in [1, DEPTH_LOADED] {
            for shape in [Shape::write(COMMAND_BYTES as usize), Shape::read(COMMAND_BYTES as usize)] {
                tcp.random.push(self.tcp_floor(shape, depth)?);
            }
        }
        for (blocks, depth) in [(SEQUENTIAL_BLOCKS, SEQUENTIAL_DEPTH), (LARGE_BLOCKS, LARGE_DEPTH)] {
            let bytes = (blocks * COMMAND_BYTES) as usize;
            for shape in [Shape::write(bytes), Shape::read(bytes)] {
                tcp.sequential.push(self.tcp_floor(shape, depth)?);
            }
        }
        // Writes the log once around, so that no step measures the first use of the device or of
        // memory.
        self.step(kind, "first round", &Self::fill(&base, config.pool_bytes), |_| Vec::new())?;
        let write = sequential(&base, Pattern::Write, SEQUENTIAL_BLOCKS, SEQUENTIAL_DEPTH);
        let write = self.step(kind, "", &write, |load| {
            file.map(|file| against(Measure::Bandwidth, load, &file.sequential_write)).into_iter().collect()
        })?;
        let read = sequential(&base, Pattern::Read, SEQUENTIAL_BLOCKS, SEQUENTIAL_DEPTH);
        let ordered = self.step(kind, "", &read, |_| Vec::new())?;
        let large_write = sequential(&base, Pattern::Write, LARGE_BLOCKS, LARGE_DEPTH);
        let large_write = self.step(kind, "", &large_write, |_| Vec::new())?;
        let large_read = sequential(&base, Pattern::Read, LARGE_BLOCKS, LARGE_DEPTH);
        let large_read = self.step(kind, "", &large_read, |_| Vec::new())?;

        let random_write =
            |depth| LoadConfig { pattern: Pattern::RandWrite, queue_depth: depth, ..base.clone() };
        let mut random = Vec::new();
        for (depth, tcp) in [1, DEPTH_LOADED].into_iter().zip([&tcp.random[0], &tcp.random[2]]) {
            random.push(self.step(kind, "", &random_write(depth), |load| {
                let mut floors = vec![against(measure_at(depth), load, tcp)];
                if let Some(file) = file {
                    floors.push(if depth == 1 {
                        against(Measure::MeanLatency, load, &file.record_write)
                    } else {
                        against(Measure::Bandwidth, load, &file.sequential_write)
                    });
                }
                floors
            })?);
        }
        for (depth, tcp) in [1, DEPTH_LOADED].into_iter().zip([&tcp.random[1], &tcp.random[3]]) {
            let load = LoadConfig { pattern: Pattern::RandRead, queue_depth: depth, ..base.clone() };
            random.push(self.step(kind, "", &load, |load| {
                let mut floors = vec![against(measure_at(depth), load, tcp)];
                if let Some(file) = file {
                    let read = if depth == 1 { &file.read_1 } else { &file.read_loaded };
                    floors.push(against(measure_at(depth), load, read));
                }
                floors
            })?);
        }
        let written_bytes = written_bytes(&appliance)?;
        let scattered = self.step(kind, "after random writes", &read, |_| Vec::new())?;
        let mut in_order = Vec::new();
        // Memory has no latency to hide, so an appliance on memory reads nothing ahead.
        let rounds = if kind == BackingKind::Memory { 0 } else { READ_AHEAD_ROUNDS };
        for _ in 0..rounds {
            for blocks in READ_AHEAD_COMMANDS {
                let read = sequential(&base, Pattern::Read, blocks, 1);
                set_read_ahead(&appliance, 0)?;
                let without =
                    self.step(kind, "after random writes, nothing read ahead", &read, |_| Vec::new())?;
                set_read_ahead(&appliance, READ_AHEAD_BLOCKS_DEFAULT)?;
                let with = self.step(kind, "after random writes, read ahead", &read, |_| Vec::new())?;
                in_order.push((without, with));
            }
        }
        let many = LoadConfig { connections: CONNECTIONS_MANY, ..random_write(DEPTH_LOADED) };
        let many = self.step(kind, "on 4 connections", &many, |_| Vec::new())?;
        let mut beside = Vec::new();
        for _ in 0..SNAPSHOT_ROUNDS {
            let before = self.step(kind, "without snapshots", &random_write(DEPTH_LOADED), |_| Vec::new())?;
            (self.on_step)("snapshots");
            manage_snapshots(&appliance, Snapshots::Create)?;
            let after =
                self.step(kind, "beside 100 snapshots", &random_write(DEPTH_LOADED), |_| Vec::new())?;
            manage_snapshots(&appliance, Snapshots::Delete)?;
            beside.push((before, after));
        }
        appliance.stop()?;
        let fio = path.and_then(|path| self.fio_floor(&path, written_bytes));

        let figures = Figures {
            kind,
            write,
            read: ordered,
            large_write,
            large_read,
            random,
            scattered,
            in_order,
            many,
            beside,
            fio,
        };
        self.bars.extend(bars::of(&figures, &tcp, file));
        Ok(())
    }

    /// What fio reaches on the pool's own file, in the part that held the volume's blocks.
    fn fio_floor(&mut self, path: &Path, end_bytes: u64) -> Option<FloorResult> {
        (self.on_step)("floor of fio");
        let (first, core) = (FIRST_SLOT_BLOCK * BLOCK_BYTES as u64, two_cores().map(|cores| cores.1));
        let duration = self.config.step;
        let reads = fio::Reads { path, first, end: end_bytes, depth: DEPTH_LOADED, duration, core };
        fio::random_read(&reads).map_err(|error| self.missing.push(error.to_string())).ok()
    }

    /// The steps at depth 1 in memory, on an appliance that may sleep and on one that never does,
    /// in turns, so that temporary load on the machine affects both.
    fn run_idle_policies(&mut self) -> Result<(), PerfError> {
        let mut rounds = Vec::new();
        for _ in 0..IDLE_POLICY_ROUNDS {
            let adaptive = self.run_depth_1(IdlePolicy::default(), "that may sleep")?;
            let polling = self.run_depth_1(IdlePolicy::Poll, "never sleeping")?;
            rounds.push((adaptive, polling));
        }
        for pattern in 0..DEPTH_1_PATTERNS.len() {
            let pairs = rounds.iter().map(|(adaptive, polling)| (&adaptive[pattern], &polling[pattern]));
            self.bars.extend(bars::adaptive(pairs));
        }
        Ok(())
    }

    fn run_depth_1(&mut self, idle: IdlePolicy, name: &str) -> Result<Vec<LoadResult>, PerfError> {
        // The smallest pool for the volume, because its memory is allocated at each start.
        let len_bytes = self.config.volume_bytes * POOL_PER_VOLUME;
        let appliance = self.start(Backing::Memory { len_bytes }, idle)?;
        let base = self.base(&appliance);
        self.step(BackingKind::Memory, name, &Self::fill(&base, len_bytes), |_| Vec::new())?;
        let mut results = Vec::new();
        for pattern in DEPTH_1_PATTERNS {
            let load = LoadConfig { pattern, ..base.clone() };
            results.push(self.step(BackingKind::Memory, name, &load, |_| Vec::new())?);
        }
        appliance.stop()?;
        Ok(results)
    }

    fn tcp_floor(&mut self, shape: Shape, depth: u16) -> Result<FloorResult, PerfError> {
        (self.on_step)(&format!("floor of loopback TCP: {} QD{depth}", shape.name));
        tcp::measure(shape, depth.into(), self.config.step)
    }

    fn step(
        &mut self,
        backing: BackingKind,
        name: &str,
        config: &LoadConfig,
        floors: impl FnOnce(&LoadResult) -> Vec<Comparison>,
    ) -> Result<LoadResult, PerfError> {
        let memory = if backing == BackingKind::Memory { "memory" } else { "file" };
        let kib = config.block_bytes / 1024;
        (self.on_step)(&format!(
            "{memory}: {} {kib} KiB QD{} {name}",
            config.pattern.name(),
            config.queue_depth
        ));
        let load = pinned(two_cores().map(|cores| cores.0), || load::run(config, |_| {}))?;
        let floors = floors(&load);
        self.steps.push(Step { backing, name: name.to_owned(), load: load.clone(), floors });
        Ok(load)
    }
}

/// The floors of loopback TCP. `random`: write and read at depth 1, then write and read at depth
/// 32; `sequential`: write and read of sequential commands, then of large ones.
#[derive(Default)]
struct TcpFloors {
    random: Vec<FloorResult>,
    sequential: Vec<FloorResult>,
}

/// The results of the steps on one backing.
struct Figures {
    kind: BackingKind,
    write: LoadResult,
    read: LoadResult,
    large_write: LoadResult,
    large_read: LoadResult,
    /// Write at depth 1 and 32, read at depth 1 and 32.
    random: Vec<LoadResult>,
    /// Sequential reads after random writes.
    scattered: LoadResult,
    /// Reads in order at depth 1 after random writes, without and with read-ahead, in turns.
    in_order: Vec<(LoadResult, LoadResult)>,
    /// Random writes on several connections.
    many: LoadResult,
    /// Random writes without and with snapshots, in turns.
    beside: Vec<(LoadResult, LoadResult)>,
    /// Random reads of the pool's own file.
    fio: Option<FloorResult>,
}

fn sequential(base: &LoadConfig, pattern: Pattern, blocks: u32, depth: u16) -> LoadConfig {
    LoadConfig { pattern, block_bytes: blocks * COMMAND_BYTES, queue_depth: depth, ..base.clone() }
}

/// At depth 1 latency counts; at a larger depth, operations per second.
fn measure_at(depth: u16) -> Measure {
    if depth == 1 { Measure::MeanLatency } else { Measure::Iops }
}

fn against(measure: Measure, load: &LoadResult, floor: &FloorResult) -> Comparison {
    let (value, base) = match measure {
        Measure::MeanLatency => (load.latency.mean_us, floor.latency.mean_us),
        Measure::Iops => (load.iops, floor.iops),
        Measure::Bandwidth => (load.mib_per_second, floor.mib_per_second),
    };
    // If a step did nothing, it has no ratio; 0 keeps the JSON a number.
    let ratio = if base > 0.0 { value / base } else { 0.0 };
    Comparison { measure, floor: floor.clone(), ratio }
}
