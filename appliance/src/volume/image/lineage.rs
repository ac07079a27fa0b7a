//! What the retention rules need to know of a pool, apart from its archive.

use crate::archive::retention::{
    ArchiveView, ArchivedSegment, ImageBirth, NamedPoints, SegmentRange, SessionPoints, SnapshotPoint,
    SynchPoint,
};
use crate::log::reader::LsnRange;
use crate::log::time::ClockStatus;
use crate::log::{ImageId, Lsn, SegmentSeq};
use crate::volume::catalog::{Catalog, Snapshots, reach};
use crate::volume::history::synch_table::SynchTable;
use crate::volume::pool::Pool;

/// A pool's part of an [`ArchiveView`], for use on another thread. The synchs and snapshots share
/// their pages with the pool.
#[derive(Debug, Clone)]
pub struct Lineage {
    /// Size of the pool's segments, in blocks.
    pub segment_blocks: u64,
    /// The segments that have a slot on the primary device, in the order of the log, as separate
    /// ranges: a segment that is released early leaves a hole.
    pub on_primary: Vec<SegmentRange>,
    /// The first of these; the log's next segment if there is none.
    pub oldest_on_primary: SegmentSeq,
    /// All synchs, in the order of the log.
    pub synchs: SynchTable,
    /// The snapshots.
    pub(crate) snapshots: Snapshots,
    /// The sessions on points of the past.
    pub sessions: Vec<SessionPoints>,
    /// The images with a parent: those that exist now, and deleted ones while points at which they
    /// existed may be kept.
    pub births: Vec<ImageBirth>,
    /// The position of the pool's newest change: this data is valid while that is still the newest
    /// change.
    pub change_lsn: Lsn,
    /// Ranges of the log that left the primary device without having been archived, or that are
    /// lost.
    pub gaps: Vec<LsnRange>,
    /// Lengths of the working set, each with the segment from which on it was in force, oldest
    /// first; the first begins with the log.
    pub working_sets: Vec<(SegmentSeq, u64)>,
    /// The clocks at the time of the copy.
    pub clock: ClockStatus,
}

impl Lineage {
    /// How many segments before its own a point in a segment needs: the length of the working set
    /// (W) that was in force there, or less if it had just become longer.
    pub fn working_set(&self, sequence: SegmentSeq) -> u64 {
        reach(&self.working_sets, sequence).unwrap_or(0)
    }

    /// The complete input of retention: this, and the archived segments, in the order of the log.
    pub fn view<'a>(
        &'a self,
        segments: &'a [ArchivedSegment],
        working_set: &'a dyn Fn(SegmentSeq) -> u64,
    ) -> ArchiveView<'a> {
        ArchiveView {
            segment_blocks: self.segment_blocks,
            segments,
            named: self,
            sessions: &self.sessions,
            births: &self.births,
            gaps: &self.gaps,
            on_primary: &self.on_primary,
            never_before: self.oldest_on_primary,
            working_set,
        }
    }
}

impl NamedPoints for Lineage {
    fn synchs(&self) -> Box<dyn Iterator<Item = SynchPoint<'_>> + '_> {
        Box::new(self.synchs.iter().map(|synch| SynchPoint {
            lsn: synch.lsn,
            time_ns: synch.time_ns,
            label: synch.label,
            id: synch.id,
        }))
    }

    fn snapshots(&self) -> Box<dyn Iterator<Item = SnapshotPoint<'_>> + '_> {
        Box::new(self.snapshots.names().map(|(lsn, name)| SnapshotPoint { lsn, name }))
    }
}

impl Pool {
    /// Copies the data for retention. Cost: one step for each image, gap and segment on the device;
    /// synchs and snapshots cost one reference each.
    pub fn lineage(&self) -> Lineage {
        let (state, log) = (self.state.borrow(), self.log.borrow());
        let catalog: &Catalog = &state.catalog;
        let sessions = catalog.sessions.iter().map(|session| SessionPoints {
            oldest: Lsn(session.oldest),
            newest: Lsn(session.newest),
            name: session.name.clone(),
        });
        let segment_blocks = log.geometry().segment_blocks;
        let births = catalog.images.iter().filter_map(|image| {
            image.parent.map(|parent| ImageBirth {
                image: ImageId(image.id),
                parent_image: ImageId(parent.image),
                parent_lsn: Lsn(parent.lsn),
                born_lsn: Lsn(image.born_lsn),
                // Up to the change that records the hydration, its points are also looked up in the
                // parent.
                gone_lsn: image.independent_from().map(|from| Lsn(from).plus(segment_blocks)),
            })
        });
        let gone = catalog.gone_images.iter().filter(|gone| catalog.image(gone.id).is_none());
        let gone = gone.map(|image| ImageBirth {
            image: ImageId(image.id),
            parent_image: ImageId(image.parent.image),
            parent_lsn: Lsn(image.parent.lsn),
            born_lsn: Lsn(image.born_lsn),
            gone_lsn: Some(Lsn(image.gone_lsn)),
        });
        // The first length is in force up to the first change, whatever it was; the geometry has
        // the newest.
        let first = log.geometry().working_set;
        let mut on_primary: Vec<SegmentRange> = Vec::new();
        for sequence in log.table().on_device() {
            match on_primary.last_mut() {
                Some(range) if range.last.next() == sequence => range.last = sequence,
                _ => on_primary.push(SegmentRange { first: sequence, last: sequence }),
            }
        }
        Lineage {
            segment_blocks,
            oldest_on_primary: on_primary.first().map_or(log.table().next_sequence(), |range| range.first),
            on_primary,
            synchs: state.synchs.share(),
            snapshots: catalog.snapshots.clone(),
            sessions: sessions.collect(),
            births: births.chain(gone).collect(),
            change_lsn: state.catalog.change_lsn(),
            gaps: catalog.gaps.iter().chain(&catalog.lost).copied().collect(),
            working_sets: std::iter::once((SegmentSeq(0), first))
                .chain(catalog.working_sets.iter().copied())
                .collect(),
            clock: log.clock_status(),
        }
    }
}
