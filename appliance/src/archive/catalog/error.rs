//! How a catalog fails.

use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::archive::object::ObjectError;
use crate::archive::store::StoreError;

/// Why a catalog could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It is open elsewhere.
    #[error("the archive's catalog {path} is open in another process")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refuses something.
    #[error("the archive's catalog {path}: {operation}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// `open`, `create`, `move aside`.
        operation: &'static str,
        /// Its words.
        error: io::Error,
    },
    /// The file fails while it is in use. Open it again: what is damaged is replaced then.
    #[error("the archive's catalog {path}: {error}")]
    Database {
        /// The file.
        path: PathBuf,
        /// The database's words.
        error: Box<redb::Error>,
    },
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No object could be read, whichever.
    #[error(transparent)]
    Object(ObjectError),
    /// The object is not one of this catalog's pool.
    #[error("the object belongs to pool {pool}, which is not this catalog's")]
    OtherPool {
        /// Its pool.
        pool: Uuid,
    },
    /// The caller's progress function asked for an end.
    #[error("stopped as asked")]
    Stopped,
}

impl From<ObjectError> for CatalogError {
    /// What a store fails to give of an object is the store's failure.
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Store(error) => CatalogError::Store(error),
            error => CatalogError::Object(error),
        }
    }
}

impl CatalogError {
    /// The database's failure.
    pub(super) fn database(path: &Path, error: redb::Error) -> Self {
        CatalogError::Database { path: path.to_owned(), error: Box::new(error) }
    }

    /// The operating system's failure.
    pub(super) fn file(path: &Path, operation: &'static str, error: io::Error) -> Self {
        CatalogError::File { path: path.to_owned(), operation, error }
    }
}
