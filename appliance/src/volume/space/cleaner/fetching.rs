//! Reads the blocks of a batch that the device cannot read from the archive, so that a block with
//! another copy does not become a permanent error.
//!
//! **Bounds:** one block at a time; adjacent blocks come from the archive's cache. A batch waits at
//! most [`WAIT_NS`] in total for the archive, because hosts' writes may wait for the batch.

use std::task::{Context, Poll, Waker};

use crate::dma::BLOCK_BYTES;
use crate::log::Log;
use crate::volume::archiving::{Archive, BlockAnswer};
use crate::volume::space::copies::Batch;

/// How long a batch waits for the archive.
const WAIT_NS: u64 = 5_000_000_000;

/// A batch in progress.
pub(super) struct Fetching {
    batch: Batch,
    /// The block that is being processed.
    next: usize,
    asked: Option<BlockAnswer>,
    /// Its bytes, while there is no memory for them.
    came: Option<Vec<u8>>,
    until_ns: Option<u64>,
}

impl Fetching {
    /// Starts with a batch that was read.
    pub(super) fn new(batch: Batch) -> Self {
        Fetching { batch, next: 0, asked: None, came: None, until_ns: None }
    }

    /// The batch, with the blocks that were read.
    pub(super) fn take(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }

    /// Continues as far as possible without waiting. Returns whether it is finished.
    pub(super) fn go_on(&mut self, archive: Option<&mut Archive>, log: &Log) -> bool {
        let Some(archive) = archive else { return true };
        while let Some((source, data)) = self.batch.get_mut(self.next) {
            source.is_checked |= data.as_ref().is_some_and(|data| source.is_of(data));
            if source.bad || source.is_checked {
                self.next += 1;
                continue;
            }
            let now_ns = log.environment().clock.monotonic_ns();
            let is_late = now_ns >= *self.until_ns.get_or_insert(now_ns + WAIT_NS);
            if self.came.is_none() {
                let (sequence, lsn) = (log.geometry().sequence_of(source.lsn), source.lsn);
                let asked = self.asked.get_or_insert_with(|| archive.ask_block(sequence, lsn));
                match asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Pending if !is_late => return false,
                    Poll::Pending => {}
                    Poll::Ready(bytes) => self.came = bytes.filter(|bytes| source.is_of(bytes)),
                }
                self.asked = None;
            }
            if let Some(bytes) = &self.came {
                match log.environment().dma.allocate(BLOCK_BYTES) {
                    Ok(mut buffer) => {
                        buffer.as_mut_slice().copy_from_slice(bytes);
                        (*data, source.is_checked) = (Some(buffer.freeze()), true);
                    }
                    Err(_) if !is_late => return false,
                    Err(_) => {}
                }
                self.came = None;
            }
            self.next += 1;
        }
        true
    }
}
