//! Compares two results: ratios, and whether they exceed the spread of the repetitions.
//!
//! Reads what any measurement here writes as JSON: a load, a list of loads (`run --repeat`), a
//! benchmark, limits, ways, bars, or a list of those. Figures of the same name in one file are
//! repetitions. The repetitions of a load that was run once are its intervals.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bar::number;
use crate::cleaning::median;

/// Which direction is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// The larger.
    Larger,
    /// The smaller.
    Smaller,
}

/// The outcome of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All values of B are better than all of A.
    Better,
    /// All values of B are worse than all of A.
    Worse,
    /// They overlap.
    Same,
    /// Nothing was repeated: the ratio may be chance.
    Single,
}

/// A figure that both results have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// Which figure of the measurement.
    pub measure: String,
    /// Which direction is better.
    pub better: Better,
    /// The median of A.
    pub a: f64,
    /// The median of B.
    pub b: f64,
    /// B divided by A.
    pub ratio: f64,
    /// The least and the greatest ratio of any two repetitions; both are the ratio itself if
    /// nothing was repeated.
    pub spread: (f64, f64),
    /// The outcome.
    pub verdict: Verdict,
}

/// A comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Figures that both have.
    pub rows: Vec<Row>,
    /// Figures that only one has.
    pub alone: Vec<String>,
}

struct Figure {
    what: String,
    measure: String,
    better: Better,
    values: Vec<f64>,
}

/// Compares B with A.
pub fn compare(a: &Value, b: &Value) -> Comparison {
    let (a, b) = (figures(a), figures(b));
    let is = |one: &Figure, other: &Figure| one.what == other.what && one.measure == other.measure;
    let name = |side: &str, figure: &Figure| format!("{side} only: {}, {}", figure.what, figure.measure);
    let mut rows = Vec::new();
    let mut alone = Vec::new();
    for figure in &a {
        match b.iter().find(|other| is(figure, other)) {
            Some(other) => rows.push(row(figure, other)),
            None => alone.push(name("A", figure)),
        }
    }
    alone.extend(
        b.iter().filter(|figure| !a.iter().any(|other| is(figure, other))).map(|figure| name("B", figure)),
    );
    Comparison { rows, alone }
}

fn row(a: &Figure, b: &Figure) -> Row {
    let over = |b: f64, a: f64| if a == 0.0 { 0.0 } else { b / a };
    let (least_a, most_a) = ends(&a.values);
    let (least_b, most_b) = ends(&b.values);
    let (a_median, b_median) = (median(a.values.iter().copied()), median(b.values.iter().copied()));
    let verdict = if a.values.len() < 2 || b.values.len() < 2 {
        Verdict::Single
    } else if least_b > most_a {
        if a.better == Better::Larger { Verdict::Better } else { Verdict::Worse }
    } else if most_b < least_a {
        if a.better == Better::Smaller { Verdict::Better } else { Verdict::Worse }
    } else {
        Verdict::Same
    };
    Row {
        what: a.what.clone(),
        measure: a.measure.clone(),
        better: a.better,
        a: a_median,
        b: b_median,
        ratio: over(b_median, a_median),
        spread: (over(least_b, most_a), over(most_b, least_a)),
        verdict,
    }
}

fn ends(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::MAX, f64::MIN), |(least, most), &value| (least.min(value), most.max(value)))
}

/// All figures of a result; repetitions are grouped.
fn figures(result: &Value) -> Vec<Figure> {
    let mut figures: Vec<Figure> = Vec::new();
    let mut add = |what: &str, measure: &str, better, values: Vec<f64>| match figures
        .iter_mut()
        .find(|figure| figure.what == what && figure.measure == measure)
    {
        Some(figure) => figure.values.extend(values),
        None => figures.push(Figure { what: what.to_owned(), measure: measure.to_owned(), better, values }),
    };
    collect(result, &mut add);
    figures
}

