//! The host's side of a soak: connections, commands in flight, and their results.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use varve::nvmf::host::{ConnectOptions, Controller, HostError, Namespace, Queue, Wait};
use varve::nvmf::nqn;

use super::error::SoakError;
use super::model::{Model, ReadTicket};
use super::stamp::{self, BLOCK_BYTES, Content};
use crate::sim::rng::Rng;

/// I/O queues.
pub const QUEUES: u16 = 2;
/// The largest write or read under load, in blocks: 64 KiB.
const COMMAND_BLOCKS_MAX: u64 = 16;
/// The largest trim, in blocks.
const TRIM_BLOCKS_MAX: u64 = 64;
/// A quarter of the commands go to this many blocks of the volume, so that they overlap.
const HOT_BLOCKS: u64 = 256;
/// The size of the reads that verify the volume, in blocks.
const VERIFY_BLOCKS: u64 = 32;
/// How long a connection may take to answer or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Counters of the load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Writes acknowledged.
    pub writes: u64,
    /// Blocks of these writes.
    pub written_blocks: u64,
    /// Trims acknowledged.
    pub trims: u64,
    /// Flushes acknowledged.
    pub flushes: u64,
    /// How many of the writes had FUA.
    pub forced_writes: u64,
    /// Reads under load, all checked.
    pub reads: u64,
    /// The maximum number of log blocks that all submitted commands use.
    pub log_blocks: u64,
}

enum Command {
    Write { sequence: u64, len_blocks: u64, forced: bool },
    Trim { sequence: u64 },
    Flush,
    Read { ticket: ReadTicket },
}

struct Lane {
    queue: Queue,
    commands: Vec<Option<Command>>,
    free: Vec<usize>,
}

/// One association with the appliance.
pub struct Session {
    lanes: Vec<Lane>,
    _controller: Controller,
    soak: u64,
    buffer: Vec<u8>,
}

impl Session {
    /// Connects once.
    ///
    /// # Errors
    /// When the appliance does not answer, or its volume is a different one.
    pub fn connect(
        address: SocketAddr,
        volume: &str,
        queue_depth: u16,
        len_blocks: u64,
        soak: u64,
    ) -> Result<Self, SoakError> {
        let options = ConnectOptions {
            io_queues: QUEUES,
            queue_depth: queue_depth / QUEUES,
            // This host sends no keep-alives; a session lasts seconds.
            keep_alive_timeout_ms: 0,
            ..ConnectOptions::default()
        };
        let mut controller = Controller::connect(address, &nqn::of_volume(volume), options)?;
        let geometry = controller.namespaces()?.first().map(Namespace::geometry);
        let (found_blocks, block_bytes) =
            geometry.map_or((0, 0), |geometry| (geometry.size_blocks, geometry.block_bytes));
        let (Some(geometry), true) =
            (geometry, block_bytes as usize == BLOCK_BYTES && found_blocks == len_blocks)
        else {
            return Err(SoakError::Volume { found_blocks, block_bytes, expected_blocks: len_blocks });
        };
        let lanes = controller.take_queues().into_iter().map(|mut queue| {
            queue.set_geometry(geometry);
            let depth = usize::from(queue.depth());
            Lane { queue, commands: (0..depth).map(|_| None).collect(), free: (0..depth).collect() }
        });
        Ok(Session {
            lanes: lanes.collect(),
            _controller: controller,
            soak,
            buffer: vec![0; COMMAND_BLOCKS_MAX as usize * BLOCK_BYTES],
        })
    }

