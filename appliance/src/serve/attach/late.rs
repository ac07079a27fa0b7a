//! Waits for an archive that is away when the appliance starts, and attaches it when it can be
//! reached.
//!
//! **When the appliance waits:** the pool exists, its identity says which archive it has and that
//! it was at this place, and the place cannot be reached for a reason that may pass: nothing is
//! mounted there, a server does not answer, a device returns errors. A new pool, a pool that never
//! had an archive, and a place that holds something else are refused at the start, as always.
//!
//! **States:** away → (retried, with delays that grow to [`RETRY_LAST`]) opened → found to be the
//! archive that the pool had → learnt → attached. Each step may fail; its error is then what the
//! operator is shown, and the next try starts from the beginning. Before the last step, nothing is
//! uploaded, created or deleted except the small object of the probe.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::config::ArchiveConfig;
use super::give::attach;
use super::off_reactor::off_reactor;
use super::open::{OpenedArchive, open_known};
use super::started::ArchiveStarted;
use crate::archive::catalog::CatalogError;
use crate::archive::store::{AwayStore, Store};
use crate::bdev::FileDevice;
use crate::manage::ArchiveManager;
use crate::reactor::{Local, ReactorHandle};
use crate::rpc::App;
use crate::serve::identity::FormerPool;
use crate::serve::identity_note::note_identity;
use crate::serve::store::is_away;
use crate::serve::{ApplianceConfig, ServeError};
use crate::volume::{Pool, VolumeError};

/// The delay before the first try; it doubles with each try.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// The longest delay between two tries.
const RETRY_LAST: Duration = Duration::from_secs(5);

/// An archive that the pool is known to have, and that cannot be reached.
pub(in crate::serve) struct AwayArchive {
    config: ArchiveConfig,
    appliance: ApplianceConfig,
    found: FormerPool,
    manager: Arc<ArchiveManager>,
    why: String,
}

/// Whether the appliance waits for an archive that cannot be opened or listed.
pub(in crate::serve) fn waits_for(
    config: &ArchiveConfig,
    appliance: &ApplianceConfig,
    found: &FormerPool,
    is_new: bool,
    error: &ServeError,
) -> bool {
    let is_known = found.archive().is_some_and(|known| config.store.is_place_of(&known.store));
    if is_new || appliance.new_archive || !is_known {
        return false;
    }
    match error {
        ServeError::ArchiveGone { .. } => config.store.is_missing(),
        ServeError::Archive(error) => error.may_pass(),
        ServeError::Catalog(CatalogError::Store(error)) => is_away(error),
        _ => false,
    }
}

impl AwayArchive {
    /// The archive of a pool that the appliance [waits for](waits_for) because of `error`.
    ///
    /// # Errors
    /// The retention rules cannot be read.
    pub(super) fn new(
        config: &ArchiveConfig,
        appliance: &ApplianceConfig,
        found: &FormerPool,
        error: &ServeError,
    ) -> Result<Self, ServeError> {
        let manager =
            Arc::new(ArchiveManager::new(Arc::new(AwayStore::new(label(config, found))), &config.keep)?);
        Ok(Self::with_manager(config, appliance, found, manager, error))
    }

    /// The same for an archive that was opened but could not be listed.
    pub(in crate::serve) fn with_manager(
        config: &ArchiveConfig,
        appliance: &ApplianceConfig,
        found: &FormerPool,
        manager: Arc<ArchiveManager>,
        error: &ServeError,
    ) -> Self {
        // The next try opens the store again, so it must not be in use.
        manager.set_store(Arc::new(AwayStore::new(label(config, found))));
        AwayArchive {
            config: config.clone(),
            appliance: appliance.clone(),
            found: found.clone(),
            manager,
            why: error.to_string(),
        }
    }

    pub(super) fn manager(&self) -> &Arc<ArchiveManager> {
        &self.manager
    }

    /// Makes the pool wait for the archive, and keeps trying on the reactor.
    ///
    /// # Errors
    /// The pool has an archive.
    pub(in crate::serve) fn begin(
        self,
        pool: &Rc<Pool>,
        device: Arc<FileDevice>,
        local: &Local,
        handle: ReactorHandle<App>,
        app: &App,
    ) -> Result<ArchiveStarted, VolumeError> {
        let store = label(&self.config, &self.found);
        let why = self.why.clone();
        pool.await_archive(&store, self.config.policy, self.config.verify, why.clone())?;
        let late = Late {
            away: self,
            pool: Rc::clone(pool),
            device,
            local: local.clone(),
            handle,
            app: app.clone(),
        };
        drop(local.spawn(late.go_on()));
        Ok(ArchiveStarted { store, objects: 0, synchs: 0, away: Some(why), notes: Vec::new() })
    }
}

/// The name of the store until the store itself can report it.
fn label(config: &ArchiveConfig, found: &FormerPool) -> String {
    found.archive().map_or_else(|| config.store.to_string(), |known| known.store.clone())
}

/// An archive that is retried until it is attached.
struct Late {
    away: AwayArchive,
    pool: Rc<Pool>,
    device: Arc<FileDevice>,
    local: Local,
    handle: ReactorHandle<App>,
    app: App,
}

impl Late {
    /// Tries until it is attached, or the appliance stops.
    async fn go_on(self) {
        let mut wait = RETRY_FIRST;
        loop {
            self.local.sleep(wait).await;
            wait = (wait * 2).min(RETRY_LAST);
            // The pool is available to calls from before the first turn until the stop.
            if self.app.pool().is_err() {
                return;
            }
            match self.try_once().await {
                Ok(started) => {
                    // The same level as the message that it is away.
                    tracing::warn!(
                        store = started.store,
                        objects = started.objects,
                        synchs = started.synchs,
                        "the archive is there"
                    );
                    for note in started.notes {
                        tracing::warn!(note, "the archive was attached");
                    }
                    return;
                }
                Err(error) => {
                    // Another appliance continues this history: writes accepted here would not be
                    // part of it.
                    if let ServeError::Owner(owner) = &error
                        && owner.is_of_another()
                    {
                        self.pool.give_up_to_owner(&error.to_string());
                    }
                    self.pool.tell_archive_away(error.to_string());
                }
            }
        }
    }

    async fn try_once(&self) -> Result<ArchiveStarted, ServeError> {
        let AwayArchive { config, appliance, found, manager, .. } = &self.away;
        let (to_open, with, of) = (config.clone(), appliance.clone(), found.clone());
        let opened = off_reactor(&self.local, move || open_known(&to_open, &with, &of, false)).await??;
        if !opened.is_known {
            let place = opened.store.label().to_owned();
            let what = "another archive is there now than the pool had when it was started".to_owned();
            return Err(ServeError::ArchiveGone { place, what });
        }
        let opened = OpenedArchive::new(opened, config, appliance, Arc::clone(manager));
        let (pool, device) = (Rc::clone(&self.pool), Arc::clone(&self.device));
        let attached = attach(opened, pool, false, device, self.local.clone(), self.handle.clone()).await?;
        let (mut started, identity) = attached;
        started.notes.extend(note_identity(appliance, &self.pool, false, identity)?);
        Ok(started)
    }
}
