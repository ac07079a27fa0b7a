//! Typed views of the admin commands; the layout common to all commands is in `command`.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::command::{FLAGS_SGL, command_views};
use super::macros::{assert_layout, wire_enum, zeroed_default};
use super::opcode::AdminOpcode;
use super::sgl::SglDescriptor;

/// Identify (Base section 5.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Identify {
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
    /// 40: CNS, see [`Cns`].
    pub cns: u8,
    /// 41
    pub reserved_41: u8,
    /// 42..44: CNTID, controller identifier.
    pub controller_id: U16,
    /// 44..46: CNS specific identifier.
    pub cns_specific_id: U16,
    /// 46
    pub reserved_46: u8,
    /// 47: CSI, command set identifier. 0 is NVM.
    pub command_set: u8,
    /// 48..56
    pub reserved_48: [u8; 8],
    /// 56..60: UUID index in bits 6:0.
    pub uuid_index: U32,
    /// 60..64
    pub reserved_60: [u8; 4],
}
assert_layout!(Identify, 64, cns @ 40, controller_id @ 42, command_set @ 47, uuid_index @ 56);

impl Identify {
    /// An Identify command for `cns` and a namespace (0 for none).
    pub fn new(cns: Cns, nsid: u32) -> Self {
        Self {
            opcode: AdminOpcode::Identify.into(),
            flags: FLAGS_SGL,
            nsid: U32::new(nsid),
            cns: cns.into(),
            ..Self::default()
        }
    }
}

wire_enum! {
    /// CNS values of Identify (Base figure "Identify - CNS Values").
    pub enum Cns: u8 {
        /// Identify Namespace, NVM command set.
        Namespace = 0x00,
        /// Identify Controller.
        Controller = 0x01,
        /// Active namespace list.
        ActiveNamespaces = 0x02,
        /// Namespace identification descriptors.
        NamespaceDescriptors = 0x03,
        /// NVM set list.
        NvmSets = 0x04,
        /// I/O command set specific Identify Namespace.
        CommandSetNamespace = 0x05,
        /// I/O command set specific Identify Controller.
        CommandSetController = 0x06,
        /// Active namespace list of one I/O command set.
        CommandSetActiveNamespaces = 0x07,
        /// I/O command set independent Identify Namespace.
        IndependentNamespace = 0x08,
        /// Allocated namespace list.
        AllocatedNamespaces = 0x10,
        /// Identify Namespace of an allocated namespace.
        AllocatedNamespace = 0x11,
        /// Controllers attached to a namespace.
        AttachedControllers = 0x12,
        /// Controllers of the subsystem.
        Controllers = 0x13,
        /// Primary controller capabilities.
        PrimaryController = 0x14,
        /// Secondary controller list.
        SecondaryControllers = 0x15,
        /// Namespace granularity list.
        NamespaceGranularity = 0x16,
        /// UUID list.
        Uuids = 0x17,
        /// Domain list.
        Domains = 0x18,
        /// Endurance group list.
        EnduranceGroups = 0x19,
        /// I/O command set vectors.
        CommandSets = 0x1C,
    }
}

/// Get Log Page (Base section 5.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GetLogPage {
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
    /// 40: LID, see `log_page::LogPageId`.
    pub log_page: u8,
    /// 41: LSP in bits 6:0, RAE (retain asynchronous event) in bit 7.
    pub specific: u8,
    /// 42..44: NUMDL, lower half of the 0's based count of dwords.
    pub dwords_low: U16,
    /// 44..46: NUMDU, upper half.
    pub dwords_high: U16,
    /// 46..48: log specific identifier.
    pub specific_id: U16,
    /// 48..56: LPO, offset in bytes (or an index, with OT).
    pub offset_bytes: U64,
    /// 56: UUID index in bits 6:0.
    pub uuid_index: u8,
    /// 57
    pub reserved_57: u8,
    /// 58: OT (the offset is an index) in bit 7.
    pub offset_type: u8,
    /// 59: CSI, command set identifier.
    pub command_set: u8,
    /// 60..64
    pub reserved_60: [u8; 4],
}
assert_layout!(GetLogPage, 64, log_page @ 40, dwords_low @ 42, specific_id @ 46, offset_bytes @ 48, command_set @ 59);

impl GetLogPage {
    /// RAE in [`GetLogPage::specific`].
    pub const RETAIN_EVENT: u8 = 1 << 7;

    /// A command for `length_bytes` (a multiple of 4, not 0) of a page from `offset_bytes` on.
    pub fn new(log_page: u8, nsid: u32, offset_bytes: u64, length_bytes: u32) -> Self {
        let dwords = (length_bytes / 4).saturating_sub(1);
        Self {
            opcode: AdminOpcode::GetLogPage.into(),
            flags: FLAGS_SGL,
            nsid: U32::new(nsid),
            log_page,
            dwords_low: U16::new(dwords as u16),
            dwords_high: U16::new((dwords >> 16) as u16),
            offset_bytes: U64::new(offset_bytes),
            ..Self::default()
        }
    }

    /// Bytes requested, 4 bytes to 16 GiB.
    pub fn length_bytes(&self) -> u64 {
        let dwords = u64::from(self.dwords_high.get()) << 16 | u64::from(self.dwords_low.get());
        dwords.saturating_add(1).saturating_mul(4)
    }

    /// RAE: whether the event stays masked after the page is read.
    pub fn retains_event(&self) -> bool {
        self.specific & Self::RETAIN_EVENT != 0
    }
}

/// Get Features and Set Features (Base sections 5.15 and 5.27).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Features {
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
    /// 40: FID, see `feature::FeatureId`.
    pub feature: u8,
    /// 41: SEL in bits 2:0 (Get Features): 0 current, 1 default, 2 saved, 3 capabilities.
    pub select: u8,
    /// 42
    pub reserved_42: u8,
    /// 43: SV (save) in bit 7 (Set Features).
    pub save: u8,
    /// 44..48: CDW11, the value of most features.
    pub value: U32,
    /// 48..52
    pub cdw12: U32,
    /// 52..56
    pub cdw13: U32,
    /// 56..60: UUID index in bits 6:0.
    pub uuid_index: U32,
    /// 60..64
    pub cdw15: U32,
}
assert_layout!(Features, 64, feature @ 40, save @ 43, value @ 44, cdw15 @ 60);

/// Abort (Base section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Abort {
    /// 0: opcode.
    pub opcode: u8,
    /// 1: FUSE and PSDT.
    pub flags: u8,
    /// 2..4: command identifier.
    pub command_id: U16,
    /// 4..40
    pub reserved_4: [u8; 36],
    /// 40..42: the queue of the command to abort.
    pub victim_sq_id: U16,
    /// 42..44: the identifier of the command to abort.
    pub victim_command_id: U16,
    /// 44..64
    pub reserved_44: [u8; 20],
}
assert_layout!(Abort, 64, victim_sq_id @ 40, victim_command_id @ 42);

command_views!(Identify, GetLogPage, Features, Abort);