    /// Keeps the queues full until `until`.
    ///
    /// # Errors
    /// When a command fails, a read returns a wrong content, or the connection is lost.
    pub fn load(
        &mut self,
        model: &mut Model,
        rng: &mut Rng,
        counts: &mut Counts,
        until: Instant,
    ) -> Result<(), SoakError> {
        while Instant::now() < until {
            for lane in 0..self.lanes.len() {
                while !self.lanes[lane].free.is_empty() {
                    self.submit(lane, model, rng, counts)?;
                }
                self.poll(lane, model, counts)?;
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn submit(
        &mut self,
        lane: usize,
        model: &mut Model,
        rng: &mut Rng,
        counts: &mut Counts,
    ) -> Result<(), SoakError> {
        let lane = &mut self.lanes[lane];
        let Some(tag) = lane.free.pop() else { return Ok(()) };
        let queue = &mut lane.queue;
        let blocks = if rng.one_in(4) { HOT_BLOCKS.min(model.len_blocks()) } else { model.len_blocks() };
        let first = rng.below(blocks);
        let room = model.len_blocks() - first;
        let wanted = if rng.one_in(2) { 1 } else { 1 + rng.below(COMMAND_BLOCKS_MAX) };
        let len_blocks = wanted.min(room);
        counts.log_blocks += 1;
        let command = match rng.below(100) {
            0..15 => {
                queue.submit_read(first, len_blocks as u32, tag as u64)?;
                Command::Read { ticket: model.begin_read(first, len_blocks) }
            }
            15..19 => {
                let len_blocks = (1 + rng.below(TRIM_BLOCKS_MAX)).min(room);
                queue.submit_trim(&[(first, len_blocks as u32)], tag as u64)?;
                Command::Trim { sequence: model.submit(first, len_blocks, true) }
            }
            19 => {
                queue.submit_flush(tag as u64)?;
                Command::Flush
            }
            _ => {
                let sequence = model.submit(first, len_blocks, false);
                let data = &mut self.buffer[..len_blocks as usize * BLOCK_BYTES];
                for (block, bytes) in (first..).zip(data.chunks_mut(BLOCK_BYTES)) {
                    stamp::write(bytes, self.soak, block, sequence);
                }
                let forced = rng.one_in(20);
                queue.submit_write(first, data, forced, tag as u64)?;
                counts.log_blocks += len_blocks;
                Command::Write { sequence, len_blocks, forced }
            }
        };
        lane.commands[tag] = Some(command);
        Ok(())
    }

    fn poll(&mut self, lane: usize, model: &mut Model, counts: &mut Counts) -> Result<usize, SoakError> {
        let soak = self.soak;
        let Lane { queue, commands, free } = &mut self.lanes[lane];
        let mut failed = None;
        let completed = queue.poll(Wait::Now, |completion| {
            let tag = completion.tag as usize;
            free.push(tag);
            let Some(command) = commands.get_mut(tag).and_then(Option::take) else { return };
            let operation = match command {
                Command::Write { .. } => "Write",
                Command::Trim { .. } => "Dataset Management",
                Command::Flush => "Flush",
                Command::Read { .. } => "Read",
            };
            if !completion.status.is_success() {
                failed.get_or_insert(SoakError::Status { operation, status: completion.status.to_string() });
                return;
            }
            match command {
                Command::Write { sequence, len_blocks, forced } => {
                    model.acknowledge(sequence);
                    counts.writes += 1;
                    counts.written_blocks += len_blocks;
                    counts.forced_writes += u64::from(forced);
                }
                Command::Trim { sequence } => {
                    model.acknowledge(sequence);
                    counts.trims += 1;
                }
                Command::Flush => counts.flushes += 1,
                Command::Read { ticket } => {
                    counts.reads += 1;
                    for (index, bytes) in completion.data.chunks(BLOCK_BYTES).enumerate() {
                        let found = stamp::read(bytes, soak, ticket.block(index));
                        if let Err(violation) = model.check_read(&ticket, index, found) {
                            failed.get_or_insert(violation.into());
                        }
                    }
                }
            }
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(completed?),
        }
    }

    /// Completes the commands in flight.
    ///
    /// # Errors
    /// As for [`Session::load`]; also when it takes longer than 10 s.
    pub fn drain(&mut self, model: &mut Model, counts: &mut Counts) -> Result<(), SoakError> {
        let started = Instant::now();
        while self.lanes.iter().any(|lane| lane.queue.outstanding_count() > 0) {
            for lane in 0..self.lanes.len() {
                self.poll(lane, model, counts)?;
            }
            give_up_after(PATIENCE, started)?;
        }
        Ok(())
    }

    /// After the kill: receives the answers that were sent before it, until every connection has
    /// ended. Returns how many writes and trims got none.
    ///
    /// # Errors
    /// As for [`Session::load`], except the loss itself; also when a connection does not end within
    /// 10 s.
    pub fn bury(mut self, model: &mut Model, counts: &mut Counts) -> Result<u64, SoakError> {
        let started = Instant::now();
        for lane in 0..self.lanes.len() {
            loop {
                match self.poll(lane, model, counts) {
                    Ok(_) => give_up_after(PATIENCE, started)?,
                    Err(SoakError::Host(HostError::Lost { .. })) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        let commands = self.lanes.iter().flat_map(|lane| lane.commands.iter().flatten());
        let changes = |command: &&Command| matches!(command, Command::Write { .. } | Command::Trim { .. });
        Ok(commands.filter(changes).count() as u64)
    }

    /// Reads the whole volume; no command may be in flight.
    ///
    /// # Errors
    /// When a read fails.
    pub fn read_all(&mut self, len_blocks: u64) -> Result<Vec<Content>, SoakError> {
        let soak = self.soak;
        let mut found = vec![Content::Bad("not read"); len_blocks as usize];
        let queue = &mut self.lanes[0].queue;
        let mut next = 0;
        let mut failed = None;
        let started = Instant::now();
        while next < len_blocks || queue.outstanding_count() > 0 {
            while next < len_blocks && queue.free_slots() > 0 {
                let blocks = VERIFY_BLOCKS.min(len_blocks - next);
                queue.submit_read(next, blocks as u32, next)?;
                next += blocks;
            }
            queue.poll(Wait::Block(Duration::from_millis(100)), |completion| {
                if !completion.status.is_success() {
                    failed = Some(completion.status.to_string());
                }
                for (block, bytes) in (completion.tag..).zip(completion.data.chunks(BLOCK_BYTES)) {
                    found[block as usize] = stamp::read(bytes, soak, block);
                }
            })?;
            if let Some(status) = failed {
                return Err(SoakError::Status { operation: "Read of the whole volume", status });
            }
            give_up_after(PATIENCE * 6, started)?;
        }
        Ok(found)
    }
}

fn give_up_after(patience: Duration, started: Instant) -> Result<(), SoakError> {
    if started.elapsed() > patience {
        return Err(SoakError::Stuck { waited_ms: patience.as_millis() as u64 });
    }
    Ok(())
}
