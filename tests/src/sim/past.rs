//! A pool with one volume and a model of every command that was ever given to it: the state at any
//! position, also of a million commands.
//!
//! Every written block has a stamp of its own. The model keeps, for each command, the stamps before
//! and after it, and a cursor that moves along the commands; so a state costs what lies between.

use std::rc::Rc;
use std::sync::Arc;

use varve::archive::store::Store;
use varve::dma::BLOCK_BYTES;
use varve::log::{Recycling, SegmentSeq};
use varve::volume::{AnchorPolicy, CreateVolume, Pool, PoolOptions, Request, VolumeId};

use super::disk::{Crash, SimDisk};
use super::model::{Stamp, fill, is_filled};
use super::rng::Rng;
use super::store::MemoryStore;
use super::world::{World, forget_background, run, turn_alone, wait};

/// The longest read, in blocks.
const READ_BLOCKS: u64 = 128;

/// A block that a command changed: its stamps before and after.
#[derive(Debug, Clone, Copy)]
struct Changed {
    block: u32,
    before: Stamp,
    after: Stamp,
}

/// A command, or a resize, and where it ended.
struct Moment {
    lsn: u64,
    /// The end of its changes in the list of all.
    changes_end: usize,
    size_blocks: u64,
    is_command: bool,
}

/// The pool and the model.
pub struct Past {
    /// The seed.
    pub seed: u64,
    /// The random numbers of the workload.
    pub rng: Rng,
    /// The world.
    pub world: World,
    /// The disk.
    pub disk: SimDisk,
    /// The pool.
    pub pool: Rc<Pool>,
    /// The most blocks of a random write.
    pub write_blocks_max: u64,
    volume: VolumeId,
    moments: Vec<Moment>,
    changes: Vec<Changed>,
    /// The state at the cursor, which is after so many moments.
    state: Vec<Stamp>,
    cursor: usize,
    next_stamp: Stamp,
}

impl Past {
    /// A pool with an archive in memory, segments of 256 blocks, and a volume `data`.
    ///
    /// # Panics
    /// When it cannot be created.
    pub fn new(seed: u64, slots: u64, size_blocks: u64) -> Self {
        Past::with_store(seed, slots, size_blocks, Arc::new(MemoryStore::default()))
    }

