//! Identify Namespace: CNS 00h, 05h (NVM part) and 08h (independent of the command set).

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::nvmf::wire::macros::{assert_layout, zeroed_default};

/// Bits of the fields of [`IdentifyNamespace`].
pub mod bits {
    /// NSFEAT: thin provisioning: NCAP may be less than NSZE.
    pub const FEATURE_THIN: u8 = 1 << 0;
    /// NSFEAT: NAWUN, NAWUPF and NACWU are valid.
    pub const FEATURE_ATOMICS: u8 = 1 << 1;
    /// NSFEAT: reading deallocated blocks may be an error if so configured.
    pub const FEATURE_DEALLOCATED_ERROR: u8 = 1 << 2;
    /// NSFEAT: NGUID and EUI64 are never reused.
    pub const FEATURE_ID_NOT_REUSED: u8 = 1 << 3;
    /// NSFEAT: NPWG, NPWA, NPDG, NPDA and NOWS are valid.
    pub const FEATURE_OPTIMAL_IO: u8 = 1 << 4;
    /// NMIC: several controllers may attach the namespace.
    pub const NMIC_SHARED: u8 = 1 << 0;
    /// DLFEAT: deallocated blocks read as zeroes (bits 2:0 = 1).
    pub const DEALLOCATE_READS_ZERO: u8 = 1;
    /// DLFEAT: Write Zeroes may deallocate (DEAC is supported).
    pub const DEALLOCATE_WRITE_ZEROES: u8 = 1 << 3;
    /// NSATTR: write protected.
    pub const ATTRIBUTE_WRITE_PROTECTED: u8 = 1 << 0;
    /// NSTAT of CNS 08h: ready.
    pub const STATUS_READY: u8 = 1 << 0;
}

/// An LBA format (NVM figure "LBA Format Data Structure").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LbaFormat {
    /// 0..2: MS, bytes of metadata for a block.
    pub metadata_bytes: U16,
    /// 2: LBADS, bytes of a block as a power of 2, at least 9. 0 when the format is not available.
    pub block_shift: u8,
    /// 3: RP in bits 1:0, relative performance, 0 is best.
    pub performance: u8,
}
assert_layout!(LbaFormat, 4, block_shift @ 2);

impl LbaFormat {
    /// A format without metadata.
    pub const fn new(block_shift: u8) -> Self {
        Self { metadata_bytes: U16::ZERO, block_shift, performance: 0 }
    }
}

