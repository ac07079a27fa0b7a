//! A random workload over a pool: a run with its pool, disk and model, and its steps.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use varve::archive::store::Store;
use varve::dma::{BLOCK_BYTES, DmaPool};
use varve::log::Recycling;
use varve::volume::{AnchorPolicy, IoError, Pool, PoolOptions, Sink, VolumeId};

use super::disk::SimDisk;
use super::expiry::Expired;
use super::going_back::GoingBack;
use super::model::{Change, Model, Step};
use super::rng::Rng;
use super::shortage;
use super::starts::StartCopy;
use super::trouble::Trouble;
use super::world::{World, forget_background, poll_background};

/// Size of the memory that receives hosts' data.
const RECEIVED_BYTES: usize = 256 << 20;

/// The parameters of a run.
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
    /// For each segment, the length of the working set that was in force when it was opened, or a
    /// longer one.
    pub(super) lengths: BTreeMap<u64, u64>,
    /// The length at the last check.
    pub(super) last_length: u64,
    /// The different bounds on segments that rebuilt points had.
    pub bounds: BTreeSet<u64>,
    /// Whether the volumes are clones of what a lost primary held.
    pub(super) lost_primary: bool,
    /// The number of compared points of which the primary held nothing.
    pub archived_only_points: u64,
    /// The maximum number of segments that opening a point touched in one generation.
    pub segments_touched_max: u64,
    /// What expiry removed.
    pub expired: Expired,
    /// The end of the log when the pool was last opened.
    pub(super) recovered_head: u64,
    /// Faults of its device and of memory.
    pub trouble: Trouble,
    /// The verbs of going back, if the run has them.
    pub(super) going_back: Option<GoingBack>,
    /// The device as it was before the pool was last opened, for starts with faults.
    pub(super) start_copy: Option<StartCopy>,
    pub(super) sink: Rc<Sink>,
    /// The memory that receives hosts' data.
    pub(super) received: DmaPool,
    pub(super) next_tag: u64,
    /// Commands in flight by tag: the step of each, or the position that a flush covers.
    pub(super) in_flight: HashMap<u64, InFlight>,
    /// Completions that arrived while waiting for another.
    pub(super) early: Vec<(u64, Result<(), IoError>)>,
}

/// The result of opening a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    /// It is open, as a clone.
    Yes,
    /// There was no space for it.
    NoRoom,
    /// It may be gone, and is gone.
    Expired,
}

/// A command that has not ended.
pub(super) enum InFlight {
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

    /// The same, with a pool that is opened with these options.
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
        Run::with_anchors(seed, shape, store, AnchorPolicy::Never)
    }

    /// The same, with anchors.
    ///
    /// # Panics
    /// As there.
    pub fn with_anchors(seed: u64, shape: Shape, store: Arc<dyn Store>, anchors: AnchorPolicy) -> Self {
        let mut world = World::new(seed);
        world.policy.anchors = anchors;
        world.options = PoolOptions { recycling: Recycling::Archived, ..PoolOptions::default() };
        world.store = Some(store);
        Run::in_world(seed, shape, world)
    }

    pub(super) fn in_world(seed: u64, shape: Shape, world: World) -> Self {
        forget_background();
        shortage::end();
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
            trouble: Trouble::default(),
            going_back: None,
            start_copy: None,
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

    pub(super) fn push(&mut self, change: Change) {
        self.push_at(self.head(), change);
    }

    /// Records a change of the catalog; the catalog of a segment that was opened since may be after
    /// it.
    pub(super) fn push_managed(&mut self, change: Change) {
        self.push_at(self.pool.stats().newest_change_lsn, change);
    }

    pub(super) fn push_at(&mut self, lsn: u64, change: Change) {
        self.model.steps.push(Step { lsn, written_lsn: lsn, change, acknowledged: false, flushed: false });
    }

    pub(super) fn mark_flushed(&mut self, lsn: u64) {
        for step in self.model.steps.iter_mut().filter(|step| step.lsn <= lsn) {
            step.acknowledged = true;
            step.flushed = true;
        }
    }

    /// A random volume, and the positions at which it can be opened, if there are any.
    pub(super) fn random_history(&mut self) -> Option<(usize, Vec<u64>)> {
        let live = self.live();
        let chosen = (!live.is_empty()).then(|| self.rng.below(live.len() as u64) as usize)?;
        let place = live[chosen].0;
        let is_open = |&lsn: &u64| self.model.state_at(place, lsn).is_some() && !self.may_be_gone(place, lsn);
        let lsns: Vec<u64> = self.model.steps.iter().map(|step| step.lsn).filter(is_open).collect();
        (!lsns.is_empty()).then_some((place, lsns))
    }

    /// The volumes that exist now: their places in the model and their ids.
    pub(super) fn live(&self) -> Vec<(usize, VolumeId, u64)> {
        let alive = (0..self.model.volumes.len()).filter(|&place| self.model.is_alive(place));
        let found = alive.filter_map(|place| {
            let info = self.pool.find_volume(self.model.name(place))?;
            Some((place, info.id, info.size_bytes / BLOCK_BYTES as u64))
        });
        found.collect()
    }

    /// The volumes that hosts may write to.
    pub(super) fn writable(&self) -> Vec<(usize, VolumeId, u64)> {
        let mut live = self.live();
        live.retain(|(place, ..)| !self.model.volumes[*place].read_only);
        live
    }

    /// Executes one random operation. `false`: the log is full.
    ///
    /// # Panics
    /// When the pool violates a guarantee.
    pub fn step(&mut self) -> bool {
        let jump = self.rng.below(2_000_000) as i64;
        self.make_trouble();
        self.world.clock.advance(match self.rng.below(200) {
            0 => -5000 * jump,
            1..5 => -jump,
            _ => jump,
        });
        let live = self.live();
        if live.is_empty() {
            // One name is used many times; each time it is a new volume.
            return self.try_create_volume("again");
        }
        let (place, id, size_blocks) = live[self.rng.below(live.len() as u64) as usize];
        if self.is_going_back() && self.rng.one_in(8) {
            self.go_back();
            return self.reap();
        }
        match self.rng.below(100) {
            0..72 if self.model.volumes[place].read_only => self.check_read(place, id, size_blocks),
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

    /// Writes one block as its own record, so that records of different sessions are at the same
    /// places.
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

    /// Writes 1 to 8 of the first blocks of the first volume: the others are cold.
    pub fn step_hot_write(&mut self) {
        self.world.clock.advance(1000);
        let (place, id, size_blocks) = self.writable()[0];
        let len = 1 + self.rng.below(8);
        let block = self.rng.below(size_blocks.min(40) - len);
        self.write_at(place, id, block, len);
        self.pool.poll();
        self.reap();
    }

    /// Writes `len_blocks` blocks at a random place of the first volume.
    pub fn step_write(&mut self, len_blocks: u64) {
        self.world.clock.advance(1000);
        let (place, id, size_blocks) = self.live()[0];
        let block = self.rng.below(size_blocks - len_blocks + 1);
        self.write_at(place, id, block, len_blocks);
        self.pool.poll();
        self.reap();
    }

    /// Executes one random operation that does not wait, for runs in which the device may die at
    /// any moment.
    pub fn step_writes_only(&mut self) {
        self.make_trouble();
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
}
