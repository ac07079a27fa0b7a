//! The index of an image: a map from a block number to the position of the block's newest version.
//!
//! A radix tree of 512-way nodes, shared by reference and copied on write: a clone of an index is
//! one reference count, and the first write to a shared path copies one node a level. A leaf holds
//! 512 mappings of eight bytes: 48 bits of LSN and the low 16 bits of the block's CRC32C.
//!
//! **Cost:** a lookup reads one node a level: two for 1 GiB, three for 512 GiB, four for 256 TiB. A
//! leaf takes 4 KiB of memory, so a fully mapped TiB takes 2 GiB, plus 8 KiB for each 512 leaves.

mod leaves;
mod pieces;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use crate::log::Lsn;
use pieces::parts;

/// Children of a node, and mappings of a leaf.
const FANOUT: usize = 512;
const FANOUT_BITS: u32 = FANOUT.trailing_zeros();

thread_local! {
    static INDEX_BYTES: Cell<u64> = const { Cell::new(0) };
}

/// Memory of all indexes of this thread, in bytes.
pub fn index_bytes() -> u64 {
    INDEX_BYTES.get()
}

/// The position of a block, and the low half of its CRC32C. The value zero means that the block has
/// no contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mapping(u64);

impl Mapping {
    /// No contents: reads as zeroes.
    pub const NONE: Mapping = Mapping(0);

    /// A block at `lsn` whose CRC32C is `crc`.
    pub fn new(lsn: Lsn, crc: u32) -> Self {
        debug_assert!(lsn.0 != 0 && lsn <= Lsn::MAX);
        Mapping(lsn.0 << 16 | u64::from(crc as u16))
    }

    /// The position, 0 for none.
    pub fn lsn(self) -> Lsn {
        Lsn(self.0 >> 16)
    }

    /// The low 16 bits of the block's CRC32C.
    pub fn crc16(self) -> u16 {
        self.0 as u16
    }

    /// Whether the block has no contents.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

struct Leaf {
    mappings: [Mapping; FANOUT],
}

struct Inner {
    children: [Option<Node>; FANOUT],
}

#[derive(Clone)]
enum Node {
    Inner(Rc<Inner>),
    Leaf(Rc<Leaf>),
}

fn count_bytes<T>(grow: bool) {
    let len = size_of::<T>() as u64;
    // `try_with`, because the last nodes may be freed while the thread ends.
    let _ = INDEX_BYTES.try_with(|bytes| bytes.set(if grow { bytes.get() + len } else { bytes.get() - len }));
}

macro_rules! counted {
    ($node:ident, $field:ident) => {
        impl $node {
            fn empty() -> Rc<Self> {
                count_bytes::<$node>(true);
                Rc::new($node { $field: std::array::from_fn(|_| Default::default()) })
            }
        }

        impl Clone for $node {
            fn clone(&self) -> Self {
                count_bytes::<$node>(true);
                $node { $field: self.$field.clone() }
            }
        }

        impl Drop for $node {
            fn drop(&mut self) {
                count_bytes::<$node>(false);
            }
        }
    };
}

counted!(Leaf, mappings);
counted!(Inner, children);

impl Node {
    fn empty(level: u32) -> Node {
        if level == 0 { Node::Leaf(Leaf::empty()) } else { Node::Inner(Inner::empty()) }
    }

    /// Calls `visit` for every mapping with its block number, in order; `first` is this node's
    /// first block.
    fn visit(&self, level: u32, first: u64, visit: &mut dyn FnMut(u64, Mapping)) {
        match self {
            Node::Leaf(leaf) => {
                for (block, &mapping) in (first..).zip(&leaf.mappings) {
                    if !mapping.is_none() {
                        visit(block, mapping);
                    }
                }
            }
            Node::Inner(inner) => {
                for (slot, child) in (0_u64..).zip(&inner.children) {
                    if let Some(child) = child {
                        child.visit(level - 1, first + (slot << (FANOUT_BITS * level)), visit);
                    }
                }
            }
        }
    }

