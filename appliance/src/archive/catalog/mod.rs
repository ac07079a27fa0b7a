//! The local catalog of an archive: a file next to the pool that caches what the store holds, so
//! that a start does not have to list the store.
//!
//! The catalog is only a cache. Everything in it except the gaps and the lost objects is also in
//! the store, and [`rebuild`](ArchiveCatalog::rebuild) and
//! [`fill_details`](ArchiveCatalog::fill_details) read it from there again. So a file that is
//! missing, damaged, or of another pool, store or version is replaced by an empty one. The operator
//! is informed ([`Replaced`]), and only time is lost. The pool's own state records the gaps of the
//! log; the store alone shows only that objects are missing.
//!
//! | table | key | value |
//! |---|---|---|
//! | `objects` | epoch, sequence, first LSN, LSN after the last, claim, whole: the parts of its name, in the order of the log | bytes; and its details once they are known |
//! | `synchs` | LSN | time, text (JSON as in the log; empty when it could not be read) |
//! | `gaps` | first LSN | LSN after the last, time, reason |
//! | `lost` | as of `objects` | as of `objects`: the objects that the store lost |
//! | `meta` | `version`, `pool`, `store`, `complete` | texts |
//!
//! **Durability.** Updates are not stable at once; [`sync`](ArchiveCatalog::sync) and
//! [`close`](ArchiveCatalog::close) make them stable. The mark `complete` states that the file has
//! everything: `close` sets it if a rebuild has finished. The first update after an open removes
//! the mark, in two commits, so that neither of the file's two newest states has it. After a crash
//! the mark is missing, and the catalog must be rebuilt. The rebuild keeps the known details of
//! objects that still exist.
//!
//! **Threads.** Every call blocks on the file, and calls that take a store block on the store:
//! never call them from a reactor. Calls from several threads are safe.
//!
//! **Costs.** Opening reads and checks the whole file (about 85 bytes per object). An update is one
//! tree insert in memory. A rebuild lists the store once. Details cost one or two reads of an
//! object's first bytes, and two more for each synch in it. Memory: a cache of 16 MiB, one page of
//! names, the entries of one object, and the updates since the last sync.

mod details;
mod error;
mod lost;
mod open;
mod rebuild;
mod rows;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};
use uuid::Uuid;

use super::object::ObjectId;
use crate::log::reader::LsnRange;
use crate::log::types::Lsn;

pub use details::{FillProgress, FillReport};
pub use error::CatalogError;
pub use open::is_same_store;
pub use rebuild::{RebuildProgress, RebuildReport};
pub use rows::{GapRow, ObjectDetails, ObjectRow, SynchRow};

use rows::{COMPLETE, GAPS, META, OBJECTS, SYNCHS, row_of};

/// The state of a catalog after it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogState {
    /// Whether it may lack objects, or list objects that are gone: call
    /// [`ArchiveCatalog::rebuild`].
    pub must_rebuild: bool,
    /// The unusable file that was replaced, if there was one.
    pub replaced: Option<Replaced>,
}

/// A catalog file that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Why, in words for the operator.
    pub reason: String,
    /// Its new path. An older file at that path was overwritten.
    pub moved_to: PathBuf,
}

/// Whether an object belongs to the pool's history.
pub type Counts = Box<dyn Fn(&ObjectId) -> bool + Send + Sync>;

/// The catalog of the archive of one pool. See the module's documentation.
pub struct ArchiveCatalog {
    path: PathBuf,
    pool: Uuid,
    database: Database,
    /// Whether the catalog has everything that was recorded: the value that `close` writes as the
    /// mark.
    complete: AtomicBool,
    /// Which objects of the pool belong to its history.
    counts: Counts,
    /// Whether the mark is set in the file. Changed only while a write transaction is open, and
    /// there is only one at a time.
    marked: AtomicBool,
}

