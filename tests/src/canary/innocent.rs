//! The innocent host: one command at a time, every 10 ms; writes alternate with reads of what was
//! written. Every second write carries its data in the capsule and the others send it after an R2T,
//! so that all kinds of memory are needed. It keeps its connection alive as Linux does, and knows
//! what each block must hold.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use varve::nvmf::host::{ConnectOptions, Controller, HostError, Loss, Namespace, Payload, Queue, Wait};
use varve::nvmf::nqn;
use varve::nvmf::wire::command::Rw;
use varve::nvmf::wire::opcode::IoOpcode;

use super::bed::INNOCENT_VOLUME;
use super::error::CanaryError;
use super::verdict::Times;
use crate::sim::rng::Rng;
use crate::soak::stamp::{self, BLOCK_BYTES, Content};

/// The time from the start of one command to the start of the next, if the first is done by then.
pub(super) const BEAT: Duration = Duration::from_millis(10);
/// The number of blocks that it uses.
const BLOCKS: u64 = 4096;
/// Stored errors; all are counted.
const ERRORS_KEPT: usize = 5;
/// How often it checks whether its connection needs a keep-alive.
const LOOK: Duration = Duration::from_millis(100);
/// The time after which Linux resets the controller.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// Pause before it connects again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// What it experienced during one run.
#[derive(Debug, Default)]
pub(super) struct Experience {
    /// How long its commands took. Commands that it could not start in time because of earlier ones
    /// are included.
    pub(super) times: Times,
    /// Commands that failed, and connections that were lost or refused.
    pub(super) errors: u64,
    /// The first of these errors.
    pub(super) first_errors: Vec<String>,
    /// Blocks with wrong content.
    pub(super) wrong: Vec<String>,
}

impl Experience {
    fn fail(&mut self, error: &HostError) {
        self.errors += 1;
        if self.first_errors.len() < ERRORS_KEPT {
            self.first_errors.push(super::chain(error));
        }
    }
}

/// What a block may hold.
#[derive(Debug, Clone, Default)]
struct Possible {
    acknowledged: Option<u64>,
    /// Writes that ended with an error: they may have taken effect.
    uncertain: Vec<u64>,
}

/// The host, through all its connections.
#[derive(Debug)]
pub(super) struct Innocent {
    address: SocketAddr,
    connection: Option<(Controller, Queue)>,
    blocks: Vec<Possible>,
    /// The blocks that were written, in no order.
    written: Vec<u64>,
    sequence: u64,
    /// Distinguishes its stamps from those of other runs.
    number: u64,
    rng: Rng,
}

impl Innocent {
    /// Connects.
    pub(super) fn connect(address: SocketAddr) -> Result<Self, CanaryError> {
        let connection = connect(address).map_err(CanaryError::prepare("the innocent host"))?;
        Ok(Innocent {
            address,
            connection: Some(connection),
            blocks: vec![Possible::default(); BLOCKS as usize],
            written: Vec::new(),
            sequence: 0,
            number: u64::from(std::process::id()) << 32 | u64::from(address.port()),
            rng: Rng::new(7),
        })
    }

    /// Runs until `stop` is set.
    pub(super) fn live(&mut self, stop: &AtomicBool) -> Experience {
        let mut experience = Experience::default();
        let mut next = Instant::now();
        let mut is_write = true;
        while !stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let result = self.step(is_write, &mut experience.wrong);
            experience.times.record_beats(begin.elapsed(), BEAT);
            is_write = !is_write || self.written.is_empty();
            if let Err(error) = result {
                experience.fail(&error);
                if !matches!(error, HostError::Status { .. }) {
                    self.connection = None;
                    std::thread::sleep(RECONNECT_PAUSE);
                }
            }
            next = (next + BEAT).max(Instant::now());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        experience
    }

