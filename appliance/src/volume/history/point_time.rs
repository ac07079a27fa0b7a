//! Times and spans as people write them, for the grammar of points.
//!
//! ```text
//! TIME := DATE TIME-OF-DAY ZONE? | TIME-OF-DAY ZONE?
//! ZONE := Z | +01:00 | [Europe/Berlin] | +01:00[Europe/Berlin] | a space and the name of a zone
//! SPAN := digits and a unit, repeated: 10m, 1h30m, 5 min, 90 seconds
//! ```
//! Without a zone, the reader's local one counts. A time of day without a date is the latest moment
//! at which the clocks of the zone showed it. An offset that its zone did not have then, and a
//! local time that happened twice or never, are refused.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::temporal::Pieces;
use jiff::tz::{AmbiguousOffset, TimeZone};

/// From this many digits after the seconds on, a time is taken as one that was shown in a list: it
/// means any moment that is shown so.
const SHOWN_DIGITS: u32 = 3;
/// The digits of a nanosecond.
const EXACT_DIGITS: u32 = 9;

/// The time and the zone of whoever wrote a point.
#[derive(Debug, Clone)]
pub(super) struct Here {
    pub(super) now: Timestamp,
    pub(super) zone: TimeZone,
}

impl Here {
    /// Those of this machine.
    pub(super) fn of_machine() -> Self {
        Here { now: Timestamp::now(), zone: TimeZone::system() }
    }
}

/// A time that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadTime {
    /// Nanoseconds since the Unix epoch.
    pub(super) time_ns: u64,
    /// The length of the moment that it names, in nanoseconds; 1: exactly this one.
    pub(super) span_ns: u64,
    /// Whether the local zone counted, or the current date.
    pub(super) is_local: bool,
}

/// Reads a time.
pub(super) fn read_time(text: &str, here: &Here) -> Result<ReadTime, String> {
    let text = with_zone_in_brackets(text.trim());
    let day = text.split(':').next().unwrap_or_default();
    let has_date = day.len() > 2 || !day.bytes().all(|byte| byte.is_ascii_digit());
    if !has_date && !text.contains(':') {
        return Err("the time is not like 2026-01-31T12:00:00Z, '2026-01-31 12:00' or 14:03".to_owned());
    }
    let hour_zero = if day.len() == 1 { "0" } else { "" };
    let dated = if has_date { text.clone() } else { format!("2000-01-01T{hour_zero}{text}") };
    let pieces = Pieces::parse(&dated)
        .map_err(|_| "the time is not like 2026-01-31T12:00:00Z, '2026-01-31 12:00' or 14:03".to_owned())?;
    let time = pieces.time().ok_or("it has no time of day; add one, like T00:00:00Z")?;
    let zone = match pieces.time_zone_annotation() {
        Some(annotation) => {
            Some(annotation.to_time_zone().map_err(|error| format!("its zone is not known: {error}"))?)
        }
        None => None,
    };
    let offset = pieces.to_numeric_offset();
    let is_local = !has_date || (zone.is_none() && offset.is_none());
    let zone = match (zone, offset) {
        (Some(zone), _) => zone,
        (None, Some(offset)) => TimeZone::fixed(offset),
        (None, None) => here.zone.clone(),
    };
    let at = |datetime: DateTime| -> Result<Timestamp, String> {
        let Some(offset) = offset else { return moment(&zone, datetime) };
        let stamp = offset.to_timestamp(datetime).map_err(|error| error.to_string())?;
        if zone.to_offset(stamp) == offset {
            return Ok(stamp);
        }
        Err(format!(
            "it contradicts itself: the zone had the offset {} then, not {offset}",
            zone.to_offset(stamp)
        ))
    };
    let stamp = if has_date {
        at(pieces.date().to_datetime(time))?
    } else {
        let today = here.now.to_zoned(zone.clone()).date();
        match at(today.to_datetime(time)) {
            Ok(stamp) if stamp <= here.now => stamp,
            _ => at(today.yesterday().map_err(|error| error.to_string())?.to_datetime(time))?,
        }
    };
    let time_ns = u64::try_from(stamp.as_nanosecond()).map_err(|_| "it lies before 1970".to_owned())?;
    let digits = fraction_digits(&text);
    let span_ns = if digits >= SHOWN_DIGITS { 10_u64.pow(EXACT_DIGITS.saturating_sub(digits)) } else { 1 };
    Ok(ReadTime { time_ns, span_ns, is_local })
}

/// `2026-01-31 12:00 Europe/Berlin` with its zone in brackets.
fn with_zone_in_brackets(text: &str) -> String {
    match text.rsplit_once(' ') {
        Some((time, zone))
            if zone.len() > 1
                && zone.starts_with(|c: char| c.is_ascii_alphabetic())
                && zone.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+')) =>
        {
            format!("{}[{zone}]", time.trim_end())
        }
        _ => text.to_owned(),
    }
}

/// How many digits follow the seconds' point.
fn fraction_digits(text: &str) -> u32 {
    let fraction = text.split(['.', ',']).nth(1).unwrap_or_default();
    fraction.bytes().take_while(u8::is_ascii_digit).count() as u32
}

