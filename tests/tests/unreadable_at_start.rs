//! Unreadable device blocks, one at a time, at a start: the pool opens, reports them, and refuses
//! only what the block holds or what its entries may have replaced.

use std::collections::BTreeMap;

use varve::dma::BLOCK_BYTES;
use varve::log::format::{Entry, RecordHead, SegmentHeader};
use varve::log::{BlockNumber, ImageId, Lsn, Recycling, SegmentSeq};
use varve::volume::{IoError, PoolOptions, Request, SegmentInfo, SegmentState};
use varve_tests::sim::damage::{BlockKind, problems};
use varve_tests::sim::disk::Crash;
use varve_tests::sim::workload::{Run, Shape};
use varve_tests::sim::world::run;

fn small_run(seed: u64, steps: u64, volatile_cache: bool) -> Run {
    let shape =
        Shape { device_blocks: 257 + 24 * 256, segment_blocks: 256, volatile_cache, volume_blocks: 120 };
    let mut run = Run::new(seed, shape);
    for _ in 0..steps {
        run.step();
    }
    run
}

/// A run that recycles segments.
fn endless_run(seed: u64, steps: u64) -> Run {
    let shape = Shape {
        device_blocks: 257 + 12 * 256,
        segment_blocks: 256,
        volatile_cache: false,
        volume_blocks: 90,
    };
    let options = PoolOptions { recycling: Recycling::Discard, ..PoolOptions::default() };
    let mut run = Run::with_options(seed, shape, options);
    run.write_all();
    for step in 0..steps {
        if step % 30 == 0 {
            run.step_write(4);
        } else {
            run.step_hot_write();
        }
    }
    run
}

/// After a clean stop: an unreadable data block costs only itself; everything else has a second
/// copy.
#[test]
fn one_unreadable_block_after_a_clean_stop() {
    let stopped = small_run(11, 130, false).stop();
    let (mut data, mut metadata) = (0, 0);
    for (device_block, kind) in stopped.classify() {
        let disk = stopped.disk.fork();
        disk.fail_reads_of(&[device_block]);
        let pool = stopped.open(&disk).unwrap_or_else(|error| panic!("{device_block} {kind:?}: {error}"));
        let faults = stopped.compare(&pool, u64::MAX);
        let context = format!("{kind:?} at {device_block}: {:?}", problems(&pool));
        match kind {
            BlockKind::Data { block, stamp } => {
                assert_eq!(faults, stopped.holders(block, stamp, u64::MAX), "{context}");
                data += 1;
            }
            BlockKind::Superblock | BlockKind::SegmentHeader | BlockKind::Trailer { .. } => {
                assert!(faults.is_empty() && !problems(&pool).is_empty(), "{context}");
                metadata += 1;
            }
            _ => assert!(faults.is_empty(), "{context}"),
        }
        let head = pool.stats().head_lsn - 1;
        assert!(head >= stopped.head_lsn(), "{context}");
    }
    assert!(data > 300 && metadata > 12, "{data} data blocks, {metadata} others");
}

/// After a crash, also where no trailer covers a record: nothing flushed is missing without a
/// report.
#[test]
fn one_unreadable_block_after_a_crash() {
    let mut lost_headers = 0;
    for seed in 0..4 {
        let crash = if seed % 2 == 0 { Crash::Process } else { Crash::Power };
        let stopped = small_run(40 + seed, 60, seed % 3 != 0).abandon(crash);
        let whole = stopped.open(&stopped.disk.fork()).expect("nothing is wrong with it");
        let head = whole.stats().head_lsn - 1;
        drop(whole);
        for (device_block, kind) in stopped.classify() {
            let disk = stopped.disk.fork();
            disk.fail_reads_of(&[device_block]);
            let pool = stopped.open(&disk).unwrap_or_else(|error| panic!("{device_block} {kind:?}: {error}"));
            let context = format!("seed {seed} {kind:?} at {device_block}: {:?}", problems(&pool));
            let found = pool.stats().head_lsn - 1;
            // What is after the block exists; a loss is recorded at once, after it.
            assert!(found >= head, "lsn:{found} < lsn:{head}, {context}");
            if kind == (BlockKind::RecordHeader { events: true }) {
                continue;
            }
            let faults = stopped.compare(&pool, head);
            match kind {
                BlockKind::Data { block, stamp } => {
                    assert_eq!(faults, stopped.holders(block, stamp, head), "{context}");
                }
                BlockKind::RecordHeader { .. } => {
                    let is_told = problems(&pool).iter().any(|problem| problem.contains(" are lost"));
                    assert!(is_told || faults.is_empty(), "{context}");
                    lost_headers += u32::from(is_told);
                }
                _ => assert!(faults.is_empty(), "{context}"),
            }
        }
    }
    assert!(lost_headers > 5, "{lost_headers}");
}

