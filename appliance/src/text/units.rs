//! Sizes and times as people write and read them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

/// A size in bytes; as text `4096`, `512MiB` or `1GiB`, in JSON also a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SizeBytes(pub u64);

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is not a size: {reason}; a size is a whole number of bytes (4096) or with a binary unit: 4KiB, 512MiB, 1GiB, 2TiB"
)]
pub struct SizeParseError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Units of 1024, smallest first: name, the short form that is accepted as well, and bytes.
const UNITS: [(&str, &str, u64); 5] = [
    ("KiB", "K", 1 << 10),
    ("MiB", "M", 1 << 20),
    ("GiB", "G", 1 << 30),
    ("TiB", "T", 1 << 40),
    ("PiB", "P", 1 << 50),
];

impl FromStr for SizeBytes {
    type Err = SizeParseError;

    fn from_str(text: &str) -> Result<Self, SizeParseError> {
        let fail = |reason| SizeParseError { text: text.to_owned(), reason };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(fail("it does not begin with a digit"));
        }
        let number: u64 = number.parse().map_err(|_| fail("the number is too large"))?;
        let unit = unit.trim_start();
        if unit.is_empty() || unit.eq_ignore_ascii_case("b") {
            return Ok(SizeBytes(number));
        }
        if unit.starts_with('.') {
            return Err(fail("fractions are not taken, use a smaller unit"));
        }
        let (_, _, scale) = UNITS
            .iter()
            .find(|(long, short, _)| unit.eq_ignore_ascii_case(long) || unit.eq_ignore_ascii_case(short))
            .ok_or_else(|| {
                if unit.len() == 2 && unit.ends_with(['B', 'b']) {
                    fail("units of 1000 are not taken")
                } else {
                    fail("the unit is not known")
                }
            })?;
        number.checked_mul(*scale).map(SizeBytes).ok_or_else(|| fail("it is more than 64 bits can hold"))
    }
}

impl<'de> Deserialize<'de> for SizeBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = SizeBytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size: a whole number of bytes, or a text like \"512MiB\" or \"1GiB\"")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<SizeBytes, E> {
                Ok(SizeBytes(value))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<SizeBytes, E> {
                value.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The size in the largest unit that gives at least 1, with one digit after the point unless it is
/// a whole number.
impl fmt::Display for SizeBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        let Some(&(unit, _, scale)) = UNITS.iter().rev().find(|&&(_, _, scale)| bytes >= scale) else {
            return f.pad(&format!("{bytes} B"));
        };
        match bytes.checked_div(scale) {
            Some(whole) if bytes.is_multiple_of(scale) => f.pad(&format!("{whole} {unit}")),
            _ => f.pad(&format!("{:.1} {unit}", bytes as f64 / scale as f64)),
        }
    }
}

/// A time in nanoseconds since the Unix epoch as RFC 3339 in UTC, to the millisecond; `-` for 0,
/// which means no time.
pub fn format_time(time_ns: u64) -> String {
    if time_ns == 0 {
        return "-".to_owned();
    }
    jiff::Timestamp::from_nanosecond(i128::from(time_ns))
        .map_or_else(|_| format!("{time_ns}ns"), |time| time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("4KiB", 4096),
            ("512MiB", 512 << 20),
            ("1GiB", 1 << 30),
            ("1 GiB", 1 << 30),
            ("1gib", 1 << 30),
            ("1G", 1 << 30),
            ("2TiB", 2 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(SizeBytes(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_says_why() {
        for (text, reason) in [
            ("", "begin with a digit"),
            ("GiB", "begin with a digit"),
            ("-1", "begin with a digit"),
            ("1.5GiB", "smaller unit"),
            ("1GB", "units of 1000"),
            ("1XiB", "not known"),
            ("18446744073709551616", "too large"),
            ("99999999PiB", "64 bits"),
        ] {
            let error = text.parse::<SizeBytes>().expect_err(text).to_string();
            assert!(error.contains(reason) && error.contains("512MiB"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_shown() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (4096, "4 KiB"),
            (1 << 30, "1 GiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(SizeBytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(format_time(1_000_000_000), "1970-01-01T00:00:01.000Z");
        assert_eq!(format_time(1_500_999_999), "1970-01-01T00:00:01.500Z");
        assert_eq!(format_time(0), "-");
    }
}
