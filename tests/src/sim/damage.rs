//! A stopped pool, and the kind of every block on its disk: for tests that damage a block and check
//! the effect.

use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use uuid::Uuid;
use varve::bdev::{FileOptions, open_file};
use varve::dma::BLOCK_BYTES;
use varve::log::Geometry;
use varve::log::format::{EntryKind, EventHead, EventKind, RecordHead, Superblock, TrailerHead};
use varve::volume::{IoError, Point, Pool, Request, VolumeError};

use super::disk::{Crash, SimDisk};
use super::model::{Change, Model, Stamp, VolumeState, is_filled};
use super::workload::Run;
use super::world::{World, run, wait};

/// The kind of a written block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// One of the superblocks.
    Superblock,
    /// A segment header.
    SegmentHeader,
    /// A record header.
    RecordHeader {
        /// Whether the record contains events.
        events: bool,
    },
    /// A block of a trailer.
    Trailer {
        /// How many bytes of this block are used.
        used_bytes: usize,
    },
    /// A block of an event's text.
    Event {
        /// Which event.
        kind: EventKind,
        /// Which copy.
        copy: u16,
    },
    /// A block that a host wrote.
    Data {
        /// The block number.
        block: u64,
        /// Its content.
        stamp: Stamp,
    },
    /// Not part of the log: left after its end by a crash.
    Other,
}

/// A stopped pool.
pub struct Stopped {
    /// Its disk.
    pub disk: SimDisk,
    /// Its expected content.
    pub model: Model,
    /// The seed.
    pub seed: u64,
    /// Everything at or before this LSN was flushed.
    pub flushed_lsn: u64,
    head_lsn: u64,
    world: World,
}

/// A block of a volume of the model that reads as a media error.
pub type Fault = (usize, u64);

impl Run {
    /// Stops the pool cleanly.
    ///
    /// # Panics
    /// When that fails.
    pub fn stop(mut self) -> Stopped {
        self.settle();
        wait(&self.pool, Rc::clone(&self.pool).close())
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        self.abandon(Crash::Process)
    }

    /// Crashes the pool.
    pub fn abandon(self, crash: Crash) -> Stopped {
        let head_lsn = self.head();
        let Run { seed, disk, world, pool, model, .. } = self;
        drop(pool);
        disk.crash(crash);
        let flushed = model.steps.iter().filter(|step| step.flushed).map(|step| step.lsn).max();
        Stopped { disk, model, seed, flushed_lsn: flushed.unwrap_or(0), head_lsn, world }
    }
}

impl Stopped {
    /// Opens the pool on a copy of the disk.
    ///
    /// # Errors
    /// The pool's error.
    pub fn open(&self, disk: &SimDisk) -> Result<Rc<Pool>, VolumeError> {
        self.world.open(disk.open())
    }

    /// The same with its archive, in its state now.
    ///
    /// # Errors
    /// The pool's error.
    pub fn open_with_archive(&self, disk: &SimDisk) -> Result<Rc<Pool>, VolumeError> {
        let pool = self.world.open_loading(disk.open())?;
        self.world.attach(&pool, disk);
        wait(&pool, Rc::clone(&pool).load_inherited());
        Ok(pool)
    }

    /// Opens the pool in a file.
    ///
    /// # Errors
    /// The pool's error.
    ///
    /// # Panics
    /// When the file cannot be opened.
    pub fn open_file(&self, path: &Path) -> Result<Rc<Pool>, VolumeError> {
        let device = open_file(path, &FileOptions::default()).expect("the file can be opened");
        self.world.open(device)
    }

    /// The labels of all synchs, oldest first.
    pub fn synch_labels(&self) -> Vec<String> {
        self.model.synchs()
    }

    /// The position of the last operation.
    pub fn head_lsn(&self) -> u64 {
        self.head_lsn
    }

    /// The name of a volume of the model.
    pub fn name(&self, place: usize) -> &str {
        &self.model.volumes[place].name
    }

    /// The state of a volume at a point.
    pub fn state_at(&self, place: usize, lsn: u64) -> Option<VolumeState> {
        self.model.state_at(place, lsn)
    }

    /// Compares all volumes with the state at `lsn`; returns the blocks that read as media errors.
    ///
    /// # Panics
    /// When a read returns wrong data, a volume is missing, or there is an extra one.
    pub fn compare(&self, pool: &Pool, lsn: u64) -> BTreeSet<Fault> {
        let mut faults = BTreeSet::new();
        let mut names = BTreeSet::new();
        for place in 0..self.model.volumes.len() {
            let Some(state) = self.model.state_at(place, lsn) else { continue };
            let name = &self.model.volumes[place].name;
            faults.extend(self.compare_volume(pool, name, &state).into_iter().map(|block| (place, block)));
            names.insert(name.clone());
        }
        let found: BTreeSet<String> = pool.volumes().into_iter().map(|volume| volume.name).collect();
        assert_eq!(found, names, "seed {}", self.seed);
        faults
    }

    /// Compares a volume with a state; returns the blocks that read as media errors.
    ///
    /// # Panics
    /// When a read returns wrong data.
    pub fn compare_volume(&self, pool: &Pool, name: &str, state: &VolumeState) -> Vec<u64> {
        let volume = pool.find_volume(name).unwrap_or_else(|| panic!("seed {}: no volume {name}", self.seed));
        let mut faults = Vec::new();
        for block in 0..state.size_blocks {
            let completion = run(pool, volume.id, &Request::Read { block, len_blocks: 1 });
            match completion.result {
                Ok(()) => {
                    let stamp = state.blocks.get(&block).copied().unwrap_or(0);
                    assert!(
                        is_filled(stamp, block, &completion.data[0]),
                        "seed {}: {name}: block {block} is not stamp {stamp}",
                        self.seed
                    );
                }
                Err(IoError::ReadFault) => faults.push(block),
                Err(error) => panic!("seed {}: {error}", self.seed),
            }
        }
        faults
    }

