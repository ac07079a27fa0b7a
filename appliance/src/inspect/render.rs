//! Renders a report for people: tables, and on request every record, entry and run of an index.

use std::io::{Result, Write};

use serde::Serialize;

use super::report::{EntryItem, IndexList, RecordList, Report, SlotReport};
use crate::dma::BLOCK_BYTES;
use crate::log::reader::SegmentEntries;
use crate::text::table::{Table, pairs};
use crate::text::units::{SizeBytes, format_time};

/// Runs of an index per table, so that columns are aligned without holding the text of all runs in
/// memory.
const RUNS_PER_TABLE: usize = 4096;

/// Writes the report.
pub(super) fn render(report: &Report, output: &mut dyn Write) -> Result<()> {
    output.write_all(head(report).as_bytes())?;
    section(output, "Superblocks", &superblocks(report))?;
    section(output, "Slots", &slots(report))?;
    section(output, "Volumes", &volumes(report))?;
    if !report.images.is_empty() {
        section(output, "Images", &images(report))?;
    }
    if !report.snapshots.is_empty() {
        section(output, "Snapshots", &snapshots(report))?;
    }
    if !report.synchs.is_empty() {
        section(output, "Synchs", &synchs(report))?;
    }
    for slot in &report.slots {
        if let (Some(records), Some(sequence)) = (&slot.records, slot.sequence) {
            output.write_all(b"\n")?;
            write_records(output, sequence, records)?;
        }
    }
    for volume in &report.volumes {
        if let Some(index) = &volume.index {
            write_index(output, &volume.name, index)?;
        }
    }
    section(output, "Checks", &checks(report))?;
    if !report.notes.is_empty() {
        section(output, "Notes", &lines(report.notes.iter().cloned()))?;
    }
    if report.problems.is_empty() {
        return Ok(());
    }
    section(output, "Problems", &lines(report.problems.iter().map(|problem| problem.text.clone())))?;
    if report.problems_omitted > 0 {
        writeln!(output, "  and {} more", report.problems_omitted)?;
    }
    Ok(())
}

fn section(output: &mut dyn Write, title: &str, text: &str) -> Result<()> {
    writeln!(output, "\n{title}")?;
    for line in text.lines() {
        writeln!(output, "  {line}")?;
    }
    Ok(())
}

/// One line for each text, without characters that could control a terminal.
fn lines(texts: impl Iterator<Item = String>) -> String {
    let mut table = Table::new([""]);
    for text in texts {
        table.row([text]);
    }
    table.render("").trim_start_matches('\n').to_owned()
}

fn size(bytes: u64) -> String {
    SizeBytes(bytes).to_string()
}

fn dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The name that a plain value has in JSON.
fn name(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => "-".to_owned(),
    }
}

fn head(report: &Report) -> String {
    let (pool, log) = (&report.pool, &report.log);
    let end = if log.clean { "stopped cleanly" } else { "not stopped cleanly" };
    pairs([
        ("Pool", pool.uuid.to_string()),
        ("File", format!("{} ({})", report.file, size(report.file_bytes))),
        ("Created", format_time(pool.created_ns)),
        ("Segments", format!("{} slots of {}", pool.slots, size(pool.segment_bytes))),
        ("Working set", format!("{} segments", pool.working_set_segments)),
        ("Log", format!("ends at LSN {}, {end}", log.end_lsn)),
        ("Newest record", format_time(log.last_time_ns)),
        ("Catalog", report.catalog_lsn.map_or_else(|| "none".to_owned(), |lsn| format!("at LSN {lsn}"))),
    ])
}

fn superblocks(report: &Report) -> String {
    let mut table = Table::new([
        ">COPY",
        "STATE",
        ">GENERATION",
        ">EPOCH",
        ">DEVICE BLOCKS",
        ">SEGMENT BLOCKS",
        ">SLOTS",
        ">W",
    ]);
    for superblock in &report.superblocks {
        let state = match (&superblock.error, superblock.in_force) {
            (Some(error), _) => format!("invalid: {error}"),
            (None, true) => "valid, in force".to_owned(),
            (None, false) => "valid".to_owned(),
        };
        table.row([
            superblock.copy.to_string(),
            state,
            dash(superblock.generation),
            dash(superblock.epoch),
            dash(superblock.device_blocks),
            dash(superblock.segment_blocks),
            dash(superblock.slots),
            dash(superblock.working_set),
        ]);
    }
    table.render("none")
}

