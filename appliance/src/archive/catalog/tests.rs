//! Tests: a cache may be lost, damaged or old. It returns what was recorded, or reports that it
//! must be rebuilt.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;
use crate::archive::object::ClaimId;
use crate::archive::object::{
    Compressor, FRAME_BYTES_MIN, LEVEL_DEFAULT, ObjectSpec, ObjectWriter, holes_of,
};
use crate::archive::store::{DirectoryOptions, DirectoryStore, Name, Store};
use crate::dma::BLOCK_BYTES;
use crate::log::checksum::crc32c;
use crate::log::format::{Entry, EventHead, EventKind, RecordLine, TrailerUnit};
use crate::log::types::{BlockNumber, ImageId, SegmentSeq};

const SEGMENT_BLOCKS: u64 = 256;
const POOL: Uuid = Uuid::from_u128(0x77);
const LABEL: &str = "directory /x";

fn id(sequence: u64, from: u64, to: u64, whole: bool) -> ObjectId {
    let first = sequence * SEGMENT_BLOCKS;
    ObjectId {
        pool: POOL,
        epoch: (sequence / 3) as u32,
        sequence: SegmentSeq(sequence),
        from_lsn: Lsn(first + from),
        to_lsn: Lsn(first + to),
        whole,
        claim: ClaimId::NONE,
    }
}

fn open(path: &Path) -> (ArchiveCatalog, CatalogState) {
    ArchiveCatalog::open(path, POOL, LABEL).unwrap()
}

fn go_on<T>(_: T) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The text of a segment's synch: two blocks long.
fn text(sequence: u64) -> Vec<u8> {
    format!("{{\"id\":{sequence},\"label\":\"{}\"}}", "x".repeat(5000)).into_bytes()
}

/// Stores a segment's object: a record with a write, one with a synch event of two chunks, one with
/// another write. `damaged` lists the blocks of the text to damage.
fn put(store: &dyn Store, sequence: u64, damaged: &[u64]) -> ObjectId {
    let id = id(sequence, 0, SEGMENT_BLOCKS, true);
    let first = sequence * SEGMENT_BLOCKS;
    let mut content = vec![0; (SEGMENT_BLOCKS as usize) * BLOCK_BYTES];
    let mut units: Vec<TrailerUnit> = Vec::new();
    let line = |units: &mut Vec<TrailerUnit>, lsn, data, entries: &[Entry]| {
        let line = RecordLine::new(Lsn(first + lsn), sequence * 100 + lsn, entries.len() as u8, data, 1);
        units.push(line.as_bytes().try_into().unwrap());
        units.extend(entries.iter().map(|entry| -> TrailerUnit { entry.as_bytes().try_into().unwrap() }));
    };
    let write = Entry::write(ImageId(1), BlockNumber(5), 0, Lsn(0), true);
    line(&mut units, 1, 1, &[write]);
    let text = text(sequence);
    let mut entries = vec![write];
    for copy in 0..EventHead::COPIES {
        for (chunk, part) in text.chunks(BLOCK_BYTES).enumerate() {
            let mut block = [0; BLOCK_BYTES];
            block[..part.len()].copy_from_slice(part);
            let at = 4 + entries.len();
            let last = copy == 1 && chunk == 1;
            let head = EventHead::encode(EventKind::Synch, copy, chunk as u32);
            entries.push(Entry::event(head, crc32c(&block), text.len() as u64, last));
            if damaged.contains(&(at as u64 - 5)) {
                block[7] ^= 1;
            }
            content[at * BLOCK_BYTES..][..BLOCK_BYTES].copy_from_slice(&block);
        }
    }
    line(&mut units, 3, 5, &entries);
    line(&mut units, 9, 1, &[write]);
    let spec = ObjectSpec {
        id,
        segment_blocks: SEGMENT_BLOCKS,
        opened_ns: sequence,
        sealed_ns: sequence + 1,
        frame_bytes: FRAME_BYTES_MIN,
    };
    let mut compressor = Compressor::new(LEVEL_DEFAULT).unwrap();
    let mut object = Vec::new();
    let holes = holes_of(&id, SEGMENT_BLOCKS, &units).unwrap();
    let mut writer = ObjectWriter::begin(&mut compressor, spec, &units, &holes, &mut object).unwrap();
    writer.push(&content).unwrap();
    writer.finish(&[]).unwrap();
    store.put(&id.name().unwrap(), object.len() as u64, &mut &object[..]).unwrap();
    id
}

fn rows(catalog: &ArchiveCatalog) -> Vec<ObjectRow> {
    let mut rows = Vec::new();
    catalog.for_each_object(|row| rows.push(row)).unwrap();
    rows
}

