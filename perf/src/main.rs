//! `varve-perf`: load on a volume, a benchmark beside its floors, and the cost of idling.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use varve::rpc::units::SizeBytes;
use varve_perf::bench::{self, BenchConfig};
use varve_perf::error::PerfError;
use varve_perf::load::{self, LoadConfig, Pattern, Progress};
use varve_perf::{archive, cleaning, idle, open_archived, rebuild, table, write_amplification};

/// Load and latency measurements of varve.
#[derive(Debug, Parser)]
#[command(name = "varve-perf", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load a volume of a running appliance. Writes destroy what the volume holds.
    Run(RunOptions),
    /// Start appliances in this process, on memory and on a file, and measure them beside their floors.
    Bench(BenchOptions),
    /// Measure what an idle appliance costs; fails at 1 % of a core.
    Idle(IdleOptions),
    /// Write amplification of copy-forward beside the formula and the bound, in memory.
    WriteAmplification(Measured<write_amplification::Options>),
    /// Latencies of writes while segments are cleaned, beside those without.
    Cleaning(Measured<cleaning::Options>),
    /// Throughput of the archivist's work beside the `zstd` command line.
    Archive(Measured<archive::Options>),
    /// Speed of building an index from entries.
    Rebuild(Measured<rebuild::Options>),
    /// Time to the first byte of a point that is only in the archive.
    OpenArchived(Measured<open_archived::Options>),
}

