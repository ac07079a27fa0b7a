//! Reading the archive back, whole, with every check: on a thread of its own, watched by its number.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use super::ArchivePlane;
use crate::archive::object::{Decompressor, ObjectError, ObjectId, ObjectReader};
use crate::archive::service::StopFlag;
use crate::archive::store::{Store, StoreErrorKind, StoredObject};
use crate::rpc::error::RpcError;
use crate::volume::VolumeError;

/// Verifications that are remembered.
pub const VERIFICATIONS_MAX: usize = 16;
/// Damaged objects that are told in words.
const DAMAGED_MAX: usize = 100;

/// How far a verification has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerificationState {
    /// It reads.
    Running,
    /// Everything was read; what was wrong stands in `damaged`.
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
    /// Why it could not go on.
    pub problem: Option<String>,
}

type Shared = Arc<Mutex<Verification>>;

/// The verifications of this run of the appliance.
#[derive(Default)]
pub(super) struct Verifications {
    known: Mutex<VecDeque<Shared>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stop: StopFlag,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain data, whole after each statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ArchivePlane {
    /// Begins to read back the objects of the segments from `first` to `last`; returns how it stands.
    pub(crate) fn verify(&self, first: u64, last: u64) -> Result<Verification, RpcError> {
        // Held while the thread is started, so that there is one.
        let mut thread = lock(&self.verifications.thread);
        if thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            let reason =
                "a verification of the archive is under way; archive_verify_check shows it".to_owned();
            return Err(VolumeError::Busy { reason }.into());
        }
        let ids = self.ids(first, last)?;
        let mut known = lock(&self.verifications.known);
        let verification = Verification {
            id: known.back().map_or(1, |last| lock(last).id + 1),
            state: VerificationState::Running,
            objects: ids.len() as u64,
            objects_done: 0,
            bytes: ids.iter().map(|(_, len_bytes)| len_bytes).sum(),
            bytes_done: 0,
            gone: 0,
            damaged_objects: 0,
            damaged: Vec::new(),
            problem: None,
        };
        let shared = Arc::new(Mutex::new(verification.clone()));
        let (store, stop) = (Arc::clone(self.store()), self.verifications.stop.clone());
        let worker = Arc::clone(&shared);
        let spawned = std::thread::Builder::new().name("archive-verify".to_owned()).spawn(move || {
            let result = verify(&*store, &ids, &worker, &stop);
            let mut report = lock(&worker);
            report.state = if result.is_ok() { VerificationState::Done } else { VerificationState::Failed };
            report.problem = result.err();
        });
        *thread =
            Some(spawned.map_err(|error| RpcError::Internal { reason: format!("no thread: {error}") })?);
        while known.len() >= VERIFICATIONS_MAX {
            known.pop_front();
        }
        known.push_back(shared);
        Ok(verification)
    }

    /// How a verification stands.
    pub(crate) fn verification(&self, id: u64) -> Result<Verification, RpcError> {
        let known = lock(&self.verifications.known);
        let found =
            known.iter().map(|shared| lock(shared).clone()).find(|verification| verification.id == id);
        found.ok_or_else(|| RpcError::NoSuchObject {
            kind: "verification",
            name: id.to_string(),
            advice: "archive_verify begins one and gives its id; the last 16 are remembered",
        })
    }
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

fn verify(
    store: &dyn Store,
    ids: &[(ObjectId, u64)],
    shared: &Mutex<Verification>,
    stop: &StopFlag,
) -> Result<(), String> {
    let mut codec = Decompressor::new().map_err(|error| error.to_string())?;
    for (id, len_bytes) in ids {
        if stop.is_set() {
            return Err("the appliance stops".to_owned());
        }
        let outcome = verify_one(store, id, &mut codec);
        let mut report = lock(shared);
        match outcome {
            Outcome::Whole => {}
            Outcome::Gone => report.gone += 1,
            Outcome::Damaged(words) => {
                report.damaged_objects += 1;
                if report.damaged.len() < DAMAGED_MAX {
                    report.damaged.push(words);
                }
            }
            Outcome::Failed(words) => return Err(words),
        }
        report.objects_done += 1;
        report.bytes_done += len_bytes;
    }
    Ok(())
}

enum Outcome {
    Whole,
    Gone,
    Damaged(String),
    Failed(String),
}

fn verify_one(store: &dyn Store, id: &ObjectId, codec: &mut Decompressor) -> Outcome {
    let name = match id.name() {
        Ok(name) => name,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let mut read = || {
        let object = StoredObject::open(store, &name)?;
        let reader = ObjectReader::open(&object)?;
        let (header, _) = reader.verify(codec, |_| ())?;
        Ok::<_, ObjectError>(header.id == *id)
    };
    match read() {
        Ok(true) => Outcome::Whole,
        Ok(false) => Outcome::Damaged(format!("{name}: it holds another stretch than its name says")),
        Err(ObjectError::Store(error)) => match error.kind {
            StoreErrorKind::NotFound if !id.whole => Outcome::Gone,
            StoreErrorKind::NotFound | StoreErrorKind::Corrupt(_) | StoreErrorKind::OutOfRange => {
                Outcome::Damaged(error.to_string())
            }
            _ => Outcome::Failed(error.to_string()),
        },
        Err(error @ ObjectError::OutOfMemory) => Outcome::Failed(error.to_string()),
        Err(error) => Outcome::Damaged(format!("{name}: {error}")),
    }
}
