//! What is wrong with bytes that should be a part of an anchor.

use crate::log::frame::FrameError;

/// Why bytes are not the head or the part that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnchorDamage {
    /// It is shorter or longer than it says.
    #[error("its length is wrong")]
    Length,
    /// It does not begin as one does.
    #[error("it does not begin with the magic")]
    Magic,
    /// A checksum is wrong.
    #[error("the checksum of its {0} is wrong")]
    Checksum(&'static str),
    /// A later program wrote it.
    #[error("it has version {0}, which this program does not read")]
    Version(u32),
    /// It belongs to another anchor.
    #[error("it belongs to another {0}")]
    Elsewhere(&'static str),
    /// A field has a value that it cannot have.
    #[error("its {0} cannot be")]
    Field(&'static str),
    /// A part has other leaves than the head says.
    #[error("it does not have the leaves that its head lists")]
    Unlisted,
    /// Zstandard refuses a frame.
    #[error("a frame cannot be decompressed: {0}")]
    Zstd(&'static str),
}

impl AnchorDamage {
    /// The damage of a structure.
    pub(super) fn of_frame(error: FrameError) -> Self {
        match error {
            FrameError::Length => AnchorDamage::Length,
            FrameError::Magic => AnchorDamage::Magic,
            FrameError::Checksum => AnchorDamage::Checksum("head"),
            FrameError::Version(version) => AnchorDamage::Version(version),
        }
    }
}

/// Why a part cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// Its leaves are none that a part can have.
    #[error("a part of an anchor cannot be written: {0}")]
    Content(&'static str),
    /// Zstandard refuses.
    #[error("a part of an anchor cannot be compressed: {0}")]
    Zstd(&'static str),
}
