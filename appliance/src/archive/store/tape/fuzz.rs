//! Fuzzing entry points (`crate::fuzzing`) for what the tape store reads: the marks on tape, the
//! lines of the ledger, and the copies at hand.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a fuzz target fails by panic"
)]

use uuid::Uuid;

use super::format::{Header, MARK_BYTES, Mark, Trailer};
use super::ledger::{KnownPart, Line};
use super::{at_hand, ledger};
use crate::archive::store::Name;
use crate::log::checksum::{crc32c, with_crc};

const STORE: Uuid = Uuid::from_u128(7);

fn name() -> Name {
    Name::new("v1/a/seg/00000003/7.seg.zst").expect("a name")
}

pub(crate) fn mark_seeds() -> Vec<Vec<u8>> {
    let header = Header { file: 9, first_file: 8, part: 1, tombstone: false, name: name() };
    let tombstone = Header { tombstone: true, ..header.clone() };
    let trailer = Trailer {
        file: 9,
        first_file: 8,
        part: 1,
        last: true,
        part_bytes: 512,
        object_bytes: 2048,
        data_crc: 5,
    };
    let marks =
        [Mark::Label { number: 3 }, Mark::Header(header), Mark::Header(tombstone), Mark::Trailer(trailer)];
    marks.iter().map(|mark| mark.encode(STORE).to_vec()).collect()
}

/// A block on tape that may be a mark.
pub(crate) fn mark(data: &[u8]) -> bool {
    let mut accepted = false;
    for bytes in [data.to_vec(), with_crc(data, MARK_BYTES - 4)] {
        let Some((store, mark)) = Mark::decode(&bytes) else { continue };
        accepted = true;
        assert_eq!(Mark::decode(&mark.encode(store)), Some((store, mark)));
    }
    accepted
}

pub(crate) fn ledger_seeds() -> Vec<Vec<u8>> {
    let part = KnownPart { cartridge: 1, object: 2, file: 9, bytes: 512, crc: 5 };
    let lines = [
        Line::Ledger { version: 1, store: STORE },
        Line::Cartridge { number: 1, barcode: "A00001L8".to_owned() },
        Line::Object { name: name().to_string(), first_file: 9, len_bytes: 512, parts: vec![part] },
        Line::Tombstone { name: name().to_string(), file: 10, cartridge: 1 },
        Line::End { cartridge: 1, file: 10 },
    ];
    let lines = lines.iter().map(|line| ledger::encode(line).expect("plain data").into_bytes());
    lines.chain([at_hand::encode(&name(), b"what was put")]).collect()
}

/// A line of the ledger, and a copy at hand: both begin with their checksum in hexadecimal digits.
pub(crate) fn ledger(data: &[u8]) -> bool {
    let mut accepted = false;
    let text = data.get(9..).unwrap_or_default();
    let line = text.strip_suffix(b"\n").unwrap_or(text);
    let sealed = |text: &[u8]| [format!("{:08x} ", crc32c(text)).as_bytes(), text].concat();
    for bytes in [data, data.strip_suffix(b"\n").unwrap_or(data), &sealed(text)[..], &sealed(line)[..]] {
        if let Some(line) = ledger::decode(bytes) {
            accepted = true;
            let again = ledger::encode(&line).expect("plain data");
            assert_eq!(ledger::decode(again.trim_end().as_bytes()), Some(line));
        }
        if let Some((name, content)) = at_hand::decode(bytes) {
            accepted = true;
            let again = at_hand::encode(&name, &content);
            assert_eq!(at_hand::decode(&again), Some((name, content)));
        }
    }
    accepted
}
