//! The grammar of a point in time.
//!
//! ```text
//! POINT := BASE | BASE+N | BASE-N
//! BASE  := now | lsn:N | write:N | time:TIME | time:-SPAN | synch:LABEL | synch:ID | snapshot:NAME
//! ```
//! `+N` and `-N` count host commands from there: those of the volume that is asked for, or those of
//! all volumes. `write:N` is the end of the N-th host command, counted in the same way.
//!
//! **Names.** `synch:` looks for an id first: a label that consists only of digits is found only if
//! no synch has it as its id. A label or a name may itself end in `+3`: it is looked up as it is
//! first, and as a name with an offset only if nothing has that name. The answer says so.
//!
//! **Times.** See `point_time`. A time with three or more digits after the seconds is taken as one
//! that a list showed: it means the moment that is shown so, and the event in it, if there is one.

use std::fmt;
use std::str::FromStr;

use super::point_time::{Here, read_time, span_ns, span_text, time_text};

/// A point in time as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// The newest point.
    Now,
    /// A position of the log.
    Lsn(u64),
    /// The end of the N-th host command, counted from 1; 0 is the point before the first.
    Write(u64),
    /// A wall-clock time, in nanoseconds since the Unix epoch.
    Time(u64),
    /// A wall-clock time as a list shows it: any moment from `time_ns` on for `span_ns`, which is a
    /// power of ten from 10 to 1,000,000.
    Shown {
        /// Nanoseconds since the Unix epoch.
        time_ns: u64,
        /// The length of the moment.
        span_ns: u64,
    },
    /// This many nanoseconds before now.
    Ago(u64),
    /// A synch event by label or id.
    Synch(String),
    /// A snapshot by name.
    Snapshot(String),
    /// So many host commands after a point, or before it if negative.
    Offset {
        /// The point from which they are counted; never a synch, a snapshot, or an offset, when it
        /// was read: whether their names include the offset is seen when they are looked up.
        from: Box<Point>,
        /// How many.
        commands: i64,
    },
}

/// Why a text is not a point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is not a point in time: {reason}; a point is now, lsn:N, write:N, time:2026-01-31T12:00:00Z, time:14:03, time:-10m, synch:LABEL, synch:ID or snapshot:NAME, each also with +N or -N host commands"
)]
pub struct PointParseError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A point with the text that names it, which answers and errors repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPoint {
    /// The text.
    pub text: String,
    /// The point.
    pub point: Point,
    /// Whether the reader's local zone, or date, counted.
    pub is_local: bool,
}

impl NamedPoint {
    /// The text, if it means the same point later.
    pub(in crate::volume) fn lasting_text(&self) -> Option<String> {
        let mut base = &self.point;
        while let Point::Offset { from, .. } = base {
            base = from;
        }
        let lasts = !self.is_local && !matches!(base, Point::Now | Point::Ago(_) | Point::Write(_));
        // A name may be given to another point later, and is still what was asked for.
        lasts.then(|| self.text.clone())
    }

    /// Reads a point, or a time without `time:` before it, as `14:03` or `-10m`.
    ///
    /// # Errors
    /// The text is neither; the error is that of the point.
    pub fn of_point_or_time(text: &str) -> Result<Self, PointParseError> {
        let error = match text.parse::<NamedPoint>() {
            Ok(named) => return Ok(named),
            Err(error) => error,
        };
        match format!("time:{text}").parse::<NamedPoint>() {
            Ok(named) => Ok(NamedPoint { text: text.to_owned(), ..named }),
            Err(_) => Err(error),
        }
    }

    /// What to tell whoever wrote the point, if it was read by the machine's zone.
    pub(in crate::volume) fn note(&self) -> Option<String> {
        self.is_local.then(|| {
            let zone = jiff::tz::TimeZone::system();
            let name = zone.iana_name().unwrap_or("the appliance's own");
            format!("it was read as {}; the time zone is {name}", self.point)
        })
    }
}

impl From<Point> for NamedPoint {
    fn from(point: Point) -> Self {
        NamedPoint { text: point.to_string(), point, is_local: false }
    }
}

impl FromStr for NamedPoint {
    type Err = PointParseError;

    fn from_str(text: &str) -> Result<Self, PointParseError> {
        let (point, is_local) = parse(text, &Here::of_machine())
            .map_err(|reason| PointParseError { text: text.to_owned(), reason })?;
        Ok(NamedPoint { text: text.to_owned(), point, is_local })
    }
}

impl FromStr for Point {
    type Err = PointParseError;

    fn from_str(text: &str) -> Result<Self, PointParseError> {
        text.parse::<NamedPoint>().map(|named| named.point)
    }
}

