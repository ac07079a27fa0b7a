//! The command `run`: its options, its live line and its files.

use std::io::{BufWriter, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use hdrhistogram::serialization::V2DeflateSerializer;
use indicatif::{ProgressBar, ProgressStyle};
use varve::text::units::SizeBytes;
use varve_perf::error::PerfError;
use varve_perf::load::output::{IntervalLog, distribution_svg, timeline_svg, used, write_hgrm};
use varve_perf::load::payload::RATIO_RANGE;
use varve_perf::load::zipf::THETA_RANGE;
use varve_perf::load::{self, Access, Device, Finished, LoadConfig, LoadResult, Pattern, Progress, Target};
use varve_perf::table;

use varve_perf::seconds;

use crate::{print, save};

/// What the commands do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rw {
    Read,
    Write,
    #[value(name = "randread")]
    RandRead,
    #[value(name = "randwrite")]
    RandWrite,
    #[value(name = "randrw")]
    Mixed,
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// Where the appliance listens.
    #[arg(long, default_value = "127.0.0.1:4420", value_name = "ADDRESS:PORT")]
    address: SocketAddr,
    /// The volume; give it again for more, which are loaded at the same time.
    #[arg(long, default_value = varve::serve::FIRST_VOLUME_NAME, value_name = "NAME")]
    volume: Vec<String>,
    /// Load a device instead, without network: `memory:SIZE`, `file:PATH`, or `file:PATH,SIZE` to
    /// make the file.
    #[arg(long, value_name = "DEVICE", conflicts_with_all = ["address", "volume", "log"])]
    bdev: Option<Device>,
    /// Load a new log instead, without network, on memory, `memory:SIZE` or a blank
    /// `file:PATH,SIZE`. Takes writes only.
    #[arg(long, value_name = "DEVICE", conflicts_with_all = ["address", "volume"])]
    log: Option<Device>,
    /// What the commands do.
    #[arg(long, value_enum, default_value_t = Rw::RandRead)]
    rw: Rw,
    /// How many of 100 commands read, with --rw randrw.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    read_percent: u8,
    /// How many of 100 commands that would write trim instead.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    trim_percent: u8,
    /// Random commands follow Zipf's law with this exponent; 0.99 is usual.
    #[arg(long, value_parser = theta, value_name = "THETA")]
    zipf: Option<f64>,
    /// What is written compresses by this ratio.
    #[arg(long, default_value_t = 1.0, value_parser = ratio, value_name = "RATIO")]
    compress_ratio: f64,
    /// Bytes of each command, like 4KiB.
    #[arg(long, default_value = "4KiB", value_name = "SIZE")]
    block_size: SizeBytes,
    /// Commands in flight on each connection.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1023))]
    queue_depth: u16,
    /// Connections to each volume, each an I/O queue.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=128))]
    connections: u16,
    /// Threads among which the connections are divided.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=128))]
    threads: u16,
    /// Cores to pin the threads to, like 0,2,4.
    #[arg(long, value_delimiter = ',', value_name = "CORES")]
    cores: Vec<usize>,
    /// Open load: start this many commands a second; latency counts from when each was meant to
    /// start. Without it each command that completes is followed by the next.
    #[arg(long, value_name = "IOPS")]
    rate: Option<f64>,
    /// Stamp what is written, check what is read, and read everything back at the end.
    #[arg(long)]
    verify: bool,
    /// Seconds to run.
    #[arg(long, default_value_t = 10.0, value_parser = seconds, value_name = "S")]
    seconds: f64,
    /// Run this many times, one after the other, so that `varve-perf compare` knows the spread.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000), conflicts_with_all = ["hgrm", "interval_log", "svg"])]
    repeat: u16,
    /// Use only the first part of each volume, like 1GiB.
    #[arg(long, value_name = "SIZE")]
    range: Option<SizeBytes>,
    /// Seed of the random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds of each interval of the time line and of the live line.
    #[arg(long, default_value_t = 1.0, value_parser = seconds, value_name = "S")]
    interval: f64,
    /// Write percentile distributions to PREFIX-read.hgrm and so on, in us.
    #[arg(long, value_name = "PREFIX")]
    hgrm: Option<PathBuf>,
    /// Write an interval log of `HdrHistogram`, in ns.
    #[arg(long, value_name = "FILE")]
    interval_log: Option<PathBuf>,
    /// Write pictures to PREFIX-latency.svg and PREFIX-time.svg.
    #[arg(long, value_name = "PREFIX")]
    svg: Option<PathBuf>,
    /// Print the result as JSON; with --repeat a list of results.
    #[arg(long)]
    json: bool,
}

fn ranged(text: &str, range: std::ops::RangeInclusive<f64>) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(format!("a number from {} to {} is needed", range.start(), range.end())),
    }
}

