//! The on-disk format: encoded structures decode to the same values; other bytes, random or with
//! valid checksums, never cause a panic; and a pool image of each format version opens with the
//! current build and has its old content.

use proptest::prelude::*;
use uuid::Uuid;
use varve::log::checksum::{crc32c, crc32c_parts};
use varve::log::format::{
    ENDS_MAX, Entry, EventHead, FormatError, Opening, RecordHead, RecordLine, SegmentHeader, Superblock,
    TrailerHead, TrailerUnit, trailer_units,
};
use varve::log::reader::SegmentEntries;
use varve::log::{BlockNumber, ImageId, Lsn, SegmentSeq};
use varve_tests::sim::fixture;
use varve_tests::sim::world::World;

const BLOCK: usize = 4096;
const POOL: Uuid = Uuid::from_u128(0x1234_5678_9abc_def0);

fn superblock() -> impl Strategy<Value = Superblock> {
    (1_u32..=2, any::<u128>(), 8_u32..=18, 2_u64..1000, 0_u64..100, any::<u64>(), any::<u64>(), any::<u32>())
        .prop_map(|(version, pool, bits, slots, spare, created_ns, generation, epoch)| Superblock {
            version,
            pool: Uuid::from_u128(pool),
            // Version 2 has a block for the third copy.
            device_blocks: 255 + u64::from(version) + (slots << bits) + spare,
            segment_blocks: 1 << bits,
            slots,
            working_set: 1 + created_ns % (slots - 1),
            first_slot_block: 256,
            created_ns,
            generation,
            epoch,
            begun_lsn: Lsn(if version == 1 { 0 } else { generation / 3 }),
        })
}

fn entry() -> impl Strategy<Value = Entry> {
    (0_u8..4, any::<u32>(), any::<u64>(), any::<u32>(), any::<u64>(), any::<bool>()).prop_map(
        |(kind, image, block, crc, value, last)| match kind {
            0 => Entry::write(ImageId(image), BlockNumber(block >> 16), crc, Lsn(value), last),
            1 => Entry::trim(ImageId(image), BlockNumber(block >> 16), value, last),
            2 => Entry::opening(Opening {
                epoch: crc,
                oldest: SegmentSeq(block),
                previous_end_lsn: Lsn(value),
            }),
            _ => Entry::event(block, crc, value, last),
        },
    )
}

fn data_blocks(entries: &[Entry]) -> u8 {
    entries.iter().filter(|entry| entry.has_data()).count() as u8
}

/// A record header and its entries, with its bytes.
fn record() -> impl Strategy<Value = (RecordHead, Vec<Entry>, Vec<u8>)> {
    let entries = prop::collection::vec(entry(), 1..=168);
    (entries, any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>()).prop_map(
        |(entries, lsn, sequence, time_ns, stable, epoch)| {
            let head = RecordHead {
                version: 1 + epoch % 2,
                lsn: Lsn(lsn),
                sequence: SegmentSeq(sequence),
                time_ns,
                stable_lsn: Lsn(stable),
                epoch,
                data_blocks: data_blocks(&entries),
            };
            let mut block = vec![0xff; BLOCK];
            head.encode(POOL, &entries, &mut block);
            (head, entries, block)
        },
    )
}

/// A trailer's units for records with these entries, and its area.
fn trailer(sequence: u64, records: &[Vec<Entry>]) -> (Vec<TrailerUnit>, Lsn, Vec<u8>) {
    let mut lsn = Lsn(sequence * 256 + 1);
    let mut units: Vec<TrailerUnit> = Vec::new();
    for entries in records {
        let line = RecordLine::new(lsn, 7, entries.len() as u8, data_blocks(entries), 3);
        units.push(zerocopy::transmute!(line));
        units.extend(entries.iter().map(|entry| -> TrailerUnit { zerocopy::transmute!(*entry) }));
        lsn = line.end_lsn();
    }
    let mut area = vec![0xff; 2 * BLOCK];
    let head = TrailerHead {
        version: 2,
        partial: false,
        epoch: 3,
        session: 5,
        sequence: SegmentSeq(sequence),
        end_lsn: lsn,
        units: 0,
        body_crc: 0,
    };
    head.of(&units).encode(POOL, &units, &mut area);
    (units, lsn, area)
}

