//! Identify Controller (CNS 01h), and its NVM command set part (CNS 06h).

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::nvmf::wire::macros::{assert_layout, zeroed_default};
use crate::nvmf::wire::text::{self, TextError};

/// Bits of the fields of [`IdentifyController`].
pub mod bits {
    /// CMIC: the subsystem may have several ports.
    pub const CMIC_MULTI_PORT: u8 = 1 << 0;
    /// CMIC: the subsystem may have several controllers.
    pub const CMIC_MULTI_CONTROLLER: u8 = 1 << 1;
    /// CMIC: asymmetric namespace access is reported.
    pub const CMIC_ANA: u8 = 1 << 3;
    /// CTRATT: 128-bit host identifiers are supported.
    pub const CTRATT_HOST_ID_128: u32 = 1 << 0;
    /// CTRATT: traffic based keep alive is supported.
    pub const CTRATT_TRAFFIC_KEEP_ALIVE: u32 = 1 << 6;
    /// CNTRLTYPE: I/O controller.
    pub const TYPE_IO: u8 = 1;
    /// CNTRLTYPE: discovery controller.
    pub const TYPE_DISCOVERY: u8 = 2;
    /// CNTRLTYPE: administrative controller.
    pub const TYPE_ADMINISTRATIVE: u8 = 3;
    /// LPA: SMART by namespace.
    pub const LPA_SMART_BY_NAMESPACE: u8 = 1 << 0;
    /// LPA: Commands Supported and Effects is supported.
    pub const LPA_COMMAND_EFFECTS: u8 = 1 << 1;
    /// LPA: extended data (NUMDU, LPO) is supported.
    pub const LPA_EXTENDED_DATA: u8 = 1 << 2;
    /// LPA: Supported Log Pages and the like are supported.
    pub const LPA_SUPPORTED_LOG_PAGES: u8 = 1 << 5;
    /// ONCS: Compare.
    pub const ONCS_COMPARE: u16 = 1 << 0;
    /// ONCS: Write Uncorrectable.
    pub const ONCS_WRITE_UNCORRECTABLE: u16 = 1 << 1;
    /// ONCS: Dataset Management.
    pub const ONCS_DATASET_MANAGEMENT: u16 = 1 << 2;
    /// ONCS: Write Zeroes.
    pub const ONCS_WRITE_ZEROES: u16 = 1 << 3;
    /// ONCS: Save and Select in Set and Get Features.
    pub const ONCS_SAVE_SELECT: u16 = 1 << 4;
    /// ONCS: reservations.
    pub const ONCS_RESERVATIONS: u16 = 1 << 5;
    /// ONCS: Timestamp.
    pub const ONCS_TIMESTAMP: u16 = 1 << 6;
    /// ONCS: Verify.
    pub const ONCS_VERIFY: u16 = 1 << 7;
    /// ONCS: Copy.
    pub const ONCS_COPY: u16 = 1 << 8;
    /// FUSES: Compare and Write as a fused pair.
    pub const FUSES_COMPARE_WRITE: u16 = 1 << 0;
    /// VWC: a volatile write cache is present.
    pub const VWC_PRESENT: u8 = 1 << 0;
    /// VWC: Flush with NSID `FFFFFFFFh` is not supported (bits 2:1 = 2).
    pub const VWC_FLUSH_ALL_NO: u8 = 2 << 1;
    /// VWC: Flush with NSID `FFFFFFFFh` is supported (bits 2:1 = 3).
    pub const VWC_FLUSH_ALL_YES: u8 = 3 << 1;
    /// SGLS: supported, no alignment needed (bits 1:0 = 1).
    pub const SGLS_SUPPORTED: u32 = 1;
    /// SGLS: the field of SGL support, bits 1:0. 0 means none.
    pub const SGLS_MASK: u32 = 0b11;
    /// SGLS: the keyed data block descriptor.
    pub const SGLS_KEYED: u32 = 1 << 2;
    /// SGLS: an address field may be an offset (in-capsule data).
    pub const SGLS_OFFSET: u32 = 1 << 20;
    /// SGLS: the transport data block descriptor.
    pub const SGLS_TRANSPORT: u32 = 1 << 21;
    /// ANACAP: each state that may be reported (optimized, non-optimized, inaccessible, loss,
    /// change).
    pub const ANACAP_ALL_STATES: u8 = 0b1_1111;
    /// ANACAP: a namespace's group does not change while it is attached.
    pub const ANACAP_GROUP_FIXED: u8 = 1 << 6;
    /// ANACAP: the group in Identify Namespace is not 0.
    pub const ANACAP_GROUP_NOT_ZERO: u8 = 1 << 7;
    /// OFCS: Disconnect is supported.
    pub const OFCS_DISCONNECT: u16 = 1 << 0;
    /// FCATT: 0 is the dynamic controller model, 1 the static one.
    pub const FCATT_STATIC: u8 = 1 << 0;
}

