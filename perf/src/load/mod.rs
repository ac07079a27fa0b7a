//! Runs a load on volumes over `NVMe`/TCP, on a block device, or on a log without network. The
//! threads that drive it never sleep, so what is timed is the loaded target alone.
//!
//! **Closed** (the default): a completed command makes room for the next; latency counts from
//! submission to completion. So if the appliance stalls, fewer commands are affected than in an
//! open load. **Open** (a rate): commands are meant to start at a constant rate, and latency counts
//! from that moment (`pace`), whether or not there was room.
//!
//! Each thread (`worker`) has its own connections (`port`). It sends its counts to the calling
//! thread, interval by interval (`tally`).

mod aim;
mod device;
mod log;
mod nvme;
pub mod output;
mod pace;
pub mod payload;
mod port;
mod result;
mod tally;
mod target;
pub mod verify;
mod worker;
pub mod zipf;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Barrier, OnceLock, mpsc};
use std::time::{Duration, Instant};

pub use aim::{Access, Kind, Pattern};
pub use result::{LoadResult, Verification};
pub use tally::{Interval, Recorders, Slice};
pub use target::{Device, Target};

use crate::error::PerfError;
use crate::machine::pinned;
use aim::Choice;
use pace::Pace;
use payload::Payload;
use port::Port;
use tally::Collector;
use worker::{Orders, Outcome, Seat, Worker};

/// How often the calling thread checks keep-alives, at least.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(500);

/// A load.
#[derive(Debug, Clone)]
pub struct LoadConfig {
    /// What is loaded.
    pub target: Target,
    /// What the commands do.
    pub pattern: Pattern,
    /// How random commands choose their blocks.
    pub access: Access,
    /// For [`Pattern::RandRw`]: how many of 100 commands read.
    pub read_percent: u8,
    /// Of 100 commands that would write, how many trim instead.
    pub trim_percent: u8,
    /// What is written compresses to 1 / this, 1 to 100.
    pub compress_ratio: f64,
    /// Bytes of a command: a multiple of the namespace's block size, up to what the controller
    /// accepts.
    pub block_bytes: u32,
    /// Commands in flight on each connection, 1 to 1023.
    pub queue_depth: u16,
    /// Connections to each volume: I/O queues of one controller.
    pub connections: u16,
    /// Threads over which the connections are distributed; not more than there are connections. On
    /// a device or a log, each thread has its own handle.
    pub threads: u16,
    /// Cores that the threads are pinned to, in rotation; empty: not pinned.
    pub cores: Vec<usize>,
    /// Commands per second of all threads together; `None`: as fast as they complete.
    pub rate: Option<f64>,
    /// Whether written blocks are stamped, and read blocks checked.
    pub verify: bool,
    /// The load ends after this long...
    pub duration: Duration,
    /// ... or after it has submitted this many bytes.
    pub bytes_max: Option<u64>,
    /// The load uses only the first bytes of each volume, this many; `None`: all of it.
    pub range_bytes: Option<u64>,
    /// Length of the intervals of the timeline.
    pub interval: Duration,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl LoadConfig {
    /// Random 4 KiB commands on one connection for one second, to be changed as needed.
    pub fn new(address: SocketAddr, volume: impl Into<String>, pattern: Pattern) -> Self {
        Self::of(Target::Nvme { address, volumes: vec![volume.into()] }, pattern)
    }

    /// The same on any target.
    pub fn of(target: Target, pattern: Pattern) -> Self {
        LoadConfig {
            target,
            pattern,
            access: Access::Uniform,
            read_percent: 50,
            trim_percent: 0,
            compress_ratio: 1.0,
            block_bytes: 4096,
            queue_depth: 1,
            connections: 1,
            threads: 1,
            cores: Vec::new(),
            rate: None,
            verify: false,
            duration: Duration::from_secs(1),
            bytes_max: None,
            range_bytes: None,
            interval: Duration::from_secs(1),
            seed: 1,
        }
    }
}

/// The state of a load at the end of each interval.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Since the start.
    pub elapsed: Duration,
    /// The figures of the interval.
    pub slice: &'a Slice,
    /// Its histograms.
    pub interval: &'a Interval,
    /// Commands that failed, since the start.
    pub failures: u64,
}

