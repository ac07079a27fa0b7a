//! The structures of the log.

use uuid::Uuid;
use zerocopy::IntoBytes;

use crate::dma::BLOCK_BYTES;
use crate::log::checksum::with_crc;
use crate::log::format::{
    Entry, EntryKind, EventHead, EventKind, FORMAT_VERSION, FormatError, Opening, RecordHead, RecordLine,
    SegmentHeader, Superblock, TrailerHead, TrailerUnit, trailer_blocks,
};
use crate::log::reader::SegmentEntries;
use crate::log::{BlockNumber, Geometry, ImageId, Lsn, SegmentSeq};

const POOL: Uuid = Uuid::from_u128(0x7661_7276);
const SEGMENT_BLOCKS: u64 = 256;
/// Where the checksum of a structure of one block is.
const BLOCK_CRC: usize = BLOCK_BYTES - 4;

fn block(encode: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES];
    encode(&mut bytes);
    bytes
}

pub(super) fn superblock_seeds() -> Vec<Vec<u8>> {
    let of_version = |version| {
        let geometry = Geometry::fit_version(version, 1 << 14, SEGMENT_BLOCKS).expect("it fits");
        let superblock = Superblock {
            version,
            pool: POOL,
            device_blocks: 1 << 14,
            segment_blocks: SEGMENT_BLOCKS,
            slots: geometry.slots,
            working_set: geometry.working_set,
            first_slot_block: geometry.first_slot_block,
            created_ns: 1,
            generation: 7,
            epoch: 3,
            begun_lsn: Lsn(if version == 1 { 0 } else { 777 }),
        };
        block(|bytes| superblock.encode(bytes))
    };
    (1..=FORMAT_VERSION).map(of_version).collect()
}

pub(super) fn superblock(data: &[u8]) -> bool {
    let mut accepted = false;
    for bytes in [data.to_vec(), with_crc(data, BLOCK_CRC)] {
        let Ok(read) = Superblock::decode(&bytes) else { continue };
        accepted = true;
        // A build of version 1 does not know the field that version 2 has added.
        let expected =
            Superblock { begun_lsn: if read.version == 1 { Lsn(0) } else { read.begun_lsn }, ..read };
        assert_eq!(Superblock::decode(&block(|bytes| read.encode(bytes))), Ok(expected));
        let geometry = Geometry::of(&read);
        assert!(geometry.slots > geometry.working_set && read.tail_block().is_none_or(|block| block > 0));
    }
    accepted
}

pub(super) fn segment_header_seeds() -> Vec<Vec<u8>> {
    let header = SegmentHeader {
        version: FORMAT_VERSION,
        epoch: 3,
        sequence: SegmentSeq(9),
        first_lsn: Lsn(9 * SEGMENT_BLOCKS),
        opened_ns: 5,
        previous_end_lsn: Lsn(9 * SEGMENT_BLOCKS - 20),
        stable_lsn: Lsn(2000),
        oldest: SegmentSeq(2),
        released: vec![SegmentSeq(4), SegmentSeq(6)],
        ends: vec![Lsn(900), Lsn(1400)],
    };
    let plain = SegmentHeader { version: 1, released: Vec::new(), ends: Vec::new(), ..header.clone() };
    [header, plain].iter().map(|header| block(|bytes| header.encode(POOL, bytes))).collect()
}

pub(super) fn segment_header(data: &[u8]) -> bool {
    let mut accepted = false;
    for bytes in [data.to_vec(), with_crc(data, BLOCK_CRC)] {
        let Ok(read) = SegmentHeader::decode(&bytes, POOL, SEGMENT_BLOCKS) else { continue };
        accepted = true;
        let again = block(|bytes| read.encode(POOL, bytes));
        assert_eq!(SegmentHeader::decode(&again, POOL, SEGMENT_BLOCKS), Ok(read.clone()));
        assert!(read.released.iter().all(|&sequence| sequence >= read.oldest));
        assert_eq!(SegmentHeader::decode(&again, Uuid::from_u128(1), SEGMENT_BLOCKS), Err(FormatError::Pool));
    }
    accepted
}

fn entries() -> Vec<Entry> {
    let opening = Opening { epoch: 3, oldest: SegmentSeq(2), previous_end_lsn: Lsn(2280) };
    vec![
        Entry::opening(opening),
        Entry::write(ImageId(0x1_0002), BlockNumber(77), 0x1234, Lsn(500), false),
        Entry::copied(ImageId(4), BlockNumber(78), 0x1235, Lsn(400), true),
        Entry::trim(ImageId(4), BlockNumber(79), 100, true).hidden(),
        Entry::mask(ImageId(4), BlockNumber(179), 3),
        Entry::event(EventHead::encode(EventKind::Synch, 1, 0), 0x77, 60, true),
    ]
}

pub(super) fn record_seeds() -> Vec<Vec<u8>> {
    let of = |entries: &[Entry]| {
        let head = RecordHead {
            version: FORMAT_VERSION,
            lsn: Lsn(2305),
            sequence: SegmentSeq(9),
            time_ns: 99,
            stable_lsn: Lsn(2000),
            epoch: 3,
            data_blocks: entries.iter().filter(|entry| entry.has_data()).count() as u8,
        };
        block(|bytes| head.encode(POOL, entries, bytes))
    };
    let full = vec![Entry::write(ImageId(1), BlockNumber(1), 2, Lsn(3), true); 168];
    vec![of(&entries()), of(&entries()[3..4]), of(&full)]
}

