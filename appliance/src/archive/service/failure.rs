//! Translates failures of stores and objects for the pool: retry later, never retry, or damage.

use super::ArchiveError;
use crate::archive::object::ObjectError;
use crate::archive::store::{Name, Store, StoreError, StoreErrorKind};

/// A store's failure.
pub(super) fn of_store(error: StoreError) -> ArchiveError {
    let StoreError { store, operation, object, kind } = error;
    if kind == StoreErrorKind::Overtaken {
        return ArchiveError::Overtaken { store };
    }
    let is_damage = match kind {
        StoreErrorKind::Corrupt(_) => !object.is_empty(),
        // Ranges are only requested within an object's length, so the object has become shorter.
        StoreErrorKind::OutOfRange => operation == "get",
        _ => false,
    };
    if is_damage {
        return ArchiveError::Damaged { store, object, reason: format!("{operation}: {kind}") };
    }
    let retry = match kind {
        // Somebody frees space or restores access, or the next try checks the existing object.
        StoreErrorKind::Unavailable(_)
        | StoreErrorKind::NoSpace
        | StoreErrorKind::Refused(_)
        | StoreErrorKind::Locked(_)
        | StoreErrorKind::Exists => true,
        StoreErrorKind::NotFound
        | StoreErrorKind::Corrupt(_)
        | StoreErrorKind::Unsupported(_)
        | StoreErrorKind::Overtaken
        | StoreErrorKind::OutOfRange => false,
    };
    let reason = if object.is_empty() {
        format!("{operation}: {kind}")
    } else {
        format!("{operation} of {object}: {kind}")
    };
    ArchiveError::Store { store, reason, retry }
}

/// A failure while an object was written or read.
pub(super) fn of_object(store: &dyn Store, name: &Name, error: ObjectError) -> ArchiveError {
    match error {
        ObjectError::Store(error) => of_store(error),
        ObjectError::Damaged { .. } => damaged(store, name, error.to_string()),
        error => ArchiveError::Store {
            store: store.label().to_owned(),
            reason: format!("{name}: {error}"),
            retry: matches!(error, ObjectError::OutOfMemory),
        },
    }
}

/// An object is damaged.
pub(super) fn damaged(store: &dyn Store, name: &Name, reason: String) -> ArchiveError {
    ArchiveError::Damaged { store: store.label().to_owned(), object: name.to_string(), reason }
}

/// A failure that a retry cannot cure.
pub(super) fn refused(store: &dyn Store, reason: String) -> ArchiveError {
    ArchiveError::Store { store: store.label().to_owned(), reason, retry: false }
}

/// A panic in a worker, with its message.
pub(super) fn panicked(store: &dyn Store, payload: &(dyn std::any::Any + Send)) -> ArchiveError {
    let words = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no words");
    refused(store, format!("a worker of the archive panicked (a defect of this program): {words}"))
}
