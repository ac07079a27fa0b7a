//! Where results go.

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
