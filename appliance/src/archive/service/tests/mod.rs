//! What a service must do: return exact bytes, one reply for each request, and a clear error for
//! each failure.

mod anchors;
mod cache;
mod deletes;
mod inline;
mod source;
mod threads;
mod worker;

use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::*;
use crate::archive::object::{ClaimId, ObjectId};
use crate::archive::object::{Compressor, Decompressor, FRAME_BYTES_MIN, ObjectError, ObjectReader};
use crate::archive::store::faulty::{Call, Fault, FaultyStore, When};
use crate::archive::store::{DirectoryOptions, DirectoryStore, Reason, StoreErrorKind, StoredObject};
use crate::dma::BLOCK_BYTES;
use crate::log::checksum::crc32c;
use crate::log::format::{Entry, RecordHead, RecordLine, TrailerUnit};
use crate::log::reader::{LsnRange, SegmentEntries};
use crate::log::{BlockNumber, ImageId, Lsn, SegmentSeq};

/// The position of stretches on their device.
const DEVICE_BLOCK: u64 = 300;

const OFFLINE: StoreErrorKind = StoreErrorKind::Unavailable(Reason::Busy("injected"));

/// A stretch of a log with real records, and the job for it.
#[derive(Clone)]
struct Stretch {
    job: ArchiveJob,
    content: Vec<u8>,
    /// The positions of data blocks.
    data: Vec<Lsn>,
}

