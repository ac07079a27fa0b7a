//! Tests of the format: round trips, damage anywhere, order, the fixture.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::dma::BLOCK_BYTES;
use crate::log::Lsn;

/// What happens to blocks, in order: skipped, data, or unmapped.
type Script = Vec<(u8, u64)>;

fn header(data_blocks: u64, unmapped_blocks: u64) -> Header {
    Header {
        kind: Kind::Net,
        pool: Uuid::from_u128(0x1234),
        history: Uuid::from_u128(0x5678),
        series: Uuid::from_u128(0x9abc),
        number: 3,
        from_lsn: Lsn(77),
        to_lsn: Lsn(99),
        from_ns: 1_000_000_007,
        to_ns: 1_000_000_009,
        made_ns: 1_000_000_011,
        previous_digest: [7; 32],
        data_blocks,
        unmapped_blocks,
    }
}

fn member(id: u128, to_size_blocks: u64) -> Member {
    let name = format!("volume-{id}");
    Member { uuid: Uuid::from_u128(id), name, from_size_blocks: to_size_blocks / 2, to_size_blocks }
}

fn description(sizes: &[u64]) -> Description {
    Description {
        from: PointText { point: "synch:monday".to_owned() },
        to: PointText { point: "synch:tuesday".to_owned() },
        members: (1..).zip(sizes).map(|(id, &size)| member(id, size)).collect(),
    }
}

fn block_of(member: u32, block: u64) -> Vec<u8> {
    let word = (u64::from(member) << 48 | block).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word.to_le_bytes().repeat(BLOCK_BYTES / 8)
}

/// Writes the script of each member; returns the file, and the expected entries block by block.
fn written(scripts: &[Script]) -> (Vec<u8>, Vec<(u32, u64, bool)>) {
    let count = |wanted: u8| -> u64 {
        let all = scripts.iter().flatten();
        all.filter(|(kind, _)| *kind == wanted).map(|(_, blocks)| *blocks).sum()
    };
    let sizes: Vec<u64> =
        scripts.iter().map(|script| 1 + script.iter().map(|(_, blocks)| blocks).sum::<u64>()).collect();
    let description = description(&sizes);
    let mut writer = IncrementWriter::begin(Vec::new(), header(count(1), count(2)), &description).unwrap();
    let mut expected = Vec::new();
    for (member, script) in (0..).zip(scripts) {
        let mut block = 0;
        for &(kind, blocks) in script {
            let range = block..block + blocks;
            match kind {
                1 => {
                    let data: Vec<u8> = range.clone().flat_map(|block| block_of(member, block)).collect();
                    writer.data(member, block, &data).unwrap();
                }
                2 => writer.unmapped(member, block, blocks).unwrap(),
                _ => {}
            }
            if kind > 0 {
                expected.extend(range.map(|block| (member, block, kind == 1)));
            }
            block += blocks;
        }
    }
    let (summary, file) = writer.finish().unwrap();
    assert_eq!(summary.file_bytes, file.len() as u64);
    let mut reader = IncrementReader::open(&file[..]).unwrap();
    assert_eq!((reader.header(), reader.description()), (&header(count(1), count(2)), &description));
    assert_eq!(verify(&mut reader).unwrap(), summary.digest);
    (file, expected)
}

/// Everything that a file says, block by block, with the data checked.
fn read(file: &[u8]) -> Result<Vec<(u32, u64, bool)>, IncrementError> {
    let mut reader = IncrementReader::open(file)?;
    let mut found = Vec::new();
    while let Some(chunk) = reader.next_chunk()? {
        assert!(chunk.entries.len() <= CHUNK_ENTRIES_MAX as usize);
        assert!(chunk.data.len() <= CHUNK_BLOCKS_MAX as usize * BLOCK_BYTES);
        for (entry, data) in chunk.pieces() {
            let is_data = entry.kind == EntryKind::Data;
            for (at, block) in (entry.block..entry.block + entry.blocks).enumerate() {
                if is_data {
                    let piece = &data[at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES];
                    assert!(piece == block_of(entry.member, block), "block {block}");
                }
                found.push((entry.member, block, is_data));
            }
        }
    }
    Ok(found)
}

