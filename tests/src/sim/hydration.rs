//! Hydration in a run: clones and recovered volumes copy their inherited data while everything else
//! goes on, and a crash may come at any moment. The model does not know about it: nothing that a
//! host sees or that is in the history may change.

use std::rc::Rc;

use varve::volume::VolumeError;

use super::workload::Run;
use super::world::{in_background, is_background_idle, turn, wait};

impl Run {
    /// Starts to hydrate a clone, if there is one that inherits.
    ///
    /// # Panics
    /// When it is refused for any reason except lack of space.
    pub fn begin_hydration(&mut self) {
        let volumes = self.pool.volumes();
        let clones: Vec<_> =
            volumes.iter().filter(|volume| volume.parent.is_some() && !volume.hydrating).collect();
        if clones.is_empty() {
            return;
        }
        let clone = clones[self.rng.below(clones.len() as u64) as usize];
        match wait(&self.pool, Rc::clone(&self.pool).begin_hydration(clone.name.clone())) {
            Ok(volume) => in_background(Rc::clone(&self.pool).hydrate(volume.id)),
            Err(VolumeError::NoSpace { .. }) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    /// Turns the pool until all background work has ended.
    ///
    /// # Panics
    /// When it does not end.
    pub fn finish_hydrations(&mut self) {
        for _ in 0..1_000_000 {
            if is_background_idle() {
                return;
            }
            self.world.clock.advance(1_000_000);
            turn(&self.pool);
        }
        panic!("seed {}: hydration does not end", self.seed);
    }

    /// Continues the hydrations that ran before the pool was opened, as an appliance does after its
    /// start.
    pub fn resume_hydrations(&mut self) {
        in_background(Rc::clone(&self.pool).hydrate_all());
    }
}
