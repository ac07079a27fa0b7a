//! How groups are shown, and what was done to all volumes of one.

use serde::Deserialize;
use serde_json::Value;

use super::cells::{blocks, size};
use super::render_point;
use crate::text::table::{Table, pairs};
use crate::text::units::format_time;
use crate::volume::{GroupCloneInfo, GroupInfo, RestorePlan, RollBacks};

/// The groups, each with its volumes in one line.
pub(super) fn groups(groups: &[GroupInfo]) -> String {
    let mut table = Table::new(["NAME", "VOLUMES", ">SIZE", "CREATED"]);
    for group in groups {
        let names: Vec<&str> = group.volumes.iter().map(|volume| volume.name.as_str()).collect();
        let size_bytes = group.volumes.iter().map(|volume| volume.size_bytes).sum();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        table.row([group.name.clone(), names, size(size_bytes), format_time(group.created_ns)]);
    }
    table.render("no groups; varve group create NAME VOLUME... makes one")
}

/// The volumes of groups, one in each line.
pub(super) fn volumes(groups: &[GroupInfo]) -> String {
    let mut text = String::new();
    for group in groups {
        text.push_str(&pairs([
            ("Group", group.name.clone()),
            ("UUID", group.uuid.to_string()),
            ("Created", format_time(group.created_ns)),
        ]));
        let mut table = Table::new(["VOLUME", ">SIZE", "UUID"]);
        for volume in &group.volumes {
            table.row([volume.name.clone(), size(volume.size_bytes), volume.uuid.to_string()]);
        }
        text.push('\n');
        text.push_str(&table.render("no volumes; varve group add GROUP VOLUME adds one"));
    }
    text
}

/// A group that was opened as it was at a point.
pub(super) fn clone(done: &GroupCloneInfo) -> String {
    let mut text = groups(std::slice::from_ref(&done.group));
    if let Some(first) = done.clones.first() {
        text.push('\n');
        text.push_str(&render_point::point_text(&first.point));
    }
    text
}

/// A roll-back of a group.
pub(super) fn roll_back(done: &RollBacks) -> String {
    let group = done.group.as_deref().unwrap_or_default();
    let undo = format!("varve restore roll-back {group} --at snapshot:{}", done.before.name);
    let mut text = pairs([
        ("Group", group.to_owned()),
        ("Is now", format!("as at {} (lsn:{})", done.point.point, done.point.lsn)),
        ("Before", format!("snapshot '{}' (lsn:{})", done.before.name, done.before.lsn)),
        ("To undo it", undo),
        ("Took", format!("{:.1} ms", done.elapsed_us as f64 / 1000.0)),
    ]);
    text.push_str(&pairs(done.point.notes.iter().map(|note| ("Note", note.clone()))));
    let mut table = Table::new(["VOLUME", ">SIZE", ">IN PLACE", ">COPIED LATER", ">ENTRIES READ"]);
    for rolled in &done.volumes {
        table.row([
            rolled.volume.name.clone(),
            size(rolled.volume.size_bytes),
            blocks(rolled.resident_blocks),
            blocks(rolled.inherited_blocks),
            rolled.scan.entries_scanned.to_string(),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render("no volumes"));
    text
}

/// What opening each volume of a group would read.
#[derive(Debug, Deserialize)]
pub(super) struct GroupPlan {
    group: String,
    volumes: Vec<RestorePlan>,
}

pub(super) fn plan(plan: &GroupPlan) -> String {
    let mut text = pairs([("Group", plan.group.clone())]);
    if let Some(first) = plan.volumes.first() {
        text.push_str(&render_point::point_text(&first.point));
    }
    let seconds =
        |seconds: Option<f64>| seconds.map_or_else(|| "not known".to_owned(), |s| format!("{s:.3} s"));
    let mut table =
        Table::new(["VOLUME", ">SIZE", ">CONTENTS", ">ON THE PRIMARY", ">IN THE ARCHIVE", ">TO OPEN"]);
    for volume in &plan.volumes {
        table.row([
            volume.volume.clone(),
            size(volume.size_bytes),
            size(volume.mapped_bytes),
            size(volume.primary.mapped_bytes),
            size(volume.archive.mapped_bytes),
            seconds(volume.estimate.open_s),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render("no volumes"));
    text
}

/// A volume that was deleted: which groups it left.
pub(super) fn deleted(name: &str, result: &Value) -> String {
    let left = result.get("left_groups").and_then(Value::as_array);
    let names: Vec<&str> = left.into_iter().flatten().filter_map(Value::as_str).collect();
    match names.as_slice() {
        [] => format!("volume {name} is deleted\n"),
        [group] => format!("volume {name} is deleted, and no longer in group {group}\n"),
        groups => format!("volume {name} is deleted, and no longer in the groups {}\n", groups.join(", ")),
    }
}
