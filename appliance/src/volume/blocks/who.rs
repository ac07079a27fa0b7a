//! The command that wrote what a block holds at a point.
//!
//! The log is read backward from the point, at most the W+1 segments that a point needs for each
//! generation, and no further than the first entry of the block. For a copy, the write of its
//! origin is the answer, as long as it is kept.

use std::rc::Rc;

use super::diff::Side;
use super::images_then::Entries;
use super::info::{BlockVersion, BlockWho};
use super::version::{FoundEntry, copied_from, covers, find, is_data, version_gone};
use crate::log::format::EntryKind;
use crate::log::{Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::error::VolumeError;
use crate::volume::history::point::NamedPoint;
use crate::volume::pool::Pool;

impl Pool {
    /// The command that wrote or discarded what a block of a volume holds at a point; without a
    /// point, now.
    ///
    /// # Errors
    /// No such volume or point; the block is not in the volume; what it held is not certain; the
    /// archive.
    pub async fn block_who(
        self: Rc<Self>,
        volume: String,
        block: u64,
        point: Option<NamedPoint>,
    ) -> Result<BlockWho, VolumeError> {
        let side = self.side(&volume, point).await?;
        if block >= side.volume.size_blocks {
            let reason = format!("volume '{volume}' had blocks 0 to {} then", side.volume.size_blocks - 1);
            return Err(VolumeError::Invalid { what: "block", reason });
        }
        let version = self.writer_of(&side, block).await?;
        Ok(BlockWho {
            volume: side.volume.name,
            uuid: side.volume.uuid,
            block,
            lsn: side.at.lsn,
            time_ns: side.at.time_ns,
            version,
        })
    }

    async fn writer_of(&self, side: &Side, block: u64) -> Result<Option<BlockVersion>, VolumeError> {
        for entries in self.counting_entries(&side.catalog, side.volume.image, Lsn(side.at.lsn)) {
            let image = entries.image;
            let (found, is_masked) = self.newest_entry(side, entries, block).await?;
            if let Some(found) = found {
                return match copied_from(&found.placed) {
                    Some(origin) => self.written_at(image, block, origin).await.map(Some),
                    None => Ok(Some(self.version_of(&found, block, 1))),
                };
            }
            if is_masked {
                break;
            }
        }
        Ok(None)
    }

    /// The newest write, copy or trim of a block, in the segments that a point needs; and whether a
    /// mask hides what the image inherited there. A mask may be newer than a write, and says
    /// nothing
    /// of it.
    async fn newest_entry(
        &self,
        side: &Side,
        entries: Entries,
        block: u64,
    ) -> Result<(Option<FoundEntry>, bool), VolumeError> {
        let Entries { image, above, up_to, .. } = entries;
        let mut is_masked = false;
        for sequence in self.segments_between(above, up_to).rev().map(SegmentSeq) {
            let known = self.known_of(sequence).await?;
            let found = find(&known.entries, up_to, |placed| {
                let is_inside = placed.lsn > above;
                is_masked |= is_inside && covers(placed, EntryKind::Mask, image, block);
                let is_trim = covers(placed, EntryKind::Trim, image, block);
                is_inside && (is_trim || is_data(placed, image, block))
            });
            let after = found.map_or(above, |found| found.placed.lsn);
            if let Some(hole) = known.hole_between(after, up_to) {
                return Err(VolumeError::NoSuchPoint {
                    point: side.at.point.clone(),
                    reason: format!(
                        "what wrote block {block} may be in the records at LSN {} to {}, which cannot be read; `varve block history` shows what is known",
                        hole.start, hole.end
                    ),
                });
            }
            if found.is_some() {
                return Ok((found, is_masked));
            }
            yield_now().await;
        }
        Ok((None, is_masked))
    }

    /// The write of a block at a position; a hydrated copy has the image of its origin there.
    async fn written_at(&self, image: u32, block: u64, lsn: Lsn) -> Result<BlockVersion, VolumeError> {
        let sequence = self.log.borrow().geometry().sequence_of(lsn);
        let known = match self.known_of(sequence).await {
            Ok(known) => known,
            Err(VolumeError::NoSuchPoint { .. }) => return Ok(version_gone(image, block, lsn)),
            Err(error) => return Err(error),
        };
        let found = find(&known.entries, lsn, |placed| {
            placed.lsn == lsn && placed.entry.has_data() && placed.entry.block().0 == block
        });
        Ok(found.map_or_else(|| version_gone(image, block, lsn), |found| self.version_of(&found, block, 1)))
    }
}
