//! `varve inspect` on the files of pools: its totals equal the pool's own, it rebuilds the volumes
//! from segments alone, and it finds and names damage.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use varve::bdev::{FileOptions, SharedBdev, open_file};
use varve::dma::{BLOCK_BYTES, DmaPool};
use varve::inspect::report::Problem;
use varve::inspect::{InspectError, Inspection, print, run};
use varve::log::format::EntryKind;
use varve::log::inspect::{Presence, SlotState, TrailerState};
use varve::log::reader::SegmentEntries;
use varve::options::InspectOptions;
use varve::reactor::block_on;
use varve::volume::{
    CreateVolume, MAX_IO_BLOCKS, Point, Pool, PoolStats, Request, SegmentInfo, SegmentState, SynchInfo,
    VolumeInfo,
};
use varve_tests::sim::disk::{Crash, SimDisk};
use varve_tests::sim::model::fill;
use varve_tests::sim::rng::Rng;
use varve_tests::sim::workload::{Run, Shape};
use varve_tests::sim::world::{World, run as run_request, wait};

const SEGMENT_BLOCKS: u64 = 256;
const VOLUME_BLOCKS: u64 = 512;

/// A pool's file, and what the pool reported before it was closed.
struct Sample {
    directory: tempfile::TempDir,
    stats: PoolStats,
    volumes: Vec<VolumeInfo>,
    segments: Vec<SegmentInfo>,
    synchs: Vec<SynchInfo>,
    /// The bytes of each volume, in the same order.
    contents: Vec<Vec<u8>>,
}

impl Sample {
    fn path(&self) -> PathBuf {
        self.directory.path().join("pool")
    }
}

fn read_all(pool: &Pool, volume: &VolumeInfo) -> Vec<u8> {
    let size_blocks = volume.size_bytes / BLOCK_BYTES as u64;
    let mut bytes = Vec::new();
    for block in (0..size_blocks).step_by(MAX_IO_BLOCKS as usize) {
        let len_blocks = (size_blocks - block).min(u64::from(MAX_IO_BLOCKS)) as u32;
        let completion = run_request(pool, volume.id, &Request::Read { block, len_blocks });
        completion.result.expect("the pool reads");
        completion.data.iter().for_each(|piece| bytes.extend_from_slice(piece));
    }
    bytes
}

fn write(pool: &Pool, volume: &VolumeInfo, rng: &mut Rng, count: u64) {
    for _ in 0..count {
        let len_blocks = 1 + rng.below(8);
        let block = rng.below(VOLUME_BLOCKS - len_blocks);
        let mut bytes = vec![0; len_blocks as usize * BLOCK_BYTES];
        let stamp = rng.next_u64();
        for (index, chunk) in (0..).zip(bytes.chunks_exact_mut(BLOCK_BYTES)) {
            fill(stamp, block + index, chunk);
        }
        let request = Request::Write { block, data: &[&bytes], force_unit_access: false };
        run_request(pool, volume.id, &request).result.expect("the pool writes");
        if rng.below(10) == 0 {
            let ranges = [(rng.below(VOLUME_BLOCKS - 20), 1 + rng.below(20))];
            run_request(pool, volume.id, &Request::Trim { ranges: &ranges }).result.expect("the pool trims");
        }
    }
}

fn create(pool: &Rc<Pool>, name: &str) -> VolumeInfo {
    let size_bytes = VOLUME_BLOCKS * BLOCK_BYTES as u64;
    let request = CreateVolume { name: name.to_owned(), size_bytes, uuid: None, thin: false };
    wait(pool, Rc::clone(pool).create_volume(request)).expect("a volume")
}

