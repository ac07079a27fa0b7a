//! `varve-perf`: loads a volume, benchmarks an appliance against its floors, and measures single
//! parts and the cost of idling.

mod run;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use run::RunOptions;
use varve::text::units::SizeBytes;
use varve_perf::bench::{self, BenchConfig};
use varve_perf::error::PerfError;
use varve_perf::floor::limits;
use varve_perf::{
    append, archive, beside_clone, cleaning, compare, compare_target, idle, instructions, lookup, many,
    open_archived, rebuild, report, seconds, sockets, table, write_amplification,
};

/// Load and latency measurements of varve.
#[derive(Debug, Parser)]
#[command(name = "varve-perf", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load volumes of a running appliance, a device or a log. Writes destroy what they hold.
    ///
    /// Example: varve-perf run --volume vol0 --rw randrw --queue-depth 32 --verify
    #[command(verbatim_doc_comment)]
    Run(Box<RunOptions>),
    /// Start appliances in this process, on memory and on a file, and measure them beside their
    /// floors.
    Bench(BenchOptions),
    /// Measure what an idle appliance costs; fails if that is 1 % of a core or more.
    Idle(IdleOptions),
    /// Write amplification of copy-forward beside the formula and the bound, in memory.
    WriteAmplification(Measured<write_amplification::Options>),
    /// Latencies of writes while segments are cleaned, beside those without.
    Cleaning(Measured<cleaning::Options>),
    /// Latencies of a volume while its clone is read at full speed, beside those while another
    /// volume is.
    BesideClone(Measured<beside_clone::Options>),
    /// Throughput of the archivist's work beside the `zstd` command line.
    Archive(Measured<archive::Options>),
    /// Speed of building an index from entries.
    Rebuild(Measured<rebuild::Options>),
    /// Time to the first byte of a point that is only in the archive.
    OpenArchived(Measured<open_archived::Options>),
    /// Appends a second to the log alone, beside copying and checksumming.
    Append(Measured<append::Options>),
    /// Lookups a second in the index of a large volume, and how long its snapshot and clone take.
    Index(Measured<lookup::Options>),
    /// Snapshots, synchs and volumes by the thousand, beside an empty pool.
    Many(Measured<many::Options>),
    /// This machine's own limits: loopback, memory, storage, zstd.
    Floor(Measured<limits::Options>),
    /// Ways to drive a socket beside each other: plain as the target does, and `io_uring`'s.
    Sockets(Measured<sockets::Options>),
    /// Commands whose instructions `scripts/count-instructions` counts.
    Instructions(Measured<instructions::Options>),
    /// Every budget beside its floor, in one table.
    Report(Measured<report::Options>),
    /// Two `NVMe`/TCP targets with the same load in turn: ratios and their spread. Destroys what
    /// both namespaces hold.
    ///
    /// Example: varve-perf compare-target 127.0.0.1:4421/nqn.2016-06.io.spdk:cnode1
    /// 127.0.0.1:4420/vol0
    #[command(verbatim_doc_comment)]
    CompareTarget(Measured<compare_target::Options>),
    /// Two results beside each other: ratios and their spread.
    Compare(CompareOptions),
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

#[derive(Debug, Args)]
struct BenchOptions {
    /// Seconds of each of about 20 steps.
    #[arg(long, default_value_t = 2.0, value_parser = seconds, value_name = "S")]
    seconds: f64,
    /// Where a directory for the files is made, and removed at the end.
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Size of the volume; all of it is written first.
    #[arg(long, default_value = "256MiB", value_name = "SIZE")]
    volume_size: SizeBytes,
    /// Size of the pool, at least 4 times the volume; all of it is written first, so that no step
    /// measures first use.
    #[arg(long, default_value = "4GiB", value_name = "SIZE")]
    pool_size: SizeBytes,
    /// Measure only one backing.
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
struct CompareOptions {
    /// The result to compare with, as JSON (varve-perf run --json).
    a: PathBuf,
    /// The result to compare.
    b: PathBuf,
    /// Print the comparison as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct IdleOptions {
    /// Seconds to measure.
    #[arg(long, default_value_t = 10.0, value_parser = seconds, value_name = "S")]
    seconds: f64,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let result = match Cli::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Bench(options) => run_bench(options),
        Command::Idle(options) => run_idle(&options),
        Command::WriteAmplification(command) => run_write_amplification(&command),
        Command::Cleaning(command) => with_steps(|step| cleaning::run(&command.options, step))
            .and_then(|report| give(&report, command.json.as_deref(), cleaning::table))
            .map(|()| true),
        Command::BesideClone(command) => with_steps(|step| beside_clone::run(&command.options, step))
            .and_then(|report| give(&report, command.json.as_deref(), beside_clone::table))
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
        Command::Append(command) => with_steps(|step| append::run(&command.options, step))
            .and_then(|report| give(&report, command.json.as_deref(), append::table))
            .map(|()| true),
        Command::Index(command) => with_steps(|step| lookup::run(&command.options, step))
            .and_then(|report| give(&report, command.json.as_deref(), lookup::table))
            .map(|()| true),
        Command::Many(command) => with_steps(|step| many::run(&command.options, step))
            .and_then(|report| give(&report, command.json.as_deref(), many::table))
            .map(|()| true),
        Command::Floor(command) => with_steps(|step| limits::run(&command.options, step))
            .and_then(|report| give(&report, command.json.as_deref(), limits::table))
            .map(|()| true),
        Command::Sockets(command) => with_steps(|step| sockets::run(&command.options, step))
            .and_then(|report| give(&report, command.json.as_deref(), sockets::table))
            .map(|()| true),
        Command::Instructions(command) => with_steps(|step| instructions::run(&command.options, step))
            .and_then(|report| give(&report, command.json.as_deref(), instructions::table))
            .map(|()| true),
        Command::Report(command) => with_steps(|step| report::run(&command.options, step))
            .and_then(|report| give(&report, command.json.as_deref(), report::table))
            .map(|()| true),
        Command::CompareTarget(command) => with_steps(|step| compare_target::run(&command.options, step))
            .and_then(|report| give(&report, command.json.as_deref(), compare_target::table))
            .map(|()| true),
        Command::Compare(options) => run_compare(&options).map(|()| true),
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

/// Runs a measurement, and shows its steps if standard error is a terminal.
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

/// Prints a result as a table and writes it to a file as JSON, or prints the JSON instead.
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

fn run_compare(options: &CompareOptions) -> Result<(), PerfError> {
    let read = |path: &Path| -> Result<serde_json::Value, PerfError> {
        let failed = |reason: String| PerfError::NoResult { path: path.display().to_string(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
    };
    let comparison = compare::compare(&read(&options.a)?, &read(&options.b)?);
    if options.json {
        return print(&serde_json::to_string_pretty(&comparison)?);
    }
    print(compare::table(&comparison).trim_end())
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

/// Prints a line.
fn print(text: &str) -> Result<(), PerfError> {
    print_to(&mut std::io::stdout().lock(), text)
}

/// Prints a line. It is no error if the reader has closed the pipe (`| head`).
fn print_to(output: &mut dyn Write, text: &str) -> Result<(), PerfError> {
    match writeln!(output, "{text}").and_then(|()| output.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|source| PerfError::Io { what: "print the result", source }),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_reader_that_has_seen_enough_is_no_error() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        drop(reader);
        print_to(&mut writer, "a result").unwrap();
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        assert!(print_to(&mut &full, "a result").is_err(), "what is lost is an error");
    }

    #[test]
    fn every_command_has_options_that_go_together() {
        Cli::command().debug_assert();
    }
}
