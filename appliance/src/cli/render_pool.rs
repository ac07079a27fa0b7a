//! Renders what belongs to a pool: its parts, figures and segments, and its clock.

use std::fmt::Write as _;

use serde_json::Value;

use super::cells::{blocks, size};
use crate::log::geometry::RESERVE_SLOTS;
use crate::log::time::{ClockStanding, ClockStatus};
use crate::text::table::{Table, pairs};
use crate::text::units::format_time;
use crate::volume::{PoolInfo, PoolStats, SegmentInfo, SegmentState};

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

pub(super) fn pool_list(pools: &[PoolInfo]) -> String {
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
pub(super) fn grown_pool(pool: &PoolInfo) -> String {
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

pub(super) fn pool_stats(stats: &PoolStats) -> String {
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

pub(super) fn segment_table(segments: &[SegmentInfo]) -> String {
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

pub(super) fn clock_text(clock: &ClockStatus, result: &Value) -> String {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::render::{View, render};
    use super::*;

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
}