/// A pool with two volumes, a clone of one at a synch, a snapshot, and several segments; closed
/// unless `crash`.
fn sample(crash: bool) -> Sample {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pool");
    let options =
        FileOptions { create_len_blocks: Some(257 + 16 * SEGMENT_BLOCKS), ..FileOptions::default() };
    let world = World::new(1);
    let pool = world.create(open_file(&path, &options).expect("a file"), SEGMENT_BLOCKS).expect("a new pool");
    let mut rng = Rng::new(2);
    let first = create(&pool, "first");
    let second = create(&pool, "second");
    write(&pool, &first, &mut rng, 60);
    write(&pool, &second, &mut rng, 40);
    let details = serde_json::json!({"application": "test"});
    wait(&pool, Rc::clone(&pool).create_synch("consistent".to_owned(), details)).expect("a synch");
    write(&pool, &first, &mut rng, 20);
    wait(&pool, Rc::clone(&pool).create_snapshot("named".to_owned())).expect("a snapshot");
    let point = Point::Synch("consistent".to_owned());
    let clone = Rc::clone(&pool).clone_volume("first".to_owned(), point, "clone".to_owned(), false);
    let clone = wait(&pool, clone).expect("a clone").volume;
    write(&pool, &clone, &mut rng, 30);
    write(&pool, &first, &mut rng, 30);
    let volumes = pool.volumes();
    run_request(&pool, volumes[0].id, &Request::Flush).result.expect("a flush");
    let sample = Sample {
        directory,
        stats: pool.stats(),
        contents: volumes.iter().map(|volume| read_all(&pool, volume)).collect(),
        volumes,
        segments: pool.segments(),
        synchs: pool.synchs().infos(),
    };
    if !crash {
        wait(&pool, Rc::clone(&pool).close()).expect("a clean close");
    }
    sample
}

fn inspect(path: &Path) -> Inspection {
    Inspection::open(path, true).expect("a pool is there")
}

fn text(inspection: &Inspection) -> String {
    let mut text = Vec::new();
    print(inspection.report(), false, &mut text).expect("memory takes everything");
    String::from_utf8(text).expect("text")
}

/// Flips a bit in a block of a file.
fn flip(path: &Path, block: u64, byte: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the file opens");
    let mut value = [0];
    file.read_exact_at(&mut value, block * BLOCK_BYTES as u64 + byte).expect("it reads");
    value[0] ^= 0x10;
    file.write_all_at(&value, block * BLOCK_BYTES as u64 + byte).expect("it writes");
}

fn options(path: &Path, json: bool) -> InspectOptions {
    InspectOptions { file: path.to_owned(), entries: false, json }
}

#[test]
fn totals_are_the_pools_own() {
    let sample = sample(false);
    let before = std::fs::read(sample.path()).expect("the file reads");
    let inspection = inspect(&sample.path());
    let report = inspection.report();
    assert!(report.ok, "{}", text(&inspection));
    assert!(report.problems.is_empty() && report.log.clean);
    assert_eq!(report.log.end_lsn, sample.stats.head_lsn);
    let mapped: u64 = report.volumes.iter().map(|volume| volume.mapped_blocks).sum();
    assert_eq!(mapped, sample.stats.mapped_blocks);
    for volume in &sample.volumes {
        let found = report.volumes.iter().find(|found| found.name == volume.name).expect("it is listed");
        assert_eq!(found.mapped_blocks, volume.mapped_blocks, "{}", volume.name);
        assert_eq!(found.checked_blocks, volume.mapped_blocks, "{}", volume.name);
        assert_eq!((found.uuid, found.size_bytes), (volume.uuid, volume.size_bytes));
        assert_eq!((found.image, found.parent), (volume.image, volume.parent));
        let runs = found.index.as_ref().expect("it was asked for").runs();
        assert_eq!(runs.iter().map(|run| run.len_blocks).sum::<u64>(), volume.mapped_blocks);
    }
    assert!(sample.segments.iter().filter(|segment| segment.sequence.is_some()).count() > 3);
    for segment in &sample.segments {
        let slot = &report.slots[segment.slot as usize];
        let state = match segment.state {
            SegmentState::Current => SlotState::Current,
            SegmentState::Active => SlotState::Active,
            SegmentState::Inactive | SegmentState::Recycle => SlotState::Recycle,
        };
        assert_eq!((slot.sequence, slot.state), (segment.sequence, state), "slot {}", segment.slot);
        assert_eq!(slot.totals.entries.total(), segment.entries, "slot {}", segment.slot);
        let trailer = match state {
            SlotState::Current => TrailerState::Partial,
            SlotState::Active => TrailerState::Full,
            _ => TrailerState::None,
        };
        assert_eq!(slot.trailer, trailer, "slot {}", segment.slot);
        let records = slot.records.as_ref().map_or(0, |records| records.iter().count());
        assert_eq!(records as u64, slot.totals.records);
    }
    let entries: u64 = sample.segments.iter().map(|segment| segment.entries).sum();
    assert_eq!(report.totals.entries.total(), entries);
    assert_eq!(report.synchs, sample.synchs);
    assert_eq!(report.snapshots.len(), 1);
    drop(inspection);
    run(&options(&sample.path(), false)).expect("all is well");
    assert_eq!(before, std::fs::read(sample.path()).expect("the file reads"), "nothing was written");
}

