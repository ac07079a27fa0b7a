//! How commands print results and errors.

use std::error::Error;
use std::io::Write;

use crate::options::CommandError;

/// Writes a result.
pub(super) fn print(output: &mut dyn Write, text: &str) -> Result<(), CommandError> {
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        // The reader closed the pipe early (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// An error and its causes on one line; a cause whose text is already included is left out.
pub(super) fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let source_text = source.to_string();
        if !text.contains(&source_text) {
            text.push_str(": ");
            text.push_str(&source_text);
        }
        cause = source.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
