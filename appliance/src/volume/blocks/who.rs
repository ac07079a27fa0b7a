//! The command that wrote what a block holds at a point.
//!
//! The log is read backward from the point, at most the W+1 segments that a point needs for each
//! generation, and no further than the first entry of the block. For a copy, the write of its
//! origin is the answer, as long as it is kept.

use std::rc::Rc;

use super::diff::Side;
use super::info::{BlockVersion, BlockWho};
use super::version::{Found, copied_from, covers, find, is_data};
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
        let mut next = Some((side.volume.image, Lsn(side.at.lsn)));
        while let Some((image, lsn)) = next {
            let generation = side.catalog.image(image);
            let born = Lsn(generation.map_or(0, |generation| generation.born_lsn));
            let (found, is_masked) = self.newest_entry(side, image, block, born..lsn).await?;
            if let Some(found) = found {
                return match copied_from(&found.placed) {
                    Some(origin) => self.written_at(image, block, origin).await.map(Some),
                    None => Ok(Some(self.version_of(&found, block, 1))),
                };
            }
            next = generation
                .filter(|generation| !is_masked && generation.inherits_at(lsn))
                .and_then(|generation| generation.parent)
                .map(|parent| (parent.image, Lsn(parent.lsn)));
        }
        Ok(None)
    }

    /// The newest write, copy or trim of a block of an image after the start and not after the end of
    /// `lsns`, in the segments that a point at the end needs; and whether a mask hides what the image
    /// inherited there. A mask may be newer than a write, and says nothing of it.
    async fn newest_entry(
        &self,
        side: &Side,
        image: u32,
        block: u64,
        lsns: std::ops::Range<Lsn>,
    ) -> Result<(Option<Found>, bool), VolumeError> {
        let mut is_masked = false;
        let geometry = self.log.borrow().geometry();
        let newest = geometry.sequence_of(lsns.end);
        let oldest = SegmentSeq(newest.0.saturating_sub(self.working_set_at(newest)));
        let oldest = oldest.max(geometry.sequence_of(lsns.start));
        for sequence in (oldest.0..=newest.0).rev().map(SegmentSeq) {
            let known = self.known_of(sequence).await?;
            let found = find(&known.entries, lsns.end, |placed| {
                let is_inside = placed.lsn > lsns.start;
                is_masked |= is_inside && covers(placed, EntryKind::Mask, image, block);
                let is_trim = covers(placed, EntryKind::Trim, image, block);
                is_inside && (is_trim || is_data(placed, image, block))
            });
            let after = found.map_or(lsns.start, |found| found.placed.lsn);
            if let Some(hole) = known.hole_between(after, lsns.end) {
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
            Err(VolumeError::NoSuchPoint { .. }) => return Ok(self.version_gone(image, block, lsn)),
            Err(error) => return Err(error),
        };
        let found = find(&known.entries, lsn, |placed| {
            placed.lsn == lsn && placed.entry.has_data() && placed.entry.block().0 == block
        });
        Ok(found
            .map_or_else(|| self.version_gone(image, block, lsn), |found| self.version_of(&found, block, 1)))
    }
}