/// R8: the volumes' bytes from the segments alone.
#[test]
fn volumes_are_rebuilt_from_segments() {
    for crash in [false, true] {
        let sample = sample(crash);
        let mut inspection = inspect(&sample.path());
        assert!(inspection.report().ok, "{}", text(&inspection));
        assert_eq!(inspection.report().log.clean, !crash);
        for (volume, contents) in sample.volumes.iter().zip(&sample.contents) {
            let bytes = inspection.read_volume(&volume.name, 0, VOLUME_BLOCKS).expect("it is whole");
            assert!(bytes == *contents, "volume {} differs", volume.name);
        }
        assert!(matches!(inspection.read_volume("none", 0, 1), Err(InspectError::NoSuchVolume { .. })));
    }
}

#[test]
fn json_has_the_same_numbers() {
    let sample = sample(false);
    let inspection = inspect(&sample.path());
    let report = inspection.report();
    let mut json = Vec::new();
    print(report, true, &mut json).expect("memory takes everything");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("one JSON document");
    assert_eq!(json["ok"], true);
    assert_eq!(json["log"]["end_lsn"], report.log.end_lsn);
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    assert_eq!(list(&json["superblocks"]).len(), 3);
    assert_eq!(list(&json["slots"]).len(), report.slots.len());
    let records: Vec<_> = list(&json["slots"]).iter().flat_map(|slot| list(&slot["records"])).collect();
    assert_eq!(records.len() as u64, report.totals.records);
    let entries: Vec<_> = records.iter().flat_map(|record| list(&record["entries"])).collect();
    assert_eq!(entries.len() as u64, report.totals.entries.total());
    let trims = entries.iter().filter(|entry| entry["kind"] == "trim").count();
    assert_eq!(trims as u64, report.totals.entries.trim);
    for (volume, shown) in report.volumes.iter().zip(list(&json["volumes"])) {
        assert_eq!(shown["mapped_blocks"], volume.mapped_blocks);
        let runs = list(&shown["index"]);
        let blocks: u64 = runs.iter().filter_map(|run| run["len_blocks"].as_u64()).sum();
        assert_eq!(blocks, volume.mapped_blocks);
    }
    let text = text(&inspection);
    for part in ["Superblocks", "Slots", "Volumes", "Synchs", "consistent", "named", "Index of volume clone"]
    {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    assert!(!text.contains("Problems") && !text.contains("FAILED"), "{text}");
}

#[test]
fn a_flipped_data_bit_is_named_with_volume_and_block() {
    let sample = sample(false);
    let (block, lsn, device_block) = {
        let inspection = inspect(&sample.path());
        let report = inspection.report();
        let volume = report.volumes.iter().find(|volume| volume.name == "second").expect("it is there");
        let run = volume.index.as_ref().expect("it was asked for").runs()[3];
        let sequence = run.lsn / SEGMENT_BLOCKS;
        let slot = report.slots.iter().find(|slot| slot.sequence == Some(sequence)).expect("it is there");
        (run.block, run.lsn, slot.device_block + run.lsn % SEGMENT_BLOCKS)
    };
    flip(&sample.path(), device_block, 1000);
    let mut inspection = inspect(&sample.path());
    let report = inspection.report();
    assert!(!report.ok);
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    let problem = &report.problems[0];
    assert_eq!(problem.lsn, Some(lsn));
    assert_eq!((problem.blocks[0].volume.as_str(), problem.blocks[0].block), ("second", block));
    assert!(problem.text.contains(&format!("block {block} of volume 'second'")), "{}", problem.text);
    assert_eq!(report.totals.damaged_blocks, 1);
    assert!(inspection.read_volume("second", block, 1).is_err());
    assert!(inspection.read_volume("first", 0, VOLUME_BLOCKS).is_ok());
    let error = run(&options(&sample.path(), true)).expect_err("a check failed").to_string();
    assert!(error.contains("1 problem") && !error.contains('\n'), "{error}");
}

/// Damages one structure; the report says so and shows everything else, and the volumes are
/// undamaged.
fn damaged(flips: &[(u64, u64)], expected: &str) -> Inspection {
    let sample = sample(false);
    for &(block, byte) in flips {
        flip(&sample.path(), block, byte);
    }
    let mut inspection = inspect(&sample.path());
    let shown = text(&inspection);
    assert!(!inspection.report().ok && shown.contains(expected), "{expected} is missing in:\n{shown}");
    assert!(run(&options(&sample.path(), false)).is_err());
    assert_eq!(inspection.report().volumes.len(), sample.volumes.len());
    for (volume, contents) in sample.volumes.iter().zip(&sample.contents) {
        let bytes = inspection.read_volume(&volume.name, 0, VOLUME_BLOCKS).expect("it is whole");
        assert!(bytes == *contents, "volume {} differs", volume.name);
    }
    inspection
}

#[test]
fn damaged_structures_are_reported_and_the_rest_shown() {
    let slot_block = |slot: u64| 256 + slot * SEGMENT_BLOCKS;
    let trailer = slot_block(2) + SEGMENT_BLOCKS - varve::log::format::trailer_blocks(SEGMENT_BLOCKS);
    let inspection = damaged(&[(0, 200)], "superblock copy 0: checksum mismatch");
    assert_eq!(inspection.report().superblocks[0].error.as_deref(), Some("checksum mismatch"));
    damaged(&[(1, 40)], "superblock copy 1: checksum mismatch");
    let inspection = damaged(&[(slot_block(1), 50)], "header in slot 1 is damaged");
    assert_eq!(inspection.report().slots[1].header, Presence::Damaged);
    assert_eq!(inspection.report().slots[1].state, SlotState::Active);
    for byte in [20, 3000] {
        let inspection = damaged(&[(trailer, byte)], "trailer");
        assert_eq!(inspection.report().slots[2].trailer, TrailerState::Damaged);
    }
    // The trailer has the entries of a record whose header is damaged.
    damaged(&[(slot_block(2) + 1, 100)], "record header at LSN 513 is damaged");
    // An event's text has two copies.
    let event = {
        let sample = sample(false);
        let inspection = inspect(&sample.path());
        let records = inspection.report().slots[2].records.as_ref().expect("they were asked for");
        let mut placed = records.iter().flat_map(|(line, entries)| SegmentEntries::placed(line, entries));
        let event = placed.find(|placed| placed.entry.kind() == Some(EntryKind::Event));
        event.expect("the segment has an event").lsn.0
    };
    let block = slot_block(2) + event % SEGMENT_BLOCKS;
    damaged(&[(block, 10)], "copy 0 of the text of a ");
}

#[test]
fn what_is_no_pool_is_refused_in_one_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    let one_line = |path: &Path, expected: &str| {
        let error = run(&options(path, false)).expect_err("it is no pool").to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    };
    one_line(&path, "does not exist");
    std::fs::write(&path, vec![7; 1 << 20]).expect("a file");
    one_line(&path, "holds no varve pool");
    std::fs::write(&path, b"short").expect("a file");
    one_line(&path, "less than one block");
    one_line(directory.path(), "a directory");
    let sample = sample(false);
    let held = open_file(sample.path(), &FileOptions::default()).expect("it opens");
    one_line(&sample.path(), "is in use by");
    drop(held);
    let reader = FileOptions { read_only: true, ..FileOptions::default() };
    let _other = open_file(sample.path(), &reader).expect("it opens");
    run(&options(&sample.path(), false)).expect("readers do not exclude each other");
}

