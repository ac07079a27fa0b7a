//! The status of a completion (Base section 3.3.3.2.1), with every code that we send or may
//! receive.

use core::fmt;

/// Defines the constants and [`name_of`] from one table.
macro_rules! wire_status {
    ($($name:ident = $code_type:literal, $code:literal, $text:literal;)+) => {
        impl Status {
            $(
                #[doc = $text]
                pub const $name: Self = Self::new($code_type, $code);
            )+

            /// Every status that has a constant, in the order of the table.
            pub const KNOWN: &'static [Self] = &[$(Self::$name),+];
        }

        const fn name_of(status: Status) -> Option<&'static str> {
            match (status.code_type(), status.code()) {
                $(($code_type, $code) => Some($text),)+
                _ => None,
            }
        }
    };
}

wire_status! {
    // Generic command status (status code type 0h).
    SUCCESS = 0x0, 0x00, "Successful Completion";
    INVALID_OPCODE = 0x0, 0x01, "Invalid Command Opcode";
    INVALID_FIELD = 0x0, 0x02, "Invalid Field in Command";
    COMMAND_ID_CONFLICT = 0x0, 0x03, "Command ID Conflict";
    DATA_TRANSFER_ERROR = 0x0, 0x04, "Data Transfer Error";
    POWER_LOSS_ABORT = 0x0, 0x05, "Commands Aborted due to Power Loss Notification";
    INTERNAL_ERROR = 0x0, 0x06, "Internal Error";
    ABORT_REQUESTED = 0x0, 0x07, "Command Abort Requested";
    ABORTED_QUEUE_DELETED = 0x0, 0x08, "Command Aborted due to SQ Deletion";
    ABORTED_FAILED_FUSED = 0x0, 0x09, "Command Aborted due to Failed Fused Command";
    ABORTED_MISSING_FUSED = 0x0, 0x0A, "Command Aborted due to Missing Fused Command";
    INVALID_NAMESPACE = 0x0, 0x0B, "Invalid Namespace or Format";
    COMMAND_SEQUENCE_ERROR = 0x0, 0x0C, "Command Sequence Error";
    INVALID_SGL_SEGMENT = 0x0, 0x0D, "Invalid SGL Segment Descriptor";
    INVALID_SGL_COUNT = 0x0, 0x0E, "Invalid Number of SGL Descriptors";
    INVALID_DATA_SGL_LENGTH = 0x0, 0x0F, "Data SGL Length Invalid";
    INVALID_METADATA_SGL_LENGTH = 0x0, 0x10, "Metadata SGL Length Invalid";
    INVALID_SGL_TYPE = 0x0, 0x11, "SGL Descriptor Type Invalid";
    INVALID_MEMORY_BUFFER_USE = 0x0, 0x12, "Invalid Use of Controller Memory Buffer";
    INVALID_PRP_OFFSET = 0x0, 0x13, "PRP Offset Invalid";
    ATOMIC_WRITE_UNIT_EXCEEDED = 0x0, 0x14, "Atomic Write Unit Exceeded";
    OPERATION_DENIED = 0x0, 0x15, "Operation Denied";
    INVALID_SGL_OFFSET = 0x0, 0x16, "SGL Offset Invalid";
    HOST_ID_INCONSISTENT = 0x0, 0x18, "Host Identifier Inconsistent Format";
    KEEP_ALIVE_EXPIRED = 0x0, 0x19, "Keep Alive Timer Expired";
    INVALID_KEEP_ALIVE_TIMEOUT = 0x0, 0x1A, "Keep Alive Timeout Invalid";
    ABORTED_PREEMPT = 0x0, 0x1B, "Command Aborted due to Preempt and Abort";
    SANITIZE_FAILED = 0x0, 0x1C, "Sanitize Failed";
    SANITIZE_IN_PROGRESS = 0x0, 0x1D, "Sanitize In Progress";
    INVALID_SGL_GRANULARITY = 0x0, 0x1E, "SGL Data Block Granularity Invalid";
    NOT_SUPPORTED_IN_CMB = 0x0, 0x1F, "Command Not Supported for Queue in CMB";
    NAMESPACE_WRITE_PROTECTED = 0x0, 0x20, "Namespace is Write Protected";
    COMMAND_INTERRUPTED = 0x0, 0x21, "Command Interrupted";
    TRANSIENT_TRANSPORT_ERROR = 0x0, 0x22, "Transient Transport Error";
    PROHIBITED_BY_LOCKDOWN = 0x0, 0x23, "Command Prohibited by Command and Feature Lockdown";
    MEDIA_NOT_READY = 0x0, 0x24, "Admin Command Media Not Ready";
    LBA_OUT_OF_RANGE = 0x0, 0x80, "LBA Out of Range";
    CAPACITY_EXCEEDED = 0x0, 0x81, "Capacity Exceeded";
    NAMESPACE_NOT_READY = 0x0, 0x82, "Namespace Not Ready";
    RESERVATION_CONFLICT = 0x0, 0x83, "Reservation Conflict";
    FORMAT_IN_PROGRESS = 0x0, 0x84, "Format In Progress";

    // Command specific status (1h), admin commands.
    INVALID_COMPLETION_QUEUE = 0x1, 0x00, "Completion Queue Invalid";
    INVALID_QUEUE_ID = 0x1, 0x01, "Invalid Queue Identifier";
    INVALID_QUEUE_SIZE = 0x1, 0x02, "Invalid Queue Size";
    ABORT_LIMIT_EXCEEDED = 0x1, 0x03, "Abort Command Limit Exceeded";
    ASYNC_EVENT_LIMIT_EXCEEDED = 0x1, 0x05, "Asynchronous Event Request Limit Exceeded";
    INVALID_FIRMWARE_SLOT = 0x1, 0x06, "Invalid Firmware Slot";
    INVALID_FIRMWARE_IMAGE = 0x1, 0x07, "Invalid Firmware Image";
    INVALID_INTERRUPT_VECTOR = 0x1, 0x08, "Invalid Interrupt Vector";
    INVALID_LOG_PAGE = 0x1, 0x09, "Invalid Log Page";
    INVALID_FORMAT = 0x1, 0x0A, "Invalid Format";
    FEATURE_NOT_SAVEABLE = 0x1, 0x0D, "Feature Identifier Not Saveable";
    FEATURE_NOT_CHANGEABLE = 0x1, 0x0E, "Feature Not Changeable";
    FEATURE_NOT_NAMESPACE_SPECIFIC = 0x1, 0x0F, "Feature Not Namespace Specific";
    OVERLAPPING_RANGE = 0x1, 0x14, "Overlapping Range";
    NAMESPACE_CAPACITY = 0x1, 0x15, "Namespace Insufficient Capacity";
    NAMESPACE_ID_UNAVAILABLE = 0x1, 0x16, "Namespace Identifier Unavailable";
    NAMESPACE_ALREADY_ATTACHED = 0x1, 0x18, "Namespace Already Attached";
    NAMESPACE_IS_PRIVATE = 0x1, 0x19, "Namespace Is Private";
    NAMESPACE_NOT_ATTACHED = 0x1, 0x1A, "Namespace Not Attached";
    THIN_PROVISIONING_UNSUPPORTED = 0x1, 0x1B, "Thin Provisioning Not Supported";
    INVALID_CONTROLLER_LIST = 0x1, 0x1C, "Controller List Invalid";
    SELF_TEST_IN_PROGRESS = 0x1, 0x1D, "Device Self-test In Progress";
    INVALID_CONTROLLER_ID = 0x1, 0x1F, "Invalid Controller Identifier";
    ANA_GROUP_ID_INVALID = 0x1, 0x24, "ANA Group Identifier Invalid";
    ANA_ATTACH_FAILED = 0x1, 0x25, "ANA Attach Failed";
    COMMAND_SET_UNSUPPORTED = 0x1, 0x29, "I/O Command Set Not Supported";
    COMMAND_SET_NOT_ENABLED = 0x1, 0x2A, "I/O Command Set Not Enabled";
    COMMAND_SET_COMBINATION_REJECTED = 0x1, 0x2B, "I/O Command Set Combination Rejected";
    INVALID_COMMAND_SET = 0x1, 0x2C, "Invalid I/O Command Set";

    // Command specific status (1h), Fabrics commands. On I/O commands the same codes have other
    // meanings.
    INCOMPATIBLE_FORMAT = 0x1, 0x80, "Connect Incompatible Format (I/O: Conflicting Attributes)";
    CONTROLLER_BUSY = 0x1, 0x81, "Connect Controller Busy (I/O: Invalid Protection Information)";
    CONNECT_INVALID_PARAMETERS = 0x1, 0x82, "Connect Invalid Parameters (I/O: Attempted Write to Read Only Range)";
    CONNECT_RESTART_DISCOVERY = 0x1, 0x83, "Connect Restart Discovery (I/O: Command Size Limit Exceeded)";
    CONNECT_INVALID_HOST = 0x1, 0x84, "Connect Invalid Host";
    INVALID_QUEUE_TYPE = 0x1, 0x85, "Invalid Queue Type";
    DISCOVER_RESTART = 0x1, 0x90, "Discover Restart";
    AUTHENTICATION_REQUIRED = 0x1, 0x91, "Authentication Required";

    // Media and data integrity errors (2h).
    WRITE_FAULT = 0x2, 0x80, "Write Fault";
    UNRECOVERED_READ_ERROR = 0x2, 0x81, "Unrecovered Read Error";
    GUARD_CHECK_ERROR = 0x2, 0x82, "End-to-end Guard Check Error";
    APPLICATION_TAG_CHECK_ERROR = 0x2, 0x83, "End-to-end Application Tag Check Error";
    REFERENCE_TAG_CHECK_ERROR = 0x2, 0x84, "End-to-end Reference Tag Check Error";
    COMPARE_FAILURE = 0x2, 0x85, "Compare Failure";
    ACCESS_DENIED = 0x2, 0x86, "Access Denied";
    UNWRITTEN_BLOCK = 0x2, 0x87, "Deallocated or Unwritten Logical Block";
    STORAGE_TAG_CHECK_ERROR = 0x2, 0x88, "End-to-End Storage Tag Check Error";

    // Path related status (3h).
    INTERNAL_PATH_ERROR = 0x3, 0x00, "Internal Path Error";
    ANA_PERSISTENT_LOSS = 0x3, 0x01, "Asymmetric Access Persistent Loss";
    ANA_INACCESSIBLE = 0x3, 0x02, "Asymmetric Access Inaccessible";
    ANA_TRANSITION = 0x3, 0x03, "Asymmetric Access Transition";
    CONTROLLER_PATHING_ERROR = 0x3, 0x60, "Controller Pathing Error";
    HOST_PATHING_ERROR = 0x3, 0x70, "Host Pathing Error";
    ABORTED_BY_HOST = 0x3, 0x71, "Command Aborted By Host";
}

