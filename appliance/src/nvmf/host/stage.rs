//! Where in the stream of the controller a queue is.

/// The data PDU that is being received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) command_id: u16,
    /// Where the PDU's data begins in the command's buffer.
    pub(super) first: u32,
    /// Where the next byte goes.
    pub(super) at: u32,
    /// Where the PDU's data ends.
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
