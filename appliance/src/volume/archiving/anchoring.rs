//! Makes anchors: every so many segments, one of each volume.
//!
//! **The state.** An index is changed in the turn in which an entry is appended, so at any moment
//! it is exactly what a scan would find that ends behind the newest entry. The open record is
//! closed first, so that every later entry has a later position: a trim has that of the block
//! before it. The clone of an index is one reference; what hosts write meanwhile copies the leaves
//! that they change.
//!
//! **States:** idle → collecting leaves for a part → storing the part → collecting, or at the end
//! storing the head → freeing the clone → idle, or the next volume of the round. A failure ends at
//! freeing: the anchor is given up, its parts are deleted, and the next round makes another one.
//!
//! **When.** A round begins when so many segments have been opened since the last one, and a
//! restart goes on from the newest anchor. Nothing is stored before the anchor's position is
//! stable, because a crash could give it to other entries, nor while sealed segments wait for the
//! archivist. An anchor that falls back by a whole round is given up.
//!
//! **Not made:** of volumes that are loading, that were never written, or whose data is not
//! certain; of clones of sessions, whose blocks may be at other positions than a scan finds; in
//! stores that have no random access or no room to free.
//!
//! **Bounds:** one index and one part of [`PART_LEAVES`] leaves at a time; [`PIECE_LEAVES`] leaves
//! in a turn.

use std::collections::VecDeque;
use std::sync::Arc;

use super::anchors::{Anchors, KnownAnchor};
use super::requests::Requests;
use crate::archive::anchor::{AnchorHead, AnchorId, AnchorPart, LastRecord, Leaves, PART_LEAVES};
use crate::archive::object::ClaimId;
use crate::archive::service::{AnchorJob, AnchorPiece, ArchiveError, ArchiveRequest, StoredAnchor};
use crate::log::{Log, Lsn, SegmentSeq};
use crate::volume::image::index::Index;
use crate::volume::image::volume::Volume;
use crate::volume::image::volumes::Volumes;
use crate::volume::request::VolumeId;

/// How many leaves of an index are collected in one turn: 256 KiB.
const PIECE_LEAVES: usize = 64;

/// What is stored now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storing {
    Nothing,
    Part(u64),
    Head(u64),
}

/// An anchor that is being made.
struct Making {
    id: AnchorId,
    record: LastRecord,
    size_blocks: u64,
    index: Index,
    /// The block at which the next leaf is looked for; `None`: all were collected.
    next: Option<u64>,
    /// The leaves of the next part, or of the one that is being stored.
    leaves: Arc<Leaves>,
    parts: Vec<AnchorPart>,
    mapped_blocks: u64,
    storing: Storing,
}

/// The anchors that are being made. See the module's documentation.
#[derive(Default)]
pub(super) struct Anchoring {
    /// The segment in which the last round began.
    round: Option<SegmentSeq>,
    /// The volumes of the round that still get an anchor.
    queue: VecDeque<VolumeId>,
    making: Option<Making>,
    /// The index of an anchor that is done.
    freeing: Option<Index>,
}

/// What a turn of making anchors works with.
pub(super) struct AnchorSide<'a> {
    pub(super) requests: &'a mut Requests,
    pub(super) anchors: &'a mut Anchors,
    pub(super) claim: ClaimId,
    /// How many segments a round is.
    pub(super) interval: u64,
    /// Whether the archivist has time for a part.
    pub(super) may_store: bool,
    /// Whether a volume of this name gets none.
    pub(super) is_left_out: &'a dyn Fn(&str) -> bool,
}

impl Anchoring {
    /// One turn. Returns how much was done.
    pub(super) fn turn(&mut self, side: &mut AnchorSide<'_>, volumes: &Volumes, log: &mut Log) -> usize {
        if let Some(index) = &mut self.freeing {
            if index.drop_some(PIECE_LEAVES) {
                self.freeing = None;
            }
            return 1;
        }
        if self.making.is_none() {
            return self.begin(side, volumes, log);
        }
        let Some(making) = self.making.as_mut().filter(|making| making.storing == Storing::Nothing) else {
            return 0;
        };
        if making.collect() {
            return 1;
        }
        let oldest = log.table().next_sequence().0.saturating_sub(side.interval + 1);
        if log.geometry().sequence_of(making.id.lsn).0 < oldest {
            self.give_up(side.anchors, "it took longer than a round");
            return 1;
        }
        let end = making.id.lsn.plus(1);
        if log.stable_lsn() < end {
            log.request_stable(end);
            return 0;
        }
        if !side.may_store {
            return 0;
        }
        making.store(side.requests);
        1
    }

