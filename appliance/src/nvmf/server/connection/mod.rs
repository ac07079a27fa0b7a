//! One connection: its socket, its PDU engine, its commands under way, its end.
//!
//! ```text
//! accepted --ICReq/ICResp--> initialized --Connect--> queue --+
//!     |                           |                     |     | protocol error: C2HTermReq
//!     |                           |                     |     v
//!     +-- timeout, close ---------+---------------------+--> terminating --> closed
//! ```
//! A turn has three parts. [`Connection::receive`] reads from the socket, acts on every whole PDU
//! and passes requests to the storage. [`Connection::answer`] turns completions into responses and
//! sends output of at most 16 KiB. [`Connection::send_long`] sends the rest after all short output
//! is sent.
//!
//! **When there is no room.** A capsule whose request the storage cannot accept stays in the
//! buffer, and the connection reads nothing more until the request is accepted. The same holds
//! while the output is longer than its limit. A write without in-capsule data waits in its slot for
//! memory, and its data is requested only then. A read waits in its slot for the memory it reads
//! into. While a command waits in one of these ways, it holds nothing that another command needs.

mod complete;
mod end;
mod execute;
mod input;
mod memory;
mod pace;
mod patience;
mod receive;
mod slots;
mod taken;
mod waiting;

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Instant;

use super::context::Context;
use super::controller::End;
use super::line::Line;
use super::queue::Queue;
use super::shares::MemberId;
use super::stats::QueuePairInfo;
use crate::dma::DmaBuf;
use crate::nvmf::output::Output;
use crate::nvmf::wire::command::Sqe;
use crate::nvmf::wire::pdu::{ADMIN_IN_CAPSULE_BYTES, Digests, FatalError, PduType};
use crate::nvmf::wire::pdu_check::{PduError, PduLimits, Receiver};
use crate::reactor::{Interest, Local, Source};
use crate::volume::{Sink, VolumeId};
use input::Input;
use pace::Pace;
use patience::Patience;
use slots::{Slots, Stage};

/// Receive buffer in bytes, of admin queues and while the purpose of the connection is unknown: the
/// largest capsule that they may send, with everything that may precede and follow its data.
const FIRST_BUFFER_BYTES: usize = ADMIN_IN_CAPSULE_BYTES as usize + 512;
/// An admin queue takes no further commands while it has more than this many bytes to send. So at
/// most one long answer waits at a time.
const ADMIN_OUTPUT_BYTES_MAX: usize = 8 * 1024;
/// Approximate limit on the bytes sent for one connection per turn.
const SENT_BYTES_PER_TURN: usize = 1 << 20;
/// Output up to this size is sent before any longer output.
const SHORT_BYTES: usize = 16 << 10;
/// Commands under way before the queue's size is known.
const FIRST_SLOTS: usize = 1;
/// Turns that a connection may stand still before it stops listening to its socket, which would
/// keep the reactor awake.
const STANDSTILL_TURNS: u32 = 64;
/// MAXH2CDATA: one PDU may carry a whole transfer.
const H2C_DATA_BYTES_MAX: u32 = super::config::TRANSFER_BYTES_MAX;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Close {
    #[error("the host closed the connection")]
    ByPeer,
    #[error("the socket failed: {0}")]
    Socket(#[from] std::io::Error),
    #[error(
        "the host ended the connection with a termination request, error {fatal_error:#x}, information {information:#x}"
    )]
    HostTerminated { fatal_error: u16, information: u32 },
    #[error("protocol error: {0}")]
    Protocol(#[from] Fatal),
    #[error("the host did not connect a queue in time")]
    ConnectTimeout,
    #[error("the host did not send or take data in time")]
    TransferTimeout,
    #[error("the host sent or took data too slowly for those who wait for memory")]
    TooSlow,
    #[error("the termination request was sent")]
    Terminated,
    #[error("the host disconnected the queue")]
    Disconnected,
    #[error("the controller was reset")]
    Reset,
    #[error("the controller ended: {0:?}")]
    ControllerEnded(End),
    #[error("it had connected no queue, and another needed its place")]
    GaveWay,
    #[error("the host has closed it, and connected its queue anew")]
    Succeeded,
    #[error("the target shuts down")]
    Shutdown,
}

