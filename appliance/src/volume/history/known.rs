//! The known content of a segment: the entries that the primary device and the archive have
//! together, and the ranges for which neither has any.
//!
//! **Cost:** one step for each record's line; the archive is read only if the primary device does
//! not have all records.

use std::rc::Rc;

use crate::log::format::TrailerUnit;
use crate::log::reader::{LsnRange, SegmentEntries};
use crate::log::table::Phase;
use crate::log::{Lsn, SegmentSeq};
use crate::volume::archiving::Ahead;
use crate::volume::error::VolumeError;
use crate::volume::history::entry_cache::{Cached, EntryCache};
pub(in crate::volume) use crate::volume::history::known_content::Known;
use crate::volume::pool::Pool;

impl Pool {
    /// The known content of a segment.
    ///
    /// # Errors
    /// Its history is gone: expired, or never archived. The store is away. No memory. An unreadable
    /// segment is not an error.
    pub(in crate::volume) async fn known_of(&self, sequence: SegmentSeq) -> Result<Known, VolumeError> {
        let extent = self.extent_of(sequence);
        let entries = self.entries_of(sequence).await;
        self.known(sequence, extent, entries).await
    }

    /// The same for the next segment of a scan, which is `sequence`.
    ///
    /// # Errors
    /// As [`known_of`](Self::known_of); the scan may continue with the next.
    pub(in crate::volume) async fn next_known(
        &self,
        sequence: SegmentSeq,
        ahead: &mut Ahead,
    ) -> Result<Known, VolumeError> {
        let extent = self.extent_of(sequence);
        match self.next_entries(ahead).await {
            Some(entries) => self.known(sequence, extent, entries).await,
            None => Ok(Known::default()),
        }
    }

    /// The known content of a segment, with everything at or before `up_to` that is in the log.
    ///
    /// # Errors
    /// As [`known_of`](Self::known_of).
    pub(in crate::volume) async fn cached_known(
        &self,
        cache: &mut EntryCache,
        sequence: SegmentSeq,
        up_to: Lsn,
    ) -> Result<Rc<Known>, VolumeError> {
        if let Some(known) = cache.find(sequence, up_to) {
            return Ok(known);
        }
        // The newest segment grows.
        let is_closed = self.log.borrow().table().next_sequence() > sequence.next();
        let known = Rc::new(self.known_of(sequence).await?);
        Ok(cache.keep(Cached { sequence, known, is_closed }))
    }

    /// Where the records of a segment begin, and where they end as far as this is known now.
    fn extent_of(&self, sequence: SegmentSeq) -> LsnRange {
        let (state, log) = (self.state.borrow(), self.log.borrow());
        let start = log.geometry().first_lsn(sequence).plus(1);
        let segment = log.table().get(sequence).filter(|segment| segment.phase != Phase::Released);
        // If a segment left the device before it was archived as a whole, its parts end before
        // it did.
        let archived = || {
            let archive = state.archive.get()?;
            let covered = archive.covered(sequence)?;
            let is_all = archive.is_whole(sequence) || state.catalog.was_cut_at(sequence, covered);
            Some(if is_all { covered } else { log.geometry().first_lsn(sequence.next()) })
        };
        let end = segment.map(|segment| segment.end_lsn).or_else(archived).unwrap_or(start);
        LsnRange { start, end: end.max(start) }
    }

    async fn known(
        &self,
        sequence: SegmentSeq,
        extent: LsnRange,
        entries: Result<Option<SegmentEntries>, VolumeError>,
    ) -> Result<Known, VolumeError> {
        let is_here = self.log.borrow().table().slot(sequence).is_some();
        let entries = match entries {
            Ok(entries) => entries.unwrap_or_default(),
            Err(VolumeError::Failed { reason }) if is_here => {
                self.note_problem(format!("segment {sequence}: its entries cannot be read: {reason}"));
                SegmentEntries::default()
            }
            Err(error) => return Err(error),
        };
        let holes = entries.holes(extent.start, extent.end);
        if holes.is_empty() || !is_here {
            return Ok(Known { entries, holes });
        }
        self.check_reached()?;
        let mut entries = entries;
        for units in self.archived_units(sequence).await? {
            entries = join(&entries, &SegmentEntries::new(units));
        }
        let holes = entries.holes(extent.start, extent.end);
        Ok(Known { entries, holes })
    }

