//! The entry points of the anchor for fuzzing (`crate::fuzzing`).

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a fuzz target fails by panic"
)]

use uuid::Uuid;

use super::{AnchorHead, AnchorId, AnchorName, AnchorPart, LEAF_BLOCKS, LastRecord, Leaves, head, part};
use crate::archive::object::ClaimId;
use crate::log::types::Lsn;

fn id() -> AnchorId {
    AnchorId { pool: Uuid::from_u128(1), epoch: 3, image: 7, lsn: Lsn(90_000), claim: ClaimId(5) }
}

fn leaves(count: u64) -> Leaves {
    let mut leaves = Leaves::default();
    for number in 0..count {
        let mut mappings = [0; LEAF_BLOCKS];
        for (slot, mapping) in mappings.iter_mut().enumerate().step_by(3) {
            *mapping = (1 + number * 512 + slot as u64) << 16 | 0xabcd;
        }
        leaves.push(number * 2, &mappings);
    }
    leaves
}

fn head_of(parts: u32) -> AnchorHead {
    let part = |number: u32| AnchorPart {
        first_leaf: u64::from(number) * 1000,
        leaves: 900,
        bytes: 1234,
        digest: [number as u8; 32],
    };
    AnchorHead {
        record: LastRecord { lsn: Lsn(89_990), time_ns: 6, epoch: 4 },
        size_blocks: 1 << 20,
        mapped_blocks: u64::from(parts) * 512,
        parts: (0..parts).map(part).collect(),
    }
}

pub(crate) fn anchor_seeds() -> Vec<Vec<u8>> {
    let part = |count, number| leaves(count).encode(&id(), number).expect("a part");
    vec![head_of(0).encode(&id()), head_of(3).encode(&id()), part(1, 0), part(66, 2)]
}

/// Heads and parts as they are, and with their checksums corrected.
pub(crate) fn anchor(data: &[u8]) -> bool {
    for corrected in [head::resealed(data), part::resealed(data)].iter().flatten() {
        decoded(corrected);
    }
    decoded(data)
}

/// What is read, written again, reads the same.
fn decoded(data: &[u8]) -> bool {
    let id = id();
    if let Ok(head) = AnchorHead::decode(&id, data) {
        assert_eq!(AnchorHead::decode(&id, &head.encode(&id)), Ok(head));
        return true;
    }
    for number in [0, 2] {
        let Ok(part) = Leaves::decode(&id, number, data) else { continue };
        let again = part.encode(&id, number).expect("it was read");
        assert_eq!(Leaves::decode(&id, number, &again).as_ref(), Ok(&part));
        assert!(part.iter_from(0).flat_map(|(_, leaf)| leaf).all(|mapping| mapping >> 16 <= id.lsn.0));
        return true;
    }
    false
}

pub(crate) fn anchor_name_seeds() -> Vec<Vec<u8>> {
    [AnchorName::Head(id(), 3), AnchorName::Part(id(), 2)]
        .iter()
        .map(|name| name.name().expect("a name").as_str().as_bytes().to_vec())
        .collect()
}

pub(crate) fn anchor_name(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Some(name) = AnchorName::parse(text) else { return false };
    assert_eq!(name.name().expect("a name").as_str(), text);
    true
}
