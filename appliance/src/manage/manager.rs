//! The archive of the appliance's pool, as operators and schedules use it: its store, the local
//! catalog, the retention rules, and the state of the jobs on it.
//!
//! Its methods block on the store, so a reactor never calls them. Information that the pool has
//! (status, sealing) comes from the pool.
//!
//! **Bounds:** one verification at a time, of which the last
//! [`VERIFICATIONS_MAX`](super::VERIFICATIONS_MAX) are remembered; one expiry at a time; one
//! listing of the store at a time.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use crate::archive::catalog::ArchiveCatalog;
use crate::archive::owner::OwnedStore;
use crate::archive::retention::KeepRules;
use crate::archive::store::{Space, Store};
use crate::log::reader::LsnRange;
use crate::log::time::ClockStatus;
use crate::volume::{ArchiveStatus, clock_problem};

use super::error::ManageError;
use super::keep::{Keep, KeepFileError};
use super::pace::Pace;
use super::report::ArchiveReport;
use super::scrub_progress::{ScrubProgress, file_beside};
use super::verifications::Verifications;

/// The archive of the appliance's pool, see the head of this file.
pub struct ArchiveManager {
    /// A placeholder until the configured store is available.
    store: RwLock<Arc<dyn Store>>,
    /// The same store, if changes to it need the owner's rights.
    owned: RwLock<Option<Arc<OwnedStore>>>,
    /// Set once the pool is open.
    catalog: OnceLock<Mutex<ArchiveCatalog>>,
    keep: Keep,
    pub(super) verifications: Verifications,
    /// Locked while an expiry runs.
    pub(super) expiring: Mutex<()>,
    /// When the store was last listed for a status.
    pub(super) looked: Mutex<Option<Instant>>,
    /// The progress of the scrub.
    pub(super) scrub: ScrubProgress,
    /// How much may expire now.
    pub(super) pace: Mutex<Pace>,
}

impl ArchiveManager {
    /// The archive in `store`. The retention rules are read from `keep_file`, and changes are
    /// written there.
    ///
    /// # Errors
    /// The file exists but cannot be read. The rules are not guessed.
    pub fn new(store: Arc<dyn Store>, keep_file: &Path) -> Result<Self, KeepFileError> {
        Ok(ArchiveManager {
            store: RwLock::new(store),
            owned: RwLock::default(),
            catalog: OnceLock::new(),
            keep: Keep::open(keep_file)?,
            scrub: ScrubProgress::open(file_beside(keep_file)),
            verifications: Verifications::default(),
            expiring: Mutex::default(),
            looked: Mutex::default(),
            pace: Mutex::new(Pace::new(Instant::now())),
        })
    }

    /// The store.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the placeholder by the configured store.
    pub fn set_store(&self, store: Arc<dyn Store>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    /// Sets the store, which only its owner may change.
    pub fn set_owned(&self, owned: Arc<OwnedStore>) {
        self.set_store(Arc::clone(&owned) as Arc<dyn Store>);
        *self.owned.write().unwrap_or_else(PoisonError::into_inner) = Some(owned);
    }

    /// Sets the catalog of the store. A second one is dropped.
    pub fn set_catalog(&self, catalog: ArchiveCatalog) {
        drop(self.catalog.set(Mutex::new(catalog)));
    }

    /// The catalog, once the pool is open. The guard locks out all other users.
    pub(crate) fn catalog(&self) -> Result<MutexGuard<'_, ArchiveCatalog>, ManageError> {
        let catalog = self.catalog.get().ok_or(ManageError::NotReady {
            reason: "what the archive holds is not known yet: the pool is still being opened, or the archive was not reached since the start, which `varve archive status` would say",
        })?;
        // After a panic the catalog is in the state that a crash would leave, and it is built to
        // survive that.
        Ok(catalog.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The retention rules.
    pub fn keep(&self) -> KeepRules {
        self.keep.get()
    }

    /// Sets the retention rules; they are in the file when this returns.
    ///
    /// # Errors
    /// The operating system refused; the rules are then unchanged.
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

    /// The retention rules as text; `None` if there are none.
    pub fn rules_text(&self) -> Option<String> {
        let rules = self.keep();
        (rules != KeepRules::default()).then(|| String::from(rules))
    }

    /// Adds the space in the store, and what blocks expiry, to the pool's status.
    pub(crate) fn report(&self, status: ArchiveStatus, clock: &ClockStatus) -> ArchiveReport {
        // If the store does not answer, the status already says so.
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
