//! Clones in a pool without an archive: what they inherit stays on the primary device. The past is given away there, so a point may be gone, and a clone may be refused.

use std::rc::Rc;

use varve::volume::{Point, VolumeError};

use super::workload::Run;
use super::world::wait;

/// Volumes that there are at most.
const VOLUMES_MAX: usize = 3;

impl Run {
    /// Clones the first volume at a random point of the newest ones, and deletes a clone when there are several. Whether it was made or refused; `None`: the point is gone.
    ///
    /// # Panics
    /// When it fails otherwise.
    pub fn clone_kept(&mut self) -> Option<bool> {
        let live = self.live();
        if live.len() >= VOLUMES_MAX {
            self.delete(live[1].0);
        }
        let steps = self.model.steps.len() as u64;
        let step = steps - 1 - self.rng.below(steps.min(400));
        let lsn = self.model.steps[step as usize].lsn;
        let source = live[0].0;
        let name = format!("k{}", self.model.volumes.len());
        let (pool, volume) = (Rc::clone(&self.pool), self.model.volumes[source].name.clone());
        match wait(&self.pool, pool.clone_volume(volume, Point::Lsn(lsn), name.clone(), false)) {
            Ok(_) => {
                self.note_clone(&name, source, lsn);
                Some(true)
            }
            Err(VolumeError::NoSpace { .. }) => Some(false),
            Err(VolumeError::NoSuchPoint { .. }) => None,
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }
}
