//! How a path is opened, and why opening failed.

use std::path::PathBuf;

use crate::bdev::memory::DEFAULT_QUEUE_DEPTH;

/// The most commands in flight of one handle.
pub const MAX_QUEUE_DEPTH: usize = 4096;

/// The environment variable that decides for [`Engine::Auto`]: `uring` or `threads`.
pub const ENGINE_VARIABLE: &str = "VARVE_IO_ENGINE";

/// What moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// The engine that `VARVE_IO_ENGINE` names. Otherwise `Uring` if the kernel allows it, else
    /// `Threads`, with one warning.
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
    /// Creates a file of that many blocks if there is none, or if it is empty. A file that has
    /// contents keeps its size.
    pub create_len_blocks: Option<u64>,
    /// Lets the file system allocate the space when the file is created, if it can. Otherwise the
    /// file is sparse.
    pub allocate: bool,
    /// Commands in flight per handle, 1 to [`MAX_QUEUE_DEPTH`]. Other values are clamped.
    pub queue_depth: usize,
    /// Refuses writes and discards with `EROFS`, and shares the lock with other readers.
    pub read_only: bool,
    /// Bypasses the page cache if the file system supports it.
    pub direct: bool,
    /// Registers the arenas of buffers with `io_uring`, if the kernel allows it.
    pub register_buffers: bool,
    /// Threads of the engine `Threads` per handle, 1 to 64. Other values are clamped.
    pub worker_count: usize,
}

impl Default for FileOptions {
    fn default() -> Self {
        FileOptions {
            engine: Engine::Auto,
            create_len_blocks: None,
            allocate: false,
            queue_depth: DEFAULT_QUEUE_DEPTH,
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
    /// The path does not exist.
    #[error("{} does not exist; check the path, or give a size to create it", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// Another process, or this one, has it open.
    #[error("{} is in use by {holder}; stop that first, or use another path", path.display())]
    Locked {
        /// The path.
        path: PathBuf,
        /// The holder, as far as the system reports it.
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
    /// It is neither a regular file nor a block device.
    #[error("{} is {what}; give a regular file or a block device", path.display())]
    NotADevice {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It is smaller than one block.
    #[error("{} has {len_bytes} bytes, less than one block of 4096; give it a size, or a larger device", path.display())]
    TooSmall {
        /// The path.
        path: PathBuf,
        /// Its size.
        len_bytes: u64,
    },
    /// The requested engine does not run here.
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
