//! The time of day for a pool: spans before now, times in the future, and the message to the
//! operator while the machine's clock and the log disagree.

use crate::log::time::{ClockStanding, ClockStatus, SpanBy};
use crate::volume::error::VolumeError;
use crate::volume::pool::Pool;

/// The command that confirms the machine's clock, for messages.
const CONFIRM: &str = "`varve pool clock --is-right` (or `varve archive expire --clock-is-right`)";

impl Pool {
    /// The time that records carry, the machine's time, and how they compare.
    pub fn clock(&self) -> ClockStatus {
        self.log.borrow().clock_status()
    }

    /// An operator confirms that the machine's clock is right: expiry continues, and records follow
    /// the clock. This is valid until the clock jumps again, or for this run.
    pub fn confirm_clock(&self) -> ClockStatus {
        let log = self.log.borrow();
        let before = log.clock_status();
        let after = log.confirm_clock();
        if before.standing != ClockStanding::Agrees {
            tracing::warn!(
                apart_s = before.apart_ns() as f64 / 1e9,
                standing = ?before.standing,
                "an operator has confirmed the machine's clock"
            );
        }
        after
    }

    /// The time `span_ns` before now. A span that reaches back before this start is refused while
    /// the clocks disagree, because it is unknown how long the appliance was off.
    pub(in crate::volume) fn time_ago(
        &self,
        point: &str,
        span_ns: u64,
    ) -> Result<(u64, SpanBy), VolumeError> {
        let log = self.log.borrow();
        let (time_ns, by) = log.time_ago(span_ns);
        let clock = log.clock_status();
        if by == SpanBy::Records && clock.standing != ClockStanding::Agrees {
            let reason = format!(
                "it reaches back before this start, and how long the appliance was off is not known: {}. Name the point by lsn:N, synch:LABEL or an absolute time:..., or confirm the clock with {CONFIRM} if it is right",
                disagreement(&clock)
            );
            return Err(VolumeError::NoSuchPoint { point: point.to_owned(), reason });
        }
        Ok((time_ns, by))
    }

    /// Refuses a time that the log has not reached, with the reason.
    pub(in crate::volume) fn check_past(&self, time_ns: u64) -> Result<(), String> {
        let log = self.log.borrow();
        if time_ns <= log.now_ns() {
            return Ok(());
        }
        let clock = log.clock_status();
        Err(match clock.standing {
            ClockStanding::Ahead => format!(
                "it lies in the future of the log: {}; records carry the log's time until then",
                disagreement(&clock)
            ),
            ClockStanding::Agrees | ClockStanding::Behind => "it lies in the future".to_owned(),
        })
    }
}

/// The message for the operator if the clocks disagree.
pub fn clock_problem(clock: &ClockStatus, has_archive: bool) -> Option<String> {
    let how = disagreement(clock);
    let held = if has_archive { "nothing expires from the archive, and " } else { "" };
    match clock.standing {
        ClockStanding::Agrees => None,
        ClockStanding::Ahead => Some(format!(
            "the clocks disagree: {how}. Until that is settled {held}records carry the log's time. Set the machine's clock right, or confirm it with {CONFIRM}"
        )),
        ClockStanding::Behind if clock.confirmed => Some(format!(
            "the clocks disagree: {how}. It was confirmed: the log's time runs slowly until they agree again"
        )),
        ClockStanding::Behind => {
            let kept = if has_archive { ", and expiry goes by the machine's, which keeps more" } else { "" };
            Some(format!(
                "the clocks disagree: {how}. Records carry the log's time{kept}. Set the machine's clock right, or confirm it with {CONFIRM}: then the log's time runs slowly until they agree again"
            ))
        }
    }
}

/// How the clocks compare, as text.
fn disagreement(clock: &ClockStatus) -> String {
    let text = |time_ns: u64| {
        let time = jiff::Timestamp::from_second((time_ns / 1_000_000_000) as i64);
        time.map_or_else(|_| format!("{time_ns} ns"), |time| time.to_string())
    };
    let where_to = if clock.wall_ns >= clock.trusted_ns { "ahead of" } else { "behind" };
    format!(
        "the machine's clock says {}, {} {where_to} the log's time {}",
        text(clock.wall_ns),
        span_text(clock.apart_ns()),
        text(clock.trusted_ns)
    )
}

/// A span as text, in the largest unit of which it has at least two.
fn span_text(span_ns: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "days"), (3600, "hours"), (60, "minutes")];
    let seconds = span_ns / 1_000_000_000;
    match UNITS.iter().find(|(unit_s, _)| seconds >= 2 * unit_s) {
        Some((unit_s, name)) => format!("{:.1} {name}", seconds as f64 / *unit_s as f64),
        None => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_is_told_what_is_wrong_and_what_to_do() {
        const DAY_NS: u64 = 86_400_000_000_000;
        let mut clock = ClockStatus { trusted_ns: 20_000 * DAY_NS, ..ClockStatus::default() };
        clock.wall_ns = clock.trusted_ns;
        assert_eq!(clock_problem(&clock, true), None);
        clock.wall_ns += 400 * DAY_NS;
        clock.standing = ClockStanding::Ahead;
        let text = clock_problem(&clock, true).expect("a problem");
        assert!(text.contains("400.0 days ahead of") && text.contains("nothing expires"), "{text}");
        assert!(text.contains("--clock-is-right"), "{text}");
        clock.wall_ns = clock.trusted_ns - 5_400_000_000_000;
        clock.standing = ClockStanding::Behind;
        let text = clock_problem(&clock, false).expect("a problem");
        assert!(text.contains("90.0 minutes behind") && !text.contains("expiry goes"), "{text}");
    }
}
