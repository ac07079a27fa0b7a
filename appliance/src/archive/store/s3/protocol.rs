//! Bounds of the protocol, and the metadata of our objects.

/// The metadata that says which put made an object.
pub(super) const PUT_ID: &str = "varve-put";
/// The metadata with the BLAKE3 of an object's bytes, in hexadecimal.
pub(super) const DIGEST: &str = "varve-blake3";
/// The most parts of an upload, of the protocol.
pub(super) const PARTS_MAX: usize = 10_000;
