//! The verdict of a run: the figures with each adversary and without it, and the bars that they
//! must meet.
//!
//! | what | bar |
//! |---|---|
//! | p99.9 of the innocent host | 10 times its own without, and the canary's own p99.9 |
//! | its longest command, each call of the operator | 1 s, and the canary's own longest |
//! | the longest turn of the pool's reactor | 10 ms, and the canary's own longest |
//! | memory of the process | what it had without, and 110 % of indexes and DMA budget |
//! | errors, wrong bytes | none |
//!
//! The canary's lateness is the delay that this machine causes to everybody; it is added to each
//! bar of time.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest time that is recorded exactly: 600 s.
const TIME_NS_MAX: u64 = 600_000_000_000;
const DIGITS: u8 = 3;
/// The allowed slowdown of the innocent host.
const SLOWER_MAX: f64 = 10.0;
/// The limit of one command and of one call.
const LONGEST_MS: f64 = 1000.0;
/// The limit of a turn of the reactor.
const TURN_MS: f64 = 10.0;
/// The allowed memory, relative to the reported indexes and DMA budget.
const MEMORY_PART: f64 = 1.1;

/// A recorder of times.
#[derive(Debug)]
pub(super) struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Times(Histogram::new_with_bounds(1, TIME_NS_MAX, DIGITS).expect("constant bounds"))
    }
}

impl Times {
    /// Records one time.
    pub(super) fn record(&mut self, time: Duration) {
        self.0.saturating_record(in_bounds(time));
    }

    /// Records the time of a command whose successor is due one beat later: a longer one has
    /// delayed others, and these count too.
    pub(super) fn record_beats(&mut self, time: Duration, beat: Duration) {
        let recorded = self.0.record_correct(in_bounds(time), beat.as_nanos() as u64);
        debug_assert!(recorded.is_ok(), "within the bounds");
    }

    /// The figures of all recorded times.
    pub(super) fn figures(&self) -> Figures {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e6;
        Figures {
            count: self.0.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p99_9_ms: at(0.999),
            max_ms: self.0.max() as f64 / 1e6,
        }
    }
}

fn in_bounds(time: Duration) -> u64 {
    (time.as_nanos() as u64).clamp(1, TIME_NS_MAX)
}

/// The figures of many times, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Figures {
    /// How many.
    pub count: u64,
    /// Half were no longer.
    pub p50_ms: f64,
    /// 99 of 100 were no longer.
    pub p99_ms: f64,
    /// 999 of 1000 were no longer.
    pub p99_9_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// The effects of one adversary on the others.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The adversary.
    pub name: &'static str,
    /// Its results as text.
    pub told: String,
    /// The innocent host's commands without the adversary.
    pub before: Figures,
    /// The innocent host's commands with the adversary.
    pub beside: Figures,
    /// How late the canary woke with the adversary.
    pub lateness: Figures,
    /// The operator's calls with the adversary.
    pub calls: Figures,
    /// The lower bound of the longest turn of the pool's reactor with the adversary, in
    /// milliseconds.
    pub turn_ms: f64,
    /// Calls that failed.
    pub call_errors: u64,
    /// The innocent host's errors, with and without the adversary.
    pub errors: u64,
    /// Blocks with wrong content, including those found after the adversary had ended.
    pub wrong_blocks: u64,
    /// The maximum memory of the process.
    pub memory_bytes: u64,
    /// The allowed maximum.
    pub memory_bytes_allowed: u64,
    /// The maximum memory of the indexes.
    pub index_bytes: u64,
    /// The maximum DMA memory in use.
    pub dma_bytes: u64,
    /// Details of errors and wrong bytes.
    pub seen: Vec<String>,
}

impl Verdict {
    /// The missed bars, as text.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let (beside, late) = (self.beside, self.lateness);
        let slow_ms = SLOWER_MAX * self.before.p99_9_ms + late.p99_9_ms;
        if beside.p99_9_ms > slow_ms {
            missed.push(format!("p99.9 of {:.1} ms, over {slow_ms:.1}", beside.p99_9_ms));
        }
        let longest_ms = LONGEST_MS + late.max_ms;
        if beside.max_ms > longest_ms {
            missed.push(format!("a command of {:.0} ms, over {longest_ms:.0}", beside.max_ms));
        }
        if self.calls.max_ms > longest_ms {
            missed.push(format!("a call of {:.0} ms, over {longest_ms:.0}", self.calls.max_ms));
        }
        let turn_ms = TURN_MS + late.max_ms;
        if self.turn_ms > turn_ms {
            missed.push(format!("a turn of at least {:.0} ms, over {turn_ms:.1}", self.turn_ms));
        }
        if self.memory_bytes > self.memory_bytes_allowed {
            let [have, allowed] = [self.memory_bytes, self.memory_bytes_allowed].map(|bytes| bytes >> 20);
            missed.push(format!("memory of {have} MiB, over {allowed}"));
        }
        for (count, what) in [
            (self.errors, "errors of the innocent host"),
            (self.call_errors, "failed calls"),
            (self.wrong_blocks, "wrong blocks"),
        ] {
            if count > 0 {
                missed.push(format!("{count} {what}"));
            }
        }
        missed
    }

    /// The memory that the process may use, from what it used without the adversary and what the
    /// pool reports.
    pub(super) fn allowed_bytes(before_bytes: u64, index_bytes: u64, dma_budget_bytes: u64) -> u64 {
        before_bytes + ((index_bytes + dma_budget_bytes) as f64 * MEMORY_PART) as u64
    }
}

