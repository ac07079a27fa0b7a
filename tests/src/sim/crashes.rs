//! Stops of the pool in a run, clean or by a crash, and the loss of its device. Everything that was
//! guaranteed must exist afterwards.

use std::rc::Rc;

use varve::log::{Recycling, SegmentSeq};
use varve::volume::{Request, Sink, Submitted, VolumeError, VolumeState};

use super::disk::{Crash, SimDisk};
use super::faults::ReadFaults;
use super::model::Change;
use super::shortage;
use super::workload::Run;
use super::world::{TURNS_MAX, forget_background, story, turn_alone, wait};

impl Run {
    /// The caller has damaged the disk itself: the next start reports that, and the run accepts the
    /// reports.
    pub fn note_damage(&mut self) {
        self.trouble.had_lasting = true;
    }

    /// Stops the pool cleanly and opens it again.
    ///
    /// # Panics
    /// When that fails or finds an error.
    pub fn restart(&mut self) {
        self.settle();
        let before = self.pool.info().problems;
        wait(&self.pool, Rc::clone(&self.pool).close())
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        self.mark_flushed(u64::MAX);
        let died = self.reopen(Crash::Process);
        let mut problems = self.pool.info().problems;
        // A superblock or a trailer that is torn while the pool is opened is reported and repaired.
        let may_be_torn =
            |problem: &String| problem.starts_with("superblock") || problem.contains(": its trailer");
        problems.retain(|problem| !(died && may_be_torn(problem)));
        // A gap stays, with another reason.
        let place = |problem: &str| problem.rsplit_once(": ").map(|(place, _)| place.to_owned());
        problems.retain(|problem| {
            !problem.starts_with("history has a gap")
                || !before.iter().any(|known| place(known) == place(problem))
        });
        // A store that fails and a pool that fills are reported too.
        problems.retain(|problem| {
            !problem.starts_with("the archive does not work")
                && !problem.starts_with("the pool is nearly full")
        });
        assert!(
            problems.is_empty() || self.trouble.had_lasting,
            "seed {}: problems that nothing made: {problems:?}",
            self.seed
        );
        self.check_all();
        let all = self.model.steps.iter().map(|step| step.lsn).max().unwrap_or(0);
        self.try_starts_of_copy(all);
    }

    /// Crashes the pool and opens it again; everything that was guaranteed must exist.
    ///
    /// # Panics
    /// When a guarantee is violated.
    pub fn crash(&mut self, crash: Crash) {
        self.reap();
        // Where the past is discarded, synchs are discarded too, and points cannot be opened.
        let keeps_past = self.world.options.recycling != Recycling::Discard;
        if keeps_past && !self.disk.is_dead() {
            if self.is_going_back() && self.rng.one_in(2) {
                self.begin_going_back();
            } else if self.rng.one_in(4) {
                self.begin_operation();
            }
        }
        self.reopen(crash);
        let head = self.recovered_head;
        let mut promised_lsn = 0;
        for step in &self.model.steps {
            let promised = match crash {
                Crash::Process => step.acknowledged,
                Crash::Power => step.flushed || (step.acknowledged && !self.shape.volatile_cache),
            };
            assert!(
                !promised || step.lsn <= head,
                "seed {}: {crash:?} lost an acknowledged operation at LSN {} (the log ends at {head}): {:?}",
                self.seed,
                step.lsn,
                step.change
            );
            if promised {
                promised_lsn = promised_lsn.max(step.lsn);
                assert!(
                    !self.trouble.is_unwritten(step.lsn),
                    "seed {}: lsn:{}: {:?}",
                    self.seed,
                    step.lsn,
                    step.change
                );
            }
        }
        let trouble = &self.trouble;
        self.model.steps.retain(|step| step.lsn <= head && !trouble.is_unwritten(step.lsn));
        self.forget_lost_volumes();
        self.note_cut_restore();
        self.check_all();
        self.mark_flushed(u64::MAX);
        self.try_starts_of_copy(promised_lsn);
    }

    fn try_starts_of_copy(&mut self, promised_lsn: u64) {
        if let Some(copy) = self.start_copy.take() {
            self.try_starts(&copy, promised_lsn);
        }
    }

