//! Counts hosts' commands of volumes along the log: how many there are in a stretch, and where the
//! n-th of them ends.
//!
//! A command is an entry of kind write or trim with the flag LAST, of the image that a volume had
//! there ([`super::reigns`]), or of any image that a volume that is deleted now had in a segment.
//! Over records that cannot be read nothing is counted: a command that is there would be missed.
//!
//! **Cost:** one step for each entry of the stretch; each segment's entries are read once. The
//! reactor runs other work between pieces of [`PIECE_RECORDS`] records.

use uuid::Uuid;

use crate::log::format::EntryKind;
use crate::log::reader::{PlacedEntry, SegmentEntries};
use crate::log::{Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::error::VolumeError;
use crate::volume::history::entry_cache::EntryCache;
use crate::volume::history::host_commands::{check_holes, ends_command};
use crate::volume::history::reigns::{Reign, VolumeThen};
use crate::volume::history::whose::Whose;
use crate::volume::image::index::RangeSet;
use crate::volume::pool::Pool;

/// How many records are looked at in one piece: at most 168 entries each.
const PIECE_RECORDS: usize = 64;

/// The end of a host's command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) struct CommandEnd {
    pub(in crate::volume) lsn: Lsn,
    pub(in crate::volume) time_ns: u64,
    pub(in crate::volume) image: u32,
    pub(in crate::volume) is_trim: bool,
}

impl CommandEnd {
    /// The end of a command, if the entry is one.
    fn of(placed: &PlacedEntry) -> Option<Self> {
        ends_command(placed).then(|| CommandEnd {
            lsn: placed.lsn,
            time_ns: placed.time_ns,
            image: placed.entry.image().0,
            is_trim: placed.entry.kind() == Some(EntryKind::Trim),
        })
    }

