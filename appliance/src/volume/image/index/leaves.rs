//! Whole leaves of an index: taken out for an anchor, and put into an index that is being built.
//!
//! A leaf of an anchor is older than everything that the builder has seen, so it takes the places
//! that are empty and not hidden. Setting each mapping alone would search the tree and the hidden
//! ranges 512 times; this does both once for a leaf.

use std::rc::Rc;

use super::{FANOUT, FANOUT_BITS, Index, IndexBuilder, Leaf, Mapping, Node, RangeSet, capacity, count_bytes};
/// The mappings of a leaf, as they are stored.
type Raw = [u64; FANOUT];

impl Node {
    /// Calls `visit` for at most `leaves` leaves, from block `from` on, counted from this node's
    /// first block `first`, with the first block of each. Returns where to continue, or `None` at
    /// its end.
    fn leaves_some(
        &self,
        level: u32,
        first: u64,
        from: u64,
        leaves: &mut usize,
        visit: &mut dyn FnMut(u64, &[Mapping; FANOUT]),
    ) -> Option<u64> {
        match self {
            Node::Leaf(_) if *leaves == 0 => return Some(0),
            Node::Leaf(leaf) => {
                *leaves -= 1;
                visit(first, &leaf.mappings);
            }
            Node::Inner(inner) => {
                let span = 1_u64 << (FANOUT_BITS * level);
                for slot in from / span..FANOUT as u64 {
                    let Some(child) = &inner.children[slot as usize] else { continue };
                    let at = slot * span;
                    let from = from.saturating_sub(at);
                    if let Some(next) = child.leaves_some(level - 1, first + at, from, leaves, visit) {
                        return Some(at + next);
                    }
                }
            }
        }
        None
    }
}

impl Index {
    /// Calls `visit` for at most `leaves` leaves, from that of block `from` on, in order, with the
    /// number of the leaf and its mappings. Returns the block to continue with, or `None` at the
    /// end. `leaves` must not be 0.
    pub fn leaves_from(&self, from: u64, leaves: usize, mut visit: impl FnMut(u64, &Raw)) -> Option<u64> {
        self.leaves_some(from, leaves, |first, mappings| {
            visit(first / FANOUT as u64, &mappings.map(|mapping| mapping.0));
        })
    }

    /// The same with the first block of each leaf.
    pub(super) fn leaves_some(
        &self,
        from: u64,
        mut leaves: usize,
        mut visit: impl FnMut(u64, &[Mapping; FANOUT]),
    ) -> Option<u64> {
        if from >= capacity(self.height) {
            return None;
        }
        self.root.leaves_some(self.height, 0, from, &mut leaves, &mut visit)
    }

    /// Sets the mappings of a leaf where there are none yet, but not where `hidden` says so.
    fn fill_leaf(&mut self, number: u64, mappings: &Raw, hidden: Option<&[bool; FANOUT]>) {
        let first = number * FANOUT as u64;
        let (mut node, mut level) = (&mut self.root, self.height);
        loop {
            let slot = (first >> (FANOUT_BITS * level)) as usize & (FANOUT - 1);
            let Node::Inner(inner) = node else { unreachable!("the level of a leaf is 0") };
            level -= 1;
            let child = &mut Rc::make_mut(inner).children[slot];
            if level > 0 {
                node = child.get_or_insert_with(|| Node::empty(level));
                continue;
            }
            let added = match (child, hidden) {
                (Some(Node::Leaf(leaf)), _) => fill(&mut Rc::make_mut(leaf).mappings, mappings, hidden),
                (child, None) => {
                    count_bytes::<Leaf>(true);
                    *child = Some(Node::Leaf(Rc::new(Leaf { mappings: mappings.map(Mapping) })));
                    mappings.iter().map(|&raw| u64::from(raw != 0)).sum()
                }
                (child, Some(_)) => {
                    let mut leaf = Leaf::empty();
                    let added = fill(&mut Rc::make_mut(&mut leaf).mappings, mappings, hidden);
                    *child = (added > 0).then_some(Node::Leaf(leaf));
                    added
                }
            };
            self.mapped += added;
            return;
        }
    }
}

/// Takes the mappings of places that are empty and not hidden. Returns how many there were.
fn fill(places: &mut [Mapping; FANOUT], mappings: &Raw, hidden: Option<&[bool; FANOUT]>) -> u64 {
    // Two loops without a branch: a large index is filled by this.
    let mut added = 0;
    let mut take = |place: &mut Mapping, raw: u64| {
        let taken = if place.is_none() { raw } else { 0 };
        place.0 |= taken;
        added += u64::from(taken != 0);
    };
    match hidden {
        None => places.iter_mut().zip(mappings).for_each(|(place, &raw)| take(place, raw)),
        Some(hidden) => {
            let places = places.iter_mut().zip(mappings).zip(hidden);
            places.for_each(|((place, &raw), &hides)| take(place, if hides { 0 } else { raw }));
        }
    }
    added
}

impl RangeSet {
    /// The parts of the set between two numbers, in order.
    fn between(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let before = self.0.range(..start).next_back();
        let within = self.0.range(start..end);
        before.into_iter().chain(within).map(move |(&from, &to)| (from.max(start), to.min(end)))
    }
}

