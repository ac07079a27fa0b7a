//! Compares the state that an anchor and the entries after it give with that of a scan alone.

use std::rc::Rc;

use uuid::Uuid;

use crate::log::Lsn;
use crate::reactor::yield_now;
use crate::volume::catalog::{Catalog, CatalogVolume};
use crate::volume::error::VolumeError;
use crate::volume::history::past::{Nowhere, ScanReport};
use crate::volume::image::index::IndexBuilder;
use crate::volume::pool::Pool;

/// How many leaves are compared in one piece.
const PIECE_LEAVES: usize = 4;

/// The result of a comparison.
#[derive(Debug, Clone, Default)]
pub struct AnchorCheck {
    /// Positions that were compared.
    pub positions: u64,
    /// Positions at which an anchor was used.
    pub anchored: u64,
    /// Entries that were read with anchors, and without.
    pub entries: (u64, u64),
    /// The first blocks that differ, with their positions in the log: a defect.
    pub differing: Vec<(Lsn, u64)>,
}

impl Pool {
    /// Opens a volume at some positions, which are ends of commands, with anchors and without, and
    /// compares the indexes.
    ///
    /// # Errors
    /// No such volume; the history at a position is gone. Positions at which it did not exist are
    /// passed over.
    pub async fn check_anchors(
        self: Rc<Self>,
        volume: String,
        positions: Vec<Lsn>,
    ) -> Result<AnchorCheck, VolumeError> {
        let found = self.find_volume(&volume);
        let uuid = found.ok_or(VolumeError::NoSuchVolume { name: volume })?.uuid;
        self.log.borrow_mut().close_up_to(Lsn::MAX);
        let mut check = AnchorCheck::default();
        for position in positions {
            self.check_anchor(uuid, position, &mut check).await?;
        }
        Ok(check)
    }

    async fn check_anchor(&self, uuid: Uuid, at: Lsn, check: &mut AnchorCheck) -> Result<(), VolumeError> {
        let catalog: Catalog = self.catalog_at(at).await?;
        let volume: Option<CatalogVolume> = catalog.volume_with_uuid(uuid).cloned();
        let Some(volume) = volume else { return Ok(()) };
        let (one, report) = self.index_at(&catalog, &volume, at).await?;
        let mut builder = IndexBuilder::new(volume.size_blocks).of_entries();
        let mut alone = ScanReport::default();
        self.scan_generations(&catalog, volume.image, at, &mut builder, &mut alone, Nowhere::Refuse).await?;
        check.positions += 1;
        check.anchored += u64::from(report.anchor_lsn.is_some());
        check.entries.0 += report.entries_scanned;
        check.entries.1 += alone.entries_scanned;
        let other = builder.finish();
        if one.mapped() != other.mapped() {
            check.differing.push((at, u64::MAX));
        }
        let mut next = Some(0);
        while let Some(from) = next {
            next =
                one.differences(&other, from, PIECE_LEAVES, |block, _, _| check.differing.push((at, block)));
            yield_now().await;
        }
        Ok(())
    }
}
