//! Opens a path: checks its type and size, turns direct I/O on if it works, and creates the file if
//! that is requested.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::ioctl::{Getter, opcode};

use super::opened::OpenFile;
use super::options::{FileOptions, MAX_QUEUE_DEPTH, OpenError};
use super::{lock, room};
use crate::bdev::BLOCK_BYTES;
use crate::dma::DmaPool;

/// The request that gives a block device's size in bytes, from `linux/fs.h`.
const BLKGETSIZE64: rustix::ioctl::Opcode = opcode::read::<usize>(0x12, 114);

/// Opens and locks a path.
pub(super) fn open(path: &Path, options: &FileOptions) -> Result<OpenFile, OpenError> {
    let (opened, created) = match rustix::fs::stat(path) {
        Ok(stat) => (open_existing(path, &stat, options)?, false),
        Err(Errno::NOENT) if options.create_len_blocks.is_some() && !options.read_only => {
            let flags = access(options) | OFlags::CREATE | OFlags::EXCL;
            match open_descriptor(path, flags, options.direct) {
                Ok(opened) => (opened, true),
                // Another creator was faster. It has the lock, or has removed the file again.
                Err(Errno::EXIST) => {
                    let stat =
                        rustix::fs::stat(path).map_err(|errno| explain(path, options, "open", errno))?;
                    (open_existing(path, &stat, options)?, false)
                }
                Err(errno) => return Err(explain(path, options, "create", errno)),
            }
        }
        Err(errno) => return Err(explain(path, options, "look at", errno)),
    };
    let result = prepare(path, options, opened, created);
    if created && matches!(&result, Err(error) if !matches!(error, OpenError::Locked { .. })) {
        remove_if_empty(path);
    }
    result
}

/// Access without side effects and without waiting: the type is known only after opening.
fn access(options: &FileOptions) -> OFlags {
    let access = if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    access | OFlags::CLOEXEC | OFlags::NONBLOCK
}

fn open_existing(path: &Path, stat: &Stat, options: &FileOptions) -> Result<(OwnedFd, bool), OpenError> {
    // Checked before opening: opening a tape or a terminal has side effects.
    require_device(path, stat)?;
    let mut flags = access(options);
    if FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice && !options.read_only {
        // Keeps out file systems and volume managers, which do not check locks.
        flags |= OFlags::EXCL;
    }
    let mut pauses = lock::Pauses::default();
    loop {
        match open_descriptor(path, flags, options.direct) {
            Ok(opened) => return Ok(opened),
            Err(Errno::BUSY) => pauses.wait_for(path, stat)?,
            Err(errno) => return Err(explain(path, options, "open", errno)),
        }
    }
}

/// Locks and measures the opened file, and gives it a size if necessary.
fn prepare(
    path: &Path,
    options: &FileOptions,
    (fd, mut direct): (OwnedFd, bool),
    created: bool,
) -> Result<OpenFile, OpenError> {
    let io = |action: &'static str, errno: Errno| OpenError::Io {
        path: path.to_owned(),
        action,
        source: errno.into(),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|errno| io("look at", errno))?;
    require_device(path, &stat)?;
    lock::lock(&fd, &stat, path, options.read_only)?;
    if !options.read_only {
        crate::private::tighten(path).map_err(|source| OpenError::Io {
            path: path.to_owned(),
            action: "keep others from",
            source,
        })?;
    }
    let is_block_device = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    let mut len_bytes = if is_block_device {
        block_device_len_bytes(&fd).map_err(|errno| io("ask for the size of", errno))?
    } else {
        // Measured again, under the lock: another creator may have been faster.
        rustix::fs::fstat(&fd).map_err(|errno| io("look at", errno))?.st_size as u64
    };
    if let (0, false, Some(len_blocks), false) =
        (len_bytes, is_block_device, options.create_len_blocks, options.read_only)
    {
        len_bytes = give_size(path, &fd, len_blocks, options.allocate)?;
    }
    if created {
        sync_parent(path)?;
    }
    if len_bytes < BLOCK_BYTES as u64 {
        return Err(OpenError::TooSmall { path: path.to_owned(), len_bytes });
    }
    if direct && !reads_directly(&fd) {
        // The lock belongs to the open file description, so the flag is cleared on this one instead
        // of opening another.
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(|errno| io("ask for the flags of", errno))?;
        rustix::fs::fcntl_setfl(&fd, flags - OFlags::DIRECT)
            .map_err(|errno| io("turn the page cache on for", errno))?;
        direct = false;
    }
    if options.direct && !direct {
        tracing::warn!(
            path = %path.display(),
            "direct I/O is refused here; going through the page cache, which costs memory and processor time, \
             and makes latency depend on writeback"
        );
    }
    let fd = without_nonblock(fd).map_err(|errno| io("set the flags of", errno))?;
    Ok(OpenFile {
        volatile_cache: if is_block_device { has_volatile_cache(&stat) } else { true },
        fd,
        path: path.to_owned(),
        len_blocks: len_bytes / BLOCK_BYTES as u64,
        read_only: options.read_only,
        direct,
        queue_depth: options.queue_depth.clamp(1, MAX_QUEUE_DEPTH),
    })
}

