//! The payload of writes: bytes with the requested compression ratio.
//!
//! In each unit of 4 KiB (512 bytes if commands are not a multiple of that) the first part does not
//! compress and the rest repeats one byte. So a compressor reaches the ratio within each block as
//! well as over all blocks. Payloads are windows into one buffer at random offsets, so two payloads
//! are rarely the same.

use bytes::Bytes;

use crate::rng::Rng;

/// The buffer is this much longer than a payload.
const WINDOW_BYTES: usize = 256 << 10;
/// The byte that fills the part that compresses.
const FILLER: u8 = 0x20;
/// The ratios that can be requested.
pub const RATIO_RANGE: std::ops::RangeInclusive<f64> = 1.0..=100.0;

/// Payloads of one length.
#[derive(Debug)]
pub struct Payload {
    bytes: Bytes,
    len_bytes: usize,
}

impl Payload {
    /// Payloads of `len_bytes` that compress to 1 / `ratio`; the ratio is clamped to
    /// [`RATIO_RANGE`].
    pub fn new(len_bytes: usize, ratio: f64, seed: u64) -> Self {
        let mut bytes = vec![FILLER; len_bytes + WINDOW_BYTES];
        let unit_bytes = if len_bytes.is_multiple_of(4096) { 4096 } else { 512 };
        let kept = 1.0 / ratio.clamp(*RATIO_RANGE.start(), *RATIO_RANGE.end());
        let random_bytes = (unit_bytes as f64 * kept).round() as usize;
        let mut rng = Rng::new(seed);
        for unit in bytes.chunks_mut(unit_bytes) {
            let end = random_bytes.min(unit.len());
            rng.fill(&mut unit[..end]);
        }
        Payload { bytes: bytes.into(), len_bytes }
    }

    /// One of them.
    pub(crate) fn pick(&self, rng: &mut Rng) -> Bytes {
        let from = rng.below(WINDOW_BYTES as u64 / 8) as usize * 8;
        self.bytes.slice(from..from + self.len_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_does_not_compress_is_as_asked() {
        for ratio in [1.0, 2.0, 4.0] {
            let payload = Payload::new(64 << 10, ratio, 1);
            let mut rng = Rng::new(2);
            for _ in 0..20 {
                let bytes = payload.pick(&mut rng);
                let random = bytes.iter().filter(|&&byte| byte != FILLER).count() as f64;
                let expected = bytes.len() as f64 / ratio;
                // One in 256 random bytes is the filler.
                assert!((random / expected - 255.0 / 256.0).abs() < 0.01, "{ratio}: {random}");
            }
        }
    }

    #[test]
    fn payloads_differ() {
        let payload = Payload::new(512, 1.0, 1);
        let mut rng = Rng::new(2);
        let one = payload.pick(&mut rng);
        assert_eq!(one.len(), 512);
        assert_ne!(one, payload.pick(&mut rng));
    }
}
