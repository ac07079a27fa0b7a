//! `varve diff --export`: writes the changes of a volume between two points into a file.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use uuid::Uuid;

use super::super::commands::{Command, Commands};
use super::super::error::TransferError;
use super::super::{PARTIAL_SUFFIX, bar, call, connect, failed};
use super::in_order::{InOrder, Wanted};
use super::{Checked, broken, check_file, hex};
use crate::cli::block_args::{DiffArgs, NOTHING};
use crate::cli::blocks::page;
use crate::cli::cells::size;
use crate::cli::{Client, CommandError, print};
use crate::dma::BLOCK_BYTES;
use crate::increment::{Description, Header, IncrementWriter, Kind, Member, PointText, Summary};
use crate::log::Lsn;
use crate::volume::{CloneInfo, DiffKind, DiffPage};

/// What an increment continues.
struct Series {
    id: Uuid,
    number: u64,
    previous_digest: [u8; 32],
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
    let after = args.after.as_ref().map(|before| Ok::<_, CommandError>((before, check_file(before)?)));
    let after = after.transpose()?;
    let (series, from, to) = match &after {
        None => {
            let series = Series { id: Uuid::new_v4(), number: 0, previous_digest: [0; 32] };
            (series, args.from.clone().unwrap_or_default(), args.to.clone())
        }
        Some((_, Checked { header, digest, .. })) => {
            let series = Series { id: header.series, number: header.number + 1, previous_digest: *digest };
            (series, format!("lsn:{}", header.to_lsn), args.from.clone())
        }
    };
    let first = page(client, (&args.volume, &from, to.as_deref()), 0)?;
    if let Some((before, checked)) = &after {
        check_same_pool(&checked.header, &first, before)?;
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
    print(output, &report(&page, &summary, &series, path, json, started))
}

/// What is printed of an export.
fn report(
    page: &DiffPage,
    summary: &Summary,
    series: &Series,
    path: &Path,
    json: bool,
    started: Instant,
) -> String {
    if json {
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
    }
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

/// What the file says of itself.
fn head_of(first: &DiffPage, series: &Series) -> (Header, Description) {
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
    (header, description)
}

fn write_increment(
    client: &mut Client,
    commands: &mut Commands,
    first: &DiffPage,
    series: &Series,
    path: &Path,
) -> Result<Summary, CommandError> {
    let (header, description) = head_of(first, series);
    let file = crate::private::create(path).map_err(failed("make", path))?;
    let writer = IncrementWriter::begin(BufWriter::new(file), header, &description).map_err(broken(path))?;
    let progress = bar("exporting", first.written_blocks * BLOCK_BYTES as u64);
    let mut in_order = InOrder::new(writer, path);
    let (volume, to) = (first.to.uuid.to_string(), format!("lsn:{}", first.to.lsn));
    let from = if first.from.lsn == 0 { NOTHING.to_owned() } else { format!("lsn:{}", first.from.lsn) };
    let mut ranges = first.ranges.clone();
    let mut next_block = first.next_block;
    let piece_blocks = (commands.transfer_bytes() / BLOCK_BYTES).max(1) as u64;
    loop {
        for range in &ranges {
            let end = range.block + range.blocks;
            if range.kind == DiffKind::Unmapped {
                in_order.want(Wanted::Unmapped(range.block, range.blocks));
                continue;
            }
            for block in (range.block..end).step_by(piece_blocks as usize) {
                let bytes = (end - block).min(piece_blocks) * BLOCK_BYTES as u64;
                if in_order.is_full() {
                    commands.drain(&mut |offset, data| in_order.take(offset, data))?;
                }
                in_order.want(Wanted::Data(block));
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
    let writer = in_order.finish()?;
    progress.finish_and_clear();
    let (summary, file) = writer.finish().map_err(broken(path))?;
    let file = file.into_inner().map_err(|error| failed("write", path)(error.into_error()))?;
    file.sync_all().map_err(failed("write", path))?;
    Ok(summary)
}
