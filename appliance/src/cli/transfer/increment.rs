//! `varve diff --export` and `varve diff --apply`: the changes of a volume between two points, in a
//! file.
//!
//! The ranges come from the appliance over JSON-RPC, the data over NVMe/TCP as for `volume export`:
//! an export reads a read-only clone of the second point, which is deleted again. So the data has
//! one way out, with its checks, its limits and its fairness to other hosts.
//!
//! **An apply** reads the whole file and checks it before the first write; it checks that the
//! volume is as the first point was. Two synchs mark it: `increment-begin` before the first write,
//! and `increment` behind the last. If it ends between them, the volume holds a part of the
//! changes: the same command goes on, because every block has one last content, and the first synch
//! is the state to go back to.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use uuid::Uuid;

use super::commands::{Command, Commands};
use super::error::TransferError;
use super::{
    CLEAR_BLOCKS_MAX, PARTIAL_SUFFIX, bar, call, connect, failed, find_volume, ignore, refuse_in_use,
};
use crate::cli::block_args::{DiffArgs, NOTHING};
use crate::cli::blocks::page;
use crate::cli::cells::size;
use crate::cli::{Client, CommandError, print};
use crate::dma::BLOCK_BYTES;
use crate::increment::{
    Description, EntryKind, Header, IncrementError, IncrementReader, IncrementWriter, Kind, Member,
    PointText, Summary,
};
use crate::log::Lsn;
use crate::volume::index::RangeSet;
use crate::volume::{CloneInfo, DiffKind, DiffPage, PoolInfo, SynchInfo, VolumeInfo};

/// The label of the synch behind an increment that was applied.
const APPLIED: &str = "increment";
/// The label of the synch before an increment is applied.
const BEGUN: &str = "increment-begin";

/// How many pieces of data may wait for one that is before them.
const WAITING_PIECES_MAX: usize = 64;

fn broken(path: &Path) -> impl Fn(IncrementError) -> TransferError {
    move |source| TransferError::Increment { path: path.to_owned(), source }
}

/// A digest as text.
fn hex(digest: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*digest).to_hex().to_string()
}

/// What an increment continues.
struct Series {
    id: Uuid,
    number: u64,
    previous_digest: [u8; 32],
}

/// An increment that was read to its end, with every check.
struct Checked {
    header: Header,
    description: Description,
    digest: [u8; 32],
    /// The blocks that it changes.
    blocks: RangeSet,
}

fn check_file(path: &Path) -> Result<Checked, TransferError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let mut reader = IncrementReader::open(BufReader::new(file)).map_err(broken(path))?;
    let mut blocks = RangeSet::default();
    while let Some(chunk) = reader.next_chunk().map_err(broken(path))? {
        for entry in chunk.entries {
            blocks.insert(entry.block, entry.block + entry.blocks);
        }
    }
    let digest = reader.digest().unwrap_or_default();
    Ok(Checked { header: *reader.header(), description: reader.description().clone(), digest, blocks })
}

/// Writes the changes of a volume between two points into a file.
pub(in crate::cli) fn export(
    client: &mut Client,
    args: &DiffArgs,
    path: &Path,
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let started = Instant::now();
    if path.exists() && !args.force {
        return Err(TransferError::Exists { path: path.to_owned() }.into());
    }
    let (series, from, to) = match &args.after {
        None => {
            let series = Series { id: Uuid::new_v4(), number: 0, previous_digest: [0; 32] };
            (series, args.from.clone().unwrap_or_default(), args.to.clone())
        }
        Some(before) => {
            let Checked { header, digest, .. } = check_file(before)?;
            let series = Series { id: header.series, number: header.number + 1, previous_digest: digest };
            (series, format!("lsn:{}", header.to_lsn), args.from.clone())
        }
    };
    let first = page(client, (&args.volume, &from, to.as_deref()), 0)?;
    if let Some(before) = &args.after {
        check_same_pool(&check_file(before)?.header, &first, before)?;
    }
    let clone = format!("export-{}", &Uuid::new_v4().simple().to_string()[..8]);
    let params = json!({
        "volume": first.to.volume, "at": format!("lsn:{}", first.to.lsn), "name": clone, "read_only": true,
    });
    let _: CloneInfo = call(client, "restore_clone", params)?;
    let exported = export_clone(client, &clone, first, &series, path);
    let deleted: Result<Value, CommandError> =
        call(client, "volume_delete", json!({"name": clone, "force": true}));
    let (page, summary) = match (exported, deleted) {
        (Ok(_), Err(error)) => {
            return Err(format!(
                "{} is complete, but the clone '{clone}' that it was read from is still there: {error}; delete it (varve volume delete {clone})",
                path.display()
            )
            .into());
        }
        (exported, _) => exported?,
    };
    let text = if json {
        let report = json!({
            "volume": page.to.volume, "uuid": page.to.uuid, "from": page.from, "to": page.to,
            "series": series.id, "number": series.number, "digest": hex(&summary.digest),
            "data_blocks": summary.data_blocks, "unmapped_blocks": summary.unmapped_blocks,
            "file_bytes": summary.file_bytes,
        });
        format!("{report:#}\n")
    } else {
        format!(
            "{} holds what changed in volume {} from {} to lsn:{}: {} blocks of data, {} unmapped; {} in {:.1} s\n",
            path.display(),
            page.to.volume,
            if page.from.lsn == 0 { NOTHING.to_owned() } else { format!("lsn:{}", page.from.lsn) },
            page.to.lsn,
            summary.data_blocks,
            summary.unmapped_blocks,
            size(summary.file_bytes),
            started.elapsed().as_secs_f64()
        )
    };
    print(output, &text)
}