/// The moment at which the clocks of a zone showed a local time.
fn moment(zone: &TimeZone, local: DateTime) -> Result<Timestamp, String> {
    let ambiguous = zone.to_ambiguous_timestamp(local);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => ambiguous.unambiguous().map_err(|error| error.to_string()),
        AmbiguousOffset::Fold { before, after } => Err(format!(
            "that local time happened twice, because the clocks were set back; add its offset: {local}{before} or {local}{after}"
        )),
        AmbiguousOffset::Gap { .. } => {
            Err("that local time never happened, because the clocks were set forward".to_owned())
        }
    }
}

/// A moment as text, with so many digits that it is read as what it is.
pub(super) fn time_text(time_ns: u64, span_ns: u64) -> String {
    let digits = match span_ns {
        1 if time_ns.is_multiple_of(1_000_000_000) => 0,
        _ => EXACT_DIGITS.saturating_sub(span_ns.checked_ilog10().unwrap_or(0)) as usize,
    };
    match Timestamp::from_nanosecond(i128::from(time_ns)) {
        Ok(time) => format!("{time:.digits$}"),
        Err(_) => format!("{time_ns}ns"),
    }
}

/// Formats nanoseconds for people: `1h30m`, `10m`, `500ms`.
pub(super) fn span_text(span_ns: u64) -> String {
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

/// Parses `1h30m`, `90s`, `5 min` into nanoseconds; `None` if the text is no span, or too long.
pub fn span_ns(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        total = total.checked_add(count.checked_mul(unit_ns(&rest[..end])?)?)?;
        rest = rest[end..].trim_start();
    }
    Some(total)
}

fn unit_ns(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000_000,
        "h" | "hour" | "hours" => 3_600_000_000_000,
        "d" | "day" | "days" => 86_400_000_000_000,
        "w" | "week" | "weeks" => 604_800_000_000_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noon in Berlin's zone, as a rule that needs no files.
    fn here() -> Here {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        Here { now: "2026-11-30T11:00:00Z".parse().expect("a time"), zone }
    }

    fn read(text: &str) -> String {
        read_time(text, &here()).map_or_else(|error| error, |time| time_text(time.time_ns, time.span_ns))
    }

    #[test]
    fn zones_and_local_times_are_read() {
        for (text, time) in [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
            ("2026-01-31 12:00+02:00", "2026-01-31T10:00:00Z"),
            ("2026-01-31 12:00", "2026-01-31T11:00:00Z"),
            ("2026-07-31 12:00", "2026-07-31T10:00:00Z"),
            ("2026-07-31 12:00 UTC", "2026-07-31T12:00:00Z"),
            ("2026-07-31T12:00:00+03:00[+03:00]", "2026-07-31T09:00:00Z"),
            ("9:30", "2026-11-30T08:30:00Z"),
            // Later today is yesterday.
            ("14:03", "2026-11-29T13:03:00Z"),
            ("14:03Z", "2026-11-29T14:03:00Z"),
            ("2026-01-31T12:00:00.5Z", "2026-01-31T12:00:00.500000000Z"),
            ("2026-01-31T12:00:00.123Z", "2026-01-31T12:00:00.123Z"),
            ("2026-01-31T12:00:00.123456Z", "2026-01-31T12:00:00.123456Z"),
        ] {
            assert_eq!(read(text), time, "{text}");
        }
        assert!(read_time("14:03Z", &here()).expect("a time").is_local);
        assert!(!read_time("2026-01-31 12:00+02:00", &here()).expect("a time").is_local);
    }

    #[test]
    fn what_contradicts_itself_or_is_not_certain_is_refused() {
        for (text, why) in [
            ("2026-01-31T12:00:00+05:00[+01:00]", "contradicts itself"),
            ("2026-01-31T12:00:00Z[+01:00]", "contradicts itself"),
            ("2026-10-25 02:30", "happened twice"),
            ("2026-03-29 02:30", "never happened"),
            ("2026-01-31", "no time of day"),
            ("yesterday", "not like"),
            ("9", "not like"),
            ("1969-12-31T00:00:00Z", "before 1970"),
            ("2026-01-31 12:00 Nowhere/Town", "zone is not known"),
        ] {
            assert!(read(text).contains(why), "{text}: {}", read(text));
        }
        assert!(read("2026-10-25 02:30").contains("2026-10-25T02:30:00+02"), "{}", read("2026-10-25 02:30"));
    }

    #[test]
    fn spans_are_read_in_short_and_in_words() {
        for (text, seconds) in
            [("5 min", 300), ("1h 30m", 5400), ("90 seconds", 90), ("2 days", 172_800), ("1w", 604_800)]
        {
            assert_eq!(span_ns(text), Some(seconds * 1_000_000_000), "{text}");
        }
        for text in ["", "5", "min", "5 months", "5 min x", "1.5h", "99999999999999w"] {
            assert_eq!(span_ns(text), None, "{text}");
        }
    }
}