    /// Empties `[start, end)`, counted from this node's first block. Passes the removed mappings to
    /// `gone`, and returns how many there were.
    fn trim(&mut self, level: u32, start: u64, end: u64, gone: &mut dyn FnMut(Mapping)) -> u64 {
        match self {
            Node::Leaf(leaf) => {
                let range = start as usize..end as usize;
                if leaf.mappings[range.clone()].iter().all(|mapping| mapping.is_none()) {
                    return 0;
                }
                let mut removed = 0;
                for mapping in &mut Rc::make_mut(leaf).mappings[range] {
                    if !mapping.is_none() {
                        removed += 1;
                        gone(std::mem::take(mapping));
                    }
                }
                removed
            }
            Node::Inner(inner) => {
                let span = 1 << (FANOUT_BITS * level);
                let mut removed = 0;
                for (slot, from, to) in parts(level, start, end) {
                    if inner.children[slot].is_none() {
                        continue;
                    }
                    let child = &mut Rc::make_mut(inner).children[slot];
                    if (from, to) == (0, span) {
                        if let Some(node) = child.take() {
                            node.visit(level - 1, 0, &mut |_, mapping| {
                                removed += 1;
                                gone(mapping);
                            });
                        }
                    } else if let Some(child) = child {
                        removed += child.trim(level - 1, from, to, gone);
                    }
                }
                removed
            }
        }
    }
}

/// Prefetches a cache line, if the processor has an instruction for it.
#[inline]
fn prefetch<T>(what: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: this is a hint, which has no visible effect, whatever the address is.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(what.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}

/// The index of an image. Cloning it is one reference count.
#[derive(Clone)]
pub struct Index {
    root: Node,
    /// Levels above the leaves.
    height: u32,
    mapped: u64,
}

impl Index {
    /// An empty index with room for `len_blocks` blocks; it grows automatically.
    pub fn new(len_blocks: u64) -> Self {
        let mut height = 1;
        while capacity(height) < len_blocks {
            height += 1;
        }
        Index { root: Node::empty(height), height, mapped: 0 }
    }

    /// Whether both share all nodes: neither was changed since one became a clone of the other.
    pub fn is_same(&self, other: &Index) -> bool {
        match (&self.root, &other.root) {
            (Node::Inner(one), Node::Inner(other)) => Rc::ptr_eq(one, other),
            (Node::Leaf(one), Node::Leaf(other)) => Rc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// How many blocks have contents.
    pub fn mapped(&self) -> u64 {
        self.mapped
    }

    /// Calls `visit` for every block that has contents, in order of block numbers.
    pub fn visit(&self, mut visit: impl FnMut(u64, Mapping)) {
        self.root.visit(self.height, 0, &mut visit);
    }

    /// Calls `visit` for the blocks that have contents in at most `leaves` leaves, from the leaf of
    /// block `from` on, in order. Returns the block to continue with, or `None` at the end.
    /// `leaves` must not be 0, because then there is no progress.
    pub fn visit_some(&self, from: u64, leaves: usize, mut visit: impl FnMut(u64, Mapping)) -> Option<u64> {
        self.leaves_some(from, leaves, |first, mappings| {
            let mapped = (first..).zip(mappings).filter(|(_, mapping)| !mapping.is_none());
            mapped.for_each(|(block, &mapping)| visit(block, mapping));
        })
    }

    /// The mapping of a block.
    #[inline]
    pub fn get(&self, block: u64) -> Mapping {
        self.find(block).copied().unwrap_or_default()
    }

    /// Prefetches the leaf entry that [`get`](Self::get) will read: in a large volume, a leaf is
    /// rarely in a cache.
    pub fn prefetch(&self, block: u64) {
        if let Some(mapping) = self.find(block) {
            prefetch(mapping);
        }
    }

    #[inline]
    fn find(&self, block: u64) -> Option<&Mapping> {
        if block >= capacity(self.height) {
            return None;
        }
        let mut node = &self.root;
        let mut shift = FANOUT_BITS * self.height;
        loop {
            let slot = (block >> shift) as usize & (FANOUT - 1);
            match node {
                Node::Leaf(leaf) => return Some(&leaf.mappings[slot]),
                Node::Inner(inner) => node = inner.children[slot].as_ref()?,
            }
            shift -= FANOUT_BITS;
        }
    }

    /// Sets the mapping of a block; returns the previous one.
    pub fn set(&mut self, block: u64, mapping: Mapping) -> Mapping {
        while block >= capacity(self.height) {
            let below = std::mem::replace(&mut self.root, Node::empty(self.height + 1));
            if let Node::Inner(inner) = &mut self.root {
                Rc::make_mut(inner).children[0] = Some(below);
            }
            self.height += 1;
        }
        let mut node = &mut self.root;
        let mut level = self.height;
        loop {
            let slot = (block >> (FANOUT_BITS * level)) as usize & (FANOUT - 1);
            match node {
                Node::Leaf(leaf) => {
                    let old = std::mem::replace(&mut Rc::make_mut(leaf).mappings[slot], mapping);
                    self.mapped += u64::from(!mapping.is_none());
                    self.mapped -= u64::from(!old.is_none());
                    return old;
                }
                Node::Inner(inner) => {
                    level -= 1;
                    node = Rc::make_mut(inner).children[slot].get_or_insert_with(|| Node::empty(level));
                }
            }
        }
    }

    /// Empties `len_blocks` blocks from `block` on. Passes the removed mappings to `gone`, and
    /// returns how many there were.
    pub fn trim(&mut self, block: u64, len_blocks: u64, mut gone: impl FnMut(Mapping)) -> u64 {
        let end = self.end_of(block, len_blocks);
        if block >= end {
            return 0;
        }
        let removed = self.root.trim(self.height, block, end, &mut gone);
        self.mapped -= removed;
        removed
    }
}

/// How many blocks an index with `height` levels above its leaves can hold.
fn capacity(height: u32) -> u64 {
    1_u64.checked_shl(FANOUT_BITS * (height + 1)).unwrap_or(u64::MAX)
}

/// Builds an index from entries in descending order: the first entry found for a block wins (R29).
///
/// Entries come from devices and objects, so their numbers are not trusted beyond the volume: a
/// write to a block that the volume does not have, or at a position that no block can have, is left
/// out and counted; a trim or a mask is cut at the end of the volume. So an index never takes more
/// memory than the volume's.
#[derive(Clone)]
pub struct IndexBuilder {
    index: Index,
    len_blocks: u64,
    /// Blocks outside it are left out.
    window: Range<u64>,
    /// Whether a copied block is mapped to the position at which its content was first written.
    is_of_origins: bool,
    /// Whether it is built from entries alone.
    is_of_entries: bool,
    /// How many writes were left out.
    outside: u64,
    trimmed: RangeSet,
    /// Ranges in which nothing is inherited.
    masked: RangeSet,
    /// What `trimmed` and `masked` were before the first entry of an ancestor.
    own: Option<Box<(RangeSet, RangeSet)>>,
    /// Inherited writes after this LSN only hide older ones.
    inherited_up_to: Lsn,
}

impl IndexBuilder {
    /// An empty builder for a volume of `len_blocks`.
    pub fn new(len_blocks: u64) -> Self {
        IndexBuilder {
            index: Index::new(len_blocks),
            len_blocks,
            window: 0..len_blocks,
            is_of_origins: false,
            is_of_entries: false,
            outside: 0,
            trimmed: RangeSet::default(),
            masked: RangeSet::default(),
            own: None,
            inherited_up_to: Lsn::MAX,
        }
    }

    /// Leaves out all blocks outside `window`.
    #[must_use]
    pub fn within(mut self, window: Range<u64>) -> Self {
        self.window = window.start..window.end.min(self.len_blocks);
        self
    }

    /// Maps copied blocks to the positions at which their contents were first written: two such
    /// indexes differ exactly where contents were replaced. Nothing can be read by such an index.
    #[must_use]
    pub fn of_origins(mut self) -> Self {
        self.is_of_origins = true;
        self
    }

    /// Builds from entries alone, and takes no leaves of an anchor.
    #[must_use]
    pub fn of_entries(mut self) -> Self {
        self.is_of_entries = true;
        self
    }

    /// Whether leaves of an anchor may be taken: it maps to positions, as they do.
    pub fn takes_leaves(&self) -> bool {
        !self.is_of_origins && !self.is_of_entries
    }

    /// Whether copied blocks are mapped to where their contents were first written.
    pub fn is_of_origins(&self) -> bool {
        self.is_of_origins
    }

    /// Prefetches what an entry for a block will change.
    pub fn prefetch(&self, block: u64) {
        if let Some(mapping) = self.index.find(block) {
            prefetch(mapping);
            // The reference count, which a change looks at, is in front of the leaf.
            let slot = block as usize & (FANOUT - 1);
            prefetch(std::ptr::from_ref(mapping).wrapping_sub(slot + 1));
        }
    }

    /// Takes a write of a block. Returns whether it is the block's newest.
    pub fn see_write(&mut self, block: u64, mapping: Mapping) -> bool {
        if block >= self.len_blocks {
            self.outside += 1;
            return false;
        }
        if !self.window.contains(&block) {
            return false;
        }
        let is_newest = self.index.get(block).is_none() && !self.trimmed.contains(block);
        if is_newest && mapping.lsn() > self.inherited_up_to {
            self.trimmed.insert(block, block + 1);
            return false;
        }
        if is_newest {
            self.index.set(block, mapping);
        }
        is_newest
    }

    /// Takes a trim.
    pub fn see_trim(&mut self, block: u64, len_blocks: u64) {
        let end = self.end_of(block, len_blocks).min(self.window.end);
        self.trimmed.insert(block.max(self.window.start), end);
    }

    /// The end of a range of blocks, within the volume.
    fn end_of(&self, block: u64, len_blocks: u64) -> u64 {
        block.saturating_add(len_blocks).min(self.len_blocks)
    }

    /// How many writes were to blocks that the volume does not have.
    pub fn outside(&self) -> u64 {
        self.outside
    }

    /// Takes a mask. Returns whether it, or a trim, hides something that newer entries did not
    /// hide.
    pub fn see_mask(&mut self, block: u64, len_blocks: u64) -> bool {
        let end = self.end_of(block, len_blocks);
        let is_new = !self.masked.covers(block, end);
        self.masked.insert(block, end);
        is_new
    }

    /// Marks all further entries as inherited.
    pub fn begin_parent(&mut self) {
        if self.own.is_none() {
            self.own = Some(Box::new((self.trimmed.clone(), self.masked.clone())));
        }
        for (&start, &end) in &self.masked.0 {
            self.trimmed.insert(start, end);
        }
    }

    /// The ranges in which the image itself inherits nothing.
    pub fn masked(&self) -> &RangeSet {
        self.own.as_ref().map_or(&self.masked, |own| &own.1)
    }

    /// Begins to take the entries of ancestors again, from the newest on, although some were taken
    /// already. Those that were taken are all that count after `up_to`.
    pub fn begin_ancestors_again(&mut self, up_to: Lsn) {
        if let Some(own) = self.own.take() {
            (self.trimmed, self.masked) = *own;
        }
        self.inherited_up_to = up_to;
    }

    /// Notes that a block found before has been copied to another place.
    pub fn move_block(&mut self, block: u64, mapping: Mapping) {
        self.index.set(block, mapping);
    }

    /// The index so far.
    pub fn seen(&self) -> &Index {
        &self.index
    }

    /// The complete index.
    pub fn finish(self) -> Index {
        self.index
    }
}

/// A set of numbers as disjoint ranges.
#[derive(Default, Clone)]
pub struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    /// Whether all of a range is in the set.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        start >= end || self.0.range(..=start).next_back().is_some_and(|(_, &known)| end <= known)
    }

    /// The ranges, in order: start and end.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(&start, &end)| (start, end))
    }

    fn contains(&self, value: u64) -> bool {
        !self.0.is_empty() && self.0.range(..=value).next_back().is_some_and(|(_, &end)| value < end)
    }

    /// Adds a range.
    pub fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        while let Some((&known_start, &known_end)) = self.0.range(..=end).next_back() {
            if known_end < start {
                break;
            }
            self.0.remove(&known_start);
            start = start.min(known_start);
            end = end.max(known_end);
        }
        self.0.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Set(u64, u64),
        Trim(u64, u64),
        Clone,
    }

