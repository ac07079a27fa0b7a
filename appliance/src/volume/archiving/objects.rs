//! The objects of a pool's log in the archive. Their names contain everything: segment, epoch,
//! range.

use std::collections::BTreeMap;

use super::anchors::Anchors;
use super::losses::Lost;
use crate::archive::object::{ClaimId, ObjectId, pool_prefix};
use crate::archive::retention::SegmentRange;
use crate::archive::store::{PAGE_OBJECTS_MAX, Store, StoreError};
use crate::log::{Geometry, Lsn, SegmentSeq};
use crate::volume::catalog::Cut;
use uuid::Uuid;

/// The objects of one segment, from its newest epoch.
#[derive(Debug, Clone, Default)]
pub(super) struct SegmentObjects {
    whole: Option<ObjectId>,
    /// In order; they may overlap the whole object.
    parts: Vec<ObjectId>,
}

impl SegmentObjects {
    /// Whether one object contains the whole segment.
    pub(super) fn is_whole(&self) -> bool {
        self.whole.is_some()
    }
}

/// The objects of a pool, by segment.
#[derive(Debug, Clone, Default)]
pub(super) struct Objects {
    segments: BTreeMap<SegmentSeq, SegmentObjects>,
}

/// What is known of a store before it is attached to a pool: its objects, the objects that should
/// be there, and the claim under which the pool uploads more.
#[derive(Debug, Clone, Default)]
pub struct KnownObjects {
    objects: Objects,
    lost: Lost,
    claim: ClaimId,
    anchors: Anchors,
}

