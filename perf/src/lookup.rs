//! Measures how fast an index of a large, sparse volume is queried, how much memory it takes, and
//! how long a snapshot, a clone and a synch of such a volume take.
//!
//! Extents of 1 MiB are mapped all over the volume. They are looked up at random, on one core:
//! first only mapped blocks, then any blocks. Lookups do not depend on one another, as those for
//! the commands of a busy host do not. For comparison, the same number of dependent memory reads is
//! timed, one for each lookup, at random positions of as much memory as the index uses: this is the
//! cost of a single access on this machine.
//!
//! Memory is that of a filled index for each TiB that it maps. Two figures: a volume that is mapped
//! completely, to which the bar applies, beside the growth of the process, which includes the
//! allocator's own share; and the sparse volume, whose leaves are half empty.
//!
//! Snapshot, clone and synch are made on a pool in memory, without network: a thin volume of that
//! size with some blocks written all over it.

use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use varve::bdev::{BLOCK_BYTES, MemoryDisk};
use varve::log::{Lsn, Recycling};
use varve::text::units::SizeBytes;
use varve::volume::Point;
use varve::volume::index::{Index, Mapping, index_bytes};

use crate::bar::{Bar, Bound, table as bars_table};
use crate::bed::{Bed, Shape, VOLUME, wait};
use crate::cleaning::median;
use crate::error::PerfError;
use crate::machine::{Machine, pinned, two_cores};
use crate::rng::Rng;

/// The bar: lookups per second on one core.
pub const LOOKUPS_PER_SECOND_MIN: f64 = 20e6;
/// The bar for a snapshot, a clone and a synch.
pub const INSTANT_MS_MAX: f64 = 1.0;
/// The bar for an index, in GiB for each mapped TiB: 2 for the leaves, the rest for the levels
/// above them.
pub const GIB_PER_TIB_MAX: f64 = 2.01;
/// Blocks of an extent.
const EXTENT_BLOCKS: u64 = 256;
/// Lookups between two reads of the clock.
const BATCH: usize = 1 << 16;
/// Segments of the pool in which snapshots are made, and their size in blocks.
const BED_SEGMENTS: u64 = 16;
const BED_SEGMENT_BLOCKS: u64 = 4096;
/// How many snapshots, clones and synchs are made; the median counts.
const REPEATS: usize = 21;
/// Writes in flight while the bed is filled.
const DEPTH: usize = 128;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Size of the volume.
    #[arg(long, default_value = "1TiB", value_name = "SIZE")]
    pub volume_size: SizeBytes,
    /// How much of it is mapped, in extents of 1 MiB all over it.
    #[arg(long, default_value = "64GiB", value_name = "SIZE")]
    pub mapped: SizeBytes,
    /// Length of each step.
    #[arg(long, default_value_t = 2.0, value_parser = crate::seconds, value_name = "S")]
    pub seconds: f64,
    /// Blocks that are written all over the volume of which snapshots are made.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=40_000))]
    pub written_blocks: u64,
}

/// The whole result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of varve.
    pub version: String,
    /// The machine.
    pub machine: Machine,
    /// Size of the volume.
    pub volume_bytes: u64,
    /// Memory of its index.
    pub index_bytes: u64,
    /// The figures.
    pub bars: Vec<Bar>,
}

