//! Renders the archive for people.

use serde::Deserialize;
use serde_json::Value;

use super::cells::{blocks, size};
use crate::archive::retention::{SegmentRange, Until};
use crate::archive::service::VerifyPolicy;
use crate::log::reader::LsnRange;
use crate::manage::{ArchiveReport, ArchivedObject, ExpiryReport, Explained, ScrubStatus, Verification};
use crate::text::table::{Table, pairs};
use crate::text::units::format_time;
use crate::volume::{BackPressure, PrimaryScrub};

/// Seconds in a unit that suits their size.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 120.0 {
        format!("{seconds:.1} s")
    } else if seconds < 7200.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{:.1} h", seconds / 3600.0)
    }
}

fn gap(range: &LsnRange) -> String {
    format!(
        "lsn:{} to lsn:{} ({})",
        range.start,
        range.end,
        blocks(range.end.0.saturating_sub(range.start.0))
    )
}

pub(super) fn status(report: &ArchiveReport) -> String {
    let status = &report.status;
    let backlog = format!(
        "{} segments, {}, {} since the recovery point",
        status.backlog_segments,
        size(status.backlog_bytes),
        seconds(status.recovery_point_age_s)
    );
    let sealing = if status.seal_interval_s == 0.0 {
        "whole segments".to_owned()
    } else {
        format!("whole segments, and what is new every {}", seconds(status.seal_interval_s))
    };
    let back_pressure = match status.back_pressure {
        BackPressure::Throttle => "throttle: writes slow down, and wait at last",
        BackPressure::Degrade => "degrade: history gets a gap",
    };
    let room = match (report.store_used_bytes, report.store_total_bytes) {
        (None, _) => "not known".to_owned(),
        (Some(used), None) => size(used),
        (Some(used), Some(total)) => format!("{} of {}", size(used), size(total)),
    };
    let oldest = status.oldest_segment.map_or_else(String::new, |oldest| format!(", from {oldest} on"));
    let dash_or = |value: f64, text: String| if value == 0.0 { "-".to_owned() } else { text };
    let mut text = pairs([
        ("Store", status.store.clone()),
        ("State", status.state.clone()),
        ("Backlog", backlog),
        ("Archived to LSN", format!("{} of {}", status.archived_to_lsn, status.head_lsn)),
        ("Segments", format!("{}{oldest}", status.segments)),
        ("Anchors", format!("{}, {}", status.anchors, size(status.anchor_bytes))),
        ("Store used", room),
        ("Sealing", sealing),
        ("Verified by", verified_by(status.verify).to_owned()),
        ("Back-pressure", back_pressure.to_owned()),
        ("Writes held back", format!("{:.0} ms of each second", status.throttled_ms_per_s)),
        ("Objects written", status.objects_written.to_string()),
        ("Archived", format!("{} in {}", size(status.content_bytes), size(status.object_bytes))),
        ("Compression", dash_or(status.compression_ratio, format!("{:.2} to 1", status.compression_ratio))),
        (
            "Throughput",
            dash_or(
                status.throughput_bytes_per_s,
                format!("{}/s of the archivist's time", size(status.throughput_bytes_per_s as u64)),
            ),
        ),
        ("Failures", status.failures.to_string()),
        ("Alarm", alarm(status.rpo_alarm, status.rpo_alarm_s)),
        ("Read back", scrub(&report.scrub)),
        ("Primary read back", primary_scrub(&status.primary_scrub)),
    ]);
    text.push_str(&pairs(status.problem.iter().map(|problem| ("Problem", problem.clone()))));
    text.push_str(&pairs(report.scrub.problem.iter().map(|problem| ("Not read back", problem.clone()))));
    text.push_str(&pairs(report.scrub.found.iter().map(|found| ("Found", found.clone()))));
    text.push_str(&pairs(report.scrub.slower.iter().map(|slower| ("Slower", slower.clone()))));
    text.push_str(&pairs(report.expiry_held.iter().map(|held| ("Expiry held", held.clone()))));
    text.push_str(&pairs(status.gaps.iter().map(|range| ("Gap", gap(range)))));
    text.push_str(&pairs(report.lost.iter().map(|range| ("Lost", gap(range)))));
    text.push_str(&pairs(report.holes.iter().map(|range| ("Entries unknown", gap(range)))));
    text
}

