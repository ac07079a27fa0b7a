//! Hosts' reads that wait for the device, for read-ahead blocks, or for the archive.
//!
//! **States of a piece:** waiting for the device → available, or (the device failed) retried by a
//! rescue → available, or requested from the archive → available. **Of a read:** in progress in a
//! place of the table → ended when none of its pieces waits any longer, with data or with a
//! failure.
//!
//! **Invariants.** `waiting` of a read is the number of pending answers of the device and of the
//! archive; the read ends exactly when that is 0. `at_device` is the number of device reads that
//! were submitted and have not ended, for hosts, rescues and read-ahead together. A place is either
//! in `free` or has a read.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;

use super::latency::Began;
use super::ticket::Ticket;
use crate::archive::service::{ArchiveError, ObjectBlocks};
use crate::dma::{BLOCK_BYTES, DmaBuf, DmaBufMut};
use crate::log::checksum::crc32c;
use crate::log::{Geometry, Log, Lsn, ReadDone};
use crate::volume::archiving::{Archive, ArchivedBlocks, Fetched};
use crate::volume::request::{IoCompletion, IoError, Sink, VolumeId};

/// The maximum number of waiting reads in a pool; beyond it submissions are
/// [`Submitted::Busy`](crate::volume::Submitted::Busy).
const READS_MAX: usize = 4096;

/// A piece of a read, in the order of its blocks.
pub(super) enum ReadPiece {
    /// It is available.
    Ready(DmaBuf),
    /// In flight from the device.
    Waiting {
        /// Its first position.
        first_lsn: Lsn,
        /// The checksums of its blocks.
        checksums: SmallVec<[u16; 8]>,
    },
    /// Reserved for data from the archive.
    Reserved,
    /// In flight from the archive.
    Archived(Box<ArchivedBlocks>),
}

/// A read of a host.
pub(super) struct PendingRead {
    volume: VolumeId,
    block: u64,
    len_blocks: u32,
    tag: u64,
    sink: Rc<Sink>,
    began: Began,
    pieces: SmallVec<[ReadPiece; 1]>,
    /// Pending replies of the device and of the archive.
    waiting: usize,
    failure: Option<IoError>,
}

/// All waiting reads. See the module's documentation.
pub(in crate::volume) struct Reads {
    places: Vec<Option<PendingRead>>,
    free: Vec<usize>,
    /// Reads that the device has not completed.
    at_device: usize,
    /// The reads that the device completed in a turn; the memory is kept for the next turn.
    done: Vec<ReadDone>,
    /// The geometry of the device, once a read has failed or was sent to the archive.
    geometry: Option<Geometry>,
    /// The contents of blocks without contents: as long as the longest read.
    zeroes: DmaBuf,
}

impl Reads {
    pub(super) fn new(zeroes: DmaBuf) -> Self {
        Reads { places: Vec::new(), free: Vec::new(), at_device: 0, done: Vec::new(), geometry: None, zeroes }
    }

    /// Zeroes for the longest read.
    #[inline]
    pub(super) fn zeroes(&self) -> &DmaBuf {
        &self.zeroes
    }

    /// One block of zeroes.
    pub(in crate::volume) fn zero_block(&self) -> DmaBuf {
        self.zeroes.slice(0, BLOCK_BYTES)
    }