/// A device that lost its end is shown up to there.
#[test]
fn a_file_that_was_cut_off_is_shown_as_far_as_it_goes() {
    let sample = sample(false);
    let file = OpenOptions::new().write(true).open(sample.path()).expect("the file opens");
    file.set_len((256 + 3 * SEGMENT_BLOCKS + 100) * BLOCK_BYTES as u64).expect("it is cut");
    let inspection = inspect(&sample.path());
    let shown = text(&inspection);
    assert!(!inspection.report().ok && shown.contains("has shrunk"), "{shown}");
    assert!(inspection.report().totals.records > 0);
}

/// Copies a simulated disk to a file.
fn copy_to_file(disk: &SimDisk, len_blocks: u64, path: &Path) {
    let file = std::fs::File::create(path).expect("a file");
    file.set_len(len_blocks * BLOCK_BYTES as u64).expect("its size");
    let disk = disk.fork();
    let device = SharedBdev::new(disk.open());
    let dma = DmaPool::new(8 << 20);
    for block in disk.written_blocks() {
        let (reader, driven) = (device.clone(), device.clone());
        let buffer = dma.allocate(BLOCK_BYTES).expect("memory");
        let read = block_on(async move { reader.read(block, buffer).await }, move || {
            driven.queue().drive();
        });
        file.write_all_at(read.expect("it reads").as_slice(), block * BLOCK_BYTES as u64).expect("it writes");
    }
}

