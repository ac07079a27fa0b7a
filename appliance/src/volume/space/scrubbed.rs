//! The findings of the primary device's scrub since the start. Counters only grow.

use serde::{Deserialize, Serialize};

/// The findings of the primary device's scrub since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryScrub {
    /// Passes that have ended.
    pub passes: u64,
    /// When the last one ended, ns since the Unix epoch.
    pub last_pass_ns: Option<u64>,
    /// Segments that were read.
    pub segments: u64,
    /// Blocks that were read.
    pub blocks: u64,
    /// Blocks that could not be read, or did not match their checksum.
    pub bad_blocks: u64,
    /// Of these, those that were copied forward from the archive.
    pub repaired_blocks: u64,
    /// Of these, those that exist nowhere else.
    pub lost_blocks: u64,
}

/// The counters of a pool.
#[derive(Default)]
pub(in crate::volume) struct Scrubbed {
    found: PrimaryScrub,
}

impl Scrubbed {
    /// The findings so far.
    pub(in crate::volume) fn found(&self) -> PrimaryScrub {
        self.found
    }

    /// Counts a pass over all segments that has ended.
    pub(in crate::volume) fn note_pass(&mut self, now_ns: u64) {
        self.found.passes += 1;
        self.found.last_pass_ns = Some(now_ns);
    }

    /// Counts a segment that was read to its end.
    pub(in crate::volume) fn note_segment(&mut self) {
        self.found.segments += 1;
    }

    /// Counts blocks that were read.
    pub(in crate::volume) fn note_blocks(&mut self, blocks: u64) {
        self.found.blocks += blocks;
    }

    /// Counts a damaged block.
    pub(in crate::volume) fn note_bad(&mut self) {
        self.found.bad_blocks += 1;
        assert!(self.found.bad_blocks <= self.found.blocks, "a bad block was read");
    }

    /// Counts a damaged block that exists nowhere else.
    pub(in crate::volume) fn note_lost(&mut self) {
        self.found.lost_blocks += 1;
    }

    /// Counts a damaged block that was copied forward from the archive.
    pub(in crate::volume) fn note_repaired(&mut self) {
        self.found.repaired_blocks += 1;
    }
}
