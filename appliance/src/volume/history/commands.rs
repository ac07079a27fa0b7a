//! Counts hosts' commands of a volume along the log: how many there are in a stretch, and where the
//! n-th of them ends.
//!
//! A command is an entry of kind write or trim with the flag LAST, of the image that the volume had
//! there ([`super::reigns`]), or of any image that a volume that is deleted now had in a segment. Over records that cannot be read nothing is counted: a command that is
//! there would be missed.
//!
//! **Cost:** one step for each entry of the stretch; each segment's entries are read once. The
//! reactor runs other work between pieces of [`PIECE_RECORDS`] records.

use crate::log::format::EntryKind;
use crate::log::reader::{PlacedEntry, SegmentEntries};
use crate::log::{Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::error::VolumeError;
use crate::volume::history::entry_cache::EntryCache;
use crate::volume::history::host_commands::{Whose, check_holes, ends_command};
use crate::volume::history::reigns::{Reign, VolumeThen};
use crate::volume::image::index::RangeSet;
use crate::volume::pool::Pool;

/// How many records are looked at in one piece: at most 168 entries each.
const PIECE_RECORDS: usize = 64;

/// The end of a host's command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) struct CommandEnd {
    pub(in crate::volume) lsn: Lsn,
    pub(in crate::volume) time_ns: u64,
    pub(in crate::volume) is_trim: bool,
}

impl CommandEnd {
    /// The end of a command of an image, if the entry is one.
    fn of(placed: &PlacedEntry, image: u32) -> Option<Self> {
        (placed.entry.image().0 == image).then(|| CommandEnd::of_any(placed)).flatten()
    }

    /// The end of a command of any image, if the entry is one.
    fn of_any(placed: &PlacedEntry) -> Option<Self> {
        ends_command(placed).then(|| CommandEnd {
            lsn: placed.lsn,
            time_ns: placed.time_ns,
            is_trim: placed.entry.kind() == Some(EntryKind::Trim),
        })
    }
}

/// Where a count of commands ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) struct Counted {
    /// How many there were, at most as many as were asked for.
    pub(in crate::volume) count: u64,
    /// The last of them in the direction of the count.
    pub(in crate::volume) last: Option<CommandEnd>,
}

impl Pool {
    /// Goes over the next `count` commands of a volume behind `from`, and not behind `up_to`, and
    /// calls `visit` for each.
    ///
    /// # Errors
    /// Those of reading the log.
    pub(in crate::volume) async fn commands_behind(
        &self,
        then: &VolumeThen,
        from: Lsn,
        up_to: Lsn,
        count: u64,
        cache: &mut EntryCache,
        mut visit: impl FnMut(CommandEnd),
    ) -> Result<Counted, VolumeError> {
        if self.state.borrow().catalog.volume_with_uuid(then.uuid).is_none() {
            return self.commands_of_deleted(then, from, up_to, count, cache, visit).await;
        }
        let mut counted = Counted { count: 0, last: None };
        for reign in self.reigns_from(then, from).await? {
            let (after, up_to) = (reign.after.max(from), reign.up_to.min(up_to));
            if after >= up_to || counted.count >= count {
                continue;
            }
            let geometry = self.log.borrow().geometry();
            for sequence in geometry.sequence_of(after).0..=geometry.sequence_of(up_to).0 {
                let known = match self.cached_known(cache, SegmentSeq(sequence), up_to).await {
                    // Beyond a stretch that is gone nothing is counted.
                    Err(VolumeError::NoSuchPoint { .. }) => return Ok(counted),
                    known => known?,
                };
                let records = known.entries.records_between(after, up_to);
                for (done, index) in records.enumerate() {
                    let (line, entries) = known.entries.record(index);
                    for placed in SegmentEntries::placed(line, entries) {
                        if placed.lsn > after
                            && placed.lsn <= up_to
                            && let Some(end) = CommandEnd::of(&placed, reign.image)
                        {
                            counted = Counted { count: counted.count + 1, last: Some(end) };
                            visit(end);
                            if counted.count == count {
                                check_holes(&known, after, end.lsn)?;
                                return Ok(counted);
                            }
                        }
                    }
                    if done % PIECE_RECORDS == PIECE_RECORDS - 1 {
                        yield_now().await;
                    }
                }
                check_holes(&known, after, up_to)?;
            }
        }
        Ok(counted)
    }

