//! Tests of competing owners, on every kind of store, and of the rules about which objects count.

use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::archive::object::{ClaimId, ObjectId};
use crate::archive::store::faulty::{Call, Fault, FaultyStore, When};
use crate::archive::store::{Name, Reason, Store, StoreError, StoreErrorKind};
use crate::log::{Lsn, SegmentSeq};
use crate::serve::open_store;

const POOL: Uuid = Uuid::from_u128(0x77);

fn object(claim: ClaimId, from: u64, to: u64) -> ObjectId {
    let (from_lsn, to_lsn) = (Lsn(from), Lsn(to));
    ObjectId { pool: POOL, epoch: 1, sequence: SegmentSeq(from / 256), from_lsn, to_lsn, whole: false, claim }
}

fn put(store: &dyn Store, id: &ObjectId) -> Result<(), StoreError> {
    store.put(&id.name().unwrap(), 4, &mut &b"abcd"[..]).map(|_| ())
}

fn delete(store: &dyn Store, id: &ObjectId) -> Result<(), StoreError> {
    store.delete(&id.name().unwrap())
}

fn kind(result: Result<(), StoreError>) -> StoreErrorKind {
    result.expect_err("must fail").kind
}

fn claimant(claim: u64, next_claim: u64, head: u64, archived: u64) -> Claimant {
    Claimant {
        pool: POOL,
        history: None,
        claim: ClaimId(claim),
        next_claim: ClaimId(next_claim),
        head_lsn: Lsn(head),
        archived_lsn: Lsn(archived),
    }
}

fn there(store: &dyn Store) -> Vec<ObjectId> {
    let page = store.list(&crate::archive::object::pool_prefix(POOL), None, 1000).unwrap();
    page.objects.iter().filter_map(|object| ObjectId::parse(object.name.as_str()).ok()).collect()
}

/// A pool that owns its archive: its claim, and its view of the store.
struct Owner {
    claim: ClaimId,
    store: OwnedStore,
}

/// What a pool takes over, and its objects.
fn settle(
    store: &Arc<dyn Store>,
    claimant: &Claimant,
    chain: &Chain,
    fork: bool,
) -> Result<(Inheritance, Vec<ObjectId>), Conflict> {
    let settled = Inheritance::settle(claimant, chain, fork, |lineage| {
        let known: Vec<ObjectId> = there(&**store).into_iter().filter(|id| lineage.counts(id)).collect();
        let newest_lsn = known.iter().map(|id| id.to_lsn).max();
        Ok::<_, std::convert::Infallible>((known, newest_lsn))
    });
    let Ok(settled) = settled;
    settled.map(|Settled { inheritance, learned, .. }| (inheritance, learned))
}

/// The steps of a start, without the pool's log.
fn start(store: &Arc<dyn Store>, claimant: &Claimant) -> Result<Owner, Conflict> {
    let chain = read_chain(&**store, POOL).unwrap();
    let (inheritance, known) = settle(store, claimant, &chain, false)?;
    let claim = ClaimId::random();
    let generation = inheritance.generation(POOL, claim, claimant.head_lsn, known.into_iter());
    let owned = OwnedStore::new(Arc::clone(store));
    owned.claim(generation);
    owned.ensure_owner("claim").unwrap();
    Ok(Owner { claim, store: owned })
}

fn recover(store: &Arc<dyn Store>, history: Option<HistoryId>, cut: u64) -> Owner {
    let chain = read_chain(&**store, POOL).unwrap();
    let recovered = Recovered::find(&chain, history).expect("it is there");
    let known: Vec<ObjectId> =
        there(&**store).into_iter().filter(|id| recovered.lineage.counts(id)).collect();
    let claim = ClaimId::random();
    let inheritance = Inheritance::of_recovery(&chain, &recovered, Lsn(cut), HistoryId::random());
    let generation = inheritance.generation(POOL, claim, Lsn(cut), known.into_iter());
    let owned = OwnedStore::new(Arc::clone(store));
    owned.claim(generation);
    owned.ensure_owner("claim").unwrap();
    Owner { claim, store: owned }
}

