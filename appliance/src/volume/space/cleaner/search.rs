//! Finding live blocks without their entries: the indexes are looked through for what points into
//! stretches of the log of which no record is known.
//!
//! **Bounds:** [`LEAVES_PER_TURN`] leaves of one index in a turn. What changes meanwhile needs no
//! care: nothing new comes to point there, and what was found is looked up again before it is
//! copied; but for a clone of the past that keeps what it inherits, for whose sake the segment is
//! gone through again.

use crate::log::reader::LsnRange;
use crate::volume::image::volumes::Volumes;
use crate::volume::space::copies::Source;

/// Leaves of an index, of 512 blocks each, that are looked through in one turn.
const LEAVES_PER_TURN: usize = 64;

/// A search under way.
pub(super) struct Search {
    /// In order.
    unknown: Vec<LsnRange>,
    /// The volume, by its place, and the block to go on with.
    volume: usize,
    block: u64,
    found: Vec<Source>,
}

impl Search {
    /// For everything in these stretches, which are in order.
    pub(super) fn new(unknown: Vec<LsnRange>) -> Self {
        Search { unknown, volume: 0, block: 0, found: Vec::new() }
    }

    /// One turn; whether it is at its end.
    pub(super) fn go_on(&mut self, volumes: &Volumes) -> bool {
        let Some(id) = volumes.ids().nth(self.volume) else { return true };
        let next = volumes.get(id).and_then(|volume| {
            volume.own_index().visit_some(self.block, LEAVES_PER_TURN, |block, mapping| {
                let lsn = mapping.lsn();
                let behind = self.unknown.partition_point(|range| range.end <= lsn);
                let is_unknown = self.unknown.get(behind).is_some_and(|range| range.start <= lsn);
                if is_unknown && lsn > volume.resident_above() {
                    self.found.push(Source::of_index(volume.image(), block, mapping));
                }
            })
        });
        if let Some(block) = next {
            self.block = block;
        } else {
            (self.volume, self.block) = (self.volume + 1, 0);
        }
        volumes.ids().nth(self.volume).is_none()
    }

    /// What was found, last one first.
    pub(super) fn take(&mut self) -> Vec<Source> {
        let mut found = std::mem::take(&mut self.found);
        found.sort_unstable_by_key(|source| std::cmp::Reverse(source.lsn));
        found
    }
}
