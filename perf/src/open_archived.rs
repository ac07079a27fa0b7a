//! Measures the time to the first byte of a point that is only in the archive: how long an operator
//! who opens the past of a large volume waits (R28 to R30).
//!
//! The archive has the contents that a pool would have produced, but is made without a pool of that
//! size. Its objects are whole segments, with the entries of a working set that was overwritten at
//! random. The blocks repeat their own position, so that they compress to almost nothing while each
//! has a different checksum. Opening a point reads the entries, which are of full size. The catalog
//! in each segment is that of a real pool, taken from its archive.
//!
//! A pool is recovered from that archive onto a small device, so none of the past is on the device.
//! Then a point whose W+1 segments are all in the archive is opened, one block is read, and the
//! volume is rolled back to the point. The archive has an anchor, as old as one can be there; with
//! `--no-anchor` the point is opened from entries alone. Each time the archive's files are dropped
//! from the page cache first, which takes effect in a file system on a disk.
//!
//! The parts are also measured alone, on one core: reading the entries, building the index, reading
//! the block. For a slower store, add its latency for each object, and the bytes divided by its
//! rate.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde::{Deserialize, Serialize};
use varve::archive::anchor::{AnchorHead, AnchorId, AnchorPart, LastRecord, Leaves, PART_LEAVES};
use varve::archive::object::{
    Compressor, Decompressor, FRAME_BYTES_DEFAULT, ObjectError, ObjectFront, ObjectId, ObjectReader,
    ObjectSpec, ObjectWriter,
};
use varve::archive::service::{
    AnchorJob, AnchorPiece, BdevSource, BlockSource, InlineArchive, InlineOptions, READS_IN_FLIGHT_DEFAULT,
    SourceError, TablesCache, ThreadedArchive, ThreadedOptions, WorkerOptions, read_blocks, read_entries,
    store_anchor,
};
use varve::archive::store::{DirectoryOptions, DirectoryStore, Store, StoredObject};
use varve::bdev::{BLOCK_BYTES, MemoryDisk, SharedBdev};
use varve::dma::DmaPool;
use varve::log::checksum::crc32c;
use varve::log::format::{Entry, EntryKind, EventHead, EventKind, RecordLine, TrailerUnit};
use varve::log::geometry::SEGMENT_BLOCKS_DEFAULT;
use varve::log::reader::SegmentEntries;
use varve::log::{CreateLog, Environment, Lsn, Recycling, SegmentSeq};
use varve::reactor::block_on;
use varve::volume::index::{Index, IndexBuilder, Mapping};
use varve::volume::{
    AnchorPolicy, ArchivePolicy, KnownObjects, Point, Pool, PoolOptions, RecoverFrom, SynchTable,
};

use crate::archive::directory_for_files;
use crate::bed::{Bed, Shape, VOLUME, wait};
use crate::cleaning::median;
use crate::error::PerfError;
use crate::machine::Machine;
use crate::rebuild::{self, Layout};

/// The bar, in ms.
pub const MS_MAX: f64 = 1000.0;
/// The offset of the records in each segment; the catalog is before it.
const FIRST_OFFSET: u64 = 64;
/// How many rounds of anchors a pool makes in a working set.
const ANCHOR_ROUNDS: u64 = 32;
/// How many leaves of an index are taken at once.
const LEAVES: usize = 64;
/// DMA memory of the recovered pool, in bytes.
const DMA_BYTES: usize = 64 << 20;
/// The compression level of the objects: they are made once and read often.
const LEVEL: i32 = 1;

