//! The survey: finds the log on a device by reads only.

use std::collections::BTreeSet;

use super::slots::{FoundSegment, FoundSlots, find_segments};
use super::superblocks::read_superblock;
use super::walk::Walk;
use crate::bdev::SharedBdev;
use crate::log::environment::Environment;
use crate::log::error::LogError;
use crate::log::format::{SegmentHeader, Superblock, TrailerUnit};
use crate::log::geometry::Geometry;
use crate::log::reader::{LsnRange, SegmentReader};
use crate::log::table::SegmentTable;
use crate::log::types::{Lsn, SegmentSeq, Slot};

/// The log as it was found on a device. Nothing was written to find it.
pub struct Survey {
    /// The superblock in force.
    pub superblock: Superblock,
    /// Whether another copy is damaged.
    pub superblock_damaged: bool,
    /// The shape of the device.
    pub geometry: Geometry,
    /// The segments of the log, and the slots that are free.
    pub table: SegmentTable,
    /// The segments without a full trailer, with the units of their records, oldest first.
    pub pending: Vec<(SegmentSeq, Vec<TrailerUnit>)>,
    /// Where the log ends.
    pub end_lsn: Lsn,
    /// The newest time that was found, ns since the Unix epoch.
    pub last_time_ns: u64,
    /// The newest epoch that was found anywhere.
    pub newest_epoch: u32,
    /// The correct content of segment headers that are damaged.
    pub repairs: Vec<(Slot, SegmentHeader)>,
    /// The damage, as text for the operator.
    pub problems: Vec<String>,
    /// What a power cut or the end of the process has cut off, as text for the operator. None of it
    /// had been acknowledged as stable.
    pub notes: Vec<String>,
    /// Ranges whose entries are lost: they had been stable, or cannot be read.
    pub lost: Vec<LsnRange>,
    /// Slots that are not used because their content is unknown: the device cannot read it.
    pub withheld: BTreeSet<Slot>,
    /// Whether the last stop was clean.
    pub clean: bool,
}

impl Survey {
    /// The segment in which the log continues: the one that is not full yet, if there is one.
    pub fn current(&self) -> Option<SegmentSeq> {
        let (newest, _) = self.table.iter().next_back()?;
        self.pending.last().map(|(sequence, _)| *sequence).filter(|&sequence| sequence == newest)
    }
}

/// Finds the log on a device; only reads.
///
/// # Errors
/// See [`LogError`]. Damage to segments is not an error: it is in [`Survey::problems`].
pub async fn survey(device: &SharedBdev, environment: &Environment) -> Result<Survey, LogError> {
    let (superblock, superblock_problems) = read_superblock(device, environment).await?;
    let geometry = Geometry::of(&superblock);
    let reader = SegmentReader::new(device.clone(), environment, geometry, superblock.pool);
    let FoundSlots { mut found, unsure, anonymous } = find_segments(&reader).await?;
    let mut walk = Walk::new(reader, &superblock);
    walk.run(&mut found).await?;
    let withheld = walk.withhold(&unsure, &anonymous);
    let walked = walk.finish();
    let newest_epoch = found.values().map(FoundSegment::epoch).max().unwrap_or(0).max(walked.epoch);
    let used: BTreeSet<Slot> = walked.segments.iter().filter_map(|segment| segment.slot).collect();
    let free = (0..geometry.slots).map(Slot).filter(|slot| !used.contains(slot) && !withheld.contains(slot));
    let mut table = SegmentTable::new(walked.oldest, free);
    for segment in walked.segments {
        table.push(segment);
    }
    table.set_missing(walked.missing);
    Ok(Survey {
        superblock,
        superblock_damaged: !superblock_problems.is_empty(),
        geometry,
        table,
        pending: walked.pending,
        end_lsn: walked.end_lsn,
        last_time_ns: walked.last_time_ns,
        newest_epoch,
        repairs: walked.repairs,
        problems: [superblock_problems, walked.problems].concat(),
        notes: walked.notes,
        lost: walked.lost,
        withheld,
        clean: walked.clean,
    })
}
