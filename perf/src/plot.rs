//! Figures as graphics: a plot as text or SVG, and a line of small bars.

use std::fmt::Write;

use crate::chart::round_ticks;

/// Columns and rows of a text plot, without its axes.
const COLUMNS: usize = 64;
const ROWS: usize = 18;
/// Size of an SVG and its margin, in pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 420.0;
const MARGIN: f64 = 50.0;
/// Bars from the lowest to the highest.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// How many points a curve is drawn through.
const CURVE_POINTS: usize = 256;

/// A plot over x from `x_min` to `x_max`; its y axis is logarithmic, from 1 to `y_max`.
pub struct Plot<'a> {
    /// What it shows.
    pub title: &'a str,
    /// The name of the x axis.
    pub x_name: &'a str,
    /// The left end.
    pub x_min: f64,
    /// The right end.
    pub x_max: f64,
    /// The upper end, more than 1.
    pub y_max: f64,
    /// Curves: a mark, a name, y over x.
    pub curves: Vec<Curve<'a>>,
    /// Points: a mark, a name, `(x, y)`.
    pub points: Vec<Points<'a>>,
}

/// A curve: a mark, a name, y over x.
pub type Curve<'a> = (char, &'a str, fn(f64) -> f64);

/// Points: a mark, a name, `(x, y)`.
pub type Points<'a> = (char, &'a str, Vec<(f64, f64)>);

