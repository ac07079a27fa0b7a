//! One unlucky or hostile host must not slow down, starve or stop another host or the operator.
//!
//! The real program serves an innocent host (`innocent`), which sends one command every 10 ms and
//! checks every byte, and an operator (`operator`), who makes one call every 100 ms. One adversary
//! after the other runs at the same time, each with its own appliance: the first phase runs without
//! the adversary, the second with it. A thread that only sleeps (`noise`) measures the delays of
//! the machine itself. The verdict (`verdict`) compares all this with the bars.
//!
//! | adversary | where |
//! |---|---|
//! | slow-readers, never-readers | `slow_readers.rs`, `never_readers.rs` |
//! | strangers, squatters | `squatters.rs` |
//! | log-pages | `log_pages.rs` |
//! | small-discards, whole-discards | `discards.rs` |
//! | listers | `listers.rs` |
//! | half-open, vanished | `half_open.rs`, `vanished.rs` |
//! | descriptors | `descriptors.rs` |
//! | slow-archive | `slow_archive.rs` |

mod bed;
mod descriptors;
mod discards;
mod elsewhere;
mod error;
mod half_open;
mod innocent;
mod line;
mod listers;
mod log_pages;
mod never_readers;
mod noise;
mod operator;
mod rotation;
mod slow_archive;
mod slow_readers;
mod squatters;
mod vanished;
mod verdict;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use error::CanaryError;
pub use rotation::{RotationConfig, RotationReport, rotate};
pub use verdict::{Figures, Verdict, table};

use crate::appliance::{Appliance, ApplianceConfig};
use crate::faults::Faults;
use bed::{Bed, Until};
use innocent::{Experience, Innocent};
use operator::Watch;
use verdict::Times;

/// The arguments of every appliance here; the size of the pool follows.
const SERVE: [&str; 4] = ["--volume-size", "64MiB", "--sparse", "--pool-size"];

/// The results of an adversary.
#[derive(Debug)]
struct Told {
    /// As text.
    told: String,
    /// It could do nothing of its attack, so the figures mean nothing.
    is_harmless: bool,
}

/// One kind of adversary.
#[derive(Debug, Clone, Copy)]
pub struct Adversary {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    pool_size: &'static str,
    has_faults: bool,
    prepare: fn(&Bed) -> Result<(), CanaryError>,
    attack: fn(&Bed, Until) -> Told,
}

impl Adversary {
    const fn new(
        name: &'static str,
        about: &'static str,
        prepare: fn(&Bed) -> Result<(), CanaryError>,
        attack: fn(&Bed, Until) -> Told,
    ) -> Self {
        Adversary { name, about, pool_size: "4GiB", has_faults: false, prepare, attack }
    }
}

/// All adversaries, in the order in which they run.
pub const ADVERSARIES: [Adversary; 12] = [
    Adversary::new(
        "slow-readers",
        "two hosts of 48 queues read deeply and take a few KiB/s",
        slow_readers::prepare,
        slow_readers::attack,
    ),
    Adversary::new(
        "never-readers",
        "two hosts of 48 queues read deeply and take nothing",
        slow_readers::prepare,
        never_readers::attack,
    ),
    Adversary::new(
        "strangers",
        "140 sockets announce 512 KiB before any Connect",
        |_| Ok(()),
        squatters::attack_as_strangers,
    ),
    Adversary::new(
        "squatters",
        "connected queues announce writes and send no data",
        squatters::prepare,
        squatters::attack,
    ),
    Adversary::new(
        "log-pages",
        "48 admin queues full of Get Log Page are read slowly",
        log_pages::prepare,
        log_pages::attack,
    ),
    Adversary::new(
        "small-discards",
        "256 single blocks with each discard, on a clone of 4 TiB",
        discards::prepare_clone,
        discards::attack_clone,
    ),
    Adversary::new(
        "whole-discards",
        "64 GiB with single blocks everywhere are discarded at once",
        discards::prepare_whole,
        discards::attack_whole,
    ),
    Adversary::new("listers", "eight clients list all synchs", listers::prepare, listers::attack),
    Adversary::new("half-open", "1100 connections say nothing", |_| Ok(()), half_open::attack),
    Adversary::new("vanished", "64 hosts of the same volume vanish", |_| Ok(()), vanished::attack),
    Adversary::new(
        "descriptors",
        "120 sockets want one of 64 descriptors",
        descriptors::prepare,
        descriptors::attack,
    ),
    Adversary {
        pool_size: "512MiB",
        has_faults: true,
        ..Adversary::new(
            "slow-archive",
            "4 queues of 127 large writes over an archive that is slow",
            slow_archive::prepare,
            slow_archive::attack,
        )
    },
];

