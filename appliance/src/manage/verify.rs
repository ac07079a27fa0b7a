//! Verification: reads the archive back whole, with every check, on its own thread.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use super::anchors::{AnchorOutcome, check_anchor};
use super::check::{Outcome, describe, verify_one};
use super::error::ManageError;
use super::learner::{Learner, tell_useless};
use super::manager::ArchiveManager;
use super::verifications::{VERIFICATIONS_MAX, Verification, VerificationState, lock};
use crate::archive::catalog::ObjectRow;
use crate::archive::object::{Decompressor, ObjectId};
use crate::archive::retention::{ArchivedSegment, KeepRules, SegmentRange, explain};
use crate::archive::service::StopFlag;
use crate::archive::store::Store;
use crate::log::SegmentSeq;
use crate::log::reader::LsnRange;
use crate::text::units::format_time;
use crate::volume::{KnownAnchor, Lineage, VolumeError};

/// How many findings of each kind are described.
const WORDS_MAX: usize = 100;
/// Why a verification ends early.
const STOPS: &str = "the appliance stops";

impl ArchiveManager {
    /// Starts to read back the objects of the segments from `first` to `last`, and the anchors at
    /// positions in them; returns the initial state. The catalog decides which objects should exist,
    /// and the pool which anchors; the store does not. `learner` receives what is missing or
    /// damaged.
    pub(crate) fn verify(
        &self,
        first: u64,
        last: u64,
        lineage: Lineage,
        learner: impl Learner + Send + 'static,
    ) -> Result<Verification, ManageError> {
        // Locked until the thread is started, so that there is only one.
        let mut thread = lock(&self.verifications.thread);
        if thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            let reason =
                "a verification of the archive is under way; archive_verify_check shows it".to_owned();
            return Err(VolumeError::Busy { reason }.into());
        }
        let rows = self.expected(first, last)?;
        let segments = self.segments(lineage.segment_blocks)?;
        let anchors = anchors_between(&learner, first, last, lineage.segment_blocks)?;
        let anchor_bytes: u64 = anchors.iter().map(|anchor| anchor.bytes).sum();
        let object_bytes: u64 = rows.iter().filter(|(_, lost)| !lost).map(|(row, _)| row.len_bytes).sum();
        let mut known = lock(&self.verifications.known);
        let verification = Verification {
            id: known.back().map_or(1, |last| lock(last).id + 1),
            state: VerificationState::Running,
            objects: rows.len() as u64,
            objects_done: 0,
            anchors: anchors.len() as u64,
            anchors_done: 0,
            bytes: object_bytes + anchor_bytes,
            bytes_done: 0,
            gone: 0,
            damaged_objects: 0,
            damaged: Vec::new(),
            missing_objects: 0,
            missing: Vec::new(),
            incomplete_objects: 0,
            incomplete: Vec::new(),
            lost_points: 0,
            points: Vec::new(),
            damaged_anchors: 0,
            slower: Vec::new(),
            problem: None,
        };
        let shared = Arc::new(Mutex::new(verification.clone()));
        let (store, stop) = (self.store(), self.verifications.stop.clone());
        let worker = Arc::clone(&shared);
        let spawned = std::thread::Builder::new().name("archive-verify".to_owned()).spawn(move || {
            let mut found = Found::default();
            let result = verify(&*store, &rows, &worker, &stop, &mut found);
            tell_points(&found, &lineage, segments, &worker, &stop);
            if learner.learn(&found.missing, &found.damaged).is_err() {
                tracing::warn!("the pool could not be told what the verification of its archive found");
            }
            let result = result.and_then(|()| verify_anchors(&*store, &anchors, &learner, &worker, &stop));
            let mut report = lock(&worker);
            report.state = if result.is_ok() { VerificationState::Done } else { VerificationState::Failed };
            report.problem = result.err();
        });
        *thread = Some(spawned.map_err(ManageError::Thread)?);
        while known.len() >= VERIFICATIONS_MAX {
            known.pop_front();
        }
        known.push_back(shared);
        Ok(verification)
    }

    /// The state of a verification.
    pub(crate) fn verification(&self, id: u64) -> Result<Verification, ManageError> {
        let known = lock(&self.verifications.known);
        let found =
            known.iter().map(|shared| lock(shared).clone()).find(|verification| verification.id == id);
        found.ok_or(ManageError::NoSuchVerification { id })
    }
}

