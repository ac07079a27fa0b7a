//! A point as an argument.

use crate::volume::{NamedPoint, PointParseError, span_ns};

/// Checks a point here, so that a mistake is reported without an appliance. A time of this
/// machine's zone is sent in UTC, because the appliance may be in another one; any other text is
/// sent unchanged.
pub(super) fn point_text(text: &str) -> Result<String, PointParseError> {
    Ok(sent(text.parse::<NamedPoint>()?))
}

/// The same for a point or a time without `time:`.
pub(super) fn point_or_time_text(text: &str) -> Result<String, PointParseError> {
    Ok(sent(NamedPoint::of_point_or_time(text)?))
}

fn sent(named: NamedPoint) -> String {
    if named.is_local { named.point.to_string() } else { named.text }
}

/// Checks a span of time here. The text is sent unchanged.
pub(super) fn span_text(text: &str) -> Result<String, String> {
    match span_ns(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("write it like 10m, 90s, 1h30m or '5 min'".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_times_are_sent_in_another_form() {
        for text in ["lsn:5-1", "synch:a b", "time:-5000ms", "time:2026-01-31T12:00:00+01:00", "now"] {
            assert_eq!(point_text(text).as_deref(), Ok(text));
        }
        let sent = point_text("time:2026-01-31 12:00").expect("a local time");
        assert!(sent.starts_with("time:2026-01-3") && sent.ends_with('Z'), "{sent}");
        assert_eq!(point_or_time_text("-10m").as_deref(), Ok("-10m"));
        assert!(point_or_time_text("14:03").expect("a local time").ends_with('Z'));
        assert!(point_or_time_text("yesterday").is_err());
        assert!(span_text("1m").is_ok() && span_text("1").is_err());
    }
}
