//! Get Features and Set Features (Base sections 5.15 and 5.27). No feature is saveable: a request
//! for the saved value returns the default.
//!
//! | FID | feature                         | changeable | data      |
//! |-----|---------------------------------|------------|-----------|
//! | 01h | arbitration                     | yes        |           |
//! | 02h | power management                | state 0    |           |
//! | 04h | temperature threshold           | yes        |           |
//! | 05h | error recovery                  | TLER       |           |
//! | 06h | volatile write cache            | no         |           |
//! | 07h | number of queues                | yes        |           |
//! | 0Ah | write atomicity                 | yes        |           |
//! | 0Bh | asynchronous event configuration| yes        |           |
//! | 0Eh | timestamp                       | yes        | 8 bytes   |
//! | 0Fh | keep alive timer                | yes        |           |
//! | 16h | host behavior support           | yes        | 512 bytes |
//! | 81h | host identifier                 | by Connect | 16 bytes  |

use std::time::{SystemTime, UNIX_EPOCH};

use zerocopy::{FromBytes, IntoBytes};

use super::admin_reply::AdminReply;
use super::context::Context;
use super::controller::Controller;
use super::event::Notice;
use super::feature_values::{FeatureValues, HOST_BEHAVIOR_BYTES};
use crate::nvmf::wire::command::Features;
use crate::nvmf::wire::feature::{
    FeatureId, FeatureSelect, QueueCounts, Timestamp, event_mask, feature_capability,
};
use crate::nvmf::wire::status::Status;

/// Temperature threshold: bits 21:20 select over (0) or under (1), bits 15:0 hold the value. This
/// mask selects the sensor in bits 19:16.
const THRESHOLD_SENSOR: u32 = 0xF << 16;

/// Number of data bytes that a Set Features command carries.
pub(super) fn data_bytes(command: &Features) -> u32 {
    match FeatureId::try_from(command.feature) {
        Ok(FeatureId::Timestamp) => size_of::<Timestamp>() as u32,
        Ok(FeatureId::HostBehavior) => HOST_BEHAVIOR_BYTES as u32,
        Ok(FeatureId::HostIdentifier) => 16,
        _ => 0,
    }
}

fn supported(context: &Context, controller: &Controller, feature: u8) -> Result<FeatureId, Status> {
    let known = FeatureId::try_from(feature).map_err(|_| Status::INVALID_FIELD)?;
    let on_discovery = matches!(known, FeatureId::AsyncEventConfiguration | FeatureId::KeepAliveTimer);
    let on_io = on_discovery
        || matches!(
            known,
            FeatureId::Arbitration
                | FeatureId::PowerManagement
                | FeatureId::TemperatureThreshold
                | FeatureId::ErrorRecovery
                | FeatureId::NumberOfQueues
                | FeatureId::WriteAtomicity
                | FeatureId::Timestamp
                | FeatureId::HostBehavior
                | FeatureId::HostIdentifier
        )
        || (known == FeatureId::VolatileWriteCache && context.storage.volatile_cache());
    let supported = if controller.is_discovery() { on_discovery } else { on_io };
    if supported { Ok(known) } else { Err(Status::INVALID_FIELD) }
}

/// Get Features.
pub(super) fn get(
    context: &Context,
    controller: &Controller,
    command: &Features,
) -> Result<AdminReply, Status> {
    let feature = supported(context, controller, command.feature)?;
    let select = FeatureSelect::try_from(command.select & 0b111).map_err(|_| Status::INVALID_FIELD)?;
    if select == FeatureSelect::Capabilities {
        let changeable = !matches!(feature, FeatureId::VolatileWriteCache | FeatureId::HostIdentifier);
        let capabilities = if changeable { feature_capability::CHANGEABLE } else { 0 };
        return Ok(AdminReply::done(u64::from(capabilities)));
    }
    let defaults = FeatureValues::default();
    let current = controller.features.borrow();
    let is_current = select == FeatureSelect::Current;
    let values = if is_current { &*current } else { &defaults };
    let value = match feature {
        FeatureId::Arbitration => values.arbitration,
        FeatureId::TemperatureThreshold => match threshold_kind(command.value.get())? {
            Threshold::Over => values.over_temperature,
            Threshold::Under => values.under_temperature,
        },
        FeatureId::ErrorRecovery => values.error_recovery,
        FeatureId::VolatileWriteCache => 1,
        FeatureId::NumberOfQueues => {
            let queues =
                if is_current { controller.queues_granted.get() } else { context.config.io_queues_max };
            QueueCounts::new(queues).to_dword()
        }
        FeatureId::WriteAtomicity => values.write_atomicity,
        FeatureId::AsyncEventConfiguration if is_current => controller.events.borrow().enabled,
        FeatureId::KeepAliveTimer if is_current => controller.keep_alive_ms(),
        FeatureId::Timestamp => {
            let mut timestamp =
                Timestamp::new(now_ms().wrapping_add(values.timestamp_offset_ms.unwrap_or(0)));
            // Timestamp origin, bits 3:1: 001b, set by Set Features.
            timestamp.attributes = u8::from(values.timestamp_offset_ms.is_some()) << 1;
            return Ok(AdminReply::Data(timestamp.as_bytes().to_vec()));
        }
        FeatureId::HostBehavior => return Ok(AdminReply::Data(values.host_behavior.to_vec())),
        FeatureId::HostIdentifier => {
            // EXHID: over Fabrics only the 128-bit form exists.
            if command.value.get() & 1 == 0 {
                return Err(Status::HOST_ID_INCONSISTENT);
            }
            return Ok(AdminReply::Data(controller.host_id.to_vec()));
        }
        _ => 0,
    };
    Ok(AdminReply::done(u64::from(value)))
}

