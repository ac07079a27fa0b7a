//! How fast the archive may expire: what cannot be undone goes slowly enough that somebody can notice and stop it.
//!
//! In any hour at most 5 % of the archive's segments go; of a small archive [`SEGMENTS_PER_HOUR_MIN`], so that it expires too. A start counts as if three quarters of that had just gone: an appliance
//! that starts again and again deletes little faster. By the monotonic clock alone.
//!
//! An archive whose rules let more than 5 % go each hour keeps up to 20 hours more than they ask for.
//!
//! **Bounds:** what went is remembered by the minute, for an hour.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// This part of the segments may go in an hour.
const PART_PER_HOUR: f64 = 0.05;
/// So many may always.
const SEGMENTS_PER_HOUR_MIN: f64 = 8.0;
/// This part of an hour's worth counts as gone at the start.
const GONE_AT_START: f64 = 0.75;

const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);

/// What went in the last hour.
#[derive(Debug)]
pub(super) struct Pace {
    /// Until when it went, and which part of an hour's worth; oldest first.
    gone: VecDeque<(Instant, f64)>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Pace { gone: VecDeque::from([(now + MINUTE, GONE_AT_START)]) }
    }

    /// How many segments may go now, of an archive of so many.
    pub(super) fn allowed(&mut self, segments: u64, now: Instant) -> u64 {
        while self.gone.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= HOUR) {
            self.gone.pop_front();
        }
        let gone: f64 = self.gone.iter().map(|(_, part)| part).sum();
        // Sums of parts are a little off.
        ((1.0 - gone) * per_hour(segments) + 1e-6).max(0.0) as u64
    }

    /// So many went, of an archive that had so many.
    pub(super) fn spend(&mut self, count: u64, segments: u64, now: Instant) {
        let part = count as f64 / per_hour(segments);
        match self.gone.back_mut() {
            Some((at, known)) if now <= *at => *known += part,
            _ => self.gone.push_back((now + MINUTE, part)),
        }
    }

    /// How long it takes until the next may go.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let oldest = self.gone.front().map_or(now, |(at, _)| *at + HOUR);
        oldest.saturating_duration_since(now)
    }
}

/// How many segments may go in an hour, of an archive of so many.
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
            // Now little is asked for, now all.
            let wanted = pace.allowed(1000, now).min(if minute % 7 == 0 { 1000 } else { minute % 3 });
            pace.spend(wanted, 1000, now);
            gone.push((minute, wanted));
            let last: u64 = gone.iter().filter(|(at, _)| at + 60 > minute).map(|(_, count)| count).sum();
            assert!(last <= 50, "{last} in the hour before minute {minute}");
        }
        let all: u64 = gone.iter().map(|(_, count)| count).sum();
        assert!(all > 400, "{all} in ten hours");
        // Many days of rest are no more than an hour.
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
