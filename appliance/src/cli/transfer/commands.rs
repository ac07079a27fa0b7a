//! Sends a host's commands to one volume, many at a time.
//!
//! **States of a command:** given ([`Commands::push`]) → under way → ended; or, if the appliance
//! asks for a retry, sent again after [`RETRY_WAIT`]. If no command ends for [`STALL_LIMIT`], the
//! transfer fails. Bound: as many commands as the queue is deep, each with one transfer of data.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

use super::error::TransferError;
use crate::nvmf::host::{ConnectOptions, Controller, HostError, Queue, Wait};
use crate::nvmf::wire::status::Status;

/// The most commands under way.
const DEPTH: u16 = 32;
/// How long one wait for completions lasts: signals and keep-alives are handled between two waits.
const LOOK_WAIT: Duration = Duration::from_millis(200);
/// How long a command waits after the appliance asked to retry it.
const RETRY_WAIT: Duration = Duration::from_millis(100);
/// The transfer fails if no command ends for this long.
const STALL_LIMIT: Duration = Duration::from_mins(5);

/// What a command does.
#[derive(Debug)]
enum What {
    Read,
    Write(Vec<u8>),
    Clear,
}

/// A command, in bytes of the volume.
#[derive(Debug)]
pub(super) struct Command {
    offset_bytes: u64,
    len_bytes: u64,
    what: What,
}

impl Command {
    /// Reads this many bytes.
    pub(super) fn read(offset_bytes: u64, len_bytes: u64) -> Self {
        Command { offset_bytes, len_bytes, what: What::Read }
    }

    /// Writes these bytes.
    pub(super) fn write(offset_bytes: u64, data: Vec<u8>) -> Self {
        Command { offset_bytes, len_bytes: data.len() as u64, what: What::Write(data) }
    }

    /// Makes this many bytes zero.
    pub(super) fn clear(offset_bytes: u64, len_bytes: u64) -> Self {
        Command { offset_bytes, len_bytes, what: What::Clear }
    }

    fn action(&self) -> &'static str {
        match self.what {
            What::Read => "read",
            What::Write(_) => "write",
            What::Clear => "clear",
        }
    }
}

/// What to do when a command has ended well, with its offset and the data that was read.
pub(super) type Ended<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), TransferError>;

/// A connection to a volume, and its commands.
pub(super) struct Commands {
    controller: Controller,
    queue: Queue,
    block_bytes: u64,
    under_way: BTreeMap<u64, Command>,
    again: VecDeque<Command>,
    next_tag: u64,
    /// When the last command ended, or nothing was under way.
    progress: Instant,
    signals: Signals,
}

