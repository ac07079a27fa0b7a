//! Which synchs are wanted, and the deletion of synchs. A synch's event stays in the log, which
//! nothing changes; the catalog says that it is no mark any more.

use std::collections::HashSet;
use std::rc::Rc;

use uuid::Uuid;

use crate::archive::retention::LabelGlob;
use crate::log::{Lsn, recovery};
use crate::volume::error::VolumeError;
use crate::volume::history::synch_names::{labelled, with_id};
use crate::volume::history::synch_table::{SynchRef, SynchTable};
use crate::volume::info::SynchInfo;
use crate::volume::pool::Pool;

/// How many synchs an error names.
const NAMED_MAX: usize = 8;
/// The maximum number of synchs that are deleted at once.
const DELETED_AT_ONCE_MAX: usize = 1000;

/// Which synchs are wanted.
#[derive(Debug, Clone, Default)]
pub struct SynchFilter {
    /// Those up to this position.
    pub to: Option<Lsn>,
    /// Those with such a label: a pattern with `*` and `?`.
    pub label: Option<String>,
    /// Those of this volume and of the groups that it is in, or of this group, and those of all
    /// volumes.
    pub of: Option<String>,
}

/// A filter whose volume or group was looked up. It may be used on any thread.
#[derive(Debug)]
pub struct WantedSynchs {
    to: Lsn,
    label: Option<LabelGlob>,
    of: Option<Vec<Uuid>>,
}

impl WantedSynchs {
    /// The wanted synchs of a table from a position on, in the order of the log.
    pub fn of<'a>(&'a self, table: &'a SynchTable, from: Lsn) -> impl Iterator<Item = SynchRef<'a>> {
        let there = table.iter_from(from).take_while(|synch| synch.lsn <= self.to);
        there.filter(|synch| {
            synch.is_for(self.of.as_deref())
                && self.label.as_ref().is_none_or(|glob| glob.matches(synch.label))
        })
    }
}

impl Pool {
    /// Looks up the volume or group of a filter: a volume by the name that it has, or had last.
    ///
    /// # Errors
    /// There never was such a volume.
    pub async fn wanted_synchs(self: Rc<Self>, filter: SynchFilter) -> Result<WantedSynchs, VolumeError> {
        let of = self.whose_marks(filter.of.as_deref()).await?;
        let label = filter.label.as_deref().map(LabelGlob::new);
        Ok(WantedSynchs { to: filter.to.unwrap_or(Lsn(u64::MAX)), label, of })
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