#[test]
fn a_lost_file_is_rebuilt_from_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(&directory.path().join("store"), DirectoryOptions::default()).unwrap();
    let path = directory.path().join("catalog");
    let damage: [&[u64]; 5] = [&[], &[0], &[1, 2], &[0, 2], &[]];
    let ids: Vec<ObjectId> =
        (0..5).map(|sequence| put(&store, sequence, damage[sequence as usize])).collect();
    let foreign = format!("{}readme", pool_prefix_of(POOL));
    store.put(&Name::new(&foreign).unwrap(), 1, &mut &b"x"[..]).unwrap();
    put_of_other_pool(&store);

    let (mut catalog, state) = open(&path);
    assert_eq!(state, CatalogState { must_rebuild: true, replaced: None });
    let mut seen = Vec::new();
    let report = catalog
        .rebuild(&store, &mut |now| {
            seen.push(now);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((report.objects, report.foreign, report.gone), (5, 1, 0));
    assert_eq!(seen, [RebuildProgress { objects: 5, newest: ids[4] }]);
    assert_eq!(catalog.missing_details(None, 3).unwrap(), ids[..3]);
    assert_eq!(catalog.missing_details(Some(&ids[2]), 9).unwrap(), ids[3..]);
    let report = catalog.fill_details(&store, &mut go_on).unwrap();
    assert_eq!((report.filled, report.synchs, report.synchs_without_text, report.failed), (5, 5, 1, 0));
    let details = |sequence: u64| ObjectDetails {
        opened_ns: sequence,
        sealed_ns: sequence + 1,
        records_ns: Some((sequence * 100 + 1, sequence * 100 + 9)),
    };
    let first = rows(&catalog);
    assert_eq!(first.iter().map(|row| (row.id, row.details)).collect::<Vec<_>>(), {
        (0..5).map(|sequence| (ids[sequence as usize], Some(details(sequence)))).collect::<Vec<_>>()
    });
    let synchs = catalog.synchs().unwrap();
    for (sequence, synch) in (0..5).zip(&synchs) {
        assert_eq!((synch.lsn.0, synch.time_ns), (sequence * SEGMENT_BLOCKS + 8, sequence * 100 + 3));
        // One intact copy of each chunk is enough; in segment 3 both copies of the first chunk are
        // damaged.
        assert_eq!(synch.text, if sequence == 3 { Vec::new() } else { text(sequence) });
    }
    catalog.close().unwrap();

    let (catalog, state) = open(&path);
    assert_eq!(state, CatalogState { must_rebuild: false, replaced: None });
    assert_eq!((rows(&catalog), catalog.synchs().unwrap()), (first.clone(), synchs.clone()));
    drop(catalog);
    std::fs::remove_file(&path).unwrap();
    let (mut catalog, state) = open(&path);
    assert!(state.must_rebuild);
    catalog.rebuild(&store, &mut go_on).unwrap();
    catalog.fill_details(&store, &mut go_on).unwrap();
    assert_eq!((rows(&catalog), catalog.synchs().unwrap()), (first.clone(), synchs));

    // Objects are deleted and added in the meantime; the known details of the others are kept.
    store.delete(&ids[1].name().unwrap()).unwrap();
    let new = put(&store, 7, &[]);
    let report = catalog.rebuild(&store, &mut go_on).unwrap();
    assert_eq!((report.objects, report.gone), (5, 1));
    assert_eq!(catalog.missing_details(None, 9).unwrap(), [new]);
    assert_eq!(catalog.object(&ids[2]).unwrap(), Some(first[2]));
    assert_eq!(catalog.object(&ids[1]).unwrap(), None);
}

fn pool_prefix_of(pool: Uuid) -> String {
    crate::archive::object::pool_prefix(pool)
}

fn put_of_other_pool(store: &dyn Store) {
    let other = ObjectId { pool: Uuid::from_u128(0x78), ..id(1, 0, 9, false) };
    store.put(&other.name().unwrap(), 1, &mut &b"x"[..]).unwrap();
}

#[test]
fn damaged_objects_are_reported_and_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(&directory.path().join("store"), DirectoryOptions::default()).unwrap();
    let (mut catalog, _) = open(&directory.path().join("catalog"));
    let good = put(&store, 4, &[]);
    let garbage = id(2, 0, 9, false);
    store.put(&garbage.name().unwrap(), 500, &mut &[7; 500][..]).unwrap();
    catalog.rebuild(&store, &mut go_on).unwrap();
    let gone = id(3, 0, 9, false);
    catalog.record_object(&gone, 5, None).unwrap();
    assert!(matches!(
        catalog.fill_details(&store, &mut |_| ControlFlow::Break(())),
        Err(CatalogError::Stopped)
    ));
    let report = catalog.fill_details(&store, &mut go_on).unwrap();
    assert_eq!((report.filled, report.failed, report.problems.len()), (1, 2, 2));
    assert!(report.problems[0].contains(garbage.name().unwrap().as_str()), "{report:?}");
    assert_eq!(catalog.missing_details(None, 9).unwrap(), [garbage, gone]);
    assert!(catalog.object(&good).unwrap().unwrap().details.is_some());
    assert!(matches!(catalog.rebuild(&store, &mut |_| ControlFlow::Break(())), Err(CatalogError::Stopped)));
    catalog.close().unwrap();
    assert!(open(&directory.path().join("catalog")).1.must_rebuild, "the rebuild was stopped");
}

