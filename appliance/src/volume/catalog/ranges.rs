//! Lists of ranges of the log that grow by themselves.
//!
//! **Invariant:** a list is in order, adjacent ranges are joined, and it has a bound: beyond it the
//! nearest ranges are joined, with everything between them.

use crate::log::reader::LsnRange;

/// Adds a range to a list: in order, adjacent ranges joined, and at most `max`.
pub(super) fn add_range(ranges: &mut Vec<LsnRange>, range: LsnRange, max: usize) {
    ranges.push(range);
    join_ranges(ranges, max);
}

/// Joins adjacent ranges, and then the nearest ones until there are at most `max`, at least one.
pub(super) fn join_ranges(ranges: &mut Vec<LsnRange>, max: usize) {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<LsnRange> = Vec::with_capacity(ranges.len());
    for range in ranges.drain(..) {
        match joined.last_mut().filter(|last| range.start <= last.end) {
            Some(last) => last.end = last.end.max(range.end),
            None => joined.push(range),
        }
    }
    while joined.len() > max.max(1) {
        let between = |at: &usize| joined[at + 1].start.0 - joined[*at].end.0;
        let Some(nearest) = (0..joined.len() - 1).min_by_key(between) else { break };
        let next = joined.remove(nearest + 1);
        joined[nearest].end = next.end;
    }
    *ranges = joined;
}