/// A violation of the transport's rules, which ends the connection (TCP section 3.6.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fatal {
    #[error("{0}")]
    Pdu(#[from] PduError),
    #[error("a {0:?} PDU was not expected now")]
    Sequence(PduType),
    #[error("PDU format version {0} is not supported")]
    FormatVersion(u16),
    #[error("host data alignment {0} is not valid")]
    Alignment(u8),
    #[error("transfer tag {0} is not in use, or its command is another")]
    TransferTag(u16),
    #[error("data at offset {offset} of {len_bytes} bytes is not what was asked for")]
    DataRange { offset: u32, len_bytes: u32 },
    #[error("the last data PDU came before all data")]
    LastTooEarly,
    #[error("more commands than the queue has entries")]
    TooManyCommands,
}

impl Fatal {
    /// FES and FEI of the termination request.
    fn report(&self) -> (FatalError, u32) {
        match self {
            Fatal::Pdu(error) => (error.fatal_error(), error.information()),
            Fatal::Sequence(_) | Fatal::TooManyCommands => (FatalError::SequenceError, 0),
            Fatal::FormatVersion(_) => (FatalError::UnsupportedParameter, 8),
            Fatal::Alignment(_) | Fatal::TransferTag(_) => (FatalError::InvalidHeaderField, 10),
            Fatal::DataRange { .. } => (FatalError::DataOutOfRange, 12),
            Fatal::LastTooEarly => (FatalError::InvalidHeaderField, 1),
        }
    }
}

/// The state of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for `ICReq`.
    Accepted,
    /// PDUs are exchanged.
    Initialized,
    /// A termination request is being sent. Further input is dropped.
    Terminating {
        /// When the connection is closed, whatever the host does.
        deadline: Instant,
    },
}

/// Why no PDU is taken from the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stall {
    /// None: more bytes are needed.
    None,
    /// The storage was busy.
    Storage,
    /// Too much output waits to be sent.
    Output,
    /// The connection has taken its limit of this turn.
    Turn,
}

/// Data of an `H2CData` PDU that is being received.
#[derive(Debug, Clone, Copy)]
struct Incoming {
    slot: u16,
    /// Offset of this PDU's data in the command's data.
    offset: usize,
    /// Bytes of this PDU's data that have been received.
    received: usize,
    len_bytes: usize,
    digest: bool,
    last: bool,
}

/// A connection.
pub(super) struct Connection {
    // Before the socket, so that it is dropped before the socket is closed.
    source: Source,
    line: Rc<Line>,
    opened: Instant,
    phase: Phase,
    limits: PduLimits,
    /// HPDA as an alignment in bytes.
    host_alignment_bytes: u8,
    input: Input,
    incoming: Option<Incoming>,
    /// Whether the digest of the capsule at the buffer's start matched. `None` until it is checked.
    checked: Option<bool>,
    stall: Stall,
    standstill_turns: u32,
    /// Turns for which it still counts as one that received data recently.
    eager_turns: u32,
    output: Output<DmaBuf>,
    /// Since when the socket accepts nothing.
    blocked_since: Option<Instant>,
    /// Since when output waits that the socket did not accept at once.
    behind_since: Option<Instant>,
    /// No waiting output is left to copy, as far as it was checked.
    owns_output: bool,
    slots: Slots,
    /// Slots that wait for memory, in order.
    await_memory: VecDeque<u16>,
    /// Slots that wait for the storage, in order.
    await_room: VecDeque<u16>,
    sink: Rc<Sink>,
    /// Bytes that the storage is reading for this connection.
    reading_bytes: usize,
    patience: Patience,
    staging_bytes: usize,
    /// Its member in the shares of data memory, after it has a queue.
    member: Option<MemberId>,
    waits_for_memory: bool,
    /// It has asked for memory in this turn and did not get it.
    has_asked: bool,
    /// Bytes that the socket has accepted.
    sent_bytes: u64,
    /// Bytes of requested data that have been received.
    data_bytes: u64,
    /// How fast its host takes output, and how fast it sends requested data.
    taking: Pace,
    sending: Pace,
    /// Bytes that it may still take in this turn. Negative when it has taken more than its limit.
    allowance_bytes: isize,
    /// No further commands are taken while more bytes than this are to be sent, or to be read for
    /// it.
    output_bytes_max: usize,
    queue: Option<Queue>,
    /// A shutdown waits for a flush that the storage has not accepted yet.
    flush_wanted: bool,
    /// The queue is being disconnected.
    disconnecting: Disconnecting,
    /// Its controller's volume is deleted. Close at this time.
    linger_until: Option<Instant>,
}

