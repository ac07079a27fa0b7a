//! An opened and locked path, which the engines use to read, write and discard.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::bdev::{BdevErrorKind, BdevInfo, Operation};

/// Frees space and keeps the size. The space reads as zeroes afterwards.
pub(in crate::bdev) const DISCARD_MODE: FallocateFlags =
    FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// An opened and locked path, without an engine.
#[derive(Debug)]
pub(in crate::bdev) struct OpenFile {
    pub(in crate::bdev) fd: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) len_blocks: u64,
    pub(super) volatile_cache: bool,
    pub(super) read_only: bool,
    pub(super) direct: bool,
    pub(super) queue_depth: usize,
}

impl OpenFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Size in blocks.
    pub(super) fn len_blocks(&self) -> u64 {
        self.len_blocks
    }

    /// Whether direct I/O bypasses the page cache.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// The information that a handle with an engine of that kind reports.
    pub(in crate::bdev) fn info(&self, kind: &'static str) -> BdevInfo {
        BdevInfo {
            name: self.path.display().to_string(),
            kind,
            len_blocks: self.len_blocks,
            volatile_cache: self.volatile_cache,
            queue_depth: self.queue_depth,
        }
    }

    /// Checks the rules of every kind, and that nothing changes a read-only file.
    pub(in crate::bdev) fn check(&self, operation: &Operation) -> Result<(), BdevErrorKind> {
        operation.check(self.len_blocks)?;
        match operation {
            Operation::Write { .. } | Operation::Discard { .. } if self.read_only => {
                Err(BdevErrorKind::Os(Errno::ROFS.raw_os_error()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // Closing would be enough if the kernel did not keep files registered with a ring open a
        // little longer.
        let _ = rustix::fs::flock(&self.fd, rustix::fs::FlockOperation::Unlock);
    }
}

/// Returns a range to the file system or the device.
pub(in crate::bdev) fn discard(fd: impl AsFd, offset_bytes: u64, len_bytes: u64) -> rustix::io::Result<()> {
    rustix::fs::fallocate(fd, DISCARD_MODE, offset_bytes, len_bytes)
}