/// An increment continues one of the same pool and history.
fn check_same_pool(header: &Header, page: &DiffPage, before: &Path) -> Result<(), CommandError> {
    if header.pool == page.pool && header.history == page.history.unwrap_or_default() {
        return Ok(());
    }
    Err(format!(
        "{} is an increment of pool {}, history {}, and this is pool {}, history {}: its positions mean nothing here; begin a new series from a point of this pool",
        before.display(),
        header.pool,
        header.history,
        page.pool,
        page.history.unwrap_or_default()
    )
    .into())
}

/// Reads the changed blocks from a clone of the second point.
fn export_clone(
    client: &mut Client,
    clone: &str,
    first: DiffPage,
    series: &Series,
    path: &Path,
) -> Result<(DiffPage, Summary), CommandError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL_SUFFIX);
    let partial = PathBuf::from(partial);
    let mut commands = connect(client, clone)?;
    let exported = write_increment(client, &mut commands, &first, series, &partial);
    commands.close();
    let renamed = exported.and_then(|summary| {
        std::fs::rename(&partial, path).map_err(failed("rename to", path))?;
        crate::private::sync_parent(path).map_err(failed("rename to", path))?;
        Ok(summary)
    });
    if renamed.is_err() {
        // The partial file would only take space. The failed export matters more than a failure to
        // remove it.
        let _ = std::fs::remove_file(&partial);
    }
    Ok((first, renamed?))
}

fn write_increment(
    client: &mut Client,
    commands: &mut Commands,
    first: &DiffPage,
    series: &Series,
    path: &Path,
) -> Result<Summary, CommandError> {
    let made_ns = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let header = Header {
        kind: Kind::Net,
        pool: first.pool,
        history: first.history.unwrap_or_default(),
        series: series.id,
        number: series.number,
        from_lsn: Lsn(first.from.lsn),
        to_lsn: Lsn(first.to.lsn),
        from_ns: first.from.time_ns,
        to_ns: first.to.time_ns,
        made_ns: made_ns.map_or(0, |since| since.as_nanos() as u64),
        previous_digest: series.previous_digest,
        data_blocks: first.written_blocks,
        unmapped_blocks: first.unmapped_blocks,
    };
    let description = Description {
        from: PointText { point: first.from.point.clone() },
        to: PointText { point: first.to.point.clone() },
        members: vec![Member {
            uuid: first.to.uuid,
            name: first.to.volume.clone(),
            from_size_blocks: first.from.size_blocks,
            to_size_blocks: first.to.size_blocks,
        }],
    };
    let file = crate::private::create(path).map_err(failed("make", path))?;
    let writer = IncrementWriter::begin(BufWriter::new(file), header, &description).map_err(broken(path))?;
    let progress = bar("exporting", first.written_blocks * BLOCK_BYTES as u64);
    let mut in_order = InOrder { writer, path, wanted: VecDeque::new(), arrived: BTreeMap::new() };
    let (volume, to) = (first.to.uuid.to_string(), format!("lsn:{}", first.to.lsn));
    let from = if first.from.lsn == 0 { NOTHING.to_owned() } else { format!("lsn:{}", first.from.lsn) };
    let mut ranges = first.ranges.clone();
    let mut next_block = first.next_block;
    let piece_blocks = (commands.transfer_bytes() / BLOCK_BYTES).max(1) as u64;
    loop {
        for range in &ranges {
            let end = range.block + range.blocks;
            if range.kind == DiffKind::Unmapped {
                in_order.wanted.push_back(Wanted::Unmapped(range.block, range.blocks));
                continue;
            }
            for block in (range.block..end).step_by(piece_blocks as usize) {
                let bytes = (end - block).min(piece_blocks) * BLOCK_BYTES as u64;
                if in_order.arrived.len() >= WAITING_PIECES_MAX {
                    commands.drain(&mut |offset, data| in_order.take(offset, data))?;
                }
                in_order.wanted.push_back(Wanted::Data(block));
                let read = Command::read(block * BLOCK_BYTES as u64, bytes);
                commands.push(read, &mut |offset, data| in_order.take(offset, data))?;
                progress.inc(bytes);
            }
        }
        let Some(block) = next_block else { break };
        let more = page(client, (&volume, &from, Some(&to)), block)?;
        (ranges, next_block) = (more.ranges, more.next_block);
    }
    commands.drain(&mut |offset, data| in_order.take(offset, data))?;
    in_order.write_ready()?;
    progress.finish_and_clear();
    let (summary, file) = in_order.writer.finish().map_err(broken(path))?;
    let file = file.into_inner().map_err(|error| failed("write", path)(error.into_error()))?;
    file.sync_all().map_err(failed("write", path))?;
    Ok(summary)
}

