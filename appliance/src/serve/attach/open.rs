//! Opens the store of the archive before anything of the pool is made or opened, finds out whether
//! it is the pool's, and reads the rules of retention.

use std::sync::Arc;

use uuid::Uuid;

use super::config::ArchiveConfig;
use crate::archive::catalog::CatalogError;
use crate::archive::owner::OwnedStore;
use crate::archive::store::Store;
use crate::manage::ArchiveManager;
use crate::serve::identity::Found;
use crate::serve::store::{open_reader, open_store, pools_in, read_id};
use crate::serve::{ApplianceConfig, ServeError};

/// An archive that was opened, on its way to the pool.
pub(in crate::serve) struct OpenedArchive {
    pub(super) config: ArchiveConfig,
    pub(in crate::serve) manager: Arc<ArchiveManager>,
    pub(super) known: KnownStore,
    /// Whether it may be another.
    pub(super) may_be_new: bool,
}

impl OpenedArchive {
    pub(super) fn new(
        known: KnownStore,
        config: &ArchiveConfig,
        appliance: &ApplianceConfig,
        manager: Arc<ArchiveManager>,
    ) -> Self {
        OpenedArchive { config: config.clone(), manager, known, may_be_new: appliance.new_archive }
    }
}

/// A store that was opened, and whose it is.
pub(super) struct KnownStore {
    pub(super) store: Arc<OwnedStore>,
    pub(super) notes: Vec<String>,
    /// What the store says of itself.
    pub(super) id: Option<Uuid>,
    /// Whether it is the archive that the pool had, as far as that is known.
    pub(super) is_known: bool,
    pub(super) pools: Vec<Uuid>,
}

/// Opens the store, finds out whether it is the pool's, and reads the rules.
pub(super) fn open(
    config: &ArchiveConfig,
    appliance: &ApplianceConfig,
    found: &Found,
    is_new: bool,
) -> Result<OpenedArchive, ServeError> {
    let known = open_known(config, appliance, found, is_new)?;
    let manager = ArchiveManager::new(Arc::clone(&known.store) as Arc<dyn Store>, &config.keep)?;
    Ok(OpenedArchive::new(known, config, appliance, Arc::new(manager)))
}

/// Opens the store and finds out whether it is the pool's. Nothing of the pool is needed but what
/// is `found` of its identity.
pub(super) fn open_known(
    config: &ArchiveConfig,
    appliance: &ApplianceConfig,
    found: &Found,
    is_new: bool,
) -> Result<KnownStore, ServeError> {
    refuse_new_archive(config, appliance, found, is_new)?;
    let mut opened =
        if found.is_rehearsal() { open_reader(&config.store)? } else { open_store(&config.store)? };
    let pools = pools_in(&*opened.store).map_err(CatalogError::from)?;
    let id = match read_id(&*opened.store) {
        Ok(id) => id,
        // A part of the store that is away, a cartridge, may come back. What is there tells as well whose it is.
        Err(error) => match (found, found.archive()) {
            (Found::Known(identity), Some(known))
                if error.is_retryable() && pools.contains(&identity.pool) =>
            {
                opened.notes.push(format!(
                    "the archive's identity cannot be read; what is there is of the pool, so it is taken for archive {}: {error}",
                    known.id
                ));
                Some(known.id)
            }
            _ => return Err(CatalogError::from(error).into()),
        },
    };
    let is_known = found.archive().is_some_and(|known| Some(known.id) == id);
    if let (Found::Known(identity), Some(known), false) = (found, found.archive(), is_known) {
        let holds_ours = pools.contains(&identity.pool);
        if !holds_ours && !appliance.new_archive {
            let what = match id {
                Some(id) => format!(
                    "archive {id} is there, which holds nothing of the pool; it had archive {} in {}",
                    known.id, known.store
                ),
                None => format!(
                    "what is there holds nothing of the pool; it had archive {} in {}",
                    known.id, known.store
                ),
            };
            return Err(ServeError::ArchiveGone { place: opened.store.label().to_owned(), what });
        }
        opened
            .notes
            .push(format!("this is another archive than before, which was {} in {}", known.id, known.store));
    }
    let store = Arc::new(OwnedStore::new(opened.store));
    Ok(KnownStore { store, notes: opened.notes, id, is_known, pools })
}

/// Whether opening the archive would begin a new one although the pool has had one.
fn refuse_new_archive(
    archive: &ArchiveConfig,
    config: &ApplianceConfig,
    found: &Found,
    is_new: bool,
) -> Result<(), ServeError> {
    let had_one = found.archive().is_some() || (!is_new && archive.catalog.exists());
    if had_one && !config.new_archive && archive.store.is_missing() {
        let place = found.archive().map_or_else(|| archive.store.to_string(), |known| known.store.clone());
        return Err(ServeError::ArchiveGone {
            place: archive.store.to_string(),
            what: format!("nothing is there, and the pool's past went to {place}"),
        });
    }
    Ok(())
}
