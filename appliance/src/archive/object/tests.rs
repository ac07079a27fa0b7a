//! Tests of the format's promises: exact bytes for zstd itself, few reads, and no unnoticed damage.

use std::cell::RefCell;
use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use uuid::Uuid;

use super::seek::checksum;
use super::*;
use crate::archive::store::StoreError;
use crate::dma::BLOCK_BYTES;
use crate::log::format::{Entry, RecordLine, TrailerUnit};
use crate::log::reader::LsnRange;
use crate::log::types::{BlockNumber, ImageId, Lsn, SegmentSeq};

const SEGMENT_BLOCKS: u64 = 256;

fn spec(from: u64, to: u64, frame_bytes: u32) -> ObjectSpec {
    let first = 7 * SEGMENT_BLOCKS;
    ObjectSpec {
        id: ObjectId {
            pool: Uuid::from_u128(0x1234),
            epoch: 3,
            sequence: SegmentSeq(7),
            from_lsn: Lsn(first + from),
            to_lsn: Lsn(first + to),
            whole: from == 0 && to == SEGMENT_BLOCKS,
            claim: ClaimId::NONE,
        },
        segment_blocks: SEGMENT_BLOCKS,
        opened_ns: 11,
        sealed_ns: 22,
        frame_bytes,
    }
}

/// Blocks that compress a little: half noise, half pattern.
fn blocks(count: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(count as usize * BLOCK_BYTES);
    for block in 0..count {
        for word in 0..(BLOCK_BYTES / 8) as u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = if word % 2 == 0 { state >> 32 } else { block };
            bytes.extend_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

/// Records of up to 9 blocks from one position to another.
fn records(from: u64, to: u64) -> Vec<TrailerUnit> {
    let mut units = Vec::new();
    let mut lsn = from;
    while lsn < to {
        let data_blocks = (to - lsn - 1).min(9) as u8;
        let mut entries: Vec<Entry> = (0..data_blocks)
            .map(|index| {
                let mixed = (lsn + u64::from(index)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                Entry::write(ImageId(1), BlockNumber(mixed >> 30), mixed as u32, Lsn(mixed >> 20), true)
            })
            .collect();
        if entries.is_empty() {
            entries.push(Entry::trim(ImageId(1), BlockNumber(1), 1, true));
        }
        let line = RecordLine::new(Lsn(lsn), lsn, entries.len() as u8, data_blocks, 3);
        units.push(zerocopy::transmute!(line));
        units.extend(entries.iter().map(|&entry| -> TrailerUnit { zerocopy::transmute!(entry) }));
        lsn += 1 + u64::from(data_blocks);
    }
    units
}

/// The units of an object without holes.
fn units(spec: &ObjectSpec) -> Vec<TrailerUnit> {
    records(spec.id.first_record_lsn(spec.segment_blocks).0, spec.id.to_lsn.0)
}

fn build(spec: ObjectSpec, units: &[TrailerUnit], content: &[u8], push_blocks: usize) -> Vec<u8> {
    build_with(Compressor::new(LEVEL_DEFAULT).unwrap(), spec, units, content, push_blocks)
}

fn build_with(
    mut compressor: Compressor,
    spec: ObjectSpec,
    units: &[TrailerUnit],
    content: &[u8],
    push_blocks: usize,
) -> Vec<u8> {
    let mut object = Vec::new();
    let mut writer = ObjectWriter::begin(&mut compressor, spec, units, &[], &mut object).unwrap();
    for part in content.chunks(push_blocks * BLOCK_BYTES) {
        writer.push(part).unwrap();
    }
    let summary = writer.finish(&[]).unwrap();
    assert_eq!(summary.object_bytes, object.len() as u64);
    assert!(object.len() as u64 <= spec.max_bytes(units.len()), "the bound holds");
    object
}

/// An object with listed holes and damaged blocks.
fn build_with_missing(
    spec: ObjectSpec,
    units: &[TrailerUnit],
    holes: &[LsnRange],
    damaged: &[Lsn],
    content: &[u8],
) -> Result<Vec<u8>, ObjectError> {
    let mut compressor = Compressor::new(LEVEL_DEFAULT)?;
    let mut object = Vec::new();
    let mut writer = ObjectWriter::begin(&mut compressor, spec, units, holes, &mut object)?;
    writer.push(content)?;
    writer.finish(damaged)?;
    assert!(object.len() as u64 <= spec.max_bytes(units.len()), "the bound holds");
    Ok(object)
}

fn zstd(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("zstd")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the tests need Debian's zstd");
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success());
    output.stdout
}

/// Counts the reads of a slice, and their bytes.
struct Counted<'a> {
    bytes: &'a [u8],
    reads: RefCell<Vec<(u64, usize)>>,
}

impl RangedRead for Counted<'_> {
    fn len_bytes(&self) -> Result<u64, StoreError> {
        self.bytes.len_bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.reads.borrow_mut().push((offset, buffer.len()));
        self.bytes.read_at(offset, buffer)
    }
}