/// The alarm on the age of the recovery point.
fn alarm(is_on: bool, from_s: f64) -> String {
    match (is_on, from_s > 0.0) {
        (_, false) => "none".to_owned(),
        (false, true) => format!("when the recovery point is {} old", seconds(from_s)),
        (true, true) => format!("the recovery point is older than {}", seconds(from_s)),
    }
}

/// When the last whole pass ended.
fn last_pass(ended_ns: Option<u64>) -> String {
    ended_ns
        .map_or_else(|| "no whole pass yet".to_owned(), |ns| format!("last whole pass {}", format_time(ns)))
}

fn scrub(scrub: &ScrubStatus) -> String {
    let anchors = if scrub.anchors > 0 || scrub.damaged_anchors > 0 {
        format!("; {} of {} anchors, {} damaged", scrub.anchors_done, scrub.anchors, scrub.damaged_anchors)
    } else {
        String::new()
    };
    let mut bad = Vec::new();
    if scrub.last_pass_bad_objects > 0 {
        bad.push(format!(", which found {} bad", scrub.last_pass_bad_objects));
    }
    if scrub.last_pass_damaged_anchors > 0 {
        bad.push(format!(", and deleted {} damaged anchors", scrub.last_pass_damaged_anchors));
    }
    format!(
        "{} of {} objects, {} damaged, {} missing{anchors}; {}{}",
        scrub.objects_done,
        scrub.objects,
        scrub.damaged_objects,
        scrub.missing_objects,
        last_pass(scrub.last_pass_ns),
        bad.concat()
    )
}

fn primary_scrub(scrub: &PrimaryScrub) -> String {
    format!(
        "{} segments, {} bad blocks, {} repaired, {} nowhere else; {}",
        scrub.segments,
        scrub.bad_blocks,
        scrub.repaired_blocks,
        scrub.lost_blocks,
        last_pass(scrub.last_pass_ns)
    )
}

fn verified_by(policy: VerifyPolicy) -> &'static str {
    match policy {
        VerifyPolicy::Stat => "stat: its length",
        VerifyPolicy::Tail => "tail: its end is read back",
        VerifyPolicy::Digest => "digest: it is read back whole",
    }
}

pub(super) fn verify_policy(result: &Value) -> Option<String> {
    let policy = VerifyPolicy::deserialize(result.get("policy")?).ok()?;
    Some(format!("{}\n", verified_by(policy)))
}

/// What an object is, and what is wrong with it.
fn kind(object: &ArchivedObject) -> String {
    let kind = if object.whole { "segment" } else { "part" };
    match (object.lost, object.holes.is_empty()) {
        (true, _) => format!("{kind}, lost"),
        (false, false) => format!("{kind}, with holes"),
        (false, true) => kind.to_owned(),
    }
}

pub(super) fn objects(objects: &[ArchivedObject]) -> String {
    let mut table =
        Table::new([">SEQUENCE", "KIND", ">FROM LSN", ">TO LSN", ">CONTENT", ">STORED", "FIRST", "LAST"]);
    let time = |time_ns: Option<u64>| time_ns.map_or_else(|| "-".to_owned(), format_time);
    for object in objects {
        table.row([
            object.sequence.to_string(),
            kind(object),
            object.from_lsn.to_string(),
            object.to_lsn.to_string(),
            blocks(object.to_lsn.saturating_sub(object.from_lsn)),
            size(object.len_bytes),
            time(object.first_ns),
            time(object.last_ns),
        ]);
    }
    table.render("nothing is archived yet; varve archive seal archives what there is")
}

