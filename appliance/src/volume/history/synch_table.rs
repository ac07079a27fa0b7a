//! A table of synchs in the order of the log, compact, in pages that copies share: a copy costs one
//! reference, and may be read on any thread. The first change after a copy costs one reference for
//! each page, and a copy of the changed page.
//!
//! **Memory:** a synch takes 32 bytes, its label, for a mark of one volume or group its UUID as
//! text and its name, and its details as JSON if they have at most
//! [`DETAILS_KEPT_BYTES_MAX`] bytes; `null` takes none. Longer details take nothing: they are read
//! from the log or the archive when somebody asks for them (`synch_details`). 100,000 synchs with
//! labels of 16 and details of 25 bytes take 7.5 MB; with the longest label and the longest details
//! that are kept, 55 MB.
//!
//! **Invariants:** positions rise, and each has at most one synch. A page has 1 to
//! [`PAGE_ENTRIES_MAX`] entries.

use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use crate::log::Lsn;
use crate::volume::info::{SynchInfo, SynchVolume};

/// The maximum length of details that stay in memory, in bytes of JSON.
pub(in crate::volume) const DETAILS_KEPT_BYTES_MAX: usize = 256;
/// The maximum number of entries in a page.
const PAGE_ENTRIES_MAX: usize = 256;
/// The length of a UUID as text, in bytes.
const UUID_BYTES: usize = uuid::fmt::Hyphenated::LENGTH;
/// Stands before the name of a group; no name has it.
const GROUP_MARK: char = '@';
/// Bits of the label's length in an entry; the higher bits have the length of the volume's text.
const LABEL_BITS: u32 = 9;

/// The details of a synch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SynchDetails<'a> {
    /// As JSON.
    Kept(&'a str),
    /// They are not in memory.
    Elsewhere {
        /// Their length in bytes of JSON; more than 65,535 are shown as 65,535.
        len_bytes: usize,
    },
}

/// A synch of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynchRef<'a> {
    /// Its number; 0 if its text is damaged.
    pub id: u64,
    /// Its label.
    pub label: &'a str,
    /// Its position.
    pub lsn: Lsn,
    /// Its time, ns since the Unix epoch.
    pub time_ns: u64,
    /// The volume that it is a mark of: its UUID as text, and then the name that it had; for a
    /// group with `GROUP_MARK` between the two; empty: all volumes.
    pub volume: &'a str,
    /// The caller's details.
    pub details: SynchDetails<'a>,
}

impl SynchRef<'_> {
    /// Whether its text is lost; the ids of others begin with 1.
    pub(crate) fn is_damaged(&self) -> bool {
        self.id == 0
    }

    /// The UUID of the volume or group that it is a mark of, and the rest of the text; `None`: all
    /// volumes.
    fn of(&self) -> Option<(Uuid, &str)> {
        let (uuid, name) = self.volume.split_at_checked(UUID_BYTES)?;
        Some((Uuid::try_parse(uuid).ok()?, name))
    }

    /// The volume, and the group, that it is a mark of: at most one of them.
    fn marked(&self) -> (Option<SynchVolume>, Option<SynchVolume>) {
        let Some((uuid, name)) = self.of() else { return (None, None) };
        let of = |name: &str| Some(SynchVolume { uuid, name: name.to_owned() });
        match name.strip_prefix(GROUP_MARK) {
            Some(name) => (None, of(name)),
            None => (of(name), None),
        }
    }

    /// Whether it is a mark of all volumes, or of one of these.
    pub(crate) fn is_for(&self, wanted: Option<&[Uuid]>) -> bool {
        match (self.of(), wanted) {
            (Some((uuid, _)), Some(wanted)) => wanted.contains(&uuid),
            _ => true,
        }
    }

    /// The synch as it is shown. Details that are not in memory are `null`, with a note.
    pub fn to_info(&self) -> SynchInfo {
        let details = match self.details {
            SynchDetails::Kept(text) => serde_json::from_str(text).map_err(|error| error.to_string()),
            SynchDetails::Elsewhere { len_bytes } => Err(format!("{len_bytes} bytes that are not in memory")),
        };
        self.with_details(details)
    }

    /// The synch as it is shown, with these details, or with the reason why they cannot be read.
    pub(crate) fn with_details(&self, details: Result<serde_json::Value, String>) -> SynchInfo {
        let (details, details_unread) = match details {
            Ok(details) => (details, None),
            Err(reason) => (serde_json::Value::Null, Some(reason)),
        };
        let (volume, group) = self.marked();
        SynchInfo {
            id: self.id,
            label: self.label.to_owned(),
            lsn: self.lsn.0,
            time_ns: self.time_ns,
            volume,
            group,
            details,
            details_unread,
        }
    }
}