/// A completion status: bits 15:1 of the status field, moved down by one.
///
/// | bits  | field                                    |
/// |-------|------------------------------------------|
/// | 7:0   | SC, status code                          |
/// | 10:8  | SCT, status code type                    |
/// | 12:11 | CRD, command retry delay index           |
/// | 13    | M, more in the error log                 |
/// | 14    | DNR, do not retry                        |
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Status(u16);

impl Status {
    const DO_NOT_RETRY: u16 = 1 << 14;
    const MORE: u16 = 1 << 13;
    const CODE: u16 = 0x7FF;

    // The names of the codes from 80h on for I/O commands.
    /// Conflicting Attributes.
    pub const CONFLICTING_ATTRIBUTES: Self = Self::INCOMPATIBLE_FORMAT;
    /// Invalid Protection Information.
    pub const INVALID_PROTECTION_INFO: Self = Self::CONTROLLER_BUSY;
    /// Attempted Write to Read Only Range.
    pub const WRITE_TO_READ_ONLY: Self = Self::CONNECT_INVALID_PARAMETERS;
    /// Command Size Limit Exceeded.
    pub const COMMAND_SIZE_LIMIT_EXCEEDED: Self = Self::CONNECT_RESTART_DISCOVERY;

    /// A status of this type (3 bits used) and code.
    pub const fn new(code_type: u8, code: u8) -> Self {
        Self(((code_type & 0x7) as u16) << 8 | code as u16)
    }