impl Plot<'_> {
    /// The position of a point along the axes, from 0 to 1; `None` outside the plot.
    fn place(&self, x: f64, y: f64) -> Option<(f64, f64)> {
        let right = (x - self.x_min) / (self.x_max - self.x_min);
        let up = y.ln() / self.y_max.ln();
        let inside = |share: f64| share.is_finite() && (0.0..=1.0).contains(&share);
        (inside(right) && inside(up)).then_some((right, up))
    }

    fn x_at(&self, index: usize, count: usize) -> f64 {
        self.x_min + (self.x_max - self.x_min) * index as f64 / (count - 1) as f64
    }

    /// Ticks of the logarithmic axis: 1, 2 and 5 times powers of ten; on a long axis only the
    /// powers.
    fn y_ticks(&self) -> Vec<f64> {
        let digits: &[f64] = if self.y_max > 1000.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let powers = (0..=self.y_max.log10() as i32).map(|power| 10_f64.powi(power));
        let ticks = powers.flat_map(|power| digits.iter().map(move |digit| digit * power));
        ticks.filter(|value| *value <= self.y_max).collect()
    }

    /// The plot as text.
    pub fn text(&self) -> String {
        let mut cells = vec![[' '; COLUMNS]; ROWS];
        let mut mark = |x, y, sign| {
            if let Some((right, up)) = self.place(x, y) {
                let row = ROWS - 1 - (up * (ROWS - 1) as f64).round() as usize;
                cells[row][(right * (COLUMNS - 1) as f64).round() as usize] = sign;
            }
        };
        for &(sign, _, curve) in &self.curves {
            for x in (0..COLUMNS).map(|column| self.x_at(column, COLUMNS)) {
                mark(x, curve(x), sign);
            }
        }
        for (sign, _, points) in &self.points {
            for &(x, y) in points {
                mark(x, y, *sign);
            }
        }
        let mut text = format!("{}\n", self.title);
        for (row, cells) in cells.iter().enumerate() {
            let up = (ROWS - 1 - row) as f64 / (ROWS - 1) as f64;
            let y = self.y_max.powf(up);
            let cells: String = cells.iter().collect();
            // Writing to a string does not fail.
            let _ = writeln!(text, "{y:>6.2} |{}", cells.trim_end());
        }
        let _ = writeln!(text, "       +{}", "-".repeat(COLUMNS));
        let _ = writeln!(
            text,
            "        {:<width$.0}{:>8.0}  {}",
            self.x_min,
            self.x_max,
            self.x_name,
            width = COLUMNS - 8
        );
        let curves = self.curves.iter().map(|&(sign, name, _)| (sign, name));
        let points = self.points.iter().map(|&(sign, name, _)| (sign, name));
        let legend: Vec<String> = curves.chain(points).map(|(sign, name)| format!("{sign} {name}")).collect();
        let _ = writeln!(text, "        {}", legend.join("   "));
        text
    }

    /// The plot as an SVG document.
    pub fn svg(&self) -> String {
        let pixel = |(right, up): (f64, f64)| {
            (MARGIN + right * (WIDTH - 2.0 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2.0 * MARGIN))
        };
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{MARGIN}\" y=\"20\">{}</text>\n",
            escape(self.title)
        );
        let (left, bottom) = pixel((0.0, 0.0));
        let (right, top) = pixel((1.0, 1.0));
        let _ = writeln!(
            text,
            "<path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>\n<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            right,
            HEIGHT - 12.0,
            escape(self.x_name)
        );
        for value in round_ticks(self.x_min, self.x_max) {
            let (x, _) = pixel(((value - self.x_min) / (self.x_max - self.x_min), 0.0));
            let _ = writeln!(
                text,
                "<text x=\"{x:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{value}</text>",
                bottom + 16.0
            );
        }
        for value in self.y_ticks() {
            let (_, y) = pixel((0.0, value.ln() / self.y_max.ln()));
            let _ = writeln!(
                text,
                "<text x=\"{:.0}\" y=\"{y:.0}\" text-anchor=\"end\">{value}</text>",
                left - 6.0
            );
        }
        let mut legend = 40.0;
        let mut name = |text: &mut String, color: &str, name: &str| {
            let _ = writeln!(
                text,
                "<text x=\"{:.0}\" y=\"{legend:.0}\" text-anchor=\"end\" fill=\"{color}\">{}</text>",
                right,
                escape(name)
            );
            legend += 16.0;
        };
        for (&(_, title, curve), color) in self.curves.iter().zip(["blue", "red", "green"].iter().cycle()) {
            let along = (0..CURVE_POINTS).map(|index| self.x_at(index, CURVE_POINTS));
            let path: Vec<String> = along
                .filter_map(|x| self.place(x, curve(x)))
                .map(pixel)
                .map(|(x, y)| format!("{x:.1},{y:.1}"))
                .collect();
            let _ =
                writeln!(text, "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\"/>", path.join(" "));
            name(&mut text, color, title);
        }
        for ((_, title, points), color) in
            self.points.iter().zip(["black", "purple", "orange", "teal"].iter().cycle())
        {
            for (x, y) in points.iter().filter_map(|&(x, y)| self.place(x, y)).map(pixel) {
                let _ = writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{color}\"/>");
            }
            name(&mut text, color, title);
        }
        text + "</svg>\n"
    }
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Values as a line of at most `columns` bars, from 0 to the greatest value. If there are more
/// values, each bar is the greatest of its group.
pub fn sparkline(values: &[u64], columns: usize) -> String {
    let part = values.len().div_ceil(columns.max(1)).max(1);
    let parts = values.chunks(part).map(|part| part.iter().copied().max().unwrap_or(0));
    let greatest = values.iter().copied().max().unwrap_or(0).max(1);
    parts.map(|value| BARS[((value * (BARS.len() as u64 - 1)).div_ceil(greatest)) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot() -> Plot<'static> {
        Plot {
            title: "a & b",
            x_name: "x",
            x_min: 0.0,
            x_max: 100.0,
            y_max: 100.0,
            curves: vec![('.', "ten", |_| 10.0)],
            points: vec![('o', "ends", vec![(0.0, 1.0), (100.0, 100.0), (50.0, 1000.0)])],
        }
    }

    #[test]
    fn points_lie_where_they_belong_and_those_outside_are_left_out() {
        let text = plot().text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1].trim_end().chars().last(), Some('o'), "upper right corner\n{text}");
        assert_eq!(lines[1].chars().count(), 8 + COLUMNS);
        assert!(lines[ROWS].starts_with("  1.00 |o"), "lower left corner\n{text}");
        // The middle of a logarithmic axis from 1 to 100 is 10.
        let dotted: Vec<usize> = (1..=ROWS).filter(|&row| lines[row].contains("....")).collect();
        assert!(dotted == [ROWS / 2] || dotted == [ROWS / 2 + 1], "{dotted:?}\n{text}");
        assert_eq!(text.matches('o').count(), 3, "two points and their legend\n{text}");
    }

    #[test]
    fn an_svg_is_closed_and_escaped() {
        let svg = plot().svg();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &amp; b") && !svg.contains("a & b"));
        assert_eq!(svg.matches("<circle").count(), 2);
    }

    #[test]
    fn marks_are_at_round_values() {
        let svg = plot().svg();
        for mark in
            [">0</text>", ">20</text>", ">100</text>", ">1</text>", ">2</text>", ">5</text>", ">50</text>"]
        {
            assert!(svg.contains(mark), "{mark}: {svg}");
        }
        assert!(!svg.contains(">25</text>") && !svg.contains(">3.16</text>"), "{svg}");
    }

    #[test]
    fn bars_reach_from_zero_to_the_greatest() {
        assert_eq!(sparkline(&[0, 1, 7, 0], 4), "▁▂█▁");
        assert_eq!(sparkline(&[0, 9, 1, 1], 2), "█▂", "a spike is not averaged away");
        assert_eq!(sparkline(&[], 8), "");
        assert_eq!(sparkline(&[0, 0], 8), "▁▁");
    }
}
