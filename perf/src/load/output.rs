//! Writes a load's histograms to files: in the formats of the `HdrHistogram` tools, and as charts.
//!
//! - `.hgrm`: the percentile distribution of the Java tools and of the online plotter, in
//!   microseconds;
//! - the interval log, format 1.3, V2 histograms deflated in base64, in nanoseconds: one line per
//!   interval for all commands and, if a load has more than one kind of command, one tagged line
//!   for each kind.

use std::io::{self, Write};
use std::time::SystemTime;

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogWriter, IntervalLogWriterBuilder, IntervalLogWriterError, Tag,
};

use super::aim::Kind;
use super::tally::{Interval, Recorders, Slice};
use crate::chart::{Axis, Chart, Line, Scale, svg};
use crate::latency::Recorder;

/// Histograms are in nanoseconds; the columns for people are not.
const NS_PER_US: f64 = 1e3;
const NS_PER_MS: f64 = 1e6;
/// Steps for each halving of the distance to 100 %, as in the Java tools.
const TICKS_PER_HALF: u32 = 5;

/// Writes a percentile distribution.
///
/// # Errors
/// The writer's.
pub fn write_hgrm(recorder: &Recorder, into: &mut impl Write) -> io::Result<()> {
    let histogram = recorder.histogram();
    writeln!(into, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        count += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 / NS_PER_US;
        let quantile = step.quantile_iterated_to();
        write!(into, "{value:12.3} {quantile:2.12} {count:10}")?;
        if quantile < 1.0 {
            write!(into, " {:14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(into)?;
    }
    let max = if histogram.is_empty() { 0.0 } else { histogram.max() as f64 / NS_PER_US };
    writeln!(
        into,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n#[Max     = {max:12.3}, Total count    = {:12}]",
        histogram.mean() / NS_PER_US,
        histogram.stdev() / NS_PER_US,
        histogram.len()
    )?;
    let sub_buckets = (2 * 10_u64.pow(histogram.sigfig().into())).next_power_of_two();
    let buckets = (u64::BITS - (histogram.high() / sub_buckets).leading_zeros()) + 1;
    writeln!(into, "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]")
}

/// An interval log that is being written.
pub struct IntervalLog<'a, W: Write> {
    writer: IntervalLogWriter<'a, 'a, W, V2DeflateSerializer>,
}

impl<'a, W: Write> IntervalLog<'a, W> {
    /// Writes the header; `start` is the start of the load.
    ///
    /// # Errors
    /// The writer's.
    pub fn begin(
        into: &'a mut W,
        serializer: &'a mut V2DeflateSerializer,
        start: SystemTime,
    ) -> io::Result<Self> {
        let writer = IntervalLogWriterBuilder::new()
            .add_comment(&format!("[Logged with varve-perf {}]", env!("CARGO_PKG_VERSION")))
            .add_comment("[Histogram log format version 1.3]")
            .add_comment("values are nanoseconds, Interval_Max is milliseconds")
            .with_start_time(start)
            .with_base_time(start)
            .with_max_value_divisor(NS_PER_MS)
            .begin_log_with(into, serializer)?;
        Ok(IntervalLog { writer })
    }

    /// Writes an interval.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&mut self, interval: &Interval) -> io::Result<()> {
        let kinds: Vec<Kind> = used(&interval.recorders);
        let mut one = |recorder: &Recorder, tag: Option<Tag<'_>>| {
            let length = interval.end.saturating_sub(interval.start);
            self.writer.write_histogram(recorder.histogram(), interval.start, length, tag).map_err(|error| {
                match error {
                    IntervalLogWriterError::IoError(error) => error,
                    IntervalLogWriterError::SerializeError(error) => io::Error::other(error.to_string()),
                }
            })
        };
        one(&interval.recorders.all(), None)?;
        if kinds.len() > 1 {
            for kind in kinds {
                one(interval.recorders.of(kind), Tag::new(kind.name()))?;
            }
        }
        Ok(())
    }
}

