//! Lengths of the working set, and the segments that points need because of them (R12, R13).
//!
//! Let segment k be opened under W(k): the log opened it when every segment before k-W(k) was
//! inactive. So at a point in k all live data is in the segments from k-W(k) on. Inactive segments
//! stay inactive, so the live data is also in the segments from j-W(j) on, for every j before k.
//! Hence a point in k needs the segments from the greatest of all j-W(j) on, and no others:
//! [`reach`]. That is W+1 segments while W does not change. After growing from W1 to W2 at segment
//! s it is W1+2 segments in s, one more in each segment after it, and finally W2+1: never a segment
//! that nothing needed before, and that may have been discarded or expired since. After shrinking
//! at s it is W2+1 segments from s on, because the change takes effect only once that is true.
//!
//! **Bounds:** [`CHANGES_MAX`] changes are remembered.

use crate::log::SegmentSeq;

/// The maximum number of changes that are remembered. Beyond that the two oldest are merged into
/// one with the longer length.
const CHANGES_MAX: usize = 128;

/// How many segments before its own a point in `sequence` needs; `None` if no length was in force
/// there. See the module's documentation.
pub(in crate::volume) fn reach(changes: &[(SegmentSeq, u64)], sequence: SegmentSeq) -> Option<u64> {
    let in_force = changes.iter().enumerate().take_while(|(_, (since, _))| *since <= sequence);
    let oldest = in_force.filter_map(|(index, &(since, segments))| {
        // The last segment that was opened under it, so far.
        let last =
            changes.get(index + 1).map_or(sequence.0, |next| sequence.0.min(next.0.0.saturating_sub(1)));
        (last >= since.0).then(|| last.saturating_sub(segments))
    });
    oldest.max().map(|oldest| sequence.0 - oldest)
}

/// What [`reach`] never exceeds, for any segment; 0 if no length was ever recorded.
pub(in crate::volume) fn longest_reach(changes: &[(SegmentSeq, u64)]) -> u64 {
    changes.iter().map(|&(_, segments)| segments).max().unwrap_or(0)
}

/// Adds a change to a list: the working set has `segments` segments from segment `from` on, and
/// `before` until then if nothing is in the list.
pub(super) fn add_change(changes: &mut Vec<(SegmentSeq, u64)>, before: u64, from: SegmentSeq, segments: u64) {
    if changes.is_empty() {
        changes.push((SegmentSeq(0), before));
    }
    changes.retain(|(since, _)| *since < from);
    changes.push((from, segments));
    if changes.len() > CHANGES_MAX {
        let (since, segments) = changes.remove(0);
        let next = &mut changes[0];
        *next = (since, segments.max(next.1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::catalog::Catalog;

    const fn change(from: u64, segments: u64) -> (SegmentSeq, u64) {
        (SegmentSeq(from), segments)
    }

    #[test]
    fn a_point_needs_what_was_live_then() {
        let reaches = |changes: &[(SegmentSeq, u64)], range: std::ops::Range<u64>| -> Vec<u64> {
            range.filter_map(|sequence| reach(changes, SegmentSeq(sequence))).collect()
        };
        assert_eq!((reach(&[], SegmentSeq(9)), longest_reach(&[])), (None, 0));
        assert_eq!(longest_reach(&[change(0, 3), change(10, 6), change(11, 4)]), 6);
        assert_eq!(reaches(&[change(0, 3)], 0..6), [0, 1, 2, 3, 3, 3]);
        // Longer: one more segment for each new segment. Shorter: at once.
        assert_eq!(reaches(&[change(0, 3), change(10, 6)], 8..15), [3, 3, 4, 5, 6, 6, 6]);
        assert_eq!(reaches(&[change(0, 6), change(10, 3)], 8..12), [6, 6, 3, 3]);
        // Longer, and shorter again before it had grown; and a length that was replaced before it
        // was in force.
        assert_eq!(reaches(&[change(0, 3), change(10, 6), change(11, 4)], 9..14), [3, 4, 4, 4, 4]);
        assert_eq!(reaches(&[change(0, 9), change(0, 3)], 10..12), [3, 3]);
    }

    #[test]
    fn only_so_many_changes_are_remembered() {
        let mut catalog = Catalog::default();
        for sequence in 1..1000 {
            catalog.change_working_set(7, SegmentSeq(10 * sequence), 3 + sequence % 5);
        }
        assert_eq!(catalog.working_sets.len(), CHANGES_MAX);
        assert_eq!(catalog.working_sets[0], change(0, 7));
        assert_eq!(catalog.working_sets[CHANGES_MAX - 1], change(9990, 3 + 999 % 5));
        catalog.change_working_set(0, SegmentSeq(9990), 2);
        assert_eq!(catalog.working_sets.last(), Some(&change(9990, 2)));
    }
}