impl KnownObjects {
    /// Lists the objects of a pool in a store, and its anchors. It blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn list(store: &dyn Store, pool: Uuid) -> Result<Self, StoreError> {
        let mut objects = Objects::default();
        let prefix = pool_prefix(pool);
        let mut after = None;
        loop {
            let page = store.list(&prefix, after.as_ref(), PAGE_OBJECTS_MAX)?;
            for object in &page.objects {
                // Objects with other names are ignored.
                if let Ok(id) = ObjectId::parse(object.name.as_str()) {
                    objects.insert(id);
                }
            }
            match page.objects.last() {
                Some(last) if page.more => after = Some(last.name.clone()),
                _ => break,
            }
        }
        let anchors = Anchors::list(store, pool, &|_| true)?;
        Ok(KnownObjects { objects, anchors, ..KnownObjects::default() })
    }

    /// Lists the anchors of a pool in a store that belong to its history: `counts` says so of an
    /// object that ends at the anchor's position and has its claim. It blocks.
    ///
    /// # Errors
    /// The store's. Nothing needs anchors but the time that they save.
    pub fn list_anchors(
        &mut self,
        store: &dyn Store,
        pool: Uuid,
        counts: &dyn Fn(&ObjectId) -> bool,
    ) -> Result<(), StoreError> {
        self.anchors = Anchors::list(store, pool, counts)?;
        Ok(())
    }

    /// What an archive knew that was detached.
    pub(super) fn new(objects: Objects, lost: Lost, claim: ClaimId, anchors: Anchors) -> Self {
        KnownObjects { objects, lost, claim, anchors }
    }

    /// The objects, those that should be there, the claim, and the anchors.
    pub(super) fn into_parts(self) -> (Objects, Lost, ClaimId, Anchors) {
        (self.objects, self.lost, self.claim, self.anchors)
    }

    /// Adds objects from another source.
    pub fn extend(&mut self, ids: impl IntoIterator<Item = ObjectId>) {
        for id in ids {
            self.objects.insert(id);
        }
    }

    /// Sets the objects that should be in the store and are not.
    pub fn note_lost(&mut self, ids: impl IntoIterator<Item = ObjectId>) {
        self.lost = Lost::new(ids);
    }

    /// Sets the claim for new objects.
    #[must_use]
    pub fn with_claim(mut self, claim: ClaimId) -> Self {
        self.claim = claim;
        self
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.segments.is_empty()
    }

    /// The newest object's segment and epoch, and the position after the last object that follows
    /// without a hole from the start of that segment.
    pub fn newest(&self) -> Option<(SegmentSeq, u32, Lsn)> {
        let (&sequence, objects) = self.objects.segments.last_key_value()?;
        let epoch = objects.whole.or_else(|| objects.parts.first().copied())?.epoch;
        Some((sequence, epoch, self.objects.covered(sequence)?))
    }

    /// Drops what a recovery cut off: objects of the lost device after its recovery point.
    pub(in crate::volume) fn apply(&mut self, cuts: &[Cut]) {
        self.anchors.apply(cuts);
        for cut in cuts {
            let stale = |id: &ObjectId| {
                id.epoch < cut.epoch
                    && (id.sequence > cut.sequence
                        || (id.sequence == cut.sequence && id.to_lsn > cut.end_lsn))
            };
            self.retain(|id| !stale(id));
        }
    }

    /// Drops segments whose first part is gone: an interrupted expiry left the rest.
    pub(super) fn drop_headless(&mut self, geometry: &Geometry) {
        let headless: Vec<SegmentSeq> = self.objects.segments.keys().copied().collect();
        for sequence in headless {
            let first = self.objects.parts(sequence).first().map(|part| part.from_lsn);
            if first != Some(geometry.first_lsn(sequence)) {
                self.objects.segments.remove(&sequence);
            }
        }
    }

    /// Drops segments with an earlier epoch than a segment before them: they are left over from a
    /// device that was lost.
    pub(in crate::volume) fn drop_stale(&mut self) {
        let mut newest = 0;
        let mut stale = Vec::new();
        for (&sequence, objects) in &self.objects.segments {
            let epoch = objects.whole.or_else(|| objects.parts.first().copied()).map_or(0, |id| id.epoch);
            if epoch < newest {
                stale.push(sequence);
            }
            newest = newest.max(epoch);
        }
        self.retain(|id| !stale.contains(&id.sequence));
    }

    /// Cuts the archive off at a segment within the `working_set` before the newest that is not
    /// whole: what follows cannot be used. Returns whether it was cut. A segment in which the pool
    /// was recovered before counts as whole, because it will never get more.
    pub(in crate::volume) fn cut_at_hole(&mut self, working_set: u64, cuts: &[Cut]) -> bool {
        let Some((newest, ..)) = self.newest() else { return false };
        let first = self.objects.first().unwrap_or_default();
        let hole =
            (newest.0.saturating_sub(working_set).max(first.0)..newest.0).map(SegmentSeq).find(|&sequence| {
                let ends = |cut: &Cut| {
                    cut.sequence == sequence && self.objects.covered(sequence) == Some(cut.end_lsn)
                };
                let is_whole = self.objects.get(sequence).is_some_and(SegmentObjects::is_whole);
                !is_whole && !cuts.iter().any(ends)
            });
        let Some(hole) = hole else { return false };
        self.retain(|id| id.sequence <= hole);
        true
    }

    fn retain(&mut self, keep: impl Fn(&ObjectId) -> bool) {
        for objects in self.objects.segments.values_mut() {
            objects.whole = objects.whole.filter(|id| keep(id));
            objects.parts.retain(|id| keep(id));
        }
        self.objects.segments.retain(|_, objects| objects.whole.is_some() || !objects.parts.is_empty());
    }

    /// Forgets the newest object because it cannot be read.
    pub(in crate::volume) fn drop_newest(&mut self) -> Option<ObjectId> {
        let (&sequence, _) = self.objects.segments.last_key_value()?;
        let newest = self.objects.parts(sequence).last().copied();
        let objects = self.objects.segments.get_mut(&sequence)?;
        match newest {
            Some(id) if objects.whole == Some(id) => objects.whole = None,
            Some(id) => objects.parts.retain(|known| *known != id),
            None => objects.parts.clear(),
        }
        if objects.whole.is_none() && objects.parts.is_empty() {
            self.objects.segments.remove(&sequence);
        }
        newest
    }

    /// The objects that together hold a segment, or the part of it that is archived, in order.
    pub(in crate::volume) fn parts(&self, sequence: SegmentSeq) -> Vec<ObjectId> {
        self.objects.parts(sequence)
    }

    /// All objects, in log order. For a segment that was archived in several epochs, those of the
    /// newest.
    pub fn ids(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.objects.segments.values().flat_map(|objects| objects.parts.iter().copied().chain(objects.whole))
    }
}

