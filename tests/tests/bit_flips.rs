//! Damage in the pool file: a flipped data block reads as a media error and never as wrong data.
//! Flipped superblocks, headers, trailers and events lose nothing and are reported. Two faults lose
//! what they cover, are reported, and leave the points before them exact.

use std::collections::BTreeSet;
use std::rc::Rc;

use varve::dma::BLOCK_BYTES;
use varve::log::format::{EventKind, Superblock};
use varve::volume::{CreateVolume, Point, Request};
use varve_tests::sim::damage::{BlockKind, problems};
use varve_tests::sim::disk::Crash;
use varve_tests::sim::rng::Rng;
use varve_tests::sim::workload::{Run, Shape};
use varve_tests::sim::world::{run, wait};

fn small_run(seed: u64, steps: u64, volatile_cache: bool) -> Run {
    let shape =
        Shape { device_blocks: 257 + 24 * 256, segment_blocks: 256, volatile_cache, volume_blocks: 120 };
    let mut run = Run::new(seed, shape);
    for _ in 0..steps {
        run.step();
    }
    run
}

fn head_of(pool: &varve::volume::Pool) -> u64 {
    pool.stats().head_lsn - 1
}

/// Flips one random bit in every written block of a pool that was stopped cleanly, one at a time.
#[test]
fn one_flipped_bit_after_a_clean_stop() {
    let stopped = small_run(11, 130, false).stop();
    let mut rng = Rng::new(1);
    let (mut data, mut metadata, mut through_points) = (0, 0, 0);
    for (device_block, kind) in stopped.classify() {
        let disk = stopped.disk.fork();
        let bit = rng.below(8 * BLOCK_BYTES as u64);
        assert!(disk.flip_bit(device_block, bit));
        let pool = stopped.open(&disk).unwrap_or_else(|error| panic!("{device_block} {kind:?}: {error}"));
        let head = head_of(&pool);
        let faults = stopped.compare(&pool, u64::MAX);
        let synchs: Vec<String> = pool.synchs().infos().into_iter().map(|synch| synch.label).collect();
        assert_eq!(synchs, stopped.synch_labels(), "{kind:?} at {device_block}");
        let reported = !problems(&pool).is_empty();
        let context = format!("{kind:?} at {device_block}, bit {bit}: {:?}", problems(&pool));
        match kind {
            BlockKind::Data { block, stamp } => {
                assert_eq!(faults, stopped.holders(block, stamp, u64::MAX), "{context}");
                data += 1;
                // At the point at which it was new, whatever happened to it since.
                if data % 3 == 0 {
                    let (place, lsn) = stopped.written_at(stamp).expect("it was written");
                    let through = stopped.compare_point(&pool, place, lsn, "probe");
                    assert_eq!(through, [block], "{context}, at lsn:{lsn}");
                    through_points += 1;
                }
            }
            BlockKind::Superblock | BlockKind::SegmentHeader => {
                assert!(faults.is_empty() && reported, "{context}");
                metadata += 1;
            }
            BlockKind::Trailer { used_bytes } => {
                assert!(faults.is_empty(), "{context}");
                assert!(reported || bit / 8 >= used_bytes as u64, "{context}");
                metadata += 1;
            }
            BlockKind::Event { kind, copy } => {
                assert!(faults.is_empty(), "{context}");
                // A start reads the texts of all synchs, each from its first undamaged copy; of
                // catalogs it reads the newest, and the changes after it.
                assert!(reported || kind != EventKind::Synch || copy > 0, "{context}");
                metadata += 1;
            }
            // Not read while the trailer replaces it.
            BlockKind::RecordHeader { .. } => {
                assert!(faults.is_empty(), "{context}");
                metadata += 1;
            }
            BlockKind::Other => assert!(faults.is_empty(), "{context}"),
        }
        assert_eq!(head, stopped.head_lsn(), "{context}");
    }
    println!("{data} data blocks, {metadata} others, {through_points} through points of the past");
    assert!(data > 300 && metadata > 60 && through_points > 100);
}

/// The head of the device is zeroed, with both superblocks: the one at the tail opens the pool, and
/// all copies are repaired.
#[test]
fn the_superblock_at_the_tail_opens_a_pool_without_a_head() {
    let stopped = small_run(11, 40, false).stop();
    let disk = stopped.disk.fork();
    for block in 0..256 {
        disk.set_block(block, &[0; BLOCK_BYTES]);
    }
    let pool = stopped.open(&disk).expect("the third superblock is whole");
    assert!(stopped.compare(&pool, u64::MAX).is_empty());
    assert!(problems(&pool).iter().any(|problem| problem.contains("superblock")), "{:?}", problems(&pool));
    drop(pool);
    assert_eq!(
        (0..2).filter(|&block| Superblock::decode(&disk.block(block).expect("it is there")).is_ok()).count(),
        2
    );
    let again = stopped.open(&disk).expect("the head is there again");
    assert!(stopped.compare(&again, u64::MAX).is_empty());
    assert!(problems(&again).is_empty(), "{:?}", problems(&again));
}

