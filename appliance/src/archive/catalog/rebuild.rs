//! Makes the catalog agree with the store: by object names alone, page by page.

use std::collections::HashSet;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use super::lost::{self, LOST};
use super::rows::{OBJECTS, ObjectKey, insert_object};
use super::{ArchiveCatalog, CatalogError};
use crate::archive::object::{ObjectId, pool_prefix};
use crate::archive::store::Store;

/// Objects of one page of the list, and of one transaction.
const PAGE_OBJECTS: usize = 1000;

/// How far a rebuild has advanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Objects found in the store so far.
    pub objects: u64,
    /// The newest object so far.
    pub newest: ObjectId,
}

/// What a rebuild found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RebuildReport {
    /// Objects in the store.
    pub objects: u64,
    /// Their size in bytes.
    pub len_bytes: u64,
    /// Objects that the catalog listed and the store does not have. Those that no other object
    /// replaces are [lost](ArchiveCatalog::lost_objects).
    pub gone: u64,
    /// Names with the pool's prefix that are not object names. They are not touched.
    pub foreign: u64,
    /// Objects of other histories of the pool. They are not touched.
    pub beside: u64,
}

impl ArchiveCatalog {
    /// Lists the store and makes the catalog agree with it. The known details of objects that exist
    /// are kept, and objects that are not there any more are recorded as lost. Synchs and gaps stay
    /// as they are. `progress` is called for each page and may stop the run.
    ///
    /// The exclusive borrow prevents other changes of the catalog meanwhile: objects that are
    /// archived during a rebuild are recorded after it.
    ///
    /// # Errors
    /// The store's, the file's, or [`CatalogError::Stopped`]. The catalog must then be rebuilt, as
    /// before.
    pub fn rebuild(
        &mut self,
        store: &dyn Store,
        progress: &mut dyn FnMut(RebuildProgress) -> ControlFlow<()>,
    ) -> Result<RebuildReport, CatalogError> {
        self.complete.store(false, Ordering::Relaxed);
        self.unmark()?;
        let prefix = pool_prefix(self.pool);
        let mut report = RebuildReport::default();
        let mut after = None;
        let mut passed: Option<ObjectKey> = None;
        loop {
            let page = store.list(&prefix, after.as_ref(), PAGE_OBJECTS)?;
            let mut objects: Vec<(ObjectId, u64)> = Vec::with_capacity(page.objects.len());
            let mut last = None;
            for stat in &page.objects {
                match ObjectId::parse(stat.name.as_str()) {
                    Ok(id) if id.pool == self.pool => {
                        last = Some(id.place());
                        if (self.counts)(&id) {
                            objects.push((id, stat.len_bytes));
                        } else {
                            report.beside += 1;
                        }
                    }
                    _ => report.foreign += 1,
                }
            }
            // Catalog objects up to the last one of this page must be in the page. On the last
            // page, that holds for all remaining ones. Those that are not are gone.
            if last.is_some() || !page.more {
                report.gone += self.agree(passed, last.filter(|_| page.more), &objects)?;
                passed = last.or(passed);
            }
            report.objects += objects.len() as u64;
            report.len_bytes += objects.iter().map(|(_, len_bytes)| len_bytes).sum::<u64>();
            if let Some(&(newest, _)) = objects.last() {
                let now = RebuildProgress { objects: report.objects, newest };
                if progress(now).is_break() {
                    return Err(CatalogError::Stopped);
                }
            }
            match page.objects.into_iter().next_back() {
                Some(last) if page.more => after = Some(last.name),
                _ => break,
            }
        }
        self.update(|transaction| {
            lost::settle(&mut transaction.open_table(LOST)?, &transaction.open_table(OBJECTS)?)
        })?;
        self.complete.store(true, Ordering::Relaxed);
        self.sync()?;
        Ok(report)
    }

    /// Makes the catalog hold exactly `objects` in the range after `passed` up to and including
    /// `last`; returns how many it removed.
    fn agree(
        &self,
        passed: Option<ObjectKey>,
        last: Option<ObjectKey>,
        objects: &[(ObjectId, u64)],
    ) -> Result<u64, CatalogError> {
        let there: HashSet<ObjectKey> = objects.iter().map(|(id, _)| id.place()).collect();
        let from = passed.map_or(Unbounded, Excluded);
        let to = last.map_or(Unbounded, Included);
        self.update(|transaction| {
            let mut table = transaction.open_table(OBJECTS)?;
            let mut gone = Vec::new();
            table.retain_in::<ObjectKey, _>((from, to), |key, value| {
                let stays = there.contains(&key);
                if !stays {
                    gone.push((key, value));
                }
                stays
            })?;
            let mut lost = transaction.open_table(LOST)?;
            // The pool cannot lose an object of another history.
            gone.retain(|&(key, _)| (self.counts)(&ObjectId::at(self.pool, key)));
            for &(key, value) in &gone {
                lost.insert(key, value)?;
            }
            for (id, len_bytes) in objects {
                insert_object(&mut table, id, *len_bytes, None)?;
            }
            Ok(gone.len() as u64)
        })
    }
}
