//! Measures what a hundred thousand snapshots and synchs and a thousand volumes cost: the time of
//! each operation, and of a restart, beside that of a pool without them.
//!
//! The pools are in memory and the measurement drives them directly, so that the pool's own work is
//! measured and not hidden by a device. The same operation is timed on an empty pool and on a full
//! one in the same run.

use std::rc::Rc;
use std::time::Instant;

use clap::Args;
use serde::{Deserialize, Serialize};
use varve::bdev::{BLOCK_BYTES, MemoryDisk, SharedBdev};
use varve::dma::DmaPool;
use varve::log::{Environment, Lsn, Recycling};
use varve::reactor::block_on;
use varve::volume::{CreateVolume, Pool, PoolOptions};

use crate::bar::{Bar, Bound, table as bars_table};
use crate::bed::{Bed, Shape, wait};
use crate::cleaning::median;
use crate::error::PerfError;
use crate::machine::{Machine, pinned, two_cores};

/// The bar: an operation on a full pool over that on an empty one.
pub const RATIO_MAX: f64 = 1.5;
/// The bar for a restart, in seconds.
pub const RESTART_SECONDS_MAX: f64 = 2.0;
/// Blocks of a segment: 64 MiB, as pools have by default.
const SEGMENT_BLOCKS: u64 = 16_384;
/// Repetitions of an operation; the median counts.
const REPEATS: usize = 301;
/// Items per page of a list.
const PAGE: usize = 100;
/// DMA memory of a pool that is reopened, in bytes.
const DMA_BYTES: usize = 256 << 20;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Snapshots, and as many synchs.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1000..=200_000))]
    pub points: u64,
    /// Volumes.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=1000))]
    pub volumes: u64,
}

/// The whole result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of varve.
    pub version: String,
    /// The machine.
    pub machine: Machine,
    /// Snapshots, and as many synchs.
    pub points: u64,
    /// Volumes.
    pub volumes: u64,
    /// The figures.
    pub bars: Vec<Bar>,
}

/// Runs the measurement; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// No memory; the pool's.
pub fn run(options: &Options, mut on_step: impl FnMut(&str)) -> Result<Report, PerfError> {
    let bars = pinned(two_cores().map(|cores| cores.0), || {
        let mut bars = snapshots(options.points, &mut on_step)?;
        bars.extend(synchs(options.points, &mut on_step)?);
        bars.extend(volumes(options.volumes, &mut on_step)?);
        Ok::<_, PerfError>(bars)
    })?;
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::here(),
        points: options.points,
        volumes: options.volumes,
        bars,
    })
}

/// A pool with a volume, and its disk.
struct World {
    disk: MemoryDisk,
    bed: Bed,
}

impl World {
    /// A pool with room for this many events of one block besides the blocks that segments begin
    /// with.
    fn with_room(events: u64) -> Result<Self, PerfError> {
        let segments = 8 + events * 4 / SEGMENT_BLOCKS;
        let shape = Shape { segment_blocks: SEGMENT_BLOCKS, segments, recycling: Recycling::Never };
        let disk = MemoryDisk::try_new(shape.device_blocks())?;
        let bed = Bed::create(Box::new(disk.open("memory")), shape, 256, true)?;
        Ok(World { disk, bed })
    }

    fn pool(&self) -> Rc<Pool> {
        Rc::clone(&self.bed.pool)
    }

    /// Stops the pool and opens it again. Returns how many seconds the opening took.
    fn restart(self) -> Result<f64, PerfError> {
        wait(&self.bed.pool, self.pool().close())?;
        drop(self.bed);
        let device = SharedBdev::new(Box::new(self.disk.open("memory")));
        let queue = device.clone();
        let options = PoolOptions { recycling: Recycling::Never, ..PoolOptions::default() };
        let environment = Environment::system(DmaPool::new(DMA_BYTES));
        let started = Instant::now();
        block_on(Pool::open(device, environment, options), move || {
            queue.queue().drive();
        })?;
        Ok(started.elapsed().as_secs_f64())
    }
}

/// The median time of an operation in microseconds; the operation receives its number.
fn timed(first: usize, mut operation: impl FnMut(usize) -> Result<(), PerfError>) -> Result<f64, PerfError> {
    let mut times = Vec::with_capacity(REPEATS);
    for number in first..first + REPEATS {
        let started = Instant::now();
        operation(number)?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(times.into_iter()))
}

fn beside_empty(what: String, full: f64, empty: f64) -> Bar {
    Bar::over(what, full, "us", "an empty pool", empty, Some(Bound::AtMost(RATIO_MAX)))
}

fn restart_bar(what: String, full: World, empty: World) -> Result<Bar, PerfError> {
    let (full, empty) = (full.restart()?, empty.restart()?);
    let bound = Some(Bound::AtMost(RESTART_SECONDS_MAX));
    Ok(Bar::alone(what, full, "s", bound).beside("an empty pool", empty))
}

/// The times of creation, of one page of the list, and of deletion, on a pool with `count`
/// snapshots.
fn snapshot_times(world: &World, count: u64) -> Result<[f64; 3], PerfError> {
    let first = count as usize;
    let pool = || world.pool();
    let create = timed(first, |number| {
        wait(&world.bed.pool, pool().create_snapshot(format!("snapshot-{number}")))?;
        Ok(())
    })?;
    let list = timed(0, |_| {
        let page = world.bed.pool.snapshots_from(Lsn(0), PAGE);
        std::hint::black_box(page.len());
        Ok(())
    })?;
    let delete = timed(first, |number| {
        wait(&world.bed.pool, pool().delete_snapshot(format!("snapshot-{number}")))?;
        Ok(())
    })?;
    Ok([create, list, delete])
}

