//! Renders points, the time line and plans of restores.

use super::cells::size;
use crate::dma::BLOCK_BYTES;
use crate::log::time::SpanBy;
use crate::text::table::{Table, pairs};
use crate::text::units::format_time;
use crate::volume::{
    GapReason, MarkInfo, MarkKind, Place, PlaceBytes, PointAt, PointKind, ResolvedPoint, RestorePlan,
    TimeLine,
};

/// How many segments of a plan are shown.
const SEGMENTS_SHOWN: usize = 40;
/// How many ranges of a command are shown.
const RANGES_SHOWN: usize = 4;

/// A resolved point.
pub(super) fn point_text(point: &ResolvedPoint) -> String {
    let kind = match &point.kind {
        PointKind::Write => "the end of a write".to_owned(),
        PointKind::Event => "the end of a change of the pool's volumes".to_owned(),
        PointKind::Synch(synch) => format!("synch {} '{}'", synch.id, synch.label),
        PointKind::Snapshot(snapshot) => format!("snapshot '{}'", snapshot.name),
        PointKind::Beginning => "the beginning of the pool, where everything is empty".to_owned(),
    };
    let volumes: Vec<String> =
        point.volumes.iter().map(|volume| format!("{} ({})", volume.name, size(volume.size_bytes))).collect();
    let mut text = pairs([
        ("Point", point.point.clone()),
        ("LSN", point.lsn.to_string()),
        ("Time", format_time(point.time_ns)),
        ("What", kind),
        ("Volumes", if volumes.is_empty() { "none".to_owned() } else { volumes.join(", ") }),
    ]);
    let counted = point.counted_by.map(|by| match by {
        SpanBy::Monotonic => "by the machine's monotonic clock, within this run",
        SpanBy::Records => "by the times of records, back before this start",
    });
    text.push_str(&pairs(counted.map(|counted| ("Counted", counted.to_owned()))));
    text.push_str(&pairs(point.notes.iter().map(|note| ("Note", note.clone()))));
    text
}

fn point_at(point: Option<PointAt>) -> String {
    point.map_or_else(
        || "none".to_owned(),
        |point| format!("lsn:{}  {}", point.lsn, format_time(point.time_ns)),
    )
}

/// The time line: its ends and gaps, and a table in the order of the log.
pub(super) fn time_line(line: &TimeLine, commands: bool, bursts: bool) -> String {
    let mut text = pairs([("Earliest", point_at(line.earliest)), ("Newest", point_at(line.newest))]);
    for gap in &line.gaps {
        let reason = match gap.reason {
            GapReason::Expired => "expired",
            GapReason::NotArchived => "left the primary device without having been archived",
            GapReason::Lost => "lost",
            GapReason::NoArchive => "left the primary device, and no archive is there",
        };
        let range = format!("lsn:{} to lsn:{}: {reason}", gap.from_lsn, gap.to_lsn.saturating_sub(1));
        text.push_str(&pairs([("Gap", range)]));
    }
    text.push('\n');
    let mut table = Table::new(["TIME", ">LSN", "WHAT"]);
    let mut rows: Vec<(u64, [String; 3])> = line.marks.iter().map(mark_row).collect();
    rows.extend(line.bursts.iter().map(|burst| {
        let mut what = Vec::new();
        if burst.writes > 0 {
            what.push(format!("{} writes, {}", burst.writes, size(burst.written_bytes)));
        }
        if burst.trims > 0 {
            what.push(format!("{} trims, {}", burst.trims, size(burst.trimmed_bytes)));
        }
        let lsns = format!("{} to {}", burst.first_lsn, burst.last_lsn);
        (burst.first_lsn, [format_time(burst.from_ns), lsns, what.join("; ")])
    }));
    rows.extend(line.commands.iter().map(|command| {
        let ranges: Vec<String> = command
            .ranges
            .iter()
            .take(RANGES_SHOWN)
            .map(|(block, len_blocks)| match len_blocks {
                1 => block.to_string(),
                _ => format!("{block}..{}", block.saturating_add(*len_blocks)),
            })
            .collect();
        let more = if command.ranges.len() > RANGES_SHOWN { ", ..." } else { "" };
        let blocks = command.ranges.iter().fold(0_u64, |sum, (_, len)| sum.saturating_add(*len));
        let what = format!(
            "{} {} blocks {}{more} ({})",
            if command.trim { "trim" } else { "write" },
            command.volume,
            ranges.join(", "),
            size(blocks.saturating_mul(BLOCK_BYTES as u64))
        );
        (command.lsn, [format_time(command.time_ns), command.lsn.to_string(), what])
    }));
    rows.sort_by_key(|(lsn, _)| *lsn);
    for (_, row) in rows {
        table.row(row);
    }
    let nothing = if commands || bursts {
        "hosts wrote nothing there, and there are no marks"
    } else {
        "no marks; --every 1m shows what hosts wrote, --writes shows each command"
    };
    text.push_str(&table.render(nothing));
    if let Some(next_lsn) = line.next_lsn {
        text.push_str(&format!("\nThere is more: --from-lsn {next_lsn}, or a larger --limit\n"));
    }
    text
}