/// A finished load: its figures and its histograms.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The figures.
    pub result: LoadResult,
    /// The histograms they are derived from.
    pub recorders: Recorders,
}

/// Runs a load to its end; `progress` is called at the end of each interval.
///
/// # Errors
/// The connection fails. Commands that fail are counted and are not errors.
pub fn run(config: &LoadConfig, progress: impl FnMut(Progress<'_>)) -> Result<LoadResult, PerfError> {
    Ok(run_recorded(config, progress)?.result)
}

/// The same with its histograms.
///
/// # Errors
/// As for [`run`].
pub fn run_recorded(
    config: &LoadConfig,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Finished, PerfError> {
    if config.verify && config.trim_percent > 0 && !matches!(config.target, Target::Nvme { .. }) {
        return Err(PerfError::shape("a device may forget a trim, so trims are verified on volumes only"));
    }
    if config.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return Err(PerfError::shape("a rate is a number of commands a second above 0"));
    }
    target::run(config, &mut progress)
}

/// Creates the seats of one thread, on that thread.
type Build<'a, P> = Box<dyn FnOnce() -> Result<Vec<Seat<P>>, PerfError> + Send + 'a>;

/// Runs a thread for each of `builds`, and calls `housekeeping` at least every
/// [`HOUSEKEEPING_INTERVAL`] meanwhile.
fn drive<P: Port>(
    config: &LoadConfig,
    builds: Vec<Build<'_, P>>,
    progress: &mut dyn FnMut(Progress<'_>),
    mut housekeeping: impl FnMut() -> Result<(), PerfError>,
) -> Result<Finished, PerfError> {
    let count = builds.len();
    let payload = Payload::new(config.block_bytes as usize, config.compress_ratio, config.seed);
    let run = config.verify.then(run_number);
    let (barrier, start) = (Barrier::new(count), OnceLock::new());
    let (sender, receiver) = mpsc::channel();
    let mut collector = Collector::new(count, config.block_bytes);
    let mut show = |interval: &Interval, slice: &Slice, failures: u64| {
        progress(Progress { elapsed: interval.end, slice, interval, failures });
    };
    let outcomes: Result<Vec<Outcome>, PerfError> = std::thread::scope(|scope| {
        let threads: Vec<_> = builds
            .into_iter()
            .enumerate()
            .map(|(index, build)| {
                let core = (!config.cores.is_empty()).then(|| config.cores[index % config.cores.len()]);
                let orders = Orders {
                    choice: Choice {
                        pattern: config.pattern,
                        access: config.access,
                        read_percent: config.read_percent,
                        trim_percent: config.trim_percent,
                    },
                    block_bytes: config.block_bytes,
                    queue_depth: config.queue_depth,
                    duration: config.duration,
                    interval: config.interval,
                    bytes_max: config.bytes_max.map_or(u64::MAX, |bytes| bytes / count as u64),
                    pace: config.rate.map(|rate| Pace::new(rate, index, count)),
                    seed: config.seed.wrapping_add(index as u64),
                    payload: &payload,
                    run,
                };
                let (sender, barrier, start) = (sender.clone(), &barrier, &start);
                scope.spawn(move || {
                    pinned(core, || {
                        let seats = build();
                        // All threads begin together; a thread whose build failed waits here too.
                        barrier.wait();
                        let start: Instant = *start.get_or_init(Instant::now);
                        Worker::new(orders, seats?, start).run(|interval| {
                            // If the receiver is gone, the load has failed.
                            let _ = sender.send(interval);
                        })
                    })
                })
            })
            .collect();
        drop(sender);
        let mut kept = Ok(());
        loop {
            match receiver.recv_timeout(HOUSEKEEPING_INTERVAL) {
                Ok(interval) => collector.add(interval, &mut show),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            kept = kept.and_then(|()| housekeeping());
        }
        let mut outcomes = Vec::new();
        for thread in threads {
            outcomes.push(thread.join().map_err(|_| PerfError::ThreadEnded)?);
        }
        kept?;
        outcomes.into_iter().collect()
    });
    let outcomes = outcomes?;
    collector.end(&mut show);
    let result = LoadResult::new(config, count, &outcomes, &collector);
    Ok(Finished { result, recorders: collector.total })
}

/// A number that no other run has.
fn run_number() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
    since ^ u64::from(std::process::id()).rotate_left(40)
}
