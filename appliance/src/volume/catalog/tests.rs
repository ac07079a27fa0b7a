//! The whole catalog against `docs/FORMAT.md`, and what it forgets.

use std::sync::Arc;

use uuid::Uuid;

use super::content::{CATALOG_VERSION, GONE_IMAGES_MAX, RANGES_MAX};
use super::text::CATALOG_VERSION_FIRST;
use super::*;
use crate::log::reader::LsnRange;
use crate::log::{Geometry, Lsn, SegmentSeq};
use crate::volume::info::{ImageParent, VolumeOrigin};

crate::document::numbers!(
    the_document_has_these_bounds,
    CATALOG_VERSION_FIRST => "| `\"version\"` in JSON | {} in pools of version 1, else 2 | 1 and 2 |",
    CATALOG_VERSION => "| `\"version\"` in JSON | 1 in pools of version 1, else {} | 1 and 2 |",
    GONE_IMAGES_MAX => "at most {} (`GONE_IMAGES_MAX`)",
    RANGES_MAX => "at most {} (`RANGES_MAX`)",
    RANGES_MAX => "left the device without having been archived; at most {};",
    OVERPROVISIONING_PERCENT_DEFAULT => "spare blocks for each 100 live ones; optional ({})",
);

#[test]
fn the_document_says_what_share_is_reserved() {
    assert_eq!(ROOM_SHARE, 16);
    // ROOM_SHARE => "One sixteenth"
    crate::document::check_says("One sixteenth of it is reserved for what grows by itself");
}

fn session() -> CatalogSession {
    let verdict = SessionVerdict { lsn: 1, time_ns: 1, verdict: Verdict::Good };
    let (clone, source) = (Uuid::from_u128(1), Uuid::nil());
    CatalogSession {
        name: "s".to_owned(),
        made_ns: 1,
        members: vec![SessionMember { clone, source, name: "a".to_owned() }],
        group: Some("g".to_owned()),
        at: 1,
        time_ns: 1,
        oldest: 1,
        newest: 1,
        verdicts: vec![verdict],
        may_be_written: true,
    }
}

fn group() -> CatalogGroup {
    CatalogGroup { name: "g".to_owned(), uuid: Uuid::nil(), created_ns: 1, volumes: vec![Uuid::nil()] }
}

/// A catalog that has every key.
fn whole() -> Catalog {
    let parent = ImageParent { image: 1, lsn: 300 };
    let volume = CatalogVolume {
        name: "a".to_owned(),
        uuid: Uuid::nil(),
        size_blocks: 1,
        read_only: false,
        image: 2,
        created_ns: 1,
        thin: true,
        origin: Some(VolumeOrigin { lsn: 7, point: Some("synch:a".to_owned()) }),
    };
    let image = CatalogImage {
        id: 2,
        parent: Some(parent),
        born_lsn: 300,
        hydrated_lsn: Some(400),
        uncertain_below: 5,
        hydrating: true,
        resident: Some(ResidentPart { above: 7, only_from: Some(8) }),
        begun_blocks: Some(9),
    };
    let snapshot = CatalogSnapshot { name: Arc::from("s"), lsn: 1, time_ns: 1 };
    Catalog {
        volumes: Shared::from_iter([volume]),
        images: Shared::from_iter([image]),
        snapshots: [snapshot].into_iter().collect(),
        working_sets: vec![(SegmentSeq(0), 4)],
        working_set_target: Some(3),
        cuts: vec![Cut { sequence: SegmentSeq(1), end_lsn: Lsn(300), epoch: 1 }],
        gaps: vec![range(1, 2)],
        gone_images: Shared::from_iter([GoneImage { id: 3, parent, born_lsn: 1, gone_lsn: 2 }]),
        deleted_synchs: Shared::from_iter([7]),
        ownership: Ownership { rehearsal_lsn: Some(Lsn(1)), ..Ownership::default() },
        sessions: Shared::from_iter([session()]),
        groups: Shared::from_iter([group()]),
        ..Catalog::default()
    }
}

