//! The floors of this machine's memory and one core: copying and checksumming blocks, and both as a
//! log must do them.

use std::time::{Duration, Instant};

use varve::log::checksum::crc32c;

use super::FloorResult;
use crate::latency::Latency;
use crate::rng::Rng;

const BLOCK_BYTES: usize = 4096;
/// Blocks between two reads of the clock.
const BATCH: usize = 256;
/// Larger than a core's caches, so that blocks come from memory, as a host's do.
const AREA_BYTES: usize = 64 << 20;

/// Work on one block: its source, and its destination.
type OnMemory = fn(&[u8], &mut [u8]) -> u32;

/// Copies blocks of 4 KiB.
pub fn copy(duration: Duration) -> FloorResult {
    measure("memory copy of 4 KiB blocks on one core", duration, |from, to| {
        to.copy_from_slice(from);
        0
    })
}

/// Computes the CRC32C of blocks of 4 KiB.
pub fn checksum(duration: Duration) -> FloorResult {
    measure("CRC32C of 4 KiB blocks on one core", duration, |from, _| crc32c(from))
}

/// Copies blocks of 4 KiB and computes the CRC32C of the copies: the minimum work of every append.
pub fn copy_and_checksum(duration: Duration) -> FloorResult {
    measure("memory copy and CRC32C of 4 KiB blocks on one core", duration, |from, to| {
        to.copy_from_slice(from);
        crc32c(to)
    })
}

fn measure(what: &str, duration: Duration, work: OnMemory) -> FloorResult {
    let mut from = vec![0; AREA_BYTES];
    Rng::new(9).fill(&mut from);
    let mut to = vec![1; AREA_BYTES];
    let (mut blocks, mut sum) = (0_u64, 0);
    let places = AREA_BYTES / BLOCK_BYTES;
    let started = Instant::now();
    while started.elapsed() < duration {
        for _ in 0..BATCH {
            let at = blocks as usize % places * BLOCK_BYTES;
            sum ^= work(&from[at..at + BLOCK_BYTES], std::hint::black_box(&mut to[at..at + BLOCK_BYTES]));
            blocks += 1;
        }
    }
    std::hint::black_box(sum);
    let seconds = started.elapsed().as_secs_f64();
    let mean_us = seconds * 1e6 / blocks.max(1) as f64;
    let latency = Latency { count: blocks, mean_us, ..Latency::default() };
    FloorResult::new(what.to_owned(), seconds, BLOCK_BYTES as u64, latency)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted() {
        let result = copy_and_checksum(Duration::from_millis(2));
        assert!(result.latency.count >= BATCH as u64 && result.latency.count.is_multiple_of(BATCH as u64));
        let expected = result.latency.count as f64 / 256.0 / result.seconds;
        assert!((result.mib_per_second / expected - 1.0).abs() < 1e-9);
    }
}