/// Reads a point. Returns also whether the zone or the date of `here` counted.
fn parse(text: &str, here: &Here) -> Result<(Point, bool), String> {
    if let Some(rest) = text.strip_prefix("now") {
        return match (rest, split_offset(text)) {
            ("", _) => Ok((Point::Now, false)),
            (_, Some(Split { base: "now", commands, .. })) => Ok((offset(Point::Now, commands), false)),
            _ => Err("after 'now' only +N or -N host commands follow".to_owned()),
        };
    }
    let (kind, value) = text.split_once(':').ok_or("it has no ':'")?;
    if value.is_empty() {
        return Err("nothing follows the ':'".to_owned());
    }
    match kind {
        "lsn" => number(value, Point::Lsn, "the LSN is not a number"),
        "write" => number(value, Point::Write, "the number of the write is not a number"),
        "synch" => Ok((Point::Synch(value.to_owned()), false)),
        "snapshot" => Ok((Point::Snapshot(value.to_owned()), false)),
        "time" => time(value, here),
        _ => Err("it starts with none of now, lsn, write, time, synch, snapshot".to_owned()),
    }
}

fn number(value: &str, make: fn(u64) -> Point, reason: &str) -> Result<(Point, bool), String> {
    if let Ok(number) = value.parse() {
        return Ok((make(number), false));
    }
    let split = split_offset(value).ok_or(reason)?;
    let base = split.base.parse().map_err(|_| reason)?;
    Ok((offset(make(base), split.commands), false))
}

fn time(value: &str, here: &Here) -> Result<(Point, bool), String> {
    let whole = time_base(value, here);
    let Err(reason) = whole else { return whole };
    let Some(split) = split_offset(value) else { return Err(reason) };
    match time_base(split.base, here) {
        // `12:00-3` may mean a zone.
        Ok((_, true)) if !split.spaced => {
            Err(format!("{reason}; an offset in host commands after a local time needs a space before it"))
        }
        Ok((base, is_local)) => Ok((offset(base, split.commands), is_local)),
        Err(_) => Err(reason),
    }
}

fn time_base(value: &str, here: &Here) -> Result<(Point, bool), String> {
    let span = value.strip_prefix('-').or_else(|| value.strip_suffix(" ago"));
    if let Some(span) = span {
        let span_ns = span_ns(span).ok_or("the span is not like 10m, 90s, 1h30m or '5 min'")?;
        return Ok((Point::Ago(span_ns), false));
    }
    let read = read_time(value, here)?;
    let point = match read.span_ns {
        1 => Point::Time(read.time_ns),
        span_ns => Point::Shown { time_ns: read.time_ns, span_ns },
    };
    Ok((point, read.is_local))
}

fn offset(from: Point, commands: i64) -> Point {
    Point::Offset { from: Box::new(from), commands }
}

/// A text that ends in `+N` or `-N`.
pub(super) struct Split<'a> {
    pub(super) base: &'a str,
    pub(super) commands: i64,
    /// Whether a space precedes the sign.
    spaced: bool,
}

