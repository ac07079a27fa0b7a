//! All adversaries in rotation for hours, against one appliance that is killed at the end of some
//! turns.
//!
//! With each of them run the innocent host and a load that keeps two queues full and knows what
//! every block may hold (`soak`). At the end of a turn the appliance is killed with commands in
//! flight, or goes on. Then everything acknowledged must exist. While the appliance lives, no
//! connection of a well-behaved host may be lost, and its memory must stay within its bound.
//!
//! The volumes that an adversary needs are made for its turn and deleted after it. Synchs stay, so
//! the history grows as it does in use. Of the archive the last minutes are kept, and what is older
//! expires after each round of all adversaries: a long rotation needs no more disk than a short
//! one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::bed::{BLOCK_BYTES, Bed, INNOCENT_VOLUME, Until};
use super::error::CanaryError;
use super::innocent::{Experience, Innocent};
use super::operator::{self, Watch};
use super::verdict::Verdict;
use super::{ADVERSARIES, Adversary, SERVE, allow_descriptors, chain, elsewhere, joined};
use crate::appliance::{Appliance, ApplianceConfig};
use crate::sim::rng::Rng;
use crate::soak::error::SoakError;
use crate::soak::model::Model;
use crate::soak::session::{Counts, Session};

/// The volume of the load.
const CHECKED: &str = "checked";
const CHECKED_SIZE: &str = "64MiB";
const CHECKED_BLOCKS: u64 = (64 << 20) / BLOCK_BYTES;
/// Commands of the load in flight.
const DEPTH: u16 = 16;
/// How long the load waits for its connection.
const CONNECT_LIMIT: Duration = Duration::from_mins(1);
const CONNECT_PAUSE: Duration = Duration::from_millis(200);
/// What is kept of the archive.
const KEEP: &str = "every-write 10m";

/// The parameters of a rotation.
#[derive(Debug, Clone, Copy)]
pub struct RotationConfig {
    /// How long it lasts.
    pub span: Duration,
    /// The maximum length of an adversary's turn; each lasts from 0.5 to 1.0 of it.
    pub turn: Duration,
    /// Scales all counts; 1.0 means the normal counts.
    pub scale: f64,
    /// One turn in this many ends with a kill.
    pub kill_odds: u64,
    /// The seed of the random numbers.
    pub seed: u64,
}