/// The bytes of a closed, complete catalog with `objects` objects.
fn complete_file(path: &Path, objects: u64) -> Vec<u8> {
    let (catalog, _) = open(path);
    for sequence in 0..objects {
        catalog.record_object(&id(sequence, 0, SEGMENT_BLOCKS, true), sequence, None).unwrap();
    }
    let range = LsnRange { start: Lsn(5), end: Lsn(9) };
    catalog.record_gap(&GapRow { range, time_ns: 3, reason: "the queue was full".to_owned() }).unwrap();
    catalog.complete.store(true, Ordering::Relaxed);
    catalog.close().unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn a_damaged_file_is_replaced_and_never_believed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog");
    let bytes = complete_file(&path, 300);
    let (catalog, _) = open(&path);
    let right = (rows(&catalog), catalog.gaps().unwrap());
    drop(catalog);
    assert_eq!((right.0.len(), right.1.len()), (300, 1));
    let (mut replaced, mut kept) = (0, 0);
    let mut damaged: Vec<Vec<u8>> = vec![b"no catalog at all".to_vec(), vec![0x5a; 70_000], vec![0; 8192]];
    for part in 1..12 {
        damaged.push(bytes[..bytes.len() * part / 12].to_vec());
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..150 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut flipped = bytes.clone();
        // Half of the rounds change the head of the file, which holds its structure.
        let bound = if round % 2 == 0 { 4096 } else { bytes.len() as u64 };
        flipped[((state >> 20) % bound) as usize] ^= 1 << (state % 8);
        damaged.push(flipped);
    }
    for damaged in damaged {
        std::fs::write(&path, &damaged).unwrap();
        let (catalog, state) = open(&path);
        if let Some(replaced_file) = &state.replaced {
            replaced += 1;
            assert_eq!(std::fs::read(&replaced_file.moved_to).unwrap().len(), damaged.len());
            assert!(state.must_rebuild && rows(&catalog).is_empty() && !replaced_file.reason.is_empty());
        }
        if !state.must_rebuild {
            kept += 1;
            assert_eq!((rows(&catalog), catalog.gaps().unwrap()), right);
        }
        catalog.record_object(&id(900, 0, 9, false), 1, None).unwrap();
    }
    assert!(replaced > 20 && kept > 20, "{replaced} replaced, {kept} as good as before");
}

#[test]
fn a_file_of_another_pool_store_or_version_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog");
    complete_file(&path, 1);
    let refused = |pool, label: &str, words: &str| {
        complete_file(&path, 1);
        let (catalog, state) = ArchiveCatalog::open(&path, pool, label).unwrap();
        assert!(rows(&catalog).is_empty() && state.must_rebuild);
        let reason = state.replaced.unwrap().reason;
        assert!(reason.contains(words), "{reason}");
        drop(catalog);
        std::fs::remove_file(&path).unwrap();
    };
    refused(Uuid::from_u128(0x99), LABEL, "belongs to pool");
    refused(POOL, "tape", "belongs to the store");
    let (catalog, _) = open(&path);
    catalog
        .write(Durability::Immediate, |t| Ok(t.open_table(META)?.insert("version", "9").map(drop)?))
        .unwrap();
    drop(catalog);
    assert!(open(&path).1.replaced.unwrap().reason.contains("version '9'"));
    // A file of another program.
    let database = Database::create(directory.path().join("other")).unwrap();
    drop(database);
    assert!(open(&directory.path().join("other")).1.replaced.unwrap().reason.contains("other tables"));
}

