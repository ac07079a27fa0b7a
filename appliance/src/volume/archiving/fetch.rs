//! Reads from the archive: entries for tasks, blocks for hosts' reads.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use super::receivers::{FetchSlot, reply};
use super::requests::Ask;
use super::state::Archive;
use crate::archive::object::ObjectId;
use crate::archive::service::{ArchiveReply, ObjectBlocks};
use crate::dma::{BLOCK_BYTES, DmaBufMut};
use crate::log::checksum::crc32c;
use crate::log::{Lsn, SegmentSeq};

/// The usual number of blocks in a frame; blocks closer to each other than this share one request.
const NEAR_BLOCKS: u64 = 64;

/// The bytes of a requested block; `None` if the archive cannot return it.
pub(in crate::volume) type BlockAnswer = Pin<Box<dyn Future<Output = Option<Vec<u8>>>>>;

/// A run of blocks of a host's read that comes from the archive.
pub(in crate::volume) struct ArchivedBlocks {
    /// Where the bytes go.
    pub(in crate::volume) buffer: DmaBufMut,
    /// For each block its position, the low half of its CRC32C, and its state.
    pub(in crate::volume) blocks: SmallVec<[(Lsn, u16, Fetched); 4]>,
}

/// The state of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) enum Fetched {
    Missing,
    Asked,
    There,
}

/// The result of a step of fetching.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::volume) struct Progress {
    /// How many replies will come.
    pub(in crate::volume) asked: usize,
    /// A block cannot be read.
    pub(in crate::volume) failed: bool,
    /// It is unknown which blocks can be read: the archive has not been reached yet.
    pub(in crate::volume) away: bool,
}

impl Archive {
    /// Fills the blocks that the caches hold and requests the rest. The replies go to `read`.
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
                // A wrong block stays missing, so that the caller finds and reports it.
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
            let token = self.requests.token();
            self.receivers.add_read(token, read);
            self.requests.ask(token, Ask { id, lsn: Some(*lsn) });
        }
        Progress { asked: asked.len(), failed, away }
    }

    /// Takes a reply for a run of blocks: copies every requested block of it. `false`: one of them
    /// is wrong.
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
    /// Requests the block at a position. The result can be polled: the block's bytes, whatever
    /// their checksum, or `None` if the archive cannot return them.
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
                ArchiveReply::Blocks { result: Ok(blocks), .. } => blocks.block(lsn).map(<[u8]>::to_vec),
                _ => None,
            }
        })
    }
}

/// Copies a block to its place; `false` if it was damaged when it was archived, or its checksum is
/// wrong.
fn copy_block(blocks: &ObjectBlocks, lsn: Lsn, crc16: u16, buffer: &mut DmaBufMut, index: usize) -> bool {
    let Some(bytes) = blocks.block(lsn) else { return false };
    buffer.as_mut_slice()[index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES].copy_from_slice(bytes);
    crc32c(bytes) as u16 == crc16
}

impl Archive {
    /// Makes a request for a task.
    pub(super) fn begin(&mut self, ask: Ask) -> Rc<RefCell<FetchSlot>> {
        let token = self.requests.token();
        let slot = self.receivers.add_task(token);
        self.requests.ask(token, ask);
        slot
    }
}
