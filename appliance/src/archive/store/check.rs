//! The checks of a store that a probe makes.

/// One check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// An object can be put.
    Put,
    /// The object is invisible before its commit.
    InvisibleBeforeCommit,
    /// A list shows the object at once.
    ListAfterPut,
    /// The object reads back as it was put.
    ReadBack,
    /// A range in the middle of the object reads back.
    RangedRead,
    /// A second put of the name is refused, and changes nothing.
    RefusesOverwrite,
    /// The object can be deleted, and is then gone.
    Delete,
}
