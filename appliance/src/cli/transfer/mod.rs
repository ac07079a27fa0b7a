//! `varve volume import` and `varve volume export`: copies the contents of a volume from or to a
//! file.
//!
//! The addresses and volumes come from the appliance over JSON-RPC; the data goes over NVMe/TCP, as
//! any host's does ([`commands`]). Neither root nor a kernel module is needed.
//!
//! **Interrupted:** an import that ends early leaves what it has written, and says so. An export
//! that ends early leaves no file under the requested name, and deletes the clone that it made.

mod commands;
mod connect;
mod error;
mod extents;
mod image;
mod images;
pub(super) mod increment;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use self::commands::{Command, Commands};
pub(super) use self::connect::{address_of, wait_until_free};
use self::connect::{call, connect, failed, refuse_in_use};
use self::error::TransferError;
use self::extents::{Extent, extents, nonzero_runs};
pub(super) use self::images::Images;
use super::args::{ExportOptions, ImportOptions};
use super::cells::size;
use super::{Client, CommandError, print};
use crate::dma::BLOCK_BYTES;
use crate::volume::{CloneInfo, PoolStats, VolumeInfo};

/// The suffix of a file while an export writes it.
const PARTIAL_SUFFIX: &str = ".partial";
/// The most blocks that one command clears.
const CLEAR_BLOCKS_MAX: u64 = 16_384;

/// A bar for bytes, on standard error if that is a terminal.
fn bar(message: &'static str, len_bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(len_bytes).with_message(message);
    // If the template cannot be parsed, the bar keeps its default style.
    if let Ok(style) =
        ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    {
        bar.set_style(style);
    }
    bar
}

/// The volume of this name, if there is one.
fn find_volume(client: &mut Client, name: &str) -> Result<Option<VolumeInfo>, CommandError> {
    let volumes: Vec<VolumeInfo> = call(client, "volume_list", Value::Null)?;
    Ok(volumes.into_iter().find(|volume| volume.name == name))
}

/// Writes a file into a volume, which is created if it does not exist.
pub(super) fn import(
    client: &mut Client,
    options: &ImportOptions,
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let started = Instant::now();
    let (file, file_bytes) = open_source(&options.file)?;
    let name = &options.name;
    let existing = find_volume(client, name)?;
    let (is_made, has_contents) = match &existing {
        Some(volume) if volume.read_only => {
            return Err(TransferError::ReadOnly { volume: name.clone() }.into());
        }
        Some(volume) if volume.size_bytes < file_bytes => {
            let (path, volume_bytes) = (options.file.clone(), volume.size_bytes);
            return Err(
                TransferError::TooLarge { path, file_bytes, volume: name.clone(), volume_bytes }.into()
            );
        }
        Some(volume) => (false, volume.mapped_blocks > 0),
        None => {
            let params = json!({"name": name, "size": file_bytes.next_multiple_of(BLOCK_BYTES as u64)});
            let _: VolumeInfo = call(client, "volume_create", params)?;
            (true, false)
        }
    };
    if !is_made && !options.force {
        refuse_in_use(client, name)?;
    }
    let before: PoolStats = call(client, "pool_stats", Value::Null)?;
    let mut commands = connect(client, name)?;
    let bar = bar("importing", file_bytes);
    let written_bytes = write_all(&mut commands, &file, &options.file, file_bytes, has_contents, &bar)
        .map_err(|error| format!("volume '{name}' holds a part of the file only: {error}"))?;
    bar.finish_and_clear();
    commands.close();
    let text = if json {
        let report = json!({
            "volume": name, "made": is_made, "file_bytes": file_bytes, "written_bytes": written_bytes,
            "lsn_before": before.newest_point_lsn,
        });
        format!("{report:#}\n")
    } else {
        let made = if is_made { "the new volume" } else { "volume" };
        let back = if has_contents {
            format!("; before, it was as lsn:{} has it", before.newest_point_lsn)
        } else {
            String::new()
        };
        format!(
            "{} of {} of {} were written to {made} {name} in {:.1} s{back}\n",
            size(written_bytes),
            size(file_bytes),
            options.file.display(),
            started.elapsed().as_secs_f64()
        )
    };
    print(output, &text)
}

