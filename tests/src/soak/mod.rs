//! The kill soak: the appliance is killed under load many times, the host reconnects by itself, and
//! no acknowledged write may be lost.
//!
//! Every block carries a stamp ([`stamp`]); a model ([`model`]) knows what each may hold. After
//! each restart the whole volume is read: a block must hold its last acknowledged write, or one
//! that had no answer when the appliance died. A command took effect completely or not at all.
//! Reads under load are checked in the same way. One restart in 8 is killed too, while the
//! appliance recovers.
//!
//! The log cannot take more than its size. When half of it is used, the appliance is stopped in
//! order, its volume is verified once more, and the soak continues with a new pool.

pub mod child;
pub mod error;
pub mod model;
pub mod session;
pub mod stamp;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use child::{BINARY_VARIABLE, find_binary};
pub use error::SoakError;
pub use model::{Model, Settled, Violation};
pub use session::Counts;
pub use stamp::Content;

use varve::serve::FIRST_VOLUME_NAME;

use crate::sim::rng::Rng;
use child::Appliance;
use session::Session;
use stamp::BLOCK_BYTES;

/// How long the host tries to reconnect after a restart.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause between two tries.
const RECONNECT_PAUSE: Duration = Duration::from_millis(2);
/// One restart in this many is killed too.
const RESTART_KILL_ODDS: u64 = 8;
/// The latest moment of such a kill after the start.
const RESTART_KILL_MS_MAX: u64 = 40;

/// The parameters of a soak.
#[derive(Debug, Clone)]
pub struct SoakConfig {
    /// The varve program.
    pub binary: PathBuf,
    /// Where the pool's directory is made; it is removed if all goes well.
    pub directory: PathBuf,
    /// Kills under load.
    pub kills: u64,
    /// The mean time of load before a kill; each is from 0.2 to 1.8 of it.
    pub between: Duration,
    /// Commands in flight, over 2 queues.
    pub queue_depth: u16,
    /// Size of the volume, a multiple of 4096.
    pub volume_bytes: u64,
    /// Size of the pool.
    pub pool_bytes: u64,
    /// The seed of the random numbers. The times of the kills still vary.
    pub seed: u64,
}

impl SoakConfig {
    /// 20 kills, with a mean distance of 1 s, at a queue depth of 32.
    pub fn new(binary: PathBuf, directory: impl Into<PathBuf>) -> Self {
        SoakConfig {
            binary,
            directory: directory.into(),
            kills: 20,
            between: Duration::from_secs(1),
            queue_depth: 32,
            volume_bytes: 64 << 20,
            pool_bytes: 4 << 30,
            seed: 1,
        }
    }
}

/// The results of a soak.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct SoakReport {
    /// Kills under load.
    pub kills: u64,
    /// Kills while the appliance recovered.
    pub kills_in_recovery: u64,
    /// Pools that were used, one after the other.
    pub pools: u64,
    /// Orderly stops, each verified like a kill.
    pub orderly_stops: u64,
    /// The counts of the load.
    pub counts: Counts,
    /// Writes and trims without an answer when the appliance was killed.
    pub unanswered: u64,
    /// How many of these visibly took effect.
    pub unanswered_applied: u64,
    /// Blocks read and checked after restarts.
    pub verified_blocks: u64,
    /// Mean time from restart to a usable connection, in milliseconds.
    pub reconnect_ms_mean: f64,
    /// The maximum of that time, in milliseconds.
    pub reconnect_ms_max: f64,
    /// The duration of the whole soak, in seconds.
    pub seconds: f64,
}