/// Splits the offset from a text, if it has one behind a text that is not empty.
pub(super) fn split_offset(text: &str) -> Option<Split<'_>> {
    let sign = text.rfind(['+', '-'])?;
    let digits = &text[sign + 1..];
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let commands: i64 = digits.parse().ok()?;
    let base = text[..sign].trim_end();
    let spaced = base.len() < sign;
    let commands = if text[sign..].starts_with('-') { -commands } else { commands };
    (!base.is_empty()).then_some(Split { base, commands, spaced })
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Point::Now => f.write_str("now"),
            Point::Lsn(lsn) => write!(f, "lsn:{lsn}"),
            Point::Write(number) => write!(f, "write:{number}"),
            Point::Time(time_ns) => write!(f, "time:{}", time_text(*time_ns, 1)),
            Point::Shown { time_ns, span_ns } => write!(f, "time:{}", time_text(*time_ns, *span_ns)),
            Point::Ago(span_ns) => write!(f, "time:-{}", span_text(*span_ns)),
            Point::Synch(name) => write!(f, "synch:{name}"),
            Point::Snapshot(name) => write!(f, "snapshot:{name}"),
            Point::Offset { from, commands } => write!(f, "{from}{commands:+}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn points_are_parsed() {
        assert_eq!("now".parse(), Ok(Point::Now));
        assert_eq!("lsn:42".parse(), Ok(Point::Lsn(42)));
        assert_eq!("write:42".parse(), Ok(Point::Write(42)));
        assert_eq!("time:-1h30m".parse(), Ok(Point::Ago(5_400_000_000_000)));
        assert_eq!("time:-500ms".parse(), Ok(Point::Ago(500_000_000)));
        assert_eq!("time:-5 min".parse(), Ok(Point::Ago(300_000_000_000)));
        assert_eq!("time:5 min ago".parse(), Ok(Point::Ago(300_000_000_000)));
        assert_eq!("time:1970-01-01T00:00:01Z".parse(), Ok(Point::Time(1_000_000_000)));
        assert_eq!("time:1970-01-01T01:00:01+01:00".parse(), Ok(Point::Time(1_000_000_000)));
        assert_eq!(
            "time:1970-01-01T00:00:01.002Z".parse(),
            Ok(Point::Shown { time_ns: 1_002_000_000, span_ns: 1_000_000 })
        );
        assert_eq!("synch:before upgrade: 2".parse(), Ok(Point::Synch("before upgrade: 2".to_owned())));
        assert_eq!("snapshot:a".parse(), Ok(Point::Snapshot("a".to_owned())));
    }

    #[test]
    fn offsets_are_read_where_nothing_else_can_be_meant() {
        for (text, base, commands) in [
            ("now-3", Point::Now, -3),
            ("now +3", Point::Now, 3),
            ("lsn:42-1", Point::Lsn(42), -1),
            ("write:42+7", Point::Write(42), 7),
            ("time:-10m-3", Point::Ago(600_000_000_000), -3),
            ("time:1970-01-01T00:00:01Z+3", Point::Time(1_000_000_000), 3),
            ("time:1970-01-01T01:00:01+01:00-2", Point::Time(1_000_000_000), -2),
        ] {
            assert_eq!(text.parse(), Ok(offset(base, commands)), "{text}");
        }
        // A zone, not an offset.
        assert_eq!("time:1970-01-01T01:00:01+01".parse(), Ok(Point::Time(1_000_000_000)));
        let error = "time:2026-01-31T12:00:00-3".parse::<Point>().expect_err("a zone or an offset");
        assert!(error.to_string().contains("needs a space"), "{error}");
        let local = "time:2026-01-31T12:00:00 -3".parse::<NamedPoint>().expect("an offset");
        assert!(local.is_local && local.note().is_some(), "{local:?}");
        // A name is looked up as it is first.
        assert_eq!("synch:a+3".parse(), Ok(Point::Synch("a+3".to_owned())));
    }

    #[test]
    fn what_is_not_a_point_says_why() {
        for text in [
            "",
            "42",
            "lsn:",
            "lsn:x",
            "lsn:-1",
            "write:x",
            "time:-",
            "time:-10",
            "time:-m",
            "time:yesterday",
            "time:2026-01-01",
            "at:1",
            "now-5m",
            "nowhere",
            "lsn:1+99999999999999999999",
        ] {
            let error = text.parse::<Point>().expect_err(text);
            assert!(error.to_string().contains("synch:LABEL"), "{error}");
        }
    }

    #[test]
    fn spans_are_shown_as_people_write_them() {
        for text in
            ["time:-1h", "time:-1h30m", "time:-10m", "time:-500ms", "time:-2d3s", "time:-0s", "time:-1us"]
        {
            let point: Point = text.parse().expect(text);
            assert_eq!(point.to_string(), text);
        }
        let point: Point = "time:-90s".parse().expect("a span");
        assert_eq!(point.to_string(), "time:-1m30s");
    }

    #[test]
    fn errors_and_answers_repeat_what_was_typed() {
        let named: NamedPoint = "time:-5000ms".parse().expect("a span");
        assert_eq!((named.text.as_str(), named.point.to_string()), ("time:-5000ms", "time:-5s".to_owned()));
    }

    fn bases() -> impl Strategy<Value = Point> {
        prop_oneof![
            Just(Point::Now),
            any::<u64>().prop_map(Point::Lsn),
            any::<u64>().prop_map(Point::Write),
            (0..i64::MAX as u64).prop_map(Point::Time),
            (0..9_000_000_000_u64).prop_map(|s| Point::Time(s * 1_000_000_000)),
            (0..i64::MAX as u64 / 1_000_000, 1_u32..=6).prop_map(|(at, digits)| {
                let span_ns = 10_u64.pow(digits);
                Point::Shown { time_ns: at * span_ns, span_ns }
            }),
            any::<u64>().prop_map(Point::Ago),
        ]
    }

    proptest! {
        #[test]
        fn display_parses_back(base in bases(), commands in prop_oneof![Just(None), any::<i32>().prop_map(Some)]) {
            let point = commands.map_or(base.clone(), |commands| offset(base, i64::from(commands)));
            prop_assert_eq!(point.to_string().parse(), Ok(point));
        }

        #[test]
        fn names_parse_back(name in "[^\\p{Cc}]{1,40}") {
            for point in [Point::Synch(name.clone()), Point::Snapshot(name)] {
                prop_assert_eq!(point.to_string().parse(), Ok(point));
            }
        }

        #[test]
        fn any_text_is_read_without_harm(text in "(time:|lsn:|now)?[-+0-9TZ:. a-z\\[\\]/é]{0,40}") {
            if let Ok(point) = text.parse::<Point>() {
                prop_assert_eq!(point.to_string().parse(), Ok(point));
            }
        }
    }
}
