//! The speed of the archivist: what it did in the last minute.

use std::collections::VecDeque;

use crate::archive::service::Archived;

/// How long a job counts.
const WINDOW_NS: u64 = 60_000_000_000;
/// Jobs that end within this time are stored as one entry.
const TOGETHER_NS: u64 = 1_000_000_000;

/// Jobs that have ended.
#[derive(Clone, Copy)]
struct Jobs {
    /// When the first of them ended, by the clock of spans.
    at_ns: u64,
    content_bytes: u64,
    busy_us: u64,
}

/// What was done in the last minute. Bounded: one entry for each second.
#[derive(Default)]
pub(super) struct Recent {
    jobs: VecDeque<Jobs>,
}

impl Recent {
    /// Notes that a job has ended.
    pub(super) fn note(&mut self, now_ns: u64, archived: &Archived) {
        while self.jobs.front().is_some_and(|jobs| now_ns.saturating_sub(jobs.at_ns) >= WINDOW_NS) {
            self.jobs.pop_front();
        }
        let (content_bytes, busy_us) = (archived.content_bytes, archived.elapsed_us);
        match self.jobs.back_mut().filter(|jobs| now_ns.saturating_sub(jobs.at_ns) < TOGETHER_NS) {
            Some(jobs) => {
                jobs.content_bytes += content_bytes;
                jobs.busy_us += busy_us;
            }
            None => self.jobs.push_back(Jobs { at_ns: now_ns, content_bytes, busy_us }),
        }
    }

    /// Content bytes a second of the archivist's time in the last minute; 0 if it did nothing.
    pub(super) fn bytes_per_s(&self, now_ns: u64) -> f64 {
        let recent = self.jobs.iter().filter(|jobs| now_ns.saturating_sub(jobs.at_ns) < WINDOW_NS);
        let (bytes, busy_us) =
            recent.fold((0, 0), |(bytes, us), jobs| (bytes + jobs.content_bytes, us + jobs.busy_us));
        if busy_us == 0 { 0.0 } else { bytes as f64 / busy_us as f64 * 1e6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_minute_counts() {
        const SECOND_NS: u64 = 1_000_000_000;
        let job =
            |content_bytes| Archived { object_bytes: 1, content_bytes, bad_blocks: 0, elapsed_us: 1_000_000 };
        let mut recent = Recent::default();
        assert!(recent.bytes_per_s(0) < 1.0);
        recent.note(0, &job(1_000_000));
        assert!((recent.bytes_per_s(SECOND_NS) - 1e6).abs() < 1.0);
        for second in 0..1000 {
            recent.note((100 + second) * SECOND_NS, &job(2_000_000));
            assert!(recent.jobs.len() <= 61);
        }
        assert!((recent.bytes_per_s(1100 * SECOND_NS) - 2e6).abs() < 1.0);
        assert!(recent.bytes_per_s(2000 * SECOND_NS) < 1.0, "it is idle");
    }
}
