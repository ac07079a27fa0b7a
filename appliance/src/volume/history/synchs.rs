//! The list of all synchs. It dereferences to a slice.
//!
//! **Invariant:** the list is in the order of the log, and each position has at most one synch.

use std::ops::Deref;

use crate::volume::info::SynchInfo;

/// All synchs that can be restored. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Synchs {
    list: Vec<SynchInfo>,
}

impl Deref for Synchs {
    type Target = [SynchInfo];

    fn deref(&self) -> &[SynchInfo] {
        &self.list
    }
}

impl Synchs {
    /// Adds the newest synch.
    pub(in crate::volume) fn push(&mut self, synch: SynchInfo) {
        assert!(self.list.last().is_none_or(|last| last.lsn < synch.lsn), "synchs are in order");
        self.list.push(synch);
    }

    /// Adds a synch from the archive. A known synch stays as it is, unless its text is damaged on
    /// the primary device: a crash while a slot is being reused may bring back the previous
    /// segment, with some blocks of the new one. Returns the problem that this repairs.
    pub(in crate::volume) fn learn(&mut self, synch: SynchInfo) -> Option<String> {
        let place = self.list.partition_point(|known| known.lsn < synch.lsn);
        match self.list.get_mut(place).filter(|known| known.lsn == synch.lsn) {
            None => self.list.insert(place, synch),
            Some(known) if known.is_damaged() && !synch.is_damaged() => {
                let problem = synch.damage();
                *known = synch;
                return Some(problem);
            }
            Some(_) => {}
        }
        debug_assert!(self.list.is_sorted_by(|one, other| one.lsn < other.lsn), "synchs are in order");
        None
    }

    /// Drops the synchs for which `keep` is false.
    pub(in crate::volume) fn retain(&mut self, keep: impl FnMut(&SynchInfo) -> bool) {
        self.list.retain(keep);
    }
}