    /// The same, if it is one of a volume with these reigns.
    fn within(reigns: &[Reign], placed: &PlacedEntry) -> Option<Self> {
        let is_in = |end: &CommandEnd, reign: &Reign| reign.image == end.image && reign.covers(end.lsn);
        Self::of(placed).filter(|end| reigns.iter().any(|reign| is_in(end, reign)))
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
    /// Goes over the next `count` commands of volumes behind `from`, and not behind `up_to`, in the
    /// order of the log, and calls `visit` for each.
    ///
    /// # Errors
    /// Those of reading the log.
    pub(in crate::volume) async fn commands_behind(
        &self,
        thens: &[VolumeThen],
        (from, up_to): (Lsn, Lsn),
        count: u64,
        cache: &mut EntryCache,
        mut visit: impl FnMut(CommandEnd),
    ) -> Result<Counted, VolumeError> {
        let mut counted = Counted { count: 0, last: None };
        let lives = |then: &&VolumeThen| self.state.borrow().catalog.volume_with_uuid(then.uuid).is_some();
        let (living, deleted): (Vec<&VolumeThen>, Vec<&VolumeThen>) = thens.iter().partition(lives);
        let mut reigns: Vec<Reign> = Vec::new();
        for then in living {
            reigns.extend(self.reigns_from(then, from).await?);
        }
        let (geometry, newest) = {
            let log = self.log.borrow();
            (log.geometry(), Lsn(log.head_lsn().0.saturating_sub(1)))
        };
        let end = reigns.iter().map(|reign| reign.up_to).max().unwrap_or(from);
        let up_to = if deleted.is_empty() { end } else { newest }.min(up_to);
        let deleted = Whose::Volumes(deleted.iter().map(|then| then.uuid).collect());
        if from >= up_to || count == 0 {
            return Ok(counted);
        }
        for sequence in geometry.sequence_of(from).0..=geometry.sequence_of(up_to).0 {
            let known = match self.cached_known(cache, SegmentSeq(sequence), up_to).await {
                // Beyond a stretch that is gone nothing is counted.
                Err(VolumeError::NoSuchPoint { .. }) => return Ok(counted),
                known => known?,
            };
            // Where the images of deleted volumes begin and end is read with each segment.
            let images = self.images_in(&deleted, SegmentSeq(sequence), &known).await?;
            if reigns.is_empty() && images.is_empty() {
                // They were deleted before.
                break;
            }
            let is_of_deleted = |end: &CommandEnd| images.contains(end.image);
            let records = known.entries.records_between(from, up_to);
            for (done, index) in records.enumerate() {
                let (line, entries) = known.entries.record(index);
                for placed in SegmentEntries::placed(line, entries) {
                    if placed.lsn > from
                        && placed.lsn <= up_to
                        && let Some(end) = CommandEnd::within(&reigns, &placed)
                            .or_else(|| CommandEnd::of(&placed).filter(is_of_deleted))
                    {
                        counted = Counted { count: counted.count + 1, last: Some(end) };
                        visit(end);
                        if counted.count == count {
                            check_holes(&known, from, end.lsn)?;
                            return Ok(counted);
                        }
                    }
                }
                if done % PIECE_RECORDS == PIECE_RECORDS - 1 {
                    yield_now().await;
                }
            }
            check_holes(&known, from, up_to)?;
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
                let known = CommandEnd::of(&placed).filter(|known| known.image == image);
                let ends = known.is_some_and(|known| known.lsn == end);
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

    /// Goes back over `count` commands of volumes at or before `from`. The last is the oldest of
    /// them.
    ///
    /// # Errors
    /// Those of reading the log.
    pub(in crate::volume) async fn commands_before(
        &self,
        thens: &[VolumeThen],
        from: Lsn,
        count: u64,
        cache: &mut EntryCache,
    ) -> Result<Counted, VolumeError> {
        let mut counted = Counted { count: 0, last: None };
        let reign = |then: &VolumeThen| Reign { image: then.image, after: then.born, up_to: from };
        let mut reigns: Vec<Reign> = thens.iter().map(reign).collect();
        // Where the oldest known reign of each volume begins, if there may be an older one.
        let mut begins: Vec<(Uuid, Lsn)> = thens.iter().map(|then| (then.uuid, then.born)).collect();
        let geometry = self.log.borrow().geometry();
        for sequence in (0..=geometry.sequence_of(from).0).rev().map(SegmentSeq) {
            let mut still = Vec::with_capacity(begins.len());
            for (uuid, mut began) in begins {
                let mut is_known = true;
                while is_known && began >= geometry.first_lsn(sequence) {
                    let older = self.reign_before(uuid, began).await?;
                    is_known = older.is_some();
                    began = older.as_ref().map_or(began, |older| older.after);
                    reigns.extend(older);
                }
                if is_known {
                    still.push((uuid, began));
                }
            }
            begins = still;
            let is_whole = self.count_back(sequence, (&reigns, from), count, cache, &mut counted).await?;
            if !is_whole || counted.count >= count || begins.is_empty() {
                break;
            }
        }
        Ok(counted)
    }

    /// The reign of a volume that ended where another began; `None`: there is none.
    async fn reign_before(&self, uuid: Uuid, began: Lsn) -> Result<Option<Reign>, VolumeError> {
        if began == Lsn(0) {
            return Ok(None);
        }
        let catalog = self.catalog_at(began).await?;
        let older = VolumeThen::of(&catalog, uuid).filter(|older| older.born < began);
        Ok(older.map(|older| Reign { image: older.image, after: older.born, up_to: began }))
    }

    /// Counts the commands of a segment, newest first. Returns `false` if its entries are gone.
    async fn count_back(
        &self,
        sequence: SegmentSeq,
        (reigns, from): (&[Reign], Lsn),
        count: u64,
        cache: &mut EntryCache,
        counted: &mut Counted,
    ) -> Result<bool, VolumeError> {
        let known = match self.cached_known(cache, sequence, from).await {
            Err(VolumeError::NoSuchPoint { .. }) => return Ok(false),
            known => known?,
        };
        let records = known.entries.records_between(Lsn(0), from);
        for (done, index) in records.rev().enumerate() {
            let (line, entries) = known.entries.record(index);
            for placed in SegmentEntries::placed_backward(line, entries) {
                if placed.lsn <= from
                    && let Some(end) = CommandEnd::within(reigns, &placed)
                {
                    *counted = Counted { count: counted.count + 1, last: Some(end) };
                    if counted.count == count {
                        check_holes(&known, end.lsn, from)?;
                        return Ok(true);
                    }
                }
            }
            if done % PIECE_RECORDS == PIECE_RECORDS - 1 {
                yield_now().await;
            }
        }
        let oldest = reigns.iter().map(|reign| reign.after).min().unwrap_or(from);
        check_holes(&known, oldest, from)?;
        Ok(true)
    }
}
