//! Runs the simulator over many seeds: `simulate --seed N`, `simulate --seeds A..B`, `simulate --hours H`.
//!
//! Prints what was compared. A broken promise stops it with the seed that fails, which `--seed` replays exactly.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use varve_tests::sim::campaign::{Counts, campaign};
use varve_tests::sim::endless::endless_campaign;

const USAGE: &str = "usage: simulate --seed N | --seeds A..B | --hours H";

enum Work {
    Seeds(std::ops::Range<u64>),
    For(Duration),
}

fn parse(arguments: &[String]) -> Option<Work> {
    let [flag, value] = arguments else { return None };
    match flag.as_str() {
        "--seed" => value.parse().ok().map(|seed: u64| Work::Seeds(seed..seed.saturating_add(1))),
        "--seeds" => {
            let (first, end) = value.split_once("..")?;
            Some(Work::Seeds(first.parse().ok()?..end.parse().ok()?))
        }
        "--hours" => {
            let hours: f64 = value.parse().ok()?;
            Duration::try_from_secs_f64(hours * 3600.0).ok().map(Work::For)
        }
        _ => None,
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(work) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let started = Instant::now();
    let (seeds, limit) = match work {
        Work::Seeds(seeds) => (seeds, None),
        Work::For(limit) => (0..u64::MAX, Some(limit)),
    };
    let mut total = Counts::default();
    let mut failed = Vec::new();
    let mut reported = started;
    for seed in seeds {
        // Even seeds fill a log, odd ones have an archive and go on for ever.
        let run = |seed: u64| if seed.is_multiple_of(2) { campaign(seed) } else { endless_campaign(seed) };
        match std::panic::catch_unwind(|| run(seed)) {
            Ok(counts) => total += counts,
            Err(_) => failed.push(seed),
        }
        if reported.elapsed() > Duration::from_mins(1) {
            reported = Instant::now();
            println!("seed {seed}: {total:?}");
        }
        if limit.is_some_and(|limit| started.elapsed() >= limit) {
            break;
        }
    }
    println!("{:.1} s: {total:?}", started.elapsed().as_secs_f64());
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("{} seeds failed: {failed:?}", failed.len());
        ExitCode::FAILURE
    }
}