/// A power state descriptor. Only its first fields are named (Base figure "Power State
/// Descriptor").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PowerState {
    /// 0..2: maximum power in centiwatts.
    pub power_max_centiwatts: U16,
    /// 2..32
    pub rest: [u8; 30],
}
assert_layout!(PowerState, 32);

/// Identify Controller (Base figure "Identify - Identify Controller Data Structure").
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyController {
    /// 0..2: VID, PCI vendor.
    pub pci_vendor_id: U16,
    /// 2..4: SSVID, PCI subsystem vendor.
    pub pci_subsystem_vendor_id: U16,
    /// 4..24: SN, ASCII, space-padded.
    pub serial_number: [u8; 20],
    /// 24..64: MN, ASCII, space-padded.
    pub model_number: [u8; 40],
    /// 64..72: FR, ASCII, space-padded.
    pub firmware_revision: [u8; 8],
    /// 72: RAB, recommended arbitration burst, as a power of 2.
    pub arbitration_burst: u8,
    /// 73..76: IEEE OUI, least significant byte first.
    pub ieee_oui: [u8; 3],
    /// 76: CMIC.
    pub multi_path: u8,
    /// 77: MDTS, most data of a command as a power of 2 in units of CAP.MPSMIN. 0 is no limit.
    pub transfer_size_max: u8,
    /// 78..80: CNTLID.
    pub controller_id: U16,
    /// 80..84: VER.
    pub version: U32,
    /// 84..88: RTD3R in microseconds.
    pub resume_latency_us: U32,
    /// 88..92: RTD3E in microseconds: time that a normal shutdown may take.
    pub entry_latency_us: U32,
    /// 92..96: OAES, optional asynchronous events, see `feature::event_mask`.
    pub async_events: U32,
    /// 96..100: CTRATT.
    pub attributes: U32,
    /// 100..102: RRLS.
    pub read_recovery_levels: U16,
    /// 102..111
    pub reserved_102: [u8; 9],
    /// 111: CNTRLTYPE.
    pub controller_type: u8,
    /// 112..128: FGUID.
    pub fru_guid: [u8; 16],
    /// 128..134: CRDT1 to CRDT3, command retry delays in units of 100 ms.
    pub retry_delays_100ms: [U16; 3],
    /// 134..240
    pub reserved_134: [u8; 106],
    /// 240..253: reserved for the management interface.
    pub reserved_240: [u8; 13],
    /// 253: NVMSR.
    pub subsystem_report: u8,
    /// 254: VWCI.
    pub vpd_write_cycles: u8,
    /// 255: MEC.
    pub management_endpoint: u8,
    /// 256..258: OACS, optional admin commands.
    pub admin_commands: U16,
    /// 258: ACL, abort command limit, 0's based.
    pub aborts_less_one: u8,
    /// 259: AERL, asynchronous event request limit, 0's based.
    pub async_event_requests_less_one: u8,
    /// 260: FRMW, firmware updates.
    pub firmware_updates: u8,
    /// 261: LPA, log page attributes.
    pub log_page_attributes: u8,
    /// 262: ELPE, error log entries, 0's based.
    pub error_log_entries_less_one: u8,
    /// 263: NPSS, power states, 0's based.
    pub power_states_less_one: u8,
    /// 264: AVSCC.
    pub vendor_admin_configuration: u8,
    /// 265: APSTA.
    pub autonomous_power: u8,
    /// 266..268: WCTEMP in kelvin.
    pub warning_temperature_kelvin: U16,
    /// 268..270: CCTEMP in kelvin.
    pub critical_temperature_kelvin: U16,
    /// 270..272: MTFA in units of 100 ms.
    pub firmware_activation_100ms: U16,
    /// 272..276: HMPRE.
    pub host_memory_preferred: U32,
    /// 276..280: HMMIN.
    pub host_memory_least: U32,
    /// 280..296: TNVMCAP in bytes.
    pub capacity_bytes: U128,
    /// 296..312: UNVMCAP in bytes.
    pub unallocated_bytes: U128,
    /// 312..316: RPMBS.
    pub replay_protected: U32,
    /// 316..318: EDSTT in minutes.
    pub extended_self_test_minutes: U16,
    /// 318: DSTO.
    pub self_test_options: u8,
    /// 319: FWUG in units of 4 KiB. `FFh` is no restriction.
    pub firmware_granularity: u8,
    /// 320..322: KAS, granularity of the keep alive timer in units of 100 ms. Not 0 over Fabrics.
    pub keep_alive_granularity_100ms: U16,
    /// 322..324: HCTMA.
    pub thermal_management: U16,
    /// 324..326: MNTMT in kelvin.
    pub thermal_least_kelvin: U16,
    /// 326..328: MXTMT in kelvin.
    pub thermal_most_kelvin: U16,
    /// 328..332: SANICAP.
    pub sanitize: U32,
    /// 332..336: HMMINDS.
    pub host_memory_descriptor_least: U32,
    /// 336..338: HMMAXD.
    pub host_memory_descriptors_max: U16,
    /// 338..340: NSETIDMAX.
    pub nvm_set_id_max: U16,
    /// 340..342: ENDGIDMAX.
    pub endurance_group_id_max: U16,
    /// 342: ANATT in seconds.
    pub ana_transition_seconds: u8,
    /// 343: ANACAP.
    pub ana_capabilities: u8,
    /// 344..348: ANAGRPMAX.
    pub ana_group_id_max: U32,
    /// 348..352: NANAGRPID.
    pub ana_groups: U32,
    /// 352..356: PELS in units of 64 KiB.
    pub persistent_log_64kib: U32,
    /// 356..358: domain identifier.
    pub domain_id: U16,
    /// 358..368
    pub reserved_358: [u8; 10],
    /// 368..384: MEGCAP in bytes.
    pub endurance_group_bytes_max: U128,
    /// 384..512
    pub reserved_384: [u8; 128],
    /// 512: SQES: required size in bits 3:0, largest in 7:4, as powers of 2: 66h.
    pub submission_entry_sizes: u8,
    /// 513: CQES: encoded likewise: 44h.
    pub completion_entry_sizes: u8,
    /// 514..516: MAXCMD, most outstanding commands of a queue. Not 0 over Fabrics.
    pub outstanding_commands_max: U16,
    /// 516..520: NN, highest NSID.
    pub namespaces_max: U32,
    /// 520..522: ONCS, optional NVM commands.
    pub nvm_commands: U16,
    /// 522..524: FUSES.
    pub fused: U16,
    /// 524: FNA, format attributes.
    pub format_attributes: u8,
    /// 525: VWC.
    pub volatile_write_cache: u8,
    /// 526..528: AWUN, atomic write unit in normal operation in blocks, 0's based.
    pub atomic_write_blocks_less_one: U16,
    /// 528..530: AWUPF, atomic write unit on power failure in blocks, 0's based.
    pub atomic_power_fail_blocks_less_one: U16,
    /// 530: ICSVSCC.
    pub vendor_io_configuration: u8,
    /// 531: NWPC, namespace write protection.
    pub write_protection: u8,
    /// 532..534: ACWU, atomic compare and write unit in blocks, 0's based.
    pub atomic_compare_write_blocks_less_one: U16,
    /// 534..536: copy descriptor formats.
    pub copy_formats: U16,
    /// 536..540: SGLS.
    pub sgl_support: U32,
    /// 540..544: MNAN, most allowed namespaces. 0 means the same as `namespaces_max`.
    pub allowed_namespaces_max: U32,
    /// 544..560: MAXDNA.
    pub domain_attachments_max: U128,
    /// 560..564: MAXCNA.
    pub controller_attachments_max: U32,
    /// 564..768
    pub reserved_564: [u8; 204],
    /// 768..1024: SUBNQN, terminated by NUL.
    pub subsystem_nqn: [u8; 256],
    /// 1024..1792
    pub reserved_1024: [u8; 768],
    /// 1792..1796: IOCCSZ, I/O command capsule size in units of 16 bytes, at least 4.
    pub io_command_capsule_16b: U32,
    /// 1796..1800: IORCSZ, I/O response capsule size in units of 16 bytes, at least 1.
    pub io_response_capsule_16b: U32,
    /// 1800..1802: ICDOFF, offset of in-capsule data in units of 16 bytes. 0 over TCP.
    pub in_capsule_offset_16b: U16,
    /// 1802: FCATT.
    pub fabrics_attributes: u8,
    /// 1803: MSDBD, most SGL data block descriptors. 1 over TCP.
    pub sgl_descriptors_max: u8,
    /// 1804..1806: OFCS, optional Fabrics commands.
    pub fabrics_commands: U16,
    /// 1806..2048
    pub reserved_1806: [u8; 242],
    /// 2048..3072: power state descriptors.
    pub power_states: [PowerState; 32],
    /// 3072..4096: vendor specific.
    pub vendor: [u8; 1024],
}
assert_layout!(
    IdentifyController, 4096,
    serial_number @ 4, ieee_oui @ 73, controller_id @ 78, version @ 80, async_events @ 92,
    attributes @ 96, controller_type @ 111, retry_delays_100ms @ 128, admin_commands @ 256,
    log_page_attributes @ 261, warning_temperature_kelvin @ 266, capacity_bytes @ 280,
    replay_protected @ 312, keep_alive_granularity_100ms @ 320, sanitize @ 328,
    ana_transition_seconds @ 342, persistent_log_64kib @ 352, endurance_group_bytes_max @ 368,
    submission_entry_sizes @ 512, outstanding_commands_max @ 514, namespaces_max @ 516,
    nvm_commands @ 520, volatile_write_cache @ 525, atomic_power_fail_blocks_less_one @ 528,
    write_protection @ 531, sgl_support @ 536, subsystem_nqn @ 768,
    io_command_capsule_16b @ 1792, in_capsule_offset_16b @ 1800, sgl_descriptors_max @ 1803,
    power_states @ 2048, vendor @ 3072,
);

