//! What jobs that read the archive back ask the pool, and tell it.

use super::error::ManageError;
use crate::archive::anchor::AnchorId;
use crate::archive::object::ObjectId;
use crate::volume::KnownAnchor;

/// Receives the findings for the pool, on whatever thread it runs.
pub trait Learner {
    /// Reports objects that are missing, and objects that are damaged.
    ///
    /// # Errors
    /// The pool does not answer.
    fn learn(&self, missing: &[ObjectId], damaged: &[ObjectId]) -> Result<(), ManageError>;

    /// Lists the anchors that should be in the store.
    ///
    /// # Errors
    /// The pool is not open, or does not answer.
    fn anchors(&self) -> Result<Vec<KnownAnchor>, ManageError>;

    /// Reports an anchor that is damaged, or lacks a part: it is deleted. Returns whether the pool
    /// still had it.
    ///
    /// # Errors
    /// The pool is not open, or does not answer.
    fn learn_useless_anchor(&self, id: &AnchorId) -> Result<bool, ManageError>;
}

/// Reports an anchor that is of no use. Returns whether that is a finding: one that the pool has
/// deleted while it was read is none.
pub(super) fn tell_useless(learner: &dyn Learner, id: &AnchorId) -> bool {
    learner.learn_useless_anchor(id).unwrap_or_else(|error| {
        tracing::warn!(%error, "the pool could not be told that an anchor is damaged; it finds out when it uses it");
        true
    })
}
