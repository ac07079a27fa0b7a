//! What is wrong with a file that should be an increment.

use crate::log::frame::FrameError;

/// Why an increment cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IncrementError {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It does not begin as an increment does.
    #[error("it is not an increment: it does not begin with the header of one")]
    NotAnIncrement,
    /// A later program wrote it.
    #[error(
        "it has version {version}, and this program reads version 1; use the program that wrote it, or a later one"
    )]
    Version {
        /// The version.
        version: u32,
    },
    /// It ends before its tail.
    #[error("it ends in {part}: it was not written or copied to its end")]
    Truncated {
        /// Where.
        part: Part,
    },
    /// Bytes are not what was written.
    #[error("{part} is damaged: {what}")]
    Damaged {
        /// Where.
        part: Part,
        /// What does not fit.
        what: &'static str,
    },
    /// What is to be written is not an increment.
    #[error("it cannot be written: {what}")]
    Order {
        /// What does not fit.
        what: &'static str,
    },
}

/// A part of an increment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The header and the description.
    Header,
    /// A chunk.
    Chunk(u64),
    /// The tail.
    Tail,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::Header => f.write_str("the header"),
            Part::Chunk(number) => write!(f, "chunk {number}"),
            Part::Tail => f.write_str("the tail"),
        }
    }
}

impl Part {
    /// An error in this part.
    pub(super) fn damaged(self, what: &'static str) -> IncrementError {
        IncrementError::Damaged { part: self, what }
    }

    /// The error for a structure of this part.
    pub(super) fn of_frame(self, error: FrameError) -> IncrementError {
        match error {
            FrameError::Length => IncrementError::Truncated { part: self },
            FrameError::Magic => self.damaged("the magic"),
            FrameError::Checksum => self.damaged("the checksum"),
            FrameError::Version(version) => IncrementError::Version { version },
        }
    }
}
