//! Renders results for people: tables, sizes in binary units, times in UTC. A result whose shape
//! this version does not know (from an appliance of another version) is shown as JSON.

use std::fmt::Write as _;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::cells::{blocks, size};
use super::render_point::point_text;
use super::{
    clone_render, group_render, render_archive, render_block, render_latency, render_point, render_session,
};
use crate::log::geometry::RESERVE_SLOTS;
use crate::log::time::{ClockStanding, ClockStatus};
use crate::text::table::{Table, pairs};
use crate::text::units::format_time;
use crate::volume::{
    CloneInfo, PoolInfo, PoolStats, ResolvedPoint, SegmentInfo, SegmentState, SnapshotInfo, SynchInfo,
    VolumeInfo, VolumeOrigin, VolumeState,
};

/// How a result is shown.
#[derive(Debug)]
pub(super) enum View {
    Pools,
    /// A pool.
    Pool,
    /// A pool that has just grown.
    GrownPool,
    PoolStats,
    Segments,
    Volume,
    Volumes,
    Synch,
    Synchs,
    Snapshot,
    Snapshots,
    Point,
    Clone,
    Clones,
    Group,
    Groups,
    GroupVolumes,
    GroupClone,
    /// A volume of this name was deleted.
    Deleted(String),
    RollBack,
    RestorePlan,
    Clock,
    Archive,
    ArchivedObjects,
    Explanation,
    Expiry,
    Keep,
    VerifyPolicy,
    Session,
    Sessions,
    Step,
    Committed,
    BlockHistory,
    BlockWho,
    Subsystems,
    Bdevs,
    Histogram,
    Reactors,
    Version,
    /// A table of the objects in an array: the result itself, or the member of this name.
    Rows(&'static str),
    /// A sentence, because the result says only that the call worked.
    Done(String),
    /// JSON.
    Json,
}

/// The text for a result.
pub(super) fn render(view: View, result: &Value) -> String {
    let text = match view {
        View::Pools => typed(result, |pools: Vec<PoolInfo>| pool_list(&pools)),
        View::Pool => typed(result, |pool: PoolInfo| pool_list(&[pool])),
        View::GrownPool => typed(result, |pool: PoolInfo| grown_pool(&pool)),
        View::PoolStats => typed(result, |stats: PoolStats| pool_stats(&stats)),
        View::Segments => typed(result, |segments: Vec<SegmentInfo>| segment_table(&segments)),
        View::Volume => typed(result, |volume: VolumeInfo| volume_table(&[volume])),
        View::Volumes => typed(result, |volumes: Vec<VolumeInfo>| volume_table(&volumes)),
        View::Synch => typed(result, |synch: SynchInfo| synch_table(&[synch])),
        View::Synchs => typed(result, |synchs: Vec<SynchInfo>| synch_table(&synchs)),
        View::Snapshot => typed(result, |snapshot: SnapshotInfo| snapshot_table(&[snapshot])),
        View::Snapshots => typed(result, |snapshots: Vec<SnapshotInfo>| snapshot_table(&snapshots)),
        View::Point => typed(result, |point: ResolvedPoint| point_text(&point)),
        View::Clone => typed(result, |clone: CloneInfo| clone_text(&clone)),
        View::Clones => typed(result, |clones: Vec<_>| clone_render::clones(&clones)),
        View::Group => typed(result, |group| group_render::groups(&[group])),
        View::Groups => typed(result, |groups: Vec<_>| group_render::groups(&groups)),
        View::GroupVolumes => typed(result, |groups: Vec<_>| group_render::volumes(&groups)),
        View::GroupClone => typed(result, |done| group_render::clone(&done)),
        View::Deleted(name) => Some(group_render::deleted(&name, result)),
        View::RollBack if result.get("group").is_some() => {
            typed(result, |done| group_render::roll_back(&done))
        }
        View::RollBack => typed(result, |done| clone_render::roll_back(&done)),
        View::RestorePlan if result.get("group").is_some() => typed(result, |plan| group_render::plan(&plan)),
        View::RestorePlan => typed(result, |plan| render_point::plan(&plan)),
        View::Clock => typed(result, |clock: ClockStatus| clock_text(&clock, result)),
        View::Archive => typed(result, |report| render_archive::status(&report)),
        View::ArchivedObjects => typed(result, |objects: Vec<_>| render_archive::objects(&objects)),
        View::Explanation => typed(result, |explained| render_archive::explanation(&explained)),
        View::Expiry => typed(result, |report| render_archive::expiry(&report)),
        View::Keep => render_archive::keep(result),
        View::VerifyPolicy => render_archive::verify_policy(result),
        View::Session => typed(result, render_session::session),
        View::Sessions => typed(result, |sessions: Vec<_>| render_session::sessions(&sessions)),
        View::Step => typed(result, |step| render_session::step(&step)),
        View::Committed => committed(result),
        View::BlockHistory => typed(result, |page| render_block::history(&page)),
        View::BlockWho => typed(result, |who| render_block::who(&who)),
        View::Subsystems => subsystem_table(result),
        View::Bdevs => bdev_table(result),
        View::Histogram => typed(result, |report| render_latency::histogram(&report)).flatten(),
        View::Reactors => render_latency::reactors(result),
        View::Version => result.get("version").and_then(Value::as_str).map(|version| format!("{version}\n")),
        View::Rows("") => rows(result),
        View::Rows(member) => result.get(member).and_then(rows),
        View::Done(sentence) => Some(format!("{sentence}\n")),
        View::Json => None,
    };
    text.unwrap_or_else(|| format!("{result:#}\n"))
}

fn typed<T: DeserializeOwned, S>(result: &Value, show: impl FnOnce(T) -> S) -> Option<S> {
    T::deserialize(result).ok().map(show)
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

fn pool_list(pools: &[PoolInfo]) -> String {
    let mut text = String::new();
    for pool in pools {
        let device = format!("{} ({}, {})", pool.device, pool.device_kind, size(pool.device_bytes));
        let mut slots = format!("{} slots of {}", pool.slots, size(pool.segment_bytes));
        if pool.device_slots > pool.slots {
            let _ = write!(slots, "; the device has room for {} (`varve pool grow`)", pool.device_slots);
        }
        let mut working_set = format!("{} segments", pool.working_set_segments);
        if let Some(target) = pool.working_set_target_segments {
            let _ = write!(working_set, ", on its way to {target}");
        }
        text.push_str(&pairs([
            ("Pool", pool.uuid.to_string()),
            ("State", pool.state.clone()),
            ("Device", device),
            ("Segments", slots),
            ("Working set", working_set),
            ("Volumes", pool.volumes.to_string()),
            ("Created", format_time(pool.created_ns)),
        ]));
        text.push_str(&pairs(pool.problems.iter().map(|problem| ("Problem", problem.clone()))));
    }
    if pools.is_empty() { "no pools\n".to_owned() } else { text }
}

/// A pool that has just grown, and what is left to do before its volumes can hold more.
fn grown_pool(pool: &PoolInfo) -> String {
    let mut text = pool_list(std::slice::from_ref(pool));
    let most = pool.slots.saturating_sub(RESERVE_SLOTS);
    if most > pool.working_set_segments {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "\nThe new slots hold more of the past. For volumes to hold more, make the working set longer too: varve pool set-working-set N, with N from {} to {most}",
            pool.working_set_segments + 1
        );
    }
    text
}

fn pool_stats(stats: &PoolStats) -> String {
    let amplification = if stats.host_written_blocks == 0 {
        "-".to_owned()
    } else {
        let all = stats.device_written_blocks as f64 / stats.host_written_blocks as f64;
        format!("{:.2} ({all:.2} with headers and trailers)", stats.write_amplification)
    };
    let taken = stats.reserved_blocks + stats.thin_blocks + stats.masks;
    let capacity = if stats.capacity_blocks == 0 {
        "until the log is full".to_owned()
    } else {
        format!("{}, {} of it taken", blocks(stats.capacity_blocks), percent(taken, stats.capacity_blocks))
    };
    let segments = format!(
        "{} in use, {} inactive, {} to recycle",
        stats.segments_in_use, stats.segments_inactive, stats.segments_recycle
    );
    let released = format!("{} ({} of them early)", stats.released_segments, stats.released_early_segments);
    let log = format!(
        "{} of {} ({}{})",
        blocks(stats.log_used_blocks),
        blocks(stats.log_capacity_blocks),
        percent(stats.log_used_blocks.min(stats.log_capacity_blocks), stats.log_capacity_blocks),
        // A small part of the log is kept for the pool's own records when hosts are refused.
        if stats.log_used_blocks > stats.log_capacity_blocks { ", and some of the reserve" } else { "" }
    );
    let retried = format!("{} ({} succeeded later)", stats.retried_reads, stats.rescued_reads);
    let dma = format!("{} of {}", size(stats.dma_in_use_bytes), size(stats.dma_budget_bytes));
    pairs([
        ("Head LSN", stats.head_lsn.to_string()),
        ("Written LSN", stats.written_lsn.to_string()),
        ("Stable LSN", stats.stable_lsn.to_string()),
        ("Log used", log),
        ("Capacity", capacity),
        ("Reserved", blocks(stats.reserved_blocks)),
        ("Thin", blocks(stats.thin_blocks)),
        ("Masks", stats.masks.to_string()),
        ("Mapped", blocks(stats.mapped_blocks)),
        ("Segments", segments),
        ("Segments released", released),
        ("Written by hosts", blocks(stats.host_written_blocks)),
        ("Read by hosts", blocks(stats.host_read_blocks)),
        (
            "Read ahead",
            format!(
                "{}, {} of it asked for",
                blocks(stats.read_ahead_blocks),
                percent(stats.read_ahead_used_blocks, stats.read_ahead_blocks)
            ),
        ),
        ("Copied forward", blocks(stats.copied_blocks)),
        ("Written to device", blocks(stats.device_written_blocks)),
        ("Write amplification", amplification),
        ("Records", stats.records.to_string()),
        ("Flushes", stats.flushes.to_string()),
        ("Checksum errors", stats.checksum_errors.to_string()),
        ("Reads tried again", retried),
        ("Unreadable", format!("{} reads of hosts ended in a media error", stats.unreadable_blocks)),
        ("Index memory", size(stats.index_bytes)),
        ("DMA memory", dma),
    ])
}

fn segment_table(segments: &[SegmentInfo]) -> String {
    let mut table = Table::new([
        ">SLOT",
        ">SEQUENCE",
        "STATE",
        "ARCHIVED",
        ">FIRST LSN",
        ">USED",
        ">ENTRIES",
        ">LIVE",
        "OPENED",
        "PROBLEMS",
    ]);
    for segment in segments {
        let state = match segment.state {
            SegmentState::Current => "current",
            SegmentState::Active => "active",
            SegmentState::Inactive => "inactive",
            SegmentState::Recycle => "recycle",
        };
        let slot = segment.slot.to_string();
        let Some(sequence) = segment.sequence else {
            let dash = || "-".to_owned();
            table.row([
                slot,
                dash(),
                state.to_owned(),
                dash(),
                dash(),
                dash(),
                dash(),
                dash(),
                dash(),
                segment.problems.join("; "),
            ]);
            continue;
        };
        table.row([
            slot,
            sequence.to_string(),
            state.to_owned(),
            if segment.archived { "yes" } else { "no" }.to_owned(),
            segment.first_lsn.to_string(),
            blocks(segment.used_blocks),
            segment.entries.to_string(),
            blocks(segment.live_blocks),
            format_time(segment.opened_ns),
            segment.problems.join("; "),
        ]);
    }
    table.render("no segments")
}

fn volume_table(volumes: &[VolumeInfo]) -> String {
    let mut table = Table::new(["NAME", ">SIZE", ">MAPPED", "STATE", "ACCESS", "FROM", "CREATED", "UUID"]);
    for volume in volumes {
        let state = match volume.state {
            VolumeState::Online => "online",
            VolumeState::Loading => "loading",
            VolumeState::Degraded => "degraded",
        };
        let from = match (&volume.origin, volume.parent) {
            (Some(VolumeOrigin { point: Some(point), .. }), _) => point.clone(),
            (Some(VolumeOrigin { lsn, .. }), _) => format!("lsn:{lsn}"),
            (None, Some(parent)) => format!("lsn:{}", parent.lsn),
            (None, None) => "-".to_owned(),
        };
        let mapped = match volume.inherited_blocks {
            0 => blocks(volume.mapped_blocks),
            inherited => format!("{} ({} inherited)", blocks(volume.mapped_blocks), blocks(inherited)),
        };
        table.row([
            volume.name.clone(),
            size(volume.size_bytes),
            mapped,
            state.to_owned(),
            if volume.read_only { "read-only" } else { "read-write" }.to_owned(),
            from,
            format_time(volume.created_ns),
            volume.uuid.to_string(),
        ]);
    }
    let mut text = table.render("no volumes; varve volume create NAME SIZE makes one");
    for volume in volumes {
        let name = &volume.name;
        if volume.uncertain_blocks > 0 {
            let what = format!(
                "{} of {name} are not certain: what replaced them may be lost. They read as media errors until they are written again",
                blocks(volume.uncertain_blocks)
            );
            text.push_str(&pairs([("Problem", what)]));
        }
        text.push_str(&pairs(volume.problem.iter().map(|what| ("Problem", format!("{name}: {what}")))));
    }
    text
}

fn synch_table(synchs: &[SynchInfo]) -> String {
    let mut table = Table::new([">ID", "LABEL", ">LSN", "TIME", "VOLUME", "DETAILS"]);
    for synch in synchs {
        let details = match &synch.details_unread {
            Some(reason) => format!("cannot be read now: {reason}"),
            None if synch.details.is_null() => String::new(),
            None => synch.details.to_string(),
        };
        table.row([
            synch.id.to_string(),
            synch.label.clone(),
            synch.lsn.to_string(),
            format_time(synch.time_ns),
            synch.of().map_or_else(|| "all".to_owned(), |of| of.name.clone()),
            details,
        ]);
    }
    table.render("no synchs; varve synch create --label LABEL makes one")
}

/// How a session ended: the volumes, and after a roll-back the snapshot of its state before.
fn committed(result: &Value) -> Option<String> {
    let mut text = typed(result.get("volumes")?, |volumes: Vec<VolumeInfo>| volume_table(&volumes))?;
    if let Some(before) = result.get("before").and_then(|before| SnapshotInfo::deserialize(before).ok()) {
        text.push_str(&pairs([("Before", format!("snapshot:{} names the state before", before.name))]));
    }
    Some(text)
}

fn snapshot_table(snapshots: &[SnapshotInfo]) -> String {
    let mut table = Table::new(["NAME", ">LSN", "TIME"]);
    for snapshot in snapshots {
        table.row([snapshot.name.clone(), snapshot.lsn.to_string(), format_time(snapshot.time_ns)]);
    }
    table.render("no snapshots; varve snapshot create NAME makes one")
}

fn clock_text(clock: &ClockStatus, result: &Value) -> String {
    let standing = match clock.standing {
        ClockStanding::Agrees => "they agree",
        ClockStanding::Ahead => "the machine's is too far ahead to be believed",
        ClockStanding::Behind => "the machine's is far behind",
    };
    let mut text = pairs([
        ("Log's time", format_time(clock.trusted_ns)),
        ("Machine's time", format_time(clock.wall_ns)),
        ("Standing", standing.to_owned()),
    ]);
    let problem = result.get("problem").and_then(Value::as_str);
    text.push_str(&pairs(problem.map(|problem| ("Problem", problem.to_owned()))));
    text
}

fn clone_text(clone: &CloneInfo) -> String {
    let scan = format!(
        "{} entries in at most {} segments (bound {}){}, {:.1} ms",
        clone.entries_scanned,
        clone.segments_touched,
        clone.segments_bound,
        super::clone_render::anchor(clone.anchor_lsn, clone.anchor_bytes),
        clone.elapsed_us as f64 / 1000.0
    );
    let mut text = volume_table(std::slice::from_ref(&clone.volume));
    text.push('\n');
    text.push_str(&point_text(&clone.point));
    let shared =
        clone.volume.parent.filter(|parent| parent.lsn != clone.point.lsn).map(|parent| {
            format!("the volume is the same at lsn:{} as at lsn:{}", parent.lsn, clone.point.lsn)
        });
    text.push_str(&pairs(shared.map(|shared| ("From", shared))));
    text.push_str(&pairs([("Scanned", scan)]));
    text
}

fn text_of(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            items.iter().map(|item| text_of(Some(item))).collect::<Vec<_>>().join(", ")
        }
        Some(value) => address_text(value).unwrap_or_else(|| value.to_string()),
    }
}