/// The kinds of which there were commands.
pub fn used(recorders: &Recorders) -> Vec<Kind> {
    Kind::ALL.into_iter().filter(|&kind| recorders.of(kind).count() > 0).collect()
}

/// The latency distribution as an SVG document: percentiles along a logarithmic axis of nines, one
/// line for each kind of command.
pub fn distribution_svg(title: &str, recorders: &Recorders) -> String {
    let nines = 6;
    let points = |recorder: &Recorder| {
        let steps = recorder.histogram().iter_quantiles(TICKS_PER_HALF);
        steps
            .map(|step| {
                let left = (1.0 - step.quantile_iterated_to()).max(10_f64.powi(-nines));
                (1.0 / left, step.value_iterated_to() as f64 / NS_PER_US)
            })
            .collect::<Vec<_>>()
    };
    let lines: Vec<Line> = used(recorders)
        .into_iter()
        .map(|kind| Line { name: kind.name().to_owned(), points: points(recorders.of(kind)) })
        .collect();
    let names = ["0", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "100 %"];
    let x = Axis {
        name: "percentile".to_owned(),
        scale: Scale::Log,
        min: 1.0,
        max: 10_f64.powi(nines),
        ticks: (0..).zip(names).map(|(power, name)| (10_f64.powi(power), name.to_owned())).collect(),
    };
    let y = Axis::log_of("us", lines.iter().flat_map(|line| &line.points).map(|point| point.1));
    svg(&[Chart { title: title.to_owned(), x, y, lines }])
}

/// The intervals that a chart shows. The last one is left out if it is much shorter than the
/// others, because a few commands in a short time do not give a rate.
fn shown(slices: &[Slice]) -> &[Slice] {
    let longest = slices.iter().map(|slice| slice.seconds).fold(0.0, f64::max);
    match slices.split_last() {
        Some((last, rest)) if last.seconds < longest / 2.0 => rest,
        _ => slices,
    }
}

