//! The parts of a pool that its archive reads and changes.

use crate::log::reader::LsnRange;
use crate::log::{Log, SegmentSeq};
use crate::volume::catalog::PresentCatalog;
use crate::volume::history::synchs::Synchs;
use crate::volume::problems::Problems;

/// The parts of a pool that its archive works with.
pub(in crate::volume) struct PoolSide<'a> {
    /// The log's catalog, with what it records of the archive.
    pub(in crate::volume) catalog: &'a mut PresentCatalog,
    /// The problems for the operator.
    pub(in crate::volume) problems: &'a mut Problems,
    /// The points that are known by name.
    pub(in crate::volume) synchs: &'a Synchs,
}

impl PoolSide<'_> {
    /// Records a range that left the primary device without being archived. Adjacent gaps are
    /// joined, and reported as one.
    pub(super) fn record_gap(&mut self, log: &mut Log, gap: LsnRange, why: &str) {
        let (whole, published) = self.catalog.add_gap(log, gap);
        self.problems.note_gap(whole, why);
        if let Err(error) = published {
            tracing::error!(%error, "the gap cannot be recorded in the catalog");
        }
    }

    /// Records in the catalog that everything before `below` is verified in the archive, or is a
    /// gap.
    pub(super) fn note_verified(&mut self, log: &mut Log, below: SegmentSeq) {
        if let Err(error) = self.catalog.note_verified(log, below) {
            tracing::warn!(%error, "the catalog cannot tell how far the archive is");
        }
    }
}
