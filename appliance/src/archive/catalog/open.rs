//! Opens a catalog, and replaces a file that cannot be used.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTableMetadata, StorageError};
use uuid::Uuid;

use super::rows::{COMPLETE, GAPS, META, OBJECTS, SYNCHS, VERSION};
use super::{ArchiveCatalog, CatalogError, CatalogState, Replaced};
use crate::private;

/// Memory for cached pages of the file.
const CACHE_BYTES: usize = 16 << 20;

/// Why a file is not the expected catalog.
enum Refused {
    /// There is no file.
    Missing,
    /// The file cannot be used, for this reason.
    Unusable(String),
    /// The file must not be touched.
    Failed(CatalogError),
}

impl ArchiveCatalog {
    /// Opens the catalog of `pool`'s archive in the store with the label `store_label`. Creates an
    /// empty one when there is no usable file.
    ///
    /// # Errors
    /// [`CatalogError::InUse`], or the operating system's error. Apart from a failed creation, the
    /// file is then left as it was.
    pub fn open(path: &Path, pool: Uuid, store_label: &str) -> Result<(Self, CatalogState), CatalogError> {
        let mut replaced = None;
        let (database, complete) = match open_existing(path, pool, store_label) {
            Ok(opened) => opened,
            Err(Refused::Failed(error)) => return Err(error),
            Err(Refused::Missing) => (create(path, pool, store_label)?, false),
            Err(Refused::Unusable(reason)) => {
                let moved_to = damaged_path(path);
                std::fs::rename(path, &moved_to)
                    .map_err(|error| CatalogError::file(path, "move aside", error))?;
                replaced = Some(Replaced { reason, moved_to });
                (create(path, pool, store_label)?, false)
            }
        };
        let catalog = ArchiveCatalog {
            path: path.to_owned(),
            pool,
            database,
            complete: AtomicBool::new(complete),
            counts: Box::new(|_| true),
            marked: AtomicBool::new(complete),
        };
        Ok((catalog, CatalogState { must_rebuild: !complete, replaced }))
    }
}

/// The new path of a file that cannot be used.
fn damaged_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    name.into()
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    // Without this check a damaged file is trusted, and may cause a panic.
    builder.set_check_integrity_on_open(true).set_cache_size(CACHE_BYTES);
    builder
}

/// Opens a file and checks its pool and store; returns whether it has everything.
fn open_existing(path: &Path, pool: Uuid, store_label: &str) -> Result<(Database, bool), Refused> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            let error = std::io::Error::new(ErrorKind::InvalidInput, "it is not a file");
            return Err(Refused::Failed(CatalogError::file(path, "open", error)));
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Refused::Missing),
        Err(error) => return Err(Refused::Failed(CatalogError::file(path, "open", error))),
    }
    private::tighten(path).map_err(|error| Refused::Failed(CatalogError::file(path, "open", error)))?;
    let database = builder().open(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            Refused::Failed(CatalogError::InUse { path: path.to_owned() })
        }
        DatabaseError::Storage(StorageError::Io(error))
            if !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            Refused::Failed(CatalogError::file(path, "open", error))
        }
        error => Refused::Unusable(format!("it is damaged, or no catalog at all: {error}")),
    })?;
    match whose(&database) {
        Ok(meta) => meta.check(pool, store_label).map(|complete| (database, complete)),
        Err(error) => Err(Refused::Unusable(format!("it has other tables: {error}"))),
    }
}

/// What a file states about itself.
#[derive(Default)]
struct Meta {
    version: String,
    pool: String,
    store: String,
    complete: bool,
}

impl Meta {
    fn check(self, pool: Uuid, store_label: &str) -> Result<bool, Refused> {
        let reason = if self.version != VERSION {
            format!("it has version '{}', and this build reads version {VERSION}", self.version)
        } else if self.pool != pool.to_string() {
            format!("it belongs to pool {}, not to {pool}", self.pool)
        } else if !is_same_store(&self.store, store_label) {
            format!("it belongs to the store '{}', not to '{store_label}'", self.store)
        } else {
            return Ok(self.complete);
        };
        Err(Refused::Unusable(reason))
    }
}

/// Whether two labels name the same store. The path of a store may have been given relative to the
/// working directory, with `..`, or through a symbolic link. A path that does not exist now is
/// compared as it is written.
pub fn is_same_store(label: &str, other: &str) -> bool {
    const KINDS: [&str; 4] = ["directory ", "device ", "tape library ", "tape drive "];
    let place = |path: &str| std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).ok();
    label == other
        || KINDS.iter().any(|kind| match (label.strip_prefix(kind), other.strip_prefix(kind)) {
            (Some(path), Some(other)) => place(path).is_some_and(|path| Some(path) == place(other)),
            _ => false,
        })
}

/// Reads what a file states about itself, and opens every table, so that a table of another type is
/// detected now.
fn whose(database: &Database) -> Result<Meta, redb::Error> {
    let transaction = database.begin_read()?;
    transaction.open_table(OBJECTS)?.len()?;
    transaction.open_table(SYNCHS)?.len()?;
    transaction.open_table(GAPS)?.len()?;
    let meta = transaction.open_table(META)?;
    let text = |key| Ok::<_, redb::Error>(meta.get(key)?.map(|value| value.value().to_owned()));
    Ok(Meta {
        version: text("version")?.unwrap_or_default(),
        pool: text("pool")?.unwrap_or_default(),
        store: text("store")?.unwrap_or_default(),
        complete: text(COMPLETE)?.as_deref() == Some("yes"),
    })
}

fn create(path: &Path, pool: Uuid, store_label: &str) -> Result<Database, CatalogError> {
    private::open_or_create(path).map_err(|error| CatalogError::file(path, "create", error))?;
    let database = builder().create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => CatalogError::InUse { path: path.to_owned() },
        DatabaseError::Storage(StorageError::Io(error)) => CatalogError::file(path, "create", error),
        error => CatalogError::database(path, error.into()),
    })?;
    let fill = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        transaction.open_table(OBJECTS)?;
        transaction.open_table(SYNCHS)?;
        transaction.open_table(GAPS)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert("version", VERSION)?;
        meta.insert("pool", pool.to_string().as_str())?;
        meta.insert("store", store_label)?;
        drop(meta);
        transaction.commit()?;
        Ok(())
    };
    fill().map_err(|error| CatalogError::database(path, error))?;
    Ok(database)
}