    /// As [`commands_behind`](Self::commands_behind), of a volume that does not exist now: where its
    /// images begin and end is read with each segment.
    async fn commands_of_deleted(
        &self,
        then: &VolumeThen,
        from: Lsn,
        up_to: Lsn,
        count: u64,
        cache: &mut EntryCache,
        mut visit: impl FnMut(CommandEnd),
    ) -> Result<Counted, VolumeError> {
        let mut counted = Counted { count: 0, last: None };
        let (geometry, newest) = {
            let log = self.log.borrow();
            (log.geometry(), Lsn(log.head_lsn().0.saturating_sub(1)))
        };
        let up_to = up_to.min(newest);
        for sequence in geometry.sequence_of(from).0..=geometry.sequence_of(up_to).0 {
            let known = match self.cached_known(cache, SegmentSeq(sequence), up_to).await {
                Err(VolumeError::NoSuchPoint { .. }) => return Ok(counted),
                known => known?,
            };
            let images = self.images_in(Whose::Volume(then.uuid), SegmentSeq(sequence), &known).await?;
            if images.is_empty() {
                // It was deleted before.
                break;
            }
            for index in known.entries.records_between(from, up_to) {
                let (line, entries) = known.entries.record(index);
                let of_volume = |placed: &PlacedEntry| {
                    placed.lsn > from && placed.lsn <= up_to && images.contains(placed.entry.image().0)
                };
                for placed in SegmentEntries::placed(line, entries).filter(of_volume) {
                    let Some(end) = CommandEnd::of_any(&placed).filter(|_| counted.count < count) else {
                        continue;
                    };
                    counted = Counted { count: counted.count + 1, last: Some(end) };
                    visit(end);
                }
            }
            if counted.count >= count {
                let end = counted.last.map_or(up_to, |last| last.lsn);
                check_holes(&known, from, end)?;
                return Ok(counted);
            }
            check_holes(&known, from, up_to)?;
            yield_now().await;
        }
        Ok(counted)
    }

    /// The blocks of the command that ends at a position, as ranges: first block and length. Empty
    /// if no command of the image ends there, or its entries are gone.
    ///
    /// # Errors
    /// Those of reading the log.
    pub(in crate::volume) async fn blocks_of_command(
        &self,
        image: u32,
        end: Lsn,
        cache: &mut EntryCache,
    ) -> Result<Vec<(u64, u64)>, VolumeError> {
        let sequence = self.log.borrow().geometry().sequence_of(end);
        let known = match self.cached_known(cache, sequence, end).await {
            Err(VolumeError::NoSuchPoint { .. }) => return Ok(Vec::new()),
            known => known?,
        };
        let mut blocks = RangeSet::default();
        let mut is_within = false;
        // A command is whole in one record.
        for index in known.entries.records_between(Lsn(end.0.saturating_sub(1)), end) {
            let (line, entries) = known.entries.record(index);
            for placed in SegmentEntries::placed_backward(line, entries).filter(|placed| placed.lsn <= end) {
                let ends = CommandEnd::of(&placed, image).is_some_and(|known| known.lsn == end);
                if placed.entry.is_last() && (is_within || !ends) {
                    break;
                }
                is_within |= ends;
                if is_within && placed.entry.image().0 == image {
                    let len_blocks = match placed.entry.kind() {
                        Some(EntryKind::Write) => 1,
                        Some(EntryKind::Trim) => placed.entry.value(),
                        _ => continue,
                    };
                    let block = placed.entry.block().0;
                    blocks.insert(block, block.saturating_add(len_blocks));
                }
            }
        }
        Ok(blocks.iter().map(|(start, end)| (start, end - start)).collect())
    }

    /// Goes back over `count` commands of a volume at or before `from` and behind `after`. The last
    /// is the oldest of them.
    ///
    /// # Errors
    /// Those of reading the log.
    pub(in crate::volume) async fn commands_before(
        &self,
        then: &VolumeThen,
        from: Lsn,
        after: Lsn,
        count: u64,
        cache: &mut EntryCache,
    ) -> Result<Counted, VolumeError> {
        let mut counted = Counted { count: 0, last: None };
        let mut reign = Reign { image: then.image, after: then.born, up_to: from };
        loop {
            let is_whole = self.count_back(&reign, after, count, cache, &mut counted).await?;
            // Beyond a stretch that is gone nothing is counted.
            if !is_whole || counted.count >= count || reign.after <= after {
                return Ok(counted);
            }
            let catalog = self.catalog_at(reign.after).await?;
            let Some(older) = VolumeThen::of(&catalog, then.uuid).filter(|older| older.born < reign.after)
            else {
                return Ok(counted);
            };
            reign = Reign { image: older.image, after: older.born, up_to: reign.after };
        }
    }

    /// Counts back over a reign. Returns whether all of it was there, as far as it was counted.
    async fn count_back(
        &self,
        reign: &Reign,
        after: Lsn,
        count: u64,
        cache: &mut EntryCache,
        counted: &mut Counted,
    ) -> Result<bool, VolumeError> {
        let (after, up_to) = (reign.after.max(after), reign.up_to);
        let geometry = self.log.borrow().geometry();
        for sequence in (geometry.sequence_of(after).0..=geometry.sequence_of(up_to).0).rev() {
            let known = match self.cached_known(cache, SegmentSeq(sequence), up_to).await {
                Err(VolumeError::NoSuchPoint { .. }) => return Ok(false),
                known => known?,
            };
            let records = known.entries.records_between(after, up_to);
            for (done, index) in records.rev().enumerate() {
                let (line, entries) = known.entries.record(index);
                for placed in SegmentEntries::placed_backward(line, entries) {
                    if placed.lsn > after
                        && placed.lsn <= up_to
                        && let Some(end) = CommandEnd::of(&placed, reign.image)
                    {
                        *counted = Counted { count: counted.count + 1, last: Some(end) };
                        if counted.count == count {
                            check_holes(&known, end.lsn, up_to)?;
                            return Ok(true);
                        }
                    }
                }
                if done % PIECE_RECORDS == PIECE_RECORDS - 1 {
                    yield_now().await;
                }
            }
            check_holes(&known, after, up_to)?;
        }
        Ok(true)
    }
}