/// The fixed part of an entry. Its text ends at `text_end` of the page's texts, and begins where
/// that of the entry before it ends.
#[derive(Debug, Clone, Copy)]
struct Entry {
    lsn: u64,
    time_ns: u64,
    id: u64,
    text_end: u32,
    /// The lower [`LABEL_BITS`] bits: the length of the label; the others: that of the volume.
    names_bytes: u16,
    /// 0: `null`. More than [`DETAILS_KEPT_BYTES_MAX`]: they are not in the text.
    details_bytes: u16,
}

impl Entry {
    fn label_bytes(&self) -> usize {
        usize::from(self.names_bytes & ((1 << LABEL_BITS) - 1))
    }

    fn volume_bytes(&self) -> usize {
        usize::from(self.names_bytes >> LABEL_BITS)
    }
}

const _: () = assert!(size_of::<Entry>() == 32, "the module's documentation has this size");

/// Adjacent synchs.
#[derive(Debug, Clone, Default)]
struct Page {
    entries: Vec<Entry>,
    /// Of each entry the label, the volume, and the details if they are kept.
    texts: String,
}

impl Page {
    fn first(&self) -> Lsn {
        Lsn(self.entries.first().map_or(u64::MAX, |entry| entry.lsn))
    }

    fn last(&self) -> Lsn {
        Lsn(self.entries.last().map_or(0, |entry| entry.lsn))
    }

    /// Where the text of an entry begins; for the place after the last, where the texts end.
    fn text_start(&self, place: usize) -> usize {
        place.checked_sub(1).map_or(0, |before| self.entries[before].text_end as usize)
    }

    fn get(&self, place: usize) -> SynchRef<'_> {
        let entry = &self.entries[place];
        let text = &self.texts[self.text_start(place)..entry.text_end as usize];
        let (label, rest) = text.split_at(entry.label_bytes());
        let (volume, details) = rest.split_at(entry.volume_bytes());
        let details = match usize::from(entry.details_bytes) {
            0 => SynchDetails::Kept("null"),
            len_bytes if len_bytes > DETAILS_KEPT_BYTES_MAX => SynchDetails::Elsewhere { len_bytes },
            _ => SynchDetails::Kept(details),
        };
        SynchRef { id: entry.id, label, lsn: Lsn(entry.lsn), time_ns: entry.time_ns, volume, details }
    }

    fn iter_from(&self, place: usize) -> impl DoubleEndedIterator<Item = SynchRef<'_>> {
        (place..self.entries.len()).map(|place| self.get(place))
    }

    /// The place of the first entry at or after a position.
    fn place_of(&self, lsn: Lsn) -> usize {
        self.entries.partition_point(|entry| entry.lsn < lsn.0)
    }

    fn insert(&mut self, place: usize, synch: SynchRef<'_>) {
        let (kept, details_bytes) = match synch.details {
            SynchDetails::Kept("null") => ("", 0),
            SynchDetails::Kept(details) => (details, details.len()),
            SynchDetails::Elsewhere { len_bytes } => ("", len_bytes.max(DETAILS_KEPT_BYTES_MAX + 1)),
        };
        let label = shortened(synch.label, LABEL_BITS);
        let volume = shortened(synch.volume, u16::BITS - LABEL_BITS);
        let start = self.text_start(place);
        let text_bytes = label.len() + volume.len() + kept.len();
        if place == self.entries.len() {
            for text in [label, volume, kept] {
                self.texts.push_str(text);
            }
        } else {
            for text in [kept, volume, label] {
                self.texts.insert_str(start, text);
            }
        }
        let entry = Entry {
            lsn: synch.lsn.0,
            time_ns: synch.time_ns,
            id: synch.id,
            text_end: (start + text_bytes) as u32,
            names_bytes: (volume.len() << LABEL_BITS | label.len()) as u16,
            details_bytes: details_bytes.min(usize::from(u16::MAX)) as u16,
        };
        self.entries.insert(place, entry);
        for behind in &mut self.entries[place + 1..] {
            behind.text_end += text_bytes as u32;
        }
    }

    fn remove(&mut self, place: usize) {
        let text = self.text_start(place)..self.entries[place].text_end as usize;
        let text_bytes = text.len() as u32;
        self.texts.replace_range(text, "");
        self.entries.remove(place);
        for behind in &mut self.entries[place..] {
            behind.text_end -= text_bytes;
        }
    }

    /// Moves the entries from a place on to a new page.
    fn split_off(&mut self, place: usize) -> Self {
        let start = self.text_start(place);
        let texts = self.texts.split_off(start);
        let mut entries = self.entries.split_off(place);
        for entry in &mut entries {
            entry.text_end -= start as u32;
        }
        Page { entries, texts }
    }

    /// Gives back memory that was reserved for more entries.
    fn shrink(&mut self) {
        self.entries.shrink_to_fit();
        self.texts.shrink_to_fit();
    }
}