impl IndexBuilder {
    /// Whether a block of a range may still be taken.
    pub fn takes_any(&self, start: u64, end: u64) -> bool {
        let (start, end) = (start.max(self.window.start), end.min(self.window.end));
        start < end && !self.trimmed.covers(start, end)
    }

    /// Takes a leaf of an index that is older than all entries that were taken: what each mapping
    /// would do as a write, for all at once. Numbers beyond the volume are left out and counted, as
    /// for entries.
    pub fn see_leaf(&mut self, number: u64, mappings: &[u64; FANOUT]) {
        let first = number.saturating_mul(FANOUT as u64);
        let end = first.saturating_add(FANOUT as u64);
        if end > self.len_blocks {
            for (slot, &raw) in mappings.iter().enumerate() {
                if raw != 0 {
                    self.see_write(first.saturating_add(slot as u64), Mapping(raw));
                }
            }
            return;
        }
        if !self.takes_any(first, end) {
            return;
        }
        let is_whole = self.window.start <= first && end <= self.window.end;
        let mut hidden: Option<[bool; FANOUT]> = None;
        if !is_whole {
            let hidden = hidden.insert([true; FANOUT]);
            let (from, to) = (self.window.start.max(first), self.window.end.min(end));
            hidden[(from - first) as usize..(to - first) as usize].fill(false);
        }
        for (from, to) in self.trimmed.between(first, end).filter(|(from, to)| from < to) {
            let hidden = hidden.get_or_insert([false; FANOUT]);
            hidden[(from - first) as usize..(to - first) as usize].fill(true);
        }
        // Of a newer one everything that counts was taken before; it only hides older ones, and an
        // anchor has none.
        let up_to = self.inherited_up_to;
        if mappings.iter().any(|&raw| Mapping(raw).lsn() > up_to) {
            let counts = mappings.map(|raw| if Mapping(raw).lsn() > up_to { 0 } else { raw });
            self.index.fill_leaf(number, &counts, hidden.as_ref());
        } else {
            self.index.fill_leaf(number, mappings, hidden.as_ref());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::Lsn;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64),
        Trim(u64, u64),
        Mask(u64, u64),
        Parent,
    }

    fn step() -> impl Strategy<Value = Step> {
        let block = prop_oneof![0_u64..3000, 262_000_u64..264_000];
        prop_oneof![
            8 => block.clone().prop_map(Step::Write),
            2 => (block.clone(), 1_u64..900).prop_map(|(block, len)| Step::Trim(block, len)),
            1 => (block, 1_u64..900).prop_map(|(block, len)| Step::Mask(block, len)),
            1 => Just(Step::Parent),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// Leaves do what their mappings would do as writes, in every state of the builder.
        #[test]
        fn a_leaf_is_its_writes(
            steps in prop::collection::vec(step(), 0..120),
            blocks in prop::collection::btree_set(prop_oneof![0_u64..3000, 262_000_u64..264_000], 0..400),
            window in prop_oneof![Just(0..u64::MAX), (0_u64..3000, 0_u64..264_000).prop_map(|(start, end)| start..end)],
            len_blocks in prop_oneof![Just(1_u64 << 20), 100_u64..264_000],
            again in prop_oneof![Just(None), (0_u64..200).prop_map(Some)],
        ) {
            let mut one = IndexBuilder::new(len_blocks).within(window);
            for (place, step) in steps.iter().enumerate().rev() {
                let lsn = 1000 + place as u64;
                match *step {
                    Step::Write(block) => { one.see_write(block, Mapping::new(Lsn(lsn), 3)); }
                    Step::Trim(block, len) => one.see_trim(block, len),
                    Step::Mask(block, len) => { one.see_mask(block, len); }
                    Step::Parent => one.begin_parent(),
                }
            }
            if let Some(up_to) = again {
                one.begin_ancestors_again(Lsn(up_to));
            }
            let mut older = Index::new(1 << 18);
            for &block in &blocks {
                older.set(block, Mapping::new(Lsn(1 + block % 300), block as u32));
            }
            let mut other = one.clone();
            older.visit(|block, mapping| { one.see_write(block, mapping); });
            let mut next = Some(0);
            while let Some(from) = next {
                next = older.leaves_from(from, 2, |number, mappings| other.see_leaf(number, mappings));
            }
            prop_assert_eq!(one.outside(), other.outside());
            let (one, other) = (one.finish(), other.finish());
            prop_assert_eq!(one.mapped(), other.mapped());
            let contents = |index: &Index| {
                let mut list = Vec::new();
                index.visit(|block, mapping| list.push((block, mapping)));
                list
            };
            prop_assert_eq!(contents(&one), contents(&other));
        }
    }

    #[test]
    fn memory_of_leaves_is_counted() {
        let before = super::super::index_bytes();
        let mut builder = IndexBuilder::new(1 << 18);
        builder.see_leaf(3, &[7 << 16; FANOUT]);
        builder.see_leaf(u64::MAX, &[7 << 16; FANOUT]);
        assert_eq!((builder.seen().mapped(), builder.outside()), (512, 512));
        drop(builder);
        assert_eq!(super::super::index_bytes(), before);
    }
}
