//! What the store holds of the pool, and one point of it explained.

use std::ops::ControlFlow;
use std::sync::MutexGuard;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{ArchivePlane, failed};
use crate::archive::catalog::ArchiveCatalog;
use crate::archive::object::ObjectId;
use crate::archive::retention::{ArchivedSegment, Explanation, TimeRange, explain};
use crate::log::{Lsn, SegmentSeq};
use crate::rpc::error::RpcError;
use crate::volume::Lineage;

/// The most objects of a list unless asked otherwise.
pub const LIST_LIMIT_DEFAULT: usize = 10_000;

/// An object as `archive_list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedObject {
    /// The segment.
    pub sequence: u64,
    /// The first position.
    pub from_lsn: u64,
    /// The position behind the last.
    pub to_lsn: u64,
    /// Whether it is the whole, sealed segment, and not an increment.
    pub whole: bool,
    /// Its bytes in the store.
    pub len_bytes: u64,
    /// When it was sealed; `None` when it was not read yet.
    pub sealed_ns: Option<u64>,
    /// The time of its first record.
    pub first_ns: Option<u64>,
    /// The time of its last record.
    pub last_ns: Option<u64>,
}

impl ArchivePlane {
    /// The pool's objects from a segment on, at most `limit`, in the order of the log: the store's list, with what the objects tell of themselves. Cost: a list of the store,
    /// and a read or two for each object that is new since the last time.
    pub(crate) fn list(&self, from: u64, limit: usize) -> Result<Vec<ArchivedObject>, RpcError> {
        let mut catalog = self.catalog()?;
        self.refresh(&mut catalog)?;
        let mut objects = Vec::new();
        let visited = catalog.for_each_object(|row| {
            if row.id.sequence.0 < from || objects.len() >= limit {
                return;
            }
            let details = row.details;
            let times = details.and_then(|details| details.records_ns);
            objects.push(ArchivedObject {
                sequence: row.id.sequence.0,
                from_lsn: row.id.from_lsn.0,
                to_lsn: row.id.to_lsn.0,
                whole: row.id.whole,
                len_bytes: row.len_bytes,
                sealed_ns: details.map(|details| details.sealed_ns),
                first_ns: times.map(|(first_ns, _)| first_ns),
                last_ns: times.map(|(_, last_ns)| last_ns),
            });
        });
        visited.map_err(failed)?;
        Ok(objects)
    }

    /// Makes the catalog agree with the store. What is on tape is not read for its times: that would take the tape away from the archivist.
    fn refresh(&self, catalog: &mut ArchiveCatalog) -> Result<(), RpcError> {
        let store = &**self.store();
        catalog.rebuild(store, &mut |_| ControlFlow::Continue(())).map_err(failed)?;
        if !store.capabilities().sequential_only {
            catalog.fill_details(store, &mut |_| ControlFlow::Continue(())).map_err(failed)?;
        }
        Ok(())
    }

    /// The catalog, made to agree with the store, and the segments that are archived.
    pub(super) fn archived(
        &self,
        lineage: &Lineage,
    ) -> Result<(MutexGuard<'_, ArchiveCatalog>, Vec<ArchivedSegment>), RpcError> {
        let mut catalog = self.catalog()?;
        self.refresh(&mut catalog)?;
        let segments = archived_segments(&catalog, lineage.segment_blocks)?;
        Ok((catalog, segments))
    }

    /// Explains a position by the rules in force.
    ///
    /// # Errors
    /// The store's, the catalog's.
    pub fn explain(&self, lineage: &Lineage, lsn: Lsn) -> Result<Explanation, RpcError> {
        let (catalog, segments) = self.archived(lineage)?;
        // The archivist's notes need it.
        drop(catalog);
        Ok(explain(
            &self.keep(),
            wall_ns(),
            &lineage.view(&segments, &|sequence| lineage.working_set(sequence)),
            lsn,
        ))
    }

    /// The pool's objects between two segments, both included, in the order of the log.
    pub(super) fn ids(&self, first: u64, last: u64) -> Result<Vec<(ObjectId, u64)>, RpcError> {
        let mut catalog = self.catalog()?;
        catalog.rebuild(&**self.store(), &mut |_| ControlFlow::Continue(())).map_err(failed)?;
        let mut ids = Vec::new();
        let visited = catalog.for_each_object(|row| {
            if (first..=last).contains(&row.id.sequence.0) {
                ids.push((row.id, row.len_bytes));
            }
        });
        visited.map_err(failed)?;
        Ok(ids)
    }
}

/// The time by which retention is judged, ns since the Unix epoch.
pub(crate) fn wall_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Objects joined to segments. Of a segment that was archived in several epochs the newest counts.
fn archived_segments(
    catalog: &ArchiveCatalog,
    segment_blocks: u64,
) -> Result<Vec<ArchivedSegment>, RpcError> {
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
    // A later epoch writes from where the earlier one was cut off: its segments replace those of the same sequence.
    let mut newest: std::collections::BTreeMap<SegmentSeq, ArchivedSegment> =
        std::collections::BTreeMap::new();
    for (_, segment) in segments {
        newest.insert(segment.sequence, segment);
    }
    Ok(newest.into_values().collect())
}
