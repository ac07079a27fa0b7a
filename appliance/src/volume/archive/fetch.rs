//! What comes back from the archive: entries for tasks, blocks for hosts' reads.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use smallvec::SmallVec;

use super::ahead::reply;
use super::seal::no_archive;
use super::{Archive, Ask};
use crate::archive::object::ObjectId;
use crate::archive::service::{ArchiveError, ObjectBlocks, ObjectEntries, Reply};
use crate::dma::{BLOCK_BYTES, DmaBufMut};
use crate::log::checksum::crc32c;
use crate::log::load::load_segment;
use crate::log::reader::SegmentEntries;
use crate::log::table::Phase;
use crate::log::{Lsn, SegmentSeq};
use crate::volume::error::VolumeError;
use crate::volume::pool::{Pool, State};

/// Blocks of one frame, usually; blocks nearer to each other than this are asked for once.
const NEAR_BLOCKS: u64 = 64;

/// The bytes of a block that was asked for; `None` when the archive cannot give it.
pub(in crate::volume) type BlockAnswer = Pin<Box<dyn Future<Output = Option<Vec<u8>>>>>;

/// Who waits for a reply.
pub(in crate::volume) enum Waiter {
    /// A task.
    Task(Rc<RefCell<FetchSlot>>),
    /// A host's read, by its place among the pool's reads.
    Read(usize),
}

/// Where a task finds its reply.
#[derive(Default)]
pub(in crate::volume) struct FetchSlot {
    pub(super) reply: Option<Reply>,
    pub(super) waker: Option<Waker>,
}

/// A run of blocks of a host's read that comes from the archive.
pub(in crate::volume) struct ArchivedBlocks {
    /// Where the bytes go.
    pub(in crate::volume) buffer: DmaBufMut,
    /// For each block its position and the low half of its CRC32C, and whether it is there.
    pub(in crate::volume) blocks: SmallVec<[(Lsn, u16, Fetched); 4]>,
}

/// How far a block has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) enum Fetched {
    Missing,
    Asked,
    There,
}

/// What a step of fetching did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::volume) struct Progress {
    /// So many replies will come.
    pub(in crate::volume) asked: usize,
    /// A block cannot be had.
    pub(in crate::volume) failed: bool,
    /// Nobody knows which blocks can be had: the archive has not been reached yet.
    pub(in crate::volume) away: bool,
}

impl Archive {
    pub(super) fn answer(&mut self, token: u64, reply: Reply, state: &mut State) {
        match self.waiters.remove(&token) {
            Some(Waiter::Task(slot)) => {
                let mut slot = slot.borrow_mut();
                slot.reply = Some(reply);
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
            }
            Some(Waiter::Read(read)) => {
                if let Reply::Blocks { result, .. } = reply {
                    state.archive_answered(self, read, result);
                }
            }
            // The task was dropped.
            None => {}
        }
    }

    /// Fills what the caches hold and asks for the rest. `read` is told of each reply.
    pub(in crate::volume) fn fetch(
        &mut self,
        wanted: &mut ArchivedBlocks,
        sequence_of: impl Fn(Lsn) -> SegmentSeq,
        read: usize,
    ) -> Progress {
        let mut asked: SmallVec<[(ObjectId, Lsn); 4]> = SmallVec::new();
        let (mut failed, mut away) = (false, false);
        for (index, (lsn, crc16, fetched)) in wanted.blocks.iter_mut().enumerate() {
            if *fetched != Fetched::Missing {
                continue;
            }
            let Some(id) = self.objects.object_of(sequence_of(*lsn), *lsn) else {
                (failed, away) = (!self.is_away(), self.is_away());
                break;
            };
            if let Some(blocks) = self.blocks.get(&id, *lsn) {
                // One that is wrong stays missing, so that whoever tells of it finds it.
                if copy_block(&blocks, *lsn, *crc16, &mut wanted.buffer, index) {
                    *fetched = Fetched::There;
                } else {
                    failed = true;
                }
                continue;
            }
            if asked.iter().any(|(known, near)| *known == id && near.0.abs_diff(lsn.0) < NEAR_BLOCKS) {
                continue;
            }
            *fetched = Fetched::Asked;
            asked.push((id, *lsn));
            let token = self.token();
            self.waiters.insert(token, Waiter::Read(read));
            self.ask(token, Ask { id, lsn: Some(*lsn) });
        }
        Progress { asked: asked.len(), failed, away }
    }

    /// Takes a reply for a run of blocks: copies every block of it that is wanted. `false`: one of them is not what it should be.
    pub(in crate::volume) fn fill(
        &mut self,
        wanted: &mut ArchivedBlocks,
        sequence_of: impl Fn(Lsn) -> SegmentSeq,
        blocks: &Arc<ObjectBlocks>,
    ) -> bool {
        let end = blocks.first_lsn.plus((blocks.bytes.len() / BLOCK_BYTES) as u64);
        for (index, (lsn, crc16, fetched)) in wanted.blocks.iter_mut().enumerate() {
            if *fetched == Fetched::There || *lsn < blocks.first_lsn || *lsn >= end {
                continue;
            }
            if !copy_block(blocks, *lsn, *crc16, &mut wanted.buffer, index) {
                return false;
            }
            *fetched = Fetched::There;
            if let Some(id) = self.objects.object_of(sequence_of(*lsn), *lsn) {
                self.blocks.insert(id, Arc::clone(blocks));
            }
        }
        true
    }
}

