//! Checks whether a new pool can be made at the given place.

use std::path::Path;

use super::{ServeError, segment_blocks_for};
use crate::dma::BLOCK_BYTES;
use crate::log::Geometry;
use crate::log::geometry::{FIRST_SLOT_BLOCK, RESERVE_SLOTS, with_tail};

/// Refuses to make a file that is too small for a pool, or that does not fit into its file system:
/// a sparse file would fail only later.
pub(super) fn check_new(
    path: &Path,
    needed_bytes: u64,
    segment_blocks: Option<u64>,
) -> Result<(), ServeError> {
    if path.exists() {
        return Ok(());
    }
    let device_blocks = with_tail(needed_bytes / BLOCK_BYTES as u64);
    let segment_blocks = segment_blocks.unwrap_or_else(|| segment_blocks_for(device_blocks));
    if Geometry::fit(device_blocks, segment_blocks).is_none() {
        let least_blocks = FIRST_SLOT_BLOCK + (RESERVE_SLOTS + 2) * segment_blocks;
        let least_bytes = least_blocks * BLOCK_BYTES as u64;
        return Err(ServeError::PoolTooSmall { pool_bytes: needed_bytes, needed_bytes: least_bytes });
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // If the file system does not report its free space, it is assumed to have enough.
    let Ok(space) = rustix::fs::statvfs(directory) else { return Ok(()) };
    let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
    if free_bytes < device_blocks * BLOCK_BYTES as u64 {
        return Err(ServeError::TooLittleSpace { path: path.to_owned(), needed_bytes, free_bytes });
    }
    Ok(())
}