    /// The blocks of volumes that hold a stamp in the state at `lsn`.
    pub fn holders(&self, block: u64, stamp: Stamp, lsn: u64) -> BTreeSet<Fault> {
        let holds = |&place: &usize| {
            self.model.state_at(place, lsn).is_some_and(|state| state.blocks.get(&block) == Some(&stamp))
        };
        (0..self.model.volumes.len()).filter(holds).map(|place| (place, block)).collect()
    }

    /// The position at which a stamp was written, and its volume.
    pub fn written_at(&self, stamp: Stamp) -> Option<(usize, u64)> {
        self.model.steps.iter().find_map(|step| match &step.change {
            Change::Write { volume, stamps, .. } if stamps.contains(&stamp) => Some((*volume, step.lsn)),
            _ => None,
        })
    }

    /// Opens a volume at a point as a clone and compares it; returns the blocks that read as media
    /// errors.
    ///
    /// # Panics
    /// When the point cannot be opened, or a read returns wrong data.
    pub fn compare_point(&self, pool: &Rc<Pool>, place: usize, lsn: u64, name: &str) -> Vec<u64> {
        let state = self.model.state_at(place, lsn).expect("the volume existed");
        let source = self.model.volumes[place].name.clone();
        let clone = Rc::clone(pool).clone_volume(source, Point::Lsn(lsn), name.to_owned(), false);
        wait(pool, clone).unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        self.compare_volume(pool, name, &state)
    }

    /// Points before `lsn`, newest first: the positions of the last `count` writes, each with its
    /// volume.
    pub fn points_before(&self, lsn: u64, count: usize) -> Vec<(usize, u64)> {
        let steps = self.model.steps.iter().filter(|step| step.lsn < lsn).rev();
        let points = steps.filter_map(|step| match step.change {
            Change::Write { volume, .. } => Some((volume, step.lsn)),
            _ => None,
        });
        points.take(count).collect()
    }

    /// The kind of every written block, in order.
    ///
    /// # Panics
    /// When the superblock cannot be read.
    pub fn classify(&self) -> Vec<(u64, BlockKind)> {
        let superblock =
            Superblock::decode(&self.disk.block(0).expect("it was written")).expect("a superblock");
        let geometry = Geometry::of(&superblock);
        let mut kinds: Vec<(u64, BlockKind)> =
            self.disk.written_blocks().into_iter().map(|block| (block, BlockKind::Other)).collect();
        let mut set = |device_block: u64, kind: BlockKind| {
            if let Ok(at) = kinds.binary_search_by_key(&device_block, |known| known.0) {
                kinds[at].1 = kind;
            }
        };
        set(0, BlockKind::Superblock);
        set(1, BlockKind::Superblock);
        if let Some(block) = superblock.tail_block() {
            set(block, BlockKind::Superblock);
        }
        for slot in 0..geometry.slots {
            let first = geometry.first_slot_block + slot * geometry.segment_blocks;
            self.classify_slot(first, superblock.pool, &geometry, &mut set);
        }
        kinds
    }

    fn classify_slot(
        &self,
        first: u64,
        pool: Uuid,
        geometry: &Geometry,
        set: &mut impl FnMut(u64, BlockKind),
    ) {
        if self.disk.block(first).is_none() {
            return;
        }
        set(first, BlockKind::SegmentHeader);
        let mut offset = 1;
        while offset < geometry.data_end() {
            let Some(header) = self.disk.block(first + offset) else { break };
            let Ok((head, entries)) = RecordHead::decode_any(&header, pool) else { break };
            let events = entries.iter().any(|entry| entry.kind() == Some(EntryKind::Event));
            set(first + offset, BlockKind::RecordHeader { events });
            let with_data = entries.iter().filter(|entry| entry.has_data());
            for (index, entry) in with_data.enumerate() {
                let device_block = first + offset + 1 + index as u64;
                let event = EventHead::decode(entry.block().0);
                let kind = match (entry.kind(), event.kind, self.disk.block(device_block)) {
                    (Some(EntryKind::Event), Some(kind), _) => BlockKind::Event { kind, copy: event.copy },
                    (Some(EntryKind::Write), _, Some(bytes)) => {
                        let word = bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
                        let block = entry.block().0;
                        BlockKind::Data { block, stamp: word ^ block.rotate_left(32) }
                    }
                    _ => BlockKind::Other,
                };
                set(device_block, kind);
            }
            offset += 1 + u64::from(head.data_blocks);
        }
        let area = first + geometry.data_end();
        let head = self
            .disk
            .block(area)
            .and_then(|block| TrailerHead::decode(&block, pool, geometry.segment_blocks).ok());
        if let Some(head) = head {
            let len_bytes = TrailerHead::len_bytes(head.units as usize);
            for index in 0..len_bytes.div_ceil(BLOCK_BYTES) {
                let used_bytes = (len_bytes - index * BLOCK_BYTES).min(BLOCK_BYTES);
                set(area + index as u64, BlockKind::Trailer { used_bytes });
            }
        }
    }
}

/// All damage that a pool reports.
pub fn problems(pool: &Pool) -> Vec<String> {
    let mut problems = pool.info().problems;
    problems.extend(pool.segments().into_iter().flat_map(|segment| segment.problems));
    problems
}
