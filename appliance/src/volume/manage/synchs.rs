//! Lists synchs by a filter, and deletes synchs. A synch's event stays in the log, which nothing changes; the catalog says that it
//! is no mark any more.

use std::collections::HashSet;
use std::rc::Rc;

use crate::archive::retention::LabelGlob;
use crate::log::{Lsn, recovery};
use crate::reactor::yield_now;
use crate::volume::error::VolumeError;
use crate::volume::info::SynchInfo;
use crate::volume::pool::Pool;

/// How many synchs an error names.
const NAMED_MAX: usize = 8;
/// The maximum number of synchs that are deleted at once.
const DELETED_AT_ONCE_MAX: usize = 1000;
/// How many synchs one turn of the reactor looks at.
const PIECE_SYNCHS: usize = 256;
const PIECE_BYTES: usize = 128 << 10;

/// Which synchs are wanted.
#[derive(Debug, Clone, Default)]
pub struct SynchFilter {
    /// Those up to this position.
    pub to: Option<Lsn>,
    /// Those with such a label: a pattern with `*` and `?`.
    pub label: Option<String>,
    /// Those of this volume, and those of all volumes.
    pub volume: Option<String>,
}

impl Pool {
    /// At most `limit` synchs from a position on, oldest first, and none after the one whose text
    /// reaches `bytes_max`.
    ///
    /// # Errors
    /// There never was such a volume.
    pub async fn synchs_where(
        self: Rc<Self>,
        mut from: Lsn,
        limit: usize,
        bytes_max: usize,
        filter: SynchFilter,
    ) -> Result<Vec<SynchInfo>, VolumeError> {
        let volume = match &filter.volume {
            Some(name) => Some(self.uuid_of(name).await?),
            None => None,
        };
        let glob = filter.label.as_deref().map(LabelGlob::new);
        let end = filter.to.map_or(Lsn::MAX, |to| Lsn(to.0.saturating_add(1)));
        let (mut found, mut bytes) = (Vec::new(), 0);
        while found.len() < limit && bytes < bytes_max && from < end {
            let page = self.synchs_within(from..end, PIECE_SYNCHS, PIECE_BYTES);
            let Some(last) = page.last() else { break };
            from = Lsn(last.lsn.saturating_add(1));
            let wanted = page.into_iter().filter(|synch| {
                synch.is_for(volume) && glob.as_ref().is_none_or(|glob| glob.matches(&synch.label))
            });
            for synch in wanted {
                if found.len() < limit && bytes < bytes_max {
                    bytes += synch.text_bytes();
                    found.push(synch);
                }
            }
            yield_now().await;
        }
        Ok(found)
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
                    catalog.deleted_synchs.retain(|&lsn| lsn >= oldest_lsn);
                }
                let known: HashSet<u64> = catalog.deleted_synchs.iter().copied().collect();
                for synch in found.iter().filter(|synch| !known.contains(&synch.lsn)) {
                    catalog.deleted_synchs.push(synch.lsn);
                }
                Ok(())
            })
            .await?;
        let gone: HashSet<u64> = found.iter().map(|synch| synch.lsn).collect();
        self.state.borrow_mut().synchs.retain(|synch| !gone.contains(&synch.lsn));
        recovery::stable(&self.log, lsn.plus(1)).await?;
        Ok(found)
    }

    /// The synch with an id, or all with a label, oldest first.
    async fn synchs_named(&self, name: &str) -> Vec<SynchInfo> {
        let id = name.parse::<u64>().ok().filter(|&id| id > 0);
        let (mut from, mut labelled) = (Lsn(0), Vec::new());
        loop {
            let page = self.synchs_within(from..Lsn::MAX, PIECE_SYNCHS, PIECE_BYTES);
            let Some(last) = page.last() else { return labelled };
            from = Lsn(last.lsn.saturating_add(1));
            for synch in page {
                if Some(synch.id) == id {
                    return vec![synch];
                }
                if synch.label == name && labelled.len() < DELETED_AT_ONCE_MAX {
                    labelled.push(synch);
                }
            }
            yield_now().await;
        }
    }

    /// The positions of deleted synchs.
    pub(in crate::volume) fn deleted_synchs(&self) -> HashSet<u64> {
        self.state.borrow().catalog.deleted_synchs.iter().copied().collect()
    }
}
