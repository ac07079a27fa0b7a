//! The scrub of the archive: reads every object and every anchor back whole once in each pass, with
//! every check that a verification has.
//!
//! **Findings** go to the pool, as those of a verification do: an object that is damaged or missing
//! is uploaded again if the primary device still has its segment; otherwise the problem remains and
//! is reported. An anchor that is damaged or lacks a part is deleted.
//!
//! **Pace:** the objects of a pass, and after them the anchors, are spread evenly over its time, one
//! after the other, and never read faster than [`RATE_BYTES_PER_S`]. A file beside that of the
//! retention rules stores the progress of a pass, so that it continues after a restart; the anchors
//! begin again. If that file is lost or damaged, the pass starts again.
//!
//! **Bounds:** one thread, one object at a time; one listing of the store at the start of a pass
//! and once an hour; the names of the objects and of the anchors are in memory. Tapes are not
//! scrubbed, because that would take the drive away from the archivist.

use std::collections::VecDeque;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::anchors::{self, AnchorOutcome, check_anchor};
use super::check::{Outcome, describe, verify_one};
use super::learner::{Learner, tell_useless};
use super::manager::ArchiveManager;
use super::scrub_progress::ScrubStatus;
use crate::archive::catalog::ObjectRow;
use crate::archive::object::{Decompressor, ObjectId, Place};
use crate::log::system_now_ns;
use crate::volume::KnownAnchor;

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

