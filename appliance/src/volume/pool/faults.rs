//! Blocks that hosts could not read, by name, and a rate limit for their lines in the journal.
//!
//! **Bounds:** [`FAULTS_KEPT`] faults, one line in the journal per [`JOURNAL_NS`].

use std::collections::VecDeque;

/// How many of the newest faults are kept by name.
const FAULTS_KEPT: usize = 16;
/// The minimum time between two lines in the journal.
const JOURNAL_NS: u64 = 1_000_000_000;

/// The faults of a pool. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Faults {
    list: VecDeque<String>,
    journal_ns: u64,
    unsaid: u64,
}

impl Faults {
    /// The newest blocks that hosts could not read, as text.
    pub(super) fn iter(&self) -> impl Iterator<Item = &String> {
        self.list.iter()
    }

    /// Returns, if a line may be written to the journal now, how many were suppressed since the
    /// last one.
    pub(super) fn may_say(&mut self, now_ns: u64) -> Option<u64> {
        if self.journal_ns != 0 && now_ns.saturating_sub(self.journal_ns) < JOURNAL_NS {
            self.unsaid += 1;
            return None;
        }
        self.journal_ns = now_ns.max(1);
        Some(std::mem::take(&mut self.unsaid))
    }

    /// Stores a fault, unless it is already known.
    pub(super) fn note(&mut self, fault: String, now_ns: u64) {
        if self.list.contains(&fault) {
            return;
        }
        if self.list.len() == FAULTS_KEPT {
            self.list.pop_front();
        }
        if let Some(unsaid) = self.may_say(now_ns) {
            tracing::error!(fault, unsaid, "a host's read failed");
        }
        self.list.push_back(fault);
        assert!(self.list.len() <= FAULTS_KEPT, "only the newest are kept");
    }
}
