//! Tests of the work on one object: exact, verified, and never a wrong byte.

use super::*;

fn tables() -> TablesCache {
    TablesCache::default()
}

fn codec() -> Decompressor {
    Decompressor::new().unwrap()
}

#[test]
fn a_stretch_comes_back_byte_for_byte() {
    let root = tempfile::tempdir().unwrap();
    let store = directory(root.path());
    for (sequence, from, to, verify, frame_bytes) in [
        (3, 0, 2048, VerifyPolicy::Digest, 256 << 10),
        (4, 0, 2048, VerifyPolicy::Tail, 1 << 20),
        (5, 5, 1000, VerifyPolicy::Stat, FRAME_BYTES_MIN),
        (6, 2047, 2048, VerifyPolicy::Digest, FRAME_BYTES_MIN),
    ] {
        let stretch = stretch(sequence, 2048, from, to);
        let options = WorkerOptions { frame_bytes, verify, ..WorkerOptions::default() };
        let archived = run(&stretch, &mut stretch.source(), &*store, &options).unwrap();
        assert_eq!((archived.content_bytes, archived.bad_blocks), ((to - from) * 4096, 0));
        let id = stretch.job.id;
        assert_eq!(archived.object_bytes, store.stat(&id.name().unwrap()).unwrap().len_bytes);
        assert_stored(&*store, &stretch);

        let entries = read_entries(&*store, &id, &mut codec(), &options).unwrap();
        assert_eq!((entries.header.id, &entries.units), (id, &*stretch.job.units));
        assert_eq!((entries.header.opened_ns, entries.header.sealed_ns), (11, 22));
        for offset in [0, 1, 15, 16, 99, 254, 255, 256, 990, to - from - 1] {
            let lsn = id.from_lsn.plus(offset.min(to - from - 1));
            let blocks = read_blocks(&*store, &id, lsn, &mut codec(), &tables(), &options).unwrap();
            let within = (lsn.0 - blocks.first_lsn.0) as usize * BLOCK_BYTES;
            assert!(blocks.bytes[within..][..BLOCK_BYTES] == *stretch.block(lsn));
            assert!(blocks.bytes.len() as u64 <= u64::from(frame_bytes));
            assert!((blocks.first_lsn.0 - id.from_lsn.0).is_multiple_of(u64::from(frame_bytes) / 4096));
        }
    }
}

#[test]
fn time_is_the_clocks() {
    let root = tempfile::tempdir().unwrap();
    let ticks = std::sync::atomic::AtomicU64::new(5);
    let clock_us = Arc::new(move || ticks.fetch_add(37, std::sync::atomic::Ordering::Relaxed));
    let options = WorkerOptions { clock_us, ..WorkerOptions::default() };
    let stretch = stretch(1, 256, 0, 40);
    let archived = run(&stretch, &mut stretch.source(), &*directory(root.path()), &options).unwrap();
    assert_eq!(archived.elapsed_us, 37);
}

#[test]
fn wrong_data_on_the_device_is_counted_and_archived_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let store = directory(root.path());
    let mut stretch = stretch(1, 256, 0, 256);
    for index in [0, 17, stretch.data.len() - 1] {
        stretch.spoil(stretch.data[index]);
    }
    // Neither the segment's header nor that of a record is a data block.
    stretch.spoil(stretch.job.id.from_lsn);
    stretch.spoil(stretch.job.id.from_lsn.plus(1));
    for attempt in 0..2 {
        let archived = run(&stretch, &mut stretch.source(), &*store, &options(VerifyPolicy::Tail)).unwrap();
        assert_eq!(archived.bad_blocks, 3, "attempt {attempt}");
        assert_stored(&*store, &stretch);
    }
    // A read of a damaged block returns nothing; all other blocks are returned unchanged.
    let id = stretch.job.id;
    for lsn in (id.from_lsn.0..id.to_lsn.0).map(Lsn) {
        let options = options(VerifyPolicy::Tail);
        let blocks = read_blocks(&*store, &id, lsn, &mut codec(), &tables(), &options).unwrap();
        let is_damaged = [0, 17, stretch.data.len() - 1].iter().any(|&index| stretch.data[index] == lsn);
        assert_eq!(blocks.block(lsn), Some(stretch.block(lsn)).filter(|_| !is_damaged), "{lsn}");
    }
    // Invalid units cause no panic, and no object is made of them.
    let mut strange = stretch.clone();
    strange.job.id.whole = false;
    strange.job.units = Arc::new(vec![[0xff; 24]; 300]);
    let error = run(&strange, &mut strange.source(), &*store, &options(VerifyPolicy::Tail)).unwrap_err();
    assert!(is_final(&error) && error.to_string().contains("list of entries"), "{error}");
    assert!(store.stat(&strange.job.id.name().unwrap()).is_err());
}