    /// The same with this store.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with_store(seed: u64, slots: u64, size_blocks: u64, store: Arc<dyn Store>) -> Self {
        Past::with_anchors(seed, slots, size_blocks, store, AnchorPolicy::Never)
    }

    /// The same with anchors.
    ///
    /// # Panics
    /// When it cannot be created.
    pub fn with_anchors(
        seed: u64,
        slots: u64,
        size_blocks: u64,
        store: Arc<dyn Store>,
        anchors: AnchorPolicy,
    ) -> Self {
        forget_background();
        let mut world = World::new(seed);
        world.options = PoolOptions { recycling: Recycling::Archived, ..PoolOptions::default() };
        world.policy.anchors = anchors;
        world.store = Some(store);
        let disk = SimDisk::new(257 + slots * 256, true, seed);
        let pool = world.create(disk.open(), 256).expect("a blank disk becomes a pool");
        world.attach(&pool, &disk);
        let request = CreateVolume {
            name: "data".to_owned(),
            size_bytes: size_blocks * BLOCK_BYTES as u64,
            uuid: None,
            thin: false,
        };
        let volume = wait(&pool, Rc::clone(&pool).create_volume(request)).expect("there is room").id;
        let lsn = pool.stats().newest_change_lsn;
        Past {
            seed,
            rng: Rng::new(seed),
            world,
            disk,
            pool,
            write_blocks_max: 4,
            volume,
            moments: vec![Moment { lsn, changes_end: 0, size_blocks, is_command: false }],
            changes: Vec::new(),
            state: vec![0; size_blocks as usize],
            cursor: 0,
            next_stamp: 1,
        }
    }

    /// How many moments there are; 0 is the creation of the volume.
    pub fn len(&self) -> usize {
        self.moments.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.moments.is_empty()
    }

    /// The position of a moment.
    pub fn lsn(&self, moment: usize) -> u64 {
        self.moments[moment].lsn
    }

    /// The moment of a command of a host that is the n-th, counted from 0.
    pub fn command(&self, number: usize) -> usize {
        let commands = self.moments.iter().enumerate().filter(|(_, moment)| moment.is_command);
        commands.map(|(at, _)| at).nth(number).expect("there are so many commands")
    }

    /// Whether a moment is the end of a host's command.
    pub fn is_command(&self, moment: usize) -> bool {
        self.moments[moment].is_command
    }

    fn note(&mut self, changed: Vec<(u64, Stamp)>, is_command: bool, size_blocks: u64) {
        self.seek(self.moments.len() - 1);
        self.state.resize(size_blocks as usize, 0);
        for (block, after) in changed {
            let before = std::mem::replace(&mut self.state[block as usize], after);
            self.changes.push(Changed { block: block as u32, before, after });
        }
        let stats = self.pool.stats();
        let lsn = if is_command { stats.newest_point_lsn } else { stats.newest_change_lsn };
        self.moments.push(Moment { lsn, changes_end: self.changes.len(), size_blocks, is_command });
        self.cursor = self.moments.len() - 1;
    }

    fn size_blocks(&self) -> u64 {
        self.moments.last().map_or(0, |moment| moment.size_blocks)
    }

    /// Writes blocks; each gets a new stamp.
    ///
    /// # Panics
    /// When the write fails.
    pub fn write(&mut self, block: u64, len_blocks: u64) {
        self.world.clock.advance(1_000_000);
        let mut data = vec![0; len_blocks as usize * BLOCK_BYTES];
        let mut changed = Vec::new();
        for (at, bytes) in (block..).zip(data.chunks_exact_mut(BLOCK_BYTES)) {
            fill(self.next_stamp, at, bytes);
            changed.push((at, self.next_stamp));
            self.next_stamp += 1;
        }
        let request = Request::Write { block, data: &[&data], force_unit_access: false };
        assert_eq!(run(&self.pool, self.volume, &request).result, Ok(()), "seed {}", self.seed);
        self.note(changed, true, self.size_blocks());
    }

    /// Trims ranges.
    ///
    /// # Panics
    /// When the trim fails.
    pub fn trim(&mut self, ranges: &[(u64, u64)]) {
        self.world.clock.advance(1_000_000);
        let request = Request::Trim { ranges };
        assert_eq!(run(&self.pool, self.volume, &request).result, Ok(()), "seed {}", self.seed);
        let blocks = ranges.iter().flat_map(|&(block, len)| block..block + len);
        self.note(blocks.map(|block| (block, 0)).collect(), true, self.size_blocks());
    }

    /// Grows the volume.
    ///
    /// # Panics
    /// When that fails.
    pub fn resize(&mut self, more_blocks: u64) {
        let size_blocks = self.size_blocks() + more_blocks;
        let size_bytes = size_blocks * BLOCK_BYTES as u64;
        wait(&self.pool, Rc::clone(&self.pool).resize_volume("data".to_owned(), size_bytes))
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        self.note(Vec::new(), false, size_blocks);
    }

    /// Gives so many random commands: writes of 1 to 4 blocks, trims, and now and then a resize.
    pub fn step(&mut self, commands: usize) {
        for _ in 0..commands {
            let size_blocks = self.size_blocks();
            match self.rng.below(400) {
                0..30 => {
                    let ranges: Vec<(u64, u64)> = (0..=self.rng.below(3))
                        .map(|_| {
                            let block = self.rng.below(size_blocks - 8);
                            (block, 1 + self.rng.below(8))
                        })
                        .collect();
                    self.trim(&ranges);
                }
                30 if size_blocks < 200 => {
                    let more_blocks = 1 + self.rng.below(4);
                    self.resize(more_blocks);
                }
                _ => {
                    let len_blocks = 1 + self.rng.below(self.write_blocks_max);
                    let block = self.rng.below(size_blocks - len_blocks + 1);
                    self.write(block, len_blocks);
                }
            }
        }
    }

    /// Lets the pool work for a while: it archives, and copies.
    pub fn idle(&self, turns: usize) {
        for _ in 0..turns {
            self.world.clock.advance(100_000);
            turn_alone(&self.pool);
        }
    }

    /// How many segments the log has, and how many of them are on the device.
    pub fn segments(&self) -> (u64, usize) {
        let slots = self.pool.segments();
        let here = slots.iter().filter(|segment| segment.sequence.is_some() && segment.slot != u64::MAX);
        (self.pool.stats().head_lsn / 256 + 1, here.count())
    }

    /// Crashes the pool and opens it again.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub fn crash(&mut self, crash: Crash) {
        let opened = self.world.crash(&mut self.pool, &self.disk, crash);
        opened.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        self.world.attach(&self.pool, &self.disk);
        wait(&self.pool, Rc::clone(&self.pool).load_archived_synchs(SegmentSeq(0)))
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        wait(&self.pool, Rc::clone(&self.pool).load_inherited());
        self.volume = self.pool.find_volume("data").expect("it exists").id;
    }

    /// Moves the cursor of the model.
    fn seek(&mut self, moment: usize) {
        while self.cursor < moment {
            let from = self.moments[self.cursor].changes_end;
            self.cursor += 1;
            let next = &self.moments[self.cursor];
            self.state.resize(next.size_blocks as usize, 0);
            for changed in &self.changes[from..next.changes_end] {
                self.state[changed.block as usize] = changed.after;
            }
        }
        while self.cursor > moment {
            let to = self.moments[self.cursor].changes_end;
            self.cursor -= 1;
            let before = &self.moments[self.cursor];
            for changed in self.changes[before.changes_end..to].iter().rev() {
                self.state[changed.block as usize] = changed.before;
            }
            self.state.truncate(before.size_blocks as usize);
        }
    }

    /// Compares a volume with the state at a moment.
    ///
    /// # Panics
    /// When a block or the size differs.
    pub fn check(&mut self, name: &str, moment: usize) {
        self.seek(moment);
        let volume = self.pool.find_volume(name).expect("it exists");
        let context = format!("seed {}: moment {moment}, lsn:{}", self.seed, self.moments[moment].lsn);
        assert_eq!(volume.size_bytes, (self.state.len() * BLOCK_BYTES) as u64, "{context}");
        let mut block = 0;
        while block < self.state.len() as u64 {
            let len_blocks = (self.state.len() as u64 - block).min(READ_BLOCKS) as u32;
            let completion = run(&self.pool, volume.id, &Request::Read { block, len_blocks });
            assert_eq!(completion.result, Ok(()), "{context}: {:?}", self.pool.info().problems);
            for bytes in completion.data.iter().flat_map(|piece| piece.chunks_exact(BLOCK_BYTES)) {
                let stamp = self.state[block as usize];
                assert!(is_filled(stamp, block, bytes), "{context}: block {block} is not stamp {stamp}");
                block += 1;
            }
        }
    }

    /// The stamps at a moment.
    pub fn stamps(&mut self, moment: usize) -> &[Stamp] {
        self.seek(moment);
        &self.state
    }
}
