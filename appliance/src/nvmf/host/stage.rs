//! The position of a queue in the controller's byte stream.

/// The data PDU that is being received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) command_id: u16,
    /// Start of the PDU's data in the command's buffer.
    pub(super) first: u32,
    /// Position of the next byte.
    pub(super) at: u32,
    /// End of the PDU's data.
    pub(super) end: u32,
    /// A digest follows.
    pub(super) digest: bool,
    /// FLAGS of the PDU.
    pub(super) flags: u8,
}

/// What the next byte of the stream belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A header.
    Header,
    /// Data.
    Data(Incoming),
    /// A data digest.
    Digest(Incoming),
}
