//! Identify (Base section 5.17; NVM section 4.1.5): describes the controller and its one namespace.

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::config::{
    ASYNC_EVENT_REQUESTS_MAX, BLOCK_SHIFT, ERROR_LOG_ENTRIES, KEEP_ALIVE_GRANULARITY_100MS, NAMESPACE_ID,
    TRANSFER_SHIFT,
};
use super::context::Context;
use super::controller::Controller;
use super::subsystem::MODEL_NUMBER;
use crate::nvmf::wire::command::{Cns, Identify, NSID_ALL, SQE_BYTES};
use crate::nvmf::wire::feature::event_mask;
use crate::nvmf::wire::identify::{
    CommandSetController, CommandSetNamespace, CommandSetVectors, ControllerList, IDENTIFY_BYTES,
    IdentifyController, IdentifyNamespace, IndependentNamespace, LbaFormat, NamespaceDescriptors,
    NamespaceIds, NamespaceList, controller_bits as bits, namespace_bits,
};
use crate::nvmf::wire::property::VERSION_2_0;
use crate::nvmf::wire::status::Status;
use crate::nvmf::wire::text;
use crate::volume::MAX_IO_BLOCKS;

/// FRMW: one firmware slot, read-only.
const FIRMWARE_ONE_SLOT_READ_ONLY: u8 = 1 << 1 | 1;
/// The largest Write Zeroes: 2^16 blocks of 4 KiB, the maximum of NLB (WZSL).
const WRITE_ZEROES_SHIFT: u8 = 16;
/// The I/O command set of every namespace.
const COMMAND_SET_NVM: u8 = 0;

/// FR: the crate's version.
pub(super) const FIRMWARE_REVISION: &str = env!("CARGO_PKG_VERSION");

/// Answers Identify with [`IDENTIFY_BYTES`] bytes.
pub(super) fn identify(
    context: &Context,
    controller: &Controller,
    command: &Identify,
) -> Result<Vec<u8>, Status> {
    let cns = Cns::try_from(command.cns).map_err(|_| Status::INVALID_FIELD)?;
    let nsid = command.nsid.get();
    if controller.is_discovery() {
        return match cns {
            Cns::Controller => Ok(identify_controller(context, controller)),
            _ => Err(Status::INVALID_FIELD),
        };
    }
    match cns {
        Cns::Controller => Ok(identify_controller(context, controller)),
        Cns::Namespace => match nsid {
            NAMESPACE_ID if controller.subsystem.deleted.get() => Err(Status::INVALID_NAMESPACE),
            NAMESPACE_ID => Ok(namespace(context, controller, true)),
            // What all namespaces have in common.
            NSID_ALL => Ok(namespace(context, controller, false)),
            _ => Err(Status::INVALID_NAMESPACE),
        },
        Cns::ActiveNamespaces | Cns::AllocatedNamespaces => namespace_list(controller, nsid),
        Cns::CommandSetActiveNamespaces => {
            nvm_only(command)?;
            namespace_list(controller, nsid)
        }
        Cns::NamespaceDescriptors => {
            the_namespace(controller, nsid)?;
            Ok(descriptors(controller))
        }
        Cns::CommandSetNamespace => {
            nvm_only(command)?;
            the_namespace(controller, nsid)?;
            Ok(CommandSetNamespace::default().as_bytes().to_vec())
        }
        Cns::CommandSetController => {
            nvm_only(command)?;
            Ok(command_set_controller())
        }
        Cns::IndependentNamespace => {
            the_namespace(controller, nsid)?;
            Ok(independent_namespace(controller))
        }
        Cns::AllocatedNamespace => {
            the_namespace(controller, nsid)?;
            Ok(namespace(context, controller, true))
        }
        Cns::AttachedControllers => {
            the_namespace(controller, nsid)?;
            Ok(controllers(controller, command.controller_id.get()))
        }
        Cns::Controllers => Ok(controllers(controller, command.controller_id.get())),
        Cns::CommandSets => {
            let mut sets = CommandSetVectors::default();
            sets.vectors[0] = U64::new(CommandSetVectors::NVM);
            Ok(sets.as_bytes().to_vec())
        }
        // None of these exist: an empty list.
        Cns::SecondaryControllers | Cns::NamespaceGranularity => Ok(vec![0; IDENTIFY_BYTES]),
        _ => Err(Status::INVALID_FIELD),
    }
}

