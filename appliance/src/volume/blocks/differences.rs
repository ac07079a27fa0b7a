//! The last difference of two points, so that its pages are not computed again.
//!
//! **Invariant:** what is kept never becomes wrong: both points are fixed positions of the log, and
//! the state there does not change. **Bound:** [`RANGES_MAX`] ranges of 24 bytes. When its last
//! page was read, the difference is forgotten.

use std::rc::Rc;

use uuid::Uuid;

use super::info::{DiffKind, DiffRange};

/// The most ranges that are kept; a longer difference is computed again for those after them.
pub(super) const RANGES_MAX: usize = 1 << 20;

/// Which difference: UUID and position of both ends, and the first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) struct DiffKey {
    pub(super) from: (Uuid, u64),
    pub(super) to: (Uuid, u64),
}

/// A difference from a block on.
#[derive(Debug, Default)]
pub(in crate::volume) struct Difference {
    /// The block that it begins with.
    pub(super) first_block: u64,
    /// The ranges, in order, at most [`RANGES_MAX`].
    pub(super) ranges: Vec<DiffRange>,
    /// The block of the first range that is not kept.
    pub(super) next_block: Option<u64>,
    /// Blocks with other contents.
    pub(super) written_blocks: u64,
    /// Blocks that have lost their contents.
    pub(super) unmapped_blocks: u64,
}

impl Difference {
    /// A difference that begins with a block.
    pub(super) fn from_block(first_block: u64) -> Self {
        Difference { first_block, ..Difference::default() }
    }

    /// Adds a block behind all others.
    pub(super) fn add(&mut self, block: u64, kind: DiffKind) {
        match kind {
            DiffKind::Written => self.written_blocks += 1,
            DiffKind::Unmapped => self.unmapped_blocks += 1,
        }
        if self.next_block.is_some() {
            return;
        }
        let is_full = self.ranges.len() == RANGES_MAX;
        match self.ranges.last_mut() {
            Some(last) if last.kind == kind && last.block + last.blocks == block => last.blocks += 1,
            _ if is_full => self.next_block = Some(block),
            _ => self.ranges.push(DiffRange { block, blocks: 1, kind }),
        }
    }

    /// The ranges from a block on.
    pub(super) fn from(&self, block: u64) -> &[DiffRange] {
        let start = self.ranges.partition_point(|range| range.block + range.blocks <= block);
        &self.ranges[start..]
    }

    /// Whether it has what follows a block.
    fn has(&self, block: u64) -> bool {
        block >= self.first_block && self.next_block.is_none_or(|next| block < next)
    }
}

/// The last difference. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Differences {
    last: Option<(DiffKey, Rc<Difference>)>,
}

impl Differences {
    /// The last difference, if it is this one and has what follows the block.
    pub(super) fn get(&self, key: &DiffKey, block: u64) -> Option<Rc<Difference>> {
        let (_, difference) =
            self.last.as_ref().filter(|(known, difference)| known == key && difference.has(block))?;
        Some(Rc::clone(difference))
    }

    /// Keeps a difference; the one before is forgotten.
    pub(super) fn keep(&mut self, key: DiffKey, difference: Rc<Difference>) {
        self.last = Some((key, difference));
    }

    /// Forgets the difference.
    pub(super) fn forget(&mut self, key: &DiffKey) {
        if self.last.as_ref().is_some_and(|(known, _)| known == key) {
            self.last = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(from_lsn: u64) -> DiffKey {
        DiffKey { from: (Uuid::nil(), from_lsn), to: (Uuid::nil(), 9) }
    }

    #[test]
    fn neighbours_of_one_kind_are_one_range() {
        let mut difference = Difference::from_block(0);
        for (block, kind) in [
            (1, DiffKind::Written),
            (2, DiffKind::Written),
            (3, DiffKind::Unmapped),
            (5, DiffKind::Unmapped),
            (6, DiffKind::Unmapped),
        ] {
            difference.add(block, kind);
        }
        let ranges: Vec<(u64, u64)> =
            difference.ranges.iter().map(|range| (range.block, range.blocks)).collect();
        assert_eq!(ranges, [(1, 2), (3, 1), (5, 2)]);
        assert_eq!((difference.written_blocks, difference.unmapped_blocks), (2, 3));
        let from = |block: u64| difference.from(block).len();
        assert_eq!([0, 2, 3, 4, 6, 7].map(from), [3, 3, 2, 1, 1, 0]);
    }

    /// A difference with more ranges than are kept is counted to its end, and continued from there.
    #[test]
    fn a_long_difference_is_cut_and_says_where() {
        let mut difference = Difference::from_block(0);
        let blocks = RANGES_MAX as u64 + 3;
        (0..blocks).for_each(|at| difference.add(2 * at, DiffKind::Written));
        assert_eq!(difference.ranges.len(), RANGES_MAX);
        let next = 2 * RANGES_MAX as u64;
        assert_eq!((difference.written_blocks, difference.next_block), (blocks, Some(next)));
        let mut kept = Differences::default();
        kept.keep(key(1), Rc::new(difference));
        assert!(kept.get(&key(1), next - 1).is_some() && kept.get(&key(1), 0).is_some());
        assert!(kept.get(&key(1), next).is_none() && kept.get(&key(2), 0).is_none());
        kept.forget(&key(2));
        assert!(kept.get(&key(1), 0).is_some());
        kept.forget(&key(1));
        assert!(kept.get(&key(1), 0).is_none());
    }
}