fn script() -> impl Strategy<Value = Script> {
    prop::collection::vec((0_u8..3, prop_oneof![4 => 1_u64..5, 1 => 200_u64..700]), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_written_is_read(scripts in prop::collection::vec(script(), 1..4)) {
        let (file, expected) = written(&scripts);
        prop_assert_eq!(read(&file).unwrap(), expected);
    }

    #[test]
    fn a_flipped_bit_is_found(scripts in prop::collection::vec(script(), 1..3), bit: prop::sample::Index) {
        let (mut file, _) = written(&scripts);
        let bit = bit.index(file.len() * 8);
        file[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(read(&file).is_err(), "bit {}", bit);
    }

    #[test]
    fn a_file_that_is_cut_or_longer_is_refused(scripts in prop::collection::vec(script(), 1..3), at: prop::sample::Index) {
        let (mut file, _) = written(&scripts);
        let cut = read(&file[..at.index(file.len())]).unwrap_err();
        prop_assert!(matches!(cut, IncrementError::Truncated { .. } | IncrementError::NotAnIncrement), "{}", cut);
        file.push(0);
        prop_assert!(read(&file).unwrap_err().to_string().contains("something follows it"));
    }
}

/// A chunk with as many entries as it may have, and one more.
#[test]
fn many_single_blocks_take_several_chunks() {
    let script: Script =
        (0..2 * u64::from(CHUNK_ENTRIES_MAX) + 2).map(|at| (2 * (at % 2) as u8, 1)).collect();
    let (file, expected) = written(&[script]);
    assert_eq!(expected.len(), CHUNK_ENTRIES_MAX as usize + 1);
    assert_eq!(read(&file).unwrap(), expected);
}

#[test]
fn an_empty_increment_is_one() {
    let (file, expected) = written(&[vec![]]);
    assert_eq!((read(&file).unwrap().len(), expected.len()), (0, 0));
}

#[test]
fn what_is_out_of_order_cannot_be_written() {
    let begin = || IncrementWriter::begin(Vec::new(), header(1, 1), &description(&[10, 10])).unwrap();
    let refused = |result: Result<(), IncrementError>| {
        assert!(matches!(result, Err(IncrementError::Order { .. })), "{result:?}");
    };
    let data = block_of(0, 5);
    let mut writer = begin();
    writer.unmapped(0, 5, 2).unwrap();
    refused(writer.data(0, 6, &data));
    refused(writer.data(0, 10, &data));
    refused(writer.data(2, 0, &data));
    refused(writer.data(1, 0, &data[1..]));
    refused(writer.unmapped(1, 0, 0));
    refused(writer.unmapped(1, u64::MAX, 2));
    writer.data(1, 0, &data).unwrap();
    refused(writer.unmapped(0, 8, 1));
    // Two unmapped blocks, and the header says one.
    assert!(matches!(writer.finish(), Err(IncrementError::Order { .. })));
    let none = IncrementWriter::begin(Vec::new(), header(0, 0), &description(&[]));
    assert!(matches!(none.err(), Some(IncrementError::Order { .. })));
}

/// The `zstd` tool sees a file of the changed blocks.
#[test]
fn the_frames_are_standard_zstandard() {
    let (file, expected) = written(&[vec![(1, 3), (0, 2), (2, 9), (1, 300)], vec![(1, 1)]]);
    let mut content = vec![0; 400 * BLOCK_BYTES];
    let (mut at, mut rest) = (0, &file[..]);
    while !rest.is_empty() {
        let len = zstd_safe::find_frame_compressed_size(rest).unwrap();
        at += zstd_safe::decompress(&mut content[at..], &rest[..len]).unwrap();
        rest = &rest[len..];
    }
    let blocks: Vec<u8> = expected
        .iter()
        .filter(|(.., is_data)| *is_data)
        .flat_map(|&(member, block, _)| block_of(member, block))
        .collect();
    assert!(content[..at] == blocks);
}

/// An increment that the first version of the format wrote: it is read as it was meant.
#[test]
fn the_fixture_of_version_1_is_read() {
    const FIXTURE: &[u8] = include_bytes!("../../../tests/fixtures/increment-v1.inc");
    let script = [vec![(0, 1), (1, 3), (2, 5), (0, 2), (1, 1)], vec![(2, 4), (1, 2)]];
    let expected = {
        let mut expected = Vec::new();
        for (member, script) in (0..).zip(&script) {
            let mut block = 0;
            for &(kind, blocks) in script {
                let range = block..block + blocks;
                expected.extend(range.filter(|_| kind > 0).map(|block| (member, block, kind == 1)));
                block += blocks;
            }
        }
        expected
    };
    assert_eq!(read(FIXTURE).unwrap(), expected);
    let reader = IncrementReader::open(FIXTURE).unwrap();
    assert_eq!((reader.header(), reader.description()), (&header(6, 9), &description(&[13, 7])));
}

#[test]
fn the_document_has_the_keys_of_the_description() {
    let description = description(&[9]);
    crate::document::check_keys("### Description", "| key |", &description);
    crate::document::check_keys("Each member is an object", "| key |", &description.members[0]);
}
