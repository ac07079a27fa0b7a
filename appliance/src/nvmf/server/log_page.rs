//! Get Log Page (Base section 5.16): any range of any page that the controller has, by offset.

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U128};

use super::config::{NAMESPACE_ID, TRANSFER_BYTES_MAX};
use super::context::Context;
use super::controller::Controller;
use super::discovery;
use super::event::FAILED_WARNINGS;
use super::identify::FIRMWARE_REVISION;
use crate::nvmf::wire::command::{GetLogPage, NSID_ALL};
use crate::nvmf::wire::log_page::{
    ChangedNamespaces, CommandEffects, FirmwareSlot, LogPageId, Smart, SupportedLogPages, command_effect,
};
use crate::nvmf::wire::opcode::{AdminOpcode, IoOpcode};
use crate::nvmf::wire::status::Status;
use crate::nvmf::wire::text;

/// The unit of data read and written in SMART, in bytes.
const DATA_UNIT_BYTES: u64 = 512_000;

const IO_PAGES: [LogPageId; 6] = [
    LogPageId::SupportedLogPages,
    LogPageId::ErrorInformation,
    LogPageId::Smart,
    LogPageId::FirmwareSlot,
    LogPageId::ChangedNamespaces,
    LogPageId::CommandEffects,
];

const DISCOVERY_PAGES: [LogPageId; 2] = [LogPageId::SupportedLogPages, LogPageId::Discovery];

/// Answers Get Log Page with exactly the requested bytes. Beyond a page's end they are zeroes.
/// `local` is our address as the host of this connection knows it.
pub(super) fn read(
    context: &Context,
    controller: &Controller,
    local: std::net::SocketAddr,
    command: &GetLogPage,
) -> Result<Vec<u8>, Status> {
    let pages: &[LogPageId] = if controller.is_discovery() { &DISCOVERY_PAGES } else { &IO_PAGES };
    let page = LogPageId::try_from(command.log_page)
        .ok()
        .filter(|page| pages.contains(page))
        .ok_or(Status::INVALID_LOG_PAGE)?;
    let length = command.length_bytes();
    let offset = command.offset_bytes.get();
    // No page supports index offsets (OT).
    if length > u64::from(TRANSFER_BYTES_MAX)
        || !offset.is_multiple_of(4)
        || command.offset_type & 1 << 7 != 0
    {
        return Err(Status::INVALID_FIELD);
    }
    let length = length as usize;
    let bytes = match page {
        LogPageId::Discovery => discovery::read(context, local, offset, length),
        LogPageId::SupportedLogPages => cut(supported(pages).as_bytes(), offset, length)?,
        LogPageId::ErrorInformation => cut(&errors(controller), offset, length)?,
        LogPageId::Smart => {
            // By controller, or for all namespaces together. There is one namespace.
            if !matches!(command.nsid.get(), 0 | NAMESPACE_ID | NSID_ALL) {
                return Err(Status::INVALID_NAMESPACE);
            }
            cut(smart(context, controller).as_bytes(), offset, length)?
        }
        LogPageId::FirmwareSlot => cut(firmware().as_bytes(), offset, length)?,
        LogPageId::ChangedNamespaces => {
            let mut list = ChangedNamespaces::default();
            if controller.events.borrow().changed_namespace() {
                list.nsids[0] = U32::new(NAMESPACE_ID);
            }
            cut(list.as_bytes(), offset, length)?
        }
        LogPageId::CommandEffects => cut(effects().as_bytes(), offset, length)?,
        _ => return Err(Status::INVALID_LOG_PAGE),
    };
    if !command.retains_event() {
        controller.events.borrow_mut().clear(page);
    }
    Ok(bytes)
}

fn cut(page: &[u8], offset: u64, length: usize) -> Result<Vec<u8>, Status> {
    let rest =
        usize::try_from(offset).ok().and_then(|offset| page.get(offset..)).ok_or(Status::INVALID_FIELD)?;
    let mut bytes = vec![0; length];
    let count = rest.len().min(length);
    bytes[..count].copy_from_slice(&rest[..count]);
    Ok(bytes)
}

fn supported(pages: &[LogPageId]) -> SupportedLogPages {
    let mut list = SupportedLogPages::default();
    for page in pages {
        list.pages[usize::from(u8::from(*page))] = U32::new(SupportedLogPages::SUPPORTED);
    }
    list
}

fn errors(controller: &Controller) -> Vec<u8> {
    let log = controller.errors.borrow();
    let mut bytes = vec![0; super::config::ERROR_LOG_ENTRIES * 64];
    for (slot, entry) in bytes.chunks_exact_mut(64).zip(log.entries()) {
        slot.copy_from_slice(entry.as_bytes());
    }
    bytes
}

fn smart(context: &Context, controller: &Controller) -> Smart {
    let health = &controller.subsystem.health;
    let wide = |value: u64| U128::new(u128::from(value));
    let uptime = context.now().saturating_duration_since(context.started).as_secs();
    Smart {
        critical_warning: if context.storage.has_failed() { FAILED_WARNINGS } else { 0 },
        available_spare: 100,
        available_spare_threshold: 10,
        data_units_read: wide(health.read_bytes.get().div_ceil(DATA_UNIT_BYTES)),
        data_units_written: wide(health.written_bytes.get().div_ceil(DATA_UNIT_BYTES)),
        host_reads: wide(health.reads.get()),
        host_writes: wide(health.writes.get()),
        power_cycles: wide(1),
        power_on_hours: wide(uptime / 3600),
        media_errors: wide(health.media_errors.get()),
        error_log_entries: wide(controller.errors.borrow().count()),
        ..Smart::default()
    }
}

fn firmware() -> FirmwareSlot {
    let mut slot = FirmwareSlot { active: 1, ..FirmwareSlot::default() };
    // The version is short enough. If it were not, the field would be empty.
    let _ = text::set_space_padded(&mut slot.revisions[0], FIRMWARE_REVISION);
    slot
}

fn effects() -> CommandEffects {
    let mut effects = CommandEffects::default();
    for opcode in [
        AdminOpcode::GetLogPage,
        AdminOpcode::Identify,
        AdminOpcode::Abort,
        AdminOpcode::SetFeatures,
        AdminOpcode::GetFeatures,
        AdminOpcode::AsyncEventRequest,
        AdminOpcode::KeepAlive,
    ] {
        effects.admin[usize::from(u8::from(opcode))] = U32::new(command_effect::SUPPORTED);
    }
    for opcode in [IoOpcode::Flush, IoOpcode::Read, IoOpcode::Compare, IoOpcode::Verify] {
        effects.io[usize::from(u8::from(opcode))] = U32::new(command_effect::SUPPORTED);
    }
    for opcode in [IoOpcode::Write, IoOpcode::WriteZeroes, IoOpcode::DatasetManagement] {
        effects.io[usize::from(u8::from(opcode))] =
            U32::new(command_effect::SUPPORTED | command_effect::BLOCK_CONTENT_CHANGE);
    }
    effects
}
