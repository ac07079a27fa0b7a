//! Finds where a file has contents: its extents, and within data the blocks that are not zero.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::dma::BLOCK_BYTES;

/// A range of a file, in whole blocks; the last one may extend beyond the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset_bytes: u64,
    pub(super) len_bytes: u64,
    /// Whether it is data; otherwise it is a hole.
    pub(super) is_data: bool,
}

/// The extents of a file, in order and without a gap. On a file system without holes there is one.
///
/// # Errors
/// The system's.
pub(super) fn extents(file: &File, file_bytes: u64) -> io::Result<Vec<Extent>> {
    const BLOCK: u64 = BLOCK_BYTES as u64;
    let end_bytes = file_bytes.next_multiple_of(BLOCK);
    let mut found: Vec<Extent> = Vec::new();
    let mut add = |from: u64, to: u64, is_data: bool| {
        if from < to {
            found.push(Extent { offset_bytes: from, len_bytes: to - from, is_data });
        }
    };
    let mut at = 0;
    while at < end_bytes {
        let data = match seek(file, SeekFrom::Data(at)) {
            // On file systems with smaller blocks, a hole can end within one of ours.
            Ok(data) => (data / BLOCK * BLOCK).clamp(at, end_bytes),
            // Only a hole is left.
            Err(Errno::NXIO) => end_bytes,
            // A block device, or a file system without holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(error) => return Err(error.into()),
        };
        add(at, data, false);
        if data == end_bytes {
            break;
        }
        let hole = match seek(file, SeekFrom::Hole(data)) {
            Ok(hole) => hole.next_multiple_of(BLOCK).clamp(data + BLOCK, end_bytes),
            Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => end_bytes,
            Err(error) => return Err(error.into()),
        };
        add(data, hole, true);
        at = hole;
    }
    Ok(found)
}

/// Runs of blocks that are zero, and of blocks that are not: ranges of `data`, in order.
pub(super) fn nonzero_runs(data: &[u8]) -> Vec<(Range<usize>, bool)> {
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    let mut at = 0;
    for block in data.chunks(BLOCK_BYTES) {
        let is_zero = block.iter().all(|byte| *byte == 0);
        let end = at + block.len();
        match runs.last_mut() {
            Some((range, was_zero)) if *was_zero == is_zero => range.end = end,
            _ => runs.push((at..end, is_zero)),
        }
        at = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn extents_cover_the_file_and_holes_hold_nothing() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(10 << 20).expect("sparse");
        file.write_all_at(&[1; 5000], 4 << 20).expect("written");
        let file_bytes = (10 << 20) + 17;
        file.write_all_at(&[2; 17], 10 << 20).expect("written");
        let found = extents(&file, file_bytes).expect("found");
        let mut at = 0;
        for extent in &found {
            assert_eq!(extent.offset_bytes, at, "{found:?}");
            assert!(extent.len_bytes > 0 && extent.len_bytes.is_multiple_of(BLOCK_BYTES as u64), "{found:?}");
            at += extent.len_bytes;
        }
        assert_eq!(at, file_bytes.next_multiple_of(BLOCK_BYTES as u64), "{found:?}");
        let is_data = |at: u64| {
            found.iter().any(|extent| {
                extent.is_data && (extent.offset_bytes..extent.offset_bytes + extent.len_bytes).contains(&at)
            })
        };
        assert!(is_data(4 << 20) && is_data((4 << 20) + 4999) && is_data(10 << 20), "{found:?}");
    }

    #[test]
    fn blocks_that_are_zero_are_told_from_those_that_are_not() {
        const B: usize = BLOCK_BYTES;
        let mut data = vec![0; 5 * B];
        data[B + 7] = 1;
        data[3 * B - 1] = 1;
        assert_eq!(nonzero_runs(&data), [(0..B, true), (B..3 * B, false), (3 * B..5 * B, true)]);
        assert_eq!(nonzero_runs(&[]), []);
        assert_eq!(nonzero_runs(&[0, 1]), [(0..2, false)]);
    }
}