/// The records of a job from a given record on, and the hole before them.
fn without_first(job: &ArchiveJob, records: usize) -> ArchiveJob {
    let entries = SegmentEntries::new(job.units.to_vec());
    let at = entries.records().take(records).map(|(line, _)| 1 + line.entries()).sum();
    let (first, end) = (entries.record(0).0.lsn(), entries.record(records).0.lsn());
    ArchiveJob {
        units: Arc::new(job.units[at..].to_vec()),
        holes: vec![LsnRange { start: first, end }],
        ..job.clone()
    }
}

#[test]
fn entries_that_are_not_all_there_are_never_put_as_if_they_were() {
    let root = tempfile::tempdir().unwrap();
    let store = directory(root.path());
    let stretch = stretch(4, 256, 0, 256);
    let options = options(VerifyPolicy::Digest);
    let told = without_first(&stretch.job, 3);
    let silent = ArchiveJob { holes: Vec::new(), ..told.clone() };
    let empty = ArchiveJob { units: Arc::default(), ..silent.clone() };
    for job in [silent, empty] {
        let stretch = Stretch { job, ..stretch.clone() };
        let error = run(&stretch, &mut stretch.source(), &*store, &options).unwrap_err();
        assert!(is_final(&error) && error.to_string().contains("does not say so"), "{error}");
        assert_empty(&*store);
    }
    let id = told.id;
    let stretch = Stretch { job: told, ..stretch.clone() };
    run(&stretch, &mut stretch.source(), &*store, &options).unwrap();
    let entries = read_entries(&*store, &id, &mut codec(), &options).unwrap();
    assert_eq!((&entries.units, &entries.holes), (&*stretch.job.units, &stretch.job.holes));
    let joined = ObjectEntries::join([&entries]);
    assert_eq!(joined.holes(id.from_lsn.plus(1), id.to_lsn), stretch.job.holes);
}

#[test]
fn of_two_tries_the_one_that_knows_more_records_stays() {
    let options = options(VerifyPolicy::Stat);
    for knew_more_before in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let store = faulty(root.path());
        let stretch = stretch(4, 256, 0, 256);
        let less = Stretch { job: without_first(&stretch.job, 2), ..stretch.clone() };
        let (before, after) = if knew_more_before { (&stretch, &less) } else { (&less, &stretch) };
        run(before, &mut before.source(), &*store, &options).unwrap();
        run(after, &mut after.source(), &*store, &options).unwrap();
        assert_eq!(store.calls(Call::Delete), u64::from(!knew_more_before));
        assert_stored(&*store, &stretch);
    }
}

/// Returns a stretch of which the device cannot read some blocks.
struct Holed {
    content: Vec<u8>,
    lost: Vec<u64>,
}

impl BlockSource for Holed {
    fn read(
        &mut self,
        _block: u64,
        _len_blocks: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>,
    ) -> Result<(), SourceError> {
        for &lost in &self.lost {
            self.content[lost as usize * BLOCK_BYTES..][..BLOCK_BYTES].fill(0);
        }
        Ok(take(&self.content)?)
    }

    fn lost(&self) -> &[u64] {
        &self.lost
    }
}

#[test]
fn a_block_that_the_device_does_not_give_is_archived_as_an_error() {
    let root = tempfile::tempdir().unwrap();
    let store = directory(root.path());
    let mut stretch = stretch(4, 256, 0, 256);
    let options = options(VerifyPolicy::Digest);
    let id = stretch.job.id;
    // A segment's header, the header of a record, and data.
    let lost = [id.from_lsn, id.from_lsn.plus(1), stretch.data[9], stretch.data[40]];
    let mut source = Holed {
        content: stretch.content.clone(),
        lost: lost.iter().map(|lsn| lsn.0 - id.from_lsn.0).collect(),
    };
    // The first attempt gives the device time to recover.
    let error = run(&stretch, &mut source, &*store, &options).unwrap_err();
    assert!(matches!(error, ArchiveError::Source { sequence: 4, .. }), "{error}");
    assert_empty(&*store);
    stretch.job.accept_lost = true;
    let archived = run(&stretch, &mut source, &*store, &options).unwrap();
    assert_eq!(archived.bad_blocks, 4);
    for lsn in (id.from_lsn.0..id.to_lsn.0).map(Lsn) {
        let blocks = read_blocks(&*store, &id, lsn, &mut codec(), &tables(), &options).unwrap();
        assert_eq!(blocks.block(lsn), Some(stretch.block(lsn)).filter(|_| !lost.contains(&lsn)), "{lsn}");
    }
    let entries = read_entries(&*store, &id, &mut codec(), &options).unwrap();
    assert_eq!((&entries.units, entries.holes), (&*stretch.job.units, vec![]));
}

