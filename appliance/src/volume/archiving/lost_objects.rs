//! Reports to the pool about its archive, from jobs that check the store: objects that are missing,
//! damaged, or found again, and anchors that are of no use.

use super::anchors::KnownAnchor;
use crate::archive::anchor::AnchorId;
use crate::archive::object::ObjectId;
use crate::log::Lsn;
use crate::volume::pool::Pool;

/// How many anchors are listed at once.
const PAGE_ANCHORS: usize = 1000;

impl Pool {
    /// Sets the complete list of objects that the store has lost. Those that the primary device
    /// still has are archived again; objects that are found again are used again.
    pub fn learn_lost_objects(&self, lost: &[ObjectId]) {
        let mut state = self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        let (Some(archive), mut side) = state.with_archive() else { return };
        let back: Vec<ObjectId> = archive.lost.ids().filter(|id| !lost.contains(id)).collect();
        for id in back {
            archive.lost.found(id.sequence);
            archive.objects.insert(id);
        }
        archive.lose(lost, &mut side, &mut log);
        archive.tell_lost(&mut side, &log);
    }

    /// Reports further objects that are missing in the store.
    pub fn learn_missing_objects(&self, missing: &[ObjectId]) {
        let mut state = self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        let (Some(archive), mut side) = state.with_archive() else { return };
        archive.lose(missing, &mut side, &mut log);
        archive.tell_lost(&mut side, &log);
    }

    /// Reports damaged objects. Those whose segments the primary device still has are uploaded
    /// again; the others stay, for the parts that can be read.
    pub fn learn_damaged_objects(&self, damaged: &[ObjectId]) {
        let mut state = self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        let (Some(archive), mut side) = state.with_archive() else { return };
        let is_here = |id: &&ObjectId| {
            let segment = log.table().get(id.sequence);
            segment.is_some_and(|segment| segment.slot.is_some() && segment.epoch == id.epoch)
        };
        let here: Vec<ObjectId> = damaged.iter().filter(is_here).copied().collect();
        archive.lose(&here, &mut side, &mut log);
    }

    /// Lists anchors in the order of images and positions, from the first one after a place on.
    /// After the last one the list is empty.
    pub fn anchors_after(&self, place: Option<(u32, Lsn)>) -> Vec<KnownAnchor> {
        let state = self.state.borrow();
        state.archive.get().map_or_else(Vec::new, |archive| archive.anchors.after(place, PAGE_ANCHORS))
    }

    /// Reports an anchor that is damaged, or lacks a part. It is not used any more, and what is left
    /// of it is deleted; a later round makes another one. Returns whether it was in use: it may have
    /// been deleted while it was read.
    pub fn learn_useless_anchor(&self, id: &AnchorId) -> bool {
        self.forget_anchor(id, true)
    }
}