#[test]
fn the_document_has_these_keys() {
    let catalog = whole();
    let volume = catalog.volumes.iter().next().expect("a volume");
    let image = catalog.images.iter().next().expect("an image");
    let gone_image = catalog.gone_images.iter().next().expect("a gone image");
    let section = "### Whole catalog";
    crate::document::check_keys(section, "| key |", &catalog);
    crate::document::check_keys(section, "| volume |", volume);
    crate::document::check_keys(section, "| image |", image);
    crate::document::check_keys(section, "| ownership |", &catalog.ownership);
    crate::document::check_keys(section, "| session |", &session());
    crate::document::check_keys(section, "| group |", &group());
    let keys = |value: serde_json::Value| {
        let keys = value.as_object().expect("an object").keys().map(|key| format!("\"{key}\""));
        format!("{{{}}}", keys.collect::<Vec<_>>().join(","))
    };
    let gone = serde_json::to_value(gone_image).expect("plain data");
    crate::document::check_says(&format!("| `gone_images` | list | `{}`;", keys(gone)));
    let origin = serde_json::to_value(&volume.origin).expect("plain data");
    crate::document::check_says(&format!("| `origin` | `{}` |", keys(origin)));
    let cut = serde_json::to_value(catalog.cuts[0]).expect("plain data");
    crate::document::check_says(&format!("| `cuts` | list of `{}` |", keys(cut)));
    let resident = serde_json::to_value(image.resident).expect("plain data");
    crate::document::check_says(&format!("| `resident` | `{}` |", keys(resident)));
    let parent = serde_json::to_value(image.parent).expect("plain data");
    crate::document::check_says(&format!("| `parent` | null or `{}` |", keys(parent)));
    let session = serde_json::to_value(session()).expect("plain data");
    crate::document::check_says(&format!(
        "| `members` | list of `{}` |",
        keys(session["members"][0].clone())
    ));
    crate::document::check_says(&format!(
        "| `verdicts` | list of `{}`",
        keys(session["verdicts"][0].clone())
    ));
    let snapshots = serde_json::to_value(&catalog.snapshots).expect("plain data");
    crate::document::check_says(&format!("A snapshot is `{}`.", keys(snapshots[0].clone())));
}

fn range(start: u64, end: u64) -> LsnRange {
    LsnRange { start: Lsn(start), end: Lsn(end) }
}

#[test]
fn stretches_that_grow_by_themselves_stay_few_and_lose_nothing() {
    let mut catalog = Catalog::default();
    // Consecutive segments are one gap, however many there are.
    for sequence in 0..100_000 {
        catalog.add_gap(range(sequence * 256, (sequence + 1) * 256));
    }
    assert_eq!(catalog.gaps, [range(0, 100_000 * 256)]);
    // Separate ranges, more than are remembered: all are covered, and the largest distances
    // remain.
    for at in 0..1000 {
        assert!(catalog.add_lost(range(
            at * 100 + if at < 500 { 0 } else { 1 << 20 },
            at * 100 + 7 + if at < 500 { 0 } else { 1 << 20 }
        )));
    }
    assert_eq!(catalog.lost.len(), RANGES_MAX);
    assert!((0..1000).all(|at: u64| {
        let start = at * 100 + if at < 500 { 0 } else { 1 << 20 };
        !catalog.clone().add_lost(range(start, start + 7))
    }));
    assert!(catalog.clone().add_lost(range(500_000, 500_001)), "the widest space between is kept");
    // The shortest text still has one of each.
    let long = catalog.encode(2).len();
    while catalog.give_way() {}
    assert_eq!((catalog.lost.len(), catalog.gaps.len()), (1, 1));
    assert!(catalog.encode(2).len() < catalog.own_bytes(2) + 200 && long > 3000);
}

