//! Tests of the format of anchors.

use proptest::prelude::*;
use uuid::Uuid;

use super::fuzz;
use super::*;
use crate::archive::object::ClaimId;
use crate::log::types::Lsn;

fn id() -> AnchorId {
    AnchorId { pool: Uuid::from_u128(7), epoch: 2, image: 9, lsn: Lsn(1 << 30), claim: ClaimId(11) }
}

fn leaf() -> impl Strategy<Value = [u64; LEAF_BLOCKS]> {
    prop::collection::vec((0..LEAF_BLOCKS, 1_u64..1 << 30, any::<u16>()), 0..40).prop_map(|list| {
        let mut leaf = [0; LEAF_BLOCKS];
        for (slot, lsn, crc) in list {
            leaf[slot] = lsn << 16 | u64::from(crc);
        }
        leaf
    })
}

fn leaves_of(list: Vec<(u64, [u64; LEAF_BLOCKS])>) -> Leaves {
    let mut leaves = Leaves::default();
    let mut number = 0;
    for (skip, leaf) in list {
        number += skip;
        leaves.push(number, &leaf);
        number += 1;
    }
    leaves
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A part reads as it was written, and says whose it is.
    #[test]
    fn a_part_reads_as_it_was_written(list in prop::collection::vec((0_u64..5, leaf()), 1..150)) {
        let leaves = leaves_of(list);
        let bytes = leaves.encode(&id(), 4).expect("a part");
        let read = Leaves::decode(&id(), 4, &bytes);
        prop_assert_eq!(read.as_ref(), Ok(&leaves));
        for other in [
            AnchorId { pool: Uuid::from_u128(8), ..id() },
            AnchorId { epoch: 3, ..id() },
            AnchorId { image: 8, ..id() },
            AnchorId { lsn: Lsn((1 << 30) + 1), ..id() },
            AnchorId { claim: ClaimId(12), ..id() },
        ] {
            prop_assert_eq!(Leaves::decode(&other, 4, &bytes), Err(AnchorDamage::Elsewhere("anchor")));
        }
        prop_assert_eq!(Leaves::decode(&id(), 5, &bytes), Err(AnchorDamage::Elsewhere("part")));
    }
}

/// One changed byte anywhere is an error, and so is one byte fewer or more.
#[test]
fn a_changed_byte_is_found() {
    for seed in fuzz::anchor_seeds() {
        assert!(fuzz::anchor(&seed));
        for at in 0..seed.len() {
            let mut damaged = seed.clone();
            damaged[at] ^= 0x10;
            assert!(!fuzz::anchor(&damaged), "byte {at} of {}", seed.len());
        }
        assert!(!fuzz::anchor(&seed[..seed.len() - 1]));
        assert!(!fuzz::anchor(&[&seed[..], &[0]].concat()));
    }
}

/// Numbers with right checksums that an anchor cannot have are refused.
#[test]
fn impossible_numbers_are_refused() {
    let mut leaf = [0; LEAF_BLOCKS];
    let mut refused = |mapping: u64| {
        leaf[7] = mapping;
        let leaves = leaves_of(vec![(0, leaf)]);
        let bytes = leaves.encode(&id(), 0).expect("a part");
        Leaves::decode(&id(), 0, &bytes)
    };
    assert!(refused((1 << 30) << 16 | 0xffff).is_ok());
    assert_eq!(refused(((1 << 30) + 1) << 16), Err(AnchorDamage::Field("position of a block")));
    assert_eq!(refused(0xabcd), Err(AnchorDamage::Field("position of a block")));
    assert!(Leaves::default().encode(&id(), 0).is_err());
    let part = |first_leaf, leaves, bytes| AnchorPart { first_leaf, leaves, bytes, digest: [1; 32] };
    let head = |parts: Vec<AnchorPart>, record: u64, mapped_blocks| {
        let record = LastRecord { lsn: Lsn(record), time_ns: 1, epoch: 1 };
        let head = AnchorHead { record, size_blocks: 9, mapped_blocks, parts };
        AnchorHead::decode(&id(), &head.encode(&id())).map(|read| assert_eq!(read, head))
    };
    assert_eq!(head(vec![part(0, 2, 100), part(2, 1, 100)], 5, 3 * 512), Ok(()));
    assert_eq!(
        head(vec![part(0, 2, 100)], 5, 2 * 512 + 1),
        Err(AnchorDamage::Field("count of mapped blocks"))
    );
    assert_eq!(
        head(vec![part(0, 2, 100), part(1, 1, 9)], 5, 1),
        Err(AnchorDamage::Field("order of the parts"))
    );
    assert_eq!(head(vec![part(0, 0, 100)], 5, 0), Err(AnchorDamage::Field("size of a part")));
    assert_eq!(head(vec![part(0, 1, u32::MAX)], 5, 0), Err(AnchorDamage::Field("size of a part")));
    assert_eq!(head(vec![], (1 << 30) + 1, 0), Err(AnchorDamage::Field("position of the last record")));
}

/// A name is parsed in one spelling only, and the head's name tells those of its parts.
#[test]
fn names_have_one_spelling() {
    let names = id().names(2).expect("names");
    let parsed: Vec<_> = names.iter().map(|name| AnchorName::parse(name.as_str()).expect("a name")).collect();
    assert_eq!(parsed, [AnchorName::Head(id(), 2), AnchorName::Part(id(), 0), AnchorName::Part(id(), 1)]);
    let good = names[0].as_str();
    assert!(good.starts_with(&anchor_prefix(id().pool)) && parsed[1].id() == id());
    for bad in [
        good.replace("anc/", "seg/"),
        good.replace(".anchor", ".other"),
        good.replace("v1/", "v2/"),
        good.to_uppercase(),
        format!("{good}.x"),
        good.replace("00000002.anchor", "00020001.anchor"),
    ] {
        assert_eq!(AnchorName::parse(&bad), None, "{bad}");
    }
    assert_eq!(id().as_object().to_lsn, Lsn((1 << 30) + 1));
}

/// The anchor of an earlier build is read.
#[test]
fn the_fixture_of_version_1_is_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/anchor-v1");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("the fixture");
    let seeds = fuzz::anchor_seeds();
    let id = AnchorId { pool: Uuid::from_u128(1), epoch: 3, image: 7, lsn: Lsn(90_000), claim: ClaimId(5) };
    assert_eq!(read("head"), seeds[1]);
    assert_eq!(AnchorHead::decode(&id, &read("head")).expect("a head").parts.len(), 3);
    let (old, new) = (Leaves::decode(&id, 2, &read("part")), Leaves::decode(&id, 2, &seeds[3]));
    assert!(old.is_ok() && old == new);
    assert_eq!(old.expect("a part").mapped(), 66 * 171);
}
