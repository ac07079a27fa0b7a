//! Fabrics commands and their data (Base section 6): Connect, Property Get and Set, Disconnect,
//! Authentication Send and Receive.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::command::{FLAGS_SGL, command_views};
use super::macros::{assert_layout, zeroed_default};
use super::opcode::{AdminOpcode, FabricsType};
use super::property::Property;
use super::sgl::SglDescriptor;
use super::text::{self, TextError};

/// The controller identifier with which Connect requests a new controller (dynamic model).
pub const CONTROLLER_ID_DYNAMIC: u16 = 0xFFFF;
/// The controller identifier with which Connect requests any static controller.
pub const CONTROLLER_ID_STATIC: u16 = 0xFFFE;
/// The highest identifier a controller may have.
pub const CONTROLLER_ID_MAX: u16 = 0xFFEF;
/// The well-known NQN of the discovery subsystem.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";
/// The most bytes of an NQN, without the terminator.
pub const NQN_BYTES_MAX: usize = 223;
/// Bytes of Connect's data.
pub const CONNECT_DATA_BYTES: usize = 1024;

/// Bits of [`Connect::attributes`].
pub mod connect_attribute {
    /// Priority class, bits 1:0. Only with weighted round robin.
    pub const PRIORITY: u8 = 0b11;
    /// Disable SQ flow control.
    pub const NO_FLOW_CONTROL: u8 = 1 << 2;
    /// The host supports deletion of individual I/O queues.
    pub const QUEUE_DELETION: u8 = 1 << 3;
}

/// Connect (Base section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Connect {
    /// 0: opcode 7Fh.
    pub opcode: u8,
    /// 1: FUSE and PSDT.
    pub flags: u8,
    /// 2..4: command identifier.
    pub command_id: U16,
    /// 4: FCTYPE 01h.
    pub fabrics_type: u8,
    /// 5..24
    pub reserved_5: [u8; 19],
    /// 24..40: data pointer, to [`ConnectData`].
    pub sgl: SglDescriptor,
    /// 40..42: RECFMT, 0.
    pub record_format: U16,
    /// 42..44: QID. 0 is the admin queue.
    pub queue_id: U16,
    /// 44..46: SQSIZE, entries of the queue, 0's based. Not 0.
    pub queue_size_less_one: U16,
    /// 46: CATTR, see [`connect_attribute`].
    pub attributes: u8,
    /// 47
    pub reserved_47: u8,
    /// 48..52: KATO in milliseconds. 0 is off. Only on the admin queue.
    pub keep_alive_timeout_ms: U32,
    /// 52..64
    pub reserved_52: [u8; 12],
}
assert_layout!(Connect, 64, sgl @ 24, record_format @ 40, queue_id @ 42, queue_size_less_one @ 44, attributes @ 46, keep_alive_timeout_ms @ 48);

impl Connect {
    /// A Connect command for a queue of `entries` entries (2 to 65536).
    pub fn new(queue_id: u16, entries: u32, keep_alive_timeout_ms: u32) -> Self {
        Self {
            opcode: AdminOpcode::Fabrics.into(),
            flags: FLAGS_SGL,
            fabrics_type: FabricsType::Connect.into(),
            queue_id: U16::new(queue_id),
            queue_size_less_one: U16::new(entries.saturating_sub(1).min(0xFFFF) as u16),
            keep_alive_timeout_ms: U32::new(keep_alive_timeout_ms),
            ..Self::default()
        }
    }
}

/// Connect's data (Base figure "Connect Command - Data").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConnectData {
    /// 0..16: HOSTID, a UUID.
    pub host_id: [u8; 16],
    /// 16..18: CNTLID.
    pub controller_id: U16,
    /// 18..256
    pub reserved_18: [u8; 238],
    /// 256..512: SUBNQN, terminated by NUL.
    pub subsystem_nqn: [u8; 256],
    /// 512..768: HOSTNQN, terminated by NUL.
    pub host_nqn: [u8; 256],
    /// 768..1024
    pub reserved_768: [u8; 256],
}
assert_layout!(ConnectData, 1024, controller_id @ 16, subsystem_nqn @ 256, host_nqn @ 512);
zeroed_default!(ConnectData);

