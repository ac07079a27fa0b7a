//! The targets of a load, and how its threads get their ports.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;

use varve::bdev::{BLOCK_BYTES, Bdev, FileDevice, FileOptions, MemoryDisk};
use varve::nvmf::host::{ConnectOptions, Controller, Geometry, Namespace, Queue};
use varve::nvmf::nqn;
use varve::serve::segment_blocks_for;
use varve::text::units::SizeBytes;

use super::aim::Aim;
use super::device::DevicePort;
use super::log::LogPort;
use super::nvme::NvmePort;
use super::port::Port;
use super::worker::Seat;
use super::{Build, Finished, LoadConfig, Progress, drive};
use crate::error::PerfError;
use crate::machine::is_pinned;

/// KATO: long, so that keep-alives do not disturb a short measurement.
const KEEP_ALIVE_TIMEOUT_MS: u32 = 60_000;
/// The most bytes of a command to a device.
const DEVICE_COMMAND_BYTES_MAX: u32 = 4 << 20;
/// Default size of the memory of a log.
const LOG_BYTES_DEFAULT: u64 = 1 << 30;

/// What is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Volumes over `NVMe`/TCP, all at once.
    Nvme {
        /// The address that the appliance listens on.
        address: SocketAddr,
        /// Their names, or NQNs of any target's subsystems.
        volumes: Vec<String>,
    },
    /// A block device, without network or log.
    Bdev(Device),
    /// A new log on a blank device, without network, volumes or index. It takes writes and trims
    /// only.
    Log(Device),
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// Memory, all of it allocated at the start; each thread has its own part.
    Memory {
        /// Its size.
        len_bytes: u64,
    },
    /// A file or block device.
    File {
        /// Its path.
        path: PathBuf,
        /// Creates a sparse file of this size if there is none.
        create_bytes: Option<u64>,
    },
}

impl Target {
    /// In words.
    pub fn name(&self) -> String {
        let device = |device: &Device| match device {
            Device::Memory { len_bytes } => format!("memory of {} MiB", len_bytes >> 20),
            Device::File { path, .. } => path.display().to_string(),
        };
        match self {
            Target::Nvme { address, volumes } => format!("{} at {address}", volumes.join(", ")),
            Target::Bdev(one) => format!("device {}", device(one)),
            Target::Log(one) => format!("log on {}", device(one)),
        }
    }
}

impl std::str::FromStr for Device {
    type Err = String;

    /// Parses `memory`, `memory:SIZE`, `file:PATH` or `file:PATH,SIZE`.
    fn from_str(text: &str) -> Result<Self, String> {
        let size =
            |text: &str| text.parse::<SizeBytes>().map(|size| size.0).map_err(|error| error.to_string());
        match text.split_once(':') {
            None if text == "memory" => Ok(Device::Memory { len_bytes: LOG_BYTES_DEFAULT }),
            Some(("memory", len)) => Ok(Device::Memory { len_bytes: size(len)? }),
            Some(("file", place)) if !place.is_empty() => match place.rsplit_once(',') {
                Some((path, len)) => Ok(Device::File { path: path.into(), create_bytes: Some(size(len)?) }),
                None => Ok(Device::File { path: place.into(), create_bytes: None }),
            },
            _ => Err("memory:SIZE, file:PATH or file:PATH,SIZE is needed".to_owned()),
        }
    }
}