fn ranges(ranges: &[SegmentRange]) -> String {
    let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

fn until(until: Until) -> String {
    until.to_string()
}

pub(super) fn explanation(Explained { point, explanation }: &Explained) -> String {
    let restorable = match (explanation.restorable, explanation.missing.is_empty()) {
        (true, _) => "yes".to_owned(),
        (false, false) => format!("no: segments {} are not there", ranges(&explanation.missing)),
        (false, true) => "no: what it needs has a gap".to_owned(),
    };
    let kept = explanation.until.map_or_else(|| "no longer than now".to_owned(), until);
    let mut text = pairs([
        ("Point", point.point.clone()),
        ("LSN", point.lsn.to_string()),
        ("Time", format_time(point.time_ns)),
        ("Segment", explanation.sequence.to_string()),
        ("Restorable", restorable),
        ("Needs segments", ranges(&explanation.needs)),
        ("Kept", kept),
    ]);
    let retained = explanation.retained_by.iter();
    text.push_str(&pairs(retained.map(|by| ("Because", format!("{}, {}", by.by, until(by.until))))));
    text.push_str(&pairs(explanation.gaps.iter().map(|range| ("Gap", gap(range)))));
    text
}

pub(super) fn keep(result: &Value) -> Option<String> {
    let rules = result.get("rules")?.as_str()?;
    Some(if rules.is_empty() { "everything is kept\n".to_owned() } else { format!("{rules}\n") })
}

pub(super) fn expiry(report: &ExpiryReport) -> String {
    let objects = |count: u64, bytes: u64| format!("{count} objects, {}", size(bytes));
    let mut text = pairs([
        ("Expired", objects(report.expirable_objects, report.expirable_bytes)),
        ("Segments expired", report.expirable_segments.to_string()),
        ("Segments kept", report.kept_segments.to_string()),
        ("Deleted", objects(report.deleted_objects, report.deleted_bytes)),
        ("Synchs expired", report.expired_synchs.to_string()),
    ]);
    if report.failed_objects > 0 {
        let why = report.failure.as_deref().unwrap_or("the store gives no reason");
        let failed = format!("{} objects; the next start tries again: {why}", report.failed_objects);
        text.push_str(&pairs([("Not deleted", failed)]));
    }
    text.push_str(&pairs(report.held.iter().map(|held| ("Held", held.clone()))));
    if report.room_is_kept {
        text.push_str(&pairs([("Note", "this kind of store does not give the room back".to_owned())]));
    }
    text
}

pub(super) fn verification(verification: &Verification) -> String {
    // Objects that were not read are not counted as undamaged.
    let is_whole = verification.problem.is_none();
    let counts = [
        ("Damaged", verification.damaged_objects, is_whole),
        ("Missing", verification.missing_objects, false),
        ("Incomplete", verification.incomplete_objects, false),
        ("Points lost", verification.lost_points, false),
    ];
    let counts = counts.into_iter().filter(|(_, count, also_zero)| *count > 0 || *also_zero);
    let read = [
        ("Objects read", format!("{} of {}", verification.objects_done, verification.objects)),
        ("Bytes read", size(verification.bytes_done)),
    ];
    let mut anchors = Vec::new();
    if verification.anchors > 0 {
        anchors.push(("Anchors read", format!("{} of {}", verification.anchors_done, verification.anchors)));
    }
    if verification.damaged_anchors > 0 {
        anchors.push(("Anchors damaged", verification.damaged_anchors.to_string()));
    }
    let counts = counts.map(|(what, count, _)| (what, count.to_string()));
    let mut text = pairs(read.into_iter().chain(counts).chain(anchors));
    for (what, words) in [
        ("Damage", &verification.damaged),
        ("Lost", &verification.missing),
        ("Hole", &verification.incomplete),
        ("Point", &verification.points),
        ("Slower", &verification.slower),
    ] {
        text.push_str(&pairs(words.iter().map(|words| (what, words.clone()))));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::render::{View, render};
    use super::{Verification, verification as verification_text};

    fn report() -> serde_json::Value {
        json!({
            "store": "directory a", "state": "waiting", "problem": "it is full", "back_pressure": "throttle", "verify": "tail", "throttled_ms_per_s": 120.0,
            "seal_interval_s": 20.0, "archived_to_lsn": 100, "head_lsn": 356, "backlog_segments": 1,
            "backlog_bytes": 1 << 20, "recovery_point_age_s": 300.0, "segments": 7, "oldest_segment": 2,
            "objects_written": 9, "content_bytes": 4 << 20, "object_bytes": 2 << 20, "compression_ratio": 2.0,
            "throughput_bytes_per_s": 1_048_576.0, "failures": 3,
            "gaps": [{"start": 256, "end": 512}], "store_used_bytes": 1 << 30, "store_total_bytes": null,
        })
    }

    #[test]
    fn a_status_says_what_is_behind_and_why() {
        let text = render(View::Archive, &report());
        for part in [
            "1 segments, 1 MiB, 5 min",
            "2.00 to 1",
            "it is full",
            "lsn:256 to lsn:512 (1 MiB)",
            "7, from 2 on",
            "100 of 356",
            "1 GiB",
            "slow down, and wait at last",
            "120 ms of each second",
            "tail: its end is read back",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn objects_are_a_table() {
        let object = json!({"sequence": 3, "from_lsn": 768, "to_lsn": 1024, "whole": false, "len_bytes": 4096,
                            "sealed_ns": null, "first_ns": 1_000_000_000, "last_ns": null});
        let text = render(View::ArchivedObjects, &json!([object]));
        assert!(text.contains("part") && text.contains("1 MiB") && text.contains("1970-01-01"), "{text}");
        assert!(render(View::ArchivedObjects, &json!([])).contains("archive seal"));
    }

    #[test]
    fn an_explanation_says_what_keeps_a_point_and_what_lacks() {
        let point = json!({"point": "lsn:7", "lsn": 7, "time_ns": 1, "kind": "write", "volumes": []});
        let mut explanation = json!({
            "lsn": 7, "sequence": 3, "times": null, "restorable": true, "needs": [{"first": 1, "last": 3}],
            "missing": [], "gaps": [], "retained_by": [{"by": "synch 30d", "until": "forever"}], "until": "held",
        });
        let text = render(View::Explanation, &json!({"point": point, "explanation": explanation}));
        assert!(
            text.contains("1 to 3") && text.contains("synch 30d, for ever") && text.contains("yes"),
            "{text}"
        );
        explanation["restorable"] = json!(false);
        explanation["missing"] = json!([{"first": 2, "last": 2}]);
        explanation["until"] = json!(null);
        let text = render(View::Explanation, &json!({"point": point, "explanation": explanation}));
        assert!(text.contains("segments 2 are not there") && text.contains("no longer than now"), "{text}");
    }

    #[test]
    fn an_expiry_says_what_was_not_deleted() {
        let mut report = json!({
            "expirable_segments": 1, "expirable_objects": 2, "expirable_bytes": 10, "kept_segments": 1,
            "deleted_objects": 1, "deleted_bytes": 5, "expired_synchs": 0, "room_is_kept": false,
            "failed_objects": 1, "failure": "delete of x in bucket b: refused",
        });
        let text = render(View::Expiry, &report);
        let line = text.lines().find(|line| line.starts_with("Not deleted")).expect("it is said");
        assert!(line.contains("1 objects") && line.contains("delete of x in bucket b: refused"), "{text}");
        report["failed_objects"] = json!(0);
        assert!(!render(View::Expiry, &report).contains("Not deleted"));
    }

    #[test]
    fn a_verification_that_was_cut_short_claims_nothing_of_what_it_did_not_read() {
        let mut verification: Verification = serde_json::from_value(json!({
            "id": 7, "state": "failed", "objects": 2, "objects_done": 0, "bytes": 10, "bytes_done": 0, "gone": 0,
            "damaged_objects": 0, "damaged": [], "problem": "it is away",
        }))
        .expect("a verification");
        assert!(!verification_text(&verification).contains("Damaged"));
        verification.problem = None;
        assert!(verification_text(&verification).contains("Damaged:       0"));
    }

    #[test]
    fn damaged_anchors_are_told_apart_from_lost_history() {
        let words = "anchor of image 3 at LSN 9: it is gone; points open without it, only slower";
        let verification: Verification = serde_json::from_value(json!({
            "id": 7, "state": "done", "objects": 2, "objects_done": 2, "bytes": 10, "bytes_done": 10, "gone": 0,
            "damaged_objects": 0, "damaged": [], "anchors": 4, "anchors_done": 4, "damaged_anchors": 1,
            "slower": [words], "problem": null,
        }))
        .expect("a verification");
        let text = verification_text(&verification);
        for part in ["Damaged: ", "Anchors read:", "4 of 4", "Anchors damaged:", "Slower:", words] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let mut report = report();
        report["scrub"] = json!({
            "pass_began_ns": null, "objects": 0, "objects_done": 0, "damaged_objects": 0, "missing_objects": 0,
            "last_pass_ns": 1, "last_pass_bad_objects": 0, "found": [], "problem": null, "next_behind": null,
            "anchors": 4, "anchors_done": 1, "damaged_anchors": 0, "last_pass_damaged_anchors": 1, "slower": [words],
        });
        let text = render(View::Archive, &report);
        for part in ["; 1 of 4 anchors, 0 damaged; last whole pass", "and deleted 1 damaged anchors", words] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn rules_are_their_text() {
        assert_eq!(render(View::Keep, &json!({"rules": ""})), "everything is kept\n");
        assert_eq!(render(View::Keep, &json!({"rules": "synch 30d"})), "synch 30d\n");
        let verified = render(View::VerifyPolicy, &json!({"policy": "digest"}));
        assert_eq!(verified, "digest: it is read back whole\n");
    }
}