fn the_namespace(controller: &Controller, nsid: u32) -> Result<(), Status> {
    if nsid == NAMESPACE_ID && !controller.subsystem.deleted.get() {
        Ok(())
    } else {
        Err(Status::INVALID_NAMESPACE)
    }
}

fn nvm_only(command: &Identify) -> Result<(), Status> {
    if command.command_set == COMMAND_SET_NVM { Ok(()) } else { Err(Status::COMMAND_SET_UNSUPPORTED) }
}

fn identify_controller(context: &Context, controller: &Controller) -> Vec<u8> {
    let config = &context.config;
    let subsystem = &controller.subsystem;
    let mut page = IdentifyController {
        arbitration_burst: 6,
        multi_path: bits::CMIC_MULTI_PORT | bits::CMIC_MULTI_CONTROLLER,
        transfer_size_max: TRANSFER_SHIFT,
        controller_id: U16::new(controller.id),
        version: U32::new(VERSION_2_0),
        attributes: U32::new(bits::CTRATT_HOST_ID_128 | bits::CTRATT_TRAFFIC_KEEP_ALIVE),
        async_event_requests_less_one: ASYNC_EVENT_REQUESTS_MAX as u8 - 1,
        aborts_less_one: 3,
        firmware_updates: FIRMWARE_ONE_SLOT_READ_ONLY,
        log_page_attributes: bits::LPA_EXTENDED_DATA,
        error_log_entries_less_one: ERROR_LOG_ENTRIES as u8 - 1,
        keep_alive_granularity_100ms: U16::new(KEEP_ALIVE_GRANULARITY_100MS),
        outstanding_commands_max: U16::new(config.queue_entries_max),
        sgl_support: U32::new(bits::SGLS_SUPPORTED | bits::SGLS_OFFSET | bits::SGLS_TRANSPORT),
        io_response_capsule_16b: U32::new(1),
        fabrics_attributes: 0,
        sgl_descriptors_max: 1,
        fabrics_commands: U16::new(bits::OFCS_DISCONNECT),
        ..IdentifyController::default()
    };
    // These strings always fit: the volume's name bounds the NQNs, and the rest is constant.
    let _ = text::set_space_padded(&mut page.serial_number, &subsystem.serial_number);
    let _ = text::set_space_padded(&mut page.model_number, MODEL_NUMBER);
    let _ = text::set_space_padded(&mut page.firmware_revision, FIRMWARE_REVISION);
    let _ = text::set_nul_terminated(&mut page.subsystem_nqn, &subsystem.nqn);
    if controller.is_discovery() {
        page.controller_type = bits::TYPE_DISCOVERY;
        page.async_events = U32::new(event_mask::DISCOVERY_CHANGE);
        return page.as_bytes().to_vec();
    }
    page.controller_type = bits::TYPE_IO;
    page.async_events = U32::new(event_mask::NAMESPACE_ATTRIBUTE);
    page.log_page_attributes |= bits::LPA_COMMAND_EFFECTS;
    page.submission_entry_sizes = 0x66;
    page.completion_entry_sizes = 0x44;
    page.namespaces_max = U32::new(NAMESPACE_ID);
    page.allowed_namespaces_max = U32::new(1);
    page.nvm_commands = U16::new(
        bits::ONCS_COMPARE
            | bits::ONCS_DATASET_MANAGEMENT
            | bits::ONCS_WRITE_ZEROES
            | bits::ONCS_SAVE_SELECT
            | bits::ONCS_TIMESTAMP
            | bits::ONCS_VERIFY,
    );
    let cache = if context.storage.volatile_cache() { bits::VWC_PRESENT } else { 0 };
    page.volatile_write_cache = cache | bits::VWC_FLUSH_ALL_YES;
    page.atomic_write_blocks_less_one = U16::new(MAX_IO_BLOCKS as u16 - 1);
    page.atomic_power_fail_blocks_less_one = U16::new(MAX_IO_BLOCKS as u16 - 1);
    page.io_command_capsule_16b = U32::new((SQE_BYTES as u32 + config.in_capsule_bytes) / 16);
    page.as_bytes().to_vec()
}

