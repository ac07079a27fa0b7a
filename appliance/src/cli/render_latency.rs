//! Renders latencies and turn times for people: percentiles, and a bar for each range of times.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::histogram::{Bucket, Summary};
use crate::rpc::HistogramReport;
use crate::text::table::{Table, pairs};

/// The longest bar, in characters.
const BAR_WIDTH: usize = 40;

/// A reactor as `framework_get_reactors` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ReactorView {
    pub(super) lcore: usize,
    pub(super) pinned: bool,
    /// Nanoseconds.
    pub(super) busy: u64,
    pub(super) turns: u64,
    pub(super) sleeps: u64,
    pub(super) long_turns: u64,
    pub(super) turn_ns: Summary,
    pub(super) turn_times: Vec<Bucket>,
    pub(super) lw_threads: Vec<ReactorThread>,
}

/// What runs on a reactor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReactorThread {
    pub(super) name: String,
    /// How many nanoseconds it has run.
    pub(super) elapsed: u64,
}

impl ReactorView {
    pub(super) fn name(&self) -> &str {
        self.lw_threads.first().map_or("", |thread| &thread.name)
    }

    pub(super) fn elapsed_ns(&self) -> u64 {
        self.lw_threads.first().map_or(0, |thread| thread.elapsed)
    }

    pub(super) fn core(&self) -> String {
        if self.pinned { self.lcore.to_string() } else { "any".to_owned() }
    }
}

/// A duration with three digits.
pub(super) fn span(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        ns if ns < 1e3 => return format!("{ns:.0} ns"),
        ns if ns < 1e6 => (ns / 1e3, "us"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

/// A volume's histogram; `None` when it cannot be read.
pub(super) fn histogram(report: &HistogramReport) -> Option<String> {
    let histogram = report.read().ok()?;
    Some(distribution("Requests", &histogram.summary(), &histogram.ranges()))
}

/// What `framework_get_reactors` answers.
pub(super) fn reactors(result: &Value) -> Option<String> {
    let reactors = Vec::<ReactorView>::deserialize(result.get("reactors")?).ok()?;
    let mut table = Table::new(["NAME", ">CORE", ">BUSY", ">TURNS", ">SLEEPS", ">LONG TURNS"]);
    for reactor in &reactors {
        let busy = reactor.busy as f64 * 100.0 / reactor.elapsed_ns().max(1) as f64;
        table.row([
            reactor.name().to_owned(),
            reactor.core(),
            format!("{busy:.1} %"),
            reactor.turns.to_string(),
            reactor.sleeps.to_string(),
            reactor.long_turns.to_string(),
        ]);
    }
    let mut text = table.render("no reactors");
    for reactor in &reactors {
        let _ = writeln!(text, "\nTurns of {} with work", reactor.name());
        text.push_str(&distribution("Turns", &reactor.turn_ns, &reactor.turn_times));
    }
    Some(text)
}

/// Percentiles, then bars.
fn distribution(what: &str, summary: &Summary, ranges: &[Bucket]) -> String {
    let value = |nanoseconds: u64| span(nanoseconds as f64);
    let mut text = pairs([
        (what, summary.count.to_string()),
        ("Mean", span(summary.mean)),
        ("p50", value(summary.p50)),
        ("p90", value(summary.p90)),
        ("p99", value(summary.p99)),
        ("p99.9", value(summary.p99_9)),
        ("p99.99", value(summary.p99_99)),
        ("p99.999", value(summary.p99_999)),
        ("Max", value(summary.max)),
    ]);
    let most = ranges.iter().map(|range| range.count).max().unwrap_or(0).max(1);
    let mut table = Table::new([">FROM", ">BELOW", ">COUNT", ">SHARE", ""]);
    for range in ranges {
        let share = range.count as f64 * 100.0 / summary.count.max(1) as f64;
        // A range with any count gets at least one character.
        let width = (BAR_WIDTH as f64 * range.count as f64 / most as f64).ceil() as usize;
        table.row([
            value(range.first),
            value(range.last.saturating_add(1)),
            range.count.to_string(),
            format!("{share:.2} %"),
            "#".repeat(width),
        ]);
    }
    if !ranges.is_empty() {
        text.push('\n');
        text.push_str(&table.render(""));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::histogram::Histogram;

    #[test]
    fn spans_have_three_digits() {
        for (nanoseconds, text) in [
            (0.0, "0 ns"),
            (999.0, "999 ns"),
            (1234.0, "1.23 us"),
            (45_678.0, "45.7 us"),
            (2.5e8, "250 ms"),
            (3e9, "3.00 s"),
        ] {
            assert_eq!(span(nanoseconds), text);
        }
    }

    #[test]
    fn a_histogram_has_percentiles_and_bars() {
        let mut histogram = Histogram::default();
        for _ in 0..99 {
            histogram.record(10_000);
        }
        histogram.record(3_000_000);
        let text = super::histogram(&HistogramReport::new(&histogram)).expect("of this version");
        assert!(text.contains("Requests:  100\n") && text.contains("p50:       10.0 us\n"), "{text}");
        assert!(text.contains("p99.999:   3.01 ms\n"), "{text}");
        let bars: Vec<usize> =
            text.lines().map(|line| line.matches('#').count()).filter(|&width| width > 0).collect();
        assert_eq!(bars, [BAR_WIDTH, 1], "{text}");
        assert!(text.contains("8.19 us  16.4 us     99  99.00 %"), "{text}");
        let empty = super::histogram(&HistogramReport::new(&Histogram::default())).expect("of this version");
        assert!(empty.starts_with("Requests:  0\n") && !empty.contains("FROM"), "{empty}");
    }

    #[test]
    fn reactors_have_their_turns() {
        let turn_ns = Summary { count: 4, mean: 1500.0, p99: 2047, ..Summary::default() };
        let reactor = json!({
            "lcore": 2, "pinned": true, "busy": 500, "idle": 1, "turns": 9, "busy_turns": 4, "sleeps": 3, "long_turns": 0,
            "tasks": 0, "turn_ns": turn_ns, "turn_times": [{"first": 1024, "last": 2047, "count": 4}],
            "lw_threads": [{"name": "reactor0", "id": 1, "cpumask": "4", "elapsed": 1000}],
        });
        let text = reactors(&json!({"reactors": [reactor]})).expect("of this version");
        assert!(text.contains("reactor0     2  50.0 %      9       3           0"), "{text}");
        assert!(text.contains("Turns:    4") && text.contains("p99:      2.05 us"), "{text}");
        assert_eq!(reactors(&json!({"reactors": [{"lcore": 0}]})), None);
    }
}