    /// Whether no more reads are accepted now.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.places.len() - self.free.len() >= READS_MAX
    }

    /// Adds a waiting read. Returns its place.
    pub(super) fn add(&mut self, read: PendingRead) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        assert!(self.places[place].is_none(), "a free place has no read");
        self.places[place] = Some(read);
        place
    }

    /// Removes a read that no longer waits for anything.
    pub(super) fn take_ended(&mut self, place: usize) -> Option<PendingRead> {
        if self.places[place].as_ref().is_none_or(|read| read.waiting > 0) {
            return None;
        }
        self.free.push(place);
        self.places[place].take()
    }

    /// Starts a read of the device, and counts it until [`note_done`](Self::note_done).
    pub(super) fn read_device(&mut self, log: &mut Log, device_block: u64, buffer: DmaBufMut, token: u64) {
        log.submit_read(device_block, buffer, token);
        self.at_device += 1;
    }

    /// Notes that the device completed a read.
    pub(super) fn note_done(&mut self) {
        assert!(self.at_device > 0, "the device ends what was submitted");
        self.at_device -= 1;
    }

    /// How many reads the device has not completed.
    pub(super) fn at_device(&self) -> usize {
        self.at_device
    }

    /// An empty list for the reads that the device completes; return it with
    /// [`keep_done`](Self::keep_done).
    pub(super) fn take_done(&mut self) -> Vec<ReadDone> {
        std::mem::take(&mut self.done)
    }

    /// Keeps the memory of the list for the next turn.
    pub(super) fn keep_done(&mut self, done: Vec<ReadDone>) {
        debug_assert!(done.is_empty(), "every read that the device ended was finished");
        self.done = done;
    }

    /// Sets the geometry of the device, which is needed to explain failures.
    pub(super) fn set_geometry(&mut self, geometry: Geometry) {
        self.geometry = Some(geometry);
    }

    /// The geometry of the device, once it was needed.
    pub(super) fn geometry(&self) -> Option<Geometry> {
        self.geometry
    }

    /// The first position of a piece that waits for the device, and its checksums.
    pub(super) fn waiting_piece(&self, (place, piece): (usize, usize)) -> (Lsn, &[u16]) {
        match self.places[place].as_ref().map(|read| &read.pieces[piece]) {
            Some(ReadPiece::Waiting { first_lsn, checksums }) => (*first_lsn, checksums),
            _ => unreachable!("a device read ends a piece that waits for it"),
        }
    }

    /// Fills a waiting piece with its data.
    #[inline]
    pub(super) fn fill(&mut self, (place, piece): (usize, usize), data: DmaBuf) {
        self.answer((place, piece), ReadPiece::Ready(data));
    }

    /// Lets a waiting piece come from the archive, as far as the archive has it.
    pub(super) fn leave_to_archive(&mut self, (place, piece): (usize, usize), wanted: ArchivedBlocks) {
        self.answer((place, piece), ReadPiece::Archived(Box::new(wanted)));
    }

    #[inline]
    fn answer(&mut self, (place, piece): (usize, usize), with: ReadPiece) {
        let Some(read) = self.places[place].as_mut() else { unreachable!("a read ends once") };
        debug_assert!(matches!(read.pieces[piece], ReadPiece::Waiting { .. }), "a piece is answered once");
        read.pieces[piece] = with;
        read.waiting -= 1;
    }

    /// Gives up a waiting piece.
    pub(super) fn give_up(&mut self, place: usize, error: IoError) {
        if let Some(read) = self.places[place].as_mut() {
            read.waiting -= 1;
            read.fail(error);
        }
    }

    /// Marks a read as failed.
    pub(super) fn fail(&mut self, place: usize, error: IoError) {
        if let Some(read) = self.places[place].as_mut() {
            read.fail(error);
        }
    }

    /// Requests the missing blocks of a read from the archive.
    pub(super) fn fetch(&mut self, archive: &mut Archive, place: usize) {
        let (Some(geometry), Some(read)) = (self.geometry, self.places[place].as_mut()) else { return };
        for piece in &mut read.pieces {
            let ReadPiece::Archived(wanted) = piece else { continue };
            let progress = archive.fetch(wanted, |lsn| geometry.sequence_of(lsn), place);
            read.waiting += progress.asked;
            if progress.failed {
                read.failure = Some(IoError::ReadFault);
            } else if progress.away {
                read.failure = read.failure.or(Some(IoError::NotNow));
            }
        }
    }

    /// Handles a reply of the archive for a read.
    pub(super) fn archive_answered(
        &mut self,
        archive: &mut Archive,
        place: usize,
        result: Result<Arc<ObjectBlocks>, ArchiveError>,
    ) {
        let (Some(geometry), Some(read)) = (self.geometry, self.places[place].as_mut()) else { return };
        read.waiting -= 1;
        match result {
            Ok(blocks) => {
                for piece in &mut read.pieces {
                    if let ReadPiece::Archived(wanted) = piece
                        && !archive.fill(wanted, |lsn| geometry.sequence_of(lsn), &blocks)
                    {
                        read.failure = Some(IoError::ReadFault);
                    }
                }
            }
            Err(error) => {
                tracing::error!(volume = read.volume.0, block = read.block, %error, "a read from the archive failed");
                let is_away = matches!(error, ArchiveError::Store { retry: true, .. });
                read.fail(if is_away { IoError::NotNow } else { IoError::ReadFault });
            }
        }
        if read.failure.is_none() {
            self.fetch(archive, place);
        }
    }
}