/// Opens the file, without the page cache if that is wanted and the file system supports it.
/// Returns whether it is open without the cache.
fn open_descriptor(path: &Path, flags: OFlags, direct: bool) -> rustix::io::Result<(OwnedFd, bool)> {
    let mode = Mode::RUSR | Mode::WUSR;
    if direct {
        match rustix::fs::open(path, flags | OFlags::DIRECT, mode) {
            // A file system may create the file before it refuses the flag. The second try then
            // finds it.
            Err(Errno::INVAL) if flags.contains(OFlags::CREATE) => {
                return Ok((rustix::fs::open(path, flags - OFlags::EXCL, mode)?, false));
            }
            Err(Errno::INVAL) => {}
            result => return Ok((result?, true)),
        }
    }
    Ok((rustix::fs::open(path, flags, mode)?, false))
}

/// The descriptor was opened non-blocking so that no unusual file could block the open. Reads and
/// writes must block.
fn without_nonblock(fd: OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags - OFlags::NONBLOCK)?;
    Ok(fd)
}

/// Whether a block-aligned read works. Devices with larger blocks, and some file systems, refuse
/// direct I/O only here.
fn reads_directly(fd: &OwnedFd) -> bool {
    let Ok(mut buffer) = DmaPool::new(BLOCK_BYTES).allocate(BLOCK_BYTES) else { return true };
    rustix::io::pread(fd, buffer.as_mut_slice(), 0) != Err(Errno::INVAL)
}

fn require_device(path: &Path, stat: &Stat) -> Result<(), OpenError> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::BlockDevice => return Ok(()),
        FileType::Directory => "a directory",
        FileType::CharacterDevice => "a character device",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        _ => "neither a file nor a block device",
    };
    Err(OpenError::NotADevice { path: path.to_owned(), what })
}

/// Gives an empty file its size, and allocates its space if that is wanted. Synchronises the file.
/// Returns the size in bytes.
///
/// The allocation comes before the size: if creation is cut short, the file is still empty.
fn give_size(path: &Path, fd: &OwnedFd, len_blocks: u64, allocate: bool) -> Result<u64, OpenError> {
    let io = |action: &'static str, errno: Errno| OpenError::Io {
        path: path.to_owned(),
        action,
        source: errno.into(),
    };
    let len_bytes =
        len_blocks.checked_mul(BLOCK_BYTES as u64).ok_or_else(|| io("give a size to", Errno::FBIG))?;
    let allocated = allocate
        && room::allocate(fd, 0, len_bytes).map_err(|errno| {
            // Frees what was allocated. The error to report is the refusal.
            let _ = rustix::fs::ftruncate(fd, 0);
            io("set room aside for", errno)
        })?;
    rustix::fs::ftruncate(fd, len_bytes).map_err(|errno| io("give a size to", errno))?;
    rustix::fs::fsync(fd).map_err(|errno| io("synchronise", errno))?;
    if allocate && !allocated {
        tracing::warn!(path = %path.display(), "the file system cannot set room aside: the new file is sparse, and writes wait when the file system is full");
    }
    if !allocated && let Ok(space) = rustix::fs::fstatvfs(fd) {
        let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
        if free_bytes < len_bytes {
            tracing::warn!(
                path = %path.display(),
                len_bytes,
                free_bytes,
                "the new file is sparse and larger than the free space; writes will wait when the space is used up"
            );
        }
    }
    Ok(len_bytes)
}

/// Makes the file's name stable.
fn sync_parent(path: &Path) -> Result<(), OpenError> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    rustix::fs::open(&parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .and_then(rustix::fs::fsync)
        .map_err(|errno| OpenError::Io {
            path: parent,
            action: "synchronise the directory",
            source: errno.into(),
        })
}

fn remove_if_empty(path: &Path) {
    if rustix::fs::stat(path).is_ok_and(|stat| stat.st_size == 0) {
        // The caller already reports the reason for the removal.
        let _ = rustix::fs::unlink(path);
    }
}

fn block_device_len_bytes(fd: &OwnedFd) -> rustix::io::Result<u64> {
    // SAFETY: this request writes one u64 on every block device, and `fd` is one.
    unsafe { rustix::ioctl::ioctl(fd, Getter::<BLKGETSIZE64, u64>::new()) }
}

/// What the kernel reports about a block device's write cache. True when it reports nothing.
fn has_volatile_cache(stat: &Stat) -> bool {
    let device =
        format!("/sys/dev/block/{}:{}", rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    // A partition has its queue one level up, at the whole device.
    ["queue", "../queue"]
        .iter()
        .find_map(|queue| std::fs::read_to_string(format!("{device}/{queue}/write_cache")).ok())
        .is_none_or(|cache| cache.trim() != "write through")
}

fn explain(path: &Path, options: &FileOptions, action: &'static str, errno: Errno) -> OpenError {
    let path = path.to_owned();
    match errno {
        Errno::NOENT | Errno::NOTDIR => OpenError::NotFound { path },
        Errno::ACCESS | Errno::PERM | Errno::ROFS => OpenError::Permission {
            path,
            access: if options.read_only { "reading" } else { "reading and writing" },
            source: errno.into(),
        },
        _ => OpenError::Io { path, action, source: errno.into() },
    }
}
