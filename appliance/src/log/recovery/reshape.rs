//! Telling recovery of another shape: a working set of another length, more slots.

use super::{LogError, read_superblock, write_superblock};
use crate::bdev::SharedBdev;
use crate::log::environment::Environment;
use crate::log::format::{SUPERBLOCK_COPIES, Superblock};
use crate::log::geometry::Geometry;

/// Writes both superblocks anew, with the shape `geometry`, one after the other with a flush behind each: whichever of the two is damaged later, the other tells the same shape. A power cut on the
/// way leaves at least one that is whole, with the old shape or the new; so both must be true of the log for as long as this takes:
///
/// - of two working sets the longer one is true of a log in which everything live lies within the shorter;
/// - slots that were never used are true of any log.
///
/// `epoch` is the one of the running log: a copy that was damaged since may be the only one that knew it.
///
/// # Errors
/// The device's; no memory; [`LogError::NoPool`] when both copies are damaged.
pub async fn write_shape(
    device: &SharedBdev,
    environment: &Environment,
    epoch: u32,
    geometry: Geometry,
) -> Result<(), LogError> {
    let (newest, _) = read_superblock(device, environment).await?;
    let device_blocks =
        if geometry.slots > newest.slots { device.info().len_blocks } else { newest.device_blocks };
    for generation in 1..=SUPERBLOCK_COPIES {
        let superblock = Superblock {
            device_blocks,
            slots: geometry.slots,
            working_set: geometry.working_set,
            generation: newest.generation + generation,
            epoch: newest.epoch.max(epoch),
            ..newest
        };
        write_superblock(device, environment, &superblock).await?;
        device.flush().await?;
    }
    Ok(())
}