/// What to measure.
#[derive(Debug, Clone, Args)]
// Otherwise this group would have the same name as the group of the flattened options.
#[group(skip)]
pub struct Options {
    /// What the index is built from, and how often the point is opened, each time with a new pool.
    #[command(flatten)]
    pub index: rebuild::Options,
    /// Open the point from entries alone.
    #[arg(long)]
    pub no_anchor: bool,
    /// Where a directory for the archive is made, and removed; /dev/shm where there is one.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// The whole result. Times in ms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of varve.
    pub version: String,
    /// The machine.
    pub machine: Machine,
    /// Size of the volume.
    pub volume_bytes: u64,
    /// Blocks that are mapped at the point.
    pub mapped_blocks: u64,
    /// Segments that opening the point touches.
    pub segments: u64,
    /// Entries in them.
    pub entries: u64,
    /// Bytes of the objects.
    pub object_bytes: u64,
    /// The time from the command to the opened volume, for each repetition.
    pub open_ms: Vec<f64>,
    /// The time from there to the first block, for each repetition.
    pub block_ms: Vec<f64>,
    /// The position of the anchor that was used.
    pub anchor_lsn: Option<u64>,
    /// How many bytes of it were read.
    pub anchor_bytes: u64,
    /// Segments whose entries were read to open the point.
    pub read_segments: u64,
    /// How many entries these have.
    pub read_entries: u64,
    /// Bytes of the objects of these segments, which is more than what is read of them.
    pub read_object_bytes: u64,
    /// The time to roll the volume back to the point, for each repetition.
    pub roll_back_ms: Vec<f64>,
    /// Alone: reading and decompressing all entries.
    pub entries_alone_ms: f64,
    /// Alone: building the index from entries in memory.
    pub index_alone_ms: f64,
    /// Alone: reading one block from its object.
    pub block_alone_ms: f64,
    /// The median of the sums of open and block.
    pub total_ms: f64,
    /// The larger one of the total and the roll-back, divided by the bar.
    pub ratio: f64,
    /// Whether it is within the bar.
    pub passed: bool,
}

/// Runs the measurement; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// An impossible shape, no room for the files, a pool or a store that fails.
pub fn run(options: &Options, mut on_step: impl FnMut(&str)) -> Result<Report, PerfError> {
    let directory = directory_for_files(options.dir.as_deref())?;
    on_step("making the archive");
    let made = Made::new(options, directory.path())?;
    let (mut open_ms, mut block_ms, mut roll_back_ms) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = None;
    for round in 1..=options.index.repeat {
        on_step(&format!("opening the point, {round} of {}", options.index.repeat));
        let opened = made.open_point()?;
        let is_anchored = opened.anchor_lsn.is_some();
        if is_anchored != made.anchor.is_some() {
            return Err(PerfError::shape("the anchor was not used"));
        }
        if !is_anchored && opened.segments != made.ids.len() as u64 {
            return Err(PerfError::shape("the point does not need every segment of the archive"));
        }
        open_ms.push(opened.open_ms);
        block_ms.push(opened.block_ms);
        roll_back_ms.push(opened.roll_back_ms);
        last = Some(opened);
    }
    let last = last.ok_or_else(|| PerfError::shape("nothing was opened"))?;
    on_step("measuring the parts");
    let parts = made.parts()?;
    let total_ms = median(open_ms.iter().zip(&block_ms).map(|(open, block)| open + block));
    let slowest_ms = total_ms.max(median(roll_back_ms.iter().copied()));
    let read_object_bytes = made.object_bytes_of(last.segments)?;
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::here(),
        volume_bytes: options.index.volume_size.0,
        mapped_blocks: parts.mapped_blocks,
        segments: made.ids.len() as u64,
        entries: parts.entries,
        object_bytes: made.object_bytes,
        anchor_lsn: last.anchor_lsn,
        anchor_bytes: last.anchor_bytes,
        read_segments: last.segments,
        read_entries: last.entries,
        read_object_bytes,
        roll_back_ms,
        open_ms,
        block_ms,
        entries_alone_ms: parts.entries_ms,
        index_alone_ms: parts.index_ms,
        block_alone_ms: parts.block_ms,
        total_ms,
        ratio: slowest_ms / MS_MAX,
        passed: slowest_ms < MS_MAX,
    })
}

/// An archive in a directory.
struct Made {
    store: Arc<dyn Store>,
    ids: Vec<ObjectId>,
    object_bytes: u64,
    image: u32,
    volume_blocks: u64,
    /// A mapped block, and one of its positions.
    probe: (u64, Lsn),
    /// The anchor in the archive.
    anchor: Option<Lsn>,
    /// Where the objects are.
    folder: PathBuf,
}

