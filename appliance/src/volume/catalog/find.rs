//! Finds the catalog in force at a position: the newest whole one at or before it, and the changes
//! after that one. It gets events from newest to oldest, segment by segment backward.

use super::{Catalog, CatalogChange};
use crate::log::Lsn;
use crate::log::format::EventKind;

/// The events found so far.
#[derive(Default)]
pub(crate) struct CatalogFinder {
    /// Newest first.
    changes: Vec<CatalogChange>,
    problems: Vec<String>,
    /// The oldest event that could not be read.
    unread: Option<Lsn>,
}

/// The result.
pub(crate) struct FoundCatalog {
    pub(crate) catalog: Catalog,
    /// The position of the whole catalog on which it is based; `None`: there was none.
    pub(crate) whole_lsn: Option<Lsn>,
    /// What could not be read, to be reported.
    pub(crate) problems: Vec<String>,
    /// The oldest event after the whole catalog that could not be read. Either kind may be the only
    /// one that has a change: a whole catalog is written where a change would be longer.
    pub(crate) unread: Option<Lsn>,
}

impl CatalogFinder {
    /// Whether events of a kind are needed.
    pub(crate) fn wants(kind: EventKind) -> bool {
        matches!(kind, EventKind::Catalog | EventKind::Change)
    }

    /// Takes the next older event, with its text if it could be read. Returns the catalog if this
    /// event was a whole one.
    pub(crate) fn see(&mut self, kind: EventKind, lsn: Lsn, text: Option<&[u8]>) -> Option<FoundCatalog> {
        match kind {
            EventKind::Synch => None,
            EventKind::Change => {
                match text.and_then(CatalogChange::decode) {
                    Some(change) => self.changes.push(change),
                    None => self.note_unread(
                        lsn,
                        format!(
                            "the change of the catalog at LSN {lsn} is damaged; what was changed there is missing"
                        ),
                    ),
                }
                None
            }
            EventKind::Catalog => {
                if let Some(catalog) = text.and_then(Catalog::decode) {
                    return Some(self.finish(catalog, Some(lsn)));
                }
                self.note_unread(lsn, format!("the catalog at LSN {lsn} is damaged; an older one is used"));
                None
            }
        }
    }

    fn note_unread(&mut self, lsn: Lsn, problem: String) {
        self.unread = Some(lsn);
        self.problems.push(problem);
    }

    /// Returns the catalog when there is no older event.
    pub(crate) fn nothing_older(&mut self) -> FoundCatalog {
        self.finish(Catalog::default(), None)
    }

    fn finish(&mut self, mut catalog: Catalog, whole_lsn: Option<Lsn>) -> FoundCatalog {
        std::mem::take(&mut self.changes).into_iter().rev().for_each(|change| change.apply(&mut catalog));
        let (problems, unread) = (std::mem::take(&mut self.problems), self.unread.take());
        FoundCatalog { catalog, whole_lsn, problems, unread }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::SegmentSeq;

    #[test]
    fn changes_count_from_whatever_whole_catalog_can_be_read() {
        let states: Vec<Catalog> = (0..4)
            .map(|at| Catalog {
                archived_below: SegmentSeq(at),
                next_image: 1 + at as u32,
                ..Catalog::default()
            })
            .collect();
        let change = |at: usize| CatalogChange::between(&states[at - 1], &states[at]).encode();
        let whole = |at: usize| states[at].encode(2);
        let (one, two, three) = (change(1), change(2), change(3));
        let mut finder = CatalogFinder::default();
        assert!(finder.see(EventKind::Change, Lsn(30), Some(&three)).is_none());
        // The whole catalog in between is damaged: an older one serves as well, with all later
        // changes.
        assert!(finder.see(EventKind::Catalog, Lsn(25), Some(b"{}")).is_none());
        assert!(finder.see(EventKind::Change, Lsn(20), Some(&two)).is_none());
        assert!(finder.see(EventKind::Change, Lsn(10), Some(&one)).is_none());
        let found = finder.see(EventKind::Catalog, Lsn(5), Some(&whole(0))).expect("a whole one");
        assert_eq!((found.catalog, found.whole_lsn), (states[3].clone(), Some(Lsn(5))));
        assert_eq!((found.problems.len(), found.unread), (1, Some(Lsn(25))));
        // A change that cannot be read is reported.
        assert!(finder.see(EventKind::Change, Lsn(20), None).is_none());
        let found = finder.nothing_older();
        assert_eq!((found.catalog, found.whole_lsn, found.problems.len()), (Catalog::default(), None, 1));
    }
}
