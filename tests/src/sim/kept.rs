//! Clones in a pool without an archive: the data that they inherit stays on the primary device.
//! Such a pool discards the past, so a point may be gone, and a clone may be refused.

use std::rc::Rc;

use varve::volume::{Point, VolumeError};

use super::workload::Run;
use super::world::wait;

/// The maximum number of volumes.
const VOLUMES_MAX: usize = 3;

impl Run {
    /// Clones the first volume at a random point among the 400 newest steps, and deletes a clone
    /// when there are already 3 volumes. Returns whether the clone was made or refused; `None`: the
    /// point is gone.
    ///
    /// # Panics
    /// When it fails in another way.
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
        let (pool, volume) = (Rc::clone(&self.pool), self.model.name(source).to_owned());
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
