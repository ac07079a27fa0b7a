//! Runs commands whose cost is counted in instructions, not in time: a figure that other load on
//! the machine does not change.
//!
//! Host, target and a pool in memory share one thread and loopback TCP. The host submits as many
//! commands as its queue is deep and sends them at once. Then the measurement runs the appliance's
//! turns itself until all have completed, and repeats this. Nothing depends on the scheduler, so
//! the same commands take the same turns. `scripts/count-instructions` runs this under callgrind
//! for N and for 2N commands; the difference, divided by N, is the cost of one command.
//!
//! What callgrind does not count: the kernel, and so the sockets' own cost. Under callgrind,
//! reading the clock is a system call. It does not support the instructions of the newest
//! processors, so the next best code runs instead.

use std::rc::Rc;
use std::thread::JoinHandle;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use varve::bdev::{BLOCK_BYTES, MemoryDisk};
use varve::dma::DmaPool;
use varve::log::Recycling;
use varve::nvmf::host::{ConnectOptions, Controller, Namespace, Queue, Wait};
use varve::nvmf::nqn;
use varve::nvmf::server::{Target, TargetConfig};
use varve::reactor::{IdlePolicy, Reactor, ReactorConfig};
use varve::volume::Pool;

use crate::bed::{Bed, Shape, VOLUME};
use crate::error::PerfError;
use crate::rng::Rng;

/// Blocks of the volume, all written before anything is counted: 64 MiB.
const VOLUME_BLOCKS: u64 = 16 << 10;
/// Blocks of a segment and segments of the working set. The counted commands fill new segments, as
/// those of a host do.
const SEGMENT_BLOCKS: u64 = 4096;
const SEGMENTS: u64 = 16;
/// DMA memory of the target, in bytes.
const STAGING_BYTES: usize = 64 << 20;
/// Commands must complete in this many turns; more is a bug.
const TURNS_MAX: u64 = 1_000_000;

/// What the commands do, 4 KiB each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rw {
    /// Random reads.
    #[value(name = "randread")]
    RandRead,
    /// Random writes.
    #[value(name = "randwrite")]
    RandWrite,
}

/// What to do.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Commands.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub operations: u64,
    /// What the commands do.
    #[arg(long, value_enum, default_value_t = Rw::RandWrite)]
    pub rw: Rw,
    /// Commands in flight.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub queue_depth: u16,
}

/// What was done. Callgrind counts the instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What the commands did.
    pub rw: Rw,
    /// Commands in flight.
    pub queue_depth: u16,
    /// Commands that completed.
    pub operations: u64,
    /// Turns of the appliance that they took.
    pub turns: u64,
    /// Commands according to the target's own counters.
    pub counted_by_target: u64,
}

/// Runs the commands.
///
/// # Errors
/// The pool's and the host's; a command that fails or does not complete.
pub fn run(options: &Options, mut on_step: impl FnMut(&str)) -> Result<Report, PerfError> {
    on_step("filling a volume");
    let mut rig = Rig::new(options.queue_depth)?;
    on_step("commands");
    let before = rig.target.stats().io_commands;
    counted_operations(&mut rig, options)?;
    let counted_by_target = rig.target.stats().io_commands - before;
    let report = Report {
        rw: options.rw,
        queue_depth: options.queue_depth,
        operations: options.operations,
        turns: rig.turns,
        counted_by_target,
    };
    rig.target.shutdown();
    Ok(report)
}

/// Everything that is counted, host and appliance. Callgrind finds it by its name, which no other
/// function's name may contain.
#[inline(never)]
fn counted_operations(rig: &mut Rig, options: &Options) -> Result<(), PerfError> {
    let result = rig.operate(options);
    std::hint::black_box(&result);
    result
}

/// The appliance's part of what is counted. Callgrind finds it by its name, which no other
/// function's name may contain.
#[inline(never)]
fn counted_turn(reactor: &mut Reactor<()>) {
    reactor.turn(&());
    std::hint::black_box(reactor);
}

/// An appliance without threads, and a host.
struct Rig {
    reactor: Reactor<()>,
    target: Target,
    queue: Queue,
    _controller: Controller,
    payload: Vec<u8>,
    rng: Rng,
    turns: u64,
}

