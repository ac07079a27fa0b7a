//! The namespace that commands address.

/// The namespace that a queue's I/O commands address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// NSID.
    pub nsid: u32,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// NSZE.
    pub size_blocks: u64,
}