    fn step(&mut self, is_write: bool, wrong: &mut Vec<String>) -> Result<(), HostError> {
        let (controller, queue) = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(self.address)?),
        };
        if is_write {
            let block = self.rng.below(BLOCKS);
            self.sequence += 1;
            let mut data = vec![0; BLOCK_BYTES];
            stamp::write(&mut data, self.number, block, self.sequence);
            let command = Rw::new(IoOpcode::Write, queue.geometry().nsid, block, 1);
            let is_asked_for = self.sequence.is_multiple_of(2);
            let payload = if is_asked_for { Payload::WriteByR2t(&data) } else { Payload::Write(&data) };
            let result = execute(controller, queue, "Write", command, payload, &mut []);
            let known = &mut self.blocks[block as usize];
            if known.acknowledged.is_none() && known.uncertain.is_empty() {
                self.written.push(block);
            }
            match result {
                Ok(()) => known.acknowledged = Some(self.sequence),
                Err(_) => known.uncertain.push(self.sequence),
            }
            return result;
        }
        let block = self.written[self.rng.below(self.written.len() as u64) as usize];
        check(controller, queue, self.number, block, &self.blocks[block as usize], wrong)
    }

    /// Connects again and reads everything back; returns what is wrong.
    pub(super) fn check_all(&mut self) -> Result<Vec<String>, HostError> {
        self.connection = None;
        let (mut controller, mut queue) = connect(self.address)?;
        let mut wrong = Vec::new();
        for &block in &self.written {
            let known = &self.blocks[block as usize];
            check(&mut controller, &mut queue, self.number, block, known, &mut wrong)?;
        }
        Ok(wrong)
    }
}

/// Executes one command, for up to 30 s, and keeps the connection alive in the meantime: Linux does
/// that in parallel to the commands that it waits for.
fn execute(
    controller: &mut Controller,
    queue: &mut Queue,
    operation: &'static str,
    command: Rw,
    payload: Payload<'_>,
    read_into: &mut [u8],
) -> Result<(), HostError> {
    let begin = Instant::now();
    queue.submit(command.into(), payload, 0)?;
    loop {
        controller.keep_alive_if_due()?;
        let mut answer = None;
        queue.poll(Wait::Block(LOOK), |completion| {
            let bytes = completion.data.len().min(read_into.len());
            read_into[..bytes].copy_from_slice(&completion.data[..bytes]);
            answer = Some((completion.status, completion.result));
        })?;
        if let Some((status, result)) = answer {
            let error = HostError::Status { operation, status, result };
            return if status.is_success() { Ok(()) } else { Err(error) };
        }
        if begin.elapsed() > COMMAND_LIMIT {
            let cause = Loss::Timeout { timeout_ms: COMMAND_LIMIT.as_millis() as u64 };
            return Err(HostError::Lost { queue_id: queue.queue_id(), cause, outstanding: vec![0] });
        }
    }
}

fn check(
    controller: &mut Controller,
    queue: &mut Queue,
    number: u64,
    block: u64,
    known: &Possible,
    wrong: &mut Vec<String>,
) -> Result<(), HostError> {
    let mut data = vec![0; BLOCK_BYTES];
    let command = Rw::new(IoOpcode::Read, queue.geometry().nsid, block, 1);
    let payload = Payload::Read(BLOCK_BYTES as u32);
    execute(controller, queue, "Read", command, payload, &mut data)?;
    let found = stamp::read(&data, number, block);
    let is_right = match found {
        Content::Zero => known.acknowledged.is_none(),
        Content::Written(sequence) => {
            known.acknowledged == Some(sequence) || known.uncertain.contains(&sequence)
        }
        Content::Bad(_) => false,
    };
    if !is_right {
        wrong.push(format!("block {block} holds {found:?}, not {known:?}"));
    }
    Ok(())
}

fn connect(address: SocketAddr) -> Result<(Controller, Queue), HostError> {
    let options = ConnectOptions { queue_depth: 2, ..ConnectOptions::default() };
    let mut controller = Controller::connect(address, &nqn::of_volume(INNOCENT_VOLUME), options)?;
    let geometry = controller.namespaces()?.first().map(Namespace::geometry);
    let mut queue = match controller.take_queues().pop() {
        Some(queue) => queue,
        None => controller.connect_io_queue(1)?,
    };
    if let Some(geometry) = geometry {
        queue.set_geometry(geometry);
    }
    Ok((controller, queue))
}