#[test]
fn the_whole_object_of_an_earlier_try_is_accepted() {
    let root = tempfile::tempdir().unwrap();
    let store = faulty(root.path());
    let stretch = stretch(2, 256, 0, 256);
    let options = options(VerifyPolicy::Stat);
    store.add(Call::Commit, When::Nth(1), Fault::ErrorAfter(OFFLINE));
    let error = run(&stretch, &mut stretch.source(), &*store, &options).unwrap_err();
    assert!(is_retry(&error), "{error}");
    let archived = run(&stretch, &mut no_source(), &*store, &options).unwrap();
    assert_eq!(archived.content_bytes, 256 * 4096);
    assert_eq!(archived.object_bytes, store.stat(&stretch.job.id.name().unwrap()).unwrap().len_bytes);
    assert_eq!(store.calls(Call::Delete), 0);
    assert_stored(&*store, &stretch);
}

#[test]
fn a_damaged_object_of_an_earlier_try_is_replaced() {
    let stretch = stretch(2, 256, 0, 256);
    for damage in ["flip", "cut", "empty", "tail"] {
        let root = tempfile::tempdir().unwrap();
        let store = faulty(root.path());
        let options = options(VerifyPolicy::Stat);
        run(&stretch, &mut stretch.source(), &*store, &options).unwrap();
        let path = root.path().join("objects").join(stretch.job.id.name().unwrap().as_str());
        let mut bytes = std::fs::read(&path).unwrap();
        let len = bytes.len();
        match damage {
            "flip" => bytes[len / 2] ^= 1,
            "cut" => bytes.truncate(len / 2),
            "tail" => bytes[len - 100] ^= 1,
            _ => bytes.clear(),
        }
        std::fs::write(&path, bytes).unwrap();
        run(&stretch, &mut stretch.source(), &*store, &options).unwrap();
        assert_eq!(store.calls(Call::Delete), 1, "{damage}");
        assert_stored(&*store, &stretch);
    }
}

#[test]
fn an_object_of_an_earlier_try_is_made_durable_before_it_counts() {
    let root = tempfile::tempdir().unwrap();
    let store = faulty(root.path());
    let options = options(VerifyPolicy::Digest);
    let stretch = stretch(2, 256, 0, 256);
    run(&stretch, &mut stretch.source(), &*store, &options).unwrap();
    assert_eq!(store.calls(Call::Sync), 0, "a commit is stable by itself");
    // The object is complete and correct, but cannot be made stable: the stretch is not archived
    // yet.
    store.add(Call::Sync, When::Nth(1), Fault::Error(OFFLINE));
    let error = run(&stretch, &mut no_source(), &*store, &options).unwrap_err();
    assert!(is_retry(&error), "{error}");
    run(&stretch, &mut no_source(), &*store, &options).unwrap();
    assert_eq!((store.calls(Call::Sync), store.calls(Call::Delete)), (2, 0));
}

#[test]
fn a_whole_object_with_something_else_in_it_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let store = faulty(root.path());
    let options = options(VerifyPolicy::Tail);
    let (first, mut second) = (stretch(2, 256, 0, 256), stretch(2, 256, 0, 256));
    let mut units = (*first.job.units).clone();
    // The time of the first record.
    units[0][8] ^= 1;
    second.job.units = Arc::new(units);
    run(&first, &mut first.source(), &*store, &options).unwrap();
    let error = run(&second, &mut second.source(), &*store, &options).unwrap_err();
    assert!(is_final(&error) && error.to_string().contains("holds something else"), "{error}");
    assert_eq!(store.calls(Call::Delete), 0);
    assert_stored(&*store, &first);
}

