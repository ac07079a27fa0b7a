//! The PDUs of NVMe/TCP (TCP section 3.6), as structures.
//!
//! | type | PDU          | direction | header bytes | data          |
//! |------|--------------|-----------|--------------|---------------|
//! | 00h  | ICReq        | H2C       | 128          | no            |
//! | 01h  | ICResp       | C2H       | 128          | no            |
//! | 02h  | H2CTermReq   | H2C       | 24           | 0 .. 128      |
//! | 03h  | C2HTermReq   | C2H       | 24           | 0 .. 128      |
//! | 04h  | CapsuleCmd   | H2C       | 72           | in-capsule    |
//! | 05h  | CapsuleResp  | C2H       | 24           | no            |
//! | 06h  | H2CData      | H2C       | 24           | yes           |
//! | 07h  | C2HData      | C2H       | 24           | yes           |
//! | 09h  | R2T          | C2H       | 24           | no            |

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::command::{Cqe, Sqe};
use super::macros::{assert_layout, wire_enum, zeroed_default};

/// Bytes of the common header that starts every PDU.
pub const COMMON_HEADER_BYTES: usize = 8;
/// Bytes of a header or data digest.
pub const DIGEST_BYTES: usize = 4;
/// The only existing PDU format version.
pub const PDU_FORMAT_VERSION: u16 = 0;
/// The most bytes of the offending PDU that a termination request may carry back.
pub const TERMINATION_DATA_BYTES_MAX: usize = 128;
/// The smallest MAXH2CDATA that a controller may report, in bytes.
pub const H2C_DATA_BYTES_MAX_LEAST: u32 = 4096;
/// In-capsule data that every controller accepts on the admin queue, in bytes (TCP section 3.5).
pub const ADMIN_IN_CAPSULE_BYTES: u32 = 8192;
/// The port of discovery controllers.
pub const DISCOVERY_PORT: u16 = 8009;
/// The usual port of NVMe/TCP I/O controllers, registered with IANA.
pub const NVME_TCP_PORT: u16 = 4420;

wire_enum! {
    /// PDU types (TCP figure "PDU types").
    pub enum PduType: u8 {
        /// Initialize connection request.
        IcReq = 0x00,
        /// Initialize connection response.
        IcResp = 0x01,
        /// The host ends the connection because of an error.
        H2cTermReq = 0x02,
        /// The controller ends the connection because of an error.
        C2hTermReq = 0x03,
        /// Command capsule.
        CapsuleCmd = 0x04,
        /// Response capsule.
        CapsuleResp = 0x05,
        /// Host to controller data.
        H2cData = 0x06,
        /// Controller to host data.
        C2hData = 0x07,
        /// Ready to transfer.
        R2t = 0x09,
    }
}

impl PduType {
    /// The header length (HLEN) of this type, without digests, in bytes.
    pub const fn header_bytes(self) -> u8 {
        match self {
            Self::IcReq | Self::IcResp => 128,
            Self::CapsuleCmd => 72,
            _ => 24,
        }
    }

    /// Whether the host sends this type.
    pub const fn is_from_host(self) -> bool {
        matches!(self, Self::IcReq | Self::H2cTermReq | Self::CapsuleCmd | Self::H2cData)
    }

    /// Whether digests apply to this type when they were negotiated.
    pub const fn may_have_digest(self) -> bool {
        !matches!(self, Self::IcReq | Self::IcResp | Self::H2cTermReq | Self::C2hTermReq)
    }

    /// Whether this type has a data field at PDO.
    pub const fn may_have_data(self) -> bool {
        matches!(self, Self::CapsuleCmd | Self::H2cData | Self::C2hData)
    }
}

/// The bits of the FLAGS byte in the common header.
pub mod flags {
    /// HDGSTF: a header digest follows the header.
    pub const HEADER_DIGEST: u8 = 1 << 0;
    /// DDGSTF: a data digest follows the data.
    pub const DATA_DIGEST: u8 = 1 << 1;
    /// `LAST_PDU`: the last data PDU of this R2T or command (`H2CData`, `C2HData`).
    pub const LAST: u8 = 1 << 2;
    /// SUCCESS: the command completed successfully, and no response capsule follows (`C2HData`).
    pub const SUCCESS: u8 = 1 << 3;
}

