//! Reads by tasks: the entries of a segment from the device or the archive, and single blocks.

use std::sync::Arc;

use super::receivers::{failed, reply};
use super::requests::Ask;
use super::slot::no_archive;
use crate::archive::object::ObjectId;
use crate::archive::service::{ArchiveReply, ObjectEntries};
use crate::log::checksum::crc32c;
use crate::log::load::load_segment;
use crate::log::reader::SegmentEntries;
use crate::log::table::Phase;
use crate::log::{Lsn, SegmentSeq};
use crate::volume::error::VolumeError;
use crate::volume::pool::Pool;

impl Pool {
    /// The entries of a segment, from the primary device or from the archive; `None` for a lost
    /// segment, which has been reported.
    ///
    /// # Errors
    /// The device's or the store's; the segment's history is gone: expired, or never archived.
    pub(in crate::volume) async fn entries_of(
        &self,
        sequence: SegmentSeq,
    ) -> Result<Option<SegmentEntries>, VolumeError> {
        let pinned = self.log.borrow_mut().pin(sequence);
        if pinned {
            let loaded = load_segment(&self.log, sequence).await;
            self.log.borrow_mut().unpin(sequence);
            return Ok(Some(loaded?));
        }
        let parts = {
            let state = self.state.borrow();
            state.archive.get().map(|archive| archive.objects.parts(sequence)).unwrap_or_default()
        };
        if parts.is_empty() {
            self.check_reached()?;
            let is_lost = {
                let log = self.log.borrow();
                log.table().get(sequence).is_some_and(|segment| segment.phase != Phase::Released)
            };
            return if is_lost { Ok(None) } else { Err(self.gone(sequence)) };
        }
        let mut entries = Vec::with_capacity(parts.len());
        for id in parts {
            match self.object_entries(id).await {
                Ok(part) => entries.push(part),
                Err(error) => self.check_given_up(id, error)?,
            }
        }
        Ok(Some(ObjectEntries::join(entries.iter().map(|entries| &**entries))))
    }

    /// Whether a recovery gave up an object that cannot be read, and recorded its range as lost: if
    /// so, it is a hole, and not an error. Otherwise it is an error that names the object.
    ///
    /// # Errors
    /// `error`.
    pub(super) fn check_given_up(&self, id: ObjectId, error: VolumeError) -> Result<(), VolumeError> {
        let state = self.state.borrow();
        let is_lost =
            state.catalog.lost.iter().any(|lost| lost.start <= id.from_lsn && lost.end >= id.to_lsn);
        if is_lost { Ok(()) } else { Err(error) }
    }

    /// The oldest segment whose entries can be read, going back from the present without a hole.
    pub(in crate::volume) fn oldest_reachable(&self) -> SegmentSeq {
        let (state, log) = (self.state.borrow(), self.log.borrow());
        let mut oldest = log.table().oldest();
        let Some(archive) = state.archive.get() else { return oldest };
        for (sequence, _) in archive.objects.iter().rev() {
            if sequence.next() == oldest {
                oldest = sequence;
            } else if sequence < oldest {
                break;
            }
        }
        oldest
    }

    /// At most `limit` archived segments from `from` on, in the order of the log.
    pub(in crate::volume) fn archived_from(&self, from: SegmentSeq, limit: usize) -> Vec<SegmentSeq> {
        let state = self.state.borrow();
        let Some(archive) = state.archive.get() else { return Vec::new() };
        archive.objects.iter_from(from).take(limit).map(|(sequence, _)| sequence).collect()
    }

    /// Whether a missing segment may be found again: there is no archive now, or the archive has
    /// lost the segment and may get it back.
    pub(in crate::volume) fn may_come_back(&self, sequence: SegmentSeq) -> bool {
        self.state.borrow().archive.get().is_none_or(|archive| archive.lost.contains(sequence))
    }

    /// The first object of a segment.
    pub(in crate::volume) fn first_object(&self, sequence: SegmentSeq) -> Option<ObjectId> {
        self.state.borrow().archive.get()?.objects.parts(sequence).first().copied()
    }

