//! Renders the history of blocks and the difference of two points.

use std::fmt::Write as _;

use super::block_args::position_text;
use super::cells::blocks;
use crate::text::table::{Table, pairs};
use crate::text::units::format_time;
use crate::volume::{
    BlockChange, BlockPlace, BlockVersion, BlockWho, DiffEnd, DiffKind, DiffPage, DiffRange, HistoryPage,
};

fn change(kind: BlockChange) -> &'static str {
    match kind {
        BlockChange::Write => "write",
        BlockChange::Trim => "trim",
        BlockChange::Moved => "taken back or forth",
        BlockChange::Cloned => "made as a clone",
        BlockChange::Unknown => "unknown: the entries cannot be read",
    }
}

fn place(place: BlockPlace) -> &'static str {
    match place {
        BlockPlace::Primary => "primary",
        BlockPlace::Archive => "archive",
        BlockPlace::Gone => "no longer kept",
        BlockPlace::None => "-",
    }
}

/// A position as a cell; `-` for none.
fn lsn(lsn: Option<u64>) -> String {
    lsn.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string())
}

fn time(version: &BlockVersion) -> String {
    version.time_ns.map_or_else(|| "-".to_owned(), format_time)
}

/// Blocks as a range: the first, and the one behind the last.
fn range(block: u64, blocks: u64) -> String {
    if blocks == 1 { block.to_string() } else { format!("{block}..{}", block.saturating_add(blocks)) }
}

/// `block_history`
pub(super) fn history(page: &HistoryPage) -> String {
    let mut table = Table::new(["TIME", "POINT", "CHANGE", ">BLOCKS", ">LSN", ">SUPERSEDED", "DATA"]);
    for version in &page.versions {
        table.row([
            time(version),
            format!("lsn:{}", version.point_lsn),
            change(version.kind).to_owned(),
            range(version.block, version.blocks),
            version.lsn.to_string(),
            lsn(version.superseded_lsn.or(version.from_lsn)),
            place(version.place).to_owned(),
        ]);
    }
    let mut text = table.render("no changes here");
    // Writing to a string does not fail.
    match (&page.next, &page.end) {
        (Some(next), _) => {
            let _ = writeln!(text, "\nThere may be more: --from {}", position_text(next));
        }
        (None, Some(end)) => {
            let _ = writeln!(text, "\nNothing older: {end}");
        }
        (None, None) => {}
    }
    text
}

/// `block_who`
pub(super) fn who(who: &BlockWho) -> String {
    let mut rows = vec![
        ("Volume", format!("{} ({})", who.volume, who.uuid)),
        ("Block", who.block.to_string()),
        ("At", format!("lsn:{}, {}", who.lsn, format_time(who.time_ns))),
    ];
    match &who.version {
        None => rows.push((
            "Holds",
            "zeroes: it was never written, or was discarded before everything that a point needs".to_owned(),
        )),
        Some(version) => {
            let holds = match version.kind {
                BlockChange::Trim => "zeroes: it was discarded",
                _ => "what was written",
            };
            rows.extend([
                ("Holds", holds.to_owned()),
                ("Since", format!("lsn:{}, {}", version.point_lsn, time(version))),
                ("LSN", version.lsn.to_string()),
                ("Superseded", lsn(version.superseded_lsn)),
                ("Data", place(version.place).to_owned()),
            ]);
        }
    }
    pairs(rows)
}

fn end(end: &DiffEnd) -> String {
    let size = blocks(end.size_blocks);
    if end.lsn == 0 {
        return "nothing: an empty volume".to_owned();
    }
    format!("{} = lsn:{}, {}, {} of {size}", end.point, end.lsn, format_time(end.time_ns), end.volume)
}

fn kind(kind: DiffKind) -> &'static str {
    match kind {
        DiffKind::Written => "written",
        DiffKind::Unmapped => "unmapped",
    }
}

/// The ends of a difference, and its counts.
pub(super) fn diff_summary(page: &DiffPage) -> String {
    let count = |count: u64| format!("{count} blocks, {}", blocks(count));
    pairs([
        ("From", end(&page.from)),
        ("To", end(&page.to)),
        ("Written", count(page.written_blocks)),
        ("Unmapped", count(page.unmapped_blocks)),
    ])
}

/// A table of ranges.
pub(super) fn diff_ranges(ranges: &[DiffRange]) -> String {
    let mut table = Table::new([">BLOCKS", ">COUNT", ">BYTES", "CHANGE"]);
    for each in ranges {
        table.row([
            range(each.block, each.blocks),
            each.blocks.to_string(),
            blocks(each.blocks),
            kind(each.kind).to_owned(),
        ]);
    }
    table.render("nothing differs")
}

/// Lines of a changed-block list: offset and length in bytes, and what is there now.
pub(super) fn changed_blocks(page: &DiffPage) -> String {
    let mut text = String::new();
    for each in &page.ranges {
        let bytes = |blocks: u64| blocks.saturating_mul(page.block_bytes);
        let kind = match each.kind {
            DiffKind::Written => "data",
            DiffKind::Unmapped => "zero",
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} {} {kind}", bytes(each.block), bytes(each.blocks));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn page() -> DiffPage {
        let end = |point: &str, lsn| DiffEnd {
            point: point.to_owned(),
            lsn,
            time_ns: 1_000_000_000,
            volume: "a".to_owned(),
            uuid: Uuid::from_u128(1),
            size_blocks: 100,
        };
        DiffPage {
            from: end("nothing", 0),
            to: end("synch:x", 9),
            pool: Uuid::from_u128(2),
            history: None,
            block_bytes: 4096,
            written_blocks: 2,
            unmapped_blocks: 1,
            ranges: vec![
                DiffRange { block: 3, blocks: 2, kind: DiffKind::Written },
                DiffRange { block: 9, blocks: 1, kind: DiffKind::Unmapped },
            ],
            next_block: None,
        }
    }

    #[test]
    fn a_difference_is_shown_in_blocks_and_in_bytes() {
        let text = diff_ranges(&page().ranges);
        assert!(text.contains("3..5") && text.contains("8 KiB") && text.contains("unmapped"), "{text}");
        assert_eq!(changed_blocks(&page()), "12288 8192 data\n36864 4096 zero\n");
        let text = diff_summary(&page());
        assert!(text.contains("nothing: an empty volume") && text.contains("synch:x = lsn:9"), "{text}");
    }

    #[test]
    fn a_history_says_how_to_go_on() {
        let version = BlockVersion {
            block: 4,
            blocks: 1,
            kind: BlockChange::Write,
            lsn: 70,
            point_lsn: 71,
            time_ns: Some(1_000_000_000),
            superseded_lsn: Some(60),
            from_lsn: None,
            image: 2,
            place: BlockPlace::Archive,
        };
        let next = crate::volume::HistoryPosition { lsn: 69, image: 2, known_lsn: 80, version_lsn: Some(60) };
        let uuid = Uuid::from_u128(1);
        let (volume, versions) = ("a".to_owned(), vec![version]);
        let page = HistoryPage { volume, uuid, versions, next: Some(next), end: None };
        let text = history(&page);
        assert!(
            text.contains("lsn:71") && text.contains("archive") && text.contains("--from 69.2.80.60"),
            "{text}"
        );
    }
}