/// What is written next.
enum Wanted {
    /// The data that begins with a block.
    Data(u64),
    /// Blocks without contents.
    Unmapped(u64, u64),
}

/// Brings data, which arrives in any order, into the order of blocks. Bound:
/// [`WAITING_PIECES_MAX`] pieces, and those of the commands under way.
struct InOrder<'a> {
    writer: IncrementWriter<BufWriter<File>>,
    path: &'a Path,
    wanted: VecDeque<Wanted>,
    arrived: BTreeMap<u64, Vec<u8>>,
}

impl InOrder<'_> {
    fn take(&mut self, offset_bytes: u64, data: &[u8]) -> Result<(), TransferError> {
        self.arrived.insert(offset_bytes / BLOCK_BYTES as u64, data.to_vec());
        self.write_ready()
    }

    fn write_ready(&mut self) -> Result<(), TransferError> {
        while let Some(next) = self.wanted.front() {
            let written = match *next {
                Wanted::Unmapped(block, blocks) => self.writer.unmapped(0, block, blocks),
                Wanted::Data(block) => match self.arrived.remove(&block) {
                    Some(data) => self.writer.data(0, block, &data),
                    None => return Ok(()),
                },
            };
            written.map_err(broken(self.path))?;
            self.wanted.pop_front();
        }
        Ok(())
    }
}

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
    let target = find_volume(client, name)?
        .ok_or_else(|| format!("there is no volume '{name}'; `varve volume list` shows what there is"))?;
    if target.read_only {
        return Err(TransferError::ReadOnly { volume: name.clone() }.into());
    }
    if !args.force {
        refuse_in_use(client, name)?;
    }
    let to_bytes = member.to_size_blocks * BLOCK_BYTES as u64;
    if target.size_bytes > to_bytes && !args.force {
        return Err(format!(
            "volume '{name}' has {}, and is to have {} after this increment; volumes do not shrink: apply it to another volume, or leave the size as it is with --force",
            size(target.size_bytes),
            size(to_bytes)
        )
        .into());
    }
    let mark = find_mark(client, &target, &checked.digest)?;
    match &mark {
        Some((synch, true)) => {
            let since = changes_since(client, &target, synch)?;
            if since.written_blocks + since.unmapped_blocks == 0 {
                return print(
                    output,
                    &format!("volume {name} has this increment already: synch:{}\n", synch.id),
                );
            }
            if !args.force {
                return Err(format!(
                    "volume '{name}' got this increment at synch:{}, and was written since: {} blocks differ; apply it again with --force",
                    synch.id,
                    since.written_blocks + since.unmapped_blocks
                )
                .into());
            }
        }
        Some((synch, false)) if !args.force => check_resumed(client, &target, synch, &checked)?,
        _ if args.force => {}
        _ => check_from(client, &target, member, &checked)?,
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
    let text = if json {
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
    };
    print(output, &text)
}

