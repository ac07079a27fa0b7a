//! Deletes objects from a store.

use super::failure;
use super::worker::{WorkerOptions, name_of};
use super::{ArchiveError, TablesCache};
use crate::archive::object::ObjectId;
use crate::archive::store::{Name, Store, StoreErrorKind};

/// Deletes objects, and their cached tables; returns how many existed. An object that the store
/// refuses to delete is skipped, and reported after the others are deleted. Any other failure stops
/// the run; calling again deletes the rest.
///
/// # Errors
/// [`ArchiveError::Store`]: the first failure.
pub fn delete(
    store: &dyn Store,
    ids: &[ObjectId],
    tables: &TablesCache,
    options: &WorkerOptions,
) -> Result<u64, ArchiveError> {
    let names = ids.iter().map(|id| name_of(store, id)).collect::<Result<Vec<_>, _>>()?;
    for id in ids {
        tables.forget(id);
    }
    delete_names(store, &names, options)
}

/// The same for objects of any kind, in this order.
pub(super) fn delete_names(
    store: &dyn Store,
    names: &[Name],
    options: &WorkerOptions,
) -> Result<u64, ArchiveError> {
    store.announce_deletes(names).map_err(failure::of_store)?;
    let mut removed = 0;
    let mut refused = None;
    for name in names {
        options.stop.check(store, "delete", name).map_err(failure::of_store)?;
        match store.delete(name) {
            Ok(()) => removed += 1,
            Err(error) if error.kind == StoreErrorKind::NotFound => {}
            Err(error) if error.is_refusal() => {
                refused.get_or_insert(error);
            }
            Err(error) => return Err(failure::of_store(error)),
        }
    }
    refused.map_or(Ok(removed), |error| Err(failure::of_store(error)))
}
