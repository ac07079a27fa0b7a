//! A list whose copies share their entries. A copy costs one reference; the first change after it a
//! reference for each entry and a copy of what is changed. The list knows how long its JSON text
//! is, so nobody has to write it to know.

use std::rc::Rc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The list.
///
/// **Invariant:** `entries_bytes` is the length of the texts of all entries.
#[derive(Debug, Clone)]
pub(crate) struct Shared<T> {
    entries: Rc<Vec<Rc<T>>>,
    entries_bytes: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared { entries: Rc::default(), entries_bytes: 0 }
    }
}

impl<T> Shared<T> {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries, in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + Clone {
        self.entries.iter().map(|entry| &**entry)
    }

    /// How long the JSON text of the list is, in bytes.
    pub(super) fn text_bytes(&self) -> usize {
        self.entries_bytes + self.len().saturating_sub(1) + 2
    }

    /// The entries of both lists between those that they share at their beginnings and ends.
    pub(super) fn apart<'a>(&'a self, newer: &'a Self) -> (&'a [Rc<T>], &'a [Rc<T>]) {
        apart(&self.entries, &newer.entries)
    }
}

/// What two lists have between what they share at their beginnings and ends.
pub(super) fn apart<'a, T>(mut before: &'a [Rc<T>], mut after: &'a [Rc<T>]) -> (&'a [Rc<T>], &'a [Rc<T>]) {
    while let ([one, rest_before @ ..], [other, rest_after @ ..]) = (before, after)
        && Rc::ptr_eq(one, other)
    {
        (before, after) = (rest_before, rest_after);
    }
    while let ([rest_before @ .., one], [rest_after @ .., other]) = (before, after)
        && Rc::ptr_eq(one, other)
    {
        (before, after) = (rest_before, rest_after);
    }
    (before, after)
}

impl<T: Serialize + Clone> Shared<T> {
    /// Adds an entry at the end.
    pub(crate) fn push(&mut self, entry: T) {
        self.entries_bytes += text_bytes_of(&entry);
        Rc::make_mut(&mut self.entries).push(Rc::new(entry));
    }

    /// Takes out the first entry that this finds; whether there is one.
    pub(crate) fn remove(&mut self, find: impl Fn(&T) -> bool) -> bool {
        let Some(place) = self.entries.iter().position(|entry| find(entry)) else { return false };
        let entry = Rc::make_mut(&mut self.entries).remove(place);
        self.entries_bytes -= text_bytes_of(&*entry);
        true
    }

    /// Keeps the entries for which this is true.
    pub(crate) fn retain(&mut self, mut is_kept: impl FnMut(&T) -> bool) {
        if self.entries.iter().all(|entry| is_kept(entry)) {
            return;
        }
        let entries_bytes = &mut self.entries_bytes;
        Rc::make_mut(&mut self.entries).retain(|entry| {
            let keeps = is_kept(entry);
            if !keeps {
                *entries_bytes -= text_bytes_of(&**entry);
            }
            keeps
        });
    }

    /// Drops the first entries.
    pub(super) fn drop_first(&mut self, count: usize) {
        let dropped = Rc::make_mut(&mut self.entries).drain(..count);
        self.entries_bytes -= dropped.map(|entry| text_bytes_of(&*entry)).sum::<usize>();
    }

    /// Changes the first entry that this finds, and returns what the change does.
    pub(crate) fn change<R>(
        &mut self,
        find: impl Fn(&T) -> bool,
        change: impl FnOnce(&mut T) -> R,
    ) -> Option<R> {
        let place = self.entries.iter().position(|entry| find(entry))?;
        let entry = Rc::make_mut(&mut Rc::make_mut(&mut self.entries)[place]);
        self.entries_bytes -= text_bytes_of(entry);
        let done = change(entry);
        self.entries_bytes += text_bytes_of(entry);
        Some(done)
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        let (one, other) = self.apart(other);
        one == other
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T: Serialize + Clone> FromIterator<T> for Shared<T> {
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

impl<'de, T: Serialize + Clone + Deserialize<'de>> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<T>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// How long the JSON text of something is, in bytes.
pub(super) fn text_bytes_of(value: &impl Serialize) -> usize {
    let mut counted = Counted(0);
    if serde_json::to_writer(&mut counted, value).is_err() {
        unreachable!("what is counted is plain data")
    }
    counted.0
}

/// Counts the bytes of a text that nobody needs.
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

    proptest! {
        #[test]
        fn a_list_knows_its_length_and_its_copies_stay(
            edits in proptest::collection::vec((0_u8..5, any::<u32>()), 0..60),
        ) {
            let (mut list, mut model) = (Shared::default(), Vec::new());
            for (kind, number) in edits {
                let (before, was) = (list.clone(), model.clone());
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
                        let place = model.iter().position(|known| known % 5 == number % 5);
                        prop_assert_eq!(list.remove(|known| known % 5 == number % 5), place.is_some());
                        place.map(|place| model.remove(place));
                    }
                    3 => {
                        let changed = list.change(|known| *known >= number, |known| *known /= 2);
                        let known = model.iter_mut().find(|known| **known >= number);
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
                prop_assert_eq!(list == before, model == was);
                let text = serde_json::to_vec(&list).expect("plain data");
                prop_assert_eq!(list.text_bytes(), text.len());
                prop_assert_eq!(serde_json::from_slice::<Shared<u32>>(&text).ok(), Some(list.clone()));
            }
        }
    }
}
