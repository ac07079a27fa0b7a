//! The discovery log page, 70h (Base section 5.16.1.23).

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::macros::{assert_layout, wire_enum, zeroed_default};
use super::text::{self, TextError};

wire_enum! {
    /// TRTYPE.
    pub enum TransportType: u8 {
        /// RDMA.
        Rdma = 1,
        /// Fibre Channel.
        FibreChannel = 2,
        /// TCP.
        Tcp = 3,
        /// Within one host.
        Loopback = 254,
    }
}

wire_enum! {
    /// ADRFAM.
    pub enum AddressFamily: u8 {
        /// IPv4.
        Ipv4 = 1,
        /// IPv6.
        Ipv6 = 2,
        /// `InfiniBand`.
        InfiniBand = 3,
        /// Fibre Channel.
        FibreChannel = 4,
        /// Within one host.
        Loopback = 254,
    }
}

wire_enum! {
    /// SUBTYPE of an entry.
    pub enum SubsystemType: u8 {
        /// Another discovery subsystem: a referral.
        Referral = 1,
        /// A subsystem with namespaces.
        Nvm = 2,
        /// The discovery subsystem that is answering.
        CurrentDiscovery = 3,
    }
}

/// Bits of [`DiscoveryEntry::requirements`] (TREQ).
pub mod transport_requirement {
    /// Secure channel, bits 1:0: not specified.
    pub const SECURE_UNSPECIFIED: u8 = 0;
    /// Secure channel, bits 1:0: required.
    pub const SECURE_REQUIRED: u8 = 1;
    /// Secure channel, bits 1:0: not required.
    pub const SECURE_NOT_REQUIRED: u8 = 2;
    /// The controller can disable SQ flow control.
    pub const FLOW_CONTROL_DISABLE: u8 = 1 << 2;
}

/// Bits of [`DiscoveryEntry::flags`] (EFLAGS).
pub mod entry_flag {
    /// DUPRETINFO: other ports of this discovery subsystem return the same information.
    pub const DUPLICATE_INFORMATION: u16 = 1 << 0;
    /// EPCSD: explicit persistent connections are supported (discovery subsystems).
    pub const PERSISTENT_CONNECTION: u16 = 1 << 1;
    /// NCC: no connectivity to a centralized discovery controller.
    pub const NO_CDC_CONNECTIVITY: u16 = 1 << 2;
}

/// Header of the discovery log page. `records` entries follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryHeader {
    /// 0..8: GENCTR, changes with every change of the page.
    pub generation: U64,
    /// 8..16: NUMREC, number of entries that follow.
    pub records: U64,
    /// 16..18: RECFMT, 0.
    pub record_format: U16,
    /// 18..1024
    pub reserved: [u8; 1006],
}
assert_layout!(DiscoveryHeader, 1024, records @ 8, record_format @ 16);

/// One entry of the discovery log page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryEntry {
    /// 0: TRTYPE.
    pub transport_type: u8,
    /// 1: ADRFAM.
    pub address_family: u8,
    /// 2: SUBTYPE.
    pub subsystem_type: u8,
    /// 3: TREQ, see [`transport_requirement`].
    pub requirements: u8,
    /// 4..6: PORTID.
    pub port_id: U16,
    /// 6..8: CNTLID. `FFFFh` for the dynamic controller model.
    pub controller_id: U16,
    /// 8..10: ASQSZ, most entries of the admin queue, at least 32.
    pub admin_queue_entries_max: U16,
    /// 10..12: EFLAGS, see [`entry_flag`].
    pub flags: U16,
    /// 12..32
    pub reserved_12: [u8; 20],
    /// 32..64: TRSVCID, ASCII, space-padded: the port number.
    pub service_id: [u8; 32],
    /// 64..256
    pub reserved_64: [u8; 192],
    /// 256..512: SUBNQN, terminated by NUL.
    pub subsystem_nqn: [u8; 256],
    /// 512..768: TRADDR, ASCII, space-padded.
    pub transport_address: [u8; 256],
    /// 768: SECTYPE of TSAS for TCP: 0 none, 1 TLS 1.2, 2 TLS 1.3.
    pub security_type: u8,
    /// 769..1024: the rest of TSAS.
    pub reserved_769: [u8; 255],
}
assert_layout!(DiscoveryEntry, 1024, port_id @ 4, controller_id @ 6, flags @ 10, service_id @ 32, subsystem_nqn @ 256, transport_address @ 512, security_type @ 768);

impl DiscoveryEntry {
    /// SUBNQN.
    ///
    /// # Errors
    /// When it is not terminated or not UTF-8.
    pub fn subsystem_nqn(&self) -> Result<&str, TextError> {
        text::nul_terminated(&self.subsystem_nqn)
    }

    /// TRADDR.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn transport_address(&self) -> Result<&str, TextError> {
        text::padded(&self.transport_address)
    }

    /// TRSVCID.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn service_id(&self) -> Result<&str, TextError> {
        text::padded(&self.service_id)
    }
}

zeroed_default!(DiscoveryHeader, DiscoveryEntry);
