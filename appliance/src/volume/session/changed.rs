//! The blocks that a step changed, as a list of bounded length: beyond it, blocks are joined to
//! ever larger pieces. What is listed may be the same; what is not listed is the same.

use std::collections::BTreeSet;

/// The maximum number of pieces.
const PIECES_MAX: usize = 4096;
/// By how many bits a piece grows when there are too many.
const GROW_BITS: u32 = 2;

/// The blocks.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// A piece has two to the power of this many blocks.
    bits: u32,
    pieces: BTreeSet<u64>,
}

impl Changed {
    /// Adds a block.
    pub(super) fn add(&mut self, block: u64) {
        self.pieces.insert(block >> self.bits);
        while self.pieces.len() > PIECES_MAX {
            self.bits += GROW_BITS;
            self.pieces = self.pieces.iter().map(|piece| piece >> GROW_BITS).collect();
        }
    }

    /// The ranges within `size_blocks`, in order: first block and length.
    pub(super) fn ranges(&self, size_blocks: u64) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for piece in &self.pieces {
            let start = piece << self.bits;
            let end = (start + (1 << self.bits)).min(size_blocks);
            match ranges.last_mut() {
                _ if start >= end => {}
                Some((first, len)) if *first + *len == start => *len += end - start,
                _ => ranges.push((start, end - start)),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_block_is_in_a_range_and_there_are_few(
            blocks in proptest::collection::vec(prop_oneof![0_u64..100, 0_u64..1 << 24], 0..9000),
        ) {
            let mut changed = Changed::default();
            for &block in &blocks {
                changed.add(block);
            }
            let size_blocks = (1 << 24) - 7;
            let ranges = changed.ranges(size_blocks);
            prop_assert!(ranges.len() <= PIECES_MAX);
            prop_assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0));
            prop_assert!(ranges.iter().all(|&(start, len)| len > 0 && start + len <= size_blocks));
            for block in blocks.into_iter().filter(|block| *block < size_blocks) {
                let at = ranges.partition_point(|&(start, _)| start <= block);
                prop_assert!(at > 0 && block < ranges[at - 1].0 + ranges[at - 1].1);
            }
        }
    }

    #[test]
    fn few_blocks_are_exact() {
        let mut changed = Changed::default();
        for block in [7, 5, 6, 100] {
            changed.add(block);
        }
        assert_eq!(changed.ranges(1000), [(5, 3), (100, 1)]);
        assert_eq!(changed.ranges(7), [(5, 2)]);
    }
}
