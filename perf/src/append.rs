//! Measures how many blocks per second one core appends to a log in memory, with checksums and
//! without network, beside copying and checksumming alone.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use varve::text::units::SizeBytes;

use crate::bar::{Bar, Bound, table as bars_table};
use crate::error::PerfError;
use crate::floor::{FloorResult, memory};
use crate::load::{self, Device, LoadConfig, LoadResult, Pattern, Target};
use crate::machine::{Machine, pinned, two_cores};

/// The bar: appends of 4 KiB per second on one core.
pub const APPENDS_PER_SECOND_MIN: f64 = 1.5e6;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Length of each step.
    #[arg(long, default_value_t = 2.0, value_parser = crate::seconds, value_name = "S")]
    pub seconds: f64,
    /// Size of the memory behind the log.
    #[arg(long, default_value = "1GiB", value_name = "SIZE")]
    pub size: SizeBytes,
    /// Appends in flight.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=1023))]
    pub queue_depth: u16,
}

/// The whole result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of varve.
    pub version: String,
    /// The machine.
    pub machine: Machine,
    /// The figures of the appends.
    pub load: LoadResult,
    /// Copy and CRC32C of the same blocks, in the same run.
    pub floor: FloorResult,
    /// The figure, its floor and the bar.
    pub bars: Vec<Bar>,
}

/// Runs the measurement; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// The log fails, or there is no memory for it.
pub fn run(options: &Options, mut on_step: impl FnMut(&str)) -> Result<Report, PerfError> {
    let step = Duration::from_secs_f64(options.seconds);
    let core = two_cores().map(|cores| cores.0);
    on_step("floor of copy and CRC32C");
    let floor = pinned(core, || memory::copy_and_checksum(step));
    on_step("appends");
    let target = Target::Log(Device::Memory { len_bytes: options.size.0 });
    let config = LoadConfig {
        queue_depth: options.queue_depth,
        duration: step,
        cores: core.into_iter().collect(),
        ..LoadConfig::of(target, Pattern::RandWrite)
    };
    let load = load::run(&config, |_| {})?;
    let bar = Bar::alone(
        "log appends, 4 KiB, one core",
        load.iops,
        "a second",
        Some(Bound::AtLeast(APPENDS_PER_SECOND_MIN)),
    )
    .beside(floor.what.clone(), floor.iops);
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::here(),
        load,
        floor,
        bars: vec![bar],
    })
}

/// The result as a table.
pub fn table(report: &Report) -> String {
    bars_table(&report.bars)
}
