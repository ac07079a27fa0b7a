//! Bounds of the protocol, and the metadata of varve's objects.

/// The metadata key that identifies the put that made an object.
pub(super) const PUT_ID: &str = "varve-put";
/// The metadata key for the BLAKE3 of an object's bytes, in hexadecimal.
pub(super) const DIGEST: &str = "varve-blake3";
/// The most parts of an upload that the protocol allows.
pub(super) const PARTS_MAX: usize = 10_000;