    /// From the status field of a completion, without the phase tag.
    pub const fn from_field(field: u16) -> Self {
        Self(field >> 1)
    }

    /// The status field of a completion, with phase tag 0.
    pub const fn to_field(self) -> u16 {
        self.0 << 1
    }

    /// The same status with DNR set: the host must not retry.
    #[must_use]
    pub const fn do_not_retry(self) -> Self {
        Self(self.0 | Self::DO_NOT_RETRY)
    }

    /// The same status with M set: the error log has more information.
    #[must_use]
    pub const fn with_more(self) -> Self {
        Self(self.0 | Self::MORE)
    }

    /// Type and code alone, without DNR, M and CRD, to compare with the constants.
    #[must_use]
    pub const fn code_only(self) -> Self {
        Self(self.0 & Self::CODE)
    }

    /// SCT, 0 to 7.
    pub const fn code_type(self) -> u8 {
        ((self.0 >> 8) & 0x7) as u8
    }

    /// SC.
    pub const fn code(self) -> u8 {
        self.0 as u8
    }

    /// DNR.
    pub const fn is_do_not_retry(self) -> bool {
        self.0 & Self::DO_NOT_RETRY != 0
    }

    /// Whether the command succeeded.
    pub const fn is_success(self) -> bool {
        self.0 & Self::CODE == 0
    }

    /// The specification's name for type and code.
    pub const fn name(self) -> &'static str {
        match name_of(self.code_only()) {
            Some(name) => name,
            None => match self.code_type() {
                0x7 => "Vendor Specific Status",
                _ => "Unknown Status",
            },
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({}h/{:02X}h", self.name(), self.code_type(), self.code())?;
        if self.is_do_not_retry() {
            out.write_str(", do not retry")?;
        }
        out.write_str(")")
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Status({self})")
    }
}
