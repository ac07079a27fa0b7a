//! The floor of the storage: reads and writes a file on the same file system through
//! [`varve::bdev`], without the appliance.

use std::path::Path;
use std::time::{Duration, Instant};

use smallvec::smallvec;
use varve::bdev::{BLOCK_BYTES, Bdev, Command, Completion, FileOptions, Operation, Submit, open_file};
use varve::dma::DmaPool;

use super::FloorResult;
use crate::error::PerfError;
use crate::latency::Recorder;
use crate::rng::Rng;
use crate::spin::Spin;

/// DMA memory of a floor, in bytes: 64 commands of 1 MiB.
const DMA_BYTES: usize = 64 << 20;

/// How the whole file is written before it is measured.
const WHOLE_COMMAND_BLOCKS: u64 = 256;
const WHOLE_DEPTH: usize = 8;
const WHOLE_TIMEOUT: Duration = Duration::from_mins(10);

/// A file to measure. The owner of its directory removes it.
pub struct FloorFile {
    device: Box<dyn Bdev>,
    dma: DmaPool,
    rng: Rng,
    /// Blocks that were written, counted from the start of the file.
    written_blocks: u64,
}

impl FloorFile {
    /// Creates a sparse file of `len_bytes` (at least 1 MiB), like a new pool's sparse file.
    ///
    /// # Errors
    /// The file cannot be created or opened.
    pub fn create(path: &Path, len_bytes: u64) -> Result<Self, PerfError> {
        let len_blocks = (len_bytes / BLOCK_BYTES as u64).max(256);
        let options = FileOptions { create_len_blocks: Some(len_blocks), ..FileOptions::default() };
        let device = open_file(path, &options)?;
        Ok(FloorFile { device, dma: DmaPool::new(DMA_BYTES), rng: Rng::new(7), written_blocks: 0 })
    }

    /// The engine: `uring` or `threads`.
    pub fn kind(&self) -> &'static str {
        self.device.info().kind
    }

    /// Writes all of it once, so that the file system has allocated its blocks.
    ///
    /// # Errors
    /// A write that failed.
    pub fn write_whole(&mut self) -> Result<(), PerfError> {
        self.write_until(WHOLE_COMMAND_BLOCKS, WHOLE_DEPTH, WHOLE_TIMEOUT, true).map(|_| ())
    }

    /// Writes sequentially for `duration`, `command_blocks` at a time, with `depth` (1 to 64) in
    /// flight, and starts again at the beginning after the end.
    ///
    /// # Errors
    /// A write that failed.
    pub fn write(
        &mut self,
        command_blocks: u64,
        depth: usize,
        duration: Duration,
    ) -> Result<FloorResult, PerfError> {
        self.write_until(command_blocks, depth, duration, false)
    }

    fn write_until(
        &mut self,
        command_blocks: u64,
        depth: usize,
        duration: Duration,
        once: bool,
    ) -> Result<FloorResult, PerfError> {
        let commands = self.device.info().len_blocks / command_blocks;
        let mut payload = self.dma.allocate(command_blocks as usize * BLOCK_BYTES)?;
        self.rng.fill(payload.as_mut_slice());
        let payload = payload.freeze();
        let mut next = 0;
        let (recorder, elapsed) = drive(&mut *self.device, depth, duration, |_| {
            let block = next % commands * command_blocks;
            next += 1;
            (!once || next <= commands)
                .then(|| Ok(Operation::Write { block, buffers: smallvec![payload.clone()] }))
        })?;
        let written_blocks = recorder.count().min(commands) * command_blocks;
        self.written_blocks = self.written_blocks.max(written_blocks);
        let what = format!(
            "the file itself ({}), sequential {} KiB writes, QD{depth}",
            self.kind(),
            command_blocks as usize * BLOCK_BYTES / 1024
        );
        let bytes = command_blocks * BLOCK_BYTES as u64;
        Ok(FloorResult::new(what, elapsed.as_secs_f64(), bytes, recorder.latency()))
    }

    /// Reads single blocks at random among those that were written for `duration`, with `depth` (1
    /// to 64) in flight.
    ///
    /// # Errors
    /// A read that failed.
    pub fn random_read(&mut self, depth: usize, duration: Duration) -> Result<FloorResult, PerfError> {
        let (blocks, mut rng) = (self.written_blocks.max(1), self.rng.clone());
        self.read("random", 1, depth, duration, move || rng.below(blocks))
    }

    /// Reads what was written in order, `command_blocks` at a time, repeatedly.
    ///
    /// # Errors
    /// A read that failed.
    pub fn sequential_read(
        &mut self,
        command_blocks: u64,
        depth: usize,
        duration: Duration,
    ) -> Result<FloorResult, PerfError> {
        let commands = (self.written_blocks / command_blocks).max(1);
        let mut next = 0;
        self.read("sequential", command_blocks, depth, duration, move || {
            next = (next + 1) % commands;
            next * command_blocks
        })
    }

    fn read(
        &mut self,
        order: &str,
        command_blocks: u64,
        depth: usize,
        duration: Duration,
        mut next: impl FnMut() -> u64,
    ) -> Result<FloorResult, PerfError> {
        let bytes = command_blocks as usize * BLOCK_BYTES;
        let dma = &self.dma;
        let (recorder, elapsed) = drive(&mut *self.device, depth, duration, |buffer| {
            let block = next();
            Some(match buffer {
                Some(completion) => Ok(Operation::Read { block, buffers: completion.buffers }),
                None => dma
                    .allocate(bytes)
                    .map(|buffer| Operation::Read { block, buffers: smallvec![buffer] })
                    .map_err(PerfError::from),
            })
        })?;
        let what =
            format!("the file itself ({}), {order} {} KiB reads, QD{depth}", self.kind(), bytes / 1024);
        Ok(FloorResult::new(what, elapsed.as_secs_f64(), bytes as u64, recorder.latency()))
    }
}

/// Keeps `depth` commands in flight. `next` makes a command, from a completed one if there is one;
/// `None` ends the run.
fn drive(
    device: &mut dyn Bdev,
    depth: usize,
    duration: Duration,
    mut next: impl FnMut(Option<Completion>) -> Option<Result<Operation, PerfError>>,
) -> Result<(Recorder, Duration), PerfError> {
    let depth = depth.clamp(1, 64);
    let mut recorder = Recorder::new();
    let mut started_at = vec![Instant::now(); depth];
    let mut free: Vec<(usize, Option<Completion>)> = (0..depth).map(|tag| (tag, None)).collect();
    let mut completions = Vec::new();
    let started = Instant::now();
    let mut ended = false;
    let mut spin = Spin::new();
    loop {
        ended |= started.elapsed() >= duration;
        while !ended {
            let Some((tag, before)) = free.pop() else { break };
            let Some(operation) = next(before) else {
                ended = true;
                break;
            };
            started_at[tag] = Instant::now();
            if let Submit::Full(_) = device.submit(Command { tag: tag as u64, operation: operation? }) {
                free.push((tag, None));
                break;
            }
        }
        let found = device.poll(&mut completions) > 0;
        if !found && ended && device.in_flight() == 0 {
            return Ok((recorder, started.elapsed()));
        }
        spin.looked(found);
        for completion in completions.drain(..) {
            let tag = completion.tag as usize;
            recorder.record(started_at[tag].elapsed());
            completion.result.clone()?;
            free.push((tag, Some(completion)));
        }
    }
}