/// The file or device to import, and its size.
fn open_source(path: &Path) -> Result<(File, u64), TransferError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let kind = file.metadata().map_err(failed("look at", path))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(TransferError::NoFile { path: path.to_owned() });
    }
    let len_bytes = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(failed("look at", path))?;
    if len_bytes == 0 {
        return Err(TransferError::Empty { path: path.to_owned() });
    }
    Ok((file, len_bytes))
}

/// Writes the file's data; if the volume has contents, clears the ranges in which the file has
/// holes. Returns how many bytes were written.
fn write_all(
    commands: &mut Commands,
    file: &File,
    path: &Path,
    file_bytes: u64,
    has_contents: bool,
    bar: &ProgressBar,
) -> Result<u64, TransferError> {
    let chunk_bytes = commands.transfer_bytes() / BLOCK_BYTES * BLOCK_BYTES;
    let mut written_bytes = 0;
    for extent in extents(file, file_bytes).map_err(failed("look for holes in", path))? {
        let Extent { offset_bytes, len_bytes, is_data } = extent;
        let mut at = offset_bytes;
        let end = offset_bytes + len_bytes;
        while at < end {
            if !is_data {
                let clear_bytes = (end - at).min(CLEAR_BLOCKS_MAX * BLOCK_BYTES as u64);
                if has_contents {
                    commands.push(Command::clear(at, clear_bytes), &mut ignore)?;
                }
                at += clear_bytes;
                bar.set_position(at.min(file_bytes));
                continue;
            }
            let now_bytes = (end - at).min(chunk_bytes as u64) as usize;
            let mut data = vec![0; now_bytes];
            // The file may end within its last block, which is padded with zeroes.
            let in_file = now_bytes.min(file_bytes.saturating_sub(at) as usize);
            file.read_exact_at(&mut data[..in_file], at).map_err(failed("read", path))?;
            for (range, is_zero) in nonzero_runs(&data) {
                let start = at + range.start as u64;
                if !is_zero {
                    written_bytes += range.len() as u64;
                    commands.push(Command::write(start, data[range].to_vec()), &mut ignore)?;
                } else if has_contents {
                    commands.push(Command::clear(start, range.len() as u64), &mut ignore)?;
                }
            }
            at += now_bytes as u64;
            bar.set_position(at.min(file_bytes));
        }
    }
    commands.drain(&mut ignore)?;
    commands.flush()?;
    Ok(written_bytes)
}

/// Nothing needs to be done when a write ends.
#[expect(clippy::unnecessary_wraps, reason = "the type of what ends a command")]
fn ignore(_: u64, _: &[u8]) -> Result<(), TransferError> {
    Ok(())
}

/// Reads a volume into a file, as it is now or as it was at a point.
pub(super) fn export(
    client: &mut Client,
    options: &ExportOptions,
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let started = Instant::now();
    let ExportOptions { name, file: path, at, force } = options;
    if path.exists() && !force {
        return Err(TransferError::Exists { path: path.clone() }.into());
    }
    let exported = match at {
        None => export_volume(client, name, path),
        Some(point) => export_point(client, name, point, path),
    };
    let (volume_bytes, file_bytes) = exported?;
    let text = if json {
        let report = json!({
            "volume": name, "at": at, "volume_bytes": volume_bytes, "file_bytes": file_bytes,
        });
        format!("{report:#}\n")
    } else {
        let at = at.as_ref().map_or_else(String::new, |at| format!(" at {at}"));
        format!(
            "{} holds volume {name}{at}: {}, {} of them not zero, in {:.1} s\n",
            path.display(),
            size(volume_bytes),
            size(file_bytes),
            started.elapsed().as_secs_f64()
        )
    };
    print(output, &text)
}

