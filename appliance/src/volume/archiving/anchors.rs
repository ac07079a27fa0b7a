//! The anchors of a pool in its store: which there are, and which are to be deleted.
//!
//! **Invariants.** An anchor is known from the moment at which its head is stored, or from a list
//! of the store that has its head and all its parts; until it is deleted, found to be unusable, or
//! no point that it helps to open can be opened any more. What a crash or a failure left without a
//! head is deleted.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use uuid::Uuid;

use crate::archive::anchor::{AnchorId, AnchorName, anchor_prefix};
use crate::archive::object::ObjectId;
use crate::archive::retention::SegmentRange;
use crate::archive::store::{PAGE_OBJECTS_MAX, Store, StoreError};
use crate::log::{Geometry, Lsn, SegmentSeq};
use crate::volume::catalog::Cut;

/// The most objects of one request to delete: as many as are announced at once.
const DELETES_MAX: usize = 1000;

/// An anchor in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownAnchor {
    /// Which one.
    pub id: AnchorId,
    /// How many parts it has.
    pub parts: u32,
    /// The bytes of all its objects.
    pub bytes: u64,
}

/// The anchors of a pool. See the module's documentation.
#[derive(Debug, Clone, Default)]
pub(super) struct Anchors {
    /// By image and position.
    known: BTreeMap<(u32, Lsn), KnownAnchor>,
    /// Objects that are to be deleted, in this order.
    doomed: Vec<AnchorName>,
}

/// What a list of the store has of an anchor.
#[derive(Default)]
struct Listed {
    /// How many parts the head says there are.
    parts: Option<u32>,
    numbers: Vec<u32>,
    bytes: u64,
}