fn noise(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Blocks `from` to `to` of segment `sequence`: records of 1 to 9 entries, some of them trims. They
/// follow the block of the segment's header if it is in the range.
fn stretch(sequence: u64, segment_blocks: u64, from: u64, to: u64) -> Stretch {
    let pool = Uuid::from_u128(0x77);
    let first = sequence * segment_blocks;
    let mut state = sequence << 32 | from;
    let header_blocks = u64::from(from == 0);
    let mut content = vec![3; header_blocks as usize * BLOCK_BYTES];
    let (mut units, mut data) = (Vec::new(), Vec::new());
    let mut lsn = Lsn(first + from + header_blocks);
    while lsn.0 < first + to {
        let room = (first + to - lsn.0 - 1).min(8);
        // Few entries without data: a segment's trailer has little room for them.
        let is_trim = room == 0 || noise(&mut state).is_multiple_of(16);
        let data_blocks = if room == 0 { 0 } else { 1 + noise(&mut state) % room };
        let mut entries = Vec::new();
        if is_trim {
            entries.push(Entry::trim(ImageId(1), BlockNumber(lsn.0), 5, data_blocks == 0));
        }
        let mut blocks = Vec::new();
        for index in 0..data_blocks {
            let start = blocks.len();
            for word in 0..BLOCK_BYTES as u64 / 8 {
                let value = if word % 2 == 0 { noise(&mut state) } else { word };
                blocks.extend_from_slice(&value.to_le_bytes());
            }
            let crc = crc32c(&blocks[start..]);
            let last = index + 1 == data_blocks;
            entries.push(Entry::write(ImageId(1), BlockNumber(index), crc, Lsn(0), last));
            data.push(lsn.plus(1 + index));
        }
        let head = RecordHead {
            version: 2,
            lsn,
            sequence: SegmentSeq(sequence),
            time_ns: lsn.0,
            stable_lsn: Lsn(first),
            epoch: 2,
            data_blocks: data_blocks as u8,
        };
        let mut header = vec![0; BLOCK_BYTES];
        head.encode(pool, &entries, &mut header);
        content.extend_from_slice(&header);
        content.extend_from_slice(&blocks);
        let line = RecordLine::new(lsn, lsn.0, entries.len() as u8, data_blocks as u8, 2);
        units.push(zerocopy::transmute!(line));
        units.extend(entries.iter().map(|&entry| -> TrailerUnit { zerocopy::transmute!(entry) }));
        lsn = line.end_lsn();
    }
    assert_eq!(content.len() as u64, (to - from) * BLOCK_BYTES as u64);
    let id = ObjectId {
        pool,
        epoch: 2,
        sequence: SegmentSeq(sequence),
        from_lsn: Lsn(first + from),
        to_lsn: Lsn(first + to),
        whole: from == 0 && to == segment_blocks,
        claim: ClaimId::NONE,
    };
    let job = ArchiveJob {
        token: 100 + sequence,
        id,
        segment_blocks,
        device_block: DEVICE_BLOCK,
        opened_ns: 11,
        sealed_ns: 22,
        units: Arc::new(units),
        holes: Vec::new(),
        accept_lost: false,
    };
    Stretch { job, content, data }
}

impl Stretch {
    /// The block at a position.
    fn block(&self, lsn: Lsn) -> &[u8] {
        &self.content[(lsn.0 - self.job.id.from_lsn.0) as usize * BLOCK_BYTES..][..BLOCK_BYTES]
    }

    /// Changes a byte of the block at a position.
    fn spoil(&mut self, lsn: Lsn) {
        self.content[(lsn.0 - self.job.id.from_lsn.0) as usize * BLOCK_BYTES + 77] ^= 4;
    }

    fn source(&self) -> SliceSource {
        SliceSource { content: self.content.clone(), piece_blocks: 50 }
    }
}

/// Returns bytes of a slice, for any requested block, in pieces that are not frames; never more
/// than the slice has.
struct SliceSource {
    content: Vec<u8>,
    piece_blocks: usize,
}

impl BlockSource for SliceSource {
    fn read(
        &mut self,
        block: u64,
        _len_blocks: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>,
    ) -> Result<(), SourceError> {
        assert_eq!(block, DEVICE_BLOCK);
        for piece in self.content.chunks(self.piece_blocks * BLOCK_BYTES) {
            take(piece)?;
        }
        Ok(())
    }
}

/// A source that is a closure.
struct FnSource<F>(F);

impl<F> BlockSource for FnSource<F>
where
    F: FnMut(&mut dyn FnMut(&[u8]) -> Result<(), ObjectError>) -> Result<(), SourceError>,
{
    fn read(
        &mut self,
        _block: u64,
        _len_blocks: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>,
    ) -> Result<(), SourceError> {
        (self.0)(take)
    }
}

/// A source that must not be used.
fn no_source() -> impl BlockSource {
    FnSource(|_: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>| {
        Err(SourceError::Device("nobody may read here".to_owned()))
    })
}

fn directory(root: &Path) -> Arc<dyn Store> {
    Arc::new(DirectoryStore::open(root, DirectoryOptions::default()).unwrap())
}

fn faulty(root: &Path) -> Arc<FaultyStore> {
    Arc::new(FaultyStore::new(directory(root), 1))
}

/// Options with small frames.
fn options(verify: VerifyPolicy) -> WorkerOptions {
    WorkerOptions { level: 1, frame_bytes: FRAME_BYTES_MIN, verify, ..WorkerOptions::default() }
}

fn run(
    stretch: &Stretch,
    source: &mut dyn BlockSource,
    store: &dyn Store,
    options: &WorkerOptions,
) -> Result<Archived, ArchiveError> {
    archive(&stretch.job, source, store, &mut Compressor::new(options.level).unwrap(), options)
}

/// The object's content and units, read with every check.
fn whole(store: &dyn Store, id: &ObjectId) -> (Vec<u8>, Vec<TrailerUnit>) {
    let object = StoredObject::open(store, &id.name().unwrap()).unwrap();
    let mut content = Vec::new();
    let reader = ObjectReader::open(&object).unwrap();
    let front =
        reader.verify(&mut Decompressor::new().unwrap(), |frame| content.extend_from_slice(frame)).unwrap();
    (content, front.units)
}

fn assert_stored(store: &dyn Store, stretch: &Stretch) {
    let (content, units) = whole(store, &stretch.job.id);
    assert!(content == stretch.content && units == *stretch.job.units);
}

fn assert_empty(store: &dyn Store) {
    assert!(store.list("", None, 10).unwrap().objects.is_empty());
    assert_eq!(store.space().unwrap().used_bytes, 0);
}

fn is_retry(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Store { retry: true, .. })
}

fn is_final(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Store { retry: false, .. })
}

fn is_damage(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Damaged { .. })
}
