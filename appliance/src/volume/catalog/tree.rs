//! An ordered map whose copies share nodes. A copy costs one reference; a lookup and a change cost
//! one node for each level, whatever the number of entries. A copy may be read on any thread.
//!
//! The nodes that are parents of leaves are **pages**: adjacent entries with a cached text, which
//! lasts until one of them changes.
//!
//! **Invariants:** keys rise. All leaves are at the same depth. A leaf has 1 to
//! [`LEAF_ENTRIES_MAX`] entries, and another node 1 to [`CHILDREN_MAX`] children. A removal joins a
//! node that it makes small with a neighbour, so the depth follows the number of entries.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;

/// The maximum number of entries of a leaf.
const LEAF_ENTRIES_MAX: usize = 32;
/// The maximum number of entries of a page.
const PAGE_ENTRIES_MAX: usize = 512;
/// The maximum number of children of a node.
const CHILDREN_MAX: usize = PAGE_ENTRIES_MAX / LEAF_ENTRIES_MAX;

/// A node: see the module's documentation.
#[derive(Debug)]
struct Node<K, V> {
    content: Content<K, V>,
    /// The text of a page.
    text: OnceLock<Arc<[u8]>>,
}

#[derive(Debug, Clone)]
enum Content<K, V> {
    Leaf(Vec<(K, V)>),
    Inner(Vec<Arc<Node<K, V>>>),
}

/// What an insertion did to a node.
struct Inserted<K, V> {
    previous: Option<V>,
    /// The part of the node that no longer fits; it follows the node.
    behind: Option<Arc<Node<K, V>>>,
}

impl<K: Clone, V: Clone> Clone for Node<K, V> {
    /// A node is copied in order to be changed, so the text is not copied.
    fn clone(&self) -> Self {
        Node { content: self.content.clone(), text: OnceLock::new() }
    }
}

impl<K, V> Node<K, V> {
    fn new(content: Content<K, V>) -> Arc<Self> {
        Arc::new(Node { content, text: OnceLock::new() })
    }

    fn first(&self) -> Option<&K> {
        match &self.content {
            Content::Leaf(entries) => entries.first().map(|(key, _)| key),
            Content::Inner(nodes) => nodes.first()?.first(),
        }
    }

    fn len(&self) -> usize {
        match &self.content {
            Content::Leaf(entries) => entries.len(),
            Content::Inner(nodes) => nodes.len(),
        }
    }

    /// The levels below it.
    fn height(&self) -> usize {
        match &self.content {
            Content::Leaf(_) => 0,
            Content::Inner(nodes) => 1 + nodes.first().map_or(0, |node| node.height()),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    /// `is_last`: no key of the map is greater than those of this node.
    fn insert(self: &mut Arc<Self>, key: K, value: V, is_last: bool) -> Inserted<K, V> {
        match &mut changed(self).content {
            Content::Leaf(entries) => match entries.binary_search_by(|(known, _)| known.cmp(&key)) {
                Ok(place) => {
                    let previous = Some(std::mem::replace(&mut entries[place].1, value));
                    Inserted { previous, behind: None }
                }
                Err(place) => {
                    entries.insert(place, (key, value));
                    let behind = split(entries, LEAF_ENTRIES_MAX, is_last);
                    Inserted { previous: None, behind: behind.map(|rest| Node::new(Content::Leaf(rest))) }
                }
            },
            Content::Inner(nodes) => {
                let place = place_of(nodes, &key);
                let is_last = is_last && place + 1 == nodes.len();
                let Inserted { previous, behind } = nodes[place].insert(key, value, is_last);
                if let Some(behind) = behind {
                    nodes.insert(place + 1, behind);
                }
                let behind = split(nodes, CHILDREN_MAX, is_last);
                Inserted { previous, behind: behind.map(|rest| Node::new(Content::Inner(rest))) }
            }
        }
    }

    /// Removes a key, which it contains.
    fn remove(self: &mut Arc<Self>, key: &K) -> Option<V> {
        match &mut changed(self).content {
            Content::Leaf(entries) => {
                let place = entries.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
                Some(entries.remove(place).1)
            }
            Content::Inner(nodes) => {
                let place = place_of(nodes, key);
                let removed = nodes[place].remove(key);
                if nodes[place].len() == 0 {
                    nodes.remove(place);
                } else {
                    join_at(nodes, place.saturating_sub(1));
                    join_at(nodes, place.min(nodes.len() - 1));
                }
                removed
            }
        }
    }
}

/// Joins a node with the next one if both fit into half a node: after that the result can grow and
/// shrink by as much before it is copied as a whole again.
fn join_at<K: Ord + Clone, V: Clone>(nodes: &mut Vec<Arc<Node<K, V>>>, place: usize) {
    let Some([one, next]) = nodes.get(place..place + 2) else { return };
    let max = if matches!(one.content, Content::Leaf(_)) { LEAF_ENTRIES_MAX } else { CHILDREN_MAX };
    if one.len() + next.len() > max / 2 {
        return;
    }
    let next = nodes.remove(place + 1);
    match (&mut changed(&mut nodes[place]).content, &next.content) {
        (Content::Leaf(entries), Content::Leaf(more)) => entries.extend_from_slice(more),
        (Content::Inner(children), Content::Inner(more)) => children.extend_from_slice(more),
        _ => unreachable!("all leaves are at the same depth"),
    }
}

/// What no longer fits into a list. Insertion in order leaves full nodes.
fn split<T>(list: &mut Vec<T>, max: usize, is_last: bool) -> Option<Vec<T>> {
    (list.len() > max).then(|| list.split_off(if is_last { max } else { max / 2 }))
}

/// The child that contains a key, or would.
fn place_of<K: Ord, V>(nodes: &[Arc<Node<K, V>>], key: &K) -> usize {
    nodes.partition_point(|node| node.first().is_some_and(|first| first <= key)).saturating_sub(1)
}

/// A node for a change: not shared, and without a text.
fn changed<K: Clone, V: Clone>(node: &mut Arc<Node<K, V>>) -> &mut Node<K, V> {
    let node = Arc::make_mut(node);
    node.text.take();
    node
}

/// The map.
#[derive(Debug, Clone)]
pub(super) struct Tree<K, V> {
    root: Option<Arc<Node<K, V>>>,
    len: usize,
}

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Tree { root: None, len: 0 }
    }
}

