//! A change of the catalog, as it is stored in the log: entries that are set and entries that are
//! removed, each by its key. Applying it twice gives the same result, so a reader may start from
//! any catalog before it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::content::Lists;
use super::shared::Keyed;
use super::{
    Catalog, CatalogGroup, CatalogImage, CatalogSession, CatalogSnapshot, CatalogVolume, GoneImage, Key,
    Shared,
};

/// The version of this format.
const CHANGE_VERSION: u32 = 1;

/// The changes of the entries of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entries<T, K> {
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    set: Vec<T>,
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    gone: Vec<K>,
}

impl<T, K> Default for Entries<T, K> {
    fn default() -> Self {
        Entries { set: Vec::new(), gone: Vec::new() }
    }
}

impl<T, K> Entries<T, K> {
    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.gone.is_empty()
    }
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CatalogChange {
    version: u32,
    /// The catalog without the lists that are below, if something else in it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rest: Option<Box<Catalog>>,
    /// Volumes, by the ids of their images.
    #[serde(default, skip_serializing_if = "Entries::is_empty")]
    volumes: Entries<CatalogVolume, u32>,
    #[serde(default, skip_serializing_if = "Entries::is_empty")]
    images: Entries<CatalogImage, u32>,
    #[serde(default, skip_serializing_if = "Entries::is_empty")]
    gone_images: Entries<GoneImage, u32>,
    #[serde(default, skip_serializing_if = "Entries::is_empty")]
    snapshots: Entries<CatalogSnapshot, Arc<str>>,
    /// Sessions, by the UUIDs of their first clones.
    #[serde(default, skip_serializing_if = "Entries::is_empty")]
    sessions: Entries<CatalogSession, Uuid>,
    #[serde(default, skip_serializing_if = "Entries::is_empty")]
    deleted_synchs: Entries<u64, u64>,
    #[serde(default, skip_serializing_if = "Entries::is_empty")]
    groups: Entries<CatalogGroup, Uuid>,
}

impl CatalogChange {
    /// The change that turns `before` into `after`. Cost: one pass over the lists that the two do
    /// not share.
    pub(crate) fn between(before: &Catalog, after: &Catalog) -> Self {
        let (set, gone) = before.snapshots.changes(&after.snapshots);
        let rest = after.without_lists();
        CatalogChange {
            version: CHANGE_VERSION,
            rest: (rest != before.without_lists()).then(|| Box::new(rest)),
            volumes: entries(&before.volumes, &after.volumes, |volume| volume.image),
            images: entries(&before.images, &after.images, |image| image.id),
            gone_images: entries(&before.gone_images, &after.gone_images, |image| image.id),
            snapshots: Entries { set, gone },
            sessions: entries(&before.sessions, &after.sessions, CatalogSession::key),
            deleted_synchs: entries(&before.deleted_synchs, &after.deleted_synchs, |lsn| *lsn),
            groups: entries(&before.groups, &after.groups, |group| group.uuid),
        }
    }

    /// The text that is written to the log.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|_| unreachable!("a change is plain data"))
    }

    /// Reads a text; `None` if it is not a change of a version that this build knows.
    pub(crate) fn decode(text: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(text).ok().filter(|change| change.version == CHANGE_VERSION)
    }

    /// Applies the change.
    pub(crate) fn apply(self, catalog: &mut Catalog) {
        if let Some(rest) = self.rest {
            catalog.replace_rest(*rest);
        }
        let Lists { volumes, images, gone_images, snapshots, sessions, deleted_synchs, groups } =
            catalog.lists();
        let id = |id: &u32| Key::Id(u64::from(*id));
        apply_to(volumes, self.volumes, id, |volume| volume.image);
        apply_to(images, self.images, id, |image| image.id);
        apply_to(gone_images, self.gone_images, id, |image| image.id);
        apply_to(sessions, self.sessions, |uuid| Key::Uuid(*uuid), CatalogSession::key);
        apply_to(deleted_synchs, self.deleted_synchs, |lsn| Key::Id(*lsn), |lsn| *lsn);
        apply_to(groups, self.groups, |uuid| Key::Uuid(*uuid), |group| group.uuid);
        for name in &self.snapshots.gone {
            snapshots.remove(name);
        }
        for snapshot in &self.snapshots.set {
            snapshots.insert(snapshot);
        }
    }
}

fn entries<T: Clone + PartialEq, K: Copy + Eq + Hash>(
    before: &Shared<T>,
    after: &Shared<T>,
    key: impl Fn(&T) -> K,
) -> Entries<T, K> {
    let (before, after) = before.apart(after);
    let mut known: HashMap<K, &T> = before.iter().map(|&entry| (key(entry), entry)).collect();
    let set = after.into_iter().filter(|entry| known.remove(&key(entry)) != Some(*entry));
    let set = set.cloned().collect();
    // In the catalog's order: the same change has the same text every time.
    let gone = before.iter().map(|&entry| key(entry)).filter(|key| known.contains_key(key)).collect();
    Entries { set, gone }
}