/// Two owners alive, one paused and resumed, a copy, a fork: on any kind of store.
pub(in crate::archive) fn contest(store: &Arc<dyn Store>) {
    let legacy = object(ClaimId::NONE, 0, 50);
    put(&**store, &legacy).unwrap();
    let first = start(store, &claimant(0, 0, 60, 0)).expect("nobody owns it yet");
    let of_first = [object(first.claim, 50, 100), object(first.claim, 100, 200)];
    for id in &of_first {
        put(&first.store, id).unwrap();
    }

    // A copy of the pool that is older than the archive, and one from before claims existed.
    let older = start(store, &claimant(first.claim.0, 0, 150, 0)).err();
    assert_eq!(older, Some(Conflict::Ahead { archive_lsn: Lsn(200) }));
    assert!(matches!(start(store, &claimant(0, 0, 500, 0)), Err(Conflict::Taken(_))));

    // The primary is lost, or only believed to be lost: it is paused. Its last object is left out.
    let second = recover(store, None, 100);
    let after = object(second.claim, 100, 180);
    put(&second.store, &after).unwrap();

    // It resumes.
    let late = object(first.claim, 200, 256);
    assert_eq!(kind(put(&first.store, &late)), StoreErrorKind::Overtaken);
    assert_eq!(kind(delete(&first.store, &of_first[0])), StoreErrorKind::Overtaken);
    assert_eq!(first.store.standing(), Standing::Overtaken);
    assert!(there(&**store).contains(&of_first[0]), "nothing was deleted");
    // A put that was under way when it was overtaken.
    put(&**store, &late).unwrap();
    let taken = start(store, &claimant(first.claim.0, 0, 256, 0)).err();
    assert!(matches!(taken, Some(Conflict::Taken(by)) if by.claim == second.claim));

    // What counts for the second: everything up to its cut, and its own objects.
    let newest = read_chain(&**store, POOL).unwrap().newest.expect("there is one");
    let counting: Vec<bool> = [legacy, of_first[0], of_first[1], late, after]
        .iter()
        .map(|id| newest.lineage().counts(id))
        .collect();
    assert_eq!(counting, [true, true, false, false, true]);
    let aside =
        newest.beside.iter().find(|beside| beside.lineage().end_of(first.claim).is_some()).expect("it stays");
    assert!(aside.lineage().counts(&of_first[1]));

    // The old owner continues as a separate history.
    let chain = read_chain(&**store, POOL).unwrap();
    let claim = ClaimId::random();
    let fork = Inheritance::of_fork(&claimant(first.claim.0, 0, 256, 100), &chain);
    assert!(fork.lineage.counts(&of_first[0]) && !fork.lineage.counts(&of_first[1]));
    assert!(!fork.lineage.counts(&after));
    let third = OwnedStore::new(Arc::clone(store));
    third.claim(fork.generation(POOL, claim, Lsn(256), there(&**store).into_iter()));
    put(&third, &object(claim, 100, 256)).unwrap();
    assert_eq!(kind(delete(&second.store, &after)), StoreErrorKind::Overtaken);
    // And the other history stays complete.
    let chain = read_chain(&**store, POOL).unwrap();
    let second_history = Recovered::find(&chain, Some(newest.history)).expect("it is beside it");
    assert!(
        second_history.lineage.counts(&after) && !second_history.lineage.counts(&object(claim, 100, 256))
    );

    // Deletes are announced, and only then executed.
    third.announce_deletes(&[legacy.name().unwrap()]).unwrap();
    let chain = read_chain(&**store, POOL).unwrap();
    assert_eq!(chain.newest.unwrap().tombstones, [legacy.name().unwrap().to_string()]);
    assert!(there(&**store).contains(&legacy));
    third.finish_deletes();
    assert!(!there(&**store).contains(&legacy));
    third.set_rules("keep all for 7 days").unwrap();
    let newest = read_chain(&**store, POOL).unwrap().newest.unwrap();
    assert_eq!((newest.rules.as_deref(), newest.tombstones.len()), (Some("keep all for 7 days"), 0));
}