/// The timeline as an SVG document: commands per second above, latencies below.
pub fn timeline_svg(title: &str, slices: &[Slice]) -> String {
    let slices = shown(slices);
    let end = slices.last().map_or(1.0, |slice| slice.start_s + slice.seconds);
    let line = |name: &str, of: fn(&Slice) -> f64| Line {
        name: name.to_owned(),
        points: slices.iter().map(|slice| (slice.start_s + slice.seconds / 2.0, of(slice))).collect(),
    };
    let iops = vec![line("IOPS", |slice| slice.iops)];
    let latencies = vec![
        line("p50", |slice| slice.p50_us),
        line("p99", |slice| slice.p99_us),
        line("max", |slice| slice.max_us),
    ];
    let values = |lines: &[Line]| {
        lines.iter().flat_map(|line| line.points.clone()).map(|point| point.1).collect::<Vec<_>>()
    };
    let (rates, micros) = (values(&iops), values(&latencies));
    svg(&[
        Chart {
            title: title.to_owned(),
            x: Axis::linear("s", end),
            y: Axis::linear("IOPS", rates.into_iter().fold(1.0, f64::max)),
            lines: iops,
        },
        Chart {
            title: "latency".to_owned(),
            x: Axis::linear("s", end),
            y: Axis::log_of("us", micros.into_iter()),
            lines: latencies,
        },
    ])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64_of_a_log::decode;

    use super::*;

    /// Reads a log back: the crate parses lines and histograms, but leaves base64 to the reader.
    mod base64_of_a_log {
        /// RFC 4648, section 4.
        pub(super) fn decode(text: &str) -> Vec<u8> {
            let value = |letter: u8| match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'+' => 62,
                _ => 63,
            };
            let mut bytes = Vec::new();
            let (mut bits, mut held) = (0_u32, 0);
            for letter in text.bytes().filter(|&letter| letter != b'=') {
                bits = bits << 6 | u32::from(value(letter));
                held += 6;
                if held >= 8 {
                    held -= 8;
                    bytes.push((bits >> held) as u8);
                }
            }
            bytes
        }
    }

    fn interval(index: u64) -> Interval {
        let start = Duration::from_secs(index);
        let mut interval =
            Interval { index, start, end: start + Duration::from_secs(1), ..Interval::default() };
        for micros in 1..=1000 {
            interval.recorders.record(Kind::Read, Duration::from_micros(micros));
            interval.recorders.record(Kind::Write, Duration::from_micros(micros * (index + 1)));
        }
        interval
    }

    #[test]
    fn an_interval_log_reads_back_as_it_was_recorded() {
        use hdrhistogram::serialization::Deserializer;
        use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

        let (mut bytes, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut log = IntervalLog::begin(&mut bytes, &mut serializer, start).unwrap();
        for index in 0..3 {
            log.write(&interval(index)).unwrap();
        }
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("#[Histogram log format version 1.3]\n"), "{text}");
        let mut found = Vec::new();
        for entry in IntervalLogIterator::new(text.as_bytes()) {
            let LogEntry::Interval(entry) = entry.unwrap() else { continue };
            let bytes = decode(entry.encoded_histogram());
            let read: hdrhistogram::Histogram<u64> =
                Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
            found.push((entry.start_timestamp(), entry.tag().map(|tag| tag.as_str().to_owned()), read));
        }
        assert_eq!(found.len(), 9);
        for (at, (start, tag, read)) in found.iter().enumerate() {
            let written = interval(at as u64 / 3);
            let expected = match at % 3 {
                0 => written.recorders.all(),
                1 => written.recorders.of(Kind::Read).clone(),
                _ => written.recorders.of(Kind::Write).clone(),
            };
            assert_eq!(*start, written.start);
            assert_eq!(tag.as_deref(), [None, Some("read"), Some("write")][at % 3]);
            assert_eq!(read, expected.histogram());
        }
    }

    #[test]
    fn a_percentile_distribution_has_the_columns_that_the_tools_read() {
        let mut text = Vec::new();
        write_hgrm(interval(0).recorders.of(Kind::Read), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>(),
            ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
        );
        let rows: Vec<Vec<f64>> = lines[2..]
            .iter()
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|field| field.parse().unwrap()).collect())
            .collect();
        let half = rows.iter().find(|row| (row[1] - 0.5).abs() < 1e-9).unwrap();
        assert!((half[0] - 500.0).abs() < 1.0 && (half[3] - 2.0).abs() < 0.01, "{half:?}");
        assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][2] <= pair[1][2]));
        let last = rows.last().unwrap();
        assert!((last[1] - 1.0).abs() < 1e-9 && (last[2] - 1000.0).abs() < 1e-9 && last.len() == 3);
        assert!(lines[lines.len() - 2].contains("Total count    =         1000]"), "{text}");
        // The Java tools' value for 1 to 60 s in ns with 3 digits.
        assert!(lines[lines.len() - 1].contains("SubBuckets     =         2048]"), "{text}");
    }

    #[test]
    fn a_time_line_ends_with_the_last_interval_that_is_whole() {
        let mut slices: Vec<Slice> = (0..4).map(|index| Slice::new(&interval(index), 4096)).collect();
        let whole = timeline_svg("x", &slices);
        slices.push(Slice { start_s: 4.0, seconds: 0.001, iops: 1e9, ..slices[0] });
        assert_eq!(timeline_svg("x", &slices), whole);
        slices[4].seconds = 0.6;
        assert_ne!(timeline_svg("x", &slices), whole, "more than half of an interval is shown");
        assert_eq!(shown(&slices[..1]).len(), 1, "a short load has one");
    }

    #[test]
    fn pictures_have_a_line_for_each_kind() {
        let picture = distribution_svg("a <load>", &interval(0).recorders);
        assert!(picture.contains("a &lt;load>") || picture.contains("a &lt;load&gt;"));
        assert_eq!(picture.matches("<polyline").count(), 2);
        let slices: Vec<Slice> = (0..4).map(|index| Slice::new(&interval(index), 4096)).collect();
        assert_eq!(timeline_svg("x", &slices).matches("<polyline").count(), 4);
        assert_eq!(timeline_svg("x", &[]).matches("</svg>").count(), 1, "nothing is no error");
    }
}
