//! Commands: where their data is, what executes them, and what is answered immediately.

use super::memory::charge_of;
use super::receive::COMMAND_BYTES;
use super::slots::{Slot, Stage};
use super::taken::Taken;
use super::{Connection, Disconnecting, Fatal};
use crate::dma::DmaBufMut;
use crate::nvmf::server::admin;
use crate::nvmf::server::admin_reply::AdminReply;
use crate::nvmf::server::config::{NAMESPACE_ID, TRANSFER_BYTES_MAX};
use crate::nvmf::server::context::Context;
use crate::nvmf::server::fabrics;
use crate::nvmf::server::io::{self, HostData, Started, Transfer};
use crate::nvmf::server::queue::NO_FLOW_CONTROL_HEAD;
use crate::nvmf::wire::command::{Cqe, FLAGS_SGL, Sqe};
use crate::nvmf::wire::fabrics::{Connect, ConnectResult, Disconnect, PropertyGet, PropertySet};
use crate::nvmf::wire::opcode::{AdminOpcode, FabricsType, IoOpcode};
use crate::nvmf::wire::pdu::CapsuleResp;
use crate::nvmf::wire::pdu_check::append_header;
use crate::nvmf::wire::sgl::SglKind;
use crate::nvmf::wire::status::Status;

/// FUSE and PSDT.
const FLAGS_CHECKED: u8 = 0b1100_0011;
/// Answers to admin commands up to this size go directly to the output. Longer ones need memory.
const SMALL_ANSWER_BYTES: usize = 4096;

/// The kind of a command, which decides how its data is handled.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Fabrics,
    Admin,
    Io(IoOpcode),
}

impl Connection {
    /// Acts on a command capsule. `data` is the capsule's data. `intact` is whether its digest
    /// matches.
    pub(super) fn command(
        &mut self,
        context: &Context,
        sqe: &Sqe,
        data: &[u8],
        intact: bool,
    ) -> Result<Taken, Fatal> {
        if !intact {
            context.counters.data_digest_errors.add(1);
            self.complete(context, sqe, Status::TRANSIENT_TRANSPORT_ERROR, 0);
            return Ok(Taken::Yes);
        }
        let (kind, transfer) = match self.check(sqe) {
            Ok(checked) => checked,
            Err(status) => {
                self.complete(context, sqe, status, 0);
                return Ok(Taken::Yes);
            }
        };
        match transfer {
            Transfer::FromHost(len_bytes) => self.with_host_data(context, kind, sqe, data, len_bytes),
            Transfer::ToHost(_) | Transfer::None => self.execute(context, kind, sqe, &[]),
        }
    }

    /// Checks everything that can be refused before the data arrives.
    fn check(&self, sqe: &Sqe) -> Result<(Kind, Transfer), Status> {
        // Fused commands are not supported. PSDT is 01b over fabrics (Base section 3.3.3.1): SGLs,
        // also for commands without data.
        if sqe.flags & FLAGS_CHECKED != FLAGS_SGL {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        if sqe.opcode == u8::from(AdminOpcode::Fabrics) {
            return Ok((Kind::Fabrics, from_host(fabrics::data_bytes(sqe))));
        }
        let Some(queue) = &self.queue else { return Err(Status::COMMAND_SEQUENCE_ERROR.do_not_retry()) };
        if queue.is_admin() {
            return Ok((Kind::Admin, from_host(admin::data_bytes(sqe))));
        }
        let (opcode, transfer) = io::check(&queue.controller.subsystem, sqe)?;
        if let Transfer::ToHost(len_bytes) = transfer {
            check_to_host(sqe, len_bytes, true)?;
        }
        Ok((Kind::Io(opcode), transfer))
    }

    /// A command that carries data: in the capsule, or to be requested.
    fn with_host_data(
        &mut self,
        context: &Context,
        kind: Kind,
        sqe: &Sqe,
        capsule_data: &[u8],
        len_bytes: u32,
    ) -> Result<Taken, Fatal> {
        let fits = |length_bytes: u32| match kind {
            // The Linux host always provides space for all 256 ranges.
            Kind::Io(IoOpcode::DatasetManagement) | Kind::Admin | Kind::Fabrics => length_bytes >= len_bytes,
            Kind::Io(_) => length_bytes == len_bytes,
        };
        let refused = match sqe.sgl.kind() {
            SglKind::InCapsule { offset, length_bytes } => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                match start.checked_add(length_bytes as usize).and_then(|end| capsule_data.get(start..end)) {
                    Some(payload) if fits(length_bytes) => {
                        return self.execute(context, kind, sqe, &payload[..len_bytes as usize]);
                    }
                    None if start > capsule_data.len() => Status::INVALID_SGL_OFFSET,
                    Some(_) | None => Status::INVALID_DATA_SGL_LENGTH,
                }
            }
            // Nothing is requested before a Connect: its data comes in its capsule.
            SglKind::Transport { .. } if self.queue.is_none() => Status::INVALID_SGL_TYPE,
            SglKind::Transport { length_bytes }
                if fits(length_bytes) && length_bytes <= TRANSFER_BYTES_MAX =>
            {
                let slot =
                    self.slots.take(sqe, length_bytes, Stage::AwaitMemory).ok_or(Fatal::TooManyCommands)?;
                self.await_memory.push_back(slot);
                self.go_on_with_memory(context);
                if self.await_memory.contains(&slot) {
                    context.counters.staging_waits.add(1);
                }
                return Ok(Taken::Yes);
            }
            SglKind::Transport { .. } => Status::INVALID_DATA_SGL_LENGTH,
            SglKind::Unsupported { .. } => Status::INVALID_SGL_TYPE,
        };
        self.complete(context, sqe, refused.do_not_retry(), 0);
        Ok(Taken::Yes)
    }

