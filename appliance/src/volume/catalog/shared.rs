//! A list whose copies share their entries, in chunks. A copy costs one reference. The first change
//! after it costs one reference for each chunk and for each entry of one chunk, and a copy of the
//! changed entry. The list keeps the length of its JSON text, so that the text need not be written
//! to find it.

use std::rc::Rc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The maximum number of entries in a chunk.
const CHUNK_ENTRIES_MAX: usize = 64;

/// Adjacent entries in order, at least one.
type Chunk<T> = Rc<Vec<Rc<T>>>;

/// The list.
///
/// **Invariants:** no chunk is empty; `len` is the number of all entries, and `entries_bytes` the
/// length of their texts.
#[derive(Debug, Clone)]
pub(crate) struct Shared<T> {
    chunks: Rc<Vec<Chunk<T>>>,
    len: usize,
    entries_bytes: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared { chunks: Rc::default(), len: 0, entries_bytes: 0 }
    }
}

impl<T> Shared<T> {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries, in order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + Clone {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|entry| &**entry)
    }

    /// The length of the list's JSON text, in bytes.
    pub(super) fn text_bytes(&self) -> usize {
        self.entries_bytes + self.len().saturating_sub(1) + 2
    }

    /// The entries of both lists without those that they share at their starts and ends.
    pub(super) fn apart<'a>(&'a self, newer: &'a Self) -> (Vec<&'a T>, Vec<&'a T>) {
        let (before, after) = apart(&self.chunks, &newer.chunks, Rc::ptr_eq);
        let (before, after) = (entries_of(before), entries_of(after));
        let (before, after) = apart(&before, &after, |one, other| Rc::ptr_eq(one, other));
        let plain = |entries: &[&'a Rc<T>]| entries.iter().map(|entry| &***entry).collect();
        (plain(before), plain(after))
    }
}

fn entries_of<T>(chunks: &[Chunk<T>]) -> Vec<&Rc<T>> {
    chunks.iter().flat_map(|chunk| chunk.iter()).collect()
}

/// The parts of two slices without what they share at their starts and ends.
pub(super) fn apart<'a, 'b, T>(
    mut before: &'a [T],
    mut after: &'b [T],
    is_same: impl Fn(&T, &T) -> bool,
) -> (&'a [T], &'b [T]) {
    while let ([one, rest_before @ ..], [other, rest_after @ ..]) = (before, after)
        && is_same(one, other)
    {
        (before, after) = (rest_before, rest_after);
    }
    while let ([rest_before @ .., one], [rest_after @ .., other]) = (before, after)
        && is_same(one, other)
    {
        (before, after) = (rest_before, rest_after);
    }
    (before, after)
}

impl<T: Serialize + Clone> Shared<T> {
    /// Adds an entry at the end.
    pub(crate) fn push(&mut self, entry: T) {
        self.entries_bytes += text_bytes_of(&entry);
        self.len += 1;
        let chunks = Rc::make_mut(&mut self.chunks);
        match chunks.last_mut().filter(|chunk| chunk.len() < CHUNK_ENTRIES_MAX) {
            Some(chunk) => Rc::make_mut(chunk).push(Rc::new(entry)),
            None => chunks.push(Rc::new(vec![Rc::new(entry)])),
        }
    }

    /// Removes the first entry that `find` accepts. Returns whether there is one.
    pub(crate) fn remove(&mut self, find: impl Fn(&T) -> bool) -> bool {
        let Some((at, place)) = self.place_of(find) else { return false };
        let chunks = Rc::make_mut(&mut self.chunks);
        let chunk = Rc::make_mut(&mut chunks[at]);
        let entry = chunk.remove(place);
        if chunk.is_empty() {
            chunks.remove(at);
        }
        self.len -= 1;
        self.entries_bytes -= text_bytes_of(&*entry);
        true
    }

    /// Keeps the entries for which `is_kept` is true.
    pub(crate) fn retain(&mut self, mut is_kept: impl FnMut(&T) -> bool) {
        if self.iter().all(&mut is_kept) {
            return;
        }
        let chunks = Rc::make_mut(&mut self.chunks);
        for chunk in chunks.iter_mut() {
            if chunk.iter().all(|entry| is_kept(entry)) {
                continue;
            }
            Rc::make_mut(chunk).retain(|entry| {
                let keeps = is_kept(entry);
                if !keeps {
                    self.len -= 1;
                    self.entries_bytes -= text_bytes_of(&**entry);
                }
                keeps
            });
        }
        chunks.retain(|chunk| !chunk.is_empty());
    }

    /// Drops the first `count` entries.
    pub(super) fn drop_first(&mut self, count: usize) {
        let chunks = Rc::make_mut(&mut self.chunks);
        let mut left = count;
        while left > 0 {
            let chunk = Rc::make_mut(&mut chunks[0]);
            let dropped = chunk.drain(..left.min(chunk.len()));
            left -= dropped.len();
            self.entries_bytes -= dropped.map(|entry| text_bytes_of(&*entry)).sum::<usize>();
            if chunk.is_empty() {
                chunks.remove(0);
            }
        }
        self.len -= count;
    }

    /// Changes the first entry that `find` accepts, and returns the result of the change.
    pub(crate) fn change<R>(
        &mut self,
        find: impl Fn(&T) -> bool,
        change: impl FnOnce(&mut T) -> R,
    ) -> Option<R> {
        let (at, place) = self.place_of(find)?;
        let chunk = Rc::make_mut(&mut Rc::make_mut(&mut self.chunks)[at]);
        let entry = Rc::make_mut(&mut chunk[place]);
        self.entries_bytes -= text_bytes_of(entry);
        let done = change(entry);
        self.entries_bytes += text_bytes_of(entry);
        Some(done)
    }

    /// The chunk, and the place in it, of the first entry that `find` accepts.
    fn place_of(&self, find: impl Fn(&T) -> bool) -> Option<(usize, usize)> {
        let mut chunks = self.chunks.iter().enumerate();
        chunks.find_map(|(at, chunk)| Some((at, chunk.iter().position(|entry| find(entry))?)))
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

    proptest! {
        #[test]
        fn a_list_knows_its_length_and_its_copies_stay(
            edits in proptest::collection::vec((0_u8..5, any::<u32>()), 0..400),
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