    /// The error for a request that needs a segment whose entries no longer exist.
    pub(in crate::volume) fn gone(&self, sequence: SegmentSeq) -> VolumeError {
        let geometry = self.log.borrow().geometry();
        let (start, end) = (geometry.first_lsn(sequence), geometry.first_lsn(sequence.next()));
        let oldest = geometry.first_lsn(self.oldest_reachable());
        let is_lost = {
            let state = self.state.borrow();
            state.archive.get().is_some_and(|archive| archive.lost.contains(sequence))
        };
        if is_lost {
            return VolumeError::NoSuchPoint {
                point: format!("lsn:{start} to lsn:{end}"),
                reason: format!(
                    "the archive has lost segment {sequence}, which is not on the primary device any more; `varve archive verify` names what is lost"
                ),
            };
        }
        VolumeError::NoSuchPoint {
            point: format!("lsn:{start} to lsn:{end}"),
            reason: format!(
                "that part of the log is no longer kept: it expired, or left the primary device without being archived. The log is kept without a gap from lsn:{oldest} on"
            ),
        }
    }

    /// The block at a position, from the archive, if its checksum is right.
    pub(in crate::volume) async fn archived_block(
        &self,
        sequence: SegmentSeq,
        lsn: Lsn,
        crc: u32,
    ) -> Result<Option<Vec<u8>>, VolumeError> {
        let (id, cached) = {
            let mut state = self.state.borrow_mut();
            let archive = state.archive.get_mut().ok_or_else(no_archive)?;
            let Some(id) = archive.object_of(sequence, lsn) else {
                return archive.check_reached().map(|()| None);
            };
            (id, archive.blocks.get(&id, lsn))
        };
        let blocks = match cached {
            Some(blocks) => blocks,
            None => match self.ask(Ask { id, lsn: Some(lsn) }).await? {
                ArchiveReply::Blocks { result, .. } => result.map_err(failed)?,
                _ => unreachable!("a reply is of its request's kind"),
            },
        };
        if let Some(archive) = self.state.borrow_mut().archive.get_mut() {
            archive.blocks.insert(id, Arc::clone(&blocks));
        }
        Ok(blocks.block(lsn).filter(|block| crc32c(block) == crc).map(<[u8]>::to_vec))
    }

    /// How many objects hold a segment, and how many entries they have, if the cache knows that.
    pub(in crate::volume) fn archived_size(&self, sequence: SegmentSeq) -> (u64, Option<u64>) {
        let mut state = self.state.borrow_mut();
        let Some(archive) = state.archive.get_mut() else { return (0, None) };
        let parts = archive.objects.parts(sequence);
        let known: Option<Vec<u64>> = parts
            .iter()
            .map(|id| archive.entries.get(id).map(|entries| entries.units.len() as u64))
            .collect();
        (parts.len() as u64, known.map(|counts| counts.iter().sum()))
    }

    /// Reads the frame that holds a position from the archive, whether or not a cache has it.
    /// Returns its bytes; `None` if the archive does not have the position.
    pub(in crate::volume) async fn read_frame_bytes(
        &self,
        sequence: SegmentSeq,
        lsn: Lsn,
    ) -> Result<Option<u64>, VolumeError> {
        let id = self.state.borrow().archive.get().and_then(|archive| archive.object_of(sequence, lsn));
        let Some(id) = id else { return Ok(None) };
        match self.ask(Ask { id, lsn: Some(lsn) }).await? {
            ArchiveReply::Blocks { result, .. } => Ok(Some(result.map_err(failed)?.bytes.len() as u64)),
            _ => unreachable!("a reply is of its request's kind"),
        }
    }

    async fn ask(&self, ask: Ask) -> Result<ArchiveReply, VolumeError> {
        let slot = self.state.borrow_mut().archive.get_mut().ok_or_else(no_archive)?.begin(ask);
        Ok(reply(slot).await)
    }
}
