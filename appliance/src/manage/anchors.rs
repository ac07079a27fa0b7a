//! Checks one anchor: reads its head and all of its parts, with every check that the opening of a
//! point has.
//!
//! **Bounds:** one object in memory at a time.

use crate::archive::anchor::AnchorHead;
use crate::archive::service::{
    ArchiveError, StoredAnchor, WorkerOptions, read_anchor_head, read_anchor_part,
};
use crate::archive::store::Store;
use crate::volume::KnownAnchor;

/// The result of the check of an anchor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AnchorOutcome {
    Whole,
    /// An object of it is damaged or missing, as described.
    Useless(String),
    /// The store does not answer now.
    Failed(String),
    /// It was not read to its end.
    Stopped,
}

/// Reads an anchor. `goes_on` is called before each object, with its bytes; `false` ends it.
pub(super) fn check_anchor(
    store: &dyn Store,
    anchor: &KnownAnchor,
    goes_on: &mut dyn FnMut(u64) -> bool,
) -> AnchorOutcome {
    match read_whole(store, anchor, goes_on) {
        Ok(true) => AnchorOutcome::Whole,
        Ok(false) => AnchorOutcome::Stopped,
        Err(error) => match error {
            ArchiveError::Damaged { .. } | ArchiveError::Store { retry: false, .. } => {
                AnchorOutcome::Useless(describe(anchor, &error))
            }
            _ => AnchorOutcome::Failed(error.to_string()),
        },
    }
}

/// Describes an anchor of no use, whose error names the object.
pub(super) fn describe(anchor: &KnownAnchor, error: &dyn std::fmt::Display) -> String {
    let id = &anchor.id;
    format!("anchor of image {} at LSN {}: {error}; points open without it, only slower", id.image, id.lsn)
}

/// Returns whether it was read to its end.
fn read_whole(
    store: &dyn Store,
    anchor: &KnownAnchor,
    goes_on: &mut dyn FnMut(u64) -> bool,
) -> Result<bool, ArchiveError> {
    let options = WorkerOptions::default();
    if !goes_on(AnchorHead::bytes_of(anchor.parts) as u64) {
        return Ok(false);
    }
    let head = read_anchor_head(store, &anchor.id, anchor.parts, &options)?;
    for (number, part) in (0..).zip(&head.parts) {
        if !goes_on(u64::from(part.bytes)) {
            return Ok(false);
        }
        let listed = StoredAnchor { bytes: part.bytes, digest: part.digest };
        let leaves = read_anchor_part(store, &anchor.id, number, &listed, &options)?;
        head.check_part(number, &leaves).map_err(|damage| ArchiveError::Damaged {
            store: store.label().to_owned(),
            object: anchor
                .id
                .part_name(number)
                .map_or_else(|_| format!("part {number}"), |name| name.to_string()),
            reason: damage.to_string(),
        })?;
    }
    Ok(true)
}

#[cfg(test)]
pub(super) mod tests {
    //! Anchors in a store, and what is wrong with them; the tests of the jobs use them too.

    use std::sync::{Arc, Mutex};

    use uuid::Uuid;

    use super::super::error::ManageError;
    use super::super::learner::Learner;
    use super::*;
    use crate::archive::anchor::{AnchorId, AnchorPart, LastRecord, Leaves};
    use crate::archive::object::{ClaimId, ObjectId};
    use crate::archive::service::{AnchorJob, AnchorPiece, store_anchor};
    use crate::archive::store::Name;
    use crate::archive::store::faulty::{Call, Fault, FaultyStore, When};
    use crate::archive::store::{DirectoryOptions, DirectoryStore, Reason, StoreErrorKind};
    use crate::log::Lsn;

    /// The pool of all anchors here.
    pub(in crate::manage) const POOL: Uuid = Uuid::from_u128(0x77);

    /// A store in a folder.
    pub(in crate::manage) fn store_in(folder: &std::path::Path) -> Arc<dyn Store> {
        Arc::new(DirectoryStore::open(folder, DirectoryOptions::default()).expect("a store"))
    }

    /// Stores an anchor of two parts.
    pub(in crate::manage) fn put(store: &dyn Store, image: u32, lsn: u64) -> KnownAnchor {
        let id = AnchorId { pool: POOL, epoch: 2, image, lsn: Lsn(lsn), claim: ClaimId(3) };
        let options = WorkerOptions::default();
        let put = |piece| store_anchor(&AnchorJob { token: 1, id, piece }, store, &options).expect("stored");
        let (mut parts, mut bytes) = (Vec::new(), 0);
        for number in 0..2 {
            let (mut leaves, first_leaf) = (Leaves::default(), 4 + u64::from(number));
            leaves.push(first_leaf, &[(lsn - 1) << 16 | 9; 512]);
            let stored = put(AnchorPiece::Part(number, Arc::new(leaves)));
            bytes += u64::from(stored.bytes);
            parts.push(AnchorPart { first_leaf, leaves: 1, bytes: stored.bytes, digest: stored.digest });
        }
        let record = LastRecord { lsn: Lsn(lsn - 1), time_ns: 1, epoch: 2 };
        let head = AnchorHead { record, size_blocks: 9999, mapped_blocks: 1024, parts };
        bytes += u64::from(put(AnchorPiece::Head(Arc::new(head))).bytes);
        KnownAnchor { id, parts: 2, bytes }
    }

