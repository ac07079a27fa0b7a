//! `varve archive seal`, `expire` and `verify`, and `varve volume hydrate`: long jobs that one call
//! starts and further calls watch, with a progress bar on a terminal.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::output::print;
use super::render_archive;
use crate::dma::BLOCK_BYTES;
use crate::manage::{ArchiveReport, ExpiryReport, Sealed, Verification, VerificationState};
use crate::options::CommandError;
use crate::volume::VolumeInfo;

/// How often the appliance is asked for the progress.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Sealing stops with an error if there is no progress for this long.
const STALL_LIMIT: Duration = Duration::from_mins(5);

/// Sealing stops with an error after this many store failures since it began.
const FAILURES_TOLD: u64 = 3;

fn call<T: DeserializeOwned>(
    client: &mut Client,
    method: &str,
    params: Value,
) -> Result<(T, Value), CommandError> {
    let members = match params {
        Value::Object(members) => members.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    };
    let result = client.call(method, members)?;
    let typed = T::deserialize(&result).map_err(|error| {
        format!("{method}: the appliance is of another version than this command: {error}")
    })?;
    Ok((typed, result))
}

/// A bar for bytes, on standard error if that is a terminal.
fn bar(message: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(message);
    // If the template cannot be parsed, the bar keeps its default style.
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    bar
}

/// Archives everything up to now; returns when it is in the archive.
pub(super) fn seal(client: &mut Client, json: bool, output: &mut dyn Write) -> Result<(), CommandError> {
    let (before, _): (ArchiveReport, _) = call(client, "archive_get_status", Value::Null)?;
    let (sealed, _): (Sealed, _) = call(client, "archive_seal", json!({"wait": false}))?;
    let bar = bar("archiving");
    bar.set_length(before.status.backlog_bytes);
    let (mut progress, mut since) = ((0, 0, 0), Instant::now());
    loop {
        let (report, _): (ArchiveReport, _) = call(client, "archive_get_status", Value::Null)?;
        let status = &report.status;
        // An appliance of an older version reports only `archived_to_lsn`.
        if status.stored_to_lsn.max(status.archived_to_lsn) >= sealed.lsn {
            check_recoverable(&sealed, &report)?;
            break;
        }
        let now = (status.stored_to_lsn, status.objects_written, status.failures);
        if std::mem::replace(&mut progress, now) != now {
            since = Instant::now();
        } else if since.elapsed() > STALL_LIMIT {
            bar.abandon();
            return Err(format!(
                "the archive was not sealed: nothing has happened for {} s; it is at LSN {} of {}, {}{}",
                STALL_LIMIT.as_secs(),
                status.stored_to_lsn,
                sealed.lsn,
                status.state,
                status.problem.as_ref().map_or_else(String::new, |problem| format!(": {problem}"))
            )
            .into());
        }
        if status.failures >= before.status.failures + FAILURES_TOLD
            && let Some(problem) = &status.problem
        {
            bar.abandon();
            return Err(format!("the archive was not sealed: {problem}").into());
        }
        bar.set_position(before.status.backlog_bytes.saturating_sub(status.backlog_bytes));
        std::thread::sleep(LOOK_INTERVAL);
    }
    bar.finish_and_clear();
    let text = if json {
        format!("{:#}\n", json!({"lsn": sealed.lsn, "done": true}))
    } else {
        format!("everything before LSN {} is in the archive\n", sealed.lsn)
    };
    print(output, &text)
}

/// Checks that a recovery would reach the sealed LSN. That everything is uploaded is not enough
/// after a gap in history.
fn check_recoverable(sealed: &Sealed, report: &ArchiveReport) -> Result<(), CommandError> {
    let status = &report.status;
    if status.archived_to_lsn >= sealed.lsn {
        return Ok(());
    }
    Err(format!(
        "everything up to LSN {} that is on the primary device is in the archive, but history has a gap, and a recovery would give LSN {}; it gives more once the archive has a whole working set after the gap",
        sealed.lsn, status.archived_to_lsn
    )
    .into())
}

