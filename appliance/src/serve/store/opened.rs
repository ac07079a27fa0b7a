//! A store that was opened, and the directories that are made for it.

use std::path::Path;
use std::sync::Arc;

use super::error::StoreOpenError;
use crate::archive::store::Store;
use crate::private;

/// A store that was opened and probed.
pub struct OpenedStore {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What the operator is told: what the open found wrong, what the store cannot do.
    pub notes: Vec<String>,
}

/// Makes a directory that only its owner can look into: what comes there is as private as the pool.
pub(super) fn make_directory(path: &Path) -> Result<(), StoreOpenError> {
    private::create_dir_all(path).map_err(|source| StoreOpenError::Io { path: path.to_owned(), source })
}
