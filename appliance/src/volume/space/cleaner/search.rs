//! Finds live blocks without their entries: searches the indexes for mappings into ranges of the
//! log without known records.
//!
//! **Bounds:** [`LEAVES_PER_TURN`] leaves of one index in a turn. Changes during the search need no
//! special handling: new mappings never point into these ranges, and each result is checked again
//! before it is copied. The exception is a clone of the past that keeps what it inherits; because
//! of such clones the segment is searched again.

use crate::log::reader::LsnRange;
use crate::volume::image::volumes::Volumes;
use crate::volume::space::copies::Source;

/// How many leaves of an index, of 512 blocks each, are searched in one turn.
const LEAVES_PER_TURN: usize = 64;

/// A search in progress.
pub(super) struct Search {
    /// In order.
    unknown: Vec<LsnRange>,
    /// The volume, by its number in their order, and the block to continue with.
    volume: u64,
    block: u64,
    found: Vec<Source>,
}

impl Search {
    /// Starts a search in these ranges, which are in order.
    pub(super) fn new(unknown: Vec<LsnRange>) -> Self {
        Search { unknown, volume: 0, block: 0, found: Vec::new() }
    }

    /// One turn. Returns whether the search is finished.
    pub(super) fn go_on(&mut self, volumes: &Volumes) -> bool {
        let Some((number, volume)) = volumes.next_from(self.volume) else { return true };
        if number > self.volume {
            // The one before was deleted.
            (self.volume, self.block) = (number, 0);
        }
        let next = volume.own_index().visit_some(self.block, LEAVES_PER_TURN, |block, mapping| {
            let lsn = mapping.lsn();
            let behind = self.unknown.partition_point(|range| range.end <= lsn);
            let is_unknown = self.unknown.get(behind).is_some_and(|range| range.start <= lsn);
            if is_unknown && lsn > volume.resident_above() {
                self.found.push(Source::of_index(volume.image(), block, mapping));
            }
        });
        if let Some(block) = next {
            self.block = block;
        } else {
            (self.volume, self.block) = (number + 1, 0);
        }
        volumes.next_from(self.volume).is_none()
    }

    /// The results, last one first.
    pub(super) fn take(&mut self) -> Vec<Source> {
        let mut found = std::mem::take(&mut self.found);
        found.sort_unstable_by_key(|source| std::cmp::Reverse(source.lsn));
        found
    }
}