/// Copies what a clone inherited into the clone; returns when that is complete.
pub(super) fn hydrate(
    client: &mut Client,
    name: &str,
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let (mut volume, _): (VolumeInfo, _) = call(client, "volume_hydrate", json!({"name": name}))?;
    let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
    let all = bytes(volume.inherited_blocks);
    let bar = bar("hydrating");
    bar.set_length(all);
    while volume.hydrating {
        std::thread::sleep(LOOK_INTERVAL);
        let (volumes, _): (Vec<VolumeInfo>, _) = call(client, "volume_list", json!({"name": name}))?;
        volume = volumes.into_iter().next().ok_or("the volume is gone")?;
        bar.set_position(all.saturating_sub(bytes(volume.inherited_blocks)));
    }
    bar.finish_and_clear();
    if volume.inherited_blocks > 0 {
        return Err(format!("volume '{name}' was not hydrated to its end; varve pool list says why").into());
    }
    let text = if json {
        format!("{:#}\n", json!(volume))
    } else {
        format!("volume '{name}' needs neither its origin nor the archive any more\n")
    };
    print(output, &text)
}

/// Deletes what has expired, one part per call; fails if the store did not delete something.
pub(super) fn expire(
    client: &mut Client,
    clock_is_right: bool,
    everything: bool,
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    if clock_is_right {
        let _: (Value, Value) = call(client, "pool_confirm_clock", Value::Null)?;
    }
    let (mut all, _): (ExpiryReport, _) = call(client, "archive_expire", json!({"dry_run": true}))?;
    let bar = bar("deleting");
    bar.set_length(all.expirable_bytes);
    loop {
        let (part, _): (ExpiryReport, _) = call(client, "archive_expire", json!({"all": everything}))?;
        all.deleted_objects += part.deleted_objects;
        all.deleted_bytes += part.deleted_bytes;
        all.expired_synchs += part.expired_synchs;
        all.failed_objects += part.failed_objects;
        all.failure = all.failure.or(part.failure);
        all.segments_per_hour = part.segments_per_hour.or(all.segments_per_hour);
        all.held = part.held;
        bar.set_position(all.deleted_bytes);
        if part.deleted_objects == 0 || part.deleted_objects >= part.expirable_objects {
            break;
        }
    }
    bar.finish_and_clear();
    let text = if json { format!("{:#}\n", json!(all)) } else { render_archive::expiry(&all) };
    print(output, &text)?;
    match all.failure {
        Some(failure) => Err(format!(
            "the store did not delete {} objects; the next start tries again: {failure}",
            all.failed_objects
        )
        .into()),
        None => Ok(()),
    }
}

/// Reads the archive back; fails if something is damaged, missing or incomplete.
pub(super) fn verify(
    client: &mut Client,
    from: Option<u64>,
    to: Option<u64>,
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let (mut now, mut answer): (Verification, _) =
        call(client, "archive_verify", json!({"from": from, "to": to}))?;
    let bar = bar("reading back");
    bar.set_length(now.bytes);
    while now.state == VerificationState::Running {
        std::thread::sleep(LOOK_INTERVAL);
        (now, answer) = call(client, "archive_verify_check", json!({"id": now.id}))?;
        bar.set_position(now.bytes_done);
    }
    bar.finish_and_clear();
    let text = if json { format!("{answer:#}\n") } else { render_archive::verification(&now) };
    print(output, &text)?;
    if let Some(problem) = now.problem {
        return Err(format!("the archive was not read to its end: {problem}").into());
    }
    let wrong = [
        (now.damaged_objects, "damaged"),
        (now.missing_objects, "missing"),
        (now.incomplete_objects, "incomplete"),
    ];
    let wrong = wrong.iter().filter(|(count, _)| *count > 0);
    let wrong: Vec<String> =
        wrong.map(|(count, what)| format!("{count} objects of the archive are {what}")).collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join(", ").into()) }
}
