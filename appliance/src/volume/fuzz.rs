//! Fuzzing entry points for the texts of the catalog (`crate::fuzzing`).

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a fuzz target fails by panic"
)]

use std::sync::Arc;

use super::catalog::{Catalog, CatalogChange, CatalogSnapshot};
use super::manage::checks::NAME_BYTES_MAX;

/// A catalog with an example of everything that its JSON can contain.
fn catalog_of(names: &[&str]) -> Catalog {
    let text = serde_json::json!({
        "version": 2,
        "next_image": 4,
        "next_synch": 9,
        "volumes": [],
        "images": [
            {"id": 1, "parent": null, "born_lsn": 1},
            {"id": 3, "parent": {"image": 1, "lsn": 70}, "born_lsn": 71, "hydrating": true},
        ],
        "snapshots": [],
    });
    let mut catalog = serde_json::from_value::<Catalog>(text).expect("a catalog");
    for (lsn, name) in (100..).zip(names) {
        catalog.add_snapshot(&CatalogSnapshot { name: Arc::from(*name), lsn, time_ns: lsn << 20 });
    }
    catalog
}

pub(crate) fn catalog_seeds() -> Vec<Vec<u8>> {
    let catalog = catalog_of(&["nightly", "before the update", "ä"]);
    vec![Catalog::default().encode(2), catalog.encode(2), catalog.encode(1)]
}

pub(crate) fn catalog(data: &[u8]) -> bool {
    let Some(read) = Catalog::decode(data) else { return false };
    // Longer names are never made; a page cuts off a longer name that was read.
    if read.snapshots.iter().all(|snapshot| snapshot.name.len() <= NAME_BYTES_MAX) {
        for version in [1, 2] {
            let text = read.encode(version);
            assert_eq!(Catalog::decode(&text).as_ref(), Some(&read), "version {version}");
        }
    }
    true
}

pub(crate) fn change_seeds() -> Vec<Vec<u8>> {
    let (before, after) = (catalog_of(&["nightly", "weekly"]), catalog_of(&["weekly", "monthly", "x"]));
    let changes = [
        CatalogChange::between(&Catalog::default(), &after),
        CatalogChange::between(&before, &after),
        CatalogChange::between(&after, &Catalog::default()),
    ];
    changes.iter().map(CatalogChange::encode).collect()
}

pub(crate) fn change(data: &[u8]) -> bool {
    let Some(read) = CatalogChange::decode(data) else { return false };
    assert_eq!(CatalogChange::decode(&read.encode()).as_ref(), Some(&read));
    let mut catalog = catalog_of(&["nightly", "weekly"]);
    read.clone().apply(&mut catalog);
    let mut again = catalog.clone();
    read.apply(&mut again);
    assert_eq!(again, catalog, "what a change says holds after it, however often it is applied");
    true
}
