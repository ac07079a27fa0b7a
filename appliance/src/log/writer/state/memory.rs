//! The memory for records: one chunk at a time, so that the blocks of a record are adjacent and go
//! to the device in one piece.
//!
//! **Invariant.** After [`RecordMemory::ensure`] that many blocks can be taken without a failure.

use crate::dma::{BLOCK_BYTES, DmaBufMut, DmaPool};
use crate::log::writer::interface::AppendError;

/// Size of a chunk.
const CHUNK_BYTES: usize = 1 << 20;

/// The memory. See the module's documentation.
#[derive(Default)]
pub(in crate::log) struct RecordMemory {
    chunk: Option<DmaBufMut>,
}

impl RecordMemory {
    /// Makes sure that `blocks` adjacent blocks can be taken.
    ///
    /// # Errors
    /// [`AppendError::Busy`]: there is no memory now.
    pub(in crate::log) fn ensure(&mut self, dma: &DmaPool, blocks: usize) -> Result<(), AppendError> {
        debug_assert!(blocks * BLOCK_BYTES <= CHUNK_BYTES);
        if self.chunk.as_ref().is_some_and(|chunk| chunk.len() >= blocks * BLOCK_BYTES) {
            return Ok(());
        }
        self.chunk = Some(dma.allocate(CHUNK_BYTES).map_err(|_| AppendError::Busy)?);
        Ok(())
    }

    /// Takes a block.
    ///
    /// # Panics
    /// If it was not ensured.
    pub(in crate::log) fn take_block(&mut self) -> DmaBufMut {
        self.chunk.as_mut().expect("memory was ensured").split_to(BLOCK_BYTES)
    }
}