impl Anchors {
    /// Lists the anchors of a pool in a store that belong to its history, according to `counts`. It
    /// blocks.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn list(
        store: &dyn Store,
        pool: Uuid,
        counts: &dyn Fn(&ObjectId) -> bool,
    ) -> Result<Self, StoreError> {
        let prefix = anchor_prefix(pool);
        let (mut found, mut after) = (HashMap::<AnchorId, Listed>::new(), None);
        loop {
            let page = store.list(&prefix, after.as_ref(), PAGE_OBJECTS_MAX)?;
            for object in &page.objects {
                let Some(name) = AnchorName::parse(object.name.as_str()) else { continue };
                if !counts(&name.id().as_object()) {
                    continue;
                }
                let listed = found.entry(name.id()).or_default();
                listed.bytes += object.len_bytes;
                match name {
                    AnchorName::Head(_, parts) => listed.parts = Some(parts),
                    AnchorName::Part(_, number) => listed.numbers.push(number),
                }
            }
            match page.objects.into_iter().next_back() {
                Some(last) if page.more => after = Some(last.name),
                _ => break,
            }
        }
        let mut anchors = Anchors::default();
        for (id, mut listed) in found {
            listed.numbers.sort_unstable();
            match listed.parts {
                Some(parts) if listed.numbers.iter().copied().eq(0..parts) => {
                    anchors.insert(KnownAnchor { id, parts, bytes: listed.bytes });
                }
                head => {
                    anchors.doomed.extend(head.map(|parts| AnchorName::Head(id, parts)));
                    let parts = listed.numbers.into_iter();
                    anchors.doomed.extend(parts.map(|number| AnchorName::Part(id, number)));
                }
            }
        }
        Ok(anchors)
    }

    /// Adds an anchor. One of an earlier epoch at its position is of a log that was cut off there.
    pub(super) fn insert(&mut self, anchor: KnownAnchor) {
        let place = (anchor.id.image, anchor.id.lsn);
        if self.known.get(&place).is_none_or(|known| known.id.epoch <= anchor.id.epoch) {
            self.known.insert(place, anchor);
        }
    }

    /// The anchors of an image after `above`, and at or before `up_to`, newest first.
    pub(super) fn of(&self, image: u32, above: Lsn, up_to: Lsn) -> impl Iterator<Item = KnownAnchor> {
        let range = (above < up_to).then(|| self.known.range((image, above.plus(1))..=(image, up_to)));
        range.into_iter().flatten().rev().map(|(_, anchor)| *anchor)
    }

    /// At most so many after a place, in the order of images and positions.
    pub(super) fn after(&self, place: Option<(u32, Lsn)>, limit: usize) -> Vec<KnownAnchor> {
        let start = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.known.range((start, Bound::Unbounded)).take(limit).map(|(_, anchor)| *anchor).collect()
    }

    /// How many there are, and the bytes of all.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.known.len() as u64, self.known.values().map(|anchor| anchor.bytes).sum())
    }

    /// The position of the newest one.
    pub(super) fn newest(&self) -> Option<Lsn> {
        self.known.keys().map(|&(_, lsn)| lsn).max()
    }

    /// Forgets an anchor that cannot be used. With `delete`, its objects are deleted too. Returns
    /// whether it was known.
    pub(super) fn forget(&mut self, id: &AnchorId, delete: bool) -> bool {
        let place = (id.image, id.lsn);
        let known = self.known.get(&place).copied().filter(|known| known.id == *id);
        if let Some(known) = known {
            self.known.remove(&place);
            if delete {
                self.doom(&known.id, known.parts);
            }
        }
        known.is_some()
    }

    /// Has the objects of an anchor deleted, which may not be there: the head first.
    pub(super) fn doom(&mut self, id: &AnchorId, parts: u32) {
        self.doomed.push(AnchorName::Head(*id, parts));
        self.doomed.extend((0..parts).map(|number| AnchorName::Part(*id, number)));
    }

    /// The next objects to delete.
    pub(super) fn take_doomed(&mut self) -> Vec<AnchorName> {
        let count = self.doomed.len().min(DELETES_MAX);
        self.doomed.drain(..count).collect()
    }

    /// Forgets what a recovery cut off.
    pub(super) fn apply(&mut self, cuts: &[Cut]) {
        for cut in cuts {
            self.known.retain(|_, anchor| anchor.id.epoch >= cut.epoch || anchor.id.lsn < cut.end_lsn);
        }
    }

    /// Has those deleted that help to open no point any more. `gone`: the segments that are gone,
    /// in order. `window_start`: the oldest segment that a point in a segment needs.
    pub(super) fn drop_useless(
        &mut self,
        geometry: &Geometry,
        newest: SegmentSeq,
        gone: &[SegmentRange],
        window_start: impl Fn(SegmentSeq) -> u64,
    ) {
        let mut useless = Vec::new();
        let mut later: Option<&KnownAnchor> = None;
        for anchor in self.known.values().rev() {
            // It helps with points up to the next one of its image.
            let next = later.filter(|later| later.id.image == anchor.id.image);
            let last = next.map_or(newest, |next| geometry.sequence_of(next.id.lsn));
            if !may_open(geometry.sequence_of(anchor.id.lsn), last, gone, &window_start) {
                useless.push((anchor.id, anchor.parts));
            }
            later = Some(anchor);
        }
        for (id, parts) in useless {
            self.known.remove(&(id.image, id.lsn));
            self.doom(&id, parts);
        }
    }
}