/// Runs the measurement; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// An impossible size; the pool's.
pub fn run(options: &Options, mut on_step: impl FnMut(&str)) -> Result<Report, PerfError> {
    let volume_blocks = options.volume_size.0 / BLOCK_BYTES as u64;
    let mapped_blocks = options.mapped.0 / BLOCK_BYTES as u64;
    if mapped_blocks < EXTENT_BLOCKS || mapped_blocks > volume_blocks {
        return Err(PerfError::shape("at least 1 MiB is mapped, and not more than the volume has"));
    }
    let step = Duration::from_secs_f64(options.seconds);
    let core = two_cores().map(|cores| cores.0);
    on_step("filling an index of a volume that is mapped whole");
    let whole = memory_of_whole(mapped_blocks / EXTENT_BLOCKS);
    let (mut bars, bytes) = pinned(core, || {
        on_step("filling an index");
        let before = index_bytes();
        let places = Places { volume_blocks, extents: mapped_blocks / EXTENT_BLOCKS };
        let index = filled(places);
        let bytes = index_bytes() - before;
        on_step("lookups");
        let mut rng = Rng::new(8);
        let mapped = lookups(&index, step, || places.mapped(&mut rng));
        let anywhere = lookups(&index, step, || rng.below(volume_blocks));
        drop(index);
        on_step("floor of memory accesses");
        let (floor_name, floor) = ("dependent memory accesses over as much memory", accesses(bytes, step));
        let bound = Some(Bound::AtLeast(LOOKUPS_PER_SECOND_MIN));
        let bars = vec![
            Bar::alone("index lookups, mapped blocks, one core", mapped, "a second", bound)
                .beside(floor_name, floor),
            Bar::alone("index lookups, any blocks, one core", anywhere, "a second", bound)
                .beside(floor_name, floor),
        ];
        (bars, bytes)
    });
    bars.push(whole);
    let sparse = gib_per_tib(bytes, mapped_blocks);
    bars.push(Bar::alone("memory of a TiB mapped in extents of 1 MiB", sparse, "GiB", None));
    on_step("snapshots, clones and synchs");
    bars.extend(pinned(core, || instants(volume_blocks, options.written_blocks))?);
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::here(),
        volume_bytes: options.volume_size.0,
        index_bytes: bytes,
        bars,
    })
}

/// The positions of the mapped extents.
#[derive(Debug, Clone, Copy)]
struct Places {
    volume_blocks: u64,
    extents: u64,
}

impl Places {
    fn extent(self, extent: u64) -> u64 {
        extent * (self.volume_blocks / EXTENT_BLOCKS / self.extents) * EXTENT_BLOCKS
    }

    fn mapped(self, rng: &mut Rng) -> u64 {
        self.extent(rng.below(self.extents)) + rng.below(EXTENT_BLOCKS)
    }
}

fn filled(places: Places) -> Index {
    let mut index = Index::new(places.volume_blocks);
    for extent in 0..places.extents {
        let first = places.extent(extent);
        for block in first..first + EXTENT_BLOCKS {
            index.set(block, Mapping::new(Lsn(block + 1), block as u32));
        }
    }
    index
}

/// Memory of `bytes` for `mapped_blocks`, in GiB for each TiB.
fn gib_per_tib(bytes: u64, mapped_blocks: u64) -> f64 {
    bytes as f64 / (mapped_blocks * BLOCK_BYTES as u64) as f64 * 1024.0
}

fn memory_of_whole(extents: u64) -> Bar {
    let mapped_blocks = extents * EXTENT_BLOCKS;
    let (bytes_before, resident_before) = (index_bytes(), resident_bytes());
    let index = filled(Places { volume_blocks: mapped_blocks, extents });
    let bytes = index_bytes() - bytes_before;
    let resident = resident_bytes().saturating_sub(resident_before);
    let mapped = index.mapped();
    let bound = Some(Bound::AtMost(GIB_PER_TIB_MAX));
    Bar::alone("memory of a TiB mapped whole", gib_per_tib(bytes, mapped), "GiB", bound)
        .beside("what the process grew by", gib_per_tib(resident, mapped))
}

/// Resident memory of this process (proc(5): `statm`, in pages); 0 if the system does not report
/// it.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|field| field.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Lookups per second.
fn lookups(index: &Index, duration: Duration, mut next: impl FnMut() -> u64) -> f64 {
    let blocks: Vec<u64> = (0..BATCH).map(|_| next()).collect();
    let (mut sum, mut count) = (0, 0_u64);
    let started = Instant::now();
    while started.elapsed() < duration {
        for &block in &blocks {
            sum ^= index.get(block).lsn().0;
        }
        count += BATCH as u64;
    }
    let seconds = started.elapsed().as_secs_f64();
    std::hint::black_box(sum);
    count as f64 / seconds
}

