//! The interface to the device: sends commands with tags, and maps completions back by tag.
//!
//! A tag has a kind in its upper byte and a value in the 56 bits below: the number of a record, the
//! name of a piece of a trailer, or the token of a reader.
//!
//! **Invariant.** Every command of the log goes through here, so every completion has a known kind.
//! Commands of tasks ([`crate::log::read`]) are awaited and do not use it.

use smallvec::smallvec;

use crate::bdev::{BdevError, Command, Completion, Operation, SharedBdev};
use crate::dma::DmaBufMut;
use crate::log::writer::interface::ReadDone;

const KIND_SHIFT: u32 = 56;
const RECORD: u64 = 1;
const READ: u64 = 2;
const TRAILER: u64 = 3;
const FLUSH: u64 = 4;

/// The interface to the device. See the module's documentation.
pub(in crate::log) struct DevicePort {
    device: SharedBdev,
    /// Empty; kept for the next turn.
    completions: Vec<Completion>,
}

/// A completion of the device.
pub(in crate::log) enum DeviceAnswer {
    /// A read for the volume layer.
    Read(ReadDone),
    /// The write of the record with this number.
    Record(u64, Result<(), BdevError>),
    /// The write of the piece of a trailer with this name.
    Trailer(u64, Result<(), BdevError>),
    /// A flush.
    Flush(Result<(), BdevError>),
}

impl DevicePort {
    /// An interface to this device.
    pub(in crate::log) fn new(device: SharedBdev) -> Self {
        DevicePort { device, completions: Vec::new() }
    }

    /// The device.
    pub(in crate::log) fn device(&self) -> &SharedBdev {
        &self.device
    }

    /// Writes a record.
    pub(in crate::log) fn submit_record(&self, number: u64, operation: Operation) {
        self.submit(RECORD, number, operation);
    }

    /// Writes a piece of a trailer.
    pub(in crate::log) fn submit_trailer(&self, piece: u64, operation: Operation) {
        self.submit(TRAILER, piece, operation);
    }

    /// Flushes the device.
    pub(in crate::log) fn submit_flush(&self) {
        self.submit(FLUSH, 0, Operation::Flush);
    }

    /// Reads `buffer.len()` bytes from a device block on.
    pub(in crate::log) fn submit_read(&self, block: u64, buffer: DmaBufMut, token: u64) {
        self.submit(READ, token, Operation::Read { block, buffers: smallvec![buffer] });
    }

    #[inline]
    fn submit(&self, kind: u64, value: u64, operation: Operation) {
        debug_assert!(value < 1 << KIND_SHIFT, "the kind of a command is not overwritten");
        self.device.queue().submit(Command { tag: kind << KIND_SHIFT | value, operation });
    }

    /// Polls the device. Returns how much was done and the completions, in a list that the caller
    /// returns with [`give_back`](Self::give_back).
    #[inline]
    pub(in crate::log) fn poll(&mut self) -> (usize, Vec<Completion>) {
        let mut completions = std::mem::take(&mut self.completions);
        debug_assert!(completions.is_empty());
        (self.device.queue().poll(&mut completions), completions)
    }

    /// Takes back the emptied list of [`poll`](Self::poll), so that the next turn needs no memory.
    pub(in crate::log) fn give_back(&mut self, completions: Vec<Completion>) {
        debug_assert!(completions.is_empty());
        self.completions = completions;
    }
}

impl DeviceAnswer {
    /// Decodes a completion.
    ///
    /// # Panics
    /// On a tag that the log has not assigned, or a read without its buffer.
    #[inline]
    pub(in crate::log) fn of(completion: Completion) -> Self {
        let Completion { tag, result, mut buffers } = completion;
        let value = tag & ((1 << KIND_SHIFT) - 1);
        match tag >> KIND_SHIFT {
            READ => {
                let buffer = buffers.pop().expect("a read gives its buffer back");
                DeviceAnswer::Read(ReadDone { token: value, buffer, result })
            }
            RECORD => DeviceAnswer::Record(value, result),
            TRAILER => DeviceAnswer::Trailer(value, result),
            FLUSH => DeviceAnswer::Flush(result),
            kind => unreachable!("a completion with tag kind {kind}"),
        }
    }
}