#[test]
fn the_zstd_tool_gives_the_exact_bytes() {
    for (from, to, frame_bytes, push) in
        [(0, 256, FRAME_BYTES_DEFAULT, 256), (0, 256, FRAME_BYTES_MAX, 7), (5, 100, FRAME_BYTES_MIN, 1)]
    {
        let content = blocks(to - from);
        let spec = spec(from, to, frame_bytes);
        let object = build(spec, &units(&spec), &content, push);
        assert!(zstd(&["-dc"], &object) == content);
        zstd(&["-tq"], &object);
        let mut codec = Decompressor::new().unwrap();
        let reader = ObjectReader::open(&object[..]).unwrap();
        let mut back = Vec::new();
        let front = reader.verify(&mut codec, |part| back.extend_from_slice(part)).unwrap();
        assert!(back == content);
        assert_eq!((front.units, front.holes), (units(&spec), vec![]));
        let header = front.header;
        assert_eq!((header.opened_ns, header.sealed_ns, header.id), (11, 22, spec.id));
    }
}

#[test]
fn the_seek_table_is_the_standard_one() {
    let content = blocks(40);
    let spec = spec(0, 40, FRAME_BYTES_MIN);
    let object = build(spec, &units(&spec), &content, 40);
    // Decoded by hand, from the specification: footer, then entries; a frame's offset is the sum of
    // the sizes before it.
    let u32_at = |offset: usize| u32::from_le_bytes(object[offset..offset + 4].try_into().unwrap());
    let len = object.len();
    assert_eq!(u32_at(len - 4), 0x8F92_EAB1);
    assert_eq!(object[len - 5], 0x80);
    let frames = u32_at(len - 9) as usize;
    assert_eq!(frames, 3 + 2);
    let table = len - 9 - 12 * frames;
    assert_eq!((u32_at(table - 8), u32_at(table - 4) as usize), (0x184D_2A5E, len - table));
    let (mut offset, mut position) = (0, 0);
    for frame in 0..frames {
        let line = table + 12 * frame;
        let (compressed, size) = (u32_at(line) as usize, u32_at(line + 4) as usize);
        let inside = zstd(&["-dc"], &object[offset..offset + compressed]);
        assert!(inside == content[position..position + size]);
        assert_eq!(u32_at(line + 8), checksum(&inside));
        offset += compressed;
        position += size;
    }
    assert_eq!((offset, position), (table - 8, content.len()));
}

/// Whether the first data frame ends with zstd's own checksum, by the flag in its head.
fn frames_have_checksums(object: &[u8]) -> bool {
    let first = ObjectReader::open(object).unwrap().frames()[0];
    object[first.offset as usize + 4] & 4 != 0
}

#[test]
fn frames_carry_no_second_checksum_and_older_objects_that_do_are_read() {
    let content = blocks(100);
    let spec = spec(0, 100, FRAME_BYTES_MIN);
    let new = build(spec, &units(&spec), &content, 100);
    let compressor = Compressor::with_frame_checksums(LEVEL_DEFAULT).unwrap();
    let old = build_with(compressor, spec, &units(&spec), &content, 100);
    assert_eq!([&new, &old].map(|object| frames_have_checksums(object)), [false, true]);
    let mut codec = Decompressor::new().unwrap();
    for object in [&new, &old] {
        assert!(zstd(&["-dc"], object) == content);
        assert!(read_all(object, &content, &units(&spec), &mut codec).is_some());
    }
}