/// All verdicts as a table, with notes on each below it.
pub fn table(verdicts: &[Verdict]) -> String {
    let mut text = format!(
        "{:<17}{:>9}{:>9}{:>9}{:>10} |{:>9}{:>9}{:>9}{:>10} |{:>8}{:>9}{:>8}{:>12} |{:>5}\n",
        "beside, in ms",
        "p50",
        "p99",
        "p99.9",
        "max",
        "before",
        "p99",
        "p99.9",
        "max",
        "canary",
        "call",
        "turn",
        "MiB",
        "errs"
    );
    for verdict in verdicts {
        let (beside, before) = (verdict.beside, verdict.before);
        let [have, allowed] = [verdict.memory_bytes, verdict.memory_bytes_allowed].map(|bytes| bytes >> 20);
        // A write to a string does not fail.
        let _ = writeln!(
            text,
            "{:<17}{:>9.2}{:>9.2}{:>9.2}{:>10.1} |{:>9.2}{:>9.2}{:>9.2}{:>10.1} |{:>8.1}{:>9.1}{:>8.1}{:>12} |{:>5}",
            verdict.name,
            beside.p50_ms,
            beside.p99_ms,
            beside.p99_9_ms,
            beside.max_ms,
            before.p50_ms,
            before.p99_ms,
            before.p99_9_ms,
            before.max_ms,
            verdict.lateness.max_ms,
            verdict.calls.max_ms,
            verdict.turn_ms,
            format!("{have}/{allowed}"),
            verdict.errors + verdict.wrong_blocks + verdict.call_errors,
        );
    }
    for verdict in verdicts {
        let missed = verdict.missed();
        let outcome = if missed.is_empty() { "well".to_owned() } else { missed.join("; ") };
        let _ = writeln!(text, "{}: {outcome}\n    {}", verdict.name, verdict.told);
        for seen in &verdict.seen {
            let _ = writeln!(text, "    {seen}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(ms: f64) -> Figures {
        Figures { count: 1000, p50_ms: ms, p99_ms: ms, p99_9_ms: ms, max_ms: ms }
    }

    fn good() -> Verdict {
        Verdict {
            name: "nobody",
            told: String::new(),
            before: figures(1.0),
            beside: figures(9.0),
            lateness: figures(2.0),
            calls: figures(900.0),
            turn_ms: 8.0,
            call_errors: 0,
            errors: 0,
            wrong_blocks: 0,
            memory_bytes: 100,
            memory_bytes_allowed: 100,
            index_bytes: 0,
            dma_bytes: 0,
            seen: Vec::new(),
        }
    }

    #[test]
    fn each_bar_is_missed_by_itself_and_named() {
        assert!(good().missed().is_empty());
        let slow = Verdict { beside: figures(12.1), ..good() };
        assert_eq!(slow.missed(), ["p99.9 of 12.1 ms, over 12.0"]);
        let stalled = Verdict { beside: Figures { max_ms: 1003.0, ..figures(1.0) }, ..good() };
        assert_eq!(stalled.missed(), ["a command of 1003 ms, over 1002"]);
        let deaf = Verdict { calls: figures(1003.0), ..good() };
        assert_eq!(deaf.missed(), ["a call of 1003 ms, over 1002"]);
        let long = Verdict { turn_ms: 16.8, ..good() };
        assert_eq!(long.missed(), ["a turn of at least 17 ms, over 12.0"]);
        let fat = Verdict { memory_bytes: 3 << 20, memory_bytes_allowed: 2 << 20, ..good() };
        assert_eq!(fat.missed(), ["memory of 3 MiB, over 2"]);
        let wrong = Verdict { errors: 1, call_errors: 2, wrong_blocks: 3, ..good() };
        assert_eq!(wrong.missed().len(), 3);
    }

    #[test]
    fn a_long_command_counts_for_those_that_it_kept_waiting() {
        let mut times = Times::default();
        for _ in 0..900 {
            times.record_beats(Duration::from_micros(100), Duration::from_millis(10));
        }
        times.record_beats(Duration::from_secs(1), Duration::from_millis(10));
        let figures = times.figures();
        assert_eq!(figures.count, 1000);
        assert!(figures.p99_ms > 800.0 && figures.p50_ms < 1.0, "{figures:?}");
    }
}