impl IdentifyController {
    /// SN.
    ///
    /// # Errors
    /// When it is not text.
    pub fn serial_number(&self) -> Result<&str, TextError> {
        text::padded(&self.serial_number)
    }

    /// MN.
    ///
    /// # Errors
    /// When it is not text.
    pub fn model_number(&self) -> Result<&str, TextError> {
        text::padded(&self.model_number)
    }

    /// FR.
    ///
    /// # Errors
    /// When it is not text.
    pub fn firmware_revision(&self) -> Result<&str, TextError> {
        text::padded(&self.firmware_revision)
    }

    /// SUBNQN.
    ///
    /// # Errors
    /// When it is not terminated or not UTF-8.
    pub fn subsystem_nqn(&self) -> Result<&str, TextError> {
        text::nul_terminated(&self.subsystem_nqn)
    }

    /// In-capsule data that fits an I/O command capsule, in bytes.
    pub fn io_in_capsule_bytes(&self) -> u32 {
        self.io_command_capsule_16b.get().saturating_mul(16).saturating_sub(64)
    }
}

/// I/O command set specific Identify Controller for NVM (CNS 06h, CSI 0; NVM section 4.1.5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommandSetController {
    /// 0: VSL, most data of Verify, encoded like MDTS.
    pub verify_size_max: u8,
    /// 1: WZSL, most data of Write Zeroes, encoded like MDTS.
    pub write_zeroes_size_max: u8,
    /// 2: WUSL, most data of Write Uncorrectable, encoded like MDTS.
    pub write_uncorrectable_size_max: u8,
    /// 3: DMRL, most ranges of Dataset Management. 0 is no limit.
    pub dataset_ranges_max: u8,
    /// 4..8: DMRSL, most blocks in one range. 0 is no limit.
    pub dataset_range_blocks_max: U32,
    /// 8..16: DMSL, most blocks in one command. 0 is no limit.
    pub dataset_blocks_max: U64,
    /// 16..4096
    pub reserved: [u8; 4080],
}
assert_layout!(CommandSetController, 4096, dataset_ranges_max @ 3, dataset_range_blocks_max @ 4, dataset_blocks_max @ 8);

zeroed_default!(PowerState, IdentifyController, CommandSetController);
