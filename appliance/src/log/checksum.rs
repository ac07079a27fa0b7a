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

/// The polynomial, with the lowest power in the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What runs of zero bytes do to a CRC32C that comes before them: a block that is mostly empty then
/// costs only its used part. Runs have 0, 1, 2, ... steps, and fewer than `COUNT`.
pub(crate) struct ZeroRuns<const COUNT: usize>([u32; COUNT]);

impl<const COUNT: usize> ZeroRuns<COUNT> {
    /// Runs in steps of this many bytes.
    pub(crate) const fn new(step_bytes: usize) -> Self {
        // A zero byte multiplies the remainder by x^8.
        let mut step = 1 << 31;
        let mut bit = 0;
        while bit < step_bytes.saturating_mul(8) {
            step = times_x(step);
            bit += 1;
        }
        let mut powers = [1 << 31; COUNT];
        let mut index = 1;
        while index < COUNT {
            powers[index] = multiply(powers[index - 1], step);
            index += 1;
        }
        ZeroRuns(powers)
    }

    /// The CRC32C of bytes and a run of `steps` steps after them; `crc` is that of the bytes.
    ///
    /// # Panics
    /// With `COUNT` steps or more.
    pub(crate) fn after(&self, crc: u32, steps: usize) -> u32 {
        !multiply(!crc, self.0[steps])
    }
}

const fn times_x(value: u32) -> u32 {
    (value >> 1) ^ if value & 1 == 1 { POLYNOMIAL } else { 0 }
}

/// The product of two remainders.
const fn multiply(one: u32, mut other: u32) -> u32 {
    let mut product = 0;
    let mut bit = 1 << 31;
    while bit != 0 {
        if one & bit != 0 {
            product ^= other;
        }
        other = times_x(other);
        bit >>= 1;
    }
    product
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
    fn a_run_of_zeroes_is_the_same_by_arithmetic() {
        const RUNS: ZeroRuns<9> = ZeroRuns::new(24);
        for used in [0, 1, 60, 88, 1000] {
            let mut bytes: Vec<u8> = (0..used).map(|index: u32| (index * 7 + 1) as u8).collect();
            let crc = crc32c(&bytes);
            for steps in 0..9 {
                assert_eq!(RUNS.after(crc, steps), crc32c(&bytes), "{used} bytes and {steps} steps");
                bytes.extend([0; 24]);
            }
        }
    }

    #[test]
    fn it_is_the_castagnoli_polynomial() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c_parts(&[b"1234", b"", b"56789"]), 0xe306_9283);
        // RFC 3720 section B.4: 32 bytes of zeroes.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }
}
