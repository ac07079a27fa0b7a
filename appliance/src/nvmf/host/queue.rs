//! One queue, which is one connection over TCP: slots, submission, polling.
//!
//! A slot is a command in flight, and its index is the command identifier. Bounds: there are as
//! many slots as the depth, each with a buffer of `transfer_bytes_max`, all allocated when the
//! queue is opened. The send buffer holds at most every slot's capsule and data once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;

use super::error::{HostError, Loss};
use super::geometry::Geometry;
use super::slots::{Completion, Direction, Payload, Slot, Slots};
use super::stage::Stage;
use super::transport::{Block, Transport};
use crate::nvmf::wire::command::{FLAGS_SGL, Sqe};
use crate::nvmf::wire::opcode::AdminOpcode;
use crate::nvmf::wire::pdu::{
    ADMIN_IN_CAPSULE_BYTES, CapsuleCmd, CommonHeader, Digests, H2cData, PduType, flags,
};
use crate::nvmf::wire::pdu_check::{PduLimits, Receiver, append_header, digest_bytes};
use crate::nvmf::wire::sgl::SglDescriptor;
use crate::nvmf::wire::status::Status;

/// Initial space in the send buffer for each slot: a capsule with 4 KiB of data.
const SEND_BYTES_PER_SLOT: usize = 72 + 4 + 4096 + 4;

/// The tag of synchronous commands. Asynchronous ones on the same queue must not use it.
pub const SYNCHRONOUS_TAG: u64 = u64::MAX;

/// How [`Queue::poll`] waits when nothing has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: checks the socket once.
    Now,
    /// Checks repeatedly without sleeping, until something completes or this time is over.
    Spin(Duration),
    /// Sleeps until something completes or this time is over.
    Block(Duration),
}

/// Options of [`Queue::open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// QID. 0 is the admin queue. Only for reports and the in-capsule data limit.
    pub queue_id: u16,
    /// Slots, 1 to 65535.
    pub depth: u16,
    /// Bytes of a slot's buffer.
    pub transfer_bytes_max: u32,
    /// The most in-capsule data of an I/O command (from IOCCSZ).
    pub in_capsule_bytes_max: u32,
    /// Digests to request.
    pub digests: Digests,
    /// For the connection, and for each synchronous command.
    pub timeout: Duration,
}

/// One queue of a controller.
///
/// After an error that reports the queue as lost, only [`Queue::outstanding`] is useful.
#[derive(Debug)]
pub struct Queue {
    pub(super) options: QueueOptions,
    pub(super) transport: Transport,
    pub(super) slots: Slots,
    pub(super) stage: Stage,
    pub(super) limits: PduLimits,
    pub(super) geometry: Option<Geometry>,
    lost: bool,
}

impl Queue {
    /// Connects, exchanges `ICReq` and `ICResp`, and allocates the slots. The caller must send
    /// Fabrics Connect as the next command. [`super::Controller`] does both.
    ///
    /// # Errors
    /// When the connection or the exchange fails.
    pub fn open(address: SocketAddr, options: QueueOptions) -> Result<Self, HostError> {
        let mut transport = Transport::open(address, options.digests, options.timeout)?;
        let depth = options.depth.max(1);
        transport.output.reserve(usize::from(depth) * SEND_BYTES_PER_SLOT);
        Ok(Self {
            limits: PduLimits {
                receiver: Receiver::Host,
                digests: transport.negotiated.digests,
                data_alignment_bytes: 4,
                in_capsule_bytes_max: 0,
                // Each C2HData is checked against its command instead.
                data_bytes_max: u32::MAX,
            },
            transport,
            slots: Slots::new(depth, options.transfer_bytes_max),
            stage: Stage::Header,
            geometry: None,
            lost: false,
            options,
        })
    }

    /// QID.
    pub fn queue_id(&self) -> u16 {
        self.options.queue_id
    }

    /// The most commands in flight.
    pub fn depth(&self) -> u16 {
        self.slots.entries.len() as u16
    }

