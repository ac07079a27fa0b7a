//! Measures how fast an index is built from the entries of segments, which opening a point waits
//! for (R28 to R30).
//!
//! The entries are those of a working set that was overwritten at random: each mapped block has one
//! live entry, and there are entries of blocks that were written again later. They are passed to an
//! [`IndexBuilder`] newest first, as a scan does, on one core. There are three layouts of the
//! mapped blocks within the volume: contiguous and overwritten in order, contiguous and overwritten
//! at random, and scattered over the whole volume in extents of 1 MiB and overwritten at random.

use std::fmt::Write;
use std::time::Instant;

use clap::Args;
use serde::{Deserialize, Serialize};
use varve::bdev::BLOCK_BYTES;
use varve::log::Lsn;
use varve::log::format::{ENTRIES_PER_RECORD, EntryKind, TrailerUnit, trailer_blocks};
use varve::log::geometry::SEGMENT_BLOCKS_DEFAULT;
use varve::log::reader::SegmentEntries;
use varve::text::units::SizeBytes;
use varve::volume::index::{IndexBuilder, Mapping};

use crate::cleaning::median;
use crate::error::PerfError;
use crate::machine::{Machine, pinned, two_cores};
use crate::rng::Rng;

/// The bar: entries per second on one core.
pub const ENTRIES_PER_SECOND_MIN: f64 = 10e6;
/// Blocks of an extent in the scattered layout.
const EXTENT_BLOCKS: u64 = 256;
/// The image whose index is built.
const IMAGE: u32 = 1;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Size of the volume.
    #[arg(long, default_value = "100GiB", value_name = "SIZE")]
    pub volume_size: SizeBytes,
    /// How much of it is mapped.
    #[arg(long, default_value = "10GiB", value_name = "SIZE")]
    pub mapped: SizeBytes,
    /// Entries that were written again, in percent of the mapped blocks.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=1000))]
    pub overwritten: u64,
    /// How often each is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub repeat: u8,
}

/// The positions of the mapped blocks, and the order in which they are overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Contiguous, in order.
    InOrder,
    /// Contiguous, at random.
    AtRandom,
    /// In extents all over the volume, at random.
    Scattered,
}

/// One layout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The layout.
    pub layout: Layout,
    /// Segments.
    pub segments: u64,
    /// Entries.
    pub entries: u64,
    /// Blocks that are mapped at the end.
    pub mapped_blocks: u64,
    /// Entries per second, for each repetition.
    pub entries_per_second: Vec<f64>,
    /// The same for only reading the entries, without an index.
    pub scan_per_second: Vec<f64>,
    /// The median of the entries per second.
    pub median: f64,
    /// Whether it reaches the bar.
    pub passed: bool,
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
    /// The rows.
    pub rows: Vec<Row>,
}

/// Runs all measurements; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// More is mapped than the volume holds.
pub fn run(options: &Options, mut on_step: impl FnMut(&str)) -> Result<Report, PerfError> {
    let (volume_blocks, mapped_blocks) = blocks_of(options.volume_size, options.mapped)?;
    let mut rows = Vec::new();
    for layout in [Layout::InOrder, Layout::AtRandom, Layout::Scattered] {
        on_step(&format!("{layout:?}: making entries"));
        let segments = segments(layout, volume_blocks, mapped_blocks, options.overwritten, 1);
        on_step(&format!("{layout:?}: building"));
        rows.push(pinned(two_cores().map(|cores| cores.1), || {
            measure(layout, &segments, volume_blocks, options.repeat)
        }));
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::here(),
        volume_bytes: options.volume_size.0,
        rows,
    })
}

/// How many blocks a volume has, and how many of them are mapped.
pub(crate) fn blocks_of(volume: SizeBytes, mapped: SizeBytes) -> Result<(u64, u64), PerfError> {
    let [volume_blocks, mapped_blocks] = [volume, mapped].map(|size| size.0 / BLOCK_BYTES as u64);
    if mapped_blocks == 0 || mapped_blocks > volume_blocks {
        return Err(PerfError::shape("at least one block is mapped, and not more than the volume has"));
    }
    Ok((volume_blocks, mapped_blocks))
}

