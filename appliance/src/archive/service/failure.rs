//! What failures of stores and objects are to the pool: worth another try, never, or damage.

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
        // Ranges of an object are asked for within its length only, so it has become shorter.
        StoreErrorKind::OutOfRange => operation == "get",
        _ => false,
    };
    if is_damage {
        return ArchiveError::Damaged { store, object, reason: format!("{operation}: {kind}") };
    }
    let retry = match kind {
        // Somebody makes room, or gives the access back, or the next try looks at what exists.
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

/// Damage of an object.
pub(super) fn damaged(store: &dyn Store, name: &Name, reason: String) -> ArchiveError {
    ArchiveError::Damaged { store: store.label().to_owned(), object: name.to_string(), reason }
}

/// What will not do better later.
pub(super) fn refused(store: &dyn Store, reason: String) -> ArchiveError {
    ArchiveError::Store { store: store.label().to_owned(), reason, retry: false }
}

/// A panic in a worker, with its words.
pub(super) fn panicked(store: &dyn Store, payload: &(dyn std::any::Any + Send)) -> ArchiveError {
    let words = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no words");
    refused(store, format!("a worker of the archive panicked (a defect of this program): {words}"))
}
