//! Line charts over linear or logarithmic axes as an SVG document, one chart above the other.

use std::fmt::Write;

use crate::plot::escape;

/// Size of one chart and its margins, in pixels.
const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 60.0;
/// The most ticks of an axis, not counting the one at its start.
const TICKS: f64 = 5.0;
/// Colors of the lines, used in rotation.
const COLORS: [&str; 4] = ["#1f5fbf", "#c0392b", "#2e8b57", "#8e5ea2"];

/// How values are spaced along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By their logarithm.
    Log,
}

/// An axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What it shows, with its unit.
    pub name: String,
    /// How values are spaced along it.
    pub scale: Scale,
    /// Its lower end, above 0 if it is logarithmic.
    pub min: f64,
    /// Its upper end, above the lower one.
    pub max: f64,
    /// Values with a tick, and their labels.
    pub ticks: Vec<(f64, String)>,
}

/// A line through points `(x, y)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its points; those outside the axes are drawn at the axes' ends.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// The axis along the bottom.
    pub x: Axis,
    /// The axis on the left.
    pub y: Axis,
    /// The lines.
    pub lines: Vec<Line>,
}

impl Axis {
    /// From 0 to `max`, or to 1 if that is not above 0, with a few ticks at round values.
    pub fn linear(name: &str, max: f64) -> Self {
        let max = if max.is_finite() && max > 0.0 { max } else { 1.0 };
        Axis {
            name: name.to_owned(),
            scale: Scale::Linear,
            min: 0.0,
            max,
            ticks: round_ticks(0.0, max).into_iter().map(|value| (value, short(value))).collect(),
        }
    }

    /// Over the powers of ten that enclose all values above 0.
    pub fn log_of(name: &str, values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = values
            .filter(|value| value.is_finite() && *value > 0.0)
            .fold((f64::MAX, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
        let (low, high) = if most > 0.0 { (least.log10().floor(), most.log10().ceil()) } else { (0.0, 1.0) };
        let high = high.max(low + 1.0);
        let ticks = (low as i32..=high as i32).map(|power| 10_f64.powi(power));
        Axis {
            name: name.to_owned(),
            scale: Scale::Log,
            min: 10_f64.powf(low),
            max: 10_f64.powf(high),
            ticks: ticks.map(|value| (value, short(value))).collect(),
        }
    }

    /// The position of a value along the axis, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.min) / (self.max - self.min),
            Scale::Log => (value.max(self.min) / self.min).ln() / (self.max / self.min).ln(),
        };
        if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) }
    }
}

/// Ticks from `min` to `max`: multiples of 1, 2 or 5 times a power of ten, about five of them.
pub(crate) fn round_ticks(min: f64, max: f64) -> Vec<f64> {
    let rough = (max - min) / TICKS;
    if !rough.is_finite() || rough <= 0.0 {
        return vec![min];
    }
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    // A small margin, so that rounding does not lose the last tick.
    let (first, last) = ((min / step - 1e-9).ceil() as i64, (max / step + 1e-9).floor() as i64);
    (first..=last).map(|number| number as f64 * step).collect()
}

/// A number in few characters.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        value if value >= 1e4 => format!("{}k", trimmed(value / 1e3)),
        value => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The charts as one SVG document.
pub fn svg(charts: &[Chart]) -> String {
    let height = HEIGHT * charts.len() as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, chart) in charts.iter().enumerate() {
        draw(&mut text, chart, HEIGHT * index as f64);
    }
    text + "</svg>\n"
}

fn draw(text: &mut String, chart: &Chart, from: f64) {
    let (left, right) = (MARGIN, WIDTH - MARGIN);
    let (top, bottom) = (from + 40.0, from + HEIGHT - 44.0);
    let at = |x: f64, y: f64| {
        (left + chart.x.share(x) * (right - left), bottom - chart.y.share(y) * (bottom - top))
    };
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "<text x=\"{left}\" y=\"{}\" font-size=\"14\">{}</text>",
        from + 20.0,
        escape(&chart.title)
    );
    for (value, name) in &chart.x.ticks {
        let (x, _) = at(*value, chart.y.min);
        let _ = writeln!(
            text,
            "<path d=\"M{x:.1} {top}V{bottom}\" stroke=\"#ddd\"/>\n<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom + 16.0,
            escape(name)
        );
    }
    for (value, name) in &chart.y.ticks {
        let (_, y) = at(chart.x.min, *value);
        let _ = writeln!(
            text,
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#ddd\"/>\n<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            y + 4.0,
            escape(name)
        );
    }
    let _ = writeln!(
        text,
        "<path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>\n<text x=\"{right}\" y=\"{}\" text-anchor=\"end\">{}</text>\n<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
        bottom + 34.0,
        escape(&chart.x.name),
        left - 6.0,
        top - 10.0,
        escape(&chart.y.name)
    );
    for (index, (line, color)) in chart.lines.iter().zip(COLORS.iter().cycle()).enumerate() {
        let path: Vec<String> =
            line.points.iter().map(|&(x, y)| at(x, y)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\n<text x=\"{right}\" y=\"{}\" text-anchor=\"end\" fill=\"{color}\">{}</text>",
            path.join(" "),
            top + 14.0 + 16.0 * index as f64,
            escape(&line.name)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_where_they_belong() {
        let axis = Axis::log_of("us", [3.0, 0.0, 4000.0].into_iter());
        assert_eq!((axis.min, axis.max), (1.0, 10_000.0));
        assert!((axis.share(100.0) - 0.5).abs() < 1e-9);
        assert_eq!((axis.share(0.0), axis.share(1e9)), (0.0, 1.0));
        assert_eq!(
            axis.ticks.iter().map(|tick| tick.1.as_str()).collect::<Vec<_>>(),
            ["1", "10", "100", "1000", "10k"]
        );
        let axis = Axis::linear("s", 8.0);
        assert!((axis.share(2.0) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn marks_are_at_round_values() {
        let names = |max| Axis::linear("s", max).ticks.into_iter().map(|tick| tick.1).collect::<Vec<_>>();
        assert_eq!(names(8.0), ["0", "2", "4", "6", "8"]);
        assert_eq!(names(37_123.0), ["0", "10k", "20k", "30k"]);
        assert_eq!(names(0.3), ["0", "0.1", "0.2", "0.3"]);
        assert_eq!(names(100.0), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(round_ticks(30.0, 90.0), [40.0, 60.0, 80.0]);
        assert_eq!(round_ticks(1.0, 1.0), [1.0]);
    }

    #[test]
    fn lines_go_through_their_points() {
        let line = Line { name: "a&b".to_owned(), points: vec![(0.0, 0.0), (1.0, 10.0)] };
        let chart = Chart {
            title: "t".to_owned(),
            x: Axis::linear("s", 1.0),
            y: Axis::linear("v", 10.0),
            lines: vec![line],
        };
        let text = svg(&[chart]);
        assert!(text.contains("points=\"60.0,276.0 740.0,40.0\""), "{text}");
        assert!(text.contains("a&amp;b") && text.ends_with("</svg>\n"));
    }
}
