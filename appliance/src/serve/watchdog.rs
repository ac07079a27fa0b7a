//! The watchdog of the pool's reactor: if a turn does not end within a bound, it ends the process,
//! with a report of what the reactor was doing.
//!
//! The watchdog runs on another thread and checks every [`LOOK_INTERVAL`]. One check counts for at
//! most twice that, however much time has passed since the previous one: if the process or the
//! machine was suspended, that time was not spent in one turn.

use std::time::{Duration, Instant};

use crate::reactor::{Doing, ReactorHandle};

/// How often it checks.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A turn that lasts longer than this is reported while it lasts.
const ALARM: Duration = Duration::from_secs(2);

/// What it has observed of the turn.
pub(super) struct Watchdog {
    limit: Option<Duration>,
    looked: Instant,
    turn: Option<u64>,
    lasted: Duration,
    alarmed: bool,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The reactor turns, or sleeps.
    Well,
    /// The turn has just exceeded [`ALARM`].
    Slow,
    /// The turn still lasts, and has been reported.
    StillSlow,
    /// The turn has exceeded the limit.
    Stuck,
}

impl Watchdog {
    /// A turn may last `limit`; `None`: without a limit.
    pub(super) fn new(limit: Option<Duration>, now: Instant) -> Self {
        Watchdog { limit, looked: now, turn: None, lasted: Duration::ZERO, alarmed: false }
    }

    /// Checks once: `turn` identifies the turn in progress, if there is one.
    pub(super) fn look(&mut self, turn: Option<u64>, now: Instant) -> Verdict {
        let passed = now.duration_since(self.looked).min(2 * LOOK_INTERVAL);
        self.looked = now;
        if turn.is_none() || turn != self.turn {
            self.turn = turn;
            self.lasted = Duration::ZERO;
            self.alarmed = false;
            return Verdict::Well;
        }
        self.lasted += passed;
        if self.limit.is_some_and(|limit| self.lasted > limit) {
            return Verdict::Stuck;
        }
        if self.lasted <= ALARM {
            return Verdict::Well;
        }
        if std::mem::replace(&mut self.alarmed, true) { Verdict::StillSlow } else { Verdict::Slow }
    }

    /// How long the turn has lasted.
    pub(super) fn lasted(&self) -> Duration {
        self.lasted
    }
}

/// What a reactor is doing, as far as another thread can find out.
pub(super) fn describe<S: 'static>(reactor: &ReactorHandle<S>) -> String {
    let doing = match reactor.doing() {
        Doing::Waiting => "waiting for events".to_owned(),
        Doing::Mail => "working on what another thread had sent".to_owned(),
        Doing::Timers => "firing timers".to_owned(),
        Doing::Tasks => "running tasks".to_owned(),
        Doing::Poller(index) => format!("in poller {index}"),
    };
    let Some(thread) = reactor.thread_id() else { return doing };
    let read =
        |file: &str| std::fs::read_to_string(format!("/proc/self/task/{thread}/{file}")).unwrap_or_default();
    let stat = read("stat");
    // The state follows the thread's name, which is in parentheses and may contain any character.
    let state =
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).unwrap_or("?").to_owned();
    let (channel, call) = (read("wchan"), read("syscall"));
    let call = call.split_whitespace().next().unwrap_or("?");
    format!(
        "{doing}; thread {thread} is in state {state}, system call {call}, kernel function {}",
        channel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(watchdog: &mut Watchdog, now: &mut Instant, turn: Option<u64>, count: u32) -> Verdict {
        let mut verdict = Verdict::Well;
        for _ in 0..count {
            *now += LOOK_INTERVAL;
            verdict = watchdog.look(turn, *now);
        }
        verdict
    }

    #[test]
    fn only_a_turn_that_lasts_on_is_stuck() {
        let mut now = Instant::now();
        let mut watchdog = Watchdog::new(Some(Duration::from_secs(10)), now);
        for turn in 0..300 {
            assert_eq!(looks(&mut watchdog, &mut now, Some(turn), 1), Verdict::Well);
        }
        assert_eq!(looks(&mut watchdog, &mut now, None, 300), Verdict::Well, "it sleeps");
        assert_eq!(looks(&mut watchdog, &mut now, Some(7), 21), Verdict::Well);
        assert_eq!(looks(&mut watchdog, &mut now, Some(7), 1), Verdict::Slow);
        assert_eq!(looks(&mut watchdog, &mut now, Some(7), 79), Verdict::StillSlow);
        assert_eq!(looks(&mut watchdog, &mut now, Some(7), 1), Verdict::Stuck);
        assert_eq!(looks(&mut watchdog, &mut now, Some(8), 1), Verdict::Well);
        let mut patient = Watchdog::new(None, now);
        assert_eq!(looks(&mut patient, &mut now, Some(7), 10_000), Verdict::StillSlow);
    }

    #[test]
    fn a_process_that_was_suspended_is_not_stuck() {
        let mut now = Instant::now();
        let mut watchdog = Watchdog::new(Some(Duration::from_secs(10)), now);
        assert_eq!(looks(&mut watchdog, &mut now, Some(7), 2), Verdict::Well);
        for _ in 0..5 {
            now += Duration::from_hours(1);
            assert_eq!(watchdog.look(Some(7), now), Verdict::Well);
        }
    }
}
