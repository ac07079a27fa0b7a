//! The history of a block, or of a range of blocks, newest first, in pages.
//!
//! **Two ways.** Each write of a block names the position that it replaced, so for a single block
//! the chain of its versions is followed, which reads one segment for each version. A chain ends at
//! a trim and at the birth of an image; from there on, and for ranges, the log is read backward
//! segment by segment. The walk follows the volume through roll-backs and, before a clone was made,
//! through its origin ([`images_then`](super::images_then)).
//!
//! **Bounds:** a page has [`VERSIONS_MAX`] changes and reads [`SEGMENTS_MAX`] segments; then it
//! says where the next one begins.

use std::ops::Range;
use std::rc::Rc;

use super::images_then::ImageThen;
use super::info::{BlockChange, BlockPlace, BlockVersion, HistoryPage, HistoryPosition};
use super::version::{FoundEntry, copied_from, find, is_data, version_gone};
use crate::log::format::EntryKind;
use crate::log::reader::PlacedEntry;
use crate::log::{ImageId, Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::error::VolumeError;
use crate::volume::history::known::Known;
use crate::volume::history::point::NamedPoint;
use crate::volume::image::index::Index;
use crate::volume::image::volume::Volume;
use crate::volume::pool::Pool;

/// The most changes in one answer.
pub(super) const VERSIONS_MAX: usize = 1000;

/// The changes in one answer if the caller does not say.
const VERSIONS_DEFAULT: usize = 100;

/// How many segments one answer reads.
const SEGMENTS_MAX: usize = 128;

/// Which history.
#[derive(Debug, Clone)]
pub struct HistoryRequest {
    /// The volume, by name or UUID.
    pub volume: String,
    /// The first block.
    pub block: u64,
    /// How many blocks.
    pub blocks: u64,
    /// The point from which to look back; `None`: now.
    pub at: Option<NamedPoint>,
    /// Where a page before this one ended.
    pub from: Option<HistoryPosition>,
    /// The most changes in the answer; at most 1000.
    pub limit: Option<usize>,
}

/// A walk backward through the history of blocks.
struct Walk<'a> {
    pool: &'a Pool,
    blocks: Range<u64>,
    limit: usize,
    image_then: ImageThen,
    /// The position at which the image was looked up.
    known_lsn: Lsn,
    /// The walk has yet to see what is at or before this position.
    up_to: Lsn,
    /// For a single block, the position of its next version, if it is known.
    next_version: Option<Lsn>,
    /// The segment that was read last.
    known: Option<(SegmentSeq, Known)>,
    versions: Vec<BlockVersion>,
    end: Option<String>,
}

impl Pool {
    /// A page of the history of blocks. See the module's documentation.
    ///
    /// # Errors
    /// No such volume or point, an empty range, the archive.
    pub async fn block_history(self: Rc<Self>, request: HistoryRequest) -> Result<HistoryPage, VolumeError> {
        let blocks = check_range(request.block, request.blocks)?;
        let is_now = request.at.is_none() && request.from.is_none();
        let side = self.side(&request.volume, request.at).await?;
        let (image, lsn) = (side.volume.image, Lsn(side.at.lsn));
        let first = HistoryPosition { lsn: lsn.0, image, known_lsn: lsn.0, version_lsn: None };
        let start = request.from.unwrap_or(first);
        // Just behind the birth of an image the catalog does not have it yet.
        let known_lsn = Lsn(start.known_lsn.max(start.lsn)).min(lsn);
        let image_then = self.image_then(start.image, known_lsn).await?;
        let mut walk = Walk {
            pool: &self,
            blocks,
            limit: request.limit.unwrap_or(VERSIONS_DEFAULT).clamp(1, VERSIONS_MAX),
            image_then,
            known_lsn,
            up_to: Lsn(start.lsn),
            next_version: start.version_lsn.map(Lsn),
            known: None,
            versions: Vec::new(),
            end: None,
        };
        if is_now {
            walk.start_at_present();
        }
        walk.run().await?;
        let next = walk.end.is_none().then_some(HistoryPosition {
            lsn: walk.up_to.0,
            image: walk.image_then.image,
            known_lsn: walk.known_lsn.0,
            version_lsn: walk.next_version.map(|lsn| lsn.0),
        });
        Ok(HistoryPage {
            volume: side.volume.name,
            uuid: side.volume.uuid,
            versions: walk.versions,
            next,
            end: walk.end,
        })
    }
}