/// What a pool writes at its beginning: its catalog and one block.
struct Template {
    id: ObjectId,
    opened_ns: u64,
    units: Vec<TrailerUnit>,
    blocks: Vec<u8>,
    image: u32,
}

struct Opened {
    segments: u64,
    entries: u64,
    anchor_lsn: Option<u64>,
    anchor_bytes: u64,
    open_ms: f64,
    block_ms: f64,
    roll_back_ms: f64,
}

struct Parts {
    mapped_blocks: u64,
    entries: u64,
    entries_ms: f64,
    index_ms: f64,
    block_ms: f64,
}

/// The source of an archivist that has nothing to archive.
struct NoSource;

impl BlockSource for NoSource {
    fn read(
        &mut self,
        _block: u64,
        _len_blocks: u64,
        _take: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>,
    ) -> Result<(), SourceError> {
        Err(SourceError::Device("nothing is archived here".to_owned()))
    }
}

fn elapsed_ms(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}

fn store_in(directory: &Path, name: &str) -> Result<Arc<dyn Store>, PerfError> {
    let store = DirectoryStore::open(&directory.join(name), DirectoryOptions::default());
    Ok(Arc::new(store.map_err(PerfError::archive)?))
}

/// The policy of a pool that archives nothing automatically.
fn policy() -> ArchivePolicy {
    ArchivePolicy { seal_interval_ns: 0, anchors: AnchorPolicy::Never, ..ArchivePolicy::default() }
}

impl Template {
    /// Creates a pool with a working set of this many segments, on a device that allocates memory
    /// only where it is written, and archives its beginning.
    fn new(working_set: u64, volume_blocks: u64, directory: &Path) -> Result<Self, PerfError> {
        let shape = Shape {
            segment_blocks: SEGMENT_BLOCKS_DEFAULT,
            segments: working_set,
            recycling: Recycling::Never,
        };
        let disk = MemoryDisk::try_new(shape.device_blocks())?;
        let bed = Bed::create(Box::new(disk.open("memory")), shape, volume_blocks, true)?;
        let image = bed.pool.volume(bed.volume).map_or(0, |volume| volume.image);
        let mut one = Some(0);
        bed.write_all(1, || one.take())?;
        let store = store_in(directory, "template")?;
        let source = BdevSource::new(Box::new(disk.open("memory")), READS_IN_FLIGHT_DEFAULT);
        let service = InlineArchive::new(Arc::clone(&store), Box::new(source), InlineOptions::default())
            .map_err(PerfError::archive)?;
        bed.pool.attach_archive(
            Box::new(service),
            policy(),
            KnownObjects::default(),
            SynchTable::default(),
        )?;
        wait(&bed.pool, Rc::clone(&bed.pool).seal_archive())?;
        let known = KnownObjects::list(&*store, bed.pool.info().uuid).map_err(PerfError::archive)?;
        let id = known.ids().next().ok_or_else(|| PerfError::shape("nothing was archived"))?;
        let name = id.name().map_err(PerfError::archive)?;
        let object = StoredObject::open(&*store, &name).map_err(PerfError::archive)?;
        let mut codec = Decompressor::new().map_err(PerfError::archive)?;
        let mut blocks = Vec::new();
        let ObjectFront { header, mut units, .. } = ObjectReader::open(&object)
            .and_then(|reader| reader.verify(&mut codec, |part| blocks.extend_from_slice(part)))
            .map_err(PerfError::archive)?;
        if id.from_lsn != Lsn(0) || id.len_blocks() + 2 > FIRST_OFFSET {
            return Err(PerfError::shape("the beginning of a pool is longer than was thought"));
        }
        units.extend(filler(id.to_lsn, id.epoch, header.opened_ns));
        Ok(Template { id, opened_ns: header.opened_ns, units, blocks, image })
    }
}

