//! How many blocks of an index are in each segment.
//!
//! **Cost:** one step for each mapping, most of them an addition to a counter in a list:
//! neighbouring blocks of a large volume are in segments all over the working set. The reactor runs
//! other work between pieces of [`LEAVES_PER_TURN`] leaves.

use std::collections::BTreeMap;

use crate::log::SegmentSeq;
use crate::reactor::yield_now;
use crate::volume::image::index::Index;

/// How many leaves of an index, of 512 blocks each, are counted in one turn.
const LEAVES_PER_TURN: usize = 128;
/// The most segments whose counters are in the list, from the newest one back.
const LISTED_MAX: u64 = 1 << 20;

/// How many blocks of an index are in each segment.
pub(in crate::volume) type Census = BTreeMap<SegmentSeq, u64>;

/// An index whose blocks may have to stay on the primary device, with its census if it was taken.
pub(in crate::volume) type CountedIndex = (Index, Option<Census>);

/// Counts the blocks of an index in each segment, in pieces. `segment_blocks` is a power of two,
/// and `newest` the newest segment.
pub(in crate::volume) async fn census(index: &Index, segment_blocks: u64, newest: SegmentSeq) -> Census {
    let shift = segment_blocks.trailing_zeros();
    let first = (newest.0 + 1).saturating_sub(LISTED_MAX);
    let mut listed = vec![0_u64; (newest.0 + 1 - first) as usize];
    let mut census = Census::new();
    let mut next = Some(0);
    while let Some(from) = next {
        next = index.leaves_from(from, LEAVES_PER_TURN, |_, mappings| {
            for &raw in mappings.iter().filter(|&&raw| raw != 0) {
                // A mapping is a position and 16 bits of a checksum.
                let sequence = (raw >> 16) >> shift;
                match sequence.checked_sub(first).and_then(|at| listed.get_mut(at as usize)) {
                    Some(count) => *count += 1,
                    None => *census.entry(SegmentSeq(sequence)).or_default() += 1,
                }
            }
        });
        yield_now().await;
    }
    let counted = (first..).map(SegmentSeq).zip(listed).filter(|&(_, count)| count > 0);
    census.extend(counted);
    census
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Lsn;
    use crate::reactor::block_on;
    use crate::volume::image::index::Mapping;

    #[test]
    fn blocks_are_counted_in_their_segments() {
        let mut index = Index::new(1 << 20);
        for (block, lsn) in [(0, 256), (1, 511), (9999, 512), (77_777, 5000)] {
            index.set(block, Mapping::new(Lsn(lsn), 0xabcd_ef01));
        }
        let counted = |newest| {
            let index = index.clone();
            block_on(async move { census(&index, 256, SegmentSeq(newest)).await }, || {})
        };
        let expected: Census = [(1, 2), (2, 1), (19, 1)].map(|(at, count)| (SegmentSeq(at), count)).into();
        assert_eq!(counted(19), expected);
        // A position that is newer than the log is counted too.
        assert_eq!(counted(3), expected);
    }
}