/// A measurement without an appliance, and where its result goes.
#[derive(Debug, Args)]
struct Measured<O: Args> {
    #[command(flatten)]
    options: O,
    /// Write the result to a file as JSON; - prints it.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

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
struct RunOptions {
    /// Where the appliance listens.
    #[arg(long, default_value = "127.0.0.1:4420", value_name = "ADDRESS:PORT")]
    address: SocketAddr,
    /// The volume.
    #[arg(long, default_value = varve::serve::FIRST_VOLUME_NAME, value_name = "NAME")]
    volume: String,
    /// What the commands do.
    #[arg(long, value_enum, default_value_t = Rw::RandRead)]
    rw: Rw,
    /// How many of 100 commands read, with --rw randrw.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    read_percent: u8,
    /// Size of a command.
    #[arg(long, default_value = "4KiB", value_name = "SIZE")]
    block_size: SizeBytes,
    /// Commands in flight on each connection.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1023))]
    queue_depth: u16,
    /// Connections, each an I/O queue.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=128))]
    connections: u16,
    /// How long.
    #[arg(long, default_value_t = 10.0, value_parser = seconds, value_name = "S")]
    seconds: f64,
    /// Stay in the first part of the volume.
    #[arg(long, value_name = "SIZE")]
    range: Option<SizeBytes>,
    /// Of the random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct BenchOptions {
    /// Length of each of about 20 steps.
    #[arg(long, default_value_t = 2.0, value_parser = seconds, value_name = "S")]
    seconds: f64,
    /// Where a directory for the files is made, and removed.
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Size of the volume; all of it is written first.
    #[arg(long, default_value = "256MiB", value_name = "SIZE")]
    volume_size: SizeBytes,
    /// Size of the pool, at least 4 times the volume; a step of writes ends early when its share is used up.
    #[arg(long, default_value = "4GiB", value_name = "SIZE")]
    pool_size: SizeBytes,
    /// Only one backing.
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Write the result to a file as JSON; - prints it.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    Memory,
    File,
}

#[derive(Debug, Args)]
struct IdleOptions {
    /// How long.
    #[arg(long, default_value_t = 10.0, value_parser = seconds, value_name = "S")]
    seconds: f64,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && (0.001..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.001 to 86400 is needed".to_owned()),
    }
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let result = match Cli::parse().command {
        Command::Run(options) => run_load(&options),
        Command::Bench(options) => run_bench(options),
        Command::Idle(options) => run_idle(&options),
        Command::WriteAmplification(command) => run_write_amplification(&command),
        Command::Cleaning(command) => with_steps(|step| cleaning::run(&command.options, step))
            .and_then(|report| give(&report, command.json.as_deref(), cleaning::table))
            .map(|()| true),
        Command::Archive(command) => with_steps(|step| archive::run(&command.options, step))
            .and_then(|report| give(&report, command.json.as_deref(), archive::table))
            .map(|()| true),
        Command::Rebuild(command) => with_steps(|step| rebuild::run(&command.options, step))
            .and_then(|report| give(&report, command.json.as_deref(), rebuild::table))
            .map(|()| true),
        Command::OpenArchived(command) => with_steps(|step| open_archived::run(&command.options, step))
            .and_then(|report| give(&report, command.json.as_deref(), open_archived::table))
            .map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("varve-perf: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_load(options: &RunOptions) -> Result<bool, PerfError> {
    let config = LoadConfig {
        address: options.address,
        volume: options.volume.clone(),
        pattern: match options.rw {
            Rw::Read => Pattern::Read,
            Rw::Write => Pattern::Write,
            Rw::RandRead => Pattern::RandRead,
            Rw::RandWrite => Pattern::RandWrite,
            Rw::Mixed => Pattern::RandRw,
        },
        read_percent: options.read_percent,
        // What does not fit is refused as a size that no controller takes.
        block_bytes: u32::try_from(options.block_size.0).unwrap_or(u32::MAX),
        queue_depth: options.queue_depth,
        connections: options.connections,
        duration: Duration::from_secs_f64(options.seconds),
        bytes_max: None,
        range_bytes: options.range.map(|size| size.0),
        seed: options.seed,
    };
    let live = std::io::stderr().is_terminal();
    let result = load::run(&config, |progress| {
        if live {
            show(progress);
        }
    })?;
    if live {
        eprint!("\r\x1b[K");
    }
    if options.json {
        print(&serde_json::to_string_pretty(&result)?)?;
    } else {
        print(table::load(&result).trim_end())?;
    }
    Ok(result.failures == 0)
}

fn show(progress: Progress) {
    eprint!(
        "\r\x1b[K{:6.1} s  {:8.0} IOPS  {:8.1} MiB/s  {} failed",
        progress.elapsed.as_secs_f64(),
        progress.iops,
        progress.mib_per_second,
        progress.failures
    );
}

fn run_bench(options: BenchOptions) -> Result<bool, PerfError> {
    let config = BenchConfig {
        step: Duration::from_secs_f64(options.seconds),
        directory: options.dir,
        volume_bytes: options.volume_size.0,
        pool_bytes: options.pool_size.0,
        memory: options.only != Some(Only::File),
        file: options.only != Some(Only::Memory),
    };
    let report = with_steps(|step| bench::run(&config, step))?;
    give(&report, options.json.as_deref(), table::bench)?;
    Ok(report.steps.iter().all(|step| step.load.failures == 0))
}

fn run_write_amplification(command: &Measured<write_amplification::Options>) -> Result<bool, PerfError> {
    let report = with_steps(|step| write_amplification::run(&command.options, step))?;
    if let Some(path) = &command.options.svg {
        save(path, &write_amplification::plot(&report).svg())?;
    }
    give(&report, command.json.as_deref(), write_amplification::table)?;
    Ok(true)
}

/// Runs a measurement and shows its steps to whoever watches.
fn with_steps<T>(run: impl FnOnce(&mut dyn FnMut(&str)) -> Result<T, PerfError>) -> Result<T, PerfError> {
    let live = std::io::stderr().is_terminal();
    let result = run(&mut |step: &str| {
        if live {
            eprint!("\r\x1b[K{step}");
        }
    });
    if live {
        eprint!("\r\x1b[K");
    }
    result
}

/// Prints a result as a table, and writes it to a file as JSON, or prints that instead.
fn give<T: serde::Serialize>(
    report: &T,
    json: Option<&Path>,
    table: impl FnOnce(&T) -> String,
) -> Result<(), PerfError> {
    match json {
        Some(path) if path == Path::new("-") => return print(&serde_json::to_string_pretty(report)?),
        Some(path) => save(path, &(serde_json::to_string_pretty(report)? + "\n"))?,
        None => {}
    }
    print(table(report).trim_end())
}

fn save(path: &Path, text: &str) -> Result<(), PerfError> {
    std::fs::write(path, text).map_err(|source| PerfError::Io { what: "write the result's file", source })
}

fn run_idle(options: &IdleOptions) -> Result<bool, PerfError> {
    let result = idle::measure(Duration::from_secs_f64(options.seconds))?;
    if options.json {
        print(&serde_json::to_string_pretty(&result)?)?;
    } else {
        print(&format!(
            "idle appliance, one connected host, {:.1} s: {:.2} ms of processor time, {:.3} % of a core (under {} %: {})",
            result.seconds,
            result.cpu_ms,
            result.percent,
            idle::PERCENT_MAX,
            if result.passed { "yes" } else { "NO" }
        ))?;
    }
    Ok(result.passed)
}

/// Prints a line; whoever closed the pipe wants no more of it, and is not an error worth more than its own text.
fn print(text: &str) -> Result<(), PerfError> {
    writeln!(std::io::stdout().lock(), "{text}")
        .map_err(|source| PerfError::Io { what: "print the result", source })
}
