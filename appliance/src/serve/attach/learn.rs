//! Learns what the store holds of a pool: lists the store, and reads objects that are new to the
//! local catalog for their synchs.

use std::ops::ControlFlow;
use std::path::Path;

use uuid::Uuid;

use crate::archive::catalog::{ArchiveCatalog, CatalogError, Counts};
use crate::archive::store::Store;
use crate::serve::progress::StartProgress;
use crate::serve::store::pools_in;
use crate::volume::{KnownObjects, SynchInfo, SynchTable};

/// What the store holds of a pool.
pub(in crate::serve) struct Learned {
    pub(in crate::serve) known: KnownObjects,
    pub(in crate::serve) synchs: SynchTable,
    pub(in crate::serve) catalog: ArchiveCatalog,
    /// Objects that the local catalog held before the store was listed.
    pub(super) known_before: u64,
    pub(in crate::serve) notes: Vec<String>,
}

/// Lists the store and updates the local catalog. Objects that are not of the pool's history,
/// according to `counts`, are ignored. Blocks.
///
/// # Errors
/// The store's, if it cannot be listed; the catalog's file.
pub(in crate::serve) fn learn(
    store: &dyn Store,
    pool: Uuid,
    catalog_path: &Path,
    is_new: bool,
    counts: Counts,
) -> Result<Learned, CatalogError> {
    let mut known = KnownObjects::default();
    // Without them the pool only opens points more slowly.
    let anchors = known.list_anchors(store, pool, &counts);
    let mut progress = StartProgress::new();
    let mut notes = Vec::new();
    notes.extend(anchors.err().map(|error| format!("the archive's anchors are not used: {error}")));
    let (mut catalog, state) = ArchiveCatalog::open(catalog_path, pool, store.label())?;
    if let Some(replaced) = state.replaced.filter(|_| !is_new) {
        notes.push(format!(
            "the archive's local catalog was made anew: {}; the old one is {}",
            replaced.reason,
            replaced.moved_to.display()
        ));
    }
    let mut known_before = 0;
    catalog.for_each_object(|_| known_before += 1)?;
    catalog.count_only(counts);
    // Always: the names in the store are the truth, and objects that another start uploaded must be
    // known.
    catalog.rebuild(store, &mut |found| {
        progress.listed(found.objects);
        ControlFlow::Continue(())
    })?;
    let missing = count_missing(&catalog)?;
    let filled = catalog.fill_details(store, &mut |read| {
        progress.read(read.objects, missing);
        ControlFlow::Continue(())
    });
    progress.finish();
    match filled {
        Ok(report) => notes.extend(report.problems.into_iter().map(|problem| format!("archive: {problem}"))),
        // The pool can be served: at most some synchs are missing until the next start.
        Err(CatalogError::Store(error)) => {
            notes.push(format!("the archive was not read to its end, synchs may be missing: {error}"));
        }
        Err(error) => return Err(error),
    }
    let mut ids = Vec::new();
    catalog.for_each_object(|row| ids.push(row.id))?;
    known.extend(ids);
    notes.extend(
        catalog
            .gaps()?
            .into_iter()
            .map(|gap| format!("archive: LSN {} to {}: {}", gap.range.start, gap.range.end, gap.reason)),
    );
    known.note_lost(catalog.lost_objects()?.into_iter().map(|row| row.id));
    if known.is_empty() {
        let others = pools_in(store)?.into_iter().filter(|&other| other != pool).count();
        if others > 0 {
            notes.push(format!(
                "the archive holds nothing of this pool, but something of other pools ({others}); varve pool recover brings one back into an empty directory"
            ));
        }
    }
    let mut synchs = SynchTable::default();
    catalog.for_each_synch(|lsn, time_ns, text| {
        // If its text is lost, it is still a point.
        let synch = SynchInfo::of_text(lsn.0, text);
        synchs.push(&synch.unwrap_or_else(|| SynchInfo::damaged(lsn.0, time_ns)));
    })?;
    Ok(Learned { known, synchs, catalog, known_before, notes })
}

fn count_missing(catalog: &ArchiveCatalog) -> Result<u64, CatalogError> {
    let mut missing = 0;
    catalog.for_each_object(|row| missing += u64::from(row.details.is_none()))?;
    Ok(missing)
}