impl ArchiveCatalog {
    /// From now on a rebuild includes only objects for which `counts` returns true: those of the
    /// pool's history.
    pub fn count_only(&mut self, counts: Counts) {
        self.counts = counts;
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pool.
    pub fn pool(&self) -> Uuid {
        self.pool
    }

    /// Records an object that is in the store. Known details are kept when `details` is `None`.
    ///
    /// # Errors
    /// [`CatalogError::OtherPool`], or the file's.
    pub fn record_object(
        &self,
        id: &ObjectId,
        len_bytes: u64,
        details: Option<ObjectDetails>,
    ) -> Result<(), CatalogError> {
        self.check_pool(id)?;
        self.update(|transaction| {
            rows::insert_object(&mut transaction.open_table(OBJECTS)?, id, len_bytes, details)
        })
    }

    /// Records the stretches of an object whose entries are unknown, in order. They replace what
    /// was recorded for this object before.
    ///
    /// # Errors
    /// [`CatalogError::OtherPool`], or the file's.
    pub fn record_holes(
        &self,
        id: &ObjectId,
        holes: &[LsnRange],
        sealed_ns: u64,
    ) -> Result<(), CatalogError> {
        self.check_pool(id)?;
        self.update(|transaction| {
            rows::insert_holes(&mut transaction.open_table(GAPS)?, id, holes, sealed_ns)
        })
    }

    /// Removes an object that is gone; returns whether it was known.
    ///
    /// # Errors
    /// [`CatalogError::OtherPool`], or the file's.
    pub fn forget_object(&self, id: &ObjectId) -> Result<bool, CatalogError> {
        self.check_pool(id)?;
        self.update(|transaction| Ok(transaction.open_table(OBJECTS)?.remove(id.place())?.is_some()))
    }

    /// What the catalog has on an object.
    ///
    /// # Errors
    /// The file's.
    pub fn object(&self, id: &ObjectId) -> Result<Option<ObjectRow>, CatalogError> {
        if id.pool != self.pool {
            return Ok(None);
        }
        self.look(|transaction| {
            let value = transaction.open_table(OBJECTS)?.get(id.place())?.map(|value| value.value());
            Ok(value.map(|value| row_of(*id, value)))
        })
    }

    /// Passes all objects to `visit`, in the order of the log. The view is consistent: concurrent
    /// updates do not change it.
    ///
    /// # Errors
    /// The file's.
    pub fn for_each_object(&self, mut visit: impl FnMut(ObjectRow)) -> Result<(), CatalogError> {
        self.look(|transaction| {
            for item in transaction.open_table(OBJECTS)?.iter()? {
                let (key, value) = item?;
                visit(row_of(ObjectId::at(self.pool, key.value()), value.value()));
            }
            Ok(())
        })
    }

    /// The first `limit` objects after `after` whose details are not known, in the order of the
    /// log. Cost: the objects that are skipped.
    ///
    /// # Errors
    /// The file's.
    pub fn missing_details(
        &self,
        after: Option<&ObjectId>,
        limit: usize,
    ) -> Result<Vec<ObjectId>, CatalogError> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.look(|transaction| {
            let mut ids = Vec::new();
            let from = after.map_or(Unbounded, |id| Excluded(id.place()));
            for item in transaction.open_table(OBJECTS)?.range::<rows::ObjectKey>((from, Unbounded))? {
                if ids.len() >= limit {
                    break;
                }
                let (key, value) = item?;
                if value.value().1.is_none() {
                    ids.push(ObjectId::at(self.pool, key.value()));
                }
            }
            Ok(ids)
        })
    }

    /// Records a synch. An empty text does not replace a known one.
    ///
    /// # Errors
    /// The file's.
    pub fn record_synch(&self, synch: &SynchRow) -> Result<(), CatalogError> {
        self.update(|transaction| rows::insert_synch(&mut transaction.open_table(SYNCHS)?, synch))
    }

    /// Removes a synch that cannot be restored any more; returns whether it was known.
    ///
    /// # Errors
    /// The file's.
    pub fn forget_synch(&self, lsn: Lsn) -> Result<bool, CatalogError> {
        self.update(|transaction| Ok(transaction.open_table(SYNCHS)?.remove(lsn.0)?.is_some()))
    }

    /// Passes all synchs to `visit`, in the order of the log: position, time, and text, which is
    /// empty when it could not be read.
    ///
    /// # Errors
    /// The file's.
    pub fn for_each_synch(&self, mut visit: impl FnMut(Lsn, u64, &[u8])) -> Result<(), CatalogError> {
        self.look(|transaction| {
            for item in transaction.open_table(SYNCHS)?.iter()? {
                let (key, value) = item?;
                let (time_ns, text) = value.value();
                visit(Lsn(key.value()), time_ns, text);
            }
            Ok(())
        })
    }