pub(super) fn run(
    config: &LoadConfig,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Finished, PerfError> {
    match &config.target {
        Target::Nvme { address, volumes } => run_nvme(config, *address, volumes, progress),
        Target::Bdev(device) => run_device(config, device, progress, |config, device, _| {
            Ok(DevicePort::new(device, config.queue_depth, config.block_bytes))
        }),
        Target::Log(device) => run_device(config, device, progress, |_, device, len_blocks| {
            LogPort::create(device, segment_blocks_for(len_blocks))
        }),
    }
}

fn run_nvme(
    config: &LoadConfig,
    address: SocketAddr,
    volumes: &[String],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Finished, PerfError> {
    let connections = usize::from(config.connections.max(1));
    let threads = usize::from(config.threads.max(1)).min(connections * volumes.len().max(1));
    let mut controllers = Vec::new();
    let mut seats: Vec<Vec<Seat<NvmePort>>> = (0..threads).map(|_| Vec::new()).collect();
    for (volume, name) in volumes.iter().enumerate() {
        let mut controller = connect(config, address, name)?;
        let (geometry, queues) = queues(config, &mut controller, address, name)?;
        let volume_bytes = geometry.size_blocks * u64::from(geometry.block_bytes);
        let commands = commands(config, volume_bytes, queues.len())?;
        // Thread (v * connections + i) mod threads drives connection i of volume v.
        let first = volume * connections;
        let driven =
            |thread: usize| (first..first + connections).filter(|seat| seat % threads == thread).count();
        let parts: Vec<Range<u64>> = split(commands, (0..threads).map(driven).collect());
        for (index, mut queue) in queues.into_iter().enumerate() {
            queue.set_geometry(geometry);
            let thread = (first + index) % threads;
            let part = if Aim::is_divided(config.pattern) {
                let count = connections as u64;
                commands * index as u64 / count..commands * (index as u64 + 1) / count
            } else if config.verify {
                parts[thread].clone()
            } else {
                0..commands
            };
            // The sequential parts of one thread need not be adjacent.
            let verified = if Aim::is_divided(config.pattern) { 0..commands } else { part.clone() };
            let volume_block_bytes = geometry.block_bytes;
            let keeps_core = threads == 1 && (is_pinned() || config.cores.len() == 1);
            let port = NvmePort { queue, keeps_core };
            seats[thread].push(Seat { port, volume, volume_block_bytes, part, verified });
        }
        controllers.push(controller);
    }
    let builds = seats.into_iter().map(|seats| Box::new(move || Ok(seats)) as Build<'_, NvmePort>).collect();
    let finished = drive(config, builds, progress, || {
        controllers.iter_mut().try_for_each(|controller| Ok(controller.keep_alive_if_due()?))
    })?;
    for controller in controllers {
        controller.shutdown()?;
    }
    Ok(finished)
}

fn connect(config: &LoadConfig, address: SocketAddr, volume: &str) -> Result<Controller, PerfError> {
    // No volume's name begins so.
    let nqn = if volume.starts_with("nqn.") { volume.to_owned() } else { nqn::of_volume(volume) };
    let controller = Controller::connect(
        address,
        &nqn,
        ConnectOptions {
            io_queues: config.connections,
            queue_depth: config.queue_depth,
            transfer_bytes_max: config.block_bytes.max(4096),
            keep_alive_timeout_ms: KEEP_ALIVE_TIMEOUT_MS,
            ..ConnectOptions::default()
        },
    )?;
    let granted = controller.queues_granted();
    if granted < config.connections {
        return Err(PerfError::TooFewQueues { asked: config.connections, granted });
    }
    Ok(controller)
}

/// The queues of a volume and its geometry; the size of a command is checked against both.
fn queues(
    config: &LoadConfig,
    controller: &mut Controller,
    address: SocketAddr,
    volume: &str,
) -> Result<(Geometry, Vec<Queue>), PerfError> {
    let namespaces = controller.namespaces()?;
    let geometry = namespaces
        .first()
        .map(Namespace::geometry)
        .ok_or_else(|| PerfError::NoNamespace { address, volume: volume.to_owned() })?;
    let queues = controller.take_queues();
    let bytes_max = queues.iter().map(Queue::transfer_bytes_max).min().unwrap_or(0);
    check_block_bytes(config.block_bytes, geometry.block_bytes, bytes_max)?;
    // A queue shorter than requested would run out of slots.
    let depth_max = queues.iter().map(Queue::depth).min().unwrap_or(0);
    if config.queue_depth > depth_max {
        return Err(PerfError::QueueDepth { asked: config.queue_depth, depth_max });
    }
    Ok((geometry, queues))
}

fn check_block_bytes(block_bytes: u32, namespace_block_bytes: u32, bytes_max: u32) -> Result<(), PerfError> {
    if block_bytes == 0 || !block_bytes.is_multiple_of(namespace_block_bytes) || block_bytes > bytes_max {
        return Err(PerfError::BlockSize { block_bytes, namespace_block_bytes, bytes_max });
    }
    Ok(())
}

/// How many commands are in the range; each of `lanes` needs at least one.
fn commands(config: &LoadConfig, volume_bytes: u64, lanes: usize) -> Result<u64, PerfError> {
    let range_bytes = config.range_bytes.unwrap_or(volume_bytes);
    let commands = range_bytes / u64::from(config.block_bytes);
    if range_bytes > volume_bytes || commands < lanes.max(1) as u64 {
        return Err(PerfError::Range { range_bytes, volume_bytes });
    }
    Ok(commands)
}

/// Divides `0..len` in proportion to the shares.
fn split(len: u64, shares: Vec<usize>) -> Vec<Range<u64>> {
    let total = shares.iter().sum::<usize>().max(1) as u64;
    let mut before = 0;
    let mut cut = |share: usize| {
        let start = len * before / total;
        before += share as u64;
        start..len * before / total
    };
    shares.into_iter().map(&mut cut).collect()
}

fn run_device<P: Port>(
    config: &LoadConfig,
    device: &Device,
    progress: &mut dyn FnMut(Progress<'_>),
    port: impl Fn(&LoadConfig, Box<dyn Bdev>, u64) -> Result<P, PerfError> + Send + Copy,
) -> Result<Finished, PerfError> {
    let threads = usize::from(config.threads.max(1));
    let block_bytes = BLOCK_BYTES as u32;
    check_block_bytes(config.block_bytes, block_bytes, DEVICE_COMMAND_BYTES_MAX)?;
    let file = match device {
        Device::Memory { .. } => None,
        Device::File { path, create_bytes } => {
            if matches!(config.target, Target::Log(_)) && threads > 1 {
                return Err(PerfError::shape("a file holds one log, so one thread writes it: --threads 1"));
            }
            let create_len_blocks = create_bytes.map(|bytes| bytes / BLOCK_BYTES as u64);
            let options = FileOptions { create_len_blocks, ..FileOptions::default() };
            Some(FileDevice::open(path, &options)?)
        }
    };
    let len_blocks = match (device, &file) {
        (_, Some(file)) => file.len_blocks(),
        (Device::Memory { len_bytes }, None) => len_bytes / BLOCK_BYTES as u64,
        (Device::File { .. }, None) => 0,
    };
    let commands = commands(config, len_blocks * BLOCK_BYTES as u64, threads)?;
    let parts = split(commands, vec![1; threads]);
    let builds = parts
        .into_iter()
        .map(|part| {
            let file = file.clone();
            Box::new(move || {
                let device: Box<dyn Bdev> = match file {
                    Some(file) => file.handle()?,
                    None => Box::new(MemoryDisk::try_new_resident(len_blocks)?.open("memory")),
                };
                let port = port(config, device, len_blocks)?;
                let divided = Aim::is_divided(config.pattern) || config.verify;
                let part = if divided { part } else { 0..commands };
                let verified = part.clone();
                Ok(vec![Seat { port, volume: 0, volume_block_bytes: block_bytes, part, verified }])
            }) as Build<'_, P>
        })
        .collect();
    drive(config, builds, progress, || Ok(()))
}
