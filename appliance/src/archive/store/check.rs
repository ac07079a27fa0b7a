//! What a probe checks of a store.

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// An object can be put.
    Put,
    /// It is invisible before its commit.
    InvisibleBeforeCommit,
    /// A list shows it at once.
    ListAfterPut,
    /// It reads back as it was put.
    ReadBack,
    /// A range in its middle reads back.
    RangedRead,
    /// A second put of the name is refused, and changes nothing.
    RefusesOverwrite,
    /// It can be deleted, and is gone then.
    Delete,
}