/// The results.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct RotationReport {
    /// Turns of adversaries.
    pub turns: u64,
    /// How many of these ended with a kill.
    pub kills: u64,
    /// Acknowledged writes of the load.
    pub writes: u64,
    /// Blocks that were compared after a turn.
    pub verified_blocks: u64,
    /// Commands of the innocent host.
    pub innocent_commands: u64,
    /// The longest of them, in milliseconds.
    pub innocent_longest_ms: f64,
    /// The maximum memory of the process at the end of each turn, in bytes, with the adversary's
    /// name.
    pub memory_bytes: Vec<(&'static str, u64)>,
    /// Objects of the archive that expired.
    pub expired_objects: u64,
    /// Everything that was wrong.
    pub wrong: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Runs a rotation; calls `progress` after each turn.
///
/// # Errors
/// The scene cannot be prepared, or the appliance ends by itself.
pub fn rotate(
    config: RotationConfig,
    mut progress: impl FnMut(&RotationReport, &str),
) -> Result<RotationReport, CanaryError> {
    allow_descriptors()?;
    let began = Instant::now();
    let mut serve = SERVE.map(str::to_owned).to_vec();
    serve.push("2GiB".to_owned());
    let start = ApplianceConfig { arguments: serve, ..ApplianceConfig::default() };
    let bed = Bed { appliance: Appliance::start(&start)?, faults: None, scale: config.scale };
    bed.make_volume(CHECKED, CHECKED_SIZE)?;
    bed.appliance.rpc("archive_set_keep", json!({"rules": KEEP}))?;
    let mut rng = Rng::new(config.seed);
    let innocent = Innocent::connect(bed.address())?;
    let load = Load {
        model: Model::new(CHECKED_BLOCKS),
        counts: Counts::default(),
        number: rng.next_u64() | 1,
        rng: Rng::new(config.seed + 1),
        session: None,
    };
    let mut stage = Stage { bed, innocent, load, report: RotationReport::default() };
    'rotation: loop {
        for adversary in &ADVERSARIES {
            if began.elapsed() >= config.span {
                break 'rotation;
            }
            let part = 0.5 + rng.below(500) as f64 / 1000.0;
            // A process cannot get its descriptors back after the limit was lowered.
            let dies = rng.one_in(config.kill_odds) || adversary.name == "descriptors";
            let told = stage.turn(adversary, config.turn.mul_f64(part), dies)?;
            stage.report.seconds = began.elapsed().as_secs_f64();
            progress(&stage.report, &format!("{}: {told}", adversary.name));
        }
        stage.report.expired_objects += expire(&stage.bed)?;
        progress(&stage.report, &format!("expiry: {} objects so far", stage.report.expired_objects));
    }
    let Stage { mut bed, innocent, load, mut report } = stage;
    drop((innocent, load));
    bed.appliance.stop()?;
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

/// Everything that lives through all turns.
struct Stage {
    bed: Bed,
    innocent: Innocent,
    load: Load,
    report: RotationReport,
}

/// What everybody experienced in a turn.
struct Lived {
    told: String,
    innocent: Experience,
    watch: Watch,
    load: Result<(), SoakError>,
}

impl Stage {
    /// Runs one adversary's turn, and checks its effects.
    fn turn(&mut self, adversary: &Adversary, span: Duration, dies: bool) -> Result<String, CanaryError> {
        (adversary.prepare)(&self.bed)?;
        self.load.connect(&self.bed).map_err(load_failed)?;
        let lived = self.live(adversary, span, dies);
        let told = lived.told.clone();
        self.judge(adversary, lived);
        if dies {
            self.load.bury().map_err(load_failed)?;
            self.bed.appliance.restart()?;
            self.report.kills += 1;
        }
        self.verify(adversary, dies)?;
        clear(&self.bed)?;
        self.report.turns += 1;
        Ok(told)
    }

    fn live(&mut self, adversary: &Adversary, span: Duration, dies: bool) -> Lived {
        let Stage { bed, innocent, load, .. } = self;
        let (bed, stop) = (&*bed, &AtomicBool::new(false));
        let until = Instant::now() + span;
        std::thread::scope(|scope| {
            let attack = scope.spawn(move || elsewhere::run(|| (adversary.attack)(bed, Until(until))));
            let innocent = scope.spawn(move || innocent.live(stop));
            let watch = scope.spawn(move || operator::watch(bed, stop));
            let load = scope.spawn(move || load.go_on(until));
            let load = joined(load);
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            stop.store(true, Ordering::Relaxed);
            let innocent = joined(innocent);
            let watch = joined(watch);
            if dies && let Some(process) = bed.appliance.process_id() {
                let process = Pid::from_raw(process.cast_signed());
                let killed = process.map(|process| kill_process(process, Signal::KILL));
                debug_assert!(killed.is_some_and(|killed| killed.is_ok()), "it is a child of ours");
            }
            let told = joined(attack);
            Lived { told: told.told, innocent, watch, load }
        })
    }

    fn judge(&mut self, adversary: &Adversary, lived: Lived) {
        let report = &mut self.report;
        let Lived { told, innocent, watch, load } = lived;
        let figures = innocent.times.figures();
        report.innocent_commands += figures.count;
        report.innocent_longest_ms = report.innocent_longest_ms.max(figures.max_ms);
        report.writes = self.load.counts.writes;
        report.memory_bytes.push((adversary.name, watch.resident_bytes_max));
        let mut note = |what: String| report.wrong.push(format!("{}: {what} ({told})", adversary.name));
        innocent.wrong.into_iter().for_each(&mut note);
        innocent.first_errors.into_iter().for_each(|error| note(format!("the innocent host: {error}")));
        if let Err(error) = load {
            note(format!("the load: {}", chain(&error)));
            self.load.session = None;
        }
        let allowed_bytes = Verdict::allowed_bytes(0, watch.index_bytes_max, watch.dma_budget_bytes);
        if watch.resident_bytes_max > allowed_bytes.max(512 << 20) {
            note(format!("{} bytes of memory, not {allowed_bytes}", watch.resident_bytes_max));
        }
        if let Some(error) = watch.first_error {
            note(format!("a call: {error}"));
        }
    }

    /// Checks that everything acknowledged exists.
    fn verify(&mut self, adversary: &Adversary, died: bool) -> Result<(), CanaryError> {
        let when = if died { "after a kill" } else { "after its turn" };
        let wrong = self.innocent.check_all().map_err(CanaryError::prepare("the innocent host's check"))?;
        let note = |what: &String| format!("{}, {when}: {what}", adversary.name);
        self.report.wrong.extend(wrong.iter().map(note));
        self.load.connect(&self.bed).map_err(load_failed)?;
        self.report.verified_blocks += self.load.verify(when).map_err(load_failed)?;
        Ok(())
    }
}

fn load_failed(error: SoakError) -> CanaryError {
    CanaryError::Load(Box::new(error))
}

/// The verified load.
struct Load {
    model: Model,
    counts: Counts,
    /// The number in the load's stamps.
    number: u64,
    rng: Rng,
    session: Option<Session>,
}

impl Load {
    /// Connects, unless it is connected; retries as a host does.
    fn connect(&mut self, bed: &Bed) -> Result<(), SoakError> {
        let began = Instant::now();
        while self.session.is_none() {
            match Session::connect(bed.address(), CHECKED, DEPTH, CHECKED_BLOCKS, self.number) {
                Ok(session) => self.session = Some(session),
                Err(error) if began.elapsed() > CONNECT_LIMIT => return Err(error),
                Err(_) => std::thread::sleep(CONNECT_PAUSE),
            }
        }
        Ok(())
    }

    fn go_on(&mut self, until: Instant) -> Result<(), SoakError> {
        let Some(session) = &mut self.session else { return Ok(()) };
        session.load(&mut self.model, &mut self.rng, &mut self.counts, until)
    }

    /// Handles the death of the appliance: commands without an answer become uncertain.
    fn bury(&mut self) -> Result<(), SoakError> {
        let Some(session) = self.session.take() else { return Ok(()) };
        session.bury(&mut self.model, &mut self.counts).map(drop)
    }

    /// Waits for the commands in flight and compares everything. Returns how many blocks it
    /// compared.
    fn verify(&mut self, when: &'static str) -> Result<u64, SoakError> {
        let Some(session) = &mut self.session else { return Ok(0) };
        session.drain(&mut self.model, &mut self.counts)?;
        let found = session.read_all(CHECKED_BLOCKS)?;
        self.model.settle(&found, when)?;
        Ok(found.len() as u64)
    }
}

/// Deletes all objects of the archive that the rules do not keep. Returns how many there were.
fn expire(bed: &Bed) -> Result<u64, CanaryError> {
    let mut deleted = 0;
    loop {
        let report = bed.appliance.rpc("archive_expire", json!({"all": true}))?;
        let now = report["deleted_objects"].as_u64().unwrap_or(0);
        if now == 0 {
            return Ok(deleted);
        }
        deleted += now;
    }
}

/// Deletes the adversary's volumes.
fn clear(bed: &Bed) -> Result<(), CanaryError> {
    let volumes = bed.appliance.rpc("volume_list", json!({}))?;
    // Clones first.
    let names = volumes.as_array().into_iter().flatten().rev();
    for name in names.filter_map(|volume| volume["name"].as_str()) {
        if ![INNOCENT_VOLUME, CHECKED].contains(&name) {
            bed.appliance.rpc("volume_delete", json!({"name": name, "force": true}))?;
        }
    }
    Ok(())
}
