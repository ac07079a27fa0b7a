//! The catalog with which every new segment begins: the source of its text, and the maximum length.
//!
//! **Invariant.** The maximum length was checked against the size of a segment before it was set,
//! so room for the catalog can be kept in every segment.

use std::rc::Rc;

use crate::dma::BLOCK_BYTES;
use crate::log::writer::interface::SegmentCatalog;

/// The catalog. See the module's documentation.
#[derive(Default)]
pub(in crate::log) struct CatalogText {
    source: Option<Rc<dyn SegmentCatalog>>,
    bytes_max: usize,
}

impl CatalogText {
    /// Sets the source of the text, which is at most `bytes_max` long.
    pub(in crate::log) fn set(&mut self, source: Rc<dyn SegmentCatalog>, bytes_max: usize) {
        (self.source, self.bytes_max) = (Some(source), bytes_max);
    }

    /// The source of the text.
    pub(in crate::log) fn source(&self) -> Option<Rc<dyn SegmentCatalog>> {
        self.source.clone()
    }

    /// The maximum length of the text, in bytes.
    pub(in crate::log) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// The maximum number of blocks that both copies of the text take.
    pub(in crate::log) fn blocks_max(&self) -> u64 {
        2 * self.bytes_max.div_ceil(BLOCK_BYTES) as u64
    }
}
