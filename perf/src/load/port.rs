//! What a load is put on: something that takes commands and completes them when it is polled.

use std::time::Duration;

use bytes::Bytes;

use super::aim::Kind;
use crate::error::PerfError;

/// A command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command<'a> {
    /// Comes back with the completion.
    pub(super) tag: u32,
    pub(super) kind: Kind,
    /// First block.
    pub(super) block: u64,
    pub(super) len_blocks: u32,
    /// What is written; empty for all else.
    pub(super) data: Data<'a>,
}

/// What a command writes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Data<'a> {
    /// To be taken before the command is handed over.
    Borrowed(&'a [u8]),
    /// May be shared.
    Shared(&'a Bytes),
}

impl<'a> Data<'a> {
    pub(super) fn bytes(self) -> &'a [u8] {
        match self {
            Data::Borrowed(bytes) => bytes,
            Data::Shared(bytes) => bytes,
        }
    }
}

/// A completed command.
pub(super) struct Done<'a> {
    pub(super) tag: u32,
    /// What was read, empty for all else; or how it failed.
    pub(super) result: Result<&'a [u8], String>,
}

/// One connection to what is loaded.
pub(super) trait Port {
    /// Hands a command over; `false`: there is no room now, try again after a poll.
    ///
    /// # Errors
    /// When the connection is lost or the device refuses it.
    fn submit(&mut self, command: Command<'_>) -> Result<bool, PerfError>;

    /// Moves everything on and hands over what has completed; how many that were. Without any, goes on looking for up to `spin`.
    ///
    /// # Errors
    /// When the connection is lost.
    fn poll(&mut self, spin: Duration, done: &mut dyn FnMut(Done<'_>)) -> Result<usize, PerfError>;

    /// Commands that were submitted and have not completed.
    fn in_flight(&self) -> usize;
}
