//! The entries of a segment of a running log: from memory if they are there, or else from the
//! trailer, or else read record by record around unreadable blocks.

use super::entries::SegmentEntries;
use super::read::ReadError;
use super::reader::Found;
use super::scan::ScanFrom;
use super::types::SegmentSeq;
use super::writer::SharedLog;

/// Loads the entries of a segment. [`SegmentEntries::holes`] returns the ranges that are unknown.
///
/// # Errors
/// No memory; the segment is not on the device.
pub async fn load_segment(log: &SharedLog, sequence: SegmentSeq) -> Result<SegmentEntries, ReadError> {
    let (reader, slot, epoch) = {
        let log = log.borrow();
        if let Some(units) = log.units_in_memory(sequence) {
            return Ok(SegmentEntries::new(units.to_vec()));
        }
        let segment = log.table().get(sequence).ok_or(ReadError::NoSegment(sequence))?;
        (log.reader(), segment.slot.ok_or(ReadError::NoSegment(sequence))?, segment.epoch)
    };
    let head = reader.read_trailer_head(slot).await?;
    let mut problem = head.problem();
    if let Found::Valid(head) = head
        && head.sequence == sequence
        && head.epoch == epoch
        && !head.partial
    {
        let units = reader.read_trailer(slot, &head).await?;
        problem = units.problem();
        if let Found::Valid(units) = units {
            return Ok(SegmentEntries::new(units));
        }
    }
    let problem = problem.unwrap_or_else(|| "is another segment's".to_owned());
    log.borrow_mut().note_problem(sequence, format!("its trailer {problem}; it is read record by record"));
    let start = reader.geometry().first_lsn(sequence).plus(1);
    let end = log.borrow().table().get(sequence).map_or(start, |segment| segment.end_lsn);
    let from = ScanFrom { slot, sequence, epoch, start, stable: end, expected_end: None, limit: Some(end) };
    let scan = reader.scan(from).await?;
    let entries = SegmentEntries::new(scan.units);
    for hole in entries.holes(start, end) {
        let problem = format!("the records at LSN {} to {} are lost", hole.start, hole.end);
        log.borrow_mut().note_problem(sequence, problem);
    }
    Ok(entries)
}