fn snapshots(count: u64, on_step: &mut impl FnMut(&str)) -> Result<Vec<Bar>, PerfError> {
    on_step("snapshots: an empty pool");
    let few = World::with_room(10_000)?;
    fill_snapshots(&few, PAGE as u64)?;
    let before = snapshot_times(&few, PAGE as u64)?;
    on_step("snapshots: a full pool");
    let full = World::with_room(count)?;
    let head_before = full.bed.pool.stats().head_lsn;
    fill_snapshots(&full, count)?;
    let blocks = full.bed.pool.stats().head_lsn - head_before;
    let after = snapshot_times(&full, count)?;
    let mut bars: Vec<Bar> = ["create a snapshot", "list 100 snapshots", "delete a snapshot"]
        .iter()
        .zip(after.iter().zip(before))
        .map(|(what, (&full, empty))| beside_empty(format!("{what} of {count}"), full, empty))
        .collect();
    bars.push(Bar::alone("log that a snapshot took", blocks as f64 / count as f64, "blocks", None));
    on_step("snapshots: restart");
    bars.push(restart_bar(format!("restart with {count} snapshots"), full, few)?);
    Ok(bars)
}

fn fill_snapshots(world: &World, count: u64) -> Result<(), PerfError> {
    for number in 0..count {
        wait(&world.bed.pool, world.pool().create_snapshot(format!("snapshot-{number}")))?;
    }
    Ok(())
}

fn synchs(count: u64, on_step: &mut impl FnMut(&str)) -> Result<Vec<Bar>, PerfError> {
    on_step("synchs: an empty pool");
    let create = |world: &World, number: usize| {
        let label = format!("synch-{number}");
        wait(&world.bed.pool, world.pool().create_synch(label, serde_json::Value::Null))?;
        Ok(())
    };
    let list = |world: &World| {
        let synchs = world.bed.pool.synchs();
        let page = synchs.iter_from(Lsn(0)).take(PAGE).map(|synch| synch.to_info());
        std::hint::black_box(page.count());
        Ok(())
    };
    let few = World::with_room(10_000)?;
    let created_few = timed(0, |number| create(&few, number))?;
    let listed_few = timed(0, |_| list(&few))?;
    on_step("synchs: a full pool");
    let full = World::with_room(count)?;
    for number in 0..count as usize {
        create(&full, number)?;
    }
    let created = timed(count as usize, |number| create(&full, number))?;
    let listed = timed(0, |_| list(&full))?;
    on_step("synchs: restart");
    Ok(vec![
        beside_empty(format!("create a synch of {count}"), created, created_few),
        beside_empty(format!("list 100 synchs of {count}"), listed, listed_few),
        restart_bar(format!("restart with {count} synchs"), full, few)?,
    ])
}

fn volumes(count: u64, on_step: &mut impl FnMut(&str)) -> Result<Vec<Bar>, PerfError> {
    on_step("volumes");
    let create = |world: &World, number: usize| {
        let request = CreateVolume {
            name: format!("volume-{number}"),
            size_bytes: 256 * BLOCK_BYTES as u64,
            uuid: None,
            thin: true,
        };
        wait(&world.bed.pool, world.pool().create_volume(request))?;
        Ok::<(), PerfError>(())
    };
    let delete = |world: &World, number: usize| {
        wait(&world.bed.pool, world.pool().delete_volume(format!("volume-{number}")))?;
        Ok::<(), PerfError>(())
    };
    // Each round creates one and deletes it, so that their number stays the same.
    let times = |world: &World| -> Result<(f64, f64), PerfError> {
        let (mut creations, mut deletions) = (Vec::new(), Vec::new());
        for number in 0..REPEATS {
            let started = Instant::now();
            create(world, 1_000_000 + number)?;
            creations.push(started.elapsed().as_secs_f64() * 1e6);
            let started = Instant::now();
            delete(world, 1_000_000 + number)?;
            deletions.push(started.elapsed().as_secs_f64() * 1e6);
        }
        Ok((median(creations.into_iter()), median(deletions.into_iter())))
    };
    let few = World::with_room(10_000)?;
    let (created_few, deleted_few) = times(&few)?;
    let full = World::with_room(10_000)?;
    for number in 0..count as usize {
        create(&full, number)?;
    }
    let (created, deleted) = times(&full)?;
    on_step("volumes: restart");
    Ok(vec![
        beside_empty(format!("create a volume of {count}"), created, created_few),
        beside_empty(format!("delete a volume of {count}"), deleted, deleted_few),
        restart_bar(format!("restart with {count} volumes"), full, few)?,
    ])
}

/// The result as a table.
pub fn table(report: &Report) -> String {
    bars_table(&report.bars)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_has_every_figure() {
        let report = run(&Options { points: 1000, volumes: 10 }, |_| {}).unwrap();
        assert_eq!(report.bars.len(), 11);
        assert!(report.bars.iter().all(|bar| bar.value > 0.0), "{report:?}");
        assert!(table(&report).contains("create a snapshot of 1000"));
    }
}
