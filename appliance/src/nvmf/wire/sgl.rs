//! SGL descriptors (Base section 4.1.2; TCP section 3.7 for those of NVMe/TCP).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::macros::{assert_layout, wire_enum, zeroed_default};

wire_enum! {
    /// The descriptor type: the upper 4 bits of the identifier byte.
    pub enum SglType: u8 {
        /// A data buffer.
        DataBlock = 0x0,
        /// Data that is dropped.
        BitBucket = 0x1,
        /// A segment of further descriptors.
        Segment = 0x2,
        /// The last segment of descriptors.
        LastSegment = 0x3,
        /// A data buffer under a key (RDMA).
        KeyedDataBlock = 0x4,
        /// A data buffer that the transport identifies by the command itself (TCP).
        TransportDataBlock = 0x5,
        /// Vendor specific.
        VendorSpecific = 0xF,
    }
}

wire_enum! {
    /// The descriptor subtype: the lower 4 bits of the identifier byte.
    pub enum SglSubtype: u8 {
        /// The address is a memory address.
        Address = 0x0,
        /// The address is an offset into the capsule.
        Offset = 0x1,
        /// Specific to the transport.
        Transport = 0xA,
    }
}

/// The identifier byte of a data block within the capsule.
pub const IN_CAPSULE: u8 = 0x01;
/// The identifier byte of data that data PDUs move.
pub const TRANSPORT: u8 = 0x5A;

/// One SGL descriptor.
///
/// | bytes  | field                                   |
/// |--------|-----------------------------------------|
/// | 0..8   | address, or offset                      |
/// | 8..12  | length in bytes                         |
/// | 12..15 | reserved                                |
/// | 15     | identifier: type in 7:4, subtype in 3:0 |
///
/// For a keyed data block (never used over TCP, only recognised) bytes 8..11 are the length and
/// 11..15 the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SglDescriptor {
    /// 0..8: address, or offset in the capsule's data.
    pub address: U64,
    /// 8..12: length in bytes.
    pub length_bytes: U32,
    /// 12..15
    pub reserved: [u8; 3],
    /// 15: type and subtype.
    pub identifier: u8,
}
assert_layout!(SglDescriptor, 16, length_bytes @ 8, identifier @ 15);
zeroed_default!(SglDescriptor);

/// The meaning of a descriptor for an NVMe/TCP controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SglKind {
    /// The data is in the capsule, from this offset on.
    InCapsule {
        /// Offset in the capsule's data, in bytes.
        offset: u64,
        /// Bytes of data.
        length_bytes: u32,
    },
    /// Data PDUs move the data.
    Transport {
        /// Bytes of data.
        length_bytes: u32,
    },
    /// Anything else. It must be refused with "SGL descriptor type invalid".
    Unsupported {
        /// Type and subtype as received.
        identifier: u8,
    },
}

impl SglDescriptor {
    /// A descriptor of `length_bytes` of in-capsule data at offset 0.
    pub const fn in_capsule(length_bytes: u32) -> Self {
        Self {
            address: U64::ZERO,
            length_bytes: U32::new(length_bytes),
            reserved: [0; 3],
            identifier: IN_CAPSULE,
        }
    }

    /// A descriptor of `length_bytes` that data PDUs move.
    pub const fn transport(length_bytes: u32) -> Self {
        Self {
            address: U64::ZERO,
            length_bytes: U32::new(length_bytes),
            reserved: [0; 3],
            identifier: TRANSPORT,
        }
    }

    /// The descriptor's type, if known.
    ///
    /// # Errors
    /// When the specification does not define it.
    pub fn sgl_type(&self) -> Result<SglType, super::UnknownValue> {
        SglType::try_from(self.identifier >> 4)
    }

    /// The meaning of the descriptor over TCP.
    pub const fn kind(&self) -> SglKind {
        match self.identifier {
            IN_CAPSULE => {
                SglKind::InCapsule { offset: self.address.get(), length_bytes: self.length_bytes.get() }
            }
            TRANSPORT => SglKind::Transport { length_bytes: self.length_bytes.get() },
            identifier => SglKind::Unsupported { identifier },
        }
    }
}