/// The text of an address as SPDK writes them: `127.0.0.1:4420`, `[::1]:4420`.
pub(super) fn address_text(value: &Value) -> Option<String> {
    let address = value.get("traddr")?.as_str()?;
    let port = value.get("trsvcid")?.as_str()?;
    Some(if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") })
}

fn subsystem_table(result: &Value) -> Option<String> {
    let mut table = Table::new(["NQN", "TYPE", "LISTENS ON", "NAMESPACES"]);
    for subsystem in result.as_array()? {
        let list = |member: &str, show: &dyn Fn(&Value) -> String| {
            let items = subsystem.get(member).and_then(Value::as_array);
            items.into_iter().flatten().map(show).collect::<Vec<_>>().join(", ")
        };
        let address = |address: &Value| {
            format!("{}:{}", text_of(address.get("traddr")), text_of(address.get("trsvcid")))
        };
        let namespace = |namespace: &Value| {
            format!("{}={}", text_of(namespace.get("nsid")), text_of(namespace.get("bdev_name")))
        };
        table.row([
            text_of(subsystem.get("nqn")),
            text_of(subsystem.get("subtype")),
            list("listen_addresses", &address),
            list("namespaces", &namespace),
        ]);
    }
    Some(table.render("no subsystems"))
}

fn bdev_table(result: &Value) -> Option<String> {
    let mut table = Table::new(["NAME", ">SIZE", ">BLOCK SIZE", "UUID"]);
    for bdev in result.as_array()? {
        let number = |member: &str| bdev.get(member).and_then(Value::as_u64);
        let bytes = number("num_blocks")?.saturating_mul(number("block_size")?);
        table.row([
            text_of(bdev.get("name")),
            size(bytes),
            text_of(bdev.get("block_size")),
            text_of(bdev.get("uuid")),
        ]);
    }
    Some(table.render("no bdevs"))
}

/// A table of objects, a column for each member of the first one.
fn rows(items: &Value) -> Option<String> {
    let items = items.as_array()?;
    let Some(first) = items.first() else { return Some("none\n".to_owned()) };
    let columns: Vec<&String> = first.as_object()?.keys().collect();
    let headings: Vec<String> = columns
        .iter()
        .map(|name| {
            let side = if first.get(name.as_str()).is_some_and(Value::is_number) { ">" } else { "" };
            format!("{side}{}", name.to_uppercase())
        })
        .collect();
    let mut table = Table::new(headings.iter().map(String::as_str));
    for item in items {
        table.row(columns.iter().map(|name| text_of(item.get(name.as_str()))));
    }
    Some(table.render("none"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume() -> Value {
        json!({
            "name": "a", "uuid": "00000000-0000-4000-8000-000000000001", "size_bytes": 1_u64 << 30, "read_only": false,
            "state": "online", "image": 1, "parent": null, "created_ns": 1_000_000_000, "mapped_blocks": 256,
            "stats": {"reads": 0, "read_bytes": 0, "writes": 0, "written_bytes": 0, "trims": 0, "trimmed_bytes": 0,
                      "flushes": 0, "errors": 0},
        })
    }

    #[test]
    fn volumes_are_a_table() {
        let text = render(View::Volumes, &json!([volume()]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].starts_with("NAME") && lines[1].contains("1 GiB") && lines[1].contains("1 MiB"),
            "{text}"
        );
        assert!(lines[1].contains("1970-01-01T00:00:01.000Z") && lines[1].contains("read-write"), "{text}");
        assert!(render(View::Volumes, &json!([])).contains("volume create"));
    }

    #[test]
    fn a_clone_says_what_it_scanned() {
        let point = json!({"point": "lsn:7", "lsn": 7, "time_ns": 1, "kind": "write", "volumes": [{"name": "a", "size_bytes": 4096}]});
        let clone = json!({"volume": volume(), "point": point, "segments_touched": 2, "segments_bound": 9,
                           "entries_scanned": 100, "elapsed_us": 1500});
        let text = render(View::Clone, &clone);
        assert!(text.contains("100 entries in at most 2 segments (bound 9), 1.5 ms"), "{text}");
        let mut anchored = clone.clone();
        (anchored["anchor_lsn"], anchored["anchor_bytes"]) = (json!(5), json!(4096));
        let text_of_anchored = render(View::Clone, &anchored);
        assert!(
            text_of_anchored.contains("(bound 9) and 4 KiB of the anchor at lsn:5, 1.5 ms"),
            "{text_of_anchored}"
        );
        assert!(text.contains("a (4 KiB)") && text.contains("the end of a write"), "{text}");
    }

    #[test]
    fn a_clone_of_what_has_not_changed_says_why_it_is_from_a_later_point() {
        let mut volume = volume();
        volume["parent"] = json!({"image": 1, "lsn": 18});
        let point = json!({"point": "lsn:15", "lsn": 15, "time_ns": 1, "kind": "write", "volumes": []});
        let mut clone = json!({"volume": volume, "point": point, "segments_touched": 0, "segments_bound": 9,
                           "entries_scanned": 0, "elapsed_us": 1});
        let text = render(View::Clone, &clone);
        assert!(text.contains("the same at lsn:18 as at lsn:15"), "{text}");
        clone["volume"]["parent"]["lsn"] = json!(15);
        assert!(!render(View::Clone, &clone).contains("the same at"));
    }

    #[test]
    fn a_volume_with_a_problem_says_which() {
        let mut volume = volume();
        volume["problem"] = json!("a part of its index is not there");
        volume["uncertain_blocks"] = json!(3);
        let text = render(View::Volumes, &json!([volume]));
        assert!(text.contains("a: a part of its index is not there"), "{text}");
        assert!(text.contains("12 KiB of a are not certain"), "{text}");
    }

    #[test]
    fn a_pool_that_has_grown_says_what_is_still_to_do() {
        let mut pool = json!({
            "uuid": uuid::Uuid::nil(), "device": "p", "device_kind": "uring", "device_bytes": 1 << 30,
            "segment_bytes": 1 << 20, "slots": 64, "working_set_segments": 31, "created_ns": 0, "volumes": 1,
            "state": "online", "problems": [],
        });
        let text = render(View::GrownPool, &pool);
        assert!(text.contains("varve pool set-working-set N, with N from 32 to 60"), "{text}");
        pool["working_set_segments"] = json!(60);
        assert!(!render(View::GrownPool, &pool).contains("set-working-set"));
    }

    #[test]
    fn pool_stats_show_what_could_not_be_read_and_no_more_than_all_of_the_log() {
        let stats = PoolStats {
            log_used_blocks: 103,
            log_capacity_blocks: 100,
            retried_reads: 7,
            rescued_reads: 5,
            unreadable_blocks: 2,
            ..PoolStats::default()
        };
        let text = render(View::PoolStats, &serde_json::to_value(stats).expect("plain data"));
        assert!(text.contains("(100.0 %, and some of the reserve)"), "{text}");
        assert!(text.contains("7 (5 succeeded later)") && text.contains("2 reads of hosts"), "{text}");
    }

    #[test]
    fn pool_stats_are_pairs() {
        let stats = PoolStats {
            host_written_blocks: 100,
            device_written_blocks: 250,
            write_amplification: 1.25,
            capacity_blocks: 1000,
            reserved_blocks: 200,
            thin_blocks: 50,
            segments_inactive: 3,
            log_used_blocks: 1,
            log_capacity_blocks: 4,
            ..PoolStats::default()
        };
        let text = render(View::PoolStats, &serde_json::to_value(stats).expect("plain data"));
        assert!(text.contains("1.25 (2.50 with headers") && text.contains("(25.0 %)"), "{text}");
        assert!(text.contains("3.9 MiB, 25.0 % of it taken") && text.contains("3 inactive"), "{text}");
    }

    #[test]
    fn rows_and_unknown_shapes() {
        let text = render(
            View::Rows("bdevs"),
            &json!({"bdevs": [{"name": "a", "reads": 10}, {"name": "bc", "reads": 7}]}),
        );
        assert_eq!(text, "NAME  READS\na        10\nbc        7\n");
        let address = json!({"trtype": "TCP", "traddr": "::1", "trsvcid": "4420"});
        let text = render(View::Rows(""), &json!([{"address": address, "tags": ["a", "b"]}]));
        assert_eq!(text, "ADDRESS     TAGS\n[::1]:4420  a, b\n");
        assert_eq!(render(View::Volumes, &json!({"new": 1})), "{\n  \"new\": 1\n}\n");
        assert_eq!(render(View::Version, &json!({"version": "varve v1"})), "varve v1\n");
    }
}