    /// The largest transfer of one command in bytes.
    pub fn transfer_bytes_max(&self) -> u32 {
        self.options.transfer_bytes_max
    }

    /// Commands in flight.
    pub fn outstanding_count(&self) -> u16 {
        self.slots.in_flight() as u16
    }

    /// Commands that can be submitted before the queue is full.
    pub fn free_slots(&self) -> u16 {
        self.slots.free.len() as u16
    }

    /// Tags of the commands in flight, in any order. After a loss, of those whose outcome is
    /// unknown.
    pub fn outstanding(&self) -> impl Iterator<Item = u64> + '_ {
        self.slots.tags()
    }

    /// Whether the connection is lost.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Appends a command to the send buffer. [`Queue::poll`] or [`Queue::send`] sends it, together
    /// with all others submitted until then. This function fills in the command identifier, PSDT
    /// and the data pointer. FUSE and everything else stay as given.
    ///
    /// # Errors
    /// When the queue is full or lost, or the data is larger than a slot's buffer.
    pub fn submit(&mut self, mut sqe: Sqe, payload: Payload<'_>, tag: u64) -> Result<(), HostError> {
        if self.lost {
            return Err(HostError::AlreadyLost { queue_id: self.options.queue_id });
        }
        let bytes = match payload {
            Payload::None => 0,
            Payload::Write(data) | Payload::WriteByR2t(data) => data.len() as u64,
            Payload::WriteShared(data) => data.len() as u64,
            Payload::Read(bytes) => u64::from(bytes),
        };
        if bytes > u64::from(self.options.transfer_bytes_max) {
            let limit_bytes = self.options.transfer_bytes_max;
            return Err(HostError::TransferTooLarge { bytes, limit_bytes });
        }
        let total_bytes = bytes as u32;
        let command_id = self.slots.free.pop().ok_or(HostError::QueueFull { depth: self.depth() })?;
        // Connect, authentication and all admin commands have their own limit.
        let in_capsule_bytes_max = if self.options.queue_id == 0 || sqe.opcode == AdminOpcode::Fabrics as u8 {
            ADMIN_IN_CAPSULE_BYTES
        } else {
            self.options.in_capsule_bytes_max
        };
        let mut inline: &[u8] = &[];
        let direction = match payload {
            Payload::Write(data) if total_bytes <= in_capsule_bytes_max => {
                inline = data;
                sqe.sgl = SglDescriptor::in_capsule(total_bytes);
                Direction::InCapsule
            }
            Payload::WriteShared(data) if total_bytes <= in_capsule_bytes_max => {
                inline = data;
                sqe.sgl = SglDescriptor::in_capsule(total_bytes);
                Direction::InCapsule
            }
            Payload::WriteShared(data) => {
                self.slots.shared[usize::from(command_id)] = Some(data.clone());
                sqe.sgl = SglDescriptor::transport(total_bytes);
                Direction::Write
            }
            Payload::Write(data) | Payload::WriteByR2t(data) => {
                self.slots.buffer(command_id, 0, total_bytes).copy_from_slice(data);
                sqe.sgl = SglDescriptor::transport(total_bytes);
                Direction::Write
            }
            Payload::Read(_) => {
                sqe.sgl = SglDescriptor::transport(total_bytes);
                Direction::Read
            }
            Payload::None => {
                sqe.sgl = SglDescriptor::transport(0);
                Direction::None
            }
        };
        sqe.flags |= FLAGS_SGL;
        sqe.command_id = U16::new(command_id);
        self.slots.entries[usize::from(command_id)] =
            Slot { tag, direction, total_bytes, moved_bytes: 0, r2t_end: 0 };
        self.append_capsule(sqe, inline);
        Ok(())
    }

    fn append_capsule(&mut self, sqe: Sqe, inline: &[u8]) {
        let negotiated = self.transport.negotiated;
        let header = if inline.is_empty() {
            CommonHeader::without_data(PduType::CapsuleCmd, negotiated.digests.header)
        } else {
            CommonHeader::with_data(
                PduType::CapsuleCmd,
                negotiated.digests,
                negotiated.alignment_bytes,
                inline.len() as u32,
            )
        };
        self.transport.output.header(|out| {
            let start = out.len();
            append_header(out, &CapsuleCmd { header, sqe });
            if !inline.is_empty() {
                append_data(out, start, header, inline);
            }
        });
    }

    /// Appends the `H2CData` PDUs that answer an R2T. The range has been checked.
    pub(super) fn append_data_pdus(&mut self, command_id: u16, tag: u16, offset: u32, bytes: u32) {
        let negotiated = self.transport.negotiated;
        let end = offset + bytes;
        let mut at = offset;
        while at < end {
            let data_bytes = (end - at).min(negotiated.h2c_data_bytes_max);
            let mut header = CommonHeader::with_data(
                PduType::H2cData,
                negotiated.digests,
                negotiated.alignment_bytes,
                data_bytes,
            );
            if at + data_bytes == end {
                header.flags |= flags::LAST;
            }
            let pdu = H2cData {
                header,
                command_id: U16::new(command_id),
                transfer_tag: U16::new(tag),
                data_offset: at.into(),
                data_bytes: data_bytes.into(),
                reserved: [0; 4],
            };
            let output = &mut self.transport.output;
            output.header(|out| {
                let start = out.len();
                append_header(out, &pdu);
                out.resize(start + usize::from(header.pdo), 0);
            });
            let shared = self.slots.shared(command_id);
            let shared = shared.map(|bytes| bytes.slice(at as usize..(at + data_bytes) as usize));
            let data: &[u8] = match &shared {
                Some(shared) => shared,
                None => self.slots.buffer(command_id, at, data_bytes),
            };
            let digest = (header.flags & flags::DATA_DIGEST != 0).then(|| digest_bytes(data));
            match shared {
                Some(shared) => output.data(shared),
                None => output.header(|out| out.extend_from_slice(data)),
            }
            if let Some(digest) = digest {
                output.header(|out| out.extend_from_slice(&digest));
            }
            at += data_bytes;
        }
        let position = self.transport.append_position();
        if let Some(slot) = self.slots.get(command_id) {
            slot.r2t_end = position;
        }
    }

    /// Sends submitted commands, as far as the socket accepts them, without checking for
    /// completions.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn send(&mut self) -> Result<(), HostError> {
        self.check()?;
        self.transport.send_pending().map_err(|cause| self.lose(cause))
    }

    /// Sends submitted commands, receives, and passes each completed command to `on_completion`.
    /// The slot is free after that returns. Returns how many completed: 0 if the wait ended first,
    /// or immediately when nothing is outstanding.
    ///
    /// # Errors
    /// When the connection is lost, with the tags of the commands whose outcome is unknown.
    #[inline]
    pub fn poll(
        &mut self,
        wait: Wait,
        mut on_completion: impl FnMut(Completion<'_>),
    ) -> Result<usize, HostError> {
        self.check()?;
        self.poll_until(wait, &mut on_completion).map_err(|cause| self.lose(cause))
    }

    fn poll_until(
        &mut self,
        wait: Wait,
        on_completion: &mut impl FnMut(Completion<'_>),
    ) -> Result<usize, Loss> {
        self.transport.send_pending()?;
        let mut deadline = None;
        loop {
            let block = match wait {
                Wait::Block(timeout) => Block::Upto(timeout),
                Wait::Now | Wait::Spin(_) => Block::No,
            };
            if self.slots.in_flight() == 0 && wait != Wait::Now {
                return Ok(0);
            }
            let (completed, progress) = self.receive_once(block, on_completion)?;
            if self.transport.has_unsent() {
                self.transport.send_pending()?;
            }
            if completed > 0 {
                return Ok(completed);
            }
            let timeout = match wait {
                Wait::Now => return Ok(0),
                Wait::Spin(timeout) | Wait::Block(timeout) => timeout,
            };
            if !progress && matches!(wait, Wait::Spin(_)) {
                // On shared cores the controller may be waiting for this thread's core.
                std::thread::yield_now();
            }
            let now = Instant::now();
            if *deadline.get_or_insert_with(|| now + timeout) <= now {
                return Ok(0);
            }
        }
    }

    /// Submits one command and waits for its completion. Others that complete meanwhile go to
    /// `other` (none of them may have the tag [`SYNCHRONOUS_TAG`]). Data it reads is copied to the
    /// front of `read_into`. Returns status and result.
    ///
    /// # Errors
    /// As for [`Queue::submit`] and [`Queue::poll`], and if the queue's timeout passes, which loses
    /// the queue.
    pub fn execute_with(
        &mut self,
        sqe: Sqe,
        payload: Payload<'_>,
        read_into: &mut [u8],
        mut other: impl FnMut(Completion<'_>),
    ) -> Result<(Status, u64), HostError> {
        let tag = SYNCHRONOUS_TAG;
        let deadline = Instant::now() + self.options.timeout;
        self.submit(sqe, payload, tag)?;
        let mut answer = None;
        loop {
            self.poll(Wait::Block(self.options.timeout), |completion| {
                if completion.tag == tag {
                    let bytes = completion.data.len().min(read_into.len());
                    read_into[..bytes].copy_from_slice(&completion.data[..bytes]);
                    answer = Some((completion.status, completion.result));
                } else {
                    other(completion);
                }
            })?;
            if let Some(answer) = answer {
                return Ok(answer);
            }
            if Instant::now() >= deadline {
                let timeout_ms = self.options.timeout.as_millis() as u64;
                return Err(self.lose(Loss::Timeout { timeout_ms }));
            }
        }
    }

    /// Like [`Queue::execute_with`], on an idle queue. A status other than success is an error.
    ///
    /// # Errors
    /// As for [`Queue::execute_with`], when commands are outstanding, and when the command fails.
    pub fn execute(
        &mut self,
        operation: &'static str,
        sqe: Sqe,
        payload: Payload<'_>,
        read_into: &mut [u8],
    ) -> Result<u64, HostError> {
        let outstanding = self.outstanding_count();
        if outstanding != 0 {
            return Err(HostError::NotIdle { outstanding });
        }
        let (status, result) = self.execute_with(sqe, payload, read_into, |_| {})?;
        if status.is_success() { Ok(result) } else { Err(HostError::Status { operation, status, result }) }
    }

    /// Closes the connection immediately, as a crash of the host would. Returns the tags of the
    /// commands in flight, which stay unanswered.
    pub fn abandon(self) -> Vec<u64> {
        self.transport.close();
        self.slots.tags().collect()
    }

    fn check(&self) -> Result<(), HostError> {
        if self.lost { Err(HostError::AlreadyLost { queue_id: self.options.queue_id }) } else { Ok(()) }
    }

    fn lose(&mut self, cause: Loss) -> HostError {
        self.lost = true;
        if let Loss::Pdu(error) = &cause {
            let offender = self.transport.received().to_vec();
            let request = error.termination(Receiver::Host, offender.len());
            self.transport.terminate(&request, &offender);
        } else {
            self.transport.close();
        }
        HostError::Lost { queue_id: self.options.queue_id, cause, outstanding: self.slots.tags().collect() }
    }
}

/// Appends padding up to PDO, the data, and its digest, to a PDU that started at `start`.
fn append_data(out: &mut Vec<u8>, start: usize, header: CommonHeader, data: &[u8]) {
    out.resize(start + usize::from(header.pdo), 0);
    out.extend_from_slice(data);
    if header.flags & flags::DATA_DIGEST != 0 {
        out.extend_from_slice(&digest_bytes(data));
    }
    debug_assert_eq!(out.len() - start, header.plen.get() as usize);
    debug_assert_eq!(header.as_bytes(), &out[start..start + header.as_bytes().len()]);
}