impl Commands {
    /// Connects to the only namespace of a subsystem.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn connect(address: SocketAddr, nqn: &str) -> Result<Self, HostError> {
        let options = ConnectOptions { queue_depth: DEPTH, ..ConnectOptions::default() };
        let mut controller = Controller::connect(address, nqn, options)?;
        let namespaces = controller.namespaces()?;
        let namespace = namespaces.first().ok_or(HostError::NamespaceFormat { nsid: 1 })?;
        let mut queue = match controller.take_queues().pop() {
            Some(queue) => queue,
            None => controller.connect_io_queue(1)?,
        };
        queue.set_geometry(namespace.geometry());
        Ok(Commands {
            controller,
            queue,
            block_bytes: u64::from(namespace.block_bytes),
            under_way: BTreeMap::new(),
            again: VecDeque::new(),
            next_tag: 0,
            progress: Instant::now(),
            signals: Signals::take(),
        })
    }

    /// The most bytes of one read or write.
    pub(super) fn transfer_bytes(&self) -> usize {
        self.queue.transfer_bytes_max() as usize
    }

    /// Gives a command; while the queue is full, it waits for others to end.
    ///
    /// # Errors
    /// A command has failed, the connection is lost, no command ends, a signal.
    pub(super) fn push(&mut self, command: Command, ended: Ended<'_>) -> Result<(), TransferError> {
        while self.queue.free_slots() == 0 || !self.again.is_empty() {
            self.look(ended)?;
        }
        self.submit(command)?;
        Ok(())
    }

    /// Waits for the end of all commands.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub(super) fn drain(&mut self, ended: Ended<'_>) -> Result<(), TransferError> {
        while !self.under_way.is_empty() || !self.again.is_empty() {
            self.look(ended)?;
        }
        Ok(())
    }

    /// Makes what was written survive a power loss.
    ///
    /// # Errors
    /// The command fails.
    pub(super) fn flush(&mut self) -> Result<(), TransferError> {
        Ok(self.queue.flush()?)
    }

    /// Ends the connection.
    pub(super) fn close(self) {
        drop(self.queue);
        // All commands are complete; the appliance ends the association in any case.
        let _ = self.controller.shutdown();
    }

    fn submit(&mut self, command: Command) -> Result<(), HostError> {
        let tag = self.next_tag;
        self.next_tag += 1;
        let lba = command.offset_bytes / self.block_bytes;
        let blocks = (command.len_bytes / self.block_bytes) as u32;
        match &command.what {
            What::Read => self.queue.submit_read(lba, blocks, tag)?,
            What::Write(data) => self.queue.submit_write(lba, data, false, tag)?,
            What::Clear => self.queue.submit_write_zeroes(lba, blocks, true, tag)?,
        }
        self.under_way.insert(tag, command);
        Ok(())
    }

    /// Waits once for completions, and sends commands again that are to be retried.
    fn look(&mut self, ended: Ended<'_>) -> Result<(), TransferError> {
        if self.signals.came() {
            return Err(TransferError::Stopped);
        }
        if self.progress.elapsed() > STALL_LIMIT {
            return Err(TransferError::Stalled { seconds: STALL_LIMIT.as_secs() });
        }
        let Self { queue, under_way, again, progress, .. } = self;
        let mut result = Ok(());
        queue.poll(Wait::Block(LOOK_WAIT), |completion| {
            let Some(command) = under_way.remove(&completion.tag) else { return };
            if completion.status.is_success() {
                *progress = Instant::now();
                if result.is_ok() {
                    result = ended(command.offset_bytes, completion.data);
                }
            } else if may_succeed_later(completion.status) {
                again.push_back(command);
            } else if result.is_ok() {
                result = Err(TransferError::Failed {
                    action: command.action(),
                    offset_bytes: command.offset_bytes,
                    status: completion.status.to_string(),
                });
            }
        })?;
        result?;
        self.controller.keep_alive_if_due()?;
        if !self.again.is_empty() {
            std::thread::sleep(RETRY_WAIT);
            while self.queue.free_slots() > 0
                && let Some(command) = self.again.pop_front()
            {
                self.submit(command)?;
            }
        }
        Ok(())
    }
}

/// Whether the appliance asks for a retry, as it does while it waits for room.
fn may_succeed_later(status: Status) -> bool {
    let code = status.code_only();
    !status.is_do_not_retry() && (code == Status::COMMAND_INTERRUPTED || code == Status::NAMESPACE_NOT_READY)
}

/// SIGINT and SIGTERM end a transfer, which then cleans up; a second signal ends the process at
/// once.
struct Signals {
    came: Arc<AtomicBool>,
    ids: Vec<signal_hook::SigId>,
}

impl Signals {
    fn take() -> Self {
        let came = Arc::new(AtomicBool::new(false));
        let mut ids = Vec::new();
        for signal in [SIGINT, SIGTERM] {
            let at_once =
                signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&came));
            let noted = signal_hook::flag::register(signal, Arc::clone(&came));
            // If the system refuses the handler, a signal has its default effect and ends the
            // process.
            ids.extend(at_once.into_iter().chain(noted));
        }
        Signals { came, ids }
    }

    fn came(&self) -> bool {
        self.came.load(Ordering::SeqCst)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}