/// Whether a point in one of the segments from `first` to `last` can be opened: nothing is gone
/// that it needs.
fn may_open(
    first: SegmentSeq,
    last: SegmentSeq,
    gone: &[SegmentRange],
    window_start: impl Fn(SegmentSeq) -> u64,
) -> bool {
    let mut sequence = first;
    while sequence <= last {
        let start = window_start(sequence);
        let before = gone.partition_point(|range| range.first <= sequence);
        let Some(range) = before.checked_sub(1).map(|at| gone[at]).filter(|range| range.last.0 >= start)
        else {
            return true;
        };
        // The next segment whose window does not reach back to it.
        sequence = SegmentSeq((range.last.0 + 1 + (sequence.0 - start)).max(sequence.0 + 1));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::anchor::AnchorId;
    use crate::archive::object::ClaimId;

    fn id(image: u32, lsn: u64) -> AnchorId {
        AnchorId { pool: Uuid::from_u128(1), epoch: 1, image, lsn: Lsn(lsn), claim: ClaimId(1) }
    }

    fn anchors(of: &[(u32, u64)]) -> Anchors {
        let mut anchors = Anchors::default();
        for &(image, lsn) in of {
            anchors.insert(KnownAnchor { id: id(image, lsn), parts: 2, bytes: 10 });
        }
        anchors
    }

    fn left(anchors: &Anchors) -> Vec<(u32, u64)> {
        anchors.known.keys().map(|&(image, lsn)| (image, lsn.0)).collect()
    }

    #[test]
    fn the_newest_that_is_old_enough_comes_first() {
        let anchors = anchors(&[(1, 100), (1, 200), (1, 300), (2, 250)]);
        let found = |above, up_to| -> Vec<u64> {
            anchors.of(1, Lsn(above), Lsn(up_to)).map(|anchor| anchor.id.lsn.0).collect()
        };
        assert_eq!(found(0, 299), [200, 100]);
        assert_eq!(found(100, 300), [300, 200]);
        assert_eq!(found(300, 300), [] as [u64; 0]);
        assert_eq!((anchors.totals(), anchors.newest()), ((4, 40), Some(Lsn(300))));
        let after = |place, limit| -> Vec<(u32, u64)> {
            anchors.after(place, limit).iter().map(|anchor| (anchor.id.image, anchor.id.lsn.0)).collect()
        };
        assert_eq!(after(None, 2), [(1, 100), (1, 200)]);
        assert_eq!(after(Some((1, Lsn(200))), 9), [(1, 300), (2, 250)]);
    }

    #[test]
    fn those_that_open_nothing_are_deleted() {
        let geometry = Geometry::fit(1 << 20, 256).expect("a geometry");
        let lsn = |sequence: u64| sequence * 256 + 9;
        let all: Vec<(u32, u64)> = [2, 5, 8, 11, 14].map(|sequence| (1, lsn(sequence))).into();
        let range = |first, last| SegmentRange { first: SegmentSeq(first), last: SegmentSeq(last) };
        let after = |gone: &[SegmentRange]| {
            let mut anchors = anchors(&all);
            let start = |sequence: SegmentSeq| sequence.0.saturating_sub(3);
            anchors.drop_useless(&geometry, SegmentSeq(15), gone, start);
            let doomed = anchors.take_doomed();
            assert_eq!(doomed.len() + 3 * left(&anchors).len(), 15);
            assert!(doomed.chunks(3).all(|names| matches!(names[0], AnchorName::Head(..))));
            left(&anchors).into_iter().map(|(_, lsn)| lsn / 256).collect::<Vec<_>>()
        };
        assert_eq!(after(&[]), [2, 5, 8, 11, 14]);
        // The first point that can be opened is in segment 8.
        assert_eq!(after(&[range(0, 4)]), [5, 8, 11, 14]);
        assert_eq!(after(&[range(0, 5)]), [8, 11, 14]);
        assert_eq!(after(&[range(0, 0), range(9, 9)]), [2, 5, 8, 11, 14]);
        assert_eq!(after(&[range(0, 0), range(8, 11)]), [2, 5, 14]);
    }

    #[test]
    fn what_a_recovery_cut_off_is_not_used() {
        let mut anchors = anchors(&[(1, 100), (1, 300)]);
        anchors.insert(KnownAnchor { id: AnchorId { epoch: 70_000, ..id(1, 400) }, parts: 0, bytes: 1 });
        anchors.apply(&[Cut { epoch: 65_000, sequence: SegmentSeq(0), end_lsn: Lsn(300) }]);
        assert_eq!(left(&anchors), [(1, 100), (1, 400)]);
        assert!(!anchors.forget(&id(1, 400), true));
        assert_eq!(left(&anchors), [(1, 100), (1, 400)], "it is another one");
        assert!(anchors.forget(&id(1, 100), true));
        assert_eq!((left(&anchors), anchors.take_doomed().len()), (vec![(1, 400)], 3));
    }
}