    /// Begins a round if one is due, and takes the next volume of it.
    fn begin(&mut self, side: &AnchorSide<'_>, volumes: &Volumes, log: &mut Log) -> usize {
        let Some(current) = log.current_sequence() else { return 0 };
        let Some(&id) = self.queue.front() else {
            if self.round.is_none() {
                self.round = side.anchors.newest().map(|lsn| log.geometry().sequence_of(lsn));
            }
            let is_due = self.round.is_none_or(|last| last.0 + side.interval <= current.0);
            if is_due {
                self.round = Some(current);
                self.queue.extend(volumes.ids());
            }
            return usize::from(is_due && !self.queue.is_empty());
        };
        let volume = volumes.get(id).filter(|volume| !(side.is_left_out)(volume.name()));
        let Some((volume, index)) = volume.and_then(|volume| Some((volume, ready(volume)?))) else {
            self.queue.pop_front();
            return 1;
        };
        let end = log.head_lsn();
        log.close_up_to(end);
        let epoch = log.table().get(current).map(|segment| segment.epoch);
        // A segment that was just opened has no record yet.
        let line = log.last_record().filter(|line| line.end_lsn() == end);
        let Some((line, epoch)) = line.zip(epoch) else { return 0 };
        self.queue.pop_front();
        let lsn = Lsn(end.0 - 1);
        let (pool, image) = (log.pool(), volume.image().0);
        self.making = Some(Making {
            id: AnchorId { pool, epoch, image, lsn, claim: side.claim },
            record: LastRecord { lsn: line.lsn(), time_ns: line.time_ns(), epoch: line.epoch() },
            size_blocks: volume.size_blocks(),
            index: index.clone(),
            next: Some(0),
            leaves: Arc::default(),
            parts: Vec::new(),
            mapped_blocks: 0,
            storing: Storing::Nothing,
        });
        1
    }

    /// Takes the reply for an object. The error is for the owner of the archive.
    pub(super) fn stored(
        &mut self,
        token: u64,
        result: Result<StoredAnchor, ArchiveError>,
        anchors: &mut Anchors,
    ) -> Result<(), ArchiveError> {
        let Some(making) = &mut self.making else { return Ok(()) };
        match (making.storing, result) {
            (Storing::Part(known), Ok(stored)) if known == token => making.part_stored(stored),
            (Storing::Head(known), Ok(stored)) if known == token => {
                let part_bytes: u64 = making.parts.iter().map(|part| u64::from(part.bytes)).sum();
                let bytes = part_bytes + u64::from(stored.bytes);
                let (id, parts) = (making.id, making.parts.len() as u32);
                tracing::debug!(image = id.image, lsn = id.lsn.0, parts, bytes, "an anchor was stored");
                anchors.insert(KnownAnchor { id, parts, bytes });
                self.freeing = self.making.take().map(|making| making.index);
            }
            (Storing::Part(known) | Storing::Head(known), Err(error)) if known == token => {
                self.give_up(anchors, &error.to_string());
                return Err(error);
            }
            _ => {}
        }
        Ok(())
    }

    /// Gives up the anchor that is being made: it would only have saved time.
    fn give_up(&mut self, anchors: &mut Anchors, why: &str) {
        let Some(making) = self.making.take() else { return };
        tracing::warn!(image = making.id.image, lsn = making.id.lsn.0, why, "an anchor was given up");
        let begun = usize::from(making.storing != Storing::Nothing);
        anchors.doom(&making.id, (making.parts.len() + begun) as u32);
        self.freeing = Some(making.index);
    }
}

/// The index of a volume that gets an anchor.
fn ready(volume: &Volume) -> Option<&Index> {
    volume.ready_index().filter(|_| volume.is_written() && volume.uncertain_below().0 == 0)
}

impl Making {
    /// Collects more leaves for the next part. Returns whether there was something to do.
    fn collect(&mut self) -> bool {
        let Some(from) = self.next.filter(|_| self.leaves.len() < PART_LEAVES) else { return false };
        // Nobody else has it before it is stored.
        let leaves = Arc::make_mut(&mut self.leaves);
        let count = PIECE_LEAVES.min(PART_LEAVES - leaves.len());
        self.next = self.index.leaves_from(from, count, |number, mappings| {
            if mappings.iter().any(|&mapping| mapping != 0) {
                leaves.push(number, mappings);
            }
        });
        true
    }

    /// Requests the next object.
    fn store(&mut self, requests: &mut Requests) {
        let token = requests.token();
        let piece = if self.leaves.is_empty() {
            self.storing = Storing::Head(token);
            AnchorPiece::Head(Arc::new(AnchorHead {
                record: self.record,
                size_blocks: self.size_blocks,
                mapped_blocks: self.mapped_blocks,
                parts: self.parts.clone(),
            }))
        } else {
            self.storing = Storing::Part(token);
            AnchorPiece::Part(self.parts.len() as u32, Arc::clone(&self.leaves))
        };
        requests.send(ArchiveRequest::StoreAnchor(AnchorJob { token, id: self.id, piece }));
    }

    fn part_stored(&mut self, stored: StoredAnchor) {
        let leaves = std::mem::take(&mut self.leaves);
        self.mapped_blocks += leaves.mapped();
        self.parts.push(AnchorPart {
            first_leaf: leaves.first().unwrap_or_default(),
            leaves: leaves.len() as u32,
            bytes: stored.bytes,
            digest: stored.digest,
        });
        self.storing = Storing::Nothing;
    }
}
