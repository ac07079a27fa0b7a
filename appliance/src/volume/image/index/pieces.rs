//! Operations on large parts of an index: whether they hold anything, and their removal. A part is
//! moved as whole subtrees, so that it disappears for readers in one short step however many blocks
//! it has. Its blocks are then subtracted from the accounts piece by piece.
//!
//! This file adds methods to the struct of `index.rs`, and shares its nodes: the two use each
//! other.

use std::rc::Rc;

use super::{FANOUT, FANOUT_BITS, Index, Mapping, Node, capacity};

impl Node {
    /// Whether something is mapped in `[start, end)`, counted from this node's first block.
    fn holds_any(&self, level: u32, start: u64, end: u64) -> bool {
        match self {
            Node::Leaf(leaf) => {
                leaf.mappings[start as usize..end as usize].iter().any(|mapping| !mapping.is_none())
            }
            Node::Inner(inner) => parts(level, start, end).any(|(slot, from, to)| {
                inner.children[slot].as_ref().is_some_and(|child| child.holds_any(level - 1, from, to))
            }),
        }
    }

    /// Moves the content of `[start, end)`, counted from this node's first block, to the same
    /// places of `piece`. Content that other ranges, which may overlap, have moved there stays.
    /// Nothing is allocated or copied for empty parts: a host may discard an empty volume as often
    /// as it likes.
    fn cut(&mut self, level: u32, start: u64, end: u64, piece: &mut Node) {
        match (self, piece) {
            (Node::Leaf(leaf), Node::Leaf(piece)) => {
                let range = start as usize..end as usize;
                let (from, to) = (Rc::make_mut(leaf), Rc::make_mut(piece));
                let places = from.mappings[range.clone()].iter_mut().zip(&mut to.mappings[range]);
                for (mapping, place) in places.filter(|(mapping, _)| !mapping.is_none()) {
                    *place = std::mem::take(mapping);
                }
            }
            (Node::Inner(inner), Node::Inner(piece)) => {
                let (inner, piece) = (Rc::make_mut(inner), Rc::make_mut(piece));
                for (slot, from, to) in parts(level, start, end) {
                    let (child, place) = (&mut inner.children[slot], &mut piece.children[slot]);
                    let Some(node) = child else { continue };
                    let is_whole = (from, to) == (0, 1 << (FANOUT_BITS * level));
                    if is_whole && place.is_none() {
                        *place = child.take();
                    } else if node.holds_any(level - 1, from, to) {
                        let place = place.get_or_insert_with(|| Node::empty(level - 1));
                        node.cut(level - 1, from, to, place);
                    }
                }
            }
            _ => unreachable!("nodes of one level are of one kind"),
        }
    }

    /// Takes everything that is mapped in `newer`, a node of the same level. Returns how many more
    /// blocks are mapped. Parts that both share are passed over.
    fn overlay(&mut self, newer: &Node) -> u64 {
        match (self, newer) {
            (Node::Leaf(leaf), Node::Leaf(newer)) if !Rc::ptr_eq(leaf, newer) => {
                let places = Rc::make_mut(leaf).mappings.iter_mut().zip(&newer.mappings);
                let more = places
                    .filter(|(_, mapping)| !mapping.is_none())
                    .map(|(place, &mapping)| u64::from(std::mem::replace(place, mapping).is_none()));
                more.sum()
            }
            (Node::Inner(inner), Node::Inner(newer)) if !Rc::ptr_eq(inner, newer) => {
                let children = Rc::make_mut(inner).children.iter_mut().zip(&newer.children);
                let more = children.map(|(child, newer)| match (child, newer) {
                    (_, None) => 0,
                    (Some(child), Some(newer)) => child.overlay(newer),
                    (child, Some(newer)) => {
                        let mut more = 0;
                        newer.visit(newer.level(), 0, &mut |_, _| more += 1);
                        *child = Some(newer.clone());
                        more
                    }
                });
                more.sum()
            }
            _ => 0,
        }
    }

    /// The level of a node: how many levels are below it.
    fn level(&self) -> u32 {
        match self {
            Node::Leaf(_) => 0,
            Node::Inner(inner) => inner.children.iter().flatten().next().map_or(1, |child| child.level() + 1),
        }
    }