    fn step() -> impl Strategy<Value = Step> {
        let block = prop_oneof![0_u64..2000, 262_000_u64..264_000, (1_u64 << 27)..(1 << 27) + 100];
        prop_oneof![
            6 => (block.clone(), 1_u64..1 << 40).prop_map(|(block, lsn)| Step::Set(block, lsn)),
            2 => (block, prop_oneof![1_u64..600, 1_u64..600_000, Just(u64::MAX)]).prop_map(|(block, len)| Step::Trim(block, len)),
            1 => Just(Step::Clone),
        ]
    }

    #[test]
    fn a_builder_leaves_out_what_is_outside_its_window() {
        let mut builder = IndexBuilder::new(100).within(10..1000);
        let mapping = |lsn| Mapping::new(Lsn(lsn), 1);
        builder.see_trim(5, 7);
        assert!(!builder.see_write(9, mapping(50)) && !builder.see_write(11, mapping(49)));
        assert!(builder.see_write(12, mapping(48)) && builder.see_write(99, mapping(47)));
        assert!(!builder.see_write(100, mapping(46)));
        assert_eq!(builder.outside(), 1);
        let index = builder.finish();
        assert_eq!((index.mapped(), index.get(12), index.get(9)), (2, mapping(48), Mapping::NONE));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The index equals a map, and clones made during the steps do not change.
        #[test]
        fn an_index_is_a_map_and_clones_do_not_change(steps in prop::collection::vec(step(), 1..200)) {
            let mut index = Index::new(1 << 18);
            let mut model: HashMap<u64, Mapping> = HashMap::new();
            let mut clones = Vec::new();
            for step in steps {
                match step {
                    Step::Set(block, lsn) => {
                        let mapping = Mapping::new(Lsn(lsn), block as u32);
                        let old = model.insert(block, mapping).unwrap_or_default();
                        prop_assert_eq!(index.set(block, mapping), old);
                    }
                    Step::Trim(block, len) => {
                        let before = model.len() as u64;
                        let is_hit = |&known: &u64| known >= block && known < block.saturating_add(len);
                        prop_assert_eq!(index.holds_any(block, len), model.keys().any(is_hit));
                        model.retain(|&known, _| known < block || known >= block.saturating_add(len));
                        let mut gone = Vec::new();
                        prop_assert_eq!(index.trim(block, len, |mapping| gone.push(mapping)), before - model.len() as u64);
                        prop_assert_eq!(gone.len() as u64, before - model.len() as u64);
                        prop_assert!(gone.iter().all(|mapping| !mapping.is_none()));
                    }
                    Step::Clone => clones.push((index.clone(), model.clone())),
                }
                prop_assert_eq!(index.mapped(), model.len() as u64);
            }
            clones.push((index, model));
            for (index, model) in &clones {
                let mut visited = Vec::new();
                index.visit(|block, mapping| visited.push((block, mapping)));
                let mut expected: Vec<_> = model.iter().map(|(&block, &mapping)| (block, mapping)).collect();
                expected.sort_unstable_by_key(|&(block, _)| block);
                prop_assert_eq!(&visited, &expected);
                // Visiting in pieces gives the same result.
                let (mut pieces, mut from, mut turns) = (Vec::new(), Some(0), 0);
                while let Some(at) = from {
                    from = index.visit_some(at, 2, |block, mapping| pieces.push((block, mapping)));
                    turns += 1;
                }
                prop_assert_eq!(pieces, expected);
                prop_assert!(turns <= 500);
                for block in (0..2000).chain(262_000..264_000).chain((1 << 27)..(1 << 27) + 100) {
                    prop_assert_eq!(index.get(block), model.get(&block).copied().unwrap_or_default());
                }
            }
        }

        /// Building backward gives the same result as applying forward.
        #[test]
        fn first_sight_backward_equals_last_word_forward(steps in prop::collection::vec(step(), 1..200)) {
            let mut forward = Index::new(1 << 18);
            let mut backward = IndexBuilder::new(1 << 28);
            for step in &steps {
                match *step {
                    Step::Set(block, lsn) => { forward.set(block, Mapping::new(Lsn(lsn), 1)); }
                    Step::Trim(block, len) => { forward.trim(block, len, |_| {}); }
                    Step::Clone => {}
                }
            }
            for step in steps.iter().rev() {
                match *step {
                    Step::Set(block, lsn) => { backward.see_write(block, Mapping::new(Lsn(lsn), 1)); }
                    Step::Trim(block, len) => backward.see_trim(block, len),
                    Step::Clone => {}
                }
            }
            let backward = backward.finish();
            prop_assert_eq!(backward.mapped(), forward.mapped());
            for block in (0..2000).chain(262_000..264_000).chain((1 << 27)..(1 << 27) + 100) {
                prop_assert_eq!(backward.get(block), forward.get(block));
            }
        }
    }

