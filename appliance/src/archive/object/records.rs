//! Validates the units of an object: whole records in the order of the log, inside its stretch, and
//! no hole that it does not list.
//!
//! The writer and the reader of an object use the same check, so an object with missing records can
//! neither be made nor be accepted by accident. Values in a record are not trusted before the
//! check: its counts are compared with its entries, its positions with the stretch. Cost: one pass
//! over the units; memory for the holes.

use zerocopy::FromBytes;

use super::{Damage, ObjectId};
use crate::log::format::{ENTRIES_PER_RECORD, Entry, RecordLine, TrailerUnit};
use crate::log::reader::LsnRange;
use crate::log::types::Lsn;

impl ObjectId {
    /// The first position of the stretch that a record may have: the block of the segment's header
    /// belongs to no record.
    pub fn first_record_lsn(&self, segment_blocks: u64) -> Lsn {
        let first_lsn = self.sequence.0.saturating_mul(segment_blocks);
        Lsn(self.from_lsn.0.max(first_lsn.saturating_add(1)))
    }
}

/// The ranges of an object that none of its records covers, in order.
///
/// # Errors
/// [`Damage::Field`] with the defect of the units: they are not records, not in order, or not
/// inside the object.
pub fn holes_of(id: &ObjectId, segment_blocks: u64, units: &[TrailerUnit]) -> Result<Vec<LsnRange>, Damage> {
    let mut holes = Vec::new();
    let mut at = id.first_record_lsn(segment_blocks);
    let mut rest = units;
    while let Some((line, behind)) = rest.split_first() {
        let line = RecordLine::ref_from_bytes(line).map_err(|_| Damage::Field("line of a record"))?;
        if !(1..=ENTRIES_PER_RECORD).contains(&line.entries()) {
            return Err(Damage::Field("count of a record's entries"));
        }
        let (entries, behind) =
            behind.split_at_checked(line.entries()).ok_or(Damage::Field("count of a record's entries"))?;
        let with_data = entries.iter().filter(|unit| is_data(unit)).count() as u64;
        if with_data != line.data_blocks() {
            return Err(Damage::Field("count of a record's data blocks"));
        }
        let end = Some(line.end_lsn().0)
            .filter(|&end| end <= id.to_lsn.0)
            .ok_or(Damage::Field("position of a record"))?;
        if line.lsn() < at {
            return Err(Damage::Field("position of a record"));
        }
        if line.lsn() > at {
            holes.push(LsnRange { start: at, end: line.lsn() });
        }
        at = Lsn(end);
        rest = behind;
    }
    if at < id.to_lsn {
        holes.push(LsnRange { start: at, end: id.to_lsn });
    }
    Ok(holes)
}

/// Checks that the holes of an object are exactly the listed ones.
pub(super) fn check(
    id: &ObjectId,
    segment_blocks: u64,
    units: &[TrailerUnit],
    told: &[LsnRange],
) -> Result<(), Damage> {
    let holes = holes_of(id, segment_blocks, units)?;
    match holes.iter().find(|hole| !told.contains(hole)) {
        Some(&hole) => Err(Damage::Hole(hole)),
        None if holes != told => Err(Damage::Field("list of holes")),
        None => Ok(()),
    }
}

fn is_data(unit: &TrailerUnit) -> bool {
    Entry::ref_from_bytes(unit).is_ok_and(Entry::has_data)
}
