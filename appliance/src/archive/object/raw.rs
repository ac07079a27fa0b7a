//! Detects incompressible frames with a small sample, and writes them without compression.
//!
//! Searching for matches in incompressible data costs more than all checksums together. So after a
//! frame that did not become smaller, the next ones are sampled first: words are taken from each
//! block. If they are all different, and their bytes are as evenly distributed as those of noise,
//! the content is written as it is, in blocks of the kind "raw" that every zstd reads. That is what
//! zstd itself writes for such a frame, at a lower cost. The sample is only a guess, and a wrong
//! guess costs space, never correctness: after [`LOOKS_MAX`] frames without compression one is
//! compressed again in any case.
//!
//! **Costs:** 128 bytes of each block are sampled; a table of 16 KiB is allocated for each 64
//! blocks, and freed before the next.

use crate::dma::BLOCK_BYTES;

/// After this many frames without compression, one is compressed.
const LOOKS_MAX: u32 = 15;
/// Words taken from each block.
const WORDS_PER_BLOCK: usize = 16;
const WORD_BYTES: usize = 8;
const STRIDE_BYTES: usize = BLOCK_BYTES / WORDS_PER_BLOCK;
/// The number of blocks that are compared with each other: those of the default frame.
const BLOCKS_COMPARED: usize = 64;
/// The size of the table for their words; half of it stays empty.
const PLACES: usize = 2 * BLOCKS_COMPARED * WORDS_PER_BLOCK;
/// In 128 bytes of noise about 64 have their highest bit set, and fewer than this only in one of
/// 10^11 blocks; text has none.
const HIGH_BITS_MIN: u32 = 26;
/// How much more uneven than noise the bytes may be: the sum of squared shares divided by that of
/// noise.
const UNEVENNESS_MAX: f64 = 1.03;
/// Divided by the count of bytes and added to it: five standard deviations of noise.
const CHANCE: f64 = 113.0;

const MAGIC: u32 = 0xFD2F_B528;
/// One segment, the size in 4 bytes, no checksum, no dictionary.
const DESCRIPTOR: u8 = 0xA0;
/// The most content of a zstd block.
const ZSTD_BLOCK_BYTES: usize = 128 << 10;
const LAST_BLOCK: u32 = 1;

/// Whether frames are sampled before they are compressed. One for each stream of frames.
#[derive(Debug, Default)]
pub(super) struct Streak {
    /// The last compressed frame did not become smaller.
    is_on: bool,
    /// Frames without compression since then.
    looks: u32,
}

impl Streak {
    /// Whether compressing this frame is not worthwhile.
    pub(super) fn skips(&mut self, content: &[u8]) -> bool {
        if !self.is_on || self.looks >= LOOKS_MAX || !looks_like_noise(content) {
            self.looks = 0;
            return false;
        }
        self.looks = self.looks.saturating_add(1);
        true
    }

    /// Records the result of compressing a frame.
    pub(super) fn note(&mut self, content_bytes: usize, compressed_bytes: usize) {
        self.is_on = compressed_bytes >= content_bytes;
    }
}

/// Appends the content to `frame` as a frame without compression. At most 1 MiB.
pub(super) fn store(content: &[u8], frame: &mut Vec<u8>) {
    frame.extend_from_slice(&MAGIC.to_le_bytes());
    frame.push(DESCRIPTOR);
    frame.extend_from_slice(&(content.len() as u32).to_le_bytes());
    let mut blocks = content.chunks(ZSTD_BLOCK_BYTES).peekable();
    while let Some(block) = blocks.next() {
        let last = if blocks.peek().is_none() { LAST_BLOCK } else { 0 };
        let [low, middle, high, _] = (last | (block.len() as u32) << 3).to_le_bytes();
        frame.extend_from_slice(&[low, middle, high]);
        frame.extend_from_slice(block);
    }
}

/// Whether a frame's content appears incompressible.
fn looks_like_noise(content: &[u8]) -> bool {
    let (blocks, rest) = content.as_chunks::<BLOCK_BYTES>();
    if blocks.is_empty() || !rest.is_empty() {
        return false;
    }
    blocks.chunks(BLOCKS_COMPARED).all(are_noise)
}