    /// Entries with valid checksums and invalid numbers: no panic, no endless loop, no memory
    /// beyond the volume's.
    #[test]
    fn what_lies_beyond_the_volume_is_left_out_and_counted() {
        let before = index_bytes();
        let mut builder = IndexBuilder::new(1000);
        let mapping = Mapping::new(Lsn(7), 1);
        for block in [1000, 1 << 36, u64::MAX - 1, u64::MAX] {
            builder.see_write(block, mapping);
            builder.see_trim(block, u64::MAX);
            assert!(!builder.see_mask(block, u64::MAX));
        }
        assert_eq!((builder.outside(), builder.seen().mapped()), (4, 0));
        builder.see_write(999, mapping);
        assert!(builder.see_mask(990, u64::MAX));
        assert_eq!(builder.masked().iter().collect::<Vec<_>>(), [(990, 1000)]);
        builder.see_trim(500, u64::MAX);
        builder.see_write(500, mapping);
        let index = builder.finish();
        assert_eq!((index.mapped(), index.get(999), index.get(u64::MAX)), (1, mapping, Mapping::NONE));
        assert!(index_bytes() - before <= (2 * size_of::<Leaf>() + size_of::<Inner>()) as u64);
    }

    #[test]
    fn memory_is_counted_and_given_back() {
        let before = index_bytes();
        let mut index = Index::new(1 << 18);
        for block in (0..1 << 18).step_by(512) {
            index.set(block, Mapping::new(Lsn(1), 0));
        }
        let leaves = 512 * size_of::<Leaf>() as u64;
        assert_eq!(index_bytes() - before, leaves + size_of::<Inner>() as u64);
        let mut clone = index.clone();
        assert_eq!(index_bytes() - before, leaves + size_of::<Inner>() as u64);
        clone.set(0, Mapping::new(Lsn(2), 0));
        assert_eq!(index_bytes() - before, leaves + (2 * size_of::<Inner>() + size_of::<Leaf>()) as u64);
        drop((index, clone));
        assert_eq!(index_bytes(), before);
    }
}