    /// The units that the archive has of a segment, from each readable object.
    ///
    /// # Errors
    /// The archive does not answer: its content is then unknown, which is not a hole.
    async fn archived_units(&self, sequence: SegmentSeq) -> Result<Vec<Vec<TrailerUnit>>, VolumeError> {
        let ids = {
            let state = self.state.borrow();
            state.archive.get().map(|archive| archive.parts(sequence)).unwrap_or_default()
        };
        let mut units = Vec::new();
        for id in ids {
            match self.object_entries(id).await {
                Ok(entries) => units.push(entries.units.clone()),
                Err(error @ VolumeError::ArchiveAway { .. }) => return Err(error),
                Err(error) => {
                    tracing::warn!(segment = sequence.0, %error, "the archive does not give entries that the device does not give either");
                }
            }
        }
        Ok(units)
    }
}

/// The records of both, each once, in order.
fn join(one: &SegmentEntries, other: &SegmentEntries) -> SegmentEntries {
    let mut records: Vec<(Lsn, &SegmentEntries, usize)> = Vec::with_capacity(one.len() + other.len());
    for entries in [one, other] {
        records.extend((0..entries.len()).map(|index| (entries.record(index).0.lsn(), entries, index)));
    }
    // The sort is stable: of two records at one position the first list's counts.
    records.sort_by_key(|&(lsn, ..)| lsn);
    records.dedup_by_key(|&mut (lsn, ..)| lsn);
    let mut units: Vec<TrailerUnit> = Vec::new();
    for (_, entries, index) in records {
        let (line, of_record) = entries.record(index);
        units.push(zerocopy::transmute!(line));
        units.extend(of_record.iter().map(|entry| -> TrailerUnit { zerocopy::transmute!(*entry) }));
    }
    SegmentEntries::new(units)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::{Entry, RecordLine};
    use crate::log::{BlockNumber, ImageId};

    fn records(lsns: &[u64]) -> SegmentEntries {
        let mut units: Vec<TrailerUnit> = Vec::new();
        for &lsn in lsns {
            let line = RecordLine::new(Lsn(lsn), 7, 1, 1, 1);
            let entry = Entry::write(ImageId(1), BlockNumber(lsn), 3, Lsn(0), true);
            units.push(zerocopy::transmute!(line));
            units.push(zerocopy::transmute!(entry));
        }
        SegmentEntries::new(units)
    }

    #[test]
    fn what_one_copy_does_not_have_the_other_may_give() {
        let (device, archive) = (records(&[1, 5, 7]), records(&[1, 3]));
        assert_eq!(device.holes(Lsn(1), Lsn(9)).len(), 1);
        let both = join(&device, &archive);
        let lsns: Vec<u64> = both.records().map(|(line, _)| line.lsn().0).collect();
        assert_eq!(lsns, [1, 3, 5, 7]);
        assert!(both.holes(Lsn(1), Lsn(9)).is_empty());
        let known = Known { holes: device.holes(Lsn(1), Lsn(9)), entries: device };
        let hole = LsnRange { start: Lsn(3), end: Lsn(5) };
        assert_eq!(known.hole_between(Lsn(2), Lsn(8)), Some(hole));
        assert_eq!(known.hole_between(Lsn(2), Lsn(3)), Some(hole));
        assert_eq!(known.hole_between(Lsn(0), Lsn(2)), None);
        assert_eq!(known.hole_between(Lsn(4), Lsn(8)), None);
    }
}
