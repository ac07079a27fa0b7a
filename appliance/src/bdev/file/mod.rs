//! Files and block devices of the system as block devices: opening, locking, and the choice of an engine.
//!
//! [`open_file`] opens a path and gives one handle to it. A [`FileDevice`] is the opened path itself, from which every reactor takes a handle of
//! its own; it is locked against all other openers until the last handle is gone.

mod lock;
mod open;
mod room;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::threads::ThreadsBdev;
use super::uring::UringBdev;
use super::{Bdev, BdevErrorKind, BdevInfo, Operation, Space};

pub use room::is_blank;

/// The most commands in flight of one handle.
pub const MAX_QUEUE_DEPTH: usize = 4096;

/// The environment variable that decides for [`Engine::Auto`]: `uring` or `threads`.
pub const ENGINE_VARIABLE: &str = "VARVE_IO_ENGINE";

/// Gives space back and keeps the size; the space reads as zeroes after it.
pub(super) const DISCARD_MODE: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// What moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// What `VARVE_IO_ENGINE` says; otherwise `Uring` where the kernel allows it, else `Threads`, with one warning.
    #[default]
    Auto,
    /// Linux's `io_uring`, or an error.
    Uring,
    /// Worker threads with ordinary system calls.
    Threads,
}

/// How a path is opened.
#[derive(Debug, Clone)]
pub struct FileOptions {
    /// What moves the bytes.
    pub engine: Engine,
    /// Makes a file of that many blocks when there is none, or an empty one. One that has content keeps its size.
    pub create_len_blocks: Option<u64>,
    /// Has the file system set the room aside when the file is made, where it can; otherwise the file is sparse.
    pub allocate: bool,
    /// Commands in flight per handle, 1 to [`MAX_QUEUE_DEPTH`]; brought into that range.
    pub queue_depth: usize,
    /// Refuses writes and discards with `EROFS`, and shares the lock with other readers.
    pub read_only: bool,
    /// Goes around the page cache where the file system can.
    pub direct: bool,
    /// Registers the arenas of buffers with `io_uring`, where the kernel allows it.
    pub register_buffers: bool,
    /// How many threads the engine `Threads` has per handle, 1 to 64; brought into that range.
    pub worker_count: usize,
}

impl Default for FileOptions {
    fn default() -> Self {
        FileOptions {
            engine: Engine::Auto,
            create_len_blocks: None,
            allocate: false,
            queue_depth: super::memory::DEFAULT_QUEUE_DEPTH,
            read_only: false,
            direct: true,
            register_buffers: true,
            worker_count: 4,
        }
    }
}

