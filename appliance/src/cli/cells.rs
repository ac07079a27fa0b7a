//! Amounts as cells of a table.

use crate::dma::BLOCK_BYTES;
use crate::text::units::SizeBytes;

pub(super) fn size(bytes: u64) -> String {
    SizeBytes(bytes).to_string()
}

pub(super) fn blocks(count: u64) -> String {
    size(count.saturating_mul(BLOCK_BYTES as u64))
}