/// A trailer that a crash tore, and an unreadable header of the last record before it: the next
/// segment records where this one ended, and the next segment is kept. It used to be cut off, with
/// all flushed data in it.
#[test]
fn a_segment_whose_end_cannot_be_read_costs_no_later_one() {
    let mut tried = 0;
    for seed in 0..6 {
        let stopped = small_run(60 + seed, 90, false).abandon(Crash::Process);
        let whole = stopped.open(&stopped.disk.fork()).expect("nothing is wrong with it");
        let head = whole.stats().head_lsn - 1;
        let segments: Vec<_> =
            whole.segments().into_iter().filter(|found| found.sequence.is_some()).collect();
        drop(whole);
        let newest = segments.iter().map(|segment| segment.sequence).max().expect("there are segments");
        let kinds = stopped.classify();
        for segment in segments.iter().filter(|segment| segment.sequence < newest) {
            let first = 256 + segment.slot * 256;
            let is_header = |&(_, kind): &(u64, BlockKind)| matches!(kind, BlockKind::RecordHeader { .. });
            let in_slot = kinds.iter().copied().filter(|(block, _)| (first..first + 256).contains(block));
            let Some((last, _)) = in_slot.filter(is_header).max_by_key(|&(block, _)| block) else { continue };
            let disk = stopped.disk.fork();
            disk.flip_bit(first + 254, 100);
            disk.flip_bit(first + 255, 100);
            disk.fail_reads_of(&[last]);
            let context = format!("seed {seed}, segment {:?}, header at {last}", segment.sequence);
            let pool = stopped.open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
            let found = pool.stats().head_lsn - 1;
            assert!(found >= head, "{context}: lsn:{found} < lsn:{head}: {:?}", problems(&pool));
            assert!(problems(&pool).iter().any(|problem| problem.contains(" are lost")), "{context}");
            tried += 1;
        }
    }
    assert!(tried > 8, "{tried}");
}

/// An unreadable trailer, in a segment whose next one was released early: a later header records
/// where it ended. The rest of the segment was once taken for lost records, and whatever they may
/// have replaced was refused.
#[test]
fn a_segment_ends_where_it_did_although_the_next_one_is_gone() {
    let (mut tried, mut lost_without) = (0, 0);
    for seed in 0..4 {
        let stopped = endless_run(80 + seed, 1500).stop();
        let whole = stopped.open(&stopped.disk.fork()).expect("nothing is wrong with it");
        let uuid = whole.info().uuid;
        let kept: BTreeMap<u64, SegmentInfo> = whole
            .segments()
            .into_iter()
            .filter(|segment| segment.slot != u64::MAX)
            .filter_map(|segment| Some((segment.sequence?, segment)))
            .collect();
        drop(whole);
        let header_block = |segment: &SegmentInfo| 256 + segment.slot * 256;
        let header_of = |segment: &SegmentInfo| {
            let block = stopped.disk.block(header_block(segment)).expect("a header");
            SegmentHeader::decode(&block, uuid, 256).expect("a header")
        };
        let (newest, last) = kept.last_key_value().expect("there are segments");
        for (sequence, segment) in kept.range(..newest) {
            let next = &kept[&(sequence + 1)];
            let header = header_of(last);
            if next.state != SegmentState::Inactive || *sequence < header.oldest.0 {
                continue;
            }
            let end = header_of(next).previous_end_lsn;
            for ends in [vec![end], vec![]] {
                let disk = stopped.disk.fork();
                let released = vec![SegmentSeq(sequence + 1)];
                let header = SegmentHeader { released, ends: ends.clone(), ..header.clone() };
                let mut block = [0; BLOCK_BYTES];
                header.encode(uuid, &mut block);
                disk.set_block(header_block(last), &block);
                let first = header_block(next);
                (first..first + 256).for_each(|block| disk.set_block(block, &[0; BLOCK_BYTES]));
                disk.fail_reads_of(&[header_block(segment) + 254]);
                let context = format!("seed {seed}, segment {sequence}");
                let pool = stopped.open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
                let told = problems(&pool);
                let is_lost = told.iter().any(|problem| problem.contains(" are lost"));
                if ends.is_empty() {
                    lost_without += u32::from(is_lost);
                    continue;
                }
                assert!(told.iter().any(|problem| problem.contains("its trailer")), "{context}");
                assert!(!is_lost, "{context}: {told:?}");
                assert!(stopped.compare(&pool, u64::MAX).is_empty(), "{context}");
                tried += 1;
            }
        }
    }
    assert!(tried > 3 && lost_without > 3, "{tried}, {lost_without}");
}

