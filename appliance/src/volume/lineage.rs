//! What retention has to know of a pool beside its archive.

use super::pool::Pool;
use crate::archive::retention::{Generation, SnapshotPoint, SynchPoint};
use crate::log::reader::LsnRange;
use crate::log::{ImageId, Lsn, SegmentSeq};

/// A pool's part of an [`ArchiveView`](crate::archive::retention::ArchiveView): a copy, for use on another thread.
#[derive(Debug, Clone)]
pub struct Lineage {
    /// Size of the pool's segments, in blocks.
    pub segment_blocks: u64,
    /// It and every newer segment have a slot on the primary device.
    pub oldest_on_primary: SegmentSeq,
    /// All synchs, in the order of the log.
    pub synchs: Vec<SynchPoint>,
    /// The snapshots.
    pub snapshots: Vec<SnapshotPoint>,
    /// The images with a parent that exist now. One that is hydrated is not told from one that needs its parent: too much is said to be needed, never too little.
    pub generations: Vec<Generation>,
    /// Stretches of the log that left the primary device without having been archived, or that are lost.
    pub gaps: Vec<LsnRange>,
    /// Lengths of the working set, and the segments from which on they were in force, oldest first; the first begins with the log.
    pub working_sets: Vec<(SegmentSeq, u64)>,
}

impl Lineage {
    /// The length of the working set that was in force at a segment (W).
    pub fn working_set(&self, sequence: SegmentSeq) -> u64 {
        let after = self.working_sets.partition_point(|(since, _)| *since <= sequence);
        self.working_sets[..after].last().map_or(0, |(_, segments)| *segments)
    }
}

impl Pool {
    /// What retention has to know. Cost: a copy of the synchs' labels.
    pub fn lineage(&self) -> Lineage {
        let (state, log) = (self.state.borrow(), self.log.borrow());
        let catalog = &state.catalog;
        let synchs = state.synchs.iter().map(|synch| SynchPoint {
            lsn: Lsn(synch.lsn),
            time_ns: synch.time_ns,
            label: synch.label.clone(),
            id: synch.id,
        });
        let snapshots = catalog
            .snapshots
            .iter()
            .map(|snapshot| SnapshotPoint { lsn: Lsn(snapshot.lsn), name: snapshot.name.clone() });
        let generations = catalog.images.iter().filter_map(|image| {
            image.parent.map(|parent| Generation {
                image: ImageId(image.id),
                parent_image: ImageId(parent.image),
                parent_lsn: Lsn(parent.lsn),
                born_lsn: Lsn(image.born_lsn),
                gone_lsn: None,
            })
        });
        // The first length is in force up to the first change, whatever it was then: the geometry has the newest.
        let first = log.geometry().working_set;
        let on_primary = log.table().iter().rev().take_while(|(_, segment)| segment.slot.is_some()).last();
        Lineage {
            segment_blocks: log.geometry().segment_blocks,
            oldest_on_primary: on_primary.map_or(log.table().next_sequence(), |(sequence, _)| sequence),
            synchs: synchs.collect(),
            snapshots: snapshots.collect(),
            generations: generations.collect(),
            gaps: catalog.gaps.iter().chain(&catalog.lost).copied().collect(),
            working_sets: std::iter::once((SegmentSeq(0), first))
                .chain(catalog.working_sets.iter().copied())
                .collect(),
        }
    }
}
