//! A point as an argument.

use crate::volume::{Point, PointParseError};

/// Checks a point here, so that a mistake is reported without an appliance. The text is sent
/// unchanged.
pub(super) fn point_text(text: &str) -> Result<String, PointParseError> {
    text.parse::<Point>().map(|_| text.to_owned())
}