/// Finds an adversary by its name.
///
/// # Errors
/// No adversary has this name.
pub fn find(name: &str) -> Result<Adversary, CanaryError> {
    let found = ADVERSARIES.iter().copied().find(|adversary| adversary.name == name);
    found.ok_or_else(|| CanaryError::NoSuchAdversary {
        name: name.to_owned(),
        known: ADVERSARIES.map(|adversary| adversary.name).join(", "),
    })
}

/// The length of the phases, and the scale.
#[derive(Debug, Clone, Copy)]
pub struct CanaryConfig {
    /// The length of the phase without an adversary.
    pub before: Duration,
    /// The length of the phase with an adversary.
    pub beside: Duration,
    /// Scales all counts; 1.0 means the normal counts.
    pub scale: f64,
}

/// What everybody except the adversary experienced in one phase.
struct While {
    innocent: Experience,
    watch: Watch,
    lateness: Times,
}

/// Runs one adversary against its own appliance.
///
/// # Errors
/// The scene cannot be prepared, the adversary could do nothing, or the appliance does not stop in
/// order afterwards.
pub fn run(adversary: &Adversary, config: CanaryConfig) -> Result<Verdict, CanaryError> {
    allow_descriptors()?;
    let faults = if adversary.has_faults { Some(Faults::new()?) } else { None };
    let mut serve = SERVE.map(str::to_owned).to_vec();
    serve.push(adversary.pool_size.to_owned());
    let start = ApplianceConfig { arguments: serve, faults: faults.clone(), ..ApplianceConfig::default() };
    let mut bed = Bed { appliance: Appliance::start(&start)?, faults, scale: config.scale };
    (adversary.prepare)(&bed)?;
    let mut innocent = Innocent::connect(bed.address())?;
    let (before, ()) = live(&bed, &mut innocent, || std::thread::sleep(config.before));
    let (beside, told) = live(&bed, &mut innocent, || {
        elsewhere::run(|| (adversary.attack)(&bed, Until(Instant::now() + config.beside)))
    });
    let Told { told, is_harmless } = told;
    if is_harmless {
        return Err(CanaryError::Harmless { name: adversary.name, told });
    }
    let wrong_after = innocent.check_all();
    drop(innocent);
    bed.appliance.stop()?;
    Ok(judge(adversary, told, before, beside, wrong_after))
}

/// Runs the innocent host and the operator until an action is done.
fn live<T>(bed: &Bed, innocent: &mut Innocent, action: impl FnOnce() -> T) -> (While, T) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let innocent = scope.spawn(|| innocent.live(&stop));
        let watch = scope.spawn(|| operator::watch(bed, &stop));
        let lateness = scope.spawn(|| noise::listen(&stop));
        let result = action();
        stop.store(true, Ordering::Relaxed);
        let innocent = joined(innocent);
        let watch = joined(watch);
        let lateness = joined(lateness);
        (While { innocent, watch, lateness }, result)
    })
}

/// The result of a thread; its panic continues here.
fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn judge(
    adversary: &Adversary,
    told: String,
    before: While,
    beside: While,
    wrong_after: Result<Vec<String>, varve::nvmf::host::HostError>,
) -> Verdict {
    let mut errors = before.innocent.errors + beside.innocent.errors;
    let mut seen = [before.innocent.first_errors, beside.innocent.first_errors].concat();
    let mut wrong = [before.innocent.wrong, beside.innocent.wrong].concat();
    match wrong_after {
        Ok(after) => wrong.extend(after),
        Err(error) => {
            errors += 1;
            seen.push(format!("when all was over: {}", chain(&error)));
        }
    }
    let wrong_blocks = wrong.len() as u64;
    seen.extend(wrong.into_iter().take(5));
    let longest_turn = beside.watch.longest_turn_since(&before.watch);
    let call_error = before.watch.first_error.or(beside.watch.first_error);
    seen.extend(call_error.map(|error| format!("a call: {error}")));
    let index_bytes = before.watch.index_bytes_max.max(beside.watch.index_bytes_max);
    Verdict {
        name: adversary.name,
        told,
        before: before.innocent.times.figures(),
        beside: beside.innocent.times.figures(),
        lateness: beside.lateness.figures(),
        calls: beside.watch.times.figures(),
        turn_ms: longest_turn.as_secs_f64() * 1000.0,
        call_errors: before.watch.errors + beside.watch.errors,
        errors,
        wrong_blocks,
        memory_bytes: beside.watch.resident_bytes_max,
        memory_bytes_allowed: Verdict::allowed_bytes(
            before.watch.resident_bytes_max,
            index_bytes,
            before.watch.dma_budget_bytes,
        ),
        index_bytes,
        dma_bytes: beside.watch.dma_bytes_max,
        seen,
    }
}

/// This process needs a descriptor for each connection of an adversary.
fn allow_descriptors() -> Result<(), CanaryError> {
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits })
        .map_err(CanaryError::system("raising the limit of open files"))
}

/// An error with all its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
