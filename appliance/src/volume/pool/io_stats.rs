//! Counters of hosts' I/O since the start. They only grow.

/// The counters of a pool.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::volume) struct IoStats {
    host_written_blocks: u64,
    host_read_blocks: u64,
    checksum_errors: u64,
    /// Device reads for hosts that failed and were retried.
    retried_reads: u64,
    /// Of these, reads in which a retry succeeded.
    rescued_reads: u64,
    /// Media errors that hosts received because of a block.
    unreadable_blocks: u64,
}

impl IoStats {
    pub(super) fn host_written_blocks(&self) -> u64 {
        self.host_written_blocks
    }

    pub(super) fn host_read_blocks(&self) -> u64 {
        self.host_read_blocks
    }

    pub(super) fn checksum_errors(&self) -> u64 {
        self.checksum_errors
    }

    pub(super) fn retried_reads(&self) -> u64 {
        self.retried_reads
    }

    pub(super) fn rescued_reads(&self) -> u64 {
        self.rescued_reads
    }

    pub(super) fn unreadable_blocks(&self) -> u64 {
        self.unreadable_blocks
    }

    #[inline]
    pub(super) fn note_written(&mut self, blocks: u64) {
        self.host_written_blocks += blocks;
    }

    #[inline]
    pub(super) fn note_read(&mut self, blocks: u64) {
        self.host_read_blocks += blocks;
    }

    /// Counts blocks with a wrong checksum.
    pub(super) fn note_checksum_errors(&mut self, blocks: u64) {
        self.checksum_errors += blocks;
    }

    /// Counts a device read that failed and is retried.
    pub(super) fn note_retried(&mut self) {
        self.retried_reads += 1;
    }

    /// Counts a successful retry.
    pub(super) fn note_rescued(&mut self) {
        self.rescued_reads += 1;
    }

    /// Counts a media error that a host received because of a block.
    pub(super) fn note_unreadable(&mut self) {
        self.unreadable_blocks += 1;
    }
}