    /// The names of the objects of an anchor: the head first.
    pub(in crate::manage) fn names(anchor: &KnownAnchor) -> Vec<Name> {
        anchor.id.names(anchor.parts).expect("names")
    }

    /// Changes the bytes of an object; returns whether it is stored again.
    type Edit<'a> = &'a dyn Fn(&mut Vec<u8>) -> bool;

    /// Changes an object, or deletes it.
    pub(in crate::manage) fn change(store: &dyn Store, name: &Name, edit: impl Fn(&mut Vec<u8>) -> bool) {
        let mut bytes = vec![0; store.stat(name).expect("it is there").len_bytes as usize];
        store.get_range(name, 0, &mut bytes).expect("read");
        store.delete(name).expect("deleted");
        if edit(&mut bytes) {
            store.put(name, bytes.len() as u64, &mut &bytes[..]).expect("stored");
        }
    }

    /// A pool that knows anchors, and deletes some of them itself.
    #[derive(Clone, Default)]
    pub(in crate::manage) struct FakePool {
        pub(in crate::manage) known: Arc<Mutex<Vec<KnownAnchor>>>,
        pub(in crate::manage) told: Arc<Mutex<Vec<AnchorId>>>,
    }

    impl FakePool {
        pub(in crate::manage) fn of(known: &[KnownAnchor]) -> Self {
            FakePool { known: Arc::new(Mutex::new(known.to_vec())), told: Arc::default() }
        }

        pub(in crate::manage) fn told(&self) -> Vec<AnchorId> {
            self.told.lock().expect("no panic").clone()
        }
    }

    impl Learner for FakePool {
        fn learn(&self, _: &[ObjectId], _: &[ObjectId]) -> Result<(), ManageError> {
            Ok(())
        }

        fn anchors(&self) -> Result<Vec<KnownAnchor>, ManageError> {
            Ok(self.known.lock().expect("no panic").clone())
        }

        fn learn_useless_anchor(&self, id: &AnchorId) -> Result<bool, ManageError> {
            self.told.lock().expect("no panic").push(*id);
            let mut known = self.known.lock().expect("no panic");
            let before = known.len();
            known.retain(|anchor| anchor.id != *id);
            Ok(known.len() < before)
        }
    }

    #[test]
    fn every_object_of_an_anchor_is_read_and_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store_in(folder.path());
        let (anchor, other) = (put(&*store, 1, 5000), put(&*store, 1, 6000));
        let mut asked = Vec::new();
        let mut all = |bytes| {
            asked.push(bytes);
            true
        };
        assert_eq!(check_anchor(&*store, &anchor, &mut all), AnchorOutcome::Whole);
        assert_eq!((asked.len(), asked.iter().sum::<u64>()), (3, anchor.bytes));
        for at in 0..3 {
            let mut left = at;
            let mut some = |_| {
                left -= 1;
                left >= 0
            };
            assert_eq!(check_anchor(&*store, &anchor, &mut some), AnchorOutcome::Stopped);
        }
        let read = |name: &Name| {
            let mut bytes = vec![0; store.stat(name).expect("it is there").len_bytes as usize];
            store.get_range(name, 0, &mut bytes).expect("read");
            bytes
        };
        for (name, foreign) in names(&anchor).iter().zip(names(&other)) {
            let (whole, foreign) = (read(name), read(&foreign));
            let edits: [Edit<'_>; 5] = [
                &|bytes| {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    true
                },
                &|bytes| {
                    bytes.truncate(bytes.len() - 1);
                    true
                },
                &|bytes| {
                    bytes.clear();
                    true
                },
                &|bytes| {
                    bytes.clone_from(&foreign);
                    true
                },
                &|_| false,
            ];
            for (number, edit) in edits.iter().enumerate() {
                change(&*store, name, edit);
                let outcome = check_anchor(&*store, &anchor, &mut |_| true);
                let AnchorOutcome::Useless(words) = outcome else { panic!("{name}, {number}: {outcome:?}") };
                for part in ["anchor of image 1 at LSN 5000: ", name.as_str(), "only slower"] {
                    assert!(words.contains(part), "{part}: {words}");
                }
                drop(store.delete(name));
                store.put(name, whole.len() as u64, &mut &whole[..]).expect("stored");
            }
        }
        assert_eq!(check_anchor(&*store, &anchor, &mut |_| true), AnchorOutcome::Whole);
    }

    /// A store that does not answer says nothing about an anchor.
    #[test]
    fn an_anchor_in_a_store_that_is_away_is_not_damaged() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = store_in(folder.path());
        let anchor = put(&*inner, 1, 5000);
        let store = FaultyStore::new(inner, 5);
        store.add(
            Call::Get,
            When::PerMille(1000),
            Fault::Error(StoreErrorKind::Unavailable(Reason::Busy("a fault"))),
        );
        store.add(
            Call::Stat,
            When::PerMille(1000),
            Fault::Error(StoreErrorKind::Unavailable(Reason::Busy("a fault"))),
        );
        let outcome = check_anchor(&store, &anchor, &mut |_| true);
        assert!(matches!(outcome, AnchorOutcome::Failed(_)), "{outcome:?}");
        store.heal();
        assert_eq!(check_anchor(&store, &anchor, &mut |_| true), AnchorOutcome::Whole);
    }
}
