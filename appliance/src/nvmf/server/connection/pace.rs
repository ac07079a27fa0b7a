//! Checks whether a peer takes and sends the data it owes at a minimum rate.
//!
//! "Any progress" is not enough when memory is short: a host that reads one byte from time to time
//! could hold memory that others wait for without limit. A small rest is ignored, because the last
//! bytes of a transfer do not show a rate.

use std::time::{Duration, Instant};

/// Up to this much may be owed for as long as the transfer timeout allows.
const SMALL_REST_BYTES: u64 = 16 * 1024;

/// The rate that a peer must keep.
#[derive(Debug, Clone, Copy)]
pub(super) struct MinimumRate {
    /// 0: any rate.
    pub(super) bytes_per_second: u64,
    /// The time over which it is averaged.
    pub(super) span: Duration,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Pace {
    span: Option<Span>,
}

#[derive(Debug)]
struct Span {
    began: Instant,
    /// Bytes moved when it began.
    moved_bytes: u64,
    /// Bytes that must have moved during it.
    expected_bytes: u64,
}

impl Pace {
    /// Starts a new span with the next check.
    pub(super) fn forget(&mut self) {
        self.span = None;
    }

    /// Checks a peer that owes `owed_bytes` and has moved `moved_bytes` so far. Returns whether it
    /// was too slow over a whole span.
    pub(super) fn is_too_slow(
        &mut self,
        now: Instant,
        moved_bytes: u64,
        owed_bytes: u64,
        rate: MinimumRate,
    ) -> bool {
        if owed_bytes <= SMALL_REST_BYTES || rate.bytes_per_second == 0 {
            self.forget();
            return false;
        }
        let in_span = u128::from(rate.bytes_per_second) * rate.span.as_millis() / 1000;
        let expected_bytes = owed_bytes.min(u64::try_from(in_span).unwrap_or(u64::MAX));
        let next = Span { began: now, moved_bytes, expected_bytes };
        let span = self.span.get_or_insert(next);
        if now.saturating_duration_since(span.began) < rate.span {
            return false;
        }
        let is_too_slow = moved_bytes - span.moved_bytes < span.expected_bytes;
        *span = Span { began: now, moved_bytes, expected_bytes };
        is_too_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: MinimumRate = MinimumRate { bytes_per_second: 64 << 10, span: Duration::from_secs(4) };

    fn look(pace: &mut Pace, start: Instant, at_ms: u64, moved_bytes: u64, owed_bytes: u64) -> bool {
        pace.is_too_slow(start + Duration::from_millis(at_ms), moved_bytes, owed_bytes, RATE)
    }

    #[test]
    fn a_peer_is_judged_by_whole_spans() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert!(!look(&mut pace, start, 0, 0, 1 << 20));
        assert!(!look(&mut pace, start, 3_900, 0, 1 << 20), "the span is not over");
        assert!(look(&mut pace, start, 4_000, (256 << 10) - 1, 1 << 20));
        // The next span begins with the bytes moved by then.
        assert!(!look(&mut pace, start, 8_000, 2 * (256 << 10), 1 << 20));
        assert!(look(&mut pace, start, 12_000, 2 * (256 << 10) + 1, 1 << 20));
    }

    #[test]
    fn small_rests_and_pauses_are_left_alone() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for at_ms in [0, 5_000, 10_000] {
            assert!(!look(&mut pace, start, at_ms, 7, SMALL_REST_BYTES));
        }
        assert!(!look(&mut pace, start, 20_000, 7, 1 << 20));
        pace.forget();
        assert!(!look(&mut pace, start, 24_000, 7, 1 << 20), "it began anew");
        let off = MinimumRate { bytes_per_second: 0, ..RATE };
        assert!(!pace.is_too_slow(start + Duration::from_mins(1), 7, 1 << 20, off));
    }

    #[test]
    fn who_owed_less_than_the_rate_is_asked_for_no_more_than_that() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert!(!look(&mut pace, start, 0, 0, 20 << 10));
        assert!(!look(&mut pace, start, 4_000, 20 << 10, 20 << 10));
    }
}
