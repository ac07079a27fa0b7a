//! One change of a block, from its entry.

use super::info::{BlockChange, BlockPlace, BlockVersion};
use crate::log::Lsn;
use crate::log::format::EntryKind;
use crate::log::reader::{PlacedEntry, SegmentEntries};
use crate::volume::history::past::origin_of;
use crate::volume::pool::Pool;

/// An entry that was looked for, and the end of its command if it is in the same segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoundEntry {
    pub(super) placed: PlacedEntry,
    pub(super) command_end: Option<Lsn>,
}

/// The newest entry at or before `up_to` that `is_it` accepts.
pub(super) fn find(
    entries: &SegmentEntries,
    up_to: Lsn,
    mut is_it: impl FnMut(&PlacedEntry) -> bool,
) -> Option<FoundEntry> {
    let (mut command_end, mut found) = (None, None);
    entries.visit_backward(Lsn::MAX, |placed| {
        if placed.entry.is_last() {
            command_end = Some(placed.lsn);
        }
        if placed.lsn <= up_to && is_it(&placed) {
            found = Some(FoundEntry { placed, command_end });
        }
        found.is_none()
    });
    found
}

/// Whether an entry has the data of a block of an image.
pub(super) fn is_data(placed: &PlacedEntry, image: u32, block: u64) -> bool {
    let entry = placed.entry;
    let is_block = matches!(entry.kind(), Some(EntryKind::Write | EntryKind::Copied));
    is_block && entry.image().0 == image && entry.block().0 == block
}

/// Whether an entry without data, a trim or a mask, covers a block of an image.
pub(super) fn covers(placed: &PlacedEntry, kind: EntryKind, image: u32, block: u64) -> bool {
    let entry = placed.entry;
    entry.kind() == Some(kind)
        && entry.image().0 == image
        && block >= entry.block().0
        && block - entry.block().0 < entry.value()
}

/// The write of a copy whose own entry is no longer kept.
pub(super) fn version_gone(image: u32, block: u64, lsn: Lsn) -> BlockVersion {
    BlockVersion {
        block,
        blocks: 1,
        kind: BlockChange::Write,
        lsn: lsn.0,
        point_lsn: lsn.0,
        time_ns: None,
        superseded_lsn: None,
        from_lsn: None,
        image,
        place: BlockPlace::Gone,
    }
}

impl Pool {
    /// The change that a write or a trim made to blocks.
    pub(super) fn version_of(&self, found: &FoundEntry, block: u64, blocks: u64) -> BlockVersion {
        let FoundEntry { placed, command_end } = *found;
        let is_trim = placed.entry.is_trim();
        BlockVersion {
            block,
            blocks,
            kind: if is_trim { BlockChange::Trim } else { BlockChange::Write },
            lsn: placed.lsn.0,
            point_lsn: command_end.unwrap_or(placed.lsn).0,
            time_ns: Some(placed.time_ns),
            superseded_lsn: Some(placed.entry.value()).filter(|&lsn| !is_trim && lsn != 0),
            from_lsn: None,
            image: placed.entry.image().0,
            place: if is_trim { BlockPlace::None } else { self.place_of(placed.lsn) },
        }
    }

    /// Where the data at a position is.
    pub(super) fn place_of(&self, lsn: Lsn) -> BlockPlace {
        let sequence = self.log.borrow().geometry().sequence_of(lsn);
        if self.log.borrow().table().slot(sequence).is_some() {
            BlockPlace::Primary
        } else if self.first_object(sequence).is_some() {
            BlockPlace::Archive
        } else {
            BlockPlace::Gone
        }
    }
}

/// The position of the write whose data a copy has; `None` for a write itself.
pub(super) fn copied_from(placed: &PlacedEntry) -> Option<Lsn> {
    let is_copy = placed.entry.kind() == Some(EntryKind::Copied);
    is_copy.then(|| origin_of(placed)).filter(|origin| *origin < placed.lsn)
}
