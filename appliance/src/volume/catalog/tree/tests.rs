//! The map against the standard library's, and what its operations cost: nodes that are copied, and
//! keys that are compared.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

crate::document::numbers!(
    the_document_has_this_bound,
    PAGE_ENTRIES_MAX => "A page has at most {} entries",
);

/// Checks the invariants, and the content against a model.
fn check(map: &Tree<u32, u32>, model: &BTreeMap<u32, u32>) {
    assert_eq!(map.len(), model.len());
    assert!(map.iter().eq(model.iter()));
    assert_eq!(map.root.is_none(), model.is_empty());
    let mut level: Vec<&Arc<Node<u32, u32>>> = map.root.iter().collect();
    while !level.is_empty() {
        let height = level[0].height();
        for node in &level {
            let max = if height == 0 { LEAF_ENTRIES_MAX } else { CHILDREN_MAX };
            assert!((1..=max).contains(&node.len()) && node.height() == height);
        }
        level = children_of(&level);
    }
}

proptest! {
    #[test]
    fn it_is_a_map_and_copies_stay_as_they_were(
        runs in proptest::collection::vec((0_u32..4, 0_u32..3000, 1_u32..900, any::<bool>()), 1..12),
    ) {
        let (mut map, mut model) = (Tree::default(), BTreeMap::new());
        for (kind, start, count, is_downward) in runs {
            let (before, was) = (map.clone(), model.clone());
            for step in 0..count {
                let key = if is_downward { start + count - step } else { start + step };
                if kind == 0 {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                } else {
                    prop_assert_eq!(map.insert(key, kind), model.insert(key, kind));
                }
            }
            check(&map, &model);
            check(&before, &was);
            prop_assert!(map.iter_from(&start).eq(model.range(start..)));
            prop_assert_eq!(map.get(&start), model.get(&start));
            prop_assert!(map.is_same(&map.clone()));
            // Applying the changes to the copy makes it equal.
            let (set, gone) = before.changes(&map);
            let mut patched = before.clone();
            for key in &gone {
                prop_assert!(patched.remove(key).is_some());
            }
            for (key, value) in set {
                prop_assert_ne!(patched.insert(key, value), Some(value));
            }
            check(&patched, &model);
        }
    }
}

#[test]
fn a_text_lasts_until_its_page_is_changed() {
    let mut map = Tree::default();
    for key in 0..2000_u32 {
        map.insert(key, key);
    }
    let texts = |map: &Tree<u32, u32>| map.page_texts(|entries| vec![entries.count() as u8]);
    let before = texts(&map);
    assert_eq!(before.len(), 4, "pages are filled in order");
    map.insert(700, 9);
    let after = texts(&map);
    let same: Vec<bool> = before.iter().zip(&after).map(|(one, other)| Arc::ptr_eq(one, other)).collect();
    assert_eq!(same, [true, false, true, true]);
}

/// Every node of a map, by its address.
fn nodes_of<K, V>(map: &Tree<K, V>) -> HashSet<*const Node<K, V>> {
    let (mut all, mut level) = (HashSet::new(), map.root.iter().collect::<Vec<_>>());
    while !level.is_empty() {
        all.extend(level.iter().map(|node| Arc::as_ptr(node)));
        level = children_of(&level);
    }
    all
}

thread_local! {
    static COMPARISONS: Cell<usize> = const { Cell::new(0) };
}

/// A key that counts how often keys are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counted(u32);

impl PartialOrd for Counted {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Counted {
    fn cmp(&self, other: &Self) -> Ordering {
        COMPARISONS.set(COMPARISONS.get() + 1);
        self.0.cmp(&other.0)
    }
}

/// What operations on a map of `count` entries cost at most, each on a copy: nodes that the copy
/// does not share, entries that a comparison of both looks at, and comparisons of keys.
fn cost(count: u32) -> (usize, usize, usize) {
    let mut map = Tree::default();
    // Not in order, so that nodes are split as chance has it.
    for number in 0..count {
        map.insert(Counted(number.wrapping_mul(0x9e37_79b1)), number);
    }
    let (mut copied, mut looked_at, mut compared) = (0, 0, 0);
    let (nodes, keys) = (nodes_of(&map), (0..count).step_by((count / 20).max(1) as usize));
    for key in keys.map(|number| Counted(number.wrapping_mul(0x9e37_79b1))) {
        for is_new in [false, true] {
            let mut copy = map.clone();
            COMPARISONS.set(0);
            if is_new {
                copy.insert(Counted(key.0 ^ 1), 7);
            } else {
                assert!(copy.remove(&key).is_some());
            }
            assert!(copy.get(&key).is_some() == is_new);
            compared = compared.max(COMPARISONS.get());
            copied = copied.max(nodes_of(&copy).difference(&nodes).count());
            let (before, after) = map.apart(&copy);
            looked_at = looked_at.max(before.len() + after.len());
        }
    }
    (copied, looked_at, compared)
}

#[test]
fn a_change_among_100_000_costs_a_few_nodes_more_than_among_100() {
    let (few, many) = (cost(100), cost(100_000));
    // Each of at most four more levels costs a node, which may be split, and four comparisons in
    // the lookup, in the removal and in its lookup.
    assert!(many.0 <= few.0 + 8, "{few:?} {many:?}");
    assert!(many.1 <= 8 * LEAF_ENTRIES_MAX, "{many:?}");
    assert!(many.2 <= few.2 + 4 * 3 * 5, "{few:?} {many:?}");
}
