//! The grammar of a point in time.
//!
//! ```text
//! POINT := lsn:N | time:RFC3339 | time:-SPAN | synch:LABEL | synch:ID | snapshot:NAME
//! SPAN  := digits and units, as 10m, 90s, 1h30m, 2d
//! ```
//! `synch:` looks for an id first: a label that consists only of digits is found only if no synch
//! has it as its id.

use std::fmt;
use std::str::FromStr;

/// A point in time as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// A position of the log.
    Lsn(u64),
    /// A wall-clock time, in nanoseconds since the Unix epoch.
    Time(u64),
    /// This many nanoseconds before now.
    Ago(u64),
    /// A synch event by label or id.
    Synch(String),
    /// A snapshot by name.
    Snapshot(String),
}

/// Why a text is not a point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is not a point in time: {reason}; a point is lsn:N, time:2026-01-31T12:00:00Z, time:-10m, synch:LABEL, synch:ID or snapshot:NAME"
)]
pub struct PointParseError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FromStr for Point {
    type Err = PointParseError;

    fn from_str(text: &str) -> Result<Self, PointParseError> {
        let fail = |reason: &str| PointParseError { text: text.to_owned(), reason: reason.to_owned() };
        let (kind, value) = text.split_once(':').ok_or_else(|| fail("it has no ':'"))?;
        if value.is_empty() {
            return Err(fail("nothing follows the ':'"));
        }
        match kind {
            "lsn" => value.parse().map(Point::Lsn).map_err(|_| fail("the LSN is not a number")),
            "synch" => Ok(Point::Synch(value.to_owned())),
            "snapshot" => Ok(Point::Snapshot(value.to_owned())),
            "time" => match value.strip_prefix('-') {
                Some(span) => span_ns(span)
                    .map(Point::Ago)
                    .ok_or_else(|| fail("the span is not like 10m, 90s or 1h30m")),
                None => value
                    .parse::<jiff::Timestamp>()
                    .ok()
                    .and_then(|time| u64::try_from(time.as_nanosecond()).ok())
                    .map(Point::Time)
                    .ok_or_else(|| fail("the time is not RFC 3339 with an offset or Z")),
            },
            _ => Err(fail("it starts with none of lsn, time, synch, snapshot")),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Point::Lsn(lsn) => write!(f, "lsn:{lsn}"),
            Point::Time(time_ns) => match jiff::Timestamp::from_nanosecond(i128::from(*time_ns)) {
                Ok(time) => write!(f, "time:{time}"),
                Err(_) => write!(f, "time:{time_ns}ns"),
            },
            Point::Ago(span_ns) => write!(f, "time:-{}", span_text(*span_ns)),
            Point::Synch(name) => write!(f, "synch:{name}"),
            Point::Snapshot(name) => write!(f, "snapshot:{name}"),
        }
    }
}

/// Formats nanoseconds for people: `1h30m`, `10m`, `500ms`.
fn span_text(span_ns: u64) -> String {
    const UNITS: [(&str, u64); 7] = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    let mut rest = span_ns;
    let mut text = String::new();
    for (unit, scale) in UNITS {
        if rest >= scale {
            text = format!("{text}{}{unit}", rest / scale);
            rest %= scale;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Parses `1h30m`, `90s`, `500ms` into nanoseconds.
fn span_ns(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000),
        ("w", 604_800_000_000_000),
    ];
    let mut rest = text;
    let mut total: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, scale) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total = total.checked_add(count.checked_mul(*scale)?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_parsed() {
        assert_eq!("lsn:42".parse(), Ok(Point::Lsn(42)));
        assert_eq!("time:-1h30m".parse(), Ok(Point::Ago(5_400_000_000_000)));
        assert_eq!("time:-500ms".parse(), Ok(Point::Ago(500_000_000)));
        assert_eq!("time:1970-01-01T00:00:01Z".parse(), Ok(Point::Time(1_000_000_000)));
        assert_eq!("time:1970-01-01T01:00:01+01:00".parse(), Ok(Point::Time(1_000_000_000)));
        assert_eq!("synch:before upgrade: 2".parse(), Ok(Point::Synch("before upgrade: 2".to_owned())));
        assert_eq!("snapshot:a".parse(), Ok(Point::Snapshot("a".to_owned())));
    }

    #[test]
    fn what_is_not_a_point_says_why() {
        for text in [
            "",
            "42",
            "lsn:",
            "lsn:x",
            "lsn:-1",
            "time:-",
            "time:-10",
            "time:-m",
            "time:yesterday",
            "time:2026-01-01",
            "at:1",
        ] {
            let error = text.parse::<Point>().expect_err(text);
            assert!(error.to_string().contains("synch:LABEL"), "{error}");
        }
    }

    #[test]
    fn display_parses_back() {
        for text in ["lsn:7", "time:2026-11-21T10:00:00Z", "time:-600000ms", "synch:x", "snapshot:y"] {
            let point: Point = text.parse().expect(text);
            assert_eq!(point.to_string().parse(), Ok(point));
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
}
