//! The content of a soak's block: which command wrote it, so that every block that is read
//! identifies its write.
//!
//! | bytes     | what                                                   |
//! |-----------|--------------------------------------------------------|
//! | 0-7       | magic                                                  |
//! | 8-15      | the soak's own number, so that no other run's data passes |
//! | 16-23     | block number                                           |
//! | 24-31     | sequence of the command that wrote it                  |
//! | 32-4091   | filler that follows from the fields above               |
//! | 4092-4095 | CRC32C of all before                                   |

use varve::log::checksum::crc32c;

use crate::sim::rng::Rng;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;
const MAGIC: u64 = 0x766b_6169_6c6c_6b73;
const CRC_AT: usize = BLOCK_BYTES - 4;
/// The filler repeats after this many bytes: enough to detect a torn block, at little cost.
const FILLER_BYTES: usize = 512;

/// The content of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Only zeroes: never written, or trimmed.
    Zero,
    /// The write of this sequence.
    Written(u64),
    /// Neither; the text gives the error.
    Bad(&'static str),
}

/// Fills a block.
pub fn write(into: &mut [u8], soak: u64, block: u64, sequence: u64) {
    for (at, value) in [MAGIC, soak, block, sequence].into_iter().enumerate() {
        into[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
    }
    let mut rng = Rng::new(soak ^ block.rotate_left(32) ^ sequence);
    let mut filler = [0; FILLER_BYTES];
    for chunk in filler.chunks_mut(8) {
        chunk.copy_from_slice(&rng.next_u64().to_le_bytes());
    }
    for chunk in into[32..CRC_AT].chunks_mut(FILLER_BYTES) {
        chunk.copy_from_slice(&filler[..chunk.len()]);
    }
    let crc = crc32c(&into[..CRC_AT]);
    into[CRC_AT..BLOCK_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// The content of a block that was read at `block`.
pub fn read(bytes: &[u8], soak: u64, block: u64) -> Content {
    let field = |at: usize| {
        bytes.get(at * 8..at * 8 + 8).and_then(|field| field.try_into().ok()).map_or(0, u64::from_le_bytes)
    };
    if bytes.iter().all(|&byte| byte == 0) {
        return Content::Zero;
    }
    if bytes.len() != BLOCK_BYTES || field(0) != MAGIC {
        return Content::Bad("not a stamp");
    }
    if crc32c(&bytes[..CRC_AT]).to_le_bytes() != bytes[CRC_AT..] {
        return Content::Bad("a stamp with a wrong checksum");
    }
    if field(1) != soak {
        return Content::Bad("a stamp of another soak");
    }
    if field(2) != block {
        return Content::Bad("the stamp of another block");
    }
    Content::Written(field(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_says_what_was_written_and_nothing_else_passes() {
        let mut bytes = vec![0; BLOCK_BYTES];
        assert_eq!(read(&bytes, 1, 2), Content::Zero);
        write(&mut bytes, 1, 2, 3);
        assert_eq!(read(&bytes, 1, 2), Content::Written(3));
        assert_eq!(read(&bytes, 9, 2), Content::Bad("a stamp of another soak"));
        assert_eq!(read(&bytes, 1, 9), Content::Bad("the stamp of another block"));
        for at in [0, 31, 32, 2000, CRC_AT, BLOCK_BYTES - 1] {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(matches!(read(&bad, 1, 2), Content::Bad(_)), "{at}");
        }
    }
}
