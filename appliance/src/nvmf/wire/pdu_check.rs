//! Checks that a receiver makes before it trusts a PDU header (TCP sections 3.5 and 3.6), and
//! digests.
//!
//! [`check_header`] takes the 8 bytes of a common header and returns the positions of all parts of
//! the PDU. After it, every length is bounded and the receiver may index without further checks.
//! [`check_data`] compares DATAL with the layout when the rest of the header has arrived.

use zerocopy::IntoBytes;

use super::pdu::{
    COMMON_HEADER_BYTES, CommonHeader, DIGEST_BYTES, Digests, FatalError, PduType,
    TERMINATION_DATA_BYTES_MAX, TermReq, flags,
};

/// Offsets of the common header's fields, as used in FEI.
mod field_offset {
    pub(super) const TYPE: u32 = 0;
    pub(super) const FLAGS: u32 = 1;
    pub(super) const HLEN: u32 = 2;
    pub(super) const PDO: u32 = 3;
    pub(super) const PLEN: u32 = 4;
    pub(super) const DATAL: u32 = 16;
}

/// Which side is receiving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// The controller receives: `ICReq`, `H2CTermReq`, `CapsuleCmd`, `H2CData`.
    Controller,
    /// The host receives: `ICResp`, `C2HTermReq`, `CapsuleResp`, `C2HData`, `R2T`.
    Host,
}

/// The limits of a receiver, fixed when the connection is initialized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PduLimits {
    /// Which side is receiving.
    pub receiver: Receiver,
    /// The digests in use (none before initialization).
    pub digests: Digests,
    /// The alignment of the data offset that this receiver requested (CPDA or HPDA) in bytes:
    /// (value + 1) x 4, 4 to 128.
    pub data_alignment_bytes: u8,
    /// The most in-capsule data in one command capsule, in bytes.
    pub in_capsule_bytes_max: u32,
    /// The most data in one data PDU, in bytes: MAXH2CDATA at the controller, the largest transfer
    /// at the host.
    pub data_bytes_max: u32,
}

/// The positions of a PDU's parts. All offsets are from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PduLayout {
    /// The type.
    pub pdu_type: PduType,
    /// Bytes of the header (HLEN), which the header digest covers.
    pub header_bytes: u8,
    /// Whether a header digest directly follows the header.
    pub header_digest: bool,
    /// First byte of the data. Equal to `pdu_bytes` when there is no data.
    pub data_offset: u32,
    /// Bytes of data. 0 when there is none.
    pub data_bytes: u32,
    /// Whether a data digest directly follows the data.
    pub data_digest: bool,
    /// Bytes of the whole PDU (PLEN).
    pub pdu_bytes: u32,
}

impl PduLayout {
    /// Bytes of the header with its digest: these must arrive before the PDU can be acted on.
    pub const fn head_bytes(&self) -> usize {
        (self.header_bytes as usize).saturating_add(if self.header_digest { DIGEST_BYTES } else { 0 })
    }
}

/// Why a received PDU ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PduError {
    /// The type is unknown, or is not sent in this direction.
    #[error("PDU type {value:#04x} is not valid in this direction")]
    Type {
        /// The type byte.
        value: u8,
    },
    /// FLAGS does not match the negotiated digests.
    #[error("PDU flags {value:#04x} do not agree with the digests negotiated")]
    Flags {
        /// The flags byte.
        value: u8,
    },
    /// HLEN is not the type's header length.
    #[error("header length {found} where the PDU type has {expected}")]
    HeaderLength {
        /// HLEN as received.
        found: u8,
        /// HLEN of the type.
        expected: u8,
    },
    /// PDO is inside the header, beyond the PDU, or not aligned as requested.
    #[error("data offset {value} is inside the header, beyond the PDU or misaligned")]
    DataOffset {
        /// PDO as received.
        value: u8,
    },
    /// PLEN is not possible for the type.
    #[error("PDU length {value} is not possible for its type")]
    Length {
        /// PLEN as received.
        value: u32,
    },
    /// DATAL differs from the data length that follows from PLEN and PDO.
    #[error("data length field {found} where the PDU holds {held} bytes of data")]
    DataLength {
        /// DATAL as received.
        found: u32,
        /// Bytes of data in the PDU.
        held: u32,
    },
    /// More data than the receiver allows in one PDU.
    #[error("{data_bytes} bytes of data in one PDU where {limit_bytes} are allowed")]
    TooMuchData {
        /// Bytes of data in the PDU.
        data_bytes: u32,
        /// Bytes allowed.
        limit_bytes: u32,
    },
    /// The header digest does not match.
    #[error("header digest {found:#010x} where {computed:#010x} was computed")]
    HeaderDigest {
        /// The digest received.
        found: u32,
        /// The digest of the bytes received.
        computed: u32,
    },
}

