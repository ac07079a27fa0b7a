//! The archive as the command plane sees it: its store, the local catalog, the rules of retention, the verification under way.
//!
//! It is reached from the connections' threads, never from the reactor: its calls block on the store. What the pool knows itself (status,
//! sealing) is asked of the pool.
//!
//! **Bounds:** one verification at a time, the last [`VERIFICATIONS_MAX`] are remembered; one expiry at a time; one listing of the store at a time.

mod expire;
mod keep;
mod list;
mod pace;
mod scrub;
mod verify;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::archive::catalog::ArchiveCatalog;
use crate::archive::owner::OwnedStore;
use crate::archive::retention::{Explanation, KeepRules};
use crate::archive::store::{Space, Store};
use crate::log::reader::LsnRange;
use crate::log::time::ClockStatus;
use crate::volume::{ArchiveStatus, ResolvedPoint, clock_problem};

use super::error::RpcError;

pub(crate) use expire::{EXPIRE_OBJECTS_DEFAULT, ExpiryRequest};
pub use expire::{Expirer, ExpiryPool, ExpiryReport};
pub use keep::KeepFileError;
pub use list::{ArchivedObject, LIST_LIMIT_DEFAULT};
pub(crate) use scrub::RATE_BYTES_PER_S as SCRUB_RATE_BYTES_PER_S;
pub use scrub::{ScrubStatus, Scrubber};
pub use verify::{VERIFICATIONS_MAX, Verification, VerificationState};

/// The archive of the appliance's pool. See the module's documentation.
pub struct ArchivePlane {
    /// Stands for the one that is waited for until that is there.
    store: RwLock<Arc<dyn Store>>,
    /// The same, where it takes the owner's rights to change something.
    owned: RwLock<Option<Arc<OwnedStore>>>,
    /// There once the pool is open.
    catalog: OnceLock<Mutex<ArchiveCatalog>>,
    keep: keep::Keep,
    verifications: verify::Verifications,
    /// Held while something expires.
    expiring: Mutex<()>,
    /// When the store was last listed for a status.
    looked: Mutex<Option<Instant>>,
    /// Where reading it back is.
    scrub: scrub::Scrub,
    /// How much may expire now.
    pace: Mutex<pace::Pace>,
}

/// What `archive_get_status` answers: what the pool says, and the room in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArchiveReport {
    /// What the pool says.
    #[serde(flatten)]
    pub status: ArchiveStatus,
    /// Bytes in use in the store, if it can be asked.
    pub store_used_bytes: Option<u64>,
    /// Bytes of the store in all, if it knows.
    pub store_total_bytes: Option<u64>,
    /// Stretches of the log that should be in the store and are not.
    #[serde(default)]
    pub lost: Vec<LsnRange>,
    /// Stretches whose entries could not be read when they were archived: what is older there is not certain.
    #[serde(default)]
    pub holes: Vec<LsnRange>,
    /// How reading the archive back stands.
    #[serde(default)]
    pub scrub: ScrubStatus,
    /// Why nothing expires, although the rules of retention may let something go.
    #[serde(default)]
    pub expiry_held: Option<String>,
}

/// What `archive_seal` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Everything before this position is in the archive, or will be.
    pub lsn: u64,
    /// Whether it is there already.
    pub done: bool,
}

/// What `archive_explain` answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explained {
    /// The point.
    pub point: ResolvedPoint,
    /// What is to say about it.
    pub explanation: Explanation,
}

impl ArchivePlane {
    /// The archive in `store`. The rules of retention are read from `keep_file`, where changes of them go.
    ///
    /// # Errors
    /// The rules are there and cannot be read: what they keep is not guessed.
    pub fn new(store: Arc<dyn Store>, keep_file: &Path) -> Result<Self, KeepFileError> {
        Ok(ArchivePlane {
            store: RwLock::new(store),
            owned: RwLock::default(),
            catalog: OnceLock::new(),
            keep: keep::Keep::open(keep_file)?,
            scrub: scrub::Scrub::open(scrub::file_beside(keep_file)),
            verifications: verify::Verifications::default(),
            expiring: Mutex::default(),
            looked: Mutex::default(),
            pace: Mutex::new(pace::Pace::new(Instant::now())),
        })
    }

    /// The store.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this is the store: the one that was waited for.
    pub fn set_store(&self, store: Arc<dyn Store>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    /// From now on this is the store, of which only the owner changes something.
    pub fn set_owned(&self, owned: Arc<OwnedStore>) {
        self.set_store(Arc::clone(&owned) as Arc<dyn Store>);
        *self.owned.write().unwrap_or_else(PoisonError::into_inner) = Some(owned);
    }

    /// From now on the catalog answers what the store holds. A second one is dropped.
    pub fn set_catalog(&self, catalog: ArchiveCatalog) {
        drop(self.catalog.set(Mutex::new(catalog)));
    }

    /// The catalog, once the pool is open. Nobody else has it while the guard lives.
    pub(crate) fn catalog(&self) -> Result<MutexGuard<'_, ArchiveCatalog>, RpcError> {
        let catalog = self.catalog.get().ok_or(RpcError::WrongState {
            reason: "what the archive holds is not known yet: the pool is still being opened, or the archive was not reached since the start, which `varve archive status` would say",
        })?;
        // A panic leaves it as a crash would, for which it is made.
        Ok(catalog.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The rules of retention.
    pub fn keep(&self) -> KeepRules {
        self.keep.get()
    }

    /// Sets the rules of retention; they are in the file when this returns.
    ///
    /// # Errors
    /// The operating system's; the rules are as they were then.
    pub fn set_keep(&self, rules: KeepRules) -> Result<(), KeepFileError> {
        let text = String::from(rules.clone());
        self.keep.set(rules)?;
        let owned = self.owned.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(owned) = owned
            && let Err(error) = owned.set_rules(&text)
        {
            tracing::warn!(%error, "the rules of retention are in force, and not in the archive yet: a recovery would not bring them back before the next start");
        }
        Ok(())
    }

    /// The rules of retention as text, unless there are none.
    pub fn rules_text(&self) -> Option<String> {
        let rules = self.keep();
        (rules != KeepRules::default()).then(|| String::from(rules))
    }

    /// Adds the room in the store, and what holds expiry, to the pool's words.
    pub(crate) fn report(&self, status: ArchiveStatus, clock: &ClockStatus) -> ArchiveReport {
        // A store that does not answer is in the status already.
        let space: Option<Space> = self.store().space().ok();
        ArchiveReport {
            status,
            store_used_bytes: space.map(|space| space.used_bytes),
            store_total_bytes: space.and_then(|space| space.total_bytes),
            lost: self
                .lost()
                .unwrap_or_default()
                .iter()
                .map(|row| LsnRange { start: row.id.from_lsn, end: row.id.to_lsn })
                .collect(),
            holes: self.holes().unwrap_or_default(),
            scrub: self.scrub.get(),
            expiry_held: clock_problem(clock, true).filter(|_| clock.holds_expiry()),
        }
    }
}

/// The catalog's or the store's failure, as a call's.
pub(crate) fn failed(error: impl std::fmt::Display) -> RpcError {
    crate::volume::VolumeError::Archive { reason: error.to_string() }.into()
}
