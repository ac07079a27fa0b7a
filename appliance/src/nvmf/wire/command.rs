//! Submission and completion queue entries, and typed views of the I/O commands. The views of the
//! admin commands are in `admin_command` and are exported here too.
//!
//! All views are 64 bytes and contain the same bytes as [`Sqe`]. [`Sqe::view`] reinterprets them in
//! place. The common part (Base figure "Common Command Format"):
//!
//! | bytes  | field                                                   |
//! |--------|---------------------------------------------------------|
//! | 0      | opcode                                                  |
//! | 1      | FUSE in 1:0, PSDT in 7:6                                |
//! | 2..4   | command identifier                                      |
//! | 4..8   | namespace identifier (Fabrics commands: FCTYPE in 4)    |
//! | 8..24  | CDW2, CDW3, metadata pointer                            |
//! | 24..40 | data pointer: one SGL descriptor                        |
//! | 40..64 | CDW10 to CDW15                                          |

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use super::admin_command::{Abort, Cns, Features, GetLogPage, Identify};
use super::macros::{assert_layout, wire_enum, zeroed_default};
use super::opcode::{AdminOpcode, IoOpcode};
use super::sgl::SglDescriptor;
use super::status::Status;

/// Bytes of a submission queue entry.
pub const SQE_BYTES: usize = 64;
/// Bytes of a completion queue entry.
pub const CQE_BYTES: usize = 16;
/// The namespace identifier that means all namespaces.
pub const NSID_ALL: u32 = 0xFFFF_FFFF;

wire_enum! {
    /// FUSE: bits 1:0 of byte 1.
    pub enum Fuse: u8 {
        /// An ordinary command.
        Normal = 0b00,
        /// First of a fused pair.
        First = 0b01,
        /// Second of a fused pair.
        Second = 0b10,
    }
}

wire_enum! {
    /// PSDT: bits 7:6 of byte 1.
    pub enum Psdt: u8 {
        /// PRPs: not allowed over Fabrics.
        Prp = 0b00,
        /// SGL. The metadata pointer is an address. Fabrics hosts must send this value.
        Sgl = 0b01,
        /// SGL. The metadata pointer is an SGL segment.
        SglWithMetadataSgl = 0b10,
    }
}

/// Byte 1 of a command that uses SGLs and is not fused.
pub const FLAGS_SGL: u8 = (Psdt::Sgl as u8) << 6;

/// A 64-byte structure that a submission queue entry can be viewed as.
pub trait CommandView: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned {}

macro_rules! command_views {
    ($($type:ty),+ $(,)?) => {
        $(
            impl $crate::nvmf::wire::command::CommandView for $type {}
            impl From<$type> for $crate::nvmf::wire::command::Sqe {
                fn from(view: $type) -> Self {
                    zerocopy::transmute!(view)
                }
            }
            const _: () = assert!(core::mem::size_of::<$type>() == $crate::nvmf::wire::command::SQE_BYTES);
        )+
        zeroed_default!($($type),+);
    };
}
pub(super) use command_views;

/// A submission queue entry, generic form (Base section 3.3.3.1 and figure "Common Command
/// Format").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Sqe {
    /// 0: opcode.
    pub opcode: u8,
    /// 1: FUSE in bits 1:0, PSDT in bits 7:6.
    pub flags: u8,
    /// 2..4: command identifier, unique among the queue's outstanding commands.
    pub command_id: U16,
    /// 4..8: namespace identifier. For Fabrics commands the lowest byte is FCTYPE.
    pub nsid: U32,
    /// 8..12
    pub cdw2: U32,
    /// 12..16
    pub cdw3: U32,
    /// 16..24: metadata pointer.
    pub metadata: U64,
    /// 24..40: data pointer.
    pub sgl: SglDescriptor,
    /// 40..44
    pub cdw10: U32,
    /// 44..48
    pub cdw11: U32,
    /// 48..52
    pub cdw12: U32,
    /// 52..56
    pub cdw13: U32,
    /// 56..60
    pub cdw14: U32,
    /// 60..64
    pub cdw15: U32,
}
assert_layout!(Sqe, 64, command_id @ 2, nsid @ 4, metadata @ 16, sgl @ 24, cdw10 @ 40, cdw15 @ 60);
zeroed_default!(Sqe);

impl Sqe {
    /// A command with this opcode and namespace, SGLs in use, everything else 0.
    pub fn new(opcode: u8, nsid: u32) -> Self {
        Self { opcode, flags: FLAGS_SGL, nsid: U32::new(nsid), ..Self::default() }
    }

    /// An admin command without a namespace.
    pub fn admin(opcode: AdminOpcode) -> Self {
        Self::new(opcode.into(), 0)
    }

    /// The same bytes as a typed view.
    #[inline]
    pub fn view<T: CommandView>(&self) -> &T {
        // Every view has the size of this entry, which `command_views!` asserts. The transmute
        // checks it again.
        zerocopy::transmute_ref!(self)
    }

    /// FUSE.
    ///
    /// # Errors
    /// When it has the reserved value.
    pub fn fuse(&self) -> Result<Fuse, super::UnknownValue> {
        Fuse::try_from(self.flags & 0b11)
    }

    /// PSDT.
    ///
    /// # Errors
    /// When it has the reserved value.
    pub fn psdt(&self) -> Result<Psdt, super::UnknownValue> {
        Psdt::try_from(self.flags >> 6)
    }

    /// FCTYPE, for a Fabrics command: the byte at offset 4.
    pub fn fabrics_type(&self) -> u8 {
        self.nsid.get().to_le_bytes()[0]
    }
}

