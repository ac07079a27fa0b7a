//! How sessions, steps and searches are shown.

use std::fmt::Write;

use super::cells::size;
use crate::text::table::{Table, pairs};
use crate::text::units::format_time;
use crate::volume::{BisectInfo, FoundCommand, Position, SessionInfo, StepInfo, Verdict};

/// The most ranges that are shown; the rest is counted.
const RANGES_SHOWN: usize = 8;

pub(super) fn verdict_text(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "good",
        Verdict::Bad => "bad",
        Verdict::Skip => "skip",
    }
}

fn position(at: Position) -> String {
    format!("lsn:{}, {}", at.lsn, format_time(at.time_ns))
}

/// All sessions, as a table; one alone with its verdicts.
pub(super) fn sessions(sessions: &[SessionInfo]) -> String {
    let mut table = Table::new(["NAME", "VOLUME", ">AT", "TIME", ">SIZE", ">KEPT FROM", ">TO", "WRITTEN"]);
    for session in sessions {
        table.row([
            session.name.clone(),
            session.of().to_owned(),
            session.at.lsn.to_string(),
            format_time(session.at.time_ns),
            size(size_of(session)),
            session.oldest_lsn.to_string(),
            session.newest_lsn.to_string(),
            if session.is_written() { "yes" } else { "no" }.to_owned(),
        ]);
    }
    let mut text = table.render("no sessions; varve restore open VOLUME --at POINT --name NAME opens one");
    if let [SessionInfo { group: Some(_), members, .. }] = sessions {
        let mut table = Table::new(["VOLUME", "CLONE", ">SIZE", "WRITTEN"]);
        for member in members {
            table.row([
                member.volume.clone(),
                member.clone.clone(),
                size(member.size_bytes),
                if member.is_written { "yes" } else { "no" }.to_owned(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render(""));
    }
    if let [session] = sessions
        && !session.verdicts.is_empty()
    {
        let mut verdicts = Table::new([">LSN", "TIME", "VERDICT"]);
        for known in &session.verdicts {
            let verdict = verdict_text(known.verdict).to_owned();
            verdicts.row([known.lsn.to_string(), format_time(known.time_ns), verdict]);
        }
        text.push('\n');
        text.push_str(&verdicts.render(""));
    }
    text
}

fn size_of(session: &SessionInfo) -> u64 {
    session.members.iter().map(|member| member.size_bytes).sum()
}

pub(super) fn session(session: SessionInfo) -> String {
    sessions(&[session])
}

fn cost_text(step: &StepInfo) -> String {
    let cost = &step.cost;
    let mut text =
        format!("{} entries of {} segments", cost.entries + cost.entries_scanned, cost.segments_read);
    if cost.anchor_bytes > 0 {
        let _ = write!(text, " and {} of an anchor", super::cells::size(cost.anchor_bytes));
    }
    if cost.opened_anew {
        text.push_str(", the whole index by a scan");
    } else if cost.ranges_rebuilt > 0 {
        let _ = write!(text, ", {} ranges by a scan", cost.ranges_rebuilt);
    }
    let _ = write!(
        text,
        ", {:.2} ms; {:.2} ms until it was stable",
        step.moved_us as f64 / 1000.0,
        step.durable_us as f64 / 1000.0
    );
    text
}

pub(super) fn step(step: &StepInfo) -> String {
    let session = &step.session;
    let mut rows = vec![
        ("Session", session.name.clone()),
        ("At", position(session.at)),
        ("From", format!("lsn:{}", step.from_lsn)),
        ("Size", size(size_of(session))),
    ];
    for changed in &step.changed {
        let blocks: u64 = changed.ranges.iter().map(|(_, blocks)| blocks).sum();
        let of = if session.group.is_some() { format!(" of {}", changed.clone) } else { String::new() };
        rows.push(("Changed", format!("at most {blocks} blocks{of}: {}", ranges(&changed.ranges))));
    }
    rows.push(("Read", cost_text(step)));
    pairs(rows)
}

/// Ranges of blocks, the first few of them.
fn ranges(ranges: &[(u64, u64)]) -> String {
    let text = |&(block, count): &(u64, u64)| match count {
        1 => block.to_string(),
        _ => format!("{block} to {}", block + count - 1),
    };
    let mut shown: Vec<String> = ranges.iter().take(RANGES_SHOWN).map(text).collect();
    if ranges.len() > RANGES_SHOWN {
        shown.push(format!("and {} more", ranges.len() - RANGES_SHOWN));
    }
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

pub(super) fn found(found: &FoundCommand) -> String {
    let kind = if found.is_trim { "trim" } else { "write" };
    format!("{}: a {kind} of the blocks {} of {}", position(found.at), ranges(&found.blocks), found.volume)
}

fn lsns(list: &[u64]) -> String {
    list.iter().map(|lsn| format!("lsn:{lsn}")).collect::<Vec<_>>().join(", ")
}

/// The state of a search.
pub(super) fn bisect(info: &BisectInfo) -> String {
    let mut rows = vec![
        ("Last good", position(info.last_good)),
        ("First bad", position(info.first_bad)),
        ("Left", format!("{} commands, about {} looks", info.commands, info.looks_left)),
    ];
    if let Some(step) = &info.step {
        let name = &step.session.name;
        rows.push(("Now at", position(step.session.at)));
        rows.push(("Read", cost_text(step)));
        let clones: Vec<&str> = step.session.members.iter().map(|member| member.clone.as_str()).collect();
        let look = match clones.as_slice() {
            [clone] => format!("look at the clone '{clone}'"),
            clones => format!("look at the clones {}", clones.join(", ")),
        };
        rows.push(("Next", format!("{look}, then varve restore good|bad|skip {name}, and bisect again")));
    }
    if let Some(command) = &info.found {
        rows.push(("Found", found(command)));
    }
    if info.step.is_none() && info.found.is_none() {
        let unsaid = format!(
            "the command is one of the {} behind the last good position, because {} of the positions between were skipped",
            info.commands,
            info.skipped.len()
        );
        rows.push(("Not found", unsaid));
    }
    if !info.skipped.is_empty() {
        rows.push(("Skipped", lsns(&info.skipped)));
    }
    if !info.good_behind_bad.is_empty() {
        let good = format!(
            "{} are good and behind the first bad position: the fault came and went, or a verdict is wrong",
            lsns(&info.good_behind_bad)
        );
        rows.push(("Note", good));
    }
    pairs(rows)
}