impl Made {
    fn new(options: &Options, directory: &Path) -> Result<Self, PerfError> {
        let (volume_blocks, mapped_blocks) =
            rebuild::blocks_of(options.index.volume_size, options.index.mapped)?;
        // The image is filled in later, when it is known.
        let segments = rebuild::segments(
            Layout::Scattered,
            volume_blocks,
            mapped_blocks,
            options.index.overwritten,
            FIRST_OFFSET,
        );
        if segments.len() < 3 {
            return Err(PerfError::shape("three segments are needed at least; map more"));
        }
        let template = Template::new(segments.len() as u64 - 1, volume_blocks, directory)?;
        let store = store_in(directory, "store")?;
        let mut compressor = Compressor::new(LEVEL).map_err(PerfError::archive)?;
        let (mut ids, mut object_bytes) = (Vec::new(), 0);
        let mut content = vec![0; SEGMENT_BLOCKS_DEFAULT as usize * BLOCK_BYTES];
        content[..template.blocks.len()].copy_from_slice(&template.blocks);
        let mut probe = None;
        // The oldest anchor that a pool would use here: the next round has just begun.
        let working_set = segments.len() as u64 - 1;
        let anchored = (!options.no_anchor)
            .then(|| SegmentSeq((working_set - 1).saturating_sub((working_set / ANCHOR_ROUNDS).max(1))));
        let mut index = Index::new(volume_blocks);
        let mut anchor = None;
        for (sequence, mut units) in (0..).map(SegmentSeq).zip(segments) {
            let first_lsn = sequence.0 * SEGMENT_BLOCKS_DEFAULT;
            let end_lsn = fill(&mut units, &mut content, first_lsn, template.image, &mut probe);
            let moved = template.units.iter().copied();
            let units: Vec<TrailerUnit> = moved_by(moved, first_lsn).chain(units).collect();
            let id = ObjectId {
                sequence,
                from_lsn: Lsn(first_lsn),
                to_lsn: Lsn(end_lsn),
                whole: true,
                ..template.id
            };
            let spec = ObjectSpec {
                id,
                segment_blocks: SEGMENT_BLOCKS_DEFAULT,
                opened_ns: template.opened_ns,
                sealed_ns: template.opened_ns,
                frame_bytes: FRAME_BYTES_DEFAULT,
            };
            let name = id.name().map_err(PerfError::archive)?;
            let mut put = store.put_start(&name, spec.max_bytes(units.len())).map_err(PerfError::archive)?;
            let mut writer = ObjectWriter::begin(&mut compressor, spec, &units, &[], &mut *put)
                .map_err(PerfError::archive)?;
            writer.push(&content[..id.content_bytes() as usize]).map_err(PerfError::archive)?;
            object_bytes += writer.finish(&[]).map_err(PerfError::archive)?.object_bytes;
            put.commit().map_err(PerfError::archive)?;
            ids.push(id);
            if anchored.is_some_and(|anchored| sequence <= anchored) {
                apply(&units, template.image, &mut index);
            }
            if anchored == Some(sequence) {
                let record = last_record(&units)?;
                anchor = Some(store_index(&*store, &id, template.image, record, volume_blocks, &index)?);
            }
        }
        drop(index);
        let probe = probe.ok_or_else(|| PerfError::shape("nothing is mapped"))?;
        let folder = directory.join("store");
        Ok(Made { store, ids, object_bytes, image: template.image, volume_blocks, probe, anchor, folder })
    }

    /// The bytes of the objects of the newest segments.
    fn object_bytes_of(&self, segments: u64) -> Result<u64, PerfError> {
        let newest = self.ids.iter().rev().take(segments as usize);
        newest
            .map(|id| {
                let name = id.name().map_err(PerfError::archive)?;
                Ok(self.store.stat(&name).map_err(PerfError::archive)?.len_bytes)
            })
            .sum()
    }

