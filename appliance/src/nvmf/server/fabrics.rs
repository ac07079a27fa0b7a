//! Fabrics commands (Base section 6): Connect, Property Get and Set.

use std::rc::Rc;

use zerocopy::FromBytes;

use super::admin_reply::AdminReply;
use super::admission;
use super::context::Context;
use super::controller::Controller;
use super::line::Line;
use super::queue::Queue;
use super::subsystem::Subsystem;
use crate::nvmf::wire::command::Sqe;
use crate::nvmf::wire::fabrics::{
    CONNECT_DATA_BYTES, CONTROLLER_ID_DYNAMIC, Connect, ConnectData, PROPERTY_4_BYTES, PropertyGet,
    PropertySet, connect_attribute, connect_command_offset, connect_data_offset, connect_invalid_parameter,
    property_size,
};
use crate::nvmf::wire::opcode::FabricsType;
use crate::nvmf::wire::property::{Cc, Property};
use crate::nvmf::wire::status::Status;

/// A refused Connect: status and result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: Status,
    pub(super) result: u64,
}

impl Refusal {
    fn status(status: Status) -> Self {
        Refusal { status, result: 0 }
    }

    fn command(offset: u16) -> Self {
        Refusal {
            status: Status::CONNECT_INVALID_PARAMETERS.do_not_retry(),
            result: connect_invalid_parameter(offset, false),
        }
    }

    fn data(offset: u16) -> Self {
        Refusal {
            status: Status::CONNECT_INVALID_PARAMETERS.do_not_retry(),
            result: connect_invalid_parameter(offset, true),
        }
    }
}

/// Number of data bytes that the command carries.
pub(super) fn data_bytes(sqe: &Sqe) -> u32 {
    if sqe.fabrics_type() == u8::from(FabricsType::Connect) { CONNECT_DATA_BYTES as u32 } else { 0 }
}

/// Connects a queue: a new controller for the admin queue, an existing one for an I/O queue.
pub(super) fn connect(
    context: &Context,
    command: &Connect,
    data: &[u8],
    line: &Rc<Line>,
) -> Result<Queue, Refusal> {
    if command.record_format.get() != 0 {
        return Err(Refusal::status(Status::INCOMPATIBLE_FORMAT.do_not_retry()));
    }
    let data = ConnectData::ref_from_bytes(data)
        .map_err(|_| Refusal::status(Status::INVALID_DATA_SGL_LENGTH.do_not_retry()))?;
    let entries = u32::from(command.queue_size_less_one.get()) + 1;
    if entries < 2 || entries > u32::from(context.config.queue_entries_max) {
        return Err(Refusal::command(connect_command_offset::QUEUE_SIZE));
    }
    let host_nqn = data.host_nqn().ok().filter(|nqn| is_host_nqn(nqn));
    let host_nqn = host_nqn.ok_or(Refusal::data(connect_data_offset::HOST_NQN))?;
    // A subsystem that does not exist (any more): the host need not try again.
    let subsystem = data
        .subsystem_nqn()
        .ok()
        .and_then(|nqn| context.subsystems.find(nqn))
        .ok_or(Refusal::data(connect_data_offset::SUBSYSTEM_NQN))?;
    let flow_control = command.attributes & connect_attribute::NO_FLOW_CONTROL == 0;
    if command.queue_id.get() == 0 {
        let controller = new_controller(context, &subsystem, command, data, host_nqn, line)?;
        context.counters.admin_queues_connected.add(1);
        Ok(Queue::new(controller, 0, entries, flow_control, line))
    } else {
        let controller = existing_controller(&subsystem, command, data, host_nqn, line)?;
        controller.note_traffic(context.now());
        context.counters.io_queues_connected.add(1);
        Ok(Queue::new(controller, command.queue_id.get(), entries, flow_control, line))
    }
}