impl Rig {
    fn new(queue_depth: u16) -> Result<Self, PerfError> {
        let shape =
            Shape { segment_blocks: SEGMENT_BLOCKS, segments: SEGMENTS, recycling: Recycling::Discard };
        let device = MemoryDisk::try_new(shape.device_blocks())?.open("memory");
        let bed = Bed::create(Box::new(device), shape, VOLUME_BLOCKS, false)?;
        bed.fill(VOLUME_BLOCKS)?;
        let pool = Rc::clone(&bed.pool);
        let config = ReactorConfig { idle: IdlePolicy::Poll, ..ReactorConfig::default() };
        let mut reactor: Reactor<()> = Reactor::new(config).map_err(PerfError::io("make a reactor"))?;
        let local = reactor.local();
        let target = Target::new(
            local.clone(),
            Rc::<Pool>::clone(&pool) as _,
            DmaPool::new(STAGING_BYTES),
            TargetConfig::default(),
        );
        // The order in which an appliance polls (`varve::serve`).
        let (receive, send) = (target.clone(), target.clone());
        local.add_poller(move || receive.poll_receive());
        local.add_poller(move || pool.poll());
        local.add_poller(move || send.poll_send());
        let address = target
            .listen(std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0)))
            .map_err(varve::serve::ServeError::from)?;
        let options = ConnectOptions {
            queue_depth,
            transfer_bytes_max: BLOCK_BYTES as u32,
            // Under callgrind everything is slow, so no timeout is set.
            keep_alive_timeout_ms: 0,
            ..ConnectOptions::default()
        };
        // The host's calls to connect block, so another thread makes them.
        let connecting = std::thread::spawn(move || connect(address, options));
        let (controller, queue) = turn_until_joined(&mut reactor, connecting)?;
        let depth_max = queue.depth();
        if depth_max < queue_depth {
            return Err(PerfError::QueueDepth { asked: queue_depth, depth_max });
        }
        let mut rng = Rng::new(5);
        let mut payload = vec![0; BLOCK_BYTES];
        rng.fill(&mut payload);
        Ok(Rig { reactor, target, queue, _controller: controller, payload, rng, turns: 0 })
    }

    fn operate(&mut self, options: &Options) -> Result<(), PerfError> {
        let mut left = options.operations;
        while left > 0 {
            let batch = left.min(options.queue_depth.into());
            for tag in 0..batch {
                let block = self.rng.below(VOLUME_BLOCKS);
                match options.rw {
                    Rw::RandRead => self.queue.submit_read(block, 1, tag)?,
                    Rw::RandWrite => self.queue.submit_write(block, &self.payload, false, tag)?,
                }
            }
            self.queue.send()?;
            let turns_max = self.turns + TURNS_MAX;
            while self.queue.outstanding_count() > 0 {
                if self.turns >= turns_max {
                    return Err(PerfError::shape("commands do not complete"));
                }
                counted_turn(&mut self.reactor);
                self.turns += 1;
                let mut failed = None;
                self.queue.poll(Wait::Now, |completion| {
                    if !completion.status.is_success() {
                        failed = Some(completion.status);
                    }
                })?;
                if let Some(status) = failed {
                    return Err(PerfError::Status { status: status.to_string() });
                }
            }
            left -= batch;
        }
        Ok(())
    }
}

fn connect(address: std::net::SocketAddr, options: ConnectOptions) -> Result<(Controller, Queue), PerfError> {
    let mut controller = Controller::connect(address, &nqn::of_volume(VOLUME), options)?;
    let missing = || PerfError::NoNamespace { address, volume: VOLUME.to_owned() };
    let geometry = controller.namespaces()?.first().map(Namespace::geometry).ok_or_else(missing)?;
    let mut queue = controller.take_queues().pop().ok_or_else(missing)?;
    queue.set_geometry(geometry);
    Ok((controller, queue))
}

/// Turns a reactor until a thread has ended.
fn turn_until_joined<T>(
    reactor: &mut Reactor<()>,
    thread: JoinHandle<Result<T, PerfError>>,
) -> Result<T, PerfError> {
    while !thread.is_finished() {
        reactor.turn(&());
        std::thread::yield_now();
    }
    thread.join().map_err(|_| PerfError::ThreadEnded)?
}

/// The result as text.
pub fn table(report: &Report) -> String {
    let rw = match report.rw {
        Rw::RandRead => "randread",
        Rw::RandWrite => "randwrite",
    };
    format!(
        "{rw} 4 KiB QD{}: {} operations, {:.2} turns each; scripts/count-instructions counts their instructions\n",
        report.queue_depth,
        report.operations,
        report.turns as f64 / report.operations as f64
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_reaches_the_target_and_full_batches_share_turns() {
        for rw in [Rw::RandWrite, Rw::RandRead] {
            let report = |queue_depth, operations| {
                let report = run(&Options { operations, rw, queue_depth }, |_| {}).unwrap();
                assert_eq!((report.operations, report.counted_by_target), (operations, operations), "{rw:?}");
                report
            };
            let alone = report(1, 64);
            // At least one turn for each command, and far fewer than spinning would take.
            assert!((64..640).contains(&alone.turns), "{alone:?}");
            // Three full batches and one of 4 commands.
            let batched = report(20, 64);
            assert!((4..64).contains(&batched.turns), "{batched:?}");
        }
    }
}
