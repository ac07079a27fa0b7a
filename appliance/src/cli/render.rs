//! Renders results for people: tables, sizes in binary units, times in UTC. A result whose shape
//! this version does not know (from an appliance of another version) is shown as JSON.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::cells::{blocks, size};
use super::render_point::point_text;
use super::{
    clone_render, group_render, render_archive, render_block, render_latency, render_point, render_pool,
    render_session,
};
use crate::log::time::ClockStatus;
use crate::text::table::{Table, pairs};
use crate::text::units::format_time;
use crate::volume::{
    CloneInfo, PoolInfo, PoolStats, ResolvedPoint, SegmentInfo, SnapshotInfo, SynchInfo, VolumeInfo,
    VolumeOrigin, VolumeState,
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
        View::Pools => typed(result, |pools: Vec<PoolInfo>| render_pool::pool_list(&pools)),
        View::Pool => typed(result, |pool: PoolInfo| render_pool::pool_list(&[pool])),
        View::GrownPool => typed(result, |pool: PoolInfo| render_pool::grown_pool(&pool)),
        View::PoolStats => typed(result, |stats: PoolStats| render_pool::pool_stats(&stats)),
        View::Segments => typed(result, |segments: Vec<SegmentInfo>| render_pool::segment_table(&segments)),
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
        View::Clock => typed(result, |clock: ClockStatus| render_pool::clock_text(&clock, result)),
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

fn clone_text(clone: &CloneInfo) -> String {
    let scan = super::clone_render::scan(&clone.scan, clone.elapsed_us);
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