impl Archive {
    /// Asks for the block at a position, for whoever polls the answer: its bytes, whatever their checksum, or `None` when the archive cannot give them.
    pub(in crate::volume) fn ask_block(&mut self, sequence: SegmentSeq, lsn: Lsn) -> BlockAnswer {
        let Some(id) = self.objects.object_of(sequence, lsn) else {
            return Box::pin(std::future::ready(None));
        };
        if let Some(blocks) = self.blocks.get(&id, lsn) {
            return Box::pin(std::future::ready(blocks.block(lsn).map(<[u8]>::to_vec)));
        }
        let slot = self.begin(Ask { id, lsn: Some(lsn) });
        Box::pin(async move {
            match reply(slot).await {
                Reply::Blocks { result: Ok(blocks), .. } => blocks.block(lsn).map(<[u8]>::to_vec),
                _ => None,
            }
        })
    }
}

/// Copies a block to its place; `false` when it was damaged when it was archived, or its checksum is wrong.
fn copy_block(blocks: &ObjectBlocks, lsn: Lsn, crc16: u16, buffer: &mut DmaBufMut, index: usize) -> bool {
    let Some(bytes) = blocks.block(lsn) else { return false };
    buffer.as_mut_slice()[index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES].copy_from_slice(bytes);
    crc32c(bytes) as u16 == crc16
}

impl Pool {
    /// The entries of a segment, from the primary device or from the archive; `None` for one that is lost, which was reported.
    ///
    /// # Errors
    /// The device's or the store's; the segment's past is gone: expired, or never archived.
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
            state.archive.as_ref().map(|archive| archive.objects.parts(sequence)).unwrap_or_default()
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

    /// Whether an object that cannot be read was given up by a recovery, which recorded its stretch as lost: then it is a hole, and no error. Any other stays one, which names the object.
    ///
    /// # Errors
    /// `error`.
    pub(super) fn check_given_up(&self, id: ObjectId, error: VolumeError) -> Result<(), VolumeError> {
        let state = self.state.borrow();
        let is_lost =
            state.catalog.lost.iter().any(|lost| lost.start <= id.from_lsn && lost.end >= id.to_lsn);
        if is_lost { Ok(()) } else { Err(error) }
    }

    /// The oldest segment whose entries can be had, going back from the present without a hole.
    pub(in crate::volume) fn oldest_reachable(&self) -> SegmentSeq {
        let (state, log) = (self.state.borrow(), self.log.borrow());
        let mut oldest = log.table().oldest();
        let Some(archive) = &state.archive else { return oldest };
        for (sequence, _) in archive.objects.iter().rev() {
            if sequence.next() == oldest {
                oldest = sequence;
            } else if sequence < oldest {
                break;
            }
        }
        oldest
    }

    /// Whether a segment that is nowhere may be found again: there is no archive now, or it has
    /// lost the segment and may get it back.
    pub(in crate::volume) fn may_come_back(&self, sequence: SegmentSeq) -> bool {
        self.state.borrow().archive.as_ref().is_none_or(|archive| archive.lost.contains(sequence))
    }

    /// The first object of a segment.
    pub(in crate::volume) fn first_object(&self, sequence: SegmentSeq) -> Option<ObjectId> {
        self.state.borrow().archive.as_ref()?.objects.parts(sequence).first().copied()
    }

    /// The refusal of what needs a segment whose entries are kept nowhere.
    pub(in crate::volume) fn gone(&self, sequence: SegmentSeq) -> VolumeError {
        let geometry = self.log.borrow().geometry();
        let (start, end) = (geometry.first_lsn(sequence), geometry.first_lsn(sequence.next()));
        let oldest = geometry.first_lsn(self.oldest_reachable());
        let is_lost = {
            let state = self.state.borrow();
            state.archive.as_ref().is_some_and(|archive| archive.lost.contains(sequence))
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

    /// The block at a position in the archive, if its checksum is right.
    pub(in crate::volume) async fn archived_block(
        &self,
        sequence: SegmentSeq,
        lsn: Lsn,
        crc: u32,
    ) -> Result<Option<Vec<u8>>, VolumeError> {
        let (id, cached) = {
            let mut state = self.state.borrow_mut();
            let archive = state.archive.as_mut().ok_or_else(no_archive)?;
            let Some(id) = archive.object_of(sequence, lsn) else {
                return archive.check_reached().map(|()| None);
            };
            (id, archive.blocks.get(&id, lsn))
        };
        let blocks = match cached {
            Some(blocks) => blocks,
            None => match self.ask(Ask { id, lsn: Some(lsn) }).await? {
                Reply::Blocks { result, .. } => result.map_err(failed)?,
                _ => unreachable!("a reply is of its request's kind"),
            },
        };
        if let Some(archive) = &mut self.state.borrow_mut().archive {
            archive.blocks.insert(id, Arc::clone(&blocks));
        }
        Ok(blocks.block(lsn).filter(|block| crc32c(block) == crc).map(<[u8]>::to_vec))
    }

    async fn ask(&self, ask: Ask) -> Result<Reply, VolumeError> {
        let slot = self.state.borrow_mut().archive.as_mut().ok_or_else(no_archive)?.begin(ask);
        Ok(reply(slot).await)
    }
}

pub(super) fn failed(error: ArchiveError) -> VolumeError {
    let reason = error.to_string();
    match error {
        ArchiveError::Store { retry: true, .. } => VolumeError::ArchiveAway { reason },
        _ => VolumeError::Archive { reason },
    }
}