impl<K, V> Tree<K, V> {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether both are copies of the same map, and none was changed since.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (&self.root, &other.root) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    /// All entries, in order.
    pub(super) fn iter(&self) -> Iter<'_, K, V> {
        Iter::of(self.root.as_ref())
    }
}

impl<K: Ord + Clone, V: Clone> Tree<K, V> {
    /// The entries from a key on, in order.
    pub(super) fn iter_from<'a>(&'a self, key: &K) -> Iter<'a, K, V> {
        let mut iter = Iter::of(None);
        let mut next = self.root.as_ref();
        while let Some(node) = next {
            next = match &node.content {
                Content::Leaf(entries) => {
                    iter.entries = entries[entries.partition_point(|(known, _)| known < key)..].iter();
                    None
                }
                Content::Inner(nodes) => {
                    let place = place_of(nodes, key);
                    iter.above.push(nodes[place + 1..].iter());
                    nodes.get(place)
                }
            };
        }
        iter
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let mut node = self.root.as_ref()?;
        loop {
            match &node.content {
                Content::Leaf(entries) => {
                    let place = entries.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
                    return Some(&entries[place].1);
                }
                Content::Inner(nodes) => node = &nodes[place_of(nodes, key)],
            }
        }
    }

    /// Inserts a value; returns the previous one.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(root) = &mut self.root else {
            self.root = Some(Node::new(Content::Leaf(vec![(key, value)])));
            self.len = 1;
            return None;
        };
        let Inserted { previous, behind } = root.insert(key, value, true);
        if let Some(behind) = behind {
            *root = Node::new(Content::Inner(vec![Arc::clone(root), behind]));
        }
        self.len += usize::from(previous.is_none());
        previous
    }

    /// Removes a key; returns its value.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.get(key)?;
        let root = self.root.as_mut()?;
        let removed = root.remove(key)?;
        self.len -= 1;
        while let Content::Inner(nodes) = &root.content
            && let [only] = &nodes[..]
        {
            *root = Arc::clone(only);
        }
        if self.len == 0 {
            self.root = None;
        }
        Some(removed)
    }

    /// The texts of the pages, in order; `make` builds a text from the entries of a page the first
    /// time.
    pub(super) fn page_texts(&self, make: impl Fn(Iter<'_, K, V>) -> Vec<u8>) -> Vec<Arc<[u8]>> {
        let mut pages: Vec<&Arc<Node<K, V>>> = self.root.iter().collect();
        while pages.first().is_some_and(|node| node.height() > 1) {
            pages = children_of(&pages);
        }
        let text = |page: &&Arc<Node<K, V>>| {
            Arc::clone(page.text.get_or_init(|| Arc::from(make(Iter::of(Some(page))))))
        };
        pages.iter().map(text).collect()
    }

    /// The entries of both maps that are not in nodes that they share, in order.
    pub(super) fn apart<'a>(&'a self, newer: &'a Self) -> (Entries<'a, K, V>, Entries<'a, K, V>) {
        let mut before: Vec<&Arc<Node<K, V>>> = self.root.iter().collect();
        let mut after: Vec<&Arc<Node<K, V>>> = newer.root.iter().collect();
        let height_of = |nodes: &[&Arc<Node<K, V>>]| nodes.first().map_or(0, |node| node.height());
        loop {
            drop_shared(&mut before, &mut after, address_of);
            let heights = (height_of(&before), height_of(&after));
            if heights == (0, 0) {
                break;
            }
            if heights.0 >= heights.1 {
                before = children_of(&before);
            }
            if heights.1 >= heights.0 {
                after = children_of(&after);
            }
        }
        (entries_of(&before), entries_of(&after))
    }

    /// The difference between two maps: the entries of `newer` that are not in `self` with the same
    /// value, and the keys that only `self` has. Nodes that both share cost only a pointer
    /// comparison.
    pub(super) fn changes(&self, newer: &Self) -> (Vec<(K, V)>, Vec<K>)
    where
        V: PartialEq,
    {
        let (before, after) = self.apart(newer);
        // Both are in order, and none of their keys is in a node that both maps share.
        let mut before = before.into_iter().peekable();
        let (mut set, mut gone) = (Vec::new(), Vec::new());
        for entry in after {
            while let Some((key, _)) = before.next_if(|(key, _)| *key < entry.0) {
                gone.push(key.clone());
            }
            let known = before.next_if(|(key, _)| *key == entry.0);
            if known.is_none_or(|(_, value)| *value != entry.1) {
                set.push(entry.clone());
            }
        }
        gone.extend(before.map(|(key, _)| key.clone()));
        (set, gone)
    }
}

