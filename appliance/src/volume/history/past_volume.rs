//! The state of a volume at a position of the log.

use crate::log::Lsn;
use crate::volume::catalog::Catalog;
use crate::volume::history::volume_then::VolumeThen;
use crate::volume::image::index::Index;

/// A volume at a position.
#[derive(Clone)]
pub(in crate::volume) struct PastVolume {
    then: VolumeThen,
    /// The catalog there.
    catalog: Catalog,
    at: Lsn,
    index: Index,
    /// Mappings below this LSN are not certain; 0 if all are.
    uncertain_below: Lsn,
}

impl PastVolume {
    /// A volume whose index at a position is known already.
    pub(in crate::volume) fn known(
        then: VolumeThen,
        catalog: Catalog,
        at: Lsn,
        index: Index,
        uncertain_below: Lsn,
    ) -> Self {
        PastVolume { then, catalog, at, index, uncertain_below }
    }

    pub(in crate::volume) fn then(&self) -> &VolumeThen {
        &self.then
    }

    pub(in crate::volume) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    pub(in crate::volume) fn at(&self) -> Lsn {
        self.at
    }

    pub(in crate::volume) fn index(&self) -> &Index {
        &self.index
    }

    pub(in crate::volume) fn uncertain_below(&self) -> Lsn {
        self.uncertain_below
    }

    /// Its index alone.
    pub(in crate::volume) fn into_index(self) -> Index {
        self.index
    }
}
