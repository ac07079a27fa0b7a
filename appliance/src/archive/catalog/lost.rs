//! Objects that disappeared from the store although nothing deleted them: the expected content of
//! the store, compared with the actual one.
//!
//! A row is added when a list of the store lacks an object that the catalog knew. It is removed
//! when the object is there again, when the whole segment replaces its part, or when the
//! object expires. The rows are as durable as the catalog: after a restart the lost objects are
//! reported again.

use redb::{ReadableTable, Table, TableDefinition, TableError};

use super::rows::{OBJECTS, ObjectKey, ObjectValue, row_of};
use super::{ArchiveCatalog, CatalogError, ObjectRow};
use crate::archive::object::ObjectId;

/// The keys and values have the same types as those of `objects`.
pub(super) const LOST: TableDefinition<'_, ObjectKey, ObjectValue> = TableDefinition::new("lost");

/// Whether another object replaces this one: the whole segment, or the same stretch under another
/// claim.
fn is_replaced(
    objects: &impl ReadableTable<ObjectKey, ObjectValue>,
    (epoch, sequence, from, to, ..): ObjectKey,
) -> Result<bool, redb::Error> {
    let of_segment =
        (epoch, sequence, 0, 0, 0, false)..=(epoch, sequence, u64::MAX, u64::MAX, u64::MAX, true);
    for item in objects.range(of_segment)? {
        let (_, _, other_from, other_to, _, whole) = item?.0.value();
        if whole || (other_from, other_to) == (from, to) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the rows of objects that are there again or replaced.
pub(super) fn settle(
    lost: &mut Table<'_, ObjectKey, ObjectValue>,
    objects: &impl ReadableTable<ObjectKey, ObjectValue>,
) -> Result<(), redb::Error> {
    let mut found = Vec::new();
    for item in lost.iter()? {
        let key = item?.0.value();
        if objects.get(key)?.is_some() || is_replaced(objects, key)? {
            found.push(key);
        }
    }
    for key in found {
        lost.remove(key)?;
    }
    Ok(())
}

impl ArchiveCatalog {
    /// The objects that should be in the store and are not, in the order of the log, as of the last
    /// [`rebuild`](Self::rebuild).
    ///
    /// # Errors
    /// The file's.
    pub fn lost_objects(&self) -> Result<Vec<ObjectRow>, CatalogError> {
        self.look(|transaction| {
            let lost = match transaction.open_table(LOST) {
                Ok(lost) => lost,
                // The file was written by an earlier build.
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            };
            let objects = transaction.open_table(OBJECTS)?;
            let mut rows = Vec::new();
            for item in lost.iter()? {
                let (key, value) = item?;
                let key = key.value();
                if objects.get(key)?.is_none() && !is_replaced(&objects, key)? {
                    rows.push(row_of(ObjectId::at(self.pool, key), value.value()));
                }
            }
            Ok(rows)
        })
    }

    /// Records that objects expired: they are removed from the catalog and do not count as lost.
    ///
    /// # Errors
    /// [`CatalogError::OtherPool`], or the file's.
    pub fn let_go(&self, ids: &[ObjectId]) -> Result<(), CatalogError> {
        for id in ids {
            self.check_pool(id)?;
        }
        self.update(|transaction| {
            let mut objects = transaction.open_table(OBJECTS)?;
            let mut lost = transaction.open_table(LOST)?;
            for id in ids {
                objects.remove(id.place())?;
                lost.remove(id.place())?;
            }
            Ok(())
        })
    }
}