/// Exports a volume as it was at a point: makes a clone, reads it and deletes it.
fn export_point(
    client: &mut Client,
    name: &str,
    point: &str,
    path: &Path,
) -> Result<(u64, u64), CommandError> {
    let clone = format!("export-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    let params = json!({"volume": name, "at": point, "name": clone, "read_only": true});
    let _: CloneInfo = call(client, "restore_clone", params)?;
    let exported = export_volume(client, &clone, path);
    // The appliance may report this host as connected for a short time after it disconnects.
    let deleted: Result<Value, CommandError> =
        call(client, "volume_delete", json!({"name": clone, "force": true}));
    match (exported, deleted) {
        (Ok(_), Err(error)) => Err(format!(
            "{} is complete, but the clone '{clone}' that it was read from is still there: {error}; delete it (varve volume delete {clone})",
            path.display()
        )
        .into()),
        (exported, _) => exported,
    }
}

/// Exports a volume. Returns its size, and how many bytes of it are not zero.
fn export_volume(client: &mut Client, name: &str, path: &Path) -> Result<(u64, u64), CommandError> {
    let volume = find_volume(client, name)?
        .ok_or_else(|| format!("there is no volume '{name}'; `varve volume list` shows what there is"))?;
    let mut commands = connect(client, name)?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL_SUFFIX);
    let partial = PathBuf::from(partial);
    let bar = bar("exporting", volume.size_bytes);
    let read = read_all(&mut commands, &partial, volume.size_bytes, &bar)
        .and_then(|bytes| std::fs::rename(&partial, path).map_err(failed("rename to", path)).map(|()| bytes));
    bar.finish_and_clear();
    commands.close();
    match read {
        Ok(file_bytes) => Ok((volume.size_bytes, file_bytes)),
        Err(error) => {
            // The partial file would only take space. The failed export matters more than a failure
            // to remove it.
            let _ = std::fs::remove_file(&partial);
            Err(error.into())
        }
    }
}

/// Reads the whole volume into a file, with holes where it is zero. Returns how many bytes were
/// written.
fn read_all(
    commands: &mut Commands,
    path: &Path,
    volume_bytes: u64,
    bar: &ProgressBar,
) -> Result<u64, TransferError> {
    let file = crate::private::create(path).map_err(failed("make", path))?;
    file.set_len(volume_bytes).map_err(failed("make room in", path))?;
    let chunk_bytes = (commands.transfer_bytes() / BLOCK_BYTES * BLOCK_BYTES) as u64;
    let mut written_bytes = 0;
    let mut keep = |offset_bytes: u64, data: &[u8]| {
        for (range, is_zero) in nonzero_runs(data) {
            if !is_zero {
                written_bytes += range.len() as u64;
                let at = offset_bytes + range.start as u64;
                file.write_all_at(&data[range], at).map_err(failed("write", path))?;
            }
        }
        bar.inc(data.len() as u64);
        Ok(())
    };
    let mut at = 0;
    while at < volume_bytes {
        let now_bytes = (volume_bytes - at).min(chunk_bytes);
        commands.push(Command::read(at, now_bytes), &mut keep)?;
        at += now_bytes;
    }
    commands.drain(&mut keep)?;
    file.sync_all().map_err(failed("write", path))?;
    Ok(written_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_imported_is_refused_before_anything_is_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let empty = folder.path().join("empty");
        std::fs::write(&empty, b"").expect("written");
        assert!(matches!(open_source(&empty), Err(TransferError::Empty { .. })));
        assert!(matches!(open_source(folder.path()), Err(TransferError::NoFile { .. })));
        let missing = open_source(&folder.path().join("missing")).expect_err("it is not there").to_string();
        assert!(missing.contains("cannot open") && missing.contains("missing"), "{missing}");
    }
}