/// The progress of a Disconnect.
enum Disconnecting {
    /// The host did not send one.
    No,
    /// The command is answered when the storage has no command of the queue left: its completion is
    /// the last (Base 2.1 section 6.4).
    Asked(Sqe),
    /// Close when the answer is sent.
    Answered,
}

impl Connection {
    pub(super) fn new(
        local_reactor: &Local,
        socket: TcpStream,
        peer: SocketAddr,
        now: Instant,
    ) -> std::io::Result<Self> {
        let line = Rc::new(Line::new(socket, peer)?);
        let source = local_reactor.register(line.socket.as_fd(), Interest::Read)?;
        Ok(Connection {
            source,
            line,
            opened: now,
            phase: Phase::Accepted,
            limits: PduLimits {
                receiver: Receiver::Controller,
                digests: Digests::default(),
                data_alignment_bytes: 4,
                in_capsule_bytes_max: ADMIN_IN_CAPSULE_BYTES,
                data_bytes_max: H2C_DATA_BYTES_MAX,
            },
            host_alignment_bytes: 4,
            input: Input::new(FIRST_BUFFER_BYTES),
            incoming: None,
            checked: None,
            stall: Stall::None,
            standstill_turns: 0,
            eager_turns: 0,
            output: Output::default(),
            blocked_since: None,
            behind_since: None,
            owns_output: true,
            slots: Slots::new(FIRST_SLOTS),
            await_memory: VecDeque::new(),
            await_room: VecDeque::new(),
            sink: Sink::new(),
            reading_bytes: 0,
            patience: Patience::default(),
            staging_bytes: 0,
            member: None,
            waits_for_memory: false,
            has_asked: false,
            sent_bytes: 0,
            data_bytes: 0,
            taking: Pace::default(),
            sending: Pace::default(),
            allowance_bytes: 0,
            output_bytes_max: ADMIN_OUTPUT_BYTES_MAX,
            queue: None,
            flush_wanted: false,
            disconnecting: Disconnecting::No,
            linger_until: None,
        })
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.line.peer
    }

    /// Whether its host has connected no queue.
    pub(super) fn is_half_open(&self) -> bool {
        self.queue.is_none()
    }

    /// When it was accepted.
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// Whether a termination request was sent: nothing is accepted any more, and nothing follows
    /// it.
    fn is_terminating(&self) -> bool {
        matches!(self.phase, Phase::Terminating { .. })
    }

    pub(super) fn queue(&self) -> Option<&Queue> {
        self.queue.as_ref()
    }

    /// The volume of its controller's namespace.
    fn volume(&self) -> Option<VolumeId> {
        self.queue.as_ref()?.controller.subsystem.volume
    }

    /// Whether it accepts its host's data in this turn or in the next.
    fn reads(&self) -> bool {
        matches!(self.stall, Stall::None | Stall::Turn)
    }

    /// Whether it waits for something that may happen without an event of this reactor.
    pub(super) fn is_stalled(&self) -> bool {
        self.stall == Stall::Storage
            || self.flush_wanted
            || !self.await_room.is_empty()
            || !self.await_memory.is_empty()
    }

    /// The second part of a turn: responses for completed commands. Short output goes to the socket
    /// immediately, so no short response waits for long ones of other connections.
    pub(super) fn answer(&mut self, context: &Context) -> Result<usize, Close> {
        let mut work = self.drain(context);
        if self.output.len() <= SHORT_BYTES {
            work += self.send(context)?;
        }
        if !self.owns_output {
            self.own_output(context);
            work += 1;
        }
        self.choose_interest()?;
        Ok(work)
    }

    /// Whether output is left to send.
    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// The last part of a turn: sends the remaining output.
    pub(super) fn send_long(&mut self, context: &Context) -> Result<usize, Close> {
        let work = self.send(context)?;
        if work > 0 {
            self.choose_interest()?;
        }
        Ok(work)
    }

    fn send(&mut self, context: &Context) -> Result<usize, Close> {
        if self.output.is_empty() || (self.blocked_since.is_some() && !self.source.take_writable()) {
            return Ok(0);
        }
        let sent = self.output.send(&self.line.socket, context.turn_bytes(SENT_BYTES_PER_TURN))?;
        context.counters.sent_bytes.add(sent.bytes as u64);
        self.sent_bytes += sent.bytes as u64;
        let freed_bytes = self.output.take_freed_bytes();
        self.release_memory(context, freed_bytes);
        if self.output.is_empty() {
            self.behind_since = None;
        } else if sent.filled {
            self.behind_since.get_or_insert(context.now());
        }
        if !sent.filled {
            // The rest is sent in the next turn.
            self.blocked_since = None;
        } else if sent.bytes > 0 || self.blocked_since.is_none() {
            self.blocked_since = Some(context.now());
        }
        Ok(1)
    }