/// A slot was reused for a segment of which a power cut kept some blocks but not the header, and
/// the trailer of the previous segment in the slot cannot be read: that segment is gone, and not
/// damaged. What its overwritten records may have replaced was once refused.
#[test]
fn a_segment_that_was_given_away_is_not_taken_for_a_damaged_one() {
    let mut tried = 0;
    for seed in 0..8 {
        let stopped = endless_run(80 + seed, 1500).stop();
        let whole = stopped.open(&stopped.disk.fork()).expect("nothing is wrong with it");
        let inactive: Vec<_> = whole
            .segments()
            .into_iter()
            .filter(|segment| segment.state == SegmentState::Inactive && segment.slot != u64::MAX)
            .collect();
        let (head, uuid) = (whole.stats().head_lsn, whole.info().uuid);
        drop(whole);
        for (segment, epoch) in inactive.iter().flat_map(|segment| [(segment, 99), (segment, 0)]) {
            let later = head / 256 + 1;
            let record = RecordHead {
                version: 2,
                lsn: Lsn(later * 256 + 1),
                sequence: SegmentSeq(later),
                time_ns: u64::MAX / 2,
                stable_lsn: Lsn(head),
                epoch,
                data_blocks: 0,
            };
            let entry = Entry::trim(ImageId(1), BlockNumber(3), 1, true);
            let mut block = [0; BLOCK_BYTES];
            record.encode(uuid, &[entry], &mut block);
            let first = 256 + segment.slot * 256;
            let disk = stopped.disk.fork();
            disk.set_block(first + 1, &block);
            disk.fail_reads_of(&[first + 254]);
            let context = format!("seed {seed}, segment {:?}", segment.sequence);
            let pool = stopped.open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
            let told = problems(&pool);
            assert!(pool.stats().head_lsn >= head, "{context}");
            let is_lost = told.iter().any(|problem| problem.contains(" are lost"));
            // With a record of an older session the log went on without it: then it is unknown
            // whether the segment is needed.
            assert_eq!(is_lost, epoch == 0, "{context}: {told:?}");
            assert!(is_lost || stopped.compare(&pool, u64::MAX).is_empty(), "{context}");
            tried += 1;
        }
    }
    assert!(tried > 3, "{tried}");
}

/// The copy of the superblock at the old end of a device that grew may be where a later segment has
/// its trailer: nothing is wrong with that segment, and nothing is reported.
#[test]
fn an_old_superblock_is_no_damaged_trailer() {
    let stopped = small_run(31, 60, false).abandon(Crash::Process);
    let whole = stopped.open(&stopped.disk.fork()).expect("nothing is wrong with it");
    let segments = whole.segments();
    let current = segments.iter().find(|segment| segment.state == SegmentState::Current);
    let trailer_block = 256 + current.expect("there is one").slot * 256 + 254;
    drop(whole);
    let disk = stopped.disk.fork();
    let superblock = disk.block(0).expect("a superblock");
    disk.set_block(trailer_block, superblock.as_slice().try_into().expect("a block"));
    let pool = stopped.open(&disk).expect("it opens");
    assert!(problems(&pool).is_empty(), "{:?}", problems(&pool));
}

