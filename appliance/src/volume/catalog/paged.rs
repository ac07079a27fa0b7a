//! An ordered map in pages that copies share: a copy costs one reference. The first change after it
//! costs one reference for each page, and a copy of the page. Each page caches a text made from it
//! until it is changed. A copy may be read on any thread.

use std::sync::{Arc, OnceLock};

use super::shared::apart;

/// The maximum number of entries in a page; a full page is split into two.
const PAGE_ENTRIES_MAX: usize = 512;

/// A page: adjacent entries in order, at least one.
#[derive(Debug)]
pub(super) struct Page<K, V> {
    entries: Vec<(K, V)>,
    text: OnceLock<Arc<[u8]>>,
}

impl<K: Clone, V: Clone> Clone for Page<K, V> {
    /// A page is copied in order to be changed, so the text is not copied.
    fn clone(&self) -> Self {
        Page { entries: self.entries.clone(), text: OnceLock::new() }
    }
}

impl<K, V> Page<K, V> {
    fn new(entries: Vec<(K, V)>) -> Arc<Self> {
        Arc::new(Page { entries, text: OnceLock::new() })
    }

    fn first(&self) -> &K {
        &self.entries[0].0
    }

    /// The text of the page; `make` builds it from the entries the first time.
    pub(super) fn text(&self, make: impl FnOnce(&[(K, V)]) -> Vec<u8>) -> &Arc<[u8]> {
        self.text.get_or_init(|| Arc::from(make(&self.entries)))
    }
}

/// The map.
#[derive(Debug, Clone)]
pub(super) struct Paged<K, V> {
    pages: Arc<Vec<Arc<Page<K, V>>>>,
    len: usize,
}

impl<K, V> Default for Paged<K, V> {
    fn default() -> Self {
        Paged { pages: Arc::default(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> Paged<K, V> {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The pages, in order.
    pub(super) fn pages(&self) -> &[Arc<Page<K, V>>] {
        &self.pages
    }

    /// All entries, in order.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.pages.iter().flat_map(|page| page.entries.iter().map(|(key, value)| (key, value)))
    }

    /// The entries from a key on, in order.
    pub(super) fn iter_from<'a>(&'a self, key: &K) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V> {
        let page = self.page_of(key);
        let skipped = self.pages.get(page).map_or(0, |page| page.entries.partition_point(|(k, _)| k < key));
        let pages = self.pages.get(page..).unwrap_or_default();
        pages.iter().flat_map(|page| page.entries.iter().map(|(key, value)| (key, value))).skip(skipped)
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let page = self.pages.get(self.page_of(key))?;
        page.entries.binary_search_by(|(known, _)| known.cmp(key)).ok().map(|at| &page.entries[at].1)
    }

    /// Inserts a value; returns the previous one.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at = self.page_of(&key);
        let pages = Arc::make_mut(&mut self.pages);
        let Some(shared) = pages.get_mut(at) else {
            pages.push(Page::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let page = changed(shared);
        match page.entries.binary_search_by(|(known, _)| known.cmp(&key)) {
            Ok(place) => return Some(std::mem::replace(&mut page.entries[place].1, value)),
            Err(place) => page.entries.insert(place, (key, value)),
        }
        self.len += 1;
        if page.entries.len() > PAGE_ENTRIES_MAX {
            // Insertion in order leaves full pages.
            let is_last = at + 1 == pages.len();
            let page = changed(&mut pages[at]);
            let kept = if is_last { PAGE_ENTRIES_MAX } else { PAGE_ENTRIES_MAX / 2 };
            let behind = page.entries.split_off(kept);
            pages.insert(at + 1, Page::new(behind));
        }
        None
    }

    /// Removes a key; returns its value.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.page_of(key);
        let place = self.pages.get(at)?.entries.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
        let pages = Arc::make_mut(&mut self.pages);
        let page = changed(&mut pages[at]);
        let (_, value) = page.entries.remove(place);
        if page.entries.is_empty() {
            pages.remove(at);
        }
        self.len -= 1;
        Some(value)
    }

    /// The difference between two maps: the entries of `newer` that are not in `self` with the same
    /// value, and the keys that only `self` has. Pages that both share cost only a pointer
    /// comparison.
    pub(super) fn changes(&self, newer: &Self) -> (Vec<(K, V)>, Vec<K>)
    where
        V: PartialEq,
    {
        let (before, after) = apart(&self.pages, &newer.pages, Arc::ptr_eq);
        // Both are in order, and none of their keys is in a page that both maps share.
        let mut before = before.iter().flat_map(|page| page.entries.iter()).peekable();
        let (mut set, mut gone) = (Vec::new(), Vec::new());
        for entry in after.iter().flat_map(|page| page.entries.iter()) {
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

    /// The page that contains a key, or would.
    fn page_of(&self, key: &K) -> usize {
        self.pages.partition_point(|page| page.first() <= key).saturating_sub(1)
    }
}

/// A page for a change: not shared, and without a text.
fn changed<K: Clone, V: Clone>(page: &mut Arc<Page<K, V>>) -> &mut Page<K, V> {
    let page = Arc::make_mut(page);
    page.text.take();
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    crate::document::numbers!(
        the_document_has_this_bound,
        PAGE_ENTRIES_MAX => "A page has at most {} entries",
    );

    fn check(map: &Paged<u32, u32>, model: &BTreeMap<u32, u32>) {
        assert_eq!(map.len(), model.len());
        assert!(map.iter().eq(model.iter()));
        assert!(map.pages().iter().all(|page| (1..=PAGE_ENTRIES_MAX).contains(&page.entries.len())));
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_copies_stay_as_they_were(
            runs in proptest::collection::vec((0_u32..4, 0_u32..3000, 1_u32..900), 1..12),
        ) {
            let (mut map, mut model) = (Paged::default(), BTreeMap::new());
            for (kind, start, count) in runs {
                let (before, was) = (map.clone(), model.clone());
                for key in start..start + count {
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
        let mut map = Paged::default();
        for key in 0..2000_u32 {
            map.insert(key, key);
        }
        let texts = |map: &Paged<u32, u32>| {
            map.pages().iter().map(|page| Arc::clone(page.text(|_| vec![1]))).collect::<Vec<_>>()
        };
        let before = texts(&map);
        assert_eq!(before.len(), 4, "pages are filled in order");
        map.insert(700, 9);
        let after = texts(&map);
        let same: Vec<bool> = before.iter().zip(&after).map(|(one, other)| Arc::ptr_eq(one, other)).collect();
        assert_eq!(same, [true, false, true, true]);
    }
}