/// All superblocks are damaged: the open fails with the reason and changes nothing.
#[test]
fn three_bad_superblocks_are_refused() {
    let stopped = small_run(11, 10, false).stop();
    let disk = stopped.disk.fork();
    for block in [0, 1, 256 + 24 * 256] {
        assert!(disk.flip_bit(block, 300));
    }
    let before: Vec<_> = disk.written_blocks().into_iter().map(|block| disk.block(block)).collect();
    let error = stopped.open(&disk).map(|_| ()).expect_err("no superblock");
    assert!(error.to_string().contains("checksum"), "{error}");
    let after: Vec<_> = disk.written_blocks().into_iter().map(|block| disk.block(block)).collect();
    assert!(before == after);
}

/// A flipped bit after a crash: reads return the right data of the prefix that was found, or a
/// media error. The prefix ends before the flushed position only where the flip itself cut it.
#[test]
fn one_flipped_bit_after_a_crash() {
    let mut rng = Rng::new(2);
    for seed in 0..6 {
        let crash = if seed % 2 == 0 { Crash::Process } else { Crash::Power };
        let stopped = small_run(40 + seed, 60, seed % 3 != 0).abandon(crash);
        for (device_block, kind) in stopped.classify() {
            if rng.one_in(2) {
                continue;
            }
            let disk = stopped.disk.fork();
            disk.flip_bit(device_block, rng.below(8 * BLOCK_BYTES as u64));
            let pool = stopped.open(&disk).unwrap_or_else(|error| panic!("{device_block}: {error}"));
            // A loss is recorded at once, in a catalog of one record: a header and two copies.
            let lost = problems(&pool).iter().any(|problem| problem.contains(" are lost"));
            let head = head_of(&pool) - if lost { 3 } else { 0 };
            // A lost stable record may hold a catalog: then the volumes are those of an older
            // catalog.
            if kind != (BlockKind::RecordHeader { events: true }) {
                stopped.compare(&pool, head);
            }
            let cut_by_flip = matches!(
                kind,
                BlockKind::RecordHeader { .. } | BlockKind::Data { .. } | BlockKind::Event { .. }
            );
            assert!(
                head >= stopped.flushed_lsn || cut_by_flip,
                "seed {seed} {kind:?} at {device_block}: lsn:{head} < flushed {}: {:?}",
                stopped.flushed_lsn,
                problems(&pool)
            );
        }
    }
}

/// A trailer and a record header of its segment are damaged: the record is lost. Its blocks and
/// those that it may have replaced read as media errors until they are written again. Everything
/// else is exact, also after a restart: points before the loss, and volumes made after it.
#[test]
fn a_lost_record_makes_uncertain_what_is_older() {
    let stopped = small_run(12, 130, false).stop();
    let kinds = stopped.classify();
    let slot_of = |device_block: u64| (device_block - 256) / 256;
    let headers: Vec<u64> = kinds
        .iter()
        .filter(|(_, kind)| *kind == BlockKind::RecordHeader { events: false })
        .map(|(block, _)| *block)
        .collect();
    // Only the trailer of the clean stop covers the log's last record: if both are lost, the record
    // looks like a torn tail. After it there may be records that an earlier crash cut off.
    let head = head_of(&stopped.open(&stopped.disk.fork()).expect("it is whole"));
    let in_log = kinds
        .iter()
        .filter(|(block, kind)| matches!(kind, BlockKind::RecordHeader { .. }) && block - 256 < head);
    let last = in_log.map(|(block, _)| *block).max().expect("it has records");
    let mut tested = 0;
    let picked = headers.iter().step_by(5).filter(|&&header| header < last);
    for &header in picked.filter(|&&header| (header - 256) % 256 > 8) {
        let disk = stopped.disk.fork();
        let (slot, lsn) = (slot_of(header), header - 256);
        disk.flip_bit(header, 77);
        disk.flip_bit(256 + slot * 256 + 254, 77);
        let pool = stopped.open(&disk).unwrap_or_else(|error| panic!("{header}: {error}"));
        assert!(problems(&pool).iter().any(|problem| problem.contains("lost")), "{:?}", problems(&pool));
        let exists = |place: usize| pool.find_volume(stopped.name(place)).is_some();
        // Each block is right or a media error: this panics on wrong data.
        stopped.compare(&pool, u64::MAX);
        let points: Vec<(usize, u64)> = stopped.points_before(lsn, 2);
        for (index, &(place, at)) in points.iter().enumerate() {
            let faults = stopped.compare_point(&pool, place, at, &format!("old{index}"));
            assert!(faults.is_empty(), "{header}: a point before the loss is exact: {faults:?}");
        }
        let size_bytes = 64 * BLOCK_BYTES as u64;
        let fresh = CreateVolume { name: "fresh".to_owned(), size_bytes, uuid: None, thin: false };
        wait(&pool, Rc::clone(&pool).create_volume(fresh)).expect("there is room");
        let old = (0..1).find(|&place| exists(place));
        if let Some(place) = old {
            // A block that is written again is certain again.
            let id = pool.find_volume(stopped.name(place)).expect("it exists").id;
            let bytes = [7; BLOCK_BYTES];
            let request = Request::Write { block: 3, data: &[&bytes], force_unit_access: true };
            assert_eq!(run(&pool, id, &request).result, Ok(()));
            assert_eq!(run(&pool, id, &Request::Read { block: 3, len_blocks: 1 }).data[0][..], bytes);
        }
        wait(&pool, Rc::clone(&pool).close()).expect("it closes");
        drop(pool);
        let pool = stopped.open(&disk).unwrap_or_else(|error| panic!("{header}: {error}"));
        for (index, &(place, at)) in points.iter().enumerate() {
            let state = stopped.state_at(place, at).expect("it existed");
            let faults = stopped.compare_volume(&pool, &format!("old{index}"), &state);
            assert!(faults.is_empty(), "{header}: a clone of a point before the loss stays exact");
        }
        let fresh = pool.find_volume("fresh").expect("it was made");
        let read = run(&pool, fresh.id, &Request::Read { block: 0, len_blocks: 64 });
        assert_eq!(read.result, Ok(()), "{header}: a volume made after the loss is not touched by it");
        tested += 1;
    }
    assert!(tested > 5, "{tested}");
}