    /// All synchs, in the order of the log. There may be a million;
    /// [`for_each_synch`](Self::for_each_synch) needs no memory for them.
    ///
    /// # Errors
    /// The file's.
    pub fn synchs(&self) -> Result<Vec<SynchRow>, CatalogError> {
        let mut synchs = Vec::new();
        self.for_each_synch(|lsn, time_ns, text| {
            synchs.push(SynchRow { lsn, time_ns, text: text.to_vec() });
        })?;
        Ok(synchs)
    }

    /// Records a gap. It replaces a gap that begins at the same LSN.
    ///
    /// # Errors
    /// The file's.
    pub fn record_gap(&self, gap: &GapRow) -> Result<(), CatalogError> {
        self.update(|transaction| {
            let value = (gap.range.end.0, gap.time_ns, gap.reason.as_str());
            transaction.open_table(GAPS)?.insert(gap.range.start.0, value)?;
            Ok(())
        })
    }

    /// Removes a gap that no longer matters; returns whether it was known.
    ///
    /// # Errors
    /// The file's.
    pub fn forget_gap(&self, start: Lsn) -> Result<bool, CatalogError> {
        self.update(|transaction| Ok(transaction.open_table(GAPS)?.remove(start.0)?.is_some()))
    }

    /// All gaps, in the order of the log.
    ///
    /// # Errors
    /// The file's.
    pub fn gaps(&self) -> Result<Vec<GapRow>, CatalogError> {
        self.look(|transaction| {
            let mut gaps = Vec::new();
            for item in transaction.open_table(GAPS)?.iter()? {
                let (key, value) = item?;
                let (end, time_ns, reason) = value.value();
                let range = LsnRange { start: Lsn(key.value()), end: Lsn(end) };
                gaps.push(GapRow { range, time_ns, reason: reason.to_owned() });
            }
            Ok(gaps)
        })
    }

    /// Makes all updates so far stable. The mark is not set: after a crash the catalog is rebuilt,
    /// starting from this state.
    ///
    /// # Errors
    /// The file's.
    pub fn sync(&self) -> Result<(), CatalogError> {
        self.write(Durability::Immediate, |_| Ok(()))
    }

    /// Makes all updates stable and, if the catalog has everything, sets the mark in the file.
    /// Dropping a catalog does the same, but cannot report a failure.
    ///
    /// # Errors
    /// The file's; the next start then rebuilds the catalog.
    pub fn close(self) -> Result<(), CatalogError> {
        self.mark()
    }

    fn mark(&self) -> Result<(), CatalogError> {
        if self.marked.load(Ordering::Relaxed) {
            return Ok(());
        }
        let complete = self.complete.load(Ordering::Relaxed);
        self.write(Durability::Immediate, |transaction| {
            if complete {
                transaction.open_table(META)?.insert(COMPLETE, "yes")?;
            }
            Ok(())
        })?;
        self.marked.store(complete, Ordering::Relaxed);
        Ok(())
    }

    /// Removes the mark permanently if it is set: in two commits, because the file can fall back
    /// from its newest state to the one before.
    fn unmark(&self) -> Result<(), CatalogError> {
        if self.marked.load(Ordering::Relaxed) {
            for _ in 0..2 {
                self.write(Durability::Immediate, |transaction| {
                    transaction.open_table(META)?.insert(COMPLETE, "no")?;
                    Ok(())
                })?;
            }
            self.marked.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    fn check_pool(&self, id: &ObjectId) -> Result<(), CatalogError> {
        if id.pool == self.pool { Ok(()) } else { Err(CatalogError::OtherPool { pool: id.pool }) }
    }

    /// Changes the catalog. The change is not stable at once.
    fn update<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, CatalogError> {
        self.unmark()?;
        self.write(Durability::None, change)
    }

    fn write<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, CatalogError> {
        let write = || {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(durability)?;
            let result = change(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        write().map_err(|error| CatalogError::database(&self.path, error))
    }

    fn look<T>(
        &self,
        look: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, CatalogError> {
        let read = || look(&self.database.begin_read()?);
        read().map_err(|error| CatalogError::database(&self.path, error))
    }
}

impl Drop for ArchiveCatalog {
    fn drop(&mut self) {
        // Without the mark the next start rebuilds the catalog: slower, but correct.
        drop(self.mark());
    }
}
