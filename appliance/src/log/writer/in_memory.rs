//! What readers find in memory: blocks that are not written yet, and entries of the segments
//! written last.

use std::sync::Arc;

use super::Log;
use crate::dma::DmaBuf;
use crate::log::format::{RecordLine, TrailerUnit};
use crate::log::types::{Lsn, SegmentSeq};

impl Log {
    /// The block at `lsn`, while it is in memory because it is not written yet.
    pub fn buffered(&self, lsn: Lsn) -> Option<DmaBuf> {
        if self.is_buffered(lsn) { self.records.block(lsn) } else { None }
    }

    /// Whether a position is not written to the device yet: if so, its block is in memory.
    pub fn is_buffered(&self, lsn: Lsn) -> bool {
        lsn >= self.written_lsn()
    }

    /// The device block of a position; `None` if its segment is not on the device.
    pub fn device_block(&self, lsn: Lsn) -> Option<u64> {
        let geometry = self.identity.geometry();
        let slot = self.table.slot(geometry.sequence_of(lsn))?;
        Some(geometry.slot_block(slot) + geometry.offset_of(lsn))
    }

    /// The units of a segment that is still in memory: the current one, without its open record, or
    /// one that is being sealed.
    pub fn units_in_memory(&self, sequence: SegmentSeq) -> Option<Arc<Vec<TrailerUnit>>> {
        if let Some(current) = self.current.as_ref().filter(|current| current.sequence() == sequence) {
            return Some(Arc::new(current.units().to_vec()));
        }
        self.trailers.units(sequence).map(Arc::clone)
    }

    /// The time of a segment's first record at or after a position, if its records are in memory.
    pub fn first_time_ns(&self, sequence: SegmentSeq, from: Lsn) -> Option<u64> {
        let current = self.current.as_ref().filter(|current| current.sequence() == sequence);
        let units: &[TrailerUnit] = match current {
            Some(current) => current.units(),
            None => self.trailers.units(sequence)?,
        };
        let mut at = 0;
        while let Some(unit) = units.get(at) {
            let line: RecordLine = zerocopy::transmute!(*unit);
            if line.lsn() >= from {
                return Some(line.time_ns());
            }
            at += 1 + line.entries();
        }
        None
    }

    /// The line of the newest closed record, if it lies in the current segment. Cost: one step for
    /// each record of the segment.
    pub fn last_record(&self) -> Option<RecordLine> {
        let units = self.current.as_ref()?.units();
        let (mut at, mut last) = (0, None);
        while let Some(unit) = units.get(at) {
            let line: RecordLine = zerocopy::transmute!(*unit);
            at += 1 + line.entries();
            last = Some(line);
        }
        last
    }

    /// The units of the current segment's records that begin at or after `from` and are written
    /// before `to`, and where they end.
    pub fn current_units(&self, from: Lsn, to: Lsn) -> (Vec<TrailerUnit>, Lsn) {
        let Some(current) = &self.current else { return (Vec::new(), from) };
        current.units_between(from, to)
    }
}
