//! The state of the last restore of blocks.
//!
//! **Invariant:** one restore of a pool runs at a time. It begins as `comparing`, goes on as
//! `writing`, and ends as `done` or `failed`.

use super::info::{BlockRestoreInfo, BlockRestoreState};

/// The last restore. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct BlockRestores {
    last: Option<BlockRestoreInfo>,
}

impl BlockRestores {
    /// The last restore, running or ended.
    pub(super) fn last(&self) -> Option<&BlockRestoreInfo> {
        self.last.as_ref()
    }

    /// The restore that is running.
    pub(super) fn running(&self) -> Option<&BlockRestoreInfo> {
        self.last()
            .filter(|last| matches!(last.state, BlockRestoreState::Comparing | BlockRestoreState::Writing))
    }

    /// Begins a restore.
    pub(super) fn begin(&mut self, info: BlockRestoreInfo) {
        assert!(self.running().is_none(), "one restore at a time");
        self.last = Some(info);
    }

    /// Notes what differs.
    pub(super) fn note_differing(&mut self, blocks: u64) {
        if let Some(last) = &mut self.last {
            last.differing_blocks += blocks;
            last.state = BlockRestoreState::Writing;
        }
    }

    /// Notes blocks that were written.
    pub(super) fn note_written(&mut self, blocks: u64) {
        if let Some(last) = &mut self.last {
            last.written_blocks += blocks;
        }
    }

    /// Notes blocks that were discarded.
    pub(super) fn note_unmapped(&mut self, blocks: u64) {
        if let Some(last) = &mut self.last {
            last.unmapped_blocks += blocks;
        }
    }

    /// Ends the restore, with the reason if it failed.
    pub(super) fn end(&mut self, problem: Option<String>) {
        if let Some(last) = &mut self.last {
            last.state = if problem.is_some() { BlockRestoreState::Failed } else { BlockRestoreState::Done };
            last.problem = problem;
        }
    }
}
