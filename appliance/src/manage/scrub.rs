//! The scrub of the archive: reads every object back whole once in each pass, with every check that
//! a verification has.
//!
//! **Findings** go to the pool, as those of a verification do: an object that is damaged or missing
//! is uploaded again if the primary device still has its segment; otherwise the problem remains and
//! is reported.
//!
//! **Pace:** the objects of a pass are spread evenly over its time, one after the other, and never
//! read faster than [`RATE_BYTES_PER_S`]. A file beside that of the retention rules stores the
//! progress of a pass, so that it continues after a restart. If that file is lost or damaged, the
//! pass starts again.
//!
//! **Bounds:** one thread, one object at a time; one listing of the store at the start of a pass
//! and once an hour; the names of the objects are in memory. Tapes are not scrubbed, because that
//! would take the drive away from the archivist.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::check::{Outcome, describe, verify_one};
use super::error::ManageError;
use super::manager::ArchiveManager;
use super::scrub_progress::ScrubStatus;
use crate::archive::catalog::ObjectRow;
use crate::archive::object::{Decompressor, ObjectId, Place};
use crate::log::system_now_ns;

/// The maximum rate of a scrub in bytes a second, whatever the length of a pass; for the archive
/// and for the primary device.
pub(crate) const RATE_BYTES_PER_S: u64 = 64 << 20;
/// How long a listing of the store is used.
const LISTED: Duration = Duration::from_hours(1);
/// The longest wait before a store that does not answer, or an archive that is not attached, is
/// tried again.
const AWAY_WAIT: Duration = Duration::from_mins(1);
/// How long a stop waits for the object that is being read.
const END_WAIT: Duration = Duration::from_secs(2);
/// How often the stop checks whether the thread has ended.
const END_LOOK: Duration = Duration::from_millis(5);
/// How many times an object is read again if the store answers but does not return it.
const TRIES_MAX: u32 = 5;
/// The minimum time between two writes of the progress file.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// How many findings are described in the status: the newest.
const FOUND_MAX: usize = 20;
/// The status of an archive on tape.
const ON_TAPE: &str = "what is on tape is not read back by itself, to leave the drive to the archivist; `varve archive verify` does it";

/// Receives the findings for the pool, on whatever thread it runs.
pub trait Learner {
    /// Reports objects that are missing, and objects that are damaged.
    ///
    /// # Errors
    /// The pool does not answer.
    fn learn(&self, missing: &[ObjectId], damaged: &[ObjectId]) -> Result<(), ManageError>;
}

