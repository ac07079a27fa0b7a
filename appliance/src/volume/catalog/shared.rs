//! A list whose copies share their entries, in which entries are found by keys. A copy costs one
//! reference; a lookup and a change cost a few nodes of two trees, whatever the number of entries.
//! The list keeps the length of its JSON text, so that the text need not be written to find it.

use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;
use uuid::Uuid;

use super::tree::{Tree, drop_shared};

/// What an entry is found by. Several entries may have the same key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A number that belongs to one entry.
    Id(u64),
    /// A UUID.
    Uuid(Uuid),
    /// A name.
    Name(Arc<str>),
    /// The image from which it was made.
    Parent(u32),
}

/// The keys of an entry.
pub(crate) type Keys = SmallVec<[Key; 3]>;

impl Key {
    /// A name as a key.
    pub(crate) fn name(name: &str) -> Self {
        Key::Name(Arc::from(name))
    }
}

/// An entry that is found by keys.
pub(crate) trait Keyed {
    /// All of them.
    fn keys(&self) -> Keys;
}

/// The list.
///
/// **Invariants:** `entries` has them by numbers that rise in the order of the list, all below
/// `next`; `numbers` has each key of each entry with the entry's number; `entries_bytes` is the
/// length of their texts.
#[derive(Debug, Clone)]
pub(crate) struct Shared<T> {
    entries: Tree<u64, Rc<T>>,
    numbers: Tree<(Key, u64), ()>,
    next: u64,
    entries_bytes: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared { entries: Tree::default(), numbers: Tree::default(), next: 0, entries_bytes: 0 }
    }
}

impl<T> Shared<T> {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        self.entries.iter().map(|(_, entry)| &**entry)
    }

    /// The first entry with a key.
    pub(crate) fn get(&self, key: &Key) -> Option<&T> {
        self.all(key).next()
    }

    /// Every entry with a key, in order.
    pub(crate) fn all<'a>(&'a self, key: &Key) -> impl Iterator<Item = &'a T> + use<'a, T> {
        self.numbers_of(key).filter_map(|number| self.entries.get(&number)).map(|entry| &**entry)
    }

    fn numbers_of<'a>(&'a self, key: &Key) -> impl Iterator<Item = u64> + use<'a, T> {
        let first = (key.clone(), 0);
        let from = self.numbers.iter_from(&first);
        from.take_while(move |((key, _), ())| *key == first.0).map(|((_, number), ())| *number)
    }

    /// The length of the list's JSON text, in bytes.
    pub(super) fn text_bytes(&self) -> usize {
        self.entries_bytes + self.len().saturating_sub(1) + 2
    }

    /// The entries of both lists without those that they share, in order.
    pub(super) fn apart<'a>(&'a self, newer: &'a Self) -> (Vec<&'a T>, Vec<&'a T>) {
        let (mut before, mut after) = self.entries.apart(&newer.entries);
        drop_shared(&mut before, &mut after, |(_, entry)| Rc::as_ptr(entry).addr());
        let plain = |entries: Vec<&'a (u64, Rc<T>)>| entries.into_iter().map(|(_, entry)| &**entry).collect();
        (plain(before), plain(after))
    }
}

impl<T: Serialize + Clone + Keyed> Shared<T> {
    /// Adds an entry at the end.
    pub(crate) fn push(&mut self, entry: T) {
        let number = self.next;
        self.next += 1;
        self.set(number, Rc::new(entry));
    }

