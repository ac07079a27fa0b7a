//! Admin commands on a connected admin queue (Base section 5): finds out which command it is, and
//! passes it to the file that answers it.

use std::net::SocketAddr;

use super::admin_reply::AdminReply;
use super::config::TRANSFER_BYTES_MAX;
use super::context::Context;
use super::controller::Controller;
use super::{feature, identify, log_page};
use crate::nvmf::wire::command::{Features, GetLogPage, Identify, Sqe};
use crate::nvmf::wire::identify::IDENTIFY_BYTES;
use crate::nvmf::wire::opcode::AdminOpcode;
use crate::nvmf::wire::status::Status;

/// Number of data bytes that the command carries.
pub(super) fn data_bytes(sqe: &Sqe) -> u32 {
    match AdminOpcode::try_from(sqe.opcode) {
        Ok(AdminOpcode::SetFeatures) => feature::data_bytes(sqe.view::<Features>()),
        _ => 0,
    }
}

/// The most bytes of data with which the command may be answered.
pub(super) fn answer_bytes(sqe: &Sqe) -> usize {
    match AdminOpcode::try_from(sqe.opcode) {
        Ok(AdminOpcode::GetLogPage) => {
            let length_bytes = sqe.view::<GetLogPage>().length_bytes();
            // A longer request is refused.
            usize::try_from(length_bytes).unwrap_or(usize::MAX).min(TRANSFER_BYTES_MAX as usize)
        }
        Ok(AdminOpcode::Identify) => IDENTIFY_BYTES,
        _ => 0,
    }
}

/// Executes an admin command other than the Fabrics commands. `local` is our address as the host
/// knows it.
pub(super) fn execute(
    context: &Context,
    controller: &Controller,
    local: SocketAddr,
    sqe: &Sqe,
    data: &[u8],
) -> AdminReply {
    if !controller.is_ready() {
        return AdminReply::Done(Status::COMMAND_SEQUENCE_ERROR.do_not_retry(), 0);
    }
    let Ok(opcode) = AdminOpcode::try_from(sqe.opcode) else {
        return AdminReply::Done(Status::INVALID_OPCODE.do_not_retry(), 0);
    };
    match opcode {
        AdminOpcode::Identify => {
            identify::identify(context, controller, sqe.view::<Identify>()).map(AdminReply::Data).into()
        }
        AdminOpcode::GetLogPage => {
            log_page::read(context, controller, local, sqe.view::<GetLogPage>()).map(AdminReply::Data).into()
        }
        AdminOpcode::GetFeatures => feature::get(context, controller, sqe.view::<Features>()).into(),
        AdminOpcode::SetFeatures => feature::set(context, controller, sqe.view::<Features>(), data).into(),
        AdminOpcode::AsyncEventRequest => {
            let taken = controller.events.borrow_mut().request(sqe.command_id.get());
            taken.map(|()| AdminReply::Waiting).into()
        }
        // The traffic itself has already been recorded.
        AdminOpcode::KeepAlive => AdminReply::done(0),
        // Bit 0 of the result: the command was not aborted. It completes soon anyway.
        AdminOpcode::Abort if !controller.is_discovery() => AdminReply::done(1),
        _ => AdminReply::Done(Status::INVALID_OPCODE.do_not_retry(), 0),
    }
}
