//! The increment's entry point for fuzzing (`crate::fuzzing`).

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a fuzz target fails by panic"
)]

use uuid::Uuid;

use super::{
    Description, EntryKind, Header, IncrementReader, IncrementWriter, Kind, Member, PointText, verify,
};
use crate::dma::BLOCK_BYTES;
use crate::log::Lsn;

fn seed(data_blocks: u64, unmapped_blocks: u64) -> Vec<u8> {
    let header = Header {
        kind: Kind::Net,
        pool: Uuid::from_u128(1),
        history: Uuid::from_u128(2),
        series: Uuid::from_u128(3),
        number: 4,
        from_lsn: Lsn(5),
        to_lsn: Lsn(600),
        from_ns: 7,
        to_ns: 8,
        made_ns: 9,
        previous_digest: [10; 32],
        data_blocks,
        unmapped_blocks,
    };
    let member = |id: u128| Member {
        uuid: Uuid::from_u128(id),
        name: "a".to_owned(),
        from_size_blocks: 1000,
        to_size_blocks: 1000,
    };
    let description = Description {
        from: PointText { point: "lsn:5".to_owned() },
        to: PointText { point: "lsn:600".to_owned() },
        members: vec![member(1), member(2)],
    };
    let mut writer = IncrementWriter::begin(Vec::new(), header, &description).expect("a header");
    if data_blocks > 0 {
        let data = vec![7; data_blocks as usize * BLOCK_BYTES];
        writer.data(0, 10, &data).expect("data");
    }
    if unmapped_blocks > 0 {
        writer.unmapped(1, 20, unmapped_blocks).expect("blocks");
    }
    writer.finish().expect("a tail").1
}

pub(crate) fn increment_seeds() -> Vec<Vec<u8>> {
    vec![seed(0, 0), seed(2, 0), seed(0, 9), seed(3, 1)]
}

/// What is read, written again, reads the same.
pub(crate) fn increment(data: &[u8]) -> bool {
    let Ok(mut reader) = IncrementReader::open(data) else { return false };
    let (header, description) = (*reader.header(), reader.description().clone());
    let mut pieces = Vec::new();
    loop {
        match reader.next_chunk() {
            Ok(Some(chunk)) => {
                for (entry, data) in chunk.pieces() {
                    let len = if entry.kind == EntryKind::Data { entry.blocks } else { 0 };
                    assert_eq!(data.len() as u64, len * BLOCK_BYTES as u64, "an entry has its data");
                    pieces.push((entry, data.to_vec()));
                }
            }
            Ok(None) => break,
            Err(_) => return false,
        }
    }
    let mut writer = IncrementWriter::begin(Vec::new(), header, &description).expect("it was read");
    for (entry, data) in &pieces {
        let written = match entry.kind {
            EntryKind::Data => writer.data(entry.member, entry.block, data),
            EntryKind::Unmapped => writer.unmapped(entry.member, entry.block, entry.blocks),
        };
        written.expect("it was in order");
    }
    let (summary, again) = writer.finish().expect("its counts were right");
    let mut reader = IncrementReader::open(&again[..]).expect("it was written");
    assert_eq!((reader.header(), reader.description()), (&header, &description));
    assert_eq!(verify(&mut reader).expect("it was written"), summary.digest);
    true
}