/// Identify Namespace (CNS 00h; NVM figure "Identify Namespace Data Structure").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// 0..8: NSZE in blocks. 0 when the namespace is inactive.
    pub size_blocks: U64,
    /// 8..16: NCAP in blocks.
    pub capacity_blocks: U64,
    /// 16..24: NUSE in blocks.
    pub used_blocks: U64,
    /// 24: NSFEAT.
    pub features: u8,
    /// 25: NLBAF, LBA formats, 0's based.
    pub formats_less_one: u8,
    /// 26: FLBAS: index of the format in use in bits 3:0, its upper bits in 6:5.
    pub format_in_use: u8,
    /// 27: MC.
    pub metadata: u8,
    /// 28: DPC.
    pub protection_capabilities: u8,
    /// 29: DPS.
    pub protection: u8,
    /// 30: NMIC.
    pub multi_path: u8,
    /// 31: RESCAP.
    pub reservations: u8,
    /// 32: FPI.
    pub format_progress: u8,
    /// 33: DLFEAT.
    pub deallocate: u8,
    /// 34..36: NAWUN in blocks, 0's based.
    pub atomic_write_blocks_less_one: U16,
    /// 36..38: NAWUPF in blocks, 0's based.
    pub atomic_power_fail_blocks_less_one: U16,
    /// 38..40: NACWU in blocks, 0's based.
    pub atomic_compare_write_blocks_less_one: U16,
    /// 40..42: NABSN, 0's based. 0 is no boundary.
    pub atomic_boundary_blocks_less_one: U16,
    /// 42..44: NABO in blocks.
    pub atomic_boundary_offset_blocks: U16,
    /// 44..46: NABSPF, 0's based. 0 is no boundary.
    pub atomic_boundary_power_fail_blocks_less_one: U16,
    /// 46..48: NOIOB in blocks. 0 is none.
    pub optimal_boundary_blocks: U16,
    /// 48..64: NVMCAP in bytes.
    pub capacity_bytes: U128,
    /// 64..66: NPWG in blocks, 0's based.
    pub preferred_write_blocks_less_one: U16,
    /// 66..68: NPWA in blocks, 0's based.
    pub preferred_write_alignment_blocks_less_one: U16,
    /// 68..70: NPDG in blocks, 0's based.
    pub preferred_deallocate_blocks_less_one: U16,
    /// 70..72: NPDA in blocks, 0's based.
    pub preferred_deallocate_alignment_blocks_less_one: U16,
    /// 72..74: NOWS in blocks, 0's based.
    pub optimal_write_blocks_less_one: U16,
    /// 74..76: MSSRL.
    pub copy_range_blocks_max: U16,
    /// 76..80: MCL.
    pub copy_blocks_max: U32,
    /// 80: MSRC, 0's based.
    pub copy_ranges_less_one: u8,
    /// 81..92
    pub reserved_81: [u8; 11],
    /// 92..96: ANAGRPID.
    pub ana_group_id: U32,
    /// 96..99
    pub reserved_96: [u8; 3],
    /// 99: NSATTR.
    pub attributes: u8,
    /// 100..102: NVMSETID.
    pub nvm_set_id: U16,
    /// 102..104: ENDGID.
    pub endurance_group_id: U16,
    /// 104..120: NGUID, big-endian as printed.
    pub nguid: [u8; 16],
    /// 120..128: EUI64, big-endian as printed.
    pub eui64: [u8; 8],
    /// 128..384: LBA formats.
    pub formats: [LbaFormat; 64],
    /// 384..4096: vendor specific.
    pub vendor: [u8; 3712],
}
assert_layout!(
    IdentifyNamespace, 4096,
    features @ 24, multi_path @ 30, deallocate @ 33, atomic_write_blocks_less_one @ 34,
    optimal_boundary_blocks @ 46, capacity_bytes @ 48, preferred_write_blocks_less_one @ 64,
    optimal_write_blocks_less_one @ 72, copy_ranges_less_one @ 80, ana_group_id @ 92,
    attributes @ 99, nguid @ 104, eui64 @ 120, formats @ 128, vendor @ 384,
);

impl IdentifyNamespace {
    /// The format in use. `None` when its index is beyond the table (64 entries).
    pub fn format(&self) -> Option<&LbaFormat> {
        let low = self.format_in_use & 0b1111;
        let high = (self.format_in_use >> 5) & 0b11;
        self.formats.get(usize::from(low | high << 4))
    }

    /// Bytes of a logical block, 512 to 2^31. `None` when the format is not valid.
    pub fn block_bytes(&self) -> Option<u32> {
        let shift = self.format()?.block_shift;
        (9..32).contains(&shift).then(|| 1 << shift)
    }
}

/// I/O command set specific Identify Namespace for NVM (CNS 05h, CSI 0; NVM section 4.1.5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommandSetNamespace {
    /// 0..8: LBSTM, storage tag mask.
    pub storage_tag_mask: U64,
    /// 8: PIC.
    pub protection: u8,
    /// 9..12
    pub reserved_9: [u8; 3],
    /// 12..268: extended LBA formats.
    pub formats: [U32; 64],
    /// 268..4096
    pub reserved_268: [u8; 3828],
}
assert_layout!(CommandSetNamespace, 4096, protection @ 8, formats @ 12, reserved_268 @ 268);

/// I/O command set independent Identify Namespace (CNS 08h; Base section 5.17.2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IndependentNamespace {
    /// 0: NSFEAT (bits 3 and up as in CNS 00h).
    pub features: u8,
    /// 1: NMIC.
    pub multi_path: u8,
    /// 2: RESCAP.
    pub reservations: u8,
    /// 3: FPI.
    pub format_progress: u8,
    /// 4..8: ANAGRPID.
    pub ana_group_id: U32,
    /// 8: NSATTR.
    pub attributes: u8,
    /// 9
    pub reserved_9: u8,
    /// 10..12: NVMSETID.
    pub nvm_set_id: U16,
    /// 12..14: ENDGID.
    pub endurance_group_id: U16,
    /// 14: NSTAT.
    pub status: u8,
    /// 15..4096
    pub reserved_15: [u8; 4081],
}
assert_layout!(IndependentNamespace, 4096, ana_group_id @ 4, nvm_set_id @ 10, status @ 14);

zeroed_default!(LbaFormat, IdentifyNamespace, CommandSetNamespace, IndependentNamespace);