type Add<'a> = dyn FnMut(&str, &str, Better, Vec<f64>) + 'a;

fn collect(result: &Value, add: &mut Add<'_>) {
    if let Some(list) = result.as_array() {
        let alone = list.len() == 1;
        for one in list {
            match one.get("pattern") {
                Some(_) => load("", one, alone, add),
                None => collect(one, add),
            }
        }
        return;
    }
    if result.get("pattern").is_some() {
        load("", result, true, add);
    }
    for step in items(result, "steps") {
        let backing = step.get("backing").and_then(Value::as_str).unwrap_or_default();
        let name = step.get("name").and_then(Value::as_str).unwrap_or_default();
        load(&format!("{backing} {name} "), &step["load"], false, add);
    }
    for floor in items(result, "floors") {
        if let (Some(name), Some(iops)) = (floor[0].as_str(), floor[1]["iops"].as_f64()) {
            add(name, "a second", Better::Larger, vec![iops]);
        }
    }
    for row in items(result, "ways") {
        if let (Some(command), Some(way)) = (row["command"].as_str(), row["way"].as_str()) {
            let iops = row["result"]["iops"].as_f64().unwrap_or_default();
            add(&format!("{command} {way}"), "a second", Better::Larger, vec![iops]);
        }
    }
    for bar in items(result, "bars") {
        let (Some(what), Some(value)) = (bar["what"].as_str(), bar["value"].as_f64()) else { continue };
        let unit = bar["unit"].as_str().unwrap_or_default();
        let smaller = bar["bound"].get("at_most").is_some() || matches!(unit, "us" | "ms" | "s");
        add(what, unit, if smaller { Better::Smaller } else { Better::Larger }, vec![value]);
        if let Some(ratio) = bar["ratio"].as_f64() {
            add(what, "ratio", if smaller { Better::Smaller } else { Better::Larger }, vec![ratio]);
        }
    }
}

fn items<'a>(result: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    result.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn load(prefix: &str, load: &Value, by_interval: bool, add: &mut Add<'_>) {
    let text = |name: &str| load[name].as_str().unwrap_or_default().to_owned();
    let count = |name: &str| load[name].as_u64().unwrap_or_default();
    let what = format!(
        "{prefix}{} {} B QD{} x{}",
        text("pattern"),
        count("block_bytes"),
        count("queue_depth"),
        count("connections")
    );
    // The last interval is shorter than the others, so it is not used.
    let slices: Vec<&Value> = items(load, "timeline").collect();
    let whole = &slices[..slices.len().saturating_sub(1)];
    let by_interval = by_interval && whole.len() >= 2;
    let of = |name: &str| whole.iter().filter_map(|slice| slice[name].as_f64()).collect::<Vec<_>>();
    if let Some(iops) = load["iops"].as_f64() {
        add(&what, "IOPS", Better::Larger, if by_interval { of("iops") } else { vec![iops] });
    }
    for (measure, name) in [("p50 us", "p50_us"), ("p99 us", "p99_us")] {
        if let Some(value) = load["latency"][name].as_f64() {
            add(&what, measure, Better::Smaller, if by_interval { of(name) } else { vec![value] });
        }
    }
    for (measure, name) in [("mean us", "mean_us"), ("p99.99 us", "p99_99_us")] {
        if let Some(value) = load["latency"][name].as_f64() {
            add(&what, measure, Better::Smaller, vec![value]);
        }
    }
}