    /// Drops at most `leaves` leaves that nobody else uses. Returns whether nothing is left.
    fn drop_some(&mut self, leaves: &mut usize) -> bool {
        let inner = match self {
            Node::Leaf(_) if *leaves == 0 => return false,
            Node::Leaf(_) => {
                *leaves -= 1;
                return true;
            }
            // What others share stays with them.
            Node::Inner(inner) => match Rc::get_mut(inner) {
                Some(inner) => inner,
                None => return true,
            },
        };
        for slot in &mut inner.children {
            let Some(child) = slot else { continue };
            if !child.drop_some(leaves) {
                return false;
            }
            *slot = None;
        }
        true
    }

    /// Removes at most `leaves` leaves, and passes their mappings to `gone`. Returns whether
    /// nothing is left.
    fn take_some(&mut self, level: u32, leaves: &mut usize, gone: &mut dyn FnMut(Mapping)) -> bool {
        let inner = match self {
            Node::Inner(inner) => Rc::make_mut(inner),
            Node::Leaf(_) if *leaves == 0 => return false,
            Node::Leaf(_) => {
                *leaves -= 1;
                self.visit(level, 0, &mut |_, mapping| gone(mapping));
                return true;
            }
        };
        for slot in &mut inner.children {
            let Some(child) = slot else { continue };
            if !child.take_some(level - 1, leaves, gone) {
                return false;
            }
            *slot = None;
        }
        true
    }
}

impl Node {
    /// Calls `visit` for each block of which this node and `other` have different mappings, with
    /// both. What both share costs nothing. Returns where to continue once `leaves` are used up.
    fn differences(
        &self,
        other: Option<&Node>,
        (level, first, from): (u32, u64, u64),
        leaves: &mut usize,
        visit: &mut dyn FnMut(u64, Mapping, Mapping),
    ) -> Option<u64> {
        match (self, other) {
            (Node::Leaf(one), other) => {
                let other = match other {
                    Some(Node::Leaf(other)) if Rc::ptr_eq(one, other) => return None,
                    Some(Node::Leaf(other)) => Some(&other.mappings),
                    _ => None,
                };
                if *leaves == 0 {
                    return Some(0);
                }
                *leaves -= 1;
                for (slot, &mapping) in one.mappings.iter().enumerate() {
                    let was = other.map_or(Mapping::NONE, |mappings| mappings[slot]);
                    if mapping != was {
                        visit(first + slot as u64, mapping, was);
                    }
                }
            }
            (Node::Inner(one), other) => {
                let other = match other {
                    Some(Node::Inner(other)) if Rc::ptr_eq(one, other) => return None,
                    Some(Node::Inner(other)) => Some(&other.children),
                    _ => None,
                };
                let span = 1_u64 << (FANOUT_BITS * level);
                for slot in from / span..FANOUT as u64 {
                    let (at, from) = (slot * span, from.saturating_sub(slot * span));
                    let place = (level - 1, first + at, from);
                    let was = other.and_then(|children| children[slot as usize].as_ref());
                    let next = match (&one.children[slot as usize], was) {
                        (Some(child), was) => child.differences(was, place, leaves, visit),
                        // The same with the sides swapped.
                        (None, Some(was)) => was.differences(None, place, leaves, &mut |block, was, none| {
                            visit(block, none, was);
                        }),
                        (None, None) => None,
                    };
                    if let Some(next) = next {
                        return Some(at + next);
                    }
                }
            }
        }
        None
    }
}

/// The children of a node of `level` that overlap `[start, end)`: the slot, and the overlapping
/// part, counted from the child's first block.
pub(super) fn parts(level: u32, start: u64, end: u64) -> impl Iterator<Item = (usize, u64, u64)> {
    let span = 1_u64 << (FANOUT_BITS * level);
    (start / span..end.div_ceil(span).min(FANOUT as u64)).map(move |slot| {
        let first = slot * span;
        (slot as usize, start.max(first) - first, end.min(first + span) - first)
    })
}

impl Index {
    /// The end of a range of blocks, limited to the capacity of the tree.
    pub(super) fn end_of(&self, block: u64, len_blocks: u64) -> u64 {
        block.saturating_add(len_blocks).min(capacity(self.height))
    }

    /// Whether one of `len_blocks` blocks from `block` on has contents.
    pub fn holds_any(&self, block: u64, len_blocks: u64) -> bool {
        let end = self.end_of(block, len_blocks);
        block < end && self.root.holds_any(self.height, block, end)
    }