impl PduError {
    /// The fatal error status (FES) that reports this.
    pub const fn fatal_error(&self) -> FatalError {
        match self {
            Self::TooMuchData { .. } => FatalError::LimitExceeded,
            Self::HeaderDigest { .. } => FatalError::HeaderDigestError,
            _ => FatalError::InvalidHeaderField,
        }
    }

    /// The fatal error information (FEI) that reports this.
    pub const fn information(&self) -> u32 {
        match self {
            Self::Type { .. } => field_offset::TYPE,
            Self::Flags { .. } => field_offset::FLAGS,
            Self::HeaderLength { .. } => field_offset::HLEN,
            Self::DataOffset { .. } => field_offset::PDO,
            Self::Length { .. } => field_offset::PLEN,
            Self::DataLength { .. } => field_offset::DATAL,
            Self::TooMuchData { .. } => 0,
            Self::HeaderDigest { found, .. } => *found,
        }
    }

    /// The termination request that reports this. The caller sends `offender_bytes` of the PDU
    /// after it.
    pub fn termination(&self, receiver: Receiver, offender_bytes: usize) -> TermReq {
        let pdu_type = match receiver {
            Receiver::Controller => PduType::C2hTermReq,
            Receiver::Host => PduType::H2cTermReq,
        };
        TermReq::new(pdu_type, self.fatal_error(), self.information(), offender_bytes)
    }
}

/// Checks a common header and computes the layout of its PDU.
///
/// The caller decides whether the type is expected in the connection's present state. PDO is
/// ignored when there is no data, because hosts send different values then.
///
/// # Errors
/// The first rule that is broken, in the order type, flags, HLEN, PLEN, PDO, data limits.
pub fn check_header(header: &CommonHeader, limits: &PduLimits) -> Result<PduLayout, PduError> {
    let pdu_type = PduType::try_from(header.pdu_type)
        .ok()
        .filter(|known| known.is_from_host() == (limits.receiver == Receiver::Controller))
        .ok_or(PduError::Type { value: header.pdu_type })?;
    let digests = if pdu_type.may_have_digest() { limits.digests } else { Digests::default() };
    if (header.flags & flags::HEADER_DIGEST != 0) != digests.header {
        return Err(PduError::Flags { value: header.flags });
    }
    let expected = pdu_type.header_bytes();
    if header.hlen != expected {
        return Err(PduError::HeaderLength { found: header.hlen, expected });
    }
    let pdu_bytes = header.plen.get();
    let length_wrong = PduError::Length { value: pdu_bytes };
    let head_bytes = u32::from(expected).saturating_add(if digests.header { DIGEST_BYTES as u32 } else { 0 });
    let body_bytes = pdu_bytes.checked_sub(head_bytes).ok_or(length_wrong)?;
    let mut layout = PduLayout {
        pdu_type,
        header_bytes: expected,
        header_digest: digests.header,
        data_offset: pdu_bytes,
        data_bytes: 0,
        data_digest: false,
        pdu_bytes,
    };
    match pdu_type {
        PduType::H2cTermReq | PduType::C2hTermReq => {
            if body_bytes > TERMINATION_DATA_BYTES_MAX as u32 {
                return Err(length_wrong);
            }
            layout.data_offset = head_bytes;
            layout.data_bytes = body_bytes;
            return Ok(layout);
        }
        PduType::IcReq | PduType::IcResp | PduType::CapsuleResp | PduType::R2t => {
            return if body_bytes == 0 { Ok(layout) } else { Err(length_wrong) };
        }
        PduType::CapsuleCmd | PduType::H2cData | PduType::C2hData => {}
    }
    with_data(layout, *header, limits, digests, head_bytes)
}