/// The pool's anchors at positions in the segments from `first` to `last`.
fn anchors_between(
    learner: &dyn Learner,
    first: u64,
    last: u64,
    segment_blocks: u64,
) -> Result<Vec<KnownAnchor>, ManageError> {
    let mut anchors = learner.anchors()?;
    anchors.retain(|anchor| (first..=last).contains(&(anchor.id.lsn.0 / segment_blocks)));
    Ok(anchors)
}

/// The problems found, by object.
#[derive(Default)]
struct Found {
    missing: Vec<ObjectId>,
    damaged: Vec<ObjectId>,
    /// Ranges whose entries the objects do not contain.
    holes: Vec<LsnRange>,
}

fn verify(
    store: &dyn Store,
    rows: &[(ObjectRow, bool)],
    shared: &Mutex<Verification>,
    stop: &StopFlag,
    found: &mut Found,
) -> Result<(), String> {
    let mut codec = Decompressor::new().map_err(|error| error.to_string())?;
    for (row, lost) in rows {
        if stop.is_set() {
            return Err(STOPS.to_owned());
        }
        // A lost object may be in the store again. If it is not, it is missing, even if it is an
        // part.
        let outcome = match verify_one(store, &row.id, &mut codec) {
            Outcome::Gone if *lost => Outcome::Missing,
            outcome => outcome,
        };
        let mut report = lock(shared);
        match outcome {
            Outcome::Whole => {}
            Outcome::Gone => report.gone += 1,
            Outcome::Missing => {
                found.missing.push(row.id);
                report.missing_objects += 1;
                say(&mut report.missing, || format!("{}: it is not in the store", describe(row)));
            }
            Outcome::Incomplete { holes, damaged_blocks } => {
                report.incomplete_objects += 1;
                say(&mut report.incomplete, || {
                    let stretches = holes.iter().map(|hole| format!("LSN {} to {}", hole.start, hole.end));
                    let stretches: Vec<String> = stretches.collect();
                    format!(
                        "{}: when it was archived, {damaged_blocks} of its blocks and the entries of {} could not be read",
                        describe(row),
                        if stretches.is_empty() { "no stretch".to_owned() } else { stretches.join(", ") }
                    )
                });
                found.holes.extend(holes);
            }
            Outcome::Damaged(words) => {
                found.damaged.push(row.id);
                report.damaged_objects += 1;
                say(&mut report.damaged, || format!("{}: {words}", describe(row)));
            }
            Outcome::Failed(words) => return Err(words),
        }
        report.objects_done += 1;
        if !lost {
            report.bytes_done += row.len_bytes;
        }
    }
    Ok(())
}

/// Reads anchors. The pool deletes those that are of no use.
fn verify_anchors(
    store: &dyn Store,
    anchors: &[KnownAnchor],
    learner: &dyn Learner,
    shared: &Mutex<Verification>,
    stop: &StopFlag,
) -> Result<(), String> {
    for anchor in anchors {
        let useless = match check_anchor(store, anchor, &mut |_| !stop.is_set()) {
            AnchorOutcome::Whole => None,
            AnchorOutcome::Useless(words) => Some(words).filter(|_| tell_useless(learner, &anchor.id)),
            AnchorOutcome::Failed(words) => return Err(words),
            AnchorOutcome::Stopped => return Err(STOPS.to_owned()),
        };
        let mut report = lock(shared);
        if let Some(words) = useless {
            report.damaged_anchors += 1;
            say(&mut report.slower, || words);
        }
        report.anchors_done += 1;
        report.bytes_done += anchor.bytes;
    }
    Ok(())
}

/// Adds a description while there is room.
fn say(words: &mut Vec<String>, text: impl FnOnce() -> String) {
    if words.len() < WORDS_MAX {
        words.push(text());
    }
}

