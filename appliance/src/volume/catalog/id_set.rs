//! A set of image ids for one pass over a list of images.

use std::cell::Cell;

/// A set of image ids that are looked up roughly in their stored order.
pub(super) struct IdSet {
    sorted: Vec<u32>,
    /// The index after the last id found.
    next: Cell<usize>,
}

impl IdSet {
    pub(super) fn new(mut ids: Vec<u32>) -> Self {
        ids.sort_unstable();
        IdSet { sorted: ids, next: Cell::new(0) }
    }

    /// Whether an id is in the set.
    pub(super) fn contains(&self, id: u32) -> bool {
        let next = self.next.get();
        if self.sorted.get(next) == Some(&id) {
            self.next.set(next + 1);
            return true;
        }
        let place = self.sorted.partition_point(|&known| known < id);
        self.next.set(place + 1);
        self.sorted.get(place) == Some(&id)
    }
}
