//! Whether a command was taken from the buffer.

/// Whether a command was taken from the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is under way or answered.
    Yes,
    /// It stays in the buffer. Nothing has changed.
    Busy,
}