/// The trailers' units of a log in which every mapped block was written once in order, and then
/// some of them again. Records begin at `first_offset` in each segment.
pub(crate) fn segments(
    layout: Layout,
    volume_blocks: u64,
    mapped_blocks: u64,
    overwritten: u64,
    first_offset: u64,
) -> Vec<Vec<TrailerUnit>> {
    let mut rng = Rng::new(3);
    let extents = mapped_blocks.div_ceil(EXTENT_BLOCKS);
    let stride = (volume_blocks / EXTENT_BLOCKS / extents).max(1);
    let place = |block: u64| match layout {
        Layout::InOrder | Layout::AtRandom => block,
        Layout::Scattered => block / EXTENT_BLOCKS * stride * EXTENT_BLOCKS + block % EXTENT_BLOCKS,
    };
    let data_end = SEGMENT_BLOCKS_DEFAULT - trailer_blocks(SEGMENT_BLOCKS_DEFAULT);
    let mut segments = Vec::new();
    let (mut units, mut offset) = (Vec::new(), first_offset);
    let (mut written, total) = (0, mapped_blocks + mapped_blocks * overwritten / 100);
    while written < total {
        let count = (ENTRIES_PER_RECORD as u64).min(total - written).min(data_end - offset - 1);
        units.push(line(segments.len() as u64 * SEGMENT_BLOCKS_DEFAULT + offset, count as u8));
        for _ in 0..count {
            let in_order = layout == Layout::InOrder || written < mapped_blocks;
            let block = if in_order { written % mapped_blocks } else { rng.below(mapped_blocks) };
            units.push(write(place(block), rng.next_u64() as u32));
            written += 1;
        }
        offset += 1 + count;
        if offset + 1 >= data_end {
            segments.push(std::mem::take(&mut units));
            offset = first_offset;
        }
    }
    if !units.is_empty() {
        segments.push(units);
    }
    segments
}

/// A record's line in a trailer; its layout table is at `RecordLine`.
fn line(lsn: u64, count: u8) -> TrailerUnit {
    let mut unit = [0; 24];
    unit[..8].copy_from_slice(&lsn.to_le_bytes());
    unit[16] = count;
    unit[17] = count;
    unit
}

/// The position and the entry count of a line that [`segments`] or a pool made.
pub(crate) fn read_line(unit: &TrailerUnit) -> (u64, usize) {
    let (lsn, _) = unit.split_first_chunk().unwrap_or((&[0; 8], &[]));
    (u64::from_le_bytes(*lsn), usize::from(unit[16]))
}

/// A line with another position.
pub(crate) fn with_lsn(mut unit: TrailerUnit, lsn: u64) -> TrailerUnit {
    unit[..8].copy_from_slice(&lsn.to_le_bytes());
    unit
}

/// The block of an entry that [`segments`] made.
pub(crate) fn read_block(unit: &TrailerUnit) -> u64 {
    let mut block = [0; 8];
    block.copy_from_slice(&unit[8..16]);
    u64::from_le_bytes(block)
}