fn are_noise(blocks: &[[u8; BLOCK_BYTES]]) -> bool {
    let mut counts = [0_u32; 256];
    let mut places = vec![0_u64; PLACES];
    for block in blocks {
        let mut high_bits = 0_u32;
        let (strides, _) = block.as_chunks::<STRIDE_BYTES>();
        for bytes in strides.iter().filter_map(|stride| stride.first_chunk::<WORD_BYTES>()) {
            let word = u64::from_le_bytes(*bytes);
            high_bits = (word & 0x8080_8080_8080_8080).count_ones().saturating_add(high_bits);
            for &byte in bytes {
                if let Some(count) = counts.get_mut(usize::from(byte)) {
                    *count = count.saturating_add(1);
                }
            }
            if !is_first(word, &mut places) {
                return false;
            }
        }
        if high_bits < HIGH_BITS_MIN {
            return false;
        }
    }
    let taken = blocks.len().saturating_mul(WORDS_PER_BLOCK * WORD_BYTES);
    let squares: f64 = counts.iter().map(|&count| f64::from(count).powi(2)).sum();
    let taken = taken as f64;
    // Corrected for chance, so that the result does not depend on the number of blocks.
    let unevenness = (squares - taken) / (taken * (taken - 1.0)) * 256.0;
    unevenness <= UNEVENNESS_MAX + CHANCE / taken
}

/// Adds a word to those seen; `false` when it was seen before. Zero marks an empty slot and so
/// counts as seen.
fn is_first(word: u64, places: &mut [u64]) -> bool {
    if word == 0 {
        return false;
    }
    let first = (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % PLACES;
    let Some((before, from)) = places.split_at_mut_checked(first) else { return false };
    // Half of the table stays empty, so a slot is found.
    match from.iter_mut().chain(before).find(|place| **place == 0 || **place == word) {
        Some(place) if *place == 0 => {
            *place = word;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(blocks: usize, mut state: u64) -> Vec<u8> {
        let words = (0..blocks * BLOCK_BYTES / WORD_BYTES).map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ (word >> 31)
        });
        words.flat_map(u64::to_le_bytes).collect()
    }

    #[test]
    fn noise_is_told_from_what_compresses() {
        for (blocks, seed) in [(1, 1), (3, 2), (64, 3), (100, 4), (256, 5)] {
            assert!(looks_like_noise(&noise(blocks, seed)), "{blocks} blocks");
        }
        let spoil = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut content = noise(64, 7);
            change(&mut content);
            looks_like_noise(&content)
        };
        assert!(spoil(&|_| {}));
        assert!(!spoil(&|content| content[20 * BLOCK_BYTES..21 * BLOCK_BYTES].fill(0)), "a block of zeroes");
        assert!(!spoil(&|content| content.copy_within(0..BLOCK_BYTES, 63 * BLOCK_BYTES)), "a block twice");
        assert!(!spoil(&|content| content[..BLOCK_BYTES].iter_mut().for_each(|byte| *byte &= 0x7f)), "text");
        assert!(
            !spoil(&|content| content.iter_mut().for_each(|byte| *byte %= 200)),
            "bytes that are not even"
        );
        assert!(!looks_like_noise(&noise(2, 1)[..5000]), "not whole blocks");
        assert!(!looks_like_noise(&[]));
    }

    #[test]
    fn a_streak_begins_with_a_frame_that_did_not_shrink_and_is_bounded() {
        let (mut streak, content) = (Streak::default(), noise(16, 9));
        assert!(!streak.skips(&content), "nothing is known yet");
        streak.note(content.len(), content.len() + 12);
        assert!((0..LOOKS_MAX).all(|_| streak.skips(&content)));
        assert!(!streak.skips(&content), "one is compressed again");
        streak.note(content.len(), content.len() + 12);
        assert!(streak.skips(&content));
        assert!(!streak.skips(&[0; BLOCK_BYTES]), "it does not look so");
        streak.note(BLOCK_BYTES, 20);
        assert!(!streak.skips(&content), "it became smaller");
    }
}
