//! CRC32C, the checksum of every block.

use crc_fast::{CrcAlgorithm, Digest, checksum};

/// CRC32C (Castagnoli) of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The CRC32C of bytes that arrive in pieces: the low 32 bits of what its `finalize` returns.
pub(crate) fn running() -> Digest {
    Digest::new(CrcAlgorithm::Crc32Iscsi)
}

/// CRC32C of several slices, as if they followed each other.
pub fn crc32c_parts(parts: &[&[u8]]) -> u32 {
    let mut digest = running();
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

/// The bytes with the CRC32C of all other bytes written at `at`, if there are enough bytes. An
/// attacker who changes data and corrects its checksum produces this.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn with_crc(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some((before, rest)) = bytes.split_at_mut_checked(at)
        && let Some((crc, after)) = rest.split_first_chunk_mut()
    {
        *crc = crc32c_parts(&[before, after]).to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_castagnoli_polynomial() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c_parts(&[b"1234", b"", b"56789"]), 0xe306_9283);
        // RFC 3720 section B.4: 32 bytes of zeroes.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }
}