impl ConnectData {
    /// Connect data for a host and a subsystem.
    ///
    /// # Errors
    /// When an NQN is too long for its field.
    pub fn new(
        host_id: [u8; 16],
        controller_id: u16,
        subsystem_nqn: &str,
        host_nqn: &str,
    ) -> Result<Self, TextError> {
        let mut data = Self { host_id, controller_id: U16::new(controller_id), ..Self::default() };
        text::set_nul_terminated(&mut data.subsystem_nqn, subsystem_nqn)?;
        text::set_nul_terminated(&mut data.host_nqn, host_nqn)?;
        Ok(data)
    }

    /// SUBNQN.
    ///
    /// # Errors
    /// When it is not terminated or not UTF-8.
    pub fn subsystem_nqn(&self) -> Result<&str, TextError> {
        text::nul_terminated(&self.subsystem_nqn)
    }

    /// HOSTNQN.
    ///
    /// # Errors
    /// When it is not terminated or not UTF-8.
    pub fn host_nqn(&self) -> Result<&str, TextError> {
        text::nul_terminated(&self.host_nqn)
    }
}

/// Offsets of Connect fields in the command, for [`connect_invalid_parameter`].
pub mod connect_command_offset {
    /// RECFMT (a mismatch has its own status).
    pub const RECORD_FORMAT: u16 = 40;
    /// QID.
    pub const QUEUE_ID: u16 = 42;
    /// SQSIZE.
    pub const QUEUE_SIZE: u16 = 44;
    /// CATTR.
    pub const ATTRIBUTES: u16 = 46;
    /// KATO.
    pub const KEEP_ALIVE: u16 = 48;
}

/// Offsets of Connect fields in the data, for [`connect_invalid_parameter`].
pub mod connect_data_offset {
    /// HOSTID.
    pub const HOST_ID: u16 = 0;
    /// CNTLID.
    pub const CONTROLLER_ID: u16 = 16;
    /// SUBNQN.
    pub const SUBSYSTEM_NQN: u16 = 256;
    /// HOSTNQN.
    pub const HOST_NQN: u16 = 512;
}

/// The completion result of a successful Connect: CNTLID, and the required authentication.
///
/// `result` goes into DW0 and DW1 of the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConnectResult {
    /// 0..2: CNTLID.
    pub controller_id: U16,
    /// 2..4: AUTHREQ: bit 1 ATR (authenticate), bit 2 ASCR (authenticate and open a secure
    /// channel).
    pub authentication: U16,
    /// 4..8
    pub reserved: [u8; 4],
}
assert_layout!(ConnectResult, 8, authentication @ 2);

impl ConnectResult {
    /// A result without authentication.
    pub const fn new(controller_id: u16) -> Self {
        Self { controller_id: U16::new(controller_id), authentication: U16::ZERO, reserved: [0; 4] }
    }

    /// Converts to the completion's result.
    pub fn to_result(self) -> u64 {
        U64::read_from_bytes(self.as_bytes()).map_or(0, U64::get)
    }

    /// Converts from the completion's result.
    pub fn from_result(result: u64) -> Self {
        zerocopy::transmute!(U64::new(result))
    }
}

/// The completion result of "Connect Invalid Parameters" (Base figure "Connect Response - Dword
/// 0").
///
/// `offset` is the offset of the wrong field in the command or, if `in_data`, in the data.
pub const fn connect_invalid_parameter(offset: u16, in_data: bool) -> u64 {
    // Bytes 0..2 hold the offset, byte 2 whether it is in the data. A structure for three bytes
    // would not be clearer.
    offset as u64 | (in_data as u64) << 16
}

/// Property Get (Base section 6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PropertyGet {
    /// 0: opcode 7Fh.
    pub opcode: u8,
    /// 1: FUSE and PSDT.
    pub flags: u8,
    /// 2..4: command identifier.
    pub command_id: U16,
    /// 4: FCTYPE 04h.
    pub fabrics_type: u8,
    /// 5..40
    pub reserved_5: [u8; 35],
    /// 40: ATTRIB: size in bits 2:0: 0 is 4 bytes, 1 is 8 bytes.
    pub size: u8,
    /// 41..44
    pub reserved_41: [u8; 3],
    /// 44..48: OFST, see `property::Property`.
    pub offset: U32,
    /// 48..64
    pub reserved_48: [u8; 16],
}
assert_layout!(PropertyGet, 64, size @ 40, offset @ 44);

