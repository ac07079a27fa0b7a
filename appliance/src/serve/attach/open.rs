//! Opens the archive's store before any part of the pool is made or opened, checks whether it is
//! the pool's archive, and reads the retention rules.

use std::sync::Arc;

use uuid::Uuid;

use super::config::ArchiveConfig;
use crate::archive::catalog::CatalogError;
use crate::archive::owner::OwnedStore;
use crate::archive::store::Store;
use crate::manage::ArchiveManager;
use crate::serve::identity::FormerPool;
use crate::serve::store::{open_reader, open_store, pools_in, read_id};
use crate::serve::{ApplianceConfig, ServeError};

/// An open archive that is to be attached to the pool.
pub(in crate::serve) struct OpenedArchive {
    pub(super) config: ArchiveConfig,
    pub(in crate::serve) manager: Arc<ArchiveManager>,
    pub(super) known: KnownStore,
    /// Whether it may be another archive than the pool had.
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

/// An open store, and which archive it is.
pub(super) struct KnownStore {
    pub(super) store: Arc<OwnedStore>,
    pub(super) notes: Vec<String>,
    /// The identity that the store holds.
    pub(super) id: Option<Uuid>,
    /// Whether it is the archive that the pool had, as far as is known.
    pub(super) is_known: bool,
    pub(super) pools: Vec<Uuid>,
}

/// Opens the store, checks whether it is the pool's archive, and reads the retention rules.
pub(super) fn open(
    config: &ArchiveConfig,
    appliance: &ApplianceConfig,
    found: &FormerPool,
    is_new: bool,
) -> Result<OpenedArchive, ServeError> {
    let known = open_known(config, appliance, found, is_new)?;
    let manager = ArchiveManager::new(Arc::clone(&known.store) as Arc<dyn Store>, &config.keep)?;
    Ok(OpenedArchive::new(known, config, appliance, Arc::new(manager)))
}

/// Opens the store and checks whether it is the pool's archive. All that it needs of the pool is
/// the identity in `found`.
pub(super) fn open_known(
    config: &ArchiveConfig,
    appliance: &ApplianceConfig,
    found: &FormerPool,
    is_new: bool,
) -> Result<KnownStore, ServeError> {
    refuse_new_archive(config, appliance, found, is_new)?;
    let mut opened =
        if found.is_rehearsal() { open_reader(&config.store)? } else { open_store(&config.store)? };
    let pools = pools_in(&*opened.store).map_err(CatalogError::from)?;
    let id = match read_id(&*opened.store) {
        Ok(id) => id,
        // A part of the store that is away, such as a cartridge, may come back. The objects that
        // are there also show which pool it belongs to.
        Err(error) => match (found, found.archive()) {
            (FormerPool::Known(identity), Some(known))
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
    if let (FormerPool::Known(identity), Some(known), false) = (found, found.archive(), is_known) {
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

/// Refuses to open the archive if that would begin a new one although the pool has had one.
fn refuse_new_archive(
    archive: &ArchiveConfig,
    config: &ApplianceConfig,
    found: &FormerPool,
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