/// Sets the image of an entry, of at most 16 bits, and the checksum of its block.
pub(crate) fn set_origin(unit: &mut TrailerUnit, image: u32, crc: u32) {
    unit[..2].copy_from_slice(&(image as u16).to_le_bytes());
    unit[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// An entry of a block that a host wrote; its layout table is at `Entry`.
fn write(block: u64, crc: u32) -> TrailerUnit {
    let mut unit = [0; 24];
    unit[..2].copy_from_slice(&(IMAGE as u16).to_le_bytes());
    unit[2] = 1;
    unit[3] = 1;
    unit[4..8].copy_from_slice(&crc.to_le_bytes());
    unit[8..16].copy_from_slice(&block.to_le_bytes());
    unit
}

fn measure(layout: Layout, segments: &[Vec<TrailerUnit>], volume_blocks: u64, repeat: u8) -> Row {
    let (mut entries_per_second, mut scan_per_second) = (Vec::new(), Vec::new());
    let (mut entries, mut mapped_blocks) = (0, 0);
    for _ in 0..repeat {
        let copies = segments.to_vec();
        let started = Instant::now();
        let mut builder = IndexBuilder::new(volume_blocks);
        entries = scan(copies, IMAGE, &mut |block, mapping| {
            builder.see_write(block, mapping);
        });
        entries_per_second.push(entries as f64 / started.elapsed().as_secs_f64());
        mapped_blocks = builder.finish().mapped();

        let copies = segments.to_vec();
        let started = Instant::now();
        let mut sum = 0;
        scan(copies, IMAGE, &mut |block, mapping| sum ^= block ^ mapping.lsn().0);
        scan_per_second.push(entries as f64 / started.elapsed().as_secs_f64());
        std::hint::black_box(sum);
    }
    let median = median(entries_per_second.iter().copied());
    Row {
        layout,
        segments: segments.len() as u64,
        entries,
        mapped_blocks,
        entries_per_second,
        scan_per_second,
        median,
        passed: median >= ENTRIES_PER_SECOND_MIN,
    }
}

/// Visits every entry, newest first, as `Pool::scan_image` does; returns how many there were.
pub(crate) fn scan(
    segments: Vec<Vec<TrailerUnit>>,
    image: u32,
    see_write: &mut impl FnMut(u64, Mapping),
) -> u64 {
    let mut seen = 0;
    for units in segments.into_iter().rev() {
        SegmentEntries::new(units).visit_backward(Lsn::MAX, |placed| {
            seen += 1;
            if placed.entry.image().0 == image
                && let Some(EntryKind::Write | EntryKind::Copied) = placed.entry.kind()
            {
                see_write(placed.entry.block().0, Mapping::new(placed.lsn, placed.entry.crc()));
            }
            true
        });
    }
    seen
}

/// The rows as a table.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "volume of {} GiB; million entries a second: least, median and most",
        report.volume_bytes >> 30
    );
    let _ = writeln!(
        text,
        "{:<12}{:>9}{:>10}{:>10}{:>20}{:>8}{:>6}{:>20}",
        "layout", "segments", "entries", "mapped", "built", "ratio", "bar", "only read"
    );
    for row in &report.rows {
        let spread = |rates: &[f64]| {
            let (least, most) =
                rates.iter().fold((f64::MAX, 0.0_f64), |(least, most), &one| (least.min(one), most.max(one)));
            format!("{:.1} {:.1} {:.1}", least / 1e6, median(rates.iter().copied()) / 1e6, most / 1e6)
        };
        let _ = writeln!(
            text,
            "{:<12}{:>9}{:>10}{:>10}{:>20}{:>8.2}{:>6}{:>20}",
            format!("{:?}", row.layout),
            row.segments,
            row.entries,
            row.mapped_blocks,
            spread(&row.entries_per_second),
            row.median / ENTRIES_PER_SECOND_MIN,
            if row.passed { "yes" } else { "NO" },
            spread(&row.scan_per_second)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_what_the_log_reads_and_every_block_is_mapped_once() {
        for layout in [Layout::InOrder, Layout::AtRandom, Layout::Scattered] {
            let segments = segments(layout, 1 << 20, 40_000, 50, 1);
            assert!(segments.len() >= 3);
            let records: usize = segments.iter().map(|units| SegmentEntries::new(units.clone()).len()).sum();
            let units: usize = segments.iter().map(Vec::len).sum();
            let row = measure(layout, &segments, 1 << 20, 1);
            assert_eq!((row.entries, row.mapped_blocks), (60_000, 40_000), "{layout:?}");
            assert_eq!(units, records + 60_000, "{layout:?}: no unit was dropped");
        }
    }
}
