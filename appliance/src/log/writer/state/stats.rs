//! Counters of the log, since it was opened.
//!
//! **Invariant.** They only grow, and each block that is written to the device is counted in
//! `device_written_blocks` and, unless it is data, in one of the others.

/// Counters since the log was opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogStats {
    /// Blocks written to the device: headers, data, trailers.
    pub device_written_blocks: u64,
    /// Records written.
    pub records: u64,
    /// Device flushes.
    pub flushes: u64,
    /// Data blocks copied forward.
    pub copied_blocks: u64,
    /// Header blocks of records and segments.
    pub header_blocks: u64,
    /// Blocks of trailers.
    pub trailer_blocks: u64,
    /// Segments that became inactive.
    pub retired_segments: u64,
    /// Segments whose slot was reassigned.
    pub released_segments: u64,
    /// Of these, those that were released early.
    pub released_early_segments: u64,
}

impl LogStats {
    pub(in crate::log) fn count_record(&mut self, len_blocks: u64) {
        self.device_written_blocks += len_blocks;
        self.header_blocks += 1;
        self.records += 1;
    }

    pub(in crate::log) fn count_trailer_piece(&mut self, len_blocks: u64) {
        self.device_written_blocks += len_blocks;
        self.trailer_blocks += len_blocks;
        debug_assert!(self.header_blocks + self.trailer_blocks <= self.device_written_blocks);
    }

    pub(in crate::log) fn count_flush(&mut self) {
        self.flushes += 1;
    }

    pub(in crate::log) fn count_copy(&mut self) {
        self.copied_blocks += 1;
    }

    pub(in crate::log) fn count_retired(&mut self, segments: u64) {
        self.retired_segments += segments;
    }

    pub(in crate::log) fn count_released(&mut self, is_early: bool) {
        self.released_segments += 1;
        self.released_early_segments += u64::from(is_early);
    }
}
