//! The rate limit of expiry: deletions cannot be undone, so they go slowly enough that an operator
//! can notice and stop them.
//!
//! In any hour at most 5 % of the archive's segments expire; in a small archive
//! [`SEGMENTS_PER_HOUR_MIN`], so that it expires too. A start counts as if three quarters of that
//! amount had just expired, so an appliance that restarts again and again deletes little faster.
//! Only the monotonic clock is used.
//!
//! If the rules release more than 5 % each hour, segments are kept up to 20 hours longer than the
//! rules ask for.
//!
//! **Bounds:** expired segments are counted by the minute, and remembered for one hour.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The fraction of the segments that may expire in an hour.
const PART_PER_HOUR: f64 = 0.05;
/// The hourly limit is never below this number.
const SEGMENTS_PER_HOUR_MIN: f64 = 8.0;
/// The fraction of the hourly limit that counts as used at the start.
const GONE_AT_START: f64 = 0.75;

const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);

/// What expired in the last hour.
#[derive(Debug)]
pub(super) struct Pace {
    /// The end of each counted minute, and the fraction of the hourly limit used in it; oldest
    /// first.
    gone: VecDeque<(Instant, f64)>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Pace { gone: VecDeque::from([(now + MINUTE, GONE_AT_START)]) }
    }

    /// How many segments may expire now, in an archive of `segments`.
    pub(super) fn allowed(&mut self, segments: u64, now: Instant) -> u64 {
        while self.gone.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= HOUR) {
            self.gone.pop_front();
        }
        let gone: f64 = self.gone.iter().map(|(_, part)| part).sum();
        // The tolerance covers rounding errors in the sum.
        ((1.0 - gone) * per_hour(segments) + 1e-6).max(0.0) as u64
    }

    /// Records that `count` segments expired, in an archive that had `segments`.
    pub(super) fn spend(&mut self, count: u64, segments: u64, now: Instant) {
        let part = count as f64 / per_hour(segments);
        match self.gone.back_mut() {
            Some((at, known)) if now <= *at => *known += part,
            _ => self.gone.push_back((now + MINUTE, part)),
        }
    }

    /// The time until the next segment may expire.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let oldest = self.gone.front().map_or(now, |(at, _)| *at + HOUR);
        oldest.saturating_duration_since(now)
    }
}

/// How many segments may expire in an hour, in an archive of `segments`.
pub(super) fn per_hour(segments: u64) -> f64 {
    (segments as f64 * PART_PER_HOUR).floor().max(SEGMENTS_PER_HOUR_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hour_takes_more_than_a_twentieth() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut gone: Vec<(u64, u64)> = Vec::new();
        for minute in 0..=600 {
            let now = start + MINUTE * minute as u32;
            // Mostly a small request, sometimes everything.
            let wanted = pace.allowed(1000, now).min(if minute % 7 == 0 { 1000 } else { minute % 3 });
            pace.spend(wanted, 1000, now);
            gone.push((minute, wanted));
            let last: u64 = gone.iter().filter(|(at, _)| at + 60 > minute).map(|(_, count)| count).sum();
            assert!(last <= 50, "{last} in the hour before minute {minute}");
        }
        let all: u64 = gone.iter().map(|(_, count)| count).sum();
        assert!(all > 400, "{all} in ten hours");
        // After many idle days the limit is still that of one hour.
        assert_eq!(pace.allowed(1000, start + HOUR * 500), 50);
    }

    #[test]
    fn a_small_archive_expires_and_a_start_begins_with_little() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.allowed(20, start), 2);
        pace.spend(2, 20, start);
        assert_eq!(pace.allowed(20, start), 0);
        assert_eq!(pace.wait(start), HOUR + MINUTE);
        assert_eq!(pace.allowed(20, start + HOUR + MINUTE), 8);
        assert_eq!(pace.allowed(1000, start + HOUR + MINUTE), 50);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for second in 0..10_000 {
            let now = start + Duration::from_secs(second);
            let allowed = pace.allowed(100_000, now).min(1);
            pace.spend(allowed, 100_000, now);
            assert!(pace.gone.len() <= 62);
        }
    }
}
