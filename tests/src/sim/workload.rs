//! A random workload over a pool: operations, clean restarts, crashes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use varve::archive::store::Store;
use varve::dma::{BLOCK_BYTES, DmaPool};
use varve::log::format::ENTRIES_PER_RECORD;
use varve::log::{Recycling, SegmentSeq};
use varve::volume::{
    CreateVolume, IoError, Point, PointKind, Pool, PoolOptions, Request, Sink, Submitted, VolumeError,
    VolumeId, VolumeState,
};

use super::checks::check_blocks;
use super::disk::{Crash, SimDisk};
use super::expiry::Expired;
use super::model::{Change, Model, ModelVolume, Stamp, Step, fill};
use super::rng::Rng;
use super::world::{World, begin, forget_background, poll_background, submit, wait};

/// Memory that hosts' data is received into.
const RECEIVED_BYTES: usize = 256 << 20;

/// What a run shall be like.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Blocks of the device.
    pub device_blocks: u64,
    /// Blocks of a segment.
    pub segment_blocks: u64,
    /// Whether the device has a volatile cache.
    pub volatile_cache: bool,
    /// Blocks of a new volume.
    pub volume_blocks: u64,
}

/// A pool, its world, its disk and its model.
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// The random numbers of the workload.
    pub rng: Rng,
    /// The disk.
    pub disk: SimDisk,
    /// The world.
    pub world: World,
    /// The pool.
    pub pool: Rc<Pool>,
    /// The model.
    pub model: Model,
    pub(super) shape: Shape,
    /// The working set's length that was in force when a segment was opened, or a longer one.
    pub(super) lengths: BTreeMap<u64, u64>,
    /// The length that was seen last.
    pub(super) last_length: u64,
    /// The bounds that points were rebuilt within.
    pub bounds: BTreeSet<u64>,
    /// Whether the volumes are clones of what a primary that was lost held.
    pub(super) lost_primary: bool,
    /// Points that were compared, and of which the primary held nothing.
    pub archived_only_points: u64,
    /// The most segments that opening a point touched in one generation.
    pub segments_touched_max: u64,
    /// What expiry took.
    pub expired: Expired,
    /// Where the log ended when the pool was opened last.
    recovered_head: u64,
    sink: Rc<Sink>,
    /// Memory that hosts' data is received into.
    received: DmaPool,
    next_tag: u64,
    /// Tags in flight: the step they belong to, and whether they are flushes.
    in_flight: HashMap<u64, InFlight>,
    /// Completions that were seen while looking for another.
    early: Vec<(u64, Result<(), IoError>)>,
}

/// What became of a point that was to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    /// It is open, as a clone.
    Yes,
    /// There was no room for that.
    NoRoom,
    /// It may be gone, and is.
    Expired,
}

enum InFlight {
    Step(u64),
    Flush(u64),
}

impl Run {
    /// A run with one empty volume.
    ///
    /// # Panics
    /// When the pool cannot be created.
    pub fn new(seed: u64, shape: Shape) -> Self {
        Run::with_options(seed, shape, PoolOptions::default())
    }

    /// The same, with a pool that is opened in a certain way.
    ///
    /// # Panics
    /// When the pool cannot be created.
    pub fn with_options(seed: u64, shape: Shape, options: PoolOptions) -> Self {
        let mut world = World::new(seed);
        world.options = options;
        Run::in_world(seed, shape, world)
    }

    /// The same, with an archive.
    ///
    /// # Panics
    /// When the pool cannot be created.
    pub fn with_archive(seed: u64, shape: Shape, store: Arc<dyn Store>) -> Self {
        let mut world = World::new(seed);
        world.options = PoolOptions { recycling: Recycling::Archived, ..PoolOptions::default() };
        world.store = Some(store);
        Run::in_world(seed, shape, world)
    }

