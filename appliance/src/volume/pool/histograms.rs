//! Enables and disables histograms of latency for the operator.

use super::Pool;
use super::latency::RequestKind;
use crate::histogram::Histogram;
use crate::volume::error::VolumeError;

impl Pool {
    /// Starts to measure how long requests to a volume take: all, or those of one kind. A running
    /// measurement continues; if the kind differs, it starts again. A restart ends it.
    ///
    /// # Errors
    /// No such volume.
    pub fn enable_histogram(&self, name: &str, operation: Option<RequestKind>) -> Result<(), VolumeError> {
        let mut state = self.state.borrow_mut();
        let id =
            state.volumes.find(name).ok_or_else(|| VolumeError::NoSuchVolume { name: name.to_owned() })?;
        state.latencies.enable(id, operation);
        Ok(())
    }

    /// Stops the measurement and discards it, if there is one.
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

    /// How long requests to a volume took since it was enabled, in nanoseconds; `None` if it is not
    /// enabled.
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
