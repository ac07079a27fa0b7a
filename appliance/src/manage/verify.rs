//! Verification: reads the archive back whole, with every check, on its own thread.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use super::check::{Outcome, describe, verify_one};
use super::error::ManageError;
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
use crate::volume::{Lineage, VolumeError};

/// How many findings of each kind are described.
const WORDS_MAX: usize = 100;

impl ArchiveManager {
    /// Starts to read back the objects of the segments from `first` to `last`; returns the initial
    /// state. The catalog, not the store, decides which objects should exist. At the end, `learn`
    /// receives the missing and the damaged objects.
    pub(crate) fn verify(
        &self,
        first: u64,
        last: u64,
        lineage: Lineage,
        learn: Learn,
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
        let mut known = lock(&self.verifications.known);
        let verification = Verification {
            id: known.back().map_or(1, |last| lock(last).id + 1),
            state: VerificationState::Running,
            objects: rows.len() as u64,
            objects_done: 0,
            bytes: rows.iter().filter(|(_, lost)| !lost).map(|(row, _)| row.len_bytes).sum(),
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
            problem: None,
        };
        let shared = Arc::new(Mutex::new(verification.clone()));
        let (store, stop) = (self.store(), self.verifications.stop.clone());
        let worker = Arc::clone(&shared);
        let spawned = std::thread::Builder::new().name("archive-verify".to_owned()).spawn(move || {
            let mut found = Found::default();
            let result = verify(&*store, &rows, &worker, &stop, &mut found);
            tell_points(&found, &lineage, segments, &worker, &stop);
            learn(&found.missing, &found.damaged);
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

/// Receives the findings: objects that are missing, and objects that are damaged.
pub(crate) type Learn = Box<dyn FnOnce(&[ObjectId], &[ObjectId]) + Send>;

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
            return Err("the appliance stops".to_owned());
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