/// Why a path could not be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing is there.
    #[error("{} does not exist; check the path, or give a size to create it", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// Somebody has it open.
    #[error("{} is in use by {holder}; stop that first, or use another path", path.display())]
    Locked {
        /// The path.
        path: PathBuf,
        /// Who, as far as the system tells.
        holder: String,
    },
    /// The system does not allow it.
    #[error("{} may not be opened for {access}: {source}; check owner, mode and mount options", path.display())]
    Permission {
        /// The path.
        path: PathBuf,
        /// `reading` or `reading and writing`.
        access: &'static str,
        /// The system's refusal.
        source: std::io::Error,
    },
    /// It is something else.
    #[error("{} is {what}; give a regular file or a block device", path.display())]
    NotADevice {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It has no room for a block.
    #[error("{} has {len_bytes} bytes, less than one block of 4096; give it a size, or a larger device", path.display())]
    TooSmall {
        /// The path.
        path: PathBuf,
        /// Its size.
        len_bytes: u64,
    },
    /// The engine that was asked for does not run here.
    #[error("the I/O engine for {} does not start: {source}; {advice}", path.display())]
    Engine {
        /// The path.
        path: PathBuf,
        /// The system's refusal.
        source: std::io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// Something else failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// An opened and locked path, without an engine.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) fd: OwnedFd,
    path: PathBuf,
    len_blocks: u64,
    volatile_cache: bool,
    read_only: bool,
    direct: bool,
    queue_depth: usize,
}

impl OpenFile {
    /// What a handle with an engine of that kind says of itself.
    pub(super) fn info(&self, kind: &'static str) -> BdevInfo {
        BdevInfo {
            name: self.path.display().to_string(),
            kind,
            len_blocks: self.len_blocks,
            volatile_cache: self.volatile_cache,
            queue_depth: self.queue_depth,
        }
    }

    /// The rules of every kind, and that nothing changes what is read-only.
    pub(super) fn check(&self, operation: &Operation) -> Result<(), BdevErrorKind> {
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

/// An opened file or block device, to be shared between threads; each takes its own handle. Cheap to clone.
///
/// The path stays locked until the last clone and the last handle are gone.
#[derive(Debug, Clone)]
pub struct FileDevice {
    file: Arc<OpenFile>,
    engine: Engine,
    register_buffers: bool,
    worker_count: usize,
}

impl FileDevice {
    /// Opens and locks a path.
    ///
    /// # Errors
    /// [`OpenError`], all but `Engine`.
    pub fn open(path: impl AsRef<Path>, options: &FileOptions) -> Result<Self, OpenError> {
        Ok(FileDevice {
            file: Arc::new(open::open(path.as_ref(), options)?),
            engine: options.engine,
            register_buffers: options.register_buffers,
            worker_count: options.worker_count.clamp(1, 64),
        })
    }

    /// Size in blocks.
    pub fn len_blocks(&self) -> u64 {
        self.file.len_blocks
    }

    /// Whether the page cache is gone around.
    pub fn is_direct(&self) -> bool {
        self.file.direct
    }

    /// A handle for the calling thread, with a queue of its own.
    ///
    /// # Errors
    /// [`OpenError::Engine`].
    pub fn handle(&self) -> Result<Box<dyn Bdev>, OpenError> {
        match choose(self.engine, std::env::var(ENGINE_VARIABLE).ok().as_deref()) {
            Engine::Threads => self.threads(),
            Engine::Uring => self.uring().map_err(|source| self.engine_error(source, "set VARVE_IO_ENGINE=threads or ask for the engine `threads`, or allow io_uring (sysctl kernel.io_uring_disabled, seccomp)")),
            Engine::Auto => self.uring().or_else(|error| {
                warn_of_fallback(&error);
                self.threads()
            }),
        }
    }

    fn uring(&self) -> std::io::Result<Box<dyn Bdev>> {
        Ok(Box::new(UringBdev::new(Arc::clone(&self.file), self.register_buffers)?))
    }

    fn threads(&self) -> Result<Box<dyn Bdev>, OpenError> {
        match ThreadsBdev::new(Arc::clone(&self.file), self.worker_count) {
            Ok(device) => Ok(Box::new(device)),
            Err(source) => Err(self.engine_error(source, "raise the limits on threads and open files")),
        }
    }

    fn engine_error(&self, source: std::io::Error, advice: &'static str) -> OpenError {
        OpenError::Engine { path: self.file.path.clone(), source, advice }
    }
}

/// Opens and locks a path and gives one handle to it, for the calling thread.
///
/// # Errors
/// [`OpenError`].
pub fn open_file(path: impl AsRef<Path>, options: &FileOptions) -> Result<Box<dyn Bdev>, OpenError> {
    FileDevice::open(path, options)?.handle()
}

/// What an explicit choice and the environment's make together.
fn choose(asked: Engine, variable: Option<&str>) -> Engine {
    match (asked, variable) {
        (Engine::Auto, Some("uring")) => Engine::Uring,
        (Engine::Auto, Some("threads")) => Engine::Threads,
        (Engine::Auto, Some(value)) if !value.is_empty() && value != "auto" => {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| {
                tracing::warn!(value, "VARVE_IO_ENGINE is ignored: it may be uring, threads or auto");
            });
            Engine::Auto
        }
        _ => asked,
    }
}

fn warn_of_fallback(error: &std::io::Error) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            %error,
            "the kernel refuses io_uring; files are served by worker threads, which costs latency and processor time \
             (see sysctl kernel.io_uring_disabled and the seccomp profile; VARVE_IO_ENGINE=threads silences this)"
        );
    });
}

/// Gives a range back to the file system or the device.
pub(super) fn discard(fd: impl AsFd, offset_bytes: u64, len_bytes: u64) -> rustix::io::Result<()> {
    rustix::fs::fallocate(fd, DISCARD_MODE, offset_bytes, len_bytes)
}