/// Whichever call fails, and whenever: the error reports whether to retry, nothing valid is left,
/// and the next try succeeds.
#[test]
fn a_store_that_fails_in_the_middle_leaves_nothing_that_counts() {
    let stretch = stretch(9, 256, 3, 256);
    let mut failures = 0;
    for call in [Call::PutStart, Call::Write, Call::Commit, Call::Stat, Call::Get] {
        for kind in [OFFLINE, StoreErrorKind::NoSpace] {
            for fault in [Fault::Error(kind), Fault::ErrorAfter(kind)] {
                for nth in [1, 2, 3, 17, 18, 19, 20] {
                    let root = tempfile::tempdir().unwrap();
                    let store = faulty(root.path());
                    store.add(call, When::Nth(nth), fault);
                    let options = options(VerifyPolicy::Digest);
                    let result = run(&stretch, &mut stretch.source(), &*store, &options);
                    if let Err(error) = result {
                        failures += 1;
                        assert!(is_retry(&error), "{call:?} {nth}: {error}");
                        assert!(error.to_string().contains(stretch.job.id.name().unwrap().as_str()));
                        let is_committed = store.calls(Call::Commit) > 0
                            && !(call == Call::Commit && matches!(fault, Fault::Error(_)));
                        if !is_committed {
                            assert_empty(&*store);
                        }
                    } else {
                        assert_eq!(store.injected(), 0, "{call:?} {nth}");
                    }
                    store.heal();
                    run(&stretch, &mut stretch.source(), &*store, &options).unwrap();
                    assert_stored(&*store, &stretch);
                }
            }
        }
    }
    assert!(failures >= 50, "{failures}");
}

#[test]
fn each_policy_finds_what_it_promises_to_find() {
    use VerifyPolicy::{Digest, Stat, Tail};
    let stretch = stretch(9, 256, 0, 256);
    // 3 writes for the front, 16 frames, one for the end.
    for (fault, nth, finders) in [
        (Fault::Short, 7, &[Stat, Tail, Digest][..]),
        (Fault::Short, 20, &[Stat, Tail, Digest]),
        (Fault::WrongByte, 20, &[Tail, Digest]),
        (Fault::WrongByte, 2, &[Digest]),
        (Fault::WrongByte, 7, &[Digest]),
    ] {
        for verify in [Stat, Tail, Digest] {
            let root = tempfile::tempdir().unwrap();
            let store = faulty(root.path());
            store.add(Call::Write, When::Nth(nth), fault);
            let options = options(verify);
            let result = run(&stretch, &mut stretch.source(), &*store, &options);
            assert_eq!(store.injected(), 1);
            if finders.contains(&verify) {
                let error = result.unwrap_err();
                assert!(is_damage(&error), "{fault:?} {nth} {verify:?}: {error}");
            } else {
                result.unwrap();
                // A fault that the verification missed is found when the object is read.
                let id = stretch.job.id;
                let read = (0..256).all(|block| {
                    read_blocks(&*store, &id, id.from_lsn.plus(block), &mut codec(), &tables(), &options)
                        .is_ok()
                });
                let entries = read_entries(&*store, &id, &mut codec(), &options);
                assert!(!read || entries.is_err(), "{fault:?} {nth} {verify:?}");
            }
            run(&stretch, &mut stretch.source(), &*store, &options).unwrap();
            assert_stored(&*store, &stretch);
        }
    }
}

#[test]
fn an_object_that_vanishes_or_cannot_be_removed_is_told() {
    let root = tempfile::tempdir().unwrap();
    let store = faulty(root.path());
    let stretch = stretch(9, 256, 0, 100);
    let options = options(VerifyPolicy::Stat);
    store.add(Call::Stat, When::Nth(1), Fault::Error(StoreErrorKind::NotFound));
    let error = run(&stretch, &mut stretch.source(), &*store, &options).unwrap_err();
    assert!(is_damage(&error) && error.to_string().contains("is not there"), "{error}");
    // The object appears damaged from here, and cannot be deleted.
    store.add(Call::Get, When::Always, Fault::WrongByte);
    store.add(Call::Delete, When::Nth(1), Fault::Error(StoreErrorKind::Unsupported("worm")));
    let error = run(&stretch, &mut no_source(), &*store, &options).unwrap_err();
    assert!(is_final(&error), "{error}");
    // A name that is taken again and again.
    store.heal();
    store.add(Call::PutStart, When::Always, Fault::Error(StoreErrorKind::Exists));
    store.add(Call::Stat, When::Always, Fault::Error(StoreErrorKind::NotFound));
    let error = run(&stretch, &mut no_source(), &*store, &options).unwrap_err();
    assert!(is_retry(&error), "{error}");
    assert_eq!(store.calls(Call::PutStart), 4, "once more, and not for ever");
}

