//! The verifications since the appliance started, by their numbers.
//!
//! The verifying thread updates its verification; a caller reads it by its number.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::archive::service::StopFlag;

/// How many verifications are remembered.
pub const VERIFICATIONS_MAX: usize = 16;
/// The state of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerificationState {
    /// It is reading.
    Running,
    /// Everything was read; the problems are in `damaged`, `missing` and `incomplete`.
    Done,
    /// It could not continue; `problem` says why.
    Failed,
}

/// A verification as `archive_verify_check` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Its number.
    pub id: u64,
    /// Its state.
    pub state: VerificationState,
    /// Objects to read.
    pub objects: u64,
    /// Objects read.
    pub objects_done: u64,
    /// Anchors to read, after the objects.
    #[serde(default)]
    pub anchors: u64,
    /// Anchors read.
    #[serde(default)]
    pub anchors_done: u64,
    /// Bytes to read, as the store keeps them.
    pub bytes: u64,
    /// Bytes read.
    pub bytes_done: u64,
    /// Objects that were removed during the verification: parts of a segment that has since
    /// been archived as a whole.
    pub gone: u64,
    /// How many objects are damaged.
    pub damaged_objects: u64,
    /// The first 100 of them, described.
    pub damaged: Vec<String>,
    /// How many objects should be in the store but are not.
    #[serde(default)]
    pub missing_objects: u64,
    /// The first 100 of them, described: segment, positions, times.
    #[serde(default)]
    pub missing: Vec<String>,
    /// How many objects lack entries or blocks that could not be read when they were archived.
    #[serde(default)]
    pub incomplete_objects: u64,
    /// The first 100 of them, described.
    #[serde(default)]
    pub incomplete: Vec<String>,
    /// How many synchs and snapshots cannot be opened, or are not certain, because of these
    /// problems.
    #[serde(default)]
    pub lost_points: u64,
    /// The first 100 of them, described.
    #[serde(default)]
    pub points: Vec<String>,
    /// How many anchors are damaged, or lack a part. No point is lost with them: those that they
    /// would help to open are opened more slowly.
    #[serde(default)]
    pub damaged_anchors: u64,
    /// The first 100 of them, described: image, position, name of the object.
    #[serde(default)]
    pub slower: Vec<String>,
    /// Why it could not continue.
    pub problem: Option<String>,
}

type Shared = Arc<Mutex<Verification>>;

/// The verifications since the appliance started.
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
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain data, consistent after each statement, so a poisoned lock is usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
