//! Superblocks: reads all copies, chooses the newest, and writes them again.
//!
//! | copy | block | |
//! |---|---|---|
//! | 0, 1 | 0, 1 | written alternately |
//! | 2 | the last of the device, as the pool knows it | written after each of them; from format version 2 on |
//!
//! If both copies at the start are damaged, copy 2 is searched at the device's end, and before it
//! if the device may have grown ([`tail_search`](super::tail_search)).
//!
//! A damaged copy may have been the newest, with an epoch one higher than in the others. That epoch
//! must not be used again, or records of it that a crash cut off could become valid again. So a
//! start that finds a damaged copy skips an epoch and writes all copies.

use smallvec::smallvec;

use super::tail_search::find_tail;
use crate::bdev::SharedBdev;
use crate::dma::BLOCK_BYTES;
use crate::log::environment::Environment;
use crate::log::error::LogError;
use crate::log::format::{FormatError, SUPERBLOCK_HEADS, Superblock};
use crate::log::geometry::Geometry;
use crate::log::read::{DeviceReader, ReadError, ReadFault};

/// Reads every copy of the superblock; for an invalid copy, returns what is wrong with it.
///
/// # Errors
/// No memory.
pub async fn read_superblocks(
    device: &SharedBdev,
    environment: &Environment,
) -> Result<Vec<Result<Superblock, String>>, LogError> {
    let reads = DeviceReader::new(device.clone(), environment);
    let mut copies = Vec::new();
    let mut is_pool = false;
    for block in 0..SUPERBLOCK_HEADS {
        let copy = read_copy(&reads, block).await?;
        is_pool |= copy.as_ref().is_err_and(|damage| damage.is_pool);
        copies.push(copy.map_err(|damage| damage.reason));
    }
    let newest = copies.iter().flatten().max_by_key(|copy| copy.generation);
    let tail = match newest {
        Some(superblock) => superblock.tail_block(),
        // Its place is unknown, unless the device still has the size that the pool recorded.
        None => device.info().len_blocks.checked_sub(1),
    };
    let Some(block) = tail.filter(|&block| block >= SUPERBLOCK_HEADS) else { return Ok(copies) };
    let copy = read_copy(&reads, block).await?.map_err(|damage| damage.reason);
    let belongs = copy.as_ref().is_ok_and(|copy| copy.tail_block() == Some(block));
    if belongs || newest.is_some() {
        copies.push(
            copy.and_then(
                |copy| {
                    if belongs { Ok(copy) } else { Err("it belongs to another place".to_owned()) }
                },
            ),
        );
    } else if is_pool {
        copies.extend(find_tail(&reads, block).await?.map(Ok));
    }
    Ok(copies)
}

/// The damage of a copy.
struct CopyDamage {
    reason: String,
    /// Whether a superblock was there, as far as this can be determined.
    is_pool: bool,
}

async fn read_copy(reads: &DeviceReader, block: u64) -> Result<Result<Superblock, CopyDamage>, LogError> {
    match reads.read(block, 1).await {
        Ok(buffer) => Ok(Superblock::decode(buffer.as_slice()).map_err(|error| CopyDamage {
            reason: error.to_string(),
            is_pool: error == FormatError::Checksum,
        })),
        Err(error @ ReadError::Memory(_)) if ReadFault::of(&error) == ReadFault::Memory => Err(error.into()),
        Err(error) => Ok(Err(CopyDamage { reason: error.to_string(), is_pool: true })),
    }
}

/// Reads all superblocks. Returns the newest valid one, and what is wrong with the others.
///
/// # Errors
/// [`LogError::NoPool`] if none is valid; no memory.
pub async fn read_superblock(
    device: &SharedBdev,
    environment: &Environment,
) -> Result<(Superblock, Vec<String>), LogError> {
    let mut newest: Option<Superblock> = None;
    let mut problems = Vec::new();
    for (number, copy) in read_superblocks(device, environment).await?.into_iter().enumerate() {
        match copy {
            Ok(superblock) if newest.is_none_or(|best| best.generation < superblock.generation) => {
                newest = Some(superblock);
            }
            Ok(_) => {}
            Err(error) => problems.push(format!("superblock copy {number}: {error}")),
        }
    }
    let Some(superblock) = newest else {
        return Err(LogError::NoPool { device: device.info().name, reason: problems.join("; ") });
    };
    Ok((superblock, problems))
}

/// Whether the places of all superblocks hold only zeroes.
///
/// # Errors
/// The device's; no memory. An unreadable place is not blank.
pub async fn is_blank(device: &SharedBdev, environment: &Environment) -> Result<bool, LogError> {
    let reads = DeviceReader::new(device.clone(), environment);
    let tail = device.info().len_blocks.saturating_sub(1);
    for block in (0..SUPERBLOCK_HEADS).chain([tail]) {
        if reads.read(block, 1).await?.as_slice().iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes the copy at the start of the device whose turn it is, makes it stable, and then writes
/// the copy at the end.
///
/// # Errors
/// No copy could be written, or the flush failed. The inner value says which copy could not be
/// written.
pub(super) async fn write_superblock(
    device: &SharedBdev,
    environment: &Environment,
    superblock: &Superblock,
) -> Result<Vec<String>, LogError> {
    let head = superblock.generation % SUPERBLOCK_HEADS;
    let mut problems = Vec::new();
    let mut failure = None;
    let places = [Some((head, head)), superblock.tail_block().map(|block| (SUPERBLOCK_HEADS, block))];
    let (mut tried, mut failed) = (0, 0);
    for (number, block) in places.into_iter().flatten() {
        tried += 1;
        let mut buffer = environment.wait_for_memory(BLOCK_BYTES).await?;
        superblock.encode(buffer.as_mut_slice());
        match device.write(block, smallvec![buffer.freeze()]).await {
            Ok(()) => device.flush().await?,
            Err(error) => {
                problems.push(format!("superblock copy {number} cannot be written: {error}"));
                failure = Some(error);
                failed += 1;
            }
        }
    }
    match failure {
        Some(error) if failed == tried => Err(error.into()),
        _ => Ok(problems),
    }
}

/// Writes all superblocks with the geometry `geometry`, one after the other with a flush after
/// each: whichever of them is damaged later, the others have the same geometry. A power cut in
/// between leaves at least one valid superblock, with the old geometry or the new one. So both must
/// be true of the log during this time:
///
/// - of two working sets, the longer one is true of a log in which all live data is within the
///   shorter one;
/// - slots that were never used are true of any log.
///
/// `epoch` is that of the running log: a copy that was damaged since the start may be the only one
/// that had it.
///
/// # Errors
/// The device's; no memory; [`LogError::NoPool`] if all copies are damaged.
pub async fn write_shape(
    device: &SharedBdev,
    environment: &Environment,
    epoch: u32,
    geometry: Geometry,
) -> Result<(), LogError> {
    let (newest, _) = read_superblock(device, environment).await?;
    let device_blocks =
        if geometry.slots > newest.slots { device.info().len_blocks } else { newest.device_blocks };
    for generation in 1..=SUPERBLOCK_HEADS {
        let superblock = Superblock {
            device_blocks,
            slots: geometry.slots,
            working_set: geometry.working_set,
            generation: newest.generation + generation,
            epoch: newest.epoch.max(epoch),
            ..newest
        };
        write_superblock(device, environment, &superblock).await?;
    }
    Ok(())
}