impl Objects {
    pub(super) fn insert(&mut self, id: ObjectId) {
        let objects = self.segments.entry(id.sequence).or_default();
        let known = objects.whole.as_ref().or(objects.parts.first()).map(|known| known.epoch);
        if known.is_some_and(|known| known > id.epoch) {
            return;
        }
        if known.is_some_and(|known| known < id.epoch) {
            *objects = SegmentObjects::default();
        }
        if id.whole {
            objects.whole = Some(id);
        } else if !objects.parts.contains(&id) {
            let place = objects
                .parts
                .partition_point(|known| (known.from_lsn, known.to_lsn) < (id.from_lsn, id.to_lsn));
            objects.parts.insert(place, id);
        }
    }

    /// Forgets an object. Returns whether it was known.
    pub(super) fn remove(&mut self, id: &ObjectId) -> bool {
        let Some(objects) = self.segments.get_mut(&id.sequence) else { return false };
        let before = objects.parts.len() + usize::from(objects.is_whole());
        objects.whole = objects.whole.filter(|whole| whole != id);
        objects.parts.retain(|known| known != id);
        let left = objects.parts.len() + usize::from(objects.is_whole());
        if left == 0 {
            self.segments.remove(&id.sequence);
        }
        left < before
    }

    /// Whether there is any object of a segment.
    pub(super) fn holds(&self, sequence: SegmentSeq) -> bool {
        self.segments.contains_key(&sequence)
    }

    pub(super) fn get(&self, sequence: SegmentSeq) -> Option<&SegmentObjects> {
        self.segments.get(&sequence)
    }

    /// Forgets a segment's parts because the whole object is there; returns them.
    pub(super) fn take_parts(&mut self, sequence: SegmentSeq) -> Vec<ObjectId> {
        self.segments.get_mut(&sequence).map(|objects| std::mem::take(&mut objects.parts)).unwrap_or_default()
    }

    /// The objects that together hold a segment, or the part of it that is archived, in order.
    pub(super) fn parts(&self, sequence: SegmentSeq) -> Vec<ObjectId> {
        let Some(objects) = self.segments.get(&sequence) else { return Vec::new() };
        match objects.whole {
            Some(whole) => vec![whole],
            None => chain(&objects.parts),
        }
    }

    /// The object that holds a position.
    pub(super) fn object_of(&self, sequence: SegmentSeq, lsn: Lsn) -> Option<ObjectId> {
        let parts = self.parts(sequence);
        parts.into_iter().find(|part| part.from_lsn <= lsn && lsn < part.to_lsn)
    }

    /// The position up to which a segment is covered without a hole.
    pub(super) fn covered(&self, sequence: SegmentSeq) -> Option<Lsn> {
        self.parts(sequence).last().map(|part| part.to_lsn)
    }

    /// The objects of the segments of a range.
    pub(super) fn ids_of(&self, range: SegmentRange) -> impl Iterator<Item = ObjectId> + '_ {
        let segments = self.segments.range(range.first..=range.last).map(|(_, objects)| objects);
        segments.flat_map(|objects| objects.parts.iter().copied().chain(objects.whole))
    }

    /// Forgets the segments of a range. Returns how many there were.
    pub(super) fn forget(&mut self, range: SegmentRange) -> u64 {
        let before = self.segments.len();
        self.segments.retain(|sequence, _| !(range.first..=range.last).contains(sequence));
        (before - self.segments.len()) as u64
    }

    pub(super) fn first(&self) -> Option<SegmentSeq> {
        self.segments.keys().next().copied()
    }

    /// Those from a segment on, in the order of the log.
    pub(super) fn iter_from(&self, from: SegmentSeq) -> impl Iterator<Item = (SegmentSeq, &SegmentObjects)> {
        self.segments.range(from..).map(|(sequence, objects)| (*sequence, objects))
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (SegmentSeq, &SegmentObjects)> {
        self.segments.iter().map(|(&sequence, objects)| (sequence, objects))
    }
}

/// The parts that follow each other without a hole, starting with the first.
fn chain(parts: &[ObjectId]) -> Vec<ObjectId> {
    let mut chained: Vec<ObjectId> = Vec::new();
    for &part in parts {
        match chained.last() {
            Some(last) if last.to_lsn == part.from_lsn => chained.push(part),
            // A longer part with the same start comes after a shorter one.
            Some(last) if last.from_lsn == part.from_lsn && part.to_lsn > last.to_lsn => {
                chained.pop();
                chained.push(part);
            }
            Some(_) => {}
            None => chained.push(part),
        }
    }
    chained
}
