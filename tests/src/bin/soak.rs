//! `soak`: kills an appliance under load as often as requested, and checks that no acknowledged
//! write is lost.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use varve::text::units::SizeBytes;
use varve_tests::soak::{SoakConfig, SoakError, SoakReport, find_binary, run};

/// Kill varve under load again and again; every acknowledged write must be there after each
/// restart.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Options {
    /// How many kills.
    #[arg(long, default_value_t = 200, value_name = "N")]
    kills: u64,
    /// Mean time of load before a kill, in seconds; each is from 0.2 to 1.8 of it.
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    seconds_between: f64,
    /// Where the pool's directory is made; removed if all goes well. A pool is a real file there.
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Commands in flight, over 2 queues.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(2..=256))]
    queue_depth: u16,
    /// Size of the volume.
    #[arg(long, default_value = "64MiB", value_name = "SIZE")]
    volume_size: SizeBytes,
    /// Size of the pool; a new one is begun when half of it is used.
    #[arg(long, default_value = "4GiB", value_name = "SIZE")]
    pool_size: SizeBytes,
    /// Of the random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The varve program [default: `VARVE_BINARY`, else the newest build beside this program].
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.01 to 3600 is needed".to_owned()),
    }
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let options = Options::parse();
    match soak(options) {
        Ok(report) => {
            println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

fn soak(options: Options) -> Result<SoakReport, SoakError> {
    let binary = options.binary.map_or_else(find_binary, Ok)?;
    let config = SoakConfig {
        kills: options.kills,
        between: Duration::from_secs_f64(options.seconds_between),
        queue_depth: options.queue_depth,
        volume_bytes: options.volume_size.0,
        pool_bytes: options.pool_size.0,
        seed: options.seed,
        ..SoakConfig::new(binary, options.dir)
    };
    run(&config, |report| {
        eprintln!(
            "kill {}: {} writes acknowledged, {} commands unanswered, {} of them applied, {:.1} ms to reconnect (mean), {:.0} s",
            report.kills,
            report.counts.writes,
            report.unanswered,
            report.unanswered_applied,
            report.reconnect_ms_mean,
            report.seconds
        );
    })
}
