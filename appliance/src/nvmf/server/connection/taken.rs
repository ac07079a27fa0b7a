//! Whether a command was taken.

/// Whether a command was taken from the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is under way or answered.
    Yes,
    /// It stays where it is; nothing has changed.
    Busy,
}
