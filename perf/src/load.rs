//! Load on a volume over `NVMe`/TCP: one thread drives every connection and never sleeps, so what is timed is the
//! appliance and the network.
//!
//! Latency counts from the submission of a command to its completion, both in this process. The load is closed: a completed
//! command makes room for the next, so when the appliance stalls fewer commands see it than an open load would send.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use varve::nvmf::host::{ConnectOptions, Controller, HostError, Queue, Wait};
use varve::nvmf::nqn;

use crate::error::PerfError;
use crate::latency::{Latency, Recorder};
use crate::rng::Rng;

/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// The longest a poll looks at one idle connection when there is only one.
const SPIN: Duration = Duration::from_millis(5);
/// How long commands may take after the end of the load.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// KATO: long, so that keep-alives do not disturb a short measurement.
const KEEP_ALIVE_TIMEOUT_MS: u32 = 60_000;
/// After so many failed commands a load ends early.
const FAILURES_MAX: u64 = 1000;
/// Payloads are taken from a buffer of so many commands' size, at random.
const PAYLOADS: u64 = 16;

/// What the commands do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Sequential reads; each connection has a part of the range.
    Read,
    /// Sequential writes; each connection has a part of the range.
    Write,
    /// Random reads.
    RandRead,
    /// Random writes.
    RandWrite,
    /// Random reads and writes, mixed.
    RandRw,
}

impl Pattern {
    /// The name, as fio has it.
    pub fn name(self) -> &'static str {
        match self {
            Pattern::Read => "read",
            Pattern::Write => "write",
            Pattern::RandRead => "randread",
            Pattern::RandWrite => "randwrite",
            Pattern::RandRw => "randrw",
        }
    }

    fn is_random(self) -> bool {
        matches!(self, Pattern::RandRead | Pattern::RandWrite | Pattern::RandRw)
    }
}

/// A load.
#[derive(Debug, Clone)]
pub struct LoadConfig {
    /// Where the appliance listens.
    pub address: SocketAddr,
    /// The volume's name.
    pub volume: String,
    /// What the commands do.
    pub pattern: Pattern,
    /// For [`Pattern::RandRw`]: how many of 100 commands read.
    pub read_percent: u8,
    /// Bytes of a command: blocks of the namespace, up to what the controller takes.
    pub block_bytes: u32,
    /// Commands in flight on each connection, 1 to 1023.
    pub queue_depth: u16,
    /// Connections: I/O queues of one controller.
    pub connections: u16,
    /// The load ends after this long...
    pub duration: Duration,
    /// ... or when it has submitted so many bytes.
    pub bytes_max: Option<u64>,
    /// The load stays in the first so many bytes of the volume; `None`: all of it.
    pub range_bytes: Option<u64>,
    /// Of the random numbers.
    pub seed: u64,
}

impl LoadConfig {
    /// Random 4 KiB commands on one connection for one second, to be changed as needed.
    pub fn new(address: SocketAddr, volume: impl Into<String>, pattern: Pattern) -> Self {
        LoadConfig {
            address,
            volume: volume.into(),
            pattern,
            read_percent: 50,
            block_bytes: 4096,
            queue_depth: 1,
            connections: 1,
            duration: Duration::from_secs(1),
            bytes_max: None,
            range_bytes: None,
            seed: 1,
        }
    }
}

/// How a load goes; since the last report.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Since the start.
    pub elapsed: Duration,
    /// Commands a second.
    pub iops: f64,
    /// Bytes a second, in MiB.
    pub mib_per_second: f64,
    /// Commands that failed, since the start.
    pub failures: u64,
}

/// What a load came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadResult {
    /// What the commands did.
    pub pattern: Pattern,
    /// Bytes of a command.
    pub block_bytes: u32,
    /// Commands in flight on each connection.
    pub queue_depth: u16,
    /// Connections.
    pub connections: u16,
    /// From the first submission to the last completion.
    pub seconds: f64,
    /// Commands that succeeded.
    pub operations: u64,
    /// Commands that failed; they are in no other figure.
    pub failures: u64,
    /// How the first of them failed.
    pub first_failure: Option<String>,
    /// Commands a second.
    pub iops: f64,
    /// Bytes a second, in MiB.
    pub mib_per_second: f64,
    /// Latencies of all commands.
    pub latency: Latency,
    /// Of reads; `None` when there were none.
    pub read_latency: Option<Latency>,
    /// Of writes; `None` when there were none.
    pub write_latency: Option<Latency>,
}