/// Property Set (Base section 6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PropertySet {
    /// 0: opcode 7Fh.
    pub opcode: u8,
    /// 1: FUSE and PSDT.
    pub flags: u8,
    /// 2..4: command identifier.
    pub command_id: U16,
    /// 4: FCTYPE 00h.
    pub fabrics_type: u8,
    /// 5..40
    pub reserved_5: [u8; 35],
    /// 40: ATTRIB: size in bits 2:0: 0 is 4 bytes, 1 is 8 bytes.
    pub size: u8,
    /// 41..44
    pub reserved_41: [u8; 3],
    /// 44..48: OFST.
    pub offset: U32,
    /// 48..56: the value. A 4-byte property uses the first half.
    pub value: U64,
    /// 56..64
    pub reserved_56: [u8; 8],
}
assert_layout!(PropertySet, 64, size @ 40, offset @ 44, value @ 48);

impl PropertySet {
    /// A Property Set command.
    pub fn new(property: Property, value: u64) -> Self {
        Self {
            opcode: AdminOpcode::Fabrics.into(),
            flags: FLAGS_SGL,
            fabrics_type: FabricsType::PropertySet.into(),
            size: property_size(property),
            offset: U32::new(property.into()),
            value: U64::new(value),
            ..Self::default()
        }
    }
}

/// ATTRIB for a property of 4 bytes.
pub const PROPERTY_4_BYTES: u8 = 0;
/// ATTRIB for a property of 8 bytes.
pub const PROPERTY_8_BYTES: u8 = 1;

/// ATTRIB for a property.
pub fn property_size(property: Property) -> u8 {
    if property.bytes() == 8 { PROPERTY_8_BYTES } else { PROPERTY_4_BYTES }
}

/// Disconnect (Base section 6.4): ends one I/O queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Disconnect {
    /// 0: opcode 7Fh.
    pub opcode: u8,
    /// 1: FUSE and PSDT.
    pub flags: u8,
    /// 2..4: command identifier.
    pub command_id: U16,
    /// 4: FCTYPE 08h.
    pub fabrics_type: u8,
    /// 5..40
    pub reserved_5: [u8; 35],
    /// 40..42: RECFMT, 0.
    pub record_format: U16,
    /// 42..64
    pub reserved_42: [u8; 22],
}
assert_layout!(Disconnect, 64, record_format @ 40);

impl Disconnect {
    /// Disconnects the I/O queue on which it is sent.
    pub fn new() -> Self {
        Disconnect {
            opcode: AdminOpcode::Fabrics.into(),
            flags: FLAGS_SGL,
            fabrics_type: FabricsType::Disconnect.into(),
            ..Disconnect::default()
        }
    }
}

/// Authentication Send and Receive (Base sections 6.1 and 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Authentication {
    /// 0: opcode 7Fh.
    pub opcode: u8,
    /// 1: FUSE and PSDT.
    pub flags: u8,
    /// 2..4: command identifier.
    pub command_id: U16,
    /// 4: FCTYPE 05h or 06h.
    pub fabrics_type: u8,
    /// 5..24
    pub reserved_5: [u8; 19],
    /// 24..40: data pointer.
    pub sgl: SglDescriptor,
    /// 40
    pub reserved_40: u8,
    /// 41: SPSP0, 01h.
    pub protocol_specific_0: u8,
    /// 42: SPSP1, 01h.
    pub protocol_specific_1: u8,
    /// 43: SECP, E9h.
    pub security_protocol: u8,
    /// 44..48: TL or AL, bytes to transfer.
    pub length_bytes: U32,
    /// 48..64
    pub reserved_48: [u8; 16],
}
assert_layout!(Authentication, 64, sgl @ 24, security_protocol @ 43, length_bytes @ 44);

command_views!(Connect, PropertyGet, PropertySet, Disconnect, Authentication);