/// Runs a soak; calls `progress` after each kill that was survived.
///
/// # Errors
/// The first error. The pool's directory is then kept, and a warning names it.
pub fn run(config: &SoakConfig, mut progress: impl FnMut(&SoakReport)) -> Result<SoakReport, SoakError> {
    let started = Instant::now();
    let mut report = SoakReport::default();
    let mut rng = Rng::new(config.seed);
    while report.kills < config.kills {
        let directory = tempfile::Builder::new()
            .prefix("varve-soak-")
            .tempdir_in(&config.directory)
            .map_err(SoakError::io("make a directory for the pool"))?;
        let result = Pool::new(config, directory.path(), &mut rng, &mut report)
            .and_then(|mut pool| pool.run(started, &mut progress));
        if let Err(error) = result {
            tracing::warn!(directory = %directory.keep().display(), "the pool is kept for a closer look");
            return Err(error);
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// One pool from its creation until half of its log is used.
struct Pool<'a> {
    config: &'a SoakConfig,
    appliance: Appliance,
    model: Model,
    /// The number in the stamps.
    soak: u64,
    /// The part of the report's [`Counts::log_blocks`] that earlier pools account for.
    log_blocks_before: u64,
    rng: &'a mut Rng,
    report: &'a mut SoakReport,
}

impl<'a> Pool<'a> {
    fn new(
        config: &'a SoakConfig,
        directory: &Path,
        rng: &'a mut Rng,
        report: &'a mut SoakReport,
    ) -> Result<Self, SoakError> {
        let appliance = Appliance::create(&config.binary, directory, config.volume_bytes, config.pool_bytes)?;
        report.pools += 1;
        Ok(Pool {
            config,
            appliance,
            model: Model::new(config.volume_bytes / BLOCK_BYTES as u64),
            soak: rng.next_u64() | 1,
            log_blocks_before: report.counts.log_blocks,
            rng,
            report,
        })
    }

    fn run(&mut self, started: Instant, progress: &mut impl FnMut(&SoakReport)) -> Result<(), SoakError> {
        let mut session = self.connect()?;
        while self.report.kills < self.config.kills && self.has_room() {
            let part = 0.2 + 1.6 * (self.rng.below(1000) as f64 / 1000.0);
            let until = Instant::now() + self.config.between.mul_f64(part);
            session.load(&mut self.model, self.rng, &mut self.report.counts, until)?;
            self.appliance.kill()?;
            self.report.unanswered += session.bury(&mut self.model, &mut self.report.counts)?;
            self.report.kills += 1;
            session = self.restart()?;
            self.verify(&mut session, "after a kill and restart")?;
            self.report.seconds = started.elapsed().as_secs_f64();
            progress(self.report);
        }
        session.drain(&mut self.model, &mut self.report.counts)?;
        drop(session);
        self.appliance.stop()?;
        self.report.orderly_stops += 1;
        self.appliance.start()?;
        let mut session = self.connect()?;
        self.verify(&mut session, "after an orderly stop")?;
        drop(session);
        self.appliance.stop()
    }

    /// Whether the log has space for another span of load: at most half of it may be used before.
    fn has_room(&self) -> bool {
        let used = self.report.counts.log_blocks - self.log_blocks_before;
        used < self.config.pool_bytes / BLOCK_BYTES as u64 / 2
    }

    fn restart(&mut self) -> Result<Session, SoakError> {
        self.appliance.start()?;
        while self.rng.one_in(RESTART_KILL_ODDS) {
            std::thread::sleep(Duration::from_millis(self.rng.below(RESTART_KILL_MS_MAX)));
            self.appliance.kill()?;
            self.report.kills_in_recovery += 1;
            self.appliance.start()?;
        }
        let started = Instant::now();
        let session = self.connect()?;
        let reconnect_ms = started.elapsed().as_secs_f64() * 1000.0;
        let before = (self.report.kills - 1) as f64;
        let report = &mut *self.report;
        report.reconnect_ms_mean = (report.reconnect_ms_mean * before + reconnect_ms) / (before + 1.0);
        report.reconnect_ms_max = report.reconnect_ms_max.max(reconnect_ms);
        Ok(session)
    }

    /// Retries until it connects, as a host does whose controller went away.
    fn connect(&mut self) -> Result<Session, SoakError> {
        let started = Instant::now();
        loop {
            let (address, len_blocks) = (self.appliance.address(), self.model.len_blocks());
            let depth = self.config.queue_depth;
            let session = Session::connect(address, FIRST_VOLUME_NAME, depth, len_blocks, self.soak);
            let error = match session {
                Ok(session) => return Ok(session),
                Err(error @ SoakError::Volume { .. }) => return Err(error),
                Err(error) => error,
            };
            self.appliance.check_running()?;
            if started.elapsed() > RECONNECT_TIMEOUT {
                return Err(SoakError::NoReconnect {
                    waited_ms: RECONNECT_TIMEOUT.as_millis() as u64,
                    last: error.to_string(),
                    said: self.appliance.said(),
                });
            }
            std::thread::sleep(RECONNECT_PAUSE);
        }
    }

    fn verify(&mut self, session: &mut Session, when: &'static str) -> Result<(), SoakError> {
        let found = session.read_all(self.model.len_blocks())?;
        let settled = self.model.settle(&found, when)?;
        self.report.unanswered_applied += settled.applied;
        self.report.verified_blocks += found.len() as u64;
        Ok(())
    }
}
