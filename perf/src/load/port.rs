//! The interface to what is loaded: it takes commands, and completes them when it is polled.

use std::time::Duration;

use bytes::Bytes;

use super::aim::Kind;
use crate::error::PerfError;

/// A command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command<'a> {
    /// Returned with the completion.
    pub(super) tag: u32,
    pub(super) kind: Kind,
    /// First block.
    pub(super) block: u64,
    pub(super) len_blocks: u32,
    /// What is written; empty for other kinds.
    pub(super) data: Data<'a>,
}

/// What a command writes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Data<'a> {
    /// Must be copied before `submit` returns.
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
    /// What was read, empty for other kinds; or how it failed.
    pub(super) result: Result<&'a [u8], String>,
}

/// One connection to the target of the load.
pub(super) trait Port {
    /// Submits a command; `false`: there is no room now, try again after a poll.
    ///
    /// # Errors
    /// The connection is lost, or the device refuses the command.
    fn submit(&mut self, command: Command<'_>) -> Result<bool, PerfError>;

    /// Makes progress, passes completed commands to `done` and returns how many there were. If
    /// there are none, it keeps polling for up to `spin`.
    ///
    /// # Errors
    /// The connection is lost.
    fn poll(&mut self, spin: Duration, done: &mut dyn FnMut(Done<'_>)) -> Result<usize, PerfError>;

    /// Commands that were submitted and have not completed.
    fn in_flight(&self) -> usize;
}
