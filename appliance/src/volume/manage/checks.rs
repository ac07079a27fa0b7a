//! Which names and sizes are allowed.

use crate::dma::BLOCK_BYTES;
use crate::volume::catalog::Catalog;
use crate::volume::error::VolumeError;

/// The maximum length of a name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The maximum size of a volume, in blocks (256 TiB).
pub const VOLUME_BLOCKS_MAX: u64 = 1 << 36;

pub(in crate::volume) fn check_name(what: &'static str, name: &str) -> Result<(), VolumeError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        let reason = format!("'{name}' is not 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' or '-'");
        return Err(VolumeError::Invalid { what, reason });
    }
    Ok(())
}

pub(super) fn check_size(size_bytes: u64) -> Result<u64, VolumeError> {
    let size_blocks = size_bytes / BLOCK_BYTES as u64;
    if size_blocks == 0 || size_blocks > VOLUME_BLOCKS_MAX || !size_bytes.is_multiple_of(BLOCK_BYTES as u64) {
        let reason = format!("{size_bytes} bytes is not a multiple of 4096 from 4096 to 256 TiB");
        return Err(VolumeError::Invalid { what: "size", reason });
    }
    Ok(size_blocks)
}

/// Refuses a name that a volume or a group has: a name in a command means one thing.
pub(in crate::volume) fn check_free(catalog: &Catalog, name: &str) -> Result<(), VolumeError> {
    if catalog.volume(name).is_some() {
        return Err(VolumeError::VolumeExists { name: name.to_owned() });
    }
    if catalog.group(name).is_some() {
        return Err(VolumeError::GroupExists { name: name.to_owned() });
    }
    Ok(())
}