    /// Recovers a pool from the archive, opens the newest point of the past in it, and reads a
    /// block.
    fn open_point(&self) -> Result<Opened, PerfError> {
        let newest = self.ids.last().ok_or_else(|| PerfError::shape("an empty archive"))?;
        let shape = Shape {
            segment_blocks: SEGMENT_BLOCKS_DEFAULT,
            segments: self.ids.len() as u64 - 1,
            recycling: Recycling::Archived,
        };
        let disk = MemoryDisk::try_new(shape.device_blocks())?;
        let device = SharedBdev::new(Box::new(disk.open("memory")));
        let from = RecoverFrom::unowned(Box::new(self.service()?), policy(), self.known()?, newest.pool);
        let request = CreateLog { segment_blocks: shape.segment_blocks, working_set: Some(shape.segments) };
        let options = PoolOptions { recycling: shape.recycling, ..PoolOptions::default() };
        let environment = Environment::system(DmaPool::new(DMA_BYTES));
        let queue = device.clone();
        let recovering = Pool::recover(device, environment.clone(), request, options, from);
        let (recovered, _) = block_on(recovering, move || {
            queue.queue().drive();
        })?;
        wait(&recovered, Rc::clone(&recovered).close())?;
        drop(recovered);
        let device = SharedBdev::new(Box::new(disk.open("memory")));
        let queue = device.clone();
        let pool = block_on(Pool::open(device, environment, options), move || {
            queue.queue().drive();
        })?;
        pool.attach_archive(Box::new(self.service()?), policy(), self.known()?, SynchTable::default())?;
        let point = Point::Lsn(newest.to_lsn.0 - 1);
        drop_from_cache(&self.folder)?;
        let started = Instant::now();
        let opening =
            Rc::clone(&pool).clone_volume(VOLUME.to_owned(), point.clone(), "past".to_owned(), true);
        let opened = wait(&pool, opening)?;
        let open_ms = elapsed_ms(started);
        let started = Instant::now();
        let block = Bed::of(Rc::clone(&pool), opened.volume.id).read(opened.volume.id, self.probe.0)?;
        let block_ms = elapsed_ms(started);
        let (words, _) = block.as_chunks::<8>();
        if words.iter().any(|word| *word != words[0]) || u64::from_le_bytes(words[0]) < self.probe.1.0 {
            return Err(PerfError::shape("the block that was read is not the one that was archived"));
        }
        drop_from_cache(&self.folder)?;
        let started = Instant::now();
        wait(&pool, Rc::clone(&pool).roll_back(VOLUME.to_owned(), point, true))?;
        let roll_back_ms = elapsed_ms(started);
        Ok(Opened {
            segments: opened.scan.segments_touched,
            entries: opened.scan.entries_scanned,
            anchor_lsn: opened.scan.anchor_lsn,
            anchor_bytes: opened.scan.anchor_bytes,
            open_ms,
            block_ms,
            roll_back_ms,
        })
    }

    fn service(&self) -> Result<ThreadedArchive, PerfError> {
        let source = Box::new(|| Ok(Box::new(NoSource) as _));
        ThreadedArchive::start(Arc::clone(&self.store), source, ThreadedOptions::default())
            .map_err(PerfError::archive)
    }

    /// What is in the store.
    fn known(&self) -> Result<KnownObjects, PerfError> {
        let pool = self.ids.first().map(|id| id.pool).unwrap_or_default();
        KnownObjects::list(&*self.store, pool).map_err(PerfError::archive)
    }

    fn parts(&self) -> Result<Parts, PerfError> {
        let options = WorkerOptions::default();
        let mut codec = Decompressor::new().map_err(PerfError::archive)?;
        let started = Instant::now();
        let mut segments = Vec::new();
        for id in &self.ids {
            let entries = read_entries(&*self.store, id, &mut codec, &options).map_err(PerfError::archive)?;
            segments.push(entries.units);
        }
        let entries_ms = elapsed_ms(started);
        let started = Instant::now();
        let mut builder = IndexBuilder::new(self.volume_blocks);
        let entries = rebuild::scan(segments, self.image, &mut |block, mapping| {
            builder.see_write(block, mapping);
        });
        let index = builder.finish();
        let index_ms = elapsed_ms(started);
        let started = Instant::now();
        let (id, lsn) = (&self.ids[0], self.probe.1);
        read_blocks(&*self.store, id, lsn, &mut codec, &TablesCache::default(), &options)
            .map_err(PerfError::archive)?;
        Ok(Parts {
            mapped_blocks: index.mapped(),
            entries,
            entries_ms,
            index_ms,
            block_ms: elapsed_ms(started),
        })
    }
}