#[test]
fn reads_from_a_bad_store_are_right_or_refused() {
    let root = tempfile::tempdir().unwrap();
    let inner = directory(root.path());
    let stretch = stretch(9, 256, 0, 256);
    let id = stretch.job.id;
    let options = options(VerifyPolicy::Tail);
    run(&stretch, &mut stretch.source(), &*inner, &options).unwrap();
    let mut refused = 0;
    for seed in 0..300 {
        let store = FaultyStore::new(Arc::clone(&inner), seed);
        store.add(Call::Get, When::PerMille(400), Fault::WrongByte);
        store.add(Call::Get, When::PerMille(50), Fault::Short);
        store.add(Call::Stat, When::PerMille(50), Fault::Short);
        let lsn = id.from_lsn.plus(seed % 256);
        match read_blocks(&store, &id, lsn, &mut codec(), &tables(), &options) {
            Ok(blocks) => {
                let start = (blocks.first_lsn.0 - id.from_lsn.0) as usize * BLOCK_BYTES;
                assert!(blocks.bytes == stretch.content[start..][..blocks.bytes.len()]);
            }
            Err(error) => {
                refused += 1;
                assert!(is_damage(&error), "{error}");
            }
        }
        match read_entries(&store, &id, &mut codec(), &options) {
            Ok(entries) => assert_eq!(entries.units, *stretch.job.units),
            Err(error) => assert!(is_damage(&error), "{error}"),
        }
    }
    assert!((50..250).contains(&refused), "{refused}");
}

#[test]
fn the_table_of_an_object_is_read_once_and_anew_when_the_object_is_another() {
    let root = tempfile::tempdir().unwrap();
    let store = faulty(root.path());
    let stretch = stretch(9, 256, 0, 256);
    let id = stretch.job.id;
    let (options, tables) = (options(VerifyPolicy::Stat), tables());
    run(&stretch, &mut stretch.source(), &*store, &options).unwrap();
    let calls = || [store.calls(Call::Stat), store.calls(Call::Get)];
    let read = |offset: u64| {
        let before = calls();
        let lsn = id.from_lsn.plus(offset);
        let blocks = read_blocks(&*store, &id, lsn, &mut codec(), &tables, &options).unwrap();
        let at = (lsn.0 - blocks.first_lsn.0) as usize * BLOCK_BYTES;
        assert!(blocks.bytes[at..at + BLOCK_BYTES] == *stretch.block(lsn));
        let after = calls();
        [after[0] - before[0], after[1] - before[1]]
    };
    assert_eq!(read(3), [1, 2], "its length, its end, a frame");
    assert_eq!([read(3), read(200)], [[0, 1]; 2], "a frame");
    assert_eq!((tables.stats().values, tables.stats().hits), (1, 2));
    // The same stretch in frames of another size, under the same name.
    store.delete(&id.name().unwrap()).unwrap();
    let frames = WorkerOptions { frame_bytes: 2 * FRAME_BYTES_MIN, ..options.clone() };
    run(&stretch, &mut stretch.source(), &*store, &frames).unwrap();
    assert_eq!(read(200), [1, 3], "a frame that is none, then as at first");
    assert_eq!(read(3), [0, 1]);
    // A deleted object's table is removed, and a missing object is not served from memory.
    delete(&*store, &[id], &tables, &options).unwrap();
    assert_eq!(tables.stats().values, 0);
    // A store that does not respond gets no further calls.
    run(&stretch, &mut stretch.source(), &*store, &options).unwrap();
    read(3);
    store.add(Call::Get, When::Always, Fault::Error(OFFLINE));
    let before = calls();
    let error = read_blocks(&*store, &id, id.from_lsn, &mut codec(), &tables, &options).unwrap_err();
    assert!(is_retry(&error), "{error}");
    assert_eq!(calls(), [before[0], before[1] + 1]);
    assert_eq!(tables.stats().values, 1);
}