#[test]
fn of_two_owners_one_is_overtaken_in_every_kind_of_store() {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["dir:{}/a", "device:{}/b,size=8MiB", "tape:{}/c,cartridges=2,size=16MiB"] {
        let spec = kind.replace("{}", &folder.path().display().to_string());
        let opened = open_store(&spec.parse().unwrap()).unwrap();
        contest(&opened.store);
        drop(opened);
        // The same after another open.
        let opened = open_store(&spec.parse().unwrap()).unwrap();
        let chain = read_chain(&*opened.store, POOL).unwrap();
        assert_eq!(chain.newest.unwrap().rules.as_deref(), Some("keep all for 7 days"), "{spec}");
    }
}

fn directory() -> (tempfile::TempDir, Arc<dyn Store>) {
    let folder = tempfile::tempdir().unwrap();
    let spec = format!("dir:{}", folder.path().display());
    let store = open_store(&spec.parse().unwrap()).unwrap().store;
    (folder, store)
}

#[test]
fn an_owner_that_wakes_up_long_after_takes_no_free_number() {
    let (_folder, store) = directory();
    let first = start(&store, &claimant(0, 0, 0, 0)).expect("nobody owns it yet");
    let mut last = recover(&store, None, 0);
    // Ten generations later its next number is free again.
    for index in 0..10 {
        let id = object(last.claim, index, index + 1);
        put(&last.store, &id).unwrap();
        delete(&last.store, &id).unwrap();
        last = recover(&store, None, 0);
    }
    let next = first.store.generation().unwrap().with_tombstones(&std::collections::BTreeSet::new());
    assert_eq!(store.stat(&next.name()).unwrap_err().kind, StoreErrorKind::NotFound, "it is free");
    assert_eq!(kind(put(&first.store, &object(first.claim, 0, 9))), StoreErrorKind::Overtaken);
    // Also if it had not noticed before.
    assert!(!super::chain::make(&*store, &next).unwrap(), "it looks behind it");
    assert_eq!(store.stat(&next.name()).unwrap_err().kind, StoreErrorKind::NotFound, "and leaves nothing");
    put(&last.store, &object(last.claim, 0, 9)).expect("the owner goes on");
}

#[test]
fn a_copy_from_the_time_of_a_claim_without_objects_finds_its_history() {
    let (_folder, store) = directory();
    let first = start(&store, &claimant(0, 0, 0, 0)).expect("nobody owns it yet");
    let archived = object(first.claim, 0, 100);
    put(&first.store, &archived).unwrap();
    // A recovery stores no objects itself; then its pool starts, and starts again.
    let recovered = recover(&store, None, 100);
    let next = start(&store, &claimant(recovered.claim.0, 0, 120, 100)).expect("it is the owner");
    start(&store, &claimant(next.claim.0, 0, 120, 100)).expect("it is the owner");
    let chain = read_chain(&*store, POOL).unwrap();
    for claim in [recovered.claim, next.claim] {
        let fork = Inheritance::of_fork(&claimant(claim.0, 0, 120, 100), &chain);
        assert!(fork.lineage.counts(&archived), "the copy of claim {claim} has lost what is archived");
    }
    let history = chain.newest.as_ref().map(|newest| newest.history);
    let by_history = Claimant { history, ..claimant(77, 0, 120, 100) };
    assert!(Inheritance::of_fork(&by_history, &chain).lineage.counts(&archived));
}

#[test]
fn an_answer_that_is_lost_costs_nobody_the_archive() {
    let (_folder, store) = directory();
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&store), 1));
    let owner = start(&(Arc::clone(&faulty) as Arc<dyn Store>), &claimant(0, 0, 0, 0)).unwrap();
    let id = object(owner.claim, 0, 9);
    put(&owner.store, &id).unwrap();
    // The generation is made, but the answer is lost.
    let lost = StoreErrorKind::Unavailable(Reason::Busy("a test"));
    faulty.add(Call::Commit, When::Always, Fault::ErrorAfter(lost));
    assert!(owner.store.delete(&id.name().unwrap()).unwrap_err().is_retryable());
    faulty.heal();
    delete(&owner.store, &id).expect("the same generation is found");
    assert!(there(&*store).is_empty());
    assert_eq!(owner.store.standing(), Standing::Owner);
}