fn apply_to<T: Clone + Serialize + Keyed, K>(
    list: &mut Shared<T>,
    change: Entries<T, K>,
    key: impl Fn(&K) -> Key,
    key_of: impl Fn(&T) -> K,
) {
    for gone in &change.gone {
        while list.remove(&key(gone)) {}
    }
    for entry in change.set {
        let key = key(&key_of(&entry));
        if list.change(&key, |known| *known = entry.clone()).is_none() {
            list.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::reader::LsnRange;
    use crate::log::{Lsn, SegmentSeq};
    use crate::volume::catalog::SessionMember;
    use crate::volume::info::ImageParent;

    crate::document::numbers!(
        the_document_has_this_version,
        CHANGE_VERSION => "| change of the catalog | `\"version\"` in JSON | {} |",
    );

    #[test]
    fn the_document_has_these_keys() {
        let snapshot = CatalogSnapshot { name: Arc::from("s"), lsn: 1, time_ns: 1 };
        let parent = ImageParent { image: 1, lsn: 300 };
        let image = CatalogImage {
            id: 1,
            parent: None,
            born_lsn: 0,
            hydrated_lsn: None,
            uncertain_below: 0,
            hydrating: false,
            resident: None,
            begun_blocks: None,
        };
        let change = CatalogChange {
            version: CHANGE_VERSION,
            rest: Some(Box::new(Catalog::default())),
            volumes: Entries { set: vec![volume(1, 1)], gone: vec![2] },
            images: Entries { set: vec![image], gone: vec![2] },
            gone_images: Entries {
                set: vec![GoneImage { id: 3, parent, born_lsn: 1, gone_lsn: 2 }],
                gone: vec![2],
            },
            snapshots: Entries { set: vec![snapshot], gone: vec![Arc::from("t")] },
            sessions: Entries { set: vec![session(1, 1)], gone: vec![Uuid::nil()] },
            deleted_synchs: Entries { set: vec![1], gone: vec![2] },
            groups: Entries { set: vec![group(1, 1)], gone: vec![Uuid::nil()] },
        };
        crate::document::check_keys("### Change", "| key |", &change);
        let value = serde_json::to_value(&change).expect("plain data");
        let keys: Vec<&String> = value["volumes"].as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["set", "gone"]);
        crate::document::check_says(r#"`{"set":[volume],"gone":[image id]}`"#);
    }

    fn session(number: u32, at: u64) -> CatalogSession {
        let clone = Uuid::from_u128(u128::from(number));
        let member = SessionMember { clone, source: Uuid::nil(), name: "v".to_owned() };
        let (name, members, verdicts) = (format!("t{number}"), vec![member], Vec::new());
        CatalogSession {
            name,
            made_ns: 1,
            members,
            group: None,
            at,
            time_ns: 1,
            oldest: at,
            newest: at,
            verdicts,
            may_be_written: false,
        }
    }

    fn group(number: u32, volume: u32) -> CatalogGroup {
        let uuid = |number: u32| Uuid::from_u128(u128::from(number));
        let (name, volumes) = (format!("g{number}"), vec![uuid(volume)]);
        CatalogGroup { name, uuid: uuid(number), created_ns: 1, volumes }
    }

    fn volume(image: u32, size_blocks: u64) -> CatalogVolume {
        CatalogVolume {
            name: format!("v{image}"),
            uuid: Uuid::from_u128(u128::from(image)),
            size_blocks,
            read_only: false,
            image,
            created_ns: 7,
            thin: false,
            origin: None,
        }
    }

    fn image(id: u32, uncertain_below: u64) -> CatalogImage {
        let parent = (id > 3).then_some(ImageParent { image: id - 1, lsn: 5 });
        CatalogImage {
            id,
            parent,
            born_lsn: 1,
            hydrated_lsn: None,
            hydrating: false,
            uncertain_below,
            resident: None,
            begun_blocks: None,
        }
    }

    /// Changes a catalog as one of the pool's changes does.
    fn edit(catalog: &mut Catalog, kind: u8, number: u32) {
        match kind % 13 {
            0 => {
                let id = catalog.take_image_id(u32::MAX).expect("there are enough");
                catalog.add_volume(volume(id, 10));
                catalog.add_image(image(id, 0));
            }
            1 => {
                catalog.lists().volumes.retain(|volume| volume.image % 5 != number % 5);
                catalog.prune_images(Lsn(9), Lsn::MAX, |_| Lsn(0));
            }
            2 => {
                let first = catalog.volumes.iter().next().map(|volume| volume.name.clone());
                if let Some(name) = first {
                    catalog.change_volume(&name, |volume| volume.size_blocks += 1);
                }
            }
            3 => catalog.add_snapshot(&CatalogSnapshot {
                name: Arc::from(format!("s{}", number % 300)),
                lsn: u64::from(number),
                time_ns: 5,
            }),
            4 => {
                catalog.remove_snapshot(&format!("s{}", number % 300));
            }
            7 => {
                let session = session(number % 40, u64::from(number));
                let key = session.key();
                let Lists { sessions, .. } = catalog.lists();
                if sessions.change(&Key::Uuid(key), |known| *known = session.clone()).is_none() {
                    sessions.push(session);
                }
            }
            8 => catalog.lists().sessions.retain(|known| known.at % 3 != u64::from(number % 3)),
            9 if catalog.group(&format!("g{}", number % 9)).is_none() => {
                catalog.add_group(group(number % 9, number % 5));
            }
            9 | 10 => {
                let volume = Uuid::from_u128(u128::from(number));
                catalog.change_group(&format!("g{}", number % 9), |group| group.volumes.push(volume));
            }
            11 if number.is_multiple_of(2) => {
                catalog.remove_group(&format!("g{}", number % 9));
            }
            11 => catalog.leave_groups(Uuid::from_u128(u128::from(number % 5))),
            6 if number.is_multiple_of(3) => catalog.forget_deleted_synchs_if(|lsn| lsn % 2 != 0),
            6 if catalog.deleted_synchs.iter().all(|&lsn| lsn != u64::from(number)) => {
                catalog.add_deleted_synch(Lsn(u64::from(number)));
            }
            5 => catalog.add_gap(LsnRange { start: Lsn(u64::from(number)), end: Lsn(u64::from(number) + 3) }),
            _ => catalog.set_archived_below(SegmentSeq(u64::from(number))),
        }
    }

    proptest! {
        #[test]
        fn changes_one_after_the_other_make_the_same_catalog(
            edits in proptest::collection::vec((any::<u8>(), any::<u32>()), 1..80),
        ) {
            let mut catalog = Catalog::default();
            let mut replayed = Catalog::default();
            let mut changes = Vec::new();
            for (kind, number) in edits {
                let before = catalog.clone();
                edit(&mut catalog, kind, number);
                let change = CatalogChange::between(&before, &catalog);
                let read = CatalogChange::decode(&change.encode());
                prop_assert_eq!(read.as_ref(), Some(&change));
                change.clone().apply(&mut replayed);
                prop_assert_eq!(&replayed, &catalog);
                changes.push(change);
            }
            // A reader that starts with a catalog that already contains some of the changes.
            for change in changes {
                change.apply(&mut replayed);
            }
            // What is removed and added again, which no pool does with one key, is at another
            // place.
            for catalog in [&mut replayed, &mut catalog] {
                let Lists { sessions, deleted_synchs, groups, .. } = catalog.lists();
                let mut all: Vec<CatalogGroup> = groups.iter().cloned().collect();
                all.sort_by_key(|group| group.uuid);
                *groups = all.into_iter().collect();
                let mut all: Vec<CatalogSession> = sessions.iter().cloned().collect();
                all.sort_by_key(CatalogSession::key);
                *sessions = all.into_iter().collect();
                let mut all: Vec<u64> = deleted_synchs.iter().copied().collect();
                all.sort_unstable();
                *deleted_synchs = all.into_iter().collect();
            }
            prop_assert_eq!(replayed, catalog);
        }
    }

    #[test]
    fn what_is_gone_is_named_in_the_order_of_the_catalog() {
        let before: Shared<CatalogImage> = (1..=50).map(|id| image(id, 0)).collect();
        let after: Shared<CatalogImage> = (1..=50).filter(|id| id % 3 == 0).map(|id| image(id, 0)).collect();
        let change = entries(&before, &after, |image| image.id);
        let expected: Vec<u32> = (1..=50).filter(|id| id % 3 != 0).collect();
        assert!(change.gone == expected && change.set.is_empty(), "{:?}", change.gone);
    }

    #[test]
    fn a_change_is_as_short_as_what_changed() {
        let mut catalog = Catalog::default();
        for number in 0..2000 {
            edit(&mut catalog, 0, number);
            edit(&mut catalog, 3, number);
        }
        let before = catalog.clone();
        edit(&mut catalog, 3, 100);
        assert!(CatalogChange::between(&before, &catalog).encode().len() < 150);
        assert_eq!(CatalogChange::decode(b"{\"version\":2}"), None);
    }
}