/// What the synchs of an increment record.
fn details_of(checked: &Checked, target: &VolumeInfo) -> Value {
    let Checked { header, description, digest, .. } = checked;
    json!({
        "digest": hex(digest), "volume": target.uuid, "series": header.series, "number": header.number,
        "pool": header.pool, "lsn": header.to_lsn, "time_ns": header.to_ns, "point": description.to.point,
    })
}

/// The newest synch of a volume that names a digest, and whether it marks the end of an apply.
fn find_mark(
    client: &mut Client,
    target: &VolumeInfo,
    digest: &[u8; 32],
) -> Result<Option<(SynchInfo, bool)>, CommandError> {
    let (volume, digest) = (target.uuid.to_string(), hex(digest));
    let (mut from, mut found) = (0, None);
    loop {
        let synchs: Vec<SynchInfo> = call(client, "synch_list", json!({"from": from}))?;
        let Some(last) = synchs.last() else { return Ok(found) };
        from = last.lsn + 1;
        for synch in synchs {
            let is_mark = synch.label == APPLIED || synch.label == BEGUN;
            if is_mark
                && synch.details["volume"] == volume.as_str()
                && synch.details["digest"] == digest.as_str()
            {
                let is_end = synch.label == APPLIED;
                found = Some((synch, is_end));
            }
        }
    }
}

/// What changed in a volume since a synch.
fn changes_since(
    client: &mut Client,
    target: &VolumeInfo,
    synch: &SynchInfo,
) -> Result<DiffPage, CommandError> {
    page(client, (&target.uuid.to_string(), &format!("lsn:{}", synch.lsn), None), 0)
}

/// Checks that a volume got nothing but this increment since its apply began.
fn check_resumed(
    client: &mut Client,
    target: &VolumeInfo,
    begun: &SynchInfo,
    checked: &Checked,
) -> Result<(), CommandError> {
    let mut since = changes_since(client, target, begun)?;
    let (volume, from, to) =
        (target.uuid.to_string(), format!("lsn:{}", begun.lsn), format!("lsn:{}", since.to.lsn));
    loop {
        for range in &since.ranges {
            if !checked.blocks.covers(range.block, range.block + range.blocks) {
                return Err(format!(
                    "volume '{}' was written since this increment was begun at synch:{}: block {} is not of the increment; go back to that synch first, or go on with --force",
                    target.name, begun.id, range.block
                )
                .into());
            }
        }
        let Some(block) = since.next_block else { return Ok(()) };
        since = page(client, (&volume, &from, Some(&to)), block)?;
    }
}

/// Checks that a volume is as the first point of an increment was.
fn check_from(
    client: &mut Client,
    target: &VolumeInfo,
    member: &Member,
    checked: &Checked,
) -> Result<(), CommandError> {
    let (name, header) = (&target.name, &checked.header);
    let from_point = &checked.description.from.point;
    let differs = |what: String| -> CommandError {
        format!("volume '{name}' is not as {from_point} was, where this increment begins: {what}; apply what is missing first, or apply it anyway with --force").into()
    };
    if header.from_lsn.0 == 0 {
        return match target.mapped_blocks {
            0 => Ok(()),
            blocks => Err(differs(format!("it is not empty, it holds {blocks} blocks"))),
        };
    }
    if let Some((synch, true)) = find_mark(client, target, &header.previous_digest)? {
        let since = changes_since(client, target, &synch)?;
        return match since.written_blocks + since.unmapped_blocks {
            0 => Ok(()),
            blocks => Err(differs(format!(
                "it got the increment before at synch:{}, and {blocks} blocks were written since",
                synch.id
            ))),
        };
    }
    let pools: Vec<PoolInfo> = call(client, "pool_list", Value::Null)?;
    if !pools.iter().any(|pool| pool.uuid == header.pool) {
        return Err(differs(format!(
            "it has not got the increment before it, {} of series {}",
            hex(&header.previous_digest),
            header.series
        )));
    }
    // In the pool that it comes from, the two states are compared.
    let params = json!({
        "volume": member.uuid, "from": format!("lsn:{}", header.from_lsn), "to_volume": target.uuid,
    });
    let since: DiffPage = call(client, "volume_diff", params)?;
    if since.history.unwrap_or_default() != header.history {
        return Err(differs("the pool's history is another one".to_owned()));
    }
    match since.written_blocks + since.unmapped_blocks {
        0 => Ok(()),
        blocks => Err(differs(format!("{blocks} blocks differ"))),
    }
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