#[test]
fn what_was_uncertain_in_its_parent_stays_so_in_a_clone() {
    let image = |id, parent, hydrated_lsn, uncertain_below| CatalogImage {
        id,
        parent,
        born_lsn: u64::from(id) * 1000,
        hydrated_lsn,
        hydrating: false,
        uncertain_below,
        resident: None,
        begun_blocks: None,
    };
    let parent = |image, lsn| Some(ImageParent { image, lsn });
    let mut catalog = Catalog {
        images: Shared::from_iter([
            image(0, None, None, 0),
            image(1, parent(0, 900), None, 0),
            image(2, parent(1, 1900), None, 0),
        ]),
        lost: vec![range(500, 510)],
        ..Catalog::default()
    };
    assert_eq!(catalog.uncertain_below(2, Lsn::MAX), Lsn(510));
    assert_eq!(catalog.inherited_uncertain_below(2), Lsn(510));
    // A hydrated image does not depend on its ancestors; its own catalog entry has the limit.
    catalog.change_image(2, |image| image.hydrated_lsn = Some(2500));
    assert_eq!(catalog.uncertain_below(2, Lsn::MAX), Lsn(0));
    catalog.change_image(2, |image| image.uncertain_below = 510);
    assert_eq!(catalog.uncertain_below(2, Lsn::MAX), Lsn(510));
    for version in [1, 2] {
        let text = catalog.encode(version);
        assert_eq!(Catalog::decode(&text), Some(catalog.clone()));
    }
}

/// The bound of the length holds, even when the number of the next synch gets more digits.
#[test]
fn both_versions_are_read_and_within_their_bound() {
    let mut catalog = Catalog::default();
    for number in 0..3000 {
        catalog.snapshots.insert(&CatalogSnapshot {
            name: Arc::from(format!("snapshot-{number}")),
            lsn: number * 7,
            time_ns: number << 30,
        });
    }
    for version in [1, 2] {
        for next_synch in [1, u64::MAX] {
            catalog.next_synch = next_synch;
            let text = catalog.encode(version);
            assert!(text.len() <= catalog.text_bytes_max(version), "{version}");
            assert_eq!(Catalog::decode(&text), Some(catalog.clone()));
            assert_eq!(Catalog::decode(&text[..text.len() - 1]), None);
        }
    }
    assert!(catalog.encode(2).len() * 3 < catalog.encode(1).len(), "pages are short");
}

#[test]
fn a_deleted_synch_is_remembered_as_long_as_its_segment_is_there() {
    let geometry = Geometry::fit(256 * 12, 256).expect("eleven segments");
    let mut catalog = Catalog { deleted_synchs: [300, 600, 700].into_iter().collect(), ..Catalog::default() };
    for version in [1, 2] {
        let text = catalog.encode(version);
        assert!(text.len() <= catalog.text_bytes_max(version));
        assert_eq!(Catalog::decode(&text), Some(catalog.clone()));
    }
    let there = [2, 5].into_iter().map(SegmentSeq).collect();
    assert_eq!(catalog.forget_deleted_synchs(&geometry, &there), 1);
    assert!(catalog.deleted_synchs.iter().eq(&[600, 700]));
}

/// Segments of 256 blocks: an image that lived in segments 2 and 3, and one that lived in 9.
#[test]
fn a_gone_image_is_remembered_as_long_as_a_segment_of_its_life_is_there() {
    let geometry = Geometry::fit(256 * 12, 256).expect("eleven segments");
    let parent = ImageParent { image: 1, lsn: 300 };
    let catalog = Catalog {
        gone_images: Shared::from_iter([
            GoneImage { id: 2, parent, born_lsn: 600, gone_lsn: 4 * 256 },
            GoneImage { id: 3, parent, born_lsn: 9 * 256, gone_lsn: 9 * 256 + 7 },
        ]),
        ..Catalog::default()
    };
    let left = |there: &[u64]| {
        let mut catalog = catalog.clone();
        let there = there.iter().copied().map(SegmentSeq).collect();
        let forgotten = catalog.forget_gone_images(&geometry, &there);
        assert_eq!(forgotten + catalog.gone_images.len(), 2);
        catalog.gone_images.iter().map(|gone| gone.id).collect::<Vec<_>>()
    };
    assert_eq!(left(&[2, 9, 10]), [2, 3]);
    assert_eq!(left(&[3, 10]), [2]);
    // An older segment that is kept, for example by a snapshot, keeps neither.
    assert_eq!(left(&[0, 1, 4, 5, 10]), [0_u32; 0]);
    assert_eq!(left(&[1, 4, 9]), [3]);
}
