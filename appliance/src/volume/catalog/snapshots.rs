//! The snapshots of a catalog: by name, and in the order of the log. There may be 100,000 of them,
//! so copying them is cheap, and so is their text if few of them changed. A copy may be read on any
//! thread.
//!
//! The text of a page of them, in the catalog's text:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | bytes of the entries |
//! | 4 | bytes that follow here; fewer than the entries have: zstd, otherwise the entries |
//! | rest | the entries: LSN u64, time in ns u64, length of the name u8, name |

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::tree::Tree;
use crate::log::Lsn;

/// A snapshot, as the catalog stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CatalogSnapshot {
    pub(crate) name: Arc<str>,
    pub(crate) lsn: u64,
    pub(crate) time_ns: u64,
}

/// The length of an entry's text in bytes, without its name.
const ENTRY_BYTES: usize = 17;
/// The length of a page's head in bytes, before its entries.
const PAGE_HEAD_BYTES: usize = 8;
/// The maximum length of the entries of a page, in bytes; longer pages are not read.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// The number of entries for each page head that the bound of the text assumes: pages may be half
/// full, because they split.
const ENTRIES_PER_HEAD: usize = 128;

/// The snapshots. Names are unique.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshots {
    by_name: Tree<Arc<str>, (u64, u64)>,
    by_lsn: Tree<(u64, Arc<str>), u64>,
    entries_bytes: usize,
}

impl Snapshots {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The snapshot with a name.
    pub(crate) fn get(&self, name: &str) -> Option<CatalogSnapshot> {
        let name: Arc<str> = Arc::from(name);
        let &(lsn, time_ns) = self.by_name.get(&name)?;
        Some(CatalogSnapshot { name, lsn, time_ns })
    }

    /// A snapshot at a position.
    pub(crate) fn at(&self, lsn: Lsn) -> Option<CatalogSnapshot> {
        self.iter_from(lsn).next().filter(|snapshot| snapshot.lsn == lsn.0)
    }