/// The layout of a PDU that may have data after the `head_bytes` of its headers; `layout` has what
/// is known without the data.
fn with_data(
    mut layout: PduLayout,
    header: CommonHeader,
    limits: &PduLimits,
    digests: Digests,
    head_bytes: u32,
) -> Result<PduLayout, PduError> {
    let PduLayout { pdu_type, pdu_bytes, .. } = layout;
    let flags_wrong = PduError::Flags { value: header.flags };
    let length_wrong = PduError::Length { value: pdu_bytes };
    if pdu_bytes == head_bytes {
        // Only a command capsule may have no data.
        return match pdu_type {
            PduType::CapsuleCmd if header.flags & flags::DATA_DIGEST == 0 => Ok(layout),
            PduType::CapsuleCmd => Err(flags_wrong),
            _ => Err(length_wrong),
        };
    }
    if (header.flags & flags::DATA_DIGEST != 0) != digests.data {
        return Err(flags_wrong);
    }
    let data_offset = u32::from(header.pdo);
    if data_offset < head_bytes
        || data_offset >= pdu_bytes
        || !data_offset.is_multiple_of(u32::from(limits.data_alignment_bytes.max(1)))
    {
        return Err(PduError::DataOffset { value: header.pdo });
    }
    let digest_bytes = if digests.data { DIGEST_BYTES as u32 } else { 0 };
    let data_bytes = pdu_bytes
        .checked_sub(data_offset)
        .and_then(|bytes| bytes.checked_sub(digest_bytes))
        .filter(|&bytes| bytes != 0)
        .ok_or(length_wrong)?;
    let limit_bytes = match pdu_type {
        PduType::CapsuleCmd => limits.in_capsule_bytes_max,
        _ => limits.data_bytes_max,
    };
    if data_bytes > limit_bytes {
        return Err(match pdu_type {
            // Data that does not fit a capsule is a wrong length, not a transfer above its limit.
            PduType::CapsuleCmd => length_wrong,
            _ => PduError::TooMuchData { data_bytes, limit_bytes },
        });
    }
    layout.data_offset = data_offset;
    layout.data_bytes = data_bytes;
    layout.data_digest = digests.data;
    Ok(layout)
}

/// Compares DATAL of an `H2CData` or `C2HData` PDU with the data in the PDU.
///
/// # Errors
/// When they differ.
pub fn check_data(layout: &PduLayout, data_length_field: u32) -> Result<(), PduError> {
    if data_length_field == layout.data_bytes {
        Ok(())
    } else {
        Err(PduError::DataLength { found: data_length_field, held: layout.data_bytes })
    }
}

/// The digest of a header or of data: CRC32C, sent little-endian (TCP section 3.3.1).
#[inline]
pub fn digest(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The digest in its wire form.
#[inline]
pub fn digest_bytes(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    digest(bytes).to_le_bytes()
}

/// The digest of data in several pieces.
#[derive(Debug)]
pub struct DataDigest(crc_fast::Digest);

impl Default for DataDigest {
    fn default() -> Self {
        DataDigest(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }
}

impl DataDigest {
    /// Adds the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest in its wire form.
    pub fn finish(self) -> [u8; DIGEST_BYTES] {
        (self.0.finalize() as u32).to_le_bytes()
    }
}

/// Checks the header digest of a PDU of which at least [`PduLayout::head_bytes`] are in `pdu`.
/// Succeeds when the connection uses no header digest.
///
/// # Errors
/// When the digest does not match, or `pdu` is too short.
pub fn check_header_digest(pdu: &[u8], layout: &PduLayout) -> Result<(), PduError> {
    if !layout.header_digest {
        return Ok(());
    }
    let too_short = PduError::Length { value: pdu.len() as u32 };
    let (header, rest) = pdu.split_at_checked(usize::from(layout.header_bytes)).ok_or(too_short)?;
    let found = rest.first_chunk::<DIGEST_BYTES>().ok_or(too_short)?;
    let found = u32::from_le_bytes(*found);
    let computed = digest(header);
    if found == computed { Ok(()) } else { Err(PduError::HeaderDigest { found, computed }) }
}

/// Views the first 8 bytes of `bytes` as a common header. `None` if there are fewer.
#[inline]
pub fn common_header(bytes: &[u8]) -> Option<&CommonHeader> {
    use zerocopy::FromBytes;
    CommonHeader::ref_from_prefix(bytes).ok().map(|(header, _)| header)
}

/// Appends a header and, if it is flagged, its digest. `H` is one of the PDU structures.
pub fn append_header<H: IntoBytes + zerocopy::Immutable>(out: &mut Vec<u8>, pdu: &H) {
    let bytes = pdu.as_bytes();
    out.extend_from_slice(bytes);
    debug_assert!(bytes.len() >= COMMON_HEADER_BYTES);
    if bytes.get(1).is_some_and(|bits| bits & flags::HEADER_DIGEST != 0) {
        out.extend_from_slice(&digest_bytes(bytes));
    }
}
