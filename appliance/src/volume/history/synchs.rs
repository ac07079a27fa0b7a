//! The synchs that can be restored. It dereferences to their table.
//!
//! **Invariant:** the table is in the order of the log, and each position has at most one synch.

use std::ops::Deref;

use super::synch_table::{SynchTable, with_ref};
use crate::log::Lsn;
use crate::volume::info::SynchInfo;

/// All synchs that can be restored. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Synchs {
    table: SynchTable,
}

impl Deref for Synchs {
    type Target = SynchTable;

    fn deref(&self) -> &SynchTable {
        &self.table
    }
}

impl Synchs {
    /// A copy of the table, which shares its pages: it costs one reference.
    pub(in crate::volume) fn share(&self) -> SynchTable {
        self.table.clone()
    }

    /// Adds the newest synch.
    pub(in crate::volume) fn push(&mut self, synch: &SynchInfo) {
        self.table.push(synch);
    }

    /// Begins with the synchs of the log.
    pub(in crate::volume) fn begin_with(&mut self, table: SynchTable) {
        assert!(self.table.is_empty(), "the log's synchs come first");
        self.table = table;
    }

    /// Adds a synch from the archive. A known synch stays as it is, unless its text is damaged on
    /// the primary device: a crash while a slot is being reused may bring back the previous
    /// segment, with some blocks of the new one. Returns the problem that this repairs.
    pub(in crate::volume) fn learn(&mut self, synch: &SynchInfo) -> Option<String> {
        let is_known = self.table.get(Lsn(synch.lsn)).map(|known| known.is_damaged());
        let heals = is_known == Some(true) && !synch.is_damaged();
        if is_known.is_none() || heals {
            with_ref(synch, |synch| self.table.insert(synch));
        }
        heals.then(|| synch.damage())
    }

    /// The same for many synchs. Returns the problems that this repairs. Cost: one reference for
    /// each page between the known ones, and one step for each synch of other pages.
    pub(in crate::volume) fn learn_all(&mut self, synchs: &SynchTable) -> Vec<String> {
        let rest = self.table.take_pages(synchs);
        let mut news = SynchTable::default();
        let mut healed = Vec::new();
        let Some(first) = rest.iter().next() else { return healed };
        let mut known = self.table.iter_from(first.lsn).peekable();
        for synch in rest.iter() {
            while known.next_if(|known| known.lsn < synch.lsn).is_some() {}
            let is_known = known.next_if(|known| known.lsn == synch.lsn).map(|known| known.is_damaged());
            let heals = is_known == Some(true) && !synch.is_damaged();
            if is_known.is_none() || heals {
                news.push_ref(synch);
            }
            if heals {
                healed.push(SynchInfo::damaged(synch.lsn.0, synch.time_ns).damage());
            }
        }
        drop(known);
        news.iter().for_each(|synch| self.table.insert(synch));
        healed
    }

    /// Drops the synchs for which `keep` is false, among those of the pages that `may_drop` accepts
    /// by their first and last position.
    pub(in crate::volume) fn retain(
        &mut self,
        may_drop: impl Fn(Lsn, Lsn) -> bool,
        keep: impl FnMut(Lsn) -> bool,
    ) {
        self.table.retain(may_drop, keep);
    }
}
