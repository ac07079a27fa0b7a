//! A file with the contents of a clone, for checks that look at it again and again: after a step
//! only what changed is read. Ranges of zeroes are holes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::commands::{Command, Commands};
use super::connect::{connect, failed, wait_until_free};
use super::error::TransferError;
use super::extents::nonzero_runs;
use crate::cli::client::Client;
use crate::dma::BLOCK_BYTES;
use crate::options::CommandError;
use crate::volume::{MemberInfo, StepInfo};

/// The file.
pub(super) struct Image {
    file: File,
    path: PathBuf,
    /// Whether it is removed at the end.
    is_temporary: bool,
    /// The position whose state it has; `None`: it has nothing yet.
    at_lsn: Option<u64>,
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.is_temporary {
            // The system removes what is left in its folder of temporary files.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Image {
    /// Makes the file; without a path, a temporary one.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn new(path: Option<PathBuf>) -> Result<Self, CommandError> {
        let is_temporary = path.is_none();
        let path = path.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("varve-{}.image", uuid::Uuid::new_v4().simple()))
        });
        let file = crate::private::create(&path).map_err(failed("make", &path))?;
        Ok(Image { file, path, is_temporary, at_lsn: None })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it the contents that the clone of a member has after a step. Everything is read if it
    /// has not the state from which the step began.
    ///
    /// # Errors
    /// The clone cannot be read, or the file not written.
    pub(super) fn follow(
        &mut self,
        client: &mut Client,
        step: &StepInfo,
        member: &MemberInfo,
    ) -> Result<(), CommandError> {
        const BLOCK: u64 = BLOCK_BYTES as u64;
        let (size_bytes, is_known) = (member.size_bytes, self.at_lsn == Some(step.from_lsn));
        let changed = step.changed.iter().find(|changed| changed.clone == member.clone);
        let changed = changed.map_or_else(Vec::new, |changed| changed.ranges.clone());
        let ranges = if is_known { changed } else { vec![(0, size_bytes / BLOCK)] };
        self.at_lsn = None;
        self.file.set_len(size_bytes).map_err(failed("make room in", &self.path))?;
        let ranges = ranges.into_iter().map(|(block, blocks)| (block * BLOCK, blocks * BLOCK));
        let ranges: Vec<(u64, u64)> = ranges.filter(|(at, _)| *at < size_bytes).collect();
        if !ranges.is_empty() {
            let mut commands = connect(client, &member.clone)?;
            let read = self.read(&mut commands, &ranges, size_bytes);
            commands.close();
            read?;
            wait_until_free(client, &member.clone);
        }
        self.at_lsn = Some(step.session.at.lsn);
        Ok(())
    }

    /// Reads ranges, in bytes.
    fn read(
        &self,
        commands: &mut Commands,
        ranges: &[(u64, u64)],
        size_bytes: u64,
    ) -> Result<(), TransferError> {
        let chunk_bytes = (commands.transfer_bytes() / BLOCK_BYTES * BLOCK_BYTES) as u64;
        let mut keep = |offset_bytes: u64, data: &[u8]| {
            for (range, is_zero) in nonzero_runs(data) {
                let at = offset_bytes + range.start as u64;
                if is_zero {
                    self.clear(at, range.len() as u64)?;
                } else {
                    self.file.write_all_at(&data[range], at).map_err(failed("write", &self.path))?;
                }
            }
            Ok(())
        };
        for &(start, len_bytes) in ranges {
            let (mut at, end) = (start, (start + len_bytes).min(size_bytes));
            while at < end {
                let now_bytes = (end - at).min(chunk_bytes);
                commands.push(Command::read(at, now_bytes), &mut keep)?;
                at += now_bytes;
            }
        }
        commands.drain(&mut keep)
    }

    /// Makes a range zero: a hole, where the file system has holes.
    fn clear(&self, at: u64, len_bytes: u64) -> Result<(), TransferError> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(&self.file, hole, at, len_bytes).is_ok() {
            return Ok(());
        }
        let zeroes = [0; BLOCK_BYTES];
        for block in (at..at + len_bytes).step_by(BLOCK_BYTES) {
            self.file.write_all_at(&zeroes, block).map_err(failed("write", &self.path))?;
        }
        Ok(())
    }
}