/// Does to an index what a segment's entries did.
fn apply(units: &[TrailerUnit], image: u32, index: &mut Index) {
    for (line, entries) in SegmentEntries::new(units.to_vec()).records() {
        for placed in SegmentEntries::placed(line, entries) {
            if placed.entry.image().0 == image
                && let Some(EntryKind::Write | EntryKind::Copied) = placed.entry.kind()
            {
                index.set(placed.entry.block().0, Mapping::new(placed.lsn, placed.entry.crc()));
            }
        }
    }
}

/// The last record of a segment.
fn last_record(units: &[TrailerUnit]) -> Result<RecordLine, PerfError> {
    let entries = SegmentEntries::new(units.to_vec());
    let last = entries.records().next_back().map(|(line, _)| line);
    last.ok_or_else(|| PerfError::shape("a segment without a record"))
}

/// Stores an index as the anchor that a pool would make at the end of a segment.
fn store_index(
    store: &dyn Store,
    segment: &ObjectId,
    image: u32,
    record: RecordLine,
    size_blocks: u64,
    index: &Index,
) -> Result<Lsn, PerfError> {
    let lsn = Lsn(record.end_lsn().0 - 1);
    let id = AnchorId { pool: segment.pool, epoch: segment.epoch, image, lsn, claim: segment.claim };
    let store_one = |piece| {
        let job = AnchorJob { token: 0, id, piece };
        store_anchor(&job, store, &WorkerOptions::default()).map_err(PerfError::archive)
    };
    let (mut parts, mut mapped_blocks, mut next) = (Vec::<AnchorPart>::new(), 0, Some(0));
    while next.is_some() {
        let mut leaves = Leaves::default();
        while let Some(from) = next.filter(|_| leaves.len() < PART_LEAVES) {
            next = index.leaves_from(from, LEAVES, |number, mappings| leaves.push(number, mappings));
        }
        let Some(first_leaf) = leaves.first() else { break };
        let (count, number) = (leaves.len() as u32, parts.len() as u32);
        mapped_blocks += leaves.mapped();
        let stored = store_one(AnchorPiece::Part(number, Arc::new(leaves)))?;
        parts.push(AnchorPart { first_leaf, leaves: count, bytes: stored.bytes, digest: stored.digest });
    }
    let record = LastRecord { lsn: record.lsn(), time_ns: record.time_ns(), epoch: record.epoch() };
    store_one(AnchorPiece::Head(Arc::new(AnchorHead { record, size_blocks, mapped_blocks, parts })))?;
    Ok(lsn)
}

/// Drops the files below a folder from the page cache. In memory, nothing is dropped.
fn drop_from_cache(folder: &Path) -> Result<(), PerfError> {
    let failed = || PerfError::io("drop the archive from the page cache");
    for entry in std::fs::read_dir(folder).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        if path.is_dir() {
            drop_from_cache(&path)?;
        } else if path.is_file() {
            let file = std::fs::File::open(&path).map_err(failed())?;
            file.sync_all().map_err(failed())?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
                .map_err(|error| failed()(error.into()))?;
        }
    }
    Ok(())
}

/// Fills the image and the checksums into a segment's units, and its blocks into `content`; returns
/// where the segment ends. Each data block holds its position.
fn fill(
    units: &mut [TrailerUnit],
    content: &mut [u8],
    first_lsn: u64,
    image: u32,
    probe: &mut Option<(u64, Lsn)>,
) -> u64 {
    let mut at = 0;
    let mut end_lsn = first_lsn;
    while at < units.len() {
        let (lsn, count) = rebuild::read_line(&units[at]);
        end_lsn = lsn + 1;
        for unit in &mut units[at + 1..=at + count] {
            let block = &mut content[((end_lsn - first_lsn) as usize) * BLOCK_BYTES..][..BLOCK_BYTES];
            for word in block.as_chunks_mut().0 {
                *word = end_lsn.to_le_bytes();
            }
            rebuild::set_origin(unit, image, crc32c(block));
            // Block 0 is also in the copied beginning of every segment.
            if rebuild::read_block(unit) != 0 {
                probe.get_or_insert((rebuild::read_block(unit), Lsn(end_lsn)));
            }
            end_lsn += 1;
        }
        at += 1 + count;
    }
    end_lsn
}