#[test]
fn a_file_in_use_or_out_of_reach_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog");
    let (catalog, _) = open(&path);
    assert!(matches!(ArchiveCatalog::open(&path, POOL, LABEL), Err(CatalogError::InUse { .. })));
    let other = ObjectId { pool: Uuid::from_u128(1), ..id(1, 0, 9, false) };
    assert!(matches!(catalog.record_object(&other, 1, None), Err(CatalogError::OtherPool { .. })));
    let absent = directory.path().join("absent/catalog");
    assert!(matches!(ArchiveCatalog::open(&absent, POOL, LABEL), Err(CatalogError::File { .. })));
    assert!(matches!(ArchiveCatalog::open(directory.path(), POOL, LABEL), Err(CatalogError::File { .. })));
}

#[test]
fn a_crash_makes_a_rebuild_due() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.path().join("catalog"), directory.path().join("copy"));
    complete_file(&path, 3);
    let (catalog, state) = open(&path);
    assert!(!state.must_rebuild);
    // A crash leaves what is in the file: the first update has removed the mark.
    catalog.forget_object(&id(1, 0, SEGMENT_BLOCKS, true)).unwrap();
    std::fs::copy(&path, &copy).unwrap();
    let (crashed, state) = open(&copy);
    assert_eq!(state, CatalogState { must_rebuild: true, replaced: None });
    assert_eq!(rows(&crashed).len(), 3, "the update itself was not stable");
    drop(crashed);
    catalog.sync().unwrap();
    std::fs::copy(&path, &copy).unwrap();
    let (crashed, state) = open(&copy);
    assert!(state.must_rebuild);
    assert_eq!(rows(&crashed).len(), 2);
    drop(catalog);
    assert!(!open(&path).1.must_rebuild, "a drop closes it too");
}

#[derive(Debug, Clone)]
enum Step {
    Put(ObjectId, u64, Option<ObjectDetails>),
    Delete(ObjectId),
    Synch(u64, Vec<u8>),
    Gap(u64, u64),
    ForgetSynch(u64),
    ForgetGap(u64),
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    let any_id = || (0..4_u64, 0..3_u64, 4..6_u64, any::<bool>()).prop_map(|(s, f, t, w)| id(s, f, t, w));
    let details =
        proptest::option::of((any::<u64>(), any::<u64>(), any::<Option<(u64, u64)>>()).prop_map(
            |(opened_ns, sealed_ns, records_ns)| ObjectDetails { opened_ns, sealed_ns, records_ns },
        ));
    prop_oneof![
        6 => (any_id(), 0..2_u64, details).prop_map(|(id, len, details)| Step::Put(id, len, details)),
        4 => any_id().prop_map(Step::Delete),
        2 => (0..4_u64, proptest::collection::vec(any::<u8>(), 0..3)).prop_map(|(lsn, text)| Step::Synch(lsn, text)),
        1 => (0..4_u64, 0..9_u64).prop_map(|(start, len)| Step::Gap(start, len)),
        1 => (0..4_u64).prop_map(Step::ForgetSynch),
        1 => (0..4_u64).prop_map(Step::ForgetGap),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn it_says_what_it_was_told(steps in proptest::collection::vec(any_step(), 1..60)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catalog");
        let (mut catalog, _) = open(&path);
        // Keyed by name: the catalog must have the order of the names.
        let mut objects: BTreeMap<String, ObjectRow> = BTreeMap::new();
        let mut synchs: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut gaps: BTreeMap<u64, u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(id, len_bytes, details) => {
                    catalog.record_object(&id, len_bytes, details).unwrap();
                    let name = id.name().unwrap().to_string();
                    let known = objects.get(&name).filter(|row| row.len_bytes == len_bytes);
                    let details = details.or(known.and_then(|row| row.details));
                    objects.insert(name, ObjectRow { id, len_bytes, details });
                }
                Step::Delete(id) => {
                    let known = objects.remove(id.name().unwrap().as_str()).is_some();
                    prop_assert_eq!(catalog.forget_object(&id).unwrap(), known);
                }
                Step::Synch(lsn, text) => {
                    catalog.record_synch(&SynchRow { lsn: Lsn(lsn), time_ns: lsn, text: text.clone() }).unwrap();
                    if !text.is_empty() || !synchs.contains_key(&lsn) {
                        synchs.insert(lsn, text);
                    }
                }
                Step::Gap(start, len) => {
                    let range = LsnRange { start: Lsn(start), end: Lsn(start + len) };
                    catalog.record_gap(&GapRow { range, time_ns: 1, reason: "r".to_owned() }).unwrap();
                    gaps.insert(start, start + len);
                }
                Step::ForgetSynch(lsn) => {
                    prop_assert_eq!(catalog.forget_synch(Lsn(lsn)).unwrap(), synchs.remove(&lsn).is_some());
                }
                Step::ForgetGap(start) => {
                    prop_assert_eq!(catalog.forget_gap(Lsn(start)).unwrap(), gaps.remove(&start).is_some());
                }
                Step::Reopen => {
                    catalog.close().unwrap();
                    catalog = open(&path).0;
                }
            }
            prop_assert_eq!(rows(&catalog), objects.values().copied().collect::<Vec<_>>());
        }
        let told: Vec<_> = catalog.synchs().unwrap().into_iter().map(|s| (s.lsn.0, s.text)).collect();
        prop_assert_eq!(told, synchs.into_iter().collect::<Vec<_>>());
        let told: Vec<_> = catalog.gaps().unwrap().iter().map(|g| (g.range.start.0, g.range.end.0)).collect();
        prop_assert_eq!(told, gaps.into_iter().collect::<Vec<_>>());
        let missing: Vec<ObjectId> = objects.values().filter(|r| r.details.is_none()).map(|r| r.id).collect();
        prop_assert_eq!(catalog.missing_details(None, 1000).unwrap(), missing);
    }
}