/// Reports which synchs and snapshots cannot be opened without the missing or damaged objects, and
/// which are not certain because of a hole. Data that the primary device still has does not count
/// as missing.
fn tell_points(
    found: &Found,
    lineage: &Lineage,
    mut segments: Vec<ArchivedSegment>,
    shared: &Mutex<Verification>,
    stop: &StopFlag,
) {
    if found.missing.is_empty() && found.damaged.is_empty() && found.holes.is_empty() {
        return;
    }
    let bad: HashSet<SegmentSeq> = found.missing.iter().chain(&found.damaged).map(|id| id.sequence).collect();
    segments.retain(|segment| !bad.contains(&segment.sequence));
    let working_set = |sequence| lineage.working_set(sequence);
    let view = lineage.view(&segments, &working_set);
    let synchs =
        view.named.synchs().map(|synch| (synch.lsn, synch.time_ns, format!("synch '{}'", synch.label)));
    let snapshots =
        view.named.snapshots().map(|snapshot| (snapshot.lsn, 0, format!("snapshot '{}'", snapshot.name)));
    for (lsn, time_ns, name) in synchs.chain(snapshots) {
        if stop.is_set() {
            return;
        }
        let explained = explain(&KeepRules::default(), 0, &view, lsn);
        let needs = |hole: &LsnRange| {
            let sequence = SegmentSeq(hole.start.0 / lineage.segment_blocks);
            hole.start <= lsn
                && explained.needs.iter().any(|range| (range.first..=range.last).contains(&sequence))
        };
        let is_bad =
            |range: &SegmentRange| bad.iter().any(|sequence| (range.first..=range.last).contains(sequence));
        let words = if explained.missing.iter().any(is_bad) {
            "cannot be opened"
        } else if found.holes.iter().any(needs) {
            "is not certain where entries are not known"
        } else {
            continue;
        };
        let time = if time_ns == 0 { String::new() } else { format!(", {}", format_time(time_ns)) };
        let mut report = lock(shared);
        report.lost_points += 1;
        say(&mut report.points, || format!("{name} (LSN {lsn}{time}) {words}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::anchors::tests::{FakePool, change, names, put, store_in};
    use super::*;

    fn verification() -> Mutex<Verification> {
        let verification = serde_json::json!({
            "id": 1, "state": "running", "objects": 0, "objects_done": 0, "bytes": 0, "bytes_done": 0, "gone": 0,
            "damaged_objects": 0, "damaged": [], "problem": null,
        });
        Mutex::new(serde_json::from_value(verification).expect("a verification"))
    }

    #[test]
    fn useless_anchors_are_told_and_deleted_ones_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store_in(folder.path());
        let all: Vec<KnownAnchor> = (1..=5).map(|image| put(&*store, image, 5000)).collect();
        // A byte of a part, a part, a head; and one that the pool has deleted since it was listed.
        change(&*store, &names(&all[0])[2], |bytes| {
            bytes[70] ^= 1;
            true
        });
        change(&*store, &names(&all[1])[1], |_| false);
        change(&*store, &names(&all[2])[0], |_| false);
        change(&*store, &names(&all[3])[0], |_| false);
        let pool = FakePool::of(&[all[0], all[1], all[2], all[4]]);
        let shared = verification();
        verify_anchors(&*store, &all, &pool, &shared, &StopFlag::default()).expect("read to its end");
        let report = lock(&shared).clone();
        assert_eq!((report.anchors_done, report.damaged_anchors), (5, 3));
        assert_eq!(report.bytes_done, all.iter().map(|anchor| anchor.bytes).sum::<u64>());
        assert_eq!((report.damaged_objects, report.missing_objects, report.lost_points), (0, 0, 0));
        for (words, image) in report.slower.iter().zip(1..) {
            assert!(words.starts_with(&format!("anchor of image {image} at LSN 5000: ")), "{words}");
        }
        assert_eq!(pool.anchors().expect("they are known"), [all[4]]);
        // Only the one that the pool still has is looked at next time.
        let again = verification();
        verify_anchors(&*store, &[all[4]], &pool, &again, &StopFlag::default()).expect("read to its end");
        assert_eq!(lock(&again).damaged_anchors, 0);
        let stop = StopFlag::default();
        stop.set();
        assert_eq!(verify_anchors(&*store, &all, &pool, &again, &stop), Err(STOPS.to_owned()));
    }

    #[test]
    fn only_anchors_in_the_segments_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store_in(folder.path());
        let all: Vec<KnownAnchor> = [255, 256, 511, 512].iter().map(|&lsn| put(&*store, 1, lsn)).collect();
        let pool = FakePool::of(&all);
        let between = |first, last| anchors_between(&pool, first, last, 256).expect("they are known");
        assert_eq!(between(0, u64::MAX), all);
        assert_eq!(between(1, 1), all[1..3]);
        assert_eq!(between(3, 9), []);
    }
}