fn theta(text: &str) -> Result<f64, String> {
    ranged(text, THETA_RANGE)
}

fn ratio(text: &str) -> Result<f64, String> {
    ranged(text, RATIO_RANGE)
}

impl RunOptions {
    fn config(&self) -> LoadConfig {
        let target = match (&self.bdev, &self.log) {
            (Some(device), _) => Target::Bdev(device.clone()),
            (None, Some(device)) => Target::Log(device.clone()),
            (None, None) => Target::Nvme { address: self.address, volumes: self.volume.clone() },
        };
        let pattern = match self.rw {
            Rw::Read => Pattern::Read,
            Rw::Write => Pattern::Write,
            Rw::RandRead => Pattern::RandRead,
            Rw::RandWrite => Pattern::RandWrite,
            Rw::Mixed => Pattern::RandRw,
        };
        LoadConfig {
            access: self.zipf.map_or(Access::Uniform, |theta| Access::Zipf { theta }),
            read_percent: self.read_percent,
            trim_percent: self.trim_percent,
            compress_ratio: self.compress_ratio,
            // A size that does not fit is refused later, because no controller accepts it.
            block_bytes: u32::try_from(self.block_size.0).unwrap_or(u32::MAX),
            queue_depth: self.queue_depth,
            connections: self.connections,
            threads: self.threads,
            cores: self.cores.clone(),
            rate: self.rate,
            verify: self.verify,
            duration: Duration::from_secs_f64(self.seconds),
            range_bytes: self.range.map(|size| size.0),
            interval: Duration::from_secs_f64(self.interval),
            seed: self.seed,
            ..LoadConfig::of(target, pattern)
        }
    }
}

/// Runs the load; returns whether it was good.
pub(crate) fn run(options: &RunOptions) -> Result<bool, PerfError> {
    let config = options.config();
    let mut results = Vec::new();
    for _ in 0..options.repeat {
        let bar = live_line();
        let finished = recorded(options, &config, &bar);
        bar.finish_and_clear();
        let finished = finished?;
        write_files(options, &finished)?;
        if !options.json {
            print(table::load(&finished.result).trim_end())?;
        }
        results.push(finished.result);
    }
    if options.json {
        match &results[..] {
            [one] => print(&serde_json::to_string_pretty(one)?)?,
            all => print(&serde_json::to_string_pretty(all)?)?,
        }
    }
    Ok(results.iter().all(LoadResult::is_good))
}

/// A line that is updated in place if standard error is a terminal.
fn live_line() -> ProgressBar {
    let bar =
        if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn recorded(options: &RunOptions, config: &LoadConfig, bar: &ProgressBar) -> Result<Finished, PerfError> {
    let mut failed = None;
    let mut file: Box<dyn Write> = match &options.interval_log {
        Some(path) => {
            let file = std::fs::File::create(path).map_err(PerfError::io("make the interval log"))?;
            Box::new(BufWriter::new(file))
        }
        None => Box::new(std::io::sink()),
    };
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLog::begin(&mut file, &mut serializer, SystemTime::now())
        .map_err(PerfError::io("write the interval log"))?;
    let finished = load::run_recorded(config, |progress: Progress<'_>| {
        bar.set_message(live(&progress));
        bar.tick();
        if options.interval_log.is_some()
            && failed.is_none()
            && let Err(error) = log.write(progress.interval)
        {
            failed = Some(error);
        }
    })?;
    drop(log);
    if let Some(error) = failed.or_else(|| file.flush().err()) {
        return Err(PerfError::io("write the interval log")(error));
    }
    Ok(finished)
}

fn live(progress: &Progress<'_>) -> String {
    let slice = progress.slice;
    format!(
        "{:6.1} s  {:8.0} IOPS  {:8.1} MiB/s  p50 {:7.1} us  p99 {:7.1} us  {} failed",
        progress.elapsed.as_secs_f64(),
        slice.iops,
        slice.mib_per_second,
        slice.p50_us,
        slice.p99_us,
        progress.failures
    )
}

fn write_files(options: &RunOptions, finished: &Finished) -> Result<(), PerfError> {
    if let Some(prefix) = &options.hgrm {
        for kind in used(&finished.recorders) {
            let mut bytes = Vec::new();
            write_hgrm(finished.recorders.of(kind), &mut bytes)
                .map_err(PerfError::io("write a histogram"))?;
            save(&beside(prefix, &format!("-{}.hgrm", kind.name())), &String::from_utf8_lossy(&bytes))?;
        }
    }
    if let Some(prefix) = &options.svg {
        let title = table::load_title(&finished.result);
        save(&beside(prefix, "-latency.svg"), &distribution_svg(&title, &finished.recorders))?;
        save(&beside(prefix, "-time.svg"), &timeline_svg(&title, &finished.result.timeline))?;
    }
    Ok(())
}

fn beside(prefix: &Path, suffix: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
