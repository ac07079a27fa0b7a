//! Spans of time as operators write them, and the calendar. All times are UTC, which has no
//! daylight saving time.
//!
//! Seconds to weeks have a fixed length. Months and years follow the calendar: one month after 31
//! January is the end of February. So a span is never subtracted from the current time. It is
//! always added to a time, which keeps the order of times: see [`Span::after`].

use std::fmt;

use jiff::Timestamp;
use jiff::civil::date;
use jiff::tz::TimeZone;

const SECOND_NS: u64 = 1_000_000_000;
const DAY_NS: u64 = 86_400 * SECOND_NS;
const WEEK_NS: u64 = 7 * DAY_NS;
/// The Unix epoch was a Thursday; weeks begin on Mondays.
const EPOCH_IN_WEEK_NS: u64 = 3 * DAY_NS;

/// A unit of a [`Span`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanUnit {
    /// `s`
    Second,
    /// `m`
    Minute,
    /// `h`
    Hour,
    /// `d`: 24 hours.
    Day,
    /// `w`: 7 days; boundaries are Mondays.
    Week,
    /// `M`: a calendar month.
    Month,
    /// `y`: a calendar year.
    Year,
}

const UNITS: [(char, SpanUnit); 7] = [
    ('s', SpanUnit::Second),
    ('m', SpanUnit::Minute),
    ('h', SpanUnit::Hour),
    ('d', SpanUnit::Day),
    ('w', SpanUnit::Week),
    ('M', SpanUnit::Month),
    ('y', SpanUnit::Year),
];

/// The length of a unit: fixed, or in calendar months.
enum Length {
    Ns(u64),
    Months(u32),
}

/// A span of time: a count, at least 1, and a unit. Written as `15m`, `48h`, `12M`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    count: u32,
    unit: SpanUnit,
}

impl Span {
    /// `count` units; `None` when the count is 0.
    pub fn new(count: u32, unit: SpanUnit) -> Option<Self> {
        (count > 0).then_some(Span { count, unit })
    }

    /// Parses a span.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let unit = text.chars().next_back()?;
        let digits = &text[..text.len() - unit.len_utf8()];
        let (_, unit) = UNITS.iter().find(|(letter, _)| *letter == unit)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Span::new(digits.parse().ok()?, *unit)
    }

    /// The time that is this span after `time_ns`; the largest time when it cannot be represented.
    /// Never decreases when `time_ns` increases.
    pub fn after(self, time_ns: u64) -> u64 {
        match self.length() {
            Length::Ns(unit_ns) => time_ns.saturating_add(unit_ns.saturating_mul(u64::from(self.count))),
            Length::Months(months) => self.months_after(time_ns, months).unwrap_or(u64::MAX),
        }
    }

    fn months_after(self, time_ns: u64, unit_months: u32) -> Option<u64> {
        let months = i64::from(self.count) * i64::from(unit_months);
        let span = jiff::Span::new().try_months(months).ok()?;
        let start = Timestamp::from_nanosecond(i128::from(time_ns)).ok()?.to_zoned(TimeZone::UTC).datetime();
        let end = start.checked_add(span).ok()?;
        if end.day() == start.day() {
            return to_ns(end);
        }
        // The month has no such day. The same hour on its last day would give later times an
        // earlier end, so the result is the end of the month.
        to_ns(end.date().last_of_month().tomorrow().ok()?.at(0, 0, 0, 0))
    }

    /// The newest calendar boundary at or before `time_ns`, when the calendar is cut into pieces of
    /// this span: whole seconds, minutes, hours and days since the Unix epoch, weeks since the
    /// Monday before it, months and years since the year 0 (so that `3M` gives quarters). `None`
    /// when it is before the Unix epoch.
    pub fn boundary_before(self, time_ns: u64) -> Option<u64> {
        match self.length() {
            Length::Ns(unit_ns) => {
                let piece_ns = unit_ns.saturating_mul(u64::from(self.count));
                let shift_ns = if self.unit == SpanUnit::Week { EPOCH_IN_WEEK_NS } else { 0 };
                let shifted_ns = u128::from(time_ns) + u128::from(shift_ns);
                let floor_ns = shifted_ns - shifted_ns % u128::from(piece_ns);
                u64::try_from(floor_ns.checked_sub(u128::from(shift_ns))?).ok()
            }
            Length::Months(unit_months) => {
                let piece_months = i64::from(self.count) * i64::from(unit_months);
                let time = Timestamp::from_nanosecond(i128::from(time_ns)).ok()?.to_zoned(TimeZone::UTC);
                let month = i64::from(time.year()) * 12 + i64::from(time.month()) - 1;
                let floor = month - month % piece_months;
                let year = i16::try_from(floor / 12).ok()?;
                to_ns(date(year, (floor % 12) as i8 + 1, 1).at(0, 0, 0, 0))
            }
        }
    }

    fn length(self) -> Length {
        match self.unit {
            SpanUnit::Second => Length::Ns(SECOND_NS),
            SpanUnit::Minute => Length::Ns(60 * SECOND_NS),
            SpanUnit::Hour => Length::Ns(3600 * SECOND_NS),
            SpanUnit::Day => Length::Ns(DAY_NS),
            SpanUnit::Week => Length::Ns(WEEK_NS),
            SpanUnit::Month => Length::Months(1),
            SpanUnit::Year => Length::Months(12),
        }
    }
}

fn to_ns(time: jiff::civil::DateTime) -> Option<u64> {
    let time = time.to_zoned(TimeZone::UTC).ok()?.timestamp();
    u64::try_from(time.as_nanosecond()).ok()
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = UNITS.iter().find(|(_, unit)| *unit == self.unit).map_or('s', |(letter, _)| *letter);
        write!(f, "{}{letter}", self.count)
    }
}

/// How long something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// For a span.
    For(Span),
    /// Forever.
    Forever,
}

impl Keep {
    /// Parses `forever` or a span.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "forever" { Some(Keep::Forever) } else { Span::parse(text).map(Keep::For) }
    }

    /// When something with the time `time_ns` expires; `None` for never.
    pub fn until_ns(self, time_ns: u64) -> Option<u64> {
        match self {
            Keep::For(span) => Some(span.after(time_ns)),
            Keep::Forever => None,
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keep::For(span) => span.fmt(f),
            Keep::Forever => f.write_str("forever"),
        }
    }
}

/// A time as text; the bare number when the calendar cannot represent it.
pub(super) fn time_text(time_ns: u64) -> String {
    match Timestamp::from_nanosecond(i128::from(time_ns)) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{time_ns} ns"),
    }
}
