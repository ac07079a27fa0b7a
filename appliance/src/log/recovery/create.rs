//! Creates a log on a blank device: a new one, or one that continues after a known position.
//!
//! **Invariant.** A device belongs to a pool from its first superblock on, which is written last: a
//! crash before that leaves it blank.

use uuid::Uuid;

use super::superblocks::{is_blank, write_superblock};
use crate::bdev::SharedBdev;
use crate::log::environment::Environment;
use crate::log::error::LogError;
use crate::log::format::{FORMAT_VERSION, Superblock};
use crate::log::geometry::{Geometry, SEGMENT_BLOCKS_MAX, SEGMENT_BLOCKS_MIN, device_blocks_min};
use crate::log::table::SegmentTable;
use crate::log::types::{Lsn, SegmentSeq, Slot};
use crate::log::writer::{Beginning, Log, LogStart};

/// The parameters of a new log.
#[derive(Debug, Clone, Copy)]
pub struct CreateLog {
    /// Size of a segment in blocks.
    pub segment_blocks: u64,
    /// Working set in segments; `None`: all slots except the reserve.
    pub working_set: Option<u64>,
}

/// Creates a log on a blank device.
///
/// # Errors
/// See [`LogError`]; nothing is written unless the device is blank and large enough.
pub async fn create(
    device: SharedBdev,
    environment: Environment,
    request: CreateLog,
) -> Result<Log, LogError> {
    let created_ns = environment.clock.wall_ns();
    let from = ContinueLog {
        pool: environment.random.uuid(),
        first: SegmentSeq(0),
        end_lsn: Lsn(0),
        epoch: 1,
        created_ns,
        last_time_ns: created_ns,
    };
    let log = begin_continuing(device.clone(), environment.clone(), request, from).await?;
    finish_continuing(&device, &environment, log.geometry(), from).await?;
    Ok(log)
}

/// The geometry of a log on a blank device.
async fn fit_blank(
    device: &SharedBdev,
    environment: &Environment,
    request: CreateLog,
) -> Result<Geometry, LogError> {
    let info = device.info();
    let segment_blocks = request.segment_blocks;
    if !segment_blocks.is_power_of_two()
        || !(SEGMENT_BLOCKS_MIN..=SEGMENT_BLOCKS_MAX).contains(&segment_blocks)
    {
        return Err(LogError::SegmentSize { segment_blocks });
    }
    let mut geometry = Geometry::fit(info.len_blocks, segment_blocks).ok_or_else(|| LogError::TooSmall {
        device: info.name.clone(),
        len_blocks: info.len_blocks,
        segment_blocks,
        needed_blocks: device_blocks_min(segment_blocks),
    })?;
    if let Some(working_set) = request.working_set {
        geometry = geometry.with_working_set(working_set.clamp(2, geometry.working_set));
    }
    if !is_blank(device, environment).await? {
        return Err(LogError::NotBlank { device: info.name });
    }
    Ok(geometry)
}

/// Where a log starts on a blank device: at its beginning, or after a known position of an earlier
/// log.
#[derive(Debug, Clone, Copy)]
pub struct ContinueLog {
    /// The pool.
    pub pool: Uuid,
    /// Its first segment on the device.
    pub first: SegmentSeq,
    /// Where the earlier log ended.
    pub end_lsn: Lsn,
    /// An epoch that no record of the pool has had.
    pub epoch: u32,
    /// When the pool was created, ns since the Unix epoch.
    pub created_ns: u64,
    /// The time of its last record.
    pub last_time_ns: u64,
}

/// Continues a log on a blank device, after a known position. The device belongs to a pool only
/// after [`finish_continuing`]: a crash before that leaves it blank.
///
/// # Errors
/// As [`create`].
pub async fn begin_continuing(
    device: SharedBdev,
    environment: Environment,
    request: CreateLog,
    from: ContinueLog,
) -> Result<Log, LogError> {
    let geometry = fit_blank(&device, &environment, request).await?;
    Ok(Log::start(LogStart {
        device,
        version: FORMAT_VERSION,
        pool: from.pool,
        created_ns: from.created_ns,
        geometry,
        epoch: from.epoch,
        table: SegmentTable::new(from.first, (0..geometry.slots).map(Slot)),
        current: None,
        unsealed: Vec::new(),
        end_lsn: from.end_lsn,
        last_time_ns: from.last_time_ns,
        beginning: Beginning::Begun,
        environment,
    }))
}

/// Writes the superblocks of a log that [`begin_continuing`] started. Its first segment must be
/// stable.
///
/// # Errors
/// The device's; no memory.
pub async fn finish_continuing(
    device: &SharedBdev,
    environment: &Environment,
    geometry: Geometry,
    from: ContinueLog,
) -> Result<(), LogError> {
    let superblock = Superblock {
        version: FORMAT_VERSION,
        pool: from.pool,
        device_blocks: device.info().len_blocks,
        segment_blocks: geometry.segment_blocks,
        slots: geometry.slots,
        working_set: geometry.working_set,
        first_slot_block: geometry.first_slot_block,
        created_ns: from.created_ns,
        generation: 1,
        epoch: from.epoch,
        begun_lsn: Lsn(0),
    };
    // A crash in between leaves one valid superblock or none: the pool exists, or it does not.
    for generation in [1, 2] {
        write_superblock(device, environment, &Superblock { generation, ..superblock }).await?;
    }
    Ok(())
}