/// The numbers of the existing generations.
fn generations(store: &dyn Store) -> Vec<u64> {
    let page = store.list(&Generation::prefix(POOL), None, 1000).unwrap();
    let numbers = page.objects.iter().map(|object| Generation::number_of(POOL, &object.name));
    numbers.map(|number| number.expect("nothing else is there")).collect()
}

/// An owner that makes a generation and loses the answer: the generation exists once, its owner is
/// the owner, and no other is. `lose` makes answers to puts get lost, `blind` also prevents looking
/// up what was put, `heal` ends both.
pub(in crate::archive) fn lose_answers(
    store: &Arc<dyn Store>,
    lose: &dyn Fn(),
    blind: &dyn Fn(),
    heal: &dyn Fn(),
) {
    lose();
    let first = start(store, &claimant(0, 0, 60, 0)).expect("nobody owns it yet");
    assert_eq!((first.store.standing(), generations(&**store)), (Standing::Owner, vec![1]));
    let id = object(first.claim, 50, 100);
    put(&first.store, &id).unwrap();
    heal();
    assert_eq!(there(&**store), [id]);
    // It is made, but cannot be looked up.
    blind();
    assert!(delete(&first.store, &id).unwrap_err().is_retryable());
    heal();
    assert_eq!(generations(&**store), [1, 2]);
    delete(&first.store, &id).expect("its own generation is found");
    assert_eq!((first.store.standing(), generations(&**store)), (Standing::Owner, vec![1, 2]));
    // Another owner makes the next one: the loser does not take it for its own.
    let second = recover(store, None, 60);
    assert_eq!(generations(&**store), [1, 2, 3]);
    let late = first.store.generation().unwrap().with_tombstones(&std::collections::BTreeSet::new());
    assert_eq!(late.name(), second.store.generation().unwrap().name());
    lose();
    assert!(!super::chain::make(&**store, &late).unwrap());
    assert_eq!(kind(put(&first.store, &object(first.claim, 60, 70))), StoreErrorKind::Overtaken);
    put(&second.store, &object(second.claim, 60, 70)).expect("the owner goes on");
    heal();
    assert_eq!(generations(&**store), [1, 2, 3]);
}

/// One object that the store does not delete: the others are deleted, at once and at the next
/// start.
pub(in crate::archive) fn keep_one(store: &Arc<dyn Store>, lock: &dyn Fn(&Name)) {
    let owner = start(store, &claimant(0, 0, 60, 0)).expect("nobody owns it yet");
    let ids = [object(owner.claim, 60, 70), object(owner.claim, 70, 80), object(owner.claim, 80, 90)];
    for id in &ids {
        put(&owner.store, id).unwrap();
    }
    let names: Vec<Name> = ids.iter().map(|id| id.name().unwrap()).collect();
    lock(&names[0]);
    owner.store.announce_deletes(&names).unwrap();
    let refused = owner.store.delete(&names[0]).unwrap_err();
    assert!(matches!(refused.kind, StoreErrorKind::Refused(_)), "{refused}");
    assert_eq!(there(&**store).len(), 3);
    owner.store.finish_deletes();
    assert_eq!(there(&**store), ids[..1]);
    put(&owner.store, &object(owner.claim, 90, 99)).expect("it goes on");
}

