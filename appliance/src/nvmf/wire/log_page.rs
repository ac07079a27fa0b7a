//! Log pages other than discovery (Base section 5.16.1).

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::macros::{assert_layout, wire_enum, zeroed_default};

wire_enum! {
    /// Log page identifiers, LID (Base figure "Get Log Page - Log Page Identifiers").
    pub enum LogPageId: u8 {
        /// Supported Log Pages.
        SupportedLogPages = 0x00,
        /// Error Information.
        ErrorInformation = 0x01,
        /// SMART / Health Information.
        Smart = 0x02,
        /// Firmware Slot Information.
        FirmwareSlot = 0x03,
        /// Changed Namespace List.
        ChangedNamespaces = 0x04,
        /// Commands Supported and Effects.
        CommandEffects = 0x05,
        /// Device Self-test.
        DeviceSelfTest = 0x06,
        /// Telemetry Host-Initiated.
        TelemetryHost = 0x07,
        /// Telemetry Controller-Initiated.
        TelemetryController = 0x08,
        /// Endurance Group Information.
        EnduranceGroup = 0x09,
        /// Asymmetric Namespace Access.
        Ana = 0x0C,
        /// Persistent Event Log.
        PersistentEvent = 0x0D,
        /// LBA Status Information.
        LbaStatus = 0x0E,
        /// Feature Identifiers Supported and Effects.
        FeatureEffects = 0x12,
        /// Discovery.
        Discovery = 0x70,
        /// Reservation Notification.
        Reservation = 0x80,
        /// Sanitize Status.
        SanitizeStatus = 0x81,
    }
}

/// Supported Log Pages, 00h: one dword for each LID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SupportedLogPages {
    /// 0..1024: by LID: bit 0 LSUPP (supported), bit 1 IOS (index offsets are supported).
    pub pages: [U32; 256],
}
assert_layout!(SupportedLogPages, 1024);

impl SupportedLogPages {
    /// LSUPP.
    pub const SUPPORTED: u32 = 1 << 0;
    /// IOS.
    pub const INDEX_OFFSET: u32 = 1 << 1;
}

/// One entry of Error Information, 01h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ErrorInformation {
    /// 0..8: number of this error since the controller was created, from 1. 0 marks an unused
    /// entry.
    pub error_count: U64,
    /// 8..10: the queue. `FFFFh` when the error belongs to no command.
    pub sq_id: U16,
    /// 10..12: the command. `FFFFh` when the error belongs to no command.
    pub command_id: U16,
    /// 12..14: the status field of the completion.
    pub status: U16,
    /// 14..16: position of the wrong parameter: byte in 7:0, bit in 10:8. `FFFFh` when the error
    /// belongs to no command.
    pub parameter_location: U16,
    /// 16..24: the first logical block that failed.
    pub lba: U64,
    /// 24..28: the namespace.
    pub nsid: U32,
    /// 28: vendor specific log page with details, or 0.
    pub vendor_log: u8,
    /// 29: TRTYPE.
    pub transport_type: u8,
    /// 30..32
    pub reserved_30: [u8; 2],
    /// 32..40: command specific information.
    pub command_specific: U64,
    /// 40..42: transport specific information.
    pub transport_specific: U16,
    /// 42..64
    pub reserved_42: [u8; 22],
}
assert_layout!(ErrorInformation, 64, status @ 12, lba @ 16, nsid @ 24, command_specific @ 32, transport_specific @ 40);

/// Bits of [`Smart::critical_warning`].
pub mod critical_warning {
    /// The spare is below its threshold.
    pub const SPARE: u8 = 1 << 0;
    /// A temperature is out of range.
    pub const TEMPERATURE: u8 = 1 << 1;
    /// Reliability is degraded.
    pub const RELIABILITY: u8 = 1 << 2;
    /// All media are read-only.
    pub const READ_ONLY: u8 = 1 << 3;
    /// The backup of volatile memory failed.
    pub const BACKUP: u8 = 1 << 4;
}