/// A slot that is completely unreadable never counts as free, and no older data is returned for
/// what it held.
#[test]
fn a_slot_that_cannot_be_read_is_not_free() {
    for seed in [3, 4] {
        let stopped = small_run(seed, 80, false).abandon(Crash::Process);
        let whole = stopped.open(&stopped.disk.fork()).expect("nothing is wrong with it");
        let kept = whole.segments().into_iter().filter(|segment| segment.sequence.is_some());
        let slot = kept.max_by_key(|segment| segment.sequence).expect("there is a segment").slot;
        drop(whole);
        let disk = stopped.disk.fork();
        let all: Vec<u64> = (256 + slot * 256..256 + (slot + 1) * 256).collect();
        disk.fail_reads_of(&all);
        let contents = || all.iter().map(|&block| disk.block(block)).collect::<Vec<_>>();
        let before = contents();
        let pool = stopped.open(&disk).expect("it opens");
        let told = problems(&pool);
        assert!(told.iter().any(|problem| problem.contains("cannot be read")), "{told:?}");
        assert!(told.iter().any(|problem| problem.contains(" are lost")), "{told:?}");
        for volume in pool.volumes() {
            for block in 0..volume.size_bytes / BLOCK_BYTES as u64 {
                // The block may have been written in the unreadable slot.
                let read = run(&pool, volume.id, &Request::Read { block, len_blocks: 1 });
                let is_zero = || read.data.iter().all(|data| data.iter().all(|&byte| byte == 0));
                assert!(read.result.is_err() || is_zero(), "'{}', block {block}", volume.name);
            }
            for block in 0..volume.size_bytes / BLOCK_BYTES as u64 {
                let data: &[&[u8]] = &[&[7; BLOCK_BYTES]];
                let write = Request::Write { block, data, force_unit_access: false };
                let result = run(&pool, volume.id, &write).result;
                assert!(result.is_ok() || volume.read_only, "'{}', block {block}: {result:?}", volume.name);
            }
        }
        drop(pool);
        assert!(contents() == before, "seed {seed}: the slot was used again");
    }
}

/// Slots that read as zeroes, the newest among them: older blocks become live again, also in
/// segments that must leave the working set before the next one is opened, while no segment is open
/// to take these blocks. Writes must continue; they once waited forever.
#[test]
fn writes_go_on_whatever_slots_are_lost() {
    let mut tried = 0;
    for seed in 0..6 {
        let stopped = endless_run(120 + seed, 800).abandon(Crash::Process);
        let whole = stopped.open(&stopped.disk.fork()).expect("nothing is wrong with it");
        let mut kept: Vec<(u64, u64)> = whole
            .segments()
            .into_iter()
            .filter(|segment| segment.slot != u64::MAX)
            .filter_map(|segment| Some((segment.sequence?, segment.slot)))
            .collect();
        drop(whole);
        kept.sort_unstable();
        let (_, newest) = kept.pop().expect("there is a segment");
        for (sequence, slot) in kept {
            let disk = stopped.disk.fork();
            for lost in [newest, slot] {
                (256 + lost * 256..256 + (lost + 1) * 256)
                    .for_each(|block| disk.set_block(block, &[0; BLOCK_BYTES]));
            }
            let context = format!("seed {seed}, segment {sequence}");
            let pool = stopped.open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
            for volume in pool.volumes().iter().filter(|volume| !volume.read_only) {
                for block in 0..volume.size_bytes / BLOCK_BYTES as u64 {
                    let data: &[&[u8]] = &[&[7; BLOCK_BYTES]];
                    let write = Request::Write { block, data, force_unit_access: false };
                    let result = run(&pool, volume.id, &write).result;
                    let ended = matches!(result, Ok(()) | Err(IoError::CapacityExceeded));
                    assert!(ended, "{context}: '{}', block {block}: {result:?}", volume.name);
                }
            }
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
}

/// Both superblocks at the head are lost, one by a bad sector and the other by a crash, and the
/// device has grown past the one at the end: the pool searches for that one.
#[test]
fn the_last_superblock_is_found_on_a_device_that_has_grown() {
    let stopped = small_run(17, 60, false).stop();
    for (unreadable, damaged, more_blocks) in [(0, 1, 1), (1, 0, 700), (0, 1, 5000)] {
        let disk = stopped.disk.fork();
        disk.grow(more_blocks);
        disk.fail_reads_of(&[unreadable]);
        disk.flip_bit(damaged, 300);
        let context = format!("{more_blocks} blocks more");
        let pool = stopped.open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(stopped.compare(&pool, u64::MAX).is_empty(), "{context}");
        let told = problems(&pool).join("\n");
        assert!(
            told.contains("superblock copy 0") && told.contains("superblock copy 1"),
            "{context}: {told}"
        );
    }
    // A foreign device, or an empty one, is not searched.
    let disk = stopped.disk.fork();
    disk.grow(700);
    for block in [0, 1] {
        disk.set_block(block, &[0; BLOCK_BYTES]);
    }
    assert!(stopped.open(&disk).is_err());
}