    fn in_world(seed: u64, shape: Shape, world: World) -> Self {
        forget_background();
        let disk = SimDisk::new(shape.device_blocks, shape.volatile_cache, seed);
        let pool = world.create(disk.open(), shape.segment_blocks).expect("a blank disk becomes a pool");
        world.attach(&pool, &disk);
        let mut run = Run {
            seed,
            rng: Rng::new(seed),
            disk,
            world,
            pool,
            model: Model::default(),
            shape,
            lengths: BTreeMap::new(),
            last_length: 0,
            bounds: BTreeSet::new(),
            lost_primary: false,
            expired: Expired::default(),
            recovered_head: 0,
            archived_only_points: 0,
            segments_touched_max: 0,
            sink: Sink::new(),
            received: DmaPool::new(RECEIVED_BYTES),
            next_tag: 1,
            in_flight: HashMap::new(),
            early: Vec::new(),
        };
        run.create_volume("v0");
        run
    }

    /// The position of the newest command or event.
    pub(super) fn head(&self) -> u64 {
        self.pool.stats().newest_point_lsn
    }

    fn push(&mut self, change: Change) {
        self.push_at(self.head(), change);
    }

    /// A change of the catalog; behind it there may be the catalog of a segment that was opened since.
    fn push_managed(&mut self, change: Change) {
        self.push_at(self.pool.stats().newest_change_lsn, change);
    }

    fn push_at(&mut self, lsn: u64, change: Change) {
        self.model.steps.push(Step { lsn, change, acknowledged: false, flushed: false });
    }

    /// Creates a volume, and waits for it.
    ///
    /// # Panics
    /// When that fails.
    pub fn create_volume(&mut self, name: &str) {
        assert!(self.try_create_volume(name), "seed {}: there is room for a volume", self.seed);
    }