/// A command in flight.
#[derive(Clone, Copy)]
struct InFlight {
    started: Instant,
    reads: bool,
}

/// One connection and its place in the pattern.
struct Lane {
    queue: Queue,
    in_flight: Vec<InFlight>,
    free: Vec<u32>,
    /// Sequential patterns: the next command, and the bounds to wrap at, in commands.
    next: u64,
    first: u64,
    end: u64,
}

#[derive(Default)]
struct Tally {
    reads: Recorder,
    writes: Recorder,
    failures: u64,
    first_failure: Option<String>,
}

impl Tally {
    fn operations(&self) -> u64 {
        self.reads.count() + self.writes.count()
    }
}

/// Runs a load to its end; `progress` is called twice a second.
///
/// # Errors
/// When the connection fails. Commands that fail are counted, not errors.
pub fn run(config: &LoadConfig, mut progress: impl FnMut(Progress)) -> Result<LoadResult, PerfError> {
    let mut controller = Controller::connect(
        config.address,
        &nqn::of_volume(&config.volume),
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
    let mut load = Load::new(config, &mut controller)?;
    let result = load.run(&mut controller, &mut progress)?;
    drop(load);
    controller.shutdown()?;
    Ok(result)
}

struct Load<'a> {
    config: &'a LoadConfig,
    lanes: Vec<Lane>,
    /// Blocks of a command, and commands in the range.
    command_blocks: u64,
    commands: u64,
    rng: Rng,
    payload: Vec<u8>,
    payload_places: u64,
    bytes_left: u64,
    tally: Tally,
}

impl<'a> Load<'a> {
    fn new(config: &'a LoadConfig, controller: &mut Controller) -> Result<Self, PerfError> {
        let namespaces = controller.namespaces()?;
        let geometry = namespaces.first().map(varve::nvmf::host::Namespace::geometry).ok_or_else(|| {
            PerfError::NoNamespace { address: config.address, volume: config.volume.clone() }
        })?;
        let queues = controller.take_queues();
        let bytes_max = queues.iter().map(Queue::transfer_bytes_max).min().unwrap_or(0);
        let (block_bytes, namespace_block_bytes) = (config.block_bytes, geometry.block_bytes);
        if block_bytes == 0 || !block_bytes.is_multiple_of(namespace_block_bytes) || block_bytes > bytes_max {
            return Err(PerfError::BlockSize { block_bytes, namespace_block_bytes, bytes_max });
        }
        let volume_bytes = geometry.size_blocks * u64::from(namespace_block_bytes);
        let range_bytes = config.range_bytes.unwrap_or(volume_bytes);
        let commands = range_bytes / u64::from(block_bytes);
        if range_bytes > volume_bytes || commands < u64::from(config.connections.max(1)) {
            return Err(PerfError::Range { range_bytes, volume_bytes });
        }
        let count = queues.len() as u64;
        let lanes = queues
            .into_iter()
            .zip(0..)
            .map(|(mut queue, index): (Queue, u64)| {
                queue.set_geometry(geometry);
                let depth = u32::from(queue.depth().min(config.queue_depth));
                let idle = InFlight { started: Instant::now(), reads: true };
                let (first, end) = (commands * index / count, commands * (index + 1) / count);
                Lane {
                    queue,
                    in_flight: vec![idle; depth as usize],
                    free: (0..depth).collect(),
                    next: first,
                    first,
                    end,
                }
            })
            .collect();
        let mut rng = Rng::new(config.seed);
        let mut payload = vec![0; block_bytes as usize * PAYLOADS as usize];
        rng.fill(&mut payload);
        Ok(Load {
            config,
            lanes,
            command_blocks: u64::from(block_bytes / namespace_block_bytes),
            commands,
            rng,
            payload_places: (PAYLOADS - 1) * u64::from(block_bytes) / 8,
            payload,
            bytes_left: config.bytes_max.unwrap_or(u64::MAX),
            tally: Tally::default(),
        })
    }

