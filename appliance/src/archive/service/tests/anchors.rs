//! Tests of storing, reading and deleting the objects of anchors.

use super::*;
use crate::archive::anchor::{AnchorHead, AnchorId, AnchorName, AnchorPart, LastRecord, Leaves};
use crate::archive::service::anchors::read_anchor;

fn id() -> AnchorId {
    AnchorId { pool: Uuid::from_u128(0x77), epoch: 2, image: 1, lsn: Lsn(5000), claim: ClaimId(3) }
}

fn leaves(lsn: u64) -> Leaves {
    let mut leaves = Leaves::default();
    leaves.push(4, &[lsn << 16 | 9; 512]);
    leaves
}

fn job(piece: AnchorPiece) -> AnchorJob {
    AnchorJob { token: 1, id: id(), piece }
}

#[test]
fn what_is_stored_is_read_and_deleted() {
    let root = tempfile::tempdir().unwrap();
    let store = faulty(root.path());
    for verify in [VerifyPolicy::Stat, VerifyPolicy::Tail, VerifyPolicy::Digest] {
        let options = options(verify);
        // An earlier try has left another one.
        for lsn in [7, 8] {
            store_anchor(&job(AnchorPiece::Part(0, Arc::new(leaves(lsn)))), &*store, &options).unwrap();
        }
        let part = AnchorPiece::Part(0, Arc::new(leaves(9)));
        let stored = store_anchor(&job(part), &*store, &options).unwrap();
        let head = AnchorHead {
            record: LastRecord { lsn: Lsn(4999), time_ns: 1, epoch: 2 },
            size_blocks: 9999,
            mapped_blocks: 512,
            parts: vec![AnchorPart { first_leaf: 4, leaves: 1, bytes: stored.bytes, digest: stored.digest }],
        };
        store_anchor(&job(AnchorPiece::Head(Arc::new(head.clone()))), &*store, &options).unwrap();
        let read = |read| read_anchor(&*store, &id(), read, &options);
        assert!(matches!(read(AnchorRead::Head(1)).unwrap(), AnchorContent::Head(found) if found == head));
        let part = read(AnchorRead::Part(0, stored)).unwrap();
        assert!(matches!(part, AnchorContent::Leaves(found) if found == leaves(9)));
        let names = [AnchorName::Head(id(), 1), AnchorName::Part(id(), 0), AnchorName::Part(id(), 1)];
        assert_eq!(delete_anchors(&*store, &names, &options).unwrap(), 2);
        assert!(matches!(read(AnchorRead::Head(1)), Err(ArchiveError::Store { retry: false, .. })));
        assert_empty(&*store);
    }
}

#[test]
fn a_store_that_changes_or_refuses_it_is_found_out() {
    let root = tempfile::tempdir().unwrap();
    let store = faulty(root.path());
    let options = options(VerifyPolicy::Digest);
    let part = || job(AnchorPiece::Part(0, Arc::new(leaves(7))));
    store.add(Call::Write, When::PerMille(1000), Fault::WrongByte);
    let error = store_anchor(&part(), &*store, &options).unwrap_err();
    assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
    store.heal();
    store.add(Call::Commit, When::PerMille(1000), Fault::Error(OFFLINE));
    let error = store_anchor(&part(), &*store, &options).unwrap_err();
    assert!(matches!(error, ArchiveError::Store { retry: true, .. }), "{error}");
    store.heal();
    let stored = store_anchor(&part(), &*store, &options).unwrap();
    let with_bytes = |bytes| StoredAnchor { bytes, ..stored };
    let long = read_anchor(&*store, &id(), AnchorRead::Part(0, with_bytes(stored.bytes + 1)), &options);
    assert!(matches!(long, Err(ArchiveError::Damaged { .. })), "{long:?}");
    let short = read_anchor(&*store, &id(), AnchorRead::Part(0, with_bytes(stored.bytes - 1)), &options);
    assert!(matches!(short, Err(ArchiveError::Damaged { .. })), "{short:?}");
    // A whole part of an earlier try, which has right checksums.
    store_anchor(&job(AnchorPiece::Part(0, Arc::new(leaves(8)))), &*store, &options).unwrap();
    let other = read_anchor(&*store, &id(), AnchorRead::Part(0, stored), &options);
    assert!(matches!(other, Err(ArchiveError::Damaged { .. })), "{other:?}");
}