    /// Removes the first entry with a key. Returns whether there is one.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let number = self.numbers_of(key).next();
        number.is_some_and(|number| self.take(number).is_some())
    }

    /// Keeps the entries for which `is_kept` is true.
    pub(crate) fn retain(&mut self, mut is_kept: impl FnMut(&T) -> bool) {
        let gone = self.entries.iter().filter(|(_, entry)| !is_kept(entry)).map(|(number, _)| *number);
        for number in gone.collect::<Vec<u64>>() {
            self.take(number);
        }
    }

    /// Drops the first `count` entries.
    pub(super) fn drop_first(&mut self, count: usize) {
        let first = self.entries.iter().take(count).map(|(number, _)| *number);
        for number in first.collect::<Vec<u64>>() {
            self.take(number);
        }
    }

    /// Changes the first entry with a key, and returns the result of the change.
    pub(crate) fn change<R>(&mut self, key: &Key, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        let number = self.numbers_of(key).next()?;
        let mut entry = self.take(number)?;
        let done = change(Rc::make_mut(&mut entry));
        self.set(number, entry);
        Some(done)
    }

    /// Adds an entry with a number that no other has.
    fn set(&mut self, number: u64, entry: Rc<T>) {
        self.entries_bytes += text_bytes_of(&*entry);
        for key in entry.keys() {
            self.numbers.insert((key, number), ());
        }
        let previous = self.entries.insert(number, entry);
        assert!(previous.is_none(), "a number belongs to one entry");
    }

    /// Removes the entry with a number.
    fn take(&mut self, number: u64) -> Option<Rc<T>> {
        let entry = self.entries.remove(&number)?;
        self.entries_bytes -= text_bytes_of(&*entry);
        for key in entry.keys() {
            self.numbers.remove(&(key, number));
        }
        Some(entry)
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.entries.is_same(&other.entries) || (self.len() == other.len() && self.iter().eq(other.iter()))
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T: Serialize + Clone + Keyed> FromIterator<T> for Shared<T> {
    fn from_iter<I: IntoIterator<Item = T>>(entries: I) -> Self {
        let mut list = Shared::default();
        for entry in entries {
            list.push(entry);
        }
        list
    }
}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de, T: Serialize + Clone + Keyed + Deserialize<'de>> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<T>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// The length of a value's JSON text, in bytes.
pub(super) fn text_bytes_of(value: &impl Serialize) -> usize {
    let mut counted = Counted(0);
    if serde_json::to_writer(&mut counted, value).is_err() {
        unreachable!("what is counted is plain data")
    }
    counted.0
}

/// Counts the bytes of a text without storing it.
struct Counted(usize);

impl std::io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An entry whose number several others may have.
    impl Keyed for u32 {
        fn keys(&self) -> Keys {
            [Key::Id(u64::from(*self)), Key::Parent(*self % 5)].into_iter().collect()
        }
    }

    proptest! {
        #[test]
        fn a_list_knows_its_length_and_its_copies_stay(
            edits in proptest::collection::vec((0_u8..5, any::<u32>()), 0..400),
        ) {
            let (mut list, mut model) = (Shared::default(), Vec::new());
            for (kind, number) in edits {
                let (before, was) = (list.clone(), model.clone());
                let (key, has_key) = (Key::Parent(number % 5), |known: &u32| known % 5 == number % 5);
                match kind {
                    0 | 1 => {
                        list.push(number);
                        model.push(number);
                    }
                    2 => {
                        list.retain(|known| known % 7 != number % 7);
                        model.retain(|known| known % 7 != number % 7);
                    }
                    3 if number % 2 == 0 => {
                        let place = model.iter().position(has_key);
                        prop_assert_eq!(list.remove(&key), place.is_some());
                        place.map(|place| model.remove(place));
                    }
                    3 => {
                        let changed = list.change(&key, |known| *known /= 2);
                        let known = model.iter_mut().find(|known| has_key(known));
                        prop_assert_eq!(changed.is_some(), known.is_some());
                        if let Some(known) = known {
                            *known /= 2;
                        }
                    }
                    _ => {
                        let count = model.len().min(2);
                        list.drop_first(count);
                        model.drain(..count);
                    }
                }
                prop_assert!(list.iter().eq(&model) && before.iter().eq(&was));
                prop_assert!(list.all(&key).eq(model.iter().filter(|known| has_key(known))));
                prop_assert_eq!(list.get(&Key::Id(u64::from(number))).copied(), model.iter().copied().find(|&known| known == number));
                prop_assert_eq!(list == before, model == was);
                let text = serde_json::to_vec(&list).expect("plain data");
                prop_assert_eq!(list.text_bytes(), text.len());
                prop_assert_eq!(serde_json::from_slice::<Shared<u32>>(&text).ok(), Some(list.clone()));
                // What is apart is what one has and the other has not.
                let (gone, new) = before.apart(&list);
                prop_assert!(gone.len() + list.len() == new.len() + before.len());
                prop_assert!(gone.len() <= was.len() && new.len() <= 1, "{} {}", gone.len(), new.len());
            }
        }
    }
}
