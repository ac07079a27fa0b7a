//! The verifications of this run of the appliance, by their numbers.
//!
//! The thread that verifies changes its verification; whoever has the number reads it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::archive::service::StopFlag;

/// Verifications that are remembered.
pub const VERIFICATIONS_MAX: usize = 16;
/// How far a verification has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerificationState {
    /// It reads.
    Running,
    /// Everything was read; what was wrong stands in `damaged`, `missing` and `incomplete`.
    Done,
    /// It could not go on; `problem` says why.
    Failed,
}

/// A verification as `archive_verify_check` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Its number.
    pub id: u64,
    /// How far it has come.
    pub state: VerificationState,
    /// Objects to read.
    pub objects: u64,
    /// Objects read.
    pub objects_done: u64,
    /// Bytes to read, as the store keeps them.
    pub bytes: u64,
    /// Bytes read.
    pub bytes_done: u64,
    /// Objects that were removed meanwhile: increments of a segment that has become whole.
    pub gone: u64,
    /// How many objects are damaged.
    pub damaged_objects: u64,
    /// The first 100 of them, in words.
    pub damaged: Vec<String>,
    /// How many objects should be there and are not.
    #[serde(default)]
    pub missing_objects: u64,
    /// The first 100 of them, in words: segment, positions, times.
    #[serde(default)]
    pub missing: Vec<String>,
    /// How many objects lack entries or blocks that could not be read when they were archived.
    #[serde(default)]
    pub incomplete_objects: u64,
    /// The first 100 of them, in words.
    #[serde(default)]
    pub incomplete: Vec<String>,
    /// How many synchs and snapshots cannot be opened, or are not certain, because of all this.
    #[serde(default)]
    pub lost_points: u64,
    /// The first 100 of them, in words.
    #[serde(default)]
    pub points: Vec<String>,
    /// Why it could not go on.
    pub problem: Option<String>,
}

type Shared = Arc<Mutex<Verification>>;

/// The verifications of this run of the appliance.
#[derive(Default)]
pub(super) struct Verifications {
    pub(super) known: Mutex<VecDeque<Shared>>,
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
    pub(super) stop: StopFlag,
}

impl Drop for Verifications {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = lock(&self.thread).take() {
            // One that panicked is gone too.
            let _ = thread.join();
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain data, whole after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