fn mark_row(mark: &MarkInfo) -> (u64, [String; 3]) {
    let what = match (mark.kind, mark.id) {
        (MarkKind::Synch, Some(id)) => format!("synch {id} '{}'", mark.name),
        (MarkKind::Synch, None) => format!("synch '{}'", mark.name),
        (MarkKind::Snapshot, _) => format!("snapshot '{}'", mark.name),
        (MarkKind::Seal, _) => format!("end of {}", mark.name),
    };
    (mark.lsn, [format_time(mark.time_ns), mark.lsn.to_string(), what])
}

/// What a restore would read.
pub(super) fn plan(plan: &RestorePlan) -> String {
    let mut text = point_text(&plan.point);
    let sums = |sum: &PlaceBytes| {
        format!(
            "{} segments, {} of entries, {} of the volume's data",
            sum.segments,
            size(sum.entries_bytes),
            size(sum.mapped_bytes)
        )
    };
    let seconds =
        |seconds: Option<f64>| seconds.map_or_else(|| "not known".to_owned(), |s| format!("{s:.3} s"));
    text.push('\n');
    text.push_str(&pairs([
        (
            "Volume",
            format!("{} ({}, {} with contents)", plan.volume, size(plan.size_bytes), size(plan.mapped_bytes)),
        ),
        ("Primary", sums(&plan.primary)),
        ("Archive", format!("{} ({})", sums(&plan.archive), plan.store.as_deref().unwrap_or("none"))),
        ("To open", seconds(plan.estimate.open_s)),
        ("To hydrate", seconds(plan.estimate.hydrate_s)),
        ("Based on", plan.estimate.basis.clone()),
    ]));
    if plan.uncertain_bytes > 0 {
        let what = format!("{} are not certain and would read as media errors", size(plan.uncertain_bytes));
        text.push_str(&pairs([("Problem", what)]));
    }
    let mut table = Table::new([">SEGMENT", "PLACE", ">OBJECTS", ">ENTRIES", ">DATA"]);
    for segment in plan.segments.iter().take(SEGMENTS_SHOWN) {
        let place = match segment.place {
            Place::Primary => "primary",
            Place::Archive => "archive",
            Place::Nowhere => "nowhere",
        };
        table.row([
            segment.segment.to_string(),
            place.to_owned(),
            segment.objects.to_string(),
            size(segment.entries_bytes),
            size(segment.mapped_bytes),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render("nothing would be read"));
    if plan.segments.len() > SEGMENTS_SHOWN {
        text.push_str(&format!(
            "and {} segments more; --json shows all\n",
            plan.segments.len() - SEGMENTS_SHOWN
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{BurstInfo, CommandInfo, GapInfo};

    #[test]
    fn the_time_line_is_in_the_order_of_the_log() {
        let mark = MarkInfo {
            kind: MarkKind::Synch,
            lsn: 7,
            time_ns: 1_000_000_000,
            name: "a".to_owned(),
            id: Some(3),
        };
        let line = TimeLine {
            earliest: Some(PointAt { lsn: 5, time_ns: 1 }),
            gaps: vec![GapInfo { from_lsn: 0, to_lsn: 5, reason: GapReason::Expired }],
            marks: vec![mark],
            bursts: vec![BurstInfo {
                from_ns: 0,
                first_lsn: 6,
                last_lsn: 9,
                writes: 2,
                written_bytes: 8192,
                trims: 0,
                trimmed_bytes: 0,
            }],
            commands: vec![CommandInfo {
                lsn: 8,
                time_ns: 2,
                volume: "v".to_owned(),
                trim: true,
                ranges: vec![(3, 1), (5, 2)],
            }],
            next_lsn: Some(10),
            ..TimeLine::default()
        };
        let text = time_line(&line, true, true);
        assert!(text.contains("lsn:0 to lsn:4: expired") && text.contains("--from-lsn 10"), "{text}");
        let places: Vec<usize> = ["2 writes, 8 KiB", "synch 3 'a'", "trim v blocks 3, 5..7 (12 KiB)"]
            .iter()
            .map(|part| text.find(part).unwrap_or_else(|| panic!("{part}: {text}")))
            .collect();
        assert!(places.is_sorted(), "{text}");
    }
}