    /// Creates a volume, and waits for it. `false`: the log is full.
    fn try_create_volume(&mut self, name: &str) -> bool {
        let size_bytes = self.shape.volume_blocks * BLOCK_BYTES as u64;
        let request = CreateVolume { name: name.to_owned(), size_bytes, uuid: None, thin: false };
        match wait(&self.pool, Rc::clone(&self.pool).create_volume(request)) {
            Ok(_) => {}
            Err(VolumeError::NoSpace { .. }) => return false,
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
        self.note_created(name);
        self.mark_flushed(u64::MAX);
        true
    }

    fn note_created(&mut self, name: &str) {
        self.model.volumes.push(ModelVolume {
            name: name.to_owned(),
            first_size_blocks: self.shape.volume_blocks,
            parent: None,
        });
        let volume = self.model.volumes.len() - 1;
        self.push_managed(Change::Create { volume });
    }

    fn mark_flushed(&mut self, lsn: u64) {
        for step in self.model.steps.iter_mut().filter(|step| step.lsn <= lsn) {
            step.acknowledged = true;
            step.flushed = true;
        }
    }

    /// The volumes that exist now: their places in the model and their ids.
    pub(super) fn live(&self) -> Vec<(usize, VolumeId, u64)> {
        let alive = self.model.volumes.iter().enumerate().filter(|(place, _)| self.model.is_alive(*place));
        let found = alive.filter_map(|(place, volume)| {
            let info = self.pool.find_volume(&volume.name)?;
            Some((place, info.id, info.size_bytes / BLOCK_BYTES as u64))
        });
        found.collect()
    }

    /// One random operation. `false`: the log is full.
    ///
    /// # Panics
    /// When the pool breaks a promise.
    pub fn step(&mut self) -> bool {
        let jump = self.rng.below(2_000_000) as i64;
        self.world.clock.advance(match self.rng.below(200) {
            0 => -5000 * jump,
            1..5 => -jump,
            _ => jump,
        });
        let live = self.live();
        if live.is_empty() {
            // One name is used again and again; each time it is another volume.
            return self.try_create_volume("again");
        }
        let (place, id, size_blocks) = live[self.rng.below(live.len() as u64) as usize];
        match self.rng.below(100) {
            0..60 => self.write(place, id, size_blocks),
            60..72 => self.trim(place, id, size_blocks),
            72..78 => self.flush(id),
            78..92 => self.check_read(place, id, size_blocks),
            92..94 => self.synch(),
            94..96 if live.len() < 6 => self.clone_at_random(),
            96 if live.len() > 1 || self.rng.one_in(4) => self.delete(place),
            97 => self.resize(place, size_blocks),
            98 => self.snapshot(),
            99 if self.pool.has_archive() => self.begin_hydration(),
            _ => {
                self.pool.poll();
            }
        }
        poll_background();
        if self.rng.one_in(3) {
            self.pool.poll();
        }
        self.reap()
    }

    /// Writes one block as a record of its own, so that records of different sessions lie at the same places.
    pub fn step_lone_write(&mut self) {
        self.world.clock.advance(1000);
        let (place, id, size_blocks) = self.live()[0];
        let block = self.rng.below(size_blocks.min(8));
        self.write_at(place, id, block, 1);
        self.pool.poll();
        self.reap();
    }

    /// Writes every block of the first volume.
    pub fn write_all(&mut self) {
        let (place, id, size_blocks) = self.live()[0];
        for block in (0..size_blocks).step_by(32) {
            self.write_at(place, id, block, 32.min(size_blocks - block));
            self.pool.poll();
            self.reap();
        }
    }

    /// Writes a few of the first blocks of the first volume: the others are cold.
    pub fn step_hot_write(&mut self) {
        self.world.clock.advance(1000);
        let (place, id, size_blocks) = self.live()[0];
        let len = 1 + self.rng.below(8);
        let block = self.rng.below(size_blocks.min(40) - len);
        self.write_at(place, id, block, len);
        self.pool.poll();
        self.reap();
    }

    /// Writes so many blocks at a random place of the first volume.
    pub fn step_write(&mut self, len_blocks: u64) {
        self.world.clock.advance(1000);
        let (place, id, size_blocks) = self.live()[0];
        let block = self.rng.below(size_blocks - len_blocks + 1);
        self.write_at(place, id, block, len_blocks);
        self.pool.poll();
        self.reap();
    }

    /// One random operation that does not wait, for runs in which the device may die at any moment.
    pub fn step_writes_only(&mut self) {
        self.world.clock.advance(1000);
        let live = self.live();
        let (place, id, size_blocks) = live[self.rng.below(live.len() as u64) as usize];
        match self.rng.below(10) {
            0..6 => self.write(place, id, size_blocks),
            6 => self.trim(place, id, size_blocks),
            7 => self.flush(id),
            _ => {}
        }
        self.pool.poll();
        self.reap();
    }

    fn write(&mut self, place: usize, id: VolumeId, size_blocks: u64) {
        let len = if self.rng.one_in(8) { 1 + self.rng.below(128) } else { 1 + self.rng.below(4) };
        // Half of the writes go to a few blocks, so that blocks are written again and again.
        let span = if self.rng.one_in(2) { size_blocks } else { 64.min(size_blocks) };
        let len = len.min(span);
        let block = self.rng.below(span - len + 1);
        self.write_at(place, id, block, len);
    }

    fn write_at(&mut self, place: usize, id: VolumeId, block: u64, len: u64) {
        let stamps: Vec<Stamp> = (0..len).map(|index| self.model.next_stamp + 1 + index).collect();
        self.model.next_stamp += len;
        let mut bytes = vec![0; len as usize * BLOCK_BYTES];
        for (index, chunk) in bytes.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            fill(stamps[index], block + index as u64, chunk);
        }
        let force_unit_access = self.rng.one_in(10);
        let before = self.head();
        let tag = self.next_tag;
        // Every other write comes in memory that the log keeps; not by chance, so that seeds mean what they meant.
        if tag.is_multiple_of(2) {
            let mut buffer = self.received.allocate(bytes.len()).expect("memory for what a host sends");
            buffer.as_mut_slice().copy_from_slice(&bytes);
            let data = buffer.freeze();
            let request = Request::WriteReceived { block, data: &data, force_unit_access };
            submit(&self.pool, id, &request, tag, &self.sink);
        } else {
            let (front, back) = bytes.split_at(bytes.len() / BLOCK_BYTES / 2 * BLOCK_BYTES);
            let request = Request::Write { block, data: &[front, back], force_unit_access };
            submit(&self.pool, id, &request, tag, &self.sink);
        }
        self.submitted(before, tag, Change::Write { volume: place, block, stamps }, force_unit_access);
    }