/// A record from `lsn` to where the generated records begin. Its zero blocks belong to an event
/// that was never finished, so that records follow each other without a gap.
fn filler(lsn: Lsn, epoch: u32, time_ns: u64) -> Vec<TrailerUnit> {
    let data_blocks = (FIRST_OFFSET - lsn.0 - 1) as u8;
    let line = RecordLine::new(lsn, time_ns, data_blocks, data_blocks, epoch);
    let head = EventHead::encode(EventKind::Synch, 1, 0);
    let entry = Entry::event(head, crc32c(&[0; BLOCK_BYTES]), 0, false);
    let mut units: Vec<TrailerUnit> = vec![zerocopy::transmute!(line)];
    units.extend((0..data_blocks).map(|_| -> TrailerUnit { zerocopy::transmute!(entry) }));
    units
}

/// The units of a segment's beginning, moved to another segment.
fn moved_by(units: impl Iterator<Item = TrailerUnit>, blocks: u64) -> impl Iterator<Item = TrailerUnit> {
    let mut left = 0;
    units.map(move |unit| {
        if left > 0 {
            left -= 1;
            return unit;
        }
        let (lsn, count) = rebuild::read_line(&unit);
        left = count;
        rebuild::with_lsn(unit, lsn + blocks)
    })
}

/// The result as text.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    let range = |times: &[f64]| {
        let (least, most) =
            times.iter().fold((f64::MAX, 0.0_f64), |(least, most), &one| (least.min(one), most.max(one)));
        format!("{least:.1} {:.1} {most:.1}", median(times.iter().copied()))
    };
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "volume of {} GiB, {} blocks mapped; {} segments with {} entries in {} MiB of objects; ms: least, median and most",
        report.volume_bytes >> 30,
        report.mapped_blocks,
        report.segments,
        report.entries,
        report.object_bytes >> 20
    );
    let _ = writeln!(text, "open         {:>24}", range(&report.open_ms));
    let _ = writeln!(text, "first block  {:>24}", range(&report.block_ms));
    let _ = writeln!(text, "roll back    {:>24}", range(&report.roll_back_ms));
    let from = report.anchor_lsn.map_or_else(
        || "from entries alone".to_owned(),
        |lsn| format!("from the anchor at lsn:{lsn}, {} MiB", report.anchor_bytes >> 20),
    );
    let _ = writeln!(
        text,
        "read: {from}; {} entries of {} segments, whose objects have {} MiB",
        report.read_entries,
        report.read_segments,
        report.read_object_bytes >> 20
    );
    let _ = writeln!(
        text,
        "alone: entries {:.1}, index {:.1}, block {:.1}",
        report.entries_alone_ms, report.index_alone_ms, report.block_alone_ms
    );
    let verdict = if report.passed { "yes" } else { "NO" };
    let _ = writeln!(
        text,
        "together {:.1} ms, {:.2} of the bar of {MS_MAX:.0} ms: {verdict}",
        report.total_ms, report.ratio
    );
    text
}

#[cfg(test)]
mod tests {
    use varve::text::units::SizeBytes;

    use super::*;

    #[test]
    fn a_point_that_is_only_in_the_archive_is_opened_and_read() {
        let options = Options {
            index: rebuild::Options {
                volume_size: SizeBytes(1 << 30),
                mapped: SizeBytes(96 << 20),
                overwritten: 100,
                repeat: 1,
            },
            no_anchor: false,
            dir: None,
        };
        let report = run(&options, |_| {}).expect("a small one");
        assert_eq!(report.mapped_blocks, 24_576);
        assert!(report.segments >= 3 && report.entries >= 2 * 24_576, "{report:?}");
        assert_eq!((report.open_ms.len(), report.block_ms.len(), report.roll_back_ms.len()), (1, 1, 1));
        assert!(report.anchor_bytes > 0 && report.read_entries < report.entries, "{report:?}");
        assert!(table(&report).contains("24576 blocks mapped"));
        let alone = run(&Options { no_anchor: true, ..options }, |_| {}).expect("a small one");
        assert_eq!(alone.anchor_lsn, None);
        // Entries after the point are in its segments, and are not read.
        assert!((alone.entries - 8..=alone.entries).contains(&alone.read_entries), "{alone:?}");
    }
}