/// Memory reads per second, where each read depends on the one before it.
fn accesses(bytes: u64, duration: Duration) -> f64 {
    let len = (bytes as usize / size_of::<u64>()).max(2);
    // One cycle through all positions (Sattolo), so that no access can be predicted.
    let mut next: Vec<u64> = (0..len as u64).collect();
    let mut rng = Rng::new(6);
    for at in (1..len).rev() {
        next.swap(at, rng.below(at as u64) as usize);
    }
    let (mut place, mut count) = (0, 0_u64);
    let started = Instant::now();
    while started.elapsed() < duration {
        for _ in 0..BATCH {
            place = next[place as usize];
        }
        count += BATCH as u64;
    }
    let seconds = started.elapsed().as_secs_f64();
    std::hint::black_box(place);
    count as f64 / seconds
}

/// The median times of a snapshot, a clone and a synch.
fn instants(volume_blocks: u64, written_blocks: u64) -> Result<Vec<Bar>, PerfError> {
    let shape =
        Shape { segment_blocks: BED_SEGMENT_BLOCKS, segments: BED_SEGMENTS, recycling: Recycling::Never };
    let device = MemoryDisk::try_new(shape.device_blocks())?.open("memory");
    let bed = Bed::create(Box::new(device), shape, volume_blocks, true)?;
    let mut rng = Rng::new(3);
    let mut left = written_blocks;
    bed.write_all(DEPTH, || {
        left = left.checked_sub(1)?;
        Some(rng.below(volume_blocks))
    })?;
    let (mut snapshots, mut clones, mut synchs) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..REPEATS {
        let name = format!("s{number}");
        let started = Instant::now();
        wait(&bed.pool, bed.pool.clone().create_snapshot(name.clone()))?;
        snapshots.push(started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        let clone = format!("c{number}");
        let cloning = bed.pool.clone().clone_volume(VOLUME.to_owned(), Point::Snapshot(name), clone, false);
        wait(&bed.pool, cloning)?;
        clones.push(started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        wait(&bed.pool, bed.pool.clone().create_synch(format!("y{number}"), serde_json::Value::Null))?;
        synchs.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let bound = Some(Bound::AtMost(INSTANT_MS_MAX));
    let gib = (volume_blocks * BLOCK_BYTES as u64) >> 30;
    Ok(vec![
        Bar::alone(format!("snapshot of {gib} GiB, median"), median(snapshots.into_iter()), "ms", bound),
        Bar::alone(format!("clone of {gib} GiB, median"), median(clones.into_iter()), "ms", bound),
        Bar::alone(format!("synch beside {gib} GiB, median"), median(synchs.into_iter()), "ms", bound),
    ])
}

/// The result as a table.
pub fn table(report: &Report) -> String {
    format!(
        "volume of {} GiB, index of {} MiB\n{}",
        report.volume_bytes >> 30,
        report.index_bytes >> 20,
        bars_table(&report.bars)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_up_as_mapped_is_mapped() {
        let places = Places { volume_blocks: 1 << 24, extents: 10 };
        let index = filled(places);
        assert_eq!(index.mapped(), 10 * EXTENT_BLOCKS);
        let mut rng = Rng::new(1);
        assert!((0..1000).all(|_| !index.get(places.mapped(&mut rng)).is_none()));
    }

    #[test]
    fn an_index_that_maps_all_of_a_volume_keeps_its_budget() {
        let bar = memory_of_whole((1 << 30) / BLOCK_BYTES as u64 / EXTENT_BLOCKS);
        assert_eq!(bar.passed, Some(true), "{bar:?}");
        assert!(bar.value >= 2.0, "{bar:?}");
    }

    #[test]
    fn a_small_run_has_every_figure() {
        let options = Options {
            volume_size: SizeBytes(1 << 34),
            mapped: SizeBytes(1 << 24),
            seconds: 0.001,
            written_blocks: 100,
        };
        let report = run(&options, |_| {}).unwrap();
        assert_eq!(report.bars.len(), 7);
        let whole = report.bars.iter().find(|bar| bar.what == "memory of a TiB mapped whole").unwrap();
        // 16 MiB have 8 leaves below two levels; with more leaves the figure approaches the leaves'
        // 2 GiB.
        assert!((2.0..8.0).contains(&whole.value), "{whole:?}");
        assert!(report.bars.iter().all(|bar| bar.value > 0.0), "{report:?}");
        assert!(table(&report).contains("snapshot of 16 GiB"));
    }
}
