//! Feature identifiers, and asynchronous events (Base sections 5.27 and 5.2).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::macros::{assert_layout, wire_enum, zeroed_default};

wire_enum! {
    /// Feature identifiers, FID (Base figure "Feature Identifiers").
    pub enum FeatureId: u8 {
        /// Arbitration.
        Arbitration = 0x01,
        /// Power Management.
        PowerManagement = 0x02,
        /// LBA Range Type.
        LbaRangeType = 0x03,
        /// Temperature Threshold.
        TemperatureThreshold = 0x04,
        /// Error Recovery.
        ErrorRecovery = 0x05,
        /// Volatile Write Cache.
        VolatileWriteCache = 0x06,
        /// Number of Queues.
        NumberOfQueues = 0x07,
        /// Interrupt Coalescing (not over Fabrics).
        InterruptCoalescing = 0x08,
        /// Interrupt Vector Configuration (not over Fabrics).
        InterruptVector = 0x09,
        /// Write Atomicity Normal.
        WriteAtomicity = 0x0A,
        /// Asynchronous Event Configuration.
        AsyncEventConfiguration = 0x0B,
        /// Autonomous Power State Transition.
        AutonomousPowerState = 0x0C,
        /// Host Memory Buffer (not over Fabrics).
        HostMemoryBuffer = 0x0D,
        /// Timestamp.
        Timestamp = 0x0E,
        /// Keep Alive Timer.
        KeepAliveTimer = 0x0F,
        /// Host Controlled Thermal Management.
        ThermalManagement = 0x10,
        /// Non-Operational Power State Config.
        NonOperationalPower = 0x11,
        /// Read Recovery Level Config.
        ReadRecoveryLevel = 0x12,
        /// Predictable Latency Mode Config.
        PredictableLatencyConfig = 0x13,
        /// Predictable Latency Mode Window.
        PredictableLatencyWindow = 0x14,
        /// LBA Status Information Report Interval.
        LbaStatusInterval = 0x15,
        /// Host Behavior Support.
        HostBehavior = 0x16,
        /// Sanitize Config.
        SanitizeConfig = 0x17,
        /// Endurance Group Event Configuration.
        EnduranceGroupEvents = 0x18,
        /// I/O Command Set Profile.
        CommandSetProfile = 0x19,
        /// Spinup Control.
        SpinupControl = 0x1A,
        /// Software Progress Marker.
        SoftwareProgress = 0x80,
        /// Host Identifier.
        HostIdentifier = 0x81,
        /// Reservation Notification Mask.
        ReservationNotificationMask = 0x82,
        /// Reservation Persistence.
        ReservationPersistence = 0x83,
        /// Namespace Write Protection Config.
        NamespaceWriteProtection = 0x84,
    }
}

wire_enum! {
    /// SEL of Get Features (Base figure "Get Features - Command Dword 10").
    pub enum FeatureSelect: u8 {
        /// The current value.
        Current = 0,
        /// The default.
        Default = 1,
        /// The saved value.
        Saved = 2,
        /// The capabilities of the feature, see [`feature_capability`].
        Capabilities = 3,
    }
}

/// Bits of DW0 of Get Features with SEL = capabilities.
pub mod feature_capability {
    /// The value can be saved.
    pub const SAVEABLE: u32 = 1 << 0;
    /// The value can differ by namespace.
    pub const NAMESPACE_SPECIFIC: u32 = 1 << 1;
    /// The value can be changed.
    pub const CHANGEABLE: u32 = 1 << 2;
}

/// Number of Queues: CDW11 of Set Features, and DW0 of its completion (Base figure "Number of
/// Queues").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct QueueCounts {
    /// 0..2: I/O submission queues, 0's based.
    pub submission_less_one: U16,
    /// 2..4: I/O completion queues, 0's based.
    pub completion_less_one: U16,
}
assert_layout!(QueueCounts, 4, completion_less_one @ 2);

impl QueueCounts {
    /// `queues` (1 to 65535) of each kind.
    pub const fn new(queues: u16) -> Self {
        let less_one = U16::new(queues.saturating_sub(1));
        Self { submission_less_one: less_one, completion_less_one: less_one }
    }

    /// As a dword.
    pub fn to_dword(self) -> u32 {
        let dword: U32 = zerocopy::transmute!(self);
        dword.get()
    }

    /// From a dword.
    pub fn from_dword(dword: u32) -> Self {
        zerocopy::transmute!(U32::new(dword))
    }

    /// Usable queues: over Fabrics each has a submission and a completion side.
    pub fn queues(self) -> u32 {
        let less_one = self.submission_less_one.get().min(self.completion_less_one.get());
        u32::from(less_one) + 1
    }
}

/// Timestamp data (Base figure "Timestamp - Data Structure").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Timestamp {
    /// 0..6: milliseconds since 1970-01-01 00:00 UTC, little-endian.
    pub milliseconds: [u8; 6],
    /// 6: origin and synch, see the specification.
    pub attributes: u8,
    /// 7
    pub reserved: u8,
}
assert_layout!(Timestamp, 8, attributes @ 6);