    /// An empty index of the same height, for parts that are cut out of this one.
    #[must_use]
    pub fn empty_like(&self) -> Index {
        Index { root: Node::empty(self.height), height: self.height, mapped: 0 }
    }

    /// Moves `len_blocks` blocks from `block` on to `piece`, in a few steps however many they are.
    /// Until [`note_gone`](Self::note_gone) they count as mapped here, and nowhere else.
    pub fn cut(&mut self, block: u64, len_blocks: u64, piece: &mut Index) {
        let end = self.end_of(block, len_blocks);
        if self.holds_any(block, len_blocks) {
            self.root.cut(self.height, block, end, &mut piece.root);
        }
    }

    /// Stops counting `blocks` blocks that were cut out.
    pub fn note_gone(&mut self, blocks: u64) {
        self.mapped = self.mapped.saturating_sub(blocks);
    }

    /// Calls `visit` for each block from the leaf of block `from` on of which this index and
    /// `other` have different mappings, with this one's and the other's, in order, for at most
    /// `leaves` leaves that they do not share. Returns the block to continue with, or `None` at the
    /// end.
    pub fn differences(
        &self,
        other: &Index,
        from: u64,
        mut leaves: usize,
        mut visit: impl FnMut(u64, Mapping, Mapping),
    ) -> Option<u64> {
        let height = self.height.max(other.height);
        let (one, other) = (self.raised(height), other.raised(height));
        if from >= capacity(height) {
            return None;
        }
        one.differences(Some(&other), (height, 0, from), &mut leaves, &mut visit)
    }

    /// The root as a tree of this height, which is at least its own.
    fn raised(&self, height: u32) -> Node {
        let mut root = self.root.clone();
        for level in self.height..height {
            let below = std::mem::replace(&mut root, Node::empty(level + 1));
            if let Node::Inner(inner) = &mut root {
                Rc::make_mut(inner).children[0] = Some(below);
            }
        }
        root
    }

    /// Takes everything that is mapped in `newer`, an index for as many blocks. Cost: the parts
    /// that the two do not share.
    pub fn overlay(&mut self, newer: &Index) {
        if self.height == newer.height {
            self.mapped += self.root.overlay(&newer.root);
        } else {
            newer.visit(|block, mapping| {
                self.set(block, mapping);
            });
        }
    }

    /// Drops at most `leaves` leaves of an index that nobody reads. Returns whether nothing is
    /// left.
    pub fn drop_some(&mut self, mut leaves: usize) -> bool {
        self.root.drop_some(&mut leaves)
    }