/// Scrubs the archive while it lives.
pub struct Scrubber {
    /// Dropped to wake the thread.
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Scrubber {
    /// Starts or continues a pass; each takes `pass`.
    ///
    /// # Errors
    /// The operating system cannot start a thread.
    pub fn start(
        manager: Arc<ArchiveManager>,
        learner: impl Learner + Send + 'static,
        pass: Duration,
    ) -> std::io::Result<Self> {
        let (wake, woken) = channel();
        let sleep = move |time: Duration| woken.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
        let thread = std::thread::Builder::new().name("archive-scrub".to_owned()).spawn(move || {
            Work { manager, learner: Box::new(learner), pass, saved: Instant::now() }.run(&sleep);
        })?;
        Ok(Scrubber { wake: Some(wake), thread: Some(thread) })
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        self.wake = None;
        let Some(thread) = self.thread.take() else { return };
        // A store that is slow with an object must not delay a stop. Leaving the thread loses
        // nothing.
        let began = Instant::now();
        while !thread.is_finished() && began.elapsed() < END_WAIT {
            std::thread::sleep(END_LOOK);
        }
        if thread.is_finished() {
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
    }
}

struct Work {
    manager: Arc<ArchiveManager>,
    learner: Box<dyn Learner + Send>,
    pass: Duration,
    saved: Instant,
}

impl Work {
    /// Runs until `sleep` returns `false`, which means stop.
    fn run(mut self, sleep: &dyn Fn(Duration) -> bool) {
        loop {
            if self.manager.store().capabilities().sequential_only {
                self.manager.scrub.change(|status| status.problem = Some(ON_TAPE.to_owned()));
                return;
            }
            let rows = self.list().unwrap_or_default();
            // The archive is empty or unreachable; other parts of the status say which.
            let goes_on =
                if rows.is_empty() { sleep(AWAY_WAIT.min(self.pass)) } else { self.read(&rows, sleep) };
            if !goes_on {
                return;
            }
        }
    }

    /// The objects that this pass has not read yet. After the last one the next pass begins.
    fn list(&self) -> Option<Vec<ObjectRow>> {
        let mut rows = self.manager.expected(0, u64::MAX).ok()?;
        rows.retain(|(_, lost)| !lost);
        let all = rows.len() as u64;
        let scrub = &self.manager.scrub;
        let is_left = |row: &ObjectRow, behind: Option<Place>| behind.is_none_or(|at| row.id.place() > at);
        let mut status = scrub.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.pass_began_ns.is_some() && !rows.iter().any(|(row, _)| is_left(row, status.next_behind)) {
            let bad = status.damaged_objects + status.missing_objects;
            tracing::info!(objects = status.objects_done, bad, "the archive was read back whole");
            *status = ScrubStatus {
                last_pass_ns: Some(system_now_ns()),
                last_pass_bad_objects: bad,
                found: std::mem::take(&mut status.found),
                ..ScrubStatus::default()
            };
        }
        if status.pass_began_ns.is_none() && all > 0 {
            status.pass_began_ns = Some(system_now_ns());
            if status.last_pass_bad_objects == 0 {
                status.found.clear();
            }
        }
        let behind = status.next_behind;
        let left: Vec<ObjectRow> =
            rows.into_iter().map(|(row, _)| row).filter(|row| is_left(row, behind)).collect();
        status.objects = status.objects_done + left.len() as u64;
        drop(status);
        scrub.save();
        Some(left)
    }

    /// Reads objects until the listing is too old; `false` means stop.
    fn read(&mut self, rows: &[ObjectRow], sleep: &dyn Fn(Duration) -> bool) -> bool {
        let listed = Instant::now();
        let each = self.pass / u32::try_from(self.manager.scrub.get().objects.max(1)).unwrap_or(u32::MAX);
        let Ok(mut codec) = Decompressor::new() else { return sleep(AWAY_WAIT) };
        for row in rows {
            let at_rate =
                Duration::from_nanos(row.len_bytes.saturating_mul(1_000_000_000) / RATE_BYTES_PER_S);
            if !sleep(each.max(at_rate)) {
                self.manager.scrub.save();
                return false;
            }
            // An object that cannot be read is not damaged. It is tried again, without a limit
            // while the store does not answer at all.
            let mut tries = 0;
            while let Outcome::Failed(words) = self.look_at(row, &mut codec) {
                tries += 1;
                if tries >= TRIES_MAX && self.manager.expected(0, 0).is_ok() {
                    let text = format!("{}: {words}", describe(row));
                    tracing::error!(object = text, "an object of the archive cannot be read");
                    self.note(text, |status| status.damaged_objects += 1);
                    break;
                }
                self.manager.scrub.change(|status| status.problem = Some(words));
                if !sleep(AWAY_WAIT.min(self.pass)) {
                    return false;
                }
            }
            self.manager.scrub.change(|status| {
                status.problem = None;
                status.objects_done += 1;
                status.next_behind = Some(row.id.place());
            });
            if self.saved.elapsed() >= SAVE_INTERVAL {
                self.saved = Instant::now();
                self.manager.scrub.save();
            }
            if listed.elapsed() >= LISTED {
                return true;
            }
        }
        true
    }

    /// Reads one object, and reports to the pool what is wrong with it.
    fn look_at(&self, row: &ObjectRow, codec: &mut Decompressor) -> Outcome {
        let outcome = verify_one(&*self.manager.store(), &row.id, codec);
        match &outcome {
            Outcome::Damaged(words) => {
                let text = format!("{}: {words}", describe(row));
                tracing::error!(object = text, "a damaged object was found in the archive");
                self.note(text, |status| status.damaged_objects += 1);
                self.learn(row.id, false);
            }
            // It may have expired since the listing.
            Outcome::Missing if self.is_missed(row) => {
                let text = format!("{}: it is not in the store", describe(row));
                tracing::error!(object = text, "an object is missing in the archive");
                self.note(text, |status| status.missing_objects += 1);
                self.learn(row.id, true);
            }
            _ => {}
        }
        outcome
    }

    fn is_missed(&self, row: &ObjectRow) -> bool {
        let sequence = row.id.sequence.0;
        let expected = self.manager.expected(sequence, sequence).unwrap_or_default();
        expected.iter().any(|(known, lost)| known.id == row.id && *lost)
    }

    fn note(&self, text: String, count: impl FnOnce(&mut ScrubStatus)) {
        self.manager.scrub.change(|status| {
            count(status);
            status.found.push_back(text);
            while status.found.len() > FOUND_MAX {
                status.found.pop_front();
            }
        });
    }

    fn learn(&self, id: ObjectId, missing: bool) {
        let (missing, damaged): (&[ObjectId], &[ObjectId]) =
            if missing { (&[id], &[]) } else { (&[], &[id]) };
        if self.learner.learn(missing, damaged).is_err() {
            tracing::warn!(
                "the pool could not be told what reading its archive back has found; the next pass finds it again"
            );
        }
    }
}
