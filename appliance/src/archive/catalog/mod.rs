//! The local catalog of an archive: what is known of its objects, in a file beside the pool, so that a start does not have to ask the store.
//!
//! It is only a cache. Everything in it but the gaps, and the objects that the store lost, is in the store, and [`rebuild`](ArchiveCatalog::rebuild) and
//! [`fill_details`](ArchiveCatalog::fill_details) find it there again. So a file that is missing, damaged, or of another pool, store or version is replaced by an
//! empty one, which is told to the operator ([`Replaced`]), and nothing is lost but time. Where the log has gaps, the pool's own state says; from the store alone only that
//! objects are missing can be seen.
//!
//! | table | key | value |
//! |---|---|---|
//! | `objects` | epoch, sequence, first LSN, LSN after the last, claim, whole: the parts of its name, in the order of the log | bytes; and its details once they are known |
//! | `synchs` | LSN | time, text (JSON as it stands in the log; empty when it could not be read) |
//! | `gaps` | first LSN | LSN behind the last, time, reason |
//! | `lost` | as of `objects` | as of `objects`: those that the store lost |
//! | `meta` | `version`, `pool`, `store`, `complete` | texts |
//!
//! **Durability.** Updates are not stable at once; [`sync`](ArchiveCatalog::sync) and [`close`](ArchiveCatalog::close) make them so. The mark `complete` says that the file
//! has everything: `close` sets it when a rebuild was done, and the first update after an open removes it, twice over, so that neither of the file's two newest states has it. After a crash the mark is missing,
//! and the catalog must be rebuilt; what it knows of objects that still exist is kept by that.
//!
//! **Threads.** Every call blocks on the file, and those with a store on the store: never call them from a reactor. Calls from several threads are safe.
//!
//! **Costs.** Opening reads the whole file and checks it (about 85 bytes an object). An update is one tree insert in memory. A rebuild lists the store once. Details cost one or two
//! reads of an object's first bytes, and two more for each synch in it. Memory: a cache of 16 MiB, one page of names, the entries of one object, and what was updated since the last sync.

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

/// What an opened catalog is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogState {
    /// Whether it may lack objects, or list some that are gone: call [`ArchiveCatalog::rebuild`].
    pub must_rebuild: bool,
    /// The file that was replaced, if there was one that could not be used.
    pub replaced: Option<Replaced>,
}

/// A catalog's file that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Why, in words for the operator.
    pub reason: String,
    /// Where it is now. An older one there was overwritten.
    pub moved_to: PathBuf,
}

/// Whether an object is of the pool's history.
pub type Counts = Box<dyn Fn(&ObjectId) -> bool + Send + Sync>;

/// The catalog of the archive of one pool. See the module's documentation.
pub struct ArchiveCatalog {
    path: PathBuf,
    pool: Uuid,
    database: Database,
    /// Whether it has everything as far as it was told: what the mark will say.
    complete: AtomicBool,
    /// Which objects of the pool are of its history.
    counts: Counts,
    /// Whether the mark stands in the file. Changed only while a write transaction is open, of which there is one at a time.
    marked: AtomicBool,
}

impl ArchiveCatalog {
    /// From now on a rebuild takes in only objects that `counts` says are of the pool's history.
    pub fn count_only(&mut self, counts: Counts) {
        self.counts = counts;
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pool.
    pub fn pool(&self) -> Uuid {
        self.pool
    }

    /// Takes note of an object that is in the store. What is known already of its details stays when `details` is `None`.
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

    /// Takes note of the stretches of an object whose entries nobody knows, in order; what was noted of them before is dropped.
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

    /// Takes note that an object is gone; returns whether it was known.
    ///
    /// # Errors
    /// [`CatalogError::OtherPool`], or the file's.
    pub fn forget_object(&self, id: &ObjectId) -> Result<bool, CatalogError> {
        self.check_pool(id)?;
        self.update(|transaction| Ok(transaction.open_table(OBJECTS)?.remove(id.place())?.is_some()))
    }

    /// What is known of an object.
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

    /// Gives all objects to `visit`, in the order of the log: a consistent view, which updates meanwhile do not change.
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

    /// The first `limit` objects behind `after` whose details are not known, in the order of the log. Cost: the objects that are passed over.
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

    /// Takes note of a synch. A text that is known is not replaced by an empty one.
    ///
    /// # Errors
    /// The file's.
    pub fn record_synch(&self, synch: &SynchRow) -> Result<(), CatalogError> {
        self.update(|transaction| rows::insert_synch(&mut transaction.open_table(SYNCHS)?, synch))
    }

    /// Takes note that a synch cannot be restored any more; returns whether it was known.
    ///
    /// # Errors
    /// The file's.
    pub fn forget_synch(&self, lsn: Lsn) -> Result<bool, CatalogError> {
        self.update(|transaction| Ok(transaction.open_table(SYNCHS)?.remove(lsn.0)?.is_some()))
    }

    /// All synchs, in the order of the log.
    ///
    /// # Errors
    /// The file's.
    pub fn synchs(&self) -> Result<Vec<SynchRow>, CatalogError> {
        self.look(|transaction| {
            let mut synchs = Vec::new();
            for item in transaction.open_table(SYNCHS)?.iter()? {
                let (key, value) = item?;
                let (time_ns, text) = value.value();
                synchs.push(SynchRow { lsn: Lsn(key.value()), time_ns, text: text.to_vec() });
            }
            Ok(synchs)
        })
    }

    /// Takes note of a gap. One that begins at the same LSN is replaced.
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

    /// Takes note that a gap does not matter any more; returns whether it was known.
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

    /// Makes all updates so far stable. The mark is not set: after a crash the catalog is rebuilt, but from what is here.
    ///
    /// # Errors
    /// The file's.
    pub fn sync(&self) -> Result<(), CatalogError> {
        self.write(Durability::Immediate, |_| Ok(()))
    }

    /// Makes all updates stable and, if the catalog has everything, says so in the file. A catalog that is dropped does the same, but cannot tell a failure.
    ///
    /// # Errors
    /// The file's; the next start rebuilds it then.
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

    /// Removes the mark if it stands, for good: twice, because the file can fall back from its newest state to the one before.
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

    /// Changes the catalog; not stable at once.
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
        // Without the mark the next start rebuilds it: nothing is wrong then, only slower.
        drop(self.mark());
    }
}
