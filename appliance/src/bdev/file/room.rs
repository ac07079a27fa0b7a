//! Space for a file: allocates it at creation, reports later how much is missing, and checks
//! whether the file contains anything.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, FileType, SeekFrom};
use rustix::io::Errno;

use super::opened::OpenFile;
use crate::bdev::Space;

/// Bytes that are checked per read.
const LOOK_BYTES: usize = 1 << 20;
/// Bytes of one unit of `st_blocks`, whatever the file system's own block size is (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;

impl OpenFile {
    /// Space in the file system that holds the file. `None` for a block device.
    pub(in crate::bdev) fn space(&self) -> Option<Space> {
        let stat = rustix::fs::fstat(&self.fd).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let space = rustix::fs::fstatvfs(&self.fd).ok()?;
        let allocated_bytes = (stat.st_blocks as u64).saturating_mul(STAT_BLOCK_BYTES);
        Some(Space {
            file_system: mount_point(stat.st_dev).unwrap_or_else(|| self.path.display().to_string()),
            free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
            missing_bytes: (stat.st_size as u64).saturating_sub(allocated_bytes),
        })
    }
}

/// The mount point of the file system with that device number, as the kernel lists it.
fn mount_point(device: u64) -> Option<String> {
    let wanted = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.split_whitespace().nth(2) == Some(&wanted))?;
    line.split_whitespace().nth(4).map(str::to_owned)
}

/// Lets the file system allocate space for `len_bytes` from `offset_bytes` on, and keeps the file's
/// size. Returns whether the file system supports that: not every one does.
pub(super) fn allocate(fd: impl AsFd, offset_bytes: u64, len_bytes: u64) -> rustix::io::Result<bool> {
    loop {
        match rustix::fs::fallocate(&fd, FallocateFlags::KEEP_SIZE, offset_bytes, len_bytes) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(false),
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether a file or block device contains nothing but zeroes. Holes that the file system reports
/// are skipped. Everything else is read, until a byte is found that is not zero.
///
/// # Errors
/// The system's error, also when something cannot be read: unknown contents are not blank.
pub fn is_blank(path: &Path) -> std::io::Result<bool> {
    let file = std::fs::File::open(path)?;
    let mut buffer = vec![0; LOOK_BYTES];
    let mut at = 0;
    loop {
        match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(data) => at = data,
            // Only a hole up to the end.
            Err(Errno::NXIO) => return Ok(true),
            // Not every file system supports holes, and no block device does.
            Err(_) => {}
        }
        let len_bytes = file.read_at(&mut buffer, at)?;
        if len_bytes == 0 {
            return Ok(true);
        }
        if buffer[..len_bytes].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        at += len_bytes as u64;
    }
}
