//! Measures what a hundred thousand snapshots and synchs and a thousand volumes cost: the time of
//! each operation, and of a restart, beside that of a pool without them.
//!
//! The pools are in memory and the measurement drives them directly, so that the pool's own work is
//! measured and not hidden by a device. An operation takes a few microseconds, so an empty pool and
//! a full one take turns in one run, and the ratio of a turn counts, not that of two separate
//! times.

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
/// Rounds, in which an empty and a full pool take turns: what else the machine does meets both. The
/// median of the rounds' ratios counts.
const ROUNDS: usize = 15;
/// Repetitions of an operation in a round; their median counts.
const PER_ROUND: usize = 21;
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

/// The median time of an operation in microseconds, among as many as a round has; the operation
/// receives its number.
fn timed(first: usize, mut operation: impl FnMut(usize) -> Result<(), PerfError>) -> Result<f64, PerfError> {
    let mut times = Vec::with_capacity(PER_ROUND);
    for number in first..first + PER_ROUND {
        let started = Instant::now();
        operation(number)?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(times.into_iter()))
}

/// Times operations on an empty and on a full pool in turn. `times` gives the times of the
/// operations of one round on a pool; it receives the number of the round.
fn in_rounds<const OPERATIONS: usize>(
    what: [String; OPERATIONS],
    full: &World,
    empty: &World,
    mut times: impl FnMut(&World, usize) -> Result<[f64; OPERATIONS], PerfError>,
) -> Result<Vec<Bar>, PerfError> {
    let mut rounds = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let empty = times(empty, round)?;
        rounds.push((times(full, round)?, empty));
    }
    let bars = what.into_iter().enumerate().map(|(operation, what)| {
        let of_one = rounds.iter().map(|(full, empty)| (full[operation], empty[operation]));
        let bound = Some(Bound::AtMost(RATIO_MAX));
        Bar::of_rounds(what, "us", "an empty pool", &of_one.collect::<Vec<_>>(), bound)
    });
    Ok(bars.collect())
}

fn restart_bar(what: String, full: World, empty: World) -> Result<Bar, PerfError> {
    let (full, empty) = (full.restart()?, empty.restart()?);
    let bound = Some(Bound::AtMost(RESTART_SECONDS_MAX));
    Ok(Bar::alone(what, full, "s", bound).beside("an empty pool", empty))
}

/// The times of creation, of one page of the list, and of deletion; the snapshots that exist are
/// not touched.
fn snapshot_times(world: &World) -> Result<[f64; 3], PerfError> {
    let pool = || world.pool();
    let create = timed(0, |number| {
        wait(&world.bed.pool, pool().create_snapshot(format!("one-more-{number}")))?;
        Ok(())
    })?;
    let list = timed(0, |_| {
        let page = world.bed.pool.snapshots_from(Lsn(0), PAGE);
        std::hint::black_box(page.len());
        Ok(())
    })?;
    let delete = timed(0, |number| {
        wait(&world.bed.pool, pool().delete_snapshot(format!("one-more-{number}")))?;
        Ok(())
    })?;
    Ok([create, list, delete])
}

fn snapshots(count: u64, on_step: &mut impl FnMut(&str)) -> Result<Vec<Bar>, PerfError> {
    on_step("snapshots: fill a pool");
    let few = World::with_room(10_000)?;
    fill_snapshots(&few, PAGE as u64)?;
    let full = World::with_room(count)?;
    let head_before = full.bed.pool.stats().head_lsn;
    fill_snapshots(&full, count)?;
    let blocks = full.bed.pool.stats().head_lsn - head_before;
    on_step("snapshots: an empty and the full pool in turn");
    let what = ["create a snapshot", "list 100 snapshots", "delete a snapshot"];
    let what = what.map(|what| format!("{what} of {count}"));
    let mut bars = in_rounds(what, &full, &few, |world, _| snapshot_times(world))?;
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
    on_step("synchs: fill a pool");
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
    for number in 0..PAGE {
        create(&few, number)?;
    }
    let full = World::with_room(count)?;
    for number in 0..count as usize {
        create(&full, number)?;
    }
    on_step("synchs: an empty and the full pool in turn");
    let what = [format!("create a synch of {count}"), format!("list 100 synchs of {count}")];
    let mut bars = in_rounds(what, &full, &few, |world, round| {
        let first = count as usize + round * PER_ROUND;
        Ok([timed(first, |number| create(world, number))?, timed(0, |_| list(world))?])
    })?;
    on_step("synchs: restart");
    bars.push(restart_bar(format!("restart with {count} synchs"), full, few)?);
    Ok(bars)
}

fn volumes(count: u64, on_step: &mut impl FnMut(&str)) -> Result<Vec<Bar>, PerfError> {
    on_step("volumes: fill a pool");
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
    // Each one is deleted before the next is created, so that their number stays the same.
    let times = |world: &World| -> Result<[f64; 2], PerfError> {
        let (mut creations, mut deletions) = (Vec::new(), Vec::new());
        for number in 0..PER_ROUND {
            let started = Instant::now();
            create(world, 1_000_000 + number)?;
            creations.push(started.elapsed().as_secs_f64() * 1e6);
            let started = Instant::now();
            delete(world, 1_000_000 + number)?;
            deletions.push(started.elapsed().as_secs_f64() * 1e6);
        }
        Ok([median(creations.into_iter()), median(deletions.into_iter())])
    };
    let few = World::with_room(10_000)?;
    let full = World::with_room(10_000)?;
    for number in 0..count as usize {
        create(&full, number)?;
    }
    on_step("volumes: an empty and the full pool in turn");
    let what = [format!("create a volume of {count}"), format!("delete a volume of {count}")];
    let mut bars = in_rounds(what, &full, &few, |world, _| times(world))?;
    on_step("volumes: restart");
    bars.push(restart_bar(format!("restart with {count} volumes"), full, few)?);
    Ok(bars)
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