/// A completion queue entry (Base section 3.3.3.2). Over Fabrics there is no phase tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Cqe {
    /// 0..8: command specific result: DW0 in the lower half, DW1 in the upper.
    pub result: U64,
    /// 8..10: SQ head pointer, unless flow control is disabled.
    pub sq_head: U16,
    /// 10..12: SQ identifier. Reserved over Fabrics.
    pub sq_id: U16,
    /// 12..14: the command's identifier.
    pub command_id: U16,
    /// 14..16: status in bits 15:1. Bit 0 is the phase tag, 0 over Fabrics.
    pub status: U16,
}
assert_layout!(Cqe, 16, sq_head @ 8, sq_id @ 10, command_id @ 12, status @ 14);
zeroed_default!(Cqe);

impl Cqe {
    /// A completion with a result in DW0 and DW1.
    pub fn new(command_id: u16, sq_head: u16, status: Status, result: u64) -> Self {
        Self {
            result: U64::new(result),
            sq_head: U16::new(sq_head),
            sq_id: U16::ZERO,
            command_id: U16::new(command_id),
            status: U16::new(status.to_field()),
        }
    }

    /// The status, without the phase tag.
    pub fn status(&self) -> Status {
        Status::from_field(self.status.get())
    }

    /// DW0 of the result.
    pub fn dw0(&self) -> u32 {
        self.result.get() as u32
    }
}

/// Bits of [`Rw::control`] (CDW12 bits 31:16).
pub mod rw_control {
    /// DEAC in Write Zeroes: deallocate if possible.
    pub const DEALLOCATE: u16 = 1 << 9;
    /// PRINFO: protection information, 4 bits.
    pub const PROTECTION_INFO: u16 = 0b1111 << 10;
    /// FUA: force unit access.
    pub const FORCE_UNIT_ACCESS: u16 = 1 << 14;
    /// LR: limited retry.
    pub const LIMITED_RETRY: u16 = 1 << 15;
}

/// Read, Write, Compare, Write Zeroes, Write Uncorrectable and Verify (NVM sections 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Rw {
    /// 0: opcode.
    pub opcode: u8,
    /// 1: FUSE and PSDT.
    pub flags: u8,
    /// 2..4: command identifier.
    pub command_id: U16,
    /// 4..8: namespace identifier.
    pub nsid: U32,
    /// 8..16: CDW2 and CDW3 (storage tag).
    pub cdw2_3: U64,
    /// 16..24: metadata pointer.
    pub metadata: U64,
    /// 24..40: data pointer.
    pub sgl: SglDescriptor,
    /// 40..48: SLBA, first logical block.
    pub start_lba: U64,
    /// 48..50: NLB, number of logical blocks, 0's based.
    pub blocks_less_one: U16,
    /// 50..52: see [`rw_control`].
    pub control: U16,
    /// 52..56: DSM hints (CDW13).
    pub hints: U32,
    /// 56..60: initial reference tag.
    pub reference_tag: U32,
    /// 60..64: application tag and mask.
    pub application_tag: U32,
}
assert_layout!(Rw, 64, sgl @ 24, start_lba @ 40, blocks_less_one @ 48, control @ 50, hints @ 52);

impl Rw {
    /// A command on `blocks` logical blocks (1 to 65536) from `start_lba`. The data pointer is
    /// empty.
    pub fn new(opcode: IoOpcode, nsid: u32, start_lba: u64, blocks: u32) -> Self {
        Self {
            opcode: opcode.into(),
            flags: FLAGS_SGL,
            nsid: U32::new(nsid),
            start_lba: U64::new(start_lba),
            blocks_less_one: U16::new(blocks.saturating_sub(1).min(0xFFFF) as u16),
            ..Self::default()
        }
    }

    /// Number of logical blocks, 1 to 65536.
    pub fn blocks(&self) -> u32 {
        u32::from(self.blocks_less_one.get()) + 1
    }

    /// Whether a bit of [`rw_control`] is set.
    pub fn has(&self, control: u16) -> bool {
        self.control.get() & control != 0
    }
}

/// Bits of [`DatasetManagement::attributes`].
pub mod dataset_attribute {
    /// IDR: integral dataset for read.
    pub const INTEGRAL_READ: u32 = 1 << 0;
    /// IDW: integral dataset for write.
    pub const INTEGRAL_WRITE: u32 = 1 << 1;
    /// AD: deallocate.
    pub const DEALLOCATE: u32 = 1 << 2;
}

/// The most ranges in one Dataset Management command.
pub const DATASET_RANGES_MAX: usize = 256;

/// Dataset Management (NVM section 3.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DatasetManagement {
    /// 0: opcode.
    pub opcode: u8,
    /// 1: FUSE and PSDT.
    pub flags: u8,
    /// 2..4: command identifier.
    pub command_id: U16,
    /// 4..8: namespace identifier.
    pub nsid: U32,
    /// 8..24
    pub reserved_8: [u8; 16],
    /// 24..40: data pointer.
    pub sgl: SglDescriptor,
    /// 40: NR, number of ranges, 0's based.
    pub ranges_less_one: u8,
    /// 41..44
    pub reserved_41: [u8; 3],
    /// 44..48: see [`dataset_attribute`].
    pub attributes: U32,
    /// 48..64
    pub reserved_48: [u8; 16],
}
assert_layout!(DatasetManagement, 64, sgl @ 24, ranges_less_one @ 40, attributes @ 44);

/// One range of a Dataset Management command (NVM section 3.2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DatasetRange {
    /// 0..4: context attributes, hints only.
    pub context: U32,
    /// 4..8: number of logical blocks (not 0's based).
    pub blocks: U32,
    /// 8..16: first logical block.
    pub start_lba: U64,
}
assert_layout!(DatasetRange, 16, blocks @ 4, start_lba @ 8);
zeroed_default!(DatasetRange);

command_views!(Rw, DatasetManagement);
