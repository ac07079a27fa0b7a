//! Lists what the store holds of the pool, and explains one point of it.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::{ManageError, failed};
use super::manager::ArchiveManager;
use crate::archive::catalog::{ArchiveCatalog, CatalogError, ObjectRow};
use crate::archive::retention::{ArchivedSegment, Explanation, TimeRange, explain};
use crate::log::reader::LsnRange;
use crate::log::{Lsn, SegmentSeq};
use crate::volume::Lineage;

/// How many objects a list has at most by default.
pub const LIST_LIMIT_DEFAULT: usize = 10_000;

/// The maximum age of the store listing that a status uses.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// An object as `archive_list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedObject {
    /// The segment.
    pub sequence: u64,
    /// The first position.
    pub from_lsn: u64,
    /// The position after the last.
    pub to_lsn: u64,
    /// Whether it is the whole, sealed segment, and not a part.
    pub whole: bool,
    /// Its bytes in the store.
    pub len_bytes: u64,
    /// When it was sealed; `None` if the object has not been read yet.
    pub sealed_ns: Option<u64>,
    /// The time of its first record.
    pub first_ns: Option<u64>,
    /// The time of its last record.
    pub last_ns: Option<u64>,
    /// Ranges whose entries could not be read when the object was archived: older data there is not
    /// certain.
    #[serde(default)]
    pub holes: Vec<LsnRange>,
    /// Whether it should be in the store but is not.
    #[serde(default)]
    pub lost: bool,
}

impl ArchiveManager {
    /// The pool's objects from a segment on, at most `limit`, in log order: the objects that the
    /// store lists, with the details that the objects contain, and the objects that are lost. Cost:
    /// one listing of the store, and one or two reads for each object that is new since the last
    /// call.
    pub(crate) fn list(&self, from: u64, limit: usize) -> Result<Vec<ArchivedObject>, ManageError> {
        let mut catalog = self.catalog()?;
        self.refresh(&mut catalog)?;
        let holes = holes_of(&catalog)?;
        // Skip parts whose segment is archived as a whole: they are about to be deleted, and
        // the whole object has the same data.
        let mut wholes = HashSet::new();
        let visited = catalog.for_each_object(|row| {
            if row.id.whole {
                wholes.insert((row.id.sequence, row.id.epoch));
            }
        });
        visited.map_err(failed)?;
        let mut rows: Vec<(ObjectRow, bool)> = Vec::new();
        let visited = catalog.for_each_object(|row| {
            let is_known = !row.id.whole && wholes.contains(&(row.id.sequence, row.id.epoch));
            if row.id.sequence.0 >= from && rows.len() < limit && !is_known {
                rows.push((row, false));
            }
        });
        visited.map_err(failed)?;
        let lost = catalog.lost_objects().map_err(failed)?.into_iter();
        rows.extend(lost.filter(|row| row.id.sequence.0 >= from).map(|row| (row, true)));
        rows.sort_by_key(|(row, _)| (row.id.epoch, row.id.sequence, row.id.from_lsn, row.id.to_lsn));
        rows.truncate(limit);
        Ok(rows.into_iter().map(|(row, lost)| shown(&row, &holes, lost)).collect())
    }

    /// What the last listing of the store found missing, in log order.
    pub(crate) fn lost(&self) -> Result<Vec<ObjectRow>, ManageError> {
        self.catalog()?.lost_objects().map_err(failed)
    }

    /// Lists the store, unless a status did so less than 10 s ago, to find lost objects. Tapes are
    /// not read, because that would take the drive away from the archivist.
    pub(crate) fn look_for_lost(&self) -> Result<(), ManageError> {
        let is_due = {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = looked.is_none_or(|looked| looked.elapsed() >= LOOK_INTERVAL);
            if is_due {
                *looked = Some(Instant::now());
            }
            is_due
        };
        if is_due && !self.store().capabilities().sequential_only {
            let mut catalog = self.catalog()?;
            catalog.rebuild(&*self.store(), &mut |_| ControlFlow::Continue(())).map_err(failed)?;
        }
        Ok(())
    }

    /// The ranges of all objects whose entries could not be read when they were archived.
    pub(crate) fn holes(&self) -> Result<Vec<LsnRange>, ManageError> {
        holes_of(&*self.catalog()?)
    }