/// The bits of the DGST byte in `ICReq` and `ICResp`.
pub mod digest_enable {
    /// `HDGST_ENABLE`.
    pub const HEADER: u8 = 1 << 0;
    /// `DDGST_ENABLE`.
    pub const DATA: u8 = 1 << 1;
}

/// The common header (TCP section 3.6.1).
///
/// | bytes | field    |
/// |-------|----------|
/// | 0     | PDU-Type |
/// | 1     | FLAGS    |
/// | 2     | HLEN     |
/// | 3     | PDO      |
/// | 4..8  | PLEN     |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommonHeader {
    /// 0: type, see [`PduType`].
    pub pdu_type: u8,
    /// 1: see [`flags`].
    pub flags: u8,
    /// 2: header length in bytes without the digest.
    pub hlen: u8,
    /// 3: offset of the data from the PDU's first byte. 0 when there is none.
    pub pdo: u8,
    /// 4..8: length of the whole PDU in bytes, including digests and padding.
    pub plen: U32,
}
assert_layout!(CommonHeader, 8, plen @ 4);

impl CommonHeader {
    /// A header for a PDU of `pdu_type` that carries no data.
    pub const fn without_data(pdu_type: PduType, header_digest: bool) -> Self {
        let hlen = pdu_type.header_bytes();
        let digest = header_digest && pdu_type.may_have_digest();
        Self {
            pdu_type: pdu_type as u8,
            flags: if digest { flags::HEADER_DIGEST } else { 0 },
            hlen,
            pdo: 0,
            plen: U32::new((hlen as u32).saturating_add(digest_bytes(digest) as u32)),
        }
    }

    /// A header for a PDU that carries `data_bytes` (not 0) of data.
    ///
    /// `alignment_bytes` is the value that the receiver requested in CPDA or HPDA (4 when it
    /// requested nothing), at most 128. The data offset is the first multiple of it after the
    /// header.
    pub const fn with_data(
        pdu_type: PduType,
        digests: Digests,
        alignment_bytes: u8,
        data_bytes: u32,
    ) -> Self {
        let hlen = pdu_type.header_bytes();
        let header = hlen.saturating_add(digest_bytes(digests.header));
        // At most 76 before rounding up, so the offset fits into the byte: it is 128 or less.
        let pdo = header.div_ceil(alignment_bytes).saturating_mul(alignment_bytes);
        let mut bits = 0;
        if digests.header {
            bits |= flags::HEADER_DIGEST;
        }
        if digests.data {
            bits |= flags::DATA_DIGEST;
        }
        let tail = digest_bytes(digests.data) as u32;
        Self {
            pdu_type: pdu_type as u8,
            flags: bits,
            hlen,
            pdo,
            plen: U32::new((pdo as u32).saturating_add(data_bytes).saturating_add(tail)),
        }
    }
}

/// Bytes of a digest, if there is one.
const fn digest_bytes(is_used: bool) -> u8 {
    if is_used { DIGEST_BYTES as u8 } else { 0 }
}

/// Which digests a connection uses, as negotiated by `ICReq` and `ICResp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// Headers are followed by a digest.
    pub header: bool,
    /// Data is followed by a digest.
    pub data: bool,
}

impl Digests {
    /// The DGST byte of `ICReq` and `ICResp`.
    pub const fn to_bits(self) -> u8 {
        (if self.header { digest_enable::HEADER } else { 0 })
            | (if self.data { digest_enable::DATA } else { 0 })
    }

    /// Reads the DGST byte. Reserved bits are ignored.
    pub const fn from_bits(bits: u8) -> Self {
        Self { header: bits & digest_enable::HEADER != 0, data: bits & digest_enable::DATA != 0 }
    }
}

