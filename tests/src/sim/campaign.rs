//! One seed's campaign: a pool of random shape, then rounds of operations, crashes of both kinds,
//! clean restarts, a full log, and checks of random points and times.

use super::disk::Crash;
use super::faults::{FaultCounts, Faults};
use super::going_back::VerbCounts;
use super::rng::Rng;
use super::workload::{Run, Shape};

/// What a campaign did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Seeds.
    pub seeds: u64,
    /// Crashes survived.
    pub crashes: u64,
    /// Clean restarts.
    pub restarts: u64,
    /// Lost primary devices whose pools were recovered from the archive.
    pub recoveries: u64,
    /// Points of the past that were compared in full.
    pub points: u64,
    /// Times resolved.
    pub times: u64,
    /// Changes of the pool's shape.
    pub reshaped: u64,
    /// Segments of the archive that expired.
    pub expired: u64,
    /// Logs that were filled.
    pub full_logs: u64,
    /// Device writes.
    pub device_writes: u64,
    /// Faults.
    pub faults: FaultCounts,
    /// What the verbs of going back did.
    pub verbs: VerbCounts,
    /// A digest of what the disks hold at the end: two runs of a seed have the same.
    pub digest: u64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} seeds, {} crashes, {} restarts, {} recoveries, {} points, {} times, {} reshaped, {} expired, {} full logs, {} device writes, digest {:016x}\n{}\n{}",
            self.seeds,
            self.crashes,
            self.restarts,
            self.recoveries,
            self.points,
            self.times,
            self.reshaped,
            self.expired,
            self.full_logs,
            self.device_writes,
            self.digest,
            self.faults,
            self.verbs
        )
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.seeds += other.seeds;
        self.crashes += other.crashes;
        self.restarts += other.restarts;
        self.recoveries += other.recoveries;
        self.points += other.points;
        self.times += other.times;
        self.reshaped += other.reshaped;
        self.expired += other.expired;
        self.full_logs += other.full_logs;
        self.device_writes += other.device_writes;
        self.faults += other.faults;
        self.verbs += &other.verbs;
        self.digest = self.digest.rotate_left(1) ^ other.digest;
    }
}

/// The shape of a seed's pool: small or large segments, few or many of them, with or without a
/// volatile cache.
fn shape(rng: &mut Rng) -> Shape {
    let segment_blocks = [256, 256, 256, 512, 1024][rng.below(5) as usize];
    let segments = [8, 11, 20, 60][rng.below(4) as usize];
    Shape {
        device_blocks: 257 + segments * segment_blocks,
        segment_blocks,
        volatile_cache: !rng.one_in(3),
        volume_blocks: 100 + rng.below(600),
    }
}

/// Runs the campaign of a seed.
///
/// # Panics
/// When a guarantee is violated; the message names the seed, which fails again in the same way.
pub fn campaign(seed: u64) -> Counts {
    campaign_with(seed, Faults::NONE)
}

/// The same, with the given faults of the device and of memory.
///
/// # Panics
/// As [`campaign`].
pub fn campaign_with(seed: u64, faults: Faults) -> Counts {
    campaign_of(seed, faults, false)
}

/// The same, with or without the verbs of going back.
///
/// # Panics
/// As [`campaign`].
pub fn campaign_of(seed: u64, faults: Faults, verbs: bool) -> Counts {
    let mut rng = Rng::new(seed ^ 0x00ca_3001);
    let mut run = Run::new(seed, shape(&mut rng));
    let mut counts = Counts { seeds: 1, ..Counts::default() };
    run.begin_trouble(faults);
    if verbs {
        run.begin_verbs();
    }
    let rounds = 2 + rng.below(8);
    for _ in 0..rounds {
        let mut full = false;
        // In one round of six nothing happens between two crashes.
        let steps = if rng.one_in(6) { 0 } else { rng.below(120) };
        for _ in 0..steps {
            if !run.step() {
                full = true;
                break;
            }
        }
        if full {
            counts.full_logs += 1;
            run.settle();
            run.check_all();
        }
        run.pause_trouble();
        match rng.below(8) {
            0 => {
                run.restart();
                counts.restarts += 1;
            }
            kind => {
                run.crash(if kind % 2 == 0 { Crash::Process } else { Crash::Power });
                counts.crashes += 1;
            }
        }
        if rng.one_in(3) {
            counts.points += run.check_points(6);
        }
    }
    run.end_trouble();
    run.settle();
    counts.points += run.check_points(10);
    counts.times += run.check_times(20);
    run.restart();
    counts.restarts += 1;
    counts.points += run.check_points(5);
    counts.device_writes = run.disk.writes();
    counts.digest = run.disk.digest();
    counts.faults = run.take_fault_counts();
    counts.verbs = run.take_verb_counts();
    counts
}