#[test]
fn noise_is_not_compressed_and_takes_no_more_room() {
    let mut content = Vec::new();
    let mut state = 1_u64;
    while content.len() < 256 * BLOCK_BYTES {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        content.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    // Text in the middle is detected.
    content[100 * BLOCK_BYTES..104 * BLOCK_BYTES].fill(b'a');
    let spec = spec(0, 256, FRAME_BYTES_MIN);
    let object = build(spec, &units(&spec), &content, 256);
    assert!(zstd(&["-dc"], &object) == content);
    let mut codec = Decompressor::new().unwrap();
    assert!(read_all(&object, &content, &units(&spec), &mut codec).is_some());
    let mut compressor = Compressor::new(LEVEL_DEFAULT).unwrap();
    let reader = ObjectReader::open(&object[..]).unwrap();
    let mut stored_frames = 0;
    for (frame, part) in reader.frames().iter().zip(content.chunks(FRAME_BYTES_MIN as usize)) {
        let compressed_bytes = compressor.compress(part).unwrap().len() as u32;
        // The size of its content takes two more bytes.
        assert!(frame.compressed_bytes <= compressed_bytes + 2, "at {}", frame.offset);
        // A descriptor that zstd itself never writes for a frame of this size.
        stored_frames += u32::from(object[frame.offset as usize + 4] == 0xA0);
    }
    // All but the first, the one with text, and the one after it.
    assert_eq!(stored_frames, 13);
}

#[test]
fn one_block_costs_two_reads_and_the_entries_cost_one() {
    let content = blocks(256);
    let spec = spec(0, 256, FRAME_BYTES_MIN);
    let object = build(spec, &units(&spec), &content, 64);
    let source = Counted { bytes: &object, reads: RefCell::default() };
    let mut codec = Decompressor::new().unwrap();
    let reader = ObjectReader::open(&source).unwrap();
    let mut block = [0; BLOCK_BYTES];
    for index in [0, 15, 16, 100, 255_u64] {
        source.reads.borrow_mut().clear();
        reader.read_block(Lsn(7 * 256 + index), &mut block, &mut codec).unwrap();
        assert!(block[..] == content[index as usize * BLOCK_BYTES..][..BLOCK_BYTES]);
        assert_eq!(source.reads.borrow().len(), 1);
        assert!(source.reads.borrow()[0].1 < 70_000);
    }
    let mut range = vec![0; 40 * BLOCK_BYTES];
    reader.read_blocks(Lsn(7 * 256 + 10), &mut range, &mut codec).unwrap();
    assert!(range[..] == content[10 * BLOCK_BYTES..50 * BLOCK_BYTES]);
    for (lsn, len) in [(7 * 256 - 1, 1), (7 * 256 + 256, 1), (7 * 256 + 255, 2), (u64::MAX, 1)] {
        let result = reader.read_blocks(Lsn(lsn), &mut vec![0; len * BLOCK_BYTES], &mut codec);
        assert!(matches!(result, Err(ObjectError::NotHere { .. })), "{lsn}");
    }
    assert!(matches!(
        reader.read_blocks(Lsn(7 * 256), &mut [0; 5], &mut codec),
        Err(ObjectError::NotBlocks(5))
    ));

    source.reads.borrow_mut().clear();
    let ObjectFront { header, units: entries, .. } = read_front(&source, &mut codec).unwrap();
    assert_eq!((header.units as usize, entries), (units(&spec).len(), units(&spec)));
    assert_eq!(source.reads.borrow().len(), 1);
    // The entries alone are enough: the rest of the object may be missing.
    let front = FRONT_BYTES + header.units_compressed_bytes as usize;
    assert_eq!(read_front(&object[..front], &mut codec).unwrap().header, header);
}

const FRONT_BYTES: usize = 8 + 128;

#[test]
fn long_tables_and_long_entries_take_a_second_read() {
    // 2048 frames: a table of 24 KiB; units that do not compress: more than the first 64 KiB.
    let mut spec = spec(0, 256, FRAME_BYTES_MIN);
    spec.segment_blocks = 32_768;
    spec.id.from_lsn = Lsn(7 * 32_768);
    spec.id.to_lsn = Lsn(8 * 32_768);
    spec.id.whole = true;
    let units = units(&spec);
    let content = vec![5; 32_768 * BLOCK_BYTES];
    let object = build(spec, &units, &content, 1000);
    let source = Counted { bytes: &object, reads: RefCell::default() };
    let mut codec = Decompressor::new().unwrap();
    let reader = ObjectReader::open(&source).unwrap();
    assert_eq!(reader.frames().len(), 2048);
    assert_eq!(source.reads.borrow().len(), 2);
    assert_eq!(read_front(&source, &mut codec).unwrap().units, units);
    assert_eq!(source.reads.borrow().len(), 4);
    reader.verify(&mut codec, |_| {}).unwrap();
}

#[test]
fn a_context_serves_many_objects_and_wrong_use_is_refused() {
    let mut compressor = Compressor::new(1).unwrap();
    let content = blocks(20);
    let shape = spec(0, 20, FRAME_BYTES_MIN);
    let all = units(&shape);
    let first = {
        let mut object = Vec::new();
        // A writer that is dropped midway leaves nothing in the context.
        let mut writer = ObjectWriter::begin(&mut compressor, shape, &all, &[], &mut object).unwrap();
        writer.push(&content[..BLOCK_BYTES]).unwrap();
        assert!(matches!(writer.finish(&[]), Err(ObjectError::Count { pushed_blocks: 1, blocks: 20 })));
        object.clear();
        let mut writer = ObjectWriter::begin(&mut compressor, shape, &all, &[], &mut object).unwrap();
        writer.push(&content).unwrap();
        assert!(matches!(writer.push(&content[..1]), Err(ObjectError::NotBlocks(1))));
        writer.finish(&[]).unwrap();
        object
    };
    let mut second = Vec::new();
    let mut writer = ObjectWriter::begin(&mut compressor, shape, &all, &[], &mut second).unwrap();
    writer.push(&content).unwrap();
    writer.finish(&[]).unwrap();
    assert!(first == second);

    let mut sink = Vec::new();
    let mut refused = |spec, units: usize| {
        ObjectWriter::begin(&mut compressor, spec, &vec![[0; 24]; units], &[], &mut sink).err().unwrap()
    };
    assert!(matches!(refused(spec(0, 20, 1000), 0), ObjectError::FrameBytes(1000)));
    assert!(matches!(refused(spec(20, 20, FRAME_BYTES_MIN), 0), ObjectError::Spec(_)));
    assert!(matches!(refused(spec(0, 257, FRAME_BYTES_MIN), 0), ObjectError::Spec(_)));
    assert!(matches!(refused(spec(0, 20, FRAME_BYTES_MIN), 10_000), ObjectError::Spec("count of units")));
    let mut far = spec(0, 20, FRAME_BYTES_MIN);
    far.id.sequence = SegmentSeq(u64::MAX / 2);
    assert!(matches!(refused(far, 0), ObjectError::Spec("sequence")));
    assert!(matches!(Compressor::new(1000), Err(ObjectError::Level(1000))));
}

#[test]
fn names_sort_in_log_order_and_read_back() {
    let base = spec(0, 256, FRAME_BYTES_MIN).id;
    let named = |epoch, sequence, from, to, whole| ObjectId {
        epoch,
        sequence: SegmentSeq(sequence),
        from_lsn: Lsn(from),
        to_lsn: Lsn(to),
        whole,
        ..base
    };
    let in_order = [
        named(1, 0, 0, 256, true),
        ObjectId { claim: ClaimId(1), ..named(1, 1, 256, 300, false) },
        ObjectId { claim: ClaimId(u64::MAX), ..named(1, 1, 256, 300, false) },
        named(1, 1, 256, 300, false),
        named(1, 1, 256, 512, true),
        named(1, 1, 300, 512, false),
        named(2, 9, 0x900, 0xa00, true),
        named(2, 0x10, 0x1000, 0x1100, true),
        named(0x10, 0x11, 0x1100, 0x1200, true),
    ];
    let names: Vec<_> = in_order.iter().map(|id| id.name().unwrap()).collect();
    assert!(names.is_sorted());
    for (id, name) in in_order.iter().zip(&names) {
        assert!(name.as_str().starts_with(&pool_prefix(base.pool)));
        assert_eq!(ObjectId::parse(name.as_str()), Ok(*id));
    }
    let good = names[0].as_str();
    for bad in [
        good.replace(".seg", ".sag"),
        good.replace("v1/", "v2/"),
        good.replace("/00000001/", "/1/"),
        good.replace("-000", "-+00"),
        good.replace(".seg", ".0000000000000000.seg"),
        good.replace(".seg", ".1.seg"),
        format!("{good}x"),
        String::new(),
    ] {
        assert!(ObjectId::parse(&bad).is_err(), "{bad}");
    }
}

/// Reads everything in all ways; `None` when some part was refused, as it must be for a damaged
/// object. Panics when it reads wrong data.
fn read_all(object: &[u8], content: &[u8], entries: &[TrailerUnit], codec: &mut Decompressor) -> Option<()> {
    let front = read_front(object, codec);
    if let Ok(front) = &front {
        assert_eq!(front.units, entries);
    }
    let reader = ObjectReader::open(object).ok()?;
    let from = reader.tail().id.from_lsn;
    let mut block = [0; BLOCK_BYTES];
    for index in 0..(content.len() / BLOCK_BYTES) as u64 {
        if reader.read_block(from.plus(index), &mut block, codec).is_ok() {
            assert!(block[..] == content[index as usize * BLOCK_BYTES..][..BLOCK_BYTES], "wrong data");
        }
    }
    let mut back = Vec::new();
    let verified = reader.verify(codec, |part| back.extend_from_slice(part));
    assert!(content.starts_with(&back), "wrong data");
    verified.ok().and(front.ok()).map(|_| ())
}

#[test]
fn an_object_is_made_and_believed_only_when_it_tells_what_it_lacks() {
    let spec = spec(0, 40, FRAME_BYTES_MIN);
    let first = spec.id.from_lsn.0;
    let content = blocks(40);
    let hole = |start: u64, end: u64| LsnRange { start: Lsn(first + start), end: Lsn(first + end) };
    let (whole, start) = (units(&spec), records(first + 1, first + 11));
    let middle = [start.clone(), records(first + 21, first + 40)].concat();
    let cases: [(&[TrailerUnit], Vec<LsnRange>); 5] = [
        (&whole, vec![]),
        (&start, vec![hole(11, 40)]),
        (&middle, vec![hole(11, 21)]),
        (&middle[start.len()..], vec![hole(1, 21)]),
        (&[], vec![hole(1, 40)]),
    ];
    let mut codec = Decompressor::new().unwrap();
    for (units, holes) in &cases {
        assert_eq!(&holes_of(&spec.id, spec.segment_blocks, units).unwrap(), holes);
        let object = build_with_missing(spec, units, holes, &[], &content).unwrap();
        // An object without missing data has the same version as before.
        assert_eq!(object[16] == 1, holes.is_empty(), "version");
        let front = read_front(&object[..], &mut codec).unwrap();
        assert_eq!((&front.units[..], &front.holes), (*units, holes));
        let reader = ObjectReader::open(&object[..]).unwrap();
        assert_eq!(reader.verify(&mut codec, |_| ()).unwrap(), front);
        assert!(zstd(&["-dc"], &object) == content);
        for (_, others) in cases.iter().filter(|(_, others)| others != holes) {
            let refused = build_with_missing(spec, units, others, &[], &content);
            assert!(matches!(refused, Err(ObjectError::Records(_))), "{holes:?} told as {others:?}");
        }
    }
}

/// An object of a build that took an empty list of entries for a complete one: every checksum is
/// right.
#[test]
fn an_object_that_lacks_records_silently_is_damaged() {
    let spec = spec(0, 40, FRAME_BYTES_MIN);
    let (first, content) = (spec.id.from_lsn.0, blocks(40));
    let told = [LsnRange { start: Lsn(first + 1), end: Lsn(first + 40) }];
    let mut object = build_with_missing(spec, &[], &told, &[], &content).unwrap();
    let reader = ObjectReader::open(&object[..]).unwrap();
    let data = reader.frames()[0].offset as usize;
    let mut hasher = blake3::Hasher::new();
    let (tail, mut codec) = (*reader.tail(), Decompressor::new().unwrap());
    let mut compressor = Compressor::new(LEVEL_DEFAULT).unwrap();
    let empty = compressor.compress(&[]).unwrap().to_vec();
    let header = ObjectHeader {
        units: 0,
        holes: 0,
        units_compressed_bytes: empty.len() as u32,
        units_crc: crate::log::checksum::crc32c(&empty),
        ..read_front(&object[..], &mut codec).unwrap().header
    };
    let front =
        [&skippable_head(FRONT_MAGIC, (128 + empty.len()) as u32)[..], &header.encode(), &empty].concat();
    let frames: Vec<DataFrame> = reader
        .frames()
        .iter()
        .map(|frame| DataFrame { offset: frame.offset - data as u64 + front.len() as u64, ..*frame })
        .collect();
    let body = [&front[..], &object[data..tail.digested_bytes as usize]].concat();
    hasher.update(&body);
    let table = seek::encode(front.len() as u32, &frames, 0);
    let tail = ObjectTail {
        digest: *hasher.finalize().as_bytes(),
        digested_bytes: body.len() as u64,
        table_crc: crate::log::checksum::crc32c(&table),
        ..tail
    };
    object = [&body[..], &skippable_head(DIGEST_MAGIC, 128), &tail.encode(), &table].concat();
    let is_hole = |error: &ObjectError| {
        let damage = Damage::Hole(told[0]);
        matches!(error, ObjectError::Damaged { part: Part::Entries, damage: found, .. } if *found == damage)
    };
    assert!(is_hole(&read_front(&object[..], &mut codec).unwrap_err()));
    let reader = ObjectReader::open(&object[..]).unwrap();
    assert!(is_hole(&reader.verify(&mut codec, |_| ()).unwrap_err()));
}

#[test]
fn a_block_that_was_damaged_is_an_error_and_nothing_else_is() {
    let spec = spec(0, 100, FRAME_BYTES_MIN);
    let (first, content) = (spec.id.from_lsn.0, blocks(100));
    let damaged: Vec<Lsn> = [3, 17, 18, 99].iter().map(|&at| Lsn(first + at)).collect();
    let object = build_with_missing(spec, &units(&spec), &[], &damaged, &content).unwrap();
    assert!(zstd(&["-dc"], &object) == content);
    let mut codec = Decompressor::new().unwrap();
    let reader = ObjectReader::open(&object[..]).unwrap();
    assert_eq!(reader.table().damaged(), damaged);
    assert_eq!(reader.table().object_bytes(), object.len() as u64);
    reader.verify(&mut codec, |_| ()).unwrap();
    let mut block = [0; BLOCK_BYTES];
    for at in 0..100 {
        match reader.read_block(Lsn(first + at), &mut block, &mut codec) {
            Ok(()) => assert!(!damaged.contains(&Lsn(first + at))),
            Err(ObjectError::Unreadable(lsn)) => assert!(lsn.0 == first + at && damaged.contains(&lsn)),
            Err(error) => panic!("{error}"),
        }
    }
    let mut range = vec![0; 10 * BLOCK_BYTES];
    assert!(reader.read_blocks(Lsn(first + 4), &mut range, &mut codec).is_ok());
    let error = reader.read_blocks(Lsn(first + 9), &mut range, &mut codec).unwrap_err();
    assert!(matches!(error, ObjectError::Unreadable(lsn) if lsn.0 == first + 17), "{error}");
    for wrong in [vec![Lsn(first + 100)], vec![Lsn(first), Lsn(first)], vec![Lsn(first - 1)]] {
        let refused = build_with_missing(spec, &units(&spec), &[], &wrong, &content);
        assert!(matches!(refused, Err(ObjectError::Spec(_))), "{wrong:?}");
    }
    // The bytes of the list are covered by a check like all others.
    let table = 8 + 12 * (reader.frames().len() + 2) + 9;
    for position in object.len() - table - damaged.len() * 8..object.len() - table {
        let mut spoiled = object.clone();
        spoiled[position] ^= 2;
        assert!(ObjectReader::open(&spoiled[..]).is_err(), "byte {position}");
    }
}

#[test]
fn an_object_of_which_every_block_is_damaged_takes_further_reads_and_no_more() {
    let mut spec = spec(0, 256, FRAME_BYTES_MIN);
    spec.segment_blocks = 32_768;
    (spec.id.from_lsn, spec.id.to_lsn, spec.id.whole) = (Lsn(7 * 32_768), Lsn(8 * 32_768), true);
    let damaged: Vec<Lsn> = (7 * 32_768..8 * 32_768).map(Lsn).collect();
    let content = vec![5; 32_768 * BLOCK_BYTES];
    let object = build_with_missing(spec, &units(&spec), &[], &damaged, &content).unwrap();
    let source = Counted { bytes: &object, reads: RefCell::default() };
    let reader = ObjectReader::open(&source).unwrap();
    assert_eq!(reader.table().damaged(), damaged);
    assert_eq!(source.reads.borrow().len(), 3);
}

/// Units with valid checksums and invalid numbers.
fn hostile_units() -> impl Strategy<Value = Vec<TrailerUnit>> {
    let number = prop_oneof![
        Just(0_u64),
        Just(u64::MAX),
        Just(u64::MAX - 200),
        Just((1 << 48) - 1),
        1790_u64..1835,
        any::<u64>()
    ];
    let line = (number.clone(), 0_u8..=200, 0_u8..=200).prop_map(|(lsn, entries, data_blocks)| {
        let line = RecordLine::new(Lsn(lsn), lsn, entries, data_blocks, 3);
        let unit: TrailerUnit = zerocopy::transmute!(line);
        unit
    });
    let entry = (any::<u8>(), number.clone(), number).prop_map(|(kind, block, value)| {
        let mut unit = [0; 24];
        unit[2] = kind % 7;
        unit[8..16].copy_from_slice(&block.to_le_bytes());
        unit[16..].copy_from_slice(&value.to_le_bytes());
        unit
    });
    let good = (0_u64..38).prop_map(|at| records(1793 + at, 1793 + at + 2));
    let any_units = prop_oneof![line.prop_map(|unit| vec![unit]), entry.prop_map(|unit| vec![unit]), good,];
    prop::collection::vec(any_units, 0..12).prop_map(|parts| parts.concat())
}

fn small() -> (Vec<u8>, Vec<u8>, Vec<TrailerUnit>) {
    let content = blocks(18);
    let spec = spec(3, 21, FRAME_BYTES_MIN);
    let object = build(spec, &units(&spec), &content, 18);
    (object, content, units(&spec))
}

#[test]
fn every_byte_of_the_frames_around_the_data_is_covered() {
    let (object, content, entries) = small();
    let mut codec = Decompressor::new().unwrap();
    let frames = ObjectReader::open(&object[..]).unwrap().frames().to_vec();
    let data = frames[0].offset as usize + 32..object.len() - 8 - 128 - (8 + 12 * 4 + 9) - 32;
    assert!(read_all(&object, &content, &entries, &mut codec).is_some());
    for position in (0..data.start).chain(data.end..object.len()) {
        for bit in [0, 3, 7] {
            let mut damaged = object.clone();
            damaged[position] ^= 1 << bit;
            assert!(
                read_all(&damaged, &content, &entries, &mut codec).is_none(),
                "bit {bit} of byte {position} is not covered"
            );
        }
    }
}

#[test]
fn damage_is_named() {
    let (object, ..) = small();
    let mut codec = Decompressor::new().unwrap();
    let reader = ObjectReader::open(&object[..]).unwrap();
    let frame = reader.frames()[1];
    let len = object.len();
    for (position, expected) in [
        (0, Part::Front),
        (5, Part::Front),
        (20, Part::Header),
        (140, Part::Entries),
        (frame.offset as usize + 20, Part::Data(1)),
        (len - 57 - 100, Part::Digest),
        (len - 40, Part::SeekTable),
        (len - 1, Part::SeekTable),
    ] {
        let mut damaged = object.clone();
        damaged[position] ^= 0x10;
        let result =
            ObjectReader::open(&damaged[..]).and_then(|reader| reader.verify(&mut codec, |_| {}).map(|_| ()));
        let Err(ObjectError::Damaged { part, .. }) = result else { panic!("byte {position}") };
        assert_eq!(part, expected, "byte {position}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_byte_never_gives_wrong_data(position: prop::sample::Index, change in 1_u8..) {
        thread_local!(static SMALL: (Vec<u8>, Vec<u8>, Vec<TrailerUnit>) = small());
        SMALL.with(|(object, content, entries)| {
            let mut damaged = object.clone();
            damaged[position.index(object.len())] ^= change;
            let mut codec = Decompressor::new().unwrap();
            assert!(read_all(&damaged, content, entries, &mut codec).is_none());
        });
    }

    /// Whatever the units contain: they are refused, or their records are inside the object, in
    /// order, and the holes are the rest.
    #[test]
    fn hostile_units_are_refused_or_harmless(units in hostile_units()) {
        let spec = spec(0, 40, FRAME_BYTES_MIN);
        match holes_of(&spec.id, spec.segment_blocks, &units) {
            Err(damage) => {
                let told = [LsnRange { start: Lsn(1793), end: Lsn(1832) }];
                let built = build_with_missing(spec, &units, &told, &[], &blocks(40));
                prop_assert!(matches!(built, Err(ObjectError::Records(_))), "{}", damage);
            }
            Ok(holes) => {
                let entries = crate::log::reader::SegmentEntries::new(units);
                let mut covered = 0;
                for (line, _) in entries.records() {
                    prop_assert!(line.lsn() >= Lsn(1793) && line.end_lsn() <= Lsn(1832));
                    covered += line.end_lsn().0 - line.lsn().0;
                }
                covered += holes.iter().map(|hole| hole.end.0 - hole.start.0).sum::<u64>();
                prop_assert_eq!(covered, 39);
                prop_assert_eq!(entries.holes(Lsn(1793), Lsn(1832)), holes);
            }
        }
    }

    #[test]
    fn a_truncated_object_is_refused(len: prop::sample::Index) {
        thread_local!(static SMALL: (Vec<u8>, Vec<u8>, Vec<TrailerUnit>) = small());
        SMALL.with(|(object, content, entries)| {
            let mut codec = Decompressor::new().unwrap();
            assert!(read_all(&object[..len.index(object.len())], content, entries, &mut codec).is_none());
        });
    }

    #[test]
    fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..2000), dress: u8, frames in 0_u32..80) {
        // Valid magic numbers are added, so that it passes the first checks.
        let len = bytes.len();
        if dress & 1 != 0 && len > 200 {
            bytes[len - 4..].copy_from_slice(&0x8F92_EAB1_u32.to_le_bytes());
            bytes[len - 5] = 0x80;
            bytes[len - 9..len - 5].copy_from_slice(&frames.to_le_bytes());
        }
        if dress & 2 != 0 && len > 200 {
            bytes[..4].copy_from_slice(&FRONT_MAGIC.to_le_bytes());
            bytes[8..16].copy_from_slice(b"VARVE-AO");
            let crc = crate::log::checksum::crc32c(&bytes[8..132]);
            bytes[132..136].copy_from_slice(&crc.to_le_bytes());
        }
        let mut codec = Decompressor::new().unwrap();
        prop_assert!(ObjectReader::open(&bytes[..]).is_err());
        prop_assert!(read_front(&bytes[..], &mut codec).is_err());
    }
}
