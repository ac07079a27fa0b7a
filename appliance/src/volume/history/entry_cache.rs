//! A few segments' entries, kept while somebody moves along the log: neighbouring steps read the
//! same segments.
//!
//! **Bounds:** [`CACHE_SEGMENTS`] segments, at most 6.0 MiB each and usually 400 KiB.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::log::{Lsn, SegmentSeq};
use crate::volume::history::known_content::Known;

/// How many segments are kept.
const CACHE_SEGMENTS: usize = 8;

/// A segment's entries, as they were when they were loaded.
pub(in crate::volume) struct Cached {
    pub(in crate::volume) sequence: SegmentSeq,
    pub(in crate::volume) known: Rc<Known>,
    /// Whether nothing can have been appended to the segment since.
    pub(in crate::volume) is_closed: bool,
}

/// The segments that were used last, newest use first.
#[derive(Default)]
pub(in crate::volume) struct EntryCache {
    segments: VecDeque<Cached>,
    loads: u64,
}

impl EntryCache {
    /// How many segments were loaded so far.
    pub(in crate::volume) fn loads(&self) -> u64 {
        self.loads
    }

    /// The entries of a segment, if they are here with everything at or before `up_to`.
    pub(in crate::volume) fn find(&mut self, sequence: SegmentSeq, up_to: Lsn) -> Option<Rc<Known>> {
        let at = self.segments.iter().position(|cached| cached.sequence == sequence)?;
        let cached = self.segments.remove(at)?;
        let is_enough = cached.is_closed || cached.known.entries.end_lsn() > up_to;
        is_enough.then(|| self.put(cached))
    }

    /// Keeps the entries of a segment that were just loaded.
    pub(in crate::volume) fn keep(&mut self, cached: Cached) -> Rc<Known> {
        self.loads += 1;
        self.put(cached)
    }

    fn put(&mut self, cached: Cached) -> Rc<Known> {
        self.segments.truncate(CACHE_SEGMENTS - 1);
        let known = Rc::clone(&cached.known);
        self.segments.push_front(cached);
        known
    }
}
