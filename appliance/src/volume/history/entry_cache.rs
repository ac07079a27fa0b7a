//! A few segments' entries, kept while somebody moves along the log: neighbouring steps read the
//! same segments.
//!
//! **Bounds:** [`CACHE_SEGMENTS`] segments, at most 6.0 MiB each and usually 400 KiB.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::log::{Lsn, SegmentSeq};
use crate::volume::error::VolumeError;
use crate::volume::history::known::Known;
use crate::volume::pool::Pool;

/// How many segments are kept.
const CACHE_SEGMENTS: usize = 8;

/// A segment's entries, as they were when they were loaded.
struct Cached {
    sequence: SegmentSeq,
    known: Rc<Known>,
    /// Whether nothing can be appended to the segment since.
    is_closed: bool,
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

    fn take(&mut self, sequence: SegmentSeq) -> Option<Cached> {
        let at = self.segments.iter().position(|cached| cached.sequence == sequence)?;
        self.segments.remove(at)
    }

    fn keep(&mut self, cached: Cached) -> Rc<Known> {
        self.segments.truncate(CACHE_SEGMENTS - 1);
        let known = Rc::clone(&cached.known);
        self.segments.push_front(cached);
        known
    }
}

impl Pool {
    /// The known content of a segment, with everything at or before `up_to` that is in the log.
    ///
    /// # Errors
    /// As [`known_of`](Self::known_of).
    pub(in crate::volume) async fn cached_known(
        &self,
        cache: &mut EntryCache,
        sequence: SegmentSeq,
        up_to: Lsn,
    ) -> Result<Rc<Known>, VolumeError> {
        let is_enough = |cached: &Cached| cached.is_closed || cached.known.entries.end_lsn() > up_to;
        if let Some(cached) = cache.take(sequence).filter(is_enough) {
            return Ok(cache.keep(cached));
        }
        let is_closed = self.log.borrow().table().next_sequence() > sequence.next();
        cache.loads += 1;
        let known = Rc::new(self.known_of(sequence).await?);
        Ok(cache.keep(Cached { sequence, known, is_closed }))
    }
}