    /// Listens to the socket for events that can be used now. A connection that stands still does
    /// not listen for input: the socket would stay ready in every turn and keep the reactor awake.
    fn choose_interest(&mut self) -> Result<(), Close> {
        if self.reads() {
            self.standstill_turns = 0;
        } else {
            self.standstill_turns = self.standstill_turns.saturating_add(1);
        }
        let deaf = self.standstill_turns > STANDSTILL_TURNS;
        let interest = match (self.blocked_since.is_some(), deaf) {
            (false, false) => Interest::Read,
            (true, false) => Interest::ReadWrite,
            (true, true) => Interest::Write,
            (false, true) => Interest::Nothing,
        };
        Ok(self.source.set_interest(interest)?)
    }

    /// Checks whether the connection must end for a reason other than a PDU. Called before each
    /// receive.
    pub(super) fn check_alive(&mut self, context: &Context) -> Result<(), Close> {
        let Some(queue) = &self.queue else { return Ok(()) };
        match queue.controller.ended() {
            None => {}
            Some(End::SubsystemGone) => {
                let until = *self.linger_until.get_or_insert(context.now() + context.config.linger);
                if context.now() >= until {
                    return Err(Close::ControllerEnded(End::SubsystemGone));
                }
            }
            Some(end) => return Err(Close::ControllerEnded(end)),
        }
        if self.line.is_cut() {
            return Err(Close::Succeeded);
        }
        if !queue.is_admin() && queue.resets != queue.controller.resets() {
            return Err(Close::Reset);
        }
        if matches!(self.disconnecting, Disconnecting::Answered) && self.output.is_empty() {
            return Err(Close::Disconnected);
        }
        Ok(())
    }

    /// Checks the timeouts. Called about every 100 ms, after a receive.
    pub(super) fn check_clocks(&mut self, context: &Context) -> Result<(), Close> {
        let now = context.now();
        if let Phase::Terminating { deadline } = self.phase {
            return if now >= deadline { Err(Close::Terminated) } else { Ok(()) };
        }
        let late = |since: Option<Instant>| {
            since.is_some_and(|since| now.saturating_duration_since(since) > context.config.transfer_timeout)
        };
        if late(self.blocked_since) {
            return Err(Close::TransferTimeout);
        }
        let Some(queue) = &self.queue else {
            let age = now.saturating_duration_since(self.opened);
            return if age > context.config.connect_timeout { Err(Close::ConnectTimeout) } else { Ok(()) };
        };
        if queue.is_admin() && queue.controller.ended().is_none() && queue.controller.is_silent(now) {
            context.counters.keep_alive_expiries.add(1);
            queue.controller.end(End::KeepAliveExpired);
        }
        let asked = |slot: &slots::Slot| if slot.stage == Stage::AwaitData { slot.asked_at } else { None };
        // While we do not read, it is not the host that is late.
        if self.reads() && self.staging_bytes > 0 && self.slots.iter().any(|slot| late(asked(slot))) {
            return Err(Close::TransferTimeout);
        }
        self.own_output(context);
        self.check_pace(context)
    }

    /// Counts staging memory as released.
    fn release_staging(&mut self, context: &Context, len_bytes: usize) {
        self.staging_bytes -= len_bytes;
        context.release_staging(len_bytes);
    }

    /// The queue pair as the management plane shows it.
    pub(super) fn info(&self) -> Option<QueuePairInfo> {
        let queue = self.queue.as_ref()?;
        Some(QueuePairInfo {
            subsystem_nqn: queue.controller.subsystem.nqn.clone(),
            controller_id: queue.controller.id,
            queue_id: queue.id,
            entries: queue.entries,
            outstanding: self.slots.used() as u64,
            peer_address: self.line.peer.to_string(),
            local_address: self.line.local.to_string(),
            header_digest: self.limits.digests.header,
            data_digest: self.limits.digests.data,
            commands: queue.counters.commands.get(),
            reads: queue.counters.reads.get(),
            read_bytes: queue.counters.read_bytes.get(),
            writes: queue.counters.writes.get(),
            written_bytes: queue.counters.written_bytes.get(),
            errors: queue.counters.errors.get(),
        })
    }
}
