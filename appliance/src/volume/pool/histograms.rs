//! Histograms of latency, as the operator switches them on and off.

use super::Pool;
use super::latency::Operation;
use crate::histogram::Histogram;
use crate::volume::error::VolumeError;

impl Pool {
    /// Begins to measure how long requests of a volume take: all, or those of a kind. What is
    /// measured already goes on; of another kind it begins anew. Not kept across a restart.
    ///
    /// # Errors
    /// No such volume.
    pub fn enable_histogram(&self, name: &str, operation: Option<Operation>) -> Result<(), VolumeError> {
        let mut state = self.state.borrow_mut();
        let id =
            state.volumes.find(name).ok_or_else(|| VolumeError::NoSuchVolume { name: name.to_owned() })?;
        state.latencies.enable(id, operation);
        Ok(())
    }

    /// Ends the measurement and forgets it, if there is one.
    ///
    /// # Errors
    /// No such volume.
    pub fn disable_histogram(&self, name: &str) -> Result<(), VolumeError> {
        let mut state = self.state.borrow_mut();
        let id =
            state.volumes.find(name).ok_or_else(|| VolumeError::NoSuchVolume { name: name.to_owned() })?;
        state.latencies.disable(id);
        Ok(())
    }

    /// How long requests of a volume took since it was enabled, in nanoseconds; `None` when it is
    /// not.
    ///
    /// # Errors
    /// No such volume.
    pub fn histogram(&self, name: &str) -> Result<Option<Histogram>, VolumeError> {
        let state = self.state.borrow();
        let id =
            state.volumes.find(name).ok_or_else(|| VolumeError::NoSuchVolume { name: name.to_owned() })?;
        Ok(state.latencies.histogram(id).cloned())
    }
}
