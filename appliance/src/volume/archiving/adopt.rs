//! What an archive is to its pool when it is attached: which segments count as archived, and what
//! is missing in it.

use std::collections::BTreeSet;

use super::PoolSide;
use super::objects::SegmentObjects;
use super::state::Archive;
use crate::archive::retention::SegmentRange;
use crate::log::reader::LsnRange;
use crate::log::table::Phase;
use crate::log::{Log, SegmentSeq};

impl Archive {
    /// Determines what is missing in the archive when it is attached. Ranges that the device lost
    /// before they were archived are gaps. Objects that the store has lost are archived again if
    /// their segments are on the device.
    pub(super) fn find_losses(
        &mut self,
        side: &mut PoolSide<'_>,
        log: &mut Log,
        lost_on_device: &[SegmentSeq],
    ) {
        let trusted = side.catalog.archived_below;
        for gap in self.lost_before_archived(log, lost_on_device, trusted) {
            if !side.catalog.gaps.iter().any(|known| known.start <= gap.start && known.end >= gap.end) {
                side.record_gap(log, gap, "the primary device lost it before it was archived");
            }
        }
        if let Some(lost) = self.adopt(log, trusted) {
            side.problems.note(format!(
                "the archive has lost segments that were in it: segments {lost}; what the primary device still holds is archived again"
            ));
            side.catalog.distrust_archive(log, lost.first);
        }
        // Segments on the primary device are archived again, and are not lost.
        let here: Vec<SegmentSeq> = log.table().on_device().collect();
        let again: Vec<SegmentSeq> = here.into_iter().filter(|&sequence| self.lost.found(sequence)).collect();
        if let Some(&first) = again.first().filter(|first| **first < side.catalog.archived_below) {
            side.catalog.distrust_archive(log, first);
        }
    }

    /// Marks what is already archived: objects before `trusted` were verified, and are never
    /// uploaded again. An object after `trusted`, which is the last segment that the catalog knows
    /// to be verified, may be one whose verification a crash interrupted: its job runs again, which
    /// finds and verifies it.
    ///
    /// A segment before `trusted` without an object has expired, and only its slot returned after a
    /// crash. It must not be uploaded again: its object would exist before it is verified, and
    /// would count as verified after the next start. But if no object before `trusted` is newer,
    /// the store has lost it, because expiry keeps the newest. The function returns the first and
    /// the last of these lost segments: from the first on nothing is trusted, and the segments on
    /// the primary device are archived again.
    fn adopt(&mut self, log: &mut Log, trusted: SegmentSeq) -> Option<SegmentRange> {
        let is_verified =
            |(sequence, objects): &(SegmentSeq, &SegmentObjects)| *sequence < trusted && objects.is_whole();
        let newest_verified = self.objects.iter().rfind(is_verified).map(|(sequence, _)| sequence);
        let mut lost: Option<SegmentRange> = None;
        let there: Vec<SegmentSeq> = log
            .table()
            .iter()
            .filter(|(_, segment)| segment.slot.is_some())
            .map(|(sequence, _)| sequence)
            .collect();
        self.seal.begin_at(log.table().oldest());
        for sequence in there {
            if sequence >= trusted {
                // The whole object, if there is one, can still be read: each of its blocks is
                // checked.
                let parts = self.objects.take_parts(sequence);
                self.seal.set_aside(sequence, parts);
                continue;
            }
            // An object that the store is known to have lost has not expired.
            let is_lost = self.lost.contains(sequence);
            if !is_lost && newest_verified.is_some_and(|newest| sequence <= newest) {
                log.note_archived(sequence);
            } else {
                // The catalog may have been trusted while the archive was away.
                log.note_unarchived(sequence);
                let first = lost.map_or(sequence, |lost| lost.first);
                lost = Some(SegmentRange { first, last: sequence });
            }
        }
        lost
    }

    /// Segments that the device has lost, and that are not whole in the archive: nothing more of
    /// them can be archived. `before`: segments that were in this state when the pool was opened.
    /// Segments without live blocks before `trusted` were archived, and may have expired.
    fn lost_before_archived(&self, log: &Log, before: &[SegmentSeq], trusted: SegmentSeq) -> Vec<LsnRange> {
        let geometry = log.geometry();
        let now = log
            .table()
            .iter()
            .filter(|(_, segment)| segment.slot.is_none() && segment.phase != Phase::Released);
        let missing = log.table().missing().iter().copied().filter(|&sequence| sequence >= trusted);
        let lost: BTreeSet<SegmentSeq> =
            now.map(|(sequence, _)| sequence).chain(before.iter().copied()).chain(missing).collect();
        let range = |sequence: SegmentSeq| LsnRange {
            start: geometry.first_lsn(sequence),
            end: geometry.first_lsn(sequence.next()),
        };
        lost.into_iter().filter(|&sequence| !self.is_whole(sequence)).map(range).collect()
    }
}