/// The range of a request.
pub(super) fn check_range(block: u64, blocks: u64) -> Result<Range<u64>, VolumeError> {
    let end = block.checked_add(blocks).filter(|&end| end > block);
    end.map(|end| block..end).ok_or_else(|| VolumeError::Invalid {
        what: "range of blocks",
        reason: format!("{blocks} blocks from block {block} on"),
    })
}

impl Walk<'_> {
    fn is_single(&self) -> bool {
        self.blocks.end - self.blocks.start == 1
    }

    /// For a single block, uses the present index of the volume.
    fn start_at_present(&mut self) {
        if !self.is_single() {
            return;
        }
        let state = self.pool.state.borrow();
        let volume = state.volumes.of_image(ImageId(self.image_then.image));
        let mapping = volume.and_then(Volume::ready_index).map(|index: &Index| index.get(self.blocks.start));
        let Some(mapping) = mapping.filter(|mapping| !mapping.is_none() && mapping.lsn() <= self.up_to)
        else {
            return;
        };
        self.follow(mapping.lsn());
    }

    /// Continues at the version at a position, or before the birth of the image if it is inherited.
    fn follow(&mut self, lsn: Lsn) {
        if lsn > self.image_then.born {
            self.next_version = Some(lsn);
        } else {
            (self.next_version, self.up_to) = (None, self.image_then.born);
        }
    }

    async fn run(&mut self) -> Result<(), VolumeError> {
        let mut segments = 0;
        while self.end.is_none() && self.versions.len() < self.limit && segments < SEGMENTS_MAX {
            if self.next_version.is_none() && self.up_to <= self.image_then.born {
                self.cross_birth().await?;
                continue;
            }
            segments += 1;
            let at = self.next_version.unwrap_or(self.up_to);
            match self.load(at).await {
                Ok(()) => match self.next_version.take() {
                    Some(version) => self.see_version(version),
                    None => self.see_segment(),
                },
                Err(VolumeError::NoSuchPoint { reason, .. }) => {
                    if let Some(version) = self.next_version.take() {
                        let (image, block) = (self.image_then.image, self.blocks.start);
                        self.versions.push(version_gone(image, block, version));
                    }
                    self.end = Some(reason);
                }
                Err(error) => return Err(error),
            }
            yield_now().await;
        }
        Ok(())
    }

    /// Loads the entries of the segment of a position.
    async fn load(&mut self, at: Lsn) -> Result<(), VolumeError> {
        let sequence = self.pool.log.borrow().geometry().sequence_of(at);
        if self.known.as_ref().is_none_or(|(known, _)| *known != sequence) {
            self.known = Some((sequence, self.pool.known_of(sequence).await?));
        }
        Ok(())
    }

    /// Goes on with what the volume was before its image was born.
    async fn cross_birth(&mut self) -> Result<(), VolumeError> {
        let young = self.image_then;
        let before = match self.pool.image_before(young).await {
            Ok(before) => before,
            Err(VolumeError::NoSuchPoint { reason, .. }) => {
                self.end = Some(reason);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some(before) = before else {
            self.end = Some(format!("the volume was made behind lsn:{}", young.born));
            return Ok(());
        };
        self.versions.push(self.mark(before.change, young.born, before.from_lsn));
        self.image_then = self.pool.image_then(before.image, before.lsn).await?;
        (self.up_to, self.known_lsn) = (before.lsn, before.lsn);
        Ok(())
    }

    /// Takes the version of the single block at a position, whose segment is loaded.
    fn see_version(&mut self, version: Lsn) {
        let (image, block) = (self.image_then.image, self.blocks.start);
        let Some((_, known)) = &self.known else { return };
        let is_it = |placed: &PlacedEntry| placed.lsn == version && is_data(placed, image, block);
        let Some(found) = find(&known.entries, version, is_it) else {
            // Its entry is unknown; the segment is read as a whole.
            self.up_to = version;
            return;
        };
        self.up_to = Lsn(version.0 - 1);
        if let Some(origin) = copied_from(&found.placed) {
            self.follow(origin);
            return;
        }
        self.versions.push(self.pool.version_of(&found, block, 1));
        match found.placed.entry.value() {
            // It replaced nothing: the block had been discarded, or had never been written.
            0 => {}
            superseded if found.placed.entry.kind() == Some(EntryKind::Write) => {
                self.follow(Lsn(superseded));
            }
            _ => {}
        }
    }

    /// Takes the changes of the segment that is loaded, at or before `up_to`.
    fn see_segment(&mut self) {
        let Some((sequence, known)) = self.known.take() else { return };
        let (born, up_to, image) = (self.image_then.born, self.up_to, self.image_then.image);
        let mut versions = std::mem::take(&mut self.versions);
        let first_of_segment = versions.len();
        let (mut command_end, mut stopped_at) = (None, None);
        let mut run = Run::default();
        known.entries.visit_backward(Lsn::MAX, |placed| {
            if placed.entry.is_last() {
                command_end = Some(placed.lsn);
            }
            if placed.lsn > up_to || placed.lsn <= born || placed.entry.image().0 != image {
                return true;
            }
            let Some((block, blocks)) = self.changed(&placed) else { return true };
            if run.extends(&placed, &mut versions) {
                return true;
            }
            // Entries without data share a position with the entry before them.
            let last_lsn = versions.last().map(|version| version.lsn);
            if versions.len() >= self.limit && last_lsn != Some(placed.lsn.0) {
                stopped_at = Some(placed.lsn);
                return false;
            }
            versions.push(self.pool.version_of(&FoundEntry { placed, command_end }, block, blocks));
            run = Run::of(&placed);
            true
        });
        let seen_from = stopped_at.map_or(born, |lsn: Lsn| lsn.max(born));
        let holes = known.holes.iter().filter(|hole| hole.start > seen_from && hole.start <= up_to);
        versions.extend(holes.map(|hole| self.mark(BlockChange::Unknown, Lsn(hole.end.0 - 1), None)));
        versions[first_of_segment..].sort_by_key(|version| std::cmp::Reverse(version.lsn));
        let first_lsn = self.pool.log.borrow().geometry().first_lsn(sequence);
        self.up_to = stopped_at.unwrap_or(Lsn(first_lsn.0.saturating_sub(1)));
        (self.versions, self.known) = (versions, Some((sequence, known)));
    }

    /// A line for the whole range that is no change by a host.
    fn mark(&self, kind: BlockChange, lsn: Lsn, from_lsn: Option<u64>) -> BlockVersion {
        BlockVersion {
            block: self.blocks.start,
            blocks: self.blocks.end - self.blocks.start,
            kind,
            lsn: lsn.0,
            point_lsn: lsn.0,
            time_ns: None,
            superseded_lsn: None,
            from_lsn,
            image: self.image_then.image,
            place: BlockPlace::None,
        }
    }

    /// The blocks of the range that a write or a trim changed: the first, and how many.
    fn changed(&self, placed: &PlacedEntry) -> Option<(u64, u64)> {
        let first = placed.entry.block().0;
        let end = match placed.entry.kind() {
            Some(EntryKind::Write) => first + 1,
            Some(EntryKind::Trim) => first.saturating_add(placed.entry.value()),
            _ => return None,
        };
        let (start, end) = (first.max(self.blocks.start), end.min(self.blocks.end));
        (start < end).then(|| (start, end - start))
    }
}

/// The blocks of one command that were seen last, to show a command as one change.
#[derive(Debug, Default)]
struct Run {
    /// Block and position of the entry before which the next one of the command is expected.
    before: Option<(u64, Lsn)>,
}

impl Run {
    fn of(placed: &PlacedEntry) -> Self {
        let is_write = placed.entry.kind() == Some(EntryKind::Write);
        Run { before: is_write.then_some((placed.entry.block().0, placed.lsn)) }
    }

    /// Adds the entry to the newest change, if both belong to one command.
    fn extends(&mut self, placed: &PlacedEntry, versions: &mut [BlockVersion]) -> bool {
        let (Some((block, lsn)), Some(version)) = (self.before, versions.last_mut()) else { return false };
        let entry = placed.entry;
        let is_next = entry.kind() == Some(EntryKind::Write)
            && !entry.is_last()
            && entry.block().0 + 1 == block
            && placed.lsn.0 + 1 == lsn.0;
        if is_next {
            version.block -= 1;
            version.blocks += 1;
            let superseded = Some(entry.value()).filter(|&lsn| lsn != 0);
            version.superseded_lsn = version.superseded_lsn.max(superseded);
            *self = Run::of(placed);
        }
        is_next
    }
}