    fn run(
        &mut self,
        controller: &mut Controller,
        progress: &mut impl FnMut(Progress),
    ) -> Result<LoadResult, PerfError> {
        let wait = if self.lanes.len() == 1 { Wait::Spin(SPIN) } else { Wait::Now };
        let started = Instant::now();
        let deadline = started + self.config.duration;
        let mut reported = (started, 0);
        let mut idle_rounds = 0_u32;
        loop {
            let now = Instant::now();
            let submits = now < deadline && self.bytes_left > 0 && self.tally.failures < FAILURES_MAX;
            let mut in_flight = 0;
            let mut completed = 0;
            for lane in 0..self.lanes.len() {
                if submits {
                    self.fill(lane)?;
                }
                completed += self.poll(lane, wait)?;
                in_flight += self.lanes[lane].queue.outstanding_count();
            }
            if !submits && (in_flight == 0 || now > deadline + DRAIN_TIMEOUT) {
                break;
            }
            // Where cores are shared, the appliance may be waiting for this one.
            idle_rounds = if completed == 0 { idle_rounds + 1 } else { 0 };
            if idle_rounds > 16 {
                std::thread::yield_now();
            }
            if now.duration_since(reported.0) >= PROGRESS_INTERVAL {
                let operations = self.tally.operations();
                progress(self.progress(now - started, now - reported.0, operations - reported.1));
                controller.keep_alive_if_due()?;
                reported = (now, operations);
            }
        }
        Ok(self.result(started.elapsed()))
    }

    /// Submits until the lane is full.
    fn fill(&mut self, lane: usize) -> Result<(), PerfError> {
        let lane = &mut self.lanes[lane];
        while let Some(&tag) = lane.free.last() {
            if self.bytes_left == 0 {
                break;
            }
            let command = if self.config.pattern.is_random() {
                self.rng.below(self.commands)
            } else {
                let command = lane.next;
                lane.next = if command + 1 == lane.end { lane.first } else { command + 1 };
                command
            };
            let reads = match self.config.pattern {
                Pattern::Read | Pattern::RandRead => true,
                Pattern::Write | Pattern::RandWrite => false,
                Pattern::RandRw => self.rng.below(100) < u64::from(self.config.read_percent),
            };
            let lba = command * self.command_blocks;
            lane.in_flight[tag as usize] = InFlight { started: Instant::now(), reads };
            if reads {
                lane.queue.submit_read(lba, self.command_blocks as u32, tag.into())?;
            } else {
                let from = self.rng.below(self.payload_places + 1) as usize * 8;
                let data = &self.payload[from..from + self.config.block_bytes as usize];
                lane.queue.submit_write(lba, data, false, tag.into())?;
            }
            lane.free.pop();
            self.bytes_left = self.bytes_left.saturating_sub(u64::from(self.config.block_bytes));
        }
        Ok(())
    }

    fn poll(&mut self, lane: usize, wait: Wait) -> Result<usize, HostError> {
        let Lane { queue, in_flight, free, .. } = &mut self.lanes[lane];
        let tally = &mut self.tally;
        let mut now = None;
        queue.poll(wait, |completion| {
            // One look at the clock for all that one receive brought.
            let now = *now.get_or_insert_with(Instant::now);
            let command = in_flight[completion.tag as usize];
            free.push(completion.tag as u32);
            if completion.status.is_success() {
                let latency = now.duration_since(command.started);
                if command.reads { tally.reads.record(latency) } else { tally.writes.record(latency) }
            } else {
                tally.failures += 1;
                tally.first_failure.get_or_insert_with(|| completion.status.to_string());
            }
        })
    }

    fn progress(&self, elapsed: Duration, span: Duration, operations: u64) -> Progress {
        let iops = operations as f64 / span.as_secs_f64();
        let mib_per_second = iops * f64::from(self.config.block_bytes) / f64::from(1 << 20);
        Progress { elapsed, iops, mib_per_second, failures: self.tally.failures }
    }

    fn result(&self, elapsed: Duration) -> LoadResult {
        let tally = &self.tally;
        let mut all = tally.reads.clone();
        all.add(&tally.writes);
        let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let iops = all.count() as f64 / seconds;
        let some = |recorder: &Recorder| (recorder.count() > 0).then(|| recorder.latency());
        LoadResult {
            pattern: self.config.pattern,
            block_bytes: self.config.block_bytes,
            queue_depth: self.config.queue_depth,
            connections: self.config.connections,
            seconds,
            operations: all.count(),
            failures: tally.failures
                + self.lanes.iter().map(|lane| u64::from(lane.queue.outstanding_count())).sum::<u64>(),
            first_failure: tally.first_failure.clone(),
            iops,
            mib_per_second: iops * f64::from(self.config.block_bytes) / f64::from(1 << 20),
            latency: all.latency(),
            read_latency: some(&tally.reads),
            write_latency: some(&tally.writes),
        }
    }
}