    /// Updates the catalog from the store. Tapes are not read for the times of their objects,
    /// because that would take the drive away from the archivist.
    fn refresh(&self, catalog: &mut ArchiveCatalog) -> Result<(), ManageError> {
        let store = self.store();
        let store = &*store;
        catalog.rebuild(store, &mut |_| ControlFlow::Continue(())).map_err(failed)?;
        if !store.capabilities().sequential_only {
            match catalog.fill_details(store, &mut |_| ControlFlow::Continue(())) {
                // The names are known. Retention keeps an object without times, whatever the rules
                // say.
                Ok(_) | Err(CatalogError::Store(_)) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// The catalog, updated from the store, and the archived segments.
    pub(super) fn archived(
        &self,
        lineage: &Lineage,
    ) -> Result<(MutexGuard<'_, ArchiveCatalog>, Vec<ArchivedSegment>), ManageError> {
        let mut catalog = self.catalog()?;
        self.refresh(&mut catalog)?;
        let segments = archived_segments(&catalog, lineage.segment_blocks)?;
        Ok((catalog, segments))
    }

    /// Explains a position under the current rules.
    ///
    /// # Errors
    /// Those of the store and of the catalog.
    pub fn explain(&self, lineage: &Lineage, lsn: Lsn) -> Result<Explanation, ManageError> {
        let (catalog, segments) = self.archived(lineage)?;
        // Release the lock: the archivist's notes need the catalog.
        drop(catalog);
        Ok(explain(
            &self.keep(),
            lineage.clock.retention_ns(),
            &lineage.view(&segments, &|sequence| lineage.working_set(sequence)),
            lsn,
        ))
    }

    /// The archived segments, from the catalog.
    pub(super) fn segments(&self, segment_blocks: u64) -> Result<Vec<ArchivedSegment>, ManageError> {
        archived_segments(&*self.catalog()?, segment_blocks)
    }

    /// The pool's objects between two segments, both included, in log order, and whether they are
    /// lost. The catalog decides which objects should exist; the store's listing alone does not.
    pub(super) fn expected(&self, first: u64, last: u64) -> Result<Vec<(ObjectRow, bool)>, ManageError> {
        let mut catalog = self.catalog()?;
        catalog.rebuild(&*self.store(), &mut |_| ControlFlow::Continue(())).map_err(failed)?;
        let mut rows = Vec::new();
        let visited = catalog.for_each_object(|row| rows.push((row, false)));
        visited.map_err(failed)?;
        rows.extend(catalog.lost_objects().map_err(failed)?.into_iter().map(|row| (row, true)));
        rows.retain(|(row, _)| (first..=last).contains(&row.id.sequence.0));
        rows.sort_by_key(|(row, _)| (row.id.epoch, row.id.sequence, row.id.from_lsn, row.id.to_lsn));
        Ok(rows)
    }
}

fn holes_of(catalog: &ArchiveCatalog) -> Result<Vec<LsnRange>, ManageError> {
    Ok(catalog.gaps().map_err(failed)?.into_iter().map(|gap| gap.range).collect())
}

/// Converts an object to its shown form; `holes` are those of all objects.
fn shown(row: &ObjectRow, holes: &[LsnRange], lost: bool) -> ArchivedObject {
    let (details, id) = (row.details, row.id);
    let times = details.and_then(|details| details.records_ns);
    let is_inside = |hole: &&LsnRange| hole.start >= id.from_lsn && hole.end <= id.to_lsn;
    ArchivedObject {
        sequence: id.sequence.0,
        from_lsn: id.from_lsn.0,
        to_lsn: id.to_lsn.0,
        whole: id.whole,
        len_bytes: row.len_bytes,
        sealed_ns: details.map(|details| details.sealed_ns),
        first_ns: times.map(|(first_ns, _)| first_ns),
        last_ns: times.map(|(_, last_ns)| last_ns),
        holes: holes.iter().filter(is_inside).copied().collect(),
        lost,
    }
}

/// Combines objects into segments. If a segment was archived in several epochs, the newest epoch
/// counts.
fn archived_segments(
    catalog: &ArchiveCatalog,
    segment_blocks: u64,
) -> Result<Vec<ArchivedSegment>, ManageError> {
    let mut segments: Vec<(u32, ArchivedSegment)> = Vec::new();
    let visited = catalog.for_each_object(|row| {
        let times = row.details.map(|details| {
            let (first_ns, last_ns) = details.records_ns.unwrap_or((details.opened_ns, details.opened_ns));
            TimeRange { first_ns, last_ns }
        });
        let (id, first_lsn) = (row.id, row.id.sequence.0.saturating_mul(segment_blocks));
        let new = ArchivedSegment {
            sequence: id.sequence,
            archived_to: if id.from_lsn.0 == first_lsn { id.to_lsn } else { Lsn(first_lsn) },
            whole: id.whole,
            times,
        };
        match segments.last_mut() {
            Some((epoch, known)) if known.sequence == id.sequence && *epoch == id.epoch => {
                if id.whole || (known.archived_to >= id.from_lsn && known.archived_to < id.to_lsn) {
                    known.archived_to = id.to_lsn;
                }
                known.whole |= id.whole;
                known.times = match (known.times, times) {
                    (Some(old), Some(new)) => Some(TimeRange {
                        first_ns: old.first_ns.min(new.first_ns),
                        last_ns: old.last_ns.max(new.last_ns),
                    }),
                    _ => None,
                };
            }
            _ => segments.push((id.epoch, new)),
        }
    });
    visited.map_err(failed)?;
    // A later epoch writes from the position where the earlier one was cut off, so its segments
    // replace those with the same sequence number.
    let mut newest: std::collections::BTreeMap<SegmentSeq, ArchivedSegment> =
        std::collections::BTreeMap::new();
    for (_, segment) in segments {
        newest.insert(segment.sequence, segment);
    }
    Ok(newest.into_values().collect())
}