/// No text of a change of the catalog can be read. The volumes, their images and sizes are then not
/// known from it up to the end of its segment: points there are refused, all others are exact.
#[test]
fn points_whose_volumes_are_not_known_are_refused() {
    let stopped = small_run(11, 200, false).stop();
    let disk = stopped.disk.fork();
    for (device_block, kind) in stopped.classify() {
        if matches!(kind, BlockKind::Event { kind: EventKind::Change, .. }) {
            assert!(disk.flip_bit(device_block, 5));
        }
    }
    let pool = stopped.open(&disk).expect("it opens");
    let (mut exact, mut refused) = (0, 0);
    for (index, (place, lsn)) in stopped.points_before(u64::MAX, usize::MAX).into_iter().enumerate() {
        let (source, name) = (stopped.name(place).to_owned(), format!("old{index}"));
        let clone = Rc::clone(&pool).clone_volume(source, Point::Lsn(lsn), name.clone(), false);
        match wait(&pool, clone) {
            Ok(_) => {
                let state = stopped.state_at(place, lsn).expect("it existed");
                let size_bytes = pool.find_volume(&name).expect("it was made").size_bytes;
                assert_eq!(size_bytes, state.size_blocks * BLOCK_BYTES as u64, "lsn:{lsn}");
                assert_eq!(stopped.compare_volume(&pool, &name, &state), Vec::<u64>::new(), "lsn:{lsn}");
                exact += 1;
                wait(&pool, Rc::clone(&pool).delete_volume(name)).expect("it is deleted");
            }
            Err(error) => {
                assert!(error.to_string().contains("cannot be read now"), "lsn:{lsn}: {error}");
                refused += 1;
            }
        }
    }
    println!("{exact} points are exact, {refused} are refused");
    assert!(exact > 20 && refused > 20, "{exact} and {refused}");
}

/// The same on a real file: flipped data is a media error, and a flipped header is reported.
#[test]
fn a_flipped_bit_in_a_real_file() {
    use std::os::unix::fs::FileExt;
    let stopped = small_run(13, 60, false).stop();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pool");
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
    file.set_len((257 + 24 * 256) * BLOCK_BYTES as u64).expect("a length");
    let kinds = stopped.classify();
    for (device_block, _) in &kinds {
        let bytes = stopped.disk.block(*device_block).expect("it was written");
        file.write_all_at(&bytes, device_block * BLOCK_BYTES as u64).expect("a write");
    }
    let flip = |device_block: u64| {
        let mut byte = [0];
        let at = device_block * BLOCK_BYTES as u64 + 1234;
        file.read_exact_at(&mut byte, at).expect("a read");
        file.write_all_at(&[byte[0] ^ 4], at).expect("a write");
    };
    let held = kinds.iter().find_map(|(device_block, kind)| match *kind {
        BlockKind::Data { block, stamp } => {
            let holders = stopped.holders(block, stamp, u64::MAX);
            (!holders.is_empty()).then_some((*device_block, holders))
        }
        _ => None,
    });
    let (device_block, holders): (u64, BTreeSet<_>) = held.expect("a block is in use");
    flip(device_block);
    flip(256);
    let pool = stopped.open_file(&path).expect("it opens");
    assert_eq!(stopped.compare(&pool, u64::MAX), holders);
    assert!(problems(&pool).iter().any(|problem| problem.contains("header")), "{:?}", problems(&pool));
    assert!(pool.stats().checksum_errors > 0);
}