    /// All, in the order of the log.
    pub(crate) fn iter(&self) -> impl Iterator<Item = CatalogSnapshot> + '_ {
        self.iter_from(Lsn(0))
    }

    /// Those at or after a position, in the order of the log.
    pub(crate) fn iter_from(&self, lsn: Lsn) -> impl Iterator<Item = CatalogSnapshot> + '_ {
        let first: (u64, Arc<str>) = (lsn.0, Arc::from(""));
        self.by_lsn.iter_from(&first).map(|((lsn, name), &time_ns)| CatalogSnapshot {
            name: Arc::clone(name),
            lsn: *lsn,
            time_ns,
        })
    }

    /// A page of those at or after a position, in the order of the log: at most `limit`, plus all
    /// others at the last one's position.
    pub(crate) fn page(&self, lsn: Lsn, limit: usize) -> impl Iterator<Item = CatalogSnapshot> + '_ {
        let (mut count, mut last_lsn) = (0, None);
        self.iter_from(lsn).take_while(move |snapshot| {
            let is_in_page = count < limit || last_lsn == Some(snapshot.lsn);
            count += 1;
            last_lsn = Some(snapshot.lsn);
            is_in_page
        })
    }

    /// The positions and names of all, in the order of the log.
    pub(crate) fn names(&self) -> impl Iterator<Item = (Lsn, &str)> {
        self.by_lsn.iter().map(|((lsn, name), _)| (Lsn(*lsn), &**name))
    }

    /// Inserts a snapshot; it replaces one with the same name.
    pub(crate) fn insert(&mut self, snapshot: &CatalogSnapshot) {
        self.remove(&snapshot.name);
        self.entries_bytes += ENTRY_BYTES + snapshot.name.len();
        self.by_name.insert(Arc::clone(&snapshot.name), (snapshot.lsn, snapshot.time_ns));
        self.by_lsn.insert((snapshot.lsn, Arc::clone(&snapshot.name)), snapshot.time_ns);
    }

    /// Removes a snapshot. Returns whether it existed.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let name: Arc<str> = Arc::from(name);
        let Some((lsn, _)) = self.by_name.remove(&name) else { return false };
        self.entries_bytes -= ENTRY_BYTES + name.len();
        self.by_lsn.remove(&(lsn, name));
        true
    }

    /// The snapshots of `newer` that are not equal here, and the names that only exist here.
    pub(super) fn changes(&self, newer: &Self) -> (Vec<CatalogSnapshot>, Vec<Arc<str>>) {
        let (set, gone) = self.by_name.changes(&newer.by_name);
        let set =
            set.into_iter().map(|(name, (lsn, time_ns))| CatalogSnapshot { name, lsn, time_ns }).collect();
        (set, gone)
    }

    /// The maximum length of the texts of all pages, in bytes.
    pub(super) fn texts_bytes_max(&self) -> usize {
        self.entries_bytes + (self.len().div_ceil(ENTRIES_PER_HEAD) + 1) * PAGE_HEAD_BYTES
    }

    /// The texts of all pages, in order, within [`texts_bytes_max`](Self::texts_bytes_max). Cost:
    /// one reference for each unchanged page.
    pub(super) fn texts(&self) -> Vec<Arc<[u8]>> {
        let mut texts = self.by_lsn.page_texts(|entries| page_text(entries));
        if texts.iter().map(|text| text.len()).sum::<usize>() > self.texts_bytes_max() {
            // There are many pages with few entries each, as deletions leave them.
            let all: Vec<_> = self.by_lsn.iter().collect();
            let chunks = all.chunks(ENTRIES_PER_HEAD);
            texts = chunks.map(|chunk| Arc::from(page_text(chunk.iter().copied()))).collect();
        }
        texts
    }

    /// Reads the texts of pages; `None` if they are not valid.
    pub(super) fn of_texts(mut texts: &[u8]) -> Option<Self> {
        let mut snapshots = Snapshots::default();
        while !texts.is_empty() {
            let (head, rest) = texts.split_at_checked(PAGE_HEAD_BYTES)?;
            let number =
                |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap_or_default()) as usize;
            let (entries_bytes, stored_bytes) = (number(0), number(4));
            let (stored, rest) = rest.split_at_checked(stored_bytes)?;
            if entries_bytes > PAGE_BYTES_MAX {
                return None;
            }
            if stored_bytes == entries_bytes {
                snapshots.read_entries(stored)?;
            } else {
                let mut entries = Vec::with_capacity(entries_bytes);
                let len = zstd_safe::decompress(&mut entries, stored).ok()?;
                if len != entries_bytes {
                    return None;
                }
                snapshots.read_entries(&entries)?;
            }
            texts = rest;
        }
        Some(snapshots)
    }

    fn read_entries(&mut self, mut entries: &[u8]) -> Option<()> {
        while !entries.is_empty() {
            let (head, rest) = entries.split_at_checked(ENTRY_BYTES)?;
            let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap_or_default());
            let (name, rest) = rest.split_at_checked(usize::from(head[16]))?;
            let name = Arc::from(std::str::from_utf8(name).ok()?);
            self.insert(&CatalogSnapshot { name, lsn: number(0), time_ns: number(8) });
            entries = rest;
        }
        Some(())
    }
}

/// The text of one page.
fn page_text<'a>(entries: impl Iterator<Item = (&'a (u64, Arc<str>), &'a u64)>) -> Vec<u8> {
    let mut plain = Vec::with_capacity(ENTRIES_PER_HEAD * (ENTRY_BYTES + 16));
    for ((lsn, name), time_ns) in entries {
        plain.extend_from_slice(&lsn.to_le_bytes());
        plain.extend_from_slice(&time_ns.to_le_bytes());
        // Names are much shorter than this; a name whose length does not fit into one byte is cut,
        // never misread.
        let name = &name.as_bytes()[..name.len().min(usize::from(u8::MAX))];
        plain.push(name.len() as u8);
        plain.extend_from_slice(name);
    }
    let mut pressed = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
    let is_shorter = zstd_safe::compress(&mut pressed, &plain, 1).is_ok_and(|len| len < plain.len());
    let stored = if is_shorter { &pressed } else { &plain };
    let mut text = Vec::with_capacity(PAGE_HEAD_BYTES + stored.len());
    text.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    text.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    text.extend_from_slice(stored);
    text
}