/// Drops what is in both lists, which have it in the same order. Cost: one step for each, if what is
/// different is in one place.
pub(super) fn drop_shared<T>(before: &mut Vec<T>, after: &mut Vec<T>, address: impl Fn(&T) -> usize) {
    let is_same = |(one, other): &(&T, &T)| address(one) == address(other);
    let start = before.iter().zip(after.iter()).take_while(is_same).count();
    before.drain(..start);
    after.drain(..start);
    let end = before.iter().rev().zip(after.iter().rev()).take_while(is_same).count();
    before.truncate(before.len() - end);
    after.truncate(after.len() - end);
    if before.len() <= 1 && after.len() <= 1 {
        return;
    }
    let known: HashSet<usize> = before.iter().map(&address).collect();
    let shared: HashSet<usize> = after.iter().map(&address).filter(|one| known.contains(one)).collect();
    if !shared.is_empty() {
        before.retain(|one| !shared.contains(&address(one)));
        after.retain(|one| !shared.contains(&address(one)));
    }
}

fn address_of<K, V>(node: &&Arc<Node<K, V>>) -> usize {
    Arc::as_ptr(node).addr()
}

fn children_of<'a, K, V>(nodes: &[&'a Arc<Node<K, V>>]) -> Vec<&'a Arc<Node<K, V>>> {
    let children = nodes.iter().map(|node| match &node.content {
        Content::Inner(children) => &children[..],
        Content::Leaf(_) => &[],
    });
    children.flatten().collect()
}

fn entries_of<'a, K, V>(leaves: &[&'a Arc<Node<K, V>>]) -> Vec<&'a (K, V)> {
    let entries = leaves.iter().map(|leaf| match &leaf.content {
        Content::Leaf(entries) => &entries[..],
        Content::Inner(_) => &[],
    });
    entries.flatten().collect()
}

/// Some entries of a map, in order.
pub(super) type Entries<'a, K, V> = Vec<&'a (K, V)>;

/// The children of a node that follow.
type Nodes<'a, K, V> = std::slice::Iter<'a, Arc<Node<K, V>>>;

/// Entries of a map, in order.
#[derive(Debug)]
pub(super) struct Iter<'a, K, V> {
    /// The nodes that follow, on each level above the leaf, top first.
    above: SmallVec<[Nodes<'a, K, V>; 6]>,
    /// The entries of the leaf that follow.
    entries: std::slice::Iter<'a, (K, V)>,
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Iter { above: self.above.clone(), entries: self.entries.clone() }
    }
}

impl<'a, K, V> Iter<'a, K, V> {
    /// All entries of a node.
    fn of(node: Option<&'a Arc<Node<K, V>>>) -> Self {
        let mut iter = Iter { above: SmallVec::new(), entries: [].iter() };
        if let Some(node) = node {
            iter.descend(node);
        }
        iter
    }

    /// Continues with the first entry of a node.
    fn descend(&mut self, mut node: &'a Arc<Node<K, V>>) {
        loop {
            match &node.content {
                Content::Leaf(entries) => {
                    self.entries = entries.iter();
                    return;
                }
                Content::Inner(nodes) => {
                    let mut rest = nodes.iter();
                    let Some(first) = rest.next() else { return };
                    self.above.push(rest);
                    node = first;
                }
            }
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.entries.next() {
                return Some((key, value));
            }
            match self.above.last_mut()?.next() {
                Some(node) => self.descend(node),
                None => {
                    self.above.pop();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