/// Set Features. `data` has the length that [`data_bytes`] returns.
pub(super) fn set(
    context: &Context,
    controller: &Controller,
    command: &Features,
    data: &[u8],
) -> Result<AdminReply, Status> {
    let feature = supported(context, controller, command.feature)?;
    if command.save & 1 << 7 != 0 {
        return Err(Status::FEATURE_NOT_SAVEABLE);
    }
    let value = command.value.get();
    let mut values = controller.features.borrow_mut();
    match feature {
        FeatureId::Arbitration => values.arbitration = value,
        FeatureId::PowerManagement => {
            // The one power state is 0.
            if value & 0b1_1111 != 0 {
                return Err(Status::INVALID_FIELD);
            }
        }
        FeatureId::TemperatureThreshold => {
            let threshold = value & 0xFFFF;
            match threshold_kind(value)? {
                Threshold::Over => values.over_temperature = threshold,
                Threshold::Under => values.under_temperature = threshold,
            }
        }
        FeatureId::ErrorRecovery => {
            // DULBE requests errors on unwritten blocks, which the namespace does not support.
            if value & 1 << 16 != 0 {
                return Err(Status::INVALID_FIELD);
            }
            values.error_recovery = value & 0xFFFF;
        }
        FeatureId::VolatileWriteCache => {
            if value & 1 == 0 {
                return Err(Status::FEATURE_NOT_CHANGEABLE);
            }
        }
        FeatureId::NumberOfQueues => {
            drop(values);
            return number_of_queues(context, controller, value);
        }
        FeatureId::WriteAtomicity => values.write_atomicity = value & 1,
        FeatureId::AsyncEventConfiguration => set_events(context, controller, value),
        FeatureId::Timestamp => {
            let timestamp = Timestamp::read_from_bytes(data).map_err(|_| Status::INVALID_DATA_SGL_LENGTH)?;
            values.timestamp_offset_ms = Some(timestamp.milliseconds().wrapping_sub(now_ms()));
        }
        FeatureId::KeepAliveTimer => controller.set_keep_alive_ms(value),
        FeatureId::HostBehavior => {
            let behavior = data.first_chunk().ok_or(Status::INVALID_DATA_SGL_LENGTH)?;
            // ACRE: the first byte is 0 or 1.
            if behavior[0] > 1 {
                return Err(Status::INVALID_FIELD);
            }
            *values.host_behavior = *behavior;
        }
        // Set by Connect. Afterwards it cannot be changed (Base section 5.27.1.25).
        FeatureId::HostIdentifier => return Err(Status::COMMAND_SEQUENCE_ERROR),
        _ => return Err(Status::INVALID_FIELD),
    }
    Ok(AdminReply::done(0))
}

/// Asynchronous Event Configuration: enables the events that this controller has.
fn set_events(context: &Context, controller: &Controller, value: u32) {
    let known = if controller.is_discovery() {
        event_mask::DISCOVERY_CHANGE
    } else {
        event_mask::SMART | event_mask::NAMESPACE_ATTRIBUTE
    };
    let mut events = controller.events.borrow_mut();
    events.enabled = value & known;
    // A host that connects, or enables the event, after the failure gets the event too.
    if context.storage.has_failed() {
        events.raise(Notice::HealthCritical);
    }
}

/// Number of Queues: only before the first I/O queue is connected. Grants the smaller of the
/// requested number and the limit.
fn number_of_queues(context: &Context, controller: &Controller, value: u32) -> Result<AdminReply, Status> {
    let wanted = QueueCounts::from_dword(value);
    if wanted.submission_less_one.get() == 0xFFFF || wanted.completion_less_one.get() == 0xFFFF {
        return Err(Status::INVALID_FIELD);
    }
    if controller.queue_count() > 0 {
        return Err(Status::COMMAND_SEQUENCE_ERROR);
    }
    let granted = wanted.queues().min(u32::from(context.config.io_queues_max)) as u16;
    controller.queues_granted.set(granted);
    Ok(AdminReply::done(u64::from(QueueCounts::new(granted).to_dword())))
}

enum Threshold {
    Over,
    Under,
}

fn threshold_kind(value: u32) -> Result<Threshold, Status> {
    // Only the composite temperature (sensor 0), or all sensors.
    if !matches!(value & THRESHOLD_SENSOR, 0 | THRESHOLD_SENSOR) {
        return Err(Status::INVALID_FIELD);
    }
    match (value >> 20) & 0b11 {
        0 => Ok(Threshold::Over),
        1 => Ok(Threshold::Under),
        _ => Err(Status::INVALID_FIELD),
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