#[test]
fn only_the_object_that_was_asked_for_is_an_answer() {
    let root = tempfile::tempdir().unwrap();
    let store = directory(root.path());
    let options = options(VerifyPolicy::Tail);
    let (one, other) = (stretch(9, 256, 0, 256), stretch(8, 256, 0, 256));
    let (id, wrong) = (one.job.id, other.job.id);
    run(&one, &mut one.source(), &*store, &options).unwrap();
    let read = |id: &ObjectId, lsn| {
        let entries = read_entries(&*store, id, &mut codec(), &options).unwrap_err();
        let blocks = read_blocks(&*store, id, lsn, &mut codec(), &tables(), &options).unwrap_err();
        (entries, blocks)
    };
    let (entries, blocks) = read(&wrong, wrong.from_lsn);
    assert!(is_final(&entries) && is_final(&blocks), "{entries} {blocks}");
    let path = |id: &ObjectId| root.path().join("objects").join(id.name().unwrap().as_str());
    std::fs::copy(path(&id), path(&wrong)).unwrap();
    let (entries, blocks) = read(&wrong, wrong.from_lsn);
    assert!(is_damage(&entries) && is_damage(&blocks), "{entries} {blocks}");
    for lsn in [Lsn(id.from_lsn.0 - 1), id.to_lsn, Lsn(u64::MAX)] {
        assert!(is_final(&read_blocks(&*store, &id, lsn, &mut codec(), &tables(), &options).unwrap_err()));
    }
    // Deleting counts what was there, and does not miss the rest.
    let third = stretch(7, 256, 0, 256).job.id;
    assert_eq!(delete(&*store, &[id, third, wrong, id], &tables(), &options).unwrap(), 2);
    assert_empty(&*store);
    let bad = faulty(tempfile::tempdir().unwrap().path());
    bad.add(Call::Delete, When::Nth(1), Fault::Error(OFFLINE));
    assert!(is_retry(&delete(&*bad, &[id], &tables(), &options).unwrap_err()));
}

#[test]
fn a_source_that_fails_or_miscounts_is_named() {
    let root = tempfile::tempdir().unwrap();
    let store = directory(root.path());
    let stretch = stretch(9, 256, 0, 100);
    let options = options(VerifyPolicy::Tail);
    let content = &stretch.content;
    for (content, words) in [
        (content[..99 * BLOCK_BYTES].to_vec(), "99 blocks"),
        ([content, &content[..BLOCK_BYTES]].concat(), "101 blocks"),
        (content[..=99 * BLOCK_BYTES].to_vec(), "not whole blocks"),
    ] {
        let mut source = SliceSource { content, piece_blocks: 16 };
        let error = run(&stretch, &mut source, &*store, &options).unwrap_err();
        assert!(matches!(error, ArchiveError::Source { sequence: 9, .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_empty(&*store);
    }
    let error = run(&stretch, &mut no_source(), &*store, &options).unwrap_err();
    assert!(matches!(error, ArchiveError::Source { sequence: 9, .. }), "{error}");
    assert_empty(&*store);
    let unusable = WorkerOptions { frame_bytes: 1000, ..options };
    assert!(is_final(&run(&stretch, &mut stretch.source(), &*store, &unusable).unwrap_err()));
}

#[test]
fn the_stop_flag_ends_everything_before_the_next_call() {
    let root = tempfile::tempdir().unwrap();
    let store = faulty(root.path());
    let stretch = stretch(9, 256, 0, 100);
    let options = options(VerifyPolicy::Digest);
    let stop = options.stop.clone();
    let mut source = FnSource(|take: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>| {
        take(&stretch.content[..32 * BLOCK_BYTES])?;
        stop.set();
        take(&stretch.content[32 * BLOCK_BYTES..])?;
        panic!("the taker must refuse");
    });
    let error = run(&stretch, &mut source, &*store, &options).unwrap_err();
    assert!(is_retry(&error), "{error}");
    assert_empty(&*store);
    assert_eq!(store.calls(Call::Write), 3 + 2, "the front and two frames");
    let id = stretch.job.id;
    assert!(is_retry(&run(&stretch, &mut no_source(), &*store, &options).unwrap_err()));
    assert!(is_retry(&read_entries(&*store, &id, &mut codec(), &options).unwrap_err()));
    assert!(is_retry(
        &read_blocks(&*store, &id, id.from_lsn, &mut codec(), &tables(), &options).unwrap_err()
    ));
    assert!(is_retry(&delete(&*store, &[id], &tables(), &options).unwrap_err()));
    assert_eq!([Call::PutStart, Call::Stat, Call::Delete].map(|call| store.calls(call)), [1, 0, 0]);
}