/// What a pass reads next.
enum Next {
    Objects(Vec<ObjectRow>),
    Anchors,
    /// The archive is empty or unreachable; other parts of the status say which.
    Nothing,
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
            let goes_on = match self.list().unwrap_or(Next::Nothing) {
                Next::Objects(rows) => self.read(&rows, sleep),
                Next::Anchors => self.read_anchors(sleep),
                Next::Nothing => sleep(AWAY_WAIT.min(self.pass)),
            };
            if !goes_on {
                return;
            }
        }
    }

    /// The objects that this pass has not read yet. After the last one come the anchors, and then
    /// the next pass begins.
    fn list(&self) -> Option<Next> {
        let mut rows = self.manager.expected(0, u64::MAX).ok()?;
        rows.retain(|(_, lost)| !lost);
        let anchors = self.learner.anchors().ok()?.len() as u64;
        let all = rows.len() as u64;
        let scrub = &self.manager.scrub;
        let is_left = |row: &ObjectRow, behind: Option<Place>| behind.is_none_or(|at| row.id.place() > at);
        let mut status = scrub.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.pass_began_ns.is_some() && !rows.iter().any(|(row, _)| is_left(row, status.next_behind)) {
            if !status.anchors_read {
                return Some(Next::Anchors);
            }
            end_pass(&mut status);
        }
        if status.pass_began_ns.is_none() && all > 0 {
            status.pass_began_ns = Some(system_now_ns());
            if status.last_pass_bad_objects == 0 {
                status.found.clear();
            }
            if status.last_pass_damaged_anchors == 0 {
                status.slower.clear();
            }
        }
        let behind = status.next_behind;
        let left: Vec<ObjectRow> =
            rows.into_iter().map(|(row, _)| row).filter(|row| is_left(row, behind)).collect();
        status.objects = status.objects_done + left.len() as u64;
        status.anchors = anchors;
        drop(status);
        scrub.save();
        Some(if left.is_empty() { Next::Nothing } else { Next::Objects(left) })
    }

    /// The time for each object and each anchor.
    fn each(&self) -> Duration {
        let status = self.manager.scrub.get();
        let count = status.objects.saturating_add(status.anchors).max(1);
        self.pass / u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Reads objects until the listing is too old; `false` means stop.
    fn read(&mut self, rows: &[ObjectRow], sleep: &dyn Fn(Duration) -> bool) -> bool {
        let listed = Instant::now();
        let each = self.each();
        let Ok(mut codec) = Decompressor::new() else { return sleep(AWAY_WAIT) };
        for row in rows {
            if !sleep(each.max(at_rate(row.len_bytes))) {
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
            self.save_at_times();
            if listed.elapsed() >= LISTED {
                return true;
            }
        }
        true
    }

    /// Reads the anchors, the last of a pass; `false` means stop.
    fn read_anchors(&mut self, sleep: &dyn Fn(Duration) -> bool) -> bool {
        let Ok(anchors) = self.learner.anchors() else { return sleep(AWAY_WAIT.min(self.pass)) };
        self.manager.scrub.change(|status| {
            status.anchors = anchors.len() as u64;
            status.anchors_done = 0;
        });
        let each = self.each();
        for anchor in &anchors {
            if !sleep(each) || !self.look_at_anchor(anchor, sleep) {
                self.manager.scrub.save();
                return false;
            }
            self.manager.scrub.change(|status| {
                status.problem = None;
                status.anchors_done += 1;
            });
            self.save_at_times();
        }
        self.manager.scrub.change(|status| status.anchors_read = true);
        true
    }

    /// Reads one anchor, and reports to the pool if it is of no use; `false` means stop.
    fn look_at_anchor(&self, anchor: &KnownAnchor, sleep: &dyn Fn(Duration) -> bool) -> bool {
        let mut tries = 0;
        loop {
            let mut goes_on = |bytes| sleep(at_rate(bytes));
            let words = match check_anchor(&*self.manager.store(), anchor, &mut goes_on) {
                AnchorOutcome::Whole => return true,
                AnchorOutcome::Stopped => return false,
                AnchorOutcome::Useless(words) => {
                    // It may have been deleted since it was listed.
                    if tell_useless(&*self.learner, &anchor.id) {
                        self.note_anchor(words);
                    }
                    return true;
                }
                AnchorOutcome::Failed(words) => words,
            };
            // As with an object that cannot be read.
            tries += 1;
            if tries >= TRIES_MAX && self.manager.expected(0, 0).is_ok() {
                self.note_anchor(anchors::describe(anchor, &words));
                return true;
            }
            self.manager.scrub.change(|status| status.problem = Some(words));
            if !sleep(AWAY_WAIT.min(self.pass)) {
                return false;
            }
        }
    }

    fn note_anchor(&self, text: String) {
        tracing::warn!(anchor = text, "a damaged anchor was found in the archive");
        self.manager.scrub.change(|status| {
            status.damaged_anchors += 1;
            push_newest(&mut status.slower, text);
        });
    }

    fn save_at_times(&mut self) {
        if self.saved.elapsed() >= SAVE_INTERVAL {
            self.saved = Instant::now();
            self.manager.scrub.save();
        }
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
            push_newest(&mut status.found, text);
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

/// Ends a pass.
fn end_pass(status: &mut ScrubStatus) {
    let bad = status.damaged_objects + status.missing_objects;
    let (objects, anchors, damaged_anchors) =
        (status.objects_done, status.anchors_done, status.damaged_anchors);
    tracing::info!(objects, bad, anchors, damaged_anchors, "the archive was read back whole");
    *status = ScrubStatus {
        last_pass_ns: Some(system_now_ns()),
        last_pass_bad_objects: bad,
        last_pass_damaged_anchors: damaged_anchors,
        found: std::mem::take(&mut status.found),
        slower: std::mem::take(&mut status.slower),
        ..ScrubStatus::default()
    };
}

/// Adds a finding; the newest are kept.
fn push_newest(found: &mut VecDeque<String>, text: String) {
    found.push_back(text);
    while found.len() > FOUND_MAX {
        found.pop_front();
    }
}

/// How long so many bytes take at the maximum rate.
fn at_rate(bytes: u64) -> Duration {
    Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / RATE_BYTES_PER_S)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use super::super::anchors::tests::{FakePool, POOL, change, names, put, store_in};
    use super::*;
    use crate::archive::catalog::ArchiveCatalog;
    use crate::archive::object::ClaimId;
    use crate::archive::store::Store;
    use crate::log::{Lsn, SegmentSeq};

    /// Puts something under the name of an object of the pool.
    fn put_object(store: &dyn Store, sequence: u64) {
        let id = ObjectId {
            pool: POOL,
            epoch: 2,
            sequence: SegmentSeq(sequence),
            from_lsn: Lsn(sequence * 256),
            to_lsn: Lsn(sequence * 256 + 256),
            whole: true,
            claim: ClaimId(3),
        };
        let bytes = b"this is no object";
        store.put(&id.name().expect("a name"), bytes.len() as u64, &mut &bytes[..]).expect("stored");
    }

    fn manager(folder: &Path, store: &Arc<dyn Store>) -> Arc<ArchiveManager> {
        let manager = ArchiveManager::new(Arc::clone(store), &folder.join("archive-keep")).expect("rules");
        let (catalog, _) =
            ArchiveCatalog::open(&folder.join("catalog"), POOL, store.label()).expect("a catalog");
        manager.set_catalog(catalog);
        Arc::new(manager)
    }

    /// Runs until so many sleeps; returns the status, and how long it slept.
    fn run(manager: &Arc<ArchiveManager>, pool: &FakePool, sleeps: u32) -> (ScrubStatus, Duration) {
        let (left, slept) = (Cell::new(sleeps), Cell::new(Duration::ZERO));
        let sleep = |time| {
            slept.set(slept.get() + time);
            left.set(left.get().saturating_sub(1));
            left.get() > 0
        };
        let pass = Duration::from_secs(100);
        let learner = Box::new(pool.clone());
        Work { manager: Arc::clone(manager), learner, pass, saved: Instant::now() }.run(&sleep);
        (manager.scrub.get(), slept.get())
    }

    #[test]
    fn anchors_are_read_after_the_objects_and_counted_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store_in(&folder.path().join("store"));
        for sequence in 0..2 {
            put_object(&*store, sequence);
        }
        let all: Vec<KnownAnchor> = (1..=4).map(|image| put(&*store, image, 300)).collect();
        change(&*store, &names(&all[1])[2], |bytes| {
            bytes[70] ^= 1;
            true
        });
        change(&*store, &names(&all[2])[1], |_| false);
        let pool = FakePool::of(&all);
        let manager = manager(folder.path(), &store);
        // The objects, and of the first anchor the head.
        let (status, _) = run(&manager, &pool, 5);
        assert_eq!((status.objects_done, status.damaged_objects), (2, 2));
        assert_eq!((status.anchors, status.anchors_done, status.damaged_anchors), (4, 0, 0));
        // A start goes on behind the objects.
        drop(manager);
        let manager = self::manager(folder.path(), &store);
        let (status, _) = run(&manager, &pool, 10);
        assert_eq!((status.objects_done, status.anchors_done, status.damaged_anchors), (2, 2, 1));
        assert!(status.slower[0].starts_with("anchor of image 2 at LSN 300: "), "{:?}", status.slower);
        // A restart begins the anchors again, without the one that the pool has deleted.
        drop(manager);
        let manager = self::manager(folder.path(), &store);
        let (status, slept) = run(&manager, &pool, 13);
        assert_eq!(pool.told(), [all[1].id, all[2].id]);
        assert_eq!((status.last_pass_bad_objects, status.last_pass_damaged_anchors), (2, 2));
        assert!(status.last_pass_ns.is_some() && status.slower.len() == 2, "{status:?}");
        // The next pass has begun.
        assert_eq!((status.objects, status.anchors, status.anchors_done), (2, 2, 0));
        assert!(slept > Duration::from_secs(50), "{slept:?}: they are spread over the pass");
        assert!(status.found.iter().all(|text| !text.contains("anchor")), "{:?}", status.found);
    }

    #[test]
    fn an_anchor_that_the_pool_deleted_is_no_finding() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store_in(&folder.path().join("store"));
        put_object(&*store, 0);
        let anchor = put(&*store, 1, 300);
        for name in names(&anchor) {
            store.delete(&name).expect("deleted");
        }
        let manager = manager(folder.path(), &store);
        let pool = FakePool::default();
        let work = Work {
            manager: Arc::clone(&manager),
            learner: Box::new(pool.clone()),
            pass: Duration::from_secs(1),
            saved: Instant::now(),
        };
        assert!(work.look_at_anchor(&anchor, &|_| true));
        assert_eq!((pool.told(), manager.scrub.get().damaged_anchors), (vec![anchor.id], 0));
    }
}
