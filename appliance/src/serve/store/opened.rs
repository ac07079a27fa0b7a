//! An open store, and the creation of its directories.

use std::path::Path;
use std::sync::Arc;

use super::error::StoreOpenError;
use crate::archive::store::Store;
use crate::private;

/// A store that was opened, and probed unless it is only read.
pub struct OpenedStore {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Notes for the operator: problems that opening it found, functions that the store lacks.
    pub notes: Vec<String>,
}

/// Creates a directory that only its owner can read: its contents are as private as the pool.
pub(super) fn make_directory(path: &Path) -> Result<(), StoreOpenError> {
    private::create_dir_all(path).map_err(|source| StoreOpenError::Io { path: path.to_owned(), source })
}
