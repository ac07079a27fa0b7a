//! A figure, its floor, and the bar that it must reach.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::cleaning::median;

/// The bound on a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

impl Bound {
    /// Whether a figure is within the bound.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(least) => value >= least,
            Bound::AtMost(most) => value <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Bound::AtLeast(least) => format!(">= {}", number(least)),
            Bound::AtMost(most) => format!("<= {}", number(most)),
        }
    }
}

/// What the bound applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judged {
    /// The figure.
    Value,
    /// The figure divided by its floor.
    Ratio,
}

/// A figure, its floor and its bound.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// What it measures.
    pub what: String,
    /// The figure.
    pub value: f64,
    /// The unit of the figure and of the floor.
    pub unit: String,
    /// What the floor is, in words; empty if there is none.
    pub floor_name: String,
    /// The floor.
    pub floor: Option<f64>,
    /// The figure divided by the floor.
    pub ratio: Option<f64>,
    /// The bound; `None`: the figure is only shown.
    pub bound: Option<Bound>,
    /// What the bound applies to.
    pub judged: Judged,
    /// Whether the figure is within the bound; `None` without a bound.
    pub passed: Option<bool>,
}

impl Bar {
    /// A figure without a floor, and its bound.
    pub fn alone(what: impl Into<String>, value: f64, unit: &str, bound: Option<Bound>) -> Self {
        Bar {
            what: what.into(),
            value,
            unit: unit.to_owned(),
            floor_name: String::new(),
            floor: None,
            ratio: None,
            bound,
            judged: Judged::Value,
            passed: bound.map(|bound| bound.holds(value)),
        }
    }

    /// Adds a floor, which is shown but not judged.
    #[must_use]
    pub fn beside(mut self, floor_name: impl Into<String>, floor: f64) -> Self {
        self.floor_name = floor_name.into();
        self.floor = Some(floor);
        // If nothing was done, there is no ratio; 0 keeps the JSON a number.
        self.ratio = Some(if floor > 0.0 { self.value / floor } else { 0.0 });
        self
    }

    /// A figure and its floor that were measured in turn: the medians of both, and the bound on the
    /// median of the rounds' ratios. The name of the floor gets the lowest and the highest ratio.
    pub fn of_rounds(
        what: impl Into<String>,
        unit: &str,
        floor_name: &str,
        rounds: &[(f64, f64)],
        bound: Option<Bound>,
    ) -> Self {
        let value = median(rounds.iter().map(|round| round.0));
        let floor = median(rounds.iter().map(|round| round.1));
        let ratios = || rounds.iter().filter(|round| round.1 > 0.0).map(|round| round.0 / round.1);
        let (least, most) =
            ratios().fold((f64::MAX, 0.0), |(least, most), ratio| (ratio.min(least), ratio.max(most)));
        let floor_name = format!("{floor_name}; {least:.2} to {most:.2} in {} rounds", rounds.len());
        let mut bar = Bar::over(what, value, unit, floor_name, floor, bound);
        bar.ratio = Some(median(ratios()));
        bar.passed = bound.zip(bar.ratio).map(|(bound, ratio)| bound.holds(ratio));
        bar
    }

    /// A figure with a floor, and the bound on their ratio.
    pub fn over(
        what: impl Into<String>,
        value: f64,
        unit: &str,
        floor_name: impl Into<String>,
        floor: f64,
        bound: Option<Bound>,
    ) -> Self {
        let mut bar = Bar::alone(what, value, unit, None).beside(floor_name, floor);
        bar.bound = bound;
        bar.judged = Judged::Ratio;
        bar.passed = bound.zip(bar.ratio).map(|(bound, ratio)| bound.holds(ratio));
        bar
    }
}

/// A number with as many digits as are significant.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.01 || size == 0.0 => {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{value:.1e}"),
    }
}

/// The bars as a table.
pub fn table(bars: &[Bar]) -> String {
    let width = bars.iter().map(|bar| bar.what.chars().count()).max().unwrap_or(0).max(4) + 2;
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{:<width$}{:>12} {:<8}{:>12}{:>9}  {:<16}{:<6} floor is",
        "what", "figure", "unit", "floor", "ratio", "asked", "kept"
    );
    for bar in bars {
        let asked = bar.bound.map_or_else(String::new, |bound| {
            let of = if bar.judged == Judged::Ratio { "x" } else { "" };
            format!("{}{of}", bound.text())
        });
        let kept = match bar.passed {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        let line = format!(
            "{:<width$}{:>12} {:<8}{:>12}{:>9}  {asked:<16}{kept:<6} {}",
            bar.what,
            number(bar.value),
            bar.unit,
            bar.floor.map_or_else(|| "-".to_owned(), number),
            bar.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}")),
            bar.floor_name
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_put_on_what_it_is_meant_for() {
        let bound = Some(Bound::AtLeast(0.8));
        assert_eq!(Bar::over("a", 70.0, "MiB/s", "b", 100.0, bound).passed, Some(false));
        assert_eq!(Bar::over("a", 80.0, "MiB/s", "b", 100.0, bound).passed, Some(true));
        assert_eq!(Bar::over("a", 80.0, "MiB/s", "b", 0.0, bound).passed, Some(false));
        let alone = Bar::alone("a", 0.9, "ms", Some(Bound::AtMost(1.0))).beside("b", 0.1);
        assert_eq!((alone.passed, alone.ratio), (Some(true), Some(9.0)));
        assert_eq!(Bar::alone("a", 1.1, "ms", Some(Bound::AtMost(1.0))).passed, Some(false));
        assert_eq!(Bar::alone("a", 1.1, "ms", None).passed, None);
    }

    #[test]
    fn of_rounds_the_median_ratio_counts_and_the_spread_is_shown() {
        // A disturbance that lasts for one round, and one that meets both in a round.
        let rounds = [(10.0, 10.0), (50.0, 10.0), (44.0, 40.0)];
        let bar = Bar::of_rounds("a", "us", "b", &rounds, Some(Bound::AtMost(1.5)));
        assert_eq!((bar.value, bar.floor, bar.passed), (44.0, Some(10.0), Some(true)));
        assert!(bar.ratio.is_some_and(|ratio| (ratio - 1.1).abs() < 1e-9));
        assert_eq!(bar.floor_name, "b; 1.00 to 5.00 in 3 rounds");
    }

    #[test]
    fn the_table_names_what_is_not_kept() {
        let bars = [
            Bar::over("writes", 1234.5, "IOPS", "loopback", 5000.0, Some(Bound::AtLeast(0.5))),
            Bar::alone("idle", 0.004, "%", Some(Bound::AtMost(1.0))),
        ];
        let text = table(&bars);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].contains("0.247") && lines[1].contains(">= 0.5x") && lines[1].contains("NO"),
            "{text}"
        );
        assert!(lines[2].contains("4.0e-3") && lines[2].contains("yes"), "{text}");
    }
}
