//! Deletes synchs. A synch's event stays in the log, which nothing changes; the catalog says that it
//! is no mark any more.

use std::collections::HashSet;
use std::rc::Rc;

use uuid::Uuid;

use crate::log::{Lsn, recovery};
use crate::volume::error::VolumeError;
use crate::volume::history::synch_names::{labelled, with_id};
use crate::volume::info::SynchInfo;
use crate::volume::pool::Pool;

/// How many synchs an error names.
const NAMED_MAX: usize = 8;
/// The maximum number of synchs that are deleted at once.
const DELETED_AT_ONCE_MAX: usize = 1000;

impl Pool {
    /// The UUID of the volume that has a name, or had it last.
    ///
    /// # Errors
    /// There never was such a volume.
    pub async fn volume_uuid(self: Rc<Self>, name: String) -> Result<Uuid, VolumeError> {
        self.uuid_of(&name).await
    }

    /// Deletes the synch with an id, or else the one with a label; with `all` every one with the
    /// label, at most 1000. Returns those that were deleted.
    ///
    /// # Errors
    /// No such synch, several that have the label, no room, a failed pool.
    pub async fn delete_synch(
        self: Rc<Self>,
        name: String,
        all: bool,
    ) -> Result<Vec<SynchInfo>, VolumeError> {
        let found = self.synchs_named(&name).await;
        if found.is_empty() {
            // It may be known only in the archive.
            self.check_reached()?;
            let reason = "no synch has that label or id; `varve synch list` shows what there is".to_owned();
            return Err(VolumeError::NoSuchPoint { point: format!("synch:{name}"), reason });
        }
        if found.len() > 1 && !all {
            let ids: Vec<String> = found.iter().take(NAMED_MAX).map(|synch| synch.id.to_string()).collect();
            let more = if found.len() > NAMED_MAX { ", ..." } else { "" };
            let reason = format!(
                "{} synchs have the label '{name}': ids {}{more}; name one by its id, or delete all of them with --all",
                found.len(),
                ids.join(", ")
            );
            return Err(VolumeError::Invalid { what: "synch", reason });
        }
        let oldest_lsn = {
            let log = self.log.borrow();
            log.geometry().first_lsn(log.table().oldest()).0
        };
        let forgets = !self.has_archive();
        let lsn = self
            .change(|catalog, _| {
                if forgets {
                    catalog.forget_deleted_synchs_if(|lsn| lsn < oldest_lsn);
                }
                let known: HashSet<u64> = catalog.deleted_synchs.iter().copied().collect();
                for synch in found.iter().filter(|synch| !known.contains(&synch.lsn)) {
                    catalog.add_deleted_synch(Lsn(synch.lsn));
                }
                Ok(())
            })
            .await?;
        self.state.borrow_mut().drop_deleted_synchs();
        recovery::stable(&self.log, lsn.plus(1)).await?;
        Ok(found)
    }

    /// The synch with an id, or all with a label, oldest first.
    async fn synchs_named(&self, name: &str) -> Vec<SynchInfo> {
        let table = self.synchs();
        if let Some(id) = name.parse::<u64>().ok().filter(|&id| id > 0)
            && let Some(synch) = with_id(&table, id).await
        {
            return vec![synch];
        }
        let mut found = labelled(&table, name, DELETED_AT_ONCE_MAX).await;
        found.reverse();
        found
    }
}
