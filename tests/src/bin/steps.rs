//! `steps`: sessions on a long history, most of it only in the archive: random steps of random
//! length, each state compared with a model, and what a step of one write costs.

use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use varve::volume::{HostGuard, OpenSession, Point, StepInfo, StepTo};
use varve_tests::sim::past::Past;
use varve_tests::sim::world::wait;

/// Step a session over a long history, and compare each state with a model.
#[derive(Debug, Parser)]
#[command(name = "steps")]
struct Options {
    /// How many commands the history has.
    #[arg(long, default_value_t = 1_000_000)]
    writes: usize,
    /// How many random steps are made.
    #[arg(long, default_value_t = 1000)]
    steps: usize,
    /// How many steps of one write are measured.
    #[arg(long, default_value_t = 1000)]
    single: usize,
    /// The blocks of the volume.
    #[arg(long, default_value_t = 512)]
    blocks: u64,
    /// The slots of the device, of 256 blocks each.
    #[arg(long, default_value_t = 24)]
    slots: u64,
    /// The seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const NAME: &str = "search";

fn step(past: &Past, to: StepTo) -> StepInfo {
    let step = Rc::clone(&past.pool).step_session(NAME.to_owned(), to, false, HostGuard::none());
    wait(&past.pool, step).unwrap_or_else(|error| panic!("seed {}: {error}", past.seed))
}

fn print(text: &str) {
    // If nobody reads it, nothing is lost.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The median and the longest of some times, as text.
fn times(mut times_us: Vec<u64>) -> String {
    times_us.sort_unstable();
    let median = times_us.get(times_us.len() / 2).copied().unwrap_or(0);
    format!("median {median} us, longest {} us", times_us.last().copied().unwrap_or(0))
}

/// The times of some fsyncs of a block in a file.
fn fsyncs(count: usize) -> std::io::Result<Vec<u64>> {
    let mut file = tempfile::tempfile()?;
    let mut found = Vec::new();
    for _ in 0..count {
        let started = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        found.push(started.elapsed().as_micros() as u64);
    }
    Ok(found)
}

fn main() -> ExitCode {
    let Options { writes, steps, single, blocks, slots, seed } = Options::parse();
    let started = Instant::now();
    let mut past = Past::new(seed, slots, blocks);
    past.write_blocks_max = 1;
    past.step(writes);
    past.idle(5000);
    let (segments, on_device) = past.segments();
    print(&format!(
        "{writes} commands in {:.0} s: {segments} segments, {on_device} of them on the device",
        started.elapsed().as_secs_f64()
    ));
    let request = OpenSession {
        volume: "data".to_owned(),
        at: Point::Lsn(past.lsn(past.len() / 2)).into(),
        name: NAME.to_owned(),
        read_only: false,
    };
    wait(&past.pool, Rc::clone(&past.pool).open_session(request)).expect("opened");
    let (mut moved, mut anew, mut spent) = (Vec::new(), 0, Duration::ZERO);
    let mut at = past.len() / 2;
    for done in 0..steps {
        let reach = [10, 1000, 100_000, past.len()][past.rng.below(4) as usize] as i64;
        let by = past.rng.below(2 * reach as u64 + 1) as i64 - reach;
        at = (at as i64 + by).clamp(0, past.len() as i64 - 1) as usize;
        let began = Instant::now();
        let stepped = step(&past, StepTo::Point(Point::Lsn(past.lsn(at)).into()));
        spent += began.elapsed();
        anew += usize::from(stepped.cost.opened_anew);
        moved.push(stepped.moved_us);
        past.check(NAME, at);
        if (done + 1) % 100 == 0 {
            print(&format!("{} steps are exact", done + 1));
        }
    }
    print(&format!(
        "random steps: {}, {anew} opened anew, {:.1} s together",
        times(moved),
        spent.as_secs_f64()
    ));
    let (mut moved, mut scans) = (Vec::new(), 0);
    for number in 0..single {
        let count = if (number / 100) % 2 == 0 { -1 } else { 1 };
        let stepped = step(&past, StepTo::Commands(count));
        scans += usize::from(stepped.cost.ranges_rebuilt > 0);
        if stepped.cost.ranges_rebuilt == 0 {
            moved.push(stepped.moved_us);
        }
    }
    print(&format!("steps of one write: {} ({scans} over trims, with a scan, not counted)", times(moved)));
    match fsyncs(200) {
        Ok(found) => print(&format!("an fsync of 4 KiB in the same run: {}", times(found))),
        Err(error) => print(&format!("an fsync could not be measured: {error}")),
    }
    past.check("data", past.len() - 1);
    ExitCode::SUCCESS
}