#[test]
fn who_may_not_write_reads_only() {
    let (_folder, store) = directory();
    let reader = OwnedStore::new(Arc::clone(&store));
    let id = object(ClaimId(5), 0, 9);
    assert!(matches!(kind(put(&reader, &id)), StoreErrorKind::Refused(_)));
    put(&*store, &id).unwrap();
    reader.read_only("a test");
    assert!(matches!(kind(put(&reader, &object(ClaimId(5), 9, 20))), StoreErrorKind::Refused("a test")));
    assert!(matches!(kind(delete(&reader, &id)), StoreErrorKind::Refused("a test")));
    assert!(matches!(kind(reader.make_durable(&id.name().unwrap())), StoreErrorKind::Refused("a test")));
    assert_eq!(reader.stat(&id.name().unwrap()).unwrap().len_bytes, 4);
    // Objects that are not of a pool may be written by anybody.
    reader.put(&Name::new("probe/1").unwrap(), 1, &mut &b"x"[..]).unwrap();
    reader.delete(&Name::new("probe/1").unwrap()).unwrap();
}

#[test]
fn a_damaged_record_is_never_taken_for_none() {
    let (folder, store) = directory();
    let owner = start(&store, &claimant(0, 0, 0, 0)).unwrap();
    let generation = owner.store.generation().unwrap();
    let path = folder.path().join("objects").join(generation.name().as_str());
    let text = std::fs::read(&path).unwrap();
    // One intact copy is enough.
    let mut damaged = text.clone();
    damaged[20] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let chain = read_chain(&*store, POOL).unwrap();
    assert_eq!(chain.certain(&*store).unwrap(), Some(&generation));
    let half = text.len() / 2;
    damaged[half + 20] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let chain = read_chain(&*store, POOL).unwrap();
    assert_eq!((chain.newest.as_ref(), chain.number, chain.damaged.len()), (None, 1, 1));
    let told = chain.certain(&*store).unwrap_err().to_string();
    assert!(told.contains(generation.name().as_str()), "{told}");
    std::fs::write(&path, b"").unwrap();
    assert!(read_chain(&*store, POOL).unwrap().certain(&*store).is_err());
}

#[test]
fn one_damaged_bit_anywhere_changes_nothing() {
    let record = Generation::first(POOL, ClaimId(9), HistoryId(Uuid::from_u128(3)), Vec::new());
    let text = record.encode();
    for bit in 0..text.len() * 8 {
        let mut damaged = text.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Generation::decode(&damaged, POOL, 1).as_ref(), Ok(&record), "bit {bit}");
    }
}

proptest! {
    #[test]
    fn a_record_reads_back_and_no_text_breaks_the_reader(
        claims in prop::collection::vec((1_u64.., 0_u64..1000), 0..5),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let acknowledged = claims.iter().map(|&(claim, end)| Acknowledged {
            claim: ClaimId(claim),
            end_lsn: Lsn(end),
        });
        let mut record =
            Generation::first(POOL, ClaimId(9), HistoryId(Uuid::from_u128(3)), acknowledged.collect());
        record.tombstones = vec!["v1/x".to_owned()];
        record.beside = vec![record.aside()];
        let mut text = record.encode();
        prop_assert_eq!(Generation::decode(&text, POOL, 1), Ok(record.clone()));
        prop_assert_eq!(Generation::decode(&text, POOL, 2), Err(RecordDamage::Misnamed));
        let at = at.index(text.len());
        text[at] ^= 1 << bit;
        prop_assert_eq!(Generation::decode(&text, POOL, 1), Ok(record));
        prop_assert!(Generation::decode(&noise, POOL, 1).is_err());
    }

    #[test]
    fn a_cut_lets_nothing_in(claims in prop::collection::vec((1_u64..4, 0_u64..100), 0..6), cut in 0_u64..100, to in 1_u64..100, claim in 0_u64..4) {
        let lineage = Lineage::new(claims.iter().map(|&(claim, end)| Acknowledged {
            claim: ClaimId(claim),
            end_lsn: Lsn(end),
        }));
        let id = object(ClaimId(claim), 0, to);
        let counts = lineage.clone().cut(Lsn(cut)).counts(&id);
        prop_assert_eq!(counts, lineage.counts(&id) && to <= cut);
        prop_assert!(lineage.with_open(ClaimId(claim)).counts(&id));
    }
}
