//! `varve point list`: calls until the requested part of the time line is complete, because one
//! answer covers only some segments.

use std::io::Write;

use serde_json::{Map, Value, json};

use super::client::Client;
use super::output::print;
use super::point_args::PointListOptions;
use super::render_point;
use crate::options::CommandError;
use crate::volume::TimeLine;

/// The maximum number of entries of a kind in one answer.
const PAGE_ENTRIES_MAX: u64 = 10_000;

/// Shows a part of the time line.
///
/// # Errors
/// Those of the calls, and of the output.
pub(super) fn list(
    client: &mut Client,
    options: &PointListOptions,
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let mut line: Option<TimeLine> = None;
    loop {
        let next_lsn = line.as_ref().map_or(options.from_lsn, |line| line.next_lsn);
        let left = options.limit.saturating_sub(line.as_ref().map_or(0, longest));
        if left == 0 || (line.is_some() && next_lsn.is_none()) {
            break;
        }
        let piece = client.call("point_list", params(options, next_lsn, left.min(PAGE_ENTRIES_MAX)))?;
        let piece: TimeLine = serde_json::from_value(piece)?;
        match &mut line {
            None => line = Some(piece),
            Some(line) => append(line, piece),
        }
    }
    let line = line.unwrap_or_default();
    let text = if json {
        format!("{:#}\n", serde_json::to_value(&line)?)
    } else {
        render_point::time_line(&line, options.writes, options.every.is_some())
    };
    print(output, &text)
}

fn params(options: &PointListOptions, from_lsn: Option<u64>, limit: u64) -> Map<String, Value> {
    let params = json!({
        "volume": options.volume,
        "from": options.from,
        "to": options.to,
        "from_lsn": from_lsn,
        "every": options.every,
        "writes": options.writes.then_some(true),
        "limit": limit,
    });
    match params {
        Value::Object(members) => members.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

/// How many entries of the kind that has most there are.
fn longest(line: &TimeLine) -> u64 {
    line.marks.len().max(line.bursts.len()).max(line.commands.len()) as u64
}

/// Adds the next piece to a line.
fn append(line: &mut TimeLine, piece: TimeLine) {
    let mut bursts = piece.bursts.into_iter().peekable();
    if let Some(last) = line.bursts.last_mut()
        && let Some(more) = bursts.next_if(|first| first.from_ns == last.from_ns)
    {
        last.last_lsn = more.last_lsn;
        last.writes += more.writes;
        last.written_bytes += more.written_bytes;
        last.trims += more.trims;
        last.trimmed_bytes += more.trimmed_bytes;
    }
    line.bursts.extend(bursts);
    line.marks.extend(piece.marks);
    line.commands.extend(piece.commands);
    for gap in piece.gaps {
        if line.gaps.last().is_none_or(|last| last.from_lsn < gap.from_lsn) {
            line.gaps.push(gap);
        }
    }
    line.next_lsn = piece.next_lsn;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::BurstInfo;

    #[test]
    fn an_interval_in_two_pieces_is_shown_once() {
        let burst = |from_ns, lsn, writes| BurstInfo {
            from_ns,
            first_lsn: lsn,
            last_lsn: lsn,
            writes,
            written_bytes: writes * 4096,
            trims: 0,
            trimmed_bytes: 0,
        };
        let mut line = TimeLine { bursts: vec![burst(0, 1, 2)], next_lsn: Some(2), ..TimeLine::default() };
        let piece = TimeLine { bursts: vec![burst(0, 5, 3), burst(10, 9, 1)], ..TimeLine::default() };
        append(&mut line, piece);
        let seen: Vec<_> =
            line.bursts.iter().map(|burst| (burst.from_ns, burst.last_lsn, burst.writes)).collect();
        assert_eq!((seen, line.next_lsn), (vec![(0, 5, 5), (10, 9, 1)], None));
    }
}
