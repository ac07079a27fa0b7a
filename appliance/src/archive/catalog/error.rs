//! The errors of a catalog.

use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::archive::object::ObjectError;
use crate::archive::store::StoreError;

/// Why a catalog could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Another process has it open.
    #[error("the archive's catalog {path} is open in another process")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The operating system reports an error.
    #[error("the archive's catalog {path}: {operation}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// `open`, `create` or `move aside`.
        operation: &'static str,
        /// The operating system's error.
        error: io::Error,
    },
    /// The file fails while it is in use. Opening it again replaces a damaged file.
    #[error("the archive's catalog {path}: {error}")]
    Database {
        /// The file.
        path: PathBuf,
        /// The database's error.
        error: Box<redb::Error>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object could not be read, for a reason that is not the store's.
    #[error(transparent)]
    Object(ObjectError),
    /// The object belongs to another pool than this catalog.
    #[error("the object belongs to pool {pool}, which is not this catalog's")]
    OtherPool {
        /// The object's pool.
        pool: Uuid,
    },
    /// The caller's progress function stopped the run.
    #[error("stopped as asked")]
    Stopped,
}

impl From<ObjectError> for CatalogError {
    /// When the store fails to return an object, the error is the store's.
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Store(error) => CatalogError::Store(error),
            error => CatalogError::Object(error),
        }
    }
}

impl CatalogError {
    /// An error of the database.
    pub(super) fn database(path: &Path, error: redb::Error) -> Self {
        CatalogError::Database { path: path.to_owned(), error: Box::new(error) }
    }

    /// An error of the operating system.
    pub(super) fn file(path: &Path, operation: &'static str, error: io::Error) -> Self {
        CatalogError::File { path: path.to_owned(), operation, error }
    }
}
