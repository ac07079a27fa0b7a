//! An opened and locked path, which the engines read, write and discard through.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::bdev::{BdevErrorKind, BdevInfo, Operation};

/// Gives space back and keeps the size; the space reads as zeroes after it.
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

    /// Whether the page cache is gone around.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// What a handle with an engine of that kind says of itself.
    pub(in crate::bdev) fn info(&self, kind: &'static str) -> BdevInfo {
        BdevInfo {
            name: self.path.display().to_string(),
            kind,
            len_blocks: self.len_blocks,
            volatile_cache: self.volatile_cache,
            queue_depth: self.queue_depth,
        }
    }

    /// The rules of every kind, and that nothing changes what is read-only.
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
        // Closing would do, if the kernel did not hold on to what a ring had registered for a moment longer.
        let _ = rustix::fs::flock(&self.fd, rustix::fs::FlockOperation::Unlock);
    }
}

/// Gives a range back to the file system or the device.
pub(in crate::bdev) fn discard(fd: impl AsFd, offset_bytes: u64, len_bytes: u64) -> rustix::io::Result<()> {
    rustix::fs::fallocate(fd, DISCARD_MODE, offset_bytes, len_bytes)
}
