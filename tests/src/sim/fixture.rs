//! Committed pool images, one for each format version, and their content. An image is a list of
//! blocks: the device's size in blocks (u64), then for each block that is not zero its number (u64)
//! and its 4096 bytes, all little-endian.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use varve::dma::BLOCK_BYTES;
use varve::volume::{Point, Pool};

use super::checks::check_volume;
use super::disk::SimDisk;
use super::model::{Stamp, VolumeState};
use super::trouble::Excused;
use super::workload::{Run, Shape};
use super::world::{World, wait};

/// A volume with its contents.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExpectedVolume {
    /// Its name.
    pub name: String,
    /// Its size in blocks.
    pub size_blocks: u64,
    /// The stamps of the blocks that are not zero.
    pub blocks: BTreeMap<u64, Stamp>,
}

/// A pool with its past.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Expected {
    /// The volumes.
    pub volumes: Vec<ExpectedVolume>,
    /// The labels of the synchs, oldest first.
    pub synchs: Vec<String>,
    /// The snapshots, by position.
    pub snapshots: Vec<(u64, String)>,
    /// Points of the past, each with one volume as it was then.
    pub points: Vec<(u64, ExpectedVolume)>,
}

impl ExpectedVolume {
    fn new(name: String, state: VolumeState) -> Self {
        ExpectedVolume { name, size_blocks: state.size_blocks, blocks: state.blocks.into_iter().collect() }
    }

    fn state(&self) -> VolumeState {
        VolumeState { size_blocks: self.size_blocks, blocks: self.blocks.clone().into_iter().collect() }
    }
}

/// Makes a pool with a past, and returns what it contains.
///
/// # Panics
/// When the pool violates a guarantee.
pub fn make() -> (SimDisk, Expected) {
    let shape =
        Shape { device_blocks: 257 + 7 * 256, segment_blocks: 256, volatile_cache: true, volume_blocks: 48 };
    let mut run = Run::new(2026, shape);
    // Small writes only, so that the image stays small.
    for _ in 0..14 {
        run.step_lone_write();
    }
    for _ in 0..12 {
        run.step();
    }
    run.crash(super::disk::Crash::Power);
    for _ in 0..8 {
        run.step();
    }
    let stopped = run.stop();
    let alive = (0..stopped.model.volumes.len())
        .filter_map(|place| Some((place, stopped.state_at(place, u64::MAX)?)));
    let volumes =
        alive.map(|(place, state)| ExpectedVolume::new(stopped.name(place).to_owned(), state)).collect();
    let points = stopped.points_before(u64::MAX, 12).into_iter().step_by(3).filter_map(|(place, lsn)| {
        Some((lsn, ExpectedVolume::new(stopped.name(place).to_owned(), stopped.state_at(place, lsn)?)))
    });
    let expected = Expected {
        volumes,
        points: points.collect(),
        synchs: stopped.synch_labels(),
        snapshots: stopped.model.snapshots(),
    };
    (stopped.disk, expected)
}

/// The image of a disk.
pub fn pack(disk: &SimDisk) -> Vec<u8> {
    let mut image = disk.len_blocks().to_le_bytes().to_vec();
    for block in disk.written_blocks() {
        let bytes = disk.block(block).unwrap_or_default();
        if bytes.iter().any(|&byte| byte != 0) {
            image.extend_from_slice(&block.to_le_bytes());
            image.extend_from_slice(&bytes);
        }
    }
    image
}

/// The disk of an image; `None` when the bytes are not an image.
pub fn unpack(image: &[u8]) -> Option<SimDisk> {
    let (len_blocks, blocks) = image.split_first_chunk::<8>()?;
    let (blocks, rest) = blocks.as_chunks::<{ 8 + BLOCK_BYTES }>();
    let disk = SimDisk::new(u64::from_le_bytes(*len_blocks), true, 0);
    for block in blocks {
        let (number, bytes) = block.split_first_chunk::<8>()?;
        disk.set_block(u64::from_le_bytes(*number), bytes.first_chunk()?);
    }
    rest.is_empty().then_some(disk)
}

/// Opens a pool and compares it with its expected content.
///
/// # Panics
/// When it differs.
pub fn check(world: &World, disk: &SimDisk, expected: &Expected) {
    let pool: Rc<Pool> = world.open(disk.open()).expect("the pool opens");
    assert_eq!(pool.info().problems, Vec::<String>::new());
    assert_eq!(pool.volumes().len(), expected.volumes.len());
    for volume in &expected.volumes {
        let found = pool.find_volume(&volume.name).expect("the volume is there");
        assert_eq!(found.size_bytes, volume.size_blocks * BLOCK_BYTES as u64);
        check_volume(&pool, found.id, &volume.state(), &Excused::default(), 0);
    }
    let synchs: Vec<String> = pool.synchs().infos().into_iter().map(|synch| synch.label).collect();
    assert_eq!(synchs, expected.synchs);
    let mut snapshots: Vec<(u64, String)> =
        pool.snapshots().into_iter().map(|snapshot| (snapshot.lsn, snapshot.name)).collect();
    snapshots.sort();
    assert_eq!(snapshots, expected.snapshots);
    for (index, (lsn, volume)) in expected.points.iter().enumerate() {
        let name = format!("point{index}");
        let clone = Rc::clone(&pool).clone_volume(volume.name.clone(), Point::Lsn(*lsn), name.clone(), true);
        let clone = wait(&pool, clone).expect("the point opens");
        check_volume(&pool, clone.volume.id, &volume.state(), &Excused::default(), 0);
    }
}
