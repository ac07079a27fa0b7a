//! Runs the simulator over many seeds: `simulate --seed N`, `simulate --seeds A..B`,
//! `simulate --hours H` or `--seconds S`; and `simulate --owners A..B`, where several primaries
//! compete for one archive.
//!
//! Prints what was compared and which faults occurred. A violated guarantee fails its seed, which
//! `--seed` replays exactly. `--hours` takes its first seed from the current time, so that no two
//! runs are the same. `--crashes N` ends a run after so many crashes. All faults are injected, or
//! only those that `--faults` names, or none with `--no-faults`: then only crashes and failing
//! stores remain. The verbs of going back are among the operations, unless `--no-verbs` is given.

use std::cell::Cell;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use varve_tests::sim::campaign::{Counts, campaign_of};
use varve_tests::sim::endless::{endless_campaign_going_back, endless_campaign_of};
use varve_tests::sim::faults::Faults;
use varve_tests::sim::owners::{OwnerCounts, owners_campaign};

const USAGE: &str = "usage: simulate (--seed N | --seeds A..B | --hours H | --seconds S | --crashes N | --owners A..B) [--no-verbs] [--no-faults | --faults transient,lasting,memory,starts]";
/// Seeds for each second: more than any machine can run.
const SEEDS_PER_SECOND: u64 = 100_000;

enum Campaign {
    Seeds(std::ops::Range<u64>),
    For(Duration),
    Crashes(u64),
}

/// What each seed has besides crashes.
#[derive(Debug, Clone, Copy)]
struct With {
    faults: Faults,
    verbs: bool,
}

fn parse(arguments: &[String]) -> Option<(Campaign, With)> {
    let (faults, rest) = match arguments {
        [rest @ .., flag] if flag == "--no-faults" => (Faults::NONE, rest),
        [rest @ .., flag, list] if flag == "--faults" => (Faults::parse(list)?, rest),
        rest => (Faults::ALL, rest),
    };
    let (verbs, rest) = match rest {
        [rest @ .., flag] if flag == "--no-verbs" => (false, rest),
        rest => (true, rest),
    };
    let [flag, value] = rest else { return None };
    let work = match flag.as_str() {
        "--seed" => value.parse().ok().map(|seed: u64| Campaign::Seeds(seed..seed.saturating_add(1))),
        "--seeds" => {
            let (first, end) = value.split_once("..")?;
            Some(Campaign::Seeds(first.parse().ok()?..end.parse().ok()?))
        }
        "--hours" => {
            let hours: f64 = value.parse().ok()?;
            Duration::try_from_secs_f64(hours * 3600.0).ok().map(Campaign::For)
        }
        "--seconds" => value.parse().ok().map(|seconds| Campaign::For(Duration::from_secs(seconds))),
        "--crashes" => value.parse().ok().map(Campaign::Crashes),
        _ => None,
    };
    Some((work?, With { faults, verbs }))
}

/// A seed that no earlier run started with.
fn seed_of_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) * SEEDS_PER_SECOND
}

thread_local! {
    /// The seed that runs now.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

fn run(seed: u64, With { faults, verbs }: With) -> Counts {
    SEED.set(seed);
    // Even seeds fill a log; odd seeds have an archive and run without end.
    match (seed.is_multiple_of(2), verbs) {
        (true, verbs) => campaign_of(seed, faults, verbs),
        (false, true) => endless_campaign_going_back(seed, faults),
        (false, false) => endless_campaign_of(seed, faults),
    }
}

fn report(what: &str, total: &Counts) {
    println!("{what}: {total}");
}

/// Runs the campaign of several owners for each seed.
fn run_owners(seeds: &str) -> Option<ExitCode> {
    let (first, end) = seeds.split_once("..")?;
    let (first, end): (u64, u64) = (first.parse().ok()?, end.parse().ok()?);
    let (mut total, mut failed) = (OwnerCounts::default(), Vec::new());
    for seed in first..end {
        SEED.set(seed);
        match std::panic::catch_unwind(|| owners_campaign(seed)) {
            Ok(counts) => total += counts,
            Err(_) => failed.push(seed),
        }
    }
    println!("{total:?}");
    println!("{} seeds failed: {failed:?}", failed.len());
    Some(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, seeds] = arguments.as_slice()
        && flag == "--owners"
    {
        return run_owners(seeds).unwrap_or_else(|| {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        });
    }
    let Some((work, with)) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let started = Instant::now();
    let (seeds, limit, crashes_max) = match work {
        Campaign::Seeds(seeds) => (seeds, None, u64::MAX),
        Campaign::For(limit) => (seed_of_now()..u64::MAX, Some(limit), u64::MAX),
        Campaign::Crashes(crashes) => (seed_of_now()..u64::MAX, None, crashes),
    };
    // Reports the seed even if a panic ends the process.
    let report_panic = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report_panic(info);
        eprintln!("this was seed {}", SEED.get());
    }));
    println!("from seed {} on, {with:?}", seeds.start);
    let mut total = Counts::default();
    let mut failed = Vec::new();
    let mut reported = started;
    for seed in seeds {
        if let Ok(counts) = std::panic::catch_unwind(|| run(seed, with)) {
            total += counts;
        } else {
            println!("seed {seed} failed");
            failed.push(seed);
        }
        if reported.elapsed() > Duration::from_mins(1) {
            reported = Instant::now();
            report(&format!("seed {seed}"), &total);
        }
        if limit.is_some_and(|limit| started.elapsed() >= limit) || total.crashes >= crashes_max {
            break;
        }
    }
    report(&format!("{:.1} s", started.elapsed().as_secs_f64()), &total);
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("{} seeds failed: {failed:?}", failed.len());
        ExitCode::FAILURE
    }
}
