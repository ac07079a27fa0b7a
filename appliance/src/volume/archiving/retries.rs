//! The pauses after jobs that failed, and the segments whose source cannot be read.
//!
//! **Invariant:** a pause doubles with each failure, from [`RETRY_FIRST_NS`] up to
//! [`RETRY_LAST_NS`]; a job that succeeds sets it back. A command of the operator ends a pause.

use std::collections::HashMap;

use crate::log::SegmentSeq;

/// The first pause after a failed job; it doubles each time.
const RETRY_FIRST_NS: u64 = 500_000_000;
/// The longest such pause.
const RETRY_LAST_NS: u64 = 30_000_000_000;

/// The pauses. See the module's documentation.
pub(super) struct Retries {
    /// No job starts before this time.
    at_ns: u64,
    wait_ns: u64,
    /// Segments whose source could not be read, and how many times.
    source_failures: HashMap<SegmentSeq, u32>,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { at_ns: 0, wait_ns: RETRY_FIRST_NS, source_failures: HashMap::new() }
    }
}

impl Retries {
    /// Whether jobs wait for the end of a pause.
    pub(super) fn is_pausing(&self, now_ns: u64) -> bool {
        now_ns < self.at_ns
    }

    /// Begins a pause; the next one is longer.
    pub(super) fn pause(&mut self, now_ns: u64) {
        self.at_ns = now_ns.saturating_add(self.wait_ns);
        self.wait_ns = (self.wait_ns * 2).min(RETRY_LAST_NS);
    }

    /// Ends the pause.
    pub(super) fn go_on_now(&mut self) {
        self.at_ns = 0;
    }

    /// Notes that a job of a segment succeeded.
    pub(super) fn note_success(&mut self, sequence: SegmentSeq) {
        self.wait_ns = RETRY_FIRST_NS;
        self.source_failures.remove(&sequence);
    }

    /// Notes that the source of a segment could not be read. Returns how many times by now.
    pub(super) fn note_source_failure(&mut self, sequence: SegmentSeq) -> u32 {
        let failures = self.source_failures.entry(sequence).or_default();
        *failures += 1;
        *failures
    }

    /// How many times the source of a segment could not be read.
    pub(super) fn source_failures(&self, sequence: SegmentSeq) -> u32 {
        self.source_failures.get(&sequence).copied().unwrap_or_default()
    }
}