fn slots(report: &Report) -> String {
    let mut table = Table::new([
        ">SLOT",
        ">SEQUENCE",
        "STATE",
        "HEADER",
        "TRAILER",
        ">EPOCH",
        ">FIRST LSN",
        ">END LSN",
        ">RECORDS",
        ">WRITES",
        ">COPIED",
        ">TRIMS",
        ">EVENTS",
        ">LIVE",
        ">DAMAGED",
        "OPENED",
    ]);
    let mut unused: Option<(u64, u64)> = None;
    let mut rows: Vec<Vec<String>> = Vec::new();
    for slot in &report.slots {
        if is_blank(slot) {
            // The many blank slots of a new pool are shown as one line.
            match &mut unused {
                Some((_, last)) if *last + 1 == slot.slot => *last = slot.slot,
                _ => {
                    rows.extend(unused.replace((slot.slot, slot.slot)).map(blank_row));
                }
            }
            continue;
        }
        rows.extend(unused.take().map(blank_row));
        rows.push(slot_row(slot));
    }
    rows.extend(unused.take().map(blank_row));
    for row in rows {
        table.row(row);
    }
    let totals = &report.totals;
    let mut sum = vec![String::new(), String::new(), "total".to_owned()];
    sum.resize(8, String::new());
    sum.extend([
        totals.records.to_string(),
        totals.entries.write.to_string(),
        totals.entries.copied.to_string(),
        totals.entries.trim.to_string(),
        totals.entries.event.to_string(),
        totals.live_blocks.to_string(),
        (totals.damaged_records + totals.damaged_blocks).to_string(),
    ]);
    table.row(sum);
    table.render("none")
}

fn is_blank(slot: &SlotReport) -> bool {
    use crate::log::inspect::{Presence, SlotState, TrailerState};
    slot.state == SlotState::Recycle && slot.header == Presence::None && slot.trailer == TrailerState::None
}

fn blank_row((first, last): (u64, u64)) -> Vec<String> {
    let slots = if first == last { first.to_string() } else { format!("{first}-{last}") };
    let mut row = vec![slots, "-".to_owned(), "recycle".to_owned(), "none".to_owned(), "none".to_owned()];
    row.resize(16, "-".to_owned());
    row
}

fn slot_row(slot: &SlotReport) -> Vec<String> {
    let totals = &slot.totals;
    let mut row = vec![
        slot.slot.to_string(),
        dash(slot.sequence),
        name(&slot.state),
        name(&slot.header),
        name(&slot.trailer),
        dash(slot.epoch),
        dash(slot.first_lsn),
        dash(slot.end_lsn),
    ];
    if slot.end_lsn.is_some() {
        row.extend(
            [
                totals.records,
                totals.entries.write,
                totals.entries.copied,
                totals.entries.trim,
                totals.entries.event,
                totals.live_blocks,
                totals.damaged_records + totals.damaged_blocks,
            ]
            .map(|count| count.to_string()),
        );
    } else {
        row.resize(15, "-".to_owned());
    }
    row.push(slot.opened_ns.map_or_else(|| "-".to_owned(), format_time));
    row
}

fn volumes(report: &Report) -> String {
    let mut table = Table::new([
        "NAME",
        ">SIZE",
        ">MAPPED",
        ">CHECKED",
        ">DAMAGED",
        ">UNCERTAIN",
        ">IMAGE",
        "ACCESS",
        "FROM",
        "CREATED",
        "UUID",
    ]);
    for volume in &report.volumes {
        table.row([
            volume.name.clone(),
            size(volume.size_bytes),
            volume.mapped_blocks.to_string(),
            volume.checked_blocks.to_string(),
            volume.damaged_blocks.to_string(),
            volume.uncertain_blocks.to_string(),
            volume.image.to_string(),
            if volume.read_only { "read-only" } else { "read-write" }.to_owned(),
            dash(volume.parent.map(|parent| format!("lsn:{} of image {}", parent.lsn, parent.image))),
            format_time(volume.created_ns),
            volume.uuid.to_string(),
        ]);
    }
    table.render("none")
}