impl PartialEq for Snapshots {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Snapshots {}

impl FromIterator<CatalogSnapshot> for Snapshots {
    fn from_iter<I: IntoIterator<Item = CatalogSnapshot>>(list: I) -> Self {
        let mut snapshots = Snapshots::default();
        list.into_iter().for_each(|snapshot| snapshots.insert(&snapshot));
        snapshots
    }
}

impl Serialize for Snapshots {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Snapshots {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<CatalogSnapshot>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    crate::document::numbers!(
        the_document_has_these_bounds,
        PAGE_BYTES_MAX => "bytes of the entries, n; at most {} (`PAGE_BYTES_MAX`)",
        PAGE_HEAD_BYTES => "| {} | m | the entries if m = n;",
    );

    #[test]
    fn a_page_has_the_bytes_that_the_document_gives() {
        let rows = crate::document::rows_of("**Snapshot page**", "| offset");
        let places: Vec<[&str; 2]> = rows.iter().map(|row| [row[0], row[1]]).collect();
        assert_eq!(places, [["0", "4"], ["4", "4"], ["8", "m"]]);
        crate::document::check_says("An entry: LSN u64, time u64, length of the name u8, the name in UTF-8.");
        let text = texts(&[snapshot(3)].into_iter().collect());
        let entry = [&1_u64.to_le_bytes()[..], &(3_u64 << 20).to_le_bytes(), &[2], b"s3"].concat();
        let len = (entry.len() as u32).to_le_bytes();
        assert_eq!(text, [&len[..], &len, &entry].concat());
    }

    fn snapshot(number: u64) -> CatalogSnapshot {
        CatalogSnapshot { name: Arc::from(format!("s{number}")), lsn: number / 3, time_ns: number << 20 }
    }

    fn texts(snapshots: &Snapshots) -> Vec<u8> {
        snapshots.texts().concat()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_whatever_was_deleted(
            count in 0_u64..3000,
            step in 1_u64..400,
            kept in 0_u64..3,
        ) {
            let mut snapshots: Snapshots = (0..count).map(snapshot).collect();
            for number in (0..count).filter(|number| number % step > kept) {
                let was_there = snapshots.remove(&format!("s{number}"));
                prop_assert!(was_there);
            }
            let text = texts(&snapshots);
            prop_assert!(text.len() <= snapshots.texts_bytes_max());
            prop_assert_eq!(Snapshots::of_texts(&text), Some(snapshots.clone()));
            prop_assert_eq!(snapshots.get("s0").is_some(), count > 0);
            // A truncated text is invalid, or has fewer entries.
            for cut in [1, 7, text.len() / 2].into_iter().filter(|&cut| cut > 0) {
                if let Some(fewer) = text.len().checked_sub(cut).and_then(|len| Snapshots::of_texts(&text[..len])) {
                    prop_assert!(fewer.len() < snapshots.len());
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Snapshots::of_texts(&bytes);
        }
    }

    #[test]
    fn one_is_found_by_name_and_by_position() {
        let mut snapshots: Snapshots = (0..10).map(snapshot).collect();
        snapshots.insert(&CatalogSnapshot { name: Arc::from("s4"), lsn: 100, time_ns: 5 });
        assert_eq!(snapshots.len(), 10);
        assert_eq!(snapshots.get("s4").map(|found| found.lsn), Some(100));
        let behind: Vec<_> = snapshots.iter_from(Lsn(3)).map(|found| found.name.to_string()).collect();
        assert_eq!(behind, ["s9", "s4"]);
    }
}
