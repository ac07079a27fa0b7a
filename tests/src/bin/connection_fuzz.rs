//! `connection_fuzz`: random conversations with a target in this process, `--seed N` or
//! `--seeds A..B`. A violated guarantee fails its seed, which `--seed` replays.

use std::process::ExitCode;

use clap::Parser;
use varve_tests::connection_fuzz::{Counts, converse};

/// Talk to a target in every state, right and a little wrong: each command is answered once or the
/// connection ends, all memory comes back, and an innocent host beside notices nothing.
#[derive(Debug, Parser)]
#[command(name = "connection_fuzz")]
struct Options {
    /// These seeds.
    #[arg(long, default_value = "1..1000", value_name = "A..B", value_parser = seeds)]
    seeds: std::ops::Range<u64>,
    /// Only this seed.
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    seed: Option<u64>,
}

fn seeds(text: &str) -> Result<std::ops::Range<u64>, String> {
    let parts = text.split_once("..").and_then(|(first, end)| Some((first.parse().ok()?, end.parse().ok()?)));
    parts.map(|(first, end)| first..end).ok_or_else(|| "two numbers are needed, as in 1..100".to_owned())
}

fn main() -> ExitCode {
    let Options { seeds, seed } = Options::parse();
    let seeds = seed.map_or(seeds, |seed| seed..seed.saturating_add(1));
    let mut total = Counts::default();
    let mut failed = Vec::new();
    for seed in seeds {
        if let Ok(counts) = std::panic::catch_unwind(|| converse(seed)) {
            total += counts;
        } else {
            println!("seed {seed} failed");
            failed.push(seed);
        }
    }
    println!("{total:?}");
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{} seeds failed: {failed:?}", failed.len());
    ExitCode::FAILURE
}