/// Initialize connection request (TCP section 3.6.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcReq {
    /// 0..8
    pub header: CommonHeader,
    /// 8..10: PFV, 0.
    pub format_version: U16,
    /// 10: HPDA, alignment of data in C2H PDUs: 0's based number of dwords, at most 31.
    pub host_data_alignment: u8,
    /// 11: DGST, see [`digest_enable`].
    pub digest: u8,
    /// 12..16: MAXR2T, 0's based number of outstanding R2Ts that the host accepts for one command.
    pub r2t_max: U32,
    /// 16..128
    pub reserved: [u8; 112],
}
assert_layout!(IcReq, 128, format_version @ 8, host_data_alignment @ 10, digest @ 11, r2t_max @ 12);

impl IcReq {
    /// A request like the Linux host's: one R2T per command, no alignment.
    pub const fn new(digests: Digests) -> Self {
        Self {
            header: CommonHeader::without_data(PduType::IcReq, false),
            format_version: U16::new(PDU_FORMAT_VERSION),
            host_data_alignment: 0,
            digest: digests.to_bits(),
            r2t_max: U32::new(0),
            reserved: [0; 112],
        }
    }
}

/// Initialize connection response (TCP section 3.6.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcResp {
    /// 0..8
    pub header: CommonHeader,
    /// 8..10: PFV, 0.
    pub format_version: U16,
    /// 10: CPDA, alignment of data in H2C PDUs: 0's based number of dwords, at most 31.
    pub controller_data_alignment: u8,
    /// 11: DGST, see [`digest_enable`].
    pub digest: u8,
    /// 12..16: MAXH2CDATA in bytes, at least 4096, a multiple of 4.
    pub h2c_data_bytes_max: U32,
    /// 16..128
    pub reserved: [u8; 112],
}
assert_layout!(IcResp, 128, controller_data_alignment @ 10, digest @ 11, h2c_data_bytes_max @ 12);

impl IcResp {
    /// A response that requests no alignment.
    pub const fn new(digests: Digests, h2c_data_bytes_max: u32) -> Self {
        Self {
            header: CommonHeader::without_data(PduType::IcResp, false),
            format_version: U16::new(PDU_FORMAT_VERSION),
            controller_data_alignment: 0,
            digest: digests.to_bits(),
            h2c_data_bytes_max: U32::new(h2c_data_bytes_max),
            reserved: [0; 112],
        }
    }
}

wire_enum! {
    /// Fatal error status of a termination request (TCP sections 3.6.2.4 and 3.6.2.5).
    pub enum FatalError: u16 {
        /// A header field is invalid. FEI is the field's offset in the PDU.
        InvalidHeaderField = 0x01,
        /// A PDU of this type was not expected now.
        SequenceError = 0x02,
        /// The header digest did not match. FEI is the received digest.
        HeaderDigestError = 0x03,
        /// Data outside the range of the command or the R2T.
        DataOutOfRange = 0x04,
        /// C2H: more data than MAXH2CDATA allows. H2C: more R2Ts than MAXR2T allows.
        LimitExceeded = 0x05,
        /// A parameter is not supported. FEI is its offset in the PDU.
        UnsupportedParameter = 0x06,
    }
}

/// Termination request in either direction (TCP sections 3.6.2.4 and 3.6.2.5).
///
/// Up to 128 bytes of the PDU that was wrong follow the structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TermReq {
    /// 0..8
    pub header: CommonHeader,
    /// 8..10: FES, see [`FatalError`].
    pub fatal_error: U16,
    /// 10..14: FEI. Its meaning depends on the error.
    pub information: U32,
    /// 14..24
    pub reserved: [u8; 10],
}
assert_layout!(TermReq, 24, fatal_error @ 8, information @ 10);

impl TermReq {
    /// A termination request followed by `offender_bytes` (capped at 128) of the wrong PDU.
    ///
    /// `pdu_type` is [`PduType::C2hTermReq`] or [`PduType::H2cTermReq`].
    pub fn new(pdu_type: PduType, fatal_error: FatalError, information: u32, offender_bytes: usize) -> Self {
        let mut header = CommonHeader::without_data(pdu_type, false);
        let offender_bytes = offender_bytes.min(TERMINATION_DATA_BYTES_MAX) as u32;
        header.plen = U32::new(u32::from(header.hlen).saturating_add(offender_bytes));
        Self {
            header,
            fatal_error: U16::new(fatal_error.into()),
            information: U32::new(information),
            reserved: [0; 10],
        }
    }
}