    fn trim(&mut self, place: usize, id: VolumeId, size_blocks: u64) {
        let before = self.head();
        let tag = self.next_tag;
        if self.rng.one_in(3) {
            let block = self.rng.below(size_blocks);
            let len_blocks = 1 + self.rng.below(size_blocks - block);
            submit(
                &self.pool,
                id,
                &Request::WriteZeroes { block, len_blocks, force_unit_access: false },
                tag,
                &self.sink,
            );
            self.submitted(
                before,
                tag,
                Change::Trim { volume: place, ranges: vec![(block, len_blocks)] },
                false,
            );
            return;
        }
        let count = match self.rng.below(20) {
            0 => 1 + self.rng.below(168),
            1 => 169 + self.rng.below(88),
            _ => 1 + self.rng.below(3),
        };
        let ranges: Vec<(u64, u64)> = (0..count)
            .map(|_| {
                let block = self.rng.below(size_blocks);
                (block, 1 + self.rng.below((size_blocks - block).min(8)))
            })
            .collect();
        submit(&self.pool, id, &Request::Trim { ranges: &ranges }, tag, &self.sink);
        // More ranges than a record holds are two commands to history, each with a position of its own.
        if let Some((first, second)) =
            ranges.split_at_checked(ENTRIES_PER_RECORD).filter(|(_, second)| !second.is_empty())
        {
            // The pool may have appended something of its own although it refused the command.
            let Some(lsn) = self.first_write_behind(before) else {
                assert!(self.refused(tag), "seed {}: no command lies behind LSN {before}", self.seed);
                self.next_tag += 1;
                return;
            };
            self.push_at(lsn, Change::Trim { volume: place, ranges: first.to_vec() });
            if lsn == self.head() {
                assert!(self.refused(tag), "seed {}: the second part has a position of its own", self.seed);
                self.next_tag += 1;
                return;
            }
            self.submitted(before, tag, Change::Trim { volume: place, ranges: second.to_vec() }, false);
            return;
        }
        self.submitted(before, tag, Change::Trim { volume: place, ranges }, false);
    }

    /// The position of the first host command behind `lsn`, if there is one.
    fn first_write_behind(&self, lsn: u64) -> Option<u64> {
        for at in lsn + 1..=self.head() {
            let point = wait(&self.pool, Rc::clone(&self.pool).resolve(Point::Lsn(at)))
                .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
            if point.lsn == at && point.kind == PointKind::Write {
                return Some(at);
            }
        }
        None
    }

    fn submitted(&mut self, before: u64, tag: u64, change: Change, force_unit_access: bool) {
        self.next_tag += 1;
        let step = self.model.steps.len() as u64;
        // A refused command changes nothing; its completion is an error.
        if !self.refused(tag) {
            assert!(self.head() > before, "seed {}: a command moves the head", self.seed);
            self.push(change);
            self.in_flight.insert(
                tag,
                if force_unit_access { InFlight::Flush(self.head()) } else { InFlight::Step(step) },
            );
        }
    }

    /// Whether a tag has ended already with an error; takes the completion then.
    fn refused(&mut self, tag: u64) -> bool {
        let mut refused = false;
        while let Some(completion) = self.sink.pop() {
            if completion.tag == tag && completion.result == Err(IoError::CapacityExceeded) {
                refused = true;
            } else {
                self.early.push((completion.tag, completion.result));
            }
        }
        if refused {
            self.in_flight.insert(0, InFlight::Flush(0));
        }
        refused
    }

    fn flush(&mut self, id: VolumeId) {
        let tag = self.next_tag;
        self.next_tag += 1;
        submit(&self.pool, id, &Request::Flush, tag, &self.sink);
        self.in_flight.insert(tag, InFlight::Flush(self.head()));
    }

    fn ended(&mut self, tag: u64, result: Result<(), IoError>) {
        let Some(kind) = self.in_flight.remove(&tag) else { return };
        if self.disk.is_dead() && result.is_err() {
            return;
        }
        assert_eq!(result, Ok(()), "seed {}: a command failed", self.seed);
        match kind {
            InFlight::Step(step) => self.model.steps[step as usize].acknowledged = true,
            InFlight::Flush(lsn) => self.mark_flushed(lsn),
        }
    }