/// CNS 00h. Without `identity`, only what holds for every namespace.
fn namespace(context: &Context, controller: &Controller, identity: bool) -> Vec<u8> {
    let subsystem = &controller.subsystem;
    let atomic = U16::new(MAX_IO_BLOCKS as u16 - 1);
    let mut page = IdentifyNamespace {
        features: namespace_bits::FEATURE_ATOMICS
            | namespace_bits::FEATURE_ID_NOT_REUSED
            | namespace_bits::FEATURE_OPTIMAL_IO,
        multi_path: namespace_bits::NMIC_SHARED,
        deallocate: namespace_bits::DEALLOCATE_READS_ZERO | namespace_bits::DEALLOCATE_WRITE_ZEROES,
        atomic_write_blocks_less_one: atomic,
        atomic_power_fail_blocks_less_one: atomic,
        optimal_write_blocks_less_one: atomic,
        ..IdentifyNamespace::default()
    };
    page.formats[0] = LbaFormat::new(BLOCK_SHIFT);
    if identity {
        let size_blocks = subsystem.size_blocks.get();
        let used_blocks = subsystem
            .volume
            .and_then(|id| context.storage.volume(id))
            .map_or(size_blocks, |info| info.mapped_blocks);
        page.size_blocks = U64::new(size_blocks);
        page.capacity_blocks = U64::new(size_blocks);
        page.used_blocks = U64::new(used_blocks.min(size_blocks));
        page.attributes = attributes(controller);
        page.nguid = *subsystem.uuid.as_bytes();
    }
    page.as_bytes().to_vec()
}

fn attributes(controller: &Controller) -> u8 {
    if controller.subsystem.read_only.get() { namespace_bits::ATTRIBUTE_WRITE_PROTECTED } else { 0 }
}

fn independent_namespace(controller: &Controller) -> Vec<u8> {
    let page = IndependentNamespace {
        features: namespace_bits::FEATURE_ID_NOT_REUSED,
        multi_path: namespace_bits::NMIC_SHARED,
        attributes: attributes(controller),
        status: namespace_bits::STATUS_READY,
        ..IndependentNamespace::default()
    };
    page.as_bytes().to_vec()
}

fn descriptors(controller: &Controller) -> Vec<u8> {
    let uuid = *controller.subsystem.uuid.as_bytes();
    let ids =
        NamespaceIds { eui64: None, nguid: Some(uuid), uuid: Some(uuid), command_set: Some(COMMAND_SET_NVM) };
    NamespaceDescriptors::from(ids).as_bytes().to_vec()
}

/// NSIDs greater than `after`.
fn namespace_list(controller: &Controller, after: u32) -> Result<Vec<u8>, Status> {
    // FFFFFFFEh and FFFFFFFFh are not valid starts.
    if after >= NSID_ALL - 1 {
        return Err(Status::INVALID_NAMESPACE);
    }
    let mut list = NamespaceList::default();
    if after < NAMESPACE_ID && !controller.subsystem.deleted.get() {
        list.nsids[0] = U32::new(NAMESPACE_ID);
    }
    Ok(list.as_bytes().to_vec())
}

/// Controllers of the subsystem whose identifiers are at least `from`.
fn controllers(controller: &Controller, from: u16) -> Vec<u8> {
    let mut ids: Vec<u16> = controller
        .subsystem
        .controllers
        .borrow()
        .iter()
        .map(|other| other.id)
        .filter(|id| *id >= from)
        .collect();
    ids.sort_unstable();
    let mut list = ControllerList::default();
    let count = ids.len().min(list.ids.len());
    list.count = U16::new(count as u16);
    for (slot, id) in list.ids.iter_mut().zip(ids) {
        *slot = U16::new(id);
    }
    list.as_bytes().to_vec()
}

fn command_set_controller() -> Vec<u8> {
    let page = CommandSetController {
        verify_size_max: TRANSFER_SHIFT,
        write_zeroes_size_max: WRITE_ZEROES_SHIFT,
        ..CommandSetController::default()
    };
    page.as_bytes().to_vec()
}