/// SMART / Health Information, 02h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Smart {
    /// 0: see [`critical_warning`].
    pub critical_warning: u8,
    /// 1..3: composite temperature in kelvin.
    pub temperature_kelvin: U16,
    /// 3: available spare in percent.
    pub available_spare: u8,
    /// 4: threshold of the spare in percent.
    pub available_spare_threshold: u8,
    /// 5: life used in percent, at most 255.
    pub percentage_used: u8,
    /// 6: summary of the endurance groups' critical warnings.
    pub endurance_group_warning: u8,
    /// 7..32
    pub reserved_7: [u8; 25],
    /// 32..48: data read, in units of 512000 bytes, rounded up.
    pub data_units_read: U128,
    /// 48..64: data written, in units of 512000 bytes, rounded up.
    pub data_units_written: U128,
    /// 64..80: read and compare commands.
    pub host_reads: U128,
    /// 80..96: write commands.
    pub host_writes: U128,
    /// 96..112: minutes with an I/O command outstanding.
    pub busy_time_minutes: U128,
    /// 112..128: power cycles.
    pub power_cycles: U128,
    /// 128..144: power-on hours.
    pub power_on_hours: U128,
    /// 144..160: unsafe shutdowns.
    pub unsafe_shutdowns: U128,
    /// 160..176: media and data integrity errors.
    pub media_errors: U128,
    /// 176..192: error information entries over the controller's life.
    pub error_log_entries: U128,
    /// 192..196: minutes above the warning temperature.
    pub warning_temperature_minutes: U32,
    /// 196..200: minutes above the critical temperature.
    pub critical_temperature_minutes: U32,
    /// 200..216: sensors in kelvin. 0 means absent.
    pub temperature_sensors_kelvin: [U16; 8],
    /// 216..232: transitions to and seconds in thermal states 1 and 2.
    pub thermal_management: [U32; 4],
    /// 232..512
    pub reserved_232: [u8; 280],
}
assert_layout!(Smart, 512, temperature_kelvin @ 1, data_units_read @ 32, host_reads @ 64, busy_time_minutes @ 96, media_errors @ 160, warning_temperature_minutes @ 192, temperature_sensors_kelvin @ 200, reserved_232 @ 232);

/// Firmware Slot Information, 03h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FirmwareSlot {
    /// 0: active slot in bits 2:0, slot after the next reset in bits 6:4.
    pub active: u8,
    /// 1..8
    pub reserved_1: [u8; 7],
    /// 8..64: revision in each slot, ASCII, space-padded. 0 for an empty slot.
    pub revisions: [[u8; 8]; 7],
    /// 64..512
    pub reserved_64: [u8; 448],
}
assert_layout!(FirmwareSlot, 512, revisions @ 8, reserved_64 @ 64);

/// The most namespaces in [`ChangedNamespaces`].
pub const CHANGED_NAMESPACES_MAX: usize = 1024;

/// Changed Namespace List, 04h: ascending, ended by 0. The first entry is `FFFFFFFFh` when more
/// namespaces changed than fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChangedNamespaces {
    /// 0..4096
    pub nsids: [U32; CHANGED_NAMESPACES_MAX],
}
assert_layout!(ChangedNamespaces, 4096);

/// Bits of an entry of [`CommandEffects`].
pub mod command_effect {
    /// CSUPP: supported.
    pub const SUPPORTED: u32 = 1 << 0;
    /// LBCC: may change logical blocks.
    pub const BLOCK_CONTENT_CHANGE: u32 = 1 << 1;
    /// NCC: may change a namespace's capabilities.
    pub const NAMESPACE_CAPABILITY_CHANGE: u32 = 1 << 2;
    /// NIC: may change the inventory of namespaces.
    pub const NAMESPACE_INVENTORY_CHANGE: u32 = 1 << 3;
    /// CCC: may change the controller's capabilities.
    pub const CONTROLLER_CAPABILITY_CHANGE: u32 = 1 << 4;
}

/// Commands Supported and Effects, 05h: see [`command_effect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommandEffects {
    /// 0..1024: admin commands by opcode.
    pub admin: [U32; 256],
    /// 1024..2048: I/O commands by opcode.
    pub io: [U32; 256],
    /// 2048..4096
    pub reserved: [u8; 2048],
}
assert_layout!(CommandEffects, 4096, io @ 1024, reserved @ 2048);

/// Header of Asymmetric Namespace Access, 0Ch. Group descriptors follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AnaHeader {
    /// 0..8: change count, incremented by each change.
    pub change_count: U64,
    /// 8..10: group descriptors that follow.
    pub groups: U16,
    /// 10..16
    pub reserved: [u8; 6],
}
assert_layout!(AnaHeader, 16, groups @ 8);

/// A group descriptor of [`AnaHeader`]. `namespaces` NSIDs of 4 bytes follow it, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AnaGroup {
    /// 0..4: group, from 1.
    pub group_id: U32,
    /// 4..8: NSIDs that follow (0 with "return groups only").
    pub namespaces: U32,
    /// 8..16: change count.
    pub change_count: U64,
    /// 16: state in bits 3:0, see [`AnaState`].
    pub state: u8,
    /// 17..32
    pub reserved: [u8; 15],
}
assert_layout!(AnaGroup, 32, namespaces @ 4, change_count @ 8, state @ 16);

wire_enum! {
    /// Asymmetric namespace access states.
    pub enum AnaState: u8 {
        /// Optimized.
        Optimized = 0x1,
        /// Non-optimized.
        NonOptimized = 0x2,
        /// Inaccessible.
        Inaccessible = 0x3,
        /// Persistent loss.
        PersistentLoss = 0x4,
        /// Change.
        Change = 0xF,
    }
}

zeroed_default!(
    SupportedLogPages,
    ErrorInformation,
    Smart,
    FirmwareSlot,
    ChangedNamespaces,
    CommandEffects,
    AnaHeader,
    AnaGroup,
);