/// The table. See the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct SynchTable {
    pages: Arc<Vec<Arc<Page>>>,
    len: usize,
}

impl SynchTable {
    /// How many synchs there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All synchs, in the order of the log.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = SynchRef<'_>> {
        self.pages.iter().flat_map(|page| page.iter_from(0))
    }

    /// The synchs at or after a position, in the order of the log.
    pub fn iter_from(&self, lsn: Lsn) -> impl Iterator<Item = SynchRef<'_>> {
        let at = self.page_of(lsn);
        let place = self.pages.get(at).map_or(0, |page| page.place_of(lsn));
        let first = self.pages.get(at).into_iter().flat_map(move |page| page.iter_from(place));
        first.chain(self.pages.iter().skip(at + 1).flat_map(|page| page.iter_from(0)))
    }

    /// The synch at a position.
    pub fn get(&self, lsn: Lsn) -> Option<SynchRef<'_>> {
        self.iter_from(lsn).next().filter(|synch| synch.lsn == lsn)
    }

    /// All synchs as they are shown, see [`SynchRef::to_info`].
    pub fn infos(&self) -> Vec<SynchInfo> {
        self.iter().map(|synch| synch.to_info()).collect()
    }

    /// How many pages there are.
    pub(in crate::volume) fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// The synch with an id among those of some pages.
    pub(in crate::volume) fn with_id(&self, pages: Range<usize>, id: u64) -> Option<SynchRef<'_>> {
        let place_in = |page: &Arc<Page>| page.entries.iter().position(|entry| entry.id == id);
        self.pages[pages].iter().find_map(|page| place_in(page).map(|place| page.get(place)))
    }

    /// The synchs with a label among those of some pages, newest first.
    pub(in crate::volume) fn labelled<'a>(
        &'a self,
        pages: Range<usize>,
        label: &'a str,
    ) -> impl Iterator<Item = SynchRef<'a>> {
        let of_page = move |page: &'a Arc<Page>| {
            let may_be = move |place: &usize| page.entries[*place].label_bytes() == label.len();
            let places = (0..page.entries.len()).rev().filter(may_be);
            places.map(move |place| page.get(place)).filter(move |synch| synch.label == label)
        };
        self.pages[pages].iter().rev().flat_map(of_page)
    }

    /// The synchs whose times are in a range, in the order of the log. Times never fall along it.
    pub(in crate::volume) fn within_times(&self, times_ns: Range<u64>) -> impl Iterator<Item = SynchRef<'_>> {
        let last_ns = |page: &Arc<Page>| page.entries.last().map_or(0, |entry| entry.time_ns);
        let first = self.pages.partition_point(|page| last_ns(page) < times_ns.start);
        let from = self.pages[first..].iter().flat_map(|page| page.iter_from(0));
        let from = from.skip_while(move |synch| synch.time_ns < times_ns.start);
        from.take_while(move |synch| synch.time_ns < times_ns.end)
    }

    /// The synchs of the pages that `may_be_meant` accepts by their first and last position.
    pub(in crate::volume) fn iter_pages(
        &self,
        mut may_be_meant: impl FnMut(Lsn, Lsn) -> bool,
    ) -> impl Iterator<Item = SynchRef<'_>> {
        let meant = self.pages.iter().filter(move |page| may_be_meant(page.first(), page.last()));
        meant.flat_map(|page| page.iter_from(0))
    }

    /// The memory of the table, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let of_page = |page: &Arc<Page>| {
            size_of::<Page>()
                + 2 * size_of::<usize>()
                + page.entries.capacity() * size_of::<Entry>()
                + page.texts.capacity()
        };
        self.pages.capacity() * size_of::<usize>() + self.pages.iter().map(of_page).sum::<usize>()
    }

    /// Adds the newest synch.
    pub fn push(&mut self, synch: &SynchInfo) {
        with_ref(synch, |synch| self.push_ref(synch));
    }

    /// Adds the newest synch.
    pub(in crate::volume) fn push_ref(&mut self, synch: SynchRef<'_>) {
        let newest = self.pages.last().map(|page| page.last());
        assert!(newest.is_none_or(|newest| newest < synch.lsn), "synchs are in order");
        let pages = Arc::make_mut(&mut self.pages);
        if let Some(page) = pages.last_mut().filter(|page| page.entries.len() < PAGE_ENTRIES_MAX) {
            let page = Arc::make_mut(page);
            page.insert(page.entries.len(), synch);
            if page.entries.len() == PAGE_ENTRIES_MAX {
                page.shrink();
            }
        } else {
            let mut page = Page::default();
            page.insert(0, synch);
            pages.push(Arc::new(page));
        }
        self.len += 1;
    }

    /// Inserts a synch; it replaces one at the same position.
    pub(in crate::volume) fn insert(&mut self, synch: SynchRef<'_>) {
        let at = self.page_of(synch.lsn).min(self.pages.len().saturating_sub(1));
        let pages = Arc::make_mut(&mut self.pages);
        if pages.is_empty() {
            return self.push_ref(synch);
        }
        let page = Arc::make_mut(&mut pages[at]);
        let place = page.place_of(synch.lsn);
        self.len += 1;
        if page.entries.get(place).is_some_and(|entry| entry.lsn == synch.lsn.0) {
            page.remove(place);
            self.len -= 1;
        }
        page.insert(place, synch);
        if page.entries.len() > PAGE_ENTRIES_MAX {
            let mut behind = page.split_off(PAGE_ENTRIES_MAX / 2);
            page.shrink();
            behind.shrink();
            pages.insert(at + 1, Arc::new(behind));
        }
    }

    /// Takes over the pages of another table that lie between pages of this one, or before or
    /// behind all. Returns the synchs of the other pages, in order, as a table.
    pub(in crate::volume) fn take_pages(&mut self, other: &SynchTable) -> SynchTable {
        let mut rest = SynchTable::default();
        let mut merged: Vec<Arc<Page>> = Vec::with_capacity(self.pages.len() + other.pages.len());
        let mut mine = self.pages.iter().peekable();
        for page in other.pages.iter() {
            while let Some(before) = mine.next_if(|known| known.last() < page.first()) {
                merged.push(Arc::clone(before));
            }
            if mine.peek().is_none_or(|known| known.first() > page.last()) {
                self.len += page.entries.len();
                merged.push(Arc::clone(page));
            } else {
                rest.len += page.entries.len();
                Arc::make_mut(&mut rest.pages).push(Arc::clone(page));
            }
        }
        merged.extend(mine.cloned());
        self.pages = Arc::new(merged);
        rest
    }

    /// Drops the synchs for which `keep` is false, among those of the pages that `may_drop` accepts
    /// by their first and last position.
    pub(in crate::volume) fn retain(
        &mut self,
        may_drop: impl Fn(Lsn, Lsn) -> bool,
        mut keep: impl FnMut(Lsn) -> bool,
    ) {
        let mut kept: Vec<Arc<Page>> = Vec::with_capacity(self.pages.len());
        for page in self.pages.iter() {
            if !may_drop(page.first(), page.last()) {
                kept.push(Arc::clone(page));
                continue;
            }
            let mut rest = Page::default();
            for synch in page.iter_from(0).filter(|synch| keep(synch.lsn)) {
                rest.insert(rest.entries.len(), synch);
            }
            self.len -= page.entries.len() - rest.entries.len();
            if rest.entries.len() == page.entries.len() {
                kept.push(Arc::clone(page));
                continue;
            }
            // Pages that become small are joined with the page before them.
            let fits =
                |before: &&mut Arc<Page>| before.entries.len() + rest.entries.len() <= PAGE_ENTRIES_MAX;
            if let Some(before) = kept.last_mut().filter(fits) {
                let before = Arc::make_mut(before);
                rest.iter_from(0).for_each(|synch| before.insert(before.entries.len(), synch));
            } else if !rest.entries.is_empty() {
                kept.push(Arc::new(rest));
            }
        }
        self.pages = Arc::new(kept);
    }

    /// The first page that has entries at or after a position.
    fn page_of(&self, lsn: Lsn) -> usize {
        self.pages.partition_point(|page| page.last() < lsn)
    }
}

/// A text whose length has at most so many bits. What a pool accepts is always shorter; a longer
/// text, from a damaged log, is cut, never misread.
fn shortened(text: &str, bits: u32) -> &str {
    let mut end = text.len().min((1 << bits) - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Passes a synch on in the form of a table.
pub(in crate::volume) fn with_ref<T>(synch: &SynchInfo, run: impl FnOnce(SynchRef<'_>) -> T) -> T {
    let text = synch.details.to_string();
    let details = if text.len() <= DETAILS_KEPT_BYTES_MAX {
        SynchDetails::Kept(&text)
    } else {
        SynchDetails::Elsewhere { len_bytes: text.len() }
    };
    let (label, lsn) = (synch.label.as_str(), Lsn(synch.lsn));
    let text = |mark: &str, of: &SynchVolume| format!("{}{mark}{}", of.uuid.hyphenated(), of.name);
    let volume = synch.volume.as_ref().map(|of| text("", of));
    let volume = volume.or_else(|| synch.group.as_ref().map(|of| text(&GROUP_MARK.to_string(), of)));
    let volume = volume.as_deref().unwrap_or_default();
    run(SynchRef { id: synch.id, label, lsn, time_ns: synch.time_ns, volume, details })
}

#[cfg(test)]
mod tests;