    /// Takes completions; `false` when a write was refused because the log is full.
    fn reap(&mut self) -> bool {
        for (tag, result) in std::mem::take(&mut self.early) {
            self.ended(tag, result);
        }
        while let Some(completion) = self.sink.pop() {
            self.ended(completion.tag, completion.result);
        }
        self.in_flight.remove(&0).is_none()
    }

    /// Reads somewhere, now and then several times in order: what comes next is read ahead then.
    fn check_read(&mut self, place: usize, id: VolumeId, size_blocks: u64) {
        let len_blocks = 1 + self.rng.below(16.min(size_blocks));
        let mut block = self.rng.below(size_blocks - len_blocks + 1);
        let state = self.model.state_at(place, u64::MAX).expect("it exists");
        let reads = if self.rng.one_in(4) { 4 + self.rng.below(12) } else { 1 };
        for _ in 0..reads {
            if block + len_blocks <= size_blocks {
                check_blocks(&self.pool, id, block, len_blocks as u32, &state, self.seed);
            }
            block += len_blocks;
        }
    }

    fn synch(&mut self) {
        let label = format!("s{}", self.model.steps.len());
        match wait(
            &self.pool,
            Rc::clone(&self.pool).create_synch(label.clone(), serde_json::json!({"step": 1})),
        ) {
            Ok(synch) => {
                // A segment may have been opened since, with a catalog at its start.
                assert!(synch.lsn <= self.head(), "seed {}", self.seed);
                self.push_at(synch.lsn, Change::Synch { label });
                self.mark_flushed(u64::MAX);
            }
            Err(VolumeError::NoSpace { .. }) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    /// Takes a snapshot, or forgets one.
    fn snapshot(&mut self) {
        let known = self.model.snapshots();
        let forget = !known.is_empty() && self.rng.one_in(3);
        let at = self.head();
        let (result, change) = if forget {
            let name = known[self.rng.below(known.len() as u64) as usize].1.clone();
            let result = wait(&self.pool, Rc::clone(&self.pool).delete_snapshot(name.clone()));
            (result, Change::DeleteSnapshot { name })
        } else {
            let name = format!("n{}", self.model.steps.len());
            let result = wait(&self.pool, Rc::clone(&self.pool).create_snapshot(name.clone()));
            (result.map(|_| ()), Change::Snapshot { name, at })
        };
        match result {
            Ok(()) => {
                self.push_managed(change);
                self.mark_flushed(u64::MAX);
            }
            Err(VolumeError::NoSpace { .. }) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    /// Begins an operation of the management plane and does not wait for its end; for a crash that follows. It must be there whole or not at all.
    pub fn begin_operation(&mut self) {
        let (pool, turns) = (Rc::clone(&self.pool), self.rng.below(4));
        let number = self.model.steps.len();
        match self.rng.below(3) {
            0 => {
                let label = format!("begun{number}");
                let future = Rc::clone(&pool).create_synch(label.clone(), serde_json::Value::Null);
                begin(&pool, future, turns, || {
                    if self.pool.synchs().iter().any(|synch| synch.label == label) {
                        self.push(Change::Synch { label });
                    }
                });
            }
            1 => {
                let name = format!("begun{number}");
                let size_bytes = self.shape.volume_blocks * BLOCK_BYTES as u64;
                let request = CreateVolume { name: name.clone(), size_bytes, uuid: None, thin: false };
                begin(&pool, Rc::clone(&pool).create_volume(request), turns, || {
                    if self.pool.find_volume(&name).is_some() {
                        self.note_created(&name);
                    }
                });
            }
            _ => {
                let (name, at) = (format!("begun{number}"), self.head());
                begin(&pool, Rc::clone(&pool).create_snapshot(name.clone()), turns, || {
                    if self.pool.snapshots().iter().any(|snapshot| snapshot.name == name) {
                        self.push_managed(Change::Snapshot { name, at });
                    }
                });
            }
        }
    }

    pub(super) fn delete(&mut self, place: usize) {
        let name = self.model.volumes[place].name.clone();
        match wait(&self.pool, Rc::clone(&self.pool).delete_volume(name)) {
            Ok(()) => {
                self.push_managed(Change::Delete { volume: place });
                self.mark_flushed(u64::MAX);
            }
            Err(VolumeError::NoSpace { .. }) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    fn resize(&mut self, place: usize, size_blocks: u64) {
        let name = self.model.volumes[place].name.clone();
        let size_blocks = size_blocks + 1 + self.rng.below(300);
        let size_bytes = size_blocks * BLOCK_BYTES as u64;
        match wait(&self.pool, Rc::clone(&self.pool).resize_volume(name, size_bytes)) {
            Ok(_) => {
                self.push_managed(Change::Resize { volume: place, size_blocks });
                self.mark_flushed(u64::MAX);
            }
            Err(VolumeError::NoSpace { .. }) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    /// Clones a random volume at a random point and keeps the clone.
    fn clone_at_random(&mut self) {
        let step = self.rng.below(self.model.steps.len() as u64) as usize;
        let lsn = self.model.steps[step].lsn;
        let candidates: Vec<usize> = (0..self.model.volumes.len())
            .filter(|&place| self.model.state_at(place, lsn).is_some())
            .collect();
        if candidates.is_empty() {
            return;
        }
        let source = candidates[self.rng.below(candidates.len() as u64) as usize];
        let name = format!("c{}", self.model.volumes.len());
        if self.open_point(source, lsn, &name, false) != Opened::Yes {
            return;
        }
        self.note_clone(&name, source, lsn);
    }

    /// A clone that was made by the last entry of the log.
    pub(super) fn note_clone(&mut self, name: &str, source: usize, lsn: u64) {
        let size = self.model.state_at(source, lsn).expect("it existed").size_blocks;
        self.model.volumes.push(ModelVolume {
            name: name.to_owned(),
            first_size_blocks: size,
            parent: Some((source, lsn)),
        });
        let volume = self.model.volumes.len() - 1;
        self.push_managed(Change::Create { volume });
        self.mark_flushed(u64::MAX);
    }

    /// Opens a point as a clone and checks the answer. With `between`, it may lie between two commands.
    pub(super) fn open_point(&mut self, source: usize, lsn: u64, name: &str, between: bool) -> Opened {
        let source_name = self.model.volumes[source].name.clone();
        let result = wait(
            &self.pool,
            Rc::clone(&self.pool).clone_volume(source_name, Point::Lsn(lsn), name.to_owned(), false),
        );
        match result {
            Ok(clone) => {
                assert!(
                    clone.point.lsn == lsn || (between && clone.point.lsn < lsn),
                    "seed {}: a step's position is the end of a command",
                    self.seed
                );
                self.check_bound(source, &clone);
                self.segments_touched_max = self.segments_touched_max.max(clone.segments_touched);
                Opened::Yes
            }
            Err(VolumeError::NoSpace { .. }) => Opened::NoRoom,
            Err(VolumeError::NoSuchPoint { .. }) if self.may_be_gone(source, lsn) => Opened::Expired,
            Err(error) => panic!(
                "seed {}: clone at {lsn}: {error}; {:?} {:?}",
                self.seed,
                self.pool.stats(),
                self.pool.segments()
            ),
        }
    }

    /// Makes the disk larger; the pool may use that once it is opened again.
    pub fn grow_disk(&mut self, slots: u64) {
        let more_blocks = slots * self.shape.segment_blocks;
        self.shape.device_blocks += more_blocks;
        self.disk.grow(more_blocks);
    }

    /// Whether a store that fails again and again holds the log up, and every change with it: it comes later.
    pub(super) fn is_held_up(&self) -> bool {
        self.pool.archive_status().is_some_and(|status| status.problem.is_some())
    }

    /// Asks for another length of the working set; `false`: it would be too short for what the volumes need, or comes later.
    ///
    /// # Panics
    /// When that fails otherwise.
    pub fn set_working_set(&mut self, segments: u64) -> bool {
        match wait(&self.pool, Rc::clone(&self.pool).set_working_set(segments)) {
            Ok(info) => {
                let told = info.working_set_target_segments.unwrap_or(info.working_set_segments);
                assert_eq!(told, segments, "seed {}", self.seed);
                true
            }
            Err(VolumeError::NoSpace { .. }) => false,
            Err(VolumeError::Busy { .. }) if self.is_held_up() => false,
            Err(error) => panic!("seed {}: {segments} segments: {error}", self.seed),
        }
    }

    /// Waits for everything in flight.
    ///
    /// # Panics
    /// When it does not end.
    pub fn settle(&mut self) {
        for _ in 0..1_000_000 {
            self.reap();
            if self.in_flight.is_empty() {
                return;
            }
            self.pool.poll();
        }
        panic!("seed {}: requests do not end", self.seed);
    }

    /// Stops the pool cleanly and opens it again.
    ///
    /// # Panics
    /// When that fails or finds something wrong.
    pub fn restart(&mut self) {
        self.settle();
        wait(&self.pool, Rc::clone(&self.pool).close())
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        self.mark_flushed(u64::MAX);
        let died = self.reopen(Crash::Process);
        let mut problems = self.pool.info().problems;
        // A superblock that is torn while the pool is opened is reported and repaired.
        problems.retain(|problem| !(died && problem.starts_with("superblock")));
        // So is a store that fails, and a pool that fills.
        problems.retain(|problem| {
            !problem.starts_with("the archive does not work")
                && !problem.starts_with("the pool is nearly full")
        });
        assert_eq!(problems, Vec::<String>::new(), "seed {}", self.seed);
        self.check_all();
    }

    /// Lets the pool die and opens it again; everything that was promised must be there.
    ///
    /// # Panics
    /// When a promise is broken.
    pub fn crash(&mut self, crash: Crash) {
        self.reap();
        // Where the past is given away, so are synchs, and points cannot be opened.
        let keeps_past = self.world.options.recycling != Recycling::Discard;
        if keeps_past && !self.disk.is_dead() && self.rng.one_in(4) {
            self.begin_operation();
        }
        self.reopen(crash);
        let head = self.recovered_head;
        for step in &self.model.steps {
            let promised = match crash {
                Crash::Process => step.acknowledged,
                Crash::Power => step.flushed || (step.acknowledged && !self.shape.volatile_cache),
            };
            assert!(
                !promised || step.lsn <= head,
                "seed {}: {crash:?} lost an acknowledged operation at LSN {} (the log ends at {head}): {:?}",
                self.seed,
                step.lsn,
                step.change
            );
        }
        self.model.steps.retain(|step| step.lsn <= head);
        self.forget_lost_volumes();
        self.check_all();
        self.mark_flushed(u64::MAX);
    }

    /// Loses the primary device and makes the pool again from its archive, on a disk of another size. With `sealed`, everything is archived first, and nothing is lost.
    /// Returns how many steps were; `None` when nothing had been archived yet: then the recovery must be refused and leave the new disk blank, and the run goes on with the old one.
    ///
    /// # Panics
    /// When a promise is broken.
    pub fn lose_primary(&mut self, sealed: bool) -> Option<u64> {
        self.settle();
        let sealed = sealed
            && match wait(&self.pool, Rc::clone(&self.pool).seal_archive()) {
                Ok(_) => true,
                // A store that fails is no promise broken.
                Err(VolumeError::Busy { .. }) => false,
                Err(error) => panic!("seed {}: {error}", self.seed),
            };
        let archived_to = self.pool.archive_status().expect("an archive").archived_to_lsn;
        self.lost_primary = true;
        let uuid = self.pool.info().uuid;
        let more_slots = 2 + self.rng.below(4);
        let device_blocks = self.shape.device_blocks + more_slots * self.shape.segment_blocks;
        let disk = SimDisk::new(device_blocks, self.shape.volatile_cache, self.rng.next_u64());
        let point = match self.world.recover(uuid, &disk, self.shape.segment_blocks) {
            Ok(point) => point,
            // What was never archived is lost with the primary, also when that is everything: DESIGN section 13 promises "at most the unarchived tail". The archive
            // said itself that it has nothing.
            Err(VolumeError::Archive { reason }) if archived_to == 0 => {
                assert!(reason.starts_with("nothing of pool"), "seed {}: {reason}", self.seed);
                assert!(!sealed && disk.written_blocks().is_empty(), "seed {}", self.seed);
                return None;
            }
            Err(error) => panic!("seed {}: {error}", self.seed),
        };
        self.in_flight.clear();
        self.early.clear();
        self.sink = Sink::new();
        self.shape.device_blocks = device_blocks;
        self.disk = disk;
        let before = self.model.steps.len();
        self.model.steps.retain(|step| step.lsn <= point);
        let lost = before - self.model.steps.len();
        assert!(!sealed || lost == 0, "seed {}: {lost} steps were archived and are lost", self.seed);
        for step in &self.model.steps {
            assert!(step.lsn < archived_to.max(point + 1), "seed {}", self.seed);
        }
        self.forget_lost_volumes();
        self.mark_flushed(u64::MAX);
        self.reopen(Crash::Process);
        // The recovery point may lie between the making of a probe and its deletion, which are no steps of the model.
        for volume in self.pool.volumes().iter().filter(|volume| volume.name.starts_with("probe")) {
            if !self.model.volumes.iter().any(|known| known.name == volume.name) {
                wait(&self.pool, Rc::clone(&self.pool).delete_volume(volume.name.clone()))
                    .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
            }
        }
        self.check_all();
        Some(lost as u64)
    }

    /// Volumes whose creation was lost keep their place in the model, under a name that nobody has.
    fn forget_lost_volumes(&mut self) {
        for place in 0..self.model.volumes.len() {
            let created = self
                .model
                .steps
                .iter()
                .any(|step| matches!(step.change, Change::Create { volume } if volume == place));
            if !created {
                self.model.volumes[place].name = format!("lost-{place}");
            }
        }
    }

    /// Opens the pool again; whether the device died meanwhile and it had to be tried again.
    fn reopen(&mut self, crash: Crash) -> bool {
        self.in_flight.clear();
        self.early.clear();
        self.sink = Sink::new();
        // The old pool goes first, with its device handle: what is in flight is settled then.
        let blank = SimDisk::new(4096, false, 0);
        let placeholder = self.world.create(blank.open(), 256).expect("a blank disk");
        forget_background();
        drop(std::mem::replace(&mut self.pool, placeholder));
        self.disk.crash(crash);
        // Half of the time the device dies again while the pool is opened, once or twice.
        let mut died = false;
        while self.rng.one_in(2) {
            died = true;
            let writes = self.disk.writes() + self.rng.below(2);
            self.disk.die_after_writes(Some(writes));
            let opened = self.world.open_until_dead(&self.disk);
            assert!(!opened || writes < self.disk.writes() || !self.disk.is_dead(), "seed {}", self.seed);
            self.disk.crash(if self.rng.one_in(2) { Crash::Power } else { crash });
        }
        self.disk.die_after_writes(None);
        self.pool = self
            .world
            .open_loading(self.disk.open())
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        self.recovered_head = self.pool.stats().head_lsn - 1;
        let newest = self.recovered_head / self.shape.segment_blocks;
        self.lengths.retain(|&sequence, _| sequence <= newest);
        let length = self.pool.info().working_set_segments;
        // Segments that were opened since the last look, with a change under way that is in force now.
        let opened = self.lengths.last_key_value().map_or(0, |(&known, _)| known + 1)..=newest;
        self.lengths.extend(opened.map(|sequence| (sequence, length.max(self.last_length))));
        self.last_length = length;
        self.world.attach(&self.pool, &self.disk);
        self.check_loading();
        wait(&self.pool, Rc::clone(&self.pool).load_archived_synchs(SegmentSeq(0)))
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        wait(&self.pool, Rc::clone(&self.pool).load_inherited());
        self.resume_hydrations();
        died
    }

    /// Clones wait for what they inherited; everything else is served at once.
    fn check_loading(&self) {
        for volume in self.pool.volumes() {
            let sink = Sink::new();
            let taken = self.pool.submit(volume.id, &Request::Read { block: 0, len_blocks: 1 }, 1, &sink);
            // Without an archive that is found before the pool is open.
            let inherits = volume.parent.is_some() && self.world.options.recycling != Recycling::Discard;
            assert_eq!(taken == Submitted::Busy, inherits, "seed {}: volume {}", self.seed, volume.name);
            assert_eq!(volume.state == VolumeState::Loading, inherits, "seed {}", self.seed);
            while sink.outstanding() > 0 {
                self.pool.poll();
            }
        }
    }
}