/// After random operations and crashes of both kinds, an inspection of the device in the state that
/// the crash left finds the same as the pool when it is opened.
#[test]
fn after_crashes_it_finds_what_the_next_start_finds() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pool");
    let device_blocks = 16 * 1024;
    for seed in 900..916 {
        let shape = Shape {
            device_blocks,
            segment_blocks: SEGMENT_BLOCKS,
            volatile_cache: seed % 2 == 0,
            volume_blocks: 400,
        };
        let mut run = Run::new(seed, shape);
        for _ in 0..3 {
            let steps = 20 + run.rng.below(100);
            for _ in 0..steps {
                if !run.step() {
                    break;
                }
            }
            let crash = if run.rng.below(2) == 0 { Crash::Process } else { Crash::Power };
            run.crash(crash);
            // The pool is open again; the device holds the state that its start left, which is
            // another crash's state.
            let volumes = run.pool.volumes();
            copy_to_file(&run.disk, device_blocks, &path);
            let mut inspection = inspect(&path);
            // A power cut may tear a trailer while it is written, which looks like any other damage
            // to it; nothing else may be wrong.
            let torn = |problem: &Problem| problem.text.contains("its trailer is damaged");
            let report = inspection.report();
            assert!(report.problems.iter().all(torn), "seed {seed}: {}", text(&inspection));
            assert_eq!(report.ok, report.problems.is_empty(), "seed {seed}: {}", text(&inspection));
            assert!(report.checks.iter().all(|check| check.ok || check.name == "segments"));
            assert_eq!(report.volumes.len(), volumes.len());
            for volume in &volumes {
                let report = inspection.report();
                let found = report.volumes.iter().find(|found| found.name == volume.name).expect("listed");
                assert_eq!(found.mapped_blocks, volume.mapped_blocks, "seed {seed}, {}", volume.name);
                let size_blocks = volume.size_bytes / BLOCK_BYTES as u64;
                let expected = read_all(&run.pool, volume);
                let bytes = inspection.read_volume(&volume.name, 0, size_blocks).expect("it is whole");
                assert!(bytes == expected, "seed {seed}: volume {} differs", volume.name);
            }
        }
    }
}
