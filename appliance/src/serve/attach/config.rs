//! How a pool is archived, and the names of the archive's files beside the pool.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::archive::service::VerifyPolicy;
use crate::serve::store::StoreSpec;
use crate::volume::ArchivePolicy;

/// The name of the local catalog in the pool's directory.
pub const CATALOG_FILE_NAME: &str = "archive-catalog.redb";
/// The name of the file with the retention rules in the pool's directory.
pub const KEEP_FILE_NAME: &str = "archive-keep";
/// The name of the default archive directory in the pool's directory.
pub const ARCHIVE_DIRECTORY_NAME: &str = "archive";

/// How often expired objects are deleted, unless configured otherwise.
const EXPIRE_INTERVAL_DEFAULT: Duration = Duration::from_secs(crate::options::EXPIRE_SECONDS_DEFAULT);
/// How long after a start nothing is deleted automatically, unless configured otherwise.
const EXPIRE_GRACE_DEFAULT: Duration = Duration::from_mins(10);
/// How a pool is archived.
#[derive(Debug, Clone)]
pub struct ArchiveConfig {
    /// The place of the archive.
    pub store: StoreSpec,
    /// How the pool uses it.
    pub policy: ArchivePolicy,
    /// The compression level; `None`: the default.
    pub level: Option<i32>,
    /// How objects are verified, until
    /// [`set_archive_verify`](crate::volume::Pool::set_archive_verify) says otherwise.
    pub verify: VerifyPolicy,
    /// The core that the archivist is pinned to.
    pub core: Option<usize>,
    /// The path of the local catalog.
    pub catalog: PathBuf,
    /// The path of the retention rules.
    pub keep: PathBuf,
    /// How often expired objects are deleted; zero: only by command.
    pub expire_interval: Duration,
    /// How long after a start nothing is deleted automatically.
    pub expire_grace: Duration,
    /// Whether a pool that is older than its archive, or whose archive another appliance has taken
    /// over, continues as a history of its own.
    pub fork: bool,
}

impl ArchiveConfig {
    /// An archive in `store`, with its local files in `directory`, and defaults for everything
    /// else.
    pub fn new(store: StoreSpec, directory: &Path) -> Self {
        ArchiveConfig {
            store,
            policy: ArchivePolicy::default(),
            level: None,
            verify: VerifyPolicy::default(),
            core: None,
            catalog: directory.join(CATALOG_FILE_NAME),
            keep: directory.join(KEEP_FILE_NAME),
            expire_interval: EXPIRE_INTERVAL_DEFAULT,
            expire_grace: EXPIRE_GRACE_DEFAULT,
            fork: false,
        }
    }
}