/// Passes bytes to every decoder.
fn decode_all(bytes: &[u8], pool: Uuid) {
    let _ = Superblock::decode(bytes);
    let _ = SegmentHeader::decode(bytes, pool, 256);
    if let Ok((head, entries)) = RecordHead::decode_any(bytes, pool) {
        assert_eq!(usize::from(head.data_blocks), entries.iter().filter(|entry| entry.has_data()).count());
        for entry in entries {
            let _ = EventHead::decode(entry.block().0);
            let _ = format!("{entry:?}");
        }
    }
    if let Ok(head) = TrailerHead::decode(bytes, pool, 256)
        && let Ok(units) = head.body(bytes)
    {
        let entries = SegmentEntries::new(units.to_vec());
        assert!(entries.records().count() <= units.len());
    }
}

/// Makes the checksums valid, so that the fields are checked.
fn seal(bytes: &mut [u8]) {
    match bytes.get(..4) {
        Some(b"VREC") => {
            let crc = crc32c_parts(&[&bytes[..60], &bytes[64..]]);
            bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        }
        Some(b"VARV") if &bytes[4..8] == b"E-TR" => {
            let crc = crc32c(&bytes[..60]);
            bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        }
        _ => {
            let crc = crc32c(&bytes[..BLOCK - 4]);
            bytes[BLOCK - 4..BLOCK].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn superblocks_round_trip(superblock in superblock(), bit in 0..8 * BLOCK) {
        let mut block = vec![0xff; BLOCK];
        superblock.encode(&mut block);
        prop_assert_eq!(Superblock::decode(&block), Ok(superblock));
        block[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Superblock::decode(&block).is_err());
    }

    #[test]
    fn segment_headers_round_trip(
        sequence in 0_u64..1 << 40, epoch: u32, opened_ns: u64, previous: u64, stable: u64,
        kept in 0_u64..1 << 16, released in prop::collection::btree_set(1_u64..24_000, 0..20),
        ends in prop::collection::btree_map(0_u64..1 << 16, 1_u64..=256, 0..200), bit in 0..8 * BLOCK
    ) {
        let oldest = sequence.saturating_sub(kept);
        let ends: Vec<Lsn> = ends
            .range(..sequence - oldest)
            .map(|(behind, blocks)| Lsn((oldest + behind) * 256 + blocks))
            .collect();
        let header = SegmentHeader {
            version: 1 + epoch % 2,
            epoch,
            sequence: SegmentSeq(sequence),
            first_lsn: Lsn(sequence * 256),
            opened_ns,
            previous_end_lsn: Lsn(previous),
            stable_lsn: Lsn(stable),
            oldest: SegmentSeq(oldest),
            released: released.iter().map(|behind| SegmentSeq(oldest + behind)).collect(),
            ends: ends.clone(),
        };
        let mut block = vec![0xff; BLOCK];
        header.encode(POOL, &mut block);
        // If there are too many ends, the header stores the newest.
        let told = ends[ends.len().saturating_sub(ENDS_MAX)..].to_vec();
        prop_assert_eq!(SegmentHeader::decode(&block, POOL, 256), Ok(SegmentHeader { ends: told, ..header }));
        prop_assert_eq!(SegmentHeader::decode(&block, Uuid::nil(), 256), Err(FormatError::Pool));
        block[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(SegmentHeader::decode(&block, POOL, 256).is_err());
    }

    #[test]
    fn entries_tell_their_image_and_block(
        image: u32, block in 0_u64..1 << 48, head: u64, value: u64
    ) {
        let (image, block) = (ImageId(image), BlockNumber(block));
        for entry in [
            Entry::write(image, block, 1, Lsn(value), true),
            Entry::copied(image, block, 1, Lsn(value), false),
            Entry::trim(image, block, value, false),
            Entry::mask(image, block, value),
        ] {
            prop_assert_eq!((entry.image(), entry.block(), entry.value()), (image, block, value));
        }
        let event = Entry::event(head, 1, value, true);
        prop_assert_eq!((event.image(), event.block().0), (ImageId::POOL, head));
    }

    #[test]
    fn records_round_trip((head, entries, mut block) in record(), bit in 0..8 * BLOCK) {
        prop_assert_eq!(RecordHead::decode(&block, POOL, head.lsn, head.sequence), Ok((head, &entries[..])));
        prop_assert_eq!(RecordHead::decode_any(&block, POOL), Ok((head, &entries[..])));
        let elsewhere = Lsn(head.lsn.0 ^ 1);
        prop_assert_eq!(RecordHead::decode(&block, POOL, elsewhere, head.sequence), Err(FormatError::Stale));
        block[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(RecordHead::decode_any(&block, POOL).is_err());
    }

    #[test]
    fn trailers_round_trip(
        sequence in 0_u64..1 << 40, records in prop::collection::vec(prop::collection::vec(entry(), 1..60), 0..4), bit: u32
    ) {
        let (units, end_lsn, mut area) = trailer(sequence, &records);
        prop_assert!(units.len() as u64 <= trailer_units(256));
        let head = TrailerHead::decode(&area, POOL, 256).expect("it was just encoded");
        prop_assert_eq!((head.sequence, head.end_lsn, head.epoch, head.partial), (SegmentSeq(sequence), end_lsn, 3, false));
        prop_assert_eq!((head.version, head.session), (2, 5));
        prop_assert_eq!(head.body(&area), Ok(&units[..]));
        let found = SegmentEntries::new(units.clone());
        prop_assert_eq!(found.records().map(|(_, entries)| entries.to_vec()).collect::<Vec<_>>(), records);
        let used = 8 * TrailerHead::len_bytes(units.len()) as u32;
        let bit = (bit % used) as usize;
        area[bit / 8] ^= 1 << (bit % 8);
        let decoded = TrailerHead::decode(&area, POOL, 256).and_then(|head| head.body(&area).map(<[_]>::len));
        prop_assert!(decoded.is_err());
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2 * BLOCK), magic in 0..5_usize) {
        let mut bytes = bytes;
        let magics: [&[u8]; 5] = [b"", b"VREC\x01\0", b"VARVE-TR\x01\0", b"VARVE-SG\x01\0\0\0", b"VARVE-SB\x01\0\0\0"];
        if bytes.len() >= 64 {
            bytes[..magics[magic].len()].copy_from_slice(magics[magic]);
        }
        decode_all(&bytes, POOL);
        bytes.resize(2 * BLOCK, 0xff);
        let place = match magic { 1 => 8..24, 2 | 3 => 16..32, _ => 0..0 };
        if !place.is_empty() {
            bytes[place].copy_from_slice(POOL.as_bytes());
        }
        seal(&mut bytes);
        decode_all(&bytes, POOL);
        decode_all(&bytes[..BLOCK], POOL);
    }

    #[test]
    fn changed_fields_never_panic(
        (_, entries, mut block) in record(), at in 0..64_usize, value: u8, sequence in 0_u64..1 << 40
    ) {
        block[at] = value;
        seal(&mut block);
        decode_all(&block, POOL);
        let (_, _, mut area) = trailer(sequence, &[entries]);
        area[at] = value;
        area[at ^ 1] = 0xff;
        seal(&mut area);
        decode_all(&area, POOL);
    }
}

/// Numbers at their limits, in a head with a valid checksum.
#[test]
fn a_trailer_at_the_end_of_numbers_is_refused() {
    let (_, _, mut area) = trailer(5, &[]);
    area[32..40].copy_from_slice(&(u64::MAX / 256).to_le_bytes());
    area[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
    seal(&mut area);
    assert_eq!(TrailerHead::decode(&area, POOL, 256), Err(FormatError::Field("sequence")));
}

/// The committed pool of format version 1.
#[test]
fn the_pool_of_version_1_opens_and_is_what_it_was() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/v1");
    let image = std::fs::read(format!("{directory}/pool.sparse")).expect("the fixture is there");
    let expected = std::fs::read(format!("{directory}/expected.json")).expect("the fixture is there");
    let expected: fixture::Expected = serde_json::from_slice(&expected).expect("it is JSON");
    let disk = fixture::unpack(&image).expect("it is a sparse image");
    fixture::check(&World::new(1), &disk, &expected);
}