    /// Removes at most `leaves` leaves from an index that nobody reads, passes their mappings to
    /// `gone`, and leaves the count as it is. Returns whether nothing is left.
    pub fn take_some(&mut self, mut leaves: usize, mut gone: impl FnMut(Mapping)) -> bool {
        self.root.take_some(self.height, &mut leaves, &mut gone)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::log::Lsn;

    type Blocks = BTreeMap<u64, u64>;

    fn of_blocks(blocks: &Blocks, len_blocks: u64) -> Index {
        let mut index = Index::new(len_blocks);
        for (&block, &lsn) in blocks {
            index.set(block, Mapping::new(Lsn(lsn), 7));
        }
        index
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The differences of an index and a changed copy, or an independent one of another height,
        /// are those of two maps, however small the pieces are. Releasing the copy leaves the
        /// first.
        #[test]
        fn differences_are_those_of_two_maps(
            before in prop::collection::btree_map(prop_oneof![0_u64..3000, 260_000_u64..266_000], 1_u64..9, 0..200),
            changes in prop::collection::vec((prop_oneof![0_u64..3000, 260_000_u64..600_000], 0_u64..9), 0..40),
            is_copy in any::<bool>(),
            leaves in 1_usize..5,
        ) {
            let one = of_blocks(&before, 1 << 18);
            let mut after = before.clone();
            let mut other = one.clone();
            for &(block, lsn) in &changes {
                let mapping = if lsn == 0 { Mapping::NONE } else { Mapping::new(Lsn(lsn), 7) };
                other.set(block, mapping);
                if lsn == 0 { after.remove(&block) } else { after.insert(block, lsn) };
            }
            if !is_copy {
                other = of_blocks(&after, 1 << 28);
            }
            let all = before.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>();
            let of = |blocks: &Blocks, block: &u64| blocks.get(block).copied().unwrap_or(0);
            let expected: Vec<(u64, u64, u64)> = all
                .into_iter()
                .map(|block| (*block, of(&before, block), of(&after, block)))
                .filter(|(_, one, other)| one != other)
                .collect();
            let mut found = Vec::new();
            let mut next = Some(0);
            while let Some(from) = next {
                next = one.differences(&other, from, leaves, |block, one, other| {
                    found.push((block, one.lsn().0, other.lsn().0));
                });
            }
            prop_assert_eq!(found, expected);
            while !other.drop_some(leaves) {}
            drop(other);
            for (&block, &lsn) in &before {
                prop_assert_eq!(one.get(block).lsn(), Lsn(lsn));
            }
        }

        /// What lies over an index wins, whatever the two share.
        #[test]
        fn what_lies_over_an_index_wins(
            blocks in prop::collection::vec(prop_oneof![0_u64..3000, 260_000_u64..266_000], 0..300),
            older in prop::collection::vec(0_u64..266_000, 0..50),
            newer in prop::collection::vec(0_u64..266_000, 0..50),
        ) {
            let mut under = Index::new(1 << 19);
            for &block in &blocks {
                under.set(block, Mapping::new(Lsn(block + 1), 7));
            }
            let mut over = under.clone();
            for &block in &older {
                if under.get(block).is_none() {
                    under.set(block, Mapping::new(Lsn(1_000_000 + block), 7));
                }
            }
            for &block in &newer {
                over.set(block, Mapping::new(Lsn(2_000_000 + block), 7));
            }
            let mut expected = under.clone();
            over.visit(|block, mapping| {
                expected.set(block, mapping);
            });
            under.overlay(&over);
            prop_assert_eq!(under.mapped(), expected.mapped());
            let contents = |index: &Index| {
                let mut list = Vec::new();
                index.visit(|block, mapping| list.push((block, mapping)));
                list
            };
            prop_assert_eq!(contents(&under), contents(&expected));
        }

        /// The part that is cut out is the content of the range, earlier clones keep it, and it is
        /// removed completely.
        #[test]
        fn a_part_that_is_cut_out_is_what_was_there(
            blocks in prop::collection::btree_set(prop_oneof![0_u64..3000, 260_000_u64..266_000], 0..300),
            ranges in prop::collection::vec((0_u64..266_000, 0_u64..300_000), 1..5),
            leaves in 1_usize..9,
        ) {
            let mut index = Index::new(1 << 19);
            let mut model: BTreeMap<u64, Mapping> = BTreeMap::new();
            for &block in &blocks {
                let mapping = Mapping::new(Lsn(block + 1), 7);
                index.set(block, mapping);
                model.insert(block, mapping);
            }
            let before = index.clone();
            let mut piece = index.empty_like();
            let mut cut = Vec::new();
            for &(block, len) in &ranges {
                let is_in = |known: u64| known >= block && known < block + len;
                prop_assert_eq!(index.holds_any(block, len), model.keys().any(|&known| is_in(known)));
                index.cut(block, len, &mut piece);
                cut.extend(model.extract_if(.., |&known, _| is_in(known)).map(|(_, mapping)| mapping.lsn()));
                prop_assert!(!index.holds_any(block, len));
            }
            for &block in &blocks {
                prop_assert_eq!(index.get(block), model.get(&block).copied().unwrap_or_default());
                prop_assert_eq!(before.get(block).lsn(), Lsn(block + 1));
            }
            let mut gone = Vec::new();
            while !piece.take_some(leaves, |mapping| gone.push(mapping.lsn())) {}
            cut.sort();
            prop_assert_eq!(&gone, &cut);
            index.note_gone(gone.len() as u64);
            prop_assert_eq!(index.mapped(), model.len() as u64);
            // Dropping it leaves alone what a clone shares.
            let mut dropped = before.clone();
            while !dropped.drop_some(leaves) {}
            let mut alone = before;
            let shared = alone.clone();
            alone.set(0, Mapping::new(Lsn(1), 1));
            while !alone.drop_some(leaves) {}
            for &block in &blocks {
                prop_assert_eq!(shared.get(block).lsn(), Lsn(block + 1));
            }
        }
    }
}
