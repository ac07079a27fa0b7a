//! Opens what a start finds, and decides whether to begin a new pool: only if there was none, or if
//! the operator asked for it.

use std::path::Path;
use std::sync::Arc;

use super::attach::{FoundArchive, find};
use super::identity::{self, FormerPool};
use super::new_pool::check_new;
use super::{ApplianceConfig, Backing, CATALOG_FILE_NAME, ServeError};
use crate::bdev::{Engine, FileDevice, FileOptions, is_blank};
use crate::dma::BLOCK_BYTES;
use crate::log::geometry::with_tail;

/// An open device on its way to the reactor's thread.
pub(super) enum OpenedDevice {
    /// A file; `blank`: it holds nothing, and a pool is to be made in it. `is_made`: this start
    /// created it.
    File { file: Arc<FileDevice>, blank: bool, is_made: bool },
    /// Memory.
    Memory { len_blocks: u64 },
}

/// What a start finds at the place of its pool. Nothing has been made yet, apart from the removal
/// of what a creation that was cut short had left.
pub(super) struct Locked {
    /// What the file beside the pool says about its identity.
    found: FormerPool,
    /// The pool's file, locked; `None` if it must be made.
    device: Option<OpenedDevice>,
}

/// Locks the pool's file, if it exists, so that a second appliance fails on the pool itself; or
/// checks that a new pool may be made.
pub(super) fn lock(config: &ApplianceConfig) -> Result<Locked, ServeError> {
    let (path, create_bytes) = match &config.backing {
        Backing::Memory { .. } => return Ok(Locked { found: FormerPool::Nothing, device: None }),
        Backing::File { path, create_bytes, .. } => (path, *create_bytes),
    };
    let mut found = identity::read(path)?;
    if config.new_pool && is_nothing(path).is_some() {
        found = FormerPool::Nothing;
    }
    if let Some(state) = is_nothing(path) {
        refuse_new(config, path, state, &found)?;
        check_new(path, create_bytes, config.segment_blocks)?;
        return Ok(Locked { found, device: None });
    }
    // Checked under the lock, because another process may be making the pool.
    let file = FileDevice::open(path, &file_options(config))?;
    let cleared = identity::clear_marked(path)?;
    let blank = cleared || is_blank(path).map_err(|source| unreadable(path, source))?;
    if blank {
        refuse_new(config, path, "is blank", &found)?;
    }
    if cleared {
        tracing::warn!(path = %path.display(), "what a creation that was cut short had left was thrown away");
        return Ok(Locked { found, device: None });
    }
    Ok(Locked { found, device: Some(OpenedDevice::File { file: Arc::new(file), blank, is_made: false }) })
}

/// Opens the archive, and then the device. Creation comes last: a new pool is created after its
/// archive is known to work.
pub(super) fn open(
    locked: Locked,
    config: &ApplianceConfig,
) -> Result<(OpenedDevice, Option<FoundArchive>), ServeError> {
    let Locked { found, device: locked } = locked;
    let path = match &config.backing {
        Backing::Memory { len_bytes } => {
            let len_blocks = with_tail(len_bytes / BLOCK_BYTES as u64);
            return Ok((OpenedDevice::Memory { len_blocks }, None));
        }
        Backing::File { path, .. } => path,
    };
    let is_new = !matches!(locked, Some(OpenedDevice::File { blank: false, .. }));
    let archive = config.archive.as_ref().map(|archive| find(archive, config, &found, is_new));
    let archive = archive.transpose()?;
    if is_new && !config.new_pool && archive.as_ref().is_some_and(FoundArchive::holds_something) {
        let state = is_nothing(path).unwrap_or("is blank");
        return Err(gone(path, state, "the archive holds the objects of a pool".to_owned()));
    }
    let device = if let Some(device) = locked {
        device
    } else {
        let is_made = !path.exists();
        let file = FileDevice::open(path, &file_options(config))?;
        OpenedDevice::File { file: Arc::new(file), blank: true, is_made }
    };
    if is_new {
        identity::mark(path)?;
    }
    Ok((device, archive))
}

/// How the file of a pool is opened or made. In memory there is none.
fn file_options(config: &ApplianceConfig) -> FileOptions {
    let (create_bytes, engine) = match &config.backing {
        Backing::Memory { len_bytes } => (*len_bytes, Engine::Auto),
        Backing::File { create_bytes, engine, .. } => (*create_bytes, *engine),
    };
    FileOptions {
        engine,
        create_len_blocks: Some(with_tail(create_bytes / BLOCK_BYTES as u64)),
        allocate: config.allocate,
        ..FileOptions::default()
    }
}

/// How the file is described if it does not exist or is empty; `None` otherwise.
fn is_nothing(path: &Path) -> Option<&'static str> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() == 0 => Some("is empty"),
        // A path that cannot be examined does not count as absent: opening it reports why.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some("does not exist"),
        _ => None,
    }
}

/// Refuses to begin a pool if something shows that there was one.
fn refuse_new(
    config: &ApplianceConfig,
    path: &Path,
    state: &'static str,
    found: &FormerPool,
) -> Result<(), ServeError> {
    if config.new_pool {
        return Ok(());
    }
    let beside = path.with_file_name(CATALOG_FILE_NAME);
    let catalog = config.archive.as_ref().map_or(&beside, |archive| &archive.catalog);
    let evidence = match found {
        FormerPool::Known(identity) => {
            format!("{} says that pool {} was there", identity::path_of(path).display(), identity.pool)
        }
        FormerPool::Damaged => format!("{} says that a pool was there", identity::path_of(path).display()),
        FormerPool::Nothing if catalog.exists() => {
            format!("{} is the catalog of the archive of a pool", catalog.display())
        }
        FormerPool::Nothing => return Ok(()),
    };
    Err(gone(path, state, evidence))
}

fn gone(path: &Path, state: &'static str, evidence: String) -> ServeError {
    ServeError::PoolGone { path: path.to_owned(), state, is_file: path.exists(), evidence }
}

fn unreadable(path: &Path, source: std::io::Error) -> ServeError {
    crate::bdev::OpenError::Io { path: path.to_owned(), action: "look for a pool in", source }.into()
}