#[test]
fn what_the_store_lost_is_remembered_until_it_is_there_again_or_let_go() {
    let directory = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(&directory.path().join("store"), DirectoryOptions::default()).unwrap();
    let path = directory.path().join("catalog");
    let ids: Vec<ObjectId> = (0..6).map(|sequence| put(&store, sequence, &[])).collect();
    let (mut catalog, _) = open(&path);
    catalog.rebuild(&store, &mut go_on).unwrap();
    catalog.fill_details(&store, &mut go_on).unwrap();
    let before = rows(&catalog);
    assert!(catalog.lost_objects().unwrap().is_empty());
    // A part that its whole segment replaces is not lost; one whose segment is not there is.
    let (replaced, alone) = (id(5, 0, 9, false), id(9, 0, 9, false));
    for part in [&replaced, &alone] {
        catalog.record_object(part, 7, None).unwrap();
    }
    let remove = |id: &ObjectId| store.delete(&id.name().unwrap()).unwrap();
    let lost = |catalog: &ArchiveCatalog| -> Vec<ObjectId> {
        catalog.lost_objects().unwrap().iter().map(|row| row.id).collect()
    };
    for index in [1, 2, 4] {
        remove(&ids[index]);
    }
    catalog.rebuild(&store, &mut go_on).unwrap();
    assert_eq!(lost(&catalog), [ids[1], ids[2], ids[4], alone]);
    // With the known details: segment, bytes, times.
    assert_eq!(catalog.lost_objects().unwrap()[0], before[1]);
    assert_eq!(rows(&catalog).iter().map(|row| row.id).collect::<Vec<_>>(), [ids[0], ids[3], ids[5]]);
    // Stored again, and recorded by the writer before any list.
    put(&store, 2, &[]);
    catalog.record_object(&ids[2], before[2].len_bytes, None).unwrap();
    assert_eq!(lost(&catalog), [ids[1], ids[4], alone]);
    // Expired objects are not lost, before and after they are deleted.
    catalog.let_go(&[ids[0], ids[4]]).unwrap();
    remove(&ids[0]);
    catalog.close().unwrap();
    let (mut catalog, _) = open(&path);
    assert_eq!(lost(&catalog), [ids[1], alone], "after a restart");
    catalog.rebuild(&store, &mut go_on).unwrap();
    assert_eq!(lost(&catalog), [ids[1], alone]);
    put(&store, 1, &[]);
    catalog.rebuild(&store, &mut go_on).unwrap();
    assert_eq!(lost(&catalog), [alone]);
}

#[test]
fn the_holes_of_an_object_are_gaps_as_long_as_it_has_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(&directory.path().join("store"), DirectoryOptions::default()).unwrap();
    let (mut catalog, _) = open(&directory.path().join("catalog"));
    // Its records end before its stretch does.
    let holed = put(&store, 3, &[]);
    catalog.rebuild(&store, &mut go_on).unwrap();
    catalog.fill_details(&store, &mut go_on).unwrap();
    let gaps = catalog.gaps().unwrap();
    let range = LsnRange { start: Lsn(3 * SEGMENT_BLOCKS + 11), end: Lsn(4 * SEGMENT_BLOCKS) };
    assert_eq!(gaps.iter().map(|gap| gap.range).collect::<Vec<_>>(), [range]);
    assert!(gaps[0].reason.contains("could not be read"));
    catalog.record_holes(&holed, &[], 1).unwrap();
    assert_eq!(catalog.gaps().unwrap(), []);
}