/// The comparison as a table.
pub fn table(comparison: &Comparison) -> String {
    let width = comparison.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0).max(4) + 2;
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{:<width$}{:<12}{:>12}{:>12}{:>9}  {:<17}says",
        "what", "measure", "A", "B", "B / A", "spread"
    );
    for row in &comparison.rows {
        let verdict = match row.verdict {
            Verdict::Better => "better",
            Verdict::Worse => "WORSE",
            Verdict::Same => "within the spread",
            Verdict::Single => "not repeated",
        };
        let spread = if row.verdict == Verdict::Single {
            "-".to_owned()
        } else {
            format!("{:.3} to {:.3}", row.spread.0, row.spread.1)
        };
        let _ = writeln!(
            text,
            "{:<width$}{:<12}{:>12}{:>12}{:>9.3}  {spread:<17}{verdict}",
            row.what,
            row.measure,
            number(row.a),
            number(row.b),
            row.ratio
        );
    }
    for alone in &comparison.alone {
        let _ = writeln!(text, "{alone}");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn load(iops: f64, p99_us: f64, intervals: &[f64]) -> Value {
        let timeline: Vec<Value> =
            intervals.iter().map(|iops| json!({"iops": iops, "p50_us": 1.0, "p99_us": 1e6 / iops})).collect();
        json!({
            "pattern": "randread", "block_bytes": 4096, "queue_depth": 1, "connections": 1, "iops": iops,
            "latency": {"mean_us": 1.0, "p50_us": 1.0, "p99_us": p99_us, "p99_99_us": 1.0}, "timeline": timeline
        })
    }

    fn row<'a>(comparison: &'a Comparison, measure: &str) -> &'a Row {
        comparison.rows.iter().find(|row| row.measure == measure).unwrap()
    }

    #[test]
    fn repetitions_have_a_spread_and_overlap_or_not() {
        let a = json!([load(100.0, 50.0, &[]), load(110.0, 60.0, &[]), load(90.0, 55.0, &[])]);
        let b = json!([load(200.0, 58.0, &[]), load(220.0, 70.0, &[])]);
        let comparison = compare(&a, &b);
        let iops = row(&comparison, "IOPS");
        assert_eq!((iops.a, iops.b, iops.verdict), (100.0, 210.0, Verdict::Better));
        assert!((iops.ratio - 2.1).abs() < 1e-9);
        assert!((iops.spread.0 - 200.0 / 110.0).abs() < 1e-9 && (iops.spread.1 - 220.0 / 90.0).abs() < 1e-9);
        assert_eq!(row(&comparison, "p99 us").verdict, Verdict::Same);
        assert_eq!(row(&compare(&b, &a), "IOPS").verdict, Verdict::Worse);
        assert!(table(&comparison).contains("within the spread"));
    }

    #[test]
    fn a_single_load_is_compared_by_its_intervals() {
        let a = load(100.0, 9.0, &[90.0, 100.0, 110.0, 3.0]);
        let b = load(50.0, 9.0, &[45.0, 50.0, 55.0, 3.0]);
        let comparison = compare(&a, &b);
        let iops = row(&comparison, "IOPS");
        assert_eq!(
            (iops.a, iops.b, iops.verdict),
            (100.0, 50.0, Verdict::Worse),
            "the last interval does not count"
        );
        assert_eq!(row(&comparison, "p99 us").verdict, Verdict::Worse);
        assert_eq!(row(&comparison, "p99.99 us").verdict, Verdict::Single);
    }

    #[test]
    fn bars_know_which_way_is_better_and_what_is_missing_is_named() {
        let a = json!({"bars": [{"what": "snapshot", "value": 1.0, "unit": "ms", "bound": {"at_most": 1.0}},
            {"what": "gone", "value": 1.0, "unit": "x", "bound": null}]});
        let b =
            json!([{"bars": [{"what": "snapshot", "value": 0.5, "unit": "ms", "bound": {"at_most": 1.0}}]}]);
        let comparison = compare(&a, &b);
        assert_eq!(comparison.rows.len(), 1);
        assert_eq!((comparison.rows[0].better, comparison.rows[0].ratio), (Better::Smaller, 0.5));
        assert_eq!(comparison.alone, ["A only: gone, x"]);
        assert!(compare(&json!({"x": 1}), &json!([])).rows.is_empty());
    }
}