fn images(report: &Report) -> String {
    let mut table = Table::new([">IMAGE", ">BORN AFTER LSN", "PARENT"]);
    for image in &report.images {
        table.row([
            image.id.to_string(),
            image.born_lsn.to_string(),
            dash(image.parent.map(|parent| format!("lsn:{} of image {}", parent.lsn, parent.image))),
        ]);
    }
    table.render("none")
}

fn snapshots(report: &Report) -> String {
    let mut table = Table::new(["NAME", ">LSN", "TIME"]);
    for snapshot in &report.snapshots {
        table.row([snapshot.name.clone(), snapshot.lsn.to_string(), format_time(snapshot.time_ns)]);
    }
    table.render("none")
}

fn synchs(report: &Report) -> String {
    let mut table = Table::new([">ID", "LABEL", ">LSN", "TIME", "DETAILS"]);
    for synch in &report.synchs {
        let details = if synch.details.is_null() { String::new() } else { synch.details.to_string() };
        table.row([
            synch.id.to_string(),
            synch.label.clone(),
            synch.lsn.to_string(),
            format_time(synch.time_ns),
            details,
        ]);
    }
    table.render("none")
}

fn checks(report: &Report) -> String {
    let mut table = Table::new(["CHECK", "RESULT", "DETAIL"]);
    for check in &report.checks {
        let result = if check.ok { "ok" } else { "FAILED" };
        table.row([check.name.to_owned(), result.to_owned(), check.detail.clone()]);
    }
    table.render("none")
}

fn write_records(output: &mut dyn Write, sequence: u64, records: &RecordList) -> Result<()> {
    writeln!(output, "Records of segment {sequence}")?;
    for (line, entries) in records.iter() {
        writeln!(
            output,
            "  record at LSN {}, {}, epoch {}: {} entries, {} data blocks",
            line.lsn(),
            format_time(line.time_ns()),
            line.epoch(),
            line.entries(),
            line.data_blocks()
        )?;
        for placed in SegmentEntries::placed(line, entries) {
            writeln!(output, "    {}", entry_text(&EntryItem::new(placed.lsn.0, &placed.entry)))?;
        }
    }
    Ok(())
}

fn entry_text(entry: &EntryItem) -> String {
    let mut text = format!("{} {}", entry.lsn, entry.kind);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push(' ');
            text.push_str(name);
            text.push(' ');
            text.push_str(&value);
        }
    };
    add("of", entry.event.map(str::to_owned));
    add("copy", entry.copy.map(|copy| copy.to_string()));
    add("chunk", entry.chunk.map(|chunk| chunk.to_string()));
    add("text bytes", entry.text_bytes.map(|bytes| bytes.to_string()));
    add("image", entry.image.map(|image| image.to_string()));
    add("block", entry.block.map(|block| block.to_string()));
    add("blocks", entry.len_blocks.map(|blocks| blocks.to_string()));
    add("superseded", entry.superseded.filter(|&lsn| lsn != 0).map(|lsn| lsn.to_string()));
    add("from", entry.origin.map(|lsn| lsn.to_string()));
    add("crc32c", entry.crc32c.clone());
    if entry.last {
        text.push_str(" last");
    }
    text
}

fn write_index(output: &mut dyn Write, volume: &str, index: &IndexList) -> Result<()> {
    let runs = index.runs();
    for part in runs.chunks(RUNS_PER_TABLE) {
        let mut table = Table::new([">BLOCK", ">BLOCKS", ">SIZE", ">LSN"]);
        for run in part {
            table.row([
                run.block.to_string(),
                run.len_blocks.to_string(),
                size(run.len_blocks * BLOCK_BYTES as u64),
                run.lsn.to_string(),
            ]);
        }
        section(output, &format!("Index of volume {volume}"), &table.render("none"))?;
    }
    Ok(())
}