    /// Loses the primary device and recovers the pool from its archive, on a disk of another size.
    /// With `sealed`, everything is archived first and nothing is lost.
    ///
    /// Returns how many steps were lost. Returns `None` when nothing had been archived yet: then
    /// the recovery must be refused and leave the new disk blank, and the run continues with the
    /// old one.
    ///
    /// # Panics
    /// When a guarantee is violated.
    pub fn lose_primary(&mut self, sealed: bool) -> Option<u64> {
        self.settle();
        let sealed = sealed
            && match wait(&self.pool, Rc::clone(&self.pool).seal_archive()) {
                Ok(_) => true,
                // A store that fails violates no guarantee.
                Err(VolumeError::Busy { .. }) => false,
                Err(error) => panic!("seed {}: {error}", self.seed),
            };
        let archived_to = self.pool.archive_status().expect("an archive").archived_to_lsn;
        self.lost_primary = true;
        let uuid = self.pool.info().uuid;
        let more_slots = 2 + self.rng.below(4);
        let device_blocks = self.shape.device_blocks + more_slots * self.shape.segment_blocks;
        let disk = SimDisk::new(device_blocks, self.shape.volatile_cache, self.rng.next_u64());
        let point = match self.world.recover(uuid, &disk, self.shape.segment_blocks) {
            Ok(point) => point,
            // What was never archived is lost with the primary, even if that is everything: a loss
            // costs "at most the unarchived tail". The archive itself reported that it has nothing.
            Err(VolumeError::Archive { reason }) if archived_to == 0 => {
                assert!(reason.starts_with("nothing of pool"), "seed {}: {reason}", self.seed);
                assert!(!sealed && disk.written_blocks().is_empty(), "seed {}", self.seed);
                return None;
            }
            Err(error) => panic!("seed {}: {error}", self.seed),
        };
        self.in_flight.clear();
        self.early.clear();
        self.sink = Sink::new();
        self.shape.device_blocks = device_blocks;
        let segment_blocks = self.shape.segment_blocks;
        disk.faults(|faults| *faults = ReadFaults::new(segment_blocks));
        let old = std::mem::replace(&mut self.disk, disk);
        self.trouble.counts += old.faults(|faults| std::mem::take(&mut faults.counts));
        let before = self.model.steps.len();
        self.model.steps.retain(|step| step.lsn <= point);
        let lost = before - self.model.steps.len();
        assert!(!sealed || lost == 0, "seed {}: {lost} steps were archived and are lost", self.seed);
        for step in &self.model.steps {
            assert!(step.lsn < archived_to.max(point + 1), "seed {}", self.seed);
        }
        self.forget_lost_volumes();
        self.mark_flushed(u64::MAX);
        self.reopen(Crash::Process);
        self.start_copy = None;
        // The recovery point may be between the creation of a probe and its deletion, which are no
        // steps of the model.
        for volume in self.pool.volumes().iter().filter(|volume| volume.name.starts_with("probe")) {
            if !(0..self.model.volumes.len()).any(|place| self.model.name(place) == volume.name) {
                wait(&self.pool, Rc::clone(&self.pool).delete_volume(volume.name.clone()))
                    .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
            }
        }
        self.check_all();
        Some(lost as u64)
    }

    /// Volumes whose creation was lost keep their place in the model, under a name that no volume
    /// has.
    pub(super) fn forget_lost_volumes(&mut self) {
        for place in 0..self.model.volumes.len() {
            let created = self
                .model
                .steps
                .iter()
                .any(|step| matches!(step.change, Change::Create { volume } if volume == place));
            if !created {
                self.model.volumes[place].name = format!("lost-{place}");
            }
        }
    }

    /// Opens the pool again. Returns whether the device died in the meantime, so that it had to be
    /// tried again.
    pub(super) fn reopen(&mut self, crash: Crash) -> bool {
        self.in_flight.clear();
        self.early.clear();
        self.sink = Sink::new();
        shortage::end();
        // The old pool is dropped first, with its device handle: this settles what is in flight.
        forget_background();
        let uuid = self.pool.info().uuid;
        drop(self.world.take(&mut self.pool));
        self.disk.crash(crash);
        self.disk.die_after_writes(None);
        self.note_sealed(uuid);
        self.start_copy = self.copy_for_starts();
        self.make_trouble_at_start();
        // With probability 1/2 the device dies again while the pool is opened; this can repeat.
        let mut died = false;
        while self.rng.one_in(2) {
            died = true;
            let writes = self.disk.writes() + self.rng.below(2);
            self.disk.die_after_writes(Some(writes));
            let opened = self.world.open_until_dead(&self.disk);
            assert!(!opened || writes < self.disk.writes() || !self.disk.is_dead(), "seed {}", self.seed);
            self.disk.crash(if self.rng.one_in(2) { Crash::Power } else { crash });
        }
        self.disk.die_after_writes(None);
        self.pool = self
            .world
            .open_loading(self.disk.open())
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        // Only with memory available can the check tell that a volume is busy because it loads.
        shortage::end();
        self.excuse_unwritten();
        self.adopt_opened();
        died
    }

    /// Records what the start found, attaches the pool's archive, and waits until the pool serves
    /// everything.
    pub(super) fn adopt_opened(&mut self) {
        self.recovered_head = self.pool.stats().head_lsn - 1;
        let newest = self.recovered_head / self.shape.segment_blocks;
        self.lengths.retain(|&sequence, _| sequence <= newest);
        let length = self.pool.info().working_set_segments;
        // Segments that were opened since the last check, possibly under a change that is in force
        // now.
        let opened = self.lengths.last_key_value().map_or(0, |(&known, _)| known + 1)..=newest;
        self.lengths.extend(opened.map(|sequence| (sequence, length.max(self.last_length))));
        self.last_length = length;
        self.world.attach(&self.pool, &self.disk);
        self.check_loading();
        wait(&self.pool, Rc::clone(&self.pool).load_archived_synchs(SegmentSeq(0)))
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        wait(&self.pool, Rc::clone(&self.pool).load_inherited());
        self.resume_hydrations();
    }

    /// Checks that clones wait for what they inherit, and that everything else is served at once.
    pub(super) fn check_loading(&self) {
        for volume in self.pool.volumes() {
            let sink = Sink::new();
            let taken = self.pool.submit(volume.id, &Request::Read { block: 0, len_blocks: 1 }, 1, &sink);
            // Without an archive, the pool finds what a clone inherits before it is open.
            let inherits = volume.parent.is_some() && self.world.options.recycling != Recycling::Discard;
            // What a volume that was taken back has in the working set is served at once.
            let was_set = (0..self.model.volumes.len())
                .any(|place| self.model.name(place) == volume.name && self.model.was_set(place));
            let is_busy = taken == Submitted::Busy;
            assert!(
                is_busy == inherits || (was_set && inherits),
                "seed {}: volume {}",
                self.seed,
                volume.name
            );
            assert_eq!(volume.state == VolumeState::Loading, inherits, "seed {}", self.seed);
            for _ in 0..TURNS_MAX {
                if sink.outstanding() == 0 {
                    break;
                }
                turn_alone(&self.pool);
            }
            assert_eq!(
                sink.outstanding(),
                0,
                "seed {}: a read does not end: {}",
                self.seed,
                story(&self.pool)
            );
        }
    }
}
