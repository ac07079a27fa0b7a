//! `varve diff --apply`: puts the changes of a file onto a volume. See the module above.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::super::commands::Command;
use super::super::error::TransferError;
use super::super::{CLEAR_BLOCKS_MAX, bar, call, connect, failed, find_volume, ignore, refuse_in_use};
use super::standing::{APPLIED, BEGUN, changes_since, check_from, check_resumed, find_mark};
use super::{Checked, broken, check_file, hex};
use crate::cli::block_args::DiffArgs;
use crate::cli::cells::size;
use crate::cli::{Client, CommandError, print};
use crate::dma::BLOCK_BYTES;
use crate::increment::{EntryKind, IncrementReader};
use crate::volume::{SynchInfo, VolumeInfo};

/// Puts the changes of a file onto a volume.
pub(in crate::cli) fn apply(
    client: &mut Client,
    args: &DiffArgs,
    path: &Path,
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let started = Instant::now();
    let checked = check_file(path)?;
    let name = &args.volume;
    let [member] = &checked.description.members[..] else {
        let count = checked.description.members.len();
        return Err(
            format!("{} is of {count} volumes, and this command applies to one", path.display()).into()
        );
    };
    let to_bytes = member.to_size_blocks * BLOCK_BYTES as u64;
    let target = find_target(client, args, to_bytes)?;
    let mark = find_mark(client, &target, &checked.digest)?;
    if let Some((synch, true)) = &mark
        && !is_to_be_applied_again(client, &target, synch, args.force)?
    {
        return print(output, &format!("volume {name} has this increment already: synch:{}\n", synch.id));
    }
    if !args.force {
        match &mark {
            Some((_, true)) => {}
            Some((synch, false)) => check_resumed(client, &target, synch, &checked)?,
            None => check_from(client, &target, member, &checked)?,
        }
    }
    let details = details_of(&checked, &target);
    let begun = match mark {
        Some((synch, false)) => synch,
        _ => call(client, "synch_create", json!({"label": BEGUN, "details": details}))?,
    };
    if target.size_bytes < to_bytes {
        let _: VolumeInfo = call(client, "volume_resize", json!({"name": name, "size": to_bytes}))?;
    }
    let written = write_changes(client, name, path, &checked);
    written.map_err(|error| {
        format!(
            "volume '{name}' holds a part of the increment only: {error}; the same command goes on with the rest, and synch:{} is the state before it",
            begun.id
        )
    })?;
    let done: SynchInfo = call(client, "synch_create", json!({"label": APPLIED, "details": details}))?;
    print(output, &report(&checked, name, (&begun, &done), json, started))
}

/// What is printed of an apply, between two synchs.
fn report(
    checked: &Checked,
    name: &str,
    (begun, done): (&SynchInfo, &SynchInfo),
    json: bool,
    started: Instant,
) -> String {
    if json {
        let report = json!({
            "volume": name, "digest": hex(&checked.digest), "series": checked.header.series,
            "number": checked.header.number, "data_blocks": checked.header.data_blocks,
            "unmapped_blocks": checked.header.unmapped_blocks, "before": begun.id, "after": done.id,
        });
        format!("{report:#}\n")
    } else {
        format!(
            "{} blocks of data were written to volume {name} and {} discarded in {:.1} s: it is as {} of pool {} was, synch:{}; before, it was as synch:{} has it\n",
            checked.header.data_blocks,
            checked.header.unmapped_blocks,
            started.elapsed().as_secs_f64(),
            checked.description.to.point,
            checked.header.pool,
            done.id,
            begun.id
        )
    }
}

/// The volume that gets an increment, after which it has `to_bytes` bytes.
fn find_target(client: &mut Client, args: &DiffArgs, to_bytes: u64) -> Result<VolumeInfo, CommandError> {
    let name = &args.volume;
    let target = find_volume(client, name)?
        .ok_or_else(|| format!("there is no volume '{name}'; `varve volume list` shows what there is"))?;
    if target.read_only {
        return Err(TransferError::ReadOnly { volume: name.clone() }.into());
    }
    if !args.force {
        refuse_in_use(client, name)?;
    }
    if target.size_bytes > to_bytes && !args.force {
        return Err(format!(
            "volume '{name}' has {}, and is to have {} after this increment; volumes do not shrink: apply it to another volume, or leave the size as it is with --force",
            size(target.size_bytes),
            size(to_bytes)
        )
        .into());
    }
    Ok(target)
}

/// Whether an increment that ended with a synch must be applied again: the volume was written
/// since, and that is forced.
fn is_to_be_applied_again(
    client: &mut Client,
    target: &VolumeInfo,
    synch: &SynchInfo,
    force: bool,
) -> Result<bool, CommandError> {
    let since = changes_since(client, target, synch)?;
    let blocks = since.written_blocks + since.unmapped_blocks;
    if blocks > 0 && !force {
        return Err(format!(
            "volume '{}' got this increment at synch:{}, and was written since: {blocks} blocks differ; apply it again with --force",
            target.name, synch.id
        )
        .into());
    }
    Ok(blocks > 0)
}

/// What the synchs of an increment record.
fn details_of(checked: &Checked, target: &VolumeInfo) -> Value {
    let Checked { header, description, digest, .. } = checked;
    json!({
        "digest": hex(digest), "volume": target.uuid, "series": header.series, "number": header.number,
        "pool": header.pool, "lsn": header.to_lsn, "time_ns": header.to_ns, "point": description.to.point,
    })
}

/// Writes and clears the blocks of an increment.
fn write_changes(
    client: &mut Client,
    name: &str,
    path: &Path,
    checked: &Checked,
) -> Result<(), CommandError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let mut reader = IncrementReader::open(BufReader::new(file)).map_err(broken(path))?;
    let mut commands = connect(client, name)?;
    let piece_bytes = (commands.transfer_bytes() / BLOCK_BYTES).max(1) * BLOCK_BYTES;
    let bar = bar("applying", checked.header.data_blocks * BLOCK_BYTES as u64);
    while let Some(chunk) = reader.next_chunk().map_err(broken(path))? {
        for (entry, data) in chunk.pieces() {
            let mut at = entry.block * BLOCK_BYTES as u64;
            match entry.kind {
                EntryKind::Data => {
                    for piece in data.chunks(piece_bytes) {
                        commands.push(Command::write(at, piece.to_vec()), &mut ignore)?;
                        at += piece.len() as u64;
                        bar.inc(piece.len() as u64);
                    }
                }
                EntryKind::Unmapped => {
                    let end = at + entry.blocks * BLOCK_BYTES as u64;
                    while at < end {
                        let clear_bytes = (end - at).min(CLEAR_BLOCKS_MAX * BLOCK_BYTES as u64);
                        commands.push(Command::clear(at, clear_bytes), &mut ignore)?;
                        at += clear_bytes;
                    }
                }
            }
        }
    }
    if reader.digest() != Some(checked.digest) {
        return Err(format!("{} was changed while it was applied", path.display()).into());
    }
    commands.drain(&mut ignore)?;
    commands.flush()?;
    commands.close();
    bar.finish_and_clear();
    Ok(())
}
