//! `varve block restore`, which starts a job and watches it, and `varve diff`, which fetches a
//! difference page by page.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::block_args::{BlocksArgs, DiffArgs, DiffFormat, NOTHING};
use super::client::Client;
use super::output::print;
use super::render_block::{changed_blocks, diff_ranges, diff_summary};
use crate::options::CommandError;
use crate::text::table::pairs;
use crate::volume::{BlockRestoreInfo, BlockRestoreState, DiffPage, GroupInfo, ResolvedPoint};

/// How often the appliance is asked for the progress.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Calls a method, and reads its result.
pub(super) fn call<T: DeserializeOwned>(
    client: &mut Client,
    method: &str,
    params: Value,
) -> Result<T, CommandError> {
    let members = match params {
        Value::Object(members) => members.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    };
    let result = client.call(method, members)?;
    T::deserialize(&result).map_err(|error| {
        format!("{method}: the appliance is of another version than this command: {error}").into()
    })
}

/// Writes what blocks held at a point; returns when that is done.
pub(super) fn restore(
    client: &mut Client,
    (volume, blocks, at, force): (&str, &BlocksArgs, &str, bool),
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let (block, blocks) = blocks.get();
    let params =
        json!({"volume": volume, "block": block, "blocks": blocks, "at": at, "force": force.then_some(true)});
    let begun: BlockRestoreInfo = call(client, "block_restore", params)?;
    let bar = ProgressBar::new(0).with_message("restoring");
    // If the template cannot be parsed, the bar keeps its default style.
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} blocks {eta}") {
        bar.set_style(style);
    }
    let mut info = begun.clone();
    while matches!(info.state, BlockRestoreState::Comparing | BlockRestoreState::Writing) {
        std::thread::sleep(LOOK_INTERVAL);
        let last: Option<BlockRestoreInfo> = call(client, "block_get_restore", Value::Null)?;
        let key = |info: &BlockRestoreInfo| (info.volume.clone(), info.block, info.before_lsn);
        info = last.filter(|last| key(last) == key(&begun)).ok_or(
            "the appliance does not know of the restore any more: it was restarted, or another restore has begun; run this again to restore the rest",
        )?;
        bar.set_length(info.differing_blocks);
        bar.set_position(info.written_blocks + info.unmapped_blocks);
    }
    bar.finish_and_clear();
    if let Some(problem) = &info.problem {
        return Err(format!(
            "{} of {} blocks of '{volume}' were restored, then: {problem}; before, it was as lsn:{} has it",
            info.written_blocks + info.unmapped_blocks,
            info.differing_blocks,
            info.before_lsn
        )
        .into());
    }
    let text = if json {
        format!("{:#}\n", json!(info))
    } else {
        format!(
            "{} of {blocks} blocks differed: {} were written and {} discarded; volume {volume} holds there what it held at lsn:{}. Before, it was as lsn:{} has it\n",
            info.differing_blocks, info.written_blocks, info.unmapped_blocks, info.lsn, info.before_lsn
        )
    };
    print(output, &text)
}

/// A page of a difference. `from` may be [`NOTHING`].
pub(super) fn page(
    client: &mut Client,
    (volume, from, to): (&str, &str, Option<&str>),
    first_block: u64,
) -> Result<DiffPage, CommandError> {
    let from = Some(from).filter(|&from| from != NOTHING);
    let params = json!({"volume": volume, "from": from, "to": to, "first_block": first_block});
    call(client, "volume_diff", params)
}

/// Prints the difference of a volume, or of each volume of a group, between two points.
pub(super) fn diff(
    client: &mut Client,
    args: &DiffArgs,
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let format = if json { DiffFormat::Json } else { args.format };
    let from = args.from.as_deref().unwrap_or(NOTHING);
    let groups: Vec<GroupInfo> = call(client, "group_list", Value::Null)?;
    let Some(group) = groups.iter().find(|group| group.name == args.volume) else {
        return diff_volume(client, (&args.volume, from, args.to.as_deref()), format, output);
    };
    // All volumes between the same two positions.
    let from = if from == NOTHING { NOTHING.to_owned() } else { position(client, from)? };
    let to = position(client, args.to.as_deref().unwrap_or("now"))?;
    for volume in &group.volumes {
        match format {
            DiffFormat::Ranges => print(output, &pairs([("Volume", volume.name.clone())]))?,
            DiffFormat::Blocks => print(output, &format!("# {}\n", volume.name))?,
            DiffFormat::Json => {}
        }
        diff_volume(client, (&volume.uuid.to_string(), &from, Some(&to)), format, output)?;
    }
    Ok(())
}

/// A point as a position.
fn position(client: &mut Client, point: &str) -> Result<String, CommandError> {
    let point: ResolvedPoint = call(client, "restore_resolve", json!({"point": point}))?;
    Ok(format!("lsn:{}", point.lsn))
}

/// Prints the difference of a volume between two points.
fn diff_volume(
    client: &mut Client,
    (volume, from, to): (&str, &str, Option<&str>),
    format: DiffFormat,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let mut first = page(client, (volume, from, to), 0)?;
    if format == DiffFormat::Ranges {
        print(output, &diff_summary(&first))?;
    }
    // The second point stays what it was when the first page was made.
    let (volume, to) = (first.to.uuid.to_string(), format!("lsn:{}", first.to.lsn));
    let from = if first.from.lsn == 0 { NOTHING.to_owned() } else { format!("lsn:{}", first.from.lsn) };
    let mut next_block = first.next_block.take();
    match format {
        DiffFormat::Ranges => print(output, &format!("\n{}", diff_ranges(&first.ranges)))?,
        DiffFormat::Blocks => print(output, &changed_blocks(&first))?,
        DiffFormat::Json => {}
    }
    while let Some(block) = next_block {
        let mut more = page(client, (&volume, &from, Some(&to)), block)?;
        next_block = more.next_block;
        match format {
            DiffFormat::Ranges => print(output, &diff_ranges(&more.ranges))?,
            DiffFormat::Blocks => print(output, &changed_blocks(&more))?,
            DiffFormat::Json => first.ranges.append(&mut more.ranges),
        }
    }
    if format == DiffFormat::Json {
        print(output, &format!("{:#}\n", json!(first)))?;
    }
    Ok(())
}