/// Whether a host may use this name. The journal and tables show it, so it must not contain control
/// characters, which could steer a terminal. An empty name is accepted too, as in Linux's target
/// and SPDK's when any host may connect.
fn is_host_nqn(nqn: &str) -> bool {
    let is_name = nqn.is_empty() || nqn.starts_with("nqn.");
    is_name && nqn.len() <= crate::nvmf::wire::fabrics::NQN_BYTES_MAX && !nqn.contains(char::is_control)
}

fn new_controller(
    context: &Context,
    subsystem: &Rc<Subsystem>,
    command: &Connect,
    data: &ConnectData,
    host_nqn: &str,
    line: &Rc<Line>,
) -> Result<Rc<Controller>, Refusal> {
    // The dynamic model: the host requests any controller.
    if data.controller_id.get() != CONTROLLER_ID_DYNAMIC {
        return Err(Refusal::data(connect_data_offset::CONTROLLER_ID));
    }
    if !admission::make_room_for_controller(context, subsystem, host_nqn, &data.host_id) {
        return Err(Refusal::status(Status::CONTROLLER_BUSY));
    }
    let controller = Controller::new(
        subsystem.next_controller_id(),
        Rc::clone(subsystem),
        host_nqn.to_owned(),
        data.host_id,
        context.config.io_queues_max,
        line,
        context.now(),
    );
    controller.set_keep_alive_ms(command.keep_alive_timeout_ms.get());
    subsystem.controllers.borrow_mut().push(Rc::clone(&controller));
    Ok(controller)
}

fn existing_controller(
    subsystem: &Rc<Subsystem>,
    command: &Connect,
    data: &ConnectData,
    host_nqn: &str,
    line: &Rc<Line>,
) -> Result<Rc<Controller>, Refusal> {
    let queue_id = command.queue_id.get();
    if subsystem.is_discovery() {
        return Err(Refusal::command(connect_command_offset::QUEUE_ID));
    }
    let controller = subsystem
        .controller(data.controller_id.get())
        .filter(|controller| controller.ended().is_none())
        .ok_or(Refusal::data(connect_data_offset::CONTROLLER_ID))?;
    if controller.host_nqn != host_nqn {
        return Err(Refusal::data(connect_data_offset::HOST_NQN));
    }
    if controller.host_id != data.host_id {
        return Err(Refusal::data(connect_data_offset::HOST_ID));
    }
    if !controller.is_ready() {
        return Err(Refusal::status(Status::COMMAND_SEQUENCE_ERROR.do_not_retry()));
    }
    if queue_id > controller.queues_granted.get() {
        return Err(Refusal::command(connect_command_offset::QUEUE_ID));
    }
    if !controller.take_queue(queue_id, line) {
        // The same QID twice (Base section 6.3). The first connection may soon be found dead, so a
        // retry can help.
        return Err(Refusal::status(Status::COMMAND_SEQUENCE_ERROR));
    }
    Ok(controller)
}

/// Property Get.
pub(super) fn property_get(context: &Context, controller: &Controller, command: &PropertyGet) -> AdminReply {
    let size = command.size & 0b111;
    let value = Property::try_from(command.offset.get())
        .ok()
        .filter(|property| size == property_size(*property))
        .and_then(|property| controller.property(property, &context.config));
    match value {
        Some(value) => AdminReply::done(value),
        None => AdminReply::Done(Status::INVALID_FIELD.do_not_retry(), 0),
    }
}

/// Property Set: only CC can be written. A shutdown that must flush first stays busy, see
/// [`Controller::is_shutting_down`].
pub(super) fn property_set(context: &Context, controller: &Controller, command: &PropertySet) -> AdminReply {
    let is_configuration = command.offset.get() == u32::from(Property::Configuration);
    if !is_configuration || command.size & 0b111 != PROPERTY_4_BYTES {
        return AdminReply::Done(Status::INVALID_FIELD.do_not_retry(), 0);
    }
    let flush = !controller.is_discovery() && context.storage.volatile_cache();
    controller.configure(Cc(command.value.get() as u32), flush);
    AdminReply::done(0)
}