/// Command capsule (TCP section 3.6.2.6). In-capsule data may follow at PDO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CapsuleCmd {
    /// 0..8
    pub header: CommonHeader,
    /// 8..72: submission queue entry.
    pub sqe: Sqe,
}
assert_layout!(CapsuleCmd, 72, sqe @ 8);

/// Response capsule (TCP section 3.6.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CapsuleResp {
    /// 0..8
    pub header: CommonHeader,
    /// 8..24: completion queue entry.
    pub cqe: Cqe,
}
assert_layout!(CapsuleResp, 24, cqe @ 8);

impl CapsuleResp {
    /// A response capsule. The caller appends the header digest if `header_digest`.
    pub const fn new(cqe: Cqe, header_digest: bool) -> Self {
        Self { header: CommonHeader::without_data(PduType::CapsuleResp, header_digest), cqe }
    }
}

/// Host to controller data (TCP section 3.6.2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct H2cData {
    /// 0..8
    pub header: CommonHeader,
    /// 8..10: CCCID, the command's identifier.
    pub command_id: U16,
    /// 10..12: TTAG, the tag of the R2T that this PDU answers.
    pub transfer_tag: U16,
    /// 12..16: DATAO, offset in the command's data, in bytes, a multiple of 4.
    pub data_offset: U32,
    /// 16..20: DATAL, bytes of data in this PDU.
    pub data_bytes: U32,
    /// 20..24
    pub reserved: [u8; 4],
}
assert_layout!(H2cData, 24, command_id @ 8, transfer_tag @ 10, data_offset @ 12, data_bytes @ 16);

/// Controller to host data (TCP section 3.6.2.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct C2hData {
    /// 0..8
    pub header: CommonHeader,
    /// 8..10: CCCID, the command's identifier.
    pub command_id: U16,
    /// 10..12
    pub reserved_10: [u8; 2],
    /// 12..16: DATAO, offset in the command's data, in bytes, a multiple of 4.
    pub data_offset: U32,
    /// 16..20: DATAL, bytes of data in this PDU.
    pub data_bytes: U32,
    /// 20..24
    pub reserved_20: [u8; 4],
}
assert_layout!(C2hData, 24, command_id @ 8, data_offset @ 12, data_bytes @ 16);

/// Ready to transfer (TCP section 3.6.2.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct R2t {
    /// 0..8
    pub header: CommonHeader,
    /// 8..10: CCCID, the command's identifier.
    pub command_id: U16,
    /// 10..12: TTAG, the controller's tag for this transfer.
    pub transfer_tag: U16,
    /// 12..16: R2TO, offset in the command's data, in bytes.
    pub data_offset: U32,
    /// 16..20: R2TL, bytes requested, not 0.
    pub data_bytes: U32,
    /// 20..24
    pub reserved: [u8; 4],
}
assert_layout!(R2t, 24, command_id @ 8, transfer_tag @ 10, data_offset @ 12, data_bytes @ 16);

impl R2t {
    /// An R2T. The caller appends the header digest if `header_digest`.
    pub const fn new(
        command_id: u16,
        transfer_tag: u16,
        data_offset: u32,
        data_bytes: u32,
        header_digest: bool,
    ) -> Self {
        Self {
            header: CommonHeader::without_data(PduType::R2t, header_digest),
            command_id: U16::new(command_id),
            transfer_tag: U16::new(transfer_tag),
            data_offset: U32::new(data_offset),
            data_bytes: U32::new(data_bytes),
            reserved: [0; 4],
        }
    }
}

zeroed_default!(CommonHeader, IcReq, IcResp, TermReq, CapsuleCmd, CapsuleResp, H2cData, C2hData, R2t);