pub(super) fn record(data: &[u8]) -> bool {
    let mut accepted = false;
    // The checksum follows the head; it covers the entries after it too.
    for bytes in [data.to_vec(), with_crc(data, 60)] {
        let Ok((head, entries)) = RecordHead::decode_any(&bytes, POOL) else { continue };
        accepted = true;
        assert!((1..=168).contains(&entries.len()));
        let again = block(|bytes| head.encode(POOL, entries, bytes));
        assert_eq!(RecordHead::decode(&again, POOL, head.lsn, head.sequence), Ok((head, entries)));
        let elsewhere = Lsn(head.lsn.0 ^ 1);
        assert_eq!(
            RecordHead::decode(&again, POOL, elsewhere, head.sequence).err(),
            Some(FormatError::Stale)
        );
        entries.iter().for_each(check_entry);
    }
    accepted
}

/// What an entry says, said again, is the same entry.
fn check_entry(entry: &Entry) {
    assert!(!format!("{entry:?}").is_empty());
    if let Some(opening) = entry.as_opening() {
        assert_eq!(Entry::opening(opening).as_opening(), Some(opening));
    }
    let event = EventHead::decode(entry.block().0);
    if let Some(kind) = event.kind {
        assert_eq!(EventHead::encode(kind, event.copy, event.chunk), entry.block().0);
    }
    if matches!(entry.kind(), Some(EntryKind::Write | EntryKind::Copied)) && entry.image() != ImageId::POOL {
        let again =
            Entry::write(entry.image(), entry.block(), entry.crc(), Lsn(entry.value()), entry.is_last());
        assert_eq!(
            (again.image(), again.block(), again.value()),
            (entry.image(), entry.block(), entry.value())
        );
    }
}

pub(super) fn trailer_seeds() -> Vec<Vec<u8>> {
    let of = |entries: &[Entry], partial| {
        let data_blocks = entries.iter().filter(|entry| entry.has_data()).count() as u8;
        let line = RecordLine::new(Lsn(2305), 99, entries.len() as u8, data_blocks, 3);
        let mut units: Vec<TrailerUnit> = vec![zerocopy::transmute!(line)];
        units.extend(entries.iter().map(|&entry| -> TrailerUnit { zerocopy::transmute!(entry) }));
        let head = TrailerHead {
            version: FORMAT_VERSION,
            partial,
            epoch: 3,
            session: 4,
            sequence: SegmentSeq(9),
            end_lsn: line.end_lsn(),
            units: 0,
            body_crc: 0,
        };
        let mut area = vec![0; trailer_blocks(SEGMENT_BLOCKS) as usize * BLOCK_BYTES];
        head.of(&units).encode(POOL, &units, &mut area);
        // What follows the body is zero, and makes the input long.
        area.truncate(TrailerHead::len_bytes(units.len()));
        area
    };
    vec![of(&entries(), false), of(&entries()[1..2], true)]
}

pub(super) fn trailer(data: &[u8]) -> bool {
    /// Bytes of the head, and where its checksums are.
    const HEAD: usize = 64;
    const BODY_CRC: usize = 56;
    const HEAD_CRC: usize = 60;
    let mut accepted = false;
    let sealed = |mut bytes: Vec<u8>| {
        let Some((head, body)) = bytes.split_at_mut_checked(HEAD) else { return bytes };
        let units = u32::from_le_bytes([head[48], head[49], head[50], head[51]]) as usize;
        let body = body.get(..units.saturating_mul(24)).unwrap_or_default();
        head[BODY_CRC..HEAD_CRC].copy_from_slice(&crate::log::checksum::crc32c(body).to_le_bytes());
        let head = with_crc(head, HEAD_CRC);
        bytes[..HEAD].copy_from_slice(&head);
        bytes
    };
    for bytes in [data.to_vec(), sealed(data.to_vec())] {
        let Ok(head) = TrailerHead::decode(&bytes, POOL, SEGMENT_BLOCKS) else { continue };
        accepted = true;
        let mut expected = head;
        // A build of version 1 does not know the field that version 2 has added.
        expected.session = if head.version == 1 { 0 } else { head.session };
        assert_eq!(TrailerHead::decode(&head.encode_head(POOL), POOL, SEGMENT_BLOCKS), Ok(expected));
        let Ok(units) = head.body(&bytes) else { continue };
        assert_eq!((head.units as usize, head.of(units)), (units.len(), head));
        let entries = SegmentEntries::new(units.to_vec());
        let mut told = 0;
        for (line, entries) in entries.records() {
            told += 1 + entries.len();
            assert!(line.end_lsn() > line.lsn() || line.lsn() == Lsn(u64::MAX));
            entries.iter().for_each(check_entry);
        }
        assert!(told <= units.len());
        let holes = entries.holes(Lsn(2305), Lsn(2560));
        assert!(holes.iter().all(|hole| hole.start < hole.end && hole.end <= Lsn(2560)));
        assert_eq!(units.as_bytes().len(), units.len() * 24);
    }
    accepted
}