impl Timestamp {
    /// From milliseconds since the epoch (48 bits are used).
    pub fn new(milliseconds: u64) -> Self {
        let mut timestamp: Self = zerocopy::transmute!(U64::new(milliseconds));
        timestamp.attributes = 0;
        timestamp.reserved = 0;
        timestamp
    }

    /// Milliseconds since the epoch.
    pub fn milliseconds(self) -> u64 {
        let whole: U64 = zerocopy::transmute!(Self { attributes: 0, reserved: 0, ..self });
        whole.get()
    }
}

/// Bits of Asynchronous Event Configuration. OAES uses the same bits for the events that it
/// contains.
pub mod event_mask {
    /// Critical warnings of SMART, bits 7:0.
    pub const SMART: u32 = 0xFF;
    /// Namespace attribute notices.
    pub const NAMESPACE_ATTRIBUTE: u32 = 1 << 8;
    /// Firmware activation notices.
    pub const FIRMWARE_ACTIVATION: u32 = 1 << 9;
    /// Telemetry log notices.
    pub const TELEMETRY: u32 = 1 << 10;
    /// Asymmetric namespace access change notices.
    pub const ANA_CHANGE: u32 = 1 << 11;
    /// Predictable latency notices.
    pub const PREDICTABLE_LATENCY: u32 = 1 << 12;
    /// LBA status notices.
    pub const LBA_STATUS: u32 = 1 << 13;
    /// Endurance group notices.
    pub const ENDURANCE_GROUP: u32 = 1 << 14;
    /// Normal subsystem shutdown.
    pub const SUBSYSTEM_SHUTDOWN: u32 = 1 << 15;
    /// Discovery log page change notices (discovery controllers).
    pub const DISCOVERY_CHANGE: u32 = 1 << 31;
}

wire_enum! {
    /// Asynchronous event types (Base figure "Asynchronous Event Information").
    pub enum AsyncEventType: u8 {
        /// Error status.
        Error = 0,
        /// SMART or health status.
        Smart = 1,
        /// Notice.
        Notice = 2,
        /// Immediate event.
        Immediate = 3,
        /// I/O command specific status.
        IoCommandSet = 6,
        /// Vendor specific.
        VendorSpecific = 7,
    }
}

/// DW0 of the completion of an Asynchronous Event Request (Base figure "Completion Queue Entry
/// Dword 0").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AsyncEvent {
    /// 0: type in bits 2:0, see [`AsyncEventType`].
    pub event_type: u8,
    /// 1: information. Its meaning depends on the type.
    pub information: u8,
    /// 2: the log page with the details. Reading it clears the event.
    pub log_page: u8,
    /// 3
    pub reserved: u8,
}
assert_layout!(AsyncEvent, 4);

impl AsyncEvent {
    /// Error: persistent internal error.
    pub const INTERNAL_ERROR: Self = Self::new(AsyncEventType::Error, 0x03, 0x01);
    /// SMART: reliability of the subsystem is degraded.
    pub const RELIABILITY: Self = Self::new(AsyncEventType::Smart, 0x00, 0x02);
    /// SMART: the spare is below its threshold.
    pub const SPARE_BELOW_THRESHOLD: Self = Self::new(AsyncEventType::Smart, 0x02, 0x02);
    /// Notice: namespace attribute changed.
    pub const NAMESPACE_ATTRIBUTE_CHANGED: Self = Self::new(AsyncEventType::Notice, 0x00, 0x04);
    /// Notice: asymmetric namespace access changed.
    pub const ANA_CHANGED: Self = Self::new(AsyncEventType::Notice, 0x03, 0x0C);
    /// Notice: discovery log page changed.
    pub const DISCOVERY_CHANGED: Self = Self::new(AsyncEventType::Notice, 0xF0, 0x70);
    /// I/O command set: reservation log page available.
    pub const RESERVATION_LOG: Self = Self::new(AsyncEventType::IoCommandSet, 0x00, 0x80);

    /// An event.
    pub const fn new(event_type: AsyncEventType, information: u8, log_page: u8) -> Self {
        Self { event_type: event_type as u8, information, log_page, reserved: 0 }
    }

    /// As DW0.
    pub fn to_dword(self) -> u32 {
        let dword: U32 = zerocopy::transmute!(self);
        dword.get()
    }

    /// From DW0.
    pub fn from_dword(dword: u32) -> Self {
        zerocopy::transmute!(U32::new(dword))
    }

    /// The type.
    ///
    /// # Errors
    /// When it is reserved.
    pub fn event_type(self) -> Result<AsyncEventType, super::UnknownValue> {
        AsyncEventType::try_from(self.event_type & 0b111)
    }
}

zeroed_default!(QueueCounts, Timestamp, AsyncEvent);