    /// All requested data has been received.
    pub(super) fn data_complete(&mut self, context: &Context, index: u16) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        if slot.digest_failed {
            context.counters.data_digest_errors.add(1);
            return self.end_early(context, index, Status::TRANSIENT_TRANSPORT_ERROR);
        }
        slot.stage = Stage::AwaitRoom;
        slot.data = slot.staging.take().map(DmaBufMut::freeze);
        if !self.await_room.is_empty() || !self.start_from_slot(context, index) {
            context.counters.storage_busy.add(1);
            self.await_room.push_back(index);
        }
    }

    /// Retries what had to wait. Returns how many commands continued.
    pub(super) fn retry(&mut self, context: &Context) -> usize {
        if self.is_terminating() {
            return 0;
        }
        let mut work = 0;
        if self.flush_wanted && self.start_shutdown_flush(context) {
            work += 1;
        }
        // All that waited may have room at once, and all of it would make a long turn.
        while self.allowance_bytes > 0
            && let Some(&index) = self.await_room.front()
        {
            let cost = |slot: &mut Slot| COMMAND_BYTES * io::parts(&slot.sqe) + slot.received_bytes as isize;
            let cost_bytes = self.slots.get_mut(index).map_or(0, cost);
            if !self.start_from_slot(context, index) {
                break;
            }
            self.allowance_bytes -= cost_bytes;
            self.await_room.pop_front();
            work += 1;
        }
        if !self.await_memory.is_empty() {
            let before = self.await_memory.len();
            self.go_on_with_memory(context);
            work += before - self.await_memory.len();
        }
        work
    }

    /// Starts the flush that a shutdown waits for. Its slot is the only one of an admin queue that
    /// the storage ever has.
    fn start_shutdown_flush(&mut self, context: &Context) -> bool {
        let sqe = Sqe::new(IoOpcode::Flush.into(), NAMESPACE_ID);
        let Some(index) = self.slots.take(&sqe, 0, Stage::InStorage) else { return false };
        match self.start_io(context, IoOpcode::Flush, &sqe, HostData::Capsule(&[]), index) {
            Started::Queued => self.flush_wanted = false,
            Started::Busy => self.free_slot(context, index),
            Started::Done(_) => {
                self.free_slot(context, index);
                self.shutdown_flushed(Err(Status::INTERNAL_ERROR));
            }
        }
        !self.flush_wanted
    }

    /// The flush that a shutdown waits for has ended. A failure is logged for the operator. The
    /// host sees errors of its own flushes.
    pub(super) fn shutdown_flushed(&mut self, result: Result<(), Status>) {
        self.flush_wanted = false;
        let Some(queue) = &self.queue else { return };
        // A deleted volume needs no flush.
        if let Err(status) = result
            && !queue.controller.subsystem.deleted.get()
        {
            tracing::warn!(peer = %self.line.peer, nqn = %queue.controller.subsystem.nqn, %status, "the flush of a shutdown failed");
        }
        queue.controller.shutdown_complete();
    }

    /// Starts a command whose data has been received, or that has the memory it reads into. `false`
    /// when the storage is busy.
    pub(super) fn start_from_slot(&mut self, context: &Context, index: u16) -> bool {
        let Some(slot) = self.slots.get_mut(index) else { return true };
        let sqe = slot.sqe;
        let data = slot.data.take();
        let data_bytes = data.as_ref().map_or(0, |data| data.len());
        // Checked again: the volume may have changed since the data was requested. Data beyond the
        // command's need is ignored.
        let started = match (self.check(&sqe), &data) {
            (Ok((Kind::Io(opcode), _)), _) if self.must_wait_to_read(context, opcode, &sqe) => Started::Busy,
            (Ok((kind, Transfer::FromHost(needed_bytes))), Some(data)) => {
                let needed = data.slice(0, (needed_bytes as usize).min(data.len()));
                match kind {
                    Kind::Io(opcode) => {
                        self.start_io(context, opcode, &sqe, HostData::Received(&needed), index)
                    }
                    Kind::Fabrics | Kind::Admin => {
                        self.free_slot(context, index);
                        if matches!(kind, Kind::Fabrics) {
                            self.fabrics(context, &sqe, &needed);
                        } else {
                            // A command that carries data is not answered with data, and so never
                            // waits.
                            let _taken = self.admin(context, &sqe, &needed);
                        }
                        self.release_staging(context, data_bytes);
                        return true;
                    }
                }
            }
            (Ok((Kind::Io(opcode), Transfer::ToHost(_) | Transfer::None)), None) => {
                self.start_io(context, opcode, &sqe, HostData::Capsule(&[]), index)
            }
            (Ok(_), _) => Started::Done(Status::INTERNAL_ERROR),
            (Err(status), _) => Started::Done(status),
        };
        let keep = match started {
            Started::Busy => true,
            Started::Queued => sqe.opcode == u8::from(IoOpcode::Compare),
            Started::Done(_) => false,
        };
        if keep {
            if let Some(slot) = self.slots.get_mut(index) {
                slot.data = data;
            }
        } else {
            // The part of a write that the storage keeps stays charged until it is done.
            self.release_staging(context, data_bytes);
        }
        match started {
            Started::Busy => return false,
            Started::Queued => {
                if let Some(slot) = self.slots.get_mut(index) {
                    slot.stage = Stage::InStorage;
                }
            }
            Started::Done(status) => {
                self.free_slot(context, index);
                self.complete(context, &sqe, status, 0);
            }
        }
        true
    }

    /// Executes a command whose data is available.
    fn execute(&mut self, context: &Context, kind: Kind, sqe: &Sqe, data: &[u8]) -> Result<Taken, Fatal> {
        match kind {
            Kind::Fabrics => self.fabrics(context, sqe, data),
            Kind::Admin => return Ok(self.admin(context, sqe, data)),
            Kind::Io(opcode) => return self.io(context, opcode, sqe, data),
        }
        Ok(Taken::Yes)
    }

    fn io(&mut self, context: &Context, opcode: IoOpcode, sqe: &Sqe, data: &[u8]) -> Result<Taken, Fatal> {
        let len_bytes = io::transfer_bytes(opcode, sqe);
        if self.must_wait_to_read(context, opcode, sqe) {
            return Ok(Taken::Busy);
        }
        let mut charge_bytes = charge_of(io::reading_bytes(opcode, sqe) as usize);
        // Compare needs the host's data when the volume's data arrives.
        let mut kept = None;
        if opcode == IoOpcode::Compare {
            charge_bytes += charge_of(data.len());
            if !self.ask_memory(context, charge_bytes) {
                return Ok(self.wait_in_buffer(context, sqe));
            }
            let Some(mut buffer) = context.take_staging(data.len()) else {
                self.return_memory(context, charge_bytes);
                return Ok(self.wait_in_buffer(context, sqe));
            };
            buffer.as_mut_slice().copy_from_slice(data);
            self.staging_bytes += data.len();
            kept = Some(buffer.freeze());
        } else if charge_bytes > 0
            && (!self.await_memory.is_empty() || !self.ask_memory(context, charge_bytes))
        {
            let slot = self.slots.take(sqe, len_bytes, Stage::AwaitMemory).ok_or(Fatal::TooManyCommands)?;
            self.await_memory.push_back(slot);
            return Ok(Taken::Yes);
        }
        let Some(index) = self.slots.take(sqe, len_bytes, Stage::InStorage) else {
            self.release_memory(context, charge_bytes);
            self.release_staging(context, kept.map_or(0, |kept| kept.len()));
            return Err(Fatal::TooManyCommands);
        };
        let started = self.start_io(context, opcode, sqe, HostData::Capsule(data), index);
        if started == Started::Queued {
            if let Some(slot) = self.slots.get_mut(index) {
                slot.data = kept;
                slot.charged_bytes = charge_bytes;
            }
            return Ok(Taken::Yes);
        }
        self.release_memory(context, charge_bytes);
        self.release_staging(context, kept.map_or(0, |kept| kept.len()));
        self.slots.give_back(index);
        match started {
            Started::Done(status) => {
                self.complete(context, sqe, status, 0);
                Ok(Taken::Yes)
            }
            _ => Ok(Taken::Busy),
        }
    }

    /// Whether a command reads and must wait, because the storage already reads as much for this
    /// host as its limit allows.
    fn must_wait_to_read(&self, context: &Context, opcode: IoOpcode, sqe: &Sqe) -> bool {
        let Some(queue) = &self.queue else { return false };
        io::reading_bytes(opcode, sqe) > 0
            && queue.controller.reading_bytes() >= context.reading_bytes_max(&queue.controller)
    }

    fn start_io(
        &mut self,
        context: &Context,
        opcode: IoOpcode,
        sqe: &Sqe,
        data: HostData<'_>,
        index: u16,
    ) -> Started {
        let Some(volume) = self.volume() else {
            return Started::Done(Status::INVALID_NAMESPACE.do_not_retry());
        };
        let started = io::start(context, volume, opcode, sqe, data, u64::from(index), &self.sink);
        match started {
            Started::Queued => {
                self.patience.note_taken();
                let reading_bytes = io::reading_bytes(opcode, sqe) as usize;
                self.reading_bytes += reading_bytes;
                if let Some(queue) = &self.queue {
                    context.begin_reading(&queue.controller, reading_bytes);
                }
                self.allowance_bytes -= reading_bytes as isize;
            }
            Started::Busy if self.has_waited_too_long(context) => {
                return Started::Done(Status::COMMAND_INTERRUPTED);
            }
            Started::Busy | Started::Done(_) => {}
        }
        started
    }

    fn admin(&mut self, context: &Context, sqe: &Sqe, data: &[u8]) -> Taken {
        let answer_bytes = admin::answer_bytes(sqe);
        let mut room = None;
        if answer_bytes > SMALL_ANSWER_BYTES {
            match self.answer_room(context, sqe, answer_bytes) {
                Ok(answer_room) => room = Some(answer_room),
                Err(taken) => return taken,
            }
        }
        let Some(queue) = &self.queue else { return Taken::Yes };
        let reply = admin::execute(context, &queue.controller, self.line.local, sqe, data);
        match (reply, room) {
            (AdminReply::Data(data), Some(room)) if check_to_host(sqe, data.len() as u32, false).is_ok() => {
                self.complete_with_room(context, sqe, &data, room);
            }
            (reply, room) => {
                self.release_memory(context, room.map_or(0, |room| room.charge_bytes));
                self.reply(context, sqe, reply);
            }
        }
        Taken::Yes
    }

    fn fabrics(&mut self, context: &Context, sqe: &Sqe, data: &[u8]) {
        let invalid = AdminReply::Done(Status::INVALID_OPCODE.do_not_retry(), 0);
        let out_of_sequence = AdminReply::Done(Status::COMMAND_SEQUENCE_ERROR.do_not_retry(), 0);
        let reply = match (FabricsType::try_from(sqe.fabrics_type()), &self.queue) {
            (Ok(FabricsType::Connect), None) => return self.connect(context, sqe, data),
            (Ok(FabricsType::Connect), Some(_)) | (_, None) => out_of_sequence,
            (Ok(FabricsType::PropertyGet), Some(queue)) if queue.is_admin() => {
                fabrics::property_get(context, &queue.controller, sqe.view::<PropertyGet>())
            }
            (Ok(FabricsType::PropertySet), Some(queue)) if queue.is_admin() => {
                let reply = fabrics::property_set(context, &queue.controller, sqe.view::<PropertySet>());
                self.flush_wanted = queue.controller.is_shutting_down();
                reply
            }
            (Ok(FabricsType::Disconnect), Some(queue)) => {
                if sqe.view::<Disconnect>().record_format.get() != 0 {
                    AdminReply::Done(Status::INCOMPATIBLE_FORMAT.do_not_retry(), 0)
                } else if queue.is_admin() {
                    // Only I/O queues can be disconnected (Base section 6.4).
                    AdminReply::Done(Status::INVALID_QUEUE_TYPE.do_not_retry(), 0)
                } else {
                    self.disconnecting = Disconnecting::Asked(*sqe);
                    self.end_what_waits(context);
                    AdminReply::Waiting
                }
            }
            _ => invalid,
        };
        self.reply(context, sqe, reply);
    }

    fn connect(&mut self, context: &Context, sqe: &Sqe, data: &[u8]) {
        let command = sqe.view::<Connect>();
        match fabrics::connect(context, command, data, &self.line) {
            Ok(mut queue) => {
                tracing::debug!(
                    peer = %self.line.peer,
                    nqn = %queue.controller.subsystem.nqn,
                    host_nqn = %queue.controller.host_nqn,
                    controller_id = queue.controller.id,
                    queue_id = queue.id,
                    entries = queue.entries,
                    "queue connected"
                );
                if queue.is_admin() {
                    tracing::info!(
                        peer = %self.line.peer,
                        nqn = %queue.controller.subsystem.nqn,
                        host_nqn = %queue.controller.host_nqn,
                        controller_id = queue.controller.id,
                        keep_alive_ms = queue.controller.keep_alive_ms(),
                        "controller connected"
                    );
                } else {
                    context.count_io_queue(true);
                    self.input.grow(context.receive_buffer_bytes());
                    self.output_bytes_max = context.config.output_bytes_max;
                    self.limits.in_capsule_bytes_max =
                        self.limits.in_capsule_bytes_max.max(context.config.in_capsule_bytes);
                }
                self.slots.grow(queue.entries as usize);
                self.sink.set_client(queue.controller.id.into());
                let (member, group) = context.shares.borrow_mut().join(queue.controller.group.get());
                queue.controller.group.set(Some(group));
                self.member = Some(member);
                let head = if queue.flow_control { queue.advance() } else { NO_FLOW_CONTROL_HEAD };
                let result = ConnectResult::new(queue.controller.id).to_result();
                self.queue = Some(queue);
                self.respond(Cqe::new(sqe.command_id.get(), head, Status::SUCCESS, result));
            }
            Err(refusal) => {
                if context.may_warn() {
                    tracing::warn!(peer = %self.line.peer, status = %refusal.status, "Connect refused");
                }
                self.complete(context, sqe, refusal.status, refusal.result);
            }
        }
    }

    /// Answers a command of the admin queue.
    fn reply(&mut self, context: &Context, sqe: &Sqe, reply: AdminReply) {
        match reply {
            AdminReply::Done(status, result) => self.complete(context, sqe, status, result),
            AdminReply::Waiting => {}
            AdminReply::Data(data) => match check_to_host(sqe, data.len() as u32, false) {
                Ok(()) => self.complete_with_bytes(context, sqe, &data),
                Err(status) => self.complete(context, sqe, status, 0),
            },
        }
    }

    pub(super) fn respond(&mut self, cqe: Cqe) {
        let response = CapsuleResp::new(cqe, self.limits.digests.header);
        self.output.header(|arena| append_header(arena, &response));
    }
}

fn from_host(len_bytes: u32) -> Transfer {
    if len_bytes == 0 { Transfer::None } else { Transfer::FromHost(len_bytes) }
}

/// Data for the host goes in data PDUs, into a buffer of sufficient size, or of the same size if
/// `exact`.
fn check_to_host(sqe: &Sqe, len_bytes: u32, exact: bool) -> Result<(), Status> {
    match sqe.sgl.kind() {
        SglKind::Transport { length_bytes } if length_bytes == len_bytes => Ok(()),
        SglKind::Transport { length_bytes } if length_bytes > len_bytes && !exact => Ok(()),
        SglKind::Transport { .. } => Err(Status::INVALID_DATA_SGL_LENGTH.do_not_retry()),
        SglKind::InCapsule { .. } | SglKind::Unsupported { .. } => {
            Err(Status::INVALID_SGL_TYPE.do_not_retry())
        }
    }
}
