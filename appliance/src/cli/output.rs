//! Where results go.

use std::error::Error;
use std::io::Write;

use crate::options::CommandError;

/// Writes a result.
pub(super) fn print(output: &mut dyn Write, text: &str) -> Result<(), CommandError> {
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        // The reader has seen enough (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// An error with its causes, unless their text is part of it already, on one line.
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
