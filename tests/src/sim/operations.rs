//! Management operations in a run: volumes, synchs, snapshots, clones, the pool's shape.

use std::rc::Rc;

use varve::dma::BLOCK_BYTES;
use varve::volume::{CreateVolume, Point, VolumeError};

use super::model::{Change, ModelVolume};
use super::workload::{Opened, Run};
use super::world::{begin, wait};

impl Run {
    /// Creates a volume and waits for it.
    ///
    /// # Panics
    /// When that fails.
    pub fn create_volume(&mut self, name: &str) {
        assert!(self.try_create_volume(name), "seed {}: there is room for a volume", self.seed);
    }

    /// Creates a volume and waits for it. `false`: the log is full.
    pub(super) fn try_create_volume(&mut self, name: &str) -> bool {
        let size_bytes = self.shape.volume_blocks * BLOCK_BYTES as u64;
        let request = CreateVolume { name: name.to_owned(), size_bytes, uuid: None, thin: false };
        match wait(&self.pool, Rc::clone(&self.pool).create_volume(request)) {
            Ok(_) => {}
            Err(VolumeError::NoSpace { .. }) => return false,
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
        self.note_created(name);
        self.mark_flushed(u64::MAX);
        true
    }

    pub(super) fn note_created(&mut self, name: &str) {
        self.model.volumes.push(ModelVolume {
            name: name.to_owned(),
            read_only: false,
            first_size_blocks: self.shape.volume_blocks,
            parent: None,
        });
        let volume = self.model.volumes.len() - 1;
        self.push_managed(Change::Create { volume });
    }

    pub(super) fn synch(&mut self) {
        let label = format!("s{}", self.model.steps.len());
        match wait(
            &self.pool,
            Rc::clone(&self.pool).create_synch(label.clone(), serde_json::json!({"step": 1})),
        ) {
            Ok(synch) => {
                // A segment may have been opened since, with a catalog at its start.
                assert!(synch.lsn <= self.head(), "seed {}", self.seed);
                self.push_at(synch.lsn, Change::Synch { label });
                self.mark_flushed(u64::MAX);
            }
            Err(VolumeError::NoSpace { .. }) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    /// Takes a snapshot, or deletes one.
    pub(super) fn snapshot(&mut self) {
        let known = self.model.snapshots();
        let forget = !known.is_empty() && self.rng.one_in(3);
        let at = self.head();
        let (result, change) = if forget {
            let name = known[self.rng.below(known.len() as u64) as usize].1.clone();
            let result = wait(&self.pool, Rc::clone(&self.pool).delete_snapshot(name.clone()));
            (result, Change::DeleteSnapshot { name })
        } else {
            let name = format!("n{}", self.model.steps.len());
            let result = wait(&self.pool, Rc::clone(&self.pool).create_snapshot(name.clone()));
            (result.map(|_| ()), Change::Snapshot { name, at })
        };
        match result {
            Ok(()) => {
                self.push_managed(change);
                self.mark_flushed(u64::MAX);
            }
            Err(VolumeError::NoSpace { .. }) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    /// Starts a management operation and does not wait for its end; a crash follows. Afterwards it
    /// must exist completely or not at all.
    pub fn begin_operation(&mut self) {
        let (pool, turns) = (Rc::clone(&self.pool), self.rng.below(4));
        let number = self.model.steps.len();
        match self.rng.below(3) {
            0 => {
                let label = format!("begun{number}");
                let future = Rc::clone(&pool).create_synch(label.clone(), serde_json::Value::Null);
                begin(&pool, future, turns, || {
                    if self.pool.synchs().iter().any(|synch| synch.label == label) {
                        self.push(Change::Synch { label });
                    }
                });
            }
            1 => {
                let name = format!("begun{number}");
                let size_bytes = self.shape.volume_blocks * BLOCK_BYTES as u64;
                let request = CreateVolume { name: name.clone(), size_bytes, uuid: None, thin: false };
                begin(&pool, Rc::clone(&pool).create_volume(request), turns, || {
                    if self.pool.find_volume(&name).is_some() {
                        self.note_created(&name);
                    }
                });
            }
            _ => {
                let (name, at) = (format!("begun{number}"), self.head());
                begin(&pool, Rc::clone(&pool).create_snapshot(name.clone()), turns, || {
                    if self.pool.snapshots().iter().any(|snapshot| snapshot.name == name) {
                        self.push_managed(Change::Snapshot { name, at });
                    }
                });
            }
        }
    }

    pub(super) fn delete(&mut self, place: usize) {
        let name = self.model.name(place).to_owned();
        match wait(&self.pool, Rc::clone(&self.pool).delete_volume(name)) {
            Ok(()) => {
                self.push_managed(Change::Delete { volume: place });
                self.mark_flushed(u64::MAX);
            }
            Err(VolumeError::NoSpace { .. }) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    pub(super) fn resize(&mut self, place: usize, size_blocks: u64) {
        let size_blocks = size_blocks + 1 + self.rng.below(300);
        self.resize_to(place, size_blocks);
    }

    /// Gives a volume another size.
    pub(super) fn resize_to(&mut self, place: usize, size_blocks: u64) {
        let name = self.model.name(place).to_owned();
        let size_bytes = size_blocks * BLOCK_BYTES as u64;
        match wait(&self.pool, Rc::clone(&self.pool).resize_volume(name, size_bytes)) {
            Ok(_) => {
                self.push_managed(Change::Resize { volume: place, size_blocks });
                self.mark_flushed(u64::MAX);
            }
            Err(VolumeError::NoSpace { .. }) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    /// Clones a random volume at a random point and keeps the clone.
    pub(super) fn clone_at_random(&mut self) {
        let step = self.rng.below(self.model.steps.len() as u64) as usize;
        let lsn = self.model.steps[step].lsn;
        let candidates: Vec<usize> = (0..self.model.volumes.len())
            .filter(|&place| self.model.state_at(place, lsn).is_some())
            .collect();
        if candidates.is_empty() {
            return;
        }
        let source = candidates[self.rng.below(candidates.len() as u64) as usize];
        let name = format!("c{}", self.model.volumes.len());
        if self.open_point(source, lsn, &name, false) != Opened::Yes {
            return;
        }
        self.note_clone(&name, source, lsn);
    }

    /// Records in the model that a volume with a state of the past exists from the newest change
    /// on. Returns its place.
    pub(super) fn note_begun_clone(&mut self, name: &str, read_only: bool, source: usize, lsn: u64) -> usize {
        let size = self.model.state_at(source, lsn).expect("it existed").size_blocks;
        self.model.volumes.push(ModelVolume {
            name: name.to_owned(),
            read_only,
            first_size_blocks: size,
            parent: Some((source, lsn)),
        });
        let volume = self.model.volumes.len() - 1;
        self.push_managed(Change::Create { volume });
        volume
    }

    /// Records a clone whose creation is the newest change in the log.
    pub(super) fn note_clone(&mut self, name: &str, source: usize, lsn: u64) {
        self.note_begun_clone(name, false, source, lsn);
        self.mark_flushed(u64::MAX);
    }

    /// Opens a point as a clone and checks the answer. With `between`, the point may be between two
    /// commands.
    pub(super) fn open_point(&mut self, source: usize, lsn: u64, name: &str, between: bool) -> Opened {
        let source_name = self.model.name_at(source, lsn).to_owned();
        let result = wait(
            &self.pool,
            Rc::clone(&self.pool).clone_volume(source_name, Point::Lsn(lsn), name.to_owned(), false),
        );
        match result {
            Ok(clone) => {
                assert!(
                    clone.point.lsn == lsn || (between && clone.point.lsn < lsn),
                    "seed {}: a step's position is the end of a command",
                    self.seed
                );
                self.check_bound(source, &clone);
                self.segments_touched_max = self.segments_touched_max.max(clone.scan.segments_touched);
                Opened::Yes
            }
            Err(VolumeError::NoSpace { .. }) => Opened::NoRoom,
            Err(VolumeError::NoSuchPoint { .. }) if self.may_be_gone(source, lsn) => Opened::Expired,
            Err(_) if self.trouble.lost_from.is_some_and(|lost_from| lsn >= lost_from) => Opened::Expired,
            Err(error) => panic!(
                "seed {}: clone at {lsn}: {error}; {:?} {:?}",
                self.seed,
                self.pool.stats(),
                self.pool.segments()
            ),
        }
    }

    /// Makes the disk larger; the pool can use that after it is opened again.
    pub fn grow_disk(&mut self, slots: u64) {
        let more_blocks = slots * self.shape.segment_blocks;
        self.shape.device_blocks += more_blocks;
        self.disk.grow(more_blocks);
    }

    /// Whether a store that keeps failing holds up the log, and every change with it: the change
    /// then comes later.
    pub(super) fn is_held_up(&self) -> bool {
        self.pool.archive_status().is_some_and(|status| status.problem.is_some())
    }

    /// Requests another length of the working set. `false`: it would be too short for what the
    /// volumes need, or the change comes later.
    ///
    /// # Panics
    /// When that fails in another way.
    pub fn set_working_set(&mut self, segments: u64) -> bool {
        match wait(&self.pool, Rc::clone(&self.pool).set_working_set(segments)) {
            Ok(info) => {
                let told = info.working_set_target_segments.unwrap_or(info.working_set_segments);
                assert_eq!(told, segments, "seed {}", self.seed);
                true
            }
            Err(VolumeError::NoSpace { .. }) => false,
            Err(VolumeError::Busy { .. }) if self.is_held_up() => false,
            Err(error) => panic!("seed {}: {segments} segments: {error}", self.seed),
        }
    }
}