impl PendingRead {
    /// A read of blocks (the first, and how many) whose pieces wait for `waiting` replies of the
    /// device.
    #[inline]
    pub(super) fn new(
        ticket: &Ticket<'_>,
        (block, len_blocks): (u64, u32),
        pieces: SmallVec<[ReadPiece; 1]>,
        waiting: usize,
    ) -> Self {
        PendingRead {
            volume: ticket.volume,
            block,
            len_blocks,
            tag: ticket.tag,
            sink: Rc::clone(ticket.sink),
            began: ticket.began,
            pieces,
            waiting,
            failure: None,
        }
    }

    /// The volume.
    pub(super) fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Its blocks.
    pub(super) fn blocks(&self) -> Range<u64> {
        self.block..self.block + u64::from(self.len_blocks)
    }

    /// When it began.
    #[inline]
    pub(super) fn began(&self) -> Began {
        self.began
    }

    /// Whether it waits for a reply.
    #[inline]
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Why it fails, if it does.
    #[inline]
    pub(super) fn failure(&self) -> Option<IoError> {
        self.failure
    }

    /// Marks it as failed. A permanent loss outweighs a temporary failure.
    fn fail(&mut self, error: IoError) {
        if self.failure.is_none() || error == IoError::ReadFault {
            self.failure = Some(error);
        }
    }

    /// The first block that neither the device nor the archive returned.
    pub(super) fn first_missing(&self) -> Option<Lsn> {
        let archived = self.pieces.iter().filter_map(|piece| match piece {
            ReadPiece::Archived(archived) => Some(archived),
            _ => None,
        });
        let blocks = archived.flat_map(|archived| &archived.blocks);
        blocks.filter(|(_, _, fetched)| *fetched != Fetched::There).map(|&(lsn, ..)| lsn).next()
    }

    /// Answers its host.
    pub(super) fn complete(self) {
        let mut data: SmallVec<[DmaBuf; 1]> = SmallVec::new();
        if self.failure.is_none() {
            for piece in self.pieces {
                let buffer = match piece {
                    ReadPiece::Ready(buffer) => buffer,
                    ReadPiece::Archived(archived) => archived.buffer.freeze(),
                    ReadPiece::Waiting { .. } | ReadPiece::Reserved => {
                        unreachable!("a read completes when all its pieces are there")
                    }
                };
                match data.last_mut() {
                    Some(last) => {
                        if let Err(apart) = last.try_join(buffer) {
                            data.push(apart);
                        }
                    }
                    None => data.push(buffer),
                }
            }
        }
        let result = self.failure.map_or(Ok(()), Err);
        self.sink.push(IoCompletion { tag: self.tag, result, data });
    }
}

/// Whether blocks match their checksums.
pub(super) fn are_right<'a>(mut blocks: impl Iterator<Item = (&'a [u8], &'a u16)>) -> bool {
    blocks.all(|(block, &crc)| crc32c(block) as u16 == crc)
}
