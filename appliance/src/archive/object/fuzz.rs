//! The object's entry point for fuzzing (`crate::fuzzing`).

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a fuzz target fails by panic"
)]

use uuid::Uuid;

use super::header::{HEADER_BYTES, TAIL_BYTES};
use super::seek::{FOOTER_BYTES, decode_footer, digest_frame_bytes, le_u32, table_bytes};
use super::{
    ClaimId, Compressor, Decompressor, FRAME_BYTES_MIN, LEVEL_DEFAULT, ObjectError, ObjectHeader, ObjectId,
    ObjectReader, ObjectSpec, ObjectTail, ObjectWriter, SKIPPABLE_HEAD_BYTES, read_front,
};
use crate::dma::BLOCK_BYTES;
use crate::log::checksum::{crc32c, with_crc};
use crate::log::format::{Entry, RecordLine, TrailerUnit};
use crate::log::reader::LsnRange;
use crate::log::types::{BlockNumber, ImageId, Lsn, SegmentSeq};

const FIRST_LSN: u64 = 7 * 256;
/// Blocks of the initial objects: two frames.
const BLOCKS: u64 = 20;

/// An object in which the last record, of two blocks, may be a hole.
fn object_of(has_hole: bool, damaged: &[Lsn]) -> Vec<u8> {
    let id = ObjectId {
        pool: Uuid::from_u128(0x1234),
        epoch: 3,
        sequence: SegmentSeq(7),
        from_lsn: Lsn(FIRST_LSN),
        to_lsn: Lsn(FIRST_LSN + BLOCKS),
        whole: false,
        claim: ClaimId::NONE,
    };
    let spec =
        ObjectSpec { id, segment_blocks: 256, opened_ns: 11, sealed_ns: 22, frame_bytes: FRAME_BYTES_MIN };
    let end = if has_hole { BLOCKS - 2 } else { BLOCKS };
    let mut units: Vec<TrailerUnit> = Vec::new();
    let mut at = 1;
    while at < end {
        let data_blocks = (end - at - 1).min(9) as u8;
        let entries = data_blocks.max(1);
        let line = RecordLine::new(Lsn(FIRST_LSN + at), at, entries, data_blocks, 3);
        let entry = if data_blocks == 0 {
            Entry::trim(ImageId(1), BlockNumber(1), 1, true)
        } else {
            Entry::write(ImageId(1), BlockNumber(at), 5, Lsn(0), true)
        };
        units.push(zerocopy::transmute!(line));
        units.extend((0..entries).map(|_| -> TrailerUnit { zerocopy::transmute!(entry) }));
        at += 1 + u64::from(data_blocks);
    }
    let holes = [LsnRange { start: Lsn(FIRST_LSN + end), end: id.to_lsn }];
    let holes = if has_hole { &holes[..] } else { &[] };
    let content: Vec<u8> = (0..BLOCKS as usize * BLOCK_BYTES).map(|at| (at / 700) as u8).collect();
    let mut compressor = Compressor::new(LEVEL_DEFAULT).expect("a context");
    let mut object = Vec::new();
    let mut writer = ObjectWriter::begin(&mut compressor, spec, &units, holes, &mut object).expect("a spec");
    writer.push(&content).expect("blocks");
    writer.finish(damaged).expect("an object");
    object
}

pub(crate) fn object_seeds() -> Vec<Vec<u8>> {
    vec![object_of(false, &[]), object_of(true, &[Lsn(FIRST_LSN + 3)])]
}

/// Checks an object as it is, and with its checksums corrected.
pub(crate) fn object(data: &[u8]) -> bool {
    // Both are checked, whether or not the first is accepted.
    let accepted = [data.to_vec(), sealed(data)].map(|bytes| check(&bytes));
    accepted.contains(&true)
}

/// Whether the whole object is valid.
fn check(bytes: &[u8]) -> bool {
    let mut codec = Decompressor::new().expect("a context");
    if let Ok(front) = read_front(bytes, &mut codec) {
        let header = front.header;
        assert_eq!(ObjectHeader::decode(&header.encode()), Ok(header));
        assert_eq!((front.units.len(), front.holes.len()), (header.units as usize, header.holes as usize));
        assert!(front.holes.iter().all(|hole| hole.start < hole.end && hole.end <= header.id.to_lsn));
    }
    let Ok(reader) = ObjectReader::open(bytes) else { return false };
    let tail = *reader.tail();
    assert_eq!(ObjectTail::decode(&tail.encode()), Ok(tail));
    assert_eq!(reader.table().object_bytes(), bytes.len() as u64);
    let id = tail.id;
    assert!(reader.table().damaged().iter().all(|lsn| (id.from_lsn..id.to_lsn).contains(lsn)));
    let mut block = [0; BLOCK_BYTES];
    for lsn in [id.from_lsn.0, id.from_lsn.0 + id.len_blocks() / 2, id.to_lsn.0 - 1] {
        let read = reader.read_block(Lsn(lsn), &mut block, &mut codec);
        assert!(!matches!(read, Err(ObjectError::NotHere { .. } | ObjectError::NotBlocks(_))));
    }
    for lsn in [id.from_lsn.0.wrapping_sub(1), id.to_lsn.0, u64::MAX] {
        let read = reader.read_block(Lsn(lsn), &mut block, &mut codec);
        assert!(matches!(read, Err(ObjectError::NotHere { .. })));
    }
    let mut content_bytes = 0;
    let verified = reader.verify(&mut codec, |content| content_bytes += content.len() as u64);
    if verified.is_ok() {
        assert_eq!(content_bytes, id.content_bytes());
    }
    verified.is_ok()
}

/// The bytes with the checksums of header, entries, tail and table corrected, as far as these can
/// be located.
fn sealed(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let entries_at = SKIPPABLE_HEAD_BYTES + HEADER_BYTES;
    if let Some((front, rest)) = bytes.split_at_mut_checked(entries_at) {
        let header = &mut front[SKIPPABLE_HEAD_BYTES..];
        let entries = rest.get(..le_u32(header, 108) as usize).unwrap_or_default();
        header[120..124].copy_from_slice(&crc32c(entries).to_le_bytes());
        let header_sealed = with_crc(header, HEADER_BYTES - 4);
        header.copy_from_slice(&header_sealed);
    }
    let frames = bytes.last_chunk::<FOOTER_BYTES>().and_then(|footer| decode_footer(footer).ok());
    let Some(table) = frames.map(table_bytes).filter(|&table| table <= bytes.len()) else { return bytes };
    // The entry of the digest frame is the last one of the table.
    let digest_bytes = le_u32(&bytes, bytes.len().saturating_sub(FOOTER_BYTES + 12)) as usize;
    let Some(start) = bytes.len().checked_sub(table.saturating_add(digest_bytes)) else { return bytes };
    if digest_bytes < digest_frame_bytes(0) {
        return bytes;
    }
    let (tail, rest) = bytes[start + SKIPPABLE_HEAD_BYTES..].split_at_mut(TAIL_BYTES);
    tail[96..104].copy_from_slice(&(start as u64).to_le_bytes());
    tail[116..120].copy_from_slice(&crc32c(rest).to_le_bytes());
    let tail_sealed = with_crc(tail, TAIL_BYTES - 4);
    tail.copy_from_slice(&tail_sealed);
    bytes
}
